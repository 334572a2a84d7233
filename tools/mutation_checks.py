"""What must notice a mutant: for each rule and each optimizer, proofs from cheap to dear.

The truths (values and cotangents of the plain twins, steps of optax) are computed once, before any
mutant is planted. A proof that raises has noticed the mutant.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import kernels
from funcnet.catalogue import ROWS, Case, Refusal, Row, Sample
from funcnet.checks._rules import raw_rules
from funcnet.cli._certificate import certify
from funcnet.kernels import _conv_cpu, _conv_xla, _products
from funcnet.layers import AffineParams, BatchStats, ConvParams, NormParams
from tests.support import conv_cases
from tests.support.optimizer_table import TABLE
from tests.support.rules import cotangents, is_float, problem_of, worst
from tools.mutation import Proof, Subject, notice
from tools.mutation_optimizers import optimizer_subject

EPS = np.finfo(np.float64).eps
LOW = (jnp.float32, jnp.bfloat16, jnp.float16)
CERTIFIED = ("nonfinite", "weak_types", "jit", "vmap", "second_order")
ROWS_OF_A_LONG_BATCH = 1024
MAPS = "kernels"  # the subject that is no rule

# Rules -------------------------------------------------------------------------------------


def pulled(f: Any, floats: list[Any], dys: list[Any]) -> tuple[Any, Any]:
    ys, pull = jax.vjp(lambda x: f(x), floats)
    return ys, pull(dys)[0]


def first_of(dys: list[Any]) -> list[Any]:
    return [d[0] for d in dys]


def types_of(tree: Any) -> list[Any]:
    return [(x.shape, x.dtype) for x in jax.tree.leaves(tree)]


def agrees(row: Row, sample: Sample, dtype: Any = jnp.float64, looser: float = 1.0) -> Proof:
    """Value, cotangents, shapes and dtypes, against the twin in float64."""
    rng = np.random.default_rng(7)
    p = problem_of(row, sample, dtype)
    dys = first_of(cotangents(jax.eval_shape(p.rule, p.floats), rng, 1))
    exact = jax.tree.map(lambda x: np.asarray(x, np.float64), (p.floats, dys))
    want = jax.tree.map(np.asarray, jax.jit(functools.partial(pulled, p.plain))(*exact))
    types = types_of(jax.eval_shape(lambda x: pulled(p.rule, x, dys), p.floats))
    eps = float(jnp.finfo(dtype).eps)
    if dtype == jnp.float64:
        tolerance = p.tolerance * eps
    else:
        own = p.tolerance if dtype == jnp.float32 else 2.0
        tolerance = own * eps + p.tolerance * 2.0**-23

    def proof() -> None:
        got = pulled(p.rule, p.floats, dys)
        notice(types_of(got) == types)
        notice(worst(got, want, 1.0) <= looser * tolerance)

    return proof


ROUNDINGS = {"leaky_relu": 2, "affine_batch_norm_relu": 32}
"""leaky_relu rounds its slope too; the fusion rounds what it normalises, which spreads it."""


def rounds_once(row: Row, sample: Sample, dtype: Any) -> Proof:
    """The value is the float64 one rounded once, entry by entry, and what float32 sums cost."""
    p = problem_of(row, sample, dtype)
    want = [np.asarray(y) for y in p.plain([x.astype(jnp.float64) for x in p.floats])]
    unit = ROUNDINGS.get(row.name, 1) * float(jnp.finfo(dtype).eps) / 2

    def proof() -> None:
        for got, y in zip(p.rule(p.floats), want, strict=True):
            if got.dtype == dtype and y.size:
                error = np.abs(np.asarray(got, np.float64) - y)
                sums = p.tolerance * 2.0**-23 * max(np.abs(y).max(), 1e-3)
                notice(np.all(error <= unit * np.abs(y) * (1 + unit) + sums))

    return proof


def keeps_conventions(row: Row) -> list[Proof]:
    return [
        functools.partial(_convention, row, case)
        for case in (*row.conventions, *FURTHER_CASES.get(row.name, ()))
    ]


def _convention(row: Row, case: Any) -> None:
    p = problem_of(row, case.sample)
    floats = [jnp.asarray(leaf) for leaf in jax.tree.leaves(case.sample.args) if is_float(leaf)]
    ones = [jnp.ones(y.shape, y.dtype) for y in jax.eval_shape(p.rule, floats)]
    y, dx = pulled(p.rule, floats, ones)
    close = functools.partial(np.testing.assert_allclose, rtol=2 * EPS)
    if case.value is not None:
        for got, want in zip(y, jax.tree.leaves(case.value), strict=True):
            close(got, want, atol=0)
    if case.cotangents is not None:
        arguments = zip(case.sample.args, case.cotangents, strict=True)
        wanted = [w for _, c in arguments if c is not None for w in jax.tree.leaves(c)]
        for got, want in zip(dx, wanted, strict=True):
            close(got, want, atol=EPS)


def refuses(row: Row) -> list[Proof]:
    def proof(refusal: Any) -> None:
        try:
            row.function(*refusal.sample.args, **refusal.sample.static)
        except refusal.error as error:
            notice(re.search(refusal.match, str(error)) and str(error).startswith(row.name))
        else:
            raise AssertionError("was not refused")

    return [
        functools.partial(proof, refusal)
        for refusal in (*row.refusals, *FURTHER_REFUSALS.get(row.name, ()))
    ]


def has_the_structure(row: Row, sample: Sample, dtypes: tuple[Any, ...]) -> Proof:
    """What the raw backward function returns, in one dtype or with the arguments in several."""
    turn = itertools.cycle(dtypes)
    args = jax.tree.map(
        lambda a: jnp.asarray(a).astype(next(turn)) if is_float(a) else a, sample.args
    )

    f = functools.partial(row.function, **sample.static)
    leaves, tree = jax.tree.flatten(args)
    arrays = [i for i, leaf in enumerate(leaves) if hasattr(leaf, "dtype")]

    def fresh() -> Any:
        """A new function each time: JAX remembers what it has traced under an old one."""

        def of_arrays(*given: Any) -> Any:
            filled = list(leaves)
            for i, x in zip(arrays, given, strict=True):
                filled[i] = x
            with jax.numpy_dtype_promotion("standard"):  # arguments of several dtypes meet
                return f(*jax.tree.unflatten(tree, filled))

        return of_arrays

    given = [leaves[i] for i in arrays]
    types = types_of(jax.eval_shape(fresh(), *given))

    def proof() -> None:
        notice(types_of(jax.eval_shape(fresh(), *given)) == types)
        for raw in raw_rules(fresh(), *given):
            notice(not raw.problems)

    return proof


def repeated(row: Row, sample: Sample) -> Sample:
    """The same rows again and again: decisions stay clear, sums over the batch grow long."""
    axes = row.batch or tuple(0 if getattr(a, "ndim", 0) else None for a in sample.args)

    def longer(a: Any, axis: int | None) -> Any:
        if axis is None:
            return a
        return np.resize(a, (ROWS_OF_A_LONG_BATCH, *a.shape[1:]))

    return Sample(
        tuple(longer(a, axis) for a, axis in zip(sample.args, axes, strict=True)), sample.static
    )


def long_rows(name: str) -> list[Sample]:
    """Samples whose rows are long, for the rules that sum along them."""
    rng = np.random.default_rng(3)
    c = 2048
    x, gains = rng.normal(size=(2, c)), rng.uniform(0.5, 2.0, c)
    shifts = rng.normal(size=c)
    layers = {
        "layer_norm": lambda: ((NormParams(gains, shifts), x),),
        "rms_norm": lambda: ((gains, x), (gains, 300 * x)),
        "softmax_cross_entropy": lambda: ((x, np.array([3, 7])),),
        "affine": lambda: ((AffineParams(x.T / 45, shifts[:2]), x),),
    }
    return [Sample(args) for args in layers.get(name, tuple)()]


def _further_samples() -> dict[str, list[Sample]]:
    """What the catalogue's samples leave out: axes that differ, a padding of 0, a raw key."""
    rng = np.random.default_rng(9)

    def conv(kh: int, kw: int, h: int, w: int, **static: Any) -> Sample:
        params = ConvParams(rng.normal(size=(kh, kw, 2, 2)), rng.normal(size=2))
        return Sample((params, rng.normal(size=(2, h, w, 2))), static)

    convolutions = [
        conv(4, 1, 6, 5),
        conv(1, 4, 6, 5, stride=(1, 2)),
        conv(3, 3, 6, 5, padding=0),
        conv(5, 2, 9, 8, stride=(2, 1)),
    ]
    images = rng.permutation(2.0 * np.arange(2 * 7 * 6 * 2)).reshape(2, 7, 6, 2)
    pools = [
        Sample((images,), {"window": (4, 1), "stride": 1, "padding": "SAME"}),
        Sample((images,), {"window": (1, 4), "stride": (1, 2), "padding": "SAME"}),
        Sample((images,), {"window": (3, 2), "padding": 0}),
        Sample((images,), {"window": (2, 3), "stride": (3, 4)}),
    ]
    key = np.asarray(jax.random.PRNGKey(0))
    scores = 2.0 * rng.normal(size=(2, 4, 5))
    labels = rng.integers(5, size=(2, 4)).astype(np.int32)
    gains, shifts = rng.uniform(0.5, 2.0, 3), rng.normal(size=3)
    norm = NormParams(gains, shifts)
    two, one = np.array([[-1.0, 0.5, 2.0], [1.5, -1.0, 4.0]]), rng.normal(size=3)
    stats = BatchStats(rng.normal(size=3), rng.uniform(0.5, 2.0, 3))
    affine = AffineParams(np.eye(3), np.full(3, 0.3))
    return {
        "softmax_cross_entropy": [
            Sample((scores, labels), {"label_smoothing": 0.1}),
            Sample((scores[0, 0], labels[0, 0]), {"label_smoothing": 0.1}),
            Sample((rng.normal(size=(2, 200)), np.array([3, 120], np.int8))),
        ],
        "multiclass_hinge": [Sample((scores, labels)), Sample((scores[0, 0], labels[0, 0]))],
        "batch_norm": [Sample((norm, two))],
        "affine_batch_norm_relu": [Sample(((affine, norm), two))],
        "batch_norm_inference": [Sample((norm, stats, one))],
        "layer_norm": [Sample((norm, one))],
        "rms_norm": [Sample((gains, one))],
        "conv2d": convolutions,
        "conv_relu": convolutions,
        "conv_relu_pool": convolutions,
        "max_pool": pools,
        "avg_pool": pools,
        "dropout": [Sample((key, rng.normal(size=(5, 4))), {"rate": 0.4})],
    }


