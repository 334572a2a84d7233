"""A sweep's programs: one member's run as traced functions, and three ways to run many of them."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax
from jax.sharding import Mesh, PartitionSpec

from funcnet import data, losses, train
from funcnet._jaxprs import traced
from funcnet._validate import float_dtype
from funcnet.kernels import wide
from funcnet.nets import Net
from funcnet.train import engine

How = Literal["vmap", "map", "loop"]
HOWS: tuple[How, ...] = ("loop", "map", "vmap")


class Trial(NamedTuple):
    """What one member of a sweep trains: the arguments of `train.make_step`.

    Numbers in it may be traced; what is no number is a part of the program, and the same for all.

    >>> from funcnet import nets, optimizers, sweep
    >>> sweep.Trial(nets.affine(3), optimizers.sgd(0.1)).reg
    0.0
    """

    net: Net
    optimizer: optax.GradientTransformation
    reg: Any = 0.0
    loss: Callable[..., Array] = losses.softmax_cross_entropy
    label_smoothing: int | float = 0.0
    compute_dtype: Any = None
    accumulate: int = 1


class Best(NamedTuple):
    """The best state so far, without its key, and its number of right answers (-1 before any)."""

    state: Any
    right: Any


class Plan(NamedTuple):
    """One member's run, as functions of its values and its key; static, the same for all members.

    `split` and `preprocessing` are arguments of the functions, as large arrays are no constants.
    """

    make: Callable[..., Trial]
    setting: engine.Setting
    dtype: Any

    def trial(self, values: Any) -> Trial:
        """What `make` makes of a member's values."""
        trial = self.make(**values)
        if not isinstance(trial, Trial):
            raise TypeError(
                f"sweep.run: make returned {trial!r}, expected sweep.Trial(net, optimizer)."
            )
        return trial

    def start(self, values: Any, key: Array) -> engine.Carry:
        """What `train.fit` starts from."""
        trial, shape = self.trial(values), self.setting.input_shape
        now = train.init_state(trial.net, trial.optimizer, key, shape, self.dtype)
        return engine.first_carry(now, 0, self.setting.steps)

    def step(self, at: engine.Carry, own: Any, *inputs: Any) -> engine.Carry:
        """The next step of an epoch, which changes nothing in a member that has stopped.

        Its loss is made NaN, whereupon the step's own guard keeps all as it is: that costs nothing,
        and a second guard would read the whole state once more.
        """
        values, rows = own
        trial, alive = self.trial(values), self.is_alive(at.streak)

        @functools.wraps(trial.loss)
        def loss(*args: Any, **options: Any) -> Array:
            value = trial.loss(*args, **options)
            return jnp.where(alive, value, jnp.full_like(value, jnp.nan))

        step = train.make_step(**trial._replace(loss=loss)._asdict())
        batch_of = self.setting.batch_of(float_dtype(at.train_state.params))
        after = engine.step_of_epoch(step, batch_of)(at, rows, *inputs)
        now, streak = after.train_state, jnp.where(alive, after.streak, at.streak)
        now = now._replace(step=jnp.where(alive, now.step, at.train_state.step))
        return after._replace(train_state=now, streak=streak)

    def is_alive(self, streak: Any) -> Any:
        """Whether the run has not ended, as `train.fit` ends one that is not finite."""
        return streak < self.setting.max_nonfinite

    def evaluate(self, best: Best, own: Any, splits: Any) -> Any:
        """The best state with this one counted in, and each split's (right answers, rows counted).

        `own` holds the values, the `engine.Carry`, and rows of the training split; `splits` are
        training and validation, each with its preprocessing and which rows of it to evaluate or
        to count, the latter perhaps None.
        """
        values, at, rows = own
        now: Any = engine.evaluated(at.train_state)
        trial, (on_train, own_rows), on_val = self.trial(values), splits[0], splits[1]
        ignore_index = engine.ignored_label(trial.loss)

        def right(held: Any, rows: Array, own_rows: Array) -> Array:
            split, preprocessing = held

            def of_batch(batch: Any) -> Array:
                rows, own_rows = batch
                images, labels = (a[rows] for a in split)
                x = data.preprocess(preprocessing, images, float_dtype(now.params))
                output = wide(trial.net.apply(now.params, now.state, x, train=False)[0])
                found = jnp.stack(engine.answers(output, labels, ignore_index))
                own_rows = jnp.expand_dims(own_rows, (0, *range(2, found.ndim)))
                return (own_rows & found).sum(range(1, found.ndim), dtype=jnp.int32)

            return lax.map(of_batch, (rows, own_rows)).sum(0, dtype=jnp.int32)

        train_right = right(on_train, rows, own_rows)
        if on_val is None:
            return best, train_right, jnp.zeros((2,), jnp.int32)
        val_right = right(*on_val)
        better = self.is_alive(at.streak) & (val_right[0] > best.right)
        kept = () if best.state == () else now._replace(key=None)
        state = jax.tree.map(partial(jnp.where, better), kept, best.state)
        return Best(state, jnp.where(better, val_right[0], best.right)), train_right, val_right


