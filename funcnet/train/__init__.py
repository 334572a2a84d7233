r"""Training: the state, the step, the epoch as one compiled program; `fit`, `evaluate`, `diagnose`.

A step is a pure function (TrainState, batch) -> (TrainState, metrics). It is written once and says
nothing of devices: with parameters and batches placed by `NamedSharding`, the same jitted step runs
over a whole mesh and gives what one device gives; `fit(mesh=...)` and `place` do the placing. All
that is random in a run follows from its seed and the number of the step.

>>> from funcnet import data, nets, optimizers, train
>>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
>>> net = nets.two_layer_net(20, classes=3)
>>> run = train.fit(net, dataset, optimizers.adam(1e-2), epochs=3, batch_size=20)
>>> [row["epoch"] for row in run.history], len(run.losses)
([0, 1, 2, 3], 30)
>>> result = train.evaluate(net, run, dataset.val)
>>> result["accuracy"] == max(run.history["val_accuracy"])
True
"""

from funcnet._homes import at_home
from funcnet._processes import PeerError
from funcnet.train import metrics
from funcnet.train._batches import batch_order, decay_per_epoch, steps_per_epoch
from funcnet.train._diagnosis import Diagnosis, LayerSizes, Sizes, diagnose
from funcnet.train._evaluation import evaluate
from funcnet.train._fit import fit
from funcnet.train._interrupts import ENDINGS, Terminated, terminate
from funcnet.train._logs import csv_log, tensorboard_log
from funcnet.train._mesh import place
from funcnet.train._records import History, Progress, Run
from funcnet.train._step import TrainState, init_state, make_step
from funcnet.train._stopping import EARLY_STOPPING, early_stopping
from funcnet.train._trained import Trained

__all__ = [
    "EARLY_STOPPING",
    "ENDINGS",
    "Diagnosis",
    "History",
    "LayerSizes",
    "PeerError",
    "Progress",
    "Run",
    "Sizes",
    "Terminated",
    "TrainState",
    "Trained",
    "batch_order",
    "csv_log",
    "decay_per_epoch",
    "diagnose",
    "early_stopping",
    "evaluate",
    "fit",
    "init_state",
    "make_step",
    "metrics",
    "place",
    "steps_per_epoch",
    "tensorboard_log",
    "terminate",
]

at_home(globals())
