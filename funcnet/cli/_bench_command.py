"""`funcnet bench`: measures rules and train steps, beside autodiff and other libraries."""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Callable
from typing import Annotated, Any, ClassVar

from rich.console import Console
from rich.table import Table

from funcnet import _files, bench
from funcnet.bench import peers as other_libraries
from funcnet.bench import results, tables
from funcnet.catalogue import ROWS
from funcnet.cli._command import (
    CommandError,
    console,
    expected_errors,
    need,
    not_drawn,
    option,
    writable,
    written,
)

# What a table does without, in this order, where a terminal is narrow.
LEAST_WANTED = (
    *("layers", "settings", "bytes/s", "FLOP/s", "spread", "forward ms", "fwd/autodiff"),
    "bound ms",
)


@dataclasses.dataclass(frozen=True)
class BenchCommand:
    """Measure time and memory of every rule and of whole train steps, beside other libraries.

    Rules are compared with autodiff of their plain twins and with Flax, Equinox and torch; train
    steps with Flax and torch; whole epochs with NumPy, torch and scikit-learn. All take turns call
    by call, torch in a process of its own, in float32 and bfloat16; times are medians.
    """

    only: Annotated[tuple[str, ...], option("all")] = ()
    """Names of rules (max_pool), steps (three_conv) or runs (digits)."""
    rules: Annotated[bool, option("rules and steps, where no section is named")] = False
    """Measure the rules of the catalogue."""
    steps: Annotated[bool, option("rules and steps, where no section is named")] = False
    """Measure whole train steps."""
    runs: Annotated[bool, option("rules and steps, where no section is named")] = False
    """Measure whole epochs: of course 000's net, and of one on the digits with its accuracy."""
    quick: bool = False
    """One shape a rule and short budgets: under two minutes on two cores."""
    seconds: Annotated[float | None, option("1 a pass of a rule, 4 a step; less with --quick")] = (
        None
    )
    """How long to time each side of each comparison."""
    peers: Annotated[tuple[str, ...], option("flax equinox torch sklearn")] = other_libraries.NAMES
    """Libraries to compare with; none for none."""
    torch_compile: bool = False
    """Time torch.compile of the train steps too: up to three minutes each, with a C++ compiler."""
    variants: Annotated[tuple[str, ...], option("funcnet")] = ()
    """Ways to run funcnet, each NAME or NAME:VARIABLE=VALUE[,VARIABLE=VALUE] with environment
    variables that hold while its programs are traced; ratios are of the first."""
    json: Annotated[str | None, option("none")] = None
    """File to write the results to."""
    markdown: Annotated[str | None, option("none")] = None
    """File to write the tables to, as Markdown."""
    figure: Annotated[str | None, option("none")] = None
    """File to draw the results to, .png, .svg or .pdf."""
    load: Annotated[str | None, option("none")] = None
    """Results of an earlier --json to show, instead of measuring."""
    against: Annotated[str | None, option("none")] = None
    """Results of an earlier --json: say what became slower than there by more than 10%."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet bench --quick
  funcnet bench --only max_pool conv2d --peers torch
  funcnet bench --rules --steps --runs --json new.json --markdown speed.md --figure speed.png
  funcnet bench --load new.json --against old.json
  funcnet bench --variants pure:FUNCNET_NATIVE=0 native:FUNCNET_NATIVE=1

Measure on a machine that does nothing else. The exit code is 1 where --against finds something
slower.
"""

    def run(self) -> int:
        """Measures, prints, and writes."""
        began = time.perf_counter()
        out = console()
        old = None if self.against is None else _earlier("--against", self.against)
        writable("--json", self.json)
        writable("--markdown", self.markdown)
        writable("--figure", self.figure, (".png", ".svg", ".pdf"))
        if self.figure is not None:
            need("matplotlib")
        report = self._measured(out) if self.load is None else _earlier("--load", self.load)
        if self.json is not None:
            with written("--json", self.json):
                report.save(self.json)
        if self.markdown is not None:
            with written("--markdown", self.markdown), _files.replacing(self.markdown) as file:
                file.write(bench.to_markdown(report).encode())
        if not out.file.isatty():
            out.width = max(out.width, 160)  # a file has room
        for sheet in tables.sheets(report):
            shown, left_out = _fitting(sheet, out.width)
            out.print(_drawn(shown))
            for line in sheet.foot:
                out.print(line)
            if left_out:
                out.print(f"(--markdown has room for {', '.join(left_out)} as well)")
            out.print()
        for line in tables.remarks(report):
            out.print(line)
        out.print(tables.heading(report))
        if self.load is None:
            count, seconds = len(report.results), time.perf_counter() - began
            out.print(f"{count} comparisons in {seconds:.0f} s")
        code = 0 if old is None else _verdict(out, report, old)
        if self.figure is not None:  # the numbers are out, whatever matplotlib says
            try:
                bench.figure(report, self.figure)
            except Exception as error:
                raise CommandError(f"--figure: {not_drawn(self.figure, error)}", 1) from error
        return code

    def _measured(self, out: Console) -> bench.Report:
        known = {"rules": tuple(ROWS), "steps": tuple(bench.STEPS), "runs": bench.RUNS}
        sections = [s for s in known if getattr(self, s)] or ["rules", "steps"]
        names = {s: tuple(n for n in known[s] if not self.only or n in self.only) for s in sections}
        for name in self.only:
            if all(name not in names[section] for section in sections):
                there = ", ".join(dict.fromkeys(n for s in sections for n in known[s]))
                raise CommandError(
                    f"--only {name}: there is no such name in {' and '.join(sections)}; expected "
                    f"some of {there}."
                )
        peers = () if self.peers == ("none",) else self.peers
        with expected_errors():
            other_libraries.choose(peers)
            variants = _variants(self.variants)
        if self.seconds is not None and not 0 < self.seconds < math.inf:
            raise CommandError(f"--seconds is {self.seconds}, expected a number above 0.")
        options: dict[str, Any] = {
            "peers": peers,
            "variants": variants,
            "quick": self.quick,
            "seconds": self.seconds,
        }
        with out.status("ceilings") as status:
            options["limits"] = bench.ceilings(0.3 if self.quick else 1.0)
            reports = []
            for section in filter(names.get, sections):
                measure: Callable[..., bench.Report] = getattr(bench, section)
                show = _shown(status, section)
                more = {"torch_compile": self.torch_compile} if section == "steps" else {}
                reports.append(measure(names[section], **options, **more, on_progress=show))
        merged = reports[0]
        for other in reports[1:]:
            merged = merged.merged(other)
        return merged


