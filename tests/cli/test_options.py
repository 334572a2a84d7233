"""Options and lines: what reaches a run, what is refused, and what the help says."""

import contextlib
import dataclasses
import importlib.util
import io
import json
import pathlib
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import funcnet
from funcnet import cli, data, nets, optimizers
from funcnet.cli import _train_command
from funcnet.cli import _train_options as settings
from tests.support import command_lines
from tests.support.command_lines import parsed
from tests.support.lanes import by_default

here, blank_figures = command_lines.here, command_lines.blank_figures
WRONG = {
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
    "info of training": (["info", "--epochs", "3"], "unrecognized options: --epochs, 3. See"),
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


# --- Options


@pytest.mark.integration
@pytest.mark.parametrize("name", nets.NETWORKS)
def test_every_net_is_built_by_default(name):
    options = parsed(f"funcnet train --net {name}")
    net = settings.build_net(options.net, classes=10)
    with contextlib.redirect_stdout(io.StringIO()):
        assert nets.summary(net, (8, 8, 1)).rows[-1].output_shape == (10,)


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(optimizers.OPTIMIZERS, {"sgd", "adamw", "muon"}))
def test_every_optimizer_is_built_by_default(name):
    options = parsed(f"funcnet train --optimizer {name}").optimizer
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
    optimizer = settings.build_optimizer(parsed(f"funcnet train {words}").optimizer, 2)
    grads, state = jnp.ones((), jnp.float32), optimizer.init(jnp.zeros((), jnp.float32))
    updates = []
    for _ in range(3):
        update, state = optimizer.update(grads, state)
        updates.append(float(update))
    # v = 0.5 v - lr g, with lr 1, 1 and 0.5.
    assert updates == [-1.0, -1.5, -1.25]


def test_options_reach_the_net():
    words = "--hidden 7 5 --norm layer --activation tanh --dropout 0.25 --weight-scale 0.5"
    net = settings.build_net(parsed(f"funcnet train {words}").net, classes=3)
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
    options = parsed(line)
    assert options.training.epochs == 10
    assert options.training.batch_size == 100
    assert options.optimizer.learning_rate == 1e-3
    assert options.training.sampling == "permutation"
    assert f"\n  {line.partition(' --norm')[0]}" in _train_command.Train.EPILOG


@pytest.mark.integration
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


@pytest.mark.integration
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
        for kind in ("data", "net", "optimizer", "training", "stopping", "output")
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


def test_the_help_of_train_begins_with_what_every_run_needs(capsys):
    assert cli.main(["train", "--help"]) == 0
    text = capsys.readouterr().out
    flags = re.findall(r"^[│ |]*(--[\w-]+)", text, re.MULTILINE)
    assert flags.index("--data") < flags.index("--epochs") < flags.index("--out")
    assert flags.index("--out") < flags.index("--channels") < flags.index("--momentum")


def test_info(here, capsys):
    (here / "data/svhn").mkdir(parents=True)
    for name in ("train_32x32.mat", "test_32x32.mat"):
        (here / "data/svhn" / name).touch()
    assert cli.main(["info"]) == 0
    text = capsys.readouterr().out
    for row in (f"funcnet {funcnet.__version__}", f"jax {jax.__version__}", "float64 on"):
        assert row in " ".join(text.split())
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
