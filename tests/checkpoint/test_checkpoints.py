"""A run's checkpoints: damaged, of another run, killed while they are saved; and the lock."""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import checkpoint, nets, optimizers, train
from funcnet.checkpoint import CheckpointError, Checkpoints, LockedError, locked
from tests.support import kill_runs, kill_saves
from tests.support.resuming import (
    NET,
    OPTIMIZER,
    assert_same,
    assert_same_run,
    fit,
    stop_at,
    template,
)
from tests.support.small_runs import numbers

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def whole():
    return fit()


# --- Checkpoints


@pytest.mark.integration
def test_a_checkpoint_is_the_run_at_its_moment(whole, tmp_path):
    """Saved while training goes on and buffers are donated; keys of two kinds."""
    seen = {}
    checkpoints = Checkpoints(tmp_path, keep=20, every_steps=1)

    def save(run):
        checkpoints(run)
        copy = jax.tree.map(lambda leaf: np.array(numbers(leaf)), (run.final, run.best))
        seen[int(run.final.step)] = run._replace(final=copy[0], best=copy[1])

    fit(chunk_steps=1, on_chunk=save)
    assert [path.name for path in checkpoints.paths()] == [f"step_{i:08}" for i in range(12, 0, -1)]
    for path in checkpoints.paths():
        checkpoint._checkpoints._verify(path)
        restored, others = checkpoint._checkpoints._read(path, template(), {})
        assert others == []
        expected = seen[int(path.name[5:])]
        assert_same_run(restored, expected)
        assert restored.seconds == expected.seconds
    assert_same_run(fit(resume=Checkpoints(tmp_path).restore(template())), whole)
    state = whole.final._replace(key=jax.random.key(3, impl="rbg"))
    Checkpoints(tmp_path / "rbg").save(whole._replace(final=state, best=state))
    assert_same(Checkpoints(tmp_path / "rbg").restore(state).final, state)


@pytest.fixture(scope="module")
def saved_once(whole, tmp_path_factory):
    checkpoints = Checkpoints(
        tmp_path_factory.mktemp("saved") / "checkpoints", every_steps=3, config={"rate": 0.02}
    )
    fit(chunk_steps=1, on_chunk=lambda run: int(run.final.step) > 11 or checkpoints(run))
    names = [path.name for path in checkpoints.paths()]
    assert names == ["step_00000009", "step_00000006", "step_00000003"]
    return checkpoints.folder


@pytest.fixture
def saved(saved_once, tmp_path):
    """A folder with the checkpoints of steps 3, 6 and 9."""
    return Path(shutil.copytree(saved_once, tmp_path / "checkpoints"))


