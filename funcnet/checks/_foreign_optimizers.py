"""Optimizers of other libraries as (init, update) pairs: torch's, Keras's, whatever is given."""

from __future__ import annotations

import contextlib
import copy
import functools
import inspect
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

INSTALL = "{0}_optimizer: {0} is not installed; run `pip install {0}`."


@dataclass(frozen=True)
class EagerOptimizer:
    """An (init, update) pair that cannot be traced: its state is an object of another library.

    Its updates are what the parameters moved by, and so carry the parameters' rounding.
    """

    init: Callable[[Any], Any]
    update: Callable[[Any, Any, Any], tuple[Any, Any]]
    name: str = ""


# torch ---------------------------------------------------------------------------------------


def torch_optimizer(factory: Callable[[list[Any]], Any]) -> EagerOptimizer:
    """Wraps a torch optimizer as an (init, update) pair, for `check_optimizer` to compare with.

    The update is what the parameters moved by; so it carries the rounding of the parameters, which
    `check_optimizer` allows for. Zero gradients are passed as zeros, and not as None. Parameters
    of float64 make torch's default dtype float64 meanwhile: NAdam keeps a number in it.

    Args:
        factory: A function of a list of torch tensors to a `torch.optim.Optimizer`.

    Returns:
        A pair whose `update` runs eagerly, in the precision of the parameters.

    Raises:
        ImportError: When torch is not installed and the pair is used.

    >>> import optax, torch  # doctest: +SKIP
    >>> adam = torch_optimizer(lambda params: torch.optim.Adam(params, lr=0.1))  # doctest: +SKIP
    >>> check_optimizer(optax.adam(0.1), adam, params).raise_if_bad()  # doctest: +SKIP
    """

    def init(params: Any) -> Any:
        try:
            import torch
        except ImportError as error:
            raise ImportError(INSTALL.format("torch")) from error
        leaves = jax.tree.leaves(params)
        tensors = [_tensor(x).requires_grad_() for x in leaves]
        with _default_dtype(torch, tensors):
            made = factory(tensors)
        if not _is_torch(made):
            raise TypeError(
                f"torch_optimizer: {label(factory) or 'the function'} gave "
                f"{type(made).__name__} for a list of tensors, expected a torch.optim.Optimizer."
            )
        return made, tensors

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        import torch

        optimizer, tensors = state
        before = jax.tree.leaves(params)
        with torch.no_grad():
            for tensor, value, grad in zip(tensors, before, jax.tree.leaves(grads), strict=True):
                tensor.copy_(_tensor(value))
                tensor.grad = _tensor(grad)
        with _default_dtype(torch, tensors):
            optimizer.step()
        after = [t.detach().to(torch.float64).numpy() for t in tensors]
        return _like(params, _moved(before, after)), state

    return EagerOptimizer(init, update, label(factory))


@contextlib.contextmanager
def _default_dtype(torch: Any, tensors: list[Any]) -> Iterator[None]:
    """Torch's default dtype is float64 where a tensor's is."""
    before = torch.get_default_dtype()
    wide = any(tensor.dtype == torch.float64 for tensor in tensors)
    torch.set_default_dtype(torch.float64 if wide else before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)


def _tensor(array: Any) -> Any:
    """A torch tensor of an array's own dtype; NumPy's bfloat16 is not known to torch."""
    import torch

    array = np.asarray(array)
    wide = array.dtype if array.dtype.kind == "c" else np.float64
    return torch.from_numpy(np.array(array, wide)).to(getattr(torch, array.dtype.name))


def _moved(before: list[Any], after: list[Any]) -> list[np.ndarray]:
    """Updates, as differences in float64 that are rounded once."""
    with np.errstate(all="ignore"):
        return [
            np.asarray(x - np.asarray(p, np.float64)).astype(np.asarray(p).dtype)
            for p, x in zip(before, after, strict=True)
        ]


def _like(tree: Any, leaves: list[Any]) -> Any:
    return jax.tree.unflatten(jax.tree.structure(tree), leaves)


# Keras ---------------------------------------------------------------------------------------


