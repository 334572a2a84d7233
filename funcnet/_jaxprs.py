"""Programs as jaxprs: their equations, and what a backward pass keeps."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
from jax.extend.core import jaxpr_as_fun


def opened(jaxpr: Any) -> Any:
    """A jaxpr without its constants; jax 0.11 has one class for open and closed."""
    return getattr(jaxpr, "jaxpr", jaxpr)


def is_jaxpr(value: Any) -> bool:
    """Whether a parameter of an equation is a program, open or closed."""
    return hasattr(opened(value), "eqns")


def sub_jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    """The programs that an equation calls or branches to, as its parameters hold them.

    jax 0.12 has `custom_root` hold its own in the parameters of an object.
    """
    for value in params.values():
        held = getattr(value, "params", None)
        if isinstance(held, Mapping):
            yield from sub_jaxprs(held)
        for item in value if isinstance(value, (tuple, list)) else (value,):
            if is_jaxpr(item):
                yield item


def equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, and of all that it calls and branches to.

    >>> program = jax.make_jaxpr(lambda x: jax.lax.cond(x > 0, jnp.sin, jnp.cos, x))(1.0)
    >>> sorted({equation.primitive.name for equation in equations(program)} & {"sin", "cos"})
    ['cos', 'sin']
    """
    for equation in opened(jaxpr).eqns:
        yield equation
        for inner in sub_jaxprs(equation.params):
            yield from equations(inner)


def traced(function: Callable[..., Any], *arguments: Any) -> tuple[Any, Any, Callable[..., Any]]:
    """The jaxpr of a function, what it returns as shapes, and itself without another trace.

    >>> jaxpr, shape, again = traced(lambda x, y: {"sum": x + y}, 1, 2)
    >>> shape["sum"].shape, again(3, 4)
    ((), {'sum': Array(7, dtype=int64, weak_type=True)})
    """
    jaxpr, shapes = jax.make_jaxpr(function, return_shape=True)(*arguments)
    tree = jax.tree.structure(shapes)

    def again(*arguments: Any) -> Any:
        return jax.tree.unflatten(tree, jaxpr_as_fun(jaxpr)(*jax.tree.leaves(arguments)))

    return jaxpr, shapes, again


def residual_bytes(call: Callable[[Any, Any], Any], diff: Any, rest: Any) -> tuple[int, int]:
    """Bytes that `jax.vjp` keeps beside the arguments, and how many of them are its outputs.

    An output is alive anyway where the next function takes it as its argument.

    Args:
      call: `call(diff, rest) -> (outputs, others)`; the others are not differentiated.
      diff: a sequence of what is differentiated with respect to.
      rest: the other arrays.
    """

    def run(diff: Any, rest: Any) -> Any:
        outputs, pullback, _ = jax.vjp(lambda *d: call(d, rest), *diff, has_aux=True)
        return outputs, jax.tree.leaves(pullback)

    closed, shapes = jax.make_jaxpr(run, return_shape=True)(diff, rest)
    jaxpr, count = opened(closed), len(jax.tree.leaves(shapes[0]))

    def variables(atoms: Iterable[Any]) -> set[Any]:
        return {v for v in atoms if not hasattr(v, "val")}  # a literal is no array

    outputs = variables(jaxpr.outvars[:count])
    kept = variables(jaxpr.outvars[count:]) - {*jaxpr.invars, *jaxpr.constvars}

    def size(some: set[Any]) -> int:
        return sum(math.prod(v.aval.shape) * v.aval.dtype.itemsize for v in some)

    return size(kept), size(kept & outputs)
