"""Loss and metrics of a net on a split, each example counted once."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.sharding import Mesh, Sharding

from funcnet import data
from funcnet._validate import float_dtype
from funcnet.kernels import wide
from funcnet.nets import Net
from funcnet.train._arguments import EVALUATION_ROWS, Setting, as_split, check_split, input_dtype
from funcnet.train._feed import ahead
from funcnet.train._mesh import Layout, layout_of
from funcnet.train._records import Run
from funcnet.train._step import TrainState, answers, ignored_label
from funcnet.train._tasks import Goal
from funcnet.train._tasks import goal as goal_of
from funcnet.train.metrics import Metric, accuracy

_KEPT_BYTES = 2**26  # of a split's images, so small that their batches are kept from row to row


def evaluate(
    net: Net,
    trained: Any,
    split: data.Split,
    preprocessing: data.Preprocessing | Literal["own"] | None = "own",
    *,
    loss: Callable[..., Array] | None = None,
    metrics: Mapping[str, Metric] | None = None,
    task: data.Task | None = None,
    batch_size: int = EVALUATION_ROWS,
    mesh: Mesh | None = None,
) -> dict[str, float]:
    r"""Loss and metrics of a net on a split, in inference mode, each example counted once.

    The net runs batch by batch, the last one filled up and the filling left out; loss and metrics
    are taken of all its outputs at once, so that what weighs or ignores rows does so over the whole
    split. A row with a NaN in its output is wrong. `fit` logs the numbers of this function: of a
    `Run` it measures the best state, with the run's preprocessing, and gives the numbers of the
    best epoch, exactly.

    What is compiled for a net or a loss is kept for the next evaluation, and freed with it.

    Args:
      net: the net.
      trained: a `Run`, of which the best state is taken; what `checkpoint.load_params` returns; a
        `TrainState`; or a pair (params, state).
      split: images (n, ...) and the task's labels, raw, as `fit` had them.
      preprocessing: the run's, from `data.fit_preprocessing`; None for none; "own" for what
        `trained` brings along. A pair (params, state) brings nothing, and images of floats stay as
        they are.
      loss: `loss(output, labels)` of the whole split, (n, classes) and (n,); no penalty is added.
        Options come by `functools.partial`: an `ignore_index` given so may be among the labels, and
        the accuracy does not count its rows. None takes the task's: see `fit`.
      metrics: name -> `metric(output, labels)`: see `fit`, for the task's own too.
      task: what is told of an example, as `data.Dataset` has it; None for the run's own, which is
        classification where `trained` does not say.
      batch_size: rows at a time; another number may round differently.
      mesh: whose devices share the rows of a batch, of which as many are taken as they divide;
        parameters that are not on it yet are copied to each. None for where the parameters are.

    Returns:
      "loss" and each metric by its name, floats: of classification "accuracy", a fraction of 1, NaN
      where no row counts.

    Raises:
      LabelError: labels are none of the task's.
      TypeError: the split does not become arrays, or nothing says what to preprocess it by.
      ValueError: the split is empty, or has more labels than images, or a metric is no scalar.

    Source: courses.md 2.1 and rows 0-20, 1-35, 2-13.

    >>> from funcnet import nets
    >>> net = nets.affine(2)
    >>> params = AffineParams(jnp.eye(2), jnp.zeros(2))
    >>> split = data.Split(np.array([[1.0, 0.0], [0.0, 1.0], [3.0, 2.0]]), np.array([0, 1, 1]))
    >>> round(evaluate(net, (params, ()), split)["accuracy"], 4)
    0.6667
    """
    split = as_split(split, "split")
    if task is None:
        task = getattr(trained, "task", "classification")
    goal = goal_of("evaluate", task, loss, metrics)
    best: Any = trained.best if isinstance(trained, Run) else trained
    params, state = (best.params, best.state) if hasattr(best, "params") else best
    shape = (1, *split.images.shape[1:])
    own = getattr(trained, "preprocessing", None)
    x = jax.ShapeDtypeStruct(
        shape, input_dtype(own if isinstance(preprocessing, str) else preprocessing, params)
    )
    output = jax.eval_shape(partial(net.apply, train=False), params, state, x)[0].shape
    split = check_split(split, output[-1], "split", ignored_label(goal.loss), task)
    if task == "classification" and split.labels.shape[1:] != output[1:-1]:
        raise data.LabelError(
            f"split.labels has shape {split.labels.shape}, but the net turns one example into "
            f"{output[1:]}; expected ({', '.join(['n', *map(str, output[1:-1])])}"
            f"{',' * (len(output) == 2)})."
        )
    preprocessing = _preprocessing_of(trained, split, preprocessing)
    layout = None
    if mesh is not None:
        layout = layout_of("evaluate", mesh, "data")
        params, state = layout.put((params, state))
    batches = Batches(split, np.arange(len(split.labels)), preprocessing, batch_size, layout)
    return numbers(jax.device_get(evaluate_rows(net, (params, state), batches, goal)), goal)


def _preprocessing_of(trained: Any, split: data.Split, given: Any) -> data.Preprocessing:
    """What is given, or what `trained` brings along; TypeError where raw images would go in."""
    if isinstance(given, str) and given != "own":
        raise TypeError(
            f"evaluate: preprocessing is {given!r}, expected what the run fitted by that name: "
            "run.preprocessing, or evaluate(net, run, split)."
        )
    if isinstance(given, str):
        given = getattr(trained, "preprocessing", None)
        floats = jnp.issubdtype(split.images.dtype, jnp.floating)
        if given is None and (isinstance(trained, TrainState) or not floats):
            raise TypeError(
                "evaluate: preprocessing is not given, and a net that was trained on preprocessed "
                "images is wrong on raw ones; pass the run itself, evaluate(net, run, split), or "
                "its preprocessing=run.preprocessing, or preprocessing=None where there was none."
            )
    if given is not None:
        return given
    ones = (1,) * (split.images.ndim - 1)
    return data.Preprocessing(np.zeros(ones), np.ones(ones))


class Batches:
    """Rows of a checked split, in batches for `evaluate_rows`; the last one is filled up.

    What fits into a few megabytes is gathered once and kept on the device, for the next epoch.
    """

    def __init__(
        self,
        split: Any,
        rows: np.ndarray,
        preprocessing: data.Preprocessing,
        batch_size: int,
        layout: Layout | None = None,
    ):
        self._put = jax.device_put if layout is None else layout.put
        if isinstance(split.images, Array):
            split = self._put(split)
        self._split, self._rows, self.layout = split, rows, layout
        self._size = batch_size if layout is None else layout.filled(batch_size)
        self._preprocessing = preprocessing
        self._kept: list[tuple[Any, ...]] = []
        images = split.images
        size = len(rows) * math.prod(images.shape[1:]) * images.dtype.itemsize
        self._keeps = isinstance(images, Array | data.Streamed) and size <= _KEPT_BYTES

    @cached_property
    def labels(self) -> Any:
        """Those of all rows."""
        return _taken(self._split.labels, self._rows, None)

    def __iter__(self) -> Iterator[tuple[Any, ...]]:
        """What `_forward` takes of each batch: preprocessing, images, labels, which are its own."""
        if not self._keeps:
            return self._gathered()
        if not self._kept:
            self._kept = [self._put(batch) for batch in self._gathered()]
        return iter(self._kept)

    def _gathered(self) -> Iterator[tuple[Any, ...]]:
        firsts = range(0, len(self._rows), self._size)
        if any(isinstance(of, data.Streamed) for of in self._split):
            # A thread has settings of its own, such as jax_enable_x64: all that it does is to read.
            return map(self._batch, firsts, ahead(self._read, firsts))
        return map(self._batch, firsts)

    def _rows_from(self, first: int) -> tuple[np.ndarray, np.ndarray]:
        """The rows of a batch, and which of them are its own."""
        rows = self._rows[first : first + self._size]
        own = np.arange(self._size) < len(rows)
        return np.pad(rows, (0, self._size - len(rows)), mode="edge"), own

    def _read(self, first: int) -> Any:
        rows, _ = self._rows_from(first)
        return jax.tree.map(lambda a: a[rows], tuple(self._split))

    def _batch(self, first: int, read: Any = None) -> tuple[Any, ...]:
        rows, own = self._rows_from(first)
        images, labels = _taken(self._split, rows, self.layout) if read is None else read
        images, left = data.for_device(self._preprocessing, images)
        if self.layout is not None:
            images, labels = self.layout.put((images, labels), rows=True)
        return left, images, labels, own


def _taken(arrays: Any, rows: np.ndarray, layout: Layout | None) -> Any:
    """Rows of each array, of those on the device by one program; with a layout in parts."""
    if isinstance(jax.tree.leaves(arrays)[0], Array):
        return _gather(arrays, rows, layout)
    return jax.tree.map(lambda a: a[rows], arrays)


@partial(jax.jit, static_argnums=2)
def _gather(arrays: Any, rows: Array, layout: Layout | None) -> Any:
    found = jax.tree.map(lambda a: a.at[rows].get(mode="promise_in_bounds"), arrays)
    return found if layout is None else layout.cut(found)


def evaluate_rows(
    net: Net, trained: Any, batches: Batches, goal: Goal, *, metrics_only: bool = False
) -> dict[str, Any]:
    """What `numbers` turns into what `evaluate` returns, still on the device.

    An accuracy is counted batch by batch; for all else the outputs are kept.
    """
    counts_answers = accuracy in goal.metrics.values()
    params, state = trained[:2]
    door = None if batches.layout is None else batches.layout.door(params)
    places = None if door is None else tuple(jax.tree.leaves(door))
    forward = compiled(net.apply, _forward, ignored_label(goal.loss), counts_answers, places)
    functions = goal.metrics if metrics_only else goal.metrics | {"loss": goal.loss}
    whole = any(function is not accuracy for function in functions.values())
    outputs, counts = [], []
    for batch in batches:
        output, *found = forward(params, state, *batch)
        counts.append(found)
        if whole:
            outputs.append(output)
    return {
        name: counts
        if function is accuracy
        else compiled(function, _measure)(outputs, batches.labels)
        for name, function in functions.items()
    }


def numbers(measured: dict[str, Any], goal: Goal) -> dict[str, float]:
    """The floats of what `evaluate_rows` found, fetched, in the goal's order."""
    found = {}
    for name in (*goal.metrics, "loss"):
        if name not in measured:
            continue
        value = measured[name]
        if isinstance(value, list):  # right answers and what counts, batch by batch
            right, counted = np.array(value).sum(0)
            value = right / counted if counted else np.nan
        found[name] = float(value)
    return found


