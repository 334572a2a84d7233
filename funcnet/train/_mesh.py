"""Where a run's arrays lie on a mesh: batches in parts, parameters whole, in parts, or by rules."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import jax
import numpy as np
from jax import Array, lax
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from funcnet._validate import is_key, saved_name
from funcnet.train._step import TrainState, copied

Rules = Sequence[tuple[str, PartitionSpec]]
SHARDS = ("data", "fsdp")


class Layout(NamedTuple):
    """A mesh, and what lies how on it.

    `axes` are those that a batch is cut over; `rules` is "data", "fsdp", or pairs of a regular
    expression and a PartitionSpec. The axes of `mesh` are automatic: what a user's own functions
    do to a batch, XLA spreads.
    """

    mesh: Mesh
    rules: Any
    axes: tuple[str, ...]

    @property
    def parts(self) -> int:
        """How many parts a batch is cut into."""
        return int(np.prod([self.mesh.shape[axis] for axis in self.axes], dtype=int))

    @property
    def processes(self) -> int:
        """How many processes have devices in the mesh."""
        return len({device.process_index for device in self.mesh.devices.flat})

    @property
    def whole(self) -> NamedSharding:
        """Everything on each device."""
        return NamedSharding(self.mesh, PartitionSpec())

    @property
    def rows(self) -> NamedSharding:
        """The first axis in parts."""
        return NamedSharding(self.mesh, PartitionSpec(self.axes))

    def filled(self, size: int) -> int:
        """The number of rows, rounded up to what can be cut."""
        return -(-size // self.parts) * self.parts

    def cut(self, batch: Any) -> Any:
        """A traced batch, with its rows in parts."""
        return jax.tree.map(lambda x: lax.with_sharding_constraint(x, self.rows), batch)

    def put(self, tree: Any, rows: bool = False) -> Any:
        """Arrays that each process has, whole on each device, or their rows in parts.

        What lies on these devices already stays as it lies.
        """

        def placed(leaf: Any) -> Any:
            mesh, wanted = mesh_of(leaf), self.rows if rows else self.whole
            if mesh is not None and automatic(mesh) == self.mesh:
                wanted = NamedSharding(self.mesh, leaf.sharding.spec)
            elif mesh is not None and leaf.ndim and leaf.shape[0] % self.parts == 0:
                wanted = self.rows  # it may be in parts because it is large
            return _spread(leaf, wanted)

        return jax.tree.map(placed, tree)

    def batches(self, ndim: int) -> NamedSharding:
        """(steps, rows, ...): batches one after the other, each with its rows in parts."""
        axes = (None, self.axes) if ndim > 1 else ()
        return NamedSharding(self.mesh, PartitionSpec(*axes))

    def own(self, rows: int) -> np.ndarray:
        """Which rows of a batch the devices of this process hold."""
        places = self.rows.addressable_devices_indices_map((rows,)).values()
        return np.unique(np.concatenate([np.arange(rows)[place] for place in places]))

    def put_batches(self, own: np.ndarray, rows: int) -> Array:
        """Batches on the devices, each process having its `own` rows of them: (steps, own, ...)."""
        shape = (own.shape[0], rows, *own.shape[2:])
        columns = self.own(rows)

        def part(index: Any) -> np.ndarray:
            return own[:, np.searchsorted(columns, np.arange(rows)[index[1]])]

        return jax.make_array_from_callback(shape, self.batches(len(shape)), part)

    def specs(self, state: TrainState) -> Any:
        """The PartitionSpec of each leaf; an optimizer's state lies as its parameter does."""
        rules = () if self.rules in SHARDS else self.rules
        unused = dict(rules)

        def of_leaf(path: Any, leaf: Any, root: str) -> PartitionSpec:
            if self.rules == "fsdp":
                return _largest_cut(leaf, self) if root == "params" else PartitionSpec()
            name = ".".join(part for part in (root, saved_name(path)) if part)
            found = [rule for rule in rules if re.search(rule[0], name)]
            for pattern, _ in found:
                unused.pop(pattern, None)
            return self._fitting(found[0][1], name, leaf) if found else PartitionSpec()

        def of_tree(tree: Any, root: str) -> Any:
            return jax.tree.map_with_path(lambda path, leaf: of_leaf(path, leaf, root), tree)

        params = of_tree(state.params, "params")
        leaves = zip(jax.tree.leaves_with_path(state.params), jax.tree.leaves(params), strict=True)
        known = {saved_name(path): (np.shape(leaf), spec) for (path, leaf), spec in leaves}

        def of_optimizer(path: Any, leaf: Any) -> PartitionSpec:
            for first in range(len(path) + 1):  # the longest end of its path first
                if (name := saved_name(path[first:])) in known:
                    shape, spec = known[name]
                    return spec if shape == np.shape(leaf) else PartitionSpec()
            return of_leaf(path, leaf, "opt_state")

        whole: Any = PartitionSpec()
        opt_state = jax.tree.map_with_path(of_optimizer, state.opt_state)
        found = TrainState(params, of_tree(state.state, "state"), opt_state, whole, whole)
        for pattern in unused:
            raise ValueError(
                f"shard: no leaf has a name in which {pattern!r} is found; names are "
                f"{', '.join(f'params.{name}' for name in [*known][:4])} and so on."
            )
        return found

    def _fitting(self, spec: PartitionSpec, name: str, leaf: Any) -> PartitionSpec:
        """The spec, or ValueError where the leaf cannot be cut so."""
        shape = np.shape(leaf)
        if len(spec) > len(shape):
            raise ValueError(f"shard: {spec} has more axes than {name}, of shape {shape}.")
        for size, names in zip(shape, spec, strict=False):
            parts = int(np.prod([self.mesh.shape[a] for a in _names(names)], dtype=int))
            if size % parts:
                raise ValueError(
                    f"shard: {spec} cuts {size} of {name}, of shape {shape}, into {parts} parts; "
                    f"expected a size that {parts} divides, or a rule for it with PartitionSpec()."
                )
        return spec

    def place(self, state: TrainState) -> TrainState:
        """The state as it is to lie, in buffers of its own."""
        laid = jax.tree.map(
            lambda leaf, spec: _spread(leaf, NamedSharding(self.mesh, spec)),
            state,
            self.specs(state),
        )
        return copied(laid)

    def door(self, params: Any) -> Any:
        """Where the net is to have each parameter, which lies on the mesh: gathered over `axes`.

        None where they lie so already.
        """

        def gathered(leaf: Array) -> NamedSharding:
            return NamedSharding(self.mesh, _without(leaf.sharding.spec, self.axes))  # type: ignore[attr-defined]

        places = jax.tree.map(gathered, params)
        same = jax.tree.map(lambda x, p: x.sharding.is_equivalent_to(p, x.ndim), params, places)
        return None if jax.tree.all(same) else places


