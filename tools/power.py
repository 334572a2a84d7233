"""The power of the proof, measured: which planted mistakes are noticed, and by which checker.

python -m tools.power mutants --jobs 2   # docs/proof_mutants.md, and the survivors
python -m tools.power checkers           # docs/proof_checkers.md
python -m tools.power thresholds         # docs/proof_thresholds.md
python -m tools.power all                # one after the other
"""

from __future__ import annotations

import argparse
import collections
import concurrent.futures
import contextlib
import functools
import io
import itertools
import json
import multiprocessing
import pathlib
import sys
import time
import tomllib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import conftest  # noqa: F401  (sets jax up as the tests do, so it comes first)

# isort: split

import jax
import numpy as np

from funcnet import checks
from funcnet.catalogue import ROWS, Row
from funcnet.kernels._lowering import Kernel
from tests.support import checkers, optimizer_table, zoo
from tools import mutation_checks
from tools.mutation import Mutant, mutants_of, planted, reached

ROOT = pathlib.Path(__file__).resolve().parent.parent
EQUIVALENT = ROOT / "tools" / "mutants_equivalent.toml"
WHOLE_LEAF, SINGLE_ENTRY = 1e-12, 1e-9  # the least errors that must be noticed, in float64
PARTS = 40  # that processes share: some mutants take a hundred times as long as others
PAUSE = 100  # mutants between two looks at the right code
DEAREST_FOR = 4  # rules that a mutant of a shared function meets in the dearest stage


class Fate(NamedTuple):
    """What became of a mutant: who noticed it and in which stage, or nobody; and how fast."""

    mutant: Mutant
    subject: str  # of whom it is a mutant: the first that reaches the function
    noticed: str
    stage: int
    seconds: float


@functools.cache
def all_mutants() -> list[tuple[Mutant, list[str]]]:
    """Every mutant with the rules or optimizers that reach it, in the order of the sources."""
    reaching: dict[int, list[str]] = collections.defaultdict(list)
    functions: dict[int, Any] = {}
    for subject in mutation_checks.subjects().values():
        for function in reached(*subject.seeds):
            functions[id(function)] = function
            reaching[id(function)].append(subject.name)
    return [
        (mutant, reaching[key])
        for key, function in functions.items()
        for mutant in mutants_of(function)
    ]


def fate_of(mutant: Mutant, names: Sequence[str]) -> Fate:
    """Plants a mutant and runs the proofs of whoever reaches it until one notices.

    The maps below the rules come first: their proofs call functions, where a rule's compile them.
    """
    started, spent = time.perf_counter(), 0.0
    forget(mutant)
    for stage, those in _in_turn(names):
        done: set[int] = set()
        for name in those:
            prepared = time.perf_counter()
            proofs = [p for p in mutation_checks.proofs(name, stage) if id(p) not in done]
            spent += time.perf_counter() - prepared  # the truths are shared
            done |= {id(p) for p in proofs}
            with planted(mutant), np.errstate(all="ignore"):
                if any(map(_notices, proofs)):
                    forget(mutant)
                    seconds = time.perf_counter() - started - spent
                    return Fate(mutant, names[0], name, stage, seconds)
    forget(mutant)
    return Fate(mutant, names[0], "", -1, time.perf_counter() - started - spent)


def _in_turn(names: Sequence[str]) -> Iterator[tuple[int, Sequence[str]]]:
    """The stages from cheap to dear, each with whose proofs it takes."""
    maps = [name for name in names if name == mutation_checks.MAPS]
    rules = [name for name in names if name != mutation_checks.MAPS]
    for those in (maps, rules):
        stages = max((len(mutation_checks.subjects()[name].stages) for name in those), default=0)
        for stage in range(stages):
            yield stage, _spread(those) if stage == stages - 1 else those


def forget(mutant: Mutant) -> None:
    """Drops programs in which the mutant would not be seen, or would be seen after it is gone."""
    optimizer_table.program.cache_clear()
    if mutant.target.__module__.startswith("funcnet.kernels."):
        for kernel in _kernels():
            kernel.forget()


