"""`fit` and `sweep.run` over meshes: as a module it writes what came of some runs, for a test.

python -m tests.support.spread_runs OUT CASES... [PROCESS PROCESSES PORT]: each case is a word of
`CASES` with the number of its devices, as in data/4; arrays go into OUT by their case and name.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec as P

from funcnet import data, nets, optimizers, sweep, train
from tests.support.processes import ROOT, USERS_ENVIRONMENT, device_flags, free_port

DATA = data.synthetic(shape=(6, 6, 1), sizes=(400, 100, 50), classes=3)
RULES = [(r"affine1\.w", P(None, "model")), (r"affine2\.w", P("model", None))]
STEPS = 50


def net(norm="batch"):
    return nets.fully_connected_net([32, 16], classes=3, norm=norm, dropout=0.3)


def fit(net, **options):
    given = {"batch_size": 32, "epochs": 5, "dtype": jnp.float64, "seed": 3}
    return train.fit(net, DATA, optimizers.adam(1e-2), **given | options)


def mesh_of(count: int, model: int = 1) -> jax.sharding.Mesh:
    devices = np.array(jax.devices()[:count]).reshape(count // model, model)
    return jax.sharding.Mesh(devices, ("data", "model"))


def crop(key, images):
    return data.random_crop(key, images, padding=1)


CASES = {
    "one": lambda count: {},
    "data": lambda count: {"mesh": mesh_of(count)},
    "fsdp": lambda count: {"mesh": mesh_of(count), "shard": "fsdp"},
    "rules": lambda count: {"mesh": mesh_of(count, 2), "shard": RULES},
    "accumulate": lambda count: {"mesh": mesh_of(count), "accumulate": 4},
}


def swept(how: str, count: int, folder: str | None = None, **options) -> dict[str, np.ndarray]:
    """Five members over two rates: a group that devices do not divide, and one that diverges."""

    def make(learning_rate):
        return sweep.Trial(net(), optimizers.adam(learning_rate))

    result = sweep.run(
        make,
        DATA,
        {"learning_rate": [1e-2, 1e-3, 1e300, 3e-2, 3e-3]},
        epochs=2,
        batch_size=40,
        how=how,
        folder=folder,
        dtype=jnp.float64,
        augment=crop,
        mesh=mesh_of(count) if count else None,
        **options,
    )
    arrays = {}
    for index in range(5):
        member = result.member(index)
        states = {"final": member.final[:3], "best": member.best[:3]}
        for path, leaf in jax.tree.leaves_with_path(states):
            arrays[f"{index}{jax.tree_util.keystr(path)}"] = leaf
        for name in ("losses", "train_accuracy", "val_accuracy", "stopped_at"):
            arrays[f"{index} {name}"] = np.asarray(getattr(member, name))
    return arrays


def found(run: train.Run) -> dict[str, np.ndarray]:
    """All that is to be the same, by name."""
    states = {"final": run.final[:3], "best": run.best[:3]}
    leaves = jax.tree.leaves_with_path(jax.tree.map(whole, states))
    columns = {
        name: np.array(run.history[name], float)
        for name in run.history[0]
        if name not in ("seconds", "images_per_second")
    }
    named = {jax.tree_util.keystr(path): leaf for path, leaf in leaves}
    return {"losses": run.losses, **columns, **named}


def whole(leaf: jax.Array) -> np.ndarray:
    if not leaf.is_fully_addressable:
        everywhere = jax.sharding.NamedSharding(leaf.sharding.mesh, P())
        leaf = jax.jit(lambda x: x, out_shardings=everywhere)(leaf)
    return np.asarray(leaf)


def main(out: str, *cases: str) -> None:
    arrays = {}
    for case in cases:
        kind, count = case.split("/")
        if kind in (*sweep.HOWS, "measure"):
            one = swept(kind, int(count), f"{out}.{kind}" if count == "4" else None)
            arrays |= {f"{case} {name}": value for name, value in one.items()}
            continue
        norm = "layer" if kind == "accumulate" or count == "layer" else "batch"
        dropped = {"augment": crop} if norm == "batch" else {}
        one = net(norm) if norm == "batch" else nets.fully_connected_net([32], 3, norm="layer")
        run = fit(one, **dropped, **CASES[kind](0 if count == "layer" else int(count)))
        assert len(run.losses) >= STEPS
        arrays |= {f"{case} {name}": value for name, value in found(run).items()}
    if jax.process_index() == 0:
        part = Path(out + ".part.npz")
        np.savez(part, **arrays)
        part.rename(out)


def spread(out, cases, devices=8, processes=1):
    """What `tests.support.spread_runs` finds, by so many processes that have so many devices."""
    port = free_port()
    environment = {**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": device_flags(devices)}
    words = [sys.executable, "-m", "tests.support.spread_runs", os.fspath(out), *cases]
    children = [
        subprocess.Popen(
            [*words, *([str(n), str(processes), str(port)] if processes > 1 else [])],
            env=environment,
            cwd=ROOT,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for n in range(processes)
    ]
    said = [child.communicate(timeout=500)[0] for child in children]
    assert all(child.returncode == 0 for child in children), "\n".join(said)[-6000:]
    with np.load(out) as arrays:
        return {name: arrays[name] for name in arrays.files}


if __name__ == "__main__":
    jax.config.update("jax_enable_x64", True)
    out, *words = sys.argv[1:]
    cases = [word for word in words if "/" in word]
    if numbers := [int(word) for word in words if "/" not in word]:
        process, processes, port = numbers
        start = partial(jax.distributed.initialize, f"127.0.0.1:{port}", processes, process)
        start(initialization_timeout=120, heartbeat_timeout_seconds=60)
    main(out, *cases)
