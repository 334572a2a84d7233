"""Every row of the courses has a test, or a line that says what stands for it."""

from __future__ import annotations

import pathlib
import re

import pytest


def test_rows_of_the_courses_are_all_accounted_for(request):
    """Every row is in a test or has its reason, and no reason outlives its need."""
    from conftest import _NAMES
    from tests.support import course_rows

    names = request.config.stash.get(_NAMES, [])
    if len({name for name, _ in names}) < 3000:
        pytest.skip("a part of the suite says nothing of the whole")
    rows = course_rows.covered(names)
    excused = {row for rows in course_rows.REASONS.values() for row in rows}
    assert set(course_rows.ALL) - rows - excused == set()


def test_rows_without_a_test_have_a_line_among_the_studies():
    """What stands for a row that is no test's business is said where people look for it."""
    from tests.support import course_rows

    text = (pathlib.Path(__file__).parents[2] / "experiments/README.md").read_text("utf-8")
    cells = [line.split("|")[1] for line in text.splitlines() if line.startswith("| ")]
    ranges = re.sub(r" to (?=[0-4]-)", "..", " ".join(cells))
    named = course_rows.expanded(" ".join(re.findall(r"[0-4]-\d+(?:\.\.[0-4]-\d+)?", ranges)))
    listing = {"2-23"}  # names what other rows test
    excused = {row for rows in course_rows.REASONS.values() for row in rows}
    assert excused - listing - set(named) == set()
