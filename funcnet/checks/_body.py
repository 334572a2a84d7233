"""What the plain function's program says of itself: loops, casts, what each output depends on."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet._jaxprs import equations, opened, sub_jaxprs

CALLS_OUT = ("pure_callback", "io_callback", "ffi_call", "pallas_call", "custom_call")


class Body(NamedTuple):
    """Facts about a program.

    Attributes:
      iterates: a loop ends when numbers say so: an iteration to a tolerance.
      narrowest: the narrowest floating dtype that wider numbers are cast to, or None.
      stops: it holds a `stop_gradient`.
      jvp_rules: it calls a `custom_jvp`.
      touches: of each floating output the positions of the inputs that it depends on.
    """

    iterates: bool
    narrowest: Any
    stops: bool
    jvp_rules: bool
    touches: tuple[frozenset[int], ...]


def body_of(jaxpr: Any, outputs: int) -> Body:
    """The facts about a closed jaxpr, its first `outputs` outputs being the floating ones."""
    stops = jvp_rules = False
    narrowest: Any = None
    for eqn in equations(jaxpr):
        name = eqn.primitive.name
        stops = stops or name == "stop_gradient"
        jvp_rules = jvp_rules or name == "custom_jvp_call"
        narrow = _narrows(eqn)
        if narrow and (narrowest is None or jnp.finfo(narrow).eps > jnp.finfo(narrowest).eps):
            narrowest = narrow
    touched = _touched(opened(jaxpr))[:outputs]
    return Body(iterates(jaxpr), narrowest, stops, jvp_rules, tuple(touched))


def iterates(jaxpr: Any) -> bool:
    """Whether a loop of a program ends when numbers say so, and not after so many turns."""
    return any(
        eqn.primitive.name == "while" and _reads_floats(eqn.params["cond_jaxpr"])
        for eqn in equations(jaxpr)
    )


def _reads_floats(condition: Any) -> bool:
    """Whether a loop's condition reads floats, or a flag that its body sets; not counts alone."""
    flags = {v for v in opened(condition).invars if v.aval.dtype == bool}
    read = [v for eqn in equations(condition) for v in eqn.invars if not hasattr(v, "val")]
    read += [v for v in opened(condition).outvars if v in flags]
    return any(v in flags or jnp.issubdtype(v.aval.dtype, np.inexact) for v in read)


def _narrows(eqn: Any) -> Any:
    """The dtype that an equation rounds wider numbers to, None for others."""
    if eqn.primitive.name not in CALLS_OUT and any(True for _ in sub_jaxprs(eqn.params)):
        return None  # its own equations say
    given = [v.aval.dtype for v in eqn.invars if hasattr(v.aval, "dtype")]
    given = [d for d in given if jnp.issubdtype(d, jnp.floating)]
    made = [v.aval.dtype for v in eqn.outvars if hasattr(v.aval, "dtype")]
    made = [d for d in made if jnp.issubdtype(d, jnp.floating)]
    if not given or not made:
        return None
    narrow = max(made, key=lambda d: float(jnp.finfo(d).eps))
    wide = min(float(jnp.finfo(d).eps) for d in given)
    return narrow if float(jnp.finfo(narrow).eps) > wide else None


def _touched(jaxpr: Any) -> list[frozenset[int]]:
    """Of each output the positions of the inputs that it depends on, as far as one can see."""
    inside: dict[Any, frozenset[int]] = {v: frozenset([i]) for i, v in enumerate(jaxpr.invars)}
    nothing: frozenset[int] = frozenset()

    def of(v: Any) -> frozenset[int]:
        return nothing if hasattr(v, "val") else inside.get(v, nothing)

    for eqn in jaxpr.eqns:
        given = [of(v) for v in eqn.invars]
        inner = list(sub_jaxprs(eqn.params))
        if len(inner) == 1 and eqn.primitive.name in ("jit", "pjit", "custom_jvp_call", "remat2"):
            called = _touched(opened(inner[0]))
            found = [nothing.union(*(given[i] for i in touched)) for touched in called]
        else:
            found = [nothing.union(*given)] * len(eqn.outvars)
        inside.update(zip(eqn.outvars, found, strict=True))
    return [of(v) for v in jaxpr.outvars]


