"""Nets: names, shapes, state, fusing, dropout's keys, summaries, and the courses' networks."""

import contextlib
import inspect
import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import layers, nets
from funcnet.layers import AffineParams, BatchStats
from tests.support.net_parts import EPS, KEY, applied, initialised, lin

# --- Names, shapes, structure


def test_a_notebook_shows_a_net_block_by_block():
    net = nets.serial(nets.affine(4), nets.relu(), nets.affine(2))
    shown = net._repr_html_()
    assert "<tr><th>affine1 + relu1</th><td>nets.affine(units=4) + nets.relu()</td></tr>" in shown
    assert shown.count("<tr>") == 2
    assert (
        "nets.Net(kind=&#x27;&lt;b&gt;&#x27;)"
        in nets.affine(2)._replace(kind="<b>", made=None)._repr_html_()
    )
    deep = nets.serial(*[nets.affine(2)] * 1000)._repr_html_()
    assert deep.count("<tr>") == 61


def test_serial_names_children_by_kind_and_order():
    net = nets.serial(
        nets.affine(4), nets.batch_norm(), nets.relu(), nets.affine(3), nets.relu(), nets.affine(2)
    )
    params, state = net.init(KEY, (5,))
    assert sorted(params) == ["affine1", "affine2", "affine3", "batch_norm1"]
    assert sorted(state) == ["batch_norm1"]
    assert isinstance(params["affine1"], AffineParams)
    assert isinstance(state["batch_norm1"], BatchStats)
    out, after = applied(net, params, state, np.ones((2, 5), np.float32), train=True)
    assert out.shape == (2, 2)
    assert jax.tree.structure(after) == jax.tree.structure(state)


def test_nested_blocks_without_parameters_do_not_appear():
    net = nets.serial(
        nets.flatten(),
        nets.residual(nets.serial(nets.relu(), nets.dropout(0.5))),
        nets.serial(nets.tanh(), nets.affine(2)),
    )
    params, state = net.init(KEY, (2, 2, 1))
    # The serial inside the residual counts among the residual's children, not among these.
    assert jax.tree.map(jnp.shape, params) == {"serial1": {"affine1": AffineParams((4, 2), (2,))}}
    assert state == {}


def test_the_same_key_gives_the_same_parameters_and_children_differ():
    net = nets.serial(nets.affine(4), nets.affine(4), nets.affine(4))
    params, _ = net.init(KEY, (4,))
    again, _ = net.init(KEY, (4,))
    jax.tree.map(np.testing.assert_array_equal, params, again)
    for a, b in itertools.combinations(params.values(), 2):
        assert not np.array_equal(a.w, b.w)


NETWORKS = {
    "softmax_classifier": (nets.softmax_classifier(7), 3072 * 7 + 7),
    "two_layer_net": (nets.two_layer_net(5, 7), 3072 * 5 + 5 + 5 * 7 + 7),
    "fully_connected_net": (
        nets.fully_connected_net([5, 6], 7, norm="batch", dropout=0.2, activation="gelu"),
        3072 * 5 + 10 + 5 * 6 + 12 + 6 * 7 + 7,
    ),
    "fully_connected_net_layer_norm": (
        nets.fully_connected_net((5,), 7, norm="layer", activation="tanh"),
        3072 * 5 + 5 + 10 + 5 * 7 + 7,
    ),
    "small_net": (nets.small_net(5, 7), 3072 * 5 + 5 + 5 * 7 + 7),
    "two_layer_convnet": (nets.two_layer_convnet(7, 4), 75 * 4 + 4 + 16 * 16 * 4 * 7 + 7),
    "three_layer_convnet": (
        nets.three_layer_convnet(7, (2, 3, 4)),
        27 * 2 + 2 + 18 * 3 + 3 + 27 * 4 + 4 + 4 * 4 * 4 * 7 + 7,
    ),
    "resnet": (
        nets.resnet(7, (2, 4)),
        (27 * 2 + 4)  # stem
        + 2 * (18 * 2 + 4)  # a block of the first stage
        + (18 * 4 + 8) + (36 * 4 + 8) + (2 * 4 + 8)  # one of the second, with shortcut
        + 4 * 7 + 7,
    ),
}  # fmt: skip


