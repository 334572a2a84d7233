"""safetensors: the arrays under their names, and in the header what they belong to."""

import json

import numpy as np
import pytest

from funcnet import checkpoint, export, nets
from tests.support.trained_nets import made

safetensors = pytest.importorskip("safetensors", reason="safetensors is not installed")

NET = nets.fully_connected_net([6], 3, norm="batch")
SHAPE = (8, 8, 1)


def test_a_file_holds_the_arrays_and_what_they_belong_to(tmp_path):
    trained = made(NET, SHAPE)
    path = tmp_path / "net.safetensors"
    export.to_safetensors(trained, path)
    with safetensors.safe_open(path, "numpy") as file:
        model = json.loads(file.metadata()["funcnet.model"])
        np.testing.assert_array_equal(file.get_tensor("affine1.w"), trained.params["affine1"].w)
    assert nets.to_config(nets.from_config(model["net"])) == nets.to_config(NET)
    assert model["classes"] == ["a", "b", "c"]
    loaded = checkpoint.load_params(path, trained.params, trained.state)
    np.testing.assert_array_equal(loaded.preprocessing.mean, trained.preprocessing.mean)


def test_wrong_arguments_are_refused_and_nothing_is_written(tmp_path):
    with pytest.raises(TypeError, match=r"trained is a dict, expected run\.trained"):
        export.to_safetensors({}, tmp_path / "net.safetensors")
    trained = made(NET, SHAPE)
    with pytest.raises(ValueError, match=r"expected one in \.safetensors"):
        export.to_safetensors(trained, tmp_path / "net.npz")
    with pytest.raises(ValueError, match=r"expected \.safetensors to hold metadata"):
        checkpoint.save_params(tmp_path / "net.npz", trained.params, metadata={"a": "b"})
    assert not list(tmp_path.iterdir())
