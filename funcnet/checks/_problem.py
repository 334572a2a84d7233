"""A rule, its plain twin and inputs, made ready for `checks`: samples, cotangents, programs."""

from __future__ import annotations

import collections
import functools
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.tree_util import keystr, tree_flatten_with_path

from funcnet import _machine, _validate
from funcnet.checks import _comparison as cmp
from funcnet.checks import _rules
from funcnet.checks._kinks import Kinks, find_kinks, moved_off

FULL_JACOBIAN_ENTRIES = 4096
RANDOM_COTANGENTS = 16


def is_floating(leaf: Any) -> bool:
    """Whether gradients flow to a leaf: real or complex numbers."""
    return bool(jax.dtypes.issubdtype(leaf.dtype, np.inexact))


def cast(leaf: Any, dtype: Any) -> Any:
    """A leaf of the arguments in another precision; integers and keys as they are."""
    if not is_floating(leaf):
        return leaf
    if np.asarray(leaf).dtype.kind == "c":
        dtype = np.complex128 if jnp.dtype(dtype).itemsize == 8 else np.complex64
    return np.asarray(leaf).astype(jnp.dtype(dtype))


def quick_jit(fun: Callable) -> Callable:
    """`jax.jit` for a program that runs once or twice: compiled in half the time, on a CPU."""
    if jax.default_backend() != "cpu":
        return jax.jit(fun)
    return jax.jit(fun, compiler_options=_machine.quick_compile_options())


@dataclass(frozen=True)
class Result:
    """What one run of a function and its VJP gives, the gradients one row a cotangent."""

    value: list[Any]
    forward: list[Any]
    others: list[Any]
    grads: list[Any]


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


