"""`funcnet train` where a run ends early, is compared by another column, or tells numbers."""

import json
import re
from pathlib import Path

import numpy as np
import pytest

from funcnet import cli, data, plots
from funcnet.cli import _jobs
from tests.support import command_lines
from tests.support.command_lines import PROCESS

here, blank_figures = command_lines.here, command_lines.blank_figures
PATIENT = ["train", *PROCESS, "--learning-rate", "0.3", "--patience", "2", "--quiet"]


def result_of(folder):
    return json.loads(Path(folder, "result.json").read_text())


@pytest.mark.integration
def test_patience_ends_a_run_that_goes_on_by_resume(here, capsys):
    words = ["train", *PROCESS, "--learning-rate", "0.3", "--patience", "2", "--out", "run"]
    assert cli.main([*words, "--epochs", "50"]) == 0
    said = capsys.readouterr().out
    history = plots.load_run("run")[0]
    best = int(np.argmax(history["val_accuracy"]))
    last = history[-1]
    assert last["epoch"] == best + 2 < 50
    line = f"Early stopping after step {last['step']}: 2 epochs without a better val_accuracy"
    assert f"{line}. It goes on by: funcnet train --resume --out run" in said
    assert "2 epochs, by val_accuracy" in said
    result = result_of("run")
    assert (result["stopped"], result["best_epoch"]) == ("early stopping", best)
    command = json.loads(Path("run/config.json").read_text())["command"]
    assert "--patience 2" in command

    assert cli.main(["train", "--resume", "--out", "run", "--quiet"]) == 0
    more = plots.load_run("run")[0]
    assert more[: len(history)] == history
    assert more[-1]["epoch"] >= last["epoch"] + 2


@pytest.mark.integration
def test_a_run_that_did_all_its_epochs_was_not_stopped_early(here, capsys):
    words = ["train", *PROCESS, "--learning-rate", "0.3", "--patience", "2", "--out", "run"]
    assert cli.main([*words, "--epochs", "50", "--quiet"]) == 0
    ended = plots.load_run("run")[0][-1]["epoch"]
    assert cli.main([*words[:-1], "other", "--epochs", str(ended)]) == 0
    assert result_of("other")["stopped"] is None
    assert cli.main(["train", "--resume", "--out", "other"]) == 0
    assert "Early stopping" not in capsys.readouterr().out


@pytest.mark.integration
def test_best_names_the_column_that_chooses(here):
    assert cli.main([*PATIENT, "--best", "val_loss", "--epochs", "6", "--out", "run"]) == 0
    history, result = plots.load_run("run")[0], result_of("run")
    best = int(np.argmin(history["val_loss"]))
    assert result["best_epoch"] == best
    assert result["val_loss"] == history[best]["val_loss"]
    assert result["val_accuracy"] == history[best]["val_accuracy"]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--best", "val_f2"], "best is 'val_f2', expected one of val_accuracy, val_loss"),
        (["--best", "loss"], "best is 'loss', expected a column of the history"),
        (["--patience", "0"], "--patience is 0, expected a number of at least 1"),
    ],
)
def test_wrong_columns_and_patience_are_refused(here, capsys, words, said):
    assert cli.main(["train", *PROCESS, "--out", "run", *words]) == 2
    assert said in capsys.readouterr().err
    assert not Path("run/config.json").exists()


def of_numbers(val_rows=30):
    rng = np.random.default_rng(0)
    images = rng.normal(size=(120, 5)).astype(np.float32)
    labels = images @ rng.normal(size=5) + 2
    train, val, test = (
        data.Split(images[a:b], labels[a:b]) for a, b in ((0, 60), (60, 60 + val_rows), (90, 120))
    )
    return data.Dataset(train, val, test, ("height",), "heights", task="regression")


@pytest.mark.integration
def test_numbers_are_told_with_their_own_loss_and_metric(here, capsys, monkeypatch):
    monkeypatch.setattr(_jobs, "loaded", lambda *_: of_numbers())
    words = ["train", *PROCESS, "--learning-rate", "0.1", "--batch-size", "10"]
    assert cli.main([*words, "--out", "run"]) == 0
    said = capsys.readouterr().out
    history, result = plots.load_run("run")[0], result_of("run")
    assert result["val_r2"] == max(history["val_r2"]) > 0.9
    assert list(result)[3:7] == ["val_r2", "val_loss", "test_r2", "test_loss"]
    for line in (
        "heights, 1 targets",
        "mean_squared_error",
        f"val r2 {history[-1]['val_r2']:.4f}",
        rf"test r2 +{result['test_r2']:.4f}",
    ):
        assert re.search(line, said), line
    assert "%" not in said
    assert cli.main([*words, "--loss", "hinge", "--out", "other"]) == 2
    assert "--loss is hinge, but synthetic is a task of regression" in capsys.readouterr().err


@pytest.mark.integration
def test_several_labels_have_the_share_of_labels_and_that_of_whole_examples(
    here, capsys, monkeypatch
):
    numbers = of_numbers()
    splits = [
        split._replace(labels=np.stack([split.labels > 2, split.images[:, 0] > 0], 1).astype(int))
        for split in numbers[:3]
    ]
    labels = data.Dataset(*splits, ("tall", "wide"), "bodies", task="multilabel")
    monkeypatch.setattr(_jobs, "loaded", lambda *_: labels)
    assert cli.main(["train", *PROCESS, "--batch-size", "10", "--epochs", "1", "--out", "run"]) == 0
    said, result = capsys.readouterr().out, result_of("run")
    assert 0 <= result["test_exact_match"] < result["test_accuracy"] < 1
    for words, name in (
        ("accuracy of labels", "accuracy"),
        ("exact match of all labels", "exact_match"),
    ):
        assert re.search(rf"test {words} +{100 * result[f'test_{name}']:.2f} %", said)


def test_patience_needs_rows_to_go_by(here, capsys, monkeypatch):
    monkeypatch.setattr(_jobs, "loaded", lambda *_: of_numbers(val_rows=0))
    assert cli.main(["train", *PROCESS, "--batch-size", "10", "--patience", "2"]) == 2
    assert "--patience needs validation rows" in capsys.readouterr().err


@pytest.mark.integration
def test_log_writes_the_history_for_other_programs(here):
    words = ["train", *PROCESS, "--epochs", "2", "--quiet", "--out", "run"]
    assert cli.main([*words, "--log", "csv"]) == 0
    assert cli.main(["train", "--resume", "--epochs", "3", "--log", "csv", "--out", "run"]) == 0
    lines = Path("run/history.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,step,loss,nonfinite,train_accuracy,val_accuracy,val_loss")
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2", "3"]
