"""What runs on each device where XLA partitions a program: a kernel's own way, on its part."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

from jax import Array, lax
from jax.experimental.custom_partitioning import custom_partitioning
from jax.extend.core import Primitive
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcnet.kernels._types import cuts, named, spec_of

try:  # there is no public way to it; a test says when this one is gone
    from jax._src.dispatch import prim_requires_devices_during_lowering
except ImportError:
    prim_requires_devices_during_lowering = set()


def know_devices(primitive: Primitive) -> None:
    """Has a program with the primitive lowered for the devices that it will run on.

    JAX lowers it without them otherwise, and `custom_partitioning`, to which the primitive is
    lowered in turn, needs them.
    """
    prim_requires_devices_during_lowering.add(primitive)


def partitioned(on_part: Callable[..., Array], axes: str) -> Callable[..., Array]:
    """`on_part`, run by each device on what it has.

    XLA is told which axes may be cut and which cuts belong together; over what a cut axis is summed
    is added up by one all-reduce.

    Args:
      on_part: `on_part(*operands, total=total)`, whose sum over such an axis `total` adds up.
      axes: the names of the operands' axes and the result's: "n k, k m -> n m". Axes whose names
        are capitals are not cut.
    """
    operands, result = named(axes)

    def partition(_: Mesh, arguments: Sequence[Any], output: Any) -> tuple[Any, ...]:
        del output
        mesh = arguments[0].sharding.mesh
        found = cuts(axes, [_full(a.sharding.spec, len(a.shape)) for a in arguments])
        placed = [NamedSharding(mesh, spec_of(names, found)) for names in (*operands, result)]
        summed = tuple(axis for name in found if name not in result for axis in found[name])
        total = functools.partial(lax.psum, axis_name=summed) if summed else None
        return mesh, functools.partial(on_part, total=total), placed[-1], tuple(placed[:-1])

    def of_all(*operands: Array) -> Array:
        return on_part(*operands, total=None)

    wrapped = custom_partitioning(of_all)
    ordered = dict.fromkeys(name for names in (*operands, result) for name in names)
    wrapped.def_partition(
        partition,
        sharding_rule=axes.lower(),
        need_replication_factors=tuple(name.lower() for name in ordered if name.isupper()),
    )
    return wrapped


def _full(spec: PartitionSpec, ndim: int) -> PartitionSpec:
    return PartitionSpec(*spec, *(None,) * (ndim - len(spec)))