def _names(entry: Any) -> tuple[str, ...]:
    """The axes of the mesh that an entry of a PartitionSpec names."""
    return () if entry is None else (entry,) if isinstance(entry, str) else tuple(entry)


def _without(spec: PartitionSpec, axes: tuple[str, ...]) -> PartitionSpec:
    return PartitionSpec(*(tuple(a for a in _names(e) if a not in axes) or None for e in spec))


def _largest_cut(leaf: Any, layout: Layout) -> PartitionSpec:
    """Cuts the largest axis that can be; whole where none can."""
    sizes = [0 if size % layout.parts else size for size in np.shape(leaf)]
    if not any(sizes):
        return PartitionSpec()
    return PartitionSpec(*[None] * sizes.index(max(sizes)), layout.axes)


def _spread(leaf: Any, sharding: NamedSharding) -> Array:
    """A leaf on the devices of a mesh, which may be those of several processes.

    Each process has the whole leaf, or the leaf lies on these devices already.
    """
    if is_key(leaf):
        data = _spread(jax.random.key_data(leaf), sharding)
        return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
    if isinstance(leaf, Array) and (sharding.is_fully_addressable or not is_here(leaf)):
        return jax.device_put(leaf, sharding)
    host = np.asarray(leaf)
    return jax.make_array_from_callback(host.shape, sharding, lambda index: host[index])


def is_here(leaf: Any) -> bool:
    """Whether this process has all of a leaf."""
    return not isinstance(leaf, Array) or leaf.is_fully_addressable or leaf.is_fully_replicated


def gathered(tree: Any) -> Any:
    """The tree, with what lies on the devices of several processes whole on one of each's own.

    All processes have to ask for it together. What this one has alone stays as it is.
    """

    def whole(leaf: Any) -> Any:
        if not isinstance(leaf, Array) or leaf.is_fully_addressable:
            return leaf
        if is_key(leaf):
            data = whole(jax.random.key_data(leaf))
            return jax.random.wrap_key_data(data, impl=jax.random.key_impl(leaf))
        if not leaf.is_fully_replicated:
            everywhere = NamedSharding(leaf.sharding.mesh, PartitionSpec())  # type: ignore[attr-defined]
            leaf = jax.jit(_itself, out_shardings=everywhere)(leaf)
        return leaf.addressable_data(0)

    return jax.tree.map(whole, tree)


def _itself(x: Array) -> Array:
    return x


def mesh_of(array: Any) -> Mesh | None:
    """The mesh of several devices that an array lies on, if there is one."""
    sharding = getattr(array, "sharding", None)
    if isinstance(sharding, NamedSharding) and sharding.num_devices > 1:
        mesh: Any = sharding.mesh
        return mesh
    return None


