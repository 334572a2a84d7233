"""What public functions say to wrong input: what came, what was expected, how to mend it."""

from __future__ import annotations

import operator
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array
from jax.typing import ArrayLike

_WORDS = {"1": True, "true": True, "yes": True, "on": True}
_WORDS |= {"0": False, "false": False, "no": False, "off": False}
FLOATING = (jnp.float64, jnp.float32, jnp.bfloat16, jnp.float16)


def floating(function: str, name: str, value: ArrayLike) -> Array:
    """Returns `value` as an array of a floating dtype, or raises TypeError."""
    if not hasattr(value, "dtype") and not isinstance(value, (int, float)):
        raise TypeError(
            f"{function}: {name} is a {type(value).__name__}, expected an array of floats; "
            f"convert it with jnp.asarray({name})."
        )
    array = jnp.asarray(value)
    if array.dtype not in FLOATING:
        raise TypeError(
            f"{function}: {name} has dtype {array.dtype}, expected float64, float32, bfloat16 or "
            f"float16; convert it with {name}.astype(jnp.float32)."
        )
    return array


def integers(function: str, name: str, value: ArrayLike) -> Array:
    """Returns `value` as an array of integers, or raises TypeError."""
    array = jnp.asarray(value)
    if not jnp.issubdtype(array.dtype, jnp.integer):
        raise TypeError(
            f"{function}: {name} has dtype {array.dtype}, expected integers: the index of each "
            f"row's class. One-hot rows become indices with {name}.argmax(-1)."
        )
    return array


def rank(
    function: str,
    name: str,
    array: Array | jax.ShapeDtypeStruct,
    ranks: tuple[int, ...],
    meaning: str,
) -> None:
    """Raises ValueError unless `array` has one of `ranks` axes."""
    if array.ndim not in ranks:
        expected = " or ".join(str(r) for r in ranks)
        raise ValueError(
            f"{function}: {name} has shape {array.shape}, expected {expected} axes: {meaning}."
        )


def shape(function: str, name: str, array: Array, expected: tuple[int, ...], why: str) -> None:
    """Raises ValueError unless `array` has exactly the expected shape."""
    if array.shape != expected:
        raise ValueError(
            f"{function}: {name} has shape {array.shape}, expected {expected}, because {why}."
        )


