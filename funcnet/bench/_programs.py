"""A function, its arguments and its cotangent as two compiled programs, and what they cost."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import _jaxprs, kernels
from funcnet.bench._timing import Timing, interleaved

PASSES = ("forward", "forward_backward")


class Variant(NamedTuple):
    """A way to run funcnet's own rules: a name, and a context within which they are traced.

    >>> Variant("funcnet, no native kernels", environment(FUNCNET_NATIVE="0")).name
    'funcnet, no native kernels'
    """

    name: str
    context: Callable[[], contextlib.AbstractContextManager[Any]] = contextlib.nullcontext


DEFAULT_VARIANTS = (Variant("funcnet"),)


def environment(**variables: str) -> Callable[[], contextlib.AbstractContextManager[None]]:
    """A context for a `Variant`: these environment variables, while its programs are traced.

    Args:
      **variables: names and values.

    Returns:
      What makes the context.

    >>> with environment(FUNCNET_NATIVE="0")():
    ...     os.environ["FUNCNET_NATIVE"]
    '0'
    """

    @contextlib.contextmanager
    def context() -> Iterator[None]:
        before = {name: os.environ.get(name) for name in variables}
        os.environ.update(variables)
        try:
            yield
        finally:
            for name, value in before.items():
                if value is None:
                    os.environ.pop(name, None)
                else:
                    os.environ[name] = value

    return context


@contextlib.contextmanager
def traced_as(variant: Variant, alone: bool) -> Iterator[None]:
    """The variant's context; where there are several, nothing traced in another is used again."""
    if not alone:
        jax.clear_caches()
    with variant.context():
        yield
    if not alone:
        jax.clear_caches()


class Arguments:
    """Arguments, apart in the floats that are differentiated and the rest."""

    def __init__(self, args: tuple[Any, ...]):
        leaves, self.tree = jax.tree.flatten(args)
        leaves = [jax.random.key(0) if isinstance(leaf, str) else leaf for leaf in leaves]
        self.leaves = [jnp.asarray(leaf) for leaf in leaves]
        self.where = [i for i, leaf in enumerate(self.leaves) if is_float(leaf)]
        self.diff = [self.leaves[i] for i in self.where]
        self.rest = [leaf for i, leaf in enumerate(self.leaves) if i not in self.where]

    def of(self, diff: Sequence[Any], rest: Sequence[Any]) -> tuple[Any, ...]:
        """The arguments, with their arrays replaced."""
        floats, others = iter(diff), iter(rest)
        leaves = [
            next(floats) if i in self.where else next(others) for i in range(len(self.leaves))
        ]
        return jax.tree.unflatten(self.tree, leaves)


class Program(NamedTuple):
    """A function compiled forward and forward with backward."""

    calls: dict[str, Callable[[], Any]]
    compile_seconds: float | None
    temporary_bytes: int | None


def is_float(leaf: Any) -> bool:
    """Whether an array holds floats."""
    return bool(jnp.issubdtype(jax.typeof(leaf).dtype, jnp.floating))


def floats(function: Callable[..., Any], arguments: Arguments) -> Callable[..., list[Any]]:
    """The function from its arrays to the list of its outputs that are floats."""

    def call(diff: Any, rest: Any) -> list[Any]:
        outputs = jax.tree.leaves(function(*arguments.of(diff, rest)))
        return [leaf for leaf in outputs if is_float(leaf)]

    return call


def cotangents(function: Callable[..., Any], arguments: Arguments) -> list[np.ndarray]:
    """Random ones, the same for every function of equal outputs; small enough to stay harmless."""
    shapes = jax.eval_shape(floats(function, arguments), arguments.diff, arguments.rest)
    rng = np.random.default_rng(1)
    return [np.asarray(rng.standard_normal(s.shape, np.float32)).astype(s.dtype) for s in shapes]


