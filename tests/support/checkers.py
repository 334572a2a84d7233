"""Other people's gradient checkers, put on the same footing: each says of an animal what it saw."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import warnings
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jax.test_util
import numpy as np

from funcnet import checks
from funcnet.checks._rules import is_rule
from tests.support.zoo import Animal

CAUGHT, PASSED, JAX_RAISES, NOT_POSSIBLE = "caught", "passed", "JAX raises", "not possible"


class Problem(NamedTuple):
    """An animal as a function of its float arrays alone, in one dtype, with one or more outputs."""

    f: Callable[..., list[jax.Array]]
    floats: list[jax.Array]


def problem_of(animal: Animal, dtype: Any) -> Problem:
    """Float arrays are cast to `dtype`; keys, integers and static arguments stay as they are."""
    leaves, tree = jax.tree.flatten(animal.args)
    argnums = animal.options.get("argnums")
    wanted = range(len(animal.args)) if argnums is None else argnums
    owner = [i for i, a in enumerate(animal.args) for _ in jax.tree.leaves(a)]
    static = animal.f.nondiff_argnums if is_rule(animal.f) else ()
    where = [
        i
        for i, leaf in enumerate(leaves)
        if isinstance(leaf, (np.ndarray, np.generic, jax.Array))
        and jnp.issubdtype(leaf.dtype, jnp.floating)
        and owner[i] in wanted
        and owner[i] not in static
    ]

    def f(*floats: jax.Array) -> list[jax.Array]:
        filled = list(leaves)
        for i, x in zip(where, floats, strict=True):
            filled[i] = x
        outputs = animal.f(*jax.tree.unflatten(tree, filled), **animal.options.get("static", {}))
        return [y for y in jax.tree.leaves(outputs) if jnp.issubdtype(y.dtype, jnp.floating)]

    return Problem(f, [jnp.asarray(leaves[i]).astype(dtype) for i in where])


def jax_float32(animal: Animal) -> None:
    _check_grads(animal, jnp.float32)


def jax_float64(animal: Animal) -> None:
    _check_grads(animal, jnp.float64)


def _check_grads(animal: Animal, dtype: Any) -> None:
    p = problem_of(animal, dtype)
    jax.test_util.check_grads(p.f, p.floats, order=1, modes=["rev"])


def chex_float32(animal: Animal) -> None:
    import chex

    p = problem_of(animal, jnp.float32)
    chex.assert_numerical_grads(p.f, p.floats, order=1, modes=["rev"])


def torch_float64(animal: Animal) -> None:
    """`gradcheck` of a torch function whose two passes are JAX's, through NumPy in float64."""
    import torch

    p = problem_of(animal, jnp.float64)

    class Wrapped(torch.autograd.Function):
        @staticmethod
        def forward(context: Any, *tensors: Any) -> Any:
            context.arrays = [jnp.asarray(t.detach().numpy()) for t in tensors]
            return tuple(torch.from_numpy(np.array(y)) for y in p.f(*context.arrays))

        @staticmethod
        def backward(context: Any, *cotangents: Any) -> Any:
            ys, pull = jax.vjp(p.f, *context.arrays)
            dys = [
                jnp.zeros_like(y) if c is None else jnp.asarray(c.numpy(), y.dtype)
                for y, c in zip(ys, cotangents, strict=True)
            ]
            return tuple(torch.from_numpy(np.array(d)) for d in pull(dys))

    tensors = [torch.from_numpy(np.array(x)).requires_grad_() for x in p.floats]
    torch.autograd.gradcheck(Wrapped.apply, tensors)


def funcnet(animal: Animal) -> None:
    options = {"name": animal.name, **animal.options}
    checks.check_rule(animal.f, *animal.args, **options).raise_if_bad()


CHECKERS: dict[str, Callable[[Animal], None]] = {
    "jax check_grads, float32": jax_float32,
    "jax check_grads, float64": jax_float64,
    "chex assert_numerical_grads": chex_float32,
    "torch gradcheck": torch_float64,
    "funcnet check_rule": funcnet,
}
NEEDS = {"chex assert_numerical_grads": "chex", "torch gradcheck": "torch"}


def installed() -> list[str]:
    """The checkers that can be run here."""
    return [name for name in CHECKERS if importlib.util.find_spec(NEEDS.get(name, "jax"))]


def verdict(checker: str, animal: Animal) -> str:
    """What a checker says of an animal.

    An exception that the checker raises on purpose is a catch. One that any use of the gradient
    raises in these dtypes is JAX's own; what else goes wrong says that the checker cannot take the
    function.
    """
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
            try:
                CHECKERS[checker](animal)
            except Exception as error:
                if isinstance(error, AssertionError) or "Gradcheck" in type(error).__name__:
                    return CAUGHT
                return (
                    JAX_RAISES
                    if checker != "funcnet check_rule" and _raises(animal)
                    else NOT_POSSIBLE
                )
    return PASSED


def _raises(animal: Animal) -> bool:
    p = problem_of(animal, jnp.float64)
    try:
        ys = jax.eval_shape(p.f, *p.floats)
    except Exception:
        return False  # the function itself cannot be called so
    try:
        _, pull = jax.vjp(p.f, *p.floats)
        pull([jnp.ones(y.shape, y.dtype) for y in ys])
    except Exception:
        return True
    return False
