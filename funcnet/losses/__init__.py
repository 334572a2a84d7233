"""Losses as means over rows or entries, each with a backward rule written by hand.

Every rule stands directly under its function, in the private module of its family:

| family | losses |
|---|---|
| `_classes` | of one class a row: `softmax_cross_entropy`, `multiclass_hinge` |
| `_binary` | of labels that are each there or not: `binary_cross_entropy` |
| `_squares` | `mean_squared_error`, and the penalty `l2_penalty` |
"""

from funcnet._homes import at_home
from funcnet.losses._binary import binary_cross_entropy
from funcnet.losses._classes import multiclass_hinge, softmax_cross_entropy
from funcnet.losses._rows import rows_of as rows_of
from funcnet.losses._squares import l2_penalty, mean_squared_error

__all__ = [
    "binary_cross_entropy",
    "l2_penalty",
    "mean_squared_error",
    "multiclass_hinge",
    "softmax_cross_entropy",
]

at_home(globals())
