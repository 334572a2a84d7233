"""Data beyond memory: `python -m tools.streamed memory IMAGES` and `python -m tools.streamed rate`.

memory makes a file of so many images of 32×32×3, trains a net of two layers for an epoch on it,
memory-mapped, and prints the peak of the process's anonymous memory (RssAnon of Linux: without the
pages of the file). rate trains a convolutional net on the same 40,000 images, memory-mapped and in
memory, in turns: images a second, and their ratio.
"""

from __future__ import annotations

import re
import statistics
import sys
import tempfile
import threading
import time
from pathlib import Path

import numpy as np

from funcnet import data, nets, optimizers, train

_BLOCK = 10_000


def made(folder: Path, count: int) -> tuple[np.ndarray, np.ndarray]:
    """A memory-mapped file of random images, and their labels."""
    rng, file = np.random.default_rng(0), folder / "images.npy"
    shape = (count, 32, 32, 3)
    images = np.lib.format.open_memmap(file, "w+", np.uint8, shape)
    for first in range(0, count, _BLOCK):
        some = images[first : first + _BLOCK]
        some[:] = rng.integers(0, 256, some.shape, np.uint8)
    images.flush()
    del images
    return np.load(file, mmap_mode="r"), rng.integers(0, 10, count)


def anonymous() -> int:
    """The process's anonymous memory, in bytes."""
    found = re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert found is not None
    return 1024 * int(found[1])


def rate(net: nets.Net, images: np.ndarray, labels: np.ndarray, epochs: int) -> float:
    """Images a second of the last epoch."""
    few = data.Split(np.asarray(images[:100]), labels[:100])
    dataset = data.Dataset(data.Split(images, labels), few, None, 10)
    preprocessing = data.fit_preprocessing(few.images)
    run = train.fit(
        net,
        dataset,
        optimizers.sgd(1e-3),
        epochs,
        100,
        preprocessing=preprocessing,
        train_accuracy_rows=100,
    )
    found: float = run.history[-1]["images_per_second"]
    return found


def main(what: str, count: str = "40000") -> None:
    """Prints what was measured."""
    with tempfile.TemporaryDirectory() as folder:
        images, labels = made(Path(folder), int(count))
        if what == "memory":
            peak, done = [anonymous()], threading.Event()

            def watch() -> None:
                while not done.is_set():
                    peak[0] = max(peak[0], anonymous())
                    time.sleep(0.01)

            before = peak[0]
            watcher = threading.Thread(target=watch, daemon=True)
            watcher.start()
            found = rate(nets.two_layer_net(50, 10), images, labels, 1)
            done.set()
            print(
                f"{images.nbytes / 1e9:.2f} GB: {found:,.0f} images/s, anonymous memory "
                f"{before / 1e6:.0f} MB before, at most {peak[0] / 1e6:.0f} MB"
            )
            return
        held = np.array(images)
        net = nets.three_layer_convnet(classes=10, channels=(8, 8, 8))
        pairs = [(rate(net, images, labels, 3), rate(net, held, labels, 3)) for _ in range(3)]
        ratios = [mapped / memory for mapped, memory in pairs]
        print(
            f"memory-mapped {pairs[-1][0]:,.0f} images/s, in memory {pairs[-1][1]:,.0f}: "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
