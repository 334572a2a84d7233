"""What must notice a mutant of an optimizer: optax's steps, then the optimizers' own tests."""

from __future__ import annotations

import functools
import inspect
import itertools
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from funcnet.optimizers import _frame
from funcnet.optimizers._orthogonal import PRECONDITIONINGS
from tests.courses import test_optimizers as test_courses
from tests.optimizers import test_muon, test_optax, test_torch, test_use
from tests.support import optimizer_table
from tools.mutation import Proof, Subject, notice

T = optimizer_table
STEPS = 3


def steps(optimizer: Any, params: Any, noise: list[Any]) -> list[Any]:
    """Updates and states, step by step."""
    state = optimizer.init(params)
    seen = []
    for row in noise:
        grads = jax.tree.map(lambda p, z: 0.1 * p + z, params, row)
        updates, state = optimizer.update(grads, state, params)
        params = optax.apply_updates(params, updates)
        seen.append((updates, params))
    return seen


def follows_optax(name: str, learning_rate: Any) -> Proof:
    rng = np.random.default_rng(5)
    params = T.ragged(lambda s: jnp.asarray(rng.standard_normal(s)))
    noise = [T.ragged(lambda s: jnp.asarray(rng.standard_normal(s))) for _ in range(STEPS)]
    want = steps(T.twin(name, learning_rate), params, noise)

    def proof() -> None:
        T.assert_trees_close(steps(T.ours(name, learning_rate), params, noise), want, 1e-12)

    return proof


def centred_without_bias() -> None:
    """No row of the optimizers' table is both centered and corrected for its bias."""
    options = {"centered": True, "bias_correction": True, "initial_scale": 0.5}
    params = {"w": jnp.linspace(-1.0, 2.0, 6)}
    noise = [{"w": jnp.cos(k + jnp.arange(6.0))} for k in range(STEPS)]
    with jax.numpy_dtype_promotion("standard"):
        want = steps(optax.rmsprop(0.01, **options), params, noise)
    T.assert_trees_close(steps(T.opt.rmsprop(0.01, **options), params, noise), want, 1e-12)


def never_climbs() -> None:
    """Without eps, where the square of a gradient underflows to 0, the step is not uphill."""
    g = jnp.array([1e-30, -1e-30, 1.0], jnp.float32)
    for optimizer in (
        T.opt.rmsprop(1e-9, eps=0.0),
        T.opt.rmsprop(1e-9, eps=0.0, eps_in_sqrt=False),
        T.opt.adagrad(1e-9, 0.0, eps=0.0),
        T.opt.adam(1e-9, eps=0.0),
        T.opt.amsgrad(1e-9, eps=0.0),
        T.opt.adamax(1e-9, eps=0.0),
    ):
        updates, _ = optimizer.update(g, optimizer.init(g))
        notice(np.all(np.sign(updates) == -np.sign(g)))
    least, adamax = jnp.finfo(jnp.float32).smallest_normal, T.opt.adamax(0.01, eps=0.0)
    notice(np.isfinite(adamax.update(least, adamax.init(least))[0]))


def names_what_has_no_floats() -> None:
    adam, muon = T.opt.adam(0.1), T.opt.muon(0.1)
    for call, message in (
        (lambda: adam.update(jnp.arange(3), adam.init(jnp.ones(3))), "adam: a gradient has"),
        (lambda: adam.init(jax.ShapeDtypeStruct((3,), jnp.int32)), "adam: a parameter has"),
        (lambda: muon.init(jnp.arange(3)), "muon: a parameter has"),
    ):
        try:
            call()
        except TypeError as error:
            notice(str(error).startswith(message))
        else:
            raise AssertionError("was not refused")
    notice(adam.init(jax.ShapeDtypeStruct((3,), jnp.float32)).mu.shape == (3,))


