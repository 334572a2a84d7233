"""The command: its defaults on real images, what it leaves in its folder, and how it says no."""

import contextlib
import dataclasses
import importlib.util
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
import optax
import pytest
from rich.console import Console

import funcnet
from funcnet import checkpoint, cli, data, nets, optimizers, plots, train
from funcnet.cli import _train_command, _train_folder
from funcnet.cli import _train_options as settings
from funcnet.cli._train_report import Report

FILES = {
    *("config.json", "history.jsonl", "best.npz", "losses.npy", "curves.png", "result.json"),
    "checkpoints",
}
# The smallest run that is one: a second, most of it compiling.
QUICK = ["train", "--hidden", "20", "--norm", "none", "--epochs", "2"]


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, without data sets and without a network to fetch them from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNCNET_DOWNLOAD", "0")
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


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


# --- funcnet train


def test_without_arguments_it_learns_digits(default_run):
    assert default_run.code == 0
    assert default_run.err == ""
    assert default_run.result["test_accuracy"] >= 0.97
    assert default_run.seconds < 60


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


def test_what_it_reports_is_what_it_delivers(default_run):
    options = _parsed(default_run.config["command"])
    dataset = data.load("digits")
    net = settings.build_net(options.net, dataset.num_classes)
    template = jax.eval_shape(lambda: net.init(jax.random.key(0), dataset.input_shape))
    template = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, jnp.float32), template)
    loaded = checkpoint.load_params(default_run.folder / "best.npz", *template)
    for split, name in ((dataset.val, "val"), (dataset.test, "test")):
        measured = train.evaluate(net, loaded[:2], split, loaded.preprocessing)
        assert measured["accuracy"] == default_run.result[f"{name}_accuracy"]
        assert measured["loss"] == default_run.result[f"{name}_loss"]


def test_best_parameters_have_readable_names(default_run):
    with np.load(default_run.folder / "best.npz") as arrays:
        names = set(arrays)
    assert {"affine1.w", "batch_norm1.gamma", "state.batch_norm1.mean"} <= names
    assert {"preprocessing.mean", "preprocessing.scale"} <= names


def test_the_curves_are_drawn_from_the_files(default_run):
    figure = plots.curves(default_run.folder / "history.jsonl")
    raw = figure.axes[0].lines[0].get_ydata()
    np.testing.assert_array_equal(raw, default_run.losses.astype(np.float64))


def test_the_configuration_is_complete_and_goes_round(default_run):
    config = default_run.config
    options = _parsed(config["command"])
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


def test_its_command_repeats_a_run(here):
    assert cli.main([*QUICK, "--dropout", "0.1", "--seed", "7", "--out", "first"]) == 0
    config = json.loads((here / "first/config.json").read_text())
    assert cli.main([*shlex.split(config["command"])[1:], "--out", "second", "--quiet"]) == 0
    (old, old_losses), (new, new_losses) = (plots.load_run(here / n) for n in ("first", "second"))
    np.testing.assert_allclose(new_losses, old_losses, rtol=1e-5)  # threads may sum otherwise
    assert new["val_accuracy"] == old["val_accuracy"]


def _parsed(command):
    """The options that a command line makes, as they are resolved."""
    parsed = cli._parsed(shlex.split(command)[1:], "funcnet train")
    return settings.resolved(
        settings.Options(parsed.data, parsed.net, parsed.optimizer, parsed.training)
    )


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
    assert "validation 12.50 %" in shown
    assert report.images_per_second == pytest.approx(1234.0)


def test_quiet_says_nothing(here, capsys):
    assert cli.main([*QUICK, "--out", "run", "--quiet"]) == 0
    assert capsys.readouterr() == ("", "")
    assert {path.name for path in (here / "run").iterdir()} == FILES


