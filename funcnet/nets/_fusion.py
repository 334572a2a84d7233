"""Neighbouring blocks that run as one: the same names, the same numbers, fewer residuals."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from jax import Array

from funcnet import layers
from funcnet.nets._net import Part, child
from funcnet.nets._norms import NO_NORM_PARAMS, running_statistics

Configs = list[dict[str, Any]]


class Fusion(NamedTuple):
    """A fused rule for blocks of these kinds, where it applies.

    `apply(configs, params, state, x)` returns the output and the new states, block by block.
    """

    kinds: tuple[str, ...]
    apply: Callable[[Configs, list[Any], list[Any], Array], tuple[Array, list[Any]]]
    admits: Callable[[Configs], bool] = lambda configs: True
    train_only: bool = False


def _affine_batch_norm_relu(configs, params, state, x):
    norm = params[1] or NO_NORM_PARAMS
    eps, axis_name = configs[1]["eps"], configs[1]["axis_name"]
    y, batch = layers.affine_batch_norm_relu((params[0], norm), x, eps, axis_name)
    return y, [(), running_statistics(state[1], batch, configs[1]["momentum"]), ()]


def _conv_relu_pool(configs, params, state, x):
    return layers.conv_relu_pool(params[0], x, **configs[0]), state


def _conv_relu(configs, params, state, x):
    return layers.conv_relu(params[0], x, **configs[0]), state


def _affine_relu(configs, params, state, x):
    del configs
    return layers.affine_relu(params[0], x), state


def _pools_tiles(configs):
    pool = configs[2]
    usual = {"window": (2, 2), "stride": (2, 2), "ceil_mode": False, "dilation": (1, 1)}
    return pool.items() >= usual.items() and pool["padding"] in ("VALID", 0, ((0, 0), (0, 0)))


# The first that fits wins, so the longer ones stand first.
FUSIONS = (
    Fusion(("affine", "batch_norm", "relu"), _affine_batch_norm_relu, train_only=True),
    Fusion(("conv", "relu", "max_pool"), _conv_relu_pool, _pools_tiles),
    Fusion(("conv", "relu"), _conv_relu),
    Fusion(("affine", "relu"), _affine_relu),
)


def fused(parts: Sequence[Part], *, train: bool) -> tuple[Part, ...]:
    """The parts of a `serial`, each as long as a fused rule allows."""
    cut: list[Part] = []
    start = 0
    while start < len(parts):
        fusion = next((f for f in FUSIONS if _fits(f, parts[start:], train)), None)
        stop = start + (1 if fusion is None else len(fusion.kinds))
        cut.append(parts[start] if fusion is None else _as_one(fusion, parts[start:stop]))
        start = stop
    return tuple(cut)


def _fits(fusion: Fusion, parts: Sequence[Part], train: bool) -> bool:
    blocks = [part.blocks[0] for part in parts[: len(fusion.kinds)]]
    return (
        tuple(block.kind for block in blocks) == fusion.kinds
        and (train or not fusion.train_only)
        and fusion.admits([dict(block.config) for block in blocks])
    )


def _as_one(fusion: Fusion, parts: Sequence[Part]) -> Part:
    names = tuple(part.names[0] for part in parts)
    blocks = tuple(part.blocks[0] for part in parts)
    configs = [dict(block.config) for block in blocks]

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Array | None = None
    ) -> tuple[Array, dict[str, Any]]:
        del train, key
        p, s = ([child(tree, name) for name in names] for tree in (params, state))
        y, new = fusion.apply(configs, p, s, x)
        return y, dict(zip(names, new, strict=True))

    return Part(names, blocks, parts[0].position, apply)