# Derivatives where reverse mode has none ---------------------------------------------------

FIVE_POINT_STEP = 7e-4  # balances h⁴·f⁽⁵⁾/30 against eps·f/h in float64


def columns(call: Any, diff: list[Any], way: str) -> tuple[list[Any], list[Any]]:
    """The Jacobian, one column an input entry, and how uncertain it is.

    Of each leaf of `diff` a list of arrays (entries, *output), one for each output; a complex leaf
    has twice as many columns, those of 1 and those of i.

    Args:
      call: of `diff` to a list of outputs.
      diff: the point.
      way: "forward", by `jax.jvp`; or "differences", by five points.
    """
    jacobian, doubts = [], []
    for i, leaf in enumerate(diff):
        units = _units(leaf)
        if not len(units):
            shapes = jax.eval_shape(call, diff)
            jacobian.append([jnp.zeros((0, *s.shape), s.dtype) for s in shapes])
            doubts.append([jnp.zeros((0, *s.shape)) for s in shapes])
            continue

        def along(unit: Any, i: int = i, leaf: Any = leaf) -> Any:
            def at(t: Any) -> Any:
                return call([leaf + t * unit if j == i else x for j, x in enumerate(diff)])

            if way == "forward":
                tangents = [unit if j == i else jnp.zeros_like(x) for j, x in enumerate(diff)]
                slopes = jax.jvp(call, (list(diff),), (tangents,))[1]
                return list(slopes), [jnp.zeros(s.shape) for s in slopes]
            return _differences(at, leaf)

        slopes, doubt = jax.lax.map(along, units)
        jacobian.append(slopes)
        doubts.append(doubt)
    return jacobian, doubts


def _units(leaf: Any) -> np.ndarray:
    shape, dtype = jnp.shape(leaf), leaf.dtype
    size = int(np.prod(shape))
    ones = np.eye(size, dtype=dtype).reshape(size, *shape)
    return np.concatenate([ones, 1j * ones]).astype(dtype) if ones.dtype.kind == "c" else ones


def _differences(at: Any, leaf: Any) -> tuple[list[Any], list[Any]]:
    eps = jnp.finfo(leaf.dtype).eps
    size = jnp.max(jnp.abs(leaf))
    step = FIVE_POINT_STEP * float(eps / np.finfo(np.float64).eps) ** 0.2
    h = step * jnp.where(size > 0, size, 1)
    points = jax.lax.map(at, h * jnp.asarray([1, -1, 2, -2, 4, -4], h.dtype))

    def slope(v: Any) -> tuple[Any, Any]:
        fine, coarse = five_points(v, h)
        rounding = 8 * jnp.finfo(v.dtype).eps * jnp.max(jnp.abs(v), initial=0.0) / h
        return fine, jnp.abs(fine - coarse) + rounding

    pairs = [slope(v) for v in points]
    return [a for a, _ in pairs], [b for _, b in pairs]


def five_points(v: Any, h: Any) -> tuple[Any, Any]:
    """The slope at 0 of values at h times 1, -1, 2, -2, 4, -4; and with twice the step."""
    fine = (8 * (v[0] - v[1]) - (v[2] - v[3])) / (12 * h)
    coarse = (8 * (v[2] - v[3]) - (v[4] - v[5])) / (24 * h)
    return fine, coarse


def pulled_back(jacobian: list[Any], diff: list[Any], cotangents: list[Any]) -> list[Any]:
    """Cotangents times a Jacobian, in JAX's convention: of z = x + iy it is ct_x - i ct_y."""
    found = []
    for leaf, slopes in zip(diff, jacobian, strict=True):
        total = sum(
            (ct.astype(s.dtype)[None] * s).reshape(len(s), -1).sum(1).real
            for ct, s in zip(cotangents, slopes, strict=True)
        )
        if jnp.iscomplexobj(leaf):
            x, y = jnp.split(jnp.asarray(total), 2)
            total = x - 1j * y
        found.append(jnp.asarray(total).reshape(jnp.shape(leaf)).astype(leaf.dtype))
    return found
