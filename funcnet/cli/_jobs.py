"""What the options of `funcnet train` and `funcnet sweep` stand for, ready to be trained."""

from __future__ import annotations

import contextlib
import copy
import functools
import io
import logging
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp

from funcnet import data, nets, sweep, train
from funcnet.cli import _train_options as settings
from funcnet.cli._command import CommandError
from funcnet.cli._memory import require_room
from funcnet.cli._train_options import DataOptions, Options


def loaded(options: DataOptions, say: Callable[[str], Any]) -> data.Dataset:
    """The data set that resolved options name; `say` is told of downloads."""
    try:
        with _downloads_said(say):
            verify = not options.allow_unverified
            return data.load(options.name or "", options.data_dir, verify=verify)
    except data.DataFormatError as error:
        message = str(error).replace("verify=False", "--allow-unverified")
        raise data.DataFormatError(message) from error


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
        return sweep.Trial(
            settings.build_net(options.net, self.dataset.num_classes),
            settings.build_optimizer(options.optimizer, self.steps_per_epoch),
            training.reg,
            settings.LOSSES[training.loss],
            training.label_smoothing,
            None if training.compute_dtype == "float32" else training.compute_dtype,
        )

    def at_precision(self) -> contextlib.AbstractContextManager[Any]:
        """The precision of products, for all that is traced within."""
        name: Any = self.options.training.precision
        return jax.default_matmul_precision(None if name in (None, "default") else name)

    def preprocessing(self) -> data.Preprocessing:
        """What becomes of the pixels, fitted on the training images."""
        kind: Any = self.options.training.preprocessing
        return data.fit_preprocessing(self.dataset.train.images, kind, self.dataset.full_scale)

    def augment(self) -> Callable[..., Any] | None:
        """The augmentation, None for none."""
        name: Any = self.options.training.augment
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
