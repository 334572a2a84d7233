"""The frame that every optimizer hangs in: states, hyper-parameters, and one walk over leaves."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike, DTypeLike

from funcnet._validate import FLOATING, floating, number

ScalarOrSchedule = ArrayLike | Callable[[Array], ArrayLike]
Mask = Any  # a tree of bools, a prefix of the parameters' tree, or a function of them
Scalar = Any  # a Python float or a scalar array of the dtype that a leaf is computed in
Leaf = Callable[..., tuple[Any, ...]]


# `count` is an int32 scalar; it is annotated Any because tuples have a method of that name.


class TraceState(NamedTuple):
    """State of sgd, momentum and nesterov; `trace` is the velocity, None without momentum."""

    count: Any
    trace: Any = None


class RMSPropState(NamedTuple):
    """State of rmsprop; `mu` is kept if centered, `trace` if there is momentum."""

    count: Any
    nu: Any
    mu: Any = None
    trace: Any = None


class AdaGradState(NamedTuple):
    """State of adagrad."""

    count: Any
    sum_of_squares: Any


class AdaDeltaState(NamedTuple):
    """State of adadelta: means of squared gradients and of squared steps."""

    count: Any
    e_g: Any
    e_x: Any


class AdamState(NamedTuple):
    """State of adam, nadam, adamax, adamw and lamb: first and second moments."""

    count: Any
    mu: Any
    nu: Any


class AMSGradState(NamedTuple):
    """State of amsgrad: Adam's moments, and the largest second moment so far."""

    count: Any
    mu: Any
    nu: Any
    nu_max: Any


class LionState(NamedTuple):
    """State of lion."""

    count: Any
    mu: Any


class MuonState(NamedTuple):
    """State of muon; `nu` is an `optax.MaskedNode()` where a leaf is orthogonalised."""

    count: Any
    mu: Any
    nu: Any = None


_BELOW_ONE = {"b1", "b2", "beta", "decay", "momentum", "rho", "adam_b1", "adam_b2"}
_SCHEDULED = {"learning_rate", "adam_learning_rate", "weight_decay"}


def hyperparameters(function: str, **given: Any) -> dict[str, Any]:
    """Returns hyperparameters as floats, scalar arrays or schedules, or raises."""
    return {name: hyperparameter(function, name, value) for name, value in given.items()}


def hyperparameter(function: str, name: str, value: Any) -> Any:
    if name in _SCHEDULED and callable(value):
        return value
    if isinstance(value, Array):  # perhaps traced: its value is not looked at
        if value.ndim:
            raise ValueError(
                f"{function}: {name} has shape {value.shape}, expected a scalar; to run several "
                "at once put jax.vmap around the whole run."
            )
        # optax.inject_hyperparams makes every number complex where the first leaf is.
        return value.real if is_complex(value) else value
    try:
        static = float(value)
    except Exception:
        kinds = "a number, a scalar array" + (" or a schedule" if name in _SCHEDULED else "")
        raise TypeError(f"{function}: {name} is {value!r}, expected {kinds}.") from None
    return number(function, name, static, low=0.0, high=1.0 if name in _BELOW_ONE else math.inf)


def is_zero(value: Any) -> bool:
    """Tells whether a hyperparameter is known to be 0 before the program runs."""
    return isinstance(value, float) and value == 0.0


def _cast(value: Any, dtype: DTypeLike) -> Scalar:
    """Gives an array the leaf's dtype; a Python number takes it by itself."""
    return float(value) if isinstance(value, (int, float)) else jnp.asarray(value, dtype)


