"""Programs that the commands keep: read the next time, to the same bits, whatever the disk does."""

import contextlib
import os
import subprocess
import sys
import warnings

import jax
import jax.numpy as jnp
import pytest
from jax.experimental.compilation_cache import compilation_cache

from funcnet import cli
from funcnet.cli import _compiled
from funcnet.cli._sweep_command import SweepCommand
from tests.support.command_lines import blank_figures  # noqa: F401  (a fixture)
from tests.support.disks import disk_of
from tests.support.processes import USERS_ENVIRONMENT

DIRECTORY = "jax_compilation_cache_dir"


@pytest.fixture
def place(tmp_path, monkeypatch):
    """A folder that the variable names, with the suite's own out of the way."""
    before = jax.config.values[DIRECTORY]
    jax.config.update(DIRECTORY, None)
    compilation_cache.reset_cache()
    monkeypatch.setenv(_compiled.VARIABLE, str(tmp_path / "programs"))
    monkeypatch.chdir(tmp_path)
    yield tmp_path / "programs"
    jax.config.update(DIRECTORY, before)
    compilation_cache.reset_cache()


def programs(place):
    return sorted(path.name for path in place.glob("*-cache"))


def thrice():
    """Compiles a program anew, as a new process does, and runs it."""

    def thrice_as_much(x):
        return 3 * x

    assert jax.jit(thrice_as_much)(jnp.float32(2)) == 6


def test_the_folder_is_what_the_variable_says(place, monkeypatch):
    assert _compiled.folder() == place
    for word in ("", "1", "yes"):
        monkeypatch.setenv(_compiled.VARIABLE, word)
        monkeypatch.setenv("HOME", "/home/somebody")
        assert str(_compiled.folder()) == "/home/somebody/.cache/funcnet/compiled"
    for word in ("0", "no", "False"):
        monkeypatch.setenv(_compiled.VARIABLE, word)
        assert _compiled.folder() is None
    monkeypatch.delenv(_compiled.VARIABLE)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)  # as for who has no home
    assert _compiled.folder() is None


def test_what_jax_is_told_is_left_alone(place, tmp_path, monkeypatch):
    for name, value in (
        (DIRECTORY, str(tmp_path / "jax")),
        ("jax_enable_compilation_cache", False),
    ):
        before = jax.config.values[name]
        jax.config.update(name, value)
        try:
            with _compiled.kept("funcnet train"):
                assert jax.config.values[name] == value
            assert jax.config.values[name] == value
            assert not place.exists()
        finally:
            jax.config.update(name, before)


@pytest.mark.parametrize("word", ["flase", "compiled", "2"])
def test_another_word_is_refused(place, capsys, monkeypatch, word):
    monkeypatch.setenv(_compiled.VARIABLE, word)
    for command in ("train", "info"):
        assert cli.main([command]) == 2
        said = capsys.readouterr().err
        assert f"{_compiled.VARIABLE} is '{word}', expected a folder's full path, or one of" in said


@pytest.mark.integration
def test_the_second_run_reads_what_the_first_compiled_to_the_same_bits(
    place, tmp_path, monkeypatch
):
    hits = []
    jax.monitoring.register_event_listener(
        lambda event, **_: hits.append(event) if event.endswith("/cache_hits") else None
    )
    words = ["train", "--net", "softmax", "--epochs", "1", "--quiet"]
    found = {}
    for name in ("first", "second", "without"):
        if name == "without":
            monkeypatch.setenv(_compiled.VARIABLE, "0")
        jax.clear_caches()
        hits.clear()
        assert cli.main([*words, "--out", name]) == 0
        found[name] = len(hits)
    kept = programs(place)
    assert len(kept) > 10
    assert found["first"] < len(kept) <= found["second"]
    assert found["without"] == 0
    for file in ("losses.npy", "best.npz"):
        first, *others = ((tmp_path / name / file).read_bytes() for name in found)
        assert others == [first, first]


def test_a_sweep_keeps_its_programs_too(place, monkeypatch):
    monkeypatch.setattr(SweepCommand, "_run", lambda self, out: thrice() or 0)
    assert cli.main(["sweep"]) == 0
    assert programs(place)


def test_jax_is_as_before_when_the_block_ends(place):
    before = {name: jax.config.values[name] for name in (DIRECTORY, _compiled._LEAST_SECONDS)}
    with contextlib.suppress(KeyError), _compiled.kept("funcnet train"):
        thrice()
        raise KeyError
    assert {name: jax.config.values[name] for name in before} == before
    kept = programs(place)
    assert kept
    jax.jit(lambda x: 5 * x)(jnp.float32(2))
    assert programs(place) == kept


