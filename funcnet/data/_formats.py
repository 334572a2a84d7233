"""Readers of the data sets' file formats: bytes in, checked uint8 and int32 arrays out.

A reader believes nothing of what it reads. Sizes are bounded before anything is allocated, no file
can name code to run, and whatever is wrong with a file becomes a `DataFormatError` that names it.
"""

from __future__ import annotations

import contextlib
import enum
import gzip
import hashlib
import io
import math
import os
import pickletools
import struct
import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

MIB = 1 << 20
FILE_LIMIT_BYTES = 256 * MIB  # the largest official file, SVHN's training set, has 174 MiB
MEMBER_LIMIT_BYTES = 64 * MIB  # CIFAR-10's batches have 30 MiB, MNIST's images 45 MiB
_TAR_ENTRIES = 32  # the official archives have 9
_TAR_EXTRA_BYTES = MIB  # an entry nobody asked for, or the padding after the last one
_PICKLE_OPCODES = 200_000  # CIFAR-10's batches have 40,000
_SVHN_ROWS = 100_000

Batch = tuple[np.ndarray, np.ndarray]


class DataFormatError(ValueError):
    """A data file is not what its name says: the message names the file, the fault and the cure."""


def bad(source: object, fault: str, cure: str = "") -> DataFormatError:
    """Returns the error about the file `source`."""
    cure = cure or "Move it away and fetch the official file again."
    return DataFormatError(f"{source}: {fault}. {cure}")


def first_outside(labels: np.ndarray, classes: int) -> int | None:
    """Returns the index of the first integer label outside 0 ... classes - 1, or None."""
    outside = (labels < 0) | (labels >= classes)
    return int(outside.argmax()) if outside.any() else None


def _labels(source: object, labels: np.ndarray, classes: int = 10) -> np.ndarray:
    index = first_outside(labels, classes)
    if index is not None:
        raise bad(source, f"label {index} is {labels[index]}, expected 0 to {classes - 1}")
    return labels.astype(np.int32)