def test_no_epoch_evaluates_only(here, capsys):
    assert cli.main(["train", "--epochs", "0", "--out", "run"]) == 0
    history, losses = plots.load_run("run")
    assert history["epoch"] == [0]
    assert history[0]["loss"] is None
    assert losses.shape == (0,)
    assert "best epoch           0 of 0" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words",
    [
        ["--sampling", "full", "--optimizer", "sgd"],
        ["--sampling", "replacement", "--loss", "hinge", "--reg", "1e-3"],
        ["--data", "synthetic", "--net", "softmax", "--augment", "crop-flip-cutout"],
        ["--net", "two_layer_convnet", "--channels", "4", "--preprocessing", "scaled_mean_image"],
    ],
    ids=lambda words: words[1],
)
def test_options_reach_the_run(here, words):
    assert cli.main(["train", *words, "--epochs", "1", "--out", "run", "--quiet"]) == 0
    history, losses = plots.load_run("run")
    assert len(losses) == {"full": 1, "synthetic": 20}.get(words[1], 25)
    assert history[-1]["val_accuracy"] > 0.1


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


def test_ctrl_c_ends_it_with_what_it_has(here):
    words = ["train", "--net", "softmax", "--epochs", "100000", "--out", "a run"]
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
                if line.startswith("epoch") and "step 50 " in line:
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
    assert len(losses) == result["steps"] >= history[-1]["step"] >= 50
    assert result["val_accuracy"] == max(history["val_accuracy"])


