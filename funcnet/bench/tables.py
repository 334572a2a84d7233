"""What a report looks like: tables for terminals and Markdown, a figure, and what became slower."""

from __future__ import annotations

import os
import statistics
import textwrap
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from funcnet import _matplotlib
from funcnet.bench.results import BFLOAT16, COMPILED, SECTIONS, Contender, Report, Result

if TYPE_CHECKING:
    from matplotlib.figure import Figure
else:
    Figure = Any  # annotations that are executed find a name

# Who is not funcnet.
OTHERS = ("autodiff", "flax", "equinox", "torch", BFLOAT16, COMPILED, "numpy", "sklearn")
_COLOURS = {
    "autodiff": "#E69F00",
    "flax": "#CC79A7",
    "equinox": "#009E73",
    "torch": "#D55E00",
    BFLOAT16: "#F0B48A",
}
_PEERS = ("flax", "equinox", "torch", BFLOAT16)  # of rules
_OURS, _VARIANT = _matplotlib.BLUE, "#8CC5E8"
_PAGE = 9.0  # inches: at the width of a page its letters are of the page's size


class Sheet(NamedTuple):
    """A table: a title, the names of columns, rows of cells (the first two are words), a foot."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    foot: tuple[str, ...] = ()

    def without(self, column: str) -> Sheet:
        """The table without a column."""
        gone = self.columns.index(column)
        cut = [line[:gone] + line[gone + 1 :] for line in (self.columns, *self.rows)]
        return self._replace(columns=cut[0], rows=tuple(cut[1:]))


class Slower(NamedTuple):
    """A pass that takes longer than it did, in seconds."""

    section: str
    name: str
    case: str
    contender: str
    timing: str
    seconds: float
    old_seconds: float

    def __str__(self) -> str:
        which = self.timing.replace("_", " and ")
        return (
            f"{self.name} ({self.case}), {self.contender}, {which}: "
            f"{milliseconds(self.old_seconds)} -> {milliseconds(self.seconds)} ms, "
            f"{self.seconds / self.old_seconds:.2f} times"
        )


def slower(new: Report, old: Report, by: int | float = 0.1) -> tuple[Slower, ...]:
    r"""What funcnet takes longer for than it did, beyond the spread of both measurements.

    A pass is slower where its median is more than (1 + `by`) times the old one, and the middle half
    of its samples does not overlap with the old one's. What is not in both reports is left out.

    Args:
      new: a report.
      old: an earlier one, of the same machine.
      by: how much slower, as a fraction.

    Returns:
      What became slower, the worst first.

    >>> from funcnet.bench import Report
    >>> empty = Report((), *4 * ({},))
    >>> slower(empty, empty)
    ()
    """
    before = {(r.section, r.name, r.case): r for r in old.results}
    found: list[Slower] = []
    for result in new.results:
        match = before.get((result.section, result.name, result.case))
        for contender in result.contenders if match else ():
            other = match.contender(contender.name) if match else None
            if contender.name in OTHERS or other is None:
                continue
            for timing, now in contender.timings.items():
                then = other.timings.get(timing)
                if then is None or now.seconds <= (1 + by) * then.seconds:
                    continue
                if now.low_seconds > then.high_seconds:
                    key = (result.section, result.name, result.case, contender.name, timing)
                    found.append(Slower(*key, now.seconds, then.seconds))
    return tuple(sorted(found, key=lambda s: s.old_seconds / s.seconds))


def sheets(report: Report) -> list[Sheet]:
    """The tables of a report, those with results."""
    made: list[Sheet] = []
    for section in SECTIONS:
        results = report.section(section)
        wholes = tuple(r for r in results if r.last != "epoch")
        epochs = tuple(r for r in results if r.last == "epoch")
        if wholes:
            made += _rules(wholes, report) if section == "rules" else _steps(wholes, report)
        if epochs:
            made.append(_epochs(epochs))
    return made


def _others(results: tuple[Result, ...]) -> list[str]:
    """Who has columns beside the first contenders, in the order of `OTHERS`, variants first."""
    names = dict.fromkeys(c.name for r in results for c in r.contenders[1:] if c.name != COMPILED)
    return sorted(names, key=lambda n: OTHERS.index(n) if n in OTHERS else -1)


def _summary(results: tuple[Result, ...], others: list[str]) -> tuple[str, ...]:
    """The geometric mean of the ratios to each of the others, and how many are above 1."""
    found = []
    for who in others:
        ratios = [ratio for r in results if (ratio := r.ratio(who)) is not None]
        if len(results) > 1 and ratios:
            above = sum(ratio > 1 for ratio in ratios)
            found.append(
                f"/{who} {statistics.geometric_mean(ratios):.2f} ({above} of {len(ratios)})"
            )
    return (f"Geometric means (rows above 1.00): {', '.join(found)}.",) if found else ()


def _misses(results: tuple[Result, ...], report: Report) -> list[Sheet]:
    """The rows in which torch is faster, the worst first; none for none."""
    rows = []
    for r in sorted(results, key=lambda r: -(r.ratio("torch") or 0)):
        ratio, bound = r.ratio("torch"), r.bound(report.ceilings)
        if ratio is None or ratio <= 1:
            break
        ours = r.contenders[0].timings[r.last].seconds
        times = (ours, ours / ratio)
        cells = [*map(milliseconds, (*times, bound)), *(_share(bound / t) for t in times)]
        rows.append((r.name, r.case, _ratio(ratio), *cells))
    name = results[0].contenders[0].name
    columns = ("ms", "torch ms", "bound ms", f"{name} at", "torch at")
    title = f"Where torch is faster than {name}, and how near each is to the bound"
    first = ("rule", "shapes") if results[0].section == "rules" else ("net", "layers")
    return [Sheet(title, (*first, "/torch", *columns), tuple(rows))] if rows else []


def _rules(results: tuple[Result, ...], report: Report) -> list[Sheet]:
    others = _others(results)
    times: list[tuple[str, ...]] = []
    memory: list[tuple[str, ...]] = []
    for r in results:
        ours = r.contenders[0]
        both = ours.timings[r.last]
        times.append(
            (
                r.name,
                r.case,
                milliseconds(ours.timings["forward"].seconds),
                milliseconds(both.seconds),
                _spread(ours, r.last),
                _ratio(r.ratio("autodiff", timing="forward")),
                *(_ratio(r.ratio(who)) for who in others),
                milliseconds(r.bound(report.ceilings)),
                _share(r.flops[r.last] / both.seconds / report.ceilings.flops_per_second),
                _share(r.least_bytes[r.last] / both.seconds / report.ceilings.bytes_per_second),
            )
        )
        plain = r.contender("autodiff")
        memory.append(
            (
                r.name,
                r.case,
                *(_pair(ours, plain, "residual_bytes", _bytes)),
                *(_pair(ours, plain, "temporary_bytes", _bytes)),
                *(_pair(ours, plain, "compile_seconds", lambda s: f"{s:.2f}")),
            )
        )
    name = results[0].contenders[0].name
    return [
        Sheet(
            f"Time of the rules ({name}; ratios below 1: {name} is faster)",
            (
                "rule",
                "shapes",
                "forward ms",
                "fwd+bwd ms",
                "spread",
                "fwd/autodiff",
                *(f"/{who}" for who in others),
                "bound ms",
                "FLOP/s",
                "bytes/s",
            ),
            tuple(times),
            _summary(results, others),
        ),
        *_misses(results, report),
        Sheet(
            "Memory and compile time of the rules, beside autodiff of the plain function",
            ("rule", "shapes", "kept", "autodiff", "scratch", "autodiff", "compile s", "autodiff"),
            tuple(memory),
        ),
    ]


def _steps(results: tuple[Result, ...], report: Report) -> list[Sheet]:
    others = _others(results)
    times: list[tuple[str, ...]] = []
    costs: list[tuple[str, ...]] = []
    for r in results:
        ours = r.contenders[0]
        seconds = ours.timings["step"].seconds
        found = [r.contender(who) for who in others]
        times.append(
            (
                r.name,
                r.case,
                milliseconds(seconds),
                _spread(ours, "step"),
                f"{r.images / seconds:,.0f}",
                *("-" if c is None else milliseconds(c.timings["step"].seconds) for c in found),
                *(_ratio(r.ratio(who)) for who in others),
                milliseconds(r.bound(report.ceilings)),
                _share(r.flops["step"] / seconds / report.ceilings.flops_per_second),
            )
        )
        flax = r.contender("flax")
        costs.append(
            (
                r.name,
                r.case,
                *_pair(ours, flax, "temporary_bytes", _bytes),
                *_pair(ours, flax, "compile_seconds", lambda s: f"{s:.2f}"),
            )
        )
    name, whole = results[0].contenders[0].name, results[0].section == "steps"
    ms, ratios = [f"{who} ms" for who in others], [f"/{who}" for who in others]
    sheet = Sheet(
        f"{'Whole train steps' if whole else 'A step within whole epochs'} ({name})",
        ("net", "layers", "ms", "spread", "images/s", *ms, *ratios, "bound ms", "FLOP/s"),
        tuple(times),
        (*_summary(results, others), *_compiled(results)),
    )
    if not whole:
        return [sheet]
    columns = ("net", "layers", "scratch", "flax", "compile s", "flax")
    cost = Sheet("Memory and compile time of whole train steps", columns, tuple(costs))
    return [sheet, *_misses(results, report), cost]


def _compiled(results: tuple[Result, ...]) -> tuple[str, ...]:
    """One line of `torch.compile`, in units of the eager step that took turns with it."""
    found = [
        f"{r.name} {c.timings['step'].seconds / c.timings['eager'].seconds:.2f} "
        f"(compiled in {c.compile_seconds or 0:.0f} s)"
        for r in results
        if (c := r.contender(COMPILED)) is not None
    ]
    return (f"torch.compile in units of eager torch: {', '.join(found)}.",) if found else ()


def _epochs(results: tuple[Result, ...]) -> Sheet:
    others = _others(results)
    rows = []
    for r in results:
        ours = r.contenders[0]
        sides = [ours, *(r.contender(who) for who in others)]
        ms = ["-" if c is None else milliseconds(c.timings["epoch"].seconds) for c in sides]
        right = ["-" if c is None or c.accuracy is None else f"{c.accuracy:.1%}" for c in sides]
        ratios = [_ratio(r.ratio(who)) for who in others]
        rows.append((r.name, r.case, ms[0], _spread(ours, "epoch"), *ms[1:], *ratios, *right))
    name = results[0].contenders[0].name
    ms, ratios = [f"{who} ms" for who in others], [f"/{who}" for who in others]
    columns = ("net", "settings", "ms", "spread", *ms, *ratios, "accuracy", *others)
    return Sheet(f"An epoch, and the accuracy after the last ({name})", columns, tuple(rows))


def remarks(report: Report) -> list[str]:
    """What has to be said with the tables: who is missing, and what disagreed."""
    lines = [f"not installed, so not measured: {who}" for who in report.missing]
    lines += report.notes
    lines += [f"{r.name} ({r.case}): {note}" for r in report.results for note in r.notes]
    return lines


def heading(report: Report) -> str:
    """Machine, ceilings, versions and date in a sentence each."""
    versions = ", ".join(f"{name} {version}" for name, version in report.versions.items())
    return (
        f"{report.machine}. Ceilings: {report.ceilings.flops_per_second / 1e9:.0f} GFLOP/s (a "
        f"product of 2048² matrices), {report.ceilings.bytes_per_second / 1e9:.1f} GB/s (a copy of "
        f"256 MB). {report.date}; {versions}."
    )


def to_markdown(report: Report) -> str:
    r"""The tables of a report as Markdown, with machine, versions, date and remarks.

    Args:
      report: what `rules`, `steps`, `runs` or `Report.load` returned.

    Returns:
      The text.

    >>> from funcnet.bench import Ceilings, Machine, Report
    >>> machine = Machine("a CPU", "AVX2", 2, "cpu", "cpu")
    >>> print(to_markdown(Report((), Ceilings(1e11, 1e10), machine, {"funcnet": "1"}, "today")))
    a CPU, AVX2, 2 cores. Ceilings: 100 GFLOP/s (a product of 2048² matrices), 10.0 GB/s (a copy of
    256 MB). today; funcnet 1.
    <BLANKLINE>
    """
    parts = [heading(report), ""]
    for sheet in sheets(report):
        numbers = len(sheet.columns) - 2
        parts += [
            f"## {sheet.title}",
            "",
            "| " + " | ".join(sheet.columns) + " |",
            "|---|---|" + "---:|" * numbers,
            *("| " + " | ".join(row) + " |" for row in sheet.rows),
            "",
            *(line for words in sheet.foot for line in (words, "")),
        ]
    found = remarks(report)
    parts += [f"- {line}" for line in found]
    return "\n".join(parts + ([""] if found else []))


def figure(report: Report, path: str | os.PathLike[str] | None = None) -> Figure:
    r"""Draws a report: time per rule as ratio bars, the bytes each keeps, and whole steps.

    Time is forward and backward, in units of autodiff's, which is the line at 1; a bar to the left
    of it is faster. The thin line on a bar spans the quartiles.

    Args:
      report: what `rules`, `steps`, `runs` or `Report.load` returned.
      path: where to save the figure, as .png, .svg or .pdf; None to save nothing.

    Returns:
      The figure: two axes for rules, one for whole steps, as far as the report has them.

    Raises:
      ImportError: matplotlib is not installed.
      ValueError: the report has neither rules nor steps.

    >>> from funcnet.bench import Report
    >>> figure(Report((), *4 * ({},)))
    Traceback (most recent call last):
        ...
    ValueError: figure: the report has no results to draw.
    """
    rules = report.section("rules")
    wholes = report.section("steps") + report.section("runs")
    if not rules and not wholes:
        raise ValueError("figure: the report has no results to draw.")
    with _matplotlib.require("bench.figure").rc_context({**_matplotlib.STYLE, "font.size": 10}):
        from matplotlib.figure import Figure

        sides = sum(len(r.contenders) for r in wholes)
        heights = [1.3 + 0.24 * len(rules)] * bool(rules) + [1.3 + 0.2 * sides] * bool(wholes)
        drawn = Figure(figsize=(_PAGE, 0.4 + sum(heights)), layout="constrained")
        grid = drawn.add_gridspec(len(heights), 5, height_ratios=heights)
        if rules:
            times = drawn.add_subplot(grid[0, :3])
            _draw_times(times, rules)
            _draw_bytes(drawn.add_subplot(grid[0, 3:], sharey=times), rules)
        if wholes:
            _draw_wholes(drawn.add_subplot(grid[-1, :]), wholes)
        drawn.suptitle(str(report.machine), fontsize=10)
        if path is not None:
            _matplotlib.save(drawn, path, dpi=120)
    return drawn


def _finish(axes: Any, labels: list[str], title: str, columns: int) -> None:
    """Names the rows, and puts the legend between the title and the bars."""
    axes.set_yticks(range(len(labels)), labels, fontsize=9)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    lines = -(-len(axes.get_legend_handles_labels()[0]) // columns)
    axes.set_title(title, fontsize=11, pad=8 + 16 * lines)
    axes.grid(axis="y", visible=False)
    axes.set_axisbelow(True)
    axes.legend(
        loc="lower left",
        bbox_to_anchor=(0, 1),
        ncols=columns,
        fontsize=9,
        borderaxespad=0.2,
        columnspacing=1,
        handlelength=1.2,
    )


def _draw_times(axes: Any, rules: tuple[Result, ...]) -> None:
    for y, r in enumerate(rules):
        ratio = r.ratio("autodiff")
        if ratio is not None:
            ours = r.contenders[0].timings[r.last]
            spread = [ratio * s / ours.seconds for s in (ours.low_seconds, ours.high_seconds)]
            axes.barh(y, ratio, 0.6, color=_OURS)
            axes.plot(spread, (y, y), color="black", linewidth=1)
        for who in _PEERS:
            if (peer := r.ratio("autodiff", of=who)) is not None:
                axes.plot(peer, y, "o", color=_COLOURS[who], markersize=4)
    axes.plot([], [], color=_OURS, linewidth=6, label=rules[0].contenders[0].name)
    for who in _PEERS:
        if any(r.contender(who) for r in rules):
            axes.plot([], [], "o", color=_COLOURS[who], markersize=4, label=who)
    axes.axvline(1, color="black", linewidth=1)
    axes.set_xscale("log")
    axes.set_xlabel("time, autodiff = 1")
    _finish(axes, [f"{r.name} {r.case}" for r in rules], "forward and backward", 4)


def _draw_bytes(axes: Any, rules: tuple[Result, ...]) -> None:
    for y, r in enumerate(rules):
        for shift, who in ((-0.2, r.contenders[0]), (0.2, r.contender("autodiff"))):
            if who is not None and who.residual_bytes is not None:
                colour = _COLOURS["autodiff"] if who.name == "autodiff" else _OURS
                axes.barh(y + shift, who.residual_bytes, 0.4, color=colour)
    axes.set_xscale("symlog", linthresh=1e3)
    axes.set_xlim(left=0)
    axes.set_xticks([0, 1e3, 1e5, 1e7])
    axes.set_xlabel("between the passes")
    for name, colour in ((rules[0].contenders[0].name, _OURS), ("autodiff", _COLOURS["autodiff"])):
        axes.plot([], [], color=colour, linewidth=6, label=name)
    _finish(axes, [f"{r.name} {r.case}" for r in rules], "bytes kept", 2)
    axes.tick_params(labelleft=False)  # the rows are named on the left


def _draw_wholes(axes: Any, wholes: tuple[Result, ...]) -> None:
    shades = {**_COLOURS, COMPILED: "#8C3D00", "numpy": "#999999", "sklearn": "#F0E442"}
    seen: set[str] = set()
    for y, r in enumerate(wholes):
        for i, c in enumerate(r.contenders):
            height = 0.8 / len(r.contenders)
            axes.barh(
                y - 0.4 + (i + 0.5) * height,
                r.images / c.timings[r.last].seconds,
                height,
                color=shades.get(c.name, _OURS if i == 0 else _VARIANT),
                label=None if c.name in seen else c.name,
            )
            seen.add(c.name)
    axes.set_xscale("log")
    axes.set_xlabel("images per second")
    names = [f"{r.name} ({r.section})\n{textwrap.fill(r.case, 34)}" for r in wholes]
    _finish(axes, names, "whole steps and runs", 4)


def milliseconds(seconds: int | float) -> str:
    """Three digits of a time in milliseconds.

    >>> milliseconds(0.0123456), milliseconds(0.5)
    ('12.3', '500')
    """
    value = 1e3 * seconds
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def _spread(contender: Contender, timing: str) -> str:
    found = contender.timings[timing]
    half = 0.5 * (found.high_seconds - found.low_seconds) / found.seconds
    return f"±{half:.0%} of {found.repetitions}"


def _ratio(value: int | float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _share(value: int | float) -> str:
    return "-" if value == 0 else f"{value:.0%}"


def _bytes(value: int | float) -> str:
    for unit in ("B", "kB"):
        if value < 1000:
            return f"{value:.3g} {unit}"
        value /= 1000
    return f"{value:.3g} MB"


def _pair(
    ours: Contender, other: Contender | None, field: str, words: Callable[[float], str]
) -> tuple[str, str]:
    """A field of both contenders in words."""
    found = [None if c is None else getattr(c, field) for c in (ours, other)]
    one, two = ("-" if value is None else words(value) for value in found)
    return one, two
