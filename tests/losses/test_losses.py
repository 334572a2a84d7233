"""What losses promise beyond the catalogue's rows: exact at any size, options, meshes, peers."""

from __future__ import annotations

import functools
import gc
import itertools
import weakref

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from funcnet import data, losses, nets, optimizers, sweep, train
from funcnet.catalogue import ROWS
from funcnet.layers import AffineParams
from funcnet.losses import mean_squared_error, multiclass_hinge, softmax_cross_entropy
from tests.support.processes import run_python
from tests.support.rules import problem

KEY = jax.random.key(0)

# --- Exact at any size


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64])
def test_equal_logits_give_log_of_their_number_however_large(dtype):
    """Of 1, 3 and 10 classes, plain, smoothed and ignoring, in one program."""
    eps = float(jnp.finfo(dtype).eps)
    largest = float(jnp.finfo(dtype).max)
    sizes = [0.0, 1e4, -1e4, largest, -largest] + [1e30, -1e30] * (largest > 1e30)
    logits = {n: np.repeat(np.array(sizes)[:, None], n, 1).astype(dtype) for n in (1, 3, 10)}
    every = [{}, {"label_smoothing": 0.1}, {"ignore_index": -1}]
    cases = [(n, np.arange(len(sizes)) % n, options) for n in logits for options in every]

    @jax.jit
    def all_cases(logits):
        return [
            jax.value_and_grad(softmax_cross_entropy)(logits[n], labels, **options)
            for n, labels, options in cases
        ]

    for (n, labels, options), (value, slope) in zip(cases, all_cases(logits), strict=True):
        assert value.dtype == slope.dtype == dtype
        assert abs(float(value) - np.log(n)) <= 4 * eps * np.log(n), (n, options)
        s = options.get("label_smoothing", 0.0)
        target = (1 - s) * np.eye(n)[labels] + s / n
        want = (1 / n - target) / len(sizes)
        # The difference of two numbers of 1 / n at most is as exact as they are.
        np.testing.assert_allclose(
            np.asarray(slope, np.float64), want, rtol=4 * eps, atol=4 * eps / len(sizes) * (s > 0)
        )


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_a_row_is_its_distances_from_its_largest(size):
    """In float32, where rows with and without `size` have exactly the same differences."""
    gaps = np.array([[0.0, 1.0, 2.5], [3.0, 0.0, 0.5]], np.float32)
    both = jax.jit(jax.value_and_grad(softmax_cross_entropy))
    found, wanted = (both(np.float32(far) - gaps, np.array([2, 1])) for far in (size, 0.0))
    for got, want in zip(found, wanted, strict=True):
        np.testing.assert_array_equal(got, want)


def test_infinite_and_nan_logits():
    def both(row, label, **options):
        logits, labels = np.array([row], np.float32), np.array([label])
        loss = functools.partial(softmax_cross_entropy, **options)
        return jax.device_get(jax.jit(jax.value_and_grad(loss))(logits, labels))

    value, slope = both([0.0, -np.inf], 1)  # the label's own class is ruled out
    assert value == np.inf
    np.testing.assert_array_equal(slope, [[1.0, -1.0]])
    assert both([0.0, -np.inf], 0, label_smoothing=0.1)[0] == np.inf
    assert both([0.0, np.inf], 0)[0] == np.inf
    for row in ([np.inf, 0.0], [-np.inf, -np.inf], [np.nan, 0.0]):
        value, slope = both(row, 0)
        assert np.isnan(value), row
        assert np.isnan(slope).any(), row


# --- Labels of any dtype


def with_labels(logits, labels):
    """Values and gradients of each kind of loss that reads labels."""
    ignoring = functools.partial(softmax_cross_entropy, ignore_index=-100)
    weighted = functools.partial(softmax_cross_entropy, class_weights=jnp.ones(200))
    kinds = (softmax_cross_entropy, ignoring, weighted, multiclass_hinge)
    return [jax.value_and_grad(loss)(logits, labels) for loss in kinds]


