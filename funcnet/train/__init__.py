r"""Training: the state, the step, the epoch as one compiled program, `fit` and `evaluate`.

A step is a pure function (TrainState, batch) -> (TrainState, metrics). It is written once and says
nothing of devices: with parameters and batches placed by `NamedSharding`, the same jitted step runs
over a whole mesh and gives what one device gives. All that is random in a run follows from its seed
and the number of the step.

>>> from funcnet import data, nets, optimizers, train
>>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
>>> net = nets.two_layer_net(20, classes=3)
>>> run = train.fit(net, dataset, optimizers.adam(1e-2), epochs=3, batch_size=20)
>>> [row["epoch"] for row in run.history], len(run.losses)
([0, 1, 2, 3], 30)
>>> result = train.evaluate(net, run.best, dataset.val, run.preprocessing)
>>> result["accuracy"] == max(run.history["val_accuracy"])
True
"""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from funcnet import data, losses
from funcnet.kernels import wide, wide_dtype
from funcnet.nets._blocks import Net, example_shape, float_dtype
from funcnet.train import _fit
from funcnet.train._evaluation import EVALUATION_ROWS, evaluate, evaluate_rows
from funcnet.train._fit import History, Progress, Sampling

__all__ = [
    "History",
    "Progress",
    "Run",
    "TrainState",
    "batch_order",
    "decay_per_epoch",
    "evaluate",
    "fit",
    "init_state",
    "make_step",
    "steps_per_epoch",
]


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


class Run(NamedTuple):
    """What `fit` returns.

    `best` is the whole `TrainState` of the highest validation accuracy (the first, where several
    are equal; without a validation split the final one), `final` the last one that was finite.
    `losses` holds every step's loss, penalty included. `stopped` is None, "interrupted", or says
    which step was not finite.
    """

    history: History
    best: TrainState
    final: TrainState
    losses: np.ndarray
    preprocessing: data.Preprocessing
    stopped: str | None
    best_epoch: int


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
    _check_parts("init_state", net, optimizer)
    shape = example_shape("init_state", input_shape)
    if not isinstance(key, Array):
        raise TypeError(f"init_state: key is {key!r}, expected jax.random.key(seed).")

    def cast(leaf: Any, to: Any) -> Array:
        leaf = jnp.asarray(leaf)
        return leaf.astype(to) if jnp.issubdtype(leaf.dtype, jnp.floating) else leaf

    params, state = net.init(jax.random.fold_in(key, _fit.INIT), shape)
    params = jax.tree.map(lambda leaf: cast(leaf, dtype), params)
    state = jax.tree.map(lambda leaf: cast(leaf, wide_dtype(dtype)), state)
    opt_state = jax.tree.map(_strong, optimizer.init(params))
    return _copied(TrainState(params, state, opt_state, jnp.zeros((), jnp.int32), key))


def _strong(leaf: Any) -> Array:
    """Takes the weak type from a leaf, which would make the first two steps two programs."""
    leaf = jnp.asarray(leaf)
    if jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return leaf
    return lax.convert_element_type(leaf, leaf.dtype)


def _copied(tree: Any) -> Any:
    """The same values in buffers of their own."""
    return jax.tree.map(jnp.copy, tree)


