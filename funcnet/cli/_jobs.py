"""What the options of `funcnet train` and `funcnet sweep` stand for, ready to be trained."""

from __future__ import annotations

import ast
import contextlib
import copy
import dataclasses
import difflib
import functools
import io
import logging
import os
import re
import shlex
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data, nets, sweep, train
from funcnet.cli import _stdout
from funcnet.cli import _train_folder as files
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError, expected_errors
from funcnet.cli._memory import require_room
from funcnet.cli._train_options import DataOptions, Options
from funcnet.train import engine


def loaded(options: DataOptions, say: Callable[[str], Any]) -> data.Dataset:
    """The data set that options name; `say` is told of downloads."""
    if settings.is_own(options):
        return _own(options)
    try:
        with _downloads_said(say):
            verify = not options.allow_unverified
            return data.load(options.name or "digits", options.data_dir, verify=verify)
    except data.DataFormatError as error:
        message = str(error).replace("verify=False", "--allow-unverified")
        raise data.DataFormatError(message) from error


def resolved_with_data(said: Options, say: Callable[[str], Any]) -> tuple[Options, data.Dataset]:
    """The options with nothing left unsaid, and their data, of which one's own say the recipe."""
    if settings.is_own(said.data):
        place = dataclasses.replace(said.data, name=os.path.abspath(said.data.name or ""))
        own = loaded(said.data, say)
        _warn_of_rare_classes(own)
        return settings.resolved(said._replace(data=place), own), own
    options = settings.resolved(said)
    return options, loaded(options.data, say)


def begun_with(
    config: dict[str, Any], say: Callable[[str], Any], **place: Any
) -> data.Dataset | None:
    """The data that a run was begun with, by its configuration; None where they are others by now.

    Args:
      config: what config.json holds.
      say: is told of downloads.
      place: options of the data that say where they lie now; None for where they lay.
    """
    moved = {name: value for name, value in place.items() if value is not None}
    options = settings.from_config(config["options"]).data
    dataset = loaded(dataclasses.replace(options, **moved), say)
    return dataset if config.get("data_sha256") == files.digest(dataset) else None


def at_precision(options: Options | None) -> contextlib.AbstractContextManager[Any]:
    """The precision of products, for all that is traced within; JAX's own where nothing is said."""
    name: Any = None if options is None else options.training.precision
    return jax.default_matmul_precision(None if name in (None, "default") else name)


def _own(options: DataOptions) -> data.Dataset:
    """Somebody's own data, read as the options say."""
    path = options.name or ""
    if not Path(path).exists():
        near = difflib.get_close_matches(path, data.SETS, 1)
        perhaps = f"; perhaps {near[0]}?" if near else ","
        raise CommandError(
            f"--data: there is no data set and no path {path}{perhaps} expected one of "
            f"{', '.join(data.SETS)}, or the path of a folder of pictures in folders named as "
            "their classes, of an .npz, .csv, .tsv or .parquet."
        )
    try:
        return data.read(path, **settings.reader_options(options))
    except TypeError as error:
        if wrong := re.search(r"unexpected keyword argument '(\w+)'", str(error)):
            raise CommandError(
                f"{settings.flag(wrong[1])} is no option of what {path} is."
            ) from None
        raise
    except ValueError as error:
        raise CommandError(spoken(str(error))) from error


_QUOTED = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ARGUMENT = re.compile(
    rf"(?<![\w/])({'|'.join(settings.OWN)})=(?:\[({_QUOTED})\]|({_QUOTED})|([\w.]+))"
)


def spoken(message: str) -> str:
    """What `data` says of its arguments, in the words of the command line.

    >>> spoken("Leave it out by without=['room no'], or pass task='regression'.")
    "Leave it out by --without 'room no', or pass --task regression."
    """

    def option(found: re.Match[str]) -> str:
        quoted = found[2] or found[3]
        value = shlex.quote(ast.literal_eval(quoted)) if quoted else found[4]
        return f"{settings.flag(found[1])} {value}"

    return _ARGUMENT.sub(option, message).replace("Pass target,", "Pass --target,")


@contextlib.contextmanager
def expected_of_data() -> Iterator[None]:
    """As `expected_errors`, of what `data` says, in the words of the command line."""
    try:
        with expected_errors():
            yield
    except CommandError as error:
        raise CommandError(spoken(str(error)), error.code) from error.__cause__


@contextlib.contextmanager
def warnings_said(prog: str) -> Iterator[None]:
    """Says on stderr, in a line each, what was skipped or passed over."""
    with warnings.catch_warnings():
        others = warnings.showwarning

        def show(message: Any, category: Any, *place: Any, **more: Any) -> None:
            if category is RuntimeWarning:
                _stdout.say(f"{prog}: warning: {spoken(str(message))}")
            else:
                others(message, category, *place, **more)

        warnings.simplefilter("always", RuntimeWarning)
        # Why a run ended is said in the end.
        warnings.filterwarnings("ignore", ".*training ended there", RuntimeWarning)
        warnings.showwarning = show
        yield