compiled_with_labels = jax.jit(with_labels)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int16", "uint32", "uint64", "int64"])
def test_labels_are_what_their_dtype_says(dtype):
    """Also where there are more classes than the dtype has numbers, or none that are negative."""
    logits = np.random.default_rng(0).normal(size=(2, 200))
    found, want = (compiled_with_labels(logits, np.array([3, 120], d)) for d in (dtype, np.int32))
    jax.tree.map(np.testing.assert_array_equal, found, want)


@pytest.mark.parametrize(
    ("label", "dtype"),
    [(2**32 + 1, "int64"), (2**32 + 1, "uint64"), (2**64 - 1, "uint64"), (2**32 - 1, "uint32"),
     (-(2**32) + 1, "int64"), (-1, "int8"), (200, "uint8")],
)  # fmt: skip
def test_no_label_becomes_another(label, dtype):
    labels = np.array([label, 1], dtype)
    for value, slope in jax.device_get(compiled_with_labels(np.zeros((2, 200)), labels)):
        assert np.isnan(value)
        assert np.isnan(slope[0]).all()
    output = np.eye(2)[:, ::-1]  # says 1, which the label would be if it were wrapped
    right, counted = jax.jit(train._step.answers)(output, labels, None)
    np.testing.assert_array_equal(right, [False, False])
    assert counted.all()


# --- Index checks


@pytest.mark.parametrize("name", ROWS)
def test_index_checks_pass(name):
    """Of value and gradient, traced: what is out of range by design would be found there too."""
    p = problem(name, 0)

    def pulled(floats):
        ys, pull = jax.vjp(p.rule, floats)
        return ys, pull([jnp.ones_like(y) for y in ys])

    checked = checkify.checkify(pulled, errors=checkify.index_checks)
    if name in losses.__all__:
        jax.jit(checked)(p.floats)[0].throw()
    else:
        jax.eval_shape(checked, p.floats)


def test_index_checks_pass_where_a_label_is_none():
    checked = jax.jit(checkify.checkify(with_labels, errors=checkify.index_checks))
    checked(np.zeros((2, 200)), np.array([-1, 200]))[0].throw()


# --- Options


def test_weights_and_ignored_rows_by_hand():
    logits = np.array([[0.5, -1.0, 2.0], [0.0, 1.0, -0.5], [3.0, 0.0, 1.0]])
    labels, w = np.array([2, 0, 1]), np.array([1.0, 10.0, 4.0])
    rows = np.log(np.exp(logits).sum(1)) - logits[np.arange(3), labels]
    options = {"class_weights": w, "ignore_index": 1}

    @jax.jit
    def losses_of(z, y):
        return (
            softmax_cross_entropy(z, y, **options),
            softmax_cross_entropy(z, y, reduction="none", **options),
            softmax_cross_entropy(z, jnp.full(3, 1), reduction="sum", ignore_index=1),
            multiclass_hinge(z, y, power=2, class_weights=w),
        )

    mean, each, ignored, hinge = losses_of(logits, labels)
    np.testing.assert_allclose(mean, (4 * rows[0] + rows[1]) / 5, rtol=1e-15)
    np.testing.assert_allclose(each, [4 * rows[0], rows[1], 0.0], rtol=1e-14)
    assert ignored == 0
    excess = np.maximum(0.0, logits - logits[np.arange(3), labels][:, None] + 1.0) ** 2
    excess[np.arange(3), labels] = 0.0
    np.testing.assert_allclose(hinge, (w[labels] * excess.sum(1)).mean(), rtol=1e-15)