def _further_cases() -> dict[str, list[Case]]:
    zeros, image = np.zeros((1, 1, 1, 1)), np.ones((1, 2, 2, 1))
    flat = (ConvParams(zeros, np.zeros(1)), np.zeros(1))
    return {
        name: [
            Case(
                "nothing passes where z is 0",
                Sample((ConvParams(zeros, np.zeros(1)), image)),
                value,
                (ConvParams(zeros, flat[1]), np.zeros((1, 2, 2, 1))),
            )
        ]
        for name, value in (
            ("conv_relu", np.zeros((1, 2, 2, 1))),
            ("conv_relu_pool", np.zeros((1, 1, 1, 1))),
        )
    }


def _further_refusals() -> dict[str, list[Refusal]]:
    """What is too small: no axis, no channel, one value a channel."""
    none = NormParams(np.ones(0), np.ones(0))
    stats = BatchStats(np.ones(0), np.ones(0))
    first = {
        "batch_norm": (none,),
        "batch_norm_inference": (none, stats),
        "layer_norm": (none,),
        "rms_norm": (np.ones(0),),
    }
    small = Sample((NormParams(np.ones(3), np.ones(3)), np.ones((1, 1, 1, 3))))
    scalar = Sample((np.ones(()), np.zeros((), np.int32)))
    refusals = {
        name: [
            Refusal(why, Sample((*args, x)), ValueError, "expected .*channels")
            for why, x in (("a scalar", np.ones(())), ("no channels", np.ones((4, 5, 0))))
        ]
        for name, args in first.items()
    }
    refusals["batch_norm"].append(Refusal("one pixel", small, ValueError, "expected at least 2"))
    for name in ("softmax_cross_entropy", "multiclass_hinge"):
        refusals[name] = [Refusal("a scalar", scalar, ValueError, "expected .*classes")]
    return refusals


