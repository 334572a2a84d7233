"""The studies: each runs, keeps what it measured as JSON, and draws from that alone."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from matplotlib import figure

import experiments
from experiments import _images, _study, theory, toy
from tests.support import course_rows
from tests.support.lanes import by_default

FOLDER = Path(experiments.__file__).parent
STUDIES = sorted(p.stem for p in FOLDER.glob("*.py") if not p.stem.startswith("_"))
LARGEST_FIGURE = 150_000


def run(monkeypatch, name, *arguments):
    """`python -m experiments.NAME ...` in this process, with the settings of a user's."""
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    monkeypatch.delitem(sys.modules, f"experiments.{name}", raising=False)  # as in a new process
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        runpy.run_module(f"experiments.{name}", run_name="__main__", alter_sys=True)


def kept(name):
    """What a study has left in its own folder, and when it was written."""
    made = (p for p in FOLDER.glob(f"*/{name}*") if p.parent.name != "__pycache__")
    return {p: p.stat().st_mtime_ns for p in made}


# By hand, of proofs, of a search with pictures of weights, and of a deep net beside NumPy.
SMALL = {"toy", "theory", "linear", "course_000"}


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(STUDIES, SMALL))
def test_smoke(name, monkeypatch, tmp_path):
    fine = figure.Figure.savefig

    def coarse(drawn, *arguments, **options):
        """Of the figures that are kept every point is looked at, of these none."""
        drawn.set_layout_engine("none")  # which draws several times
        return fine(drawn, *arguments, **{**options, "dpi": 30})

    monkeypatch.setattr(figure.Figure, "savefig", coarse)
    before = kept(name)
    run(monkeypatch, name, "--smoke", "--folder", str(tmp_path))
    assert kept(name) == before
    check_records(tmp_path / "records" / f"{name}.jsonl", name)
    for drawn in (tmp_path / "figures").iterdir():
        assert drawn.name.startswith(name)
        assert 0 < drawn.stat().st_size < LARGEST_FIGURE, drawn.name


def check_records(path, name):
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert rows
    for row in rows:
        assert row["study"] == name
        assert row["config"]
        assert row["result"]
        assert 0 <= row["compile_seconds"] <= row["seconds"]
        assert {"funcnet", "jax", "python"} <= set(row["versions"])
        assert row["device"]["platform"]
        assert row["date"].endswith("+00:00")


@pytest.mark.parametrize("name", STUDIES)
def test_help(name, monkeypatch, capsys):
    with pytest.raises(SystemExit) as end:
        run(monkeypatch, name, "--help")
    assert end.value.code == 0
    said = capsys.readouterr().out
    assert f"python -m experiments.{name}" in said
    for option in ("--smoke", "--draw", "--folder"):
        assert option in said


@pytest.mark.parametrize("path", sorted((FOLDER / "records").glob("*.jsonl")), ids=lambda p: p.stem)
def test_kept_records_are_whole(path):
    assert path.stem in STUDIES
    check_records(path, path.stem)


@pytest.mark.parametrize("path", sorted((FOLDER / "figures").glob("*")), ids=lambda p: p.name)
def test_kept_figures_are_small_and_a_study_s(path):
    assert any(path.name.startswith(name) for name in STUDIES)
    assert path.stat().st_size < LARGEST_FIGURE


@pytest.mark.slow
@pytest.mark.parametrize("path", sorted((FOLDER / "records").glob("*.jsonl")), ids=lambda p: p.stem)
def test_kept_records_can_be_drawn(path, monkeypatch, tmp_path):
    (tmp_path / "records").mkdir()
    (tmp_path / "records" / path.name).write_bytes(path.read_bytes())
    run(monkeypatch, path.stem, "--draw", "--folder", str(tmp_path))
    drawn = {p.name for p in (tmp_path / "figures").iterdir()}
    assert drawn == {p.name for p in (FOLDER / "figures").glob(f"{path.stem}*")}