def matrices_of_all_shapes() -> None:
    """Tall ones, one row, none, axes counted from the end; each preconditioning."""
    rng = np.random.default_rng(1)
    shapes = {"tall": (7, 3), "row": (1, 8), "column": (8, 1), "square": (3, 3)}
    params = {k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()}
    noise = [{k: jnp.asarray(rng.normal(size=s)) for k, s in shapes.items()} for _ in range(2)]
    for options in (
        {"preconditioning": "aol"},
        {"preconditioning": "schatten"},
        {"nesterov": False, "adaptive": True},
        {"muon_weight_dimension_numbers": T.NUMBERS(-2, -1)},
    ):
        with jax.numpy_dtype_promotion("standard"):
            theirs = {k: v for k, v in options.items() if k != "muon_weight_dimension_numbers"}
            want = steps(optax.contrib.muon(0.01, **theirs), params, noise)
        T.assert_trees_close(steps(T.opt.muon(0.01, **options), params, noise), want, 1e-10)
    muon, empty = T.opt.muon(0.01), jnp.zeros((0, 5))
    notice(muon.update(empty, muon.init(empty))[0].shape == (0, 5))


def orthogonalises_in_the_dtype_asked_for() -> None:
    w = jnp.asarray(np.random.default_rng(2).normal(size=(8, 16)), jnp.float32)
    for preconditioning in PRECONDITIONINGS:
        for ns_dtype, most in ((None, "float32"), (jnp.bfloat16, "bfloat16")):
            optimizer = T.opt.muon(0.1, ns_dtype=ns_dtype, preconditioning=preconditioning)
            state = optimizer.init(w)
            jaxpr = jax.make_jaxpr(optimizer.update)(w, state)
            products = [e for e in jaxpr.eqns if e.primitive.name == "dot_general"]
            dtypes = [e.outvars[0].aval.dtype for e in products]
            notice(dtypes and all(d == most for d in dtypes[-3:]))  # the last step's
            u, _ = optimizer.update(w, state)  # scaled in float32, after the steps
            notice(ns_dtype is None or np.any(u != u.astype(ns_dtype).astype(u.dtype)))


def a_stack_is_its_matrices() -> None:
    w = (
        jnp.asarray(np.random.default_rng(3).normal(size=(2, 3, 4)))
        * jnp.array([1, 5.0])[:, None, None]
    )
    for preconditioning in PRECONDITIONINGS:
        numbers = T.NUMBERS(-2, -1)
        muon = T.opt.muon(
            0.1, preconditioning=preconditioning, muon_weight_dimension_numbers=numbers
        )
        together, _ = muon.update(w, muon.init(w))
        for matrix, u in zip(w, together, strict=True):
            alone, _ = muon.update(matrix, muon.init(matrix))
            T.assert_trees_close(u, alone, 1e-12)


def takes_any_mask() -> None:
    """One bool for the whole tree, and a callable object that is itself a tree of bools."""

    @jax.tree_util.register_pytree_node_class
    class Model(dict):
        def __call__(self) -> None:
            raise AssertionError("a mask that is a tree is not called")

        def tree_flatten(self) -> tuple[Any, Any]:
            return tuple(self.values()), tuple(self)

        @classmethod
        def tree_unflatten(cls, keys: Any, values: Any) -> Any:
            return cls(zip(keys, values, strict=True))

    params = Model(w=jnp.ones(2), b=jnp.ones(2))
    zero = jax.tree.map(jnp.zeros_like, params)
    for mask, moved in ((True, (1, 1)), (False, (0, 0)), (Model(w=True, b=False), (1, 0))):
        optimizer = T.opt.adamw(0.1, weight_decay=0.5, mask=mask)
        updates, _ = optimizer.update(zero, optimizer.init(params), params)
        notice([int(np.all(u < 0)) for u in updates.values()] == list(moved))


