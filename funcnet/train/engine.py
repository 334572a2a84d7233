"""What `train.fit` and `sweep.run` are made of: the compiled epoch, its records, its manners."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.extend.core import jaxpr_as_fun

from funcnet import _validate, data
from funcnet._jaxprs import equations
from funcnet._validate import float_dtype
from funcnet.kernels import wide_dtype
from funcnet.train import contract
from funcnet.train._step import AUGMENT, TrainState
from funcnet.train._step import answers as answers
from funcnet.train._step import evaluated as evaluated
from funcnet.train._step import ignored_label as ignored_label

Sampling = Literal["permutation", "replacement", "full"]
# XLA asks for a program's scratch memory anew at every call, and the system hands it over page by
# page: a convolutional net of 150 ms a step spends a fifth of it there when each step is a call.
SECONDS_A_CHUNK = 2.0
_config: Any = jax.config  # whose options mypy does not know
EVALUATION_ROWS = 250  # at a time
SAMPLINGS = ("permutation", "replacement", "full")


class Progress(NamedTuple):
    """Where a run stands; loss and accuracy are means over the steps since the last report.

    `epoch` and `step` count from 1 and are those just done; steps that were not finite are left out
    of the mean loss; `seconds_left` is for training alone, without the evaluations between epochs.
    """

    epoch: int
    epochs: int
    step: int
    steps: int
    loss: float
    accuracy: float
    images_per_second: float
    seconds_left: float


class History(list):
    """Rows (dicts), one an epoch; `history["val_accuracy"]` gives a column.

    >>> history = History([{"epoch": 0, "loss": 2.3}, {"epoch": 1, "loss": 1.7}])
    >>> history["loss"], history[-1]["epoch"]
    ([2.3, 1.7], 1)
    """

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, str):
            return [row[index] for row in self]
        return super().__getitem__(index)


class Run(NamedTuple):
    """A run, ended or not: what `fit` returns, and what `fit` can go on from.

    `best` is the whole `TrainState` of the highest validation accuracy (the first, where several
    are equal; without a validation split the final one), `final` the last one. `best` is what was
    evaluated, `final` what to go on from: their parameters differ where `evaluation_params` or
    schedule_free tells them apart. `losses` holds every
    step's loss, penalty included. `stopped` is None, "interrupted" (Ctrl-C), "terminated"
    (SIGTERM), or says which step was not finite and where that began. `nonfinite` holds the numbers
    (from 1) of the steps whose loss or gradient was not finite, and which changed nothing.
    `seconds` is the time since training began, compiling and pauses not counted.
    """

    history: History
    best: TrainState
    final: TrainState
    losses: np.ndarray
    preprocessing: data.Preprocessing
    stopped: str | None
    best_epoch: int
    nonfinite: tuple[int, ...] = ()
    seconds: float = 0.0

    @property
    def streak(self) -> int:
        """How many steps up to the last were not finite, without one between that was."""
        step, length = int(self.final.step), 0
        while length < len(self.nonfinite) and self.nonfinite[-1 - length] == step - length:
            length += 1
        return length


class Carry(NamedTuple):
    """What one compiled chunk of an epoch hands to the next; all of it is donated.

    `position` is the number of this epoch's steps already done, `streak` how many of the last steps
    were not finite; `losses`, `accuracies` and `finite` have a place for each step of an epoch.
    """

    train_state: Any
    position: Array
    streak: Array
    losses: Array
    accuracies: Array
    finite: Array


class Chunk(NamedTuple):
    """What the host learns after a chunk: the state, and what its own steps gave.

    `position` steps of epoch number `epoch` (from 0) are done.
    """

    train_state: Any
    epoch: int
    position: int
    streak: int
    losses: np.ndarray
    accuracy: float
    finite: np.ndarray
    seconds: float


def is_searching() -> bool:
    """Whether JAX raises where a number is not finite."""
    return bool(_config.jax_debug_nans or _config.jax_debug_infs)


@contextmanager
def unsearched() -> Iterator[None]:
    """Turns off `jax_debug_nans` and `jax_debug_infs`, for what looks for such numbers itself.

    JAX donates nothing where it searches, and a compiled program says not even what it found.
    """
    with jax.debug_nans(False), jax.debug_infs(False):
        yield


def batch_maker(
    gathers: bool, augment: Callable[[Array, Array], Array] | None, dtype: Any
) -> Callable[..., tuple[Array, Array]]:
    """Makes `batch_of(train_state, order, position, split, preprocessing) -> (x, y)`.

    Without `gathers`, each step takes the whole split as it lies.
    """

    def batch_of(
        train_state: TrainState,
        order: Array,
        position: Any,
        split: Any,
        preprocessing: data.Preprocessing,
    ) -> tuple[Array, Array]:
        images, labels = split
        if gathers:
            rows = lax.dynamic_index_in_dim(order, position, keepdims=False)
            images, labels = (a.at[rows].get(mode="promise_in_bounds") for a in split)
        if augment is not None:
            key = jax.random.fold_in(train_state.key, AUGMENT)
            images = augment(jax.random.fold_in(key, train_state.step), images)
        return data.preprocess(preprocessing, images, dtype), labels

    return batch_of


def step_of_epoch(
    step: Callable[..., Any], batch_of: Callable[..., tuple[Array, Array]]
) -> Callable[..., Carry]:
    """Makes `advance(carry, order, *inputs) -> carry`: one step on its own batch."""

    def advance(carry: Carry, order: Array, *inputs: Any) -> Carry:
        batch = batch_of(carry.train_state, order, carry.position, *inputs)
        train_state, metrics = step(carry.train_state, batch)
        return Carry(
            train_state,
            carry.position + 1,
            jnp.where(metrics["finite"], 0, carry.streak + 1),
            carry.losses.at[carry.position].set(metrics["loss"].astype(carry.losses.dtype)),
            carry.accuracies.at[carry.position].set(metrics["accuracy"]),
            carry.finite.at[carry.position].set(metrics["finite"]),
        )

    return advance


@unsearched()
def compile_epoch(
    advance: Callable[..., Carry], max_nonfinite: int, carry: Carry, order: Array, *inputs: Any
) -> Callable[[Carry, int, Array], Carry]:
    """Traces `advance` once, and compiles `program(carry, stop, order)` out of it.

    The program runs steps until `stop` of the epoch are done, or until `max_nonfinite` in a row
    were not finite. `stop` is traced, so that chunks of every length are one program. Where XLA
    would run the step many times slower inside a loop, the host does the loop; under `disable_jit`
    too, operation by operation.
    """

    def on_host(step: Callable[..., Carry]) -> Callable[[Carry, int, Array], Carry]:
        def host_loop(carry: Carry, stop: int, order: Array) -> Carry:
            for _ in range(int(carry.position), stop):
                carry = step(carry, order, *inputs)
                if int(carry.streak) >= max_nonfinite:
                    break
            return carry

        return host_loop

    if _config.jax_disable_jit:
        return on_host(advance)
    traced, shapes = jax.make_jaxpr(advance, return_shape=True)(carry, order, *inputs)
    states = carry.train_state, shapes.train_state
    contract.require("fit", contract.of_trace(traced, *states))
    tree = jax.tree.structure(shapes)

    def once(carry: Carry, *arguments: Any) -> Carry:
        leaves = jax.tree.leaves((carry, arguments))
        return jax.tree.unflatten(tree, jaxpr_as_fun(traced)(*leaves))

    if jax.default_backend() == "cpu" and slow_in_loops(traced.jaxpr):
        jitted = jax.jit(once, donate_argnums=0, keep_unused=True)
        step = jitted.lower(carry, order, *inputs).compile()
        contract.require("fit", contract.of_program(step, *states))
        return on_host(step)

    def loop(carry: Carry, stop: Array, *arguments: Any) -> Carry:
        return lax.while_loop(
            lambda carry: (carry.position < stop) & (carry.streak < max_nonfinite),
            lambda carry: once(carry, *arguments),
            carry,
        )

    jitted = jax.jit(loop, donate_argnums=0, keep_unused=True)
    program = jitted.lower(carry, np.int32(0), order, *inputs).compile()
    contract.require("fit", contract.of_program(program, *states))
    return lambda carry, stop, order: program(carry, np.int32(stop), order, *inputs)


def slow_in_loops(jaxpr: Any) -> bool:
    """Whether a program holds convolutions that XLA's CPU backend spoils inside a loop.

    Only in the outermost computation does it bring them into the layout of its fast kernels (NHWC
    and HWIO; https://github.com/jax-ml/jax/issues/12868). The kernel gradient that autodiff makes
    of a 3×3 convolution, 32 to 64 channels of 16×16 pixels, took 27 ms outside and 3100 ms inside.
    """
    for equation in equations(jaxpr):
        if equation.primitive.name == "conv_general_dilated":
            ndim = equation.outvars[0].aval.ndim
            space = tuple(range(1, ndim - 1))
            fast = ((0, ndim - 1, *space), (ndim - 1, ndim - 2, *range(ndim - 2)))
            numbers = equation.params["dimension_numbers"]
            if tuple(numbers) != (*fast, fast[0]):
                return True
    return False


def chunks(
    program: Callable[[Carry, int, Array], Carry],
    order: Callable[[Array, int], Array],
    train_state: Any,
    steps: int,
    epochs: int,
    chunk_steps: int | None,
    streak: int,
    max_nonfinite: int,
) -> Iterator[Chunk]:
    """Runs epochs of `steps` steps chunk by chunk, from where `train_state` stands.

    The state that a chunk yields is good until the next chunk is asked for, which donates it.
    """
    epoch, position = divmod(int(train_state.step), steps)
    length = chunk_steps or 1
    carry = first_carry(train_state, position, steps, streak)
    while epoch < epochs:
        rows = order(carry.train_state.key, epoch)
        while position < steps:
            began = time.perf_counter()
            with unsearched():
                carry = program(carry, min(position + length, steps), rows)
                done, streak, *found = jax.device_get(carry[1:])  # the host's one question
            seconds = time.perf_counter() - began
            done, streak = int(done), int(streak)
            losses, accuracies, finite = (np.array(a[position:done]) for a in found)
            yield Chunk(
                carry.train_state,
                epoch,
                done,
                streak,
                losses,
                float(accuracies.mean()),
                finite,
                seconds,
            )
            if streak >= max_nonfinite:
                return
            if chunk_steps is None:
                wanted = int(SECONDS_A_CHUNK * (done - position) / max(seconds, 1e-9))
                length = min(max(wanted, 1), 10 * length)
            position = done
        epoch, position = epoch + 1, 0
        carry = carry._replace(position=jnp.zeros((), jnp.int32))


def first_carry(train_state: Any, position: int, steps: int, streak: int = 0) -> Carry:
    """The carry before step number `position` of an epoch."""
    dtype = wide_dtype(float_dtype(train_state.params))
    return Carry(
        train_state,
        jnp.asarray(position, jnp.int32),
        jnp.asarray(streak, jnp.int32),
        jnp.zeros((steps,), dtype),
        jnp.zeros((steps,), jnp.float32),
        jnp.zeros((steps,), bool),
    )


class Meter:
    """Losses, times and rates of a run, as its chunks come in."""

    def __init__(self, rows_per_step: int, steps: int, epochs: int, step: int, run: Run | None):
        self.rows_per_step, self.steps, self.epochs = rows_per_step, steps, epochs
        self.losses: list[np.ndarray] = [] if run is None else [run.losses]
        self.nonfinite: list[int] = [] if run is None else list(run.nonfinite)
        self.first = step - (0 if run is None else len(run.losses))  # the step of losses[0]
        self.seconds = 0.0
        self._done, self._left = 0, max(steps * epochs - step, 0)
        self._epoch = 0, 0.0  # steps and seconds since its last row, of this process

    def add(self, chunk: Chunk) -> Progress:
        """Counts a chunk in, and says where the run stands."""
        last = chunk.epoch * self.steps + chunk.position
        first = last - len(chunk.losses) + 1
        self.losses.append(chunk.losses)
        self.nonfinite += (first + np.flatnonzero(~chunk.finite)).tolist()
        self.seconds += chunk.seconds
        self._done += len(chunk.losses)
        self._left -= len(chunk.losses)
        self._epoch = self._epoch[0] + len(chunk.losses), self._epoch[1] + chunk.seconds
        return Progress(
            epoch=chunk.epoch + 1,
            epochs=self.epochs,
            step=last,
            steps=self.epochs * self.steps,
            loss=_mean(chunk.losses),
            accuracy=chunk.accuracy,
            images_per_second=len(chunk.losses) * self.rows_per_step / chunk.seconds,
            seconds_left=self._left * self.seconds / self._done,
        )

    def all_losses(self) -> np.ndarray:
        """The loss of every step of the run."""
        return np.concatenate(self.losses) if self.losses else np.zeros(0, np.float32)

    def end_epoch(self, step: int) -> dict[str, Any]:
        """The mean loss of the epoch that ends with `step`, its odd steps, and the rate."""
        (count, seconds), self._epoch = self._epoch, (0, 0.0)
        return {
            "loss": _mean(self.all_losses()[-self.steps :]),
            "nonfinite": sum(number > step - self.steps for number in self.nonfinite),
            "images_per_second": count * self.rows_per_step / seconds if count else None,
        }


def _mean(losses: np.ndarray) -> float:
    """The mean of what is finite, NaN where nothing is."""
    finite = losses[np.isfinite(losses)]
    return float(finite.mean(dtype=np.float64)) if len(finite) else float("nan")


def check_arguments(
    dataset: Any,
    sampling: str,
    batch_size: int,
    ignore_index: int | None = None,
    **counts: int | None,
) -> data.Dataset:
    """The data set, training and validation as arrays; an error where `fit` cannot begin.

    Counts may be None, if not batch_size, epochs and evaluation_batch_size.
    """
    given: dict[str, Any] = {"batch_size": batch_size, **counts}
    for name, value in given.items():
        low = 0 if name == "epochs" else 1
        if value is None and name not in ("epochs", "batch_size", "evaluation_batch_size"):
            continue
        _validate.count("fit", name, value, low=low)
    if sampling not in SAMPLINGS:
        raise ValueError(f"fit: sampling is {sampling!r}, expected one of {', '.join(SAMPLINGS)}.")
    if not all(hasattr(dataset, name) for name in ("train", "val", "classes")):
        raise TypeError(
            f"fit: dataset is a {type(dataset).__name__}, expected a data.Dataset with its splits "
            "train and val, and its classes."
        )
    classes = class_count(dataset)
    split = check_split(dataset.train, classes, "dataset.train", ignore_index)
    n = len(split.labels)
    if sampling != "full" and batch_size > n:
        raise ValueError(
            f"fit: batch_size is {batch_size}, but dataset.train has {n} rows; use a batch_size of "
            f'at most {n}, or sampling="full".'
        )
    val: Any = None
    if dataset.val is not None:
        val = labelled(dataset.val, classes, "dataset.val", ignore_index)
    if has_rows(val) and val.images.shape[1:] != split.images.shape[1:]:
        raise ValueError(
            f"fit: examples have shape {split.images.shape[1:]} in dataset.train but "
            f"{val.images.shape[1:]} in dataset.val."
        )
    test: Any = getattr(dataset, "test", None)
    scale = getattr(dataset, "full_scale", 255.0)
    return data.Dataset(split, val, test, dataset.classes, full_scale=scale)


def fitted(
    preprocessing: str | data.Preprocessing | None, dataset: data.Dataset
) -> data.Preprocessing:
    """The preprocessing itself: what is a kind is fitted on the training split, None is "none"."""
    if isinstance(preprocessing, data.Preprocessing):
        return preprocessing
    kind: Any = "none" if preprocessing is None else preprocessing
    return data.fit_preprocessing(dataset.train.images, kind, dataset.full_scale)


def check_resumed(resume: Any, state: Any, steps: int) -> None:
    """Raises TypeError or ValueError where a run is none, or has other epochs than these."""
    if not isinstance(resume, Run):
        raise TypeError(f"fit: resume is a {type(resume).__name__}, expected a train.Run.")
    if state is not None:
        raise ValueError("fit: both state and resume are given, expected one of them.")
    for row in resume.history[1:]:
        if row["step"] != row["epoch"] * steps:
            raise ValueError(
                f"fit: in the run to resume, epoch {row['epoch']} ended with step {row['step']}, "
                f"but these data and batches make {steps} steps an epoch; give it the data, "
                "batch_size and sampling that it began with."
            )


def class_count(dataset: Any) -> int:
    """The number of classes, of which a data set gives the names or the number."""
    return dataset.classes if hasattr(dataset.classes, "__index__") else len(dataset.classes)


def has_rows(split: Any) -> bool:
    """Whether there is a split at all."""
    return split is not None and len(split.labels) > 0


def as_split(split: Any, name: str) -> data.Split:
    """The split with its images as an array, of whatever NumPy makes one of, or TypeError."""
    if not (hasattr(split, "images") and hasattr(split, "labels")):
        kind = type(split).__name__
        raise TypeError(f"{name} is a {kind}, expected a data.Split(images, labels).")
    images = split.images
    if not isinstance(images, np.ndarray | Array):
        try:
            images = np.asarray(images)
        except Exception as error:
            raise TypeError(
                f"{name}.images is a {type(split.images).__name__} that does not become an array "
                f"({error}); expected numbers, (n, ...)."
            ) from None
    if not any(jnp.issubdtype(images.dtype, kind) for kind in (np.integer, np.floating, np.bool_)):
        raise TypeError(
            f"{name}.images has dtype {images.dtype}, expected integers or floats; convert it with "
            "numpy.asarray(images, dtype=numpy.float32)."
        )
    if not images.ndim:
        raise TypeError(f"{name}.images is one number, expected an array (n, ...).")
    return data.Split(images, split.labels)


def labelled(split: Any, classes: int, name: str, ignore_index: int | None = None) -> data.Split:
    """The split as arrays, its labels int32; TypeError, ValueError or LabelError where it is none.

    It may be empty.
    """
    images = as_split(split, name).images
    labels = data.check_labels(split.labels, classes, f"{name}.labels", ignore_index)
    if len(images) != len(labels):
        raise ValueError(
            f"{name} has {len(images)} images but {len(labels)} labels; expected one label for "
            "each image."
        )
    return data.Split(images, labels)


def check_split(split: Any, classes: int, name: str, ignore_index: int | None = None) -> data.Split:
    """What `labelled` returns, or ValueError where there is not one image."""
    split = labelled(split, classes, name, ignore_index)
    if not has_rows(split):
        raise ValueError(f"{name} is empty, expected at least one image.")
    return split
