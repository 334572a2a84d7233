"""What must hold of a train step, so that its first call can speak for all that follow.

`of_trace` judges a step by its trace alone, before anything is compiled, and `of_program` the
compiled program; `require` makes exceptions and warnings of what they find. `check_step` puts them
together and calls the step.
"""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.extend.source_info_util import summarize
from jax.tree_util import keystr, tree_leaves_with_path

from funcnet import _validate
from funcnet.checks._reports import Check, StepReport
from funcnet.checks._rules import sentence

STEP_CHECKS: tuple[str, ...] = (
    *("structure", "shapes", "dtypes", "weak_types", "host", "pure"),
    *("buffers", "donation", "sharding", "traces", "finite"),
)
"""Every check that a train step is put through, in order; each is in every report."""

_LEAVES = ("structure", "shapes", "dtypes")  # without which there is no second step


class StepError(TypeError):
    """A step breaks its contract: the message names the leaf, what came in and what came out."""


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
        is wrong, as in `opt_state[0].mu.affine1.w`.

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
    found = {check.name: check for check in _found(step, state, batch, calls)}
    ran = tuple(found.get(n) or Check(n, None, "not run: see what failed") for n in STEP_CHECKS)
    leaves = jax.tree.leaves(state)
    size = sum(leaf.nbytes for leaf in leaves if hasattr(leaf, "nbytes"))
    return StepReport(
        name=name or str(getattr(step, "__name__", "step")),
        checks=ran,
        seconds=time.perf_counter() - began,
        notes=(f"a state of {len(leaves)} leaves, {size:,} bytes; {calls} calls",),
    )


def _found(step: Any, state: Any, batch: Any, calls: int) -> Iterator[Check]:
    """The checks as they are made; what cannot be asked any more is left out."""
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
    judged = {check.name: check for check in of_trace(traced.jaxpr, state, returned[0])}
    yield from judged.values()
    yield _pure(step, traced.jaxpr, given, batch)
    if "memory" in judged["host"].message:
        return  # jaxlib 0.10.2 ends the process when a CPU runs such a program
    changed = [n for n in _LEAVES if judged[n].passed is False]
    if changed:
        for name in ("donation", "sharding"):
            yield Check(name, None, f"not judged: see {changed[0]}")
    else:
        with warnings.catch_warnings():  # of buffers that are not reused, which are named here
            warnings.filterwarnings("ignore", "Some donated buffers", UserWarning)
            program = traced.lower().compile()
        for check in of_program(program, state, returned[0]):
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


# --- By the trace


def of_trace(jaxpr: Any, given: Any, returned: Any) -> list[Check]:
    """Judges a step by its trace: structure, shapes, dtypes, weak types, and calls of the host.

    Args:
        jaxpr: The step's, closed; the leaves of the state come first in its inputs and outputs.
        given: The state that it was traced with.
        returned: The state that it returns, of arrays or their shapes.
    """
    before = dict(zip(names(given), jaxpr.in_avals, strict=False))
    after = dict(zip(names(returned), jaxpr.out_avals, strict=False))
    weak = [
        (n, f"a weak {b.dtype} comes out, as of a Python number")
        for n, b in after.items()
        if _is_weak(b)
    ]
    return [
        *_kept(given, returned, before, after),
        _verdict("weak_types", [*_weak(given), *weak], "there is none"),
        _host(jaxpr, given),
    ]


def of_leaves(given: Any, returned: Any) -> list[Check]:
    """Judges structure, shapes and dtypes alone, of trees of arrays, tracers or shapes."""
    before, after = (
        dict(zip(names(tree), jax.tree.leaves(jax.eval_shape(lambda t: t, tree)), strict=True))
        for tree in (given, returned)
    )
    return _kept(given, returned, before, after)


def _kept(given: Any, returned: Any, before: Mapping, after: Mapping) -> list[Check]:
    both = [(n, a, after[n]) for n, a in before.items() if n in after]
    shapes = [(n, f"{a.shape} in, {b.shape} out") for n, a, b in both if a.shape != b.shape]
    dtypes = [(n, f"{a.dtype} in, {b.dtype} out") for n, a, b in both if a.dtype != b.dtype]
    return [
        _structure(given, returned, before, after),
        _verdict("shapes", shapes, f"{len(both)} leaves keep theirs"),
        _verdict("dtypes", dtypes, f"{len(both)} leaves keep theirs"),
    ]


def names(tree: Any) -> list[str]:
    """The names of a tree's leaves, as in `opt_state[0].mu.affine1.w`."""
    paths = (plain_path(keystr(path)).removeprefix(".") for path, _ in tree_leaves_with_path(tree))
    return [path or "state" for path in paths]


