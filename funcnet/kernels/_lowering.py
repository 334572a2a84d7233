"""Primitives lowered by platform and shape: mathematics above, ways to compute it below."""

from __future__ import annotations

import contextlib
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

from funcnet.kernels._partitioned import know_devices, partitioned
from funcnet.kernels._types import explicit_mesh, in_auto, result_spec, varying_alike

_config: Any = jax.config  # whose options mypy does not know


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

    One of several results, whose axes have no names, is its definition on such a mesh. Outside of
    `jit` a call is a program that is kept; `forget` drops those, where what they are made of has
    changed.

    Attributes:
      definition: what it is, in JAX's own operations.
    """

    def __init__(self, name: str, axes: Callable[..., str], definition: Any, several: bool = False):
        self.primitive, self._axes = Primitive(name), axes
        self.definition, self._several = definition, several
        self.primitive.multiple_results = several
        self.forget: Callable[[], None] = lambda: None

    @property
    def name(self) -> str:
        """That of its primitive, in a program."""
        return self.primitive.name

    def __call__(self, *operands: Any, **params: Any) -> Any:
        mesh = explicit_mesh(*operands)
        if mesh is not None and self._several:
            return self.definition(*operands, **params)
        params.setdefault("precision", _config.jax_default_matmul_precision)
        bind = functools.partial(self.primitive.bind, **params)
        operands = varying_alike(*operands)
        if mesh is None:
            return bind(*operands)
        specs = [jax.typeof(x).sharding.spec for x in operands]
        spec = result_spec(self._axes(**params), specs)
        return in_auto(bind, NamedSharding(mesh, spec))(*operands)


def make_kernel(
    name: str,
    xla: Callable[..., Any],
    cpu: Callable[..., Any],
    axes: Callable[..., str],
    on_part: Callable[..., Array] | None = None,
    several: bool = False,
) -> Kernel:
    """A kernel that is lowered to `cpu` on a CPU, else to `xla`.

    Where XLA partitions a program over several devices, each device runs `cpu` on its part.

    Args:
      name: the primitive's, in a program.
      xla: what it is, in JAX's own operations.
      cpu: the same, as a CPU does it best.
      axes: the names of the operands' axes and the result's, of parameters: "n k, k m -> n m".
      on_part: `cpu` on a part of operands whose sum `total` adds up, where that is not None; by
        default the sum is all that `cpu` does.
      several: whether it returns a tuple of arrays; `axes` are "..." then.
    """
    kernel = Kernel(name, axes, xla, several)
    primitive = kernel.primitive
    on_part = at_its_precision(on_part or totalled(cpu))
    xla, cpu = at_its_precision(xla), at_its_precision(cpu)

    @functools.cache
    def compiled(params: tuple[tuple[str, Any], ...]) -> Callable[..., Any]:
        return jit(functools.partial(primitive.bind, **dict(params)))

    def eager(*operands: Array, **params: Any) -> Any:
        with jax.disable_jit(False):  # a primitive is one operation, as XLA's own are
            return compiled(tuple(params.items()))(*operands)

    def aval(*operands: Any, **params: Any) -> Any:
        shapes = (jax.ShapeDtypeStruct(v.shape, v.dtype) for v in operands)
        out = jax.eval_shape(functools.partial(xla, **params), *shapes)

        def of(result: Any) -> Any:
            return operands[0].update(shape=result.shape, dtype=result.dtype, weak_type=False)

        return list(map(of, out)) if several else of(out)

    def in_parts(*operands: Array, **params: Any) -> Any:
        names = axes(**params)
        if "..." in names:
            return xla(*operands, **params)
        return partitioned(functools.partial(on_part, **params), names)(*operands)

    def lowered_on_cpu(context: Any, *operands: Any, **params: Any) -> Any:
        if _is_exported(context):
            way = xla  # for other machines, with sizes that may not be known
        elif _on_one_device(context):
            way = cpu
        elif _is_cut_by_xla(context):
            way = in_parts
        else:
            way = xla
        return mlir.lower_fun(way, multiple_results=several)(context, *operands, **params)

    know_devices(primitive)
    kernel.forget = compiled.cache_clear
    primitive.def_impl(eager)
    primitive.def_abstract_eval(aval)
    mlir.register_lowering(primitive, mlir.lower_fun(xla, multiple_results=several))
    mlir.register_lowering(primitive, lowered_on_cpu, platform="cpu")
    return kernel


def make_composite(
    name: str,
    definition: Callable[..., Any],
    cpu: Callable[..., Any],
    axes: Callable[..., str],
    several: bool = False,
) -> Kernel:
    """A kernel that differentiates and batches as its definition, what it is made of, does."""

    def on_part(*operands: Any, total: Any, **params: Any) -> Array:
        way = cpu if total is None else functools.partial(definition, total=total)
        return way(*operands, **params)

    kernel = make_kernel(name, definition, cpu, axes, on_part, several)
    defined = at_its_precision(definition)

    def jvp(primals: Any, tangents: Any, **params: Any) -> tuple[Any, Any]:
        tangents = tuple(map(ad.instantiate_zeros, tangents))
        return jax.jvp(functools.partial(defined, **params), primals, tangents)

    def batch(operands: Any, axes: Any, **params: Any) -> tuple[Any, Any]:
        out = jax.vmap(functools.partial(defined, **params), axes)(*operands)
        return out, (0,) * len(out) if several else 0

    ad.primitive_jvps[kernel.primitive] = jvp
    batching.primitive_batchers[kernel.primitive] = batch
    return kernel


def totalled(cpu: Callable[..., Array]) -> Callable[..., Array]:
    """`cpu` on a part of what there is to add up."""

    def run(*operands: Any, total: Any, **params: Any) -> Array:
        y = cpu(*operands, **params)
        return y if total is None else total(y)

    return run


def at_its_precision(way: Callable[..., Any]) -> Callable[..., Any]:
    """`way`, its products in the precision that its primitive was bound with.

    Where operands are float64, under x64 too: XLA asks for the program of a device's part in a
    thread of its own, which knows of no `with jax.enable_x64()`.
    """

    @functools.wraps(way)
    def run(*operands: Any, precision: Any, **params: Any) -> Any:
        leaves = jax.tree.leaves(operands)
        float64 = any(getattr(x, "dtype", None) == jnp.float64 for x in leaves)
        x64 = jax.enable_x64(True) if float64 else contextlib.nullcontext()
        with jax.default_matmul_precision(precision), x64:
            return way(*operands, **params)

    return run


def _is_exported(context: Any) -> bool:
    """Whether `jax.export` has the program lowered."""
    options = getattr(context.module_context, "lowering_parameters", None)
    return bool(getattr(options, "for_export", False))


def _on_one_device(context: Any) -> bool:
    """Whether each device runs the program as it stands: nobody will partition it."""
    axes = context.module_context.axis_context
    manual: Any = getattr(axes, "manual_axes", frozenset())
    everywhere = frozenset(getattr(getattr(axes, "mesh", None), "axis_names", ("?",)))
    return getattr(axes, "num_devices", None) == 1 or manual == everywhere


def _is_cut_by_xla(context: Any) -> bool:
    """Whether XLA partitions the program over all axes of its devices: none is in a `shard_map`."""
    axes = context.module_context.axis_context
    return getattr(axes, "device_assignment", None) is not None


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
