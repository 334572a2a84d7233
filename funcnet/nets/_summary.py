"""What a net is made of: one row a layer, with its shape, parameters, FLOPs and residual bytes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from funcnet import kernels
from funcnet._validate import example_shape, float_dtype
from funcnet.nets._compose import walk
from funcnet.nets._net import Apply, Net


class Row(NamedTuple):
    """One layer, or neighbours that run as one; FLOPs and residual bytes are for one example."""

    name: str
    output_shape: tuple[int, ...]
    parameters: int
    flops: int
    residual_bytes: int


class Summary(NamedTuple):
    """The rows of a net and their sums; `str` gives the table."""

    input_shape: tuple[int, ...]
    rows: tuple[Row, ...]
    parameters: int
    flops: int
    residual_bytes: int

    def __str__(self) -> str:
        lines: list[tuple[str, ...]] = [
            ("layer", "output", "parameters", "FLOPs", "residual bytes"),
            ("input", _shape(self.input_shape), "", "", ""),
            *((row.name, _shape(row.output_shape), *_counts(row)) for row in self.rows),
            ("total", "", *_counts(self)),
        ]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        text = [
            "  ".join(
                cell.ljust(width) if i < 2 else cell.rjust(width)
                for i, (cell, width) in enumerate(zip(line, widths, strict=True))
            ).rstrip()
            for line in lines
        ]
        rule = "-" * len(text[0])
        return "\n".join([text[0], rule, *text[1:-1], rule, text[-1]])


def _counts(row: Row | Summary) -> Iterator[str]:
    return (f"{n:,}" for n in (row.parameters, row.flops, row.residual_bytes))


def _shape(shape: tuple[int, ...]) -> str:
    return "×".join(map(str, shape)) or "()"


def summary(net: Net, input_shape: tuple[int, ...]) -> Summary:
    r"""Prints and returns a table of a net's layers; the net is traced, not computed.

    FLOPs are those of the products and convolutions in one example's forward pass, two for each
    multiply-add; the rest counts as nothing. Residual bytes are what one more example in the batch
    makes the backward pass keep, in training; an array that two layers keep is counted once, at the
    first. Parameters and the batch itself are kept anyway and are not counted.

    Args:
      net: any net; blocks of `serial` and `residual` get rows of their own.
      input_shape: the shape of one example, without the batch.

    Returns:
      The `Summary`: rows and sums.

    Raises:
      TypeError: `net` is not a net, or `input_shape` not a tuple of ints.
      ValueError: the net does not take this shape.

    >>> from funcnet import nets
    >>> table = summary(nets.serial(nets.affine(50), nets.relu(), nets.affine(10)), (3072,))
    layer            output  parameters    FLOPs  residual bytes
    ------------------------------------------------------------
    input            3072
    affine1 + relu1  50         153,650  307,200             200
    affine2          10             510    1,000               0
    ------------------------------------------------------------
    total                       154,160  308,200             200
    >>> table.rows[0].output_shape
    (50,)
    """
    if not isinstance(net, Net):
        raise TypeError(f"nets.summary: net is {net!r}, expected a nets.Net.")
    shape = example_shape("nets.summary", input_shape)
    # Two batches, because statistics of a batch are kept once, however many examples there are.
    rows = tuple(
        two._replace(
            flops=(four.flops - two.flops) // 2,
            residual_bytes=(four.residual_bytes - two.residual_bytes) // 2,
        )
        for two, four in zip(_rows(net, shape, 2), _rows(net, shape, 4), strict=True)
    )
    table = Summary(
        shape,
        rows,
        parameters=sum(row.parameters for row in rows),
        flops=sum(row.flops for row in rows),
        residual_bytes=sum(row.residual_bytes for row in rows),
    )
    print(table)
    return table


def _rows(net: Net, shape: tuple[int, ...], batch: int) -> list[Row]:
    """The rows of a net, with FLOPs and residual bytes of a whole batch."""
    rows: list[Row] = []

    def run(key: Array) -> Array:
        params, state = net.init(key, shape)
        x = jnp.zeros((batch, *shape), float_dtype(params))
        kept = {id(leaf): leaf for leaf in jax.tree.leaves((params, state, x))}

        def counted(name: str, apply: Apply) -> Apply:
            def counting(params: Any, state: Any, x: Array, **options: Any) -> tuple[Array, Any]:
                def output(params: Any, x: Array) -> Array:
                    return apply(params, state, x, **options)[0]

                y, vjp = jax.vjp(output, params, x)
                new = {id(leaf): leaf for leaf in jax.tree.leaves(vjp) if id(leaf) not in kept}
                kept.update(new)
                residual_bytes = sum(leaf.size * leaf.dtype.itemsize for leaf in new.values())
                parameters = sum(leaf.size for leaf in jax.tree.leaves(params))
                flops = kernels.flops(jax.make_jaxpr(output)(params, x))
                rows.append(Row(name, y.shape[1:], parameters, flops, residual_bytes))
                return y, state

            return counting

        return walk(net, counted)(params, state, x, train=True, key=key)[0]

    jax.eval_shape(run, jax.random.key(0))
    return rows
