"""What an array is over the devices of a mesh: how it is cut, and along which axes it varies."""

from __future__ import annotations

from collections.abc import Callable, Sequence, Set
from typing import Any

import jax
import jax.numpy as jnp
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
    have: Any = jax.tree.structure(value)
    want: Any = jax.tree.structure(primal)
    if have != want:
        raise ValueError(
            f"as_cotangent: value is {have}, expected the tree of its primal, {want}; a part that "
            "has no cotangent is None in both."
        )
    return jax.tree.map(_as_leaf, value, primal)


def emptied(x: Any) -> Array:
    """What a backward pass keeps of `x` that needs its type alone: no element.

    Args:
      x: (...).

    Returns:
      (0, ...), whose sum over the first axis has the type of x: a primal for `as_cotangent`.

    >>> emptied(jnp.ones((2, 3))).shape
    (0, 2, 3)
    """
    return jnp.asarray(x)[None][:0]


def _as_leaf(value: Any, primal: Any) -> Array:
    have, want = jax.typeof(value), jax.typeof(primal)
    here, there = have.manual_axis_type.varying, want.manual_axis_type.varying
    if here - there:
        value = lax.psum(value, tuple(sorted(here - there)))
    return cut_as(_varied(value, there - here), primal).astype(want.dtype)


def _varied(x: Any, axes: Set[str]) -> Any:
    """`x`, varying over these axes of a `shard_map` too."""
    return lax.pcast(x, tuple(sorted(axes)), to="varying") if axes else x


def cut_as(x: Any, like: Any) -> Array:
    """`x`, cut over the explicit axes of a mesh as `like`, which has its shape, is.

    >>> cut_as(jnp.ones(2), jnp.zeros(2))
    Array([1., 1.], dtype=float64)
    """
    mesh, spec = explicit_mesh(x, like), jax.typeof(like).sharding.spec
    if mesh is None or jax.typeof(x).sharding.spec == spec:
        return x
    return jax.sharding.reshard(x, NamedSharding(mesh, spec))


def reshape(x: Any, shape: Sequence[int]) -> Array:
    """Returns `x` in another shape; its first axis stays, and stays cut as it is.

    On a mesh with explicit axes the last axis stays cut too, where it stays; others are gathered.

    Args:
      x: (n, ...).
      shape: (n, ...), of as many numbers.

    >>> reshape(jnp.ones((2, 2, 3)), (2, 6)).shape
    (2, 6)
    """
    mesh, spec = explicit_mesh(x), jax.typeof(x).sharding.spec
    if mesh is None:
        return x.reshape(shape)
    kept = [None] * len(shape)
    kept[-1] = spec[-1] if x.shape[-1] == shape[-1] else None
    kept[0] = spec[0]
    return lax.reshape(x, shape, out_sharding=NamedSharding(mesh, PartitionSpec(*kept)))


def not_cut_as(x: Any, batch: Any) -> Array:
    """`x`, gathered over the explicit axes of a mesh that a batch's first axis is cut over."""
    mesh, spec = explicit_mesh(x), jax.typeof(x).sharding.spec
    taken = {*axes_of(jax.typeof(batch).sharding.spec[0])} if jnp.ndim(batch) else set()
    if mesh is None or not any(taken & {*axes_of(part)} for part in spec):
        return x
    kept = (tuple(axis for axis in axes_of(part) if axis not in taken) or None for part in spec)
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(*kept)))


def whole(x: Any) -> Array:
    """`x`, its rows and columns gathered where explicit axes of a mesh cut them.

    JAX refuses some windows over the edges of parts; on automatic axes XLA sees to them.

    Args:
      x: images (n, h, w, c).

    >>> whole(jnp.ones((1, 2, 2, 1))).shape
    (1, 2, 2, 1)
    """
    mesh, spec = explicit_mesh(x), jax.typeof(x).sharding.spec
    if mesh is None or spec[1] is spec[2] is None:
        return x
    n, _, _, c = spec
    return jax.sharding.reshard(x, NamedSharding(mesh, PartitionSpec(n, None, None, c)))


def in_auto(function: Callable[..., Array], out: NamedSharding) -> Callable[..., Array]:
    """`function`, in which XLA says where arrays lie, and whose result lies as `out` says."""
    axes = out.mesh.explicit_axes  # beside those of a shard_map, if it has some of the axes
    return jax.sharding.auto_axes(function, axes=axes, out_sharding=out)


