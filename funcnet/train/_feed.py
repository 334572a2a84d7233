"""What an epoch's program is fed with: rows of what the device holds, or windows from storage."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import jax
import numpy as np
from jax import Array

from funcnet.train._arguments import Setting
from funcnet.train._batches import Window

WINDOW_BYTES = 2**22  # of a window's batches, if there is more than one

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def ahead(
    function: Callable[[_Item], _Result], items: Iterable[_Item], depth: int = 2
) -> Iterator[_Result]:
    """`function(item)` of each item in order, done by a thread so many items ahead.

    An exception of the function is raised in the place of its result. Items are drawn by whoever
    asks for results, never by the thread.

    >>> list(ahead(lambda x: x + 1, range(4)))
    [1, 2, 3, 4]
    """
    pool = ThreadPoolExecutor(1, "funcnet-reader")
    waiting: deque[Future[_Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(function, item))
            if len(waiting) > depth:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class Resident:
    """The order of an epoch's rows, which its program gathers from what the device holds."""

    def __init__(self, setting: Setting, held: tuple[Any, Any]):
        self._setting, self.inputs = setting, held
        self._epoch: tuple[int, Any] = -1, None

    def example(self, key: Array) -> Any:
        """What the program is compiled for."""
        return self.at(key, 0, 0)[0]

    def at(self, key: Array, epoch: int, position: int) -> tuple[Any, int]:
        """What the program is given at a step of an epoch, and until which step that is good."""
        if self._epoch[0] != epoch:
            self._epoch = epoch, self._setting.order(key, epoch)
        return self._epoch[1], self._setting.steps


class _Place(NamedTuple):
    """A window: its epoch, its first step, and its rows, (steps, batch_size)."""

    epoch: int
    first: int
    rows: np.ndarray


class Windows:
    """Windows of an epoch's batches, read from storage by a thread, two ahead.

    What is read is what the order of `Resident` says, so that the steps' batches are the same. A
    window is of so many steps that their images are a few megabytes: each is one call of the
    program, whatever the size of a batch.
    """

    def __init__(self, setting: Setting, held: tuple[Any, Any]):
        self._setting, (self._split, left) = setting, held
        self.inputs = (), left
        images, labels = self._split
        row = sum(a.dtype.itemsize * int(np.prod(a.shape[1:])) for a in (images, labels))
        most = max(1, WINDOW_BYTES // max(1, row * setting.batch_size))
        count = -(-setting.steps // most)
        self._steps = -(-setting.steps // count)  # the last one of an epoch is filled up
        self._layout = setting.layout
        self._own: Any = slice(None)  # of a batch's rows what this process reads
        if self._layout is not None:
            self._own = self._layout.own(setting.batch_size)
        self._now: tuple[int, int, Any] = -1, 0, None
        self._coming: Iterator[Any] = iter(())

    def example(self, key: Array) -> Any:
        """What the program is compiled for: shapes."""
        images, labels = self._split
        shape = self._steps, self._setting.batch_size

        def of(rows: Any) -> Any:
            dtype, full = jax.dtypes.canonicalize_dtype(rows.dtype), (*shape, *rows.shape[1:])
            place = None if self._layout is None else self._layout.batches(len(full))
            return jax.ShapeDtypeStruct(full, dtype, sharding=place)

        place = None if self._layout is None else self._layout.whole
        first = jax.ShapeDtypeStruct((), np.int32, sharding=place)
        return Window(first, of(images), of(labels))

    def at(self, key: Array, epoch: int, position: int) -> tuple[Any, int]:
        """What the program is given at a step of an epoch, and until which step that is good."""
        if not self._holds(epoch, position):
            self._now = self._next(epoch, position) or self._begun(key, epoch, position)
        _, first, window = self._now
        return window, min(first + self._steps, self._setting.steps)

    def _holds(self, epoch: int, position: int) -> bool:
        at, first, _ = self._now
        return at == epoch and first <= position < first + self._steps

    def _next(self, epoch: int, position: int) -> tuple[int, int, Any] | None:
        """The window that comes, if it is the one that is asked for."""
        self._now = -1, 0, None  # no window is held that is not needed
        for place, images, labels in self._coming:
            if (place.epoch, place.first) != (epoch, position):
                return None
            return epoch, position, self._placed(Window(np.int32(position), images, labels))
        return None

    def _placed(self, window: Window) -> Window:
        if self._layout is None:
            return jax.device_put(window)
        rows = self._setting.batch_size
        first = self._layout.put(window.first)
        return Window(first, *(self._layout.put_batches(own, rows) for own in window[1:]))

    def _begun(self, key: Array, epoch: int, position: int) -> tuple[int, int, Any]:
        """The first window from a step on, behind which the others are read."""
        # The state that the key is of is donated, and a key is not.
        impl = jax.random.key_impl(key)
        numbers: Any = np.array(jax.random.key_data(key))
        own = jax.random.wrap_key_data(numbers, impl=impl)
        self._coming = ahead(self._read, self._places(own, epoch, position))
        found = self._next(epoch, position)
        assert found is not None
        return found

    def _places(self, key: Array, epoch: int, position: int) -> Iterator[_Place]:
        while epoch < self._setting.epochs:
            order = np.asarray(self._setting.order(key, epoch))
            for first in range(position, len(order), self._steps):
                yield _Place(epoch, first, order[first : first + self._steps, self._own])
            epoch, position = epoch + 1, 0

    def _read(self, place: _Place) -> tuple[_Place, np.ndarray, np.ndarray]:
        images, labels = (self._rows(of, place.rows) for of in self._split)
        return place, images, labels

    def _rows(self, of: Any, rows: np.ndarray) -> np.ndarray:
        found = of[rows.ravel()].reshape(*rows.shape, *of.shape[1:])
        if len(rows) == self._steps:
            return found
        filled = np.zeros((self._steps, *found.shape[1:]), found.dtype)
        filled[: len(rows)] = found
        return filled


def feed(setting: Setting, held: tuple[Any, Any]) -> Resident | Windows:
    """What feeds a run, of the training split as `Setting.on_device` has it."""
    return Windows(setting, held) if setting.streams else Resident(setting, held)