class Programs:
    """A plan's functions over a leading axis of members, compiled; with "loop" it has length 1.

    Its `step` is as `trace` has it, to be traced once for all ways. Over a mesh each device has as
    many of the members as the others, and runs them as one device does.
    """

    def __init__(
        self,
        plan: Plan,
        how: How,
        step: Callable[..., Any],
        looped: bool = True,
        mesh: Mesh | None = None,
    ):
        self.looped = looped

        def advance(at: engine.Carry, own: Any, count: Any, *inputs: Any) -> engine.Carry:
            if not looped:  # by `count`, one
                return step(at, own, *inputs)
            return lax.fori_loop(0, count, lambda _, at: step(at, own, *inputs), at)

        # Not compiled as a whole, as `fit` does not: fused, a float32 initialiser rounds otherwise.
        self.start = jax.vmap(plan.start)
        self.order = jax.vmap(plan.setting.order, in_axes=(0, None))  # of one program for all plans
        self._advance = jax.jit(over_members(how, advance, mesh), donate_argnums=0)
        self.evaluate = jax.jit(over_members(how, plan.evaluate, mesh), donate_argnums=0)

    def advance(self, at: engine.Carry, own: Any, count: int, *inputs: Any) -> engine.Carry:
        """Runs the next `count` steps of an epoch, and waits for them."""
        for turn in [count] if self.looped else [1] * count:
            at = self._advance(at, own, np.int32(turn), *inputs)
        return jax.block_until_ready(at)


def over_members(
    how: How, function: Callable[..., Any], mesh: Mesh | None = None
) -> Callable[..., Any]:
    """`function(a, b, *shared)` over the leading axis of `a` and `b`; "loop" takes one member.

    One a device, where a mesh has several.
    """

    def mapped(a: Any, b: Any, *shared: Any) -> Any:
        if how == "vmap":
            return jax.vmap(function, in_axes=(0, 0, *[None] * len(shared)))(a, b, *shared)
        if how == "map":
            return lax.map(lambda both: function(*both, *shared), (a, b))
        a, b = jax.tree.map(lambda leaf: leaf[0], (a, b))
        return jax.tree.map(lambda leaf: leaf[None], function(a, b, *shared))

    if mesh is None:
        return mapped
    own = PartitionSpec(mesh.axis_names)

    def spread(a: Any, b: Any, *shared: Any) -> Any:
        specs = (own, own, *[PartitionSpec()] * len(shared))
        # No device asks another for anything, so that nothing needs to say what varies over them.
        each = jax.shard_map(mapped, mesh=mesh, in_specs=specs, out_specs=own, check_vma=False)
        return each(a, b, *shared)

    return spread


class Traced(NamedTuple):
    """What tracing a plan tells: its first state's shapes, its step, and what XLA makes of it.

    `program` is text and arrays that are the same for the same computation; `loops_badly` says
    whether XLA's CPU backend would spoil the step inside a loop.
    """

    training: engine.Carry
    output_shape: tuple[int, ...]
    step: Callable[..., engine.Carry]
    program: tuple[Any, ...]
    loops_badly: bool


def trace(plan: Plan, values: Any, split: Any, preprocessing: Any) -> Traced:
    """Traces a member's start and its step with values of these shapes."""
    key = jax.eval_shape(lambda: jax.random.key(0))
    begin, training = jax.make_jaxpr(plan.start, return_shape=True)(values, key)
    rows = jax.eval_shape(plan.setting.order, key, 0)
    step, _, again = traced(plan.step, training, (values, rows), split, preprocessing)

    def output(values: Any, now: train.TrainState) -> Array:
        dtype = engine.input_dtype(preprocessing, now.params)
        x = jnp.zeros((2, *plan.setting.input_shape), dtype)
        return plan.trial(values).net.apply(now.params, now.state, x, train=False)[0]

    # Functions are printed with their addresses, which are others in every process.
    text = re.sub(r"0x[0-9a-f]+", "", f"{begin}\n{step}")
    return Traced(
        training,
        jax.eval_shape(output, values, training.train_state).shape,
        again,
        (text, *begin.consts, *step.consts),
        jax.default_backend() == "cpu" and engine.slow_in_loops(step.jaxpr),
    )
