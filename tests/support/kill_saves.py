"""Processes that are killed while they save: python kill_saves.py FOLDER points|random COUNT|full.

This process starts no backend of JAX, whose threads would make it unsafe to fork: one import serves
all that are killed. A run is made of its step's number alone, so that a mixture of two would show.
"""

import os
import random
import resource
import shutil
import signal
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np

from funcnet.checkpoint import Checkpoints
from funcnet.data import Preprocessing
from funcnet.train import History, Run, TrainState

POINTS = ("begin", "data", "manifest", "rename", "prune")
SIZE = 20_000


def state(number, step):
    full = np.full(SIZE, number, np.float32)
    params = {"w": full, "b": np.arange(3) + number}
    key = np.array([0, 7], np.uint32)
    return TrainState(params, {"mean": full[:5]}, (full, step), np.int32(step), key)


def run(step):
    """The run after a step, all of it made of the step's number."""
    rows = History([{"epoch": i, "step": i, "loss": 1 / (1 + i)} for i in range(step + 1)])
    losses = np.arange(step, dtype=np.float32)
    best, final = state(-step, step // 2), state(step, step)
    return Run(rows, best, final, losses, Preprocessing(full(step), full(1)), None, step // 2)


def full(number):
    return np.full(1, number, np.float64)


def forked(work):
    """Runs `work` in a child, and returns its process number."""
    child = os.fork()
    if child == 0:
        try:
            work()
        except BaseException as error:
            print(f"{type(error).__name__}: {error}", file=sys.stderr)
            os._exit(1)
        os._exit(0)
    return child


def save_and_die(folder, point):
    def step(name):
        if name == point and armed:
            os.kill(os.getpid(), signal.SIGKILL)

    armed = False
    checkpoints = Checkpoints(folder, keep=2, steps=step)
    for number in (1, 2):
        checkpoints.save(run(number))
    armed = True
    checkpoints.save(run(3))


def save_on(folder, first):
    checkpoints = Checkpoints(folder, keep=3)
    checkpoints._ours.update(range(first))  # as if restored: that would start a backend
    for number in range(first, 10_000):
        checkpoints.save(run(number))


def random_kills(folder, count):
    """Kills `count` processes, each of which goes on behind the newest that is there.

    A process has the time of up to four saves, however busy the machine is.
    """
    began = time.perf_counter()
    os.waitpid(forked(lambda: Checkpoints(folder.with_name("first")).save(run(1))), 0)
    seconds = time.perf_counter() - began
    for _ in range(count):
        last = max((int(path.name[5:13]) for path in Checkpoints(folder).paths()), default=0)
        child = forked(partial(save_on, folder, last + 1))
        time.sleep(random.uniform(0.3, 4) * seconds)
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "it ended before it was killed"
        yield


def full_disk(folder):
    checkpoints = Checkpoints(folder)
    checkpoints.save(run(1))
    soft = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (SIZE, soft[1]))
    try:
        checkpoints.save(run(2))
    except OSError as error:
        print(error)
    resource.setrlimit(resource.RLIMIT_FSIZE, soft)
    assert [path.name for path in Path(folder).iterdir()] == ["step_00000001"]
    checkpoints.save(run(3))


if __name__ == "__main__":
    folder = Path(sys.argv[1])
    for point in POINTS:
        child = forked(partial(save_and_die, folder / point, point))
        assert os.WTERMSIG(os.waitpid(child, 0)[1]) == signal.SIGKILL
    child = forked(partial(full_disk, folder / "full"))
    assert os.waitpid(child, 0)[1] == 0
    # What the last kill left is seen by who comes after; what all left, by copies.
    (folder / "random").mkdir()
    for number, _ in enumerate(random_kills(folder / "random", int(sys.argv[2]))):
        shutil.copytree(folder / "random", folder / f"random_{number}")
