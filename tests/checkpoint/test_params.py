"""Parameters in files of both kinds: what goes round, and what is refused."""

import io
import itertools
import os
import stat
import sys
import tempfile
import zipfile
from pathlib import Path

import chex
import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from funcnet import checkpoint, nets
from funcnet.data import Preprocessing

CheckpointError = checkpoint.CheckpointError


SUFFIXES = ["npz", "safetensors"]


@pytest.fixture(params=SUFFIXES)
def saved(tmp_path, request):
    """A net with every kind of leaf, its file, and the net's own template."""
    net = nets.fully_connected_net([5], classes=3, norm="batch")
    params, state = net.init(jax.random.key(0), (4,))
    preprocessing = Preprocessing(np.full((1,), 3.5), np.full((1,), 0.25))
    path = tmp_path / f"best.{request.param}"
    checkpoint.save_params(path, params, state, preprocessing)
    return path, params, state, preprocessing


def test_round_trip(saved):
    path, params, state, preprocessing = saved
    loaded = checkpoint.load_params(path, params, state)
    chex.assert_trees_all_equal(loaded[:2], (params, state), strict=True)
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded[:2]))
    np.testing.assert_array_equal(loaded.preprocessing.mean, preprocessing.mean)
    assert loaded.preprocessing.scale.dtype == np.float64


def test_names_are_paths_and_numpy_reads_them(saved):
    path, params, *_ = saved
    read = safetensors.numpy.load_file if path.suffix == ".safetensors" else np.load
    arrays = dict(read(path))
    assert sorted(arrays) == [
        *("affine1.b", "affine1.w", "affine2.b", "affine2.w"),
        *("batch_norm1.beta", "batch_norm1.gamma"),
        *("preprocessing.mean", "preprocessing.scale"),
        *("state.batch_norm1.mean", "state.batch_norm1.var"),
    ]
    np.testing.assert_array_equal(arrays["affine1.w"], params["affine1"].w)


def test_a_template_of_shapes_is_enough(saved):
    path, params, state, _ = saved
    template = jax.eval_shape(lambda: (params, state))
    loaded = checkpoint.load_params(path, *template)
    chex.assert_trees_all_equal(loaded[:2], (params, state))


DTYPES = [
    *map(np.dtype, "?bhilBHILefdgFDGSUVOMm"),
    *(np.dtype(order + kind) for order in "<>" for kind in ("f4", "i8", "c16", "U3")),
    np.dtype([("w", "f4")]),
    *(
        np.dtype(v)
        for v in vars(ml_dtypes).values()
        if isinstance(v, type) and issubclass(v, np.generic)
    ),
]
LAYOUTS = {
    "plain": lambda a: a,
    "Fortran": lambda a: np.array(a, order="F"),
    "strided": lambda a: np.repeat(a, 2, -1)[..., ::2] if a.ndim else a,
    "backwards": lambda a: a[::-1] if a.ndim else a,
    "read-only": lambda a: np.frombuffer(a.tobytes(), a.dtype).reshape(a.shape),
}
ROUND = {  # the dtypes that come back: those of JAX's that each kind of file has
    "safetensors": "bool int8 int16 int32 int64 uint8 uint16 uint32 uint64 float16 float32 float64 "
    "complex64 bfloat16 float8_e4m3fn float8_e4m3fnuz float8_e5m2 float8_e5m2fnuz float8_e8m0fnu",
}
ROUND["npz"] = (
    f"{ROUND['safetensors']} complex128 float4_e2m1fn float8_e3m4 float8_e4m3 float8_e4m3b11fnuz "
    "int2 int4 uint2 uint4"
)


