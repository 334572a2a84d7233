"""A trained net in a folder: read again without its data, and refused where it is damaged."""

import functools
import json
import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest

import funcnet
from funcnet import checkpoint, data, losses, nets, optimizers, train

_DATA = data.synthetic(sizes=(100, 40, 40), classes=3)._replace(classes=("ant", "bee", "cow"))


def _trained(net, **options):
    return train.fit(net, _DATA, optimizers.adam(1e-2), epochs=1, batch_size=20, **options).trained


@pytest.fixture(scope="module")
def trained():
    return _trained(nets.fully_connected_net([20], classes=3, norm="batch"))


@pytest.mark.integration
def test_what_is_loaded_predicts_the_same_bits_and_evaluates_to_the_same_number(trained, tmp_path):
    funcnet.save(tmp_path / "run", trained)
    again = funcnet.load(tmp_path / "run")
    images = _DATA.test.images
    np.testing.assert_array_equal(again.outputs(images), trained.outputs(images))
    np.testing.assert_array_equal(again.predict(images), trained.predict(images))
    assert again.evaluate(_DATA.val) == trained.evaluate(_DATA.val)
    assert again.classes == trained.classes
    assert again.versions == trained.versions


@pytest.mark.integration
@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float64])
def test_other_dtypes_come_back(dtype, tmp_path):
    trained = _trained(nets.two_layer_net(5, 3), dtype=dtype)
    funcnet.save(tmp_path, trained)
    again = funcnet.load(tmp_path)
    assert again.params["affine1"].w.dtype == dtype
    np.testing.assert_array_equal(again.params["affine1"].w, trained.params["affine1"].w)


@pytest.mark.integration
def test_another_process_needs_neither_the_data_nor_the_script(trained, tmp_path):
    funcnet.save(tmp_path, trained)
    np.save(tmp_path / "images.npy", _DATA.test.images[:5])
    program = (
        "import sys, numpy, funcnet\n"
        "found = funcnet.load(sys.argv[1]).predict(numpy.load(sys.argv[1] + '/images.npy'))\n"
        "print(*found)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == trained.predict(_DATA.test.images[:5]).tolist()


@pytest.mark.integration
def test_a_loss_with_options_is_kept_and_one_of_ones_own_is_asked_for(tmp_path):
    smooth = functools.partial(losses.softmax_cross_entropy, label_smoothing=0.1)
    for name, loss in {"smooth": smooth, "own": lambda z, y: smooth(z, y)}.items():
        trained = _trained(nets.affine(3), loss=loss)
        funcnet.save(tmp_path / name, trained)
        again = funcnet.load(tmp_path / name)
        if name == "smooth":
            assert again.evaluate(_DATA.val) == trained.evaluate(_DATA.val)
        else:
            with pytest.raises(TypeError, match="loss="):
                again.evaluate(_DATA.val)


def test_a_net_of_ones_own_is_given_to_load(tmp_path):
    own = nets.Net(*nets.affine(3)[:2])
    trained = _trained(own)
    funcnet.save(tmp_path, trained)
    with pytest.raises(ValueError, match=r"net=net"):
        funcnet.load(tmp_path)
    again = funcnet.load(tmp_path, net=own)
    images = _DATA.test.images
    np.testing.assert_array_equal(again.outputs(images), trained.outputs(images))


def test_a_folder_without_a_net_says_so(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model\.json"):
        funcnet.load(tmp_path)


def _changed(**fields):
    return lambda text: json.dumps(json.loads(text) | fields)


@pytest.mark.integration
@pytest.mark.parametrize(
    "change",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: text.replace('"format": 1', '"format": 2'),
        _changed(net={"net": "os.system", "command": "true"}),
        _changed(net={"net": "affine", "units": 10**9}),
        _changed(net={"net": "fully_connected_net", "hidden": [21], "classes": 3}),
        _changed(net={"net": "max_pool", "window": 3}),
        _changed(input_shape=[-1]),
        _changed(input_shape="12"),
        _changed(input_shape=[10**6, 10**6]),
        _changed(classes=[]),
        _changed(classes={"a": 1}),
        _changed(task="poetry"),
        _changed(dtype="object"),
        _changed(loss={"loss": "__builtins__"}),
        _changed(reading=3),
        _changed(versions=None),
    ],
)
def test_a_damaged_model_is_refused(trained, tmp_path, change):
    funcnet.save(tmp_path, trained)
    path = tmp_path / "model.json"
    path.write_text(change(path.read_text()))
    with pytest.raises(checkpoint.CheckpointError, match=r"model\.json|best\.npz"):
        funcnet.load(tmp_path)


def test_parameters_without_their_preprocessing_are_refused(trained, tmp_path):
    funcnet.save(tmp_path, trained)
    checkpoint.save_params(tmp_path / "best.npz", trained.params, trained.state)
    with pytest.raises(checkpoint.CheckpointError, match="preprocessed"):
        funcnet.load(tmp_path)


def test_only_a_trained_net_is_saved(tmp_path):
    with pytest.raises(TypeError, match=r"run\.trained"):
        funcnet.save(tmp_path / "here", nets.affine(3))
    assert not (tmp_path / "here").exists()