@pytest.mark.parametrize("reduction", ["sum", "none"])
def test_only_a_mean_needs_rows(reduction):
    none, labels = np.zeros((0, 3)), np.zeros(0, np.int32)
    shape = () if reduction == "sum" else (0,)

    @jax.jit
    def pulled(none):
        kinds = (
            functools.partial(f, reduction=reduction)
            for f in (softmax_cross_entropy, multiclass_hinge)
        )
        pairs = (jax.vjp(lambda z, loss=loss: loss(z, labels), none) for loss in kinds)
        return [(value, pull(value)[0]) for value, pull in pairs]

    for value, slope in pulled(none):
        assert value.shape == shape
        assert slope.shape == (0, 3)
    assert jax.jit(functools.partial(mean_squared_error, reduction="sum"))(none, none) == 0


def test_weights_and_targets_have_dtypes_of_their_own():
    logits, labels = jnp.zeros((2, 3), jnp.bfloat16), jnp.array([0, 2])
    weights = jnp.array([1.0, 2.0, 3.0], jnp.float32)
    targets = jnp.full((2, 3), 1 / 3, jnp.float64)
    for loss in (softmax_cross_entropy, multiclass_hinge):
        value, slopes = jax.eval_shape(
            jax.value_and_grad(
                lambda z, w, loss=loss: loss(z, labels, class_weights=w), argnums=(0, 1)
            ),
            logits,
            weights,
        )
        assert (value.dtype, *(d.dtype for d in slopes)) == (jnp.bfloat16,) * 2 + (jnp.float32,)
    both = jax.value_and_grad(softmax_cross_entropy, (0, 1))
    value, slopes = jax.eval_shape(both, logits, targets)
    assert (value.dtype, *(d.dtype for d in slopes)) == (jnp.bfloat16,) * 2 + (jnp.float64,)


@pytest.mark.slow
def test_options_over_a_mesh():
    """Values and all gradients are one device's, on Auto and Explicit axes and in a shard_map."""
    out = run_python(
        """
import functools, jax, numpy as np, jax.numpy as jnp
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from funcnet.losses import softmax_cross_entropy as entropy, multiclass_hinge as hinge
rng = np.random.default_rng(0)
z, y, w = rng.normal(size=(8, 3)), rng.integers(3, size=8), rng.uniform(0.5, 2, 3)
q = rng.uniform(size=(8, 3))
CASES = [
    (entropy, {"label_smoothing": 0.1}, y), (entropy, {"ignore_index": 1}, y), (hinge, {}, y),
    (functools.partial(entropy, label_smoothing=0.1), {}, q),
]
count = 0
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((4,), ("b",), axis_types=(kind,))
    with jax.set_mesh(mesh):
        place = lambda a: jax.device_put(a, NamedSharding(mesh, P("b")))
        for loss, options, labels in CASES:
            for weights in ((), (w,)):
                def f(z, labels, *weights):
                    return loss(z, labels, class_weights=weights[0] if weights else None, **options)
                which = (0, 2)[: 1 + len(weights)]
                both = jax.value_and_grad(f, which)
                want = both(z, labels, *weights)
                compiled = jax.jit(both).lower(place(z), place(labels), *weights).compile()
                assert "all-gather" not in compiled.as_text(), (loss, options, weights)
                got = compiled(place(z), place(labels), *weights)
                jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-15), got, want)
                assert got[1][0].sharding.spec[0] == "b"
                count += 1
                if kind == AxisType.Auto:  # the sum of the shards' sums is the sum
                    def summed(*a):
                        return jax.lax.psum(loss(a[0], a[1], reduction="sum", **options,
                            class_weights=a[2] if a[2:] else None), "b")
                    specs = (P("b"), P("b"), P())[: 2 + len(weights)]
                    over = jax.shard_map(
                        lambda *a: jax.value_and_grad(summed, which)(*a), in_specs=specs,
                        out_specs=(P(), (P("b"), P())[: len(which)]))
                    got = over(place(z), place(labels), *weights)
                    def alone(*a):
                        return loss(a[0], a[1], reduction="sum", **options,
                            class_weights=a[2] if a[2:] else None)
                    want = jax.value_and_grad(alone, which)(z, labels, *weights)
                    jax.tree.map(
                        lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), got, want)
print(count)
""",
        JAX_ENABLE_X64="1",
        XLA_FLAGS="--xla_force_host_platform_device_count=4",
    )
    assert int(out) == 16


