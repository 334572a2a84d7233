"""What the animals of the zoo are made of: sample arguments, and functions that several share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax


@dataclass(frozen=True)
class Animal:
    name: str
    f: Callable
    args: tuple
    options: dict[str, Any] = field(default_factory=dict)
    caught_by: str = ""
    looks_like: str = ""


BROKEN: list[Animal] = []
RIGHT: list[Animal] = []


def broken(name: str, f: Callable, *args: Any, by: str, like: str = "", **options: Any) -> None:
    BROKEN.append(Animal(name, f, args, options, by, like))


def right(name: str, f: Callable, *args: Any, **options: Any) -> None:
    RIGHT.append(Animal(name, f, args, options))


def rule(body: Callable, backward: Callable, forward: Callable | None = None, **options: Any):
    """`body` with a rule whose residuals are its arguments, unless `forward` says otherwise."""
    f = jax.custom_vjp(body, **options)
    f.defvjp(forward or (lambda *args: (body(*args), args)), backward)
    return f


def normal(*shape: int, seed: int = 0, dtype: Any = np.float32) -> np.ndarray:
    return np.random.default_rng([seed, *shape]).normal(size=shape).astype(dtype)


class Affine(NamedTuple):
    w: Any
    b: Any


class Twins(NamedTuple):
    left: Any
    right: Any


class Normalised(NamedTuple):
    y: Any
    mean: Any
    var: Any


def affine_body(params: Affine, x: Any) -> Any:
    return x @ params.w + params.b[None]


AFFINE = Affine(normal(3, 4), normal(4))
SQUARE = Affine(normal(4, 4), normal(4))
X = normal(5, 3)
IMAGES = normal(2, 5, 5, 3)


def affine_rule(**changed: Callable) -> Callable:
    def backward(residuals: Any, g: Any) -> Any:
        params, x = residuals
        dw = changed.get("dw", lambda x, g: x.T @ g)(x, g)
        db = changed.get("db", lambda g: g.sum(0))(g)
        dx = changed.get("dx", lambda g, w: g @ w.T)(g, params.w)
        return Affine(dw, db), dx

    return rule(affine_body, backward)


def like(gradient: Any, x: Any) -> Any:
    return gradient.astype(x.dtype)


def dropout_body(key: Any, x: Any) -> Any:
    return jnp.where(jax.random.bernoulli(key, 0.5, x.shape), 2 * x, 0)


def dropout_backward(residuals: Any, g: Any, *, again: bool) -> Any:
    key, _ = residuals
    key = jax.random.fold_in(key, 1) if again else key
    return None, jnp.where(jax.random.bernoulli(key, 0.5, g.shape), 2 * g, 0)


def standardise(x: Any, eps: float = 1e-5) -> Any:
    centred = x - x.mean(0, keepdims=True)
    return centred / jnp.sqrt((centred**2).mean(0, keepdims=True) + eps)


def standardise_rule(backward: Callable, eps: float = 1e-5) -> Callable:
    def pulled(residuals: Any, g: Any) -> Any:
        (x,) = residuals
        centred = x - x.mean(0, keepdims=True)
        inverse = lax.rsqrt((centred**2).mean(0, keepdims=True) + eps)
        return (backward(centred * inverse, inverse, g),)

    return rule(lambda x: standardise(x, eps), pulled)


def mean0(x: Any) -> Any:
    return x.mean(0, keepdims=True)


def picked(scores: Any, labels: Any) -> Any:
    return jnp.take_along_axis(scores, labels[:, None], 1)[:, 0]


def picked_backward(residuals: Any, g: Any, label_cotangent: Callable) -> Any:
    scores, labels = residuals
    hot = jax.nn.one_hot(labels, scores.shape[1], dtype=scores.dtype)
    return hot * g[:, None], label_cotangent(labels)


LABELS = np.array([0, 2, 1, 2, 0], np.int32)


def pairs_maximum(x: Any) -> Any:
    return x.reshape(-1, 2).max(1)
