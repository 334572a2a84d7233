"""A trained net in a folder: what it computes as JSON, its numbers beside it."""

from __future__ import annotations

import functools
import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, get_args

import jax
import jax.numpy as jnp
import optax

from funcnet import losses, nets
from funcnet._files import replacing
from funcnet._validate import float_dtype
from funcnet.checkpoint._arrays import CheckpointError
from funcnet.checkpoint._params import load_params, save_params
from funcnet.data import Task
from funcnet.nets import Net
from funcnet.train import Trained, init_state, metrics

MODEL, PARAMS = "model.json", "best.npz"
_FORMAT = 1


def save_trained(folder: str | os.PathLike[str], trained: Trained) -> None:
    r"""Writes a trained net into a folder, for `load_trained`: `best.npz` and `model.json`.

    Args:
      folder: the folder; it is made where it is not there.
      trained: `run.trained`.

    Raises:
      OSError: the folder cannot be written.
      TypeError: it is no `Trained`, a leaf is not an array of numbers, or a class has a name that
        JSON does not hold.

    >>> import tempfile
    >>> from funcnet import data, nets, optimizers, train
    >>> dataset, net = data.synthetic(sizes=(60, 20, 20), classes=3), nets.affine(3)
    >>> run = train.fit(net, dataset, optimizers.adam(0.1), epochs=1, batch_size=20)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save_trained(folder, run.trained)
    ...     again = load_trained(folder)
    >>> bool((again.predict(dataset.test.images) == run.trained.predict(dataset.test.images)).all())
    True
    """
    if not isinstance(trained, Trained):
        raise TypeError(
            f"save_trained: trained is a {type(trained).__name__}, expected run.trained."
        )
    try:
        model = json.dumps(describe(trained), indent=2, allow_nan=False) + "\n"
    except (TypeError, ValueError) as error:
        raise TypeError(f"save_trained: the classes or how they were read: {error}.") from None
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    save_params(folder / PARAMS, trained.params, trained.state, trained.preprocessing)
    with replacing(folder / MODEL) as file:
        file.write(model.encode())


def load_trained(folder: str | os.PathLike[str], net: Net | None = None) -> Trained:
    r"""Reads a trained net from a run's folder, or from wherever `save_trained` wrote it.

    Neither the data nor the script that trained it are needed. Nothing of the folder is executed:
    the net is made of the functions of `nets` by their names.

    Args:
      folder: the folder of a run of `funcnet train`, or of `save_trained`.
      net: the net itself, where it is not made of the functions of `nets` alone.

    Returns:
      The net, ready for use.

    Raises:
      CheckpointError: a file is damaged, or its numbers are those of another net, or are missing.
      FileNotFoundError: there is no trained net in the folder.
      ValueError: the net is somebody's own, and is not given; or it computes in float64, and JAX
        runs without x64.
    """
    folder = Path(folder)
    path = folder / MODEL
    if not path.is_file():
        raise FileNotFoundError(
            f"{folder} holds no trained net: there is no {MODEL}. A run writes it when it ends; "
            "one that was stopped goes on by funcnet train --resume."
        )
    try:
        model = json.loads(path.read_bytes())
        own = model["net"] is None
        found = net if net is not None or own else nets.from_config(model["net"])
        fields = _fields(model)
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        raise CheckpointError(
            f"{path} is damaged, or of another version of funcnet: {error}."
        ) from None
    if found is None:
        raise ValueError(
            f"{folder}: its net is not made of the functions of funcnet.nets alone; pass the net "
            "that was trained, funcnet.load(folder, net=net)."
        )
    dtype = jnp.dtype(fields.pop("dtype"))
    if jax.dtypes.canonicalize_dtype(dtype) != dtype:
        raise ValueError(
            f"{folder}: its net computes in {dtype}, which JAX is without; load and use it under "
            '`with jax.enable_x64():`, or after jax.config.update("jax_enable_x64", True).'
        )
    try:
        template = jax.eval_shape(
            lambda: init_state(
                found, optax.identity(), jax.random.key(0), fields["input_shape"], dtype
            )
        )
    except (ValueError, TypeError) as error:
        raise CheckpointError(f"{path} does not fit its net: {error}") from None
    if not (folder / PARAMS).is_file():
        raise CheckpointError(
            f"{folder} has a {MODEL}, but its {PARAMS}, the parameters of the net, is missing; put "
            "it back, or write it anew from the run's checkpoints by funcnet train --resume."
        )
    params, state, preprocessing = load_params(folder / PARAMS, *template[:2])
    if preprocessing is None:
        raise CheckpointError(f"{folder / PARAMS} does not say how its examples are preprocessed.")
    return Trained(found, params, state, preprocessing, **fields)