def plain_path(text: str) -> str:
    """Text with `['affine1']` as `.affine1` in it."""
    return re.sub(r"\['([^']+)'\]", r".\1", text)


def _verdict(name: str, wrong: list[tuple[str, str]], fine: str) -> Check:
    if not wrong:
        return Check(name, True, fine)
    (where, message), *rest = wrong
    more = [other for other, _ in rest]
    if more:
        several = f" and {len(more) - 3} more" if len(more) > 3 else ""
        message += f"; the same kind of fault in {', '.join(more[:3])}{several}"
    return Check(name, False, message, where=where)


def _is_weak(aval: Any) -> bool:
    return bool(getattr(aval, "weak_type", False))


def _weak(state: Any) -> list[tuple[str, str]]:
    """The leaves that are Python numbers or have their weak type, and what is wrong with each."""
    wrong = []
    for name, leaf in zip(names(state), jax.tree.leaves(state), strict=True):
        if isinstance(leaf, (bool, int, float, complex)):
            wrong.append((name, f"a Python {type(leaf).__name__} comes in; expected an array"))
        elif _is_weak(leaf):
            wrong.append((name, f"a weak {leaf.dtype} comes in, as of a Python number"))
    return wrong


def _structure(given: Any, returned: Any, before: Mapping, after: Mapping) -> Check:
    lost = [(n, "comes in and does not come out") for n in before if n not in after]
    new = [(n, "comes out and did not come in") for n in after if n not in before]
    if lost or new:
        return _verdict("structure", [*lost, *new], "")
    one: Any = jax.tree.structure(given)
    two: Any = jax.tree.structure(returned)
    if one != two:
        leaf, come, go = _first_difference(one, two)
        where = [*names(given), ""][leaf]
        message = f"the container is a {come} in, a {go} out"
        return Check("structure", False, message, where=where)
    return Check("structure", True, f"{len(before)} leaves in the same containers")


def _first_difference(a: Any, b: Any, leaf: int = 0) -> tuple[int, str, str]:
    """The number of the first leaf below the first node that differs, and what the nodes are."""
    if a.node_data() == b.node_data():
        for x, y in zip(a.children(), b.children(), strict=False):
            if x != y:
                return _first_difference(x, y, leaf)
            leaf += x.num_leaves
    return leaf, _kind(a), _kind(b)


def _kind(node: Any) -> str:
    data = node.node_data()
    if data is None:
        return "leaf"
    kind, static = data
    return kind.__name__ if kind in (tuple, list, dict, type(None)) else f"{kind.__name__} {static}"


_CALLBACKS = ("callback", "debug_print", "infeed", "outfeed")


def _host(jaxpr: Any, given: Any) -> Check:
    wrong = [
        (name, "a NumPy array, which each call would bring from the host; expected a jax.Array")
        for name, leaf in zip(names(given), jax.tree.leaves(given), strict=True)
        if isinstance(leaf, (np.ndarray, np.generic))
    ]
    for equation in _equations(jaxpr.jaxpr):
        kind = equation.primitive.name
        if any(word in kind for word in _CALLBACKS):
            wrong.append((summarize(equation.source_info), f"{kind} asks the host at every step"))
        elif kind == "device_put" and any(map(_on_host, equation.params["devices"])):
            wrong.append((summarize(equation.source_info), "device_put into the host's memory"))
    once = list(dict.fromkeys(wrong))  # of the branches for several platforms
    return _verdict("host", once, "the program does not ask the host")


def _on_host(place: Any) -> bool:
    return "host" in str(getattr(place, "memory_kind", place)).lower()


def _equations(jaxpr: Any) -> Iterator[Any]:
    """All equations of a program, of what it calls and branches to as well."""
    for equation in jaxpr.eqns:
        yield equation
        values = tuple(equation.params.values())
        for value in jax.tree.leaves(values, is_leaf=lambda v: hasattr(v, "eqns")):
            if hasattr(value, "eqns"):
                yield from _equations(getattr(value, "jaxpr", value))


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
    if isinstance(error, StepError):
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


# --- By the compiled program


def of_program(program: Any, given: Any, returned: Any) -> list[Check]:
    """Judges the compiled step: whether each donated buffer is reused, and where leaves lie.

    Args:
        program: What `.compile()` gave, of a function jitted with `keep_unused=True` whose inputs
            and outputs begin with the leaves of the state.
        given: The state that it was compiled for.
        returned: The state that it returns, of arrays or their shapes.
    """
    kept = list(zip(names(given), jax.tree.leaves(given), strict=True))
    reused = _reused(program.as_text())
    copied = [
        (name, "its buffer is not reused: the step keeps the old and the new leaf")
        for number, (name, leaf) in enumerate(kept)
        if number not in reused and np.size(leaf) != 0
    ]
    count = len(kept)
    places = [
        jax.tree.leaves(of)[:count] for of in (program.input_shardings, program.output_shardings)
    ]
    moved = [
        (name, f"{_place(a)} in, {_place(b)} out")
        for (name, leaf), a, b in zip(kept, *places, strict=True)
        if not a.is_equivalent_to(b, np.ndim(leaf)) or a.memory_kind != b.memory_kind
    ]
    return [
        _verdict("donation", copied, f"{count} buffers are reused"),
        _verdict("sharding", moved, f"{count} leaves stay where they are"),
    ]


