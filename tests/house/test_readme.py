"""What the README shows, run."""

from __future__ import annotations

import re

import jax
import pytest

from tests.support.processes import ROOT

README = (ROOT / "README.md").read_text()
SCRIPTS = [
    script
    for script in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
    if "my_norm" not in script and "pets" not in script
]


@pytest.mark.integration
@pytest.mark.parametrize("script", SCRIPTS, ids=["layers", "fit"])
def test_scripts_run(script):
    names = {}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        exec(script, names)
    if "value" in names:
        assert names["value"] < 0.1
    else:
        assert names["run"].history[-1]["val_accuracy"] > 0.9


@pytest.mark.integration
def test_a_net_trained_on_a_folder_of_pictures_is_used_as_shown(tmp_path, monkeypatch):
    pictures = pytest.importorskip("PIL.Image", reason="the extra data is not installed")
    from funcnet import cli

    monkeypatch.chdir(tmp_path)
    for index in range(24):
        path = tmp_path / "pets" / ("cat", "dog")[index % 2] / f"{index}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        pictures.new("RGB", (16, 16), (200 * (index % 2), 9 * index, 30)).save(path)
    (tmp_path / "new").mkdir()
    pictures.new("RGB", (20, 20), (200, 40, 30)).save(tmp_path / "new" / "1.jpg")
    train = re.search(r"^funcnet (train --data pets .*?) +#", README, re.MULTILINE)[1]
    assert cli.main([*train.split(), "--epochs", "1", "--quiet"]) == 0
    (script,) = (s for s in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "pets" in s)
    exec(script, {})


def test_every_data_set_is_named():
    from funcnet import data

    for name in data.SETS:
        assert f'"{name}"' in README, name


def test_every_public_name_is_named():
    from funcnet import layers, losses, nets, optimizers

    for network in nets.NETWORKS.values():
        assert f"`{network.__name__}`" in README, network
    for room in (layers, losses, optimizers):
        for name in getattr(room, "__all__", []):
            if name[0].islower() and not name.endswith("_init"):
                assert f"`{name}`" in README, name
