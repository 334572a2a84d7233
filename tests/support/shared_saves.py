"""Several processes that save one run together: python shared_saves.py FOLDER PORT PROCESS COUNT.

What is there is restored and compared with what it was made of, its step's number; then the next
step is saved. With `kills FOLDER NUMBER [PROCESSES]` processes are killed while they save, at each
point of a save in turn and at random moments, and others go on: this process starts no backend of
JAX, so that all can be forked from it. With FUNCNET_BACKGROUND=1 threads write.
"""

import os
import random
import signal
import sys
import time
from collections import Counter
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcnet.checkpoint import Checkpoints
from funcnet.data import Preprocessing
from funcnet.train import History, Run, TrainState
from tests.support.processes import free_port

SIZE = 24  # which 1, 2, 3, 4 and 8 devices divide
FIRST_POINTS = ("begin", "data", "written", "manifest", "rename", "prune")
OTHER_POINTS = ("begin", "data", "written")


def connect(port, process, count):
    """Makes one of so many processes of this one."""
    if count > 1:
        jax.config.update("jax_cpu_collectives_implementation", "gloo")
        jax.distributed.initialize(f"localhost:{port}", count, process)


def host(step):
    """The leaves of a state, all of them made of the step's number."""
    square = (np.arange(SIZE * SIZE).reshape(SIZE, SIZE) * 0.1 + step).astype(np.float32)
    return TrainState(
        params={"w": square, "b": np.arange(5) + step, "half": square.astype(jnp.bfloat16)},
        state={"mean": square[0, :5]},
        opt_state=(square[:, :SIZE], np.float32(step) / 3),
        step=np.int32(step),
        key=np.array([step, 7], np.uint32),
    )


def places():
    """Where each leaf of a state is: along rows, along columns, along both, or on each device."""
    devices = np.array(jax.devices())
    two = devices.reshape(2, -1) if len(devices) % 2 == 0 else devices[None]
    line, square = Mesh(devices, ("d",)), Mesh(two, ("x", "y"))
    whole = NamedSharding(line, PartitionSpec())
    return TrainState(
        params={
            "w": NamedSharding(line, PartitionSpec("d")),
            "b": whole,
            "half": NamedSharding(square, PartitionSpec("x", "y")),
        },
        state={"mean": whole},
        opt_state=(NamedSharding(square, PartitionSpec(None, ("y", "x"))), whole),
        step=whole,
        key=whole,
    )


def on_devices(step):
    def put(leaf, place):
        leaf = np.asarray(leaf, jax.dtypes.canonicalize_dtype(leaf.dtype))
        return jax.make_array_from_callback(leaf.shape, place, lambda index: leaf[index])

    state = jax.tree.map(put, host(step), places())
    return state._replace(key=jax.random.wrap_key_data(state.key))


