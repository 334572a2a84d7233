"""Hostile files for checkpoints; all hostile files within limits; and the page that counts them."""

import gzip
import json
import os
import subprocess
import sys
import time
import tracemalloc

import jax
import numpy as np
import pytest

from funcnet import checkpoint, data, nets, optimizers, train
from funcnet.checkpoint import CheckpointError, Checkpoints
from tests.support import data_files, hostile_data
from tools import hostile

TEMPLATE = {"w": np.zeros(2)}
GOOD = {".npz": hostile.GOOD_NPZ, ".safetensors": hostile.GOOD_SAFETENSORS}


# --- Parameters


def refused(path, content):
    """Asserts a CheckpointError that names the file, quickly and with no great use of memory."""
    path.write_bytes(content)
    tracemalloc.start()
    began = time.perf_counter()
    try:
        with pytest.raises(CheckpointError) as caught:
            checkpoint.load_params(path, TEMPLATE)
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert str(path) in str(caught.value)
    assert peak_bytes < data_files.MEMORY_BYTES
    assert time.perf_counter() - began < 2.0
    assert list(path.parent.iterdir()) == [path]


@pytest.mark.parametrize("suffix", GOOD)
def test_the_files_that_are_refused_are_near_to_one_that_is_not(suffix, tmp_path):
    path = tmp_path / f"p{suffix}"
    path.write_bytes(GOOD[suffix])
    assert checkpoint.load_params(path, TEMPLATE).params["w"].shape == (2,)


