"""A net as JSON, and the net that is made of it again."""

import inspect
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import nets
from tests.support.lanes import by_default

_ARGUMENTS = {"units": 5, "channels": 4, "hidden": 7, "classes": 3, "rate": 0.25, "groups": 2}
_ARGUMENTS |= {"scale": [1.0, 2.0, 3.0, 4.0], "shift": [0.5] * 4}
_IMAGE = (8, 8, 4)


def _made_by(name: str) -> nets.Net:
    """A net of a public function, with arguments that are not the defaults where it has some."""
    function = getattr(nets, name)
    if name in ("serial", "remat", "residual"):
        return function(nets.serial(nets.conv(4), nets.relu()))
    wanted = {
        key: _ARGUMENTS[key]
        for key, parameter in inspect.signature(function).parameters.items()
        if parameter.default is parameter.empty
    }
    if name == "fully_connected_net":
        wanted |= {"hidden": [6, 5], "norm": "batch", "dropout": 0.5, "activation": "gelu"}
    if name == "conv":
        wanted |= {"padding": ((1, 0), (0, 1)), "size": (3, 2), "bias": False}
    return function(**wanted)


_FUNCTIONS = [
    name
    for name in nets.__all__
    if inspect.isfunction(getattr(nets, name))
    and "Net" in str(inspect.signature(getattr(nets, name)).return_annotation)
    and name not in ("from_config", "rescaled")  # which is a `serial`
]


def test_all_functions_that_make_nets_are_tried():
    assert {"affine", "conv", "serial", "resnet", "batch_norm"} <= set(_FUNCTIONS)
    assert len(_FUNCTIONS) >= 30


# By default the blocks, and the network with most options: the others are made of blocks.
_SOME = [name for name in _FUNCTIONS if name not in {n.__name__ for n in nets.NETWORKS.values()}]
_SOME += ["fully_connected_net"]


@pytest.mark.parametrize("name", by_default(_FUNCTIONS, _SOME))
def test_a_net_made_of_its_config_is_the_same_net(name):
    net = _made_by(name)
    config = json.loads(json.dumps(nets.to_config(net)))
    again = nets.from_config(config)
    assert config["net"] == name
    assert nets.to_config(again) == config
    shape = (8, 4) if name == "conv1d" else _IMAGE
    x = np.random.default_rng(0).normal(size=(2, *shape)).astype(np.float32)

    def run(net, key):
        """Its parameters, and its outputs with them in both modes."""
        params, state = net.init(key, shape)
        return params, [net.apply(params, state, x, train=t, key=key)[0] for t in (False, True)]

    one, other = jax.jit(lambda key: [run(n, key) for n in (net, again)])(jax.random.key(0))
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_repr_is_what_would_be_written():
    net = nets.serial(nets.conv(8, size=5), nets.relu(), nets.affine(2, bias=False))
    assert repr(net) == (
        "nets.serial(nets.conv(channels=8, size=5), nets.relu(), nets.affine(units=2, bias=False))"
    )
    assert nets.to_config(eval(repr(net), {"nets": nets})) == nets.to_config(net)
    assert len(repr(nets.serial(*(nets.affine(3) for _ in range(200))))) <= 500


def test_numbers_of_numpy_are_numbers():
    config = nets.to_config(nets.two_layer_net(np.int64(5), 3, weight_scale=np.float32(0.5)))
    assert config == {"net": "two_layer_net", "hidden": 5, "classes": 3, "weight_scale": 0.5}


def test_a_net_of_ones_own_has_no_config():
    own = nets.Net(lambda key, shape: ((), ()), lambda p, s, x, *, train=False, key=None: (x, s))
    for net in (own, nets.serial(nets.affine(3), own), nets.residual(own)):
        with pytest.raises(ValueError, match="not made of the functions"):
            nets.to_config(net)


def test_a_traced_number_has_no_config_and_does_no_harm():
    def output(scale):
        net = nets.affine(3, weight_scale=scale)
        assert net.made is None
        return net.init(jax.random.key(0), (2,))[0].w

    assert jax.jit(output)(jnp.float32(0.5)).shape == (2, 3)


@pytest.mark.parametrize(
    ("config", "error", "words"),
    [
        ([], TypeError, "expected a mapping"),
        ({"net": 3}, TypeError, "expected a mapping"),
        ({"net": "os.system"}, ValueError, "there is no net 'os.system'"),
        ({"net": "affine"}, ValueError, "units"),
        ({"net": "affine", "units": 3, "color": 1}, ValueError, "color"),
        ({"net": "affine", "units": 0}, ValueError, "units is 0"),
        ({"net": "serial", "blocks": [{"net": "nothing"}]}, ValueError, "no net 'nothing'"),
        ({"net": "serial", "blocks": 3}, ValueError, "serial"),
    ],
)
def test_a_config_that_is_none_is_refused(config, error, words):
    with pytest.raises(error, match=words):
        nets.from_config(config)
