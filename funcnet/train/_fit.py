"""`fit`: a run from its arguments to its record."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from jax import Array
from jax.sharding import Mesh

from funcnet import _validate, data
from funcnet._validate import float_dtype
from funcnet.nets import Net
from funcnet.train._agreement import reachable
from funcnet.train._arguments import (
    EVALUATION_ROWS,
    as_dataset,
    check_output,
    check_resumed,
    checked,
    fitted,
    laid_out,
)
from funcnet.train._batches import Sampling
from funcnet.train._epoch import compile_epoch, first_carry, is_searching, step_of_epoch
from funcnet.train._evaluation import Measurer
from funcnet.train._feed import feed as feed_of
from funcnet.train._interrupts import Interrupts
from funcnet.train._mesh import Rules, gathered
from funcnet.train._records import Progress, Run
from funcnet.train._session import Callbacks, OnEpoch, Session, where_not_finite
from funcnet.train._step import (
    TrainState,
    check_parts,
    evaluated,
    ignored_label,
    init_state,
    make_step,
)
from funcnet.train._tasks import Best, task_of
from funcnet.train._tasks import goal as goal_of
from funcnet.train._trained import trained
from funcnet.train.metrics import Metric


def fit(
    net: Net,
    dataset: data.Dataset | tuple[Any, Any],
    optimizer: optax.GradientTransformation,
    epochs: int = 10,
    batch_size: int = 100,
    seed: int = 0,
    *,
    loss: Callable[..., Array] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    best: Best | None = None,
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
    on_epoch: OnEpoch | Sequence[OnEpoch] | None = None,
    on_chunk: Callable[[Run], Any] | None = None,
    progress: bool = False,
    mesh: Mesh | None = None,
    shard: Literal["data", "fsdp"] | Rules = "data",
    accumulate: int = 1,
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
    is the state before training, with the first step's loss. Other metrics have columns of their
    own names in the accuracy's place.

    | task of the data set | output | loss | metrics |
    |---|---|---|---|
    | classification | (n, classes), or (n, ..., classes) | `softmax_cross_entropy` | accuracy |
    | regression | (n, k) | `mean_squared_error` | r2 |
    | multilabel | (n, k) logits | `binary_cross_entropy` | accuracy, and exact_match of rows |

    A step whose loss or gradient is not finite changes nothing but the counter, and a warning names
    it; `run.nonfinite` lists these steps. After `max_nonfinite` in a row the run ends: it warns and
    says in `run.stopped` which step was the first, and in which layer and tensor it began, as
    `diagnose` finds it; `run.final` holds the parameters from before. Under `jax_debug_nans` or
    `jax_debug_infs` the first such step raises FloatingPointError, with the same words.

    Images may be a source that does not fit into memory, as a memory-mapped file: see `data.Split`.
    The rows of the coming steps are then read while others are computed, in the same order, and the
    run has the same bits. A source that fails ends the run by `data.SourceError`, whose `run` is
    what there is up to the last step.

    Ctrl-C ends a run after the chunk at hand (`run.stopped` is "interrupted"), and so does a
    KeyboardInterrupt from a callback; SIGTERM and SIGHUP do ("terminated") where their handler is
    `train.terminate`. A second signal ends it at once, by KeyboardInterrupt.

    On a mesh the run is that of one device but for rounding: the same rows, masks and crops. Its
    processes agree after each chunk: a signal to one of them ends all after the same step, and an
    exception in one raises PeerError in the others. Callbacks are called in each process; only
    process 0 prints, and writes by `csv_log` and `tensorboard_log`.

    A run that has ended, or that `on_chunk` was given, goes on by `resume`, to the same bits as if
    it had not been stopped; `checkpoint.Checkpoints` keeps it on a disk in between. With XLA on one
    thread, `checks.check_resume` proves it. On several, XLA may take sums in another order, and
    results may differ by rounding; on two, four nets (fully connected and with convolutions, over
    4 to 20 steps) were equal to the bit all the same.

    Args:
      net: the net.
      dataset: `train` and `val` splits, `classes`, and a `task` that is not classification; `val`
        may be None or empty. Or a pair of arrays (x, y), of which `data.from_arrays` makes one: a
        tenth of the rows, drawn with seed 0, is for validation, and none for a test; of a pair of
        pairs ((x, y), (x_val, y_val)) the second is.
      optimizer: any optimizer of `optimizers` or optax: see `make_step` for what it is given.
      epochs: the number of passes; 0 evaluates only.
      batch_size: rows in a step; with sampling "full" it has no meaning.
      seed: all randomness of the run follows from it; an int of 0 to 2^32 - 1.
      loss: `loss(output, labels)`, a mean over rows; options by `functools.partial`, of which an
        `ignore_index` is also a label that the data may have, and that no accuracy counts. None
        takes the task's.
      metrics: name -> `metric(output, labels)`, a scalar of a whole split that JAX can trace, such
        as those of `train.metrics`; None takes the task's. A name makes the columns "train_name"
        and "val_name".
      best: the column that chooses the best epoch, "val_loss" or that of a metric; None for the
        first metric's. The lowest is the best where the name ends in loss, error, mae, mse or
        perplexity, else the highest; a pair such as ("val_bias", "min") tells. NaN is never best.
      reg: the strength of the L2 penalty on weights.
      label_smoothing: passed to the loss, where it is not 0.
      sampling: "permutation", "replacement" or "full": see `batch_order`.
      preprocessing: a kind, fitted on the training split, or a `data.Preprocessing`; None for
        "none", which makes floats of the images as they are. "integers" leaves integers what they
        are, as a table of embeddings needs its ids, whatever `compute_dtype` is.
      augment: `augment(key, images)`, on images as they are stored, before preprocessing.
      train_accuracy_rows: rows for the training metrics; None for all of them.
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
      on_epoch: called with each new row of the history, or several in a list; a string that it
        returns ends the run, and is `run.stopped`. `early_stopping`, `csv_log` and
        `tensorboard_log` make such functions.
      on_chunk: called after each chunk with the `Run` so far, whose `final` is good until it
        returns: for saving it. Not after a chunk that ends the run as not finite.
      progress: whether to print a line for each new row of the history.
      mesh: the devices that share the work, perhaps those of several processes, each of which
        calls `fit` with the same arguments; None for the one device, or those that the images lie
        on. `batch_size` must be a multiple of their number, and of `accumulate` times it.
      shard: how the state lies on the mesh: see `place`. Parameters in parts are gathered where the
        net takes them, and the states of the `Run` lie as in training.
      accumulate: each batch is taken in so many parts, one after the other, whose gradients are
        added up to the batch's: see `make_step`.

    Returns:
      The `Run`.

    Raises:
      TypeError: an argument is of the wrong kind.
      FloatingPointError: a step is not finite, under `jax_debug_nans` or `jax_debug_infs`.
      SourceError: a source of the data gives other rows than it should, or none.
      LabelError: labels are none of the task's: out of range, not integers, not finite.
      PeerError: another process of the run has failed, or cannot be reached.
      ValueError: the data are empty, `batch_size` is larger than the data or 1 with batch norm, or
        the net's output is not what the labels are compared with, or `resume` is of other epochs,
        or `best` is no column. All before the first step.

    Source: courses.md 1.6, the three training systems side by side.

    >>> from funcnet import data, nets, optimizers
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> net = nets.fully_connected_net([20], classes=3, norm="batch")
    >>> run = fit(net, dataset, optimizers.momentum(0.1), epochs=2, batch_size=50)
    >>> run.final.step, run.stopped
    (Array(8, dtype=int32), None)
    """
    check_parts("fit", net, optimizer)
    dataset = as_dataset(dataset)
    goal = goal_of("fit", task_of(dataset), loss, metrics, best)
    loss = goal.loss
    seed = _validate.seed("fit", "seed", seed)
    setting = checked(
        dataset,
        sampling,
        augment,
        epochs,
        batch_size,
        train_accuracy_rows,
        evaluation_batch_size,
        max_nonfinite,
        chunk_steps,
        ignore_index=ignored_label(loss),
    )
    if is_searching():
        setting = setting._replace(max_nonfinite=1)
    setting = laid_out(setting, mesh, shard, accumulate)
    if resume is not None:
        check_resumed(resume, state, setting.steps, goal)
        preprocessing, state = resume.preprocessing, resume.final
    preprocessing = fitted(preprocessing, setting.dataset)
    held = setting.on_device(preprocessing)
    if state is None:
        state = init_state(net, optimizer, jax.random.key(seed), setting.input_shape, dtype)
    now = setting.place(state)
    deliver = partial(evaluated, evaluation_params=evaluation_params)
    check_output(net, deliver(now), setting, preprocessing)

    # Compiled before anything runs: what does not fit is refused here, and no epoch's time is it.
    options = {"reg": reg, "label_smoothing": label_smoothing, "compute_dtype": compute_dtype}
    door = setting.door(now.params)
    step = make_step(net, optimizer, loss, **options, compute_sharding=door, accumulate=accumulate)
    batch_of = setting.batch_of(float_dtype(now.params))
    feed = feed_of(setting, held[0])
    carry = first_carry(now, 0, setting.steps, put=setting.put)
    advance = step_of_epoch(step, batch_of)

    def where(before: TrainState, epoch: int, position: int) -> str:
        rows, _ = feed.at(before.key, epoch, position)
        batch = batch_of(before, rows, position, *feed.inputs)
        return where_not_finite(net, before, batch, loss, **options)

    interrupts = Interrupts(patient=setting.processes > 1)
    with reachable("fit"):
        with interrupts, interrupts.at_once():
            order = feed.example(now.key)
            program = compile_epoch(advance, setting.max_nonfinite, carry, order, *feed.inputs)
            session = Session(
                setting,
                feed,
                now,
                resume,
                preprocessing,
                deliver,
                goal,
                Measurer(net, goal, setting, held, seed),
                where,
                Callbacks(on_progress, on_epoch, on_chunk, progress),
            )
        run = session.train(program, interrupts)
        delivered = gathered(run.best) if setting.processes > 1 else run.best
    return run._replace(trained=trained(net, delivered, preprocessing, setting, goal))
