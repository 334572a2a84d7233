"""Checkpoints in pieces: of any number of processes and devices, to the same bits, whole or not."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from funcnet import checkpoint
from funcnet.checkpoint import CheckpointError, Checkpoints, _shards
from funcnet.checkpoint._arrays import read_npz, write_npz
from tests.support import shared_saves
from tests.support.processes import free_port

ROOT = Path(__file__).parents[2]
PROGRAM = [sys.executable, "-m", "tests.support.shared_saves"]


def together(folder, processes, devices=1, **environment):
    """Has processes restore what is there, compare its bits, and save the next step."""
    port, flags = free_port(), f"--xla_force_host_platform_device_count={devices}"
    variables = os.environ | {"XLA_FLAGS": flags, "JAX_ENABLE_X64": "0"} | environment
    started = [
        subprocess.Popen(
            [*PROGRAM, str(folder), str(port), str(i), str(processes)],
            cwd=ROOT,
            env=variables,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for i in range(processes)
    ]
    said = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0] * processes, said
    (words,) = {tuple(re.findall(r"restored \d+|saved \d+", out)) for out, _ in said}
    return list(words)  # gloo says where it is, too


def files(folder):
    return sorted(path.name for path in Checkpoints(folder).paths()[0].glob("arrays*"))


@pytest.mark.integration
def test_two_processes_save_and_one_restores(tmp_path):
    """Each writes its own half, and what both hold is written once."""
    assert together(tmp_path, 2, 2) == ["restored 0", "saved 1"]
    assert files(tmp_path) == ["arrays.1.npz", "arrays.npz"]
    newest = Checkpoints(tmp_path).paths()[0]
    members = [set(read_npz(newest / name)) for name in ("arrays.npz", "arrays.1.npz")]
    assert not members[0] & members[1]
    assert {"params.w@0:6,0:24", "params.half@0:12,12:24", "params.b", "key"} <= members[0]
    assert {"params.w@18:24,0:24", "params.half@12:24,0:12"} <= members[1]
    assert together(tmp_path, 1, 3) == ["restored 1", "saved 2"]
    assert files(tmp_path) == ["arrays.npz"]
    shutil.copyfile(newest / "arrays.npz", newest / "arrays.1.npz")  # damage in one of them
    shutil.rmtree(Checkpoints(tmp_path).paths()[0])
    with pytest.raises(CheckpointError, match=r"step_00000001: arrays\.1\.npz is not what was"):
        Checkpoints(tmp_path).restore(shared_saves.host(0))


@pytest.mark.slow
@pytest.mark.parametrize("background", ["0", "1"])
def test_any_number_restores_what_any_other_saved(tmp_path, background):
    """Processes and devices of each, one after the other, the bits compared in each."""
    changes = [(2, 1), (1, 1), (2, 2), (4, 1), (1, 8), (1, 3), (4, 2), (3, 1), (1, 2), (2, 4)]
    for step, (processes, devices) in enumerate(changes):
        said = together(tmp_path, processes, devices, FUNCNET_BACKGROUND=background)
        assert said == [f"restored {step}", f"saved {step + 1}"]
        assert len(files(tmp_path)) == processes


@pytest.mark.slow
@pytest.mark.parametrize("background", ["0", "1"])
def test_what_is_killed_while_several_save_goes_on(tmp_path, background):
    command = [*PROGRAM, "kills", str(tmp_path / "kills"), "18"]
    variables = os.environ | {"FUNCNET_BACKGROUND": background, "JAX_ENABLE_X64": "0"}
    done = subprocess.run(
        command, cwd=ROOT, env=variables, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr[-3000:]
    counts = re.findall(r"^(\d+) × process", done.stdout, re.MULTILINE)
    assert sum(map(int, counts)) == 18  # gloo writes lines between them, and parts of lines


# --- Pieces


SHAPE = (8, 6)
LEAF = np.arange(48, dtype=np.float32).reshape(SHAPE)


def pieces_of(tmp_path, members):
    path = tmp_path / "arrays.npz"
    with open(path, "wb") as file:
        write_npz(file, members)
    return _shards.Pieces([path], {"w": LEAF}, ())


def test_a_leaf_is_put_together_for_any_cut(tmp_path):
    members = {"w@0:3,0:6": LEAF[:3], "w@3:8,0:2": LEAF[3:, :2], "w@3:8,2:6": LEAF[3:, 2:]}
    devices = np.array(jax.devices()[:1])
    with pieces_of(tmp_path, members) as pieces:
        np.testing.assert_array_equal(pieces.whole("w", LEAF), LEAF)
        for rows, columns in (
            ((0, 3), (0, 6)),
            ((2, 5), (1, 4)),
            ((7, 8), (0, 2)),
            ((3, 8), (2, 6)),
        ):
            block = pieces._block("w", LEAF, SHAPE, (rows, columns), {})
            np.testing.assert_array_equal(block, LEAF[slice(*rows), slice(*columns)])
        like = jax.device_put(LEAF, NamedSharding(Mesh(devices, ("d",)), PartitionSpec("d")))
        np.testing.assert_array_equal(pieces.placed("here", "w", like), LEAF)


WRONG = {
    "a piece too few": {"w@0:3,0:6": LEAF[:3]},
    "a piece twice": {"w@0:8,0:6": LEAF, "w": LEAF},
    "pieces that overlap": {"w@0:4,0:6": LEAF[:4], "w@3:7,0:6": LEAF[3:7]},
    "a piece outside": {"w@0:4,0:6": LEAF[:4], "w@5:9,0:6": LEAF[4:]},
    "an axis too few": {"w@0:8": LEAF},
    "nothing": {},
}


@pytest.mark.parametrize("members", WRONG.values(), ids=WRONG)
def test_what_is_not_whole_is_refused(tmp_path, members):
    with pytest.raises(ValueError, match="w is not whole"):
        pieces_of(tmp_path, members)


def test_what_is_nobodys_or_of_another_size_is_refused(tmp_path):
    with pytest.raises(ValueError, match="v is a piece of no leaf"):
        pieces_of(tmp_path, {"w": LEAF, "v": LEAF})
    members = {"w@0:4,0:6": LEAF[:4], "w@4:8,0:6": LEAF[:3]}
    said = r"w@4:8,0:6 has shape \(3, 6\)"
    with pieces_of(tmp_path, members) as pieces, pytest.raises(ValueError, match=said):
        pieces.whole("w", LEAF)


def test_a_leaf_may_be_named_as_a_piece(tmp_path):
    """But not where it would be taken for one."""
    leaves = {"w@0:8": LEAF, "w": LEAF}
    with open(tmp_path / "arrays.npz", "wb") as file:
        write_npz(file, _shards.pieces(leaves))
    with _shards.Pieces([tmp_path / "arrays.npz"], leaves, ()) as pieces:
        np.testing.assert_array_equal(pieces.whole("w@0:8", LEAF), LEAF)


# --- One process: the background, and what format 1 wrote


@pytest.fixture
def made():
    def run(step):
        best, final = (jax.tree.map(jnp.asarray, shared_saves.host(n)) for n in (step // 2, step))
        return shared_saves.run(step)._replace(best=best, final=final)

    with jax.enable_x64(False):
        yield run


def test_the_background_writes_what_is_due_and_nothing_of_later(made, tmp_path):
    """Copies are written, while the run goes on and its buffers are donated."""
    with Checkpoints(tmp_path, every_steps=1, every_seconds=None, background=True) as checkpoints:
        for step in range(1, 6):
            run = made(step)
            checkpoints(run)
            for leaf in jax.tree.leaves((run.final, run.best)):
                leaf.delete()
    assert [path.name for path in Checkpoints(tmp_path).paths()] == [
        f"step_{step:08}" for step in (5, 4, 3)
    ]
    found = Checkpoints(tmp_path).restore(made(0).final)
    for a, b in zip(jax.tree.leaves(found.final), jax.tree.leaves(made(5).final), strict=True):
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


@pytest.mark.parametrize("at", ["data", "manifest", "rename"])
def test_what_fails_in_the_background_is_raised_and_leaves_what_was_there(made, tmp_path, at):
    def fail(name):
        if name == at and armed:
            raise OSError(28, "No space left on device")

    armed = False
    checkpoints = Checkpoints(
        tmp_path, every_steps=1, every_seconds=None, background=True, steps=fail
    )
    checkpoints(made(1))
    checkpoints.wait()
    armed = True
    checkpoints(made(2))
    with pytest.raises(OSError, match="No space left"):
        checkpoints(made(3))
    assert [path.name for path in tmp_path.iterdir()] == ["step_00000001"]
    armed = False
    checkpoints.save(made(4))
    assert int(Checkpoints(tmp_path).restore(made(0).final).final.step) == 4


def test_format_1_is_read(made, tmp_path):
    """As it was written before there were pieces: the same but for two words of run.json."""
    path = Checkpoints(tmp_path).save(made(3))
    rest = (path / "run.json").read_text()
    assert '"format": 2,\n "processes": 1,\n' in rest
    (path / "run.json").write_text(
        rest.replace('"format": 2,\n "processes": 1,\n', '"format": 1,\n')
    )
    (path / "manifest.json").unlink()
    (path / "manifest.json").write_bytes(checkpoint._checkpoints._manifest(path))
    assert int(Checkpoints(tmp_path).restore(made(0).final).final.step) == 3
