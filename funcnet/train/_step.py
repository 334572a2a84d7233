"""The state of a run, and the pure step that makes the next one of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Sharding

from funcnet import _validate, losses
from funcnet._validate import example_shape
from funcnet.kernels import not_cut_as, wide, wide_dtype
from funcnet.nets import Net
from funcnet.train import contract
from funcnet.train._accumulate import differentiated, in_parts

# A step's own randomness is fold_in(key, step), and steps stay below 2^31: the upper half of the
# numbers that fold_in takes is free for everything else that a run draws.
INIT, ORDER, AUGMENT = (np.uint32(2**31 + i) for i in range(3))


class TrainState(NamedTuple):
    """Everything that a run is at one moment: what a checkpoint has to hold.

    `params` and `state` are the net's, `opt_state` the optimizer's; `step` counts the steps done
    (int32), and `key` is the run's, which no step changes.
    """

    params: Any
    state: Any
    opt_state: Any
    step: Array
    key: Array


def init_state(
    net: Net,
    optimizer: optax.GradientTransformation,
    key: Array,
    input_shape: tuple[int, ...],
    dtype: Any = jnp.float32,
) -> TrainState:
    r"""The state of a run before its first step.

    Parameters are drawn in float32 and cast to `dtype`, running statistics stay float32 at least.
    No two leaves share a buffer, so that a step may be jitted with its state donated.

    Args:
      net: the net.
      optimizer: the optimizer.
      key: a key from `jax.random.key(seed)`; it is kept in the state, as a copy.
      input_shape: the shape of one example, without the batch.
      dtype: the dtype of the parameters.

    Returns:
      The state.

    Raises:
      TypeError: `net` is not a net, `optimizer` not an optimizer, or `key` not a key.
      ValueError: the net does not take this shape.

    >>> from funcnet import nets, optimizers
    >>> state = init_state(nets.affine(3), optimizers.sgd(0.1), jax.random.key(0), (2,))
    >>> state.params.w.shape, state.step
    ((2, 3), Array(0, dtype=int32))
    """
    check_parts("init_state", net, optimizer)
    shape = example_shape("init_state", input_shape)
    if not isinstance(key, Array):
        raise TypeError(f"init_state: key is {key!r}, expected jax.random.key(seed).")

    params, state = net.init(jax.random.fold_in(key, INIT), shape)
    params, state = _cast(params, dtype), _cast(state, wide_dtype(jnp.dtype(dtype)))
    opt_state = jax.tree.map(_strong, optimizer.init(params))
    return copied(TrainState(params, state, opt_state, jnp.zeros((), jnp.int32), key))


def _strong(leaf: Any) -> Array:
    """Takes the weak type from a leaf, which would make the first two steps two programs."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    return lax.convert_element_type(leaf, leaf.dtype)


def copied(tree: Any) -> Any:
    """The same values in buffers of their own."""

    def copy(leaf: Any) -> Array:
        # jnp.copy compiles a program for each shape; but device_put takes NumPy's arrays as they
        # lie, whatever `may_alias` says, brings keys from several devices to one, and refuses what
        # lies on those of other processes.
        plain = isinstance(leaf, Array) and not jnp.issubdtype(leaf.dtype, jax.dtypes.extended)
        if plain and (isinstance(leaf, jax.core.Tracer) or leaf.is_fully_addressable):
            return jax.device_put(leaf, may_alias=False)
        return jnp.copy(leaf)

    return jax.tree.map(copy, tree)


