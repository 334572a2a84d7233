"""A rule, its truth and inputs, made ready for `checks`: samples, and what one eps is there."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import cast
from funcnet.checks._kinks import Kinks, find_kinks, moved_off
from funcnet.checks._programs import Programs, Result, quick_jit


@dataclass(frozen=True)
class Analysis:
    """One sample of the inputs: what the rule gave, the truth, and what one eps is."""

    diff: list[np.ndarray]
    got: Result
    expected: Result
    value_scales: list[cmp.Scale]
    grad_scales: list[cmp.Scale]


class Problem(Programs):
    """Everything that the checks of one rule share; each part is made when it is asked for."""

    def __init__(
        self,
        f: Callable,
        args: Sequence[Any],
        *,
        reduction: int | None = None,
        looser: Mapping[str, tuple[float, str]] | None = None,
        **options: Any,
    ):
        super().__init__(f, args, **options)
        self.looser = looser or {}
        self.grain: float | None = None
        self.off: float | None = None  # how far, where the arguments' rounding excuses that
        sizes = [np.size(x) for x in self.diff] + [math.prod(s.shape) for s in self.out_shapes]
        self.k = reduction if reduction is not None else max([1, *sizes])
        self._analyses: dict[str, Analysis] = {}

    # One eps -------------------------------------------------------------------------------

    @property
    def eps(self) -> float:
        """One eps of the precision in which the rule is compared, coarser for an imprecise one."""
        return self.grain or cmp.eps(self.dtype)

    def c(self, check: str, dtype: Any = None) -> float:
        """The tolerance of a check in eps, loosened where the caller gave a reason."""
        factor = self.looser.get(check, (1.0, ""))[0]
        if dtype is None:  # where the truth rounds as the rule does, as in float64
            dtype = np.float64 if self.truth == self.dtype else self.dtype
        return factor * cmp.tolerance(self.k, dtype)

    def units(self, check: str, scales: Sequence[cmp.Scale]) -> list[float]:
        """One eps of each leaf for a check; where it is loosened, of an exact zero too."""
        units = [scale.unit for scale in scales]
        if check not in self.looser:
            return units
        everything = [s.largest for a in self._analyses.values() for s in a.grad_scales]
        everything += [cmp.largest(x) for x in self.diff]
        return [max(unit, self.eps * max(everything)) for unit in units]

    @property
    def sensitivity_step(self) -> float:
        """A relative change of the inputs far above the rounding of the truth."""
        return max(cmp.SENSITIVITY_STEP, 2.0**10 * cmp.eps(self.truth))

    @property
    def noise_step(self) -> float:
        """A relative change of the inputs by a few units of the truth's rounding."""
        return 4 * cmp.eps(self.truth)

    def judge(self, *, way: str | None = None, grain: float | None = None) -> Callable[[], None]:
        """Takes the truth another way, or another number for one eps; returns how to go back."""
        kept = {key: self.__dict__.get(key) for key in ("way", "grain", "_analyses")}
        program = self.__dict__.pop("_plain_program", None) if way else None
        self.way, self.grain, self._analyses = way or self.way, grain or self.grain, {}

        def back() -> None:
            self.__dict__.update(kept)
            if program is not None:
                self.__dict__["_plain_program"] = program

        return back

    # Samples -------------------------------------------------------------------------------

    @functools.cached_property
    def samples(self) -> dict[str, list[np.ndarray]]:
        """The inputs as given, and a neighbour at which the plain function is finite too."""
        return {"given": self.diff, "jittered": self._neighbour(self.diff)}

    def _neighbour(self, diff: list[np.ndarray]) -> list[np.ndarray]:
        rest = self.rest_in(self.truth)
        finite = _all_finite(self.run_plain(self.wide(diff), rest, self.cotangents))
        for step in (0.25, 0.05, 0.01):
            candidate = self.neighbours.near(diff, step)
            near = self.run_plain(self.wide(candidate), rest, self.cotangents)
            if not finite or _all_finite(near):
                return candidate
        return diff

    def analyse(self, sample: str) -> Analysis:
        """Runs rule and plain function on one sample, and measures what one eps is there."""
        if sample not in self._analyses:
            diff = self.samples[sample]
            self._analyses[sample] = self._analyse(diff)
        return self._analyses[sample]

    def _analyse(self, diff: list[np.ndarray]) -> Analysis:
        cts = self.cotangents
        diff = [cast(x, self.dtype) for x in diff]
        rest = self.rest_in(self.dtype)
        got = self.run_rule(diff, rest, cts)
        wide = self.wide(diff)
        expected = self.run_plain(wide, self.rest_in(self.truth), cts)
        value_scales, grad_scales = self.measure(got, expected, diff)
        return Analysis(diff, got, expected, value_scales, grad_scales)

    def measure(
        self, got: Result, expected: Result, diff: list[np.ndarray]
    ) -> tuple[list[cmp.Scale], list[cmp.Scale]]:
        """The units of error of outputs and gradients at a sample."""
        cts, rng, wide = self.cotangents, self.rng, self.wide(diff)

        def shaken(run: Callable, dtype: Any, step: float, times: int) -> list[Result]:
            return [
                run(
                    [cast(cmp.perturbed(x, step, rng), dtype) for x in wide],
                    self.rest_in(dtype),
                    [cmp.perturbed(ct, step, rng) for ct in cts],
                )
                for _ in range(times)
            ]

        moved = shaken(self.run_plain, self.truth, self.sensitivity_step, 2)
        noisy = shaken(self.run_plain, self.truth, self.noise_step, 2)
        own = shaken(self.run_rule, self.dtype, self.noise_step, 1)
        if self.dtype != self.truth:  # the rule's own rounding is what is judged
            own = []
        both = []
        for part in ("value", "grads"):
            start, mine = getattr(expected, part), getattr(got, part)
            sensitivity = cmp.moves([getattr(r, part) for r in moved], start)
            noise = [
                max(pair)
                for pair in zip(
                    cmp.moves([getattr(r, part) for r in noisy], start),
                    cmp.moves([getattr(r, part) for r in own], mine),
                    strict=True,
                )
            ]
            both.append(
                cmp.scales(
                    [cmp.largest(x) for x in start],
                    [s / self.sensitivity_step for s in sensitivity],
                    noise,
                    self.k,
                    self.eps,
                )
            )
        values, grads = both
        c = cmp.tolerance(self.k)
        for i, doubt in enumerate(expected.doubts):
            grads[i] = grads[i]._replace(unit=grads[i].unit + cmp.largest(doubt) / c)
        return values, grads

    def detects(self) -> float | None:
        """The smallest relative error of a whole leaf that the cotangent check rejects."""
        if not self._analyses:
            return None
        c = self.c("cotangent")
        best = np.full(len(self.diff), np.inf)
        for a in self._analyses.values():
            relative = [c * s.unit / s.largest if s.largest else np.inf for s in a.grad_scales]
            best = np.minimum(best, relative)
        best = best[best < 1]  # the others are zero but for rounding noise
        return float(best.max()) if best.size else None

    def noise_only(self) -> list[str]:
        """The leaves whose gradient is nothing but rounding noise at every sample."""
        c = self.c("cotangent")
        return self._where_all(lambda scale: 0 < scale.largest <= c * scale.unit)

    def zero_only(self) -> list[str]:
        """The leaves whose gradient is exactly zero at every sample."""
        return self._where_all(lambda scale: scale.largest == 0)

    def _where_all(self, holds: Callable[[cmp.Scale], bool]) -> list[str]:
        runs = self._analyses.values()
        return [
            name
            for i, name in enumerate(self.diff_names)
            if runs and self.diff[i].size and all(holds(a.grad_scales[i]) for a in runs)
        ]

    @functools.cached_property
    def values(self) -> Callable:
        """The rule's floating outputs at stacked inputs, one after the other."""

        @quick_jit
        def run(stacked: Any, rest: Any) -> Any:
            return jax.lax.map(lambda d: self.call(self.f, d, rest)[0], stacked)

        return run

    @functools.cached_property
    def kinks(self) -> Kinks:
        """Whether the inputs as given sit on kinks where rule and autodiff choose other slopes."""
        found = find_kinks(self)
        if found.entries:
            self.samples["moved"] = moved_off(self, found)
            self.samples["jittered"] = self._neighbour(self.samples["moved"])
            self._analyses.pop("jittered", None)
        return found

    @property
    def judged(self) -> tuple[str, str]:
        """The samples that gradients are judged at: off the kinks, if the given one is on any."""
        return ("moved" if self.kinks.entries else "given", "jittered")

    @property
    def smooth(self) -> Analysis:
        """The first of the judged samples, which the further checks use."""
        return self.analyse(self.judged[0])


def _all_finite(result: Result) -> bool:
    return all(np.isfinite(cmp.widen(x)).all() for x in (*result.value, *result.grads))
