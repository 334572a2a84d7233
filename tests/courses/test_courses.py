"""The courses' literals for layers, losses and models, each marked with its row.

Arrays come as the courses have them (NCHW where they do) and are turned around here. Where a
course's number is a difference quotient's error, the same quotient is taken and held to the bar.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import layers, losses
from funcnet.layers import AffineParams, BatchStats, ConvParams, NormParams
from tests.support.course_numbers import gradient_errors, linspace, randint, randn, rel_error
from tests.support.lanes import by_default

EPS = np.finfo(np.float64).eps


# --- layers ---------------------------------------------------------------------------------------

AFF = [
    [1.49834967, 1.70660132, 1.91485297],
    [3.25553199, 3.5141327, 3.77273342],
]


@pytest.mark.courses("0-1", "0-3", "1-3", "2-2", "4-31")
def test_affine_forward():
    x, w = linspace(-0.1, 0.5, 2, 4, 5, 6), linspace(-0.2, 0.3, 120, 3)
    out = layers.affine(AffineParams(w, linspace(-0.3, 0.1, 3)), x)
    assert rel_error(out, AFF) == pytest.approx(9.769847728806635e-10, rel=1e-5)


FC3 = [
    [0.63910291, 0.83740057, 1.03569824, 1.23399591],
    [0.61401587, 0.82903823, 1.04406058, 1.25908294],
    [0.58892884, 0.82067589, 1.05242293, 1.28416997],
]


@pytest.mark.courses("3-3")
def test_affine_forward_of_images():
    x, w = linspace(-0.1, 0.4, 3, 7, 6, 4), linspace(-0.2, 0.2, 168, 4)
    out = layers.affine(AffineParams(w, linspace(-0.3, 0.3, 4)), x)
    assert rel_error(out, FC3) == pytest.approx(4.0260e-09, rel=1e-3)


@pytest.mark.courses("0-4", "1-4", "2-2", "3-4", "4-31")
@pytest.mark.parametrize("shapes", [((10, 2, 3), (6, 5)), ((15, 2, 2, 3), (12, 15))], ids=str)
def test_affine_backward(shapes):
    np.random.seed(231)  # noqa: NPY002
    x, w = (randn(*s) for s in shapes)
    b, dout = randn(w.shape[1]), randn(x.shape[0], w.shape[1])

    def f(x, w, b):
        return layers.affine(AffineParams(w, b), x)

    # Row 1-4's bar is 1e-10 at its shapes; an entry near zero costs some digits at the larger.
    assert max(gradient_errors(f, x, w, b, dy=dout)) < (1e-10 if w.size == 30 else 1e-8)


RELU = [0, 0, 0, 0, 0, 0, 0.04545455, 0.13636364, 0.22727273, 0.31818182, 0.40909091, 0.5]


@pytest.mark.courses("0-5", "1-5", "2-2", "4-31")
def test_relu_forward():
    out = layers.relu(linspace(-0.5, 0.5, 12))
    assert rel_error(out, RELU) == pytest.approx(4.99999979e-08, rel=1e-6)


@pytest.mark.courses("0-6", "1-6", "2-2", "4-31")
def test_relu_backward():
    np.random.seed(231)  # noqa: NPY002
    x, dout = randn(10, 10), randn(10, 10)
    (error,) = gradient_errors(layers.relu, x, dy=dout)
    assert error == pytest.approx(3.2756349136310288e-12, rel=1e-6)


@pytest.mark.courses("0-7", "1-8", "2-2", "3-9", "4-42")
@pytest.mark.parametrize("shapes", [((2, 3, 4), (12, 10)), ((3, 5, 3), (15, 5))], ids=str)
def test_affine_relu(shapes):
    np.random.seed(231)  # noqa: NPY002
    x, w = (randn(*s) for s in shapes)
    b, dout = randn(w.shape[1]), randn(x.shape[0], w.shape[1])

    def f(x, w, b):
        return layers.affine_relu(AffineParams(w, b), x)

    assert max(gradient_errors(f, x, w, b, dy=dout)) < (1e-10 if w.size == 120 else 1e-7)


LRELU = [
    [-0.015, -0.0122727273, -0.0095454545, -0.0068181818],
    [-0.0040909091, -0.0013636364, 0.1363636364, 0.4090909091],
    [0.6818181818, 0.9545454545, 1.2272727273, 1.5],
]


@pytest.mark.courses("3-5")
def test_leaky_relu_forward():
    out = layers.leaky_relu(linspace(-1.5, 1.5, 3, 4), 0.01)
    assert rel_error(out, LRELU) == pytest.approx(1.3333e-08, rel=1e-3)


@pytest.mark.courses("3-6")
def test_leaky_relu_backward():
    np.random.seed(231)  # noqa: NPY002
    x, dout = randn(15, 15), randn(15, 15)
    (error,) = gradient_errors(layers.leaky_relu, x, dy=dout)
    assert error == pytest.approx(5.704e-12, rel=1e-3)


@pytest.mark.courses("3-2")
def test_flatten():
    x = linspace(0, 1, 15, 2, 2, 3)
    y, pull = jax.vjp(layers.flatten, x)
    assert y.shape == (15, 12)
    np.testing.assert_array_equal(pull(y)[0], x)


CONV = [
    [
        [[-0.08759809, -0.10987781], [-0.18387192, -0.2109216]],
        [[0.21027089, 0.21661097], [0.22847626, 0.23004637]],
        [[0.50813986, 0.54309974], [0.64082444, 0.67101435]],
    ],
    [
        [[-0.98053589, -1.03143541], [-1.19128892, -1.24695841]],
        [[0.69108355, 0.66880383], [0.59480972, 0.56776003]],
        [[2.36270298, 2.36904306], [2.38090835, 2.38247847]],
    ],
]


def channels_last(x):
    return x.transpose(0, 2, 3, 1)


def kernels_last(w):
    return w.transpose(2, 3, 1, 0)


@pytest.mark.courses("4-33")
def test_conv_forward():
    x, w = linspace(-0.1, 0.5, 2, 3, 4, 4), linspace(-0.2, 0.3, 3, 3, 4, 4)
    params = ConvParams(kernels_last(w), linspace(-0.1, 0.2, 3))
    out = layers.conv2d(params, channels_last(x), stride=2, padding=1)
    assert rel_error(out.transpose(0, 3, 1, 2), CONV) == pytest.approx(2.2121476e-08, rel=1e-6)


@pytest.mark.integration
@pytest.mark.courses("4-35", "4-40", "4-41")
@pytest.mark.parametrize(
    ("layer", "x", "w", "out", "bar"),
    [
        (layers.conv2d, (4, 5, 5, 3), (3, 3, 3, 2), (4, 5, 5, 2), 1e-8),
        (layers.conv_relu_pool, (2, 16, 16, 3), (3, 3, 3, 3), (2, 8, 8, 3), 1e-6),
        (layers.conv_relu, (2, 8, 8, 3), (3, 3, 3, 3), (2, 8, 8, 3), 1e-6),
    ],
    ids=["4-35 conv2d", "4-40 conv_relu_pool", "4-41 conv_relu"],
)
def test_conv_backward(layer, x, w, out, bar):
    np.random.seed(231)  # noqa: NPY002
    x, w, b, dout = randn(*x), randn(*w), randn(w[-1]), randn(*out)

    def f(x, w, b):
        return layer(ConvParams(w, b), x, 1, 1)

    assert max(gradient_errors(f, x, w, b, dy=dout)) < bar


POOL = [
    [
        [[-0.26315789, -0.24842105], [-0.20421053, -0.18947368]],
        [[-0.14526316, -0.13052632], [-0.08631579, -0.07157895]],
        [[-0.02736842, -0.01263158], [0.03157895, 0.04631579]],
    ],
    [
        [[0.09052632, 0.10526316], [0.14947368, 0.16421053]],
        [[0.20842105, 0.22315789], [0.26736842, 0.28210526]],
        [[0.32631579, 0.34105263], [0.38526316, 0.4]],
    ],
]


@pytest.mark.courses("4-36")
def test_max_pool_forward():
    out = layers.max_pool(channels_last(linspace(-0.3, 0.4, 2, 3, 4, 4)), 2, 2)
    assert rel_error(out.transpose(0, 3, 1, 2), POOL) == pytest.approx(4.1667e-08, rel=1e-4)


@pytest.mark.courses("4-37")
def test_max_pool_backward():
    np.random.seed(231)  # noqa: NPY002
    x, dout = randn(3, 8, 8, 2), randn(3, 4, 4, 2)
    (error,) = gradient_errors(layers.max_pool, x, dy=dout)
    assert error < 2e-11


# --- normalisation and dropout --------------------------------------------------------------------


@pytest.mark.courses("2-14", "2-24")
def test_batch_norm_forward():
    np.random.seed(231)  # noqa: NPY002
    x, w1, w2 = randn(200, 50), randn(50, 60), randn(60, 3)
    batch_norm = jax.jit(layers.batch_norm)
    a = jax.jit(lambda x, w1, w2: layers.relu(x @ w1) @ w2)(x, w1, w2)
    y, stats = jax.device_get(batch_norm(NormParams(np.ones(3), np.zeros(3)), a))
    assert np.abs(y.mean(0)).max() < 1e-14
    # The gap to 1 is eps against the variance: the course prints .99999999.
    np.testing.assert_allclose(y.std(0), np.sqrt(stats.var / (stats.var + 1e-5)), rtol=8 * EPS)
    gamma, beta = np.array([1.0, 2.0, 3.0]), np.array([11.0, 12.0, 13.0])
    y, _ = jax.device_get(batch_norm(NormParams(gamma, beta), a))
    np.testing.assert_allclose(y.mean(0), beta, rtol=1e-14)
    np.testing.assert_allclose(y.std(0), gamma, rtol=1e-7)


@pytest.mark.courses("2-15", "2-24")
def test_batch_norm_inference():
    """Statistics gathered over 50 batches standardise a test batch about, not exactly."""
    np.random.seed(231)  # noqa: NPY002
    w1, w2 = randn(50, 60), randn(60, 3)
    params = NormParams(np.ones(3), np.zeros(3))
    running = BatchStats(np.zeros(3), np.zeros(3))

    @jax.jit
    def gathered(running, x):
        _, stats = layers.batch_norm(params, layers.relu(x @ w1) @ w2)
        return jax.tree.map(lambda old, new: 0.9 * old + 0.1 * new, running, stats)

    for _ in range(50):
        running = gathered(running, randn(200, 50))
    inference = jax.jit(lambda x: layers.batch_norm_inference(params, running, x))
    y = np.asarray(inference(np.maximum(randn(200, 50) @ w1, 0) @ w2))
    assert np.abs(y.mean(0)).max() < 0.3
    assert np.abs(y.std(0) - 1).max() < 0.15


@pytest.mark.courses("2-16", "2-25")
def test_batch_norm_backward():
    np.random.seed(231)  # noqa: NPY002
    x, gamma, beta, dout = 5 * randn(4, 5) + 12, randn(5), randn(5), randn(4, 5)

    def f(x, g, b):
        return layers.batch_norm(NormParams(g, b), x)[0]

    assert max(gradient_errors(f, x, gamma, beta, dy=dout)) < 1e-7


@pytest.mark.courses("2-26", "2-27", "3-7")
@pytest.mark.parametrize("keep", [0.25, 0.5, 0.75, 1.0])
def test_dropout_forward(keep):
    """The courses' keep probability p is rate 1 - p; at test time nothing is dropped (not 2-26)."""
    np.random.seed(231)  # noqa: NPY002
    x = randn(100, 100) + 5
    y = np.asarray(layers.dropout(jax.random.key(3), x, 1 - keep))
    assert float((y == 0).mean()) == pytest.approx(1 - keep, abs=5 * np.sqrt(keep * 0.25) / 100)
    assert float(y.mean()) == pytest.approx(float(x.mean()), rel=0.06)
    np.testing.assert_array_equal(layers.dropout(None, x, 1 - keep), x)