def automatic(mesh: Mesh) -> Mesh:
    """The same devices, with automatic axes."""
    names = mesh.axis_names
    return Mesh(mesh.devices, names, axis_types=(AxisType.Auto,) * len(names))


def layout_of(function: str, mesh: Any, shard: Any) -> Layout:
    """The layout that arguments of these names ask for, or TypeError or ValueError."""
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"{function}: mesh is a {type(mesh).__name__}, expected a jax.sharding.Mesh, such as "
            'jax.make_mesh((jax.device_count(),), ("data",)).'
        )
    if isinstance(shard, str):
        if shard not in SHARDS:
            raise ValueError(
                f"{function}: shard is {shard!r}, expected one of {', '.join(SHARDS)}, or pairs "
                "(regular expression, PartitionSpec)."
            )
        return Layout(automatic(mesh), shard, mesh.axis_names)
    try:
        rules = tuple((str(re.compile(pattern).pattern), spec) for pattern, spec in shard)
    except (TypeError, ValueError, re.error) as error:
        raise TypeError(
            f"{function}: shard is {shard!r}, expected data, fsdp, or pairs (regular expression, "
            f"PartitionSpec): {error}."
        ) from None
    for pattern, spec in rules:
        if not isinstance(spec, PartitionSpec):
            raise TypeError(
                f"{function}: shard has {spec!r} for {pattern!r}, expected a "
                "jax.sharding.PartitionSpec."
            )
        unknown = {axis for entry in spec for axis in _names(entry)} - {*mesh.axis_names}
        if unknown:
            raise ValueError(
                f"{function}: shard has {spec} for {pattern!r}, but the mesh's axes are "
                f"{', '.join(mesh.axis_names)}."
            )
    return Layout(automatic(mesh), rules, mesh.axis_names[:1])


def place(
    state: TrainState, mesh: Mesh, shard: Literal["data", "fsdp"] | Rules = "data"
) -> TrainState:
    r"""Copies a state onto the devices of a mesh, as `fit` lays it out there.

    | shard | parameters | a batch is cut over |
    |---|---|---|
    | "data" | whole on each device | all axes of the mesh |
    | "fsdp" | in parts along the largest axis that the devices divide | all axes |
    | rules | as the first rule says that is found in the leaf's name | the first axis |

    Names are those that leaves have in checkpoints, such as `params.affine1.w`. An array of the
    optimizer's state that is of its parameter's shape, such as a momentum, lies as that one does;
    all else that no rule names is whole on each device: step, key, running statistics.

    Args:
      state: the state; nothing of it is changed, nor shared with the copy.
      mesh: the mesh, perhaps over the devices of several processes, each of which has the state.
      shard: "data", "fsdp", or rules: pairs of a regular expression and a `PartitionSpec`.

    Returns:
      The copy. The axes of its mesh are automatic, whatever those of `mesh` are.

    Raises:
      TypeError: `mesh` is no mesh, or `shard` is neither a word nor pairs.
      ValueError: a rule names an axis that the mesh does not have, fits no leaf, or cuts one into
        parts that its shape does not have.

    >>> from funcnet import nets, optimizers, train
    >>> state = train.init_state(nets.affine(4), optimizers.adam(0.1), jax.random.key(0), (2,))
    >>> mesh = jax.make_mesh((1,), ("model",))
    >>> rules = [(r"affine.*w$|^params\.w", PartitionSpec(None, "model"))]
    >>> placed = place(state, mesh, rules)
    >>> placed.params.w.sharding.spec, placed.opt_state.mu.w.sharding.spec
    (P(None, 'model'), P(None, 'model'))
    """
    return layout_of("place", mesh, shard).place(state)


def check_mesh(mesh: Mesh | None, batch_size: int, accumulate: int) -> None:
    """Raises ValueError where a batch does not divide, before there is anything of a run."""
    parts = 1 if mesh is None else layout_of("fit", mesh, "data").parts
    check_divides(parts, accumulate, batch_size, False)


def check_divides(parts: int, accumulate: int, batch_size: int, full: bool) -> None:
    """Raises ValueError where devices and accumulation do not divide a batch."""
    both = parts * accumulate
    if batch_size % both == 0:
        return
    by = [f"{parts} parts of the mesh"] * (parts > 1) + [f"accumulate={accumulate}"] * (
        accumulate > 1
    )
    less = batch_size // both * both
    mend = f"a multiple of {both}, the next is {less + both}"
    what = "batch_size"
    if full:
        mend, what = f"a multiple of {both}, such as the first {less} rows", "a batch of all rows"
    raise ValueError(
        f"fit: {what} is {batch_size}, which {' and '.join(by)} do not divide; expected {mend}."
    )