def program(function: Callable[..., Any], arguments: Arguments, cotangent: list[Any]) -> Program:
    """Compiles a function and its vjp, which returns the outputs and every float's gradient."""
    call = floats(function, arguments)
    outputs = jax.eval_shape(call, arguments.diff, arguments.rest)
    # With x64 on, some of the peers' layers give float64.
    ours = [jnp.asarray(ct, y.dtype) for ct, y in zip(cotangent, outputs, strict=True)]

    def both(diff: Any, rest: Any, cotangent: Any) -> Any:
        outputs, pullback = jax.vjp(lambda diff: call(diff, rest), diff)
        return outputs, pullback(cotangent)[0]

    forward = jax.jit(lambda *a: call(*a)).lower(arguments.diff, arguments.rest).compile()
    began = time.perf_counter()
    compiled = jax.jit(both).lower(arguments.diff, arguments.rest, ours).compile()
    seconds = time.perf_counter() - began
    return Program(
        {
            "forward": lambda: forward(arguments.diff, arguments.rest),
            "forward_backward": lambda: compiled(arguments.diff, arguments.rest, ours),
        },
        None if cached_programs() else seconds,
        temporary_bytes(compiled),
    )


def cached_programs() -> bool:
    """Whether a cache of programs on the disk would make compile times meaningless."""
    return bool(jax.config.values.get("jax_compilation_cache_dir"))


def notes() -> tuple[str, ...]:
    """What a whole report has to say of how it was made."""
    if cached_programs():
        return ("compile times are left out: jax_compilation_cache_dir keeps programs",)
    return ()


def temporary_bytes(compiled: Any) -> int | None:
    """The scratch memory of a compiled program, None where the backend does not say."""
    analysis = compiled.memory_analysis()
    return None if analysis is None else int(analysis.temp_size_in_bytes)


def residual_bytes(function: Callable[..., Any], arguments: Arguments) -> int:
    """Bytes kept between the passes beside the arguments, as `checks.check_rule` counts them."""
    call = floats(function, arguments)
    return _jaxprs.residual_bytes(
        lambda diff, rest: (call(diff, rest), []), arguments.diff, arguments.rest
    )[0]


def work(function: Callable[..., Any], arguments: Arguments) -> tuple[dict, dict]:
    """FLOPs of the products in each pass, and the bytes that it reads and writes at least.

    A product has two gradients that are as large, where both of its factors are differentiated.
    """
    call = floats(function, arguments)
    flops = kernels.flops(jax.make_jaxpr(call)(arguments.diff, arguments.rest))
    outputs = jax.eval_shape(call, arguments.diff, arguments.rest)

    def size(leaves: Any) -> int:
        return sum(leaf.size * leaf.dtype.itemsize for leaf in leaves)

    read = size(leaf for leaf in arguments.leaves if not _is_key(leaf))
    forward = read + size(outputs)
    # Cotangents are read, gradients written.
    both = forward + size(outputs) + size(arguments.diff)
    return {"forward": flops, "forward_backward": 3 * flops}, {
        "forward": forward,
        "forward_backward": both,
    }


def _is_key(leaf: Any) -> bool:
    return bool(jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key))


def tolerance() -> float:
    r"""How far results may lie apart, in units of the largest entry: $\sqrt\varepsilon$.

    Half the digits: sums of 10^5 terms in float32 differ by 2e-5 with their order. GPUs and TPUs
    multiply float32 in fewer digits: TF32 has an eps of 2^-10.
    """
    eps = float(np.finfo(np.float32).eps) if jax.default_backend() == "cpu" else 2.0**-10
    return float(np.sqrt(eps))


# Of torch under bfloat16 autocast, the same of bfloat16's eps.
BFLOAT16_TOLERANCE = float(jnp.finfo(jnp.bfloat16).eps) ** 0.5