@pytest.mark.courses("1-19")
@pytest.mark.parametrize(("net", "parameters"), NETWORKS.values(), ids=NETWORKS)
def test_named_networks(net, parameters):
    params, state = jax.eval_shape(lambda: net.init(KEY, (32, 32, 3)))
    assert sum(leaf.size for leaf in jax.tree.leaves(params)) == parameters
    x = jax.ShapeDtypeStruct((3, 32, 32, 3), jnp.float32)

    def loss(params, state, x, train):
        output, state = net.apply(params, state, x, train=train, key=KEY)
        return output.sum(), (output, state)

    for train in (True, False):
        grads, (output, after) = jax.eval_shape(
            jax.grad(lambda *a, t=train: loss(*a, t), has_aux=True), params, state, x
        )
        assert output.shape == (3, 7)
        assert (grads, after) == (params, state)


@pytest.mark.integration
def test_resnet_runs_and_keeps_its_statistics():
    net = nets.resnet(3, (2, 4))
    params, state = initialised(net, (8, 8, 1))
    x = lin(-1, 1, 4, 8, 8, 1)
    output, after = applied(net, params, state, x, train=True)
    assert np.isfinite(output).all()
    assert not np.array_equal(after["batch_norm1"].mean, state["batch_norm1"].mean)


# --- Convolutions of other kinds


def test_an_encoder_and_a_decoder_of_images(rng):
    """Depthwise, dilated and enlarging blocks, without bias; the summary counts their products."""
    net = nets.serial(
        nets.conv(6, groups=3, bias=False),
        nets.conv(4, dilation=2, padding=(2, 2), bias=False),
        nets.conv_transpose(2, size=4, stride=2, bias=False),
    )
    params, state = initialised(net, (6, 8, 3))
    shapes = [params[name].w.shape for name in ("conv1", "conv2", "conv_transpose1")]
    assert shapes == [(3, 3, 1, 6), (3, 3, 6, 4), (4, 4, 2, 4)]
    assert all(p.b is None for p in params.values())
    x = rng.normal(size=(2, 6, 8, 3))
    y, _ = applied(net, params, state, x)
    assert y.shape == (2, 12, 16, 2)
    grads = jax.jit(jax.grad(lambda p: (net.apply(p, state, x)[0] ** 2).sum()))(params)
    assert jax.tree.structure(grads) == jax.tree.structure(params)
    products = 6 * 8 * (9 * 6 + 9 * 6 * 4 + 16 * 2 * 4)
    assert nets.summary(net, (6, 8, 3)).flops == 2 * products


def test_a_net_of_sequences(rng):
    net = nets.serial(nets.conv1d(4, padding=(2, 0)), nets.conv1d(2, size=2, stride=2, groups=2))
    params, state = initialised(net, (10, 3))
    assert [p.w.shape for p in params.values()] == [(3, 3, 4), (2, 2, 2)]
    x = rng.normal(size=(2, 10, 3))
    y, _ = applied(net, params, state, x)
    assert y.shape == (2, 5, 2)
    cut = np.where(np.arange(10)[:, None] < 6, x, 0)  # padding before alone is causal
    y, later = map(np.asarray, (y, applied(net, params, state, cut)[0]))
    np.testing.assert_array_equal(y[:, :3], later[:, :3])
    assert not np.array_equal(y[:, 3:], later[:, 3:])


@pytest.mark.parametrize(
    ("init", "size", "fan_in"),
    [
        (layers.conv_init, (5, 4), 5 * 4 * 16),
        (layers.conv1d_init, 5, 5 * 16),
        (layers.conv2d_transpose_init, (5, 4), 5 * 4 * 16),
    ],
)
def test_he_counts_the_inputs_of_a_group(init, size, fan_in):
    params = init(KEY, size, 64, 128, groups=4, bias=False)
    assert params.b is None
    w = np.asarray(params.w)
    spread = w.std() / np.sqrt(2 / fan_in)
    assert abs(spread - 1) < 4 / np.sqrt(2 * w.size)
    with pytest.raises(ValueError, match="groups is 3, expected a divisor of cin 64 and cout 128"):
        init(KEY, size, 64, 128, groups=3)


# --- Batch norm's state


@pytest.mark.courses("2-24")
def test_running_statistics(rng):
    x = 3 + 2 * rng.normal(size=(50, 4))
    net = nets.batch_norm(momentum=0.9)
    params, state = initialised(net, (4,))
    np.testing.assert_array_equal(state.mean, np.zeros(4))
    np.testing.assert_array_equal(state.var, np.ones(4))
    y, after = jax.tree.map(np.asarray, applied(net, params, state, x, train=True))
    mean, var = np.mean(x, 0, keepdims=True), np.var(x, 0, keepdims=True)  # biased
    np.testing.assert_allclose(after.mean, 0.1 * mean[0], rtol=50 * EPS)
    np.testing.assert_allclose(after.var, 0.9 + 0.1 * var[0], rtol=50 * EPS)
    np.testing.assert_allclose(y, (x - mean) / np.sqrt(var + 1e-5), atol=500 * EPS)
    y, same = applied(net, params, after, x)
    expected = (x - after.mean[None]) / np.sqrt(after.var + 1e-5)[None]
    np.testing.assert_allclose(y, expected, atol=50 * EPS)
    jax.tree.map(np.testing.assert_array_equal, same, after)


