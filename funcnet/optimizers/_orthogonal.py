"""What Muon needs beyond Adam: which leaves are matrices, and their orthogonalisation."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.typing import ArrayLike, DTypeLike
from jaxtyping import Float
from optax.contrib import MuonDimensionNumbers

from funcnet.optimizers._frame import is_complex, over

PRECONDITIONINGS = ("frobenius", "spectral", "aol", "schatten")
STANDARD = (3.4445, -4.7750, 2.0315)
DION = (
    (4.0848, -6.8946, 2.9270),
    (3.9505, -6.3029, 2.6377),
    (3.7418, -5.5913, 2.3037),
    (2.8769, -3.1427, 1.2046),
    (2.8366, -3.0525, 1.2012),
)


class MatrixAxes(NamedTuple):
    """How one leaf is read as a stack of matrices: the axes of its rows and of its columns."""

    rows: tuple[int, ...]
    columns: tuple[int, ...]


def newton_schulz_steps(ns_coeffs: Any, ns_steps: Any) -> list[tuple[float, float, float]]:
    """Returns the three coefficients of each Newton-Schulz step; a table has its own number.

    >>> newton_schulz_steps((3.4445, -4.7750, 2.0315), 2)
    [(3.4445, -4.775, 2.0315), (3.4445, -4.775, 2.0315)]
    """
    try:
        steps = ns_steps.__index__()
    except Exception:
        raise TypeError(
            f"muon: ns_steps is {ns_steps!r}, expected a Python int: the steps are unrolled. In "
            'optax.inject_hyperparams name it in static_args=("ns_steps",).'
        ) from None
    if isinstance(ns_coeffs, str):
        presets = {"standard": STANDARD, "dion": DION}
        if ns_coeffs not in presets:
            raise ValueError(
                f"muon: ns_coeffs is {ns_coeffs!r}, expected 'standard', 'dion' or numbers."
            )
        ns_coeffs = presets[ns_coeffs]
    table = np.asarray(ns_coeffs, np.float64)
    if table.ndim not in (1, 2) or table.shape[-1] != 3:
        raise ValueError(
            f"muon: ns_coeffs has shape {table.shape}, expected (3,), the same for every step, or "
            "(steps, 3), a row for each."
        )
    if table.ndim == 1:
        table = np.tile(table, (steps, 1))
    if len(table) == 0:
        raise ValueError(f"muon: ns_steps is {steps}, expected at least 1.")
    return [(a, b, c) for a, b, c in table.tolist()]


def matrix_axes(params: Any, numbers: Any, conv_kernels: bool) -> list[MatrixAxes | None]:
    """Returns for each leaf how it is read as matrices; None for a leaf that Adam updates.

    >>> matrix_axes({"b": jnp.zeros(5), "w": jnp.zeros((4, 5))}, None, False)
    [None, MatrixAxes(rows=(0,), columns=(1,))]
    """

    def is_spec(x: Any) -> bool:
        return x is None or isinstance(x, MuonDimensionNumbers)

    leaves = jax.tree.leaves(params)
    if numbers is None:
        of_rank = {2: MatrixAxes((0,), (1,))}
        if conv_kernels:
            of_rank[4] = MatrixAxes((0, 1, 2), (3,))
        return [of_rank.get(p.ndim) for p in leaves]
    if conv_kernels:
        raise ValueError(
            "muon: both conv_kernels and muon_weight_dimension_numbers were given, expected one: "
            "MuonDimensionNumbers((0, 1, 2), 3) says the same of a kernel."
        )
    if callable(numbers):
        numbers = numbers(params)
    specs = jax.tree.leaves(jax.tree.broadcast(numbers, params, is_leaf=is_spec), is_leaf=is_spec)
    return [
        None if spec is None else _normal_axes(p.shape, spec)
        for p, spec in zip(leaves, specs, strict=True)
    ]


def _normal_axes(shape: tuple[int, ...], spec: MuonDimensionNumbers) -> MatrixAxes:
    def axes(given: int | Sequence[int]) -> tuple[int, ...]:
        several = (given,) if isinstance(given, int) else tuple(given)
        if any(not -len(shape) <= a < len(shape) for a in several):
            raise ValueError(f"muon: {spec} names an axis that a leaf of shape {shape} lacks.")
        return tuple(a % len(shape) for a in several)

    rows, columns = axes(spec.reduction_axis), axes(spec.output_axis)
    if len({*rows, *columns}) < len(rows) + len(columns):
        raise ValueError(
            f"muon: {spec} names an axis of shape {shape} twice, expected reduction and output "
            "axes apart."
        )
    return MatrixAxes(rows, columns)


def _size(shape: tuple[int, ...], axes: tuple[int, ...]) -> int:
    return math.prod(shape[a] for a in axes)


def shape_scale(shape: tuple[int, ...], axes: MatrixAxes, consistent_rms: Any) -> Any:
    r"""Returns $\sqrt{\max(1, columns/rows)}$, or `consistent_rms` $\sqrt{\max(rows, columns)}$.

    >>> shape_scale((2, 8), MatrixAxes((0,), (1,)), None)
    2.0
    """
    rows, columns = _size(shape, axes.rows), _size(shape, axes.columns)
    if consistent_rms is None:
        return math.sqrt(max(1, columns / max(rows, 1)))
    return math.sqrt(max(rows, columns)) * consistent_rms


def orthogonalise_leaf(x: Array, axes: MatrixAxes, *how: Any) -> Array:
    """Orthogonalises the matrices that `axes` see in `x`; the other axes are a stack of them."""
    stack = tuple(a for a in range(x.ndim) if a not in axes.rows + axes.columns)
    order = stack + axes.rows + axes.columns
    moved = x.transpose(order)
    matrices = moved.reshape([_size(x.shape, part) for part in (stack, *axes)])
    y = orthogonalise(matrices, *how)
    return y.reshape(moved.shape).transpose(np.argsort(order))


def orthogonalise(
    x: Float[Array, "batch m n"],
    steps: Sequence[tuple[float, float, float]],
    preconditioning: str,
    eps: ArrayLike,
    dtype: DTypeLike | None = None,
) -> Float[Array, "batch m n"]:
    r"""Brings the singular values of each matrix near 1 by the quintic Newton-Schulz iteration.

    $X \leftarrow a X + (b A + c A^2) X$ with $A = X X^*$, a triple $(a, b, c)$ a step, after
    $X$ is scaled so that no singular value exceeds 1. The steps run in `dtype` (None: that of
    `x`), the scaling in that of `x`; a tall matrix is transposed first, so that $A$ is the smaller
    Gram matrix.

    >>> x = jnp.diag(jnp.array([3.0, 4.0]))[None]
    >>> q = orthogonalise(x, [STANDARD] * 5, "frobenius", 0.0)
    >>> [round(float(s), 1) for s in q[0].diagonal()]
    [0.7, 1.1]
    """
    dtype = x.dtype if dtype is None else dtype
    if is_complex(x) and not jnp.issubdtype(dtype, jnp.complexfloating):
        raise TypeError(f"muon: ns_dtype is {dtype!r}, expected None where leaves are complex.")
    if tall := x.shape[-2] > x.shape[-1]:
        x = x.mT
    if preconditioning in ("aol", "schatten"):
        gram = x @ x.mT.conj()
        size = (
            jnp.abs(gram).sum(-1, keepdims=True)
            if preconditioning == "aol"
            else jnp.linalg.norm(gram, axis=(-2, -1), keepdims=True)
        )
        scale = jax.lax.rsqrt(jnp.maximum(size, eps))
        y, gram = (scale * x).astype(dtype), (scale * gram * scale.mT).astype(dtype)
    else:
        order = 2 if preconditioning == "spectral" else "fro"
        norm = jnp.linalg.norm(x, order, axis=(-2, -1), keepdims=True)
        y = over(x, norm + eps).astype(dtype)
        gram = y @ y.mT.conj()
    for step, (a, b, c) in enumerate(steps):
        if step:
            gram = y @ y.mT.conj()
        y = a * y + (b * gram + c * gram @ gram) @ y
    return (y.mT if tall else y).astype(x.dtype)
