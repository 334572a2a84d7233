"""Files of data sets that are to be refused: they lie, hold code, lead out of a folder, swell."""

import gzip
import io
import pickle
import struct
import subprocess
import tarfile
import zlib

import numpy as np
import scipy.io

from tests.support.data_files import (
    ARCHIVE,
    BIN,
    DIGITS,
    IMAGES,
    LABELS,
    PY,
    ROWS,
    idx_bytes,
    python2_pickle,
    tar_bytes,
)

# --- Pickles


class Reduce:
    """Pickles as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments, state=None):
        self.call = (function, arguments) if state is None else (function, arguments, state)

    @classmethod
    def of(cls, call):
        made = cls(None)
        made.call = call
        return made

    def __reduce__(self):
        return self.call


def raw_call(module, function, argument, protocol=b"\x80\x02"):
    return (
        protocol
        + f"c{module}\n{function}\n".encode()
        + b"U"
        + bytes([len(argument)])
        + (argument.encode() + b"\x85R.")
    )


def with_array(replacement):
    """A good batch whose array's opcodes have been changed."""
    good = python2_pickle(ROWS, LABELS)
    for old, new in replacement.items():
        assert old in good
        good = good.replace(old, new)
    return good


def array_opcodes(content=b"T\x06\x00\x00\x00abcdef", shape=b"K\x02K\x03\x86"):
    return (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        b"(K\x01" + shape + b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R\x89" + content + b"tb"
    )


def array_reduction(content):
    """How ROWS would be pickled if its bytes were `content`: for Reduce."""
    function, arguments, (version, shape, dtype, order, _) = ROWS.__reduce__()
    return function, arguments, (version, shape, dtype, order, content)


