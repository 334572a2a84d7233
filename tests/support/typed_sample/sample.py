"""What a user writes, for `mypy --strict`: a step by hand, `fit`, optimizers, data and checks."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from funcnet import checkpoint, checks, data, layers, losses, nets, optimizers, plots, sweep, train


class Params(NamedTuple):
    """A convolutional net of one's own."""

    conv: layers.ConvParams
    norm: layers.NormParams
    out: layers.AffineParams


def init(key: jax.Array) -> Params:
    """Its parameters."""
    k1, k2 = jax.random.split(key)
    conv, out = layers.conv_init(k1, 3, 1, 8), layers.affine_init(k2, 8, 10)
    return Params(conv, layers.norm_init(8), out)


def logits(params: Params, images: jax.Array) -> jax.Array:
    """The net; its norm is the batch's, whose statistics are left."""
    h: jax.Array = layers.max_pool(layers.conv2d(params.conv, images))
    normed, _ = layers.batch_norm(params.norm, h)
    return layers.affine(params.out, layers.global_avg_pool(layers.relu(normed)))


def loss(params: Params, images: jax.Array, labels: jax.Array) -> jax.Array:
    """What is made small."""
    return losses.softmax_cross_entropy(logits(params, images), labels)


def by_hand(dataset: data.Dataset, rule: optax.GradientTransformation, steps: int) -> float:
    """The loss after some steps on the same images."""
    params = init(jax.random.key(0))
    state = rule.init(params)
    images = jnp.asarray(dataset.train.images[:32], jnp.float32)
    labels = jnp.asarray(dataset.train.labels[:32])
    value = jnp.zeros(())
    for _ in range(steps):
        value, grads = jax.value_and_grad(loss)(params, images, labels)
        updates, state = rule.update(grads, state, params)
        params = optax.apply_updates(params, updates)
    return float(value)


def fitted(dataset: data.Dataset, folder: Path) -> dict[str, float]:
    """The accuracy and loss on the test images of a run that is kept in a folder."""
    net: nets.Net = nets.fully_connected_net([100, 100], classes=10, norm="batch", dropout=0.1)
    rule = optimizers.adam(train.decay_per_epoch(1e-3, 0.9, 25))
    run: train.Run = train.fit(
        net,
        dataset,
        rule,
        epochs=2,
        batch_size=50,
        augment=data.compose(data.random_flip),
        on_progress=lambda now: print(now.step, now.loss),
    )
    checkpoint.save_params(folder / "best.npz", *run.best[:2], run.preprocessing)
    loaded: checkpoint.Loaded = checkpoint.load_params(folder / "best.npz", *run.best[:2])
    print(nets.summary(net, dataset.input_shape).parameters, loaded, run.history[-1]["loss"])
    plots.curves(run.history, run.losses, folder / "curves.png")
    return train.evaluate(net, run, dataset.test)


def swept(dataset: data.Dataset) -> float:
    """The best validation accuracy of a sweep."""

    def member(learning_rate: float) -> sweep.Trial:
        return sweep.Trial(nets.two_layer_net(50, classes=10), optimizers.sgd(learning_rate))

    result = sweep.run(member, dataset, {"learning_rate": [1e-3, 1e-2]}, [0, 1], epochs=1)
    return float(result.ranking()[0]["best_val_accuracy"])


def checked() -> bool:
    """Whether a rule of one's own is right."""
    x = jnp.linspace(-1.0, 1.0, 12)
    report: checks.RuleReport = checks.check_rule(layers.relu, x, plain=jax.nn.relu)
    return report.verdict == "right"


if __name__ == "__main__":
    digits = data.load("digits", val_size=100)
    print(by_hand(digits, optimizers.momentum(1e-2), steps=10), fitted(digits, Path(".")))
    print(swept(digits), checked())
