"""What the checkers found: one `Check` a property, and reports that people and programs read."""

from __future__ import annotations

import html
import json
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, TypeVar

# typing.Self is no annotation that can be executed, method by method.
_Report = TypeVar("_Report", bound="Report")


class RuleError(AssertionError):
    """A rule or an optimizer is wrong; the message is the report's list of failures."""


@dataclass(frozen=True)
class Check:
    """The outcome of one check.

    Attributes:
        name: Which check, one of `checks.RULE_CHECKS` or `checks.OPTIMIZER_CHECKS`.
        passed: True, False, or None where the check does not apply: `message` says why.
        message: What was found, in a sentence; for a failure also what it looks like.
        where: The first wrong leaf and entry, as in `params.w[2, 3]`.
        worst: The largest error in units of rounding error, where there is one.
        tolerance: How many units are allowed.
        likely: The kind of mistake that the numbers look like.
    """

    name: str
    passed: bool | None
    message: str = ""
    where: str = ""
    worst: float | None = None
    tolerance: float | None = None
    likely: str = ""

    @property
    def mark(self) -> str:
        """The outcome as a word: `ok`, `FAIL` or `-`."""
        return {True: "ok", False: "FAIL", None: "-"}[self.passed]

    @property
    def text(self) -> str:
        """The check in one line, without its name."""
        parts = [f"{self.where}: {self.message}" if self.where else self.message]
        if self.worst is not None and self.tolerance is not None:
            parts.append(f"{_short(self.worst)} of {_short(self.tolerance)} eps allowed")
        if self.likely:
            parts.append(f"Looks like {self.likely}.")
        return " · ".join(part for part in parts if part)


def _short(value: float) -> str:
    if value == 0:
        return "0"
    if not math.isfinite(value):
        return str(value)
    return f"{value:.2g}" if abs(value) < 100 else f"{value:.3g}"


@dataclass(frozen=True)
class Report:
    """What a checker found: its checks in order, and how to read them."""

    name: str
    checks: tuple[Check, ...]
    seed: int = 0
    seconds: float = 0.0
    notes: tuple[str, ...] = ()
    checker: ClassVar[str] = "check"

    @property
    def ok(self) -> bool:
        """Whether no check failed."""
        return not self.failed

    @property
    def failed(self) -> tuple[Check, ...]:
        """The checks that failed, in order."""
        return tuple(check for check in self.checks if check.passed is False)

    def __getitem__(self, name: str) -> Check:
        for check in self.checks:
            if check.name == name:
                return check
        raise KeyError(f"no check named {name!r}; there are {[c.name for c in self.checks]}")

    def __contains__(self, name: str) -> bool:
        return any(check.name == name for check in self.checks)

    def __iter__(self) -> Iterator[Check]:
        return iter(self.checks)

    def raise_if_bad(self: _Report) -> _Report:
        """Raises `RuleError` with the failures, or returns the report itself.

        Returns:
            The report, so that a test can go on to read it.

        Raises:
            RuleError: When a check failed.
        """
        if not self.ok:
            raise RuleError(self.summary() + "".join(f"\n  {line}" for line in self._failures()))
        return self

    @property
    def _verdict(self) -> str:
        return "right" if self.ok else "WRONG"

    def summary(self) -> str:
        """The verdict in one line."""
        passed = sum(check.passed is True for check in self.checks)
        idle = sum(check.passed is None for check in self.checks)
        counts = [f"{passed} checks pass"]
        if self.failed:
            counts.insert(0, f"{len(self.failed)} of {len(self.checks)} checks FAIL")
        if idle:
            counts.append(f"{idle} do not apply")
        words = [f"{self.checker} {self.name}: {self._verdict}", ", ".join(counts)]
        return " · ".join([*words, f"{self.seconds:.1f} s"])

    def _failures(self) -> list[str]:
        return [f"{check.name}: {check.text}" for check in self.failed]

    def _facts(self) -> list[str]:
        return list(self.notes)

    def __str__(self) -> str:
        width = max((len(check.name) for check in self.checks), default=0)
        order = (*self.failed, *(check for check in self.checks if check.passed is not False))
        lines = [self.summary()]
        lines += [f"  {c.mark:4} {c.name:{width}}  {c.text}".rstrip() for c in order]
        lines += [f"  note {note}" for note in self._facts()]
        return "\n".join(lines)

    def __rich__(self) -> Any:
        """The report as rich draws it; rich is an extra, and asks for this only where it is."""
        from rich.table import Table
        from rich.text import Text

        style = {True: "green", False: "bold red", None: "dim"}
        table = Table(title=self.summary(), title_justify="left", box=None, pad_edge=False)
        for column in ("", "check", "found"):
            table.add_column(column, overflow="fold")
        for check in self.checks:
            table.add_row(Text(check.mark, style[check.passed]), Text(check.name), Text(check.text))
        for note in self._facts():
            table.add_row("", Text("note", "dim"), Text(note, "dim"))
        return table

    def _repr_html_(self) -> str:
        colour = {True: "#1a7f37", False: "#cf222e", None: "#808080"}
        rows = "".join(
            f'<tr><td style="color:{colour[c.passed]}"><b>{c.mark}</b></td>'
            f"<td>{html.escape(c.name)}</td>"
            f'<td style="text-align:left">{html.escape(c.text)}</td></tr>'
            for c in self.checks
        )
        notes = "".join(f"<li>{html.escape(note)}</li>" for note in self._facts())
        return f"<p><b>{html.escape(self.summary())}</b></p><table>{rows}</table>" + (
            f"<ul>{notes}</ul>" if notes else ""
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as plain containers, numbers that JSON cannot hold as words."""
        encoded = _encode({**asdict(self), "checker": self.checker, "ok": self.ok})
        assert isinstance(encoded, dict)
        return encoded

    def to_json(self, indent: int | None = None) -> str:
        """The report as JSON text, read back by `from_json`."""
        return json.dumps(self.to_dict(), indent=indent, allow_nan=False)

    @classmethod
    def from_dict(cls: type[_Report], data: dict[str, Any]) -> _Report:
        """The report that `to_dict` gave.

        Raises:
            ValueError: When the data come from another checker.
        """
        data = dict(data)
        if data.pop("checker", cls.checker) != cls.checker:
            raise ValueError(
                f"{cls.__name__}.from_dict: the data are of another checker; "
                f"expected checker={cls.checker!r}."
            )
        data.pop("ok", None)
        checks = tuple(
            Check(**{key: _decode(value) for key, value in item.items()})
            for item in data.pop("checks")
        )
        data["notes"] = tuple(data.get("notes", ()))
        return cls(checks=checks, **{key: _decode(value) for key, value in data.items()})

    @classmethod
    def from_json(cls: type[_Report], text: str) -> _Report:
        """The report that `to_json` gave."""
        return cls.from_dict(json.loads(text))


def _encode(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _encode(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return f"float:{value}"
    return value


def _decode(value: Any) -> Any:
    if isinstance(value, str) and value.startswith("float:"):
        return float(value.removeprefix("float:"))
    return value


def sentence(error: BaseException, limit: int = 300) -> str:
    """An exception as one line of bounded length."""
    text = " ".join(str(error).split())
    text = text if len(text) <= limit else text[: limit - 1] + "…"
    return f"{type(error).__name__}: {text}"