def of_cut_rows(rows: Any, index: Any) -> Array | None:
    """One entry of each row, where a row lies on several devices of explicit axes; else None."""
    mesh, spec = explicit_mesh(rows), jax.typeof(rows).sharding.spec
    if mesh is None or spec[-1] is None:
        return None

    def summed(rows: Array, index: Array) -> Array:
        return jnp.where(is_at(rows, index), rows, jnp.zeros_like(rows)).sum(-1)

    sharding = NamedSharding(mesh, PartitionSpec(*spec[:-1]))
    return in_auto(summed, sharding)(rows, index)


def is_at(rows: Array, index: Array) -> Array:
    """Where in each row its index is."""
    return lax.broadcasted_iota(index.dtype, rows.shape, rows.ndim - 1) == index[..., None]


def total(values: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    """The sums of values over the devices of axes of a `shard_map`; the values, of None.

    >>> total(jnp.ones(2), None)
    Array([1., 1.], dtype=float64)
    """
    return values if axis_name is None else lax.psum(values, axis_name)


def average(values: Any, axis_name: str | tuple[str, ...] | None) -> Any:
    """The means of values over the devices of axes of a `shard_map`; the values, of None.

    >>> average(jnp.ones(2), None)
    Array([1., 1.], dtype=float64)
    """
    return values if axis_name is None else lax.pmean(values, axis_name)


def devices_along(axis_name: str | tuple[str, ...] | None) -> int:
    """How many devices there are along axes of a `shard_map`; 1, of None.

    >>> devices_along(None)
    1
    """
    return 1 if axis_name is None else lax.axis_size(axis_name)


def varying_alike(*operands: Any) -> tuple[Any, ...]:
    """The operands, each of which varies over what any of them varies over in a `shard_map`."""
    axes = [jax.typeof(x).manual_axis_type.varying for x in operands]
    union = frozenset().union(*axes)
    return tuple(_varied(x, union - own) for x, own in zip(operands, axes, strict=True))


def explicit_mesh(*operands: Any) -> AbstractMesh | None:
    """The mesh with explicit axes on which an operand lies; None where there is none.

    It says nothing of whether the operand is cut: an axis that a `vmap` maps is not in its type.
    """
    for x in operands:
        mesh = jax.typeof(x).sharding.mesh
        if mesh.explicit_axes:
            return mesh
    return None


def cuts(axes: str, specs: Sequence[PartitionSpec]) -> dict[str, tuple[str, ...]]:
    """The mesh axes that cut each axis of the operands: a mesh axis cuts the first that it may.

    Those that the result has come first; so batches stay cut where parameters are cut over the same
    devices, and parameters where what they are summed over is.

    Args:
      axes: the names of the operands' axes and of the result's: "n k, k m -> n m". Axes whose
        names are capitals are not cut.
      specs: those of the operands.

    >>> cuts("n k, k m -> n m", [PartitionSpec("d", None), PartitionSpec("d", None)])
    {'n': ('d',), 'm': (), 'k': ()}
    """
    operands, result = named(axes)
    parts = [
        (name, axes_of(part))
        for names, spec in zip(operands, specs, strict=True)
        for name, part in zip(names, spec, strict=True)
    ]
    found: dict[str, tuple[str, ...]] = {}
    for name, part in sorted(parts, key=lambda pair: pair[0] not in result):
        used = {axis for other, over in found.items() if other != name for axis in over}
        free = name.islower() and not used & set(part)
        found[name] = found.get(name) or (part if free else ())
    return found


def result_spec(axes: str, specs: Sequence[PartitionSpec]) -> PartitionSpec:
    """How a result is cut, of how the operands are; "..." stands for the first one's axes."""
    return specs[0] if "..." in axes else spec_of(named(axes)[1], cuts(axes, specs))


def named(axes: str) -> tuple[list[list[str]], list[str]]:
    """The names of each operand's axes, and of the result's."""
    inputs, result = axes.split("->")
    return [names.split() for names in inputs.split(",")], result.split()


def spec_of(names: Sequence[str], found: dict[str, tuple[str, ...]]) -> PartitionSpec:
    """How an array whose axes have these names is cut."""
    return PartitionSpec(*(found.get(name) or None for name in names))


def axes_of(part: Any) -> tuple[str, ...]:
    """The mesh axes that a part of a `PartitionSpec` names."""
    if part is None:
        return ()
    return part if isinstance(part, tuple) else (part,)