DAMAGES = {
    "empty": lambda content: b"",
    "half": lambda content: content[: len(content) // 2],
    "short": lambda content: content[:-1],
    "long": lambda content: content + b"\n",
    "flipped": lambda content: (
        content[: len(content) // 2]
        + bytes([content[len(content) // 2] ^ 1])
        + content[len(content) // 2 + 1 :]
    ),
    "deleted": None,
}


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["arrays.npz", "run.json", "manifest.json"])
def test_what_is_damaged_is_passed_over_by_name(saved, name, damage):
    newest, older, *_ = Checkpoints(saved).paths()
    file = newest / name
    if DAMAGES[damage] is None:
        file.unlink()
    else:
        file.write_bytes(DAMAGES[damage](file.read_bytes()))
    with pytest.warns(
        RuntimeWarning, match=rf"{older.name} is restored; .*{newest.name}: .*{name}"
    ):
        run = Checkpoints(saved).restore(template())
    assert int(run.final.step) == int(older.name[5:])
    for path in Checkpoints(saved).paths()[1:]:
        (path / name).write_bytes(b"{}")
    with pytest.raises(CheckpointError, match=rf"no whole checkpoint: {newest.name}.*{older.name}"):
        Checkpoints(saved).restore(template())


@pytest.mark.slow
def test_every_bit_of_the_small_files_counts(saved):
    newest = Checkpoints(saved).paths()[0]
    for name in ("manifest.json", "run.json"):
        content = (newest / name).read_bytes()
        for bit in range(0, 8 * len(content), 7):
            damaged = bytearray(content)
            damaged[bit // 8] ^= 1 << bit % 8
            (newest / name).write_bytes(damaged)
            with pytest.raises(checkpoint._checkpoints._DamagedError):
                checkpoint._checkpoints._verify(newest)
        (newest / name).write_bytes(content)
    checkpoint._checkpoints._verify(newest)


def test_what_does_not_belong_is_seen(saved):
    newest, older, *_ = Checkpoints(saved).paths()
    (newest / "more.npz").write_bytes(b"")
    (saved / "step_00000100").mkdir()  # as orbax takes for the latest
    (saved / "100").mkdir()
    (saved / ".part-step_00000012").mkdir()  # what a kill leaves
    with pytest.warns(RuntimeWarning) as said:
        run = Checkpoints(saved).restore(template())
    text = "\n".join(str(warning.message) for warning in said)
    assert f"{saved / '100'} is no checkpoint, and is ignored" in text
    assert "step_00000100: there is no manifest.json" in text
    assert f"{newest.name}: more.npz is not in manifest.json" in text
    assert int(run.final.step) == int(older.name[5:])
    assert ".part" not in text
    assert Checkpoints(saved / "100").restore(template()) is None
    assert Checkpoints(saved / "nowhere").restore(template()) is None


def other(**changes):
    """The template of a run that is another in one place."""
    settings = {"net": NET, "optimizer": OPTIMIZER, "shape": (4, 4, 1), "dtype": jnp.float32}
    net, optimizer, shape, dtype = (settings | changes).values()
    return jax.eval_shape(lambda: train.init_state(net, optimizer, jax.random.key(0), shape, dtype))


ADAM = optimizers.adam(0.1)
MISMATCHES = {
    "more units": (
        lambda: other(net=nets.fully_connected_net([9], 3, norm="batch")),
        r"opt_state\.mu\.affine1\.w: \(16, 8\) float32 in the file, \(16, 9\) float32 expected",
    ),
    "fewer classes": (
        lambda: other(net=nets.fully_connected_net([8], 2, norm="batch")),
        r"params\.affine2\.b: \(3,\) float32 in the file, \(2,\) float32 expected",
    ),
    "larger images": (lambda: other(shape=(5, 4, 1)), r"params\.affine1\.w.*\(20, 8\)"),
    "another layer": (
        lambda: other(net=nets.fully_connected_net([8, 8], 3, norm="batch")),
        r"params\.affine3\.w: nothing in the file, \(8, 3\) float32 expected",
    ),
    "one layer less": (
        lambda: other(net=nets.softmax_classifier(3)),
        r"params.* and \d+ more\. Build the net",
    ),
    "no norm": (
        lambda: other(net=nets.fully_connected_net([8], 3)),
        r"params\.batch_norm1\.gamma: \(8,\) float32 in the file, nothing expected",
    ),
    "layer norm": (
        lambda: other(net=nets.fully_connected_net([8], 3, norm="layer")),
        r"params\.layer_norm1\.gamma: nothing in the file",
    ),
    "float64": (lambda: other(dtype=jnp.float64), r"affine1\.w: .*float32.*float64 expected"),
    "bfloat16": (lambda: other(dtype=jnp.bfloat16), "bfloat16 expected"),
    "sgd": (
        lambda: other(optimizer=optimizers.sgd(0.1)),
        r"opt_state\.mu\.affine1\.w: \(16, 8\) float32 in the file, nothing expected",
    ),
    "momentum": (lambda: other(optimizer=optimizers.momentum(0.1)), r"opt_state\.trace"),
    "a chain": (
        lambda: other(optimizer=optax.chain(optax.clip(1.0), ADAM)),
        r"opt_state\.1\.mu\.affine1\.w: nothing in the file",
    ),
    "a state without a name": (
        lambda: other()._replace(opt_state=other().opt_state._asdict()),
        "its containers are other ones",
    ),
    "a raw key": (
        lambda: other()._replace(key=jax.ShapeDtypeStruct((2,), jnp.uint32)),
        r"key: \(\) key<fry> in the file, \(2,\) uint32 expected",
    ),
    "another kind of key": (
        lambda: other()._replace(key=jax.eval_shape(lambda: jax.random.key(0, impl="rbg"))),
        r"key: \(\) key<fry> in the file, \(\) key<rbg> expected",
    ),
    "step of 64 bits": (
        lambda: other()._replace(step=jax.ShapeDtypeStruct((), jnp.int64)), "step: .*int64"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "said"), MISMATCHES.values(), ids=MISMATCHES)
def test_another_run_is_refused_leaf_by_leaf(saved, make, said):
    with pytest.raises(CheckpointError, match=said) as raised:
        Checkpoints(saved).restore(make())
    assert str(Checkpoints(saved).paths()[0]) in str(raised.value)


def test_another_configuration_is_refused(saved):
    with pytest.raises(CheckpointError, match=r"was saved with rate 0\.02, not 0\.03"):
        Checkpoints(saved, config={"rate": 0.03}).restore(template())
    assert Checkpoints(saved, config={"rate": 0.02}).restore(template())


def test_the_last_ones_are_kept(whole, tmp_path):
    checkpoints = Checkpoints(tmp_path, keep=2, every_steps=5, every_seconds=None)
    fit(chunk_steps=1, on_chunk=checkpoints)
    assert [path.name for path in checkpoints.paths()] == ["step_00000010", "step_00000005"]
    assert int(Checkpoints(tmp_path).restore(template()).best.step) <= 8
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def test_seconds_decide_where_they_are_given(whole, tmp_path, monkeypatch):
    now = iter(range(0, 1000, 20))
    monkeypatch.setattr(time, "monotonic", lambda: next(now))
    checkpoints = Checkpoints(tmp_path, every_seconds=50)
    for step in range(1, 7):
        checkpoints(whole._replace(final=whole.final._replace(step=jnp.int32(step))))
    assert [path.name for path in checkpoints.paths()] == ["step_00000006", "step_00000003"]


def test_another_runs_checkpoints_are_not_written_over(saved, whole):
    for step in (1, 6, 40):
        run = whole._replace(final=whole.final._replace(step=jnp.int32(step)))
        with pytest.raises(CheckpointError, match=f"step {step} is not saved.*of another run"):
            Checkpoints(saved).save(run)


def test_after_a_rollback_saving_goes_on(saved, whole):
    """What was passed over as damaged goes when the next is saved, not what is good."""
    newest, older, *_ = Checkpoints(saved).paths()
    (newest / "arrays.npz").write_bytes(b"")
    checkpoints = Checkpoints(saved)
    with pytest.warns(RuntimeWarning, match=newest.name):
        begun = checkpoints.restore(template())
    early = begun._replace(final=begun.final._replace(step=jnp.int32(1)))
    with pytest.raises(CheckpointError, match=f"step 1 is not saved: .*{older.name}"):
        checkpoints.save(early)
    checkpoints.save(begun)  # the same step once more
    assert checkpoints.paths()[0] == older
    assert newest not in checkpoints.paths()
    assert_same_run(fit(resume=checkpoints.restore(template())), whole)


def test_what_is_not_finite_never_reaches_a_checkpoint(whole, tmp_path):
    bad = whole.final.params["affine1"]._replace(
        w=whole.final.params["affine1"].w.at[0, 0].set(jnp.inf)
    )
    final = whole.final._replace(params=whole.final.params | {"affine1": bad})
    for run in (whole._replace(final=final), whole._replace(best=final)):
        with pytest.raises(CheckpointError, match=r"params\.affine1\.w holds numbers that are not"):
            Checkpoints(tmp_path / "checkpoints").save(run)
    assert not (tmp_path / "checkpoints").exists()


@pytest.mark.parametrize(
    ("optimizer", "leaf", "value", "name"),
    [
        (OPTIMIZER, "nu", np.inf, "opt_state.nu.affine1.w"),
        (OPTIMIZER, "mu", np.nan, "opt_state.mu.affine1.w"),
        (optax.contrib.reduce_on_plateau(), "best_value", np.nan, "opt_state.best_value"),
        (optax.contrib.reduce_on_plateau(), "best_value", np.inf, None),
    ],
)
def test_an_optimizers_state_must_be_finite_too(whole, tmp_path, optimizer, leaf, value, name):
    """But for a number alone, which may be infinite: a best loss before the first is."""
    opt_state = optimizer.init(whole.final.params)
    spoilt = jax.tree.map(lambda old: jnp.full_like(old, value), getattr(opt_state, leaf))
    state = whole.final._replace(opt_state=opt_state._replace(**{leaf: spoilt}))
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    if name is None:
        checkpoints.save(whole._replace(final=state, best=state))
        assert_same(Checkpoints(tmp_path / "checkpoints").restore(state).final, state)
        return
    for run in (whole._replace(final=state), whole._replace(best=state)):
        with pytest.raises(CheckpointError, match=f"step 12 is not saved: {name}"):
            checkpoints.save(run)
    assert not (tmp_path / "checkpoints").exists()


def test_what_numpys_format_has_no_name_for_is_restored(whole, tmp_path):
    """Its numbers of a byte or less, big-endian ones, and Python's own."""
    leaves = {
        name: np.arange(4).astype(name) for name in ("float8_e5m2", "float8_e4m3fn", "int4", ">f4")
    }
    state = whole.final._replace(opt_state=leaves | {"rate": 0.1, "count": 2**40 + 5})
    Checkpoints(tmp_path).save(whole._replace(final=state, best=state))
    with jax.enable_x64(False), pytest.warns(RuntimeWarning, match="jax_enable_x64 False, was T"):
        restored = Checkpoints(tmp_path).restore(state).final
    assert restored.opt_state["rate"] == 0.1
    assert restored.opt_state["count"] == 2**40 + 5
    for name, leaf in leaves.items():
        found = restored.opt_state[name]
        assert isinstance(found, jax.Array)
        assert (found.dtype.name, found.tolist()) == (leaf.dtype.name, [0, 1, 2, 3])


def test_a_save_that_fails_ends_the_run(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(on_chunk=Checkpoints(tmp_path / "checkpoints", every_steps=1))
    assert list((tmp_path / "checkpoints").iterdir()) == []


# --- Other devices, and 32 or 64 bits


ELSEWHERE = """
import sys
import jax, numpy as np
from jax.sharding import NamedSharding, PartitionSpec as P
from funcnet.checkpoint import CheckpointError, Checkpoints
from tests.support.resuming import template

folder, template = sys.argv[1], template()
assert (len(jax.devices()), jax.config.jax_enable_x64) == (8, False)
mesh = jax.make_mesh((8,), ("rows",), axis_types=(jax.sharding.AxisType.Auto,))

def place(leaf):
    over = P("rows") if leaf.ndim and leaf.shape[0] % 8 == 0 else P()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, over))

placed = jax.tree.map(place, template)
run = Checkpoints(folder + "/one").restore(placed)
for leaf, wanted in zip(jax.tree.leaves(run.final), jax.tree.leaves(placed), strict=True):
    assert leaf.sharding.is_equivalent_to(wanted.sharding, leaf.ndim), leaf
assert len(run.final.params["affine1"].w.addressable_shards[0].data) == 2
Checkpoints(folder + "/eight").save(run)

float64 = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, np.float64), template.params)
for params in (template.params, float64):
    try:
        Checkpoints(folder + "/wide").restore(template._replace(params=params))
    except CheckpointError as error:
        print(error)
"""


@pytest.mark.integration
def test_on_eight_devices_and_without_x64(whole, tmp_path):
    """Saved on one with x64, restored on eight without, saved there, and restored here."""
    Checkpoints(tmp_path / "one").save(fit(chunk_steps=1, on_chunk=stop_at(7)))
    wide = [
        state._replace(params=jax.tree.map(lambda leaf: leaf.astype(jnp.float64), state.params))
        for state in (whole.final, whole.best)
    ]
    Checkpoints(tmp_path / "wide").save(whole._replace(final=wide[0], best=wide[1]))
    flags = "--xla_force_host_platform_device_count=8"
    done = subprocess.run(
        [sys.executable, "-c", ELSEWHERE, tmp_path], capture_output=True, text=True, timeout=120,
        cwd=ROOT, env=os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "0"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    with pytest.warns(RuntimeWarning, match=r"jax_enable_x64 True, was False; .*device_count=8"):
        eight = Checkpoints(tmp_path / "eight").restore(template())
    assert_same_run(fit(resume=eight), whole)
    narrow, none = done.stdout.splitlines()
    assert "params.affine1.w: (16, 8) float64 in the file, (16, 8) float32 expected" in narrow
    assert "params.affine1.w is float64, which JAX makes float32 here; expected jax_en" in none


def test_settings_that_are_others_are_said(saved_once, tmp_path):
    saved = Path(shutil.copytree(saved_once, tmp_path / "saved"))
    newest = Checkpoints(saved).paths()[0]
    with (
        jax.enable_x64(False),
        jax.threefry_partitionable(False),
        jax.default_matmul_precision("highest"),
        pytest.warns(RuntimeWarning) as said,
    ):
        Checkpoints(saved).restore(template())
    (text,) = (str(warning.message) for warning in said)
    assert text == (
        f"{newest}: settings: jax_enable_x64 False, was True; settings: jax_threefry_partitionable "
        "False, was True; settings: jax_default_matmul_precision highest, was None: bits may differ"
    )
    with jax.default_prng_impl("rbg"), pytest.raises(CheckpointError, match="key<rbg> expected"):
        Checkpoints(saved).restore(template())
    rest = json.loads((newest / "run.json").read_text())
    assert rest["settings"].keys() >= {"kernels", "XLA_FLAGS"}
    del rest["settings"]  # as an earlier version wrote it
    (newest / "run.json").write_text(json.dumps(rest))
    (newest / "manifest.json").write_bytes(checkpoint._checkpoints._manifest(newest))
    with warnings.catch_warnings(), jax.enable_x64(False):
        warnings.simplefilter("error")
        assert int(Checkpoints(saved).restore(template()).final.step) == 9


# --- Kills


def killed(folder, count):
    """What processes have left that were killed while they saved."""
    subprocess.run(
        [sys.executable, ROOT / "tests/support/kill_saves.py", folder, str(count)], check=True,
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, timeout=170,
    )  # fmt: skip


def assert_whole(folder):
    """The newest checkpoint is the run that its step makes; returns the step."""
    checkpoints = Checkpoints(folder, keep=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of what a kill leaves is damaged
        warnings.filterwarnings("ignore", ".*settings: .*bits may differ")  # of that process
        found = checkpoints.restore(kill_saves.state(0, 0))
    if found is None:
        return 0
    step = int(found.final.step)
    assert_same_run(found, kill_saves.run(step))
    for path in checkpoints.paths():
        checkpoint._checkpoints._verify(path)
    checkpoints.save(kill_saves.run(step + 1))
    assert int(checkpoints.restore(kill_saves.state(0, 0)).final.step) == step + 1
    assert not list(Path(folder).glob(".*"))
    return step


@pytest.mark.integration
def test_kills_at_every_point_and_a_full_disk(tmp_path):
    killed(tmp_path, count=20)
    for point in kill_saves.POINTS:
        assert assert_whole(tmp_path / point) == (3 if point == "prune" else 2), point
    assert_whole(tmp_path / "full")
    steps = [assert_whole(tmp_path / f"random_{i}") for i in range(20)]
    assert steps == sorted(steps)
    assert steps[-1] > 0


@pytest.mark.slow
def test_two_hundred_kills_of_saves(tmp_path):
    killed(tmp_path, count=200)
    steps = [assert_whole(tmp_path / f"random_{i}") for i in range(200)]
    assert steps == sorted(steps)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_two_hundred_kills_of_runs(tmp_path, part):
    """Forty at a time: each goes on where the last one was, and in the end nothing has changed."""
    path = tmp_path / "checkpoints"
    done = subprocess.run(
        [sys.executable, ROOT / "tests/support/kill_runs.py", path, "40"], cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "JAX_ENABLE_X64": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Warning" not in done.stderr, done.stderr[-2000:]
    steps = list(map(int, done.stdout.split()))
    assert steps == sorted(steps)
    assert len(set(steps)) > 10
    saved = max(int(folder.name.removeprefix("step_")) for folder in path.glob("step_*"))
    epochs = saved // 100 + 2  # the last one went on from steps[-1] until it was killed
    run = kill_runs.go_on(path, epochs=epochs)
    assert_same_run(run, kill_runs.whole(epochs))


# --- The lock


def test_a_folder_is_one_processs(tmp_path):
    with locked(tmp_path):
        with pytest.raises(LockedError, match=rf"in use by process {os.getpid()} on "):
            locked(tmp_path).__enter__()
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "lock").write_text("process 1 on another-host\n")  # nobody holds it
    with locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()
