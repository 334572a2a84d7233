"""Which rows of a table are tested by default, and which in another lane."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from typing import Any

import pytest


def by_default(
    rows: Iterable[Any],
    chosen: Collection[Any],
    key: Callable[[Any], Any] = lambda row: row,
    lane: pytest.MarkDecorator = pytest.mark.slow,
) -> list[Any]:
    """The rows as parameters: those with a chosen key as they are, the others in a lane."""
    rows = list(rows)
    missing = set(chosen) - {key(row) for row in rows}
    if missing:
        raise ValueError(f"chosen for the default lane, but in no row: {sorted(map(str, missing))}")
    return [row if key(row) in chosen else pytest.param(row, marks=lane) for row in rows]
