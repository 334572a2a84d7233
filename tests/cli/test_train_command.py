"""`funcnet train`: its defaults on real images, what it reports and leaves in its folder."""

import contextlib
import dataclasses
import io
import json
import pathlib
import re
import shlex
import signal
import subprocess
import sys
import time
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console

import funcnet
from funcnet import checkpoint, cli, data, plots, train
from funcnet.cli import _train_folder
from funcnet.cli import _train_options as settings
from funcnet.cli._train_report import Report
from tests.support import command_lines
from tests.support.command_lines import FILES, PROCESS, QUICK, parsed

here, blank_figures = command_lines.here, command_lines.blank_figures


@pytest.fixture(scope="module")
def default_run(tmp_path_factory):
    """`funcnet train` without a word more, as a stranger's first command."""
    out, err = io.StringIO(), io.StringIO()
    began = time.perf_counter()
    with (
        contextlib.chdir(tmp_path_factory.mktemp("default")),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        code = cli.main(["train"])
        (folder,) = (path.absolute() for path in pathlib.Path("runs").iterdir())
    return types.SimpleNamespace(
        code=code,
        folder=folder,
        out=out.getvalue(),
        err=err.getvalue(),
        seconds=time.perf_counter() - began,
        config=json.loads((folder / "config.json").read_text()),
        result=json.loads((folder / "result.json").read_text()),
        history=plots.load_run(folder)[0],
        losses=np.load(folder / "losses.npy"),
    )


@pytest.mark.integration
def test_without_arguments_it_learns_digits(default_run):
    assert default_run.code == 0
    assert default_run.err == ""
    assert default_run.result["test_accuracy"] >= 0.97
    assert default_run.seconds < 60


@pytest.mark.integration
def test_the_folder_holds_the_whole_run(default_run):
    assert {path.name for path in default_run.folder.iterdir()} == FILES
    assert re.fullmatch(r"digits-fully_connected-\d{8}-\d{6}", default_run.folder.name)
    epochs = default_run.config["options"]["training"]["epochs"]
    history, result = default_run.history, default_run.result
    assert history["epoch"] == list(range(epochs + 1))
    assert set(history[0]) >= {"step", "loss", "train_accuracy", "val_accuracy", "seconds"}
    assert history[0]["loss"] == default_run.losses[0]
    assert len(default_run.losses) == history[-1]["step"] == result["steps"] == epochs * 25
    assert result["val_accuracy"] == max(history["val_accuracy"])
    assert history[result["best_epoch"]]["val_accuracy"] == result["val_accuracy"]
    assert result["stopped"] is None
    assert (default_run.folder / "curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.integration
def test_what_it_reports_is_what_it_delivers(default_run):
    options = parsed(default_run.config["command"])
    dataset = data.load("digits")
    net = settings.build_net(options.net, dataset.num_classes)
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), dataset.input_shape))
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), template)
    loaded = checkpoint.load_params(default_run.folder / "best.npz", *template)
    for split, name in ((dataset.val, "val"), (dataset.test, "test")):
        measured = train.evaluate(net, loaded[:2], split, loaded.preprocessing)
        assert measured["accuracy"] == default_run.result[f"{name}_accuracy"]
        assert measured["loss"] == default_run.result[f"{name}_loss"]


@pytest.mark.integration
def test_best_parameters_have_readable_names(default_run):
    with np.load(default_run.folder / "best.npz") as arrays:
        names = set(arrays)
    assert {"affine1.w", "batch_norm1.gamma", "state.batch_norm1.mean"} <= names
    assert {"preprocessing.mean", "preprocessing.scale"} <= names


@pytest.mark.integration
def test_the_curves_are_drawn_from_the_files(default_run):
    figure = plots.curves(default_run.folder / "history.jsonl")
    raw = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(raw, default_run.losses.astype(np.float64))