@pytest.mark.courses("3-7")
def test_keep_probability_of_zero_is_refused():
    with pytest.raises(ValueError, match="for a keep probability p pass 1 - p"):
        layers.dropout(jax.random.key(0), jnp.ones((2, 2)), 1.0)


@pytest.mark.courses("2-27", "3-8")
def test_dropout_backward():
    """The mask comes from the key: drawn again, it is the same."""
    np.random.seed(231)  # noqa: NPY002
    x, dout = randn(5, 5) + 5, randn(5, 5)
    key = jax.random.key(100)
    (error,) = gradient_errors(lambda x: layers.dropout(key, x, 0.25), x, dy=dout)
    assert error == pytest.approx(3.003e-11, rel=1e-3)
    np.testing.assert_array_equal(layers.dropout(key, x, 0.25), layers.dropout(key, x, 0.25))


# --- losses ---------------------------------------------------------------------------------------


def scores_and_labels():
    np.random.seed(231)  # noqa: NPY002
    return 0.001 * randn(50, 10), randint(10, 50)


@pytest.mark.courses("1-9", "4-32")
def test_svm_loss():
    x, y = scores_and_labels()
    assert float(jax.jit(losses.multiclass_hinge)(x, y)) == pytest.approx(
        8.999602749096233, rel=4 * EPS
    )
    (error,) = gradient_errors(lambda x: losses.multiclass_hinge(x, y), x)
    assert error == pytest.approx(1.402e-09, rel=1e-3)