def hostile_pickles():
    touch = "open('canary', 'w').close()"
    import builtins
    import codecs
    import functools
    import operator
    import os
    import shutil

    yield "os_system_protocol_0", pickle.dumps(Reduce(os.system, "touch canary"), 0)
    yield "os_system_protocol_1", pickle.dumps(Reduce(os.system, "touch canary"), 1)
    for protocol in (2, 3, 4, 5):
        yield (
            f"os_system_protocol_{protocol}",
            pickle.dumps(Reduce(os.system, "touch canary"), protocol),
        )
    yield "eval", pickle.dumps(Reduce(eval, touch), 2)
    yield "exec", pickle.dumps(Reduce(exec, touch), 4)
    yield "mkdir", pickle.dumps(Reduce(os.mkdir, "canary"), 2)
    yield "builtin_import", raw_call("builtins", "__import__", "antigravity")
    yield "python2_builtins", raw_call("__builtin__", "eval", touch)
    yield "popen", pickle.dumps(Reduce(subprocess.Popen, ["touch", "canary"]), 2)
    yield "rmtree", pickle.dumps(Reduce(shutil.rmtree, "no_such_folder"), 4)
    yield "open", pickle.dumps(Reduce(io.open, "canary", "w"), 2)
    yield "getattr", pickle.dumps(Reduce(getattr, "text", "encode"), 2)
    yield (
        "getattr_chain",
        pickle.dumps(Reduce(operator.attrgetter("__class__.__base__.__subclasses__"), 1), 4),
    )
    yield "partial", pickle.dumps(Reduce(functools.partial, os.mkdir, "canary"), 4)
    yield "map", pickle.dumps(Reduce(list, Reduce(map, os.mkdir, ["canary"])), 4)
    yield "codecs_decode", pickle.dumps(Reduce(codecs.decode, b"abc", "zip"), 2)
    yield "codecs_encode_other", pickle.dumps(Reduce(codecs.encode, "abc", "rot13"), 2)
    yield "code_object", raw_call("types", "CodeType", "abc")
    yield "runpy", raw_call("runpy", "run_path", "canary.py")
    yield "numpy_load", raw_call("numpy", "load", "canary.npy")
    yield "numpy_testing", raw_call("numpy.testing._private.utils", "runstring", touch)
    yield "numpy_f2py", raw_call("numpy.f2py.crackfortran", "getlincoef", touch)
    yield "numpy_attribute", raw_call("numpy", "ndarray.tofile", "canary")
    yield "pickle_loads", pickle.dumps(Reduce(pickle.loads, b"cos\nsystem\n."), 2)
    yield "setstate", pickle.dumps(Reduce(Reduce, os.mkdir, state={"call": ("a",)}), 2)
    yield "slots_state", pickle.dumps(Reduce(Reduce, os.mkdir, state=(None, {"call": 1})), 2)
    yield "build_on_dict", b"\x80\x02}}b."
    yield "build_on_name", b"\x80\x02cnumpy\nndarray\n}U\x05shapeK\x01sb."
    state = b"(K\x01K\x03J" + struct.pack("<i", 3072) + b"\x86h\x0b\x89T"
    state += struct.pack("<i", ROWS.size) + bytes(ROWS.size) + b"tb"
    yield "build_twice", with_array({b"tbU\tfilenames": b"tb" + state + b"U\tfilenames"})
    yield "state_too_long", with_array({b"tbU\tfilenames": b"NtbU\tfilenames"})
    yield (
        "state_in_a_list",
        with_array({b"(K\x01J": b"](K\x01J", b"tbU\tfilenames": b"ebU\tfilenames"}),
    )
    good = python2_pickle(ROWS, LABELS)
    dtype = good[good.index(b"cnumpy\ndtype") : good.index(b"K\x00tb\x89") + 4]
    yield "no_dtype", with_array({dtype: b"N"})
    yield (
        "dtype_state_in_a_list",
        with_array({b"(K\x03U\x01|": b"](K\x03U\x01|", b"K\x00tb\x89": b"K\x00eb\x89"}),
    )
    yield "shape_in_a_list", with_array({b"(K\x01J": b"(K\x01](J", b"\x86cnumpy": b"ecnumpy"})
    yield (
        "shape_of_bools",
        python2_pickle(ROWS[:1], LABELS[:1]).replace(b"J" + struct.pack("<i", 1), b"\x88"),
    )
    yield (
        "content_of_numbers",
        pickle.dumps(
            {"data": Reduce.of(array_reduction(ROWS.ravel().tolist())), "labels": [1, 2, 3]}, 2
        ),
    )
    yield (
        "content_of_text",
        pickle.dumps(
            {"data": Reduce.of(array_reduction("\u0416" * ROWS.size)), "labels": [1, 2, 3]}, 2
        ),
    )
    yield "inst", b"(U\x0ctouch canaryios\nsystem\n."
    yield "obj", b"\x80\x02(cos\nsystem\nU\x0ctouch canaryo."
    yield "newobj", b"\x80\x02cos\nsystem\nU\x0ctouch canary\x85\x81."
    yield "newobj_ex", b"\x80\x04cos\nsystem\nU\x0ctouch canary\x85}\x92."
    yield "newobj_ndarray", b"\x80\x02cnumpy\nndarray\n)\x81."
    yield "ext1", b"\x80\x02\x82\x01."
    yield "ext2", b"\x80\x02\x83\x01\x00."
    yield "ext4", b"\x80\x02\x84\x01\x00\x00\x00."
    yield "persid", b"Pcanary\n."
    yield "binpersid", b"\x80\x02U\x06canaryQ."
    yield "buffers", b"\x80\x05\x97\x98."
    yield "bytearray", pickle.dumps(bytearray(10), 5)
    yield "stack_global", b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x0ctouch canary\x85R."
    yield "stack_global_of_numbers", b"\x80\x04K\x01K\x02\x93."
    yield "stack_global_of_deep_tuples", b"\x80\x04)" + b"\x85" * 9000 + b"\x8c\x01a\x93."
    yield "stack_global_from_memo", b"\x80\x04\x8c\x06system\x94\x8c\x02osh\x00\x93)R."
    yield "object_dtype", with_array({b"U\x02u1": b"U\x02O8"})
    yield "structured_dtype", with_array({b"U\x02u1": b"U\x0bV3,O,u1abcd"})
    yield "float_dtype", with_array({b"U\x02u1": b"U\x02f8"})
    yield "dtype_with_fields", with_array({b"U\x01|NNN": b"U\x01|N}N"})
    yield "fortran_order", with_array({b"K\x00tb\x89": b"K\x00tb\x88"})
    yield "array_as_dtype", with_array({b"cnumpy\ndtype\n": b"cnumpy\nndarray\n"})
    yield (
        "dtype_of_an_array",
        with_array({b"cnumpy.core.multiarray\n_reconstruct": b"cnumpy\ndtype"}),
    )
    yield "reconstruct_of_a_dtype", with_array({b"cnumpy\nndarray\n": b"cnumpy\ndtype\n"})
    yield "shape_too_large", python2_pickle(ROWS, LABELS, shape=(1 << 30, 3072))
    yield "shape_product_overflows", python2_pickle(ROWS, LABELS, shape=(1 << 30, 1 << 30))
    yield "shape_negative", python2_pickle(ROWS, LABELS, shape=(-3, -3072))
    yield "shape_minus_one", python2_pickle(ROWS, LABELS, shape=(-1, 3072))
    yield "shape_too_small", python2_pickle(ROWS, LABELS, shape=(2, 3072))
    yield "shape_transposed", python2_pickle(ROWS, LABELS, shape=(3072, 3))
    yield "shape_of_one_axis", with_array({b"\x86cnumpy\ndtype": b"0\x85cnumpy\ndtype"})
    yield "deep_lists", b"\x80\x02" + b"](" * 99_000 + b"e" * 99_000 + b"."
    yield "deep_tuples", b"\x80\x02)" + b"\x85" * 50_000 + b"."
    yield "deep_key", b"\x80\x02})" + b"\x85" * 50_000 + b"K\x01s."
    yield "opcode_flood", b"\x80\x02" + b"]" * 3_000_000 + b"."
    yield "mark_flood", b"\x80\x02" + b"(" * 3_000_000 + b"."
    memos = np.zeros(300_000, [("opcode", "S1"), ("index", "<u4")])
    memos["opcode"], memos["index"] = b"r", np.arange(300_000)
    yield "memo_flood", b"\x80\x02]" + memos.tobytes()
    yield "memo_index", b"\x80\x02]r\xff\xff\xff\xff."
    yield "memo_missing", b"\x80\x02h\x07."
    yield (
        "laughs",
        b"\x80\x02]q\x00"
        + b"".join(
            b"](" + b"h" + bytes([i]) * 1 + (b"h" + bytes([i])) * 9 + b"eq" + bytes([i + 1])
            for i in range(200)
        )
        + b".",
    )
    yield "cycle", b"\x80\x02]q\x00(h\x00e."
    yield (
        "encode_bomb",
        b"\x80\x02c_codecs\nencode\nq\x00X"
        + struct.pack("<I", 1 << 20)
        + (b"a" * (1 << 20) + b"q\x01U\x06latin1q\x02" + b"h\x00h\x01h\x02\x86R" * 1000 + b"."),
    )
    yield (
        "array_bomb",
        b"\x80\x02T"
        + struct.pack("<i", 1 << 20)
        + b"a" * (1 << 20)
        + b"q\x01"
        + (array_opcodes(content=b"h\x01", shape=b"J\x00\x00\x10\x00\x85") * 1000 + b"."),
    )
    yield "frame_too_long", b"\x80\x04\x95" + struct.pack("<Q", 1 << 62) + b"]."
    yield "bytes_too_long", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"a."
    yield "text_too_long", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 40) + b"a."
    yield "string_negative", b"\x80\x02T" + struct.pack("<i", -1) + b"a."
    yield "long_too_long", b"\x80\x02\x8b" + struct.pack("<i", 1 << 30) + b"a."
    yield "long_of_digits", b"L" + b"9" * 1_000_000 + b"L\n."
    yield "not_utf8", b"\x80\x02X\x02\x00\x00\x00\xff\xff."
    yield "no_stop", b"\x80\x02}"
    yield "empty_stack", b"\x80\x02."
    yield "underflow", b"\x80\x02R."
    yield "append_to_dict", b"\x80\x02}K\x01a."
    yield "items_of_list", b"\x80\x02]K\x01K\x02s."
    yield "items_of_number", b"\x80\x02K\x01K\x01K\x02s."
    yield "call_with_a_number", b"\x80\x02c_codecs\nencode\nK\x01R."
    yield "call_with_nothing", b"\x80\x02c_codecs\nencode\n)R."
    yield "odd_items", b"\x80\x02}(K\x01u."
    yield "list_as_key", b"\x80\x02}]K\x01s."
    yield "unknown_opcode", b"\x80\x02\xff."
    # A good batch and one thing too many.
    yield "two_objects", b"\x80\x02}" + good[2:]
    yield "unmatched_mark", b"\x80\x02(" + good[2:]
    yield "persistent_batch", good[:-1] + b"Q."
    filenames = good[good.index(b"]q\x0c") : -2]
    yield "other_call", good.replace(filenames, b"K\x01cnumpy\nndarray\nK\x01\x85R")
    yield "other_state", good.replace(filenames, b"](K\x03U\x01|NNNtb")
    yield (
        "dtype_state_of_a_number",
        good.replace(dtype, dtype[: dtype.index(b"(K\x03")] + b"K\x01b"),
    )
    encoded = pickle.dumps({"data": ROWS, "labels": LABELS.tolist()}, 2)
    yield "encode_by_another_name", encoded.replace(b"c_codecs\nencode", b"cnumpy\ndtype")
    yield "encode_otherwise", encoded.replace(b"latin1", b"utf-16")
    yield "encode_of_bytes", b"\x80\x03c_codecs\nencode\nC\x01aU\x06latin1\x86R."
    yield "second_pickle", python2_pickle(ROWS, LABELS) + pickle.dumps(Reduce(os.mkdir, "canary"))
    yield "not_a_dict", b"\x80\x02]."
    yield "no_labels", pickle.dumps({"data": ROWS}, 2)
    yield "no_data", pickle.dumps({"labels": [1]}, 2)
    yield "labels_of_text", pickle.dumps({"data": ROWS, "labels": ["1", "2", "3"]}, 2)
    yield "labels_of_bools", pickle.dumps({"data": ROWS, "labels": [True, False, True]}, 2)
    yield "labels_of_floats", pickle.dumps({"data": ROWS, "labels": [1.0, 2.0, 3.0]}, 2)
    yield "labels_too_few", pickle.dumps({"data": ROWS, "labels": [1, 2]}, 2)
    yield "labels_too_large", pickle.dumps({"data": ROWS, "labels": [1, 2, 10]}, 2)
    yield "labels_negative", pickle.dumps({"data": ROWS, "labels": [1, -1, 2]}, 2)
    yield "labels_huge", pickle.dumps({"data": ROWS, "labels": [1, 1 << 30, 2]}, 2)
    yield "data_of_lists", pickle.dumps({"data": ROWS.tolist(), "labels": [1, 2, 3]}, 2)
    yield (
        "data_without_state",
        b"\x80\x02}(U\x04data" + array_opcodes()[:-1].split(b"(K\x01")[0] + (b"U\x06labels]u."),
    )
    yield "data_empty", pickle.dumps({"data": ROWS[:0], "labels": []}, 2)
    yield "import_function", raw_call(builtins.__name__, "compile", touch)