class Measurer:
    """What a row of a run's history says of a state: the splits' batches, kept from row to row."""

    def __init__(
        self,
        net: Net,
        goal: Goal,
        setting: Setting,
        held: tuple[Any, Any],
        seed: int,
    ):
        def batches(held: Any, rows: np.ndarray) -> Batches:
            size = setting.evaluation_batch_size
            return Batches(held[0], rows, held[1], size, setting.layout)

        self._net, self._goal = net, goal
        self._train = batches(held[0], setting.accuracy_rows(seed))
        self._val = None
        if setting.val is not None:
            self._val = batches(held[1], np.arange(len(setting.val.labels)))

    def __call__(self, trained: Any) -> dict[str, float | None]:
        """The metrics of both splits and the loss of the second, by one question."""
        goal = self._goal
        train = evaluate_rows(self._net, trained, self._train, goal, metrics_only=True)
        val = None
        if self._val is not None:
            val = evaluate_rows(self._net, trained, self._val, goal)
        train, val = jax.device_get((train, val))
        on_val = dict.fromkeys((*goal.metrics, "loss")) if val is None else numbers(val, goal)
        found = {f"train_{name}": value for name, value in numbers(train, goal).items()}
        return found | {f"val_{name}": value for name, value in on_val.items()}


def _forward(
    apply: Callable[..., Any],
    ignore_index: int | None,
    counts_answers: bool,
    places: tuple[Sharding, ...] | None,
    params: Any,
    state: Any,
    preprocessing: data.Preprocessing,
    images: Array,
    labels: Array,
    own: Array,
) -> tuple[Array, ...]:
    """The net's output, and how many of the batch's own answers are right and how many count."""
    x = data.preprocess(preprocessing, images, float_dtype(params))
    if places is not None:
        door = jax.tree.unflatten(jax.tree.structure(params), places)
        params = lax.with_sharding_constraint(params, door)
    output = wide(apply(params, state, x, train=False)[0])
    if not counts_answers:
        return (output,)
    right, counted = answers(output, labels, ignore_index)
    own = jnp.expand_dims(own, range(1, right.ndim))
    return output, (own & right).sum(), (own & counted).sum()


def _measure(function: Callable[..., Array], outputs: list[Array], labels: Array) -> Array:
    """A loss or metric of all rows at once, which only it knows how to make of its rows."""
    output = jnp.concatenate(outputs)[: len(labels)]
    if jnp.issubdtype(labels.dtype, jnp.floating):
        labels = labels.astype(output.dtype)
    value = function(output, labels)
    if jnp.shape(value):
        name = getattr(function, "__name__", repr(function))
        raise ValueError(
            f"evaluate: {name} gives the shape {jnp.shape(value)} of a split, expected a scalar."
        )
    return value


_PROGRAMS: dict[Any, Callable[..., Any]] = {}


def compiled(owner: Any, body: Callable[..., Any], *static: Any) -> Callable[..., Any]:
    """`body(owner, *static, ...)` compiled, once while its owner lives, and freed with it."""
    key = id(owner), body, static
    if key not in _PROGRAMS:
        forget = partial(_PROGRAMS.pop, key, None)  # when Python ends, the module may go first
        alive = weakref.ref(owner, lambda _: forget())
        # No program holds its owner: it would keep alive what it is to be freed with.
        _PROGRAMS[key] = jax.jit(lambda *arguments: body(alive(), *static, *arguments))
    return _PROGRAMS[key]