def corrects_biases_without_x64() -> None:
    """1 / (1 - 0.999^t) in float32, where 0.999 is a float32 too."""
    with jax.enable_x64(False):
        for t in (1, 2, 100):
            got = float(_frame.unbiasing(0.999, jnp.float32(t)))
            notice(abs(got * (1 - 0.999**t) - 1) <= 8 * np.finfo(np.float32).eps)


FURTHER = (
    corrects_biases_without_x64,
    centred_without_bias,
    never_climbs,
    names_what_has_no_floats,
    takes_any_mask,
    matrices_of_all_shapes,
    a_stack_is_its_matrices,
    orthogonalises_in_the_dtype_asked_for,
)
"""What tests/optimizers leaves out."""


def cases(test: Callable) -> Iterator[dict[str, Any]]:
    """The arguments that a test's `parametrize` marks give it; slow ones left out."""
    axes = []
    for mark in getattr(test, "pytestmark", []):
        if mark.name == "slow":
            return
        if mark.name == "parametrize":
            names = mark.args[0]
            names = names.split(",") if isinstance(names, str) else names
            axes.append(list(_values([name.strip() for name in names], mark.args[1])))
    for combination in itertools.product(*axes):
        yield {k: v for part in combination for k, v in part.items()}


def _values(names: list[str], values: Any) -> Iterator[dict[str, Any]]:
    for value in values:
        if hasattr(value, "marks"):  # pytest.param(...)
            if any(mark.name == "slow" for mark in value.marks):
                continue
            value = value.values
        elif len(names) == 1:
            value = (value,)
        yield dict(zip(names, value, strict=True))


SUITE = (test_optax, test_courses, test_torch, test_use, test_muon)
LEFT_OUT = {
    "test_20_steps_equal_torch",
    "test_200_steps_equal_optax",
    "test_another_rate_does_not_compile_again",
    "test_vmapped_rates_equal_solo_runs",
    "test_one_step_from_200_random_states_equals_optax",
}
"""Dear tests: what they say of a formula, the steps beside optax say cheaply."""


def suite_of(name: str) -> list[Proof]:
    """The tests of tests/optimizers that concern an optimizer, the quickest first."""
    return sorted([*_own_suite(name), *_common_suite()], key=_seconds)


def _own_suite(name: str) -> list[Proof]:
    maker = T.TABLE[name][0]
    return [
        functools.partial(_tested, test, arguments)
        for test, arguments in _all_cases()
        if arguments.get("name") == name or ("name" not in arguments and _make(arguments) is maker)
    ]


@functools.cache
def _common_suite() -> list[Proof]:
    return [
        functools.partial(_tested, test, arguments)
        for test, arguments in _all_cases()
        if "name" not in arguments and _make(arguments) is None
    ]


def _make(arguments: dict[str, Any]) -> Any:
    """The optimizer that a case names, if it names one."""
    make = arguments.get("make")
    return make if make in [entry[0] for entry in T.TABLE.values()] else None


def _all_cases() -> Iterator[tuple[Callable, dict[str, Any]]]:
    for module in SUITE:
        for key, test in vars(module).items():
            if key.startswith("test_") and key not in LEFT_OUT:
                for arguments in cases(test):
                    yield test, arguments


_SECONDS: dict[int, float] = {}


def _seconds(proof: Proof) -> float:
    """How long a test takes that passes."""
    if id(proof) not in _SECONDS:
        started = time.perf_counter()
        proof()
        _SECONDS[id(proof)] = time.perf_counter() - started
    return _SECONDS[id(proof)]


def _tested(test: Callable, arguments: dict[str, Any]) -> None:
    if "rng" in inspect.signature(test).parameters:
        arguments = {**arguments, "rng": np.random.default_rng(11)}
    test(**arguments)


def optimizer_subject(name: str) -> Subject:
    stages = (
        lambda: [follows_optax(name, 0.01)],
        lambda: [follows_optax(name, T.SCHEDULE)],
        lambda: list(FURTHER),
        lambda: suite_of(name),
    )
    return Subject(name, (T.TABLE[name][0],), stages)