def test_programs_are_told_apart_by_xlas_flags(place, monkeypatch):
    with _compiled.kept("funcnet train"):
        thrice()
        kept = programs(place)
        thrice()
        assert programs(place) == kept
        monkeypatch.setenv("XLA_FLAGS", "--xla_cpu_enable_fast_min_max=true")
        thrice()
    assert len(programs(place)) > len(kept)


# --- What can go wrong


@pytest.mark.parametrize("rest", [b"", b"\x78\x9c half of it"])
def test_a_program_that_is_half_there_is_compiled_again_and_replaced(place, capsys, rest):
    with _compiled.kept("funcnet train"):
        thrice()
    whole = {path: path.read_bytes() for path in place.glob("jit_thrice*-cache")}
    assert whole
    for path in whole:
        path.write_bytes(rest)
    with _compiled.kept("funcnet train"):
        thrice()
    assert all(path.stat().st_size > len(rest) for path in whole)
    assert capsys.readouterr().err == ""


def test_a_full_disk_is_said_once_and_leaves_nothing_half_written(place, capsys):
    with disk_of(100), _compiled.kept("funcnet train"):
        thrice()
        assert jnp.arange(3.0, dtype=jnp.float32)[1] + jnp.cos(jnp.float32(0)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"funcnet train: warning: compiled programs are not kept in {place}: ")
    assert "File too large" in line
    assert f"{_compiled.VARIABLE} names another folder, or is 0 for none." in line
    assert programs(place) == []


def test_where_there_can_be_no_folder_that_is_said_and_the_block_runs(place, capsys, monkeypatch):
    place.write_text("a file")
    for path in (place, place / "below"):
        monkeypatch.setenv(_compiled.VARIABLE, str(path))
        with _compiled.kept("funcnet sweep"):
            thrice()
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith(f"funcnet sweep: warning: compiled programs are not kept in {path}")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_is_not_writable_is_read(place, capsys):
    with _compiled.kept("funcnet train"):
        thrice()
    place.chmod(0o500)
    with _compiled.kept("funcnet train"):
        thrice()
        assert capsys.readouterr().err == ""
        jax.jit(lambda x: 7 * x)(jnp.float32(2))
    assert "Permission denied" in capsys.readouterr().err
    place.chmod(0o700)


def test_other_warnings_pass(place):
    with pytest.warns(UserWarning, match="of another kind"), _compiled.kept("funcnet train"):
        warnings.warn("of another kind", UserWarning, stacklevel=1)


def test_what_was_used_longest_ago_goes_first(place, monkeypatch):
    place.mkdir()
    for age, name in enumerate(("new", "below/middle", "old")):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b"x" * 100)
        os.utime(place / name, (1e9 - age, 1e9 - age))
    assert _compiled.size_bytes(place) == 300
    monkeypatch.setattr(_compiled, "MOST_BYTES", 150)
    with _compiled.kept("funcnet train"):
        pass
    assert [path.name for path in place.rglob("*") if path.is_file()] == ["new"]


TOGETHER = """
import jax, numpy as np
from funcnet.cli import _compiled
from funcnet.cli._sweep_command import SweepCommand

with _compiled.kept("funcnet train"):
    for size in range(1, 9):
        assert jax.jit(lambda x: x @ x.T + 1)(np.ones((size, 2), np.float32)).sum() == 3 * size**2
"""


@pytest.mark.slow
def test_two_processes_share_a_folder(place):
    environment = {k: v for k, v in USERS_ENVIRONMENT.items() if k != "JAX_COMPILATION_CACHE_DIR"}
    environment |= {_compiled.VARIABLE: str(place), "JAX_PLATFORMS": "cpu"}
    both = [
        subprocess.Popen(
            [sys.executable, "-c", TOGETHER],
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    for process in both:
        _, said = process.communicate(timeout=120)
        assert (process.returncode, said) == (0, "")
    assert len(programs(place)) >= 8


def test_info_says_where_programs_are_and_how_many_bytes(place, capsys, monkeypatch):
    place.mkdir()
    (place / "one").write_bytes(bytes(3 * 2**20))
    assert cli.main(["info"]) == 0
    text = "".join(capsys.readouterr().out.split())
    assert f"keeptheirsin{place}:3.0ofatmost256MiB" in text
    monkeypatch.setenv(_compiled.VARIABLE, "0")
    assert cli.main(["info"]) == 0
    assert "not kept (FUNCNET_COMPILATION_CACHE)" in capsys.readouterr().out
