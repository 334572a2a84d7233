"""What must hold of a train step, judged by its trace, its program and its calls."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import _validate
from funcnet._reports import Check, sentence
from funcnet._validate import plain_path
from funcnet.checks._collectives import collectives, words
from funcnet.checks._reports import StepReport
from funcnet.train import contract

STEP_CHECKS: tuple[str, ...] = (
    *("structure", "shapes", "dtypes", "weak_types", "host", "pure"),
    *("buffers", "donation", "sharding", "traces", "finite"),
)
"""Every check that a train step is put through, in order; each is in every report."""


def check_step(
    step: Callable[[Any, Any], tuple[Any, Any]],
    state: Any,
    batch: Any,
    *,
    calls: int = 3,
    name: str | None = None,
) -> StepReport:
    r"""Checks that a train step keeps its contract, whosever net and optimizer are in it.

    The step is jitted with its state donated, traced, compiled and called a few times, on copies;
    its settings (x64, promotion) are the caller's. What must hold, one check each:

    | check | what it asks |
    |---|---|
    | structure | `(state, metrics)` comes back, the state with the containers and leaves it had |
    | shapes, dtypes | every leaf has the shape and the dtype it had |
    | weak_types | no leaf is a Python number, or has the weak type of one |
    | host | no callback, print or transfer to the host is in the program, and no leaf is NumPy's |
    | pure | two traces are the same program: nothing outside the arguments is in it |
    | buffers | no two leaves of the state share a buffer, so that all can be donated |
    | donation | every buffer of the state is donated, and holds a leaf of the new state |
    | sharding | every leaf lies where it lay, on one device or many |
    | traces | all calls together trace once |
    | finite | no NaN comes out, and no infinity where there was none |

    Args:
        step: `step(state, batch) -> (state, metrics)`, as `train.make_step` makes it; jitted or
            not. One that is jitted must donate its state.
        state: The state before the first step: any pytree of arrays. It is not donated.
        batch: One batch, placed as batches will be.
        calls: How many steps to do, 2 at least.
        name: What the report calls the step.

    Returns:
        A report with one `Check` for each name in `STEP_CHECKS`; `where` names the first leaf that
        is wrong, as in `opt_state[0].mu.affine1.w`. Its `collectives` are those of the program that
        is compiled for the devices where the state and the batch lie.

    Raises:
        ValueError: When `calls` is below 2.

    >>> import optax
    >>> def step(state, batch):
    ...     params, count = state
    ...     return (params - 0.1 * batch, count.astype(float)), {"loss": jnp.sum(params)}
    >>> report = check_step(step, (jnp.zeros(2), jnp.zeros((), jnp.int32)), jnp.ones(2))
    >>> report["dtypes"].text
    '[1]: int32 in, float64 out'
    """
    _validate.count("check_step", "calls", calls, low=2)
    began = time.perf_counter()
    sent: dict[str, list[int]] = {}
    found = {check.name: check for check in _found(step, state, batch, calls, sent)}
    ran = tuple(found.get(n) or Check(n, None, "not run: see what failed") for n in STEP_CHECKS)
    leaves = jax.tree.leaves(state)
    size = sum(leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes"))
    notes = [f"a state of {len(leaves)} leaves, {size:,} bytes; {calls} calls"]
    count = len({d for x in leaves if isinstance(x, jax.Array) for d in x.sharding.device_set})
    if sent or count > 1:
        notes.append(f"over {count} devices, a step: {words(sent)}")
    return StepReport(
        name=name or str(getattr(step, "__name__", "step")),
        checks=ran,
        seconds=time.perf_counter() - began,
        notes=tuple(notes),
        collectives=sent,
    )


def _found(
    step: Any, state: Any, batch: Any, calls: int, sent: dict[str, list[int]]
) -> Iterator[Check]:
    """The checks as they are made; what cannot be asked any more is left out.

    `sent` is filled with the collectives of the compiled step.
    """
    # Python numbers as they are: jit sees their weak type.
    given = jax.tree.map(lambda a: jnp.copy(a) if hasattr(a, "dtype") else a, state)
    batch = jax.tree.map(jnp.asarray, batch)
    traces = 0

    def counted(state: Any, batch: Any) -> Any:
        nonlocal traces
        traces += 1
        return step(state, batch)

    yield _buffers(state)
    jitted = jax.jit(counted, donate_argnums=0, keep_unused=True)
    try:
        traced = jitted.trace(given, batch)
    except Exception as error:
        yield _untraceable(error)
        return
    returned = traced.out_info
    if not isinstance(returned, tuple) or len(returned) != 2:
        message = f"the step returns a {type(returned).__name__}, expected (state, metrics)"
        yield Check("structure", False, message)
        return
    judged = {check.name: check for check in contract.of_trace(traced.jaxpr, state, returned[0])}
    yield from judged.values()
    yield _pure(step, traced.jaxpr, given, batch)
    if "memory" in judged["host"].message:
        return  # jaxlib 0.10.2 ends the process when a CPU runs such a program
    changed = [n for n in contract.LEAVES if judged[n].passed is False]
    if changed:
        for name in ("donation", "sharding"):
            yield Check(name, None, f"not judged: see {changed[0]}")
    else:
        with warnings.catch_warnings():  # of buffers that are not reused, which are named here
            warnings.filterwarnings("ignore", "Some donated buffers", UserWarning)
            program = traced.lower().compile()
        sent |= collectives(program.as_text() or "")
        for check in contract.of_program(program, state, returned[0]):
            own = _undonated(step, state, batch) if check.name == "donation" else None
            yield own or check
    if judged["structure"].passed is False:
        return
    wrong = None
    try:
        with warnings.catch_warnings(), jax.transfer_guard_device_to_host("disallow"):
            warnings.filterwarnings("ignore", "Some donated buffers", UserWarning)
            after, metrics = jitted(given, batch)
            first = jax.tree.map(jnp.copy, (after, metrics))
            for _ in range(calls - 1):
                after, metrics = jitted(after, batch)
    except Exception as error:
        wrong = sentence(error)
    if wrong is not None:
        yield Check("traces", False, f"a call raised {wrong}")
        return
    yield _traces(traces, calls, judged)
    yield _finite(state, first, (after, metrics), calls)


_OF_PYTHON = (
    jax.errors.ConcretizationTypeError,
    jax.errors.TracerArrayConversionError,
    jax.errors.TracerBoolConversionError,
    jax.errors.TracerIntegerConversionError,
)


def _untraceable(error: Exception) -> Check:
    """What an exception out of a trace says of the step."""
    message = f"tracing raised {plain_path(sentence(error, 600))}"
    if isinstance(error, _OF_PYTHON):
        likely = "Python that asks for a number, such as float(loss), if, or np.asarray"
        return Check("host", False, message, likely=likely)
    if isinstance(error, contract.StepError):
        where, _, what = str(error).partition(": ")[2].partition(": ")
        return Check("dtypes", False, what, where=where)
    return Check("traces", False, message)


def _pure(step: Any, jaxpr: Any, state: Any, batch: Any) -> Check:
    """Whether a second trace is the first: what else is read, a resumed run would read anew."""
    jitted = hasattr(step, "lower")  # which keeps its trace
    fresh = step.__wrapped__ if jitted else step

    def trace() -> Any:
        return jax.jit(lambda state, batch: fresh(state, batch)).trace(state, batch).jaxpr

    try:
        one, two = trace() if jitted else jaxpr, trace()
    except Exception as error:
        return Check("pure", False, f"a second trace raised {sentence(error)}")
    for a, b in zip(_lines(one), _lines(two), strict=False):
        if a != b:
            message = f"two traces differ: {a.strip()} and then {b.strip()}"
            return Check("pure", False, message[:300])
    if len(_lines(one)) != len(_lines(two)) or not all(map(_same, one.consts, two.consts)):
        return Check("pure", False, "two traces differ in the constants that they hold")
    return Check("pure", True, "two traces are the same program")


def _lines(jaxpr: Any) -> list[str]:
    return re.sub(r"0x[0-9a-f]+", "", str(jaxpr)).splitlines()


def _same(a: Any, b: Any) -> bool:
    return a is b or np.asarray(a).tobytes() == np.asarray(b).tobytes()


def _undonated(step: Any, state: Any, batch: Any) -> Check | None:
    """The leaves that a step's own jit does not donate."""
    if not hasattr(step, "trace"):
        return None
    donated = jax.tree.leaves(step.trace(state, batch).args_info[0][0])
    wrong = [
        (name, "is not donated; jax.jit(step, donate_argnums=0) does it")
        for name, info in zip(contract.names(state), donated, strict=True)
        if not info.donated
    ]
    return contract.verdict("donation", wrong, "") if wrong else None