def _reused(text: str) -> set[int]:
    """The numbers of the parameters whose buffers an XLA program gives to its results."""
    header = text.partition("\n")[0]
    stated = re.search(r"input_output_alias=\{(.*?)\}, \w+=", header)
    return {int(n) for n in re.findall(r"\}: \((\d+), \{\}", stated[1])} if stated else set()


def _place(sharding: Any) -> str:
    spec = getattr(sharding, "spec", None)
    words = f"{spec}" if spec is not None else f"{len(sharding.device_set)} device(s)"
    return words if sharding.memory_kind in (None, "device") else f"{words} {sharding.memory_kind}"


def _undonated(step: Any, state: Any, batch: Any) -> Check | None:
    """The leaves that a step's own jit does not donate."""
    if not hasattr(step, "trace"):
        return None
    donated = jax.tree.leaves(step.trace(state, batch).args_info[0][0])
    wrong = [
        (name, "is not donated; jax.jit(step, donate_argnums=0) does it")
        for name, info in zip(names(state), donated, strict=True)
        if not info.donated
    ]
    return _verdict("donation", wrong, "") if wrong else None


# --- By its calls


def _buffers(state: Any) -> Check:
    seen: dict[Any, str] = {}
    shared = []
    for name, leaf in zip(names(state), jax.tree.leaves(state), strict=True):
        if not isinstance(leaf, jax.Array) or leaf.size == 0:
            continue
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        pointer = leaf.addressable_shards[0].data.unsafe_buffer_pointer()
        if pointer in seen:
            shared.append((name, f"shares its buffer with {seen[pointer]}: donating both raises"))
        seen.setdefault(pointer, name)
    return _verdict("buffers", shared, f"{len(seen)} buffers of their own")


def _traces(traces: int, calls: int, judged: Mapping[str, Check]) -> Check:
    if traces == 1:
        return Check("traces", True, f"one in {calls} calls")
    cause = next((c for c in judged.values() if c.passed is False and c.name != "host"), None)
    where = cause.where if cause else ""
    why = f", because of {cause.name}" if cause else ""
    return Check("traces", False, f"{traces} traces in {calls} calls{why}", where=where)


def _finite(state: Any, first: Any, last: Any, calls: int) -> Check:
    was = {
        name: _odd(leaf) for name, leaf in zip(names(state), jax.tree.leaves(state), strict=True)
    }
    wrong = [(name, "is NaN before the first step") for name, odd in was.items() if odd == "NaN"]
    for number, (after, metrics) in ((1, first), (calls, last)):
        named = [*zip(names(after), jax.tree.leaves(after), strict=True)]
        named += zip(names({"metrics": metrics}), jax.tree.leaves(metrics), strict=True)
        for name, leaf in named:
            odd = _odd(leaf)
            if odd == "NaN" or (odd and not was.get(name)):
                wrong.append((name, f"is {odd} after step {number}"))
        if wrong:
            break
    return _verdict("finite", wrong, f"everything, after step 1 and after step {calls}")


def _odd(leaf: Any) -> str:
    """NaN or infinite, where a leaf holds such a number."""
    dtype = jnp.result_type(leaf)
    if not jnp.issubdtype(dtype, jnp.inexact):
        return ""
    numbers = np.asarray(leaf).astype(np.complex128)
    return "NaN" if np.isnan(numbers).any() else "infinite" if np.isinf(numbers).any() else ""


# --- For who has the trace and the program already


def require(function: str, checks: Iterable[Check]) -> None:
    """Raises StepError where leaves do not stay what they are, and warns of what only costs.

    >>> require("fit", [Check("dtypes", False, "float32 in, float64 out", where="opt_state.nu.w")])
    Traceback (most recent call last):
    ...
    funcnet.checks._step_contract.StepError: fit: opt_state.nu.w: float32 in, float64 out
    """
    failed = [check for check in checks if check.passed is False]
    wrong = [check.text for check in failed if check.name in _LEAVES]
    if wrong:
        raise StepError(f"{function}: {'; '.join(wrong)}")
    for check in failed:
        text = f"{function}: the train step breaks its contract ({check.name}): {check.text}"
        warnings.warn(text, RuntimeWarning, stacklevel=4)
