"""Nets made of nets: one after another, around, again; and how their layers are visited."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
from jax import Array

from funcnet._validate import example_shape
from funcnet.nets._config import configured
from funcnet.nets._fusion import fused
from funcnet.nets._net import Apply, Net, Part, one_by_one, output_shape, within, without_empty


@configured
def serial(*blocks: Net, fuse: bool = True) -> Net:
    r"""Blocks one after another, $f_k \circ \dots \circ f_1$.

    Children are named by kind and order among their kind; `params` and `state` are dicts under
    these names, without the blocks that have none, and profiles show each block's operations under
    its name. Shapes are found by `jax.eval_shape`. Block i gets the keys `fold_in(key, i)`, in init
    and in apply. Neighbours for which there is a fused rule (affine - batch_norm - relu, affine -
    relu, conv - relu, conv - relu - 2×2 max_pool) run as one, under the same names and with the
    same numbers.

    Args:
      *blocks: nets; none gives the identity.
      fuse: run neighbours as one where there is a fused rule.

    Returns:
      The net.

    Raises:
      TypeError: a block is not a `Net`.
      ValueError: when applied: `params` hold a name that no block has.

    >>> from funcnet import nets
    >>> net = nets.serial(nets.affine(4), nets.relu(), nets.affine(2))
    >>> params, state = net.init(jax.random.key(0), (3,))
    >>> list(params), params["affine2"].w.shape
    (['affine1', 'affine2'], (4, 2))
    """
    for index, block in enumerate(blocks):
        if not isinstance(block, Net):
            hint = " Call it: the functions of nets return blocks." if callable(block) else ""
            raise TypeError(f"nets.serial: block {index} is {block!r}, expected a nets.Net.{hint}")
    parts = one_by_one(_names(block.kind for block in blocks), blocks)
    trained, inferred = (fused(parts, train=train) if fuse else parts for train in (True, False))

    def init(key: Array, input_shape: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        shape = example_shape("nets.serial", input_shape)
        for (name,), (block,), index, _ in parts:
            with within(f"{name} of nets.serial, whose input is an example of shape {shape}"):
                p, s = block.init(jax.random.fold_in(key, index), shape)
                shape = output_shape(block, p, s, shape)
            params[name], state[name] = p, s
        return without_empty(params), without_empty(state)

    return Net(init, _in_turn(trained, inferred), "serial", blocks, parts=trained)


def _names(kinds: Iterable[str]) -> list[str]:
    seen: Counter[str] = Counter()
    names: list[str] = []
    for kind in kinds:
        seen[kind] += 1
        names.append(f"{kind}{seen[kind]}")
    return names


def _in_turn(trained: Sequence[Part], inferred: Sequence[Part]) -> Apply:
    """What applies the parts one after another: those for training, or for inference."""
    names = [name for part in trained for name in part.names]

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, dict[str, Any]]:
        for tree, what in ((params, "params"), (state, "state")):
            if unknown := set(tree) - set(names):
                raise ValueError(
                    f"nets.serial: {what} hold {sorted(unknown)}, but the blocks are {names}; "
                    "these are another net's."
                )
        updated: dict[str, Any] = {}
        for part in trained if train else inferred:
            x, new = part.run(params, state, x, train=train, key=key)
            updated |= new
        return x, updated

    return apply


@configured
def residual(block: Net, shortcut: Net | None = None) -> Net:
    r"""A block with a way around it: $y = s(x) + f(x)$, with s the identity by default.

    Args:
      block: f.
      shortcut: s where f changes the shape, such as `conv(channels, size=1, stride=2)`.

    Returns:
      The net; params and state are dicts with "block" and "shortcut", where these have any.

    Raises:
      ValueError: at init: the two ways end in different shapes.

    Source: He et al. 2015, https://arxiv.org/abs/1512.03385.

    >>> from funcnet import nets
    >>> net = nets.residual(nets.serial(nets.affine(3), nets.relu()))
    >>> params, _ = net.init(jax.random.key(0), (3,))
    >>> list(params["block"])
    ['affine1']
    """
    ways = (block,) if shortcut is None else (block, shortcut)
    parts = one_by_one(("block", "shortcut")[: len(ways)], ways)

    def init(key: Array, input_shape: Any) -> tuple[dict[str, Any], dict[str, Any]]:
        params: dict[str, Any] = {}
        state: dict[str, Any] = {}
        shape = example_shape("nets.residual", input_shape)
        ends = {"input": shape}
        for (name,), (way,), index, _ in parts:
            with within(f"the {name} of nets.residual"):
                p, s = way.init(jax.random.fold_in(key, index), shape)
                ends[name] = output_shape(way, p, s, shape)
            params[name], state[name] = p, s
        around = "input" if shortcut is None else "shortcut"
        if ends["block"] != ends[around]:
            raise ValueError(
                f"nets.residual: the block turns {shape} into {ends['block']}, which cannot be "
                f"added to the {around}'s {ends[around]}; let the block keep the shape, or pass a "
                "shortcut that ends in the same shape, such as conv(channels, size=1, stride=2)."
            )
        return without_empty(params), without_empty(state)

    return Net(init, _added(parts), "residual", ways, parts=parts)


def _added(parts: Sequence[Part]) -> Apply:
    """What applies the block, and the shortcut where there is one, and adds the ends."""

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, dict[str, Any]]:
        ends: list[Array] = []
        updated: dict[str, Any] = {}
        for part in parts:
            end, new = part.run(params, state, x, train=train, key=key, of="residual")
            ends.append(end)
            updated |= new
        return (ends[1] if len(ends) > 1 else x) + ends[0], updated

    return apply


@configured
def remat(block: Net) -> Net:
    r"""A block that keeps its input only and computes the rest again in the backward pass.

    Args:
      block: the net whose residuals are not to be kept.

    Returns:
      The net, with the block's own params and state.

    Source: Chen et al. 2016, https://arxiv.org/abs/1604.06174; `jax.checkpoint`.

    >>> from funcnet import nets
    >>> params, _ = nets.remat(nets.affine(4)).init(jax.random.key(0), (3,))
    >>> params.w.shape
    (3, 4)
    """

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, Any]:
        def run(params: Any, state: Any, x: Array) -> tuple[Array, Any]:
            return block.apply(params, state, x, train=train, key=key)

        return jax.checkpoint(run)(params, state, x)

    return Net(block.init, apply, "remat", (block,))


def walk(net: Net, visit: Callable[[str, Apply], Apply], *, apart: bool = False) -> Apply:
    """Returns a net's `apply` with `visit(name, apply)` in the place of each layer's.

    Layers are visited in the order in which training runs them, by the names of their parameters:
    `serial1.affine2`, `residual1.block`. A net without parts, such as anybody's, is one layer.

    Args:
      net: the net.
      visit: gets the name and the `apply` of a layer, and returns what is to run for it.
      apart: whether neighbours that run as one are visited one by one, and what `remat` hides too;
        else they are a layer, `affine1 + relu1`, whose params and state are dicts.

    Returns:
      `apply(params, state, x, *, train=False, key=None)`, on the net's own params and state.

    >>> from funcnet import nets
    >>> net = nets.residual(nets.serial(nets.affine(2), nets.relu()))
    >>> for apart in (False, True):
    ...     names = []
    ...     _ = walk(net, lambda name, apply: names.append(name) or apply, apart=apart)
    ...     print(names)
    ['block.affine1 + block.relu1']
    ['block.affine1', 'block.relu1']
    """
    return _walked(net, "", visit, apart)


def _walked(net: Net, name: str, visit: Callable[[str, Apply], Apply], apart: bool) -> Apply:
    if apart and net.kind == "remat" and net.children:
        return _walked(net.children[0], name, visit, apart)
    if net.parts is None or net.kind not in ("serial", "residual"):
        return visit(name or net.kind, net.apply)
    parts = []
    for part in net.parts:
        for single in _apart(part) if apart else (part,):
            inside = [f"{name}.{own}".lstrip(".") for own in single.names]
            if len(inside) == 1:
                apply = _walked(single.blocks[0], inside[0], visit, apart)
            else:
                apply = visit(" + ".join(inside), single.apply)
            parts.append(single._replace(apply=apply))
    return _added(parts) if net.kind == "residual" else _in_turn(parts, parts)


def _apart(part: Part) -> tuple[Part, ...]:
    singles = one_by_one(part.names, part.blocks)
    return tuple(single._replace(position=part.position + single.position) for single in singles)
