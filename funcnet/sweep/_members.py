"""Members of a sweep as they are trained: groups through the programs, epoch by epoch."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from funcnet import _processes, data, train
from funcnet._processes import PeerError
from funcnet.sweep._programs import Best, Plan, Programs
from funcnet.train import engine

_MEASURED_SECONDS = 0.3


class Progress(NamedTuple):
    """Where a sweep stands: `finished` members of `members`, and `step` of all members' `steps`.

    `epoch` counts from 1 and is that of the members at hand; `seconds_left` is for training alone.
    """

    finished: int
    members: int
    epoch: int
    epochs: int
    step: int
    steps: int
    seconds_left: float


class Member(NamedTuple):
    """One run of a sweep.

    Attributes:
        values: hyper-parameter -> value.
        seed: all randomness of the run follows from it.
        losses: every step's loss, penalty included, (steps,); NaN once the run has stopped.
        train_accuracy: before training and after each epoch, (epochs + 1,); NaN from where the run
            has stopped.
        val_accuracy: the same on the validation split; NaN without one.
        stopped_at: where too many steps in a row were not finite, the number (from 1) of the first
            of these; else 0.
        best: the `TrainState` that `train.fit` calls so, as NumPy arrays; None where not kept.
        final: the same.
    """

    values: dict[str, float]
    seed: int
    losses: np.ndarray
    train_accuracy: np.ndarray
    val_accuracy: np.ndarray
    stopped_at: int
    best: train.TrainState | None
    final: train.TrainState | None

    @property
    def best_epoch(self) -> int:
        """The first epoch of the highest validation accuracy; without validation the last one."""
        if np.isnan(self.val_accuracy).all():
            return int(np.isfinite(self.train_accuracy).sum()) - 1
        return int(np.nanargmax(self.val_accuracy))

    @property
    def best_val_accuracy(self) -> float:
        """The validation accuracy of `best`; NaN without a validation split."""
        return float(self.val_accuracy[self.best_epoch])


class Report:
    """Counts the steps of all members, and says where the sweep stands."""

    def __init__(self, plan: Plan, members: int, finished: int, say: Callable[..., Any] | None):
        self.members, self.finished, self.say = members, finished, say
        self.epochs = plan.setting.epochs
        self.steps = self.epochs * plan.setting.steps
        self._done, self._seconds = 0, 0.0
        self._left = self.steps * (members - finished)

    def add(self, epoch: int, steps: int, seconds: float) -> None:
        """Counts so many members' steps in."""
        self._done, self._seconds = self._done + steps, self._seconds + seconds
        self._left -= steps
        if self.say is not None:
            total = self.steps * self.members
            left = self._left * self._seconds / self._done
            here = self.finished, self.members, epoch + 1, self.epochs
            self.say(Progress(*here, total - self._left, total, left))

    def skip(self, steps: int) -> None:
        """Counts out steps that will not be taken."""
        self._left -= steps


class Members(NamedTuple):
    """The columns of a sweep's members as they were given, and their seeds."""

    columns: dict[str, np.ndarray]
    seeds: np.ndarray

    def row(self, index: int) -> dict[str, float]:
        """One member's values."""
        return {name: column[index].item() for name, column in self.columns.items()}

    def of(self, indices: list[int]) -> Members:
        """Some of them."""
        columns = {name: column[indices] for name, column in self.columns.items()}
        return Members(columns, self.seeds[indices])

    def start(self, programs: Programs) -> tuple[dict[str, Array], Any, Any]:
        """Their values, their keys, and their state before training."""
        values = _weak(self.columns)
        keys = jnp.stack([jax.random.key(seed) for seed in self.seeds.tolist()])
        return values, keys, programs.start(values, keys)


@jax.jit
def _weak(columns: dict[str, Array]) -> dict[str, Array]:
    """Numbers as arrays that promote as Python's numbers do: as in a run of `fit` by itself."""

    def weak(column: Array) -> Array:
        zero = 0.0 if jnp.issubdtype(column.dtype, jnp.floating) else 0
        return jnp.full(column.shape, zero).at[:].set(column)

    return jax.tree.map(weak, columns)


