"""Primitives lowered by platform and shape: mathematics above, ways to compute it below."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array, jit, lax  # jit by name: chex.fake_jit replaces jax.jit
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jax.typing import DTypeLike


def wide_dtype(dtype: DTypeLike) -> jnp.dtype:
    """The dtype that sums over `dtype` are taken in: float64 for itself, float32 for the rest.

    Args:
      dtype: a floating dtype.

    >>> wide_dtype(jnp.dtype(jnp.bfloat16)), wide_dtype(jnp.dtype(jnp.float64))
    (dtype('float32'), dtype('float64'))
    """
    wide = jnp.float64 if jnp.dtype(dtype) == jnp.float64 else jnp.float32
    return jnp.dtype(wide)


def promoted(a: Array, b: Array) -> tuple[Array, Array]:
    """Both in their common dtype, as a primitive wants them."""
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def wide(x: Array) -> Array:
    """Returns `x` in the dtype that sums over it are taken in.

    Args:
      x: an array of a floating dtype.

    >>> wide(jnp.ones(1, jnp.float16)).dtype
    dtype('float32')
    """
    return x.astype(wide_dtype(x.dtype))


def make_primitive(name: str, xla: Callable[..., Array], cpu: Callable[..., Array]) -> Primitive:
    """A primitive of arrays of one dtype that is lowered to `cpu` on a CPU, else to `xla`.

    Where XLA partitions a program over several devices it has to see its own operations: `cpu` is
    for what each device runs as it stands, a program for one device or the inside of a `shard_map`.
    """
    primitive = Primitive(name)

    @functools.cache
    def compiled(params: tuple[tuple[str, Any], ...]) -> Callable[..., Array]:
        return jit(functools.partial(primitive.bind, **dict(params)))

    def eager(*operands: Array, **params: Any) -> Array:
        with jax.disable_jit(False):  # a primitive is one operation, as XLA's own are
            return compiled(tuple(params.items()))(*operands)

    def aval(*operands: Any, **params: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(v.shape, v.dtype) for v in operands)
        out = jax.eval_shape(functools.partial(xla, **params), *shapes)
        return operands[0].update(shape=out.shape, dtype=out.dtype, weak_type=False)

    def lowered_on_cpu(context: Any, *operands: Any, **params: Any) -> Any:
        way = cpu if _on_one_device(context) else xla
        return mlir.lower_fun(way, multiple_results=False)(context, *operands, **params)

    primitive.def_impl(eager)
    primitive.def_abstract_eval(aval)
    mlir.register_lowering(primitive, mlir.lower_fun(xla, multiple_results=False))
    mlir.register_lowering(primitive, lowered_on_cpu, platform="cpu")
    return primitive


def make_composite(
    name: str, definition: Callable[..., Array], cpu: Callable[..., Array]
) -> Primitive:
    """A primitive that differentiates and batches as its definition, what it is made of, does."""
    primitive = make_primitive(name, definition, cpu)

    def jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Array, Array]:
        tangents = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(functools.partial(definition, **params), primals, tangents)

    def batch(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
        return jax.vmap(functools.partial(definition, **params), axes)(*operands), 0

    ad.primitive_jvps[primitive] = jvp
    batching.primitive_batchers[primitive] = batch
    return primitive


def _on_one_device(context: Any) -> bool:
    """Whether each device runs the program as it stands: nobody will partition it."""
    axes = context.module_context.axis_context
    manual: Any = getattr(axes, "manual_axes", frozenset())
    everywhere = frozenset(getattr(getattr(axes, "mesh", None), "axis_names", ("?",)))
    return getattr(axes, "num_devices", None) == 1 or manual == everywhere


once_p = make_primitive("funcnet_once", xla=lambda x: x, cpu=lax.optimization_barrier)
ad.deflinear2(once_p, lambda dy, _: [dy])
batching.primitive_batchers[once_p] = lambda x, axis: (once_p.bind(*x), axis[0])


def once(x: Array) -> Array:
    """Returns `x`, which a CPU is to compute once.

    XLA joins a sum with what reads it, and then takes the sum again for every reader: the mean of a
    row, for each number of the row in the worst case. On other devices it joins what is best
    joined, and this is the identity.

    Args:
      x: an array.

    >>> once(jnp.ones(2).sum())
    Array(2., dtype=float64)
    """
    return once_p.bind(x)
