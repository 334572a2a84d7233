"""What `train.fit` and `sweep.run` are both made of: arguments, batches, the epoch, its records."""

from funcnet.train._agreement import Agreement, reachable
from funcnet.train._arguments import (
    EVALUATION_ROWS,
    Setting,
    checked,
    fitted,
    input_dtype,
    require_output,
)
from funcnet.train._batches import SAMPLINGS, Sampling, batch_maker
from funcnet.train._epoch import (
    Carry,
    Pace,
    compile_epoch,
    first_carry,
    slow_in_loops,
    step_of_epoch,
)
from funcnet.train._interrupts import Interrupts
from funcnet.train._mesh import SHARDS, Layout, check_mesh, gathered, layout_of
from funcnet.train._step import answers, copied, evaluated, ignored_label
from funcnet.train._tasks import Goal, goal
from funcnet.train._words import SHARES, called, epoch_line, measured, number, things

__all__ = [
    "EVALUATION_ROWS",
    "SAMPLINGS",
    "SHARDS",
    "SHARES",
    "Agreement",
    "Carry",
    "Goal",
    "Interrupts",
    "Layout",
    "Pace",
    "Sampling",
    "Setting",
    "answers",
    "batch_maker",
    "called",
    "check_mesh",
    "checked",
    "compile_epoch",
    "copied",
    "epoch_line",
    "evaluated",
    "first_carry",
    "fitted",
    "gathered",
    "goal",
    "ignored_label",
    "input_dtype",
    "layout_of",
    "measured",
    "number",
    "reachable",
    "require_output",
    "slow_in_loops",
    "step_of_epoch",
    "things",
]
