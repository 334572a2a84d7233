r"""Training: the state, the step, the epoch as one compiled program; `fit`, `evaluate`, `diagnose`.

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
>>> result = train.evaluate(net, run, dataset.val)
>>> result["accuracy"] == max(run.history["val_accuracy"])
True
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike

from funcnet import _validate, data, losses
from funcnet._homes import at_home
from funcnet._validate import float_dtype
from funcnet.nets import Net
from funcnet.train import engine
from funcnet.train._diagnosis import Diagnosis, LayerSizes, Sizes, diagnose
from funcnet.train._evaluation import Batches, evaluate, evaluate_rows, numbers
from funcnet.train._interrupts import Interrupts, Terminated, terminate
from funcnet.train._step import (
    ORDER,
    TrainState,
    check_parts,
    copied,
    evaluated,
    ignored_label,
    init_state,
    make_step,
)
from funcnet.train.engine import EVALUATION_ROWS, History, Progress, Run, Sampling

__all__ = [
    "Diagnosis",
    "History",
    "LayerSizes",
    "Progress",
    "Run",
    "Sizes",
    "Terminated",
    "TrainState",
    "batch_order",
    "decay_per_epoch",
    "diagnose",
    "evaluate",
    "fit",
    "init_state",
    "make_step",
    "steps_per_epoch",
    "terminate",
]


_ENDED = (
    "; training ended there, and run.final holds the parameters from before. A lower learning "
    "rate, clipping (optax.clip_by_global_norm) or preprocessing of the images may help."
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


def decay_per_epoch(
    learning_rate: ArrayLike, decay: ArrayLike, steps_per_epoch: int
) -> optax.Schedule:
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
    if sampling not in engine.SAMPLINGS:
        raise ValueError(
            f"batch_order: sampling is {sampling!r}, expected one of {engine.SAMPLINGS}"
        )
    if sampling == "full":
        return jnp.arange(n, dtype=jnp.int32)[None]
    shape = steps_per_epoch(n, batch_size), batch_size
    key = jax.random.fold_in(jax.random.fold_in(key, ORDER), epoch)
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
    reg: int | float = 0.0,
    label_smoothing: int | float = 0.0,
    sampling: Sampling = "permutation",
    preprocessing: str | data.Preprocessing | None = "standardised",
    augment: Callable[[Array, Array], Array] | None = None,
    train_accuracy_rows: int | None = 1000,
    dtype: Any = jnp.float32,
    compute_dtype: Any = None,
    state: TrainState | None = None,
    resume: Run | None = None,
    max_nonfinite: int = 3,
    chunk_steps: int | None = None,
    evaluation_batch_size: int = EVALUATION_ROWS,
    evaluation_params: Callable[[Any, Any], Any] | None = None,
    on_progress: Callable[[Progress], Any] | None = None,
    on_epoch: Callable[[dict[str, Any]], Any] | None = None,
    on_chunk: Callable[[Run], Any] | None = None,
) -> Run:
    r"""Trains a net on a data set, and returns its history, its best and its final state.

    The data stay on the device as they are (uint8); an epoch is one compiled program, which
    gathers, augments and preprocesses its own batches, with its buffers donated. The host is asked
    only between chunks of an epoch; all chunks of a run are one program, traced once. (On a CPU,
    steps with convolutions that XLA would spoil inside a loop are called one by one, the same
    program each time.) Each epoch has ⌊n / batch_size⌋ steps; which rows they take is said at
    `batch_order`.

    A row of the history holds "epoch", "step", "loss" (the mean over the epoch's steps, penalty
    included), "nonfinite" (how many of them were not finite: these are left out of the mean),
    "train_accuracy" (on the same `train_accuracy_rows` random rows every time; the courses' Solver
    draws new ones), "val_accuracy" and "val_loss" (None without a validation split), "seconds"
    since training began (compiling not counted) and "images_per_second" of the epoch's steps. Row 0
    is the state before training, with the first step's loss.

    A step whose loss or gradient is not finite changes nothing but the counter, and a warning names
    it; `run.nonfinite` lists these steps. After `max_nonfinite` in a row the run ends: it warns and
    says in `run.stopped` which step was the first, and in which layer and tensor it began, as
    `diagnose` finds it; `run.final` holds the parameters from before. Under `jax_debug_nans` or
    `jax_debug_infs` the first such step raises FloatingPointError, with the same words.

    Ctrl-C ends a run after the chunk at hand (`run.stopped` is "interrupted"), and so does a
    KeyboardInterrupt from a callback; SIGTERM does ("terminated") where its handler is
    `train.terminate`. A second signal ends it at once, by KeyboardInterrupt.

    A run that has ended, or that `on_chunk` was given, goes on by `resume`, to the same bits as if
    it had not been stopped; `checkpoint.Checkpoints` keeps it on a disk in between. With XLA on one
    thread, `checks.check_resume` proves it. On several, XLA may take sums in another order, and
    results may differ by rounding; on two, four nets (fully connected and with convolutions, over
    4 to 20 steps) were equal to the bit all the same.

    Args:
      net: the net.
      dataset: `train` and `val` splits, and `classes`; `val` may be None or empty.
      optimizer: any optimizer of `optimizers` or optax: see `make_step` for what it is given.
      epochs: the number of passes; 0 evaluates only.
      batch_size: rows in a step; with sampling "full" it has no meaning.
      seed: all randomness of the run follows from it; an int of 0 to 2^32 - 1.
      loss: `loss(output, labels)`, a mean over rows; options by `functools.partial`, of which an
        `ignore_index` is also a label that the data may have, and that no accuracy counts.
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
      resume: a `Run` to go on from, with its history, losses, best state and preprocessing; the
        other arguments must be those that it began with, but for `epochs`, which may be more.
      max_nonfinite: so many steps in a row that are not finite end the run.
      chunk_steps: steps between two questions of the host; None for about two seconds'.
      evaluation_batch_size: rows at a time in evaluation.
      evaluation_params: `evaluation_params(opt_state, params)`, the parameters to evaluate and to
        deliver, where they are not those that the steps go on from: an average that the optimizer
        keeps. The history is theirs and `best.params` are they; `final` holds what to go on from.
        None takes the parameters themselves, and those of `optax.contrib.schedule_free` from it.
      on_progress: called with a `Progress` after each chunk.
      on_epoch: called with each new row of the history.
      on_chunk: called after each chunk with the `Run` so far, whose `final` is good until it
        returns: for saving it. Not after a chunk that ends the run as not finite.

    Returns:
      The `Run`.

    Raises:
      TypeError: an argument is of the wrong kind.
      FloatingPointError: a step is not finite, under `jax_debug_nans` or `jax_debug_infs`.
      LabelError: labels are out of range, or not integers.
      ValueError: the data are empty, `batch_size` is larger than the data or 1 with batch norm, or
        the net's output is not one number for each class, or `resume` is of other epochs. All
        before the first step.

    Source: courses.md 1.6, the three training systems side by side.

    >>> from funcnet import data, nets, optimizers
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> net = nets.fully_connected_net([20], classes=3, norm="batch")
    >>> run = fit(net, dataset, optimizers.momentum(0.1), epochs=2, batch_size=50)
    >>> run.final.step, run.stopped
    (Array(8, dtype=int32), None)
    """
    check_parts("fit", net, optimizer)
    seed = _validate.seed("fit", "seed", seed)
    dataset = engine.check_arguments(
        dataset,
        sampling,
        epochs=epochs,
        batch_size=batch_size,
        train_accuracy_rows=train_accuracy_rows,
        max_nonfinite=max_nonfinite,
        chunk_steps=chunk_steps,
        evaluation_batch_size=evaluation_batch_size,
        ignore_index=ignored_label(loss),
    )
    searching = engine.is_searching()
    if searching:
        max_nonfinite = 1
    n, input_shape = len(dataset.train.labels), dataset.train.images.shape[1:]
    rows_per_step = n if sampling == "full" else batch_size
    steps = 1 if sampling == "full" else steps_per_epoch(n, batch_size)
    if resume is not None:
        engine.check_resumed(resume, state, steps)
        preprocessing = resume.preprocessing
    preprocessing = engine.fitted(preprocessing, dataset)
    train, left = data.on_device(dataset.train, preprocessing, raw=augment is not None)
    val = data.on_device(dataset.val, preprocessing) if engine.has_rows(dataset.val) else None

    start = state if resume is None else resume.final
    if start is None:
        now = init_state(net, optimizer, jax.random.key(seed), input_shape, dtype)
    else:
        now = copied(start)
    deliver = partial(evaluated, evaluation_params=evaluation_params)
    _check_output(net, deliver(now), input_shape, engine.class_count(dataset))

    # Compiled before anything runs: what does not fit is refused here, and no epoch's time is it.
    step = make_step(net, optimizer, loss, reg, label_smoothing, compute_dtype)
    batch_of = engine.batch_maker(sampling != "full", augment, float_dtype(now.params))
    order = partial(batch_order, n=n, batch_size=rows_per_step, sampling=sampling)
    carry = engine.first_carry(now, 0, steps)
    inputs = train, left
    program = engine.compile_epoch(
        engine.step_of_epoch(step, batch_of), max_nonfinite, carry, order(now.key, 0), *inputs
    )
    measure = partial(evaluate_rows, net, loss=loss)
    some = np.random.default_rng(seed).permutation(n)[:train_accuracy_rows]
    on_train = Batches(train, some, left, evaluation_batch_size)
    on_val = None
    if val is not None:
        on_val = Batches(val[0], np.arange(len(val[0].labels)), val[1], evaluation_batch_size)
    began = time.perf_counter() - (0.0 if resume is None else resume.seconds)

    def row(now: TrainState, step: int, **measured: Any) -> dict[str, Any]:
        at = deliver(now)
        found: Any = {"train": measure(at, on_train, accuracy_only=True)}
        if on_val is not None:
            found["val"] = measure(at, on_val)
        found = {name: numbers(one) for name, one in jax.device_get(found).items()}
        return {
            "epoch": step // steps,
            "step": step,
            "loss": measured.get("loss"),
            "nonfinite": measured.get("nonfinite", 0),
            "train_accuracy": found["train"]["accuracy"],
            "val_accuracy": found["val"]["accuracy"] if on_val is not None else None,
            "val_loss": found["val"]["loss"] if on_val is not None else None,
            "seconds": time.perf_counter() - began,
            "images_per_second": measured.get("images_per_second"),
        }

    meter = engine.Meter(rows_per_step, steps, epochs, int(now.step), resume)
    streak = 0
    if resume is None:
        history, best = History([row(now, int(now.step))]), copied(deliver(now))
        best_row = history[0]
    else:
        history, best = History(resume.history), copied(resume.best)
        best_row = next(row for row in history if row["epoch"] == resume.best_epoch)
        streak = resume.streak if resume.streak < max_nonfinite else 0

    def end_epoch(step: int) -> None:
        nonlocal best, best_row
        with interrupts.at_once():
            history.append(row(now, step, **meter.end_epoch(step)))
        if val is not None and history[-1]["val_accuracy"] > best_row["val_accuracy"]:
            best, best_row = copied(deliver(now)), history[-1]
        if on_epoch is not None:
            on_epoch(history[-1])

    def so_far(best: TrainState, stopped: str | None = None) -> Run:
        return Run(
            History(history),
            best,
            now,
            meter.all_losses(),
            preprocessing,
            stopped,
            (best_row if val is not None else history[-1])["epoch"],
            tuple(meter.nonfinite),
            time.perf_counter() - began,
        )

    @engine.unsearched()
    def why_not_finite(streak: int) -> str:
        first = int(now.step) - streak
        before = now._replace(step=jnp.asarray(first, jnp.int32))
        epoch, position = divmod(first, steps)
        batch = batch_of(before, order(now.key, epoch), position, *inputs)
        options = {"reg": reg, "label_smoothing": label_smoothing, "compute_dtype": compute_dtype}
        where = _where(net, before, batch, loss, **options)
        several = f" and at the {streak - 1} after it" if streak > 1 else ""
        return f"{_odd(meter, first, steps)}{several}: {where}"

    stopped = None
    with Interrupts() as interrupts:
        try:
            if int(now.step) > history[-1]["step"] and int(now.step) % steps == 0:
                # It was stopped between the last step of an epoch and its row.
                end_epoch(int(now.step))
            for chunk in engine.chunks(
                program, order, now, steps, epochs, chunk_steps, streak, max_nonfinite
            ):
                now = chunk.train_state
                progress = meter.add(chunk)
                if history[0]["loss"] is None:
                    history[0]["loss"] = float(chunk.losses[0])
                    if on_epoch is not None:
                        on_epoch(history[0])
                if on_progress is not None:
                    on_progress(progress)
                if chunk.streak >= max_nonfinite:
                    why = why_not_finite(chunk.streak)
                    if searching:
                        raise FloatingPointError(f"fit: {why}")
                    stopped = why + _ENDED
                    warnings.warn(stopped, RuntimeWarning, stacklevel=2)
                    break
                if not chunk.finite.all():
                    _warn_of_skipped(meter, int((~chunk.finite).sum()), steps)
                if chunk.position == steps:
                    end_epoch(progress.step)
                if on_chunk is not None:
                    on_chunk(so_far(best if val is not None else deliver(now)))
                interrupts.check()
        except KeyboardInterrupt as press:
            if len(interrupts.presses) > 1 or _is_donated(now):
                raise  # the second signal, or one in the middle of a chunk
            stopped = "terminated" if isinstance(press, Terminated) else "interrupted"
    if on_epoch is not None and len(history) == 1 and history[0]["loss"] is None:
        on_epoch(history[0])
    return so_far(best if val is not None else copied(deliver(now)), stopped)


def _is_donated(state: TrainState) -> bool:
    return any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


def _where(*arguments: Any, **options: Any) -> str:
    """Where numbers stop being finite, as a part of a sentence."""
    try:
        found = diagnose(*arguments, **options)
    except Exception as error:  # the run must come back, even where there is no room to look
        return f"train.diagnose failed: {error}"
    return f"it starts in {found.what}" if found.where else "layer by layer all is finite"


def _odd(meter: engine.Meter, step: int, steps: int) -> str:
    """What was not finite at a step, which is counted from 0, and when that was."""
    value = meter.all_losses()[step - meter.first]
    what = "the gradient is not finite" if np.isfinite(value) else f"the loss is {value}"
    return f"{what} at step {step + 1} (epoch {step // steps + 1})"


def _warn_of_skipped(meter: engine.Meter, count: int, steps: int) -> None:
    several = f" and at {count - 1} after it" if count > 1 else ""
    said = _odd(meter, meter.nonfinite[-count] - 1, steps)
    text = f"{said}{several}: skipped, and nothing was changed"
    warnings.warn(text, RuntimeWarning, stacklevel=3)


def _check_output(net: Net, now: TrainState, input_shape: tuple[int, ...], classes: int) -> None:
    x = jax.ShapeDtypeStruct((2, *input_shape), float_dtype(now.params))
    output = jax.eval_shape(partial(net.apply, train=False), now.params, now.state, x)[0].shape
    if output != (2, classes):
        raise ValueError(
            f"fit: the net turns 2 examples of shape {input_shape} into {output}, but the data "
            f"have {classes} classes; expected (2, {classes}). End the net with "
            f"nets.affine({classes})."
        )


at_home(globals())
