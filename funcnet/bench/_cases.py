"""Which nets are measured: realistic ones, batch 100, float32."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

BATCH = 100


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
            (
                rng.standard_normal((size, *self.input_shape), np.float32),
                rng.integers(10, size=size, dtype=np.int32),
            )
            for _ in range(count)
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

DIGITS = Step("digits", "64-100×2-10, Adam", _fully_connected((100,) * 2), (64,), "adam", 1e-3)

RUNS = (RUN.name, DIGITS.name)
"""The runs that are measured."""