@pytest.mark.courses("1-10", "4-32")
def test_softmax_loss():
    x, y = scores_and_labels()
    loss = float(jax.jit(losses.softmax_cross_entropy)(x, y))
    assert loss == pytest.approx(2.302545844500738, rel=4 * EPS)
    (error,) = gradient_errors(lambda x: losses.softmax_cross_entropy(x, y), x)
    assert error < 1e-7  # the course prints 9.385e-09


@pytest.mark.courses("3-10", "4-12")
@pytest.mark.parametrize("classes", [6, 10])
def test_softmax_loss_of_small_scores_is_log_of_classes(classes):
    np.random.seed(231)  # noqa: NPY002
    x = 0.001 * randn(100, classes)
    y = randint(classes, 100)
    loss = float(jax.jit(losses.softmax_cross_entropy)(x, y))
    assert loss == pytest.approx(np.log(classes), abs=1e-3)


# --- models ---------------------------------------------------------------------------------------


def two_layers(activation, params, x):
    hidden = activation(layers.affine(params[0], x))
    return layers.affine(params[1], hidden)


TWO = [
    [
        11.53165108, 12.2917344, 13.05181771, 13.81190102, 14.57198434, 15.33206765, 16.09215096,
    ],
    [
        12.05769098, 12.74614105, 13.43459113, 14.1230412, 14.81149128, 15.49994135, 16.18839143,
    ],
    [
        12.58373087, 13.20054771, 13.81736455, 14.43418138, 15.05099822, 15.66781506, 16.2846319,
    ],
]  # fmt: skip


