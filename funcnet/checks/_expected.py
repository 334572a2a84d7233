"""What a rule that is no derivative should give instead: `expect=`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np


@dataclass(frozen=True)
class Pullback:
    """The gradients that a rule should give, as a function of cotangents and arguments.

    For rules whose backward pass is no derivative of any function: cotangents that are clipped or
    quantised, a "gradient" that carries the next value.

    Attributes:
        backward: `backward(cotangent, *args)`, of the structure of the function's output, to one
            gradient for each argument (None for zeros); a single one need not be in a tuple.

    >>> import jax, jax.numpy as jnp
    >>> from funcnet.checks import check_rule
    >>> clipped = jax.custom_vjp(lambda x: x)
    >>> clipped.defvjp(lambda x: (x, None), lambda _, ct: (jnp.clip(ct, -1, 1),))
    >>> x = jnp.array([1.0, 2.0])
    >>> check_rule(clipped, x, expect=Pullback(lambda ct, x: jnp.clip(ct, -1, 1))).verdict
    'by design'
    """

    backward: Callable[..., Any]

    def gradients(
        self, p: Any, cotangents: Sequence[Any], diff: Sequence[Any], rest: Sequence[Any]
    ) -> list[Any]:
        """The gradients of what is differentiated, in order."""
        given = iter(cotangents)
        leaves, tree = jax.tree.flatten(p.out)
        filled = [
            next(given).astype(leaf.dtype)
            if jax.dtypes.issubdtype(leaf.dtype, np.inexact)
            else np.zeros(leaf.shape, jax.dtypes.float0)
            for leaf in leaves
        ]
        arguments = p.arguments(diff, rest)[: p.own]
        found = self.backward(jax.tree.unflatten(tree, filled), *arguments, **p.static)
        if not isinstance(found, (tuple, list)) or len(arguments) == 1 != len(found):
            found = (found,)
        by_leaf: list[Any] = []
        for argument, gradient in zip(p.args[: p.own], found, strict=True):
            none = [None] * len(jax.tree.leaves(argument))
            own = jax.tree.leaves(gradient, is_leaf=lambda x: x is None)
            by_leaf += none if gradient is None else own
        by_leaf += [None] * (len(p.leaves) - len(by_leaf))

        def filled_in(x: Any, gradient: Any) -> Any:
            return jnp.zeros_like(x) if gradient is None else jnp.asarray(gradient).astype(x.dtype)

        return [filled_in(x, by_leaf[i]) for i, x in zip(p.where_diff, diff, strict=True)]