class Problem:
    """Everything that the checks of one rule share; each part is made when it is asked for."""

    def __init__(
        self,
        f: Callable,
        args: Sequence[Any],
        *,
        plain: Callable | None = None,
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
        self.f = f
        self.plain = plain if plain is not None else _rules.without_rules(f)
        self.name = str(name or getattr(getattr(f, "fun", f), "__name__", type(f).__name__))
        self.rng = np.random.default_rng(_validate.seed("checks", "seed", seed))
        self.looser = looser or {}
        self.options = options
        self._split(args, argnums)
        self.traces: collections.Counter[Any] = collections.Counter()
        self.raises = False
        self.residual_bytes: tuple[int, int] | None = None
        self.dtype: Any = np.dtype(np.float64)
        self.truth: Any = np.dtype(np.float64)
        self._find_outputs()
        sizes = [np.size(x) for x in self.diff] + [math.prod(s.shape) for s in self.out_shapes]
        self.k = reduction if reduction is not None else max([1, *sizes])
        self._analyses: dict[str, Analysis] = {}

    # Arguments -----------------------------------------------------------------------------

    def _split(self, args: Sequence[Any], argnums: Sequence[int] | None) -> None:
        args = tuple(args)
        nondiff = getattr(self.f, "nondiff_argnums", ())
        numbers = not any(_rules.is_array(x) and is_floating(x) for x in jax.tree.leaves(args))
        if _rules.is_rule(self.f) or numbers:  # a Python number stands for a scalar array
            args = tuple(
                a
                if i in nondiff
                else jax.tree.map(
                    lambda x: np.asarray(x, np.float64) if isinstance(x, float) else x, a
                )
                for i, a in enumerate(args)
            )
        self.args = args
        names = _rules.argument_names(getattr(self.f, "fun", self.f), len(args))
        self.leaves: list[Any] = []
        self.names: list[str] = []
        self.argument: list[int] = []
        trees: list[Any] = []
        for i, argument in enumerate(args):
            found, _ = tree_flatten_with_path(argument)
            trees.append(jax.tree.structure(argument))
            for path, leaf in found:
                self.leaves.append(leaf)
                self.names.append(names[i] + keystr(path))
                self.argument.append(i)
        self._trees = trees
        arrays = [i for i, leaf in enumerate(self.leaves) if _rules.is_array(leaf)]
        self.where_diff = [
            i
            for i in arrays
            if is_floating(self.leaves[i]) and (argnums is None or self.argument[i] in argnums)
        ]
        self.where_rest = [i for i in arrays if i not in self.where_diff]
        self.diff_names = [self.names[i] for i in self.where_diff]
        self.original = [np.asarray(self.leaves[i]) for i in self.where_diff]
        self.diff = [cast(x, np.float64) for x in self.original]
        self.original_rest = [self.leaves[i] for i in self.where_rest]
        self.rest = [cast(x, np.float64) for x in self.original_rest]
        if not self.where_diff:
            raise ValueError(
                f"check_rule: {self.name} was given no array of floats to differentiate with "
                "respect to; pass sample arguments as arrays (a Python number counts as static)."
            )

    def arguments(self, diff: Sequence[Any], rest: Sequence[Any]) -> tuple[Any, ...]:
        """The positional arguments, with their arrays replaced."""
        leaves = list(self.leaves)
        for i, leaf in zip(self.where_diff, diff, strict=True):
            leaves[i] = leaf
        for i, leaf in zip(self.where_rest, rest, strict=True):
            leaves[i] = leaf
        remaining = iter(leaves)
        return tuple(
            jax.tree.unflatten(tree, itertools.islice(remaining, tree.num_leaves))
            for tree in self._trees
        )

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
        """Whether a `jax.custom_vjp` is found in the function."""
        diff, rest = [cast(x, self.dtype) for x in self.diff], self.rest_in(self.dtype)
        return _rules.contains_rule(
            jax.make_jaxpr(lambda d, r: self.call(self.f, d, r))(diff, rest)
        )

    @property
    def eps(self) -> float:
        """One eps of the precision in which the rule is compared."""
        return cmp.eps(self.dtype)

    def c(self, check: str, dtype: Any = None) -> float:
        """The tolerance of a check in eps, loosened where the caller gave a reason."""
        factor = self.looser.get(check, (1.0, ""))[0]
        if dtype is None:  # where the truth rounds as the rule does, as in float64
            dtype = np.float64 if self.truth == self.dtype else self.dtype
        return factor * cmp.tolerance(self.k, dtype)

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

    def gradient_shapes(self, diff: Sequence[Any], rest: Sequence[Any]) -> list[Any]:
        """Shapes and dtypes of the gradients that `jax.vjp` gives, without running anything."""
        return jax.eval_shape(
            lambda d, r, ct: self.vjp(self.f, d, r)[1](ct), diff, rest, self.cotangent(0)
        )

    def _program(self, fun: Callable, *, count: bool) -> Callable:
        def run(diff: Any, rest: Any, cotangents: Any) -> Any:
            if count:
                self.traces[diff[0].dtype] += 1
            value, _ = self.call(fun, diff, rest)
            forward, pull, others = self.vjp(fun, diff, rest)
            # A loop, not vmap: what is compared is the rule itself, not its batched form.
            return value, forward, others, jax.lax.map(pull, cotangents)

        return jax.jit(run)

    @functools.cached_property
    def _programs(self) -> tuple[Callable, Callable]:
        return self._program(self.f, count=True), self._program(self.plain, count=False)

    def run_rule(self, diff: Any, rest: Any, cotangents: Any) -> Result:
        """The rule: value, forward value, other outputs, gradient rows."""
        return Result(*jax.device_get(self._programs[0](diff, rest, cotangents)))

    def run_plain(self, diff: Any, rest: Any, cotangents: Any) -> Result:
        """The same of the plain function."""
        return Result(*jax.device_get(self._programs[1](diff, rest, cotangents)))

    # Samples -------------------------------------------------------------------------------

    def jittered(self, diff: Sequence[np.ndarray], step: float) -> list[np.ndarray]:
        """Inputs with every entry multiplied by 1 ± up to `step`: signs and zeros stay."""
        return [np.asarray(x * (1 + step * self.rng.uniform(-1, 1, x.shape))) for x in diff]

    @functools.cached_property
    def samples(self) -> dict[str, list[np.ndarray]]:
        """The inputs as given, and a neighbour at which the plain function is finite too."""
        return {"given": self.diff, "jittered": self._neighbour(self.diff)}

    def _neighbour(self, diff: list[np.ndarray]) -> list[np.ndarray]:
        rest = self.rest_in(self.truth)
        finite = _all_finite(self.run_plain(self.wide(diff), rest, self.cotangents))
        for step in (0.25, 0.05, 0.01):
            candidate = self.jittered(diff, step)
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
        return both[0], both[1]

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
