"""What each checker's report holds beside its checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal, get_args

from funcnet._reports import Report

Verdict = Literal["right", "wrong", "imprecise", "by design", "cannot be judged"]
"""What a rule can be found to be, in one word or a few."""

VERDICTS: tuple[Verdict, ...] = get_args(Verdict)
"""Every `Verdict`, in the order in which they are counted."""

RIGHT, WRONG, IMPRECISE, BY_DESIGN, UNJUDGED = VERDICTS


@dataclass(frozen=True)
class RuleReport(Report):
    """What `check_rule` found.

    Attributes:
        verdict: "right"; "wrong", where a check failed; "imprecise", right to a lower precision
            than that of its dtypes, because the function itself computes in float32 or iterates to
            a tolerance; "by design", no derivative, but what `expect` says; or "cannot be judged".
        precision: The largest error, as a part of its leaf's largest entry, of an imprecise rule.
        residual_bytes: Bytes that the rule keeps between its two passes, without its arguments.
        plain_residual_bytes: The same for autodiff of the plain function.
        detects: The smallest relative error of a whole gradient leaf that the cotangent check
            rejects on these inputs, the worst leaf counting.
    """

    verdict: Verdict = RIGHT
    precision: float | None = None
    residual_bytes: int | None = None
    plain_residual_bytes: int | None = None
    detects: float | None = None
    checker: ClassVar[str] = "check_rule"

    @property
    def reason(self) -> str:
        """Why the rule cannot be judged, "" where it can."""
        if self.verdict != UNJUDGED:
            return ""
        idle = {c.name: c.message for c in self.checks if c.passed is None and c.message}
        judges = (idle[name] for name in ("structure", "cotangent", "numerical") if name in idle)
        return next(judges, "no check of its gradient was run")

    @property
    def _verdict(self) -> str:
        return "WRONG" if self.failed else self.verdict

    def _facts(self) -> list[str]:
        facts = list(self.notes)
        if self.detects is not None:
            facts.append(f"rejects a relative error of {self.detects:.1e} in a whole gradient leaf")
        return facts


@dataclass(frozen=True)
class OptimizerReport(Report):
    """What `check_optimizer` found: two verdicts, `equal` and `robust`.

    `ok`, and so `raise_if_bad`, is what `equal` says, where two were compared: what both would do
    to a float16 is no difference between them. With `must_be_robust`, or without another
    optimizer, every check counts.

    Attributes:
        first_divergence: The first step (from 0) at which the updates differ, or None.
        cause: The likely cause of that divergence, as a sentence.
        properties: What was measured of both optimizers to find it: property -> (ours, theirs).
        shared: The checks of robustness that the other optimizer fails too.
        must_be_robust: Whether a failure of robustness makes the report bad beside equality.
    """

    first_divergence: int | None = None
    cause: str = ""
    properties: dict[str, list[str]] = field(default_factory=dict)
    shared: list[str] = field(default_factory=list)
    must_be_robust: bool = False
    checker: ClassVar[str] = "check_optimizer"
    equality: ClassVar[tuple[str, ...]] = ("trajectory", "extremes", "state")

    @property
    def equal(self) -> bool | None:
        """Whether updates and parameters agree at every step; None where none were compared."""
        judged = [c.passed for c in self.checks if c.name in self.equality and c.passed is not None]
        return all(judged) if judged else None

    @property
    def robust(self) -> bool | None:
        """Whether ours stands what training does to it; None where that was not asked."""
        asked = [c for c in self.checks if c.name not in self.equality and c.passed is not None]
        return not self.not_robust if asked else None

    @property
    def not_robust(self) -> tuple[str, ...]:
        """The checks of robustness that ours fails, those that theirs fails too among them."""
        return tuple(c.name for c in self.failed if c.name not in self.equality)

    @property
    def ok(self) -> bool:
        """Whether the two are equal; and robust, where that is asked for."""
        if self.equal is None or self.must_be_robust:
            return not self.failed
        return self.equal

    def summary(self) -> str:
        """Both verdicts in one line."""
        verdicts = []
        if self.equal is not None:
            step = self.first_divergence  # None where the states differ, or something raised
            no = "NOT EQUAL" if step is None else f"DIFFERENT from step {step}"
            verdicts.append("equal" if self.equal else no)
        if self.robust is not None:
            names = [n + " (theirs too)" * (n in self.shared) for n in self.not_robust]
            verdicts.append("robust" if self.robust else f"not robust: {', '.join(names)}")
        verdict = " · ".join(verdicts) or "nothing was judged"
        return f"{self.checker} {self.name}: {verdict} · {self.seconds:.1f} s"

    def to_dict(self) -> dict[str, Any]:
        """The report as plain containers, its verdicts among them."""
        return {**super().to_dict(), "equal": self.equal, "robust": self.robust}

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> OptimizerReport:
        """The report that `to_dict` gave."""
        return super().from_dict({k: v for k, v in data.items() if k not in ("equal", "robust")})


@dataclass(frozen=True)
class ResumeReport(Report):
    """What `check_resume` found."""

    checker: ClassVar[str] = "check_resume"


@dataclass(frozen=True)
class StepReport(Report):
    """What `check_step` found.

    Attributes:
        collectives: Kind, as "all-reduce" -> [how many of them the compiled step holds, the bytes
            of their results on one device]; those in the body of a loop count once.
    """

    collectives: dict[str, list[int]] = field(default_factory=dict)
    checker: ClassVar[str] = "check_step"
