"""How values show themselves in notebooks."""

from __future__ import annotations

import html
from collections.abc import Iterable
from itertools import islice

_ROWS, _CHARACTERS = 60, 1000  # of a table, and of a cell


def table(title: str, rows: Iterable[tuple[object, object]]) -> str:
    """Names and what belongs to them, in two columns of HTML, escaped.

    >>> table("Split", [("images", "(2, 4) <f4")])
    '<table><caption>Split</caption><tr><th>images</th><td>(2, 4) &lt;f4</td></tr></table>'
    """
    first = list(islice(rows, _ROWS + 1))
    if len(first) > _ROWS:
        first[_ROWS:] = [("...", "")]
    cells = "".join(
        f"<tr><th>{_cell(name)}</th><td>{_cell(value)}</td></tr>" for name, value in first
    )
    return f"<table><caption>{_cell(title)}</caption>{cells}</table>"


def short(text: str, length: int) -> str:
    """The text, or what there is room for.

    >>> short("a long name", 8)
    'a lon...'
    """
    return text if len(text) <= length else f"{text[: length - 3]}..."


def array(value: object) -> str:
    """The shape and dtype of an array, or of what else it is.

    >>> import numpy as np
    >>> array(np.zeros((2, 3), np.uint8)), array([1, 2])
    ('(2, 3) uint8', 'list of 2')
    """
    shape, dtype = getattr(value, "shape", None), getattr(value, "dtype", None)
    if isinstance(shape, tuple) and dtype is not None:
        return short(f"{shape} {dtype}", 100)
    count = f" of {len(value)}" if hasattr(value, "__len__") else ""
    return f"{short(type(value).__name__, 100)}{count}"


def _cell(value: object) -> str:
    return html.escape(short(str(value), _CHARACTERS))