@pytest.mark.courses("2-15")
def test_running_statistics_converge(rng):
    net = nets.batch_norm(momentum=0.9)
    params, state = initialised(net, (3,))
    run = jax.jit(lambda p, s, x: net.apply(p, s, x, train=True)[1])
    for _ in range(100):
        state = run(params, state, rng.normal([1, 2, 3], [0.5, 1, 2], (200, 3)))
    y, _ = applied(net, params, state, rng.normal([1, 2, 3], [0.5, 1, 2], (2000, 3)))
    # Means of 2000 draws against statistics of about 20 batches of 200: 4 standard errors.
    np.testing.assert_allclose(np.mean(y, 0), 0, atol=4 * math.sqrt(1 / 2000 + 1 / 3800))
    np.testing.assert_allclose(np.std(y, 0), 1, atol=4 * math.sqrt(1 / 4000 + 1 / 7600))


@pytest.mark.parametrize("low", [jnp.bfloat16, jnp.float16])
def test_running_statistics_of_low_precision_nets_stay_float32(low):
    net = nets.fully_connected_net([4], 2, norm="batch")
    params, state = net.init(KEY, (3,))
    params = jax.tree.map(lambda leaf: np.asarray(leaf, low), params)
    x = lin(-1, 1, 4, 3).astype(low)
    for train in (True, False):
        y, after = applied(net, params, state, x, train=train)
        assert y.dtype == low
        assert after["batch_norm1"].mean.dtype == jnp.float32


def test_batch_norm_refuses_to_train_on_one_row():
    for net in (nets.batch_norm(), nets.fully_connected_net([4], 2, norm="batch")):
        params, state = net.init(KEY, (3,))
        x = np.ones((1, 3), np.float32)
        with pytest.raises(ValueError, match="expected at least 2"):
            applied(net, params, state, x, train=True)
        applied(net, params, state, x)
    net = nets.batch_norm()  # one image has many values a channel
    applied(net, *net.init(KEY, (2, 2, 3)), np.ones((1, 2, 2, 3), np.float32), train=True)


# --- Dropout


def masks(net, steps, width=200):
    """The zeros of each dropout layer of `net` (identities but for dropout), step by step."""
    found = []
    for step in range(steps):
        x = jnp.ones((1, width))
        key = jax.random.fold_in(KEY, step)
        for part in net.parts:
            x, _ = part.run({}, {}, jnp.ones_like(x), train=True, key=key)
            found.append(np.asarray(x == 0).ravel())
    return found


@pytest.mark.integration
def test_masks_differ_from_layer_to_layer_and_step_to_step():
    net = nets.serial(nets.dropout(0.5), nets.dropout(0.5), nets.dropout(0.5))
    found = masks(net, 100)
    assert len({mask.tobytes() for mask in found}) == 300
    # Masks of independent keys agree in half of their places: 6 standard deviations.
    agreement = np.array([(a == b).mean() for a, b in itertools.pairwise(found)])
    assert np.abs(agreement - 0.5).max() < 6 * math.sqrt(0.25 / 200)
    dropped = np.mean(found)
    assert abs(dropped - 0.5) < 5 * math.sqrt(0.25 / (300 * 200))


def test_the_gradient_uses_the_mask_of_the_output():
    net = nets.serial(nets.dropout(0.3), nets.residual(nets.dropout(0.4)))

    @jax.jit
    def both_ways(x):
        y, vjp = jax.vjp(lambda x: net.apply({}, {}, x, train=True, key=KEY)[0], x)
        return y, *vjp(jnp.ones_like(y))

    y, dx = both_ways(np.ones((3, 40)))
    # It is linear in x, and x is all ones.
    np.testing.assert_allclose(dx, y, rtol=4 * EPS)
    assert 0 < np.count_nonzero(np.asarray(y) == 0) == np.count_nonzero(np.asarray(dx) == 0)


