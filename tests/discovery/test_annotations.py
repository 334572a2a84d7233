"""Sample arguments from annotations."""

from typing import Annotated, NamedTuple, Optional

import jax
import numpy as np
import pytest
from jaxtyping import (
    Array,
    ArrayLike,
    Bool,
    Complex,
    Float,
    Float64,
    Int,
    Key,
    PRNGKeyArray,
    PyTree,
    Scalar,
    ScalarLike,
    Shaped,
    UInt8,
)

from funcnet import discovery


class Params(NamedTuple):
    w: Float[Array, "d m"]
    b: Float[Array, " m"]
    scale: float = 1.0


def drawn(function, seed=0):
    return discovery.annotated(function, np.random.default_rng(seed))


def test_names_are_sizes_other_names_other_sizes():
    def f(x: Float[Array, "n d"], p: Params, y: Float[Array, "n m"], eps: float = 1e-5): ...

    for seed in range(10):
        x, p, y = drawn(f, seed)
        (n, d), m = x.shape, p.b.size
        assert (p.w.shape, y.shape, p.scale) == ((d, m), (n, m), 1.0)
        assert len({n, d, m}) == 3
    assert len({drawn(f, seed)[0].shape for seed in range(10)}) > 3


def test_shapes():
    def f(
        a: Float[Array, "... c"],
        b: Float[Array, "*batch c"],
        d: Float[Array, "*batch #c"],
        e: Float[Array, "2*c c+1 n-1"],
        g: Float[Array, "n _ 7 rows=3 ?k"],
        h: Float[Array, ""],
    ): ...

    a, b, d, e, g, h = drawn(f)
    assert a.ndim == b.ndim == 2
    assert b.shape == d.shape
    assert e.shape == (2 * a.shape[1], a.shape[1] + 1, g.shape[0] - 1)
    assert g.shape[2:4] == (7, 3)
    assert h.shape == ()


def test_dtypes():
    def f(
        a: Float[Array, " n"],
        b: Int[Array, " n"],
        c: Bool[Array, " n"],
        d: Complex[Array, " n"],
        e: UInt8[Array, " n"],
        g: Float64[Array, " n"],
        h: Shaped[Array, " n"],
    ): ...

    names = ["float32", "int32", "bool", "complex64", "uint8", "float64", "float32"]
    assert [x.dtype.name for x in drawn(f)] == names


def test_other_annotations():
    def f(
        a: Float[Array, " n"] | None,
        b: Optional[Float[ArrayLike, " n"]],  # noqa: UP045
        c: PRNGKeyArray,
        d: Key[Array, "2"],
        e: None,
        g: PyTree[Float[Array, "?n"]],
        h: tuple[Float[Array, " n"], ...],
        i: Annotated[Float[Array, " n"], "doc"],
        j: float,
        k: Scalar,
        m: ScalarLike,
        *rest: int,
        axis: int = 0,
        **more: int,
    ): ...

    a, b, c, d, e, g, h, i, j, k, m = drawn(f)
    assert a.shape == b.shape == i.shape == h[1].shape
    assert jax.numpy.issubdtype(c.dtype, jax.dtypes.prng_key)
    assert (d.shape, e, type(j), k.shape, m.shape) == ((2,), None, float, (), ())
    assert len(jax.tree.leaves(g)) == len(h) == 2


def test_annotations_that_are_strings():
    names = {}
    exec(
        "from __future__ import annotations\n"
        "from jaxtyping import Array, Float\n"
        "def f(x: Float[Array, 'n d']): ...\n"
        "def g(x: Nothing): ...\n",
        names,
    )
    assert drawn(names["f"])[0].ndim == 2
    with pytest.raises(discovery.UnannotatedError, match="NameError"):
        drawn(names["g"])


def test_what_says_no_shape():
    def bare(x): ...
    def array(x: jax.Array): ...
    def whole(x: Float[Array, " n"], axis: int): ...
    def nothing(rate: float): ...
    def odd(x: Float[Array, "n**n**n"]): ...  # noqa: F821
    def keyword(x: Float[Array, " n"], *, y): ...
    def code(x: Float[Array, "{y}"]): ...  # noqa: F821

    said = {
        bare: "x has no annotation",
        array: "annotation of x says no shape",
        whole: "annotation of axis says",
        nothing: "no parameter is annotated as an array",
        odd: "x has an axis of",
        keyword: "y has no annotation",
        code: "x has an axis of",
    }
    for function, message in said.items():
        with pytest.raises(discovery.UnannotatedError, match=message):
            drawn(function)