def two_layer_case():
    params = (
        AffineParams(linspace(-0.7, 0.3, 5, 50), linspace(-0.1, 0.9, 50)),
        AffineParams(linspace(-0.3, 0.4, 50, 7), linspace(-0.9, 0.1, 7)),
    )
    return params, linspace(-5.5, 4.5, 5, 3).T, np.array([0, 5, 1])


@pytest.mark.courses("1-12")
def test_two_layer_scores():
    params, x, _ = two_layer_case()
    scores = jax.jit(functools.partial(two_layers, layers.relu))(params, x)
    assert float(np.abs(np.asarray(scores) - TWO).sum()) < 1e-6


def penalised_loss(activation):
    def loss(params, x, y, reg):
        scores = two_layers(activation, params, x)
        return losses.softmax_cross_entropy(scores, y) + losses.l2_penalty(params, reg)

    return loss


@pytest.mark.courses("1-13", "1-14")
@pytest.mark.parametrize(("reg", "expected"), [(0.0, 3.4702243556), (1.0, 26.5948426952)])
def test_two_layer_loss(reg, expected):
    params, x, y = two_layer_case()
    loss = float(jax.jit(penalised_loss(layers.relu))(params, x, y, reg))
    assert abs(loss - expected) < 1e-10


@pytest.mark.courses("1-15")
@pytest.mark.parametrize("reg", by_default([0.0, 0.7], {0.7}))
def test_two_layer_gradients(reg):
    params, x, y = two_layer_case()

    def loss(w1, b1, w2, b2):
        net = AffineParams(w1, b1), AffineParams(w2, b2)
        return penalised_loss(layers.relu)(net, x, y, reg)

    assert max(gradient_errors(loss, *params[0], *params[1])) < 1e-6