FURTHER_SAMPLES, FURTHER_CASES = _further_samples(), _further_cases()
FURTHER_REFUSALS = _further_refusals()


def batches(row: Row) -> list[Proof]:
    def proof(count: int) -> None:
        expected = row.empty if count == 0 else row.single
        sample = row.samples(np.random.default_rng(1))[0]
        axes = row.batch or tuple(0 if getattr(a, "ndim", 0) else None for a in sample.args)
        pairs = zip(sample.args, axes, strict=True)
        args = tuple(a[:count] if axis == 0 else a for a, axis in pairs)
        if expected == "is refused":
            try:
                row.function(*args, **sample.static)
            except ValueError as error:
                notice("expected at least" in str(error))
                return
            raise AssertionError("was not refused")
        p = problem_of(row, Sample(args, sample.static))
        ys, pull = jax.vjp(p.rule, p.floats)
        notice(types_of(ys) == types_of(jax.eval_shape(p.plain, p.floats)))
        (dx,) = pull([jnp.ones_like(y) for y in ys])
        notice(all(np.isfinite(d).all() for d in dx))
        if count == 0 and 0 in axes:
            notice(all(not d.any() for d in dx))

    return [functools.partial(proof, count) for count in (0, 1)]


def keeps_bytes(row: Row, sample: Sample, dtype: Any) -> Proof:
    p = problem_of(row, sample, dtype)
    itemsize = np.dtype(dtype).itemsize

    def proof() -> None:
        _, pull = jax.vjp(p.rule, p.floats)
        own = {id(x) for x in p.floats}
        arrays = {id(leaf): leaf for leaf in jax.tree.leaves(pull) if id(leaf) not in own}
        kept = [_bytes(leaf) for leaf in arrays.values()]
        notice(sum(kept) == row.residual_bytes(sample, itemsize))

    return proof


