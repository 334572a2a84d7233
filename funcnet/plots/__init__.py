"""Figures of runs, sweeps and weights; every number drawn comes from what a run left.

Figures are matplotlib's own objects: no global state, no window, any backend. matplotlib is an
extra: `pip install "funcnet[run]"`.

>>> from funcnet import plots
>>> history = [{"epoch": 0, "train_accuracy": 0.1, "val_accuracy": 0.1},
...            {"epoch": 1, "train_accuracy": 0.8, "val_accuracy": 0.7}]
>>> figure = plots.curves(history, losses=[2.3, 1.4, 0.9, 0.7])
>>> [axes.get_xlabel() for axes in figure.axes]
['step', 'epoch']
"""

from funcnet.plots._figures import style
from funcnet.plots._runs import compare, curves, load_run
from funcnet.plots._sweeps import sweep, sweeps
from funcnet.plots._weights import weight_grid

__all__ = ["compare", "curves", "load_run", "style", "sweep", "sweeps", "weight_grid"]