# --- Through training and evaluation


W = np.array([1.0, 7.0, 0.5])
OPTIONS = {"class_weights": W, "ignore_index": 0}
WEIGHTED = functools.partial(softmax_cross_entropy, **OPTIONS)
DATA = data.synthetic(sizes=(60, 25, 5), classes=3, shape=(2, 2, 1))
NET = nets.softmax_classifier(3)


def outputs(net, trained, split, preprocessing):
    x = data.preprocess(preprocessing, split.images, jnp.float64)
    apply = jax.jit(functools.partial(net.apply, train=False))
    return np.asarray(apply(trained.params, trained.state, x)[0])


@pytest.fixture(scope="module")
def weighted_run():
    return train.fit(
        NET, DATA, optimizers.adam(0.1), 2, 20, loss=WEIGHTED, dtype=jnp.float64,
        evaluation_batch_size=10,
    )  # fmt: skip


@pytest.mark.integration
def test_evaluation_is_of_the_whole_split(weighted_run):
    """Weighted means and ignored rows, whichever way the options came, in three uneven batches."""
    run, labels = weighted_run, DATA.val.labels
    output = outputs(NET, run.final, DATA.val, run.preprocessing)
    evaluate = functools.partial(
        train.evaluate, NET, run.final, DATA.val, run.preprocessing, batch_size=10
    )

    @jax.jit
    def losses_of(z, y):
        weighted = softmax_cross_entropy(z, y, class_weights=W)
        halved = softmax_cross_entropy(z / 2, y)
        return WEIGHTED(z, y), softmax_cross_entropy(z, y, reduction="none"), weighted, halved

    want, rows, weighted, halved = losses_of(output, labels)
    counted = labels != 0
    w = np.asarray(W)[labels] * counted
    np.testing.assert_allclose(want, (w * rows).sum() / w.sum(), rtol=1e-14)
    right = output.argmax(1) == labels
    found = evaluate(loss=WEIGHTED)
    np.testing.assert_allclose(found["loss"], want, rtol=1e-14)
    assert found["accuracy"] == right[counted].mean()
    assert run.history[-1]["val_loss"] == found["loss"]
    assert run.history[-1]["val_accuracy"] == found["accuracy"]
    own = evaluate(loss=lambda z, y: softmax_cross_entropy(z, y, class_weights=W))
    np.testing.assert_allclose(own["loss"], weighted, rtol=1e-14)
    assert own["accuracy"] == right.mean()  # no one can see what a function ignores
    mean = evaluate(loss=functools.partial(lambda z, y, t: softmax_cross_entropy(z / t, y), t=2.0))
    np.testing.assert_allclose(mean["loss"], halved, rtol=1e-14)


@pytest.mark.integration
def test_a_label_to_ignore_need_be_no_class(weighted_run):
    """It may be in the data of `fit` and `evaluate`, where other labels are still asked for."""
    train_split, val_split = (
        data.Split(split.images, np.where(np.arange(len(split.labels)) % 4, split.labels, -100))
        for split in (DATA.train, DATA.val)
    )
    dataset = DATA._replace(train=train_split, val=val_split)
    loss = functools.partial(softmax_cross_entropy, ignore_index=-100)
    run = train.fit(NET, dataset, optimizers.adam(0.1), 1, 20, loss=loss, dtype=jnp.float64)
    output = outputs(NET, run.final, val_split, run.preprocessing)
    counted = val_split.labels != -100
    right = (output.argmax(1) == val_split.labels)[counted]
    assert run.history[-1]["val_accuracy"] == right.mean()
    with pytest.raises(data.LabelError, match="is -100, expected a class"):
        train.evaluate(NET, run.final, val_split, run.preprocessing)
    none = data.Split(val_split.images, np.full(25, -100))
    found = train.evaluate(NET, run.final, none, run.preprocessing, loss=loss)
    assert np.isnan(found["loss"])
    assert np.isnan(found["accuracy"])


