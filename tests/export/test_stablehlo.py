"""StableHLO: what comes back gives what the net gives, and needs nothing of ours."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from funcnet import export, nets
from tests.support.trained_nets import made

pytest.importorskip("flatbuffers", reason="flatbuffers is not installed")

SHAPE = (8, 8, 3)
NETS = {
    "batch_norm": nets.fully_connected_net([6], 3, norm="batch", dropout=0.2),
    "convnet": nets.three_layer_convnet(3, (2, 3, 4)),
    "resnet": nets.resnet(3, (2, 4)),
    "own": nets.Net(
        lambda key, shape: ((), ()),
        lambda params, state, x, *, train=False, key=None: (x.mean((1, 2)), state),
    ),
}


@pytest.mark.integration
@pytest.mark.parametrize("name", NETS)
def test_what_comes_back_computes_the_same_for_any_batch(name, tmp_path, rng):
    found, path = made(NETS[name], SHAPE), tmp_path / "net.stablehlo"
    export.to_stablehlo(found, path, dtype="uint8")
    again = jax.export.deserialize(bytearray(path.read_bytes()))
    assert again.platforms == ("cpu", "cuda", "tpu")
    for rows in (1, 5):
        images = rng.integers(0, 256, (rows, *SHAPE), np.uint8)
        want = found.outputs(images)
        atol = 2**-18 * np.abs(want).max()  # the same sums, perhaps in another order
        np.testing.assert_allclose(again.call(images), want, atol=atol, rtol=0)


@pytest.mark.integration
def test_a_process_without_funcnet_runs_it(tmp_path, rng):
    found = made(NETS["batch_norm"], SHAPE)
    export.to_stablehlo(found, tmp_path / "net.stablehlo")
    images = rng.uniform(0, 255, (2, *SHAPE)).astype(np.float32)
    np.save(tmp_path / "images.npy", images)
    program = (
        "import sys, pathlib, numpy, jax\n"
        "from jax import export\n"
        "net = export.deserialize(bytearray(pathlib.Path('net.stablehlo').read_bytes()))\n"
        "numpy.save('outputs.npy', net.call(numpy.load('images.npy')))\n"
        "assert 'funcnet' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=tmp_path)
    want = found.outputs(images)
    atol = 2**-18 * np.abs(want).max()
    np.testing.assert_allclose(np.load(tmp_path / "outputs.npy"), want, atol=atol, rtol=0)


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r'pip install "funcnet\[export\]"'):
        export.to_stablehlo(made(nets.affine(3), SHAPE), tmp_path / "net.stablehlo")
    assert not list(tmp_path.iterdir())
