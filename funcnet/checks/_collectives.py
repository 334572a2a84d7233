"""What the devices of a compiled program send each other, read in its text."""

from __future__ import annotations

import math
import re

COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "all-to-all", "collective-permute")
_ARRAY = re.compile(r"\b([a-z]\w*)\[([\d,<=]*)\]")


def collectives(text: str) -> dict[str, list[int]]:
    """How many collectives of each kind an XLA program holds, and the bytes of their results.

    The bytes are those that one device holds afterwards. One that is started and done later counts
    once; one in the body of a loop too.

    Args:
      text: what `jax.jit(f).lower(...).compile().as_text()` gives.

    Returns:
      Kind -> [count, bytes], of the kinds in `COLLECTIVES` that there are.

    >>> collectives("%a = (f32[2,3]{1,0}, f32[]) all-reduce(%x, %y), to_apply=%add")
    {'all-reduce': [1, 28]}
    >>> collectives("%s = (bf16[4]{0}, bf16[8]{0}) all-gather-start(%x)")
    {'all-gather': [1, 16]}
    """
    found: dict[str, list[int]] = {}
    for kind in COLLECTIVES:
        lines = re.findall(
            rf"^\s*(?:ROOT )?%?[\w.-]+ = (.*?) {kind}(-start)?\(", text, re.MULTILINE
        )
        if lines:
            sizes = [_bytes(_result(kind, shape) if start else shape) for shape, start in lines]
            found[kind] = [len(lines), sum(sizes)]
    return found


def words(found: dict[str, list[int]]) -> str:
    """Collectives as a person reads them.

    >>> words({"all-reduce": [3, 1024]})
    '3 all-reduce (1,024 bytes)'
    """
    said = ", ".join(f"{count} {kind} ({size:,} bytes)" for kind, (count, size) in found.items())
    return said or "no collectives"


def _result(kind: str, shape: str) -> str:
    """Of what an asynchronous start returns, (operands, results, ...), the results."""
    parts = _parts(shape)
    return shape if kind == "all-reduce" or len(parts) < 2 else parts[1]


def _parts(shape: str) -> list[str]:
    """The elements of a tuple's shape, or the shape."""
    if not shape.startswith("("):
        return [shape]
    parts, depth = [""], 0
    for letter in shape[1:-1]:
        depth += (letter in "([{") - (letter in ")]}")
        if letter == "," and depth == 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def _bytes(shape: str) -> int:
    total = 0
    for dtype, axes in _ARRAY.findall(shape):
        bits = re.search(r"\d+", dtype)
        width = 8 if dtype == "pred" else int(bits[0]) if bits else 0  # a token has none
        lengths = [int(n) for n in re.findall(r"\d+", axes)]
        total += math.ceil(width * math.prod(lengths) / 8)
    return total
