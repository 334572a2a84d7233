"""Course 000's forty-minute run (row 0-19): how well does it train, and how long does it take?

    FUNCNET_DATA_DIR=... python -m experiments.course_000 --seeds 3

[500] x 3 units, batch norm, Adam 1e-3, rate x 0.9 an epoch, weight scale 0.01, batches of 100,
10 epochs of 49,000 CIFAR-10 images: 4,900 steps. Beside it a straightforward NumPy version of the
same step in float64, which is what the course ran; the two are timed in turns, step for step.

Three seeds, each above the course's .555 and .563: best validation accuracy .5897 +- .0034, test
accuracy of that state .5670, .5606, .5661, each run one trace of the step.

On two cores (AVX-512), medians of 60 steps of each side in turns, three times over: funcnet 12.7 to
12.9 ms, NumPy 38.2 to 38.8 ms: 0.33 of its time. Within `train.fit`, without NumPy's threads beside
it, a step takes 9.9 ms: 10,100 images a second, an epoch 5 seconds with its evaluation.
"""

from __future__ import annotations

import argparse
import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data, nets, optimizers, train

HIDDEN, CLASSES, BATCH = (500, 500, 500), 10, 100


class NumpyNet:
    """The same net, step and optimizer as the course writes them: loops over layers, float64."""

    def __init__(self, inputs: int, seed: int):
        rng = np.random.default_rng(seed)
        sizes = (inputs, *HIDDEN, CLASSES)
        self.params = {}
        for i, (d, m) in enumerate(itertools.pairwise(sizes), 1):
            self.params[f"W{i}"] = 0.01 * rng.standard_normal((d, m))
            self.params[f"b{i}"] = np.zeros(m)
            if i <= len(HIDDEN):
                self.params[f"gamma{i}"], self.params[f"beta{i}"] = np.ones(m), np.zeros(m)
        self.m = {k: np.zeros_like(p) for k, p in self.params.items()}
        self.v = {k: np.zeros_like(p) for k, p in self.params.items()}
        self.t = 0

    def step(self, x: np.ndarray, y: np.ndarray) -> float:
        """One step of Adam; returns the loss before it."""
        p, grads, caches, depth = self.params, {}, [], len(HIDDEN)
        h = x
        for i in range(1, depth + 1):
            a = h @ p[f"W{i}"] + p[f"b{i}"]
            mean, var = a.mean(0), a.var(0)
            std = np.sqrt(var + 1e-5)
            a_hat = (a - mean) / std
            z = p[f"gamma{i}"] * a_hat + p[f"beta{i}"]
            caches.append((h, a_hat, std, z))
            h = np.maximum(z, 0)
        last = depth + 1
        scores = h @ p[f"W{last}"] + p[f"b{last}"]
        shifted = scores - scores.max(1, keepdims=True)
        log_probs = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
        n = len(y)
        loss = -log_probs[np.arange(n), y].mean()
        d = np.exp(log_probs)
        d[np.arange(n), y] -= 1
        d /= n
        grads[f"W{last}"], grads[f"b{last}"] = h.T @ d, d.sum(0)
        d = d @ p[f"W{last}"].T
        for i in range(depth, 0, -1):
            h, a_hat, std, z = caches[i - 1]
            d = d * (z > 0)
            grads[f"gamma{i}"], grads[f"beta{i}"] = (d * a_hat).sum(0), d.sum(0)
            d_hat = d * p[f"gamma{i}"]
            d = (d_hat - d_hat.mean(0) - a_hat * (d_hat * a_hat).mean(0)) / std
            grads[f"W{i}"], grads[f"b{i}"] = h.T @ d, d.sum(0)
            d = d @ p[f"W{i}"].T
        self.t += 1
        for k, g in grads.items():
            self.m[k] = 0.9 * self.m[k] + 0.1 * g
            self.v[k] = 0.999 * self.v[k] + 0.001 * g**2
            m_hat, v_hat = self.m[k] / (1 - 0.9**self.t), self.v[k] / (1 - 0.999**self.t)
            p[k] = p[k] - 1e-3 * m_hat / (np.sqrt(v_hat) + 1e-8)
        return float(loss)


def compare_steps(images: np.ndarray, labels: np.ndarray, rounds: int) -> tuple[float, float]:
    """Median milliseconds of a step of funcnet and of NumPy, taken in turns."""
    x = images.reshape(len(images), -1) - images.reshape(len(images), -1).mean(0)
    net = nets.fully_connected_net(HIDDEN, CLASSES, norm="batch", weight_scale=0.01)
    optimizer = optimizers.adam(1e-3)
    state = train.init_state(net, optimizer, jax.random.key(0), (x.shape[1],))
    step = jax.jit(train.make_step(net, optimizer), donate_argnums=0)
    batch = jnp.asarray(x[:BATCH], jnp.float32), jnp.asarray(labels[:BATCH])
    reference = NumpyNet(x.shape[1], seed=0)
    state, _ = jax.block_until_ready(step(state, batch))
    ours, theirs = [], []
    for i in range(rounds):
        rows = slice((i * BATCH) % (len(x) - BATCH), (i * BATCH) % (len(x) - BATCH) + BATCH)
        batch = jnp.asarray(x[rows], jnp.float32), jnp.asarray(labels[rows])
        began = time.perf_counter()
        state, _ = jax.block_until_ready(step(state, batch))
        ours.append(time.perf_counter() - began)
        began = time.perf_counter()
        reference.step(x[rows], labels[rows])
        theirs.append(time.perf_counter() - began)
    return 1e3 * float(np.median(ours)), 1e3 * float(np.median(theirs))


def main() -> None:
    """Trains over the seeds, then compares the steps."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, default=3, help="runs, with seeds 0, 1, ...")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=100, help="steps of each side to time")
    parser.add_argument("--smoke", action="store_true", help="one epoch on synthetic images")
    options = parser.parse_args()
    if options.smoke:
        dataset = data.synthetic(shape=(32, 32, 3), sizes=(1000, 100, 100))
        options.seeds, options.epochs, options.rounds = 1, 1, 5
    else:
        dataset = data.load("cifar10")
    images, labels = dataset.train
    steps = train.steps_per_epoch(len(labels), BATCH)
    net = nets.fully_connected_net(HIDDEN, CLASSES, norm="batch", weight_scale=0.01)
    optimizer = optimizers.adam(train.decay_per_epoch(1e-3, 0.9, steps))
    best = []
    for seed in range(options.seeds):
        began = time.perf_counter()
        run = train.fit(
            net,
            dataset,
            optimizer,
            epochs=options.epochs,
            batch_size=BATCH,
            seed=seed,
            preprocessing="mean_image",
        )
        seconds = time.perf_counter() - began
        accuracies = run.history["val_accuracy"]
        test = train.evaluate(net, run.best, dataset.test, run.preprocessing)["accuracy"]
        best.append(max(accuracies))
        print(
            f"seed {seed}: first loss {run.losses[0]:.6f}, validation "
            + " ".join(f"{a:.3f}" for a in accuracies)
            + f", test {test:.4f}, {seconds:.1f} s for {len(run.losses)} steps"
        )
    print(f"best validation: {np.mean(best):.4f} +- {np.std(best):.4f} over {len(best)} seeds")
    ours, theirs = compare_steps(images[:10000].astype(np.float64), labels, options.rounds)
    print(f"a step: funcnet {ours:.2f} ms, NumPy float64 {theirs:.2f} ms: {ours / theirs:.3f}")


if __name__ == "__main__":
    main()
