"""Folders of runs that nobody trained, for the commands that read them."""

import pytest

from funcnet import checkpoint, data, nets
from tests.support.trained_nets import made


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """A working folder with runs of each task on examples of 8×8 grey pixels."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNCNET_DOWNLOAD", "0")
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.delenv("FUNCNET_TRACEBACK", raising=False)
    for task in ("classification", "regression", "multilabel"):
        trained = made(nets.affine(3), (8, 8, 1), task=task)
        checkpoint.save_trained(tmp_path / task, trained)
    return tmp_path


IMAGES = data.synthetic(sizes=(5, 1, 1), classes=3).train.images