def disagreement(
    ours: Sequence[Any], theirs: Sequence[Any], within: float | None = None
) -> str | None:
    """Says where results differ by more than `within` (`tolerance`), None where they agree.

    What is 0 in exact arithmetic, as the gradient of a bias before batch norm, is what rounding
    leaves of larger numbers: 64 eps of the largest of all are allowed as well.

    >>> disagreement([np.ones(2)], [np.ones(2)]) is None
    True
    >>> disagreement([np.ones(2)], [np.array([1.0, 1.5])])
    'array 0 differs by 0.33 of its largest entry'
    """
    if len(ours) != len(theirs):
        return f"{len(ours)} arrays against {len(theirs)}"
    largest_of_all = max((float(np.abs(a).max()) for a in theirs if np.size(a)), default=0.0)
    noise = 64 * tolerance() ** 2 * largest_of_all
    within = tolerance() if within is None else within
    for index, (one, other) in enumerate(zip(ours, theirs, strict=True)):
        one, other = np.asarray(one, np.float64), np.asarray(other, np.float64)
        if one.shape != other.shape:
            return f"array {index} has shape {one.shape} against {other.shape}"
        if not one.size:
            continue
        largest = float(np.abs(other).max())
        error = float(np.abs(one - other).max())
        if not error <= within * largest + noise:
            relative = error / largest if largest else float("inf")
            return f"array {index} differs by {relative:.2g} of its largest entry"
    return None


class Comparison(NamedTuple):
    """Two functions, timed in turns.

    Attributes:
      first: the times of the first.
      second: the times of the second.
      ratio: the first's median in units of the second's.
      ratio_low: the first quartile of the rounds' ratios.
      ratio_high: their third quartile.
      disagreement: where their results differ, None where they agree.
    """

    first: Timing
    second: Timing
    ratio: float
    ratio_low: float
    ratio_high: float
    disagreement: str | None

    def __str__(self) -> str:
        text = (
            f"{1e3 * self.first.seconds:.3g} ms against {1e3 * self.second.seconds:.3g} ms: "
            f"{self.ratio:.2f} ({self.ratio_low:.2f} to {self.ratio_high:.2f} in half of "
            f"{self.first.repetitions} rounds)"
        )
        return f"{text}; their results differ: {self.disagreement}" if self.disagreement else text


def compare(
    f: Callable[..., Any],
    g: Callable[..., Any],
    *args: Any,
    seconds: int | float = 1.0,
    least: int = 5,
) -> Comparison:
    r"""Times two functions of the same arguments in turns, call by call.

    What disturbs a machine disturbs both, so their ratio is steadier than either time. Each is
    compiled by `jax.jit` (unless it is jitted already) before the first turn, and waited for within
    its time; the ratio is that of the medians. To time gradients, pass functions that return them.

    Args:
      f: the first function.
      g: the second.
      *args: arrays and pytrees of them; what is static, bind with `functools.partial`.
      seconds: how long to time each.
      least: rounds at the least.

    Returns:
      The `Comparison`: two timings, their ratio with its spread, and whether the results agree.

    Raises:
      TypeError: `f` or `g` is no function.

    >>> x = jnp.ones((100, 100))
    >>> found = compare(jnp.sin, lambda x: x * 2, x, seconds=0.01)
    >>> found.first.repetitions >= 5, found.disagreement
    (True, 'array 0 differs by 0.58 of its largest entry')
    """
    for name, function in (("f", f), ("g", g)):
        if not callable(function):
            raise TypeError(f"compare: {name} is {function!r}, expected a function.")
    jitted = [h if hasattr(h, "lower") else jax.jit(h) for h in (f, g)]
    one, other = (jax.tree.leaves(h(*args)) for h in jitted)
    samples = interleaved(
        {name: partial(h, *args) for name, h in zip("fg", jitted, strict=True)},
        seconds,
        wait=jax.block_until_ready,
        least=least,
    )
    first, second = (Timing.of(samples[name]) for name in "fg")
    low, high = np.percentile(samples["f"] / samples["g"], (25, 75))
    return Comparison(
        first,
        second,
        first.seconds / second.seconds,
        float(low),
        float(high),
        disagreement(one, other),
    )
