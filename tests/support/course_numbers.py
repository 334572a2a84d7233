"""How the courses draw their arrays, and the error by which they compare gradients."""

import jax
import jax.numpy as jnp
import numpy as np


def rel_error(x, y):
    x, y = np.asarray(x), np.asarray(y)
    return float(np.max(np.abs(x - y) / np.maximum(1e-8, np.abs(x) + np.abs(y))))


def linspace(low, high, *shape):
    return jax.device_put(np.linspace(low, high, int(np.prod(shape))).reshape(shape))


def gradient_errors(f, *args, dy=None, h=1e-5):
    """The courses' relative error of the rule against central differences, leaf by leaf.

    The differences are contracted with dy as the courses do: both outputs are rounded first.
    """
    leaves, tree = jax.tree.flatten(jax.device_get(args))
    steps = [h * np.eye(leaf.size).reshape(-1, *leaf.shape) for leaf in leaves]
    moved = [
        [leaf[None] + sign * step for sign in (1, -1)]
        for leaf, step in zip(leaves, steps, strict=True)
    ]

    def of_leaf(i):
        return lambda leaf: f(*jax.tree.unflatten(tree, [*leaves[:i], leaf, *leaves[i + 1 :]]))

    @jax.jit
    def both(args, moved, dy):
        y, pull = jax.vjp(f, *args)
        ct = jnp.ones_like(y) if dy is None else dy
        ends = [[jax.vmap(of_leaf(i))(end) for end in two] for i, two in enumerate(moved)]
        return ct, jax.tree.leaves(pull(ct)), ends

    ct, gradients, ends = jax.device_get(both(args, moved, dy))
    errors = []
    for leaf, gradient, (up, down) in zip(leaves, gradients, ends, strict=True):
        contracted = ((up - down) * ct).reshape(leaf.size, -1).sum(1)
        errors.append(rel_error(gradient, (contracted / (2 * h)).reshape(leaf.shape)))
    return errors


def randn(*shape):
    """The courses' own draws, in their own order."""
    return np.random.randn(*shape)  # noqa: NPY002


def randint(high, size):
    """The courses' own labels."""
    return np.random.randint(high, size=size)  # noqa: NPY002