def _paths(tree: Any) -> list[str]:
    return [jax.tree_util.keystr(path) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def _float_leaf(function: str, what: str, leaf: Any) -> Array:
    """Returns a leaf as an array of floats, real or complex; one that is abstract stays so."""
    if isinstance(leaf, jax.ShapeDtypeStruct):
        _float_leaf(function, what, jnp.zeros((), leaf.dtype))
        return leaf  # type: ignore[return-value]
    if isinstance(leaf, complex) or is_complex(leaf):
        return jnp.asarray(leaf)
    return floating(function, what, leaf)


def float_leaves(function: str, what: str, tree: Any) -> tuple[list[Array], Any]:
    """Returns the leaves as arrays of floats and the tree's structure, or raises TypeError."""
    leaves, structure = jax.tree.flatten(tree)
    try:
        return [_float_leaf(function, what, leaf) for leaf in leaves], structure
    except TypeError as error:
        wrong = [
            f"{path} ({getattr(leaf, 'dtype', type(leaf).__name__)})"
            for path, leaf in zip(_paths(tree), leaves, strict=True)
            if not is_complex(leaf) and getattr(leaf, "dtype", None) not in FLOATING
        ]
        raise TypeError(
            f"{error} In the tree: {', '.join(wrong[:4])}. Leaves that are not trained are left "
            "out with optax.masked."
        ) from None


def _column(function: str, what: str, grads: Any, leaves: list[Array], other: Any) -> list[Any]:
    """Returns the leaves of `other` in the order of the gradients', or raises ValueError."""
    if other is None:
        return [None] * len(leaves)
    structure: Any = jax.tree.structure(grads)
    try:
        column = structure.flatten_up_to(other)
    except (ValueError, TypeError):
        ours, theirs = _paths(grads), _paths(other)
        raise ValueError(
            f"{function}: gradients and {what} are trees of different structure. In the gradients "
            f"alone: {[p for p in ours if p not in theirs][:4]}; in {what} alone: "
            f"{[p for p in theirs if p not in ours][:4]}; expected the structure that init was "
            "called with."
        ) from None
    for path, g, x in zip(_paths(grads), leaves, column, strict=True):
        if not isinstance(x, optax.MaskedNode) and getattr(x, "shape", None) != g.shape:
            raise ValueError(
                f"{function}: the gradient at {path} has shape {g.shape}, {what} has "
                f"{getattr(x, 'shape', type(x).__name__)} there; expected the shapes that init was "
                "called with."
            )
    return column


def is_complex(x: Any) -> bool:
    return jnp.issubdtype(getattr(x, "dtype", bool), jnp.complexfloating)


def _real(dtype: DTypeLike) -> np.dtype:
    """The dtype of the real part."""
    return np.dtype(jnp.finfo(dtype).dtype)


def zeros(dtype: DTypeLike | None = None) -> Callable[[Array], Array]:
    """A moment of gradients at the start."""
    return lambda p: jnp.zeros_like(p, dtype=p.dtype if dtype is None else dtype)


def squares(fill: Any = 0) -> Callable[[Array], Array]:
    """A moment of squared gradients at the start: real, whatever the parameters."""
    return lambda p: jnp.full_like(p, fill, dtype=_real(p.dtype))


def make_optimizer(
    function: str,
    state_type: Any,
    rule: Callable[..., Leaf],
    scalars: dict[str, Any],
    moments: dict[str, Callable[[Array], Array]],
    *,
    needs_params: bool = False,
    static: Callable[[Any], list[dict[str, Any]]] | None = None,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer of what one step does to one leaf.

    `rule(t, tiny, **scalars)` is called once a step and dtype; it returns the leaf's function
    `leaf(g, *moments) -> (u, *moments')`, all in one dtype and its complex twin. A field of the
    state without an entry in `moments` stays None. Where `static` is given, `leaf` also gets `p`
    (None unless `needs_params`) and what `static(tree)` says of each leaf.
    """

    def init(params: Any) -> Any:
        leaves, structure = float_leaves(function, "a parameter", params)
        trees = {k: structure.unflatten([f(p) for p in leaves]) for k, f in moments.items()}
        return state_type(jnp.zeros((), jnp.int32), **trees)

    def update(grads: Any, state: Any, params: Any = None, **extra_args: Any) -> tuple[Any, Any]:
        del extra_args  # what others in a chain need
        if needs_params and params is None:
            raise ValueError(
                f"{function}: update got params=None, expected the parameters, because the update "
                "depends on them; call update(grads, state, params)."
            )
        leaves, structure = float_leaves(function, "a gradient", grads)
        columns = [
            _column(function, f"the state's {field}", grads, leaves, tree)
            for field, tree in zip(state._fields[1:], state[1:], strict=True)
        ]
        own: list[dict[str, Any]] = [{} for _ in leaves]
        if static is not None:
            owners = _column(function, "params", grads, leaves, params if needs_params else None)
            named = static(params if needs_params else grads)
            own = [{"p": p, **kw} for p, kw in zip(owners, named, strict=True)]
        same = params is not None and jax.tree.structure(params) == structure
        targets = jax.tree.leaves(params) if same else leaves

        count = optax.safe_increment(state.count)
        with jax.numpy_dtype_promotion("standard"):  # optax's schedules need it
            now = {k: v(state.count) if callable(v) else v for k, v in scalars.items()}

        @functools.cache
        def leaf_of(dtype: np.dtype, tiny: float) -> Leaf:
            return rule(count.astype(dtype), tiny, **{k: _cast(v, dtype) for k, v in now.items()})

        rows: list[tuple[Any, ...]] = []
        for g, target, kw, *olds in zip(leaves, targets, own, *columns, strict=True):
            dtypes = [_real(x.dtype) for x in (g, *olds) if hasattr(x, "dtype")]
            dtype = max([np.dtype(np.float32), *dtypes], key=lambda d: d.itemsize)
            tiny = max(float(jnp.finfo(d).smallest_normal) for d in dtypes)

            def wide(x: Any, dtype: np.dtype = dtype) -> Any:
                dtype = np.result_type(dtype, np.complex64) if is_complex(x) else dtype
                return x if getattr(x, "dtype", dtype) == dtype else jnp.asarray(x, dtype)

            kw = {k: wide(v) for k, v in kw.items()}
            with _promotion(g, *olds, *kw.values()):
                u, *news = leaf_of(dtype, tiny)(wide(g), *map(wide, olds), **kw)
            target = jnp.asarray(target)
            _refuse_real(function, state._fields, grads, rows, (u, *news), (target, *olds))
            stored = [
                new.astype(old.dtype) if hasattr(old, "dtype") else old
                for new, old in zip(news, olds, strict=True)
            ]
            rows.append((u.astype(target.dtype), *stored))
        updates, *new_columns = zip(*rows, strict=True) if rows else ((),) * len(state)
        trees = [
            None if old is None else structure.unflatten(column)
            for old, column in zip(state[1:], new_columns, strict=True)
        ]
        return structure.unflatten(updates), state_type(count, *trees)

    return optax.GradientTransformationExtraArgs(init, update)


def _promotion(*leaves: Any) -> Any:
    """Where leaves are complex, real scalars and squares meet them: that is no mistake."""
    mixed = any(map(is_complex, leaves))
    return jax.numpy_dtype_promotion("standard") if mixed else contextlib.nullcontext()


def _refuse_real(
    function: str, fields: Any, grads: Any, rows: list[Any], news: Any, kept: Any
) -> None:
    """Raises TypeError where a complex number would be kept as a real one."""
    for field, new, old in zip(("update", *fields[1:]), news, kept, strict=True):
        if is_complex(new) and hasattr(old, "dtype") and not is_complex(old):
            raise TypeError(
                f"{function}: the {field} at {_paths(grads)[len(rows)]} is complex but kept as "
                f"{old.dtype}; expected parameters, gradients and the dtype of the moments to be "
                "all real or all complex."
            )


def decays(function: str, weight_decay: Any, mask: Mask, tree: Any) -> list[bool]:
    """Tells of each leaf whether it is decayed."""
    count = len(jax.tree.leaves(tree))
    if is_zero(weight_decay) or mask is None:
        return [not is_zero(weight_decay)] * count
    # A callable object that is itself a tree (an Equinox module of bools) is a mask, no function.
    flags = mask(tree) if callable(mask) and jax.tree_util.all_leaves([mask]) else mask
    try:
        return [bool(flag) for flag in jax.tree.leaves(jax.tree.broadcast(flags, tree))]
    except ValueError as error:
        raise ValueError(
            f"{function}: the mask of weight decay is not a prefix of the parameters' tree "
            f"({error}); expected bools in that structure, or a function that returns them."
        ) from None


def moving_mean(decay: Scalar, old: Array, new: Array) -> Array:
    """One step of an exponential moving average."""
    return decay * old + (1 - decay) * new


def abs_sq(x: Array) -> Array:
    """Returns $|x|^2$, real."""
    return x.real * x.real + x.imag * x.imag if is_complex(x) else x * x


def over(x: Array, divisor: Array) -> Array:
    """Divides by a real: complex division squares its divisor, and a small one would be 0."""
    if is_complex(x):
        return jax.lax.complex(x.real / divisor, x.imag / divisor)
    return x / divisor


def unbiasing(b: Scalar, t: Array) -> Array:
    """Returns $1 / (1 - b^t)$ without cancellation: a factor, as whole leaves divide slowly."""
    return -1 / jnp.expm1(t * jnp.log1p(b - 1))


def push(d: Array, trace: Array, momentum: Scalar, nesterov: bool) -> tuple[Array, Array]:
    """Adds `d` to the velocity; returns what moves the parameters and the new velocity."""
    v = d + momentum * trace
    return (d + momentum * v if nesterov else v), v


def make_decaying(
    function: str,
    state_type: Any,
    rule: Callable[..., Leaf],
    scalars: dict[str, Any],
    moments: dict[str, Callable[[Array], Array]],
    mask: Mask,
    needs_params: bool = False,
) -> optax.GradientTransformationExtraArgs:
    """Makes an optimizer whose leaves get `p` and whether they are decayed."""
    decay = scalars["weight_decay"]

    def static(tree: Any) -> list[dict[str, Any]]:
        return [{"decays": flag} for flag in decays(function, decay, mask, tree)]

    needs_params = needs_params or not is_zero(decay)
    return make_optimizer(
        function, state_type, rule, scalars, moments, needs_params=needs_params, static=static
    )