TOY = [
    [-0.5328368, 0.20031504, 0.93346689],
    [-0.59412164, 0.15498488, 0.9040914],
    [-0.67658362, 0.08978957, 0.85616275],
    [-0.77092643, 0.01339997, 0.79772637],
    [-0.89110401, -0.08754544, 0.71601312],
]


@pytest.mark.integration
@pytest.mark.courses("4-17", "4-18", "4-19", "4-30")
def test_toy_net():
    """Scores as printed; the loss that row 4-18 lost and row 4-30's code could not return."""
    params = (
        AffineParams(linspace(-0.2, 0.6, 4, 10), linspace(-0.3, 0.7, 10)),
        AffineParams(linspace(-0.4, 0.1, 10, 3), linspace(-0.5, 0.9, 3)),
    )
    x, y = linspace(-0.2, 0.5, 5, 4), np.array([0, 1, 2, 2, 1])
    scores = np.asarray(jax.jit(functools.partial(two_layers, layers.relu))(params, x))
    assert float(np.abs(scores - TOY).sum()) == pytest.approx(3.8487e-08, rel=1e-3)
    loss = penalised_loss(layers.relu)
    shifted = scores - scores.max(1, keepdims=True)
    nll = np.log(np.exp(shifted).sum(1)) - shifted[np.arange(5), np.asarray(y)]
    squares = sum(float((np.asarray(p.w) ** 2).sum()) for p in params)
    assert float(jax.jit(loss)(params, x, y, 0.1)) == pytest.approx(
        nll.mean() + 0.05 * squares, rel=8 * EPS
    )
    errors = gradient_errors(
        lambda *p: loss((AffineParams(*p[:2]), AffineParams(*p[2:])), x, y, 0.1),
        *params[0],
        *params[1],
    )
    assert max(errors) < 1e-7


SMALL = [
    [
        -2.33876804, -1.92168925, -1.50461046, -1.08753166, -0.67045287, -0.25337408, 0.16370472,
    ],
    [
        -1.57216705, -1.18571026, -0.79925348, -0.4127967, -0.02633991, 0.36011687, 0.74657365,
    ],
    [
        -0.80556605, -0.44973128, -0.09389651, 0.26193827, 0.61777304, 0.97360782, 1.32944259,
    ],
    [
        -0.03896506, 0.2862477, 0.61146047, 0.93667323, 1.261886, 1.58709876, 1.91231153,
    ],
]  # fmt: skip


def small_case():
    params = (
        AffineParams(linspace(-0.7, 0.3, 4, 30), linspace(-0.6, 0.2, 30)),
        AffineParams(linspace(-0.2, 0.2, 30, 7), linspace(-0.9, 0.1, 7)),
    )
    return params, linspace(-5.5, 4.5, 4, 4).T, np.array([0, 5, 1, 4])


@pytest.mark.courses("3-12", "3-13")
def test_small_net_scores_and_loss():
    """Row 3-12's cell failed in the course: its positive scores were 100 times too large."""
    params, x, y = small_case()
    scores = jax.jit(functools.partial(two_layers, layers.leaky_relu))(params, x)
    np.testing.assert_allclose(scores, SMALL, atol=1e-8)
    loss = float(jax.jit(penalised_loss(layers.leaky_relu))(params, x, y, 0.0))
    assert abs(loss - 2.4250083210516835) < 1e-10


@pytest.mark.integration
@pytest.mark.courses("3-14")
def test_small_net_gradients():
    params, x, y = small_case()
    errors = gradient_errors(
        lambda *p: penalised_loss(layers.leaky_relu)(
            (AffineParams(*p[:2]), AffineParams(*p[2:])), x, y, 0.0
        ),
        *params[0],
        *params[1],
    )
    assert max(errors) < 1e-6


