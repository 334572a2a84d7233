"""What a trained net computes, as one function of raw examples."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from jax import Array

from funcnet import data
from funcnet._validate import float_dtype
from funcnet.kernels import wide
from funcnet.train import Trained

Examples = Literal["float32", "uint8"]
"""The dtype of the examples that an exported program takes."""


def program(function: str, trained: Trained, dtype: Examples) -> Callable[[Array], Array]:
    """Raw examples in, logits or targets out, the arguments checked: TypeError, ValueError."""
    if not isinstance(trained, Trained):
        raise TypeError(f"{function}: trained is a {type(trained).__name__}, expected run.trained.")
    if dtype not in get_args(Examples):
        raise ValueError(
            f"{function}: dtype is {dtype!r}, expected one of {', '.join(get_args(Examples))}."
        )

    def outputs(examples: Array) -> Array:
        x = data.preprocess(trained.preprocessing, examples, float_dtype(trained.params))
        return wide(trained.net.apply(trained.params, trained.state, x, train=False)[0])

    return outputs


def shape_of(trained: Trained, dtype: Examples, rows: Any = 1) -> jax.ShapeDtypeStruct:
    """A batch of examples, as a shape."""
    return jax.ShapeDtypeStruct((rows, *trained.input_shape), jnp.dtype(dtype))