@pytest.mark.integration
def test_the_configuration_is_complete_and_goes_round(default_run):
    config = default_run.config
    options = parsed(config["command"])
    stored = config["options"]
    for name, group in options._asdict().items():
        assert json.loads(json.dumps(dataclasses.asdict(group))) == stored[name]
    assert settings.resolved(options) == options == settings.from_config(stored)
    assert config["versions"]["funcnet"] == funcnet.__version__
    assert config["versions"]["jax"] == jax.__version__
    assert {"python", "jaxlib", "optax", "numpy"} <= set(config["versions"])
    assert config["device"]["platform"] == jax.devices()[0].platform
    assert config["seed"] == options.training.seed == 0
    unsaid = {k for group in ("training",) for k, v in stored[group].items() if v is None}
    assert unsaid == set()


@pytest.mark.integration
def test_its_command_repeats_a_run(here):
    assert cli.main([*QUICK, "--dropout", "0.1", "--seed", "7", "--out", "first"]) == 0
    config = json.loads((here / "first/config.json").read_text())
    assert cli.main([*shlex.split(config["command"])[1:], "--out", "second", "--quiet"]) == 0
    (old, old_losses), (new, new_losses) = (plots.load_run(here / n) for n in ("first", "second"))
    np.testing.assert_allclose(new_losses, old_losses, rtol=1e-5)  # threads may sum otherwise
    assert new["val_accuracy"] == old["val_accuracy"]


@pytest.mark.integration
def test_a_pipe_gets_tables_and_a_line_an_epoch(default_run):
    lines = default_run.out.splitlines()
    epochs = [line for line in lines if line.startswith("epoch ")]
    assert len(epochs) == len(default_run.history)
    last = default_run.history[-1]
    assert f"loss {last['loss']:.4f}" in epochs[-1]
    assert f"val {100 * last['val_accuracy']:.2f} %" in epochs[-1]
    assert "images/s" in epochs[-1]
    assert "\x1b" not in default_run.out
    before, after = default_run.out.split(epochs[0])[0], default_run.out.split(epochs[-1])[1]
    parameters = sum(v.size for v in _arrays(default_run.folder) if v.dtype == np.float32)
    for said in ("1,297 training", "affine1", "adam", "learning rate 0.001", "device", "seed 0"):
        assert said in before
    counted = int(re.search(r"([\d,]+) parameters", before)[1].replace(",", ""))
    assert counted < parameters  # that also counts running statistics
    result = default_run.result
    for said in ("best epoch", f"{100 * result['test_accuracy']:.2f} %", "images per second"):
        assert said in after
    assert default_run.folder.name in after


def _arrays(folder):
    with np.load(folder / "best.npz") as arrays:
        return list(dict(arrays).values())


def test_a_terminal_gets_a_live_bar():
    screen = io.StringIO()
    console = Console(file=screen, force_terminal=True, width=80, highlight=False)
    row = {"epoch": 0, "step": 0, "loss": 2.3, "train_accuracy": 0.1, "val_accuracy": 0.125}
    with Report(console, epochs=4) as report:
        report.epoch(row | {"images_per_second": None, "seconds": 0.5})
        report.step(train.Progress(2, 4, 30, 100, 0.25, 0.9, 1234.0, 65.2), 300)
        report._bar.refresh()
        shown = re.sub(r"\x1b\[[\d;?]*[a-zA-Z]", "", screen.getvalue())
    for said in ("epoch 2/4", "step 30/100", "loss 0.25", "accuracy 90.00 %", "1,234 images/s"):
        assert said in shown
    assert "1:05 left" in shown
    assert shown.index("epoch 0/4  step 0  loss 2.3000  train 10.00 %") < shown.index("epoch 2/4")
    assert "validation 12.50 %" in shown
    assert report.images_per_second == pytest.approx(1234.0)


