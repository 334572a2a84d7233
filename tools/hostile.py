"""Hostile files: those for checkpoints, a process with little memory to read all in, and the page.

python -m tools.hostile               # docs/hostile_inputs.md, from the tests' own cases
python -m tools.hostile load FOLDER   # reads what FOLDER/cases.json names, within limits
"""

from __future__ import annotations

import io
import json
import math
import pathlib
import re
import resource
import struct
import sys
import zipfile
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

ROOT = pathlib.Path(__file__).parent.parent
PAGE = ROOT / "docs" / "hostile_inputs.md"
ROOM_BYTES = 160 << 20  # of address space, beyond what the process has when it begins to read


# --- Files of parameters, .npz and .safetensors


def npy(array: Any, **options: Any) -> bytes:
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asarray(array), **options)
    return file.getvalue()


def npy_header(text: str, body: bytes = b"") -> bytes:
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + body


def npy_of(descr: str, shape: str, body: bytes = b"", order: str = "False") -> bytes:
    return npy_header(f"{{'descr': {descr}, 'fortran_order': {order}, 'shape': {shape}, }}\n", body)


def zipped(*members: bytes, name: str = "w.npy", compression: int = zipfile.ZIP_STORED) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", compression) as archive:
        for content in members:
            archive.writestr(name, content)
    return file.getvalue()


GOOD_NPZ = zipped(npy(np.zeros(2)))


def in_directory(offset: int, new: bytes) -> bytes:
    """The good archive with other bytes in its member's entry of the central directory."""
    start = GOOD_NPZ.index(b"PK\x01\x02") + offset
    return GOOD_NPZ[:start] + new + GOOD_NPZ[start + len(new) :]


