"""`funcnet compare`: the options that differ, and results, the best first."""

import json
import pathlib

import pytest

from funcnet import cli
from tests.support import command_lines

here = command_lines.here


def run(name, accuracy, **options):
    """A run's folder, as far as it is compared."""
    groups = {kind: {} for kind in ("data", "net", "training")}
    groups["optimizer"] = {"name": "adam", "learning_rate": 1e-3} | options
    folder = pathlib.Path(name)
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps({"options": groups, "data_sha256": "1"}))
    (folder / "history.jsonl").write_text(
        "".join(
            f'{{"epoch": {e}, "step": {e}, "loss": 1.0, "val_accuracy": 0.1}}\n' for e in (0, 1)
        )
    )
    if accuracy is not None:
        result = {"val_accuracy": accuracy, "test_accuracy": accuracy - 0.01, "seconds": 2.0}
        (folder / "result.json").write_text(json.dumps(result))
    return folder


def compared(capsys, *words):
    code = cli.main(["compare", *map(str, words)])
    found = capsys.readouterr()
    return code, found.out, found.err


def test_runs_are_ranked_and_told_apart_by_what_differs(here, capsys):
    folders = [run("a/x", 0.5, learning_rate=0.1), run("b/x", 0.75), run("c", None)]
    code, out, err = compared(capsys, *folders)
    assert (code, err) == (0, "")
    head, *rows = (line.split() for line in out.splitlines())
    measured = ["validation", "accuracy", "test", "accuracy"]
    assert head == ["run", "learning", "rate", *measured, "seconds", "parameters"]
    assert rows == [
        ["b/x", "0.001", "75.00", "%", "74.00", "%", "2.0", "-"],
        ["a/x", "0.1", "50.00", "%", "49.00", "%", "2.0", "-"],
        ["c", "0.001", "-", "-", "-", "-"],
    ]


@pytest.mark.parametrize(
    ("metric", "best"), [("r2", "high"), ("top_error", "low"), ("loss", "low")]
)
def test_other_metrics_rank_by_what_is_better(here, capsys, metric, best):
    for name, value in (("low", 0.25), ("high", 2e6)):
        result = {f"val_{metric}": value, "test_loss": None}
        (run(name, None) / "result.json").write_text(json.dumps(result))
    _, out, _ = compared(capsys, "low", "high")
    head, first, _ = out.splitlines()
    assert f"validation {metric.replace('_', ' ').replace('r2', 'R²')}" in head
    assert first.split()[:2] == [best, {"low": "0.2500", "high": "2e+06"}[best]]


def test_the_metric_at_the_best_epoch_ranks_and_not_the_highest_there_was(here, capsys):
    for name, accuracies in (("a", (0.9, 0.5)), ("b", (0.6, 0.7))):
        folder = run(name, accuracies[1])
        rows = [{"epoch": e, "step": e, "val_accuracy": v} for e, v in enumerate(accuracies)]
        (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    _, out, _ = compared(capsys, "a", "b")
    assert [line.split()[0] for line in out.splitlines()] == ["run", "b", "a"]


def test_other_data_are_warned_of(here, capsys):
    first, second = run("a", 0.5), run("b", 0.6)
    config = json.loads((second / "config.json").read_text())
    (second / "config.json").write_text(json.dumps(config | {"data_sha256": "2"}))
    code, _, err = compared(capsys, first, second)
    assert code == 0
    assert "not all measured on the same data" in err


def test_the_curves_are_drawn_over_one_another(here, capsys):
    code, _, err = compared(capsys, run("a", 0.5), run("b", 0.6), "--out", "both.svg")
    assert (code, err) == (0, "")
    assert b"<svg" in (here / "both.svg").read_bytes()


@pytest.mark.parametrize("words", [["a", "nowhere"], ["a", "bad.result"]])
def test_what_cannot_be_compared_is_said_in_a_line(here, capsys, words):
    for name in ("a", "bad.result"):
        run(name, 0.5)
    (here / "bad.result/result.json").write_text("[]")
    code, out, err = compared(capsys, *words)
    assert (code, out) == (2, "")
    assert err.startswith("funcnet compare: error: ")
    assert err.count("\n") == 1
    assert words[-1] in err