def _bytes(leaf: Any) -> int:
    dtype = getattr(leaf, "dtype", None)
    if dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    elif not is_float(leaf) and dtype not in (np.uint8, np.bool_):
        return 0
    return leaf.nbytes


def far_from_zero(row: Row) -> list[Proof]:
    """Elementwise rules where exponentials and powers overflow; norms of numbers far away."""
    if row.kind == "elementwise" and len(row.samples(np.random.default_rng(1))[0].args) == 1:
        if row.name == "flatten":
            return []
        x = np.array([[-1e13, -750.0, -300, -40, -20, -5, -1e-4, 1e-4, 5, 20, 40, 300, 750, 1e13]])
        samples = row.samples(np.random.default_rng(1))
        statics = [dict(t) for t in {tuple(s.static.items()) for s in samples}]
        return [
            _each_entry(row, Sample((x,), static), dtype)
            for static in statics
            for dtype in (jnp.float64, jnp.float32)
        ]
    if row.name in ("batch_norm", "layer_norm", "group_norm"):
        sample = row.samples(np.random.default_rng(1))[0]
        params, x = sample.args
        far = np.asarray(x + 1e4, np.float32).astype(np.float64)
        return [agrees(row, Sample((params, far), sample.static), jnp.float32, 4.0)]
    return []


def _each_entry(row: Row, sample: Sample, dtype: Any) -> Proof:
    p = problem_of(row, sample, dtype)
    exact = [x.astype(jnp.float64) for x in p.floats]
    ones = [jnp.ones(sample.args[0].shape)]
    want = jax.tree.map(np.asarray, pulled(p.plain, exact, ones))
    eps, least = float(jnp.finfo(dtype).eps), float(jnp.finfo(dtype).smallest_normal)
    # Where the slope is read off the output it is right to eps, not to eps of itself; and in
    # float64 the twin is no better than the rule.
    entry = least if dtype == jnp.float32 else 1.0
    floors = (entry, entry if row.name == "softplus" else 1.0)

    def proof() -> None:
        got = pulled(p.rule, p.floats, [ones[0].astype(dtype)])
        for part, right, floor in zip(got, want, floors, strict=True):
            error = np.abs(np.asarray(part[0], np.float64) - right[0])
            notice(np.all(error <= 64 * eps * np.maximum(np.abs(right[0]), floor)))
        slope = jax.grad(lambda x: jax.vjp(p.rule, [x])[1]([jnp.ones_like(x)])[0][0].sum())
        notice(np.isfinite(slope(p.floats[0])).all())

    return proof