def three_layers(params, x, y, reg):
    for p in params[:-1]:
        x = layers.affine_relu(p, x)
    scores = layers.affine(params[-1], x)
    return losses.softmax_cross_entropy(scores, y) + losses.l2_penalty(params, reg)


def three_layer_weights():
    return [
        AffineParams(5e-2 * randn(d, m), np.zeros(m)) for d, m in ((15, 20), (20, 30), (30, 10))
    ]


@pytest.mark.courses("0-8", "0-9", "1-20", "2-3", "2-4", "2-5")
def test_three_layer_initial_loss():
    """All three matrices are penalised: row 2-5 forgot the third, and printed 5.744 for it."""
    np.random.seed(231)  # noqa: NPY002
    x = randn(2, 15)
    y = randint(10, 2)
    first, second = three_layer_weights(), three_layer_weights()
    loss = jax.jit(three_layers)
    whole = float(loss(second, x, y, 3.14))
    assert float(loss(first, x, y, 0.0)) == pytest.approx(2.3004790897684924, rel=4 * EPS)
    assert whole == pytest.approx(7.052114776533016, rel=4 * EPS)
    without_third = whole - float(jax.jit(losses.l2_penalty)(second[2], 3.14))
    assert without_third == pytest.approx(5.9, abs=0.3)


@pytest.mark.integration
@pytest.mark.courses("0-8", "0-9", "1-21", "2-3", "2-5")
@pytest.mark.parametrize("reg", by_default([0.0, 3.14], {3.14}))
def test_three_layer_gradients(reg):
    np.random.seed(231)  # noqa: NPY002
    x = randn(2, 15)
    y = randint(10, 2)
    params = three_layer_weights()
    errors = gradient_errors(
        lambda *p: three_layers([AffineParams(*p[i : i + 2]) for i in (0, 2, 4)], x, y, reg),
        *(leaf for p in params for leaf in p),
    )
    assert max(errors) < 1e-4  # the course calls up to 1e-5 fine at reg 0, and prints 2.21e-05


@pytest.mark.integration
@pytest.mark.courses("2-17", "2-18")
@pytest.mark.parametrize("reg", by_default([0.0, 3.14], {3.14}))
def test_batch_norm_net_gradients(reg):
    """Biases before batch norm have a gradient of exactly 0: their relative error means nothing."""
    np.random.seed(231)  # noqa: NPY002
    x = randn(4, 15)
    y = randint(10, 4)
    params = three_layer_weights()
    norms = [NormParams(np.ones(m), np.zeros(m)) for m in (20, 30)]

    def loss(*leaves):
        affines = [AffineParams(*leaves[i : i + 2]) for i in (0, 2, 4)]
        gains = [NormParams(*leaves[i : i + 2]) for i in (6, 8)]
        h, _ = layers.affine_batch_norm_relu((affines[0], gains[0]), x)
        h, _ = layers.affine_batch_norm_relu((affines[1], gains[1]), h)
        scores = layers.affine(affines[2], h)
        return losses.softmax_cross_entropy(scores, y) + losses.l2_penalty(affines, reg)

    leaves = [leaf for p in (*params, *norms) for leaf in p]
    gradients = jax.jit(jax.grad(loss, (1, 3)))(*leaves)
    assert not any(map(np.any, gradients))
    errors = gradient_errors(loss, *leaves)
    assert max(e for i, e in enumerate(errors) if i not in (1, 3)) < 1e-3


@pytest.mark.courses("4-13", "4-12")
def test_linear_softmax_gradient():
    """Bias as a row of W, and so penalised: analytic and numeric sides with the same reg."""
    np.random.seed(231)  # noqa: NPY002
    x = np.concatenate([randn(8, 20), np.ones((8, 1))], 1)
    y = randint(10, 8)
    w = 1e-4 * randn(21, 10)
    free = np.zeros(10)

    def loss(w):
        scores = layers.affine(AffineParams(w, free), x)
        return losses.softmax_cross_entropy(scores, y) + losses.l2_penalty(w, 1e-5)

    (error,) = gradient_errors(loss, w)
    assert error < 1e-6
    assert float(jax.jit(loss)(w)) == pytest.approx(np.log(10), abs=1e-2)
