"""What each checker's report holds beside its checks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar

from funcnet._reports import Report


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

    verdict: str = "right"
    precision: float | None = None
    residual_bytes: int | None = None
    plain_residual_bytes: int | None = None
    detects: float | None = None
    checker: ClassVar[str] = "check_rule"

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
    """What `check_optimizer` found.

    Attributes:
        first_divergence: The first step (from 0) at which the updates differ, or None.
        cause: The likely cause of that divergence, as a sentence.
        properties: What was measured of both optimizers to find it: property -> (ours, theirs).
    """

    first_divergence: int | None = None
    cause: str = ""
    properties: dict[str, list[str]] = field(default_factory=dict)
    checker: ClassVar[str] = "check_optimizer"


@dataclass(frozen=True)
class ResumeReport(Report):
    """What `check_resume` found."""

    checker: ClassVar[str] = "check_resume"


@dataclass(frozen=True)
class StepReport(Report):
    """What `check_step` found."""

    checker: ClassVar[str] = "check_step"