def is_certified(row: Row, index: int) -> Proof:
    def proof() -> None:
        rule = row.function
        new = jax.custom_vjp(rule.fun, nondiff_argnums=rule.nondiff_argnums)
        new.defvjp(rule.fwd, rule.bwd)  # a function that JAX has not traced yet
        report = certify(dataclasses.replace(row, function=new), index, checks=CERTIFIED)
        notice(report.ok, report.failed)

    return proof


def rule_subject(row: Row) -> Subject:
    samples = row.samples(np.random.default_rng(1))
    first = samples[0]
    mixed = (
        (jnp.bfloat16, jnp.float32),
        (jnp.float32, jnp.bfloat16, jnp.float16),
        (jnp.float64, jnp.float32),
        (jnp.float64, jnp.float64, jnp.float32),
    )

    stages: list[Callable[[], list[Proof]]] = [
        lambda: [agrees(row, first)],
        lambda: [agrees(row, s) for s in (*samples[1:], *FURTHER_SAMPLES.get(row.name, ()))],
        lambda: refuses(row),
        lambda: keeps_conventions(row),
        lambda: [has_the_structure(row, first, (dtype,)) for dtype in LOW],
        lambda: [has_the_structure(row, s, (jnp.bfloat16,)) for s in samples[1:]],
        lambda: [has_the_structure(row, first, dtypes) for dtypes in mixed],
        lambda: batches(row),
        lambda: [keeps_bytes(row, s, d) for s in samples for d in (jnp.float64, jnp.bfloat16)],
        lambda: [agrees(row, first, dtype) for dtype in LOW],
        lambda: [agrees(row, s, d) for s in long_rows(row.name) for d in LOW],
        lambda: (
            []
            if row.kind == "elementwise" or row.name == "l2_penalty"
            else [agrees(row, repeated(row, first), d) for d in (jnp.bfloat16, jnp.float16)]
        ),
        lambda: [rounds_once(row, s, d) for s in samples for d in (jnp.bfloat16, jnp.float16)],
        lambda: far_from_zero(row),
        lambda: [is_certified(row, 0)],
    ]
    seeds = (row.function.fun, row.function.fwd, row.function.bwd)
    return Subject(row.name, seeds, tuple(stages))


