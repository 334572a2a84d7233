"""What a net, an optimizer and a data set need to be found everywhere: a row in their registry."""

from __future__ import annotations

import hashlib
import json
import re

import numpy as np
import optax
import pytest

from funcnet import cli, data, nets, optimizers


def toy_net(classes, channels=(5,), weight_scale="he", slope=0.25):
    """Its `slope` has no option on a command line."""
    hidden = [nets.affine(channels[0], weight_scale), nets.leaky_relu(slope)]
    return nets.serial(*hidden, nets.affine(classes, weight_scale))


def toy_rule(learning_rate, momentum=0.5):
    return optax.chain(optax.trace(momentum), optax.scale_by_learning_rate(learning_rate))


ROWS = 80


def read_toy(paths, checksums):
    """Two classes, dark and bright, in one file; the last quarter is for the test."""
    (path,) = paths
    content = path.read_bytes()
    wanted = checksums.get(path.name)
    assert wanted in (None, hashlib.sha256(content).hexdigest())
    images = np.frombuffer(content, np.uint8).reshape(ROWS, 3, 3, 1)
    labels = (images.mean((1, 2, 3)) > 127).astype(np.int32)
    cut = ROWS * 3 // 4
    return data.Split(images[:cut], labels[:cut]), data.Split(images[cut:], labels[cut:])


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder with the toy data's file, and the three rows in their registries."""
    rng = np.random.default_rng(0)
    bright = rng.integers(0, 2, (ROWS, 1)) * 128
    content = (bright + rng.integers(0, 128, (ROWS, 9))).astype(np.uint8).tobytes()
    (tmp_path / "data/toy").mkdir(parents=True)
    (tmp_path / "data/toy/toy.bin").write_bytes(content)
    source = data.Source(
        read=read_toy,
        classes=("dark", "bright"),
        val_size=20,
        folders=("toy",),
        forms=((("toy.bin",),),),
        url="https://example.org/",
        files=("toy.bin",),
        checksums={"toy.bin": hashlib.sha256(content).hexdigest()},
    )
    monkeypatch.setitem(data.SETS, "toy_set", source)
    monkeypatch.setitem(nets.NETWORKS, "toy_net", toy_net)
    monkeypatch.setitem(optimizers.OPTIMIZERS, "toy_rule", optimizers.Entry(toy_rule, 0.25))
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


ADDED = ["toy_set", "toy_net", "toy_rule"]


@pytest.mark.parametrize("command", ["train", "sweep"])
def test_help_offers_what_is_added(here, capsys, command):
    assert cli.main([command, "--help"]) == 0
    choices = re.findall(r"\{[\w,]+\}", re.sub(r"[\s│]", "", capsys.readouterr().out))
    for name in ADDED:
        assert any(name in group for group in choices), name


@pytest.mark.integration
def test_a_run_of_what_is_added(here, capsys):
    words = ["--data", "toy_set", "--net", "toy_net", "--optimizer", "toy_rule"]
    run = ["train", *words, "--channels", "7", "--momentum", "0.75", "--batch-size", "10"]
    assert cli.main([*run, "--epochs", "1", "--quiet", "--out", "run"]) == 0
    config = json.loads((here / "run/config.json").read_text())
    assert [config["options"][kind]["name"] for kind in ("data", "net", "optimizer")] == ADDED
    assert config["options"]["optimizer"]["learning_rate"] == 0.25  # its row's
    result = json.loads((here / "run/result.json").read_text())
    assert result["steps"] == 4
    assert np.load(here / "run/best.npz")["affine1.w"].shape == (9, 7)
    assert cli.main(["info"]) == 0
    assert "toy_set" in capsys.readouterr().out


def test_a_made_data_set_needs_no_more_than_a_function(monkeypatch):
    made = data.synthetic(sizes=(4, 2, 2))
    monkeypatch.setitem(data.SETS, "toy_set", data.Source(make=lambda: made))
    assert data.load("toy_set") is made
    assert data.find("toy_set").found


def test_doors_show_what_is_in_registries():
    networks = {function.__name__ for function in nets.NETWORKS.values()}
    assert networks <= set(nets.__all__)
    rules = {name: entry.make for name, entry in optimizers.OPTIMIZERS.items()}
    shown = {name for name in optimizers.__all__ if name.islower()}
    assert rules == {name: getattr(optimizers, name) for name in shown}
