"""What an array is over the devices of a mesh: how it is cut, and along which axes it varies."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
from jax import Array, lax
from jax.sharding import AbstractMesh, NamedSharding, PartitionSpec


def as_cotangent(value: Any, primal: Any) -> Any:
    r"""A cotangent in just the type of its primal, as a rule's backward pass has to return it.

    With $g$ = `value`: inside a `shard_map` $\sum_d g_d$ over the devices d of each axis that g
    varies over and the primal does not, since each device has seen a part of what the primal went
    into; on a mesh with explicit axes g, laid out as the primal is; and g in the primal's dtype. On
    one device, and where the types are equal, it is g itself.

    Args:
      value: an array or a pytree of arrays, of the primal's shapes; None stays None.
      primal: what it is the cotangent of, as the rule was given it; or anything of its type.

    Returns:
      The cotangent, in the primal's tree, dtypes, shardings and varying axes.

    Raises:
      ValueError: the trees are not alike.

    Source: https://docs.jax.dev/en/latest/notebooks/shard_map.html (varying axes) and
    https://docs.jax.dev/en/latest/notebooks/explicit-sharding.html.

    >>> as_cotangent(jnp.ones(2, jnp.float32), jnp.zeros(2)).dtype
    dtype('float64')
    """
    return jax.tree.map(_as_leaf, value, primal)


def _as_leaf(value: Any, primal: Any) -> Array:
    have, want = jax.typeof(value), jax.typeof(primal)
    here, there = have.manual_axis_type.varying, want.manual_axis_type.varying
    if here - there:
        value = lax.psum(value, tuple(sorted(here - there)))
    if there - here:
        value = lax.pcast(value, tuple(sorted(there - here)), to="varying")
    mesh = explicit_mesh(value)
    if mesh is not None and have.sharding.spec != want.sharding.spec:
        value = jax.sharding.reshard(value, NamedSharding(mesh, want.sharding.spec))
    return value.astype(want.dtype)


def reshape(x: Any, shape: Sequence[int]) -> Array:
    """Returns `x` in another shape; its first axis stays, and stays cut as it is.

    On a mesh with explicit axes the last axis stays cut too, where it stays; others are gathered.

    Args:
      x: (n, ...).
      shape: (n, ...), of as many numbers.

    >>> reshape(jnp.ones((2, 2, 3)), (2, 6)).shape
    (2, 6)
    """
    mesh = explicit_mesh(x)
    if mesh is None:
        return x.reshape(shape)
    spec = jax.typeof(x).sharding.spec
    last = spec[-1] if x.shape[-1] == shape[-1] and len(shape) > 1 else None
    kept = (spec[0], *(None,) * (len(shape) - 2), *(() if len(shape) == 1 else (last,)))
    return lax.reshape(x, shape, out_sharding=NamedSharding(mesh, PartitionSpec(*kept)))


def varying_alike(*operands: Any) -> tuple[Any, ...]:
    """The operands, each of which varies over what any of them varies over in a `shard_map`."""
    axes = [jax.typeof(x).manual_axis_type.varying for x in operands]
    union = frozenset().union(*axes)
    return tuple(
        lax.pcast(x, tuple(sorted(union - own)), to="varying") if union - own else x
        for x, own in zip(operands, axes, strict=True)
    )


def explicit_mesh(*operands: Any) -> AbstractMesh | None:
    """The mesh over whose explicit axes an operand is cut; None where there is none."""
    for x in operands:
        sharding = jax.typeof(x).sharding
        if any(part is not None for part in sharding.spec):
            return sharding.mesh
    return None


def result_spec(axes: str, specs: Sequence[PartitionSpec]) -> PartitionSpec:
    """How a result is cut, of how the operands are: along the axes that are left in it.

    A mesh axis that would cut two of them cuts the first.

    Args:
      axes: the names of the operands' axes and of the result's: "n k, k m -> n m"; "..." for
        those of the first operand.
      specs: those of the operands.

    >>> result_spec("n k, k m -> n m", [PartitionSpec("d", None), PartitionSpec(None, None)])
    PartitionSpec('d', None)
    """
    inputs, result = axes.split("->")
    if result.strip() == "...":
        return specs[0]
    cut: dict[str, Any] = {}
    for names, spec in zip(inputs.split(","), specs, strict=True):
        for name, part in zip(names.split(), spec, strict=True):
            if part is not None:
                cut.setdefault(name, part)
    parts, used = [], set()
    for name in result.split():
        part = cut.get(name)
        over = set(part if isinstance(part, tuple) else (part,)) - {None}
        parts.append(None if over & used else part)
        used |= over
    return PartitionSpec(*parts)