def test_many_short_epochs_have_few_lines_off_a_terminal_and_the_last_one():
    row = {"step": 0, "loss": 2.3, "train_r2": 0.1, "val_r2": 0.125, "seconds": 0.5}
    printed = io.StringIO()
    with Report(Console(file=printed, width=80), epochs=100, what="examples") as report:
        for epoch in range(88):
            report.epoch(row | {"epoch": epoch, "images_per_second": 9.0})
    said, compiling, *lines = printed.getvalue().splitlines()
    assert "every 10 epochs or 10 seconds; history.jsonl has them all" in said
    assert compiling == "compiling ..."
    told = [int(re.match(r"epoch +(\d+)/100 .* 9 examples/s", line)[1]) for line in lines]
    assert told == [*range(6), *range(10, 90, 10), 87]


def test_an_epoch_after_a_long_silence_has_a_line(monkeypatch):
    row = {"step": 0, "loss": 2.3, "train_r2": 0.1, "val_r2": 0.125, "seconds": 0.5}
    printed, now = io.StringIO(), 0.0
    monkeypatch.setattr("funcnet.cli._train_report.time.perf_counter", lambda: now)
    with Report(Console(file=printed, width=80), epochs=100) as report:
        for epoch, now in ((6, 9.0), (7, 11.0), (8, 12.0), (9, 22.0)):  # noqa: B007
            report.epoch(row | {"epoch": epoch, "images_per_second": None})
    lines = [line for line in printed.getvalue().splitlines() if line.startswith("epoch")]
    assert [int(line.split("/")[0].split()[1]) for line in lines] == [7, 9]


def test_the_help_has_the_recipe_of_data_of_ones_own(capsys):
    assert cli.main(["train", "--help"]) == 0
    said = capsys.readouterr().out
    assert "your pictures --net three_layer_convnet --optimizer adam\n" in said
    tables = said.partition("your tables")[2].split("\n\n")[0]
    assert "--net fully_connected --hidden 100 100 --norm none" in tables
    assert "--epochs 100 to 10 --batch-size 10 to 100" in tables


