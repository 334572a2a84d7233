r"""Sweeps: many runs with different hyper-parameters and seeds, compiled once.

`run` trains a member for each row of values and each seed. Hyper-parameters are traced, so that
one program serves all members, and each member is what `train.fit` makes of the same values and
seed. The program goes through the members in one of three ways, which a short measurement on the
machine decides between: "loop" (one after another, a call each), "map" (`lax.map`, one after
another in one program) or "vmap" (all at once).

On two cores with AVX-512, a step of one of eight six-layer nets of 100 units (batches of 100 images
of 32×32×3, Adam, float32) took 1.25 ms by "loop", 1.70 by "map" and 1.82 by "vmap"; of 50 images of
8×8 it took 0.20, 0.21 and 0.25 ms. No accelerator has been measured yet.

>>> from funcnet import data, nets, optimizers, sweep
>>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
>>> def make(learning_rate, weight_scale):
...     net = nets.two_layer_net(20, classes=3, weight_scale=weight_scale)
...     return sweep.Trial(net, optimizers.adam(learning_rate), reg=1e-3)
>>> values = sweep.grid(learning_rate=[1e-9, 1e-2], weight_scale=[0.1])
>>> result = sweep.run(make, dataset, values, seeds=(0, 1), epochs=2, batch_size=20, how="loop")
>>> result.val_accuracy.shape  # members, and epochs with the state before training
(4, 3)
>>> [row["learning_rate"] for row in result.ranking()]
[0.01, 0.01, 1e-09, 1e-09]
"""

from funcnet._homes import at_home
from funcnet.sweep._members import Member, Progress
from funcnet.sweep._programs import HOWS, Trial
from funcnet.sweep._result import Result
from funcnet.sweep._run import run
from funcnet.sweep._values import grid, log_uniform

__all__ = ["HOWS", "Member", "Progress", "Result", "Trial", "grid", "log_uniform", "run"]

at_home(globals())