@functools.cache
def _kernels() -> list[Kernel]:
    """The primitives whose definitions are planted with mistakes."""
    rooms = [m for name, m in sys.modules.items() if name.startswith("funcnet.kernels.")]
    return list(
        {id(v): v for m in rooms for v in vars(m).values() if isinstance(v, Kernel)}.values()
    )


def _spread(names: Sequence[str]) -> Sequence[str]:
    """Of many rules a few, far apart in the list; of optimizers one row of the table each."""
    table = optimizer_table.TABLE
    if names[0] in table:
        return list({table[name][0]: name for name in names}.values())
    if len(names) <= DEAREST_FOR:
        return names
    return [names[i * (len(names) - 1) // (DEAREST_FOR - 1)] for i in range(DEAREST_FOR)]


def _notices(proof: Any) -> bool:
    quiet = contextlib.redirect_stderr(io.StringIO())
    with quiet, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            proof()
        except BaseException as error:  # pytest.fail raises no Exception
            if isinstance(error, KeyboardInterrupt) or "allocate" in str(error):
                raise
            return True
    return False


def equivalent() -> dict[tuple, str]:
    """Mutants that compute the same as the function does, each with the reason."""
    table = tomllib.loads(EQUIVALENT.read_text()) if EQUIVALENT.exists() else {}
    return {
        (m["file"], m["function"], m["operator"], m["line"], m["change"], m.get("nth", 1)): (
            m["reason"]
        )
        for m in table.get("mutant", [])
    }


def survey(mutants: Iterable[tuple[Mutant, list[str]]], log: Any = None) -> list[Fate]:
    """The fates of mutants, one after the other; `log` gets a line of JSON for each."""
    fates = []
    for i, (mutant, names) in enumerate(mutants):
        fates.append(fate_of(mutant, names))
        if log is not None:
            log.write(json.dumps([*mutant.key, *fates[-1][1:]]) + "\n")
            log.flush()
        if i % PAUSE == PAUSE - 1:
            jax.clear_caches()
            for name in names[:DEAREST_FOR]:  # without a mutant nothing is noticed
                for stage in range(len(mutation_checks.subjects()[name].stages)):
                    proofs = mutation_checks.proofs(name, stage)
                    assert not any(map(_notices, proofs)), (name, stage)
    return fates


def surveyed(part: int, log: pathlib.Path | None) -> list[tuple]:
    """The fates of one part of all mutants, without the mutants, which no process can hand on."""
    with contextlib.ExitStack() as stack:
        file = stack.enter_context(log.open("a")) if log else None
        return [fate[1:] for fate in survey(part_of(all_mutants(), part), file)]


def part_of(mutants: Sequence[Any], part: int) -> Sequence[Any]:
    """The part-th of as many parts as processes share."""
    first, last = (len(mutants) * n // PARTS for n in (part, part + 1))
    return mutants[first:last]


def survey_of_all(jobs: int, log: pathlib.Path | None = None) -> list[Fate]:
    """The fates of all mutants, by so many processes, each of which takes the next part."""
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context) as pool:
        parts = list(pool.map(surveyed, range(PARTS), [log] * PARTS))
    found = itertools.chain(*parts)
    return [Fate(mutant, *fate) for (mutant, _), fate in zip(all_mutants(), found, strict=True)]


# The table of mutants ----------------------------------------------------------------------


def tables_of_mutants(fates: Sequence[Fate]) -> str:
    """Markdown: killed, equivalent and surviving mutants, by kind of mistake and by rule."""
    known = equivalent()
    counts = _counted(fates, known)
    others = counts["mutants"] - counts["equivalent"]
    seconds = sum(fate.seconds for fate in fates)
    lines = [
        "# Mutants",
        "",
        "Small mistakes planted in the code of the rules and of the optimizers, one at a time, by "
        "`python -m tools.power mutants`: a sign, a factor, an axis, an order, a cotangent left "
        "out, a sum for a mean. Each is then put to the proofs, from cheap to dear, until one "
        "notices. A mutant that computes the same as the right code is called equivalent, and is "
        "listed with the reason in `tools/mutants_equivalent.toml`.",
        "",
        f"{counts['mutants']} mutants, {counts['killed']} killed, {counts['equivalent']} "
        f"equivalent, {counts['surviving']} surviving: {counts['killed'] / others:.2%} of those "
        f"that are not equivalent. {seconds:.0f} seconds, {seconds / len(fates):.2f} a mutant.",
        "",
        "## By kind of mistake",
        "",
        *_table("kind", fates, known, lambda fate: fate.mutant.operator),
        "",
        "## By rule or optimizer",
        "",
        "Functions that several rules share are counted by themselves.",
        "",
        *_table("rule", fates, known, _owner),
        "",
        "## Survivors",
        "",
    ]
    survivors = [f for f in fates if not f.noticed and f.mutant.key not in known]
    lines += [
        f"- `{m.file}` `{m.function}`, {m.operator}: `{m.change}` in `{m.line}`"
        for m in (fate.mutant for fate in survivors)
    ] or ["None."]
    return "\n".join(lines) + "\n"


def _owner(fate: Fate) -> str:
    """The rule that a function belongs to by its name, else the module and the function."""
    name = fate.mutant.function.strip("_")
    names = sorted(mutation_checks.ROWS, key=len, reverse=True)
    family = fate.mutant.target.__module__.removeprefix("funcnet.")
    if "optimizers" in family:
        return f"`{family}`"
    owners = [n for n in names if name in (n, f"{n}_fwd", f"{n}_bwd", f"{n}_cotangents")]
    return owners[0] if owners else f"shared, `{family}`"


def _counted(fates: Iterable[Fate], known: dict[tuple, str]) -> collections.Counter:
    counts: collections.Counter = collections.Counter()
    for fate in fates:
        same = not fate.noticed and fate.mutant.key in known
        counts["mutants"] += 1
        counts["killed" if fate.noticed else "equivalent" if same else "surviving"] += 1
    return counts


def _table(title: str, fates: Sequence[Fate], known: dict[tuple, str], of: Any) -> list[str]:
    groups: dict[str, list[Fate]] = collections.defaultdict(list)
    for fate in fates:
        groups[of(fate)].append(fate)
    lines = [
        f"| {title} | mutants | killed | equivalent | surviving | seconds |",
        "| --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for name, group in [*sorted(groups.items()), ("all", list(fates))]:
        counts = _counted(group, known)
        numbers = [counts[k] for k in ("mutants", "killed", "equivalent", "surviving")]
        seconds = sum(fate.seconds for fate in group)
        lines.append(f"| {name} | " + " | ".join(map(str, numbers)) + f" | {seconds:.0f} |")
    return lines


# The table of checkers ---------------------------------------------------------------------


def table_of_checkers(verdicts: dict[str, dict[str, dict[str, str]]]) -> str:
    """Markdown: who catches which broken rule, and who raises a false alarm."""
    columns = list(next(iter(verdicts["broken"].values())))
    lines = [
        "# Checkers",
        "",
        "The broken rules of `tests/support/zoo_broken.py`, given to the checkers that people use, "
        "with their default tolerances, by `python -m tools.power checkers`. Arguments are cast to "
        "the checker's dtype; only reverse mode, first order. `torch.autograd.gradcheck` gets a "
        "torch function whose passes are JAX's, in float64. *JAX raises* means that any use of the "
        "gradient raises, with or without a checker: counted as caught. *Not possible* means "
        "that the checker cannot take the function. Some of these mistakes (other precisions, "
        "transformations, residual bytes) are none that a comparison of derivatives looks for.",
        "",
        "| broken rule | " + " | ".join(columns) + " |",
        "| --- |" + " --- |" * len(columns),
    ]
    for name, row in verdicts["broken"].items():
        cells = [f"**{row[c]}**" if row[c] == checkers.CAUGHT else row[c] for c in columns]
        lines.append(f"| {name.replace('_', ' ')} | " + " | ".join(cells) + " |")
    for title, kind, counted in (
        ("caught", "broken", (checkers.CAUGHT, checkers.JAX_RAISES)),
        ("not possible", "broken", (checkers.NOT_POSSIBLE,)),
        ("false alarms", "right", (checkers.CAUGHT,)),
    ):
        rows = verdicts[kind].values()
        cells = [f"{sum(row[c] in counted for row in rows)} of {len(rows)}" for c in columns]
        lines.append(f"| **{title}** | " + " | ".join(cells) + " |")
    lines += ["", "False alarms are counted over the right rules of `tests/support/zoo_right.py`."]
    return "\n".join(lines) + "\n"


def verdicts_of_checkers() -> dict[str, dict[str, dict[str, str]]]:
    """What each checker at hand says of each broken and of each right rule."""
    return {
        kind: {
            animal.name: {name: checkers.verdict(name, animal) for name in checkers.installed()}
            for animal in animals
        }
        for kind, animals in (("broken", zoo.BROKEN), ("right", zoo.RIGHT))
    }


# The table of thresholds -------------------------------------------------------------------


def threshold(row: Row, index: int) -> checks.Detection:
    """The smallest errors that the cotangent check rejects on one of a rule's samples."""
    sample = row.samples(np.random.default_rng(0))[index]
    return checks.detection_threshold(
        row.function,
        *sample.args,
        plain=row.plain,
        static=sample.static,
        reduction=max(1, row.reduction(sample)),
    )


def table_of_thresholds() -> str:
    """Markdown: of each rule the smallest error that is rejected, on its worst sample."""
    lines = [
        "# Thresholds",
        "",
        "How small a mistake is noticed, by `python -m tools.power thresholds`. An error is "
        "injected into the gradient that a rule gives in float64, and made smaller by bisection "
        "until the cotangent check lets it pass. *Whole leaf*: every entry of a gradient leaf "
        "times 1 + error. *Single entry*: the smallest entry of a leaf moved by error times the "
        "leaf's largest. Stated for the worst leaf of the worst sample; the bars, which the tests "
        f"hold, are {WHOLE_LEAF:.0e} and {SINGLE_ENTRY:.0e}.",
        "",
        "| rule | samples | whole leaf | single entry | hardest leaf |",
        "| --- | ---: | ---: | ---: | --- |",
    ]
    for name, row in ROWS.items():
        samples = range(len(row.samples(np.random.default_rng(0))))
        found = [threshold(row, index) for index in samples]
        found = [detection for detection in found if detection.leaf]  # there is a gradient to judge
        worst = max(found, key=lambda detection: detection.whole_leaf)
        single = max(detection.single_entry for detection in found)
        lines.append(
            f"| {name} | {len(found)} | {worst.whole_leaf:.1e} | {single:.1e} | `{worst.leaf}` |"
        )
    return "\n".join(lines) + "\n"


# The command -------------------------------------------------------------------------------


def main() -> int:
    """Makes the tables; 1 when a mutant survives that nobody has called equivalent."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=["mutants", "checkers", "thresholds", "all"])
    parser.add_argument("--log", type=pathlib.Path, help="a line of JSON more for each mutant")
    parser.add_argument("--jobs", type=int, default=1, help="processes that share the mutants")
    options = parser.parse_args()

    def write(what: str, make: Callable[[], str]) -> None:
        if options.what in (what, "all"):
            (ROOT / "docs" / f"proof_{what}.md").write_text(make())

    write("thresholds", table_of_thresholds)
    write("checkers", lambda: table_of_checkers(verdicts_of_checkers()))
    if options.what not in ("mutants", "all"):
        return 0
    fates = survey_of_all(options.jobs, options.log)
    write("mutants", lambda: tables_of_mutants(fates))
    known = equivalent()
    survivors = [f.mutant for f in fates if not f.noticed and f.mutant.key not in known]
    for mutant in survivors:
        print(*mutant.key, sep=" | ")
    return bool(survivors)


if __name__ == "__main__":
    sys.exit(main())