def _warn_of_rare_classes(dataset: data.Dataset) -> None:
    """Warns of classes that are learned from a row and measured on none."""
    if dataset.task != "classification" or dataset.train.labels.ndim != 1:
        return
    labels = np.concatenate([split.labels for split in (dataset.train, dataset.val, dataset.test)])
    for index in np.flatnonzero(np.bincount(labels, minlength=dataset.num_classes) == 1):
        warnings.warn(
            f"{dataset.name}: class {dataset.classes[index]!r} has 1 row", RuntimeWarning, 3
        )


@contextlib.contextmanager
def _downloads_said(say: Callable[[str], Any]) -> Iterator[None]:
    """Says what `data.load` logs: that it downloads."""

    class Handler(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            say(record.getMessage())

    logger, handler = logging.getLogger("funcnet.data"), Handler(logging.INFO)
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.setLevel(level)
        logger.removeHandler(handler)


class Job:
    """Resolved options on their data; raises where the two do not fit."""

    def __init__(self, options: Options, dataset: data.Dataset):
        self.options, self.dataset = options, dataset
        training: Any = options.training
        rows = len(dataset.train.labels)
        self.batch_size: int = rows if training.sampling == "full" else training.batch_size
        if self.batch_size > rows:
            raise CommandError(
                f"--batch-size is {self.batch_size}, expected at most {rows}, the number of "
                f"training images of {options.data.name}."
            )
        self.steps_per_epoch = train.steps_per_epoch(rows, self.batch_size)
        if self.goal and options.stopping.patience is not None and not len(dataset.val.labels):
            raise CommandError(
                f"--patience needs validation rows, and {options.data.name} has none."
            )
        self.trial = self.member()
        net, shape = self.trial.net, dataset.input_shape

        def first_step(key: Any) -> Any:
            params, state = net.init(key, shape)
            x = jnp.zeros((self.batch_size, *shape), jnp.float32)
            return params, net.apply(params, state, x, train=True, key=key)

        # A batch of one may be too small for the net.
        params, _ = jax.eval_shape(first_step, jax.random.key(0))
        require_room(sum(leaf.size for leaf in jax.tree.leaves(params)))

    def member(self, **numbers: Any) -> sweep.Trial:
        """What is trained, with these numbers in the places of the options'; they may be traced."""
        options = with_numbers(self.options, numbers)
        training: Any = options.training
        net = settings.build_net(options.net, self.dataset.num_classes)
        if self.dataset.task == "regression":
            net = nets.rescaled(net, self.dataset.train.labels)
        return sweep.Trial(
            net,
            settings.build_optimizer(options.optimizer, self.steps_per_epoch),
            training.reg,
            self.loss,
            training.label_smoothing,
            None if training.compute_dtype == "float32" else training.compute_dtype,
            training.accumulate or 1,
        )

    @property
    def loss(self) -> Callable[..., Any]:
        """The loss of the options; of a named set that is no classification its task's own."""
        name: Any = self.options.training.loss
        if name in settings.LOSSES_OF[self.dataset.task]:
            return settings.LOSSES[name]
        if name != "softmax":
            raise CommandError(
                f"--loss is {name}, but {self.options.data.name} is a task of {self.dataset.task}, "
                "which has its own loss: leave the option out."
            )
        return self.goal.loss

    @functools.cached_property
    def goal(self) -> engine.Goal:
        """What the task is to do well at, and by which column its epochs are compared."""
        return engine.goal("train", self.dataset.task, best=self.options.stopping.best)

    def at_precision(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of products, for all that is traced within."""
        return at_precision(self.options)

    def preprocessing(self) -> data.Preprocessing:
        """What becomes of the pixels, fitted on the training images."""
        kind: Any = self.options.training.preprocessing
        return data.fit_preprocessing(self.dataset.train.images, kind, self.dataset.full_scale)

    def augment(self) -> Callable[..., Any] | None:
        """The augmentation, None for none."""
        name: Any = self.options.training.augment
        if name != "none" and len(self.dataset.input_shape) != 3:
            raise CommandError(
                f"--augment is {name}, expected none: the examples are no pictures but of shape "
                f"{self.dataset.input_shape}."
            )
        return settings.build_augmentation(name, self.dataset.train.images)

    @functools.cached_property
    def summary(self) -> nets.Summary:
        """The layers of the net."""
        with contextlib.redirect_stdout(io.StringIO()):  # it prints its table, and we another
            return nets.summary(self.trial.net, self.dataset.input_shape)

    def template(self) -> train.TrainState:
        """The structure, shapes and dtypes of the state that is trained."""
        key, (net, optimizer, *_) = jax.random.key(0), self.trial
        return jax.eval_shape(
            lambda: train.init_state(net, optimizer, key, self.dataset.input_shape)
        )


def with_numbers(options: Options, numbers: dict[str, Any]) -> Options:
    """The options with a member's numbers in their places, where they may be traced."""
    groups: Any = [copy.copy(group) for group in options]
    for group in groups:
        vars(group).update({k: v for k, v in numbers.items() if hasattr(group, k)})
    return Options(*groups)
