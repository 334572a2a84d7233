"""Runs of a few steps, for `checks.check_resume` to stop and resume in processes of its own."""

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data, nets, optimizers, train

DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(31, 12, 6), noise=0.4)


def plain():
    """Nothing is drawn but the order."""
    net = nets.two_layer_net(5, 3)
    return net, DATA, optimizers.momentum(0.1), {"epochs": 2, "batch_size": 15}


def everything():
    """Batch norm, dropout, a schedule, shuffling, augmentation, and a step that is not finite."""
    net = nets.fully_connected_net([6], 3, norm="batch", dropout=0.3)
    schedule = train.decay_per_epoch(0.01, 0.5, steps_per_epoch=3)
    images = DATA.train.images.astype(np.float32) / 255
    order = train.batch_order(jax.random.key(5), 1, 31, 10)
    images[int(order[0, 0])] = np.nan  # of the first step of the second epoch
    dataset = DATA._replace(train=data.Split(images, DATA.train.labels))
    options = {"epochs": 2, "batch_size": 10, "reg": 0.01, "seed": 5, "preprocessing": None}
    return net, dataset, optimizers.adam(schedule), options | {"augment": data.random_flip}


def conv():
    """Convolutions in bfloat16, of batches drawn with replacement, without a validation split."""
    net = nets.serial(nets.conv(2), nets.batch_norm(), nets.relu(), nets.max_pool(), nets.affine(3))
    options = {"epochs": 2, "batch_size": 15, "sampling": "replacement", "seed": 3}
    optimizer = optimizers.nadam(0.01)
    return net, DATA._replace(val=None), optimizer, options | {"compute_dtype": jnp.bfloat16}


def forgetful():
    """What it multiplies images with is drawn anew each time that it is traced."""
    net, dataset, optimizer, options = plain()
    rng = np.random.default_rng(0)

    def augment(key, images):
        return images * rng.integers(1, 100, dtype=np.uint8)

    return net, dataset, optimizer, options | {"augment": augment}