def maps_subject() -> Subject:
    """The maps that rules reach through primitives, whose code nobody calls by name."""

    def proofs_of(geometry: Any, dtype: Any) -> Iterator[Proof]:
        x, w, dy, where = conv_cases.drawn(geometry, np.random.default_rng(2), dtype)
        few = dy[:, :-1] if dy.shape[1] > 1 else dy
        groups = where.pop("groups", 1)
        maps = (
            ((_conv_xla.xla_conv, _conv_cpu.chunked_conv), (x, w), {}),
            (
                (_conv_xla.xla_kernel_gradient, _conv_cpu.chunked_kernel_gradient),
                (x, few),
                {"size": w.shape[:2]},
            ),
            ((_conv_xla.xla_input_gradient,), (few, w), {"size": x.shape[1:3]}),
        )
        if groups > 1:  # the depthwise ways, and one group after the other
            where["groups"] = groups
            ways = _conv_cpu.cpu_conv, _conv_cpu.cpu_kernel_gradient, _conv_cpu.cpu_input_gradient
            maps = tuple(
                ((xla, way), args, size)
                for ((xla, *_), args, size), way in zip(maps, ways, strict=True)
            )
        for functions, args, size in maps:
            want = functions[0](*args, **size, **where)
            for function in functions:
                for cache_bytes in (2**12, 2**14, 2**15, 2**16):
                    yield functools.partial(same, function, args, size | where, want, cache_bytes)

    def same(function: Any, args: Any, options: Any, want: Any, cache_bytes: int) -> None:
        kept, _conv_cpu.CACHE_BYTES = _conv_cpu.CACHE_BYTES, cache_bytes
        try:
            conv_cases.assert_close(function(*args, **options), want, args[0].size)
        finally:
            _conv_cpu.CACHE_BYTES = kept

    def products() -> list[Proof]:
        rng = np.random.default_rng(2)
        a, b = (jnp.asarray(rng.normal(size=(4, 4)), jnp.bfloat16) for _ in range(2))
        x, y = np.float64(a), np.float64(b)
        wants = {"nn": x @ y, "tn": x.T @ y, "nt": x @ y.T}
        operands = (a, b), (a, b.astype(jnp.float32)), (a.astype(jnp.float32), b)
        return [
            functools.partial(close, functools.partial(product, *pair, form), want)
            for form, want in wants.items()
            for product in (by_xla, _products.product)
            for pair in operands[: 1 if product is by_xla else 3]
        ] + [
            functools.partial(close, functools.partial(with_bias, *pair, relu), want)
            for relu, want in ((False, x @ y + 0.5), (True, np.maximum(x @ y + 0.5, 0)))
            for pair in operands
        ]

    def with_bias(a: Any, b: Any, relu: bool) -> Any:
        return kernels.matmul_bias(a, b, jnp.full(4, 0.5, jnp.bfloat16), relu=relu)

    def by_xla(a: Any, b: Any, form: str) -> Any:
        return _products.xla_product(a, b, form=form)

    def close(product: Any, want: Any) -> None:
        with jax.numpy_dtype_promotion("standard"):
            got = product()
        notice(got.dtype == jnp.float32)
        np.testing.assert_allclose(got, want, rtol=1e-6, atol=1e-5)

    def mixed() -> list[Proof]:
        """Operands of two dtypes, of which one is float32."""
        x, w, _, where = conv_cases.drawn(
            conv_cases.GEOMETRIES[0], np.random.default_rng(3), jnp.bfloat16
        )
        b, options = jnp.ones(w.shape[-1], jnp.bfloat16), {**where, "relu": False}
        wide = [a.astype(jnp.float32) for a in (x, w, b)]
        want = _conv_xla.xla_conv(*wide[:2], **where) + 1
        return [
            functools.partial(
                close, functools.partial(kernels.conv_bias, *operands, **options), want
            )
            for operands in ((x, w, b), (wide[0], w, b), (x, wide[1], b), (x, w, wide[2]))
        ]

    seeds = (
        _conv_xla.xla_conv,
        _conv_xla.xla_kernel_gradient,
        _conv_xla.xla_input_gradient,
        _conv_cpu.chunked_conv,
        _conv_cpu.chunked_kernel_gradient,
        _conv_cpu.depthwise_conv,
        _conv_cpu.depthwise_kernel_gradient,
        _conv_cpu.depthwise_input_gradient,
        _conv_cpu._group_by_group,
        kernels.conv_bias,
        _products.xla_product,
        _products.product,
        kernels.matmul_bias,
    )
    by_geometry = [
        lambda g=g, d=d: list(proofs_of(g, d))
        for d in (jnp.float64, jnp.bfloat16)
        for g in (
            *(*conv_cases.GROUPED, *conv_cases.ONE_ROW),
            *(*conv_cases.GEOMETRIES, *conv_cases.DILATED),
        )
    ]
    return Subject(MAPS, seeds, (*by_geometry, products, mixed))


@functools.cache
def subjects() -> dict[str, Subject]:
    """Every rule of the catalogue and every row of the optimizers' table."""
    rules = [rule_subject(row) for row in ROWS.values()]
    return {s.name: s for s in (*rules, maps_subject(), *map(optimizer_subject, TABLE))}


@functools.cache
def proofs(name: str, stage: int) -> list[Proof]:
    """The proofs of one stage; their truths are computed here, so never with a mutant planted."""
    stages = subjects()[name].stages
    return stages[stage]() if stage < len(stages) else []
