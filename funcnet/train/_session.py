"""A run as it goes: its chunks, its rows, its best state, and what ends it."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import data
from funcnet.train._arguments import Setting
from funcnet.train._diagnosis import diagnose
from funcnet.train._epoch import Carry, Pace, first_carry, is_searching, unsearched
from funcnet.train._feed import Resident, Windows
from funcnet.train._interrupts import Interrupts, Terminated
from funcnet.train._records import Chunk, History, Meter, Progress, Run
from funcnet.train._step import TrainState, copied
from funcnet.train._tasks import Goal
from funcnet.train._words import epoch_line, things

_ENDED = (
    "; training ended there, and run.final holds the parameters from before. A lower learning "
    "rate, clipping (optax.clip_by_global_norm) or preprocessing of the images may help."
)


def chunks(
    program: Callable[[Carry, int, Any], Carry],
    setting: Setting,
    feed: Resident | Windows,
    train_state: Any,
    streak: int,
) -> Iterator[Chunk]:
    """Runs the epochs chunk by chunk, from where `train_state` stands.

    The state that a chunk yields is good until the next chunk is asked for, which donates it. Where
    the feed fails, what was done before is a chunk, too.
    """
    steps = setting.steps
    epoch, position = divmod(int(train_state.step), steps)
    pace = Pace(setting.chunk_steps)
    carry = first_carry(train_state, position, steps, streak)
    while epoch < setting.epochs:
        while position < steps:
            began, stop, at = time.perf_counter(), pace.stop(position, steps), position
            failed: data.SourceError | None = None
            with unsearched():
                while at < stop and failed is None:
                    try:
                        rows, until = feed.at(carry.train_state.key, epoch, at)
                    except data.SourceError as error:
                        failed = error
                        continue
                    if at > position:
                        carry.position.block_until_ready()  # no more than a window is on its way
                    at = min(stop, until)
                    carry = program(carry, at, rows)
                if failed is not None and at == position:
                    raise failed
                done, streak, *found = jax.device_get(carry[1:])  # the host's one question
            seconds = time.perf_counter() - began
            done, streak = int(done), int(streak)
            losses, accuracies, finite = (np.array(a[position:done]) for a in found)
            yield Chunk(
                carry.train_state,
                epoch,
                done,
                streak,
                losses,
                float(accuracies.mean()),
                finite,
                seconds,
            )
            if streak >= setting.max_nonfinite:
                return
            if failed is not None:
                raise failed
            pace.took(done - position, seconds)
            position = done
        epoch, position = epoch + 1, 0
        carry = carry._replace(position=jax.device_put(np.int32(0)))


OnEpoch = Callable[[dict[str, Any]], Any]


class Callbacks(NamedTuple):
    """What the caller wants to hear of."""

    on_progress: Callable[[Progress], Any] | None
    on_epoch: OnEpoch | Sequence[OnEpoch] | None
    on_chunk: Callable[[Run], Any] | None
    printed: bool = False


class Session:
    """A run between its first step and its last: where it stands and what is known of it."""

    def __init__(
        self,
        setting: Setting,
        feed: Resident | Windows,
        now: TrainState,
        resume: Run | None,
        preprocessing: data.Preprocessing,
        deliver: Callable[[TrainState], TrainState],
        goal: Goal,
        measure: Callable[[TrainState], dict[str, Any]],
        where: Callable[[TrainState, int, int], str],
        say: Callbacks,
    ):
        self.setting, self.feed, self.now, self.step = setting, feed, now, int(now.step)
        self.preprocessing, self.deliver, self.measure = preprocessing, deliver, measure
        self.goal, self.where, self.say = goal, where, say
        self.asked_to_stop: str | None = None
        steps, epochs = setting.steps, setting.epochs
        self.meter = Meter(setting.batch_size, steps, epochs, self.step, resume)
        self.began, self.streak = time.perf_counter(), 0
        if resume is None:
            self.history = History([self.row({})])
            self.best, self.best_row = copied(deliver(now)), self.history[0]
            return
        self.began -= resume.seconds
        self.history, self.best = History(resume.history), copied(resume.best)
        self.best_row = resume.best_row
        if resume.streak < setting.max_nonfinite:
            self.streak = resume.streak

    def train(self, program: Callable[..., Carry]) -> Run:
        """Goes on to the end, or to where the run is stopped or is not finite."""
        odd = stopped = None
        with Interrupts() as interrupts:
            try:
                odd = self._train(program, interrupts)
                stopped = self.asked_to_stop
            except KeyboardInterrupt as press:
                if len(interrupts.presses) > 1 or self.is_donated():
                    raise  # the second signal, or one in the middle of a chunk
                stopped = "terminated" if isinstance(press, Terminated) else "interrupted"
            except data.SourceError as error:
                if not self.is_donated():
                    error.run = self.ended(str(error))
                raise
        if odd is not None:
            if is_searching():
                raise FloatingPointError(f"fit: {odd}")
            stopped = odd + _ENDED
            warnings.warn(stopped, RuntimeWarning, stacklevel=3)
        return self.ended(stopped)

    def _train(self, program: Callable[..., Carry], interrupts: Interrupts) -> str | None:
        """Takes chunk after chunk, and says what was not finite where that ended them."""
        if self.step > self.history[-1]["step"] and self.step % self.setting.steps == 0:
            self.end_epoch(interrupts)  # it was stopped between an epoch's last step and its row
            if self.asked_to_stop is not None:
                return None
        for chunk in chunks(program, self.setting, self.feed, self.now, self.streak):
            self.now = chunk.train_state
            progress = self.meter.add(chunk)
            self.step = progress.step
            if self.history[0]["loss"] is None:
                self.history[0]["loss"] = float(chunk.losses[0])
                self.say_epoch(self.history[0])
            if self.say.on_progress is not None:
                self.say.on_progress(progress)
            if chunk.streak >= self.setting.max_nonfinite:
                return self.why_not_finite(chunk.streak)
            if not chunk.finite.all():
                _warn_of_skipped(self.meter, int((~chunk.finite).sum()))
            if chunk.position == self.setting.steps:
                self.end_epoch(interrupts)
            if self.say.on_chunk is not None:
                self.say.on_chunk(self.so_far())
            interrupts.check()
            if self.asked_to_stop is not None:
                break
        return None

    def row(self, of_epoch: dict[str, Any]) -> dict[str, Any]:
        """The history's row of this moment."""
        measured = self.measure(self.deliver(self.now))
        return {
            "epoch": self.step // self.setting.steps,
            "step": self.step,
            "loss": of_epoch.get("loss"),
            "nonfinite": of_epoch.get("nonfinite", 0),
            **measured,
            "seconds": time.perf_counter() - self.began,
            "images_per_second": of_epoch.get("images_per_second"),
        }

    def end_epoch(self, interrupts: Interrupts) -> None:
        """Writes an epoch's row, and keeps the state if it is the best."""
        with interrupts.at_once():
            row = self.row(self.meter.end_epoch(self.step))
        self.history.append(row)
        best = self.goal.best
        if self.validated and best.prefers(row[best.name], self.best_row[best.name]):
            self.best, self.best_row = copied(self.deliver(self.now)), row
        self.say_epoch(row)

    @property
    def validated(self) -> bool:
        """Whether a best state is chosen; without validation it is the last one."""
        return self.setting.val is not None

    def say_epoch(self, row: dict[str, Any]) -> None:
        """Hands a row to whoever wants it, who may ask for the end by returning the reason."""
        if self.say.printed:
            what = things(self.setting.input_shape)
            print(epoch_line(row, self.setting.epochs, what), flush=True)
        hear: Any = self.say.on_epoch or ()
        for function in hear if isinstance(hear, Sequence) else (hear,):
            answer = function(row)
            self.asked_to_stop = answer if isinstance(answer, str) else self.asked_to_stop

    def so_far(self, stopped: str | None = None) -> Run:
        """The run up to here; its states are good until the next chunk."""
        return Run(
            History(self.history),
            self.best if self.validated else self.deliver(self.now),
            self.now,
            self.meter.all_losses(),
            self.preprocessing,
            stopped,
            (self.best_row if self.validated else self.history[-1])["epoch"],
            tuple(self.meter.nonfinite),
            time.perf_counter() - self.began,
            self.goal.task,
        )

    def ended(self, stopped: str | None) -> Run:
        """The run for good, its best and its final state in buffers of their own."""
        if len(self.history) == 1 and self.history[0]["loss"] is None:
            self.say_epoch(self.history[0])
        run = self.so_far(stopped)
        return run if self.validated else run._replace(best=copied(run.best))

    @unsearched()
    def why_not_finite(self, streak: int) -> str:
        """What was not finite in the last `streak` steps, and where it began."""
        steps, first = self.setting.steps, self.step - streak
        before = self.now._replace(step=jax.device_put(np.int32(first)))
        epoch, position = divmod(first, steps)
        where = self.where(before, epoch, position)
        several = f" and at the {streak - 1} after it" if streak > 1 else ""
        return f"{self.meter.what_was_odd(first)}{several}: {where}"

    def is_donated(self) -> bool:
        """Whether the state is gone: a chunk has begun with its buffers."""
        return any(leaf.is_deleted() for leaf in jax.tree.leaves(self.now))


def where_not_finite(*arguments: Any, **options: Any) -> str:
    """Where numbers stop being finite, as a part of a sentence."""
    try:
        found = diagnose(*arguments, **options)
    except Exception as error:  # the run must come back, even where there is no room to look
        return f"train.diagnose failed: {error}"
    return f"it starts in {found.what}" if found.where else "layer by layer all is finite"


def _warn_of_skipped(meter: Meter, count: int) -> None:
    several = f" and at {count - 1} after it" if count > 1 else ""
    said = meter.what_was_odd(meter.nonfinite[-count] - 1)
    text = f"{said}{several}: skipped, and nothing was changed"
    warnings.warn(text, RuntimeWarning, stacklevel=5)
