"""Examples that stay in storage, and are read as they are needed."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from funcnet._moments import blocks

RESIDENT_BYTES = 2**28
"""What a memory-mapped file or another source may have to be read into memory once and for all."""

_Rows = int | slice | np.ndarray | list
_CONTAINERS = (list, tuple, range, str, bytes, bytearray, memoryview, set, frozenset, Mapping)
_ONCE = ("__array_interface__", "__cuda_array_interface__", "__dlpack__", "iloc")  # it is in memory


class SourceError(OSError):
    """A source did not give the rows that it should: the message says what came instead.

    Attributes:
        run: where `fit` raises it, the `train.Run` up to the last step that was done, to be saved
            and resumed; None where there is none.
    """

    run: Any = None


class Streamed:
    """Rows of a source, read as they are needed: as `Split.images` they need not fit into memory.

    | source | rows are read by |
    |---|---|
    | has `shape` and `dtype`: a memory-mapped .npy, an array of h5py or zarr | `source[rows]` |
    | has `len` and records, as of grain and array_record | `__getitems__(rows)`, or `source[i]` |

    `fit` and `evaluate` make one of any such source that is larger than a quarter of a GiB, and
    read smaller ones into memory; what is given as a `Streamed` is never held. It is a picture of
    the source at this moment: a length, shape or dtype that is another one later is an error.
    `numpy.asarray` reads all of it.

    Args:
        source: as above.
        shape: of one record, where records are bytes.
        dtype: likewise.
        decode: `decode(record)`, the array of a record that is something else; of sources by
            random access.

    Raises:
        SourceError: the source cannot be read.
        TypeError: it is none of the above, or its records are no arrays.
        ValueError: it is empty, or only one of shape and dtype is given.

    >>> rows = Streamed([np.full(2, i) for i in range(4)])
    >>> rows, rows[np.array([3, 0])]
    (Streamed((4, 2) int64 of list), array([[3, 3],
           [0, 0]]))
    """

    shape: tuple[int, ...]
    dtype: np.dtype

    def __init__(
        self,
        source: Any,
        *,
        shape: tuple[int, ...] | None = None,
        dtype: Any = None,
        decode: Callable[[Any], Any] | None = None,
    ):
        if (shape is None) != (dtype is None):
            raise ValueError("Streamed: of shape and dtype one is given, expected both or none.")
        if not (
            hasattr(source, "__getitem__") and (_is_array(source) or hasattr(source, "__len__"))
        ):
            raise TypeError(
                f"Streamed: source is a {type(source).__name__}, expected one with a length and "
                "rows: source[i]."
            )
        self._source, self._of = source, _called(source)
        self._maps: tuple[Callable[[np.ndarray], np.ndarray], ...] = ()
        self.sha256: str | None = None
        count = _length(source)
        if not count:
            raise ValueError(f"Streamed: {self._of} is empty, expected at least one row.")
        if _is_array(source) and decode is None and shape is None:
            self._take = _take_array(source)
            self._stored = (count, *map(int, source.shape[1:])), np.dtype(source.dtype)
        else:
            self._take = _take_records(source, _decoder(shape, dtype, decode))
            try:
                one = np.asarray(self._take([0]))
            except Exception as error:
                raise _failed(self._of, [0], error) from error
            if one.dtype.kind in "OSUV" and not _is_number(one.dtype):
                raise TypeError(
                    f"Streamed: the records of {self._of} become {one.dtype}, expected arrays of "
                    "numbers; say how by decode=, or for bytes by shape= and dtype=."
                )
            self._stored = (count, *one.shape[1:]), one.dtype
        self.shape, self.dtype = self._stored

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"Streamed({self.shape} {self.dtype} of {self._of})"

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The bytes of all rows."""
        return self.size * self.dtype.itemsize

    def __getitem__(self, rows: _Rows) -> np.ndarray:
        """Reads rows: one, a slice, or those of an array of numbers, in its order."""
        if isinstance(rows, slice):
            start, stop, step = rows.indices(len(self))
            asked: Any = rows if step == 1 else np.arange(start, stop, step)
            numbers: Any = range(start, stop, step)
        else:
            asked = numbers = np.atleast_1d(np.asarray(rows))
        if not len(numbers):
            found = np.zeros((0, *self._stored[0][1:]), self._stored[1])
        else:
            found = self._read(asked, numbers)
        for function in self._maps:
            found = function(found)
        return found if isinstance(rows, slice) or np.ndim(rows) else found[0]

    def _read(self, asked: Any, numbers: Any) -> np.ndarray:
        """Rows as they are stored, or SourceError."""
        _require_whole(self._of, self._source, len(self))
        try:
            found = np.asarray(self._take(asked))
        except SourceError:
            raise
        except Exception as error:  # whatever a stranger's source raises
            raise _failed(self._of, numbers, error) from error
        shape, dtype = self._stored
        if found.shape != (len(numbers), *shape[1:]) or found.dtype != dtype:
            raise SourceError(
                f"{self._of} gave {found.shape} {found.dtype} for {_range(numbers)}, expected "
                f"{(len(numbers), *shape[1:])} {dtype}, as it began."
            )
        return found

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("Streamed: rows are read from a source, which is a copy.")
        found = self[:]
        return np.asarray(found, dtype) if found.flags.owndata else np.array(found, dtype)

    def map(
        self, function: Callable[[np.ndarray], np.ndarray], dtype: Any = None, shape: Any = None
    ) -> Streamed:
        """The same rows through a function of them, which sees some at a time.

        Args:
            function: `function(rows)`, arrays of (n, ...).
            dtype: what the function makes of the dtype, if it is another.
            shape: what it makes of an example's shape, likewise.
        """
        made = object.__new__(Streamed)
        vars(made).update(vars(self), _maps=(*self._maps, function), sha256=None)
        made.dtype = self.dtype if dtype is None else np.dtype(dtype)
        made.shape = self.shape if shape is None else (len(self), *shape)
        return made

    def astype(self, dtype: Any, copy: bool = True) -> Streamed:
        """The same rows in another dtype, each when it is read."""
        if self.dtype == np.dtype(dtype):
            return self
        return self.map(lambda rows: rows.astype(dtype), dtype)

    def min(self) -> Any:
        """The least entry, which reads all rows."""
        return min(self[block].min() for block in blocks(self))

    def max(self) -> Any:
        """The largest entry, which reads all rows."""
        return max(self[block].max() for block in blocks(self))