def test_dropout_is_the_identity_in_inference_and_at_rate_0():
    x = lin(-1, 1, 2, 5)
    for net, train in ((nets.dropout(0.5), False), (nets.dropout(0.0), True)):
        np.testing.assert_array_equal(net.apply((), (), x, train=train)[0], x)


def test_dropout_without_a_key_says_what_to_pass():
    net = nets.fully_connected_net([4], 2, dropout=0.5)
    params, state = net.init(KEY, (3,))
    x = jnp.ones((2, 3), jnp.float32)
    with pytest.raises(ValueError, match=r"no key; pass.*key=jax\.random\.key\(0\)") as caught:
        net.apply(params, state, x, train=True)
    assert any("dropout1" in note for note in caught.value.__notes__)


# --- Composition


def test_residual_adds_its_input():
    net = nets.residual(nets.affine(3))
    params, state = initialised(net, (3,))
    x = lin(-1, 1, 2, 3)
    y, after = applied(net, params, state, x)
    np.testing.assert_allclose(y, x + jax.jit(layers.affine)(params["block"], x), rtol=4 * EPS)
    assert after == {}


def test_residual_with_a_shortcut_keeps_both_states():
    way = nets.serial(nets.conv(4, stride=2), nets.batch_norm())
    net = nets.residual(way, nets.serial(nets.conv(4, size=1, stride=2), nets.batch_norm()))
    params, state = initialised(net, (6, 6, 2))
    assert sorted(params) == sorted(state) == ["block", "shortcut"]
    x = lin(-1, 1, 2, 6, 6, 2)
    y, after = applied(net, params, state, x, train=True)
    ends = [
        applied(net.children[i], params[name], state[name], x, train=True)
        for i, name in enumerate(("block", "shortcut"))
    ]
    np.testing.assert_allclose(y, sum(np.asarray(y) for y, _ in ends), atol=10 * EPS)
    shortcut = ends[1][1]["batch_norm1"]
    np.testing.assert_allclose(after["shortcut"]["batch_norm1"].mean, shortcut.mean, atol=EPS)


def test_residual_refuses_a_block_that_changes_the_shape():
    with pytest.raises(ValueError, match=r"\(4, 4, 2\) into \(2, 2, 2\).*shortcut"):
        nets.residual(nets.conv(2, stride=2)).init(KEY, (4, 4, 2))
    with pytest.raises(ValueError, match=r"into \(3,\).*shortcut's \(2,\)"):
        nets.residual(nets.affine(3), nets.affine(2)).init(KEY, (4,))


def test_remat_gives_the_same_gradient_and_keeps_less():
    block = nets.serial(nets.affine(64), nets.gelu(), nets.affine(64), nets.gelu())
    params, state = initialised(block, (8,))
    x = lin(-1, 1, 4, 8)

    def gradient(net):
        return jax.jit(jax.grad(lambda p: net.apply(p, state, x, train=True)[0].sum()))(params)

    plain, again = (jax.tree.leaves(gradient(net)) for net in (block, nets.remat(block)))
    for a, b in zip(plain, again, strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=50 * EPS * np.abs(a).max())
    kept = [nets.summary(net, (8,)).residual_bytes for net in (block, nets.remat(block))]
    assert kept[1] == 0 < kept[0]


def scaled_by(factor):
    """A net of somebody else's: one parameter, one number of state, plain functions."""

    def init(key, input_shape):
        del key, input_shape
        return {"factor": jnp.full((), factor, jnp.float32)}, [jnp.zeros((), jnp.float32)]

    def apply(params, state, x, *, train=False, key=None):
        del key
        return x * params["factor"], [state[0] + 1.0] if train else state

    return nets.Net(init, apply)


def test_a_strangers_net_works_everywhere():
    net = nets.serial(
        nets.affine(3), scaled_by(2.0), nets.residual(scaled_by(3.0)), nets.remat(scaled_by(0.5))
    )
    params, state = net.init(KEY, (4,))
    assert sorted(params) == ["affine1", "net1", "remat1", "residual1"]
    x = np.ones((2, 4), np.float32)
    y, after = applied(net, params, state, x, train=True)
    expected = 4 * np.asarray(jax.jit(layers.affine)(params["affine1"], x))
    np.testing.assert_allclose(y, expected, rtol=1e-6)
    assert [float(leaf) for leaf in jax.tree.leaves(after)] == [1.0, 1.0, 1.0]
    table = nets.summary(net, (4,))
    assert table.parameters == 15 + 3
    assert [row.name for row in table.rows] == ["affine1", "net1", "residual1.block", "remat1"]