# --- By its calls


def _buffers(state: Any) -> Check:
    seen: dict[Any, str] = {}
    shared = []
    for name, leaf in zip(contract.names(state), jax.tree.leaves(state), strict=True):
        if not isinstance(leaf, jax.Array) or leaf.size == 0:
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        pointer = leaf.addressable_shards[0].data.unsafe_buffer_pointer()
        if pointer in seen:
            shared.append((name, f"shares its buffer with {seen[pointer]}: donating both raises"))
        seen.setdefault(pointer, name)
    return contract.verdict("buffers", shared, f"{len(seen)} buffers of their own")


def _traces(traces: int, calls: int, judged: Mapping[str, Check]) -> Check:
    if traces == 1:
        return Check("traces", True, f"one in {calls} calls")
    cause = next((c for c in judged.values() if c.passed is False and c.name != "host"), None)
    where = cause.where if cause else ""
    why = f", because of {cause.name}" if cause else ""
    return Check("traces", False, f"{traces} traces in {calls} calls{why}", where=where)


def _finite(state: Any, first: Any, last: Any, calls: int) -> Check:
    was = {
        name: _odd(leaf)
        for name, leaf in zip(contract.names(state), jax.tree.leaves(state), strict=True)
    }
    wrong = [(name, "is NaN before the first step") for name, odd in was.items() if odd == "NaN"]
    for number, (after, metrics) in ((1, first), (calls, last)):
        named = [*zip(contract.names(after), jax.tree.leaves(after), strict=True)]
        named += zip(contract.names({"metrics": metrics}), jax.tree.leaves(metrics), strict=True)
        for name, leaf in named:
            odd = _odd(leaf)
            if odd == "NaN" or (odd and not was.get(name)):
                wrong.append((name, f"is {odd} after step {number}"))
        if wrong:
            break
    return contract.verdict("finite", wrong, f"everything, after step 1 and after step {calls}")


def _odd(leaf: Any) -> str:
    """NaN or infinite, where a leaf holds such a number."""
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return ""
    numbers = np.asarray(leaf).astype(np.complex128)
    return "NaN" if np.isnan(numbers).any() else "infinite" if np.isinf(numbers).any() else ""
