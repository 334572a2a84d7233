"""Nets that train over eight devices of a mesh and on one: run as a module, with cases as words."""

from __future__ import annotations

import functools
import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from funcnet import losses, nets, optimizers, train
from funcnet.checks._collectives import collectives

CLASSES, ROWS = 8, 32
NETS = {
    "batch_norm": (nets.fully_connected_net([32, 32], CLASSES, norm="batch", dropout=0.2), (24,)),
    "layer_norm": (nets.fully_connected_net([32, 32], CLASSES, norm="layer", dropout=0.3), (24,)),
    "two_layer": (nets.two_layer_net(16, CLASSES), (24,)),
    "convnet": (nets.three_layer_convnet(CLASSES), (8, 8, 3)),
    "resnet": (nets.resnet(CLASSES), (8, 8, 3)),
}
KINDS = {"auto": AxisType.Auto, "explicit": AxisType.Explicit}
MESHES = {"data": (8,), "fsdp": (8,), "tensor": (1, 8), "both": (4, 2)}
CASES = [f"{net}/{kind}/{way}" for net in NETS for kind in KINDS for way in MESHES]


def spec_of(way: str, leaf: jax.Array) -> P:
    """Whole for data parallel; the first axis that eight divides; the last for tensor parallel."""
    if way == "data" or leaf.ndim == 0 or jnp.issubdtype(leaf.dtype, jax.dtypes.extended):
        return P()
    if way == "fsdp":
        axis = next((i for i, n in enumerate(leaf.shape) if n % 8 == 0), None)
        return P() if axis is None else P(*[None] * axis, "data")
    return P(*[None] * (leaf.ndim - 1), "model") if leaf.shape[-1] % MESHES[way][1] == 0 else P()


class Run:
    """A net, its first state, and its batches; each device's share has a mean of its own."""

    def __init__(self, name: str):
        self.net, shape = NETS[name]
        self.steps = 10 if len(shape) == 1 else 3
        rng = np.random.default_rng(0)
        means = np.repeat(np.arange(8), ROWS // 8).reshape(ROWS, *[1] * len(shape)) / 4
        self.x = rng.normal(size=(self.steps, ROWS, *shape)) + means
        self.y = rng.integers(0, CLASSES, (self.steps, ROWS), dtype=np.int32)
        optimizer = optimizers.adam(1e-3)
        self.start = train.init_state(self.net, optimizer, jax.random.key(0), shape, jnp.float64)
        self.step = jax.jit(train.make_step(self.net, optimizer, reg=0.1), donate_argnums=0)
        self.one = self.trained(self.start, jax.device_put)

    def trained(self, state, put):
        """Parameters, statistics and the optimizer's state after all steps, and every loss."""
        state, values = jax.tree.map(jnp.copy, state), []
        for batch in zip(self.x, self.y, strict=True):
            state, metrics = self.step(state, put(batch))
            values.append(float(metrics["loss"]))
        self.last = state
        return jax.device_get(state[:3]), np.array(values)

    def over(self, kind: str, way: str) -> dict:
        """What differs over a mesh, leaf by leaf and loss by loss, and what its devices send."""
        shape = MESHES[way]
        axes = ("data", "model")[: len(shape)]
        mesh = jax.make_mesh(shape, axes, axis_types=(KINDS[kind],) * len(axes))

        def put(batch):
            return jax.device_put(batch, NamedSharding(mesh, P("data")))

        state = jax.tree.map(
            lambda leaf: jax.device_put(leaf, NamedSharding(mesh, spec_of(way, leaf))), self.start
        )
        text = self.step.lower(state, put((self.x[0], self.y[0]))).compile().as_text()
        found = self.trained(state, put)
        names = [jax.tree_util.keystr(path) for path, _ in jax.tree.leaves_with_path(found)]
        off = map(difference, jax.tree.leaves(found), jax.tree.leaves(self.one))
        where = zip(jax.tree.leaves(state.params), jax.tree.leaves(self.last.params), strict=True)
        return {
            "off": dict(zip(names, off, strict=True)),
            "moved": sum(not a.sharding.is_equivalent_to(b.sharding, a.ndim) for a, b in where),
            "unlike": sum(
                not np.array_equal(shard.data, np.asarray(leaf)[shard.index])
                for leaf in jax.tree.leaves(self.last.params)
                for shard in leaf.addressable_shards
            ),
            "sent": collectives(text),
            "bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(state.params)),
        }

    def of_shares_and_of_all(self) -> float:
        """How far the loss is off where each device normalises by its own share's statistics."""

        def mean_loss(x, y):
            start = self.start
            z, _ = self.net.apply(start.params, start.state, x, train=True, key=start.key)
            return losses.softmax_cross_entropy(z, y)

        @jax.jit
        def both(x, y):
            shares = jax.vmap(mean_loss)(x.reshape(8, -1, *x.shape[1:]), y.reshape(8, -1))
            return shares.mean() - mean_loss(x, y)

        return abs(float(both(self.x[0], self.y[0])))


def difference(a, b) -> float:
    """The largest difference, as a part of the largest number where that is no rounding noise."""
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    largest = np.abs(b).max(initial=0)
    return float(np.abs(a - b).max(initial=0) / (largest if largest > 1e-9 else 1.0))


def main(cases: list[str]) -> None:
    """Prints what each case found."""
    jax.config.update("jax_num_cpu_devices", 8)
    jax.config.update("jax_enable_x64", True)
    run_of, found = functools.cache(Run), {}
    for case in cases:
        net, kind, way = case.split("/")
        run = run_of(net)
        found[case] = run.over(kind, way)
        if net == "batch_norm":
            found[case]["of shares"] = run.of_shares_and_of_all()
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
