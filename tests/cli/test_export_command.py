"""`funcnet export`: the file of each format, and that its line of how to load it is true."""

import os
import pathlib

import jax
import numpy as np
import pytest

import funcnet
from funcnet import cli
from tests.support.run_folders import IMAGES, runs  # noqa: F401  (a fixture)

NEEDS = {
    "onnx": ("onnx", "onnxruntime"),
    "stablehlo": ("flatbuffers",),
    "safetensors": ("safetensors",),
}


@pytest.mark.parametrize("to", NEEDS)
def test_a_file_is_written_and_loads_as_it_is_said(runs, capsys, to):  # noqa: F811
    for module in NEEDS[to]:
        pytest.importorskip(module, reason=f"{module} is not installed")
    assert cli.main(["export", "classification", "--to", to, "--examples", "uint8"]) == 0
    written, how = capsys.readouterr().out.splitlines()
    path = f"classification/model.{to}"
    assert written == f"{path}: {to}, {os.path.getsize(path):,} bytes"
    names = {"examples": IMAGES, "jax": jax, "pathlib": pathlib}
    for module in NEEDS[to]:
        names[module] = __import__(module)
    if to == "safetensors":
        import safetensors.numpy

        names["safetensors"] = safetensors
    found, trained = eval(how, names), funcnet.load("classification")
    if to == "safetensors":
        np.testing.assert_array_equal(found["w"], trained.params.w)
    else:
        want = trained.outputs(IMAGES)
        np.testing.assert_allclose(found, want, atol=1e-5 * np.abs(want).max(), rtol=0)


def test_another_file_is_written_where_it_is_named(runs, capsys):  # noqa: F811
    pytest.importorskip("safetensors", reason="safetensors is not installed")
    words = "export regression --to safetensors --out numbers.safetensors"
    assert cli.main(words.split()) == 0
    assert sorted(path.name for path in runs.iterdir() if path.is_file()) == ["numbers.safetensors"]
    assert "numbers.safetensors" in capsys.readouterr().out
