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
from jax.sharding import NamedSharding
from jax.typing import DTypeLike

from funcnet.kernels._types import explicit_mesh, result_spec, varying_alike


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


class Kernel:
    """A primitive of arrays of one dtype, whose axes have names as in `einsum`.

    Called, it binds its primitive to operands that vary over the same axes of a `shard_map`, and on
    a mesh with explicit axes gives the result the axes of the operands that are left in it. Which
    precision JAX's products are to have is read then, and is a parameter of the primitive: what it
    is made of is traced when it is lowered, after `with jax.default_matmul_precision(...)` ended.
    """

    def __init__(self, name: str, axes: Callable[..., str]):
        self.primitive, self._axes = Primitive(name), axes

    @property
    def name(self) -> str:
        """That of its primitive, in a program."""
        return self.primitive.name

    def __call__(self, *operands: Any, **params: Any) -> Array:
        params.setdefault("precision", jax.config.jax_default_matmul_precision)
        bind = functools.partial(self.primitive.bind, **params)
        operands = varying_alike(*operands)
        mesh = explicit_mesh(*operands)
        if mesh is None:
            return bind(*operands)
        specs = [jax.typeof(x).sharding.spec for x in operands]
        spec = result_spec(self._axes(**params), specs)
        return jax.sharding.auto_axes(bind, out_sharding=NamedSharding(mesh, spec))(*operands)


def make_kernel(
    name: str,
    xla: Callable[..., Array],
    cpu: Callable[..., Array],
    axes: Callable[..., str],
) -> Kernel:
    """A kernel that is lowered to `cpu` on a CPU, else to `xla`.

    Where XLA partitions a program over several devices it has to see its own operations: `cpu` is
    for what each device runs as it stands, a program for one device or the inside of a `shard_map`.

    Args:
      name: the primitive's, in a program.
      xla: what it is, in JAX's own operations.
      cpu: the same, as a CPU does it best.
      axes: the names of the operands' axes and the result's, of parameters: "n k, k m -> n m".
    """
    kernel = Kernel(name, axes)
    primitive = kernel.primitive
    xla, cpu = at_its_precision(xla), at_its_precision(cpu)

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
    return kernel


def make_composite(
    name: str,
    definition: Callable[..., Array],
    cpu: Callable[..., Array],
    axes: Callable[..., str],
) -> Kernel:
    """A kernel that differentiates and batches as its definition, what it is made of, does."""
    kernel = make_kernel(name, definition, cpu, axes)
    definition = at_its_precision(definition)

    def jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Array, Array]:
        tangents = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(functools.partial(definition, **params), primals, tangents)

    def batch(operands: Any, axes: Any, **params: Any) -> tuple[Array, int]:
        return jax.vmap(functools.partial(definition, **params), axes)(*operands), 0

    ad.primitive_jvps[kernel.primitive] = jvp
    batching.primitive_batchers[kernel.primitive] = batch
    return kernel


def at_its_precision(way: Callable[..., Any]) -> Callable[..., Any]:
    """`way`, its products in the precision that its primitive was bound with."""

    @functools.wraps(way)
    def run(*operands: Any, precision: Any, **params: Any) -> Any:
        with jax.default_matmul_precision(precision):
            return way(*operands, **params)

    return run


def _on_one_device(context: Any) -> bool:
    """Whether each device runs the program as it stands: nobody will partition it."""
    axes = context.module_context.axis_context
    manual: Any = getattr(axes, "manual_axes", frozenset())
    everywhere = frozenset(getattr(getattr(axes, "mesh", None), "axis_names", ("?",)))
    return getattr(axes, "num_devices", None) == 1 or manual == everywhere


once_k = make_kernel(
    "funcnet_once", lambda x: x, lax.optimization_barrier, lambda **_: "... -> ..."
)
ad.deflinear2(once_k.primitive, lambda dy, _, **__: [once(dy)])
batching.primitive_batchers[once_k.primitive] = lambda x, axis, **_: (once(*x), axis[0])


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
    return once_k(x)