def check_rows(files: Iterable[tuple[Path, int, int]]) -> None:
    """Raises DataFormatError where a copy of the official files lost rows, or gained some.

    A set of somebody's own making may have any size. One of which a file comes within a hundredth
    of the official file's rows is a copy of the official one, and then each must have them all.

    Args:
        files: (path, rows that came, rows of the official file) for each file of the set.
    """
    files = list(files)
    if any(abs(came - official) <= official // 100 for _, came, official in files):
        for path, came, official in files:
            if came != official:
                raise bad(path, f"it has {came} rows, expected {official} as in the official file")


# --- Bytes and their checksums


def verify(source: object, data: bytes | io.BufferedReader, checksum: str | None) -> None:
    """Raises DataFormatError unless `data` has the SHA-256 or, of 32 digits, the MD5 `checksum`.

    MD5 serves only where nothing else is stated: it tells a damaged file, and against a malicious
    one the readers stand on their own.
    """
    if checksum is None:
        return
    algorithm = {64: "sha256", 32: "md5"}[len(checksum)]
    if isinstance(data, bytes):
        came = hashlib.new(algorithm, data, usedforsecurity=False).hexdigest()
    else:
        came = hashlib.file_digest(
            data, lambda: hashlib.new(algorithm, usedforsecurity=False)
        ).hexdigest()
        data.seek(0)
    if came != checksum:
        raise bad(
            source,
            f"its {algorithm} is {came}, the official file's is {checksum}",
            "Move it away and fetch the official file again; or, if it is a file of your own "
            "making that you trust, pass verify=False.",
        )


@contextlib.contextmanager
def open_verified(path: Path, checksum: str | None) -> Iterator[io.BufferedReader]:
    """Opens a file of bounded size whose checksum has been verified on the same handle."""
    with open(path, "rb") as stream:
        size_bytes = os.fstat(stream.fileno()).st_size
        if size_bytes > FILE_LIMIT_BYTES:
            raise bad(path, f"it has {size_bytes} bytes, expected at most {FILE_LIMIT_BYTES}")
        verify(path, stream, checksum)
        yield stream


def copy(source: object, stream: io.BufferedIOBase, target: Any) -> None:
    """Copies a stream of bounded length."""
    copied_bytes = 0
    while chunk := stream.read(MIB):
        copied_bytes += len(chunk)
        if copied_bytes > FILE_LIMIT_BYTES:
            raise bad(source, f"it has more than {FILE_LIMIT_BYTES} bytes")
        target.write(chunk)


@contextlib.contextmanager
def _gunzipped(path: Path, stream: io.BufferedIOBase) -> Iterator[io.BufferedIOBase]:
    """The stream itself, or what it holds if the file's name ends in .gz."""
    if path.suffix != ".gz":
        yield stream
        return
    try:
        with gzip.GzipFile(fileobj=stream, mode="rb") as unzipped:
            yield unzipped
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise bad(path, f"its gzip stream is broken: {error}") from error


def _take_array(stream: io.BufferedIOBase, size_bytes: int) -> np.ndarray:
    """Returns the next bytes of a stream, fewer at its end; memory grows with what comes."""
    content = bytearray()
    while chunk := stream.read(min(MIB, size_bytes - len(content))):
        content += chunk
    return np.frombuffer(content, np.uint8)


# --- Pickle: CIFAR-10, Python version


class _Inert(enum.Enum):
    """What a pickle may name. These stand for the functions, which are never looked up."""

    RECONSTRUCT = "numpy's _reconstruct"
    NDARRAY = "numpy.ndarray"
    DTYPE = "numpy.dtype"
    ENCODE = "_codecs.encode"
    UINT8 = "the dtype uint8"


_NAMES = {
    "numpy.core.multiarray _reconstruct": _Inert.RECONSTRUCT,
    "numpy._core.multiarray _reconstruct": _Inert.RECONSTRUCT,
    "numpy ndarray": _Inert.NDARRAY,
    "numpy dtype": _Inert.DTYPE,
    "_codecs encode": _Inert.ENCODE,  # how Python 3 writes bytes in protocol 2
}


class _Array:
    """A uint8 array, empty until its state arrives."""

    value: np.ndarray | None = None

    def build(self, state: Any, encode: Callable[[str], bytes]) -> None:
        """Takes (version, shape, dtype, fortran_order, bytes) as ndarray.__setstate__ does."""
        if self.value is not None or type(state) is not tuple:
            raise ValueError("an array's state is no tuple, or comes twice")
        _, shape, dtype, fortran_order, content = state
        if dtype is not _Inert.UINT8 or fortran_order is not False:
            raise ValueError("an array is not of dtype uint8 in C order")
        if type(shape) is not tuple or not all(type(n) is int and n >= 0 for n in shape):
            raise ValueError("an array's shape is not a tuple of sizes")
        if type(content) is str:  # how Python 2 wrote bytes
            content = encode(content)
        if type(content) is not bytes:
            raise ValueError("an array's content is not bytes")
        self.value = np.frombuffer(content, np.uint8).reshape(shape)


class _Machine:
    """The part of the pickle machine that builds plain containers and uint8 arrays."""

    def __init__(self, budget_bytes: int):
        self.stack: list[Any] = []
        self.marks: list[int] = []
        self.memo: dict[int, Any] = {}
        self.budget_bytes = budget_bytes

    def pop_to_mark(self) -> list[Any]:
        mark = self.marks.pop()
        items = self.stack[mark:]
        del self.stack[mark:]
        return items

    def append(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise ValueError("it appends to what is no list")
        self.stack[-1].extend(items)

    def set_items(self, items: list[Any]) -> None:
        target = self.stack[-1]
        if type(target) is not dict:
            raise ValueError("it sets items of what is no dict")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if type(key) not in (str, bytes, int):
                raise ValueError(f"a key is a {type(key).__name__}, expected str, bytes or int")
            target[key] = value

    def name(self, qualified: str) -> None:
        if qualified not in _NAMES:
            raise ValueError(f"it names {qualified.replace(' ', '.')!r}, which it may not")
        self.stack.append(_NAMES[qualified])

    def encode(self, text: str) -> bytes:
        self.budget_bytes -= len(text)  # else one long string, encoded again and again, is a bomb
        if self.budget_bytes < 0:
            raise ValueError("it encodes more bytes than it has")
        return text.encode("latin-1")

    def reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if type(arguments) is not tuple:
            raise ValueError("it calls something with what is no tuple of arguments")
        if function is _Inert.RECONSTRUCT and arguments[0] is _Inert.NDARRAY:
            self.stack.append(_Array())
        elif function is _Inert.DTYPE and arguments[0] in ("u1", "|u1", b"u1", b"|u1"):
            self.stack.append(_Inert.UINT8)
        elif (
            function is _Inert.ENCODE
            and [type(a) for a in arguments] == [str, str]
            and arguments[1] == "latin1"
        ):
            self.stack.append(self.encode(arguments[0]))
        else:
            raise ValueError("it makes an object that is no uint8 array")

    def build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if type(target) is _Array:
            target.build(state, self.encode)
        elif target is not _Inert.UINT8 or type(state) is not tuple or state[2:5] != (None,) * 3:
            raise ValueError("it sets the state of an object that is no uint8 array")

    def run(self, data: bytes) -> Any:
        """Returns what the pickle holds; ValueError or LookupError on whatever is not plain."""
        pop, push = self.stack.pop, self.stack.append
        operations: Iterator[tuple[Any, Any, Any]] = pickletools.genops(data)
        for count, (opcode, argument, position) in enumerate(operations):
            if count >= _PICKLE_OPCODES:
                raise ValueError(f"it has more than {_PICKLE_OPCODES} opcodes")
            match opcode.name:
                case "BININT1" | "BININT2" | "BININT" | "SHORT_BINSTRING" | "BINSTRING":
                    push(argument)
                case "BINUNICODE" | "SHORT_BINUNICODE" | "BINBYTES" | "SHORT_BINBYTES":
                    push(argument)
                case "BINPUT" | "LONG_BINPUT":
                    self.memo[argument] = self.stack[-1]
                case "MEMOIZE":
                    self.memo[len(self.memo)] = self.stack[-1]
                case "BINGET" | "LONG_BINGET":
                    push(self.memo[argument])
                case "MARK":
                    self.marks.append(len(self.stack))
                case "APPENDS":
                    self.append(self.pop_to_mark())
                case "APPEND":
                    self.append([pop()])
                case "SETITEMS":
                    self.set_items(self.pop_to_mark())
                case "SETITEM":
                    self.set_items([pop(), pop()][::-1])
                case "EMPTY_LIST":
                    push([])
                case "EMPTY_DICT":
                    push({})
                case "EMPTY_TUPLE":
                    push(())
                case "TUPLE":
                    push(tuple(self.pop_to_mark()))
                case "TUPLE1" | "TUPLE2" | "TUPLE3":
                    push(tuple([pop() for _ in range(int(opcode.name[-1]))][::-1]))
                case "NONE" | "NEWTRUE" | "NEWFALSE":
                    push({"NONE": None, "NEWTRUE": True, "NEWFALSE": False}[opcode.name])
                case "GLOBAL":
                    self.name(argument)
                case "STACK_GLOBAL":
                    attribute, module = pop(), pop()
                    if type(attribute) is not str or type(module) is not str:
                        raise ValueError("it names something by what is no string")
                    self.name(f"{module} {attribute}")
                case "REDUCE":
                    self.reduce()
                case "BUILD":
                    self.build()
                case "PROTO" | "FRAME":
                    pass  # genops knows every protocol, and reads frames as it reads the rest
                case "STOP":
                    if position != len(data) - 1:
                        raise ValueError(f"{len(data) - 1 - position} bytes follow its end")
                    if len(self.stack) != 1 or self.marks:
                        raise ValueError("it holds more or less than one object")
                    return pop()
                case forbidden:
                    raise ValueError(f"its opcode {forbidden} is not admitted")
        raise ValueError("it has no end")


def read_cifar_pickle(source: object, data: bytes) -> Batch:
    """Returns a batch of CIFAR-10's Python version: images (n, 32, 32, 3), labels (n,).

    Not by `pickle`: `pickletools` splits the file into its opcodes, and a machine of the few that
    plain containers and uint8 arrays need (protocols 2 to 4) runs them. It imports and calls
    nothing, and refuses every other opcode and name.
    """
    if len(data) > MEMBER_LIMIT_BYTES:
        raise bad(source, f"it has {len(data)} bytes, expected at most {MEMBER_LIMIT_BYTES}")
    try:
        content = _Machine(budget_bytes=len(data)).run(data)
        if type(content) is not dict:
            raise ValueError("it holds no dict")
        fields = {k.decode("latin-1") if type(k) is bytes else k: v for k, v in content.items()}
        array, labels = fields["data"], fields["labels"]
        if type(array) is not _Array or array.value is None or array.value.ndim != 2:
            raise ValueError("its 'data' is no matrix")
        rows = array.value
        if rows.shape[1] != 3072 or not len(rows):
            raise ValueError(f"its 'data' has shape {rows.shape}, expected (n, 3072)")
        if type(labels) is not list or not all(type(label) is int for label in labels):
            raise ValueError("its 'labels' is no list of integers")
        if len(labels) != len(rows):
            raise ValueError(f"it has {len(rows)} images and {len(labels)} labels")
    # pickletools warns of odd escapes in text, which `python -W error` makes an error.
    except (ValueError, LookupError, Warning) as error:
        raise bad(source, f"it is no batch of CIFAR-10: {error}") from error
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, _labels(source, np.asarray(labels))


# --- Records: CIFAR-10, binary version


def read_cifar_binary(source: object, data: bytes) -> Batch:
    """Returns a batch of CIFAR-10's binary version: rows of one label and 3072 bytes, NCHW."""
    if not data or len(data) % 3073 or len(data) > MEMBER_LIMIT_BYTES:
        raise bad(
            source,
            f"it has {len(data)} bytes, expected a multiple of 3073, one label and one image, "
            f"of at most {MEMBER_LIMIT_BYTES}",
        )
    rows = np.frombuffer(data, np.uint8).reshape(-1, 3073)
    images = rows[:, 1:].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return images, _labels(source, rows[:, 0])


# --- Tar: CIFAR-10's archives


def read_members(
    path: Path, stream: io.BufferedIOBase, folder: str, names: tuple[str, ...]
) -> Iterator[tuple[str, bytes]]:
    """Yields (name, content) of the files folder/name in a tar or tar.gz, in the archive's order.

    Nothing is extracted and the archive is read once, front to back, one header at a time: an
    entry that is no regular file or plain folder, that leads elsewhere, comes twice or is too
    large ends the reading.
    """
    wanted = {f"{folder}/{name}": name for name in names}
    found: set[str] = set()
    with _gunzipped(path, stream) as content:
        for _ in range(_TAR_ENTRIES):
            header = content.read(tarfile.BLOCKSIZE)
            if len(header) == tarfile.BLOCKSIZE and not any(header):
                break
            entry = _tar_entry(path, header)
            name = wanted.get(entry.name.removeprefix("./")) if entry.isreg() else None
            if name in found:
                raise bad(path, f"it has {name} twice")
            limit_bytes = MEMBER_LIMIT_BYTES if name else _TAR_EXTRA_BYTES
            if not 0 <= entry.size <= limit_bytes:
                raise bad(path, f"{entry.name!r} has {entry.size} bytes, at most {limit_bytes} fit")
            data = content.read(entry.size)
            padding_bytes = -entry.size % tarfile.BLOCKSIZE
            if len(data) + len(content.read(padding_bytes)) != entry.size + padding_bytes:
                raise bad(path, f"it ends within {entry.name!r}")
            if name:
                found.add(name)
                yield name, data
        else:
            raise bad(path, f"it has more than {_TAR_ENTRIES} entries")
        rest = content.read(_TAR_EXTRA_BYTES + 1)
        if len(rest) > _TAR_EXTRA_BYTES or len(rest) % tarfile.BLOCKSIZE or any(rest):
            raise bad(path, "bytes follow its end")
    if missing := [name for name in names if name not in found]:
        raise bad(path, f"it lacks {', '.join(missing)}")


def _tar_entry(path: Path, header: bytes) -> tarfile.TarInfo:
    """Returns the entry of one header, the archive's claims about links and names refused."""
    try:
        entry = tarfile.TarInfo.frombuf(header, "utf-8", "surrogateescape")
    except tarfile.HeaderError as error:
        raise bad(path, f"it ends early, or is no tar archive: {error}") from error
    # Extended headers (x, g) rename and resize what follows: skipped unread, they cannot.
    if entry.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE, b"x", b"g"):
        raise bad(path, f"{entry.name!r} is a link, a device or otherwise no regular file")
    if entry.name.startswith("/") or ".." in entry.name.split("/"):
        raise bad(path, f"{entry.name!r} leads out of the archive's folder")
    if entry.isdir() and entry.size:
        raise bad(path, f"the folder {entry.name!r} has {entry.size} bytes of content")
    return entry


# --- IDX: MNIST and Fashion-MNIST


def read_idx(path: Path, stream: io.BufferedIOBase, example_shape: tuple[int, ...]) -> np.ndarray:
    """Returns the uint8 array (n, *example_shape) of an IDX file, plain or .gz.

    The format: http://yann.lecun.com/exdb/mnist/ (two zero bytes, the dtype's code, the number of
    axes, each axis as a big-endian 32-bit size, then the entries in row-major order).
    """
    axes = 1 + len(example_shape)
    with _gunzipped(path, stream) as content:
        header = content.read(4 + 4 * axes)
        if len(header) != 4 + 4 * axes or header[:4] != bytes((0, 0, 8, axes)):
            raise bad(path, f"it does not begin as an IDX file of unsigned bytes with {axes} axes")
        shape = struct.unpack(f">{axes}I", header[4:])
        if shape[0] == 0 or shape[1:] != example_shape:
            raise bad(path, f"its shape is {shape}, expected (n, *{example_shape})")
        size_bytes = math.prod(shape)
        if size_bytes > MEMBER_LIMIT_BYTES:
            raise bad(path, f"its shape {shape} needs more than {MEMBER_LIMIT_BYTES} bytes")
        array = _take_array(content, size_bytes)
        if array.size < size_bytes or content.read(1):
            how = "fewer" if array.size < size_bytes else "more"
            raise bad(path, f"it holds {how} than the {size_bytes} bytes of its shape {shape}")
    return array.reshape(shape)


def read_idx_labels(path: Path, stream: io.BufferedIOBase) -> np.ndarray:
    """Returns the labels (n,) of an IDX file, each checked to be 0 to 9."""
    return _labels(path, read_idx(path, stream, ()))


# --- MATLAB 5: SVHN

_MI_INT8, _MI_UINT8, _MI_INT32, _MI_UINT32, _MI_MATRIX, _MI_COMPRESSED = 1, 2, 5, 6, 14, 15
_MX_DOUBLE, _MX_UINT8 = 6, 9
_STORED_AS = {1: "i1", 2: "u1", 3: "<i2", 4: "<u2", 5: "<i4", 6: "<u4", 7: "<f4", 9: "<f8"}


class _Inflated(io.RawIOBase):
    """What the next `size_bytes` of a stream hold, decompressed as it is asked for."""

    def __init__(self, stream: io.BufferedIOBase, size_bytes: int):
        self.stream, self.remaining_bytes = stream, size_bytes
        self.decoder = zlib.decompressobj()

    def readable(self) -> bool:
        return True

    def readinto(self, target: Any) -> int:
        while not self.decoder.eof:
            chunk = self.decoder.unconsumed_tail
            if not chunk:
                chunk = self.stream.read(min(MIB // 16, self.remaining_bytes))
                self.remaining_bytes -= len(chunk)
            content = self.decoder.decompress(chunk, len(target))
            if content:
                target[: len(content)] = content
                return len(content)
            if not chunk:
                raise EOFError("a compressed variable ends early")
        if self.remaining_bytes or self.decoder.unused_data:
            raise ValueError("bytes follow a compressed variable")
        return 0


def _mat_element(stream: io.BufferedIOBase, limit_bytes: int) -> tuple[int, np.ndarray]:
    """Returns the type and bytes of the next data element, which is padded to eight bytes."""
    head = stream.read(8)
    if len(head) < 8:
        raise EOFError("it ends early")
    kind, size_bytes = struct.unpack("<II", head)
    if kind >> 16:  # the small form: both in one word, the content in the other
        kind, size_bytes = kind & 0xFFFF, min(kind >> 16, 4)
        return kind, np.frombuffer(head[4 : 4 + size_bytes], np.uint8)
    if size_bytes > limit_bytes:
        raise ValueError(f"a part of {size_bytes} bytes, where at most {limit_bytes} fit")
    content = _take_array(stream, size_bytes)
    stream.read(-size_bytes % 8)
    return kind, content


def _mat_variable(stream: io.BufferedIOBase) -> tuple[str, int, np.ndarray]:
    """Returns the name, MATLAB class and value of one real numeric array of at most four axes."""
    (flag_kind, flags), (shape_kind, shape_bytes), (name_kind, name) = (
        _mat_element(stream, limit_bytes) for limit_bytes in (8, 16, 64)
    )
    kinds = flag_kind, shape_kind, name_kind
    if kinds != (_MI_UINT32, _MI_INT32, _MI_INT8) or flags.size != 8:
        raise ValueError("a variable does not begin as an array")
    if flags[1] or not _MX_DOUBLE <= flags[0] < _MX_DOUBLE + 10:
        raise ValueError("a variable is complex, or is not numeric")
    shape = tuple(shape_bytes.view("<i4").tolist())
    if min(shape) < 1 or math.prod(shape) > 32 * 32 * 3 * _SVHN_ROWS:
        raise ValueError(f"a variable has shape {shape}, expected at most {_SVHN_ROWS} images")
    kind, content = _mat_element(stream, math.prod(shape) * 8)
    if kind not in _STORED_AS:
        raise ValueError(f"a variable is stored as type {kind}, which is not numeric")
    value = content.view(_STORED_AS[kind]).reshape(shape, order="F")
    return name.tobytes().decode("latin-1"), int(flags[0]), value


def read_svhn(path: Path, stream: io.BufferedIOBase) -> Batch:
    """Returns SVHN's cropped digits: images (n, 32, 32, 3), labels (n,) with 0 for the digit 0.

    The file holds X (32, 32, 3, n) and y (n, 1), compressed or not, with label 10 for the digit 0.
    It is not read by scipy, whose `loadmat` (1.17) ends the process on an array that says that it
    is complex and is not.

    The format: https://www.mathworks.com/help/pdf_doc/matlab/matfile_format.pdf
    """
    header = stream.read(128)
    if not header.startswith(b"MATLAB 5.0 MAT-file") or header[124:] != b"\x00\x01IM":
        raise bad(path, "it does not begin as a little-endian MATLAB 5.0 file")
    variables: dict[str, tuple[int, np.ndarray]] = {}
    try:
        while tag := stream.read(8):
            if len(variables) == 2 or len(tag) < 8:
                raise ValueError("bytes follow X and y")
            kind, size_bytes = struct.unpack("<II", tag)
            if kind == _MI_COMPRESSED:
                inflated = io.BufferedReader(_Inflated(stream, size_bytes), MIB)
                kind, _ = struct.unpack("<II", inflated.read(8).ljust(8, b"\0"))
                name, matlab_class, value = _mat_variable(inflated)
                if inflated.read(1):
                    raise ValueError(f"bytes follow {name!r}")
            else:
                end = stream.tell() + size_bytes
                name, matlab_class, value = _mat_variable(stream)
                if stream.tell() != end:
                    raise ValueError(f"{name!r} is shorter or longer than it says")
            if kind != _MI_MATRIX or name not in ("X", "y") or name in variables:
                raise ValueError(f"it holds {name!r}, expected one X and one y alone")
            variables[name] = matlab_class, value
        if len(variables) < 2:
            raise ValueError("X or y is missing")
        (matlab_class, images), (_, labels) = variables["X"], variables["y"]
        n = images.shape[-1]
        if matlab_class != _MX_UINT8 or images.dtype != np.uint8 or images.shape != (32, 32, 3, n):
            raise ValueError(f"X is {images.dtype} {images.shape}, expected uint8 (32, 32, 3, n)")
        if labels.shape != (n, 1):
            raise ValueError(f"y has shape {labels.shape}, expected {(n, 1)}")
        if not np.isin(labels, np.arange(1, 11)).all():
            raise ValueError("y holds labels other than 1 to 10")
    except (ValueError, EOFError, zlib.error) as error:
        raise bad(path, f"it is no MATLAB file of SVHN: {error}") from error
    return images.transpose(3, 0, 1, 2), labels.reshape(-1).astype(np.int32) % 10
