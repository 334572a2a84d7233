"""Convolutions of many geometries, their operands, and the three maps of each."""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import kernels
from funcnet.kernels import _conv_xla

# (n, h, w), (cin, cout), (kh, kw), stride, pads: even and odd, bare and crowded with padding.
GEOMETRIES = [
    ((3, 9, 9), (3, 4), (3, 3), (1, 1), ((1, 1), (1, 1))),
    ((7, 10, 9), (5, 2), (3, 2), (1, 1), ((1, 1), (0, 1))),
    ((5, 12, 11), (6, 2), (5, 3), (2, 1), ((2, 2), (1, 1))),
    ((4, 9, 12), (4, 4), (1, 1), (1, 1), ((0, 0), (0, 0))),
    ((2, 9, 9), (3, 3), (7, 7), (3, 2), ((3, 3), (3, 3))),
    ((1, 13, 13), (1, 1), (3, 3), (1, 1), ((0, 0), (0, 0))),
    ((5, 20, 20), (1, 2), (2, 2), (1, 1), ((4, 4), (4, 4))),
    ((5, 11, 8), (3, 2), (4, 3), (1, 1), ((0, 2), (2, 0))),
    ((5, 8, 11), (3, 2), (2, 5), (1, 2), ((0, 1), (3, 1))),
]
IDS = [f"{k[0]}x{k[1]}_stride{s[0]}{s[1]}_{c[0]}to{c[1]}" for _, c, k, s, _ in GEOMETRIES]
# The same, then dilation and groups: dilated, grouped, depthwise with one and with two outputs.
DILATED = [
    ((3, 12, 13), (3, 4), (3, 3), (1, 1), ((2, 2), (1, 3)), (2, 3), 1),
    ((3, 13, 12), (2, 3), (2, 3), (2, 3), ((0, 1), (2, 0)), (3, 1), 1),
    ((3, 12, 13), (4, 3), (3, 2), (1, 1), ((2, 2), (1, 3)), (2, 3), 1),
]
GROUPED = [
    ((3, 11, 12), (4, 6), (3, 2), (2, 1), ((1, 1), (0, 1)), (1, 2), 2),
    ((3, 12, 11), (3, 3), (3, 3), (1, 1), ((1, 1), (1, 1)), (1, 1), 3),
    ((3, 12, 11), (2, 4), (3, 2), (2, 3), ((0, 1), (2, 1)), (2, 1), 2),
    ((2, 16, 17), (2, 2), (12, 11), (1, 1), ((1, 0), (2, 2)), (1, 1), 2),
]
# Of one row, and what is nearly so: rows in the padding, one image, one column, two rows under a
# kernel of two, groups; and more images than rows.
ONE_ROW = [
    ((2, 1, 12), (3, 4), (1, 3), (1, 2), ((0, 0), (1, 1)), (1, 2), 1),
    ((2, 1, 12), (3, 4), (1, 3), (1, 1), ((1, 0), (2, 0)), (1, 2), 1),
    ((2, 1, 9), (3, 4), (1, 2), (1, 1), ((0, 1), (0, 0)), (1, 1), 1),
    ((1, 5, 9), (3, 4), (1, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1),
    ((2, 5, 1), (3, 4), (1, 1), (1, 1), ((0, 0), (0, 0)), (1, 1), 1),
    ((2, 2, 9), (3, 4), (2, 3), (1, 1), ((0, 0), (1, 1)), (1, 1), 1),
    ((2, 1, 11), (6, 4), (1, 3), (1, 1), ((0, 0), (1, 0)), (1, 1), 2),
    ((9, 3, 4), (2, 2), (2, 2), (1, 1), ((0, 0), (0, 0)), (1, 1), 2),
]


def drawn(geometry, rng, dtype=jnp.float64):
    """Operands of NumPy, which compiles nothing to cut, to stack and to move them."""
    size, (cin, cout), kernel, stride, pads, *options = geometry
    dilation, groups = options or ((1, 1), 1)
    where = {"stride": stride, "pads": pads}
    if options:
        where |= {"dilation": dilation, "groups": groups}
    x = rng.normal(size=(*size, cin)).astype(dtype)
    w = rng.normal(size=(*kernel, cin // groups, cout)).astype(dtype)
    y = jax.eval_shape(functools.partial(_conv_xla.xla_conv, **where), x, w)
    return x, w, rng.normal(size=y.shape).astype(dtype), where


def maps_of(x, w, dy, where):
    """The three maps as kernels has them and as XLA does, each with its operands."""
    maps = (
        (kernels.conv, _conv_xla.xla_conv, (x, w), {}),
        (
            kernels.conv_kernel_gradient,
            _conv_xla.xla_kernel_gradient,
            (x, dy),
            {"size": w.shape[:2]},
        ),
        (
            kernels.conv_input_gradient,
            _conv_xla.xla_input_gradient,
            (dy, w),
            {"size": x.shape[1:3]},
        ),
    )
    return [
        (*(functools.partial(f, **size, **where) for f in (ours, xla)), operands)
        for ours, xla, operands, size in maps
    ]


def assert_close(got, want, terms):
    """Two sums of so many terms, taken in different orders."""
    want = np.asarray(want)
    assert got.dtype == want.dtype
    scale = max(1.0, np.abs(want).max(initial=0.0))
    eps = jnp.finfo(want.dtype).eps
    np.testing.assert_allclose(got, want, rtol=0, atol=8 * np.sqrt(terms) * eps * scale)
