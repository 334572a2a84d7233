"""Runs that are stopped, killed, damaged and continued: what goes on is the run not stopped."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import warnings
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import checkpoint, checks, cli, data, nets, optimizers, train
from funcnet.checkpoint import CheckpointError, Checkpoints, LockedError, locked
from funcnet.checks import _resume
from tests import kill_runs, kill_saves, resume_runs

HERE = Path(__file__).parent
DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(43, 30, 20), noise=0.4)
NET = nets.fully_connected_net([8], 3, norm="batch", dropout=0.2)
OPTIMIZER = optimizers.adam(train.decay_per_epoch(0.02, 0.5, 4))


def fit(**options):
    settings = {"epochs": 3, "batch_size": 10, "augment": data.random_flip, **options}
    return train.fit(NET, DATA, OPTIMIZER, **settings)


def template():
    return jax.eval_shape(lambda: train.init_state(NET, OPTIMIZER, jax.random.key(0), (4, 4, 1)))


def stop_at(step):
    def stop(run):
        if int(run.final.step) == step:
            raise KeyboardInterrupt

    return stop


def numbers(leaf):
    return np.asarray(jax.random.key_data(leaf) if checkpoint._arrays.is_key(leaf) else leaf)


def assert_same(a, b):
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = numbers(x), numbers(y)
        assert (x.dtype, x.shape, x.tobytes()) == (y.dtype, y.shape, y.tobytes())


def untimed(rows):
    return [{k: v for k, v in row.items() if k not in _resume._TIMES} for row in rows]


def assert_same_run(a, b):
    assert_same(a[1:4], b[1:4])
    assert_same(tuple(a.preprocessing), tuple(b.preprocessing))
    assert untimed(a.history) == untimed(b.history)
    assert (a.best_epoch, a.nonfinite, a.stopped) == (b.best_epoch, b.nonfinite, b.stopped)


@pytest.fixture(scope="module")
def whole():
    return fit()


# --- fit goes on from a Run


@pytest.mark.parametrize("at", [1, 4, 6, 11])
def test_row_60_a_run_goes_on_to_the_same_bits(whole, at):
    first = fit(chunk_steps=1, on_chunk=stop_at(at))
    assert (first.stopped, int(first.final.step)) == ("interrupted", at)
    rows = []
    run = fit(resume=first, on_epoch=rows.append)
    assert_same_run(run, whole)
    assert rows == run.history[1 + at // 4 :]
    assert run.seconds > first.seconds > 0
    assert_same_run(fit(resume=run), whole)


def test_row_60_a_run_interrupted_before_its_row_of_the_history(whole):
    """As by a signal during the evaluation at the end of an epoch."""

    def stop(progress):
        if progress.step == 8:
            raise KeyboardInterrupt

    first = fit(on_progress=stop, chunk_steps=2)
    assert int(first.final.step) == 8
    assert first.history[-1]["step"] == 4
    assert_same_run(fit(resume=first), whole)


def test_a_signal_ends_an_evaluation_at_once(whole, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    evaluations = []

    def evaluate(*arguments, **options):
        evaluations.append(arguments)
        if len(evaluations) == 3:  # two before training, and the first at the end of an epoch
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not reached")
        return train._evaluation.evaluate_rows(*arguments, **options)

    monkeypatch.setattr(train, "evaluate_rows", evaluate)
    try:
        first = fit()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (first.stopped, int(first.final.step), len(first.history)) == ("interrupted", 4, 1)
    monkeypatch.undo()
    assert_same_run(fit(resume=first), whole)


def test_more_epochs_than_before(whole):
    first = fit(epochs=2)
    assert_same_run(fit(resume=first, epochs=3), whole)


def test_without_a_validation_split_too():
    options = {"dataset": DATA._replace(val=None)}

    def fit(**more):
        return train.fit(NET, optimizer=OPTIMIZER, epochs=2, batch_size=10, **options, **more)

    first = fit(chunk_steps=1, on_chunk=stop_at(3))
    assert_same_run(fit(resume=first), fit())


def test_what_cannot_go_on_is_refused(whole):
    with pytest.raises(TypeError, match=r"resume is .*expected a train\.Run"):
        fit(resume=whole.final)
    with pytest.raises(ValueError, match="both state and resume"):
        fit(resume=whole, state=whole.final)
    with pytest.raises(ValueError, match=r"epoch 1 ended with step 4, .* make 2 steps"):
        fit(resume=whole, batch_size=20)


# --- Checkpoints


def test_rows_63_and_64_a_checkpoint_is_the_run_at_its_moment(whole, tmp_path):
    """Saved while training goes on and buffers are donated; keys of two kinds."""
    seen = {}
    checkpoints = Checkpoints(tmp_path, keep=20, every_steps=1)

    def save(run):
        checkpoints(run)
        copy = jax.tree.map(jnp.copy, (run.final, run.best))
        seen[int(run.final.step)] = run._replace(final=copy[0], best=copy[1])

    fit(chunk_steps=1, on_chunk=save)
    assert [path.name for path in checkpoints.paths()] == [f"step_{i:08}" for i in range(12, 0, -1)]
    for path in checkpoints.paths():
        checkpoint._checkpoints._verify(path)
        restored = checkpoint._checkpoints._read(path, template(), {})
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
def test_row_55_what_is_damaged_is_passed_over_by_name(saved, name, damage):
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
def test_row_55_every_bit_of_the_small_files_counts(saved):
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


def test_rows_55_and_56_what_does_not_belong_is_seen(saved):
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
def test_row_57_another_run_is_refused_leaf_by_leaf(saved, make, said):
    with pytest.raises(CheckpointError, match=said) as raised:
        Checkpoints(saved).restore(make())
    assert str(Checkpoints(saved).paths()[0]) in str(raised.value)


def test_row_57_another_configuration_is_refused(saved):
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


def test_row_61_another_runs_checkpoints_are_not_written_over(saved, whole):
    for step in (1, 6, 40):
        run = whole._replace(final=whole.final._replace(step=jnp.int32(step)))
        with pytest.raises(CheckpointError, match=f"step {step} is not saved.*of another run"):
            Checkpoints(saved).save(run)


def test_row_61_after_a_rollback_saving_goes_on(saved, whole):
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


def test_row_58_a_save_that_fails_ends_the_run(tmp_path, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        fit(on_chunk=Checkpoints(tmp_path / "checkpoints", every_steps=1))
    assert list((tmp_path / "checkpoints").iterdir()) == []


# --- Kills


def killed(folder, count):
    """What processes have left that were killed while they saved."""
    subprocess.run(
        [sys.executable, HERE / "kill_saves.py", folder, str(count)], check=True, cwd=HERE.parent,
        env=os.environ | {"PYTHONPATH": str(HERE.parent)}, timeout=170,
    )  # fmt: skip


def assert_whole(folder):
    """The newest checkpoint is the run that its step makes; returns the step."""
    checkpoints = Checkpoints(folder, keep=2)
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # nothing of what a kill leaves is damaged
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


def test_rows_52_and_54_kills_at_every_point_and_a_full_disk(tmp_path):
    killed(tmp_path, count=20)
    for point in kill_saves.POINTS:
        assert assert_whole(tmp_path / point) == (3 if point == "prune" else 2), point
    assert_whole(tmp_path / "full")
    steps = [assert_whole(tmp_path / f"random_{i}") for i in range(20)]
    assert steps == sorted(steps)
    assert steps[-1] > 0


@pytest.mark.slow
def test_row_53_two_hundred_kills_of_saves(tmp_path):
    killed(tmp_path, count=200)
    steps = [assert_whole(tmp_path / f"random_{i}") for i in range(200)]
    assert steps == sorted(steps)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(5))
def test_row_53_two_hundred_kills_of_runs(tmp_path, part):
    """Forty at a time: each goes on where the last one was, and in the end nothing has changed."""
    done = subprocess.run(
        [sys.executable, HERE / "kill_runs.py", tmp_path / "checkpoints", "40"], cwd=HERE.parent,
        env=os.environ | {"PYTHONPATH": str(HERE.parent), "JAX_ENABLE_X64": "1"},
        capture_output=True, text=True, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-2000:]
    assert "Warning" not in done.stderr, done.stderr[-2000:]
    steps = list(map(int, done.stdout.split()))
    assert steps == sorted(steps)
    assert len(set(steps)) > 10
    epochs = steps[-1] // 100 + 2
    run = kill_runs.go_on(tmp_path / "checkpoints", epochs=epochs)
    assert_same_run(run, kill_runs.whole(epochs))


# --- The lock


def test_row_62_a_folder_is_one_processs(tmp_path):
    with locked(tmp_path):
        with pytest.raises(LockedError, match=rf"in use by process {os.getpid()} on "):
            locked(tmp_path).__enter__()
        assert (tmp_path / "lock").exists()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "lock").write_text("process 1 on another-host\n")  # nobody holds it
    with locked(tmp_path):
        assert f"process {os.getpid()} on" in (tmp_path / "lock").read_text()


# --- check_resume


@pytest.mark.parametrize(
    ("make", "stops"),
    [(resume_runs.plain, (2,)), (resume_runs.everything, (1, 4, 5)), (resume_runs.conv, (3,))],
    ids=["plain", "everything", "conv"],
)
def test_row_60_check_resume(make, stops):
    report = checks.check_resume(make, stops=stops).raise_if_bad()
    assert [check.name for check in report] == ["repeat", *(f"step {stop}" for stop in stops)]
    assert checks.ResumeReport.from_json(report.to_json()) == report


@pytest.mark.slow
@pytest.mark.parametrize("make", [resume_runs.plain, resume_runs.everything, resume_runs.conv])
def test_row_60_check_resume_at_every_step(make):
    report = checks.check_resume(make).raise_if_bad()
    assert len(list(report)) == (6 if make is resume_runs.everything else 4)


@pytest.mark.slow
def test_check_resume_sees_what_does_not_resume():
    report = checks.check_resume(resume_runs.forgetful, stops=(2,))
    assert report["repeat"].passed
    assert "numbers differ, by up to" in report.failed[0].text
    with pytest.raises(checks.RuleError, match="WRONG"):
        report.raise_if_bad()


def test_check_resume_names_what_differs(whole, tmp_path):
    Checkpoints(tmp_path / "a").save(whole)
    a = _resume._saved(tmp_path / "a")
    assert _resume._compared("step 1", a, _resume._saved(tmp_path / "a")).passed
    state = jax.tree.map(jnp.copy, whole.final)
    odd = whole.history[-1] | {"val_loss": 0.5}
    nudged = state.opt_state._replace(count=state.opt_state.count + 1)
    for name, run, where in (
        ("b", whole._replace(final=state._replace(opt_state=nudged)), "opt_state.count"),
        ("c", whole._replace(losses=-whole.losses), "run.losses"),
        ("d", whole._replace(nonfinite=(3,)), "nonfinite"),
        ("e", whole._replace(history=whole.history[:-1]), "history"),
        ("f", whole._replace(history=[*whole.history[:-1], odd]), "history[3].val_loss"),
    ):
        Checkpoints(tmp_path / name).save(run)
        check = _resume._compared("step 1", a, _resume._saved(tmp_path / name))
        assert (check.passed, check.where) == (False, where)


def test_check_resume_needs_a_function_that_can_be_found():
    for make in (lambda: None, partial(resume_runs.plain), nets.Net):
        with pytest.raises(ValueError, match="expected a function at the top level"):
            checks.check_resume(make)


# --- funcnet train --resume

QUICK = ["train", "--hidden", "20", "--dropout", "0.2", "--epochs", "3", "--augment", "crop"]
LEFT = {"checkpoints", "config.json", "history.jsonl", "best.npz", "losses.npy", "curves.png",
        "result.json"}  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture(scope="module")
def whole_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("whole") / "run"
    assert cli.main([*QUICK, "--out", str(folder), "--quiet"]) == 0
    return folder


def assert_same_folder(a, b):
    for name in ("best.npz", "losses.npy"):
        assert (a / name).read_bytes() == (b / name).read_bytes(), name
    histories = [
        untimed(map(json.loads, (folder / "history.jsonl").read_text().splitlines()))
        for folder in (a, b)
    ]
    assert histories[0] == histories[1]
    newest = [Checkpoints(folder / "checkpoints").paths()[0] / "arrays.npz" for folder in (a, b)]
    assert newest[0].read_bytes() == newest[1].read_bytes()
    results = untimed(json.loads((folder / "result.json").read_text()) for folder in (a, b))
    assert results[0] == results[1]
    assert {path.name for path in a.iterdir()} == LEFT == {path.name for path in b.iterdir()}


@pytest.mark.parametrize("at", [1, 38, 74], ids=["first", "middle", "last"])
def test_row_60_train_resume_gives_the_same_files(here, monkeypatch, capsys, whole_folder, at):
    with monkeypatch.context() as patch:
        patch.setattr(train, "fit", partial(train.fit, chunk_steps=1))
        patch.setattr(Checkpoints, "__call__", lambda self, run: stop_at(at)(run))
        assert cli.main([*QUICK, "--out", "runs/a", "--quiet"]) == 130
    assert json.loads(Path("runs/a/result.json").read_text())["stopped"] == "interrupted"
    assert cli.main(["train", "--resume"]) == 0
    out = capsys.readouterr().out
    assert f"goes on    after step {at}" in out
    assert_same_folder(Path("runs/a"), whole_folder)
    (resumed,) = json.loads(Path("runs/a/config.json").read_text())["resumed"]
    assert set(resumed) == {"versions", "device", "started"}


def test_train_resume_of_what_is_done_and_of_more_epochs(here, whole_folder):
    shutil.copytree(whole_folder, "run")
    assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 0
    assert_same_folder(Path("run"), whole_folder)
    assert cli.main(["train", "--resume", "--out", "run", "--quiet", "--epochs", "4"]) == 0
    assert json.loads(Path("run/result.json").read_text())["steps"] == 100
    assert json.loads(Path("run/config.json").read_text())["options"]["training"]["epochs"] == 4
    longer = [*QUICK, "--epochs", "4"]
    assert cli.main([*longer, "--out", "four", "--quiet"]) == 0
    assert_same_folder(Path("run"), Path("four"))


def test_train_resume_without_a_checkpoint_begins_again(here, whole_folder):
    """As when it is killed before the first was due."""
    shutil.copytree(whole_folder, "run")
    shutil.rmtree("run/checkpoints")
    Path("run/history.jsonl").write_text('{"epoch": 0, "step"')
    assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 0
    assert_same_folder(Path("run"), whole_folder)


WRONG = {
    "seed": (["--seed", "0", "--resume"], None),
    "another seed": (["--seed", "3"], "--seed is 3, but the run in run was begun with 0"),
    "the default of another": (["--augment", "none"], "--augment is none, but .* with crop"),
    "net": (["--net", "small"], "--net is small, but the run in run was begun with fully_connec"),
    "hidden": (["--hidden", "20", "20"], "--hidden is 20 20, but .* with 20:"),
    "data": (["--data", "synthetic"], "--data is synthetic, but .* with digits"),
    "fewer epochs": (["--epochs", "2"], "--epochs is 2, but .* with 3: .*more to train longer"),
    "rate": (["--learning-rate", "0.5"], r"--learning-rate is 0\.5, but .* with 0\.001"),
    "an option of others": (["--momentum", "0.5"], r"--momentum is 0\.5, but .* none of its kind"),
    "nowhere": (["--out", "nowhere"], "nowhere holds no run: there is no config.json"),
    "how often": (["--checkpoint-every", "0s"], "--checkpoint-every is 0s, expected a number with"),
    "of no unit": (["--checkpoint-every", "5"], "--checkpoint-every is 5, expected a number with"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_train_resume_contradicts_nothing(here, capsys, whole_folder, words, said):
    shutil.copytree(whole_folder, "run")
    before = {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}
    code = cli.main(["train", "--resume", "--out", "run", "--quiet", *words])
    if said is None:
        assert code == 0
        return
    assert code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line
    assert before == {path: path.read_bytes() for path in Path("run").rglob("*") if path.is_file()}


def test_train_resume_of_a_damaged_folder(here, capsys, whole_folder):
    shutil.copytree(whole_folder, "run")
    for name, content, said in (
        ("config.json", b'{"options": {}}', "config.json is damaged"),
        ("config.json", b"{", "config.json is damaged"),
        ("checkpoints/step_00000075/arrays.npz", b"", "no whole checkpoint: step_00000075"),
    ):
        whole = Path("run", name).read_bytes()
        Path("run", name).write_bytes(content)
        assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 2
        assert said in capsys.readouterr().err
        Path("run", name).write_bytes(whole)
    config = json.loads(Path("run/config.json").read_text())
    Path("run/config.json").write_text(json.dumps(config | {"data_sha256": "0"}))
    assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 2
    assert "the data are not those" in capsys.readouterr().err
    config["versions"]["jax"] = "0.9"
    Path("run/config.json").write_text(json.dumps(config))
    assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 0
    assert f"versions: jax {jax.__version__}, was 0.9: bits may differ" in capsys.readouterr().err


def test_no_checkpoints_where_none_are_wanted(here):
    words = [*QUICK, "--out", "run", "--quiet", "--checkpoint-every", "never", "--epochs", "1"]
    assert cli.main(words) == 0
    assert not Path("run/checkpoints").exists()


def started(*words):
    """A run in a process of its own, that has just done an epoch."""
    # The handler is set again: a shell that runs a job in the background ignores SIGINT for it.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from funcnet.cli import main; sys.exit(main({list(words)}))"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if re.match(r"epoch +[1-9]", line):
            return process
    raise AssertionError(process.stderr.read())


def test_rows_59_and_62_sigterm_the_lock_and_a_kill(here, capsys):
    words = ["train", "--hidden", "20", "--epochs", "100000", "--out", "run"]
    process = started(*words, "--checkpoint-every", "1epochs")
    try:
        for again in (["--resume"], []):
            began = time.perf_counter()
            assert cli.main(["train", "--out", "run", *again]) == 2
            assert time.perf_counter() - began < 5
            (line,) = capsys.readouterr().err.splitlines()
            assert f"run is in use by process {process.pid} on" in line
        began = time.perf_counter()
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=30)
        assert time.perf_counter() - began < 10
        assert (process.returncode, err) == (143, "")
        assert "Terminated after step" in out
    finally:
        process.kill()
    assert not Path("run/lock").exists()
    assert not Path("run/result.json").exists()
    saved = Checkpoints("run/checkpoints").paths()
    process = started("train", "--resume", "--out", "run")
    process.kill()
    process.communicate()
    assert Path("run/lock").exists()
    assert Checkpoints("run/checkpoints").paths() == saved  # the next was due after a minute
    with locked("run"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.3])
def test_row_59_a_second_signal_leaves_at_once(here, signum, pause):
    words = ["train", "--hidden", "20", "--epochs", "100000", "--checkpoint-every", "1steps"]
    process = started(*words, "--out", "run")
    process.send_signal(signum)
    time.sleep(pause)
    began = time.perf_counter()
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert time.perf_counter() - began < 3
    assert process.returncode in (128 + signum, -signum)  # as a shell has it, the same
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        folder = Path("run/checkpoints")
        for path in Checkpoints(folder).paths():
            checkpoint._checkpoints._verify(path)
    with locked("run"):
        pass
    assert not Path("run/lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_row_62_of_two_that_start_together_one_goes_on(here, number):
    command = [sys.executable, "-m", "funcnet.cli", *QUICK, "--out", "run", "--quiet"]
    both = [subprocess.Popen(command, stderr=subprocess.PIPE, text=True) for _ in range(2)]
    errors = [process.communicate(timeout=60)[1] for process in both]
    assert sorted(process.returncode for process in both) == [0, 2], errors
    assert re.search("in use by process|is not empty", "".join(errors))
    assert {path.name for path in Path("run").iterdir()} == LEFT


def fill(path):
    with open(path, "wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))


@pytest.mark.slow
def test_row_54_a_full_disk(here, capsys):
    """A file system of two megabytes, filled between two parts of a run."""
    Path("disk").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", "disk"]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("tmpfs cannot be mounted here")
    words = ["--checkpoint-every", "1epochs", "--out", "disk/run", "--quiet"]
    try:
        assert cli.main([*QUICK, *words]) == 0
        with pytest.raises(OSError, match="No space"):
            fill("disk/fill")
        assert cli.main(["train", "--resume", *words, "--epochs", "6"]) == 2
        assert "No space left on device" in capsys.readouterr().err
        os.truncate("disk/fill", Path("disk/fill").stat().st_size - 40_000)
        assert cli.main(["train", "--resume", *words, "--epochs", "6"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "No space left on device. What it has is in disk/run." in line
        Path("disk/fill").unlink()
        (newest,) = [path.name for path in Checkpoints("disk/run/checkpoints").paths()][:1]
        assert newest == "step_00000075"
        assert cli.main(["train", "--resume", *words]) == 0
        assert json.loads(Path("disk/run/result.json").read_text())["steps"] == 150
    finally:
        subprocess.run(["umount", "disk"], check=True)
