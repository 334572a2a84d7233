"""ONNX against the net itself: every named net, every block, by another library's arithmetic."""

import dataclasses
import json
import sys

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data, export, nets
from tests.support.lanes import by_default
from tests.support.trained_nets import made

onnx = pytest.importorskip("onnx", reason="onnx is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="onnxruntime is not installed")

IMAGE, SEQUENCE, ROW = (9, 8, 4), (9, 4), (6,)
HIDDEN = {"two_layer": 7, "small": 7, "fully_connected": [7]}
NETS = {
    **{
        name: (make(classes=3, **({"hidden": HIDDEN[name]} if name in HIDDEN else {})), IMAGE)
        for name, make in nets.NETWORKS.items()
    },
    "fully_connected, layer norm": (nets.fully_connected_net([6, 5], 3, norm="layer"), IMAGE),
    "fully_connected, batch norm": (
        nets.fully_connected_net([6], 3, norm="batch", dropout=0.2, activation="gelu"),
        ROW,
    ),
    "remat": (nets.remat(nets.serial(nets.affine(4), nets.tanh())), ROW),
    "nothing": (nets.serial(), ROW),
    "norm, pool, norm": (
        nets.serial(nets.layer_norm(), nets.max_pool(), nets.rms_norm(), nets.conv(2)),
        IMAGE,
    ),
    "around a transposition": (
        nets.residual(nets.serial(nets.conv(4), nets.layer_norm()), nets.conv(4, 1)),
        IMAGE,
    ),
    "around what is first": (nets.serial(nets.conv(4), nets.residual(nets.layer_norm())), IMAGE),
}
BLOCKS = {
    "affine": [(nets.affine(3), IMAGE), (nets.affine(3, bias=False), ROW)],
    "conv": [
        (nets.conv(3), IMAGE),
        (nets.conv(3, (2, 3), stride=2, padding="SAME", bias=False), IMAGE),
        (nets.conv(6, 2, padding=((1, 0), (2, 3)), dilation=(1, 2), groups=2), IMAGE),
        (nets.conv(3, 3, stride=3, padding=(1, 2)), IMAGE),
    ],
    "conv1d": [
        (nets.conv1d(3, stride=2), SEQUENCE),
        (nets.conv1d(4, 2, padding=(2, 0), dilation=2, groups=4), SEQUENCE),
        (nets.conv1d(4, 2, padding=1), SEQUENCE),
    ],
    "conv_transpose": [
        (nets.conv_transpose(3, stride=2), IMAGE),
        (nets.conv_transpose(3, 1, stride=2), IMAGE),
        (nets.conv_transpose(2, 3, stride=(1, 2), padding="VALID", bias=False), IMAGE),
        (nets.conv_transpose(4, 3, 2, padding=((1, 0), (1, -1)), groups=2), IMAGE),
        (nets.conv_transpose(4, 2, 3, padding=1, dilation=2), IMAGE),
    ],
    "max_pool": [
        (nets.max_pool(), IMAGE),
        (nets.max_pool(3, 2, "SAME"), IMAGE),
        (nets.max_pool(3, 2, 1, ceil_mode=True), IMAGE),
        (nets.max_pool(2, 3, ceil_mode=True, dilation=2), IMAGE),
        (nets.max_pool((1, 2), 1, ((0, 0), (1, 0))), IMAGE),
        (nets.max_pool(2, 2, (2, 0), ceil_mode=True, dilation=2), IMAGE),
    ],
    "avg_pool": [
        (nets.avg_pool(), IMAGE),
        (nets.avg_pool(3, 2, "SAME"), IMAGE),
        (nets.avg_pool(3, 2, 1, ceil_mode=True, count_include_pad=True), IMAGE),
        (nets.avg_pool(3, 3, ceil_mode=True), IMAGE),
        (nets.avg_pool(2, count_include_pad=True), IMAGE),
    ],
    "global_avg_pool": [
        (nets.global_avg_pool(), IMAGE),
        (nets.serial(nets.conv(2), nets.global_avg_pool()), IMAGE),
    ],
    "flatten": [(nets.flatten(), IMAGE), (nets.serial(nets.conv(2), nets.flatten()), IMAGE)],
    "leaky_relu": [(nets.leaky_relu(0.3), IMAGE)],
    "elu": [(nets.elu(0.7), IMAGE)],
    "gelu": [(nets.gelu(), IMAGE), (nets.gelu(approximate=False), IMAGE)],
    "dropout": [(nets.dropout(0.5), IMAGE)],
    "rescale": [
        (nets.rescale([2.0] * 4, [0.0, 1.0, 5.0, -3.0]), IMAGE),
        (nets.rescaled(nets.serial(nets.affine(1)), np.arange(5.0)), ROW),
    ],
    "batch_norm": [
        (nets.batch_norm(eps=1e-3), IMAGE),
        (nets.batch_norm(gain=False), ROW),
        (nets.batch_norm(gain=False, bias=False), SEQUENCE),
    ],
    "layer_norm": [(nets.layer_norm(), IMAGE), (nets.layer_norm(bias=False), ROW)],
    "group_norm": [
        (nets.group_norm(2), IMAGE),
        (nets.group_norm(2, bias=False), SEQUENCE),
        (nets.group_norm(3), ROW),
    ],
    "rms_norm": [(nets.rms_norm(), IMAGE), (nets.rms_norm(gain=False), ROW)],
    **{name: [(nets.ACTIVATIONS[name](), IMAGE)] for name in ("relu", "sigmoid", "tanh")},
    **{name: [(nets.ACTIVATIONS[name](), IMAGE)] for name in ("silu", "softplus")},
}


def session(trained, path, **options):
    export.to_onnx(trained, path, **options)
    onnx.checker.check_model(onnx.load(path), full_check=True)
    return onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])