def test_a_kind_alone_does_not_make_a_stranger_fuse():
    parts = nets.serial(scaled_by(2.0), nets.relu()).parts
    assert all(len(part.names) == 1 for part in parts)


def test_nets_are_hashable_so_that_they_may_be_static():
    net = nets.fully_connected_net([3], 2, norm="batch", dropout=0.1)
    run = jax.jit(lambda net, p, s, x: net.apply(p, s, x)[0], static_argnums=0)
    assert run(net, *net.init(KEY, (4,)), jnp.ones((2, 4), jnp.float32)).shape == (2, 2)
    assert isinstance(hash(nets.resnet(2)), int)


@pytest.mark.integration
def test_walking_changes_no_bit(rng):
    """With each layer's own apply in its place, whole and taken apart, dropout's masks included."""
    around = nets.serial(nets.conv(4, size=1), nets.batch_norm())
    net = nets.serial(
        nets.conv(4), nets.relu(), nets.residual(nets.serial(nets.conv(4), nets.relu()), around),
        nets.remat(nets.serial(nets.dropout(0.5))), nets.affine(3), nets.batch_norm(), nets.relu(),
        scaled_by(2.0), nets.serial(),
    )  # fmt: skip
    params, state = initialised(net, (4, 4, 2))
    x = rng.normal(size=(3, 4, 4, 2))
    ways = ["residual1.block.conv1", "residual1.block.relu1"]
    short = ["residual1.shortcut.conv1", "residual1.shortcut.batch_norm1"]
    tail = ["affine1", "batch_norm1", "relu2"]
    whole = ["conv1 + relu1", " + ".join(ways), *short, "remat1", " + ".join(tail), "net1"]
    apart = ["conv1", "relu1", *ways, *short, "remat1.dropout1", *tail, "net1"]
    for same, visited, options in ((net, whole, {}), (unfused(net), apart, {"apart": True})):
        names = []
        walked = net._replace(apply=nets.walk(net, noting(names), **options))
        assert names == visited
        got, want = (applied(n, params, state, x, train=True, key=KEY) for n in (walked, same))
        jax.tree.map(np.testing.assert_array_equal, got, want)


def noting(names):
    def visit(name, apply):
        names.append(name)
        return apply

    return visit


def unfused(net):
    """The same net, no neighbours of which run as one."""
    if net.kind == "serial":
        return nets.serial(*map(unfused, net.children), fuse=False)
    if net.kind in ("residual", "remat"):
        return getattr(nets, net.kind)(*map(unfused, net.children))
    return net


def test_profiles_show_the_blocks_names_and_the_program_is_the_same(monkeypatch):
    net = nets.serial(
        nets.serial(nets.conv(2), nets.relu()), nets.residual(nets.tanh()), nets.affine(2)
    )
    params, state = net.init(KEY, (4, 4, 1))
    x = jnp.ones((2, 4, 4, 1), jnp.float32)

    def lowered():
        def loss(params, x):
            return net.apply(params, state, x, train=True)[0].sum()

        return jax.jit(jax.grad(loss)).lower(params, x)

    named = lowered()
    for name in ("jvp(serial1)/conv1+relu1/", "jvp(residual1)/block/", "transpose(jvp(affine1))/"):
        assert name in named.as_text(debug_info=True), name
    monkeypatch.setattr(jax, "named_scope", lambda name: contextlib.nullcontext())
    nameless = lowered()
    assert "conv1+relu1" not in nameless.as_text(debug_info=True)
    assert named.as_text() == nameless.as_text()


# --- Errors