def overlapping(count: int, array: np.ndarray) -> bytes:
    """An archive whose directory names the same member `count` times."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("w.npy", npy(array))
        archive.filelist *= count
    return file.getvalue()


def npz_bomb(compression: int, size_bytes: int) -> bytes:
    file = io.BytesIO()
    with (
        zipfile.ZipFile(file, "w", compression, compresslevel=1) as archive,
        archive.open("w.npy", "w") as member,
    ):
        member.write(npy_of("'|u1'", f"({size_bytes},)"))
        for _ in range(size_bytes >> 20):
            member.write(bytes(1 << 20))
    return file.getvalue()


def hostile_npz() -> Iterator[tuple[str, bytes]]:
    class Call:
        def __reduce__(self) -> Any:
            return __import__("os").mkdir, ("canary",)

    pickled = npy(np.array([Call()], object), allow_pickle=True)
    yield "pickle", zipped(pickled)
    yield "pickle_alone", zipped(pickled[pickled.index(b"\n") + 1 :])
    yield "pickle_in_a_field", zipped(npy_of("[('a', '|O')]", "(1,)", bytes(8)))
    # Compressed
    yield "bomb_deflated", npz_bomb(zipfile.ZIP_DEFLATED, 256 << 20)
    yield "bomb_bzip2", npz_bomb(zipfile.ZIP_BZIP2, 16 << 20)
    yield "bomb_lzma", zipped(npy(np.zeros(1 << 17)), compression=zipfile.ZIP_LZMA)
    yield "compressed", zipped(npy(np.zeros(2)), compression=zipfile.ZIP_DEFLATED)
    for method in (1, 9, 14, 93, 99):
        yield f"method_{method}", in_directory(10, struct.pack("<H", method))
    # An archive that lies
    yield "overlap", overlapping(300, np.zeros(1 << 17))
    yield "size_huge", in_directory(20, struct.pack("<II", 1 << 31, 1 << 31))
    yield "size_huge_unpacked", in_directory(24, struct.pack("<I", 1 << 31))
    yield "size_small", in_directory(20, struct.pack("<II", 10, 10))
    yield "size_zero", in_directory(20, bytes(8))
    yield "checksum", in_directory(16, bytes(4))
    yield "offset_huge", in_directory(42, struct.pack("<I", 1 << 30))
    yield "encrypted", in_directory(8, b"\x01\x00")
    yield "patched", in_directory(8, b"\x20\x00")
    yield "name_not_utf8", in_directory(8, b"\x00\x08").replace(b"w.npyPK\x05", b"\xff.npyPK\x05")
    yield "name_twice", overlapping(2, np.zeros(2))
    yield "name_of_a_folder", zipped(npy(np.zeros(2)), name="../../w.npy")
    yield "nothing_inside", zipped()
    yield "end_alone", b"PK\x05\x06" + bytes(18)
    yield "no_archive", b"\x80\x04K\x01."
    # An array that lies
    yield "version_2", zipped(npy(np.zeros(2), version=(2, 0)))
    yield "magic", zipped(b"\x93NUMPX" + npy(np.zeros(2))[6:])
    yield "header_too_long", zipped(b"\x93NUMPY\x01\x00\xff\xff" + b" " * 65535)
    yield "header_longer_than_the_file", zipped(npy(np.zeros(2))[:20])
    yield "header_deep", zipped(npy_header("(" * 9000))
    yield "header_deep_dicts", zipped(npy_header("{" * 5000))
    yield "header_of_signs", zipped(npy_header("-" * 9000 + "1"))
    yield "header_open_string", zipped(npy_header("'''"))
    yield "header_of_nothing", zipped(npy_header(""))
    yield "header_no_dict", zipped(npy_header("[1, 2]\n"))
    yield "header_a_call", zipped(npy_of("__import__('os').mkdir('canary')", "(2,)", bytes(16)))
    yield "header_without_shape", zipped(npy_header("{'descr': '<f8', 'fortran_order': False}\n"))
    yield "dtype_of_objects", zipped(npy_of("'|O'", "(2,)", bytes(16)))
    yield "dtype_of_text", zipped(npy_of("'<U4'", "(1,)", bytes(16)))
    yield "dtype_of_dates", zipped(npy_of("'<M8[s]'", "(2,)", bytes(16)))
    yield "dtype_of_no_bytes", zipped(npy_of("'|V0'", "(2,)"))
    yield "dtype_of_fields", zipped(npy_of("[('a', '<f8')]", "(2,)", bytes(16)))
    yield "dtype_of_arrays", zipped(npy_of("('<f8', (1000000000,))", "(1,)", bytes(8)))
    yield "dtype_deep", zipped(npy_of("(" * 50 + "'f8'" + ",)" * 50, "(1,)", bytes(8)))
    yield "dtype_of_three_bytes", zipped(npy_of("'<f3'", "(2,)", bytes(6)))
    yield "dtype_unknown", zipped(npy_of("'<q9'", "(2,)", bytes(16)))
    yield "shape_too_large", zipped(npy_of("'<f8'", "(3,)", bytes(16)))
    yield "shape_too_small", zipped(npy_of("'<f8'", "(1,)", bytes(16)))
    yield "shape_huge", zipped(npy_of("'<f8'", f"({1 << 60},)", bytes(16)))
    yield "shape_of_30_digits", zipped(npy_of("'<f8'", f"({10**30},)", bytes(16)))
    yield "shape_overflows", zipped(npy_of("'<f8'", f"({1 << 32}, {1 << 32})", bytes(16)))
    yield "shape_huge_and_empty", zipped(npy_of("'<f8'", "(0, 99999999999999999999)"))
    yield "shape_negative", zipped(npy_of("'<f8'", "(-2,)", bytes(16)))
    yield "shape_of_bools", zipped(npy_of("'<f8'", "(True,)", bytes(8)))
    yield "shape_of_70_axes", zipped(npy_of("'<f8'", f"({'1, ' * 70})", bytes(8)))
    yield "order_a_number", zipped(npy_of("'<f8'", "(2,)", bytes(16), order="1"))


def safetensors(header: Any, body: bytes = b"", size: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text) if size is None else size) + text + body


def tensor(dtype: Any = "F64", shape: Any = (2,), offsets: Any = (0, 16)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


GOOD_SAFETENSORS = safetensors({"w": tensor()}, bytes(16))


def hostile_safetensors() -> Iterator[tuple[str, bytes]]:
    body = bytes(16)

    def one(**changes: Any) -> bytes:
        return safetensors({"w": tensor(**changes)}, body)

    yield "header_huge", safetensors({}, size=1 << 62)
    yield "header_of_100_mb", safetensors({}, size=99_000_000)
    yield "header_short", safetensors({"w": tensor()}, body, size=10)
    yield "header_deep", safetensors(b"[" * 100_000)
    yield "header_deep_dicts", safetensors(b'{"a":' * 50_000)
    yield "header_a_list", safetensors([])
    yield "header_null", safetensors(b"null")
    yield "header_not_utf8", safetensors(b'{"\xff": 1}')
    yield "tensor_a_number", safetensors({"w": 3})
    yield "no_tensor", safetensors({})
    yield "metadata_a_list", safetensors({"__metadata__": [], "w": tensor()}, body)
    yield "metadata_of_numbers", safetensors({"__metadata__": {"a": 3}, "w": tensor()}, body)
    yield (
        "another_checksum",
        safetensors({"__metadata__": {"funcnet.sha256": "0" * 64}, "w": tensor()}, body),
    )
    yield "dtype_unknown", one(dtype="F99")
    for dtype in ("F8_E4M3", "F8_E5M2", "F8_E8M0"):
        yield f"dtype_{dtype}", one(dtype=dtype, shape=[16])
    yield "dtype_F4", one(dtype="F4", shape=[32])
    yield "dtype_other", one(dtype="I64")
    yield "shape_huge", one(shape=[1 << 40])
    yield "shape_overflows", one(shape=[1 << 33, 1 << 33])
    yield "shape_negative", one(shape=[-2])
    yield "shape_of_fractions", one(shape=[2.5])
    yield "shape_of_100_axes", safetensors({"w": tensor("F64", [1] * 100, [0, 8])}, bytes(8))
    yield "shape_huge_and_empty", safetensors({"w": tensor("F64", [0, 1 << 60], [0, 0])})
    yield "offsets_behind_the_end", one(offsets=[16, 32])
    yield "offsets_turned", one(offsets=[16, 0])
    yield "offsets_huge", one(offsets=[0, 1 << 62])
    yield "a_hole", safetensors({"w": tensor("F64", [1], [8, 16])}, body)
    yield "overlap", safetensors({"w": tensor(), "v": tensor()}, body)
    yield "trailing_bytes", safetensors({"w": tensor()}, body + b"\0")
    yield "no_file_of_this_kind", b"\x80\x04K\x01."


HOSTILE_NPZ = dict(hostile_npz())
HOSTILE_SAFETENSORS = dict(hostile_safetensors())
# What of a checkpoint's run.json is replaced, behind a manifest that is right.
HOSTILE_RUNS: dict[str, Any] = {
    "a list": lambda run: [],
    "null": lambda run: None,
    "nothing": lambda run: {},
    "no history": lambda run: {k: v for k, v in run.items() if k != "history"},
    "a history of numbers": lambda run: run | {"history": 3},
    "no leaves": lambda run: run | {"leaves": None},
    "leaves of others": lambda run: run | {"leaves": {"w": "(2,) float32"}},
    "no keys": lambda run: run | {"keys": {}},
    "keys of another kind": lambda run: run | {"keys": dict.fromkeys(run["keys"], "none such")},
    "format 99": lambda run: run | {"format": 99},
    "a config of numbers": lambda run: run | {"config": 3},
    "paths of others": lambda run: run | {"paths": ["w"]},
    "steps of text": lambda run: run | {"nonfinite": 3},
    "no versions": lambda run: run | {"format": 3, "versions": {}},
    "10^12 processes": lambda run: run | {"processes": 10**12},
    "processes of text": lambda run: run | {"processes": "1"},
}


# --- A process with little memory


def readers() -> dict[str, Callable[[pathlib.Path], Any]]:
    """What reads a file of each kind."""
    from funcnet.checkpoint._arrays import read_npz, read_safetensors
    from funcnet.data import _formats

    names = (*(f"data_batch_{i}" for i in range(1, 6)), "test_batch")

    def streamed(read: Callable[..., Any]) -> Callable[[pathlib.Path], Any]:
        def opened(path: pathlib.Path) -> Any:
            with _formats.open_verified(path, None) as stream:
                return read(path, stream)

        return opened

    return {
        "pickle": lambda path: _formats.read_cifar_pickle(path, path.read_bytes()),
        "binary": lambda path: _formats.read_cifar_binary(path, path.read_bytes()),
        "tar": streamed(lambda *a: list(_formats.read_members(*a, "cifar-10-batches-py", names))),
        "images": streamed(lambda *a: _formats.read_idx(*a, (28, 28))),
        "labels": streamed(_formats.read_idx_labels),
        "mat": streamed(_formats.read_svhn),
        "npz": read_npz,
        "safetensors": read_safetensors,
    }


# What no reader has any business with; `compile` is absent, for nothing runs without `exec`.
FORBIDDEN = ("exec", "pickle.", "marshal.", "os.", "subprocess.", "shutil.", "socket.", "ctypes.")


def load(folder: pathlib.Path) -> dict[str, Any]:
    """Reads every file that cases.json names, and says what came of each."""
    from funcnet.checkpoint import CheckpointError
    from funcnet.data import DataFormatError

    cases = json.loads((folder / "cases.json").read_text())
    read = readers()
    events: list[str] = []
    watching = False

    def hook(event: str, arguments: Any) -> None:
        writes = event == "open" and isinstance(arguments[2], int) and arguments[2] & 3
        if watching and (event.startswith(FORBIDDEN) or writes):
            events.append(f"{event}{arguments!r}"[:200])

    sys.addaudithook(hook)
    outcomes: dict[str, str] = {}
    for name, kind in sorted(cases.items(), key=lambda case: not case[0].startswith("good")):
        if not name.startswith("good") and not watching:
            # The good ones have imported what is imported late.
            held_bytes = int(pathlib.Path("/proc/self/statm").read_text().split()[0]) * 4096
            resource.setrlimit(resource.RLIMIT_AS, (held_bytes + ROOM_BYTES,) * 2)
            resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
            resource.setrlimit(resource.RLIMIT_CPU, (120, 120))
            watching = True
        try:
            read[kind](folder / name)
        except (DataFormatError, CheckpointError) as error:
            outcomes[name] = "refused" if str(folder / name) in str(error) else str(error)
        except BaseException as error:
            outcomes[name] = repr(error)[:200]
        else:
            outcomes[name] = "read"
    watching = False
    return {"outcomes": outcomes, "events": events}


# --- The page


def count(test: Callable) -> int:
    """How many cases pytest makes of a test."""
    marks = [mark for mark in getattr(test, "pytestmark", []) if mark.name == "parametrize"]
    return math.prod(len(mark.args[1]) for mark in marks)


def rows() -> Iterator[tuple[str, str, str, str]]:
    """What was tried, in which files, how often, and by which test."""
    from tests.checks import test_step as steps
    from tests.cli import test_errors as lines
    from tests.data import test_dataset as sets
    from tests.data import test_formats as formats
    from tests.house import test_hostile as ours

    def row(files: str, what: str, module: Any, test: str) -> tuple[str, str, str, str]:
        cases = count(getattr(module, test))
        many = re.match(r"test_(\d+)_mutations", test)
        number = f"{cases * int(many[1]):,}" if many else f"{cases:,}"
        return files, what, number, f"`{module.__name__.removeprefix('tests.')}.{test}`"

    yield row(
        "CIFAR-10's pickles",
        "calls of every kind in protocols 0 to 5, imports, extension registries, state that is "
        "set twice, deep and endless structures, memo and string bombs, lying shapes and sizes",
        formats,
        "test_hostile_pickles_are_refused_and_run_nothing",
    )
    yield row(
        "CIFAR-10's archives, tar and tar.gz",
        "paths that lead out, links, devices, sparse and doubled entries, lying sizes, PAX headers "
        "that rename, endless entries",
        formats,
        "test_hostile_archives_are_refused_and_write_nothing",
    )
    yield row(
        "MNIST's IDX files, plain and .gz",
        "wrong magic, dtype, axes, order, counts; products that overflow",
        formats,
        "test_lying_idx_headers_are_refused",
    )
    yield row(
        "SVHN's .mat files",
        "other versions, every odd class and flag, lying tags, shapes and sizes, zlib bombs, "
        "labels that are none",
        formats,
        "test_hostile_mat_files_are_refused",
    )
    yield row(
        "all .gz files",
        "1 GiB of zeros behind a good or a lying beginning, within a second",
        formats,
        "test_gzip_bombs_are_refused_quickly",
    )
    yield row("all formats", "cut short", formats, "test_truncated_files_are_refused")
    yield row("all formats", "bytes after the end", formats, "test_trailing_bytes_are_refused")
    yield row(
        "all formats",
        "one to four random bytes changed",
        formats,
        "test_200_mutations_are_read_or_refused",
    )
    yield row(
        "all formats, slow lane",
        "the same",
        formats,
        "test_2000_mutations_are_read_or_refused",
    )
    yield row(
        "parameters in .npz",
        "pickled objects, compressed bombs, members that overlap or lie of their size, headers "
        "that break Python's parser, lying dtypes and shapes",
        ours,
        "test_hostile_npz_files_are_refused",
    )
    yield row(
        "parameters in .safetensors",
        "huge and deep headers, offsets that overlap, turn or leave the file, dtypes that NumPy "
        "has not",
        ours,
        "test_hostile_safetensors_are_refused",
    )
    yield row(
        "parameters, both",
        "cut short, or bytes after the end",
        ours,
        "test_parameters_that_are_cut_or_longer_are_refused",
    )
    yield row(
        "parameters, both",
        "one to four random bytes changed",
        ours,
        "test_200_mutations_of_parameters",
    )
    yield row("parameters, both, slow lane", "the same", ours, "test_2000_mutations_of_parameters")
    yield row(
        "a checkpoint's `run.json`",
        "other contents behind a manifest that is right",
        ours,
        "test_hostile_checkpoints_are_passed_over_or_refused",
    )
    yield row(
        "labels",
        "out of range, negative, fractions, NaN, one-hot, text, ragged",
        sets,
        "test_bad_labels_are_named",
    )
    yield row(
        "data and batches",
        "empty, ragged, labels that are no classes, a batch larger than the data, batch norm on a "
        "batch of one",
        ours,
        "test_what_does_not_fit_is_refused_before_anything_is_compiled",
    )
    yield row(
        "train steps of strangers",
        "leaves that change dtype, shape, container or place, calls of the host, shared buffers, "
        "numbers that are not finite",
        steps,
        "test_a_broken_step_is_found_and_the_leaf_is_named",
    )
    yield row(
        "command lines",
        "unknown options, bad numbers, damaged files, folders that are none",
        lines,
        "test_a_wrong_line_is_refused_in_one_line",
    )


def page() -> str:
    """The page of the documentation, from the tests as they are."""
    table = list(rows())
    from tests.house import test_hostile as ours

    limited = len(ours.limited_cases())
    return "\n".join(
        [
            "# Hostile inputs",
            "",
            "What the readers and the doors of funcnet are given in every run of the tests, by",
            "`python -m tools.hostile` from the tests' own cases. All of it is refused with an",
            "error that names the file and the fault; a mutation may also be read, as what is",
            "still a valid file. Nothing is executed, written or imported, and memory stays below",
            "64 MiB.",
            "",
            f"All {limited} hostile files of data sets and parameters are read once more in a",
            f"process of their own, which may take {ROOM_BYTES >> 20} MiB of address space, write",
            "no byte, and is watched by an audit hook for `exec`, unpickling, and calls of",
            "the system",
            "(`house.test_hostile.test_within_limits_everything_is_refused_and_nothing_runs`).",
            "",
            "| where | what | cases | test |",
            "|---|---|--:|---|",
            *(f"| {' | '.join(row)} |" for row in table),
            "",
        ]
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["load"]:
        print(json.dumps(load(pathlib.Path(sys.argv[2]))))
    else:
        PAGE.write_text(page())
        print(f"written: {PAGE}")
