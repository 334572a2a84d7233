"""A rule, its plain twin and inputs, made ready for `checks`: samples, cotangents, programs."""

from __future__ import annotations

import collections
import contextlib
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet import _machine, _validate
from funcnet._reports import sentence
from funcnet.checks import _body, _rules
from funcnet.checks import _comparison as cmp
from funcnet.checks._arguments import Arguments, cast, is_floating, opened
from funcnet.checks._expected import Pullback
from funcnet.checks._kinks import Kinks, find_kinks, moved_off
from funcnet.checks._neighbours import Neighbours

FULL_JACOBIAN_ENTRIES = 4096
RANDOM_COTANGENTS = 16


def quick_jit(fun: Callable) -> Callable:
    """`jax.jit` for a program that runs once or twice: compiled in half the time, on a CPU."""
    if jax.default_backend() != "cpu":
        return jax.jit(fun)
    return jax.jit(fun, compiler_options=_machine.quick_compile_options())


@dataclass(frozen=True)
class Result:
    """What one run of a function and its VJP gives, the gradients one row a cotangent.

    `doubts` is how uncertain each gradient leaf is, where differences are the truth.
    """

    value: list[Any]
    forward: list[Any]
    others: list[Any]
    grads: list[Any]
    doubts: list[Any] = field(default_factory=list)


@dataclass(frozen=True)
class Rows:
    """Which row of the stacked cotangents is what."""

    onehot: list[tuple[int, tuple[int, ...]]] = field(default_factory=list)
    random: list[int] = field(default_factory=list)
    alone: dict[int, int] = field(default_factory=dict)
    zero: int = 0
    combined: int = 0
    weights: tuple[float, float] = (1.5, -0.75)

    @property
    def full(self) -> bool:
        """Whether the rows hold the full Jacobian."""
        return bool(self.onehot)


@dataclass(frozen=True)
class Analysis:
    """One sample of the inputs: what the rule gave, the truth, and what one eps is."""

    diff: list[np.ndarray]
    got: Result
    expected: Result
    value_scales: list[cmp.Scale]
    grad_scales: list[cmp.Scale]


class NotApplicableError(Exception):
    """Raised by a check that says nothing about this rule; the text says why."""


