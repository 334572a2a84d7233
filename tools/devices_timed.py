"""One device beside eight at equal work, in turns: `python -m tools.devices_timed [TURNS]`.

The eight are virtual ones of this machine's CPU, all of one process, which share its cores with the
one: what they cost more is what it costs to part and to join. Medians of whole epochs, in seconds.
"""

from __future__ import annotations

import os
import statistics
import sys
from typing import Any

os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=8"  # before XLA starts

import jax

from funcnet import data, nets, optimizers, train

NETS = {
    "fully connected 500×3": (lambda: nets.fully_connected_net([500, 500, 500], classes=10), 1000),
    "three convolutions": (lambda: nets.three_layer_convnet(classes=10), 200),
}


def seconds(net: nets.Net, dataset: data.Dataset, batch: int, **where: Any) -> float:
    """Of the second epoch: the first one compiles, and waits for the pages of its memory."""
    run = train.fit(net, dataset, optimizers.sgd(1e-3), 2, batch, train_accuracy_rows=1, **where)
    rate = run.history[2]["images_per_second"]
    return len(dataset.train.labels) // batch * batch / rate


def main(turns: int = 5) -> None:
    """Prints a line for each net and way."""
    mesh = jax.make_mesh((8,), ("data",))
    ways: dict[str, Any] = {
        "one device": {},
        "eight, shard data": {"mesh": mesh},
        "eight, shard fsdp": {"mesh": mesh, "shard": "fsdp"},
    }
    for name, (make, batch) in NETS.items():
        dataset = data.synthetic(shape=(32, 32, 3), sizes=(20 * batch, 8, 8), classes=10)
        took: dict[str, list[float]] = {way: [] for way in ways}
        for _ in range(turns):
            for way, where in ways.items():
                took[way].append(seconds(make(), dataset, batch, **where))
        for way, found in took.items():
            ratios = sorted(b / a for a, b in zip(took["one device"], found, strict=True))
            print(
                f"{name}, batches of {batch}, {way}: {statistics.median(found):.3f} s, "
                f"{statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
