"""The one type of all nets, and what a net that is made of others knows of its parts."""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from funcnet import _notebook
from funcnet._validate import float_dtype
from funcnet.kernels import Pads

Apply = Callable[..., tuple[Any, Any]]
Size = int | tuple[int, int]
Padding = int | Literal["SAME", "VALID"] | tuple[int, int] | Pads
_REPR = 500  # characters of a net's repr
Scale = int | float | Array | Literal["he"]  # an array where a sweep traces it


class Made(NamedTuple):
    """What made a net: as JSON, and as it would be written."""

    config: str
    written: str


class Net(NamedTuple):
    r"""A network, or a block of one, as a pair of pure functions.

    `init(key, input_shape)` returns `(params, state)`; `input_shape` is one example's, without the
    batch. `apply(params, state, x, *, train=False, key=None)` returns `(output, state)`: `params`
    are what gradients are taken for, `state` what the net observes (running statistics), and `key`
    feeds dropout. What has no parameters or no state has `()` there. Anybody's `Net(init, apply)`
    is a full member: the fields behind are for names and summaries, and have defaults. Nets are
    equal where their functions are the same objects (methods: of the same object), so that methods
    of objects that have no hash will do.

    Args:
      init: the initialiser, traceable by JAX.
      apply: the network, traceable by JAX.
      kind: what `serial` names the block by; the fusing of neighbours trusts the kinds of this
        module.
      children: the blocks inside.
      config: pairs of option and value that the fusing of neighbours asks for; hashable.
      parts: what `serial` and `residual` run in training, under which names; None for a net that is
        one layer. See `walk`.
      made: the function of this module that made it, and its arguments; None for anybody's. See
        `to_config`.

    >>> from funcnet import nets
    >>> double = nets.Net(lambda key, shape: ((), ()),
    ...              lambda params, state, x, *, train=False, key=None: (2 * x, state))
    >>> double.apply((), (), jnp.ones(2))
    (Array([2., 2.], dtype=float64), ())
    """

    init: Callable[..., tuple[Any, Any]]
    apply: Apply
    kind: str = "net"
    children: tuple[Net, ...] = ()
    config: tuple[tuple[str, Any], ...] = ()
    parts: tuple[Part, ...] | None = None
    made: Made | None = None

    def __repr__(self) -> str:
        written = f"nets.Net(kind={self.kind!r})" if self.made is None else self.made.written
        return written if len(written) <= _REPR else f"{written[: _REPR - 3]}..."

    def _repr_html_(self) -> str:
        parts = [(part.title, " + ".join(map(repr, part.blocks))) for part in self.parts or ()]
        return _notebook.table(repr(self), parts)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Net)
            and all(map(operator.eq, map(_identity, self[:2]), map(_identity, other[:2])))
            and self[2:] == other[2:]
        )

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash(tuple(map(_identity, self[:2])))


def _identity(function: Any) -> Any:
    """What tells a function from others; a method is made anew each time that it is asked for."""
    owner, method = (getattr(function, name, None) for name in ("__self__", "__func__"))
    return id(function) if owner is None or method is None else (id(owner), id(method))


class Part(NamedTuple):
    """A block within a net, or neighbours that a fused rule runs as one.

    Attributes:
      names: the blocks' names, in params and state.
      blocks: the blocks themselves: one, or the neighbours.
      position: the first block's, from which its key is made.
      apply: of one block its own; of neighbours the same on dicts under their names.
    """

    names: tuple[str, ...]
    blocks: tuple[Net, ...]
    position: int
    apply: Apply

    @property
    def title(self) -> str:
        """The names as one."""
        return " + ".join(self.names)

    def run(
        self, params: Any, state: Any, x: Any, *, train: bool, key: Any, of: str = "serial"
    ) -> tuple[Any, dict[str, Any]]:
        """Applies the part to x, given the params and state of the whole net.

        Profiles show its operations under its name. Returns the output and the new state, a dict.
        """
        fused = len(self.names) > 1
        p, s = (_under(tree, self.names) if fused else child(tree, *self.names)
                for tree in (params, state))  # fmt: skip
        own = None if key is None or fused else jax.random.fold_in(key, self.position)
        where = f"{self.title} of nets.{of}, applied to an array of shape {jnp.shape(x)}"
        with within(where), jax.named_scope("+".join(self.names)):
            x, s = self.apply(p, s, x, train=train, key=own)
        return x, without_empty(s if fused else {self.names[0]: s})


def one_by_one(names: Any, blocks: Any) -> tuple[Part, ...]:
    """Each block as a part of its own."""
    pairs = enumerate(zip(names, blocks, strict=True))
    return tuple(Part((name,), (block,), index, block.apply) for index, (name, block) in pairs)


def output_shape(net: Net, params: Any, state: Any, input_shape: tuple[int, ...]) -> Any:
    """The shape of one output of `net`, found without computing it."""
    x = jax.ShapeDtypeStruct((1, *input_shape), float_dtype(params))
    y, _ = jax.eval_shape(lambda p, s, x: net.apply(p, s, x, train=False), params, state, x)
    return y.shape[1:]


def child(tree: Any, name: str) -> Any:
    """The part of params or state that belongs to `name`: () where it has none."""
    return dict(tree).get(name, ())


def _under(tree: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The parts of params or state that belong to these names, without those that have none."""
    return {name: value for name, value in dict(tree).items() if name in names}


def without_empty(tree: dict[str, Any]) -> dict[str, Any]:
    """Leaves out what holds no array: blocks without parameters or without state."""
    return {name: value for name, value in tree.items() if jax.tree.leaves(value)}


@contextmanager
def within(where: str) -> Iterator[None]:
    """Notes on an error where in the net it came from."""
    try:
        yield
    except Exception as error:
        error.add_note(f"in {where}")
        raise
