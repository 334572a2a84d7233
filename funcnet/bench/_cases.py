"""Which shapes each rule is measured with, and which nets: realistic ones, batch 100, float32."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

from funcnet.layers import AffineParams, BatchStats, ConvParams, NormParams

KEY = "key"  # stands for a random key, which only JAX can make
BATCH = 100


class Case(NamedTuple):
    """Arguments of a rule to measure it with.

    Attributes:
      label: the shapes in words.
      draw: makes the positional arguments, arrays of float32 or integers; the string "key" stands
        for a random key.
      static: the static options.

    >>> case = Case("3 rows of 4", lambda rng: (rng.normal(size=(3, 4)).astype(np.float32),))
    >>> case.arguments()[0].shape
    (3, 4)
    """

    label: str
    draw: Callable[[Generator], tuple[Any, ...]]
    static: dict[str, Any] = {}  # noqa: RUF012  (never written to)

    def arguments(self) -> tuple[Any, ...]:
        """The arguments, the same at each call."""
        return self.draw(np.random.default_rng(0))


def _normal(rng: Generator, *shape: int) -> Any:  # jax's layers are annotated for jax's arrays
    return rng.standard_normal(shape, np.float32)


def _positive(rng: Generator, c: int) -> Any:
    return rng.uniform(0.5, 2.0, c).astype(np.float32)


def _affine(rng: Generator, d: int, m: int) -> AffineParams:
    return AffineParams(_normal(rng, d, m) / np.float32(np.sqrt(d)), _normal(rng, m))


def _conv(rng: Generator, k: int, cin: int, cout: int) -> ConvParams:
    w = _normal(rng, k, k, cin, cout) / np.float32(np.sqrt(k * k * cin))
    return ConvParams(w, _normal(rng, cout))


def _norm(rng: Generator, c: int) -> NormParams:
    return NormParams(_positive(rng, c), _normal(rng, c))


def _stats(rng: Generator, c: int) -> BatchStats:
    return BatchStats(_normal(rng, c), _positive(rng, c))


def _labels(rng: Generator, n: int, classes: int) -> np.ndarray:
    return rng.integers(classes, size=n, dtype=np.int32)


def _wording(*shape: int) -> str:
    return "×".join(map(str, shape))


def _activations(*extra: tuple[str, dict[str, Any]]) -> tuple[Case, ...]:
    shape = (1000, 1000)
    plain = Case(_wording(*shape), lambda rng: (_normal(rng, *shape),))
    return (plain, *(plain._replace(label=f"{plain.label}, {word}", static=s) for word, s in extra))


def _affines(params: Callable[[Generator, int, int], Any]) -> tuple[Case, ...]:
    def draw(d: int, m: int, rng: Generator) -> tuple[Any, ...]:
        return params(rng, d, m), _normal(rng, BATCH, d)

    return tuple(
        Case(f"{d}→{m}", partial(draw, d, m)) for d, m in ((500, 500), (3072, 500), (100, 100))
    )


def _convs(*shapes: tuple[int, int, int, int]) -> tuple[Case, ...]:
    def draw(k: int, cin: int, cout: int, size: int, rng: Generator) -> tuple[Any, ...]:
        return _conv(rng, k, cin, cout), _normal(rng, BATCH, size, size, cin)

    return tuple(
        Case(f"{k}×{k}, {cin}→{cout}, {size}×{size}", partial(draw, k, cin, cout, size))
        for k, cin, cout, size in shapes
    )


def _sequences(k: int, cin: int, cout: int, length: int) -> Case:
    def draw(rng: Generator) -> tuple[Any, ...]:
        w, b = _conv(rng, k, cin, cout)
        return ConvParams(w[0], b), _normal(rng, BATCH, length, cin)

    return Case(f"{k}, {cin}→{cout}, {length}", draw)


def _transposed(k: int, cin: int, cout: int, size: int, stride: int) -> Case:
    def draw(rng: Generator) -> tuple[Any, ...]:
        w, _ = _conv(rng, k, cout, cin)
        return ConvParams(w, _normal(rng, cout)), _normal(rng, BATCH, size, size, cin)

    words = f"{k}×{k} by {stride}, {cin}→{cout}, {size}×{size}"
    return Case(words, draw, {"stride": stride})


_IMAGES = (BATCH, 32, 32, 32)
_ROWS = (BATCH, 500)


def _norms(make: Callable[[Generator, tuple[int, ...]], Any], **static: Any) -> tuple[Case, ...]:
    def draw(shape: tuple[int, ...], rng: Generator) -> tuple[Any, ...]:
        return make(rng, shape)

    return tuple(Case(_wording(*shape), partial(draw, shape), static) for shape in (_ROWS, _IMAGES))


def _pools() -> tuple[Case, ...]:
    def draw(rng: Generator) -> tuple[Any, ...]:
        return (_normal(rng, *_IMAGES),)

    return (
        Case(f"2×2, {_wording(*_IMAGES)}", draw),
        Case(f"3×3 by 2, {_wording(*_IMAGES)}", draw, {"window": 3, "stride": 2, "padding": 1}),
    )


def _losses(make: Callable[[Generator, int, int], tuple[Any, ...]]) -> tuple[Case, ...]:
    def draw(n: int, c: int, rng: Generator) -> tuple[Any, ...]:
        return make(rng, n, c)

    return tuple(Case(_wording(n, c), partial(draw, n, c)) for n, c in ((BATCH, 10), (1000, 1000)))


_CONVS = (
    (5, 3, 32, 32),
    (3, 64, 64, 32),
    (3, 32, 64, 16),
    (3, 256, 256, 16),
    (3, 64, 128, 8),
)

CASES: dict[str, tuple[Case, ...]] = {
    **{name: _activations() for name in ("relu", "leaky_relu", "elu", "sigmoid", "tanh")},
    "softplus": _activations(),
    "silu": _activations(),
    "gelu": _activations(("exact", {"approximate": False})),
    "dropout": (
        Case("1000×1000", lambda rng: (KEY, _normal(rng, 1000, 1000)), {"rate": 0.5}),
        Case(_wording(*_ROWS), lambda rng: (KEY, _normal(rng, *_ROWS)), {"rate": 0.5}),
    ),
    "affine": _affines(_affine),
    "affine_relu": _affines(_affine),
    "affine_batch_norm_relu": _affines(lambda rng, d, m: (_affine(rng, d, m), _norm(rng, m))),
    "conv2d": _convs(*_CONVS),
    "conv1d": (_sequences(3, 64, 64, 256),),
    "conv2d_transpose": (_transposed(4, 64, 32, 16, 2),),
    "conv_relu": _convs(_CONVS[0], _CONVS[2]),
    "conv_relu_pool": _convs(_CONVS[0], _CONVS[2]),
    "flatten": (Case(_wording(*_IMAGES), lambda rng: (_normal(rng, *_IMAGES),)),),
    "max_pool": _pools(),
    "avg_pool": _pools(),
    "global_avg_pool": (Case(_wording(*_IMAGES), lambda rng: (_normal(rng, *_IMAGES),)),),
    "batch_norm": _norms(lambda rng, shape: (_norm(rng, shape[-1]), _normal(rng, *shape))),
    "batch_norm_inference": _norms(
        lambda rng, shape: (
            _norm(rng, shape[-1]),
            _stats(rng, shape[-1]),
            _normal(rng, *shape),
        )
    ),
    "layer_norm": _norms(lambda rng, shape: (_norm(rng, shape[-1]), _normal(rng, *shape))),
    "group_norm": _norms(
        lambda rng, shape: (_norm(rng, shape[-1]), _normal(rng, *shape)), groups=4
    ),
    "rms_norm": _norms(lambda rng, shape: (_norm(rng, shape[-1]).gamma, _normal(rng, *shape))),
    "softmax_cross_entropy": _losses(lambda rng, n, c: (_normal(rng, n, c), _labels(rng, n, c))),
    "multiclass_hinge": _losses(lambda rng, n, c: (_normal(rng, n, c), _labels(rng, n, c))),
    "mean_squared_error": _losses(lambda rng, n, c: (_normal(rng, n, c), _normal(rng, n, c))),
    "l2_penalty": (
        Case(
            "3072-500-500-500-10",
            lambda rng: (
                {
                    f"affine{i}": _affine(rng, d, m)
                    for i, (d, m) in enumerate(((3072, 500), (500, 500), (500, 500), (500, 10)), 1)
                },
                np.float32(0.1),
            ),
        ),
    ),
}
"""Rule -> the shapes that it is measured with; the first alone with `quick`."""


class Step(NamedTuple):
    """A whole train step: a net as layers in order, its input, and its optimizer.

    A layer is its kind and its numbers: ("affine", units), ("conv", channels, size), ("relu",),
    ("batch_norm",), ("max_pool",) for 2×2.
    """

    name: str
    words: str
    layers: tuple[tuple[Any, ...], ...]
    input_shape: tuple[int, ...]
    optimizer: str
    learning_rate: float

    def batches(self, count: int = 4, size: int = BATCH) -> list[tuple[np.ndarray, np.ndarray]]:
        """Random images and labels of ten classes."""
        rng = np.random.default_rng(0)
        return [
            (_normal(rng, size, *self.input_shape), _labels(rng, size, 10)) for _ in range(count)
        ]


def _fully_connected(hidden: tuple[int, ...], *between: str) -> tuple[tuple[Any, ...], ...]:
    layers: list[tuple[Any, ...]] = []
    for units in hidden:
        layers += [("affine", units), *((kind,) for kind in between), ("relu",)]
    return (*layers, ("affine", 10))


def _convnet(size: int, *channels: int) -> tuple[tuple[Any, ...], ...]:
    layers: list[tuple[Any, ...]] = []
    for filters in channels:
        layers += [("conv", filters, size), ("relu",), ("max_pool",)]
    return (*layers, ("affine", 10))


def _modern(channels: int, pool: bool = True) -> tuple[tuple[Any, ...], ...]:
    """Convolution, pool, batch norm and ReLU, in the order of the speed-run nets."""
    return ("conv", channels, 3), *(("max_pool",),) * pool, ("batch_norm",), ("relu",)


STEPS: dict[str, Step] = {
    step.name: step
    for step in (
        Step(
            "fc500x3",
            "3072-500×3-10, momentum",
            _fully_connected((500,) * 3),
            (3072,),
            "momentum",
            1e-3,
        ),
        Step(
            "fc100x5",
            "3072-100×5-10, momentum",
            _fully_connected((100,) * 5),
            (3072,),
            "momentum",
            1e-3,
        ),
        Step(
            "course_000",
            "3072-500×3-10, batch norm, Adam",
            _fully_connected((500,) * 3, "batch_norm"),
            (3072,),
            "adam",
            1e-3,
        ),
        Step(
            "course_004_convnet",
            "conv5×5 32-relu-pool, affine 10, momentum",
            _convnet(5, 32),
            (32, 32, 3),
            "momentum",
            1e-4,
        ),
        Step(
            "three_conv",
            "conv3×3 32, 64, 128, each relu-pool, affine 10, momentum",
            _convnet(3, 32, 64, 128),
            (32, 32, 3),
            "momentum",
            1e-3,
        ),
        Step(
            "modern_convnet",
            "conv3×3 32, 64-pool, 128-pool, 128-pool, 256, each batch norm and relu, affine 10",
            (
                *_modern(32, pool=False),
                *_modern(64),
                *_modern(128),
                *_modern(128),
                *_modern(256, pool=False),
                ("affine", 10),
            ),
            (32, 32, 3),
            "momentum",
            1e-2,
        ),
    )
}
"""Name -> the whole steps that are measured."""

RUN = STEPS["course_000"]
