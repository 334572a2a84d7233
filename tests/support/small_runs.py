"""What the tests of training share: a small run, what it is compared by, and data that spoil it."""

import jax
import numpy as np

from funcnet import checkpoint, data, nets, optimizers, train

KEY = jax.random.key(0)
EPS = float(np.finfo(np.float64).eps)

DATA = data.synthetic(shape=(4, 4, 1), classes=3, sizes=(103, 30, 20), noise=0.4)
NET = nets.fully_connected_net([8], 3, norm="batch")
DROPOUT_NET = nets.fully_connected_net([8], 3, norm="batch", dropout=0.2)


def fit(net=NET, dataset=DATA, optimizer=None, **options):
    settings = {"epochs": 2, "batch_size": 10, **options}
    return train.fit(net, dataset, optimizer or optimizers.sgd(0.1), **settings)


def assert_same(a, b):
    """Equal to the bit, leaf by leaf."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_array_equal(*map(numbers, (x, y)))


def assert_close(a, b, rtol):
    """Each leaf within rtol of its largest entry."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        x, y = numbers(x), numbers(y)
        np.testing.assert_allclose(x, y, rtol=0, atol=rtol * max(np.abs(y).max(initial=0), 1e-300))


def numbers(leaf):
    return np.asarray(jax.random.key_data(leaf) if checkpoint._arrays.is_key(leaf) else leaf)


def copied(tree):
    return jax.tree.map(lambda leaf: leaf.copy(), tree)


def batches(dataset, preprocessing, key, epoch, batch_size, dtype, **options):
    """An epoch's batches as arrays, gathered by NumPy: what the compiled epoch must see."""
    images, labels = dataset.train
    order = train.batch_order(key, epoch, len(labels), batch_size, **options)
    for rows in np.asarray(order):
        yield preprocess(preprocessing, np.asarray(images)[rows], dtype), np.asarray(labels)[rows]


preprocess = jax.jit(data.preprocess, static_argnums=2)


class Counted:
    """A net that counts how often Python runs its apply: once a trace."""

    def __init__(self, net=NET):
        self.shapes: list[tuple[bool, tuple[int, ...]]] = []

        def apply(params, state, x, *, train=False, key=None):
            self.shapes.append((train, x.shape))
            return net.apply(params, state, x, train=train, key=key)

        self.net = nets.Net(net.init, apply)

    def traces(self, train, rows):
        return sum(seen == (train, (rows, 4, 4, 1)) for seen in self.shapes)


def pointers(state):
    leaves = jax.tree.leaves(state._replace(key=jax.random.key_data(state.key)))
    return [leaf.unsafe_buffer_pointer() for leaf in leaves]


def conv_net(dimension_numbers):
    """Somebody's convolution and linear layer, in JAX's own words."""

    def init(key, shape):
        kernel = 0.1 * jax.random.normal(key, (3, 3, 1, 2))
        return {"kernel": kernel, "w": 0.1 * jax.random.normal(key, (32, 3))}, ()

    def apply(params, state, x, *, train=False, key=None):
        y = jax.lax.conv_general_dilated(
            x, params["kernel"], (1, 1), "SAME", dimension_numbers=dimension_numbers
        )
        return jax.nn.relu(y).reshape(len(x), -1) @ params["w"], state

    return nets.Net(init, apply)


def stop_at(step):
    def stop(progress):
        if progress.step == step:
            raise KeyboardInterrupt

    return stop


def poisoned(row):
    """Float images of which one holds NaN, and the step of each epoch that sees it."""
    images = DATA.train.images.astype(np.float32) / 255
    images[row, 0, 0, 0] = np.nan
    order = np.asarray(train.batch_order(jax.random.key(0), 0, 103, 10))
    step = int(np.argwhere(order == row)[0, 0])
    return DATA._replace(train=data.Split(images, DATA.train.labels), val=None), step


def row_seen_at(step):
    return int(np.asarray(train.batch_order(jax.random.key(0), 0, 103, 10))[step, 0])