@pytest.mark.integration
@hypothesis.settings(max_examples=8, derandomize=True, database=None, deadline=None)
@hypothesis.given(
    shape=st.sampled_from([(), (0, 2), (2, 3)]),
    layout=st.sampled_from(list(LAYOUTS)),
    seed=st.integers(0, 9),
)
def test_what_is_saved_comes_back_to_the_bit_and_the_rest_is_refused(shape, layout, seed):
    numbers = np.random.default_rng(seed).integers(-8, 8, shape)
    for suffix in SUFFIXES:
        known = [dtype for dtype in DTYPES if dtype.name in ROUND[suffix].split()]
        params = [LAYOUTS[layout](numbers.astype(dtype)) for dtype in known]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"p.{suffix}"
            for dtype in set(DTYPES) - set(known):
                with pytest.raises(TypeError, match=r"save_params: w has dtype"):
                    checkpoint.save_params(path, {"w": np.zeros(shape, dtype)})
            assert not list(Path(folder).iterdir())
            checkpoint.save_params(path, params)
            loaded = checkpoint.load_params(path, params).params
        assert len({dtype.name for dtype in known}) == len(ROUND[suffix].split())
        for dtype, leaf, found in zip(known, params, loaded, strict=True):
            assert (found.dtype.name, found.shape) == (dtype.name, shape)
            native = leaf if dtype.isnative else leaf.astype(dtype.newbyteorder("="))
            assert np.asarray(found).tobytes() == native.tobytes(), dtype


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_bit_pattern_of_a_float_comes_back(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    patterns = np.arange(256, dtype=np.uint8)
    params = {
        name: patterns.view(getattr(ml_dtypes, name))
        for name in ROUND[suffix].split()
        if name.startswith("float8")
    }
    params |= {name: np.tile(patterns, 8).view(name) for name in ("float32", "float64", "float16")}
    checkpoint.save_params(path, params)
    for name, leaf in checkpoint.load_params(path, params).params.items():
        assert np.asarray(leaf).tobytes() == params[name].tobytes(), name


def test_bytes_of_one_kind_of_float8_are_not_taken_for_those_of_another(tmp_path):
    path = tmp_path / "p.npz"
    checkpoint.save_params(path, {"w": np.ones(3, ml_dtypes.float8_e4m3fn)})
    with pytest.raises(CheckpointError, match=r"\(3,\) float8_e4m3fn in the file, .* float8_e5m2"):
        checkpoint.load_params(path, {"w": np.ones(3, ml_dtypes.float8_e5m2)})
    np.savez(path, w=np.ones(3, ml_dtypes.int4))  # which does not say what its bytes are
    loaded = checkpoint.load_params(path, {"w": np.zeros(3, ml_dtypes.int4)}).params["w"]
    assert loaded.tolist() == [1, 1, 1]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_numbers_of_64_bits_are_not_cut_without_x64(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    for leaf in (np.array([2**40 + 5]), np.array([0.1]), np.array([2**63], np.uint64)):
        checkpoint.save_params(path, {"w": leaf})
        assert checkpoint.load_params(path, {"w": leaf}).params["w"].tolist() == leaf.tolist()
        with (
            jax.enable_x64(False),
            pytest.raises(
                CheckpointError, match=f"w is {leaf.dtype}, which .*expected jax_enable_"
            ),
        ):
            checkpoint.load_params(path, {"w": leaf})


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_pythons_numbers_come_back_as_they_are(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    params = {"a": 0.1, "b": 2**40 + 5, "c": True}
    checkpoint.save_params(path, params)
    with jax.enable_x64(False):
        loaded = checkpoint.load_params(path, params).params
    assert [(type(v), v) for v in loaded.values()] == [(type(v), v) for v in params.values()]


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    ("leaf", "said"),
    [
        (jax.random.key(0), r"w is a PRNG key, expected numbers.*jax\.random\.key_data"),
        (np.ma.masked_equal([1.0, 2.0], 2.0), r"w is a masked array.*w\.filled"),
        (2**70, "w has dtype object"),
        ("text", "w has dtype <U4"),
        (jax.ShapeDtypeStruct((2,), jnp.float32), "w has dtype object"),
    ],
)
def test_what_is_no_array_of_numbers_is_refused(tmp_path, suffix, leaf, said):
    with pytest.raises(TypeError, match=f"save_params: {said}"):
        checkpoint.save_params(tmp_path / f"p.{suffix}", {"w": leaf})
    assert not list(tmp_path.iterdir())


@hypothesis.settings(max_examples=40, derandomize=True, database=None, deadline=None)
@hypothesis.given(
    st.dictionaries(
        st.text(max_size=3)
        | st.sampled_from(["__metadata__", "w\0", "../w", "/", "\ud800", "x" * 2**15, "w.npy"]),
        st.integers(0, 255),
        max_size=3,
    )
)
def test_names_of_any_kind_go_round_or_are_refused(tree):
    tree = {name: np.uint8(number) for name, number in tree.items()}
    for suffix in SUFFIXES:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / f"p.{suffix}"
            try:
                checkpoint.save_params(path, tree)
            except ValueError:
                assert not list(Path(folder).iterdir())
                assert {c for n in tree for c in n} & {"\0", "\ud800"} or max(map(len, tree)) > 9
                continue
            loaded = checkpoint.load_params(path, tree).params
        assert {name: int(leaf) for name, leaf in loaded.items()} == tree


def test_two_paths_of_one_name_are_refused(tmp_path):
    tree = {"a.b": jnp.ones(1), "a": {"b": jnp.ones(1)}}
    with pytest.raises(ValueError, match=r"save_params: two leaves are named a\.b"):
        checkpoint.save_params(tmp_path / "p.npz", tree)


@pytest.mark.parametrize(("umask", "mode"), [(0o077, 0o600), (0o022, 0o644), (0o002, 0o664)])
def test_files_have_the_permissions_that_the_umask_leaves(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        for suffix in SUFFIXES:
            checkpoint.save_params(tmp_path / f"p.{suffix}", {"w": np.ones(2)})
    finally:
        os.umask(before)
    modes = {stat.S_IMODE(path.stat().st_mode) for path in tmp_path.iterdir()}
    assert modes == {mode}


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_trees_of_any_kind_go_round(tmp_path, suffix):
    path = tmp_path / f"p.{suffix}"
    params = [jnp.zeros((0, 3)), {"file": jnp.ones(1), "path": (jnp.ones(2).T, None)}]
    checkpoint.save_params(path, params)
    chex.assert_trees_all_equal(checkpoint.load_params(path, params).params, params)
    checkpoint.save_params(path, jnp.ones(2))
    assert checkpoint.load_params(path, jnp.zeros(2)).params.sum() == 2


def test_the_same_numbers_make_the_same_bytes(saved, tmp_path):
    path, *trees = saved
    checkpoint.save_params(tmp_path / f"again{path.suffix}", *trees)
    assert (tmp_path / f"again{path.suffix}").read_bytes() == path.read_bytes()


def test_other_suffixes_are_refused(tmp_path):
    for call in (checkpoint.save_params, checkpoint.load_params):
        with pytest.raises(ValueError, match=r"best\.pkl, expected one in \.npz or \.safetensors"):
            call(tmp_path / "best.pkl", {"w": np.zeros(2)})


def test_safetensors_of_others_need_no_checksum(tmp_path):
    path, params = tmp_path / "p.safetensors", {"affine1.w": np.ones((2, 3), np.float32)}
    safetensors.numpy.save_file(params, path)
    template = {"affine1": {"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)}}
    assert checkpoint.load_params(path, template).params["affine1"]["w"].sum() == 6
    checkpoint.save_params(path, template | {"affine1": {"w": params["affine1.w"]}})
    np.testing.assert_array_equal(safetensors.numpy.load_file(path)["affine1.w"], 1.0)


MISMATCHES = {
    "a leaf more": (
        lambda p: p | {"affine3": p["affine1"]},
        r"affine3\.w: nothing in the file, \(4, 5\) float32 expected",
    ),
    "a leaf less": (
        lambda p: {k: p[k] for k in list(p)[1:]},
        r"affine1\.w: \(4, 5\) float32 in the file, nothing expected",
    ),
    "another name": (lambda p: {f"{k}x": v for k, v in p.items()}, r"affine1x\.w.* and 4 more"),
    "another structure": (lambda p: list(p.values()), r"0\.w: nothing.*affine1\.b: \(5,\)"),
    "another shape": (
        lambda p: p | {"affine1": p["affine1"]._replace(w=jnp.zeros((5, 4), jnp.float32))},
        r"affine1\.w: \(4, 5\) float32 in the file, \(5, 4\) float32 expected",
    ),
    "a scalar": (
        lambda p: p | {"affine1": p["affine1"]._replace(b=jnp.zeros((), jnp.float32))},
        r"affine1\.b: \(5,\) float32 in the file, \(\) float32",
    ),
    "another rank": (
        lambda p: p | {"affine1": p["affine1"]._replace(b=jnp.zeros((1, 5), jnp.float32))},
        r"\(1, 5\) float32 expected",
    ),
    "float64": (
        lambda p: jax.tree.map(lambda a: a.astype(jnp.float64), p), "float64 expected"
    ),
    "bfloat16": (lambda p: jax.tree.map(lambda a: a.astype(jnp.bfloat16), p), "bfloat16 exp"),
    "int32": (lambda p: jax.tree.map(lambda a: a.astype(jnp.int32), p), "int32 expected"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "said"), MISMATCHES.values(), ids=MISMATCHES)
def test_another_nets_parameters_are_refused(saved, change, said):
    path, params, state, _ = saved
    with pytest.raises(CheckpointError, match=said) as raised:
        checkpoint.load_params(path, change(params), state)
    assert str(path) in str(raised.value)


def test_another_state_is_refused(saved):
    path, params, _, _ = saved
    with pytest.raises(CheckpointError, match=r"state\.batch_norm1\.mean: .*nothing expected"):
        checkpoint.load_params(path, params)


def test_damage_is_refused(saved):
    path, params, state, _ = saved
    whole = path.read_bytes()
    stored = whole.find(np.asarray(params["affine1"].w).tobytes())
    assert stored > 0
    for damaged in (
        *(whole[:size] for size in (0, 10, len(whole) // 2, len(whole) - 1)),
        whole[:stored] + bytes([whole[stored] ^ 1]) + whole[stored + 1 :],
        b"\x80\x04K\x01.",
    ):
        path.write_bytes(damaged)
        with pytest.raises(CheckpointError, match="best"):
            checkpoint.load_params(path, params, state)


def _npz(path, members, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as archive:
        for name, content in members.items():
            archive.writestr(name, content)


def _npy(array, **options):
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return file.getvalue()


class Shout:
    """What a hostile file would have unpickled."""

    def __reduce__(self):
        return os.abort, ()


HOSTILE = {
    "a pickle": (
        {"w.npy": _npy(np.array([Shout()], object), allow_pickle=True)},
        r"w is no array of numbers.*'\|O'",
    ),
    "no array": ({"w.npy": b"\x80\x04K\x01."}, "w is no array"),
    "an empty one": ({"w.npy": b""}, "w is no array"),
    "version 2": (
        {"w.npy": _npy(np.zeros(2), version=(2, 0))},
        "w is no array of numbers in NumPy's format 1.0",
    ),
    "too short": ({"w.npy": _npy(np.zeros(2))[:-1]}, "15 bytes, expected 16"),
    "too long": ({"w.npy": _npy(np.zeros(2)) + b"!"}, "17 bytes, expected 16"),
    "a large claim": (
        {"w.npy": _npy(np.zeros(2)).replace(b"(2,), }       ", b"(2000000,), } ")},
        "16 bytes, expected 16000000",
    ),
    "other statistics": (
        {"w.npy": _npy(np.zeros(2)), "preprocessing.median.npy": _npy(np.zeros(2))},
        "holds preprocessing.median, expected preprocessing.mean and preprocessing.scale",
    ),
    "statistics in words": (
        {"w.npy": _npy(np.zeros(2)), "preprocessing.mean.npy": _npy(np.array(["a"]))},
        "preprocessing.mean is no array of numbers.*<U1",
    ),
}


@pytest.mark.parametrize(("members", "said"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_files_are_refused(tmp_path, members, said):
    _npz(tmp_path / "p.npz", members)
    with pytest.raises(CheckpointError, match=said):
        checkpoint.load_params(tmp_path / "p.npz", {"w": np.zeros(2)})


def test_compressed_files_are_refused(tmp_path):
    _npz(tmp_path / "p.npz", {"w.npy": _npy(np.zeros(2))}, zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match="w is compressed"):
        checkpoint.load_params(tmp_path / "p.npz", {"w": np.zeros(2)})


def test_arrays_in_fortran_order_keep_their_place(tmp_path):
    w = np.arange(6.0).reshape(2, 3)
    _npz(tmp_path / "p.npz", {"w.npy": _npy(np.asfortranarray(w))})
    np.testing.assert_array_equal(
        checkpoint.load_params(tmp_path / "p.npz", {"w": w}).params["w"], w
    )


def test_what_cannot_be_saved_leaves_the_old_file(saved, monkeypatch):
    path, params, state, _ = saved
    before = path.read_bytes()
    with pytest.raises(TypeError, match="affine1 has dtype <U4, expected numbers"):
        checkpoint.save_params(path, {"affine1": np.array("text")})
    with pytest.raises(ValueError, match=r"two leaves are named state\.w"):
        checkpoint.save_params(path, {"state": {"w": jnp.ones(1)}}, {"w": jnp.ones(1)})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space left"):
        checkpoint.save_params(path, params, state)
    assert path.read_bytes() == before
    assert list(path.parent.iterdir()) == [path]


# --- Signals


def raised_at(line, call):
    """The type of what comes out of a call that a signal meets at a line of a zip file's code."""
    left, tracing = line, sys.gettrace()

    def trace(frame, event, _):
        nonlocal left
        if frame.f_globals.get("__name__") not in ("zipfile", "funcnet.checkpoint._arrays"):
            return None
        left -= event == "line"
        if not left:
            sys.settrace(tracing)
            raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        call()
    except BaseException as error:
        return type(error)
    finally:
        sys.settrace(tracing)
    return None


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of a half-made zip
def test_a_signal_amid_the_arrays_is_what_comes_out(tmp_path):
    """A zip file with an open member refuses to be closed: that error had the signal's place."""

    def save():
        checkpoint.save_params(tmp_path / "net.npz", {"w": np.ones(3)})

    lines = itertools.count(1)
    found = list(iter(lambda: raised_at(next(lines), save), None))
    assert len(found) > 100
    assert {*found} == {KeyboardInterrupt}
