"""What tests of `funcnet train` share."""

import shlex

import pytest
from matplotlib import figure

from funcnet.cli import _parser
from funcnet.cli import _train_options as settings

FILES = {
    *("config.json", "history.jsonl", "best.npz", "model.json", "losses.npy", "curves.png"),
    *("result.json", "checkpoints"),
}
# The smallest run that is one: a second, most of it compiling.
QUICK = ["train", "--hidden", "20", "--norm", "none", "--epochs", "2"]
# What a run in a process of its own trains.
PROCESS = ["--data", "synthetic", "--net", "softmax"]


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch):
    """Where a module has this, figures are made and saved without their content.

    Drawing one takes three times as long as the smallest run; tests of plots do it.
    """
    blank, save = figure.Figure(figsize=(1, 1)), figure.Figure.savefig
    monkeypatch.setattr(figure.Figure, "draw_without_rendering", lambda self: None)
    monkeypatch.setattr(
        figure.Figure, "savefig", lambda self, file, **options: save(blank, file, **options)
    )


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, without data sets and without a network to fetch them from."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNCNET_DOWNLOAD", "0")
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path / "data"))
    return tmp_path


def parsed(command):
    """The options that a command line makes, as they are resolved."""
    found = _parser.parsed(shlex.split(command)[1:])
    return settings.resolved(
        settings.Options(found.data, found.net, found.optimizer, found.training)
    )