def number(
    function: str,
    name: str,
    value: Any,
    *,
    low: float,
    high: float = float("inf"),
    include_low: bool = True,
    include_high: bool = False,
    hint: str = "",
) -> int | float:
    """Returns a static number within its interval, or raises TypeError or ValueError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        try:
            value = float(value)
        except Exception:
            raise TypeError(
                f"{function}: {name} is {value!r}, expected a Python number: it is static, a part "
                "of the program and not of its data."
            ) from None
    inside = (value >= low if include_low else value > low) and (
        value <= high if include_high else value < high
    )
    if not inside:
        left, right = "[" if include_low else "(", "]" if include_high else ")"
        raise ValueError(
            f"{function}: {name} is {value}, expected a number in {left}{low}, {high}{right}."
            + (f" {hint}" if hint else "")
        )
    return value


def count(function: str, name: str, value: Any, *, low: int = 1) -> int:
    """Returns an int of at least `low`, or raises TypeError or ValueError."""
    index = _index(value)
    if index is None:
        raise TypeError(f"{function}: {name} is {value!r}, expected an int of at least {low}.")
    if index < low:
        raise ValueError(f"{function}: {name} is {value}, expected an int of at least {low}.")
    return index


def seed(function: str, name: str, value: Any) -> int:
    """Returns a seed, an int of 0 to 2^32 - 1, or raises TypeError or ValueError.

    Of a larger one `jax.random.key` keeps the lower 32 bits in silence, or with x64 all of them:
    another run by another flag, or the run of another seed.
    """
    index = _index(value)
    if index is None:
        raise TypeError(f"{function}: {name} is {value!r}, expected an int of 0 to 2^32 - 1.")
    if not 0 <= index < 2**32:
        raise ValueError(f"{function}: {name} is {value}, expected an int of 0 to 2^32 - 1.")
    return index


def _index(value: Any) -> int | None:
    """The int that `value` is, None where it is none: arrays of floats have an `__index__` too."""
    try:
        return None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        return None


def pair(function: str, name: str, value: Any, *, low: int = 1) -> tuple[int, int]:
    """Returns an int or a pair of ints as (height, width), or raises TypeError or ValueError."""
    both = (value, value) if not isinstance(value, (tuple, list)) else tuple(value)
    ints = [i for i in map(_index, both) if i is not None]
    if not len(both) == len(ints) == 2:
        raise TypeError(
            f"{function}: {name} is {value!r}, expected an int or a pair of ints (height, width)."
        )
    if min(ints) < low:
        raise ValueError(f"{function}: {name} is {value!r}, expected at least {low}.")
    return ints[0], ints[1]


def leaf_name(path: Any, root: str = "") -> str:
    """The name of a leaf in messages, as in `opt_state[0].mu.affine1.w`, from its path in a tree.

    >>> ((path, _),) = jax.tree.leaves_with_path({"affine1": [1.0]})
    >>> leaf_name(path), leaf_name(path, "params")
    ('affine1[0]', 'params.affine1[0]')
    """
    name = root + plain_path(jax.tree_util.keystr(path))
    return name if root else name.removeprefix(".")


def saved_name(path: Any) -> str:
    """The name of a leaf in files and in rules of placement, as in `opt_state.0.mu.affine1.w`.

    >>> ((path, _),) = jax.tree.leaves_with_path({"affine1": [1.0]})
    >>> saved_name(path)
    'affine1.0'
    """
    return jax.tree_util.keystr(path, simple=True, separator=".")


def is_key(leaf: Any) -> bool:
    """Whether a leaf is a typed PRNG key, whose dtype says which implementation it is of."""
    return hasattr(leaf, "dtype") and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def leaf_names(tree: Any, root: str = "") -> list[str]:
    """The names of a tree's leaves, in order; a tree that is a leaf has the root's alone."""
    return [leaf_name(path, root) for path, _ in jax.tree_util.tree_leaves_with_path(tree)]


def plain_path(text: str) -> str:
    """Text with `['affine1']` as `.affine1` in it."""
    return re.sub(r"\['([^']+)'\]", r".\1", text)


def enabled(variable: str, default: bool = True) -> bool:
    """Whether a variable of the environment says yes, in any case; `default` if unset or empty."""
    word = os.environ.get(variable, "").strip()
    if not word:
        return default
    if word.lower() not in _WORDS:
        raise ValueError(
            f"the environment variable {variable} is {word!r}, expected one of "
            f"{', '.join(_WORDS)}; unset it for {'on' if default else 'off'}."
        )
    return _WORDS[word.lower()]


WINOGRAD = "FUNCNET_WINOGRAD", ("0", "2", "4"), "2"  # outputs a side, see `kernels.use_native`


def said(variable: str, words: tuple[str, ...], default: str) -> str:
    """What a variable of the environment says, one of `words`; `default` if unset or empty."""
    word = os.environ.get(variable, "").strip() or default
    if word not in words:
        raise ValueError(
            f"the environment variable {variable} is {word!r}, expected one of "
            f"{', '.join(words)}; unset it for {default}."
        )
    return word


def example_shape(function: str, value: Any) -> tuple[int, ...]:
    """Returns the shape of one example as a tuple of ints, or raises TypeError or ValueError."""
    if not isinstance(value, (tuple, list)):
        raise TypeError(
            f"{function}: input_shape is {value!r}, expected the shape of one example without the "
            "batch, such as (3072,) or (32, 32, 3)."
        )
    return tuple(count(function, f"input_shape[{i}]", v) for i, v in enumerate(value))


def float_dtype(tree: Any) -> Any:
    """The dtype of the first floating leaf; float32 where there is none."""
    for leaf in jax.tree.leaves(tree):
        if jnp.issubdtype(leaf.dtype, jnp.floating):
            return leaf.dtype
    return jnp.dtype(jnp.float32)