def test_the_steps_accuracy_is_of_the_rows_that_count():
    state = train.init_state(nets.affine(3), optimizers.sgd(0.1), KEY, (3,), jnp.float64)
    state = state._replace(params=AffineParams(np.eye(3), np.zeros(3)))
    x = np.eye(3)[[0, 1, 2, 2, 1]]
    x[4, 0] = np.nan
    for loss, accuracy in ((softmax_cross_entropy, 3 / 5), (WEIGHTED, 2 / 3)):
        step = jax.jit(train.make_step(nets.affine(3), optimizers.sgd(0.1), loss))
        _, metrics = step(state, (x, np.array([0, 1, 1, 2, 0])))
        assert metrics["accuracy"] == np.float32(accuracy)


IDENTITY = nets.Net(lambda key, shape: ((), ()), lambda p, s, x, *, train=False, key=None: (x, s))


def test_a_row_with_a_nan_is_wrong():
    """Even where the first NaN, which argmax finds, stands at the label."""
    images = np.zeros((10, 2))
    images[:, 0], images[3:, 0] = 1.0, np.nan
    split = data.Split(images, np.array([0] * 9 + [1]))
    assert train.evaluate(IDENTITY, ((), ()), split)["accuracy"] == 0.3


@pytest.mark.integration
def test_a_sweep_counts_as_a_run_does(weighted_run):
    result = sweep.run(
        lambda learning_rate: sweep.Trial(NET, optimizers.adam(learning_rate), loss=WEIGHTED),
        DATA, {"learning_rate": [0.1]}, how="loop", epochs=2, batch_size=20, dtype=jnp.float64,
        evaluation_batch_size=10,
    )  # fmt: skip
    np.testing.assert_array_equal(result.val_accuracy[0], weighted_run.history["val_accuracy"])
    np.testing.assert_array_equal(result.train_accuracy[0], weighted_run.history["train_accuracy"])


@pytest.mark.parametrize("how", ["weights", "probabilities"])
def test_a_step_takes_options(how):
    """Three steps against those of the formula, weights as numbers of the program or traced."""
    net, optimizer = nets.affine(3), optimizers.sgd(0.5)
    state = train.init_state(net, optimizer, KEY, (4,), jnp.float64)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(6, 4)), np.array([0, 1, 2, 2, 1, 0])
    labels = y if how == "weights" else rng.dirichlet(np.ones(3), 6)

    @jax.jit
    @jax.value_and_grad
    def expected(params):
        logs = jax.nn.log_softmax(x @ params.w + params.b[None])
        if how == "weights":
            w = W[y]
            return -(w * logs[jnp.arange(6), y]).sum() / w.sum()
        return -(W[None] * labels * logs).sum() / 6

    @jax.jit
    def stepped(state, weights):
        loss = functools.partial(softmax_cross_entropy, class_weights=weights)
        return train.make_step(net, optimizer, loss)(state, (x, labels))

    params = jax.device_get(state.params)
    for _ in range(3):
        state, metrics = stepped(state, W)
        value, slope = jax.device_get(expected(params))
        np.testing.assert_allclose(metrics["loss"], value, rtol=1e-14)
        assert ("accuracy" in metrics) == (how == "weights")
        params = jax.tree.map(lambda p, d: p - 0.5 * d, params, slope)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-14), state.params, params)


# --- What is compiled for a net


