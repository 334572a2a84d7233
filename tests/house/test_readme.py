"""What the README shows, run."""

from __future__ import annotations

import pathlib
import re

import jax
import pytest

README = (pathlib.Path(__file__).parents[2] / "README.md").read_text()
SCRIPTS = [s for s in re.findall(r"```python\n(.*?)```", README, re.DOTALL) if "my_norm" not in s]


@pytest.mark.parametrize("script", SCRIPTS, ids=["layers", "fit"])
def test_scripts_run(script):
    names = {}
    with jax.enable_x64(False), jax.numpy_dtype_promotion("standard"):
        exec(script, names)
    if "value" in names:
        assert names["value"] < 0.1
    else:
        assert names["run"].history[-1]["val_accuracy"] > 0.9


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
