"""What `train.fit` and `sweep.run` are both made of: arguments, batches, the epoch, its records."""

from funcnet.train._arguments import (
    EVALUATION_ROWS,
    Setting,
    checked,
    fitted,
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
from funcnet.train._step import answers, evaluated, ignored_label

__all__ = [
    "EVALUATION_ROWS",
    "SAMPLINGS",
    "Carry",
    "Pace",
    "Sampling",
    "Setting",
    "answers",
    "batch_maker",
    "checked",
    "compile_epoch",
    "evaluated",
    "first_carry",
    "fitted",
    "ignored_label",
    "require_output",
    "slow_in_loops",
    "step_of_epoch",
]