def run(step):
    rows = History([{"epoch": i, "step": i, "loss": 1 / (1 + i)} for i in range(step + 1)])
    losses, statistics = np.arange(step, dtype=np.float32), np.full(1, step, np.float64)
    best, final = on_devices(step // 2), on_devices(step)
    return Run(rows, best, final, losses, Preprocessing(statistics, statistics), None, step // 2)


def assert_is(found, step):
    """Each piece of a restored run is, to the bit, that of its step."""
    expected = run(step)
    for state, wanted in ((found.final, expected.final), (found.best, expected.best)):
        for a, b in zip(jax.tree.leaves(state), jax.tree.leaves(wanted), strict=True):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            assert (a.dtype, a.shape) == (b.dtype, b.shape)
            assert a.sharding.is_equivalent_to(b.sharding, a.ndim)
            for one, other in zip(a.addressable_shards, b.addressable_shards, strict=True):
                assert one.index == other.index
                assert np.asarray(one.data).tobytes() == np.asarray(other.data).tobytes()
    assert found.losses.tobytes() == expected.losses.tobytes()
    assert found.history == expected.history


def template():
    def shape(leaf):
        return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=leaf.sharding)

    return jax.tree.map(shape, on_devices(0))


def go_on(folder, process, saves, say, kill=None):
    """Restores what is there, compares it, and saves the next steps.

    `kill` is a point of a save, and how often it is passed before the process is killed there.
    """
    passed = Counter()

    def point(name):
        if kill == (name, passed[name]):
            os.kill(os.getpid(), signal.SIGKILL)
        passed[name] += 1

    background = os.environ.get("FUNCNET_BACKGROUND") == "1"
    checkpoints = Checkpoints(
        folder, every_steps=1, every_seconds=None, background=background, steps=point
    )
    begun = checkpoints.restore(template())
    step = 0 if begun is None else int(begun.final.step)
    if begun is not None:
        assert_is(begun, step)
    say(f"restored {step}")
    for done in range(saves):
        step += 1
        if not background:
            checkpoints.save(run(step))
            say(f"saved {step}")
            continue
        checkpoints(run(step))  # which the one before is there by
        say(f"saved {step - 1}" if done else "begun")
    if background:
        checkpoints.wait()
        say(f"saved {step}")


# --- Kills


def forked(folder, process, count, port, saves, kill):
    child = os.fork()
    if child:
        return child
    log = os.open(folder / f"log.{process}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    try:
        os.dup2(os.open(folder / f"errors.{process}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
        connect(port, process, count)
        say = lambda text: os.write(log, f"{text}\n".encode())  # noqa: E731
        go_on(folder / "checkpoints", process, saves, say, kill)
    except BaseException as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
        os._exit(1)
    os._exit(0)


def said(folder, process, word):
    """The steps that a process has said."""
    lines = (folder / f"log.{process}").read_text().splitlines()
    return [int(line.split()[1]) for line in lines if line.startswith(word)]


def kills(folder, number, count):
    """Kills so many of `count` processes, one at a time; returns where they were and what was lost.

    Each time, what is restored has to be the last step that was saved, or one that was about to be.
    """
    places = [(0, point) for point in FIRST_POINTS]
    places += [(process, point) for process in range(1, count) for point in OTHER_POINTS]
    folder.mkdir(parents=True)
    saved, counts = 0, {}
    for turn in range(number):
        at_random = turn % 4 == 3
        victim, point = places[turn % len(places)]
        kill = None if at_random else (point, turn % 4)
        port = free_port()
        children = [
            forked(folder, i, count, port, 400, kill if i == victim else None) for i in range(count)
        ]
        if at_random:
            while not (folder / f"log.{victim}").exists() or not said(folder, victim, "saved"):
                time.sleep(0.02)
            time.sleep(random.uniform(0, 0.3))
            os.kill(children[victim], signal.SIGKILL)
        _, status = os.waitpid(children[victim], 0)
        errors = "".join((folder / f"errors.{i}").read_text()[-500:] for i in range(count))
        assert os.WIFSIGNALED(status), errors
        time.sleep(0.2)
        for i, child in enumerate(children):  # what is left waits for the one that is dead
            if i != victim:
                os.kill(child, signal.SIGKILL)
                os.waitpid(child, 0)
        restored = said(folder, 0, "restored")
        assert restored, errors
        assert restored[0] in (saved, saved + 1), (restored, saved, errors)
        saved = max(said(folder, 0, "saved"), default=restored[0])
        key = f"process {victim} {'at random' if at_random else point}"
        counts[key] = counts.get(key, 0) + 1
        for log in folder.glob("log.*"):
            log.unlink()
    port = free_port()
    last = [forked(folder, i, count, port, 2, None) for i in range(count)]
    assert [os.waitpid(child, 0)[1] for child in last] == [0] * count
    restored = said(folder, 0, "restored")
    assert restored[0] in (saved, saved + 1), (restored, saved)
    return counts


if __name__ == "__main__":
    if sys.argv[1] == "kills":
        several = int(sys.argv[4]) if len(sys.argv) > 4 else 2
        for where, times in sorted(kills(Path(sys.argv[2]), int(sys.argv[3]), several).items()):
            print(f"{times} × {where}")
    else:
        place, *numbers = sys.argv[1:]
        connect(*map(int, numbers))
        go_on(Path(place), int(numbers[1]), 1, print)