def test_draw_without_records_says_so(monkeypatch, tmp_path):
    with pytest.raises(SystemExit, match="run the study without --draw first"):
        run(monkeypatch, "toy", "--draw", "--folder", str(tmp_path))


# --- The frame


def test_the_last_record_of_a_configuration_counts(tmp_path):
    rows = [
        {"config": {"a": a, "b": 1}, "result": r} for a, r in ((1, "old"), (2, "x"), (1, "new"))
    ]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    found = _study.read(path)
    assert [row["result"] for row in found] == ["new", "x"]
    assert [row["result"] for row in _study.matching(found, a=2, b=1)] == ["x"]
    assert _study.matching(found, c=None) == found


def test_weights_in_a_record(rng):
    w = rng.standard_normal((4, 5, 3, 7))
    back = _images.unpack_weights(_images.pack_weights(w), 7)
    low, high = w.min((0, 1, 2)), w.max((0, 1, 2))
    np.testing.assert_allclose(back / 255, (w - low) / (high - low), atol=0.5 / 255 + 1e-12)
    flat = _images.pack_weights(w.reshape(-1, 7), (4, 5, 3))
    np.testing.assert_array_equal(_images.unpack_weights(flat, 7), back)


# --- What is proven rather than measured


@pytest.mark.integration
@pytest.mark.courses("4-2", "4-3")
@pytest.mark.parametrize("name", list(theory.FAMILIES))
def test_bounds(name):
    found = theory.random_problem(jax.random.key(1), name, 10)
    assert found["gap"] <= 1
    assert found["jensen"] >= -1e-12
    assert found["steepest"] <= 1 + 1e-12
    assert found["lemma"] <= 1 + 1e-12
    assert found["lemma_identity"] < 1e-12


@pytest.mark.courses("4-3")
def test_bound_is_attained():
    found = theory.worst_problem(16)
    assert float(found["gap"]) == pytest.approx(1, rel=1e-12)
    assert float(found["steepest"]) == pytest.approx(1, rel=1e-12)


@pytest.mark.courses("4-6")
def test_numbers_belong_to_one_version():
    printed = np.array(list(theory.PRINTED.values()))
    np.testing.assert_allclose(theory.printed_values(1.0), printed, rtol=1e-11)
    assert not np.isclose(theory.printed_values(2.0)[0], printed[0])


@pytest.mark.courses("4-10")
def test_order_or_cycle():
    tally = theory.random_graphs(200)
    assert tally["orders"] + tally["cycles"] == 200
    assert min(tally["orders"], tally["cycles"]) > 20
    assert tally["right"] == tally["as_graphlib"] == 200


@pytest.mark.courses("4-10")
@pytest.mark.parametrize(
    ("answer", "right"),
    [
        (theory.Order((0, 1, 2)), True),
        (theory.Order((0, 2, 1)), False),
        (theory.Order((0, 1)), False),
        (theory.Cycle((1, 2)), False),
        (theory.Cycle(()), False),
    ],
)
def test_answers_are_checked(answer, right):
    assert theory.is_right(answer, range(3), [(0, 1), (1, 2)]) is right


@pytest.mark.integration
@pytest.mark.courses("4-21", "4-22", "4-23")
def test_toy_runs_and_their_mistakes():
    ends = {rule: toy.losses(*how)[0][-1] for rule, how in toy.rules().items()}
    for (rule, mistake), end in ends.items():
        assert (f"{end:.6f}" == f"{toy.PRINTED[rule]:.6f}") is (not mistake)


def test_every_row_that_is_a_studys_business_has_its_line():
    table = (FOLDER / "README.md").read_text(encoding="utf-8").splitlines()
    cells = [line.split("|")[1] for line in table if line.startswith("|")]
    found = set()
    for cell in cells:
        text = cell.replace(" to ", "..").replace(" – ", "..").replace(",", " ")
        found.update(course_rows.expanded(" ".join(re.findall(r"\d-\d+(?:\.\.\d-\d+)?", text))))
    reason = next(reason for reason in course_rows.REASONS if "study's business" in reason)
    assert set(course_rows.REASONS[reason]) - found == set()