HOSTILE_PICKLES = dict(hostile_pickles())


# --- Archives


def link(name, target, kind):
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info, b""


def special(name, kind):
    info = tarfile.TarInfo(name)
    info.type = kind
    return info, b""


def sized_header(name, size, kind=tarfile.REGTYPE):
    """A header alone, which claims `size` bytes that do not follow."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    return info.tobuf(tarfile.GNU_FORMAT)


def hostile_tars():
    first, rest = f"{PY}/data_batch_1", ARCHIVE[1:]
    good = ARCHIVE[0][1]
    yield "slip", tar_bytes([("../../evil", b"x"), *ARCHIVE])
    yield "slip_inside", tar_bytes([(f"{PY}/../../evil", b"x"), *ARCHIVE])
    yield "slip_of_a_batch", tar_bytes([(f"../{first}", good), *rest])
    yield "absolute", tar_bytes([("/tmp/evil", b"x"), *ARCHIVE])
    yield "absolute_batch", tar_bytes([(f"/{first}", good), *rest])
    yield "symlink", tar_bytes([link(first, "/etc/passwd", tarfile.SYMTYPE), *rest])
    yield "symlink_folder", tar_bytes([link(PY, "/tmp", tarfile.SYMTYPE), *ARCHIVE])
    yield "symlink_beside", tar_bytes([*ARCHIVE, link("other", "/etc", tarfile.SYMTYPE)])
    yield "hard_link", tar_bytes([link(first, "/etc/passwd", tarfile.LNKTYPE), *rest])
    yield "hard_link_within", tar_bytes([*rest, link(first, f"{PY}/data_batch_2", tarfile.LNKTYPE)])
    yield "fifo", tar_bytes([special(first, tarfile.FIFOTYPE), *rest])
    yield "character_device", tar_bytes([special(first, tarfile.CHRTYPE), *rest])
    yield "block_device", tar_bytes([special(first, tarfile.BLKTYPE), *rest])
    yield "folder_for_a_batch", tar_bytes([special(first, tarfile.DIRTYPE), *rest])
    yield "sparse", tar_bytes([special(first, tarfile.GNUTYPE_SPARSE), *rest])
    yield "unknown_type", tar_bytes([special(first, b"Z"), *rest])
    yield "long_name", tar_bytes([("a/" * 200 + "b", b"x"), *ARCHIVE], format=tarfile.GNU_FORMAT)
    yield "duplicate", tar_bytes([*ARCHIVE, ARCHIVE[0]])
    yield "duplicate_first", tar_bytes([ARCHIVE[0], (f"./{first}", b"x"), *rest])
    yield "missing", tar_bytes(rest)
    yield "wrong_folder", tar_bytes([(name.replace(PY, BIN), data) for name, data in ARCHIVE])
    yield "no_folder", tar_bytes([(name.split("/")[1], data) for name, data in ARCHIVE])
    yield "deeper_folder", tar_bytes([(f"x/{name}", data) for name, data in ARCHIVE])
    yield "upper_case", tar_bytes([(name.upper(), data) for name, data in ARCHIVE])
    yield "empty", tar_bytes([])
    yield "oversize", sized_header(first, 1 << 40)
    yield "oversize_extra", sized_header("readme.html", 1 << 30) + tar_bytes(ARCHIVE)
    yield "negative_size", sized_header(first, -512) + tar_bytes(ARCHIVE)
    yield "short", sized_header(first, 4096) + b"x" * 100
    yield (
        "folder_with_content",
        sized_header(PY, 512, tarfile.DIRTYPE) + bytes(512) + (tar_bytes(ARCHIVE)),
    )
    yield "large_pax_header", sized_header("pax", 1 << 28, tarfile.XHDTYPE) + tar_bytes(ARCHIVE)
    yield "many_entries", tar_bytes([*((f"extra{i}", b"") for i in range(1000)), *ARCHIVE])
    yield "wrong_header_sum", bytes([tar_bytes(ARCHIVE)[0] ^ 1]) + tar_bytes(ARCHIVE)[1:]
    yield (
        "no_end",
        b"".join(
            sized_header(name, len(data)) + data + bytes(-len(data) % 512) for name, data in ARCHIVE
        ),
    )
    yield "zip_file", b"PK\x03\x04" + bytes(600)
    yield "second_archive", tar_bytes(ARCHIVE) + tar_bytes(ARCHIVE)
    yield (
        "renamed_by_pax",
        tar_bytes(
            [(tar_info_pax(first, {"path": "../../evil"}), good), *rest], format=tarfile.PAX_FORMAT
        ).replace(first.encode(), b"evil" + b"\0" * (len(first) - 4), 1),
    )


def tar_info_pax(name, headers):
    info = tarfile.TarInfo(name)
    info.pax_headers = headers
    return info


HOSTILE_TARS = dict(hostile_tars())


# --- Bombs


def gzip_bomb(head, total_bytes):
    """`head` and then zeros, compressed a thousandfold without ever being in memory."""
    buffer = io.BytesIO()
    with gzip.GzipFile(fileobj=buffer, mode="wb", compresslevel=1) as stream:
        stream.write(head)
        for _ in range(total_bytes >> 20):
            stream.write(bytes(1 << 20))
    return buffer.getvalue()


# --- IDX


def lying_idx():
    good = idx_bytes(DIGITS)
    yield "magic", b"\x01" + good[1:]
    yield "second_byte", b"\x00\x01" + good[2:]
    yield "dtype_int8", good[:2] + b"\x09" + good[3:]
    yield "dtype_float", good[:2] + b"\x0d" + good[3:]
    yield "two_axes", good[:3] + b"\x02" + good[4:]
    yield "four_axes", good[:3] + b"\x04" + good[4:]
    yield "255_axes", good[:3] + b"\xff" + good[4:]
    yield "little_endian", good[:4] + struct.pack("<3I", *DIGITS.shape) + good[16:]
    yield "more_images", good[:4] + struct.pack(">I", 4) + good[8:]
    yield "fewer_images", good[:4] + struct.pack(">I", 2) + good[8:]
    yield "no_images", good[:4] + struct.pack(">3I", 0, 28, 28)
    yield "huge", good[:4] + struct.pack(">3I", 0xFFFFFFFF, 28, 28) + good[16:]
    yield "overflow", good[:4] + struct.pack(">3I", 0xFFFFFFFF, 0xFFFFFFFF, 0xFFFFFFFF) + good[16:]
    yield "wraps_to_the_size", good[:4] + struct.pack(">3I", 1 << 31, 1 << 31, 4) + good[16:]
    yield "other_shape", good[:4] + struct.pack(">3I", 12, 14, 14) + good[16:]
    yield "just_too_large", good[:4] + struct.pack(">3I", 90_000, 28, 28) + good[16:]
    yield "claims_60000", good[:4] + struct.pack(">3I", 60_000, 28, 28) + good[16:]


# --- MATLAB files


def hostile_mats():
    def saved(compressed=False, **variables):
        buffer = io.BytesIO()
        scipy.io.savemat(buffer, variables, do_compression=compressed)
        return buffer.getvalue()

    def changed(content, offset, new):
        return content[:offset] + new + content[offset + len(new) :]

    x, y = IMAGES.transpose(1, 2, 3, 0), np.array([[1], [2], [10]], np.uint8)
    good = saved(X=x, y=y)
    # X's tag, flags, shape, name and content, each behind a tag of eight bytes.
    tag, flags, shape, name, content = 128, 136, 152, 176, 184
    assert struct.unpack("<4i", good[shape + 8 : name]) == (32, 32, 3, 3)
    assert struct.unpack("<II", good[content : content + 8]) == (2, x.size)

    def sizes(*numbers):
        return struct.pack(f"<{len(numbers)}i", *numbers)

    yield "version_7_3", changed(good, 124, b"\x00\x02")
    yield "version_4", struct.pack("<5i", 0, 1, 1, 0, 2) + b"X\0" + bytes(400)
    yield "hdf5", b"\x89HDF\r\n\x1a\n" + bytes(600)
    yield "other_text", changed(good, 0, b"MATLAB 7")
    yield "bad_endian", changed(good, 126, b"XX")
    yield "big_endian_lie", changed(good, 124, b"\x01\x00MI")
    yield "element_type", changed(good, tag, sizes(99))
    yield "element_size_huge", changed(good, tag + 4, b"\xf0\xff\xff\xff")
    yield "element_size_zero", changed(good, tag + 4, sizes(0))
    yield "flags_type", changed(good, flags, sizes(5))
    yield "flags_short", changed(good, flags, sizes(6 | 4 << 16, 9)) + bytes(8)
    yield "flags_empty", good[:flags] + sizes(6, 0) + good[shape:]
    yield "flags_long", changed(good, flags + 4, sizes(1 << 30))
    yield "shape_type", changed(good, shape, sizes(6))
    yield "shape_long", changed(good, shape + 4, sizes(4 * 200))
    yield "shape_odd", changed(good, shape + 4, sizes(15))
    yield "shape_empty", good[:shape] + sizes(5, 0) + good[name:]
    yield "name_type", changed(good, name, sizes(2 | 1 << 16))
    yield "name_other", changed(good, name + 4, b"Z")
    yield "name_is_y", changed(good, name + 4, b"y")
    yield "n_huge", changed(good, name - 4, sizes(90_000))
    yield "n_too_huge", changed(good, name - 4, sizes(1 << 30))
    yield "n_negative", changed(good, name - 4, sizes(-3))
    yield "n_zero", changed(good, name - 4, sizes(0))
    yield "n_two", changed(good, name - 4, sizes(2))
    yield "n_four", changed(good, name - 4, sizes(4))
    yield "content_huge", changed(good, content + 4, b"\0\0\0\x80")
    yield "content_small", changed(good, content + 4, sizes(8))
    yield "content_as_double", changed(good, content, sizes(9))
    yield "content_as_int8", changed(good, content, sizes(1))
    yield "content_as_utf8", changed(good, content, sizes(16))
    for kind in (1, 2, 3, 4, 5, 6, 8, 10, 16, 17, 255):  # cell, struct, ..., int8, ..., opaque
        yield f"class_{kind}", changed(good, flags + 8, bytes([kind]))
    for bit in (2, 4, 8):  # logical, global, complex: on the last, scipy's reader crashes
        yield f"flag_{bit}", changed(good, flags + 9, bytes([bit]))
    yield "no_y", saved(X=x)
    yield "no_x", saved(y=y)
    yield "lower_case_x", saved(x=x, y=y)
    yield "x_float", saved(X=x.astype(float), y=y)
    yield "x_int8", saved(X=x.astype(np.int8), y=y)
    yield "x_three_axes", saved(X=x[..., 0], y=y)
    yield "x_other_order", saved(X=IMAGES, y=y)
    yield "x_cell", saved(X=np.array([x, y], object), y=y)
    yield "x_struct", saved(X={"a": x}, y=y)
    yield "x_text", saved(X="abc", y=y)
    yield "x_empty", saved(X=x[..., :0], y=y[:0])
    yield "y_row", saved(X=x, y=y.T)
    yield "y_short", saved(X=x, y=y[:2])
    yield "y_zero", saved(X=x, y=np.array([[0], [1], [2]]))
    yield "y_eleven", saved(X=x, y=np.array([[1], [11], [2]]))
    yield "y_negative", saved(X=x, y=np.array([[1], [-1], [2]]))
    yield "y_fraction", saved(X=x, y=np.array([[1.5], [1], [2]]))
    yield "y_nan", saved(X=x, y=np.array([[np.nan], [1], [2]]))
    yield "y_complex", saved(X=x, y=np.array([[1 + 1j], [1], [2]]))
    yield "y_text", saved(X=x, y=np.array(["a", "b", "c"]))
    yield "twice", saved(X=x, y=y) + saved(X=x, y=y)[128:]
    bomb = io.BytesIO()
    squeezed = zlib.compress(struct.pack("<II", 14, 1 << 30) + bytes(64 << 20), 1)
    bomb.write(good[:128] + struct.pack("<II", 15, len(squeezed)) + squeezed)
    yield "zlib_bomb", bomb.getvalue()
    lie = changed(changed(good, name - 4, sizes(99_999)), content + 4, sizes(3072 * 99_999))
    end = tag + 8 + struct.unpack("<I", good[tag + 4 : flags])[0]
    name_bomb = good[tag:name] + sizes(1, 1 << 30) + bytes(128 << 20)
    squeezed = zlib.compress(name_bomb, 1)
    yield "zlib_bomb_in_the_name", good[:128] + sizes(15, len(squeezed)) + squeezed
    yield "y_of_text_class", changed(good, end + 16, bytes([4]))
    for case, whole in (("lie", lie), ("type", changed(good, tag, sizes(13)))):
        squeezed = zlib.compress(whole[tag:end], 1)
        yield f"zlib_{case}", good[:128] + sizes(15, len(squeezed)) + squeezed + good[end:]


HOSTILE_MATS = dict(hostile_mats())


# --- Fuzz


def mutated(content, count, seed):
    """`count` copies of `content` with one to four bytes changed, half of them near the front."""
    rng = np.random.default_rng(seed)
    for k in range(count):
        copy = bytearray(content)
        reach = min(len(copy), 200) if k % 2 else len(copy)
        for position in rng.integers(0, reach, rng.integers(1, 5)):
            copy[position] = rng.integers(0, 256)
        yield bytes(copy)