def describe(trained: Trained) -> dict[str, Any]:
    r"""What `save_trained` writes of a trained net beside its arrays, as JSON has it.

    Args:
      trained: `run.trained`.

    Returns:
      The net (`nets.to_config`; None where it is somebody's own), what it takes and gives, and the
      versions that it was trained with.
    """
    return {
        "format": _FORMAT,
        "net": None if trained.net.made is None else nets.to_config(trained.net),
        "dtype": float_dtype(trained.params).name,
        "input_shape": trained.input_shape,
        "task": trained.task,
        "classes": [name.item() if hasattr(name, "item") else name for name in trained.classes],
        "loss": _loss_config(trained.loss),
        "metrics": _metric_names(trained.metrics),
        "reading": trained.reading,
        "versions": dict(trained.versions),
    }


def _fields(model: Mapping[str, Any]) -> dict[str, Any]:
    """What `describe` gave, checked: the arguments of `Trained` behind the arrays, and dtype."""
    if model["format"] != _FORMAT:
        raise ValueError(f"its format is {model['format']!r}, expected {_FORMAT}")
    shape, classes, task, reading = (
        model[n] for n in ("input_shape", "classes", "task", "reading")
    )
    if not (isinstance(shape, list) and all(type(size) is int and size > 0 for size in shape)):
        raise ValueError(f"input_shape is {shape!r}, expected sizes")
    named = isinstance(classes, list) and all(type(name) in (str, int, float) for name in classes)
    if not named or not classes:
        raise ValueError("classes are expected to be a list of names")
    if task not in get_args(Task):
        raise ValueError(f"task is {task!r}, expected one of {', '.join(get_args(Task))}")
    if model["dtype"] not in ("float16", "bfloat16", "float32", "float64"):
        raise ValueError(f"dtype is {model['dtype']!r}, expected one of floats")
    if not isinstance(reading, dict | None):
        raise ValueError("reading is expected to be a mapping")
    return {
        "dtype": model["dtype"],
        "classes": tuple(classes),
        "input_shape": tuple(shape),
        "task": task,
        "loss": _loss_of(model["loss"]),
        "metrics": _metrics_of(model["metrics"]),
        "reading": reading,
        "versions": {str(name): str(version) for name, version in model["versions"].items()},
    }


def _loss_config(loss: Callable[..., Any] | None) -> dict[str, Any] | None:
    """A loss of `losses` by its name and its options of numbers and words; None for any other."""
    function, options = loss, {}
    if isinstance(loss, functools.partial) and not loss.args:
        function, options = loss.func, loss.keywords
    plain = all(isinstance(value, str | int | float | None) for value in options.values())
    for name in losses.__all__ if plain else ():
        if function is getattr(losses, name):
            return {"loss": name, **options}
    return None


def _metric_names(given: Mapping[str, Any] | None) -> dict[str, str] | None:
    """Metrics of `train.metrics` by their names there; None, for the task's own, for any other."""
    named = {getattr(metrics, name): name for name in metrics.__all__}
    if given is None or any(metric not in named for metric in given.values()):
        return None
    return {name: named[metric] for name, metric in given.items()}


def _metrics_of(names: Mapping[str, str] | None) -> dict[str, Any] | None:
    if names is None:
        return None
    unknown = set(names.values()) - set(metrics.__all__)
    if unknown:
        raise ValueError(f"metrics has {unknown.pop()!r}, expected one of train.metrics")
    return {str(name): getattr(metrics, metric) for name, metric in names.items()}


def _loss_of(config: Mapping[str, Any] | None) -> Callable[..., Any] | None:
    if config is None:
        return None
    options = {key: value for key, value in config.items() if key != "loss"}
    if config["loss"] not in losses.__all__:
        raise ValueError(f"loss is {config['loss']!r}, expected one of {', '.join(losses.__all__)}")
    loss = getattr(losses, config["loss"])
    return functools.partial(loss, **options) if options else loss
