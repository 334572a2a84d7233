"""Where numbers go wrong in a net: the sizes of activations and gradients, layer by layer."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet import losses, nets
from funcnet._validate import saved_name
from funcnet.kernels import wide
from funcnet.nets import Net
from funcnet.train._epoch import unsearched
from funcnet.train._step import TrainState, make_objective, norm


class Sizes(NamedTuple):
    """The sizes of the numbers in one tensor, or in several together.

    `rms` and `max_abs` are of the finite ones; `nonfinite` of the `size` numbers are not.
    """

    rms: float
    max_abs: float
    nonfinite: int
    size: int


class LayerSizes(NamedTuple):
    """What one layer holds, gives and gets: its parameters, its output, and the gradients of both.

    None where there is no such tensor.
    """

    name: str
    params: Sizes | None
    output: Sizes
    output_grad: Sizes | None
    params_grad: Sizes | None


class Diagnosis(NamedTuple):
    """What `diagnose` returns; `str` gives the table.

    `where` is the layer (or "input" or "loss") at which numbers stop being finite, None where all
    are; `what` names the first tensor that is not.
    """

    loss: float
    grad_norm: float
    where: str | None
    what: str
    rows: tuple[LayerSizes, ...]

    def __str__(self) -> str:
        titles = ("layer", "parameters", "output", "output's gradient", "parameters' gradient")
        lines = [titles, *((row.name, *map(_cell, row[1:])) for row in self.rows)]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        marks = ["", *("  <- " + self.what if row.name == self.where else "" for row in self.rows)]
        text = [
            "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip()
            + mark
            for line, mark in zip(lines, marks, strict=True)
        ]
        said = "all numbers are finite" if self.where is None else f"starts in {self.what}"
        last = f"loss {self.loss:.4g}, norm of the gradient {self.grad_norm:.4g}: {said}"
        return "\n".join([*text, "(rms, largest, and how many are not finite)", last])


def _cell(sizes: Sizes | None) -> str:
    if sizes is None:
        return "-"
    bad = f"  {sizes.nonfinite} of {sizes.size}" if sizes.nonfinite else ""
    return f"{sizes.rms:.2e} {sizes.max_abs:.2e}{bad}"


@unsearched()
def diagnose(
    net: Net,
    state: TrainState,
    batch: tuple[Any, Any],
    loss: Callable[..., Array] = losses.softmax_cross_entropy,
    *,
    reg: Any = 0.0,
    label_smoothing: int | float = 0.0,
    compute_dtype: Any = None,
) -> Diagnosis:
    r"""Measures activations and gradients of a step, layer by layer, and finds what is not finite.

    The step is the one that `make_step` would do next, with its keys and its dtypes; nothing is
    updated. Blocks of `serial` and `residual` are measured one by one (what is fused in training is
    taken apart, what `remat` hides is opened), and a stranger's net is one layer. The forward pass
    is searched first, in its order, then the backward pass in its own. `fit` calls this when a run
    ends at a loss or a gradient that is not finite.

    Args:
      net: the net.
      state: the run's state before the step.
      batch: (x, y), preprocessed as for the step.
      loss: `loss(output, labels)`.
      reg: the strength of the L2 penalty.
      label_smoothing: passed to the loss, where it is not 0.
      compute_dtype: the dtype that the net runs in.

    Returns:
      The `Diagnosis`; print it.

    Raises:
      TypeError: `net` is not a net, or `compute_dtype` not a floating dtype.
      ValueError: the loss takes no label smoothing.

    >>> from funcnet import optimizers, train
    >>> net = nets.two_layer_net(4, classes=3)
    >>> state = train.init_state(net, optimizers.sgd(0.1), jax.random.key(0), (5,), jnp.float64)
    >>> x, y = jnp.ones((2, 5)), jnp.array([0, 2])
    >>> diagnose(net, state, (x, y)).where is None
    True
    >>> w = state.params["affine2"].w.at[1, 2].set(jnp.inf)
    >>> state.params["affine2"] = state.params["affine2"]._replace(w=w)
    >>> found = diagnose(net, state, (x, y))
    >>> found.where, found.what
    ('affine2', 'affine2.w, a parameter (1 of 12 not finite)')
    """
    if not isinstance(net, Net):
        raise TypeError(f"diagnose: net is {net!r}, expected a nets.Net(init, apply).")
    # Whatever NumPy makes an array of, such as lists and tensors, as `fit` takes it.
    x, y = (a if isinstance(a, Array) else jax.device_put(np.asarray(a)) for a in batch)
    batch = x, y
    names: list[str] = []  # in the order of the forward pass

    def forward(params: Any, added: dict[str, Array]) -> Any:
        outputs: dict[str, Array] = {}  # of this trace alone, as tracers may not outlive theirs

        def seen(name: str, apply: Callable[..., Any]) -> Callable[..., Any]:
            def seeing(*args: Any, **options: Any) -> tuple[Array, Any]:
                y, state = apply(*args, **options)
                outputs[name] = y
                return y + added[name] if name in added else y, state

            return seeing

        watched = net._replace(apply=nets.walk(net, seen, apart=True))
        objective = make_objective("diagnose", watched, loss, reg, label_smoothing, compute_dtype)
        value, _ = objective(params, state, batch)
        names[:] = outputs
        return value, outputs

    shapes = jax.eval_shape(forward, state.params, {})[1]

    @jax.jit
    def measured(params: Any, x: Any) -> Any:
        # The gradient of what is added to a layer's output is the gradient of the output.
        zeros = {name: jnp.zeros(y.shape, y.dtype) for name, y in shapes.items()}
        both_ways = jax.value_and_grad(forward, argnums=(0, 1), has_aux=True)
        (value, given), (params_grad, output_grad) = both_ways(params, zeros)
        trees = {"output": given | {"input": x}, "output_grad": output_grad}
        trees |= {"params": _by_name(params), "params_grad": _by_name(params_grad)}
        sizes = {kind: {n: _sizes(a) for n, a in tree.items()} for kind, tree in trees.items()}
        return value, norm(params_grad, value.dtype), sizes

    value, grad_norm, found = jax.device_get(measured(state.params, batch[0]))
    sizes = {
        kind: {name: _read(numbers) for name, numbers in tree.items()}
        for kind, tree in found.items()
    }
    return _diagnosis(float(value), float(grad_norm), ["input", *names], sizes)


def _by_name(params: Any) -> dict[str, Array]:
    return {
        saved_name(path) or "params": leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    }


def _sizes(x: Any) -> Any:
    """Sizes as arrays: the sum of squares is taken of x over its largest, so as not to overflow."""
    x = jnp.asarray(x)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(jnp.float32)
    x = wide(x)
    finite = jnp.isfinite(x)
    size = jnp.where(finite, jnp.abs(x), jnp.zeros_like(x))
    largest = size.max(initial=0.0)
    scaled = size / jnp.where(largest > 0, largest, jnp.ones_like(largest))
    mean = jnp.square(scaled).sum() / jnp.maximum(finite.sum(), 1).astype(x.dtype)
    return largest * jnp.sqrt(mean), largest, (~finite).sum(), x.size


def _read(sizes: Any) -> Sizes:
    rms, largest, nonfinite, count = sizes
    return Sizes(float(rms), float(largest), int(nonfinite), int(count))


def _diagnosis(
    loss: float, grad_norm: float, names: list[str], sizes: dict[str, dict[str, Sizes]]
) -> Diagnosis:
    params, grads = sizes["params"], sizes["params_grad"]
    own = {name: [leaf for leaf in params if _owner(leaf, names) == name] for name in names}
    rows = tuple(
        LayerSizes(
            name,
            _together(params[leaf] for leaf in own[name]),
            sizes["output"][name],
            sizes["output_grad"].get(name),
            _together(grads[leaf] for leaf in own[name]),
        )
        for name in names
    )
    for where, what, found in _in_order(rows, own, params, grads, loss):
        if found.nonfinite:
            said = f"{what} ({found.nonfinite} of {found.size} not finite)"
            return Diagnosis(loss, grad_norm, where, said, rows)
    if not math.isfinite(grad_norm):
        leaf = max(grads, key=lambda name: grads[name].max_abs)
        said = f"the gradient of {leaf}: up to {grads[leaf].max_abs:.2e}, whose square overflows"
        return Diagnosis(loss, grad_norm, _owner(leaf, names), said, rows)
    return Diagnosis(loss, grad_norm, None, "", rows)


def _owner(leaf: str, names: list[str]) -> str:
    """The layer that a parameter belongs to; the first one, where no name says."""
    owners = [name for name in names if leaf == name or leaf.startswith(name + ".")]
    return max(owners, key=len) if owners else names[min(1, len(names) - 1)]


def _together(several: Iterator[Sizes]) -> Sizes | None:
    all_sizes = list(several)
    if not all_sizes:
        return None
    count = sum(sizes.size for sizes in all_sizes)
    squares = sum(sizes.rms**2 * (sizes.size - sizes.nonfinite) for sizes in all_sizes)
    nonfinite = sum(sizes.nonfinite for sizes in all_sizes)
    rms = (squares / max(count - nonfinite, 1)) ** 0.5
    return Sizes(rms, max(sizes.max_abs for sizes in all_sizes), nonfinite, count)


def _in_order(
    rows: tuple[LayerSizes, ...],
    own: dict[str, list[str]],
    params: dict[str, Sizes],
    grads: dict[str, Sizes],
    loss: float,
) -> Iterator[tuple[str, str, Sizes]]:
    """Every tensor as (layer, words, sizes) in the order in which a step computes it."""
    for row in rows:
        for leaf in own[row.name]:
            yield row.name, f"{leaf}, a parameter", params[leaf]
        what = "the input" if row.name == "input" else f"the output of {row.name}"
        yield row.name, what, row.output
    yield "loss", "the loss", Sizes(abs(loss), abs(loss), int(not math.isfinite(loss)), 1)
    after = "the loss"
    for row in reversed(rows):
        if row.output_grad is not None:
            what = f"the gradient of {row.name}'s output, which {after} gives back"
            yield after.removeprefix("the "), what, row.output_grad
        for leaf in own[row.name]:
            yield row.name, f"the gradient of {leaf}", grads[leaf]
        after = row.name