@pytest.mark.parametrize("name", hostile.HOSTILE_NPZ)
def test_hostile_npz_files_are_refused(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(tmp_path / "p.npz", hostile.HOSTILE_NPZ[name])


@pytest.mark.parametrize("name", hostile.HOSTILE_SAFETENSORS)
def test_hostile_safetensors_are_refused(name, tmp_path):
    refused(tmp_path / "p.safetensors", hostile.HOSTILE_SAFETENSORS[name])


@pytest.mark.parametrize("suffix", GOOD)
@pytest.mark.parametrize("cut", ["0", "1", "7", "8", "9", "half", "end-17", "end-1", "more"])
def test_parameters_that_are_cut_or_longer_are_refused(suffix, cut, tmp_path):
    good = GOOD[suffix]
    ends = {"half": len(good) // 2, "end-17": len(good) - 17, "end-1": len(good) - 1}
    content = good + b"\x01" if cut == "more" else good[: ends.get(cut) or int(cut)]
    refused(tmp_path / f"p{suffix}", content)


def fuzz(suffix, count, folder):
    """Everything is refused, or read as numbers of the same shape and dtype."""
    path, refusals = folder / f"p{suffix}", 0
    checkpoint.save_params(path, {"w": np.arange(2.0)})
    for copy in hostile_data.mutated(path.read_bytes(), count, seed=count):
        path.write_bytes(copy)
        try:
            loaded = checkpoint.load_params(path, TEMPLATE)
        except (CheckpointError, OSError):
            refusals += 1
        else:
            assert loaded.params["w"].shape == (2,)
    assert refusals > count / 4


@pytest.mark.parametrize("suffix", GOOD)
def test_200_mutations_of_parameters(suffix, tmp_path):
    fuzz(suffix, 200, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", GOOD)
def test_2000_mutations_of_parameters(suffix, tmp_path):
    fuzz(suffix, 2000, tmp_path)


# --- Checkpoints


@pytest.fixture(scope="module")
def run():
    dataset = data.synthetic(sizes=(20, 5, 5), classes=3, shape=(4,))
    return train.fit(nets.affine(3), dataset, optimizers.sgd(0.1), epochs=1, batch_size=10)


@pytest.mark.integration
@pytest.mark.parametrize("name", hostile.HOSTILE_RUNS)
def test_hostile_checkpoints_are_passed_over_or_refused(name, run, tmp_path):
    """The manifest is right, so that nothing but what is read can tell."""
    path = Checkpoints(tmp_path).save(run)
    assert Checkpoints(tmp_path).restore(run.final).stopped is None
    stored = json.loads((path / "run.json").read_bytes())
    (path / "run.json").write_text(json.dumps(hostile.HOSTILE_RUNS[name](stored)))
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_bytes(checkpoint._checkpoints._manifest(path))
    with pytest.raises(CheckpointError, match="step_00000002"):
        Checkpoints(tmp_path).restore(run.final)


@pytest.mark.parametrize("content", [b"[" * 100_000, b"\xff\xfe", b'{"a": '])
def test_checkpoints_whose_json_is_none_are_refused(content, run, tmp_path):
    path = Checkpoints(tmp_path).save(run)
    for name in ("run.json", "manifest.json"):
        (path / name).write_bytes(content)
        if name == "run.json":
            (path / "manifest.json").unlink()
            (path / "manifest.json").write_bytes(checkpoint._checkpoints._manifest(path))
        with pytest.raises(CheckpointError, match="step_00000002"):
            Checkpoints(tmp_path).restore(run.final)


# --- All of them in a process with little memory


def limited_cases():
    """Every hostile file: its name -> what reads it, and its content."""
    bomb = hostile_data.gzip_bomb(b"", 64 << 20) * 16
    cases = {f"pickle {n}": ("pickle", "", c) for n, c in hostile_data.HOSTILE_PICKLES.items()}
    for name, content in hostile_data.HOSTILE_TARS.items():
        cases[f"tar {name}"] = "tar", ".tar", content
        cases[f"tar.gz {name}"] = "tar", ".tar.gz", gzip.compress(content, 1)
    for name, content in hostile_data.lying_idx():
        cases[f"idx {name}"] = "images", "", content
        cases[f"idx.gz {name}"] = "images", ".gz", gzip.compress(content)
    cases |= {f"mat {n}": ("mat", ".mat", c) for n, c in hostile_data.HOSTILE_MATS.items()}
    for kind, suffix in (("images", ".gz"), ("labels", ".gz"), ("tar", ".tar.gz")):
        cases[f"bomb of {kind}"] = kind, suffix, bomb
    cases |= {f"npz {n}": ("npz", ".npz", c) for n, c in hostile.HOSTILE_NPZ.items() if n in READ}
    safe = {n: c for n, c in hostile.HOSTILE_SAFETENSORS.items() if n in READ}
    cases |= {f"safetensors {n}": ("safetensors", ".safetensors", c) for n, c in safe.items()}
    return cases


# Whole files that hold none of the numbers that are asked for: load_params refuses them.
OTHERS = {"name_of_a_folder", "nothing_inside", "end_alone", "no_tensor", "dtype_other"}
OTHERS |= {"dtype_F8_E4M3", "dtype_F8_E5M2", "dtype_F8_E8M0"}
READ = ({*hostile.HOSTILE_NPZ} | {*hostile.HOSTILE_SAFETENSORS}) - OTHERS


@pytest.mark.integration
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="RLIMIT_AS and /proc are Linux's")
def test_within_limits_everything_is_refused_and_nothing_runs(tmp_path):
    kinds = {"tar_gz": "tar", "idx": "images", "idx_gz": "images", "idx_labels": "labels"}
    suffixes = {"tar": ".tar", "tar_gz": ".tar.gz", "idx_gz": ".gz"}
    cases = {
        f"good {name}": (kinds.get(name, name.split("_")[0]), suffixes.get(name, ""), content)
        for name, (_, content, _, _) in data_files.FORMATS.items()
    }
    cases |= {f"good {s[1:]}": (s[1:], s, content) for s, content in GOOD.items()}
    cases |= limited_cases()
    named = {}
    for name, (kind, suffix, content) in cases.items():
        named[f"{name.replace('/', ' ')}{suffix}"] = kind
        (tmp_path / f"{name}{suffix}").write_bytes(content)
    (tmp_path / "cases.json").write_text(json.dumps(named))
    before = sorted(path.name for path in tmp_path.iterdir())
    done = subprocess.run(
        [sys.executable, "-m", "tools.hostile", "load", str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=150,
        cwd=hostile.ROOT,
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert len(found["outcomes"]) == len(cases) > 300
    for name, outcome in found["outcomes"].items():
        assert outcome == ("read" if name.startswith("good") else "refused"), name
    assert found["events"] == []
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.integration
def test_the_limits_hold_and_the_hook_hears(tmp_path):
    """The process above would have ended otherwise: a reader that runs code, or takes memory."""
    program = """
import json, pathlib, sys
from tools import hostile
hostile.readers = lambda: {
    "good": lambda path: None,
    "runs": lambda path: exec("1 + 1"),
    "calls": lambda path: __import__("os").system("true"),
    "writes": lambda path: path.write_text("x"),
    "takes": lambda path: bytearray(1 << 30),
}
print(json.dumps(hostile.load(pathlib.Path(sys.argv[1]))))
"""
    cases = {"good one": "good", "a": "runs", "b": "calls", "c": "writes", "d": "takes"}
    (tmp_path / "cases.json").write_text(json.dumps(cases))
    done = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=100,
        cwd=hostile.ROOT,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout)
    assert found["outcomes"]["d"] == "MemoryError()"
    assert "File too large" in found["outcomes"]["c"]
    assert [event.partition("(")[0] for event in found["events"]] == ["exec", "os.system", "open"]


# --- Data that do not fit a run

SET = data.synthetic(sizes=(20, 5, 5), classes=3, shape=(4,))


def with_labels(labels, split="train"):
    whole = getattr(SET, split)
    return SET._replace(**{split: data.Split(whole.images[: len(labels)], np.asarray(labels))})


def first(*labels, n=20):
    """n labels that are classes, but for these at the end."""
    return np.array([0] * (n - len(labels)) + list(labels))


UNFIT = {
    "no images": (lambda: {"dataset": with_labels([])}, "dataset.train is empty"),
    "a label too large": (
        lambda: {"dataset": with_labels(first(3))},
        r"dataset\.train\.labels\[19\] is 3, expected a class, 0 to 2",
    ),
    "a negative label": (
        lambda: {"dataset": with_labels(first(-1, 0))},
        r"dataset\.train\.labels\[18\] is -1, expected a class, 0 to 2",
    ),
    "labels of floats": (
        lambda: {"dataset": with_labels(first(1.0))},
        r"dataset\.train\.labels\[0\] is 0\.0 of dtype float64, expected an integer",
    ),
    "half a label": (
        lambda: {"dataset": with_labels(first(0.5, 1.0))},
        r"dataset\.train\.labels\[18\] is 0\.5 of dtype float64",
    ),
    "NaN for a label": (
        lambda: {"dataset": with_labels(first(np.nan))},
        r"dataset\.train\.labels\[19\] is nan",
    ),
    "one-hot labels": (lambda: {"dataset": with_labels(np.eye(3, dtype=int))}, "argmax"),
    "text for labels": (
        lambda: {"dataset": with_labels(np.array(["a"] * 20))},
        r"dataset\.train\.labels\[0\] is a of dtype <U1",
    ),
    "a label of validation": (
        lambda: {"dataset": with_labels([0, 9], "val")},
        r"dataset\.val\.labels\[1\] is 9",
    ),
    "fewer labels than images": (
        lambda: {"dataset": SET._replace(train=SET.train._replace(labels=first(n=19)))},
        "20 images but 19 labels",
    ),
    "other images of validation": (
        lambda: {"dataset": SET._replace(val=data.Split(np.zeros((5, 6)), first(n=5)))},
        r"shape \(4,\) in dataset\.train but \(6,\) in dataset\.val",
    ),
    "a batch larger than the data": (
        lambda: {"batch_size": 21},
        r"batch_size is 21, but dataset\.train has 20 rows; use a batch_size of at most 20",
    ),
    "a batch of one": (
        lambda: {"batch_size": 1},
        r"(?s)expected at least 2: one value has no variance.*in batch_norm1 of nets\.serial",
    ),
    "a batch of none": (
        lambda: {"batch_size": 0},
        "batch_size is 0, expected an int of at least 1",
    ),
    "a net of other classes": (
        lambda: {"net": nets.affine(7)},
        r"\(2, 7\), but the data have 3 classes.*End the net with nets\.affine\(3\)",
    ),
    "a net of images": (lambda: {"net": nets.conv(3)}, r"conv.*\(4,\)"),
}


@pytest.mark.parametrize(("options", "said"), UNFIT.values(), ids=UNFIT)
def test_what_does_not_fit_is_refused_before_anything_is_compiled(options, said, monkeypatch):
    compiled = []
    monkeypatch.setattr(jax.stages.Lowered, "compile", lambda *a, **k: compiled.append(a))
    given = {
        "net": nets.serial(nets.batch_norm(), nets.affine(3)),
        "dataset": SET,
        "optimizer": optimizers.sgd(0.1),
        **{"batch_size": 10, "epochs": 1},
        **options(),
    }
    with pytest.raises(ValueError, match=said):
        train.fit(**given)
    assert compiled == []


# --- The page


def test_the_page_is_current():
    """`python -m tools.hostile` writes it."""
    assert hostile.PAGE.read_text() == hostile.page()


def test_there_are_as_many_as_there_should_be():
    assert len(hostile_data.HOSTILE_PICKLES) >= 25
    assert len(hostile_data.HOSTILE_TARS) >= 15
    assert len(hostile_data.HOSTILE_MATS) >= 12
    assert len(hostile.HOSTILE_NPZ) >= 40
    assert len(hostile.HOSTILE_SAFETENSORS) >= 25