ERRORS = {
    "units of 0": (lambda: nets.affine(0), ValueError, "units is 0, expected an int of at least 1"),
    "units of 2.5": (lambda: nets.affine(2.5), TypeError, "units is 2.5, expected an int"),
    "channels": (lambda: nets.conv(True), TypeError, "channels is True"),
    "size": (lambda: nets.conv(3, size=0), ValueError, "size is 0"),
    "stride": (lambda: nets.max_pool(2, stride=(1, 2, 3)), TypeError, "stride"),
    "rate": (lambda: nets.dropout(1.0), ValueError, "probability of dropping"),
    "momentum": (lambda: nets.batch_norm(1.5), ValueError, "momentum is 1.5"),
    "groups": (
        lambda: nets.serial(nets.group_norm(3)).init(KEY, (4,)),
        ValueError,
        "groups",
    ),
    "a layer for a block": (
        lambda: nets.serial(layers.relu),
        TypeError,
        "block 0 is .*Call it",
    ),
    "an uncalled block": (lambda: nets.serial(nets.relu), TypeError, "expected a nets.Net.*Call"),
    "shape with a string": (
        lambda: nets.affine(2).init(KEY, "32"),
        TypeError,
        "shape of one example without the batch",
    ),
    "shape an int": (lambda: nets.affine(2).init(KEY, 32), TypeError, "shape of one example"),
    "shape with 0": (
        lambda: nets.two_layer_net(3, 2).init(KEY, (0,)),
        ValueError,
        r"input_shape\[0\] is 0",
    ),
    "conv after flatten": (
        lambda: nets.serial(nets.flatten(), nets.conv(3)).init(KEY, (4, 4, 1)),
        ValueError,
        r"has shape \(16,\), expected \(height, width, channels\)",
    ),
    "window too large": (
        lambda: nets.serial(nets.max_pool(5)).init(KEY, (4, 4, 1)),
        ValueError,
        "window of 5 does not fit",
    ),
    "norm": (
        lambda: nets.fully_connected_net([3], 2, norm="group"),
        ValueError,
        'norm is \'group\', expected None, "batch" or "layer"',
    ),
    "activation": (
        lambda: nets.fully_connected_net([3], 2, activation="Relu"),
        ValueError,
        "activation is 'Relu', expected one of relu",
    ),
    "hidden an int": (
        lambda: nets.fully_connected_net(500, 2),
        TypeError,
        r"hidden is 500, expected a sequence",
    ),
    "hidden holds 0": (
        lambda: nets.fully_connected_net([5, 0], 2),
        ValueError,
        r"hidden\[1\] is 0",
    ),
    "keep of 1 for dropout": (
        lambda: nets.fully_connected_net([5], 2, dropout=1),
        ValueError,
        "probability of dropping",
    ),
    "no channels": (lambda: nets.resnet(2, ()), ValueError, "channels is empty"),
    "scale": (
        lambda: nets.two_layer_net(3, 2, weight_scale="xavier").init(KEY, (4,)),
        ValueError,
        "he",
    ),
    "summary of a layer": (lambda: nets.summary(layers.relu, (3,)), TypeError, "nets.Net"),
    "another net's params": (
        lambda: nets.serial(nets.affine(2)).apply({"conv1": ()}, {}, jnp.ones((1, 2))),
        ValueError,
        "another net's",
    ),
}


@pytest.mark.parametrize(("call", "error", "match"), ERRORS.values(), ids=ERRORS)
def test_errors_say_what_to_do(call, error, match):
    with pytest.raises(error, match=match):
        call()


def test_former_names_of_arguments_warn_and_do_the_same():
    key = jax.random.key(0)
    for new, old in (
        (lambda: nets.affine(3, weight_scale=0.5), lambda: nets.affine(3, scale=0.5)),
        (lambda: nets.conv(2, weight_scale=0.5), lambda: nets.conv(2, scale=0.5)),
        (lambda: nets.resnet(3, channels=(2, 4)), lambda: nets.resnet(3, widths=(2, 4))),
    ):
        with pytest.warns(DeprecationWarning, match="deprecated, its name is"):
            former = old()
        a, b = (net.init(key, (8, 8, 1))[0] for net in (new(), former))
        jax.tree.map(np.testing.assert_array_equal, a, b)
    with pytest.raises(TypeError, match="weight_scale is given twice, once as scale"):
        nets.affine(3, scale=1.0, weight_scale=1.0)


def test_errors_name_the_block():
    net = nets.serial(nets.affine(3), nets.serial(nets.relu(), nets.max_pool()))
    with pytest.raises(ValueError, match="4 axes") as caught:
        net.init(KEY, (4,))
    notes = "\n".join(caught.value.__notes__)
    assert "max_pool1 of nets.serial" in notes
    assert "serial1 of nets.serial, whose input is an example of shape (3,)" in notes
    net = nets.fully_connected_net([3], 2)
    with pytest.raises(ValueError, match="affine") as caught:
        net.apply(*net.init(KEY, (4,)), jnp.ones((2, 5), jnp.float32))
    assert any("affine1 + relu1" in note for note in caught.value.__notes__)


def test_every_public_block_and_network_is_listed():
    defined = {
        name
        for name, value in vars(nets).items()
        if inspect.isfunction(value)
        and not name.startswith("_")
        and inspect.signature(value).return_annotation in ("Net", nets.Net)
    }
    assert defined <= set(nets.__all__)
