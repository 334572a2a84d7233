"""`funcnet pack`: any data set becomes one that is read row by row, and trains to the same bits."""

import contextlib
import io
import json
from pathlib import Path

import numpy as np
import pytest

from funcnet import cli, data
from funcnet.train import _feed

OPTIONS = [
    *("--epochs", "2", "--batch-size", "20", "--hidden", "8", "--seed", "1"),
    *("--checkpoint-every", "1steps"),
]


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 6)).astype(np.float32)
    np.savez("mine.npz", x=x, y=np.where(x[:, 0] > 0, "yes", "no"))
    with contextlib.redirect_stdout(io.StringIO()) as said:
        assert cli.main(["pack", "mine.npz", "packed/mine"]) == 0
    assert "packed/mine: 160 train, 20 val, 20 test, " in said.getvalue()
    return tmp_path


def losses(folder):
    return np.load(Path(folder) / "losses.npy")


@pytest.mark.integration
def test_a_packed_data_set_trains_to_the_same_bits_held_or_streamed(here, monkeypatch):
    assert cli.main(["train", "--data", "mine.npz", "--out", "one", *OPTIONS]) == 0
    assert cli.main(["train", "--data", "packed/mine", "--out", "two", *OPTIONS]) == 0
    monkeypatch.setattr("funcnet.data._packed.RESIDENT_BYTES", 100)
    monkeypatch.setattr(_feed, "WINDOW_BYTES", 1)
    assert cli.main(["train", "--data", "packed/mine", "--out", "three", *OPTIONS]) == 0
    for folder in ("two", "three"):
        np.testing.assert_array_equal(losses(folder), losses("one"))
        assert (Path(folder) / "best.npz").read_bytes() == Path("one/best.npz").read_bytes()
    sums = [json.loads(Path(f, "config.json").read_text())["data_sha256"] for f in ("one", "two")]
    assert sums[0] == sums[1]
    assert cli.main(["evaluate", "three", "--json", "own.json"]) == 0
    assert cli.main(["evaluate", "one", "--data", "packed/mine", "--json", "other.json"]) == 0
    own, other = (json.loads(Path(f"{name}.json").read_text()) for name in ("own", "other"))
    assert own == other | {"data": own["data"]}
    assert own["split"] == "test"
    assert cli.main(["report", "three"]) == 0
    assert cli.main(["train", "--resume", "--out", "three", "--epochs", "3"]) == 0


@pytest.mark.integration
def test_a_source_that_fails_ends_the_command_and_what_was_done_is_saved(here, capsys, monkeypatch):
    monkeypatch.setattr("funcnet.data._packed.RESIDENT_BYTES", 100)
    monkeypatch.setattr(_feed, "WINDOW_BYTES", 1)
    train = ["train", "--data", "packed/mine", *OPTIONS[:-2]]
    assert cli.main([*train, "--out", "whole"]) == 0
    read, asked = data.Streamed._read, []

    def failing(self, rows, numbers):
        if len(numbers) == 20 and asked.append(1) is None and len(asked) > 11:
            raise data.SourceError("the disk is gone")
        return read(self, rows, numbers)

    with monkeypatch.context() as patched:
        patched.setattr(data.Streamed, "_read", failing)
        capsys.readouterr()
        assert cli.main([*train, "--out", "run"]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert "the disk is gone. What it has is in run" in line
    (saved,) = (Path("run") / "checkpoints").iterdir()
    assert 0 < int(saved.name[5:]) < 16
    assert cli.main(["train", "--resume", "--out", "run"]) == 0
    np.testing.assert_array_equal(losses("run"), losses("whole"))


def test_what_cannot_be_packed_is_refused(here, capsys):
    assert cli.main(["pack", "mine.npz", "packed/mine"]) == 2
    assert "packed/mine is there already" in capsys.readouterr().err
    assert cli.main(["train", "--data", "packed/mine", "--val", "5"]) == 2
    assert "--val is no option of what packed/mine is" in capsys.readouterr().err