class Problem(Arguments):
    """Everything that the checks of one rule share; each part is made when it is asked for."""

    def __init__(
        self,
        f: Callable,
        args: Sequence[Any],
        *,
        plain: Callable | None = None,
        expect: Callable | Pullback | None = None,
        static: Mapping[str, Any] | None = None,
        argnums: Sequence[int] | None = None,
        name: str | None = None,
        seed: int = 0,
        reduction: int | None = None,
        looser: Mapping[str, tuple[float, str]] | None = None,
        **options: Any,
    ):
        self.static = dict(static or {})
        self.given_plain = plain is not None
        self.expect = expect
        self.name = str(name or getattr(_rules.undecorated(f), "__name__", type(f).__name__))
        self.seed = seed
        self.rng = np.random.default_rng(_validate.seed("checks", "seed", seed))
        self.looser = looser or {}
        self.options = options
        self.wide_session = options.get("wide_session", True)  # x64 is on where the caller is
        self._take(f, plain, tuple(args), argnums)
        if not self.where_diff:
            raise ValueError(
                f"check_rule: {self.name} was given no array of floats to differentiate with "
                "respect to; pass sample arguments as arrays (a Python number counts as static)."
            )
        self.diff = [cast(x, np.float64) for x in self.original]
        self.rest = [cast(x, np.float64) for x in self.original_rest]
        self.neighbours = Neighbours(self.diff, self.diff_names, self.rng)
        self.diff = self.neighbours.onto(self.diff)
        self.traces: collections.Counter[Any] = collections.Counter()
        self.raises = False
        self.residual_bytes: tuple[int, int] | None = None
        self.dtype: Any = np.dtype(np.float64)
        self.truth: Any = np.dtype(np.float64)
        self.grain: float | None = None
        self.no_reverse = ""
        self._find_outputs()
        sizes = [np.size(x) for x in self.diff] + [math.prod(s.shape) for s in self.out_shapes]
        self.k = reduction if reduction is not None else max([1, *sizes])
        self._analyses: dict[str, Analysis] = {}

    # Arguments -----------------------------------------------------------------------------

    def _take(
        self, f: Callable, plain: Callable | None, args: tuple, argnums: Sequence[int] | None
    ) -> None:
        """Functions and arguments; what `f` holds itself becomes one argument more, if it can."""
        call, data = opened(f)
        if data is not None:
            self.f = lambda *args, **static: call(args[-1], *args[:-1], **static)
            chosen = argnums
            if plain is None and self.expect is None:
                self.plain = _rules.without_rules(self.f)
                chosen = None if argnums is None else [*argnums, len(args)]
            else:
                chosen = range(len(args)) if argnums is None else argnums
                self.plain = _without_last(plain or _rules.without_rules(f))
                self.expect = _without_last(self.expect)
            super().__init__(f, (*args, data), chosen, extra="self")
            with contextlib.suppress(Exception):  # an array that is no data: a table, a shape
                for fun in (self.f, self.plain):
                    jax.eval_shape(
                        lambda d, r, fun=fun: fun(*self.arguments(d, r), **self.static),
                        self.original,
                        self.original_rest,
                    )
                return
        self.f = f
        self.plain = _in_float64(plain) if plain is not None else _rules.without_rules(f)
        super().__init__(f, args, argnums)

    def in_either_session(self, run: Callable[[], Any]) -> Any:
        """A call with x64 on; where that raises, as the caller's session has it."""
        try:
            return run()
        except Exception:
            if self.wide_session:
                raise
            with jax.enable_x64(False):
                return run()

    def call(self, fun: Callable, diff: Sequence[Any], rest: Sequence[Any]) -> Any:
        """Calls a function on flat arrays; returns its floating leaves and its other leaves."""
        out = fun(*self.arguments(diff, rest), **self.static)
        floating: list[Any] = []
        others: list[Any] = []
        for leaf in jax.tree.leaves(out):
            if jax.dtypes.issubdtype(jax.typeof(leaf).dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            leaf = jnp.asarray(leaf)
            (floating if is_floating(leaf) else others).append(leaf)
        return floating, others

    def rest_in(self, dtype: Any) -> list[Any]:
        """The arrays that are not differentiated, in a precision."""
        return [cast(x, dtype) for x in self.rest]

    def abstract(self, fun: Callable, dtype: Any) -> Any:
        """The output of a function as shapes and dtypes, for inputs of a precision."""
        diff = [cast(x, dtype) for x in self.diff]
        rest = [cast(x, dtype) for x in self.rest]
        return jax.eval_shape(lambda d, r: fun(*self.arguments(d, r), **self.static), diff, rest)

    def _find_outputs(self) -> None:
        try:
            out = self.abstract(self.f, np.float64)
        except Exception:
            if any(x.dtype == np.float64 for x in self.original):
                raise
            self.dtype = max((x.dtype for x in self.original), key=lambda d: d.itemsize)
            out = self.abstract(self.f, self.dtype)  # what it raises here is the caller's to see
            try:
                self.abstract(self.plain, self.truth)
            except Exception:
                self.truth = self.dtype
        self.out = out
        found, _ = tree_flatten_with_path(out)
        named = [("output" + keystr(path), leaf) for path, leaf in found]
        self.out_names = [n for n, leaf in named if is_floating(leaf)]
        self.other_names = [n for n, leaf in named if not is_floating(leaf)]
        self.out_shapes = [leaf for _, leaf in named if is_floating(leaf)]
        if not self.out_shapes:
            raise ValueError(
                f"check_rule: {self.name} gives no array of floats, so it has no gradient."
            )

    @functools.cached_property
    def has_rule(self) -> bool:
        """Whether a `jax.custom_vjp` is found in the function, or it is a rule itself."""
        return _rules.is_rule(self.f) or self.has_backward

    @functools.cached_property
    def has_backward(self) -> bool:
        """Whether a `jax.custom_vjp` is found in the function."""
        diff, rest = [cast(x, self.dtype) for x in self.diff], self.rest_in(self.dtype)
        return _rules.contains_rule(
            jax.make_jaxpr(lambda d, r: self.call(self.f, d, r))(diff, rest)
        )

    @property
    def eps(self) -> float:
        """One eps of the precision in which the rule is compared, coarser for an imprecise one."""
        return self.grain or cmp.eps(self.dtype)

    @functools.cached_property
    def body(self) -> _body.Body:
        """What the program of the function without its rule says."""
        fun = self.plain
        if self.given_plain or self.expect is not None:
            fun = _rules.without_rules(self.f)
        diff, rest = [cast(x, self.dtype) for x in self.diff], self.rest_in(self.dtype)
        floats = len(self.out_names)
        try:
            program = jax.make_jaxpr(lambda d, r: self.call(fun, d, r))(diff, rest)
            return _body.body_of(program, floats)
        except Exception:  # the rule's own function is not meant to be called without its rule
            everything = frozenset(range(len(diff) + len(rest)))
            return _body.Body(False, None, False, False, (everything,) * floats)

    @functools.cached_property
    def iterates(self) -> bool:
        """Whether a loop of the function, of its rule or of plain ends when numbers say so."""
        diff, rest = [cast(x, self.dtype) for x in self.diff], self.rest_in(self.dtype)

        def both(d: Any, r: Any, ct: Any) -> Any:
            return self.vjp(self.f, d, r)[1](ct), self.call(self.plain, d, r)

        try:
            return _body.iterates(jax.make_jaxpr(both)(diff, rest, self.cotangent(0)))
        except Exception:
            return self.body.iterates

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

    def wide(self, diff: Sequence[Any]) -> list[np.ndarray]:
        """Inputs in the precision of the truth."""
        return [cast(x, self.truth) for x in diff]

    # Cotangents ----------------------------------------------------------------------------

    @functools.cached_property
    def _cotangents(self) -> tuple[list[np.ndarray], Rows]:
        sizes = [math.prod(s.shape) for s in self.out_shapes]
        complex_ = [np.dtype(s.dtype).kind == "c" for s in self.out_shapes]
        inputs = sum(x.size * (2 if x.dtype.kind == "c" else 1) for x in self.diff)
        outputs = sum(n * (2 if z else 1) for n, z in zip(sizes, complex_, strict=True))
        full = 0 < inputs * outputs <= FULL_JACOBIAN_ENTRIES
        stack: list[list[np.ndarray]] = []
        rows = Rows()

        def zeros() -> list[np.ndarray]:
            return [
                np.zeros(s.shape, np.complex128 if z else np.float64)
                for s, z in zip(self.out_shapes, complex_, strict=True)
            ]

        def random(leaf: int) -> np.ndarray:
            shape = self.out_shapes[leaf].shape
            draw = self.rng.choice([-1.0, 1.0], shape) * self.rng.uniform(0.5, 2.0, shape)
            if complex_[leaf]:
                draw = draw + 1j * self.rng.choice([-1.0, 1.0], shape)
            return np.asarray(draw)

        if full:
            for leaf, shape in enumerate(self.out_shapes):
                for index in np.ndindex(*shape.shape):
                    for one in (1.0, 1j)[: 2 if complex_[leaf] else 1]:
                        row = zeros()
                        row[leaf][index] = one
                        rows.onehot.append((leaf, index))
                        stack.append(row)
        for i in range(2 if full else RANDOM_COTANGENTS):
            rows.random.append(len(stack))
            row = [random(leaf) for leaf in range(len(sizes))]
            # One of a single sign: its sums do not cancel, and show how they accumulate.
            stack.append([np.abs(ct) if i == 1 else ct for ct in row])
        if len(sizes) > 1:
            for leaf in range(len(sizes)):
                row = zeros()
                row[leaf] = random(leaf)
                rows.alone[leaf] = len(stack)
                stack.append(row)
        a, b = rows.weights
        first, second = (stack[i] for i in rows.random[:2])
        combined = [a * x + b * y for x, y in zip(first, second, strict=True)]
        rows = Rows(rows.onehot, rows.random, rows.alone, len(stack), len(stack) + 1)
        stack += [zeros(), combined]
        return [np.stack([row[i] for row in stack]) for i in range(len(sizes))], rows

    @property
    def cotangents(self) -> list[np.ndarray]:
        """Stacked cotangents, one array an output leaf, in float64."""
        return self._cotangents[0]

    @property
    def rows(self) -> Rows:
        """What each of the stacked cotangents is."""
        return self._cotangents[1]

    def cotangent(self, row: int) -> list[np.ndarray]:
        """One of the stacked cotangents."""
        return [np.asarray(ct[row]) for ct in self.cotangents]

    # Programs ------------------------------------------------------------------------------

    def vjp(self, fun: Callable, diff: Sequence[Any], rest: Sequence[Any]) -> Any:
        """`jax.vjp` on flat arrays: outputs, a pullback of float64 cotangents, other outputs."""
        outputs, pullback, others = jax.vjp(lambda *d: self.call(fun, d, rest), *diff, has_aux=True)

        def pull(cotangents: Sequence[Any]) -> list[Any]:
            # As JAX gives a rule its cotangents: in the dtype of the output.
            rounded = [
                jnp.asarray(ct).astype(out.dtype)
                for ct, out in zip(cotangents, outputs, strict=True)
            ]
            return list(pullback(rounded))

        return outputs, pull, others

    @functools.cached_property
    def way(self) -> str:
        """How the truth is differentiated: "reverse", "forward" or by "differences"."""
        if isinstance(self.expect, Pullback):
            return "given"
        diff, rest = self.wide(self.diff), self.rest_in(self.truth)

        def forward(d: Any, r: Any) -> Any:
            return jax.jvp(lambda d: self.call(self.plain, d, r)[0], (d,), (d,))

        try:
            jax.eval_shape(
                lambda d, r, ct: self.vjp(self.target, d, r)[1](ct), diff, rest, self.cotangent(0)
            )
            return "reverse"
        except Exception as error:
            self.no_reverse = sentence(error, 120)
            if self.expect is not None:
                raise
        try:
            jax.eval_shape(forward, diff, rest)
            return "forward"
        except Exception:
            return "differences"

    @property
    def target(self) -> Any:
        """The function whose derivative the rule's should be."""
        return self.plain if self.expect is None else self.expect

    def plain_vjp(self, diff: Sequence[Any], rest: Sequence[Any]) -> Any:
        """`vjp` of the truth, in the way that it has; a pull gives gradients and their doubts."""
        if self.way == "reverse":
            outputs, pull, others = self.vjp(self.target, diff, rest)
            if self.expect is not None:
                outputs, others = self.call(self.plain, diff, rest)
            return outputs, lambda cts: (pull(cts), []), others
        outputs, others = self.call(self.plain, diff, rest)
        if isinstance(self.expect, Pullback):
            expect = self.expect
            return outputs, lambda cts: (expect.gradients(self, cts, diff, rest), []), others
        jacobian, doubt = _body.columns(
            lambda d: self.call(self.plain, d, rest)[0], list(diff), self.way
        )

        def pull_columns(cotangents: Sequence[Any]) -> tuple[list[Any], list[Any]]:
            sizes = [jnp.abs(ct) for ct in cotangents]
            doubts = [] if self.way == "forward" else _body.pulled_back(doubt, list(diff), sizes)
            return _body.pulled_back(jacobian, list(diff), list(cotangents)), doubts

        return outputs, pull_columns, others

    def truth_vjp(self, diff: Sequence[Any], rest: Sequence[Any]) -> Any:
        """`plain_vjp` with a pull that gives gradients alone, as that of `vjp`."""
        outputs, pull, others = self.plain_vjp(diff, rest)
        return outputs, lambda cts: pull(cts)[0], others

    def gradient_shapes(self, diff: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
        """Shapes and dtypes of the gradients that `jax.vjp` gives, without running anything."""
        return jax.eval_shape(
            lambda d, r, ct: self.vjp(self.f, d, r)[1](ct), diff, rest, self.cotangent(0)
        )

    @functools.cached_property
    def _rule_program(self) -> Callable:
        return jax.jit(self._run_rule)

    @functools.cached_property
    def _quick_rule_program(self) -> Callable:
        return quick_jit(self._run_rule)

    @functools.cached_property
    def _run_rule(self) -> Callable:
        def run(diff: Any, rest: Any, cotangents: Any) -> Any:
            self.traces[diff[0].dtype] += 1
            value, _ = self.call(self.f, diff, rest)
            forward, pull, others = self.vjp(self.f, diff, rest)
            # A loop, not vmap: what is compared is the rule itself, not its batched form.
            return value, forward, others, jax.lax.map(pull, cotangents)

        return run

    @functools.cached_property
    def _plain_program(self) -> Callable:
        def run(diff: Any, rest: Any, cotangents: Any) -> Any:
            value, _ = self.call(self.plain, diff, rest)
            forward, pull, others = self.plain_vjp(diff, rest)
            return value, forward, others, *jax.lax.map(pull, cotangents)

        return quick_jit(run)

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

    def run_rule(self, diff: Any, rest: Any, cotangents: Any) -> Result:
        """The rule: value, forward value, other outputs, gradient rows."""
        program = self._rule_program if diff[0].dtype == self.dtype else self._quick_rule_program
        return Result(*jax.device_get(program(diff, rest, cotangents)))

    def run_plain(self, diff: Any, rest: Any, cotangents: Any) -> Result:
        """The same of the plain function."""
        return Result(*jax.device_get(self._plain_program(diff, rest, cotangents)))

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


def _without_last(fun: Any) -> Any:
    """A function that is given one argument more than it takes."""
    if fun is None or isinstance(fun, Pullback):
        return fun
    wide = _in_float64(fun)
    return lambda *args, **static: wide(*args[:-1], **static)


def _in_float64(fun: Callable) -> Callable:
    """A plain function whose own arrays are as wide as the arguments of the truth."""
    call, data = opened(fun)
    if data is None:
        return fun
    wide = jax.tree.map(lambda x: cast(x, np.float64) if _rules.is_array(x) else x, data)
    return lambda *args, **static: call(wide, *args, **static)