def _shown(status: Any, section: str) -> Callable[[int, int, str], None]:
    def show(done: int, total: int, label: str) -> None:
        status.update(f"{section} {done}/{total}  {label}")

    return show


def _fitting(sheet: tables.Sheet, width: int) -> tuple[tables.Sheet, list[str]]:
    """The table without the columns that a narrow terminal has no room for, and their names."""
    left_out: list[str] = []
    for name in LEAST_WANTED:
        widths = (max(map(len, column)) for column in zip(sheet.columns, *sheet.rows, strict=True))
        if sum(widths) + len(sheet.columns) <= width:
            break
        if name in sheet.columns:
            sheet = sheet.without(name)
            left_out.append(name)
    return sheet, left_out


def _drawn(sheet: tables.Sheet) -> Table:
    table = Table(
        title=sheet.title,
        title_justify="left",
        title_style="bold",
        box=None,
        pad_edge=False,
        padding=(0, 1, 0, 0),
    )
    for index, column in enumerate(sheet.columns):
        table.add_column(column, justify="left" if index < 2 else "right", no_wrap=index == 0)
    for row in sheet.rows:
        table.add_row(*row)
    return table


def _variants(words: tuple[str, ...]) -> tuple[bench.Variant, ...]:
    """The variants of the command line, one named funcnet where there is none."""
    made: list[bench.Variant] = []
    for word in words or ("funcnet",):
        name, _, settings = word.partition(":")
        variables = {}
        for setting in filter(None, settings.split(",")):
            found = re.fullmatch(r"([A-Za-z_]\w*)=(.*)", setting)
            if not found:
                raise ValueError(
                    f"--variants {word}: {setting} is no VARIABLE=VALUE, such as FUNCNET_NATIVE=0."
                )
            variables[found[1]] = found[2]
        if not name or name in tables.OTHERS or name in [v.name for v in made]:
            raise ValueError(f"--variants {word}: {name!r} is no name, or another side's.")
        made.append(bench.Variant(name, bench.environment(**variables)))
    return tuple(made)


def _earlier(name: str, path: str) -> bench.Report:
    """The report in a file, which is drawn once to see that it can be: a file may hold anything."""
    try:
        report = bench.Report.load(path)
        for sheet in tables.sheets(report):
            _drawn(sheet)
        tables.remarks(report)
        tables.heading(report)
        bench.slower(report, report)
        if unknown := {r.section for r in report.results} - set(results.SECTIONS):
            raise ValueError(f"there is no section {unknown.pop()!r}")
    except OSError as error:
        raise CommandError(f"{name}: cannot read {path}: {error.strerror or error}.") from error
    except Exception as error:
        what = str(error).removeprefix(f"{path}: ") or type(error).__name__
        raise CommandError(f"{name}: {path} is no whole report of funcnet bench: {what}") from error
    return report


def _verdict(out: Console, new: bench.Report, old: bench.Report) -> int:
    if new.machine != old.machine:
        out.print(f"careful: the earlier results are of another machine: {old.machine}")
    keys = [{(r.section, r.name, r.case) for r in report.results} for report in (new, old)]
    out.print(f"against {old.date}: {len(keys[0] & keys[1])} of {len(keys[0])} are in both")
    found = bench.slower(new, old)
    for line in found:
        out.print(f"slower: {line}")
    if not found:
        out.print("nothing became slower by more than 10%")
    return 1 if found else 0