class Trainer:
    """What all groups of members share: the data on the device, and how they are evaluated.

    Over the devices of several processes each of these does the same, after each chunk in agreement
    with the others.
    """

    def __init__(
        self,
        plan: Plan,
        preprocessing: data.Preprocessing,
        keep: tuple[str, ...] = (),
        layout: engine.Layout | None = None,
    ):
        self.plan, self.keep, self.layout = plan, keep, layout
        self.mesh = None if layout is None else layout.mesh
        self.several = layout is not None and layout.processes > 1
        self.interrupts = engine.Interrupts(patient=True)
        setting = plan.setting
        self.inputs, val = setting.on_device(preprocessing)
        if layout is not None:
            self.inputs, val = layout.put((self.inputs, val))
        self._batch = setting.evaluation_batch_size
        self._counts = len(setting.accuracy_rows(0)), 0
        self._val: Any = None
        if setting.val is not None:
            self._counts = self._counts[0], len(setting.val.labels)
            self._val = val, *self._batched(np.arange(self._counts[1]))

    def train(
        self, programs: Programs, members: Members, wanted: int, report: Report
    ) -> list[Member]:
        """Trains members from their first step to their last, and returns the first `wanted`."""
        setting, seeds = self.plan.setting, members.seeds
        steps, epochs = setting.steps, setting.epochs
        values, keys, at = members.start(programs)
        batches = [self._batched(setting.accuracy_rows(seed)) for seed in seeds.tolist()]
        rows, counted = np.stack([batch[0] for batch in batches]), batches[0][1]
        splits = (self.inputs, counted), self._val
        values, at, rows = self._over((values, at, rows))
        # Steps give their buffers away, and the best state keeps its own.
        kept = engine.copied(keyless(at.train_state)) if "best" in self.keep else ()
        best = Best(kept, self._over(np.full(len(keys), -1, np.int32)))

        accuracies = np.full((2, len(keys), epochs + 1), np.nan)
        losses = np.full((len(keys), epochs * steps), np.nan, at.losses.dtype)
        pace = engine.Pace()
        agreement = engine.Agreement(self.several, self.interrupts, pace, "sweep.run")
        for epoch in range(epochs + 1):
            alive = self.plan.is_alive(_fetched(at.streak))
            if not alive[:wanted].any():
                report.skip(wanted * steps * (epochs - epoch))
                break
            own = values, at, rows
            best, *right = programs.evaluate(best, own, splits)
            for kind, found in enumerate(right):
                if self._counts[kind]:
                    right_rows, counted = _fetched(found).T
                    fractions = right_rows / np.where(counted, counted, np.nan)
                    accuracies[kind, :, epoch] = np.where(alive, fractions, np.nan)
            if epoch == epochs:
                break
            order = self._over(programs.order(keys, np.int32(epoch)))
            at, position = self._at_first(at), 0
            while position < steps:
                count = pace.stop(position, steps) - position
                began = time.perf_counter()
                at = programs.advance(at, (values, order), count, *self.inputs)
                seconds = time.perf_counter() - began
                with agreement.held():
                    report.add(epoch, count * wanted, seconds)
                pace.took(count, seconds)
                position += count
                agreement.reached(None)
                agreement.check()
            losses[:, epoch * steps : (epoch + 1) * steps] = _fetched(at.losses)

        step, streak = _fetched((at.train_state.step, at.streak))
        stopped_at = np.where(self.plan.is_alive(streak), 0, step - streak + 1)
        final = _fetched(keyless(at.train_state)) if "final" in self.keep else None
        if self._val is None:
            best = best._replace(state=keyless(at.train_state) if "best" in self.keep else ())
        states = {"best": _fetched(best.state), "final": final}

        def state(name: str, index: int) -> train.TrainState | None:
            if name not in self.keep:
                return None
            own = jax.tree.map(lambda leaf: np.array(leaf[index]), states[name])
            return own._replace(key=jax.random.key(int(seeds[index])))

        return [
            Member(
                members.row(index),
                int(seeds[index]),
                losses[index],
                accuracies[0, index],
                accuracies[1, index],
                int(stopped_at[index]),
                state("best", index),
                state("final", index),
            )
            for index in range(wanted)
        ]

    def step_seconds(self, programs: Programs, members: Members) -> float:
        """The seconds that a step of one member takes, compiling not counted."""
        values, keys, at = members.start(programs)
        own = self._over((values, programs.order(keys, np.int32(0))))
        at, count = self._over(at), 1
        at = programs.advance(at, own, count, *self.inputs)
        spent, fastest = 0.0, float("inf")
        while spent < _MEASURED_SECONDS:
            at = self._at_first(at)
            began = time.perf_counter()
            at = programs.advance(at, own, count, *self.inputs)
            seconds = time.perf_counter() - began
            if self.several:
                seconds = _processes.exchanged(seconds)[0]
            spent, fastest = spent + seconds, min(fastest, seconds / count)
            count = min(max(1, int(_MEASURED_SECONDS / 4 / fastest)), self.plan.setting.steps)
        return fastest / len(keys)

    def together(self, what: str) -> contextlib.AbstractContextManager[None]:
        """Around what fails in all processes where it fails in one."""
        what = f"sweep.run: {what}"
        return _processes.together(what) if self.several else contextlib.nullcontext()

    @property
    def writes(self) -> bool:
        """Whether this process keeps the members."""
        return not self.several or _processes.index() == 0

    def agree(self, said: str) -> None:
        """Raises PeerError where another process says otherwise of what it is about to do."""
        if self.several and len({*(heard := _processes.exchanged(said))}) > 1:
            other = next(n for n, theirs in enumerate(heard) if theirs != said)
            raise PeerError(
                f"sweep.run: process {other} has other arguments or data, or finds other members; "
                "expected the same in all processes, and a folder that all reach."
            )

    def _over(self, tree: Any) -> Any:
        """Arrays of members, these in parts over the devices of the mesh."""
        return tree if self.layout is None else self.layout.put(tree, rows=True)

    def _at_first(self, at: engine.Carry) -> engine.Carry:
        """The same at the first step of an epoch."""
        return at._replace(
            position=self._over(jax.device_put(np.zeros(at.position.shape, np.int32)))
        )

    def _batched(self, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Rows in batches, the last one filled up, and which of them are counted."""
        missing = -len(rows) % self._batch
        filled = np.pad(rows, (0, missing), mode="edge").astype(np.int32)
        counted = np.arange(len(filled)) < len(rows)
        return filled.reshape(-1, self._batch), counted.reshape(-1, self._batch)


def _fetched(tree: Any) -> Any:
    """Arrays of all members as NumPy's, from the devices of all processes."""
    return jax.device_get(engine.gathered(tree))


def keyless(state: Any) -> Any:
    """A state without its key, which follows from the seed and has no place in NumPy."""
    return state._replace(key=None)


# --- Members in files


def as_saved(member: Member) -> tuple[dict[str, Any], dict[str, Any]]:
    """A member's numbers, and its arrays by name."""
    arrays: dict[str, Any] = {"losses": member.losses}
    for name, state in (("best", member.best), ("final", member.final)):
        if state is not None:
            arrays[name] = keyless(state)
    numbers = {
        "values": member.values,
        "seed": member.seed,
        "best_val_accuracy": member.best_val_accuracy,
        "best_epoch": member.best_epoch,
        "stopped_at": member.stopped_at,
        "train_accuracy": member.train_accuracy.tolist(),
        "val_accuracy": member.val_accuracy.tolist(),
    }
    return numbers, arrays


def template(training: Any, epochs: int, keep: tuple[str, ...]) -> dict[str, Any]:
    """The shapes of the arrays of `as_saved`."""
    steps = training.losses.shape[0] * epochs
    state = keyless(training.train_state)
    losses = jax.ShapeDtypeStruct((steps,), training.losses.dtype)
    return {"losses": losses} | dict.fromkeys(keep, state)


def from_saved(numbers: dict[str, Any], arrays: dict[str, Any]) -> Member:
    """The member that `as_saved` was given."""
    key = jax.random.key(numbers["seed"])

    def state(name: str) -> train.TrainState | None:
        return arrays[name]._replace(key=key) if name in arrays else None

    return Member(
        numbers["values"],
        numbers["seed"],
        arrays["losses"],
        np.array(numbers["train_accuracy"], np.float64),  # None becomes NaN
        np.array(numbers["val_accuracy"], np.float64),
        numbers["stopped_at"],
        state("best"),
        state("final"),
    )