def make_step(
    net: Net,
    optimizer: optax.GradientTransformation,
    loss: Callable[..., Array] = losses.softmax_cross_entropy,
    reg: Any = 0.0,
    label_smoothing: float = 0.0,
    compute_dtype: Any = None,
) -> Callable[[TrainState, tuple[Any, Any]], tuple[TrainState, dict[str, Array]]]:
    r"""Makes the pure train step (TrainState, (x, y)) -> (TrainState, metrics).

    $g = \nabla_p \left(\text{loss}(f(p, x), y) + \frac{\rho}{2} \sum \lVert w \rVert^2\right)$ with
    $\rho$ = `reg` over the weights, biases and norms free; then the optimizer's update. The net
    runs in training mode with `fold_in(key, step)`. Where the loss or the gradient's norm is not
    finite, params, state and opt_state stay as they were; the step counter goes on.

    It is not jitted: `jax.jit(step, donate_argnums=0)` is the usual way.

    Args:
      net: the net.
      optimizer: any optimizer of `optimizers` or optax.
      loss: `loss(output, labels)`, a mean over rows; low-precision outputs are cast to float32.
      reg: the strength of the L2 penalty, a number or a traced scalar.
      label_smoothing: passed to the loss, where it is not 0.
      compute_dtype: the dtype that the net runs in, such as `jnp.bfloat16`: parameters and batch
        are cast to it, and gradients come back in the parameters' own. Sums are taken in float32,
        and so are the loss, the penalty, the running statistics and the update. None runs the net
        in the dtype of its parameters.

    Returns:
      The step. Its metrics are scalars: "loss" (before the update, penalty included), "finite",
      "grad_norm", and "accuracy" where the labels are integers, one for each row.

    Raises:
      TypeError: `net` is not a net, `optimizer` not an optimizer, or `compute_dtype` not a floating
        dtype.
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
    _check_parts("make_step", net, optimizer)
    measure = _with_smoothing(loss, label_smoothing)
    lower = _caster("make_step", compute_dtype)
    penalised = not (isinstance(reg, (int, float)) and reg == 0)

    def step(
        train_state: TrainState, batch: tuple[Any, Any]
    ) -> tuple[TrainState, dict[str, Array]]:
        x, y = batch
        key = jax.random.fold_in(train_state.key, train_state.step)

        def objective(params: Any) -> tuple[Array, Any]:
            low = lower(params), train_state.state, lower(x)
            output, state = net.apply(*low, train=True, key=key)
            value = measure(wide(output), y)
            if penalised:
                value = value + losses.l2_penalty(params, reg).astype(value.dtype)
            return value, (output, state)

        differentiate = jax.value_and_grad(objective, has_aux=True)
        (value, (output, state)), grads = differentiate(train_state.params)
        grad_norm = _norm(grads, value.dtype)
        finite = jnp.isfinite(value) & jnp.isfinite(grad_norm)

        def update(old: Any, grads: Any, state: Any) -> Any:
            params, _, opt_state = old
            updates, opt_state = optimizer.update(grads, opt_state, params)
            return optax.apply_updates(params, updates), state, opt_state

        kept = _guarded(update, finite, tuple(train_state[:3]), grads, state)
        metrics = {"loss": value, "finite": finite, "grad_norm": grad_norm}
        if _are_classes(output, y):
            right = jnp.argmax(output, -1).astype(jnp.int32) == jnp.asarray(y).astype(jnp.int32)
            metrics["accuracy"] = right.mean(dtype=jnp.float32)
        params, state, opt_state = kept
        return TrainState(params, state, opt_state, train_state.step + 1, train_state.key), metrics

    return step


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


def _norm(tree: Any, dtype: Any) -> Array:
    squares = (jnp.square(wide(leaf)).sum().astype(dtype) for leaf in jax.tree.leaves(tree))
    return jnp.sqrt(sum(squares, jnp.zeros((), dtype)))


def _caster(function: str, dtype: Any) -> Callable[[Any], Any]:
    """What casts the floats of a tree to `dtype`; None leaves them as they are."""
    if dtype is None:
        return lambda tree: tree
    if not jnp.issubdtype(dtype, jnp.floating):
        raise TypeError(
            f"{function}: compute_dtype is {dtype!r}, expected a floating dtype, such as "
            "jnp.bfloat16, or None."
        )

    def cast(leaf: Any) -> Any:
        floating = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf).astype(dtype) if floating else leaf

    return partial(jax.tree.map, cast)


def _are_classes(output: Array, labels: Any) -> bool:
    return (
        jnp.issubdtype(jnp.result_type(labels), jnp.integer)
        and jnp.shape(labels) == output.shape[:-1]
    )


def _with_smoothing(loss: Callable[..., Array], label_smoothing: float) -> Callable[..., Array]:
    if label_smoothing == 0.0:
        return loss
    if "label_smoothing" not in inspect.signature(loss).parameters:
        name = getattr(loss, "__name__", repr(loss))
        raise ValueError(
            f"make_step: label_smoothing is {label_smoothing}, but {name} does not take it; use "
            "losses.softmax_cross_entropy, or label_smoothing=0."
        )
    return partial(loss, label_smoothing=label_smoothing)


def _check_parts(function: str, net: Any, optimizer: Any) -> None:
    if not isinstance(net, Net):
        raise TypeError(f"{function}: net is {net!r}, expected a nets.Net(init, apply).")
    if not hasattr(optimizer, "init") or not hasattr(optimizer, "update"):
        raise TypeError(
            f"{function}: optimizer is {optimizer!r}, expected an optax.GradientTransformation, "
            "such as optimizers.adam(1e-3)."
        )


def steps_per_epoch(n: int, batch_size: int) -> int:
    r"""The number of whole batches in n rows: $\lfloor n / \text{batch size} \rfloor$.

    The n mod batch_size rows that are left sit out that epoch; with a new permutation an epoch,
    they are others each time.

    Args:
      n: the number of rows.
      batch_size: the number of rows in a batch.

    Raises:
      ValueError: `batch_size` is below 1 or above n.

    Source: courses.md 1.6.

    >>> steps_per_epoch(49000, 100)
    490
    """
    if not 1 <= batch_size <= n:
        raise ValueError(
            f"steps_per_epoch: batch_size is {batch_size}, expected 1 to {n}, the number of rows."
        )
    return n // batch_size


def decay_per_epoch(learning_rate: float, decay: float, steps_per_epoch: int) -> optax.Schedule:
    r"""The courses' `lr_decay`: $\eta_t = \eta_0\, d^{\lfloor t / s \rfloor}$.

    Args:
      learning_rate: the rate $\eta_0$ of the first epoch.
      decay: the factor d at the end of each epoch.
      steps_per_epoch: the number of steps s in an epoch.

    Returns:
      A schedule, step -> rate, for any optimizer.

    Raises:
      ValueError: `steps_per_epoch` is below 1.

    Source: courses.md row 4-26; `optax.exponential_decay` with a staircase.

    >>> schedule = decay_per_epoch(1e-5, 0.95, steps_per_epoch=490)
    >>> [f"{schedule(step):.6e}" for step in (0, 489, 490, 980)]
    ['1.000000e-05', '1.000000e-05', '9.500000e-06', '9.025000e-06']
    """
    if steps_per_epoch < 1:
        raise ValueError(f"decay_per_epoch: steps_per_epoch is {steps_per_epoch}, expected 1 on.")
    return optax.exponential_decay(learning_rate, steps_per_epoch, decay, staircase=True)


@partial(jax.jit, static_argnames=("n", "batch_size", "sampling"))
def batch_order(
    key: Array, epoch: Any, n: int, batch_size: int, sampling: Sampling = "permutation"
) -> Array:
    r"""The rows of an epoch's batches, as `fit` draws them; nothing is random but by these.

    "permutation" takes each row at most once, and n mod batch_size rows not at all; "replacement"
    draws each row of each batch from all n, as the courses' Solver does; "full" is one batch of all
    rows in order.

    Args:
      key: the run's key, `TrainState.key`.
      epoch: the number of the epoch, from 0; it may be traced.
      n: the number of rows.
      batch_size: the number of rows in a batch.
      sampling: one of the above.

    Returns:
      Row numbers, (steps, batch_size) int32.

    Raises:
      ValueError: `batch_size` is below 1 or above n, or there is no such `sampling`.

    Source: courses.md 1.6.

    >>> order = batch_order(jax.random.key(0), 0, n=7, batch_size=3)
    >>> order.shape, len(set(order.ravel().tolist()))
    ((2, 3), 6)
    """
    if sampling not in _fit.SAMPLINGS:
        raise ValueError(f"batch_order: sampling is {sampling!r}, expected one of {_fit.SAMPLINGS}")
    if sampling == "full":
        return jnp.arange(n, dtype=jnp.int32)[None]
    shape = steps_per_epoch(n, batch_size), batch_size
    key = jax.random.fold_in(jax.random.fold_in(key, _fit.ORDER), epoch)
    if sampling == "replacement":
        return jax.random.randint(key, shape, 0, n, jnp.int32)
    rows = jax.random.permutation(key, jnp.arange(n, dtype=jnp.int32))
    return rows[: shape[0] * shape[1]].reshape(shape)


def fit(
    net: Net,
    dataset: data.Dataset,
    optimizer: optax.GradientTransformation,
    epochs: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    *,
    loss: Callable[..., Array] = losses.softmax_cross_entropy,
    reg: float = 0.0,
    label_smoothing: float = 0.0,
    sampling: Sampling = "permutation",
    preprocessing: str | data.Preprocessing | None = "standardised",
    augment: Callable[[Array, Array], Array] | None = None,
    train_accuracy_rows: int | None = 1000,
    dtype: Any = jnp.float32,
    compute_dtype: Any = None,
    state: TrainState | None = None,
    chunk_steps: int | None = None,
    evaluation_batch_size: int = EVALUATION_ROWS,
    on_progress: Callable[[Progress], Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], Any] | None = None,
) -> Run:
    r"""Trains a net on a data set, and returns its history, its best and its final state.

    The data stay on the device as they are (uint8); an epoch is one compiled program, which
    gathers, augments and preprocesses its own batches, with its buffers donated. The host is asked
    only between chunks of an epoch; all chunks of a run are one program, traced once. (On a CPU,
    steps with convolutions that XLA would spoil inside a loop are called one by one, the same
    program each time.) Each epoch has ⌊n / batch_size⌋ steps; which rows they take is said at
    `batch_order`.

    A row of the history holds "epoch", "step", "loss" (the mean over the epoch's steps, penalty
    included), "train_accuracy" (on the same `train_accuracy_rows` random rows every time; the
    courses' Solver draws new ones), "val_accuracy" and "val_loss" (None without a validation
    split), "seconds" since training began (compiling not counted) and "images_per_second" of the
    epoch's steps. Row 0 is the state before training, with the first step's loss.

    It ends at once at a step whose loss or gradient is not finite: `run.stopped` names the step, a
    warning is issued, and `run.final` is the state before it. Ctrl-C ends it after the chunk at
    hand (`run.stopped` is "interrupted"), and so does a KeyboardInterrupt from a callback; a second
    Ctrl-C ends it at once, by that exception.

    Args:
      net: the net.
      dataset: `train` and `val` splits, and `classes`; `val` may be None or empty.
      optimizer: any optimizer of `optimizers` or optax.
      epochs: the number of passes; 0 evaluates only.
      batch_size: rows in a step; with sampling "full" it has no meaning.
      seed: all randomness of the run follows from it.
      loss: `loss(output, labels)`, a mean over rows.
      reg: the strength of the L2 penalty on weights.
      label_smoothing: passed to the loss, where it is not 0.
      sampling: "permutation", "replacement" or "full": see `batch_order`.
      preprocessing: a kind, fitted on the training split, or a `data.Preprocessing`.
      augment: `augment(key, images)`, on images as they are stored, before preprocessing.
      train_accuracy_rows: rows for the training accuracy; None for all of them.
      dtype: the dtype of parameters and activations.
      compute_dtype: the dtype that the steps run the net in, if not `dtype`: see `make_step`.
        Evaluations run in `dtype`.
      state: a `TrainState` to go on from, instead of a new one; its `step` says where in the
        epochs it stands, and the run ends as if it had never been stopped.
      chunk_steps: steps between two questions of the host; None for about a quarter of a second's.
      evaluation_batch_size: rows at a time in evaluation.
      on_progress: called with a `Progress` after each chunk.
      on_epoch: called with each row of the history.

    Returns:
      The `Run`.

    Raises:
      TypeError: an argument is of the wrong kind.
      LabelError: labels are out of range, or not integers.
      ValueError: the data are empty, `batch_size` is larger than the data or 1 with batch norm, or
        the net's output is not one number for each class. All before the first step.

    Source: courses.md 1.6, the three training systems side by side.

    >>> from funcnet import data, nets, optimizers
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> net = nets.fully_connected_net([20], classes=3, norm="batch")
    >>> run = fit(net, dataset, optimizers.momentum(0.1), epochs=2, batch_size=50)
    >>> run.final.step, run.stopped
    (Array(8, dtype=int32), None)
    """
    _check_parts("fit", net, optimizer)
    _fit.check_arguments(
        dataset,
        sampling,
        epochs=epochs,
        batch_size=batch_size,
        train_accuracy_rows=train_accuracy_rows,
        chunk_steps=chunk_steps,
        evaluation_batch_size=evaluation_batch_size,
    )
    if not isinstance(preprocessing, data.Preprocessing):
        scale = getattr(dataset, "full_scale", 255.0)
        kind: Any = "none" if preprocessing is None else preprocessing
        preprocessing = data.fit_preprocessing(dataset.train.images, kind, scale)
    train = _on_device(dataset.train)
    val = _on_device(dataset.val) if _fit.has_rows(dataset.val) else None

    n, input_shape = len(train.labels), train.images.shape[1:]
    rows_per_step = n if sampling == "full" else batch_size
    steps = 1 if sampling == "full" else steps_per_epoch(n, batch_size)
    if state is None:
        now = init_state(net, optimizer, jax.random.key(seed), input_shape, dtype)
    else:
        now = _copied(state)
    _check_output(net, now, input_shape, _fit.class_count(dataset))

    # Compiled before anything runs: what does not fit is refused here, and no epoch's time is it.
    step = make_step(net, optimizer, loss, reg, label_smoothing, compute_dtype)
    advance = _fit.step_of_epoch(step, sampling != "full", augment, float_dtype(now.params))
    order = partial(batch_order, n=n, batch_size=rows_per_step, sampling=sampling)
    carry = _fit.first_carry(now, 0, steps)
    program = _fit.compile_epoch(advance, carry, order(now.key, 0), train, preprocessing)
    measure = partial(
        evaluate_rows, net, preprocessing=preprocessing, loss=loss, batch_size=evaluation_batch_size
    )
    some = np.random.default_rng(seed).permutation(n)[:train_accuracy_rows]
    began = time.perf_counter()

    def row(now: TrainState, **measured: Any) -> dict[str, Any]:
        on_train = measure(now, train, some)
        on_val: dict[str, Any] = {"accuracy": None, "loss": None}
        if val is not None:
            on_val = measure(now, val, np.arange(len(val.labels)))
        return {
            "epoch": int(now.step) // steps,
            "step": int(now.step),
            "loss": measured.get("loss"),
            "train_accuracy": on_train["accuracy"],
            "val_accuracy": on_val["accuracy"],
            "val_loss": on_val["loss"],
            "seconds": time.perf_counter() - began,
            "images_per_second": measured.get("images_per_second"),
        }

    history, best = History([row(now)]), _copied(now)
    best_row = history[0]
    meter = _fit.Meter(rows_per_step, steps, epochs, int(now.step))
    stopped = None
    with _fit.interrupts() as pressed:
        try:
            for chunk in _fit.chunks(program, order, now, steps, epochs, chunk_steps):
                now = chunk.train_state
                progress = meter.add(chunk)
                if len(meter.losses) == 1:
                    history[0]["loss"] = float(chunk.losses[0])
                    if on_epoch is not None:
                        on_epoch(history[0])
                if on_progress is not None:
                    on_progress(progress)
                if not chunk.finite:
                    stopped = _explained(chunk, progress)
                    warnings.warn(stopped, RuntimeWarning, stacklevel=2)
                elif chunk.position == steps:
                    history.append(row(now, **meter.end_epoch()))
                    if val is not None and history[-1]["val_accuracy"] > best_row["val_accuracy"]:
                        best, best_row = _copied(now), history[-1]
                    if on_epoch is not None:
                        on_epoch(history[-1])
                if pressed() and stopped is None:
                    stopped = "interrupted"
                if stopped is not None:
                    break
        except KeyboardInterrupt:
            if any(leaf.is_deleted() for leaf in jax.tree.leaves(now)):
                raise  # the second Ctrl-C, in the middle of a chunk
            stopped = "interrupted"
    if on_epoch is not None and not meter.losses:
        on_epoch(history[0])
    if val is None:
        best, best_row = _copied(now), history[-1]
    values = np.concatenate(meter.losses) if meter.losses else np.zeros(0, np.float32)
    return Run(history, best, now, values, preprocessing, stopped, best_row["epoch"])


def _explained(chunk: _fit.Chunk, progress: Progress) -> str:
    value = chunk.losses[-1]
    what = "the gradient is not finite" if np.isfinite(value) else f"the loss is {value}"
    return (
        f"{what} at step {progress.step} (epoch {progress.epoch}); training ended there, and "
        "run.final is the state before that step. A lower learning rate, clipping "
        "(optax.clip_by_global_norm) or preprocessing of the images may help."
    )


def _on_device(split: data.Split) -> data.Split:
    # Copies, because on a CPU JAX may read the caller's own arrays as long as they live.
    images: Any = jnp.array(np.asarray(split.images), copy=True)
    labels: Any = jnp.array(np.asarray(split.labels), jnp.int32, copy=True)
    return data.Split(images, labels)


def _check_output(net: Net, now: TrainState, input_shape: tuple[int, ...], classes: int) -> None:
    x = jax.ShapeDtypeStruct((2, *input_shape), float_dtype(now.params))
    output = jax.eval_shape(partial(net.apply, train=False), now.params, now.state, x)[0].shape
    if output != (2, classes):
        raise ValueError(
            f"fit: the net turns 2 examples of shape {input_shape} into {output}, but the data "
            f"have {classes} classes; expected (2, {classes}). End the net with "
            f"nets.affine({classes})."
        )
