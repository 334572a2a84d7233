"""`funcnet train --resume`, its signals, its lock, and full disks."""

import contextlib
import dataclasses
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
import pytest

from funcnet import checkpoint, cli, train
from funcnet.checkpoint import Checkpoints, locked
from funcnet.cli import _train_command
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError
from tests.support.command_lines import PROCESS, blank_figures  # noqa: F401  (a fixture)
from tests.support.resuming import stop_at, untimed

QUICK = ["train", "--hidden", "20", "--dropout", "0.2", "--epochs", "3", "--augment", "crop"]
LEFT = {
    *("checkpoints", "config.json", "history.jsonl", "best.npz", "model.json", "losses.npy"),
    *("curves.png", "result.json"),
}


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


@pytest.mark.parametrize(
    "at",
    [
        pytest.param(1, id="first", marks=pytest.mark.slow),
        pytest.param(38, id="middle"),
        pytest.param(74, id="last", marks=pytest.mark.slow),
    ],
)
def test_train_resume_gives_the_same_files(here, monkeypatch, capsys, whole_folder, at):
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
    assert set(resumed) == {"versions", "device", "settings", "started"}


@pytest.mark.integration
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


@pytest.mark.integration
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


# For each option that a run's numbers depend on, a value that the run below has not.
OTHER = {
    "data": {
        **{"name": "synthetic", "target": ("y",), "task": "regression", "missing": "drop"},
        **{"size": (8, 8), "val": 0.5, "test": 0.5, "features": ("x",), "without": ("x",)},
    },
    "net": {
        **{"name": "small", "hidden": (30,), "norm": "layer", "activation": "gelu", "dropout": 0.5},
        **{"channels": (8,), "filter_size": 3, "depth": 2, "weight_scale": 0.25},
    },
    "optimizer": {
        **{"name": "adam", "learning_rate": 0.0, "lr_decay": 0.25, "momentum": 0.0},
        **{"velocity": "raw", "decay": 0.0, "rho": 0.0, "b1": 0.0, "b2": 0.0, "beta": 0.0},
        **{"eps": 0.5, "eps_in_sqrt": False, "centered": False, "weight_decay": 0.0},
    },
    "training": {
        **{
            "epochs": 0,
            "accumulate": 3,
            "batch_size": 7,
            "loss": "hinge",
            "label_smoothing": 0.1,
            "reg": 0.1,
        },
        **{"preprocessing": "none", "augment": "flip", "compute_dtype": "bfloat16"},
        **{"precision": "highest", "sampling": "full", "seed": 5},
    },
    "stopping": {"patience": 3, "best": "val_loss"},
}
RMSPROP = settings.OptimizerOptions("rmsprop", momentum=0.5, eps_in_sqrt=True, centered=True)


def test_train_resume_refuses_every_option_that_is_not_the_runs_own(here, capsys):
    unsaid = settings.Options(*(kind() for kind in settings._GROUPS.values()))
    begun = settings.resolved(unsaid._replace(optimizer=RMSPROP))
    for kind, group in begun._asdict().items():
        free = {"data_dir", "allow_unverified"}
        assert OTHER[kind].keys() == {field.name for field in dataclasses.fields(group)} - free
        for name, value in OTHER[kind].items():
            option = settings.flag(kind if name == "name" else name)
            said = type(group)(**{name: value})
            with pytest.raises(CommandError, match=f"{option} is .*, but the run in run was begun"):
                settings.reconciled(unsaid._replace(**{kind: said}), begun, "run")
    assert settings.reconciled(begun, begun, "run") == begun
    assert settings.reconciled(unsaid, begun, "run") == begun

    options = {name: dataclasses.asdict(group) for name, group in begun._asdict().items()}
    Path("run").mkdir()
    Path("run/config.json").write_text(json.dumps({"options": options}))
    for option in ("--eps-in-sqrt", "--centered"):
        assert cli.main(["train", "--resume", "--out", "run", option, "False"]) == 2
        said = f"{option} is False, but the run in run was begun with True: leave the option out"
        assert said in capsys.readouterr().err


@pytest.mark.integration
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


@pytest.mark.integration
def test_train_resume_says_which_settings_are_others(here, capsys, whole_folder):
    shutil.copytree(whole_folder, "run")
    capsys.readouterr()
    with jax.enable_x64(False), jax.threefry_partitionable(False):
        assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 0
    (line,) = capsys.readouterr().err.splitlines()
    place = "run/checkpoints/step_00000075"
    assert line == (
        f"funcnet train: warning: {place}: settings: jax_enable_x64 False, was True; settings: "
        "jax_threefry_partitionable False, was True: bits may differ"
    )


@pytest.mark.integration
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


@pytest.mark.integration
def test_the_lock_and_a_signal(here, capsys):
    words = ["train", *PROCESS, "--epochs", "100000", "--out", "run"]
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
    assert checkpoint.load_trained("run").task == "classification"


def leave_at_once(process, signum, pause):
    """Sends two signals; what was saved is whole, and nobody has the folder any more."""
    process.send_signal(signum)
    time.sleep(pause)
    began = time.perf_counter()
    process.send_signal(signum)
    process.communicate(timeout=30)
    assert time.perf_counter() - began < 3
    assert process.returncode in (128 + signum, -signum)  # as a shell has it, the same
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        paths = Checkpoints("run/checkpoints").paths()
        for path in paths:
            checkpoint._checkpoints._verify(path)
    assert paths
    with locked("run"):
        pass
    assert not Path("run/lock").exists()


@pytest.mark.parametrize(
    ("press", "code", "said"),
    [(KeyboardInterrupt, 130, "interrupted"), (train.Terminated, 143, "terminated")],
)
def test_a_signal_while_the_folder_is_closed(here, monkeypatch, capsys, press, code, said):
    @contextlib.contextmanager
    def pressed(prog):
        yield
        raise press

    monkeypatch.setattr(_train_command, "warnings_said", pressed)
    words = ["train", "--net", "softmax", "--epochs", "0", "--out", "run", "--quiet"]
    assert cli.main(words) == code
    assert capsys.readouterr().err == f"funcnet train: {said}\n"
    assert not Path("run/lock").exists()


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pause", [0.0, 0.02, 0.3])
def test_a_second_signal_leaves_at_once(here, signum, pause):
    words = ["train", *PROCESS, "--epochs", "100000", "--checkpoint-every", "1steps"]
    leave_at_once(started(*words, "--out", "run"), signum, pause)
    leave_at_once(started("train", "--resume", "--out", "run"), signum, pause)


@pytest.mark.slow
def test_the_lock_of_a_killed_run_is_taken_over(here):
    process = started("train", *PROCESS, "--epochs", "100000", "--out", "run")
    process.kill()
    process.communicate()
    assert Path("run/lock").exists()
    with locked("run"):
        pass


@pytest.mark.slow
@pytest.mark.parametrize("number", range(5))
def test_of_two_that_start_together_one_goes_on(here, number):
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
def test_a_full_disk(here, capsys):
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
