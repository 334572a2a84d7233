"""Rules of other people's: what `funcnet check TARGET...` finds, checks and prints."""

from __future__ import annotations

import collections
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from funcnet import checks, discovery
from funcnet.cli import _stdout
from funcnet.cli._command import CommandError, print_whole, traced

if TYPE_CHECKING:
    from funcnet.catalogue import Row

_COLOURS = ("green", "bold red", "yellow", "cyan", "bold yellow")
STYLES: dict[str, str] = dict(zip(checks.VERDICTS, _COLOURS, strict=True))


def verdict(word: str) -> Text:
    """A verdict as it is printed: what is bad is not to be overlooked."""
    return Text(word.upper() if word == "wrong" else word, STYLES.get(word, ""))


def rows() -> Mapping[str, Row]:
    """The catalogue."""
    from funcnet.catalogue import ROWS

    return ROWS


def found_in(targets: Sequence[str]) -> discovery.Found:
    """The rules of all targets, each once."""
    rules: dict[Any, discovery.Rule] = {}
    broken: dict[str, discovery.Broken] = {}
    notes: list[str] = []
    if os.getcwd() not in sys.path:  # as for `python -m`; a script has its own folder there
        sys.path.insert(0, os.getcwd())
    for word in targets:
        try:
            found = discovery.find(discovery.load(word))
        except discovery.TargetError as error:
            if word.isidentifier():
                raise CommandError(
                    f"{word} is neither a file, a folder or a module, nor a rule of the catalogue: "
                    f"{', '.join(rows())}."
                ) from error
            raise CommandError(str(error)) from error
        for rule in found.rules:
            rules.setdefault((rule.label, id(rule.function)), rule)
        broken |= {one.module: one for one in found.broken}
        notes += found.notes
    return discovery.Found(tuple(rules.values()), tuple(broken.values()), tuple(notes))


def judged(
    found: discovery.Found,
    out: Any,
    seed: int,
    examples: int,
    args: tuple[str, ...] = (),
    plain: str | None = None,
    seconds: float | None = None,
) -> list[discovery.Judgement]:
    """What is found of every rule; `args` and `plain` are of the only one."""
    options: dict[str, Any] = {"seconds": seconds}
    given = None
    if plain is not None and found.rules:
        options["plain"] = _plain(found.rules[0], plain)
    if args and found.rules:
        given = _given(found.rules[0], args, seed)
    judge = discovery.Judge(found, seed, examples, options)
    judgements = list(judge.broken())
    for rule in found.rules:
        with out.status(f"{rule.label} ({len(judgements)} done)"):
            judgements += judge.judge(rule, given)
    return judgements


def _plain(rule: discovery.Rule, name: str) -> Any:
    function = rule.space.get(name)
    if not callable(function):
        file = str(rule.space.get("__file__", rule.module))
        raise CommandError(f"--plain: {discovery.shown(file)} has no function {name}.")
    return function


def _given(rule: discovery.Rule, args: tuple[str, ...], seed: int) -> tuple[discovery.Sample, ...]:
    try:
        call = discovery.words(args, discovery.generator(seed), rule.space)
    except discovery.ArgumentError as error:
        raise CommandError(f"--args {error}") from error
    options = {"static": call.static} if call.static else {}
    return (discovery.Sample(rule.function, call.args, options, "--args"),)


def show(
    out: Any,
    found: discovery.Found,
    judgements: list[discovery.Judgement],
    whole: bool,
    traceback: bool,
) -> None:
    """Prints a row a rule and the failures of those that are wrong; `whole`, the only report."""
    if whole and len(judgements) == 1 and judgements[0].report is not None:
        out.print(judgements[0].report)
        return
    rows = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in ("verdict", "rule", "backward function", "sample inputs", "seconds"):
        rows.add_column(column, no_wrap=True, justify="right" if column == "seconds" else "left")
    for judgement in judgements:
        place = f"{discovery.shown(judgement.file)}:{judgement.line}" if judgement.file else ""
        rows.add_row(
            verdict(judgement.verdict), judgement.label, place, judgement.origin or "-",
            f"{judgement.seconds:.1f}" if judgement.report is not None else "-",
        )  # fmt: skip
    if judgements:
        print_whole(out, rows)
    for judgement in judgements:
        if judgement.verdict not in ("right", "by design"):
            out.print()
            out.print(Text.assemble(f"{judgement.label} ", verdict(judgement.verdict)))
            out.print(judgement.text, soft_wrap=True)
        if judgement.trace and traced(traceback):
            _stdout.say(judgement.trace)
    for note in found.notes:
        out.print(Text(f"note {note}", "dim"))


def totals(judgements: Sequence[discovery.Judgement], began: float) -> str:
    """How many are what, in a line."""
    counts = collections.Counter(judgement.verdict for judgement in judgements)
    parts = [f"{counts[word]} {word}" for word in checks.VERDICTS if counts[word]]
    seconds = time.perf_counter() - began
    reports = f"{len(judgements)} report{'s' * (len(judgements) != 1)}"
    return f"{reports} in {seconds:.0f} s: {', '.join(parts) or 'no rule found'}"


def print_lines(lines: Sequence[str]) -> None:
    """Prints lines that a program reads: as long as they are."""
    for line in lines:
        print(line, file=sys.stdout)
