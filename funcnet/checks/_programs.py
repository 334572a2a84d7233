"""A rule and the truth it is compared with, as functions of flat arrays, and their programs."""

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
from funcnet.checks._arguments import Arguments, cast, is_floating, opened
from funcnet.checks._expected import Pullback
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


class NotApplicableError(Exception):
    """Raised by a check that says nothing about this rule; the text says why."""


class Programs(Arguments):
    """A rule and the truth as functions of flat arrays, and the cotangents that they are given."""

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
        **options: Any,
    ):
        self.static = dict(static or {})
        self.given_plain = plain is not None
        self.expect = expect
        self.name = str(name or getattr(_rules.undecorated(f), "__name__", type(f).__name__))
        self.seed = seed
        self.rng = np.random.default_rng(_validate.seed("checks", "seed", seed))
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
        self.wrong = False  # once the cotangent check has failed
        self.residual_bytes: tuple[int, int] | None = None
        self.dtype: Any = np.dtype(np.float64)
        self.truth: Any = np.dtype(np.float64)
        self.no_reverse = ""
        self._find_outputs()

    # Arguments -----------------------------------------------------------------------------

    def _take(
        self, f: Callable, plain: Callable | None, args: tuple, argnums: Sequence[int] | None
    ) -> None:
        """Functions and arguments; what `f` holds itself becomes one argument more, if it can."""
        call, data = opened(f)
        self.decorated = _rules.undecorated(f) is not f
        if data is not None:
            self.f = lambda *args, **static: call(args[-1], *args[:-1], **static)
            chosen = argnums
            if plain is None and self.expect is None:
                self.plain = _rules.without_rules(
                    lambda *args, **static: call(_rules.undecorated(args[-1]), *args[:-1], **static)
                )
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

    def inputs_in(self, dtype: Any) -> tuple[list[Any], list[Any]]:
        """What is differentiated and what is not, in a precision."""
        return [cast(x, dtype) for x in self.diff], self.rest_in(dtype)

    def abstract(self, fun: Callable, dtype: Any) -> Any:
        """The output of a function as shapes and dtypes, for inputs of a precision."""
        diff, rest = self.inputs_in(dtype)
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
        return self.decorated or self.has_backward

    @property
    def itself(self) -> bool:
        """Whether autodiff is compared with itself, which judges nothing: there is no rule."""
        return not (self.has_rule or self.given_plain or self.expect) and self.way != "differences"

    @functools.cached_property
    def has_backward(self) -> bool:
        """Whether a `jax.custom_vjp` is found in the function."""
        diff, rest = self.inputs_in(self.dtype)
        return _rules.contains_rule(
            jax.make_jaxpr(lambda d, r: self.call(self.f, d, r))(diff, rest)
        )

    @functools.cached_property
    def body(self) -> _body.Body:
        """What the program of the function without its rule says."""
        fun = self.plain
        if self.given_plain or self.expect is not None:
            fun = _rules.without_rules(self.f)
        diff, rest = self.inputs_in(self.dtype)
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
        diff, rest = self.inputs_in(self.dtype)

        def both(d: Any, r: Any, ct: Any) -> Any:
            return self.vjp(self.f, d, r)[1](ct), self.call(self.plain, d, r)

        try:
            return _body.iterates(jax.make_jaxpr(both)(diff, rest, self.cotangent(0)))
        except Exception:
            return self.body.iterates

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

    def run_rule(self, diff: Any, rest: Any, cotangents: Any) -> Result:
        """The rule: value, forward value, other outputs, gradient rows."""
        program = self._rule_program if diff[0].dtype == self.dtype else self._quick_rule_program
        return Result(*jax.device_get(program(diff, rest, cotangents)))

    def run_plain(self, diff: Any, rest: Any, cotangents: Any) -> Result:
        """The same of the plain function."""
        return Result(*jax.device_get(self._plain_program(diff, rest, cotangents)))


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