def keras_optimizer(optimizer: Any) -> EagerOptimizer:
    """Wraps a Keras 3 optimizer as an (init, update) pair, for `check_optimizer` to compare with.

    Keras runs eagerly on the backend it was imported with, and arrays go in and come out through
    NumPy; so any backend will do (`KERAS_BACKEND` is read when Keras is imported). Parameters of
    float64 make Keras's `floatx` float64 meanwhile, which the learning rate is kept in: a rate
    that an instance keeps in float32 is read as the shortest decimal number that rounds to it.

    Args:
        optimizer: A class of `keras.optimizers`, a function without arguments that makes one, an
            optimizer (which is made anew from its config, its variables are not looked at), or
            what `keras.optimizers.serialize` gave.

    Returns:
        A pair whose `update` runs eagerly, in the precision of the parameters.

    Raises:
        ImportError: When Keras is not installed and the pair is used.

    >>> import keras, optax  # doctest: +SKIP
    >>> sgd = keras_optimizer(keras.optimizers.SGD(0.1))  # doctest: +SKIP
    >>> check_optimizer(optax.sgd(0.1), sgd, params).raise_if_bad()  # doctest: +SKIP
    """

    def init(params: Any) -> Any:
        keras = _keras()
        leaves = [np.asarray(x) for x in jax.tree.leaves(params)]
        with _floatx(keras, leaves):
            made = _made_anew(keras, optimizer)
            variables = [keras.Variable(x, dtype=x.dtype.name) for x in leaves]
            made.build(variables)
        return made, variables

    def update(grads: Any, state: Any, params: Any) -> tuple[Any, Any]:
        keras = _keras()
        made, variables = state
        before = jax.tree.leaves(params)
        given = []
        for variable, value, grad in zip(variables, before, jax.tree.leaves(grads), strict=True):
            variable.assign(np.asarray(value))
            given.append(keras.ops.convert_to_tensor(np.asarray(grad), dtype=variable.dtype))
        with _floatx(keras, before):
            made.apply(given, variables)
        after = [np.asarray(keras.ops.convert_to_numpy(v.value), np.float64) for v in variables]
        return _like(params, _moved(before, after)), state

    return EagerOptimizer(init, update, label(optimizer))


def _keras() -> Any:
    try:
        import keras
    except ImportError as error:
        raise ImportError(
            f"{INSTALL.format('keras')} It needs a backend: KERAS_BACKEND=jax is at hand."
        ) from error
    return keras


@contextlib.contextmanager
def _floatx(keras: Any, leaves: list[Any]) -> Iterator[None]:
    """Keras's dtype of rates and schedules is float64 where a leaf's is."""
    before = keras.config.floatx()
    wide = any(np.asarray(x).dtype == np.float64 for x in leaves)
    keras.config.set_floatx("float64" if wide else before)
    try:
        yield
    finally:
        keras.config.set_floatx(before)


def _made_anew(keras: Any, optimizer: Any) -> Any:
    if callable(optimizer):
        return optimizer()
    if not isinstance(optimizer, dict):
        with warnings.catch_warnings():  # NumPy's, of how Keras reads its own learning rate
            warnings.simplefilter("ignore", DeprecationWarning)
            optimizer = keras.optimizers.serialize(optimizer)
    config = copy.deepcopy(optimizer)  # which Keras writes to
    rate = config.get("config", {}).get("learning_rate")
    if isinstance(rate, float) and float(np.float32(rate)) == rate:
        config["config"]["learning_rate"] = float(str(np.float32(rate)))
    return keras.optimizers.deserialize(config)


# Whatever is given -----------------------------------------------------------------------------