def test_ctrl_c_before_the_first_row_leaves_nothing(here, capsys, monkeypatch):
    def interrupted(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(train, "fit", interrupted)
    assert cli.main([*QUICK, "--out", "run"]) == 130
    assert capsys.readouterr().err == "funcnet train: interrupted\n"
    assert list(here.iterdir()) == []


def test_a_closed_pipe_ends_it_with_what_it_has(here):
    """As a process, by a name of the command that needs no script; test_streams.py has more."""
    words = [sys.executable, "-m", "funcnet", "train", "--net", "softmax", "--out", "run"]
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
    options = _parsed("funcnet train")
    with contextlib.ExitStack() as stack:
        names = [_train_folder.claimed(None, options, stack).name for _ in range(3)]
    stem = "digits-fully_connected-now"
    assert names == [stem, f"{stem}-2", f"{stem}-3"]
    assert list((here / "runs").iterdir()) == []  # nothing was written into them


def test_a_mistake_of_ours_keeps_its_traceback(here, monkeypatch):
    def broken(*args, on_epoch, **kwargs):
        on_epoch(
            {
                "epoch": 0,
                "step": 0,
                "loss": 2.3,
                "train_accuracy": 0.1,
                "val_accuracy": 0.1,
                "images_per_second": None,
                "seconds": 0.1,
            }
        )
        raise ValueError("a bug")

    monkeypatch.setattr(train, "fit", broken)
    with pytest.raises(ValueError, match="a bug"):
        cli.main([*QUICK, "--out", "run"])
    assert (here / "run/history.jsonl").exists()


# --- What it refuses

WRONG = {
    "no command": ([], r"expected one of \{train, (sweep, )?check, bench, info\}"),
    "unknown command": (["trian"], "trian"),
    "unknown option": (["train", "--epohcs", "3"], "options: --epohcs, 3; perhaps --epochs?"),
    "stray word": (["train", "digits"], "digits"),
    "no value": (["train", "--epochs"], "--epochs"),
    "no integer": (["train", "--epochs", "three"], "--epochs: expected INT, not 'three'"),
    "half an epoch": (["train", "--epochs", "1.5"], "--epochs: expected INT, not '1.5'"),
    "negative epochs": (["train", "--epochs", "-1"], "--epochs is -1, expected.*at least 0"),
    "no batch": (["train", "--batch-size", "0"], "--batch-size is 0, expected.*at least 1"),
    "large batch": (["train", "--batch-size", "1298"], "--batch-size is 1298.*at most 1297"),
    "batch of one": (
        ["train", "--batch-size", "1"],
        "expected at least 2: one value",
    ),
    "unknown data": (["train", "--data", "cifar100"], "cifar100.*cifar10.*svhn"),
    "missing data": (["train", "--data", "cifar10"], r"cifar10: found no.*toronto\.edu"),
    "damaged data": (["train", "--data", "mnist"], "train-images-idx3-ubyte"),
    "rate is no number": (["train", "--learning-rate", "nan"], "--learning-rate is nan"),
    "negative rate": (["train", "--learning-rate", "-0.1"], "--learning-rate is -0.1"),
    "no decay": (["train", "--lr-decay", "0"], "--lr-decay is 0.0, expected a number above 0"),
    "momentum of 1.5": (["train", "--optimizer", "sgd", "--momentum", "1.5"], "momentum is 1.5"),
    "adam's momentum": (["train", "--momentum", ".9"], "--momentum.*--optimizer adam.*--b1"),
    "unknown optimizer": (["train", "--optimizer", "adamx"], "adamx.*adamw"),
    "negative penalty": (["train", "--reg", "-1"], "--reg is -1.0, expected.*at least 0"),
    "all dropped": (["train", "--dropout", "1"], "--dropout is 1.0.*below 1"),
    "resnet's hidden": (["train", "--net", "resnet", "--hidden", "3"], "--hidden.*--channels"),
    "two for one": (["train", "--net", "small", "--hidden", "3", "4"], "--hidden is 3 4.*one"),
    "empty layer": (["train", "--hidden", "0"], r"hidden\[0\] is 0"),
    "net too deep": (
        ["train", "--net", "three_layer_convnet", "--channels", "4", "4", "4", "4"],
        "max_pool: a window of 2 does not fit into height 1",
    ),
    "odd scale": (
        ["train", "--weight-scale", "big"],
        r"--weight-scale: expected FLOAT\|{he}, not 'big'",
    ),
    "group norm": (["train", "--norm", "group"], "'group'.*'none', 'batch', 'layer'"),
    "smooth hinge": (["train", "--loss", "hinge", "--label-smoothing", ".1"], "--label-smoothing"),
    "negative seed": (["train", "--seed", "-1"], "--seed is -1, expected a number from 0"),
    "large seed": (["train", "--seed", str(2**32)], "--seed is 4294967296, expected.*2\\^32"),
    "out is a file": (["train", "--out", "data/file"], "data/file is a file"),
    "out below a file": (["train", "--out", "data/file/run"], "cannot write into data/file/run"),
    "out is not empty": (["train", "--out", "data"], "--out: data is not empty"),
    "info of training": (["info", "--epochs", "3"], "unrecognized options: --epochs 3. See"),
}


@pytest.mark.parametrize(("words", "said"), WRONG.values(), ids=WRONG)
def test_wrong_lines_are_refused_in_one_line(here, capsys, words, said):
    (here / "data/mnist").mkdir(parents=True)
    (here / "data/file").write_bytes(b"")
    for name in data.SETS["mnist"].files:
        (here / "data/mnist" / name.removesuffix(".gz")).write_bytes(
            b"\x00\x00\x08\x03 and then nothing"
        )
    before = sorted(here.rglob("*"))
    assert cli.main(words) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    (line,) = captured.err.splitlines()
    command = f" {words[0]}" if words[:1] in (["train"], ["info"]) else ""
    assert line.startswith(f"funcnet{command}: error: ")
    assert re.search(said, line), line
    assert sorted(here.rglob("*")) == before


def test_tracebacks_are_shown_when_asked_for(here, capsys, monkeypatch):
    words = ["train", "--data", "svhn"]
    assert cli.main([*words, "--traceback"]) == 2
    assert "DataNotFoundError" in capsys.readouterr().err
    monkeypatch.setenv("FUNCNET_TRACEBACK", "1")
    assert cli.main(words) == 2
    assert "DataNotFoundError" in capsys.readouterr().err
    for word in ("0", "false"):
        monkeypatch.setenv("FUNCNET_TRACEBACK", word)
        assert cli.main(words) == 2
        assert "Traceback" not in capsys.readouterr().err


@pytest.mark.parametrize("variable", ["FUNCNET_TRACEBACK", "FUNCNET_NATIVE", "FUNCNET_DOWNLOAD"])
def test_switches_of_the_environment_that_cannot_be_read(here, capsys, monkeypatch, variable):
    monkeypatch.setenv(variable, "maybe")
    assert cli.main(["train", "--data", "svhn"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{variable} is 'maybe', expected one of 1, true" in line


@pytest.mark.parametrize("missing", ["tyro", "rich"])
def test_missing_extras_are_named(here, capsys, monkeypatch, missing):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == missing else found(name)
    )
    assert cli.main(["train"]) == 2
    assert f'{missing} is not installed: pip install "funcnet[run]"' in capsys.readouterr().err
    assert cli.main(["--version"]) == 0


def test_annotations_are_told_to_type_checkers():
    assert (pathlib.Path(funcnet.__file__).parent / "py.typed").is_file()


def test_importing_the_command_imports_no_extra():
    program = (
        "import sys, funcnet.cli; "
        "print([m for m in ('tyro', 'rich', 'matplotlib', 'sklearn', 'scipy') if m in sys.modules])"
    )
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert ended.stdout == "[]\n", ended.stderr


# --- Options


@pytest.mark.parametrize("name", nets.NETWORKS)
def test_every_net_is_built_by_default(name):
    options = _parsed(f"funcnet train --net {name}")
    net = settings.build_net(options.net, classes=10)
    with contextlib.redirect_stdout(io.StringIO()):
        assert nets.summary(net, (8, 8, 1)).rows[-1].output_shape == (10,)


@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_is_built_by_default(name):
    options = _parsed(f"funcnet train --optimizer {name}").optimizer
    rate = 1e-3 if name == "adam" else optimizers.OPTIMIZERS[name].learning_rate
    assert (options.learning_rate, options.lr_decay) == (rate, 0.9)
    optimizer = settings.build_optimizer(options, steps_per_epoch=1)
    params = {"w": jnp.ones((3, 2), jnp.float32), "b": jnp.ones(2, jnp.float32)}
    state, first = optimizer.init(params), params
    for _ in range(2):
        updates, state = optimizer.update(params, state, params)
        params = optax.apply_updates(params, updates)
    assert all(np.all(params[k] < first[k]) for k in params)


def test_options_reach_the_optimizer():
    words = "--optimizer momentum --momentum 0.5 --velocity scaled --learning-rate 1 --lr-decay 0.5"
    optimizer = settings.build_optimizer(_parsed(f"funcnet train {words}").optimizer, 2)
    grads, state = jnp.ones((), jnp.float32), optimizer.init(jnp.zeros((), jnp.float32))
    updates = []
    for _ in range(3):
        update, state = optimizer.update(grads, state)
        updates.append(float(update))
    # v = 0.5 v - lr g, with lr 1, 1 and 0.5.
    assert updates == [-1.0, -1.5, -1.25]


def test_options_reach_the_net():
    words = "--hidden 7 5 --norm layer --activation tanh --dropout 0.25 --weight-scale 0.5"
    net = settings.build_net(_parsed(f"funcnet train {words}").net, classes=3)
    assert [child.kind for child in net.children[:4]] == ["affine", "layer_norm", "tanh", "dropout"]
    params, _ = net.init(jax.random.key(0), (4000,))
    assert params["affine1"].w.shape == (4000, 7)
    assert float(params["affine1"].w.std()) == pytest.approx(0.5, rel=0.02)


def test_course_000_needs_no_more_than_its_line():
    """Row 0-19's batch size, epochs and rate are the defaults of its data set."""
    line = (
        "funcnet train --data cifar10 --net fully_connected --hidden 500 500 500 --norm batch "
        "--optimizer adam --lr-decay 0.9 --weight-scale 0.01 --preprocessing mean_image"
    )
    options = _parsed(line)
    assert options.training.epochs == 10
    assert options.training.batch_size == 100
    assert options.optimizer.learning_rate == 1e-3
    assert options.training.sampling == "permutation"
    assert f"\n  {line.partition(' --norm')[0]}" in _train_command.Train.EPILOG


@pytest.mark.parametrize("name", settings.AUGMENTATIONS)
def test_augmentations(name):
    images = np.arange(4 * 8 * 8, dtype=np.uint8).reshape(4, 8, 8, 1)
    augment = settings.build_augmentation(name, images)
    if name == "none":
        assert augment is None
        return
    first, again, other = (augment(jax.random.key(k), jnp.asarray(images)) for k in (3, 3, 4))
    assert (first.shape, first.dtype) == (images.shape, images.dtype)
    assert (first == again).all()
    assert not (first == other).all()


def test_unverified_files_are_read_when_asked(here, capsys):
    folder = here / "data/mnist"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for name, rows in (("train", 5100), ("t10k", 60)):
        images = rng.integers(0, 256, (rows, 28, 28), np.uint8)
        header = np.array([0x803, rows, 28, 28], ">i4").tobytes()
        (folder / f"{name}-images-idx3-ubyte").write_bytes(header + images.tobytes())
        labels = rng.integers(0, 10, rows, np.uint8)
        header = np.array([0x801, rows], ">i4").tobytes()
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(header + labels.tobytes())
    words = ["train", "--data", "mnist", "--net", "softmax", "--epochs", "1", "--out", "run"]
    assert cli.main(words) == 2
    assert "--allow-unverified" in capsys.readouterr().err
    assert cli.main([*words, "--allow-unverified", "--quiet"]) == 0


# --- The rest


def test_help_explains_every_option(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    flags = [
        settings.flag(kind if field.name == "name" else field.name)
        for kind in ("data", "net", "optimizer", "training", "output")
        for field in dataclasses.fields(getattr(_train_command.Train(), kind))
    ]
    assert len(flags) > 30
    for flag in flags:
        # Below the flag and its values: a sentence, and what holds by default.
        entry = re.search(rf"\n[│ ]+{flag}[ \n].*?\(default:[^)]+\)", text, re.DOTALL)
        assert entry, flag
        assert len(entry[0].split()) > 5, entry[0]
        assert "None" not in entry[0], entry[0]
    assert "Examples:" in text.partition("--traceback")[2]


def test_help_names_the_commands(capsys):
    assert cli.main(["--help"]) == 0
    text = capsys.readouterr().out
    for name in cli.COMMANDS:
        assert name in text


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"funcnet {funcnet.__version__}\n"


def test_info(here, capsys):
    (here / "data/svhn").mkdir(parents=True)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (here / "data/svhn" / name).touch()
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    assert f"funcnet    {funcnet.__version__}" in text
    assert f"jax        {jax.__version__}" in text
    assert "float64   on" in text
    assert jax.devices()[0].platform in text
    joined = text.replace("\n", "").replace(" ", "")
    assert f"foundin{here / 'data/svhn'}" in joined
    assert f"notfoundin{here / 'data/cifar10'}" in joined
    assert "cifar-10-python.tar.gz" in joined


def test_info_says_how_to_get_what_is_not_installed(capsys, monkeypatch):
    from importlib import metadata

    requires = ['here ; extra == "run"', 'there>=2 ; extra == "run"', 'there ; extra == "bench"']
    monkeypatch.setattr(metadata, "requires", lambda _: ["jax", *requires])
    version = metadata.version

    def known(name):
        if name == "there":
            raise metadata.PackageNotFoundError(name)
        return "1.0" if name == "here" else version(name)

    monkeypatch.setattr(metadata, "version", known)
    assert cli.main(["info"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert '[run] here 1.0; not installed: there (pip install "funcnet[run]")' in text
    assert "[bench]" not in text


@pytest.mark.slow
@pytest.mark.parametrize("name", optimizers.OPTIMIZERS)
def test_every_optimizer_learns_digits_by_default(here, name):
    words = ["train", "--optimizer", name, "--epochs", "10", "--out", "run", "--quiet"]
    assert cli.main(words) == 0
    assert json.loads((here / "run/result.json").read_text())["val_accuracy"] >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 5))
def test_other_seeds_learn_digits_as_well(here, seed):
    assert cli.main(["train", "--seed", str(seed), "--out", "run", "--quiet"]) == 0
    assert json.loads((here / "run/result.json").read_text())["test_accuracy"] >= 0.97
