"""The rows of the five courses: how many there are, and why some are no test's business.

A test covers a row by `@pytest.mark.courses("1-9")`. What is left must stand here with its reason;
a run's summary prints both.
"""

from __future__ import annotations

from collections.abc import Iterable

LAST = {0: 21, 1: 35, 2: 27, 3: 24, 4: 51}
ALL = [f"{course}-{number}" for course, last in LAST.items() for number in range(1, last + 1)]


def expanded(text: str) -> list[str]:
    """Expands "0-13..0-14 1-7" to its rows."""
    rows = []
    for part in text.split():
        first, _, last = part.partition("..")
        course, number = first.split("-")
        end = int(last.split("-")[1]) if last else int(number)
        rows += [f"{course}-{n}" for n in range(int(number), end + 1)]
    return rows


REASONS = {
    "an experiment, a plot, a question or theory: a study's business, not a test's": expanded(
        "0-13..0-14 0-17..0-20 1-7 1-17..1-18 1-22..1-25 1-27..1-28 1-31..1-32 1-34..1-35 2-8 "
        "2-11..2-13 2-19..2-22 3-19 3-21 3-23 4-1..4-10 4-14..4-16 4-26..4-29 4-34 4-38..4-39 "
        "4-46..4-50"
    ),
    "the listing of rules that other rows test": expanded("2-23"),
    "cut from the document: its systems are tested by other courses' rows": expanded("3-24"),
    "needs the course's pre-trained weights": expanded("4-51"),
}


def covered(names: Iterable[tuple[str, Iterable[str]]]) -> set[str]:
    """The rows that tests cover, given each test's name and its marks' arguments."""
    return {row for _, marked in names for row in marked} & set(ALL)