def as_optimizer(optimizer: Any) -> Any:
    """Makes an (init, update) pair of an optimizer of funcnet, optax, torch or Keras.

    What a thing is, is seen from its methods: neither torch nor Keras is imported to find out.

    Args:
        optimizer: One of
            an (init, update) pair, as of funcnet and optax, which is returned as it is;
            a class of `torch.optim` or `keras.optimizers`;
            a torch or Keras optimizer: one with its options is made anew, its state left alone;
            a function of parameters to a torch optimizer, a `functools.partial` of a class too;
            a Keras config, as of `keras.optimizers.serialize`;
            a function without arguments that gives one of these;
            a pair of a class or function and its options: `(optax.adam, {"learning_rate": 0.1})`.

    Returns:
        The pair; an `EagerOptimizer` where it is torch's or Keras's.

    Raises:
        TypeError: When it is none of these.

    >>> import optax
    >>> as_optimizer((optax.sgd, {"learning_rate": 0.5})).update(1.0, optax.sgd(0.5).init(1.0))[0]
    -0.5
    """
    if _is_pair(optimizer):
        return optimizer
    if isinstance(optimizer, tuple) and len(optimizer) == 2 and callable(optimizer[0]):
        first, second = optimizer
        if callable(second):
            return optax.GradientTransformation(first, second)
        if isinstance(second, dict):
            return as_optimizer(functools.partial(first, **second))
    if isinstance(optimizer, dict) and "class_name" in optimizer:
        return keras_optimizer(optimizer)
    what: Any = optimizer.func if isinstance(optimizer, functools.partial) else optimizer
    if _is_keras(what):
        return keras_optimizer(optimizer)
    if _is_torch(what):
        return torch_optimizer(_torch_factory(optimizer))
    if callable(optimizer):
        needed = _needed(optimizer)
        if not needed:
            return as_optimizer(optimizer())
        if needed == ["learning_rate"]:
            name = getattr(what, "__name__", "it")
            raise TypeError(
                f"as_optimizer: {name} needs a learning rate; give {name}(0.001) or "
                f'({name}, {{"learning_rate": 0.001}}).'
            )
        if len(needed) == 1:
            return torch_optimizer(optimizer)
    raise TypeError(
        f"as_optimizer: got {optimizer!r}, expected an (init, update) pair, an optimizer of torch "
        "or Keras, its class, such a class with its options, or a function that makes one."
    )


def _is_pair(x: Any) -> bool:
    return callable(getattr(x, "init", None)) and callable(getattr(x, "update", None))


def _is_torch(x: Any) -> bool:
    """Whether a class or an object is an optimizer of torch."""
    return all(hasattr(x, name) for name in ("add_param_group", "zero_grad", "step"))


def _is_keras(x: Any) -> bool:
    """Whether a class or an object is an optimizer of Keras 3."""
    return hasattr(x, "stateless_apply") and hasattr(x, "update_step")


def _torch_factory(optimizer: Any) -> Any:
    """A class or a partial of one as it is; of an optimizer, one like it of other parameters."""
    if callable(optimizer):
        return optimizer
    if len(optimizer.param_groups) > 1:
        raise TypeError(
            f"as_optimizer: this {type(optimizer).__name__} has several groups of parameters; "
            "give a function of parameters to an optimizer."
        )
    known = inspect.signature(type(optimizer)).parameters
    options = {k: v for k, v in optimizer.param_groups[0].items() if k in known and k != "params"}
    make: Any = type(optimizer)
    return functools.partial(make, **options)


def _needed(function: Callable[..., Any]) -> list[str]:
    """The names of the arguments that a function cannot do without."""
    return [
        p.name
        for p in inspect.signature(function).parameters.values()
        if p.default is p.empty and p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
    ]


def label(optimizer: Any) -> str:
    """What a report calls an optimizer: `torch.Adam`, `keras.Adam`, `optax.adam`, or nothing."""
    if isinstance(optimizer, EagerOptimizer):
        return optimizer.name
    if isinstance(optimizer, tuple) and not _is_pair(optimizer):
        optimizer = optimizer[0]
    if isinstance(optimizer, functools.partial):
        optimizer = optimizer.func
    if isinstance(optimizer, dict):
        return f"keras.{optimizer.get('class_name')}"
    if _is_pair(optimizer):
        return _pair_label(optimizer.update)
    named = optimizer if hasattr(optimizer, "__name__") else type(optimizer)
    room = named.__module__.split(".")[0]
    return "" if named.__name__ == "<lambda>" else f"{room}.{named.__name__}"


def _pair_label(update: Any) -> str:
    """`funcnet.adam`, `optax.scale_by_adam`, which its Adam begins with, or who made the pair."""
    try:
        held = inspect.getclosurevars(update).nonlocals
    except TypeError:  # a method, a partial
        return ""
    if isinstance(held.get("function"), str):
        return f"funcnet.{held['function']}"
    inner = [getattr(held.get("tx"), "update", None), *held.get("update_fns", ())]
    names = [_pair_label(one) for one in inner if one is not None]
    if names:
        return next((name for name in names if name not in ("", "optax.identity")), "")
    maker, local, _ = update.__qualname__.partition(".<locals>")
    room = "optax." if update.__module__.startswith("optax.") else ""
    return room + maker if local else ""
