"""How times are taken: call by call in turns, each call waited for, medians and quartiles."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np


class Timing(NamedTuple):
    """The median time of a call, with the quartiles around it, in seconds.

    >>> Timing.of([3.0, 1.0, 2.0])
    Timing(seconds=2.0, low_seconds=1.5, high_seconds=2.5, repetitions=3)
    """

    seconds: float
    low_seconds: float
    high_seconds: float
    repetitions: int

    @classmethod
    def of(cls, samples: Any) -> Timing:
        """The timing of a list of samples in seconds."""
        low, middle, high = np.percentile(samples, (25, 50, 75))
        return cls(float(middle), float(low), float(high), len(samples))


def interleaved(
    calls: Mapping[str, Callable[[], Any]],
    seconds: float,
    *,
    wait: Callable[[Any], Any] = lambda value: value,
    least: int = 3,
    most: int = 2000,
) -> dict[str, np.ndarray]:
    """Times calls in turns, so that what disturbs one disturbs the others as well.

    Each is called once to warm up. A round then calls each once, beginning with another one each
    time, because what a call leaves in the caches meets its successor.

    Args:
      calls: name -> function without arguments.
      seconds: the budget of one call; rounds go on until all budgets together are spent.
      wait: waits for what a call returned, within its time.
      least: rounds at the least, whatever they take.
      most: rounds at the most.

    Returns:
      name -> its samples in seconds, one a round.
    """
    for call in calls.values():
        wait(call())
    names = list(calls)
    samples: dict[str, list[float]] = {name: [] for name in names}
    clock = time.perf_counter
    end = clock() + seconds * len(names)
    for number in range(most if names else 0):
        if number >= least and clock() >= end:
            break
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            call = calls[name]
            began = clock()
            wait(call())
            samples[name].append(clock() - began)
    return {name: np.asarray(values) for name, values in samples.items()}