def check(trained, path, rng):
    """To rounding of single precision, of sums that two libraries take in another order."""
    for dtype in ("float32", "uint8"):
        run = session(trained, path, dtype=dtype).run
        for rows in (1, 5):
            examples = rng.integers(0, 256, (rows, *trained.input_shape)).astype(dtype)
            want = trained.outputs(examples)
            (got,) = run(None, {"examples": examples})
            assert got.dtype == np.float32
            np.testing.assert_allclose(got, want, atol=1e-5 * np.abs(want).max(), rtol=0)


# Of the networks one with convolutions; the others are made of the same blocks.
SOME = {"three_layer_convnet", "norm, pool, norm", "around a transposition", "remat", "nothing"}
SOME |= {"fully_connected, layer norm", "fully_connected, batch norm"}


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(NETS, SOME))
def test_nets_compute_the_same_in_onnxruntime(name, tmp_path, rng):
    check(made(*NETS[name]), tmp_path / "net.onnx", rng)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("name", "index"),
    [
        # By default the last of each, which has the most options.
        pytest.param(name, i, marks=[] if i == len(cases) - 1 else [pytest.mark.slow])
        for name, cases in BLOCKS.items()
        for i in range(len(cases))
    ],
)
def test_blocks_compute_the_same_in_onnxruntime(name, index, tmp_path, rng):
    check(made(*BLOCKS[name][index]), tmp_path / "net.onnx", rng)


@pytest.mark.parametrize("net", [nets.layer_norm(), nets.group_norm(2)])
def test_rows_far_from_0_are_normalised(net, tmp_path, rng):
    trained = made(net, IMAGE)
    plain = data.Preprocessing(np.zeros((1, 1, 1)), np.ones((1, 1, 1)))
    run = session(dataclasses.replace(trained, preprocessing=plain), tmp_path / "net.onnx").run
    examples = (1e5 + rng.normal(size=(3, *IMAGE))).astype(np.float32)
    examples[0] = 1234.0
    (got,) = run(None, {"examples": examples})
    params, state = trained.params, trained.state
    np.testing.assert_allclose(got, net.apply(params, state, examples)[0], atol=1e-5, rtol=0)


def test_every_block_of_nets_is_among_them():
    networks = {network.__name__ for network in nets.NETWORKS.values()}
    made_of_others = {"serial", "residual", "remat", "rescaled", *networks}
    helpers = {"from_config", "to_config", "summary", "walk"}
    functions = {name for name in nets.__all__ if name.islower()}
    assert functions - made_of_others - helpers == set(BLOCKS)


def test_the_metadata_say_what_the_outputs_are(tmp_path):
    trained = made(nets.affine(3), ROW, task="multilabel")
    found = session(trained, tmp_path / "net.onnx").get_modelmeta()
    assert json.loads(found.custom_metadata_map["classes"]) == ["a", "b", "c"]
    assert found.custom_metadata_map["task"] == "multilabel"
    assert found.custom_metadata_map["net"] == "nets.affine(units=3)"


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_parameters_of_other_dtypes_compute_in_float32(dtype, tmp_path, rng):
    trained = made(nets.two_layer_net(5, 3), IMAGE, dtype)
    examples = rng.integers(0, 256, (4, *IMAGE)).astype(np.float32)
    (got,) = session(trained, tmp_path / "net.onnx").run(None, {"examples": examples})
    want = trained.outputs(examples)
    atol = 16 * float(jnp.finfo(dtype).eps) if dtype == jnp.bfloat16 else 1e-5
    np.testing.assert_allclose(got, want, atol=atol * np.abs(want).max(), rtol=0)


def test_what_has_no_translation_is_refused_by_name_and_nothing_is_written(tmp_path):
    own = nets.Net(lambda key, shape: ((), ()), lambda p, s, x, **_: (x, s))
    trained = made(nets.serial(nets.affine(3), nets.residual(own)), ROW)
    with pytest.raises(ValueError, match=r"residual1\.block is nets\.Net.*no translation"):
        export.to_onnx(trained, tmp_path / "net.onnx")
    assert not list(tmp_path.iterdir())


def test_more_pixels_than_a_transposed_convolution_of_onnx_adds_are_refused(tmp_path):
    trained = made(nets.serial(nets.conv_transpose(4, 3, padding=((0, 0), (0, -1)))), IMAGE)
    with pytest.raises(ValueError, match=r"conv_transpose1 adds 1 pixels .* than its stride 1"):
        export.to_onnx(trained, tmp_path / "net.onnx")


def test_wrong_arguments_are_refused(tmp_path):
    trained = made(nets.affine(3), ROW)
    with pytest.raises(TypeError, match=r"trained is a dict, expected run\.trained"):
        export.to_onnx({}, tmp_path / "net.onnx")
    with pytest.raises(ValueError, match="dtype is 'int8', expected one of float32, uint8"):
        export.to_onnx(trained, tmp_path / "net.onnx", dtype="int8")
    far = data.Preprocessing(np.full(6, 1e9), np.ones(6))
    with pytest.raises(ValueError, match="float32 cannot tell them apart"):
        export.to_onnx(dataclasses.replace(trained, preprocessing=far), tmp_path / "net.onnx")


def test_without_the_package_it_is_said_how_to_get_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    with pytest.raises(ImportError, match=r'pip install "funcnet\[export\]"'):
        export.to_onnx(made(nets.affine(3), ROW), tmp_path / "net.onnx")