@pytest.mark.integration
def test_an_evaluation_is_compiled_once_and_freed_with_its_net():
    traces = []

    def made():
        inner = nets.fully_connected_net([4], 3, norm="batch")

        def apply(params, state, x, **options):
            traces.append(x.shape)
            return inner.apply(params, state, x, **options)

        return nets.Net(inner.init, apply)

    net = made()
    state = train.init_state(net, optimizers.sgd(0.1), KEY, (2, 2, 1))
    trained, first = state[:2], {}
    for split in (DATA.val, DATA.test, DATA.val):
        found = train.evaluate(net, trained, split, None, batch_size=10)
        assert first.setdefault(len(split.labels), found) == found
    assert traces.count((10, 2, 2, 1)) == 1
    loss = functools.partial(softmax_cross_entropy, label_smoothing=0.1)
    gc.collect()  # of other tests' nets
    kept = len(train._evaluation._PROGRAMS)
    train.evaluate(net, trained, DATA.val, None, loss=loss, batch_size=10)
    assert traces.count((10, 2, 2, 1)) == 1
    assert len(train._evaluation._PROGRAMS) == kept + 1
    gone = [weakref.ref(owner) for owner in (net.apply, loss)]
    programs = [weakref.ref(p) for p in train._evaluation._PROGRAMS.values()]
    del net, loss
    gc.collect()
    assert [ref() for ref in gone] == [None, None]
    assert len(train._evaluation._PROGRAMS) == kept - 1
    assert sum(ref() is None for ref in programs) == 2


# --- Peers


@pytest.mark.slow
def test_options_are_torchs():
    """Values and gradients of all combinations, against torch's own functions in float64."""
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(6, 4)), np.array([0, 3, 2, 2, 1, 0])
    w, q = rng.uniform(0.5, 2, 4), rng.dirichlet(np.ones(4), 6)
    count = 0

    def compare(ours, theirs, *floats):
        nonlocal count
        tensors = [torch.tensor(x, requires_grad=True) for x in floats]
        want = theirs(*tensors)
        dy = rng.normal(size=tuple(want.shape))
        (want * torch.tensor(dy)).sum().backward()
        got, pull = jax.vjp(ours, *map(jnp.asarray, floats))
        np.testing.assert_allclose(got, want.detach().numpy(), rtol=1e-13, atol=1e-14)
        for d, x in zip(pull(jnp.asarray(dy)), tensors, strict=True):
            np.testing.assert_allclose(d, x.grad.numpy(), rtol=1e-13, atol=1e-14)
        count += 1

    functional = torch.nn.functional
    for reduction, weighted in itertools.product(("mean", "sum", "none"), (False, True)):
        weight = torch.tensor(w) if weighted else None
        own = jnp.asarray(w) if weighted else None
        for s, ignore in itertools.product((0.0, 0.1), (None, -100, 2)):
            labels = np.where(y == 3, -100, y) if ignore == -100 else y
            compare(
                lambda z: softmax_cross_entropy(
                    z, jnp.asarray(labels), s, own, ignore, reduction  # noqa: B023
                ),
                lambda z: functional.cross_entropy(
                    z, torch.tensor(labels), weight, reduction=reduction,  # noqa: B023
                    label_smoothing=s, ignore_index=-100 if ignore is None else ignore,  # noqa: B023
                ),
                z,
            )  # fmt: skip
        for s in (0.0, 0.1):
            compare(
                lambda z, q: softmax_cross_entropy(z, q, s, own, None, reduction),  # noqa: B023
                lambda z, q: functional.cross_entropy(
                    z, q, weight, reduction=reduction, label_smoothing=s  # noqa: B023
                ),
                z, q,
            )  # fmt: skip
        for power, margin in itertools.product((1, 2), (1.0, 0.3)):
            compare(
                lambda z: multiclass_hinge(
                    z, jnp.asarray(y), margin, power, own, reduction  # noqa: B023
                ) / 4,
                lambda z: functional.multi_margin_loss(
                    z, torch.tensor(y), power, margin, weight, reduction=reduction  # noqa: B023
                ),
                z,
            )  # fmt: skip
    for reduction in ("mean", "sum", "none"):
        compare(
            lambda a, b: mean_squared_error(a, b, reduction),  # noqa: B023
            lambda a, b: functional.mse_loss(a, b, reduction=reduction),  # noqa: B023
            z, q,
        )  # fmt: skip
    assert count == 6 * (6 + 2 + 4) + 3
