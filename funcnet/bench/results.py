"""What is measured and kept: results, the machine that they are of, and their way to JSON."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

import jax

from funcnet import _files, _machine
from funcnet.bench._timing import Timing

Section = Literal["rules", "steps", "runs"]
SECTIONS: tuple[Section, ...] = ("rules", "steps", "runs")
FORMAT = 1  # of the JSON
BFLOAT16, COMPILED = "torch bf16", "torch compiled"  # names of contenders beside "torch"


class Ceilings(NamedTuple):
    """What the machine can do at best: FLOP/s of a large product, bytes/s of a large copy."""

    flops_per_second: float
    bytes_per_second: float


class Contender(NamedTuple):
    """One side of a comparison.

    Attributes:
      name: "funcnet" or a variant's name, "autodiff", "flax", "equinox", "torch", "numpy",
        "sklearn", "torch bf16" (under bfloat16 autocast), "torch compiled" (`torch.compile`).
      timings: of "forward" and "forward_backward" for a rule, of "step" for a step or a run, of
        "epoch" for a run whose accuracy counts; "torch compiled" has, beside "step", the "eager"
        step that took turns with it.
      compile_seconds: for the program of the last of these; None where nothing is compiled, or a
        cache of programs would answer.
      residual_bytes: kept between the passes beside the arguments, as `checks` counts them.
      temporary_bytes: the program's scratch memory, as XLA plans it.
      detail: the layout or option that was fastest, where several were tried.
      accuracy: of the test images after a run.
    """

    name: str
    timings: dict[str, Timing]
    compile_seconds: float | None = None
    residual_bytes: int | None = None
    temporary_bytes: int | None = None
    detail: str = ""
    accuracy: float | None = None


class Result(NamedTuple):
    """One piece of work and all who did it.

    Attributes:
      section: "rules", "steps" or "runs".
      name: the rule or the net.
      case: its shapes in words.
      contenders: who did it; the first is the one that ratios are of.
      flops: of the products of each pass; 0 where it has none.
      least_bytes: each pass has to read and write at least: its inputs and outputs once.
      images: the number of images that a step takes, or an epoch where it is timed.
      notes: what disagreed, and who could not take part.
    """

    section: Section
    name: str
    case: str
    contenders: tuple[Contender, ...]
    flops: dict[str, int]
    least_bytes: dict[str, int]
    images: int = 0
    notes: tuple[str, ...] = ()

    @property
    def last(self) -> str:
        """The pass that counts: "forward_backward", "step" or "epoch"."""
        if self.section == "rules":
            return "forward_backward"
        return "epoch" if "epoch" in self.contenders[0].timings else "step"

    def contender(self, name: str) -> Contender | None:
        """The contender of this name, None where there is none."""
        return next((c for c in self.contenders if c.name == name), None)

    def bound(self, ceilings: Ceilings) -> float:
        """The least seconds of the pass that counts: its products or its traffic at the ceiling."""
        return max(
            self.flops[self.last] / ceilings.flops_per_second,
            self.least_bytes[self.last] / ceilings.bytes_per_second,
        )

    def ratio(self, against: str, of: str | None = None, timing: str | None = None) -> float | None:
        """The time of one contender (the first) in units of another's; None where one is missing.

        >>> one = Contender("funcnet", {"step": Timing(1.0, 1.0, 1.0, 3)})
        >>> two = Contender("flax", {"step": Timing(4.0, 4.0, 4.0, 3)})
        >>> Result("steps", "net", "", (one, two), {}, {}).ratio("flax")
        0.25
        """
        timing = timing or self.last
        one = self.contenders[0] if of is None else self.contender(of)
        other = self.contender(against)
        if one is None or other is None or not {timing} <= {*one.timings} & {*other.timings}:
            return None
        return one.timings[timing].seconds / other.timings[timing].seconds


class Machine(NamedTuple):
    """What the numbers were measured on."""

    cpu: str
    vectors: str
    cores: int
    backend: str
    device: str

    @classmethod
    def here(cls) -> Machine:
        """This one."""
        device = jax.devices()[0].device_kind
        vectors = _machine.cpu_vectors() or ""
        return cls(_machine.cpu_model(), vectors, _machine.cores(), jax.default_backend(), device)

    def __str__(self) -> str:
        cpu = ", ".join(filter(None, (self.cpu, self.vectors, f"{self.cores} cores")))
        return cpu if self.backend == "cpu" else f"{self.device} ({self.backend}); {cpu}"


class Report(NamedTuple):
    """All that one run of the scorecard found; `missing` says which peers were not installed."""

    results: tuple[Result, ...]
    ceilings: Ceilings
    machine: Machine
    versions: dict[str, str]
    date: str
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def section(self, name: Section) -> tuple[Result, ...]:
        """The results of one section."""
        return tuple(r for r in self.results if r.section == name)

    def merged(self, other: Report) -> Report:
        """Both reports in one, under this one's machine, ceilings and date."""
        return self._replace(
            results=self.results + other.results,
            missing=tuple(dict.fromkeys(self.missing + other.missing)),
            notes=tuple(dict.fromkeys(self.notes + other.notes)),
        )

    def to_dict(self) -> dict[str, Any]:
        """The report as what JSON can hold."""
        return {"format": FORMAT, **_plain(self)}

    @classmethod
    def from_dict(cls, found: Any) -> Report:
        """The report from what `to_dict` made of it.

        Raises:
          ValueError: it is no report, or of another format.
        """
        if not isinstance(found, dict) or found.get("format") != FORMAT:
            kind = found.get("format") if isinstance(found, dict) else type(found).__name__
            raise ValueError(
                f"format is {kind!r}, expected {FORMAT}: this is no report of this version's "
                "`funcnet bench --json`; measure again."
            )
        try:
            results = tuple(
                Result(
                    **{
                        **r,
                        "contenders": tuple(_contender(c) for c in r["contenders"]),
                        "notes": tuple(r["notes"]),
                    }
                )
                for r in found["results"]
            )
            return cls(
                results,
                Ceilings(**found["ceilings"]),
                Machine(**found["machine"]),
                dict(found["versions"]),
                str(found["date"]),
                tuple(found["missing"]),
                tuple(found["notes"]),
            )
        except (KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"this is no whole report: {error!r}; measure again.") from error

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the report as JSON, whole or not at all."""
        with _files.replacing(path) as file:
            file.write(json.dumps(self.to_dict(), indent=1).encode())

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> Report:
        """Reads what `save` wrote.

        Raises:
          OSError: there is no such file.
          ValueError: it is no report.
        """
        text = Path(path).read_text(encoding="utf-8")
        try:
            return cls.from_dict(json.loads(text))
        except ValueError as error:
            raise ValueError(f"{os.fspath(path)}: {error}") from error


def report(results: Any, ceilings: Ceilings, missing: Any = (), notes: Any = ()) -> Report:
    """A report of this machine, now."""
    packages = ("jax", "jaxlib", "optax", "numpy", "flax", "equinox", "torch", "scikit-learn")
    versions = _machine.versions(*packages)
    date = datetime.now(UTC).isoformat(timespec="seconds")
    return Report(
        tuple(results), ceilings, Machine.here(), versions, date, tuple(missing), tuple(notes)
    )


def _plain(value: Any) -> Any:
    if hasattr(value, "_asdict"):
        return {name: _plain(v) for name, v in value._asdict().items()}
    if isinstance(value, dict):
        return {name: _plain(v) for name, v in value.items()}
    if isinstance(value, tuple):
        return [_plain(v) for v in value]
    return value


def _contender(found: dict[str, Any]) -> Contender:
    timings = {name: Timing(**timing) for name, timing in found["timings"].items()}
    return Contender(**{**found, "timings": timings})
