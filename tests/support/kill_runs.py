"""Runs that save after every step, killed at random: python kill_runs.py FOLDER COUNT.

Each run restores what the last one left and trains on. As in `kill_saves`, this process starts no
backend, so that all that are killed can be forked from it. The last one is left to finish.
"""

import os
import random
import signal
import sys
import time
from functools import partial
from pathlib import Path

import jax

from funcnet import data, nets, optimizers, train
from funcnet.checkpoint import Checkpoints

DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(1003, 30, 6), noise=0.4)
NET = nets.fully_connected_net([8], 3, norm="batch", dropout=0.2)
OPTIMIZER = optimizers.adam(train.decay_per_epoch(0.01, 0.9, 100))
EPOCHS = 200


def go_on(folder, **options):
    checkpoints = Checkpoints(folder, every_steps=1)
    template = partial(train.init_state, NET, OPTIMIZER, input_shape=(4, 4, 1))
    begun = checkpoints.restore(jax.eval_shape(template, jax.random.key(0)))
    print(0 if begun is None else int(begun.final.step), flush=True)
    return train.fit(
        NET, DATA, OPTIMIZER, batch_size=10, resume=begun, chunk_steps=1, on_chunk=checkpoints,
        **options,
    )  # fmt: skip


def whole(epochs):
    """The run that is not stopped."""
    return train.fit(NET, DATA, OPTIMIZER, epochs, batch_size=10)


if __name__ == "__main__":
    folder, count = Path(sys.argv[1]), int(sys.argv[2])
    for number in range(count):
        child = os.fork()
        if child == 0:
            try:
                go_on(folder, epochs=EPOCHS)
            finally:
                os._exit(1)  # it was to be killed
        time.sleep(random.uniform(0.3, 3.0))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), f"run {number} ended with {status}"