@pytest.mark.integration
def test_quiet_says_nothing(here, capsys):
    assert cli.main([*QUICK, "--out", "run", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (here / "run").iterdir()} == FILES


@pytest.mark.integration
def test_no_epoch_evaluates_only(here, capsys):
    assert cli.main(["train", "--epochs", "0", "--out", "run"]) == 0
    history, losses = plots.load_run("run")
    assert history["epoch"] == [0]
    assert history[0]["loss"] is None
    assert losses.shape == (0,)
    assert "best epoch           0 of 0" in capsys.readouterr().out


@pytest.mark.integration
@pytest.mark.parametrize(
    "words",
    [
        pytest.param(["--sampling", "full", "--optimizer", "sgd"], marks=pytest.mark.slow),
        ["--sampling", "replacement", "--loss", "hinge", "--reg", "1e-3"],
        ["--data", "synthetic", "--net", "softmax", "--augment", "crop-flip-cutout"],
        pytest.param(
            ["--net", "two_layer_convnet", "--channels=4", "--preprocessing=scaled_mean_image"],
            marks=pytest.mark.slow,
        ),
    ],
    ids=lambda words: words[1],
)
def test_options_reach_the_run(here, words):
    assert cli.main(["train", *words, "--epochs", "1", "--out", "run", "--quiet"]) == 0
    history, losses = plots.load_run("run")
    assert len(losses) == {"full": 1, "synthetic": 20}.get(words[1], 25)
    assert history[-1]["val_accuracy"] > 0.1


@pytest.mark.integration
def test_a_loss_that_is_not_finite_ends_it(here, capsys):
    words = ["--optimizer", "sgd", "--learning-rate", "1e30", "--out", "run"]
    assert cli.main([*QUICK, *words]) == 1
    captured = capsys.readouterr()
    (line,) = captured.err.splitlines()
    said = (
        r"funcnet train: error: the (?:loss is nan|gradient is not finite) at step (\d+) "
        r"\(epoch 1\) and at the 2 after it: it starts in .*affine\d.* "
        r"\(\d+ of \d+ not finite\)\. What it has"
    )
    step = int(re.match(said, line)[1])
    # What diverges so soon has not been saved.
    assert {path.name for path in (here / "run").iterdir()} == FILES - {"checkpoints"}
    history, losses = plots.load_run("run")
    assert len(losses) == step + 2
    assert history["epoch"] == [0]
    result = json.loads((here / "run/result.json").read_text(), parse_constant=pytest.fail)
    assert f"at step {step}" in result["stopped"]
    assert all(np.isfinite(array).all() for array in _arrays(here / "run"))


@pytest.mark.integration
def test_ctrl_c_ends_it_with_what_it_has(here):
    words = ["train", *PROCESS, "--epochs", "100000", "--out", "a run"]
    # The handler is set again: a shell that runs a job in the background ignores SIGINT for it.
    program = (
        "import signal, sys; signal.signal(signal.SIGINT, signal.default_int_handler); "
        f"from funcnet.cli import main; sys.exit(main({words}))"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        try:
            for line in process.stdout:
                if line.startswith("epoch") and "step 40 " in line:
                    break
            process.send_signal(signal.SIGINT)
            out, err = process.communicate(timeout=10)
        finally:
            process.kill()
    assert process.returncode == 130, err
    assert err == ""
    assert "Interrupted after step" in out
    assert "goes on by: funcnet train --resume --out 'a run'\n" in out
    assert {path.name for path in (here / "a run").iterdir()} == FILES
    result = json.loads((here / "a run/result.json").read_text())
    assert result["stopped"] == "interrupted"
    history, losses = plots.load_run("a run")
    assert len(losses) == result["steps"] >= history[-1]["step"] >= 40
    assert result["val_accuracy"] == max(history["val_accuracy"])


def test_ctrl_c_before_the_first_row_leaves_nothing(here, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", interrupted)
    assert cli.main([*QUICK, "--out", "run"]) == 130
    assert capsys.readouterr().err == "funcnet train: interrupted\n"
    assert list(here.iterdir()) == []


@pytest.mark.slow
def test_a_closed_pipe_ends_it_with_what_it_has(here):
    """As a process, by a name of the command that needs no script; test_streams.py has more."""
    words = [sys.executable, "-m", "funcnet", "train", *PROCESS, "--out", "run"]
    pipe = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(words, **pipe) as process:
        try:
            assert process.stdout.readline().strip() == "run"
            process.stdout.close()
            err = process.stderr.read()
        finally:
            process.kill()
    assert process.returncode == 141, err
    assert re.fullmatch(r"funcnet train: stdout is closed .*: funcnet train --resume .*\n", err)
    assert {path.name for path in (here / "run").iterdir()} == FILES


def test_a_full_disk_ends_it_in_one_line(here, capsys, monkeypatch):
    def full(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    assert cli.main([*QUICK, "--out", "run", "--quiet"]) == 1
    assert re.fullmatch(
        r"funcnet train: error: .*No space left on device. What it has is in run.\n",
        capsys.readouterr().err,
    )


def test_default_folders_of_one_second_differ(here, monkeypatch):
    monkeypatch.setattr(time, "strftime", lambda *_: "now")
    options = parsed("funcnet train")
    with contextlib.ExitStack() as stack:
        names = [_train_folder.claimed(None, options, "digits", stack).name for _ in range(3)]
    stem = "digits-fully_connected-now"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert list((here / "runs").iterdir()) == []  # nothing was written into them


def test_a_mistake_of_ours_keeps_its_traceback(here, monkeypatch):
    def broken(*args, on_epoch, **kwargs):
        row = {"epoch": 0, "step": 0, "loss": 2.3, "train_accuracy": 0.1, "val_accuracy": 0.1}
        for hear in on_epoch:
            hear(row | {"images_per_second": None, "seconds": 0.1})
        raise ValueError("a bug")

    monkeypatch.setattr(train, "fit", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main([*QUICK, "--out", "run"])
    assert (here / "run/history.jsonl").exists()