def opened(images: Any) -> Any:
    """A source as `Streamed` where it is large, as an array where it is small; others as they are.

    Arrays in memory, of NumPy and JAX, and what NumPy makes one of, are no sources.

    Args:
        images: anything.

    Raises:
        SourceError: it cannot be read.
        TypeError: its records are no arrays.

    >>> opened(np.zeros(2)), type(opened(Streamed(np.zeros((2, 3)))))
    (array([0., 0.]), <class 'funcnet.data.Streamed'>)
    """
    if isinstance(images, Streamed | jax.Array) or not _is_source(images):
        return images
    if _length(images) == 0:
        return np.asarray(images)
    streamed = Streamed(images)
    return streamed if streamed.nbytes > RESIDENT_BYTES else np.asarray(streamed)


def _is_source(images: Any) -> bool:
    if isinstance(images, np.ndarray):
        return isinstance(images, np.memmap)
    if isinstance(images, _CONTAINERS) or any(hasattr(images, name) for name in _ONCE):
        return False
    if not hasattr(images, "__getitem__"):
        return False
    return _is_array(images) or (hasattr(images, "__len__") and not hasattr(images, "__array__"))


def _length(source: Any) -> int:
    return int(source.shape[0]) if _is_array(source) else len(source)  # zarr's arrays have no len


def _is_array(source: Any) -> bool:
    shape, dtype = getattr(source, "shape", None), getattr(source, "dtype", None)
    return isinstance(shape, tuple) and len(shape) > 0 and isinstance(dtype, np.dtype)


def _is_number(dtype: np.dtype) -> bool:
    return dtype.kind == "V" and dtype.names is None and dtype.type is not np.void  # of ml_dtypes


def _called(source: Any) -> str:
    """What a source is called: its file, where it says which."""
    name = getattr(source, "filename", None) or getattr(source, "name", None)
    kind = type(source).__name__
    return f"{kind} {name}" if isinstance(name, str) or hasattr(name, "__fspath__") else kind


def _take_array(source: Any) -> Callable[[Any], Any]:
    if isinstance(source, np.ndarray):
        return lambda rows: source[rows]
    selected = getattr(source, "oindex", source)  # zarr's has rows of any order, too

    def take(rows: Any) -> Any:
        if isinstance(rows, slice):
            return source[rows]
        # h5py takes rows in increasing order, and each of them once.
        asked, places = np.unique(rows, return_inverse=True)
        return np.asarray(selected[asked])[places]

    return take


def _take_records(source: Any, decode: Callable[[Any], Any]) -> Callable[[Any], Any]:
    several = getattr(source, "__getitems__", None)

    def take(rows: Any) -> Any:
        if isinstance(rows, slice):
            rows = range(*rows.indices(_length(source)))
        numbers = [int(row) for row in rows]
        records = several(numbers) if several else [source[row] for row in numbers]
        return np.stack([np.asarray(decode(record)) for record in records])

    return take


def _decoder(shape: Any, dtype: Any, decode: Callable[[Any], Any] | None) -> Callable[[Any], Any]:
    if decode is None and shape is not None:
        return lambda record: np.frombuffer(record, dtype).reshape(shape)
    return decode or (lambda record: record)


def _require_whole(of: str, source: Any, count: int) -> None:
    """Raises SourceError where a source has another length by now, or its file is cut.

    Reading a mapped file behind its end would end the process by SIGBUS.
    """
    mapped = getattr(source, "_mmap", None) if isinstance(source, np.memmap) else None
    if mapped is not None and mapped.size() < len(mapped):
        raise SourceError(
            f"{of} has {mapped.size()} bytes by now, expected {len(mapped)}: the file was cut."
        )
    if (now := _length(source)) != count:
        raise SourceError(f"{of} has {now} rows by now, expected {count}.")


def _failed(of: str, rows: Any, error: Exception) -> SourceError:
    said = SourceError(f"{of}: reading {_range(rows)}: {type(error).__name__}: {error}")
    said.__cause__ = error
    return said


def _range(rows: Any) -> str:
    if len(rows) == 1:
        return f"row {rows[0]}"
    return f"{len(rows)} rows ({min(rows)} to {max(rows)})"