def make_step(
    net: Net,
    optimizer: optax.GradientTransformation,
    loss: Callable[..., Array] = losses.softmax_cross_entropy,
    reg: Any = 0.0,
    label_smoothing: int | float = 0.0,
    compute_dtype: Any = None,
    compute_sharding: Any = None,
    accumulate: int = 1,
) -> Callable[[TrainState, tuple[Any, Any]], tuple[TrainState, dict[str, Array]]]:
    r"""Makes the pure train step (TrainState, (x, y)) -> (TrainState, metrics).

    $g = \nabla_p \left(\text{loss}(f(p, x), y) + \frac{\rho}{2} \sum \lVert w \rVert^2\right)$ with
    $\rho$ = `reg` over the weights, biases and norms free; then the optimizer's update. The net
    runs in training mode with `fold_in(key, step)`. Where the loss or the gradient's norm is not
    finite, params, state and opt_state stay as they were; the step counter goes on.

    It is not jitted: `jax.jit(step, donate_argnums=0)` is the usual way.

    Args:
      net: the net.
      optimizer: any optimizer of `optimizers` or optax. Its update is given `value`, `grad` and
        `value_fn` (sophia's `obj_fn` too), of the objective with its penalty on this batch, where
        it takes them: line searches and rates that follow the loss work. What asks for more (the
        gradients of single examples in `dpsgd`, `grad_fn` in an opaque `sam`) is refused.
      loss: `loss(output, labels)`, a mean over rows; low-precision outputs are cast to float32.
      reg: the strength of the L2 penalty, a number or a traced scalar.
      label_smoothing: passed to the loss, where it is not 0.
      compute_dtype: the dtype that the net runs in, such as `jnp.bfloat16`: parameters and batch
        are cast to it, and gradients come back in the parameters' own. Sums are taken in float32,
        and so are the loss, the penalty, the running statistics and the update. None runs the net
        in the dtype of its parameters.
      compute_sharding: where each parameter is to be while the net runs, such as
        `NamedSharding(mesh, P())` for parameters that lie in parts on the devices of a batch (FSDP,
        ZeRO-3): they are gathered, gradients come back as the parameters lie, and nothing of the
        batch's size is gathered, as XLA may otherwise choose to. A tree says it for each parameter.
        None leaves that to XLA; on a mesh with explicit axes it takes from parameters the axes that
        the batch is cut over.
      accumulate: so many equal parts of the batch are taken one after the other, each of every
        so-manieth row, and their gradients added up: to the batch's, with memory for a part. Where
        rows meet in the net the parts are batches of their own: batch norm normalises each by
        itself and moves its running statistics with each, and dropout draws a mask for each.

    Returns:
      The step. Its metrics are scalars: "loss" (before the update, penalty included), "finite",
      "grad_norm", and "accuracy" where the labels are integers, one for each row: of the rows that
      count, where `functools.partial` has given the loss an `ignore_index`.

    Raises:
      TypeError: `net` is not a net, `optimizer` not an optimizer, `compute_dtype` not a floating
        dtype, or `compute_sharding` not a sharding.
      ValueError: the loss takes no label smoothing.

    Source: courses.md rows 1-14 (penalty) and 4-20 (the loss is the one before the update);
    Micikevicius et al. 2018 (low precision), https://arxiv.org/abs/1710.03740.

    >>> from funcnet import nets, optimizers
    >>> net, optimizer = nets.affine(3), optimizers.sgd(0.1)
    >>> state = init_state(net, optimizer, jax.random.key(0), (2,))
    >>> step = jax.jit(make_step(net, optimizer), donate_argnums=0)
    >>> batch = jnp.ones((4, 2), jnp.float32), jnp.zeros(4, jnp.int32)
    >>> state, metrics = step(state, batch)
    >>> sorted(metrics), state.step
    (['accuracy', 'finite', 'grad_norm', 'loss'], Array(1, dtype=int32))
    """
    check_parts("make_step", net, optimizer)
    objective = make_objective(
        "make_step", net, loss, reg, label_smoothing, compute_dtype, compute_sharding
    )
    _validate.count("make_step", "accumulate", accumulate)
    differentiate = differentiated(objective, loss, accumulate)
    whole = in_parts(objective, loss, accumulate)

    def step(
        train_state: TrainState, batch: tuple[Any, Any]
    ) -> tuple[TrainState, dict[str, Array]]:
        (value, (output, state)), grads = differentiate(train_state.params, train_state, batch)
        # JAX's gradient of a real loss by a complex number is the conjugate of where it grows.
        grads = jax.tree.map(lambda g: g.conj() if jnp.iscomplexobj(g) else g, grads)
        grad_norm = norm(grads, value.dtype)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

        def objective_of(params: Any, obj_fn: Any = None) -> Array:
            del obj_fn  # optax's line searches refuse arguments that value_fn does not name
            return whole(params, train_state, batch)[0]

        def update(old: Any, grads: Any, state: Any) -> Any:
            params, _, opt_state = old
            updates, opt_state = _updated(optimizer, objective_of, value, grads, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state

        old = tuple(train_state[:3])
        _refuse_changed(old, jax.eval_shape(update, old, grads, state))
        kept = _guarded(update, finite, old, grads, state)
        metrics = {"loss": value, "finite": finite, "grad_norm": grad_norm}
        y = batch[1]
        if _are_classes(output, y):
            right, counted = answers(output, y, ignored_label(loss))
            metrics["accuracy"] = right.mean(dtype=jnp.float32, where=counted)
        params, state, opt_state = kept
        return TrainState(params, state, opt_state, train_state.step + 1, train_state.key), metrics

    return step


def _updated(
    optimizer: optax.GradientTransformation,
    value_fn: Callable[[Any], Array],
    value: Array,
    grads: Any,
    opt_state: Any,
    params: Any,
) -> tuple[Any, Any]:
    """The optimizer's update, given all that optax's optimizers ask for by name."""
    extra = {"value": value, "grad": grads, "value_fn": value_fn, "obj_fn": value_fn}
    takes = inspect.signature(optimizer.update).parameters
    if not any(parameter.kind is parameter.VAR_KEYWORD for parameter in takes.values()):
        extra = {name: given for name, given in extra.items() if name in takes}
    try:
        return optimizer.update(grads, opt_state, params, **extra)
    except Exception as error:
        error.add_note(
            "make_step: it was the optimizer's update that failed. It was given grads (of the "
            f"mean over the batch), state, params, {', '.join(extra) or 'and no more'}; an "
            "optimizer that needs anything else needs a step of its own."
        )
        raise


def evaluated(
    train_state: TrainState, evaluation_params: Callable[[Any, Any], Any] | None = None
) -> TrainState:
    """The state with the parameters to evaluate and to deliver, in place of those to go on from."""
    choose = _chosen if evaluation_params is None else evaluation_params
    params = choose(train_state.opt_state, train_state.params)
    if params is train_state.params:
        return train_state
    before, after = {"params": train_state.params}, {"params": params}
    contract.require("evaluation_params", contract.of_leaves(before, after))
    return train_state._replace(params=params)


def _chosen(opt_state: Any, params: Any) -> Any:
    """The parameters themselves, but schedule_free's average where that is the optimizer."""

    def is_free(state: Any) -> bool:
        return isinstance(state, optax.contrib.ScheduleFreeState)

    found = [state for state in jax.tree.leaves(opt_state, is_leaf=is_free) if is_free(state)]
    if not found:
        return params
    structure: Any = jax.tree.structure(params)
    if len(found) > 1 or structure != jax.tree.structure(found[0].z):
        raise ValueError(
            "fit: optax.contrib.schedule_free moves only some of the parameters; say which are to "
            "be evaluated with evaluation_params=function(opt_state, params) -> params."
        )
    with jax.numpy_dtype_promotion("standard"):  # optax needs it
        averaged = optax.contrib.schedule_free_eval_params(found[0], params)
    return jax.tree.map(lambda x, p: x.astype(p.dtype), averaged, params)


def _refuse_changed(old: Any, new: Any) -> None:
    """Raises StepError, which names the leaves, where a net or an optimizer changes their kind."""
    before, after = (
        dict(zip(("params", "state", "opt_state"), t, strict=True)) for t in (old, new)
    )
    contract.require("make_step", contract.of_leaves(before, after))


def _guarded(update: Callable[..., Any], finite: Array, old: Any, *others: Any) -> Any:
    """Returns `update(old, *others)` where `finite`, else `old`.

    On a CPU by `cond`, which works in place: `where` reads everything once more (10.1 against 12.9
    ms a step for a 3072-500-500-500-10 net with batch norm and Adam on a busy machine, 11.0 without
    a guard). Elsewhere by `where`, because `cond` would have to ask the host.
    """

    def choose(finite: Array, old: Any, *others: Any) -> Any:
        return lax.cond(finite, update, lambda old, *others: old, old, *others)

    def select(finite: Array, old: Any, *others: Any) -> Any:
        return jax.tree.map(partial(jnp.where, finite), update(old, *others), old)

    return lax.platform_dependent(finite, old, *others, cpu=choose, default=select)


def norm(tree: Any, dtype: Any) -> Array:
    """The square root of the sum of the squares of all leaves."""
    parts = (
        part
        for leaf in jax.tree.leaves(tree)
        for part in ((leaf.real, leaf.imag) if jnp.iscomplexobj(leaf) else (leaf,))
    )
    squares = (jnp.square(wide(part)).sum().astype(dtype) for part in parts)
    return jnp.sqrt(sum(squares, jnp.zeros((), dtype)))


def _cast(tree: Any, dtype: Any) -> Any:
    """The tree as arrays, its floats in `dtype`."""

    def cast(leaf: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(dtype) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    return jax.tree.map(cast, tree)


def _are_classes(output: Array, labels: Any) -> bool:
    return (
        jnp.issubdtype(jnp.result_type(labels), jnp.integer)
        and jnp.shape(labels) == output.shape[:-1]
    )


def ignored_label(loss: Callable[..., Array]) -> int | None:
    """The label whose rows no accuracy counts: the `ignore_index` that `functools.partial` gave."""
    return loss.keywords.get("ignore_index") if isinstance(loss, partial) else None


def answers(output: Array, labels: Any, ignore_index: int | None) -> tuple[Array, Array]:
    """Whether a row counts and its largest output is its label's, and whether it counts at all.

    A row with a NaN has no largest output, and is wrong. Labels of the output's shape are several
    a row, 0 or 1, each told by the sign of its own output.
    """
    if jnp.shape(labels) == output.shape:
        right = ((output > 0) == (jnp.asarray(labels) > 0)) & ~jnp.isnan(output)
        return right, jnp.ones_like(right)
    rows = losses.rows_of(labels, output.shape[-1], ignore_index)
    found = jnp.argmax(output, -1).astype(jnp.int32)
    right = rows.valid & (found == rows.class_index) & ~jnp.isnan(output).any(-1)
    counted = jnp.ones_like(right) if rows.counted is None else rows.counted
    return right & counted, counted


def make_objective(
    function: str,
    net: Net,
    loss: Callable[..., Array],
    reg: Any,
    label_smoothing: int | float,
    compute_dtype: Any,
    compute_sharding: Any = None,
) -> Callable[[Any, TrainState, tuple[Any, Any]], tuple[Array, tuple[Array, Any]]]:
    """Makes what a step differentiates: (params, rest, batch) -> (loss, (output, net's state)).

    All but the parameters is taken from `rest`, a TrainState.
    """
    measure = _with_smoothing(function, loss, label_smoothing)
    if compute_dtype is not None and not jnp.issubdtype(compute_dtype, jnp.floating):
        raise TypeError(
            f"{function}: compute_dtype is {compute_dtype!r}, expected a floating dtype, such as "
            "jnp.bfloat16, or None."
        )
    places = jax.tree.leaves(compute_sharding)
    if not all(isinstance(place, Sharding) for place in places):
        raise TypeError(
            f"{function}: compute_sharding is {compute_sharding!r}, expected a "
            "jax.sharding.Sharding, such as NamedSharding(mesh, P()), a tree of them, or None."
        )
    penalised = not (isinstance(reg, (int, float)) and reg == 0)

    def objective(params: Any, rest: TrainState, batch: tuple[Any, Any]) -> tuple[Array, Any]:
        x, y = batch
        low = params
        if compute_dtype is not None:
            low, x = _cast(low, compute_dtype), _cast(x, compute_dtype)
        places = compute_sharding
        if places is None or isinstance(places, Sharding):
            places = jax.tree.map(lambda _: compute_sharding, low)
        low = jax.tree.map(partial(_placed, x), low, places)
        key = jax.random.fold_in(rest.key, rest.step)
        output, state = net.apply(low, rest.state, x, train=True, key=key)
        value = measure(wide(output), y)
        if penalised:
            value = value + losses.l2_penalty(params, reg).astype(value.dtype)
        return value, (output, state)

    return objective


def _placed(x: Any, p: Array, sharding: Sharding | None) -> Array:
    """A parameter where the net is to have it: as `sharding` says, or not cut as the batch is."""
    if sharding is None:
        return not_cut_as(p, x)
    explicit = jax.typeof(p).sharding.mesh.are_all_axes_explicit
    return (jax.sharding.reshard if explicit else lax.with_sharding_constraint)(p, sharding)


def _with_smoothing(
    function: str, loss: Callable[..., Array], label_smoothing: int | float
) -> Callable[..., Array]:
    if label_smoothing == 0.0:
        return loss
    if "label_smoothing" not in inspect.signature(loss).parameters:
        name = getattr(loss, "__name__", repr(loss))
        raise ValueError(
            f"{function}: label_smoothing is {label_smoothing}, but {name} does not take it; use "
            "losses.softmax_cross_entropy, or label_smoothing=0."
        )
    return partial(loss, label_smoothing=label_smoothing)


def check_parts(function: str, net: Any, optimizer: Any) -> None:
    if not isinstance(net, Net):
        raise TypeError(f"{function}: net is {net!r}, expected a nets.Net(init, apply).")
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(
            f"{function}: optimizer is {optimizer!r}, expected an optax.GradientTransformation, "
            "such as optimizers.adam(1e-3)."
        )
