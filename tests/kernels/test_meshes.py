"""What arrays are over the devices of a mesh: cotangents of their primals' types, kernels in parts.

One process with eight devices proves what the suite's own, which has one, cannot.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

from funcnet import kernels
from funcnet.kernels._conv import conv_k
from funcnet.kernels._types import cuts
from tests.support.processes import device_flags, run_python


def test_on_one_device_a_cotangent_is_itself_in_its_primals_dtype():
    value, primal = (jnp.ones(3), None), (jnp.zeros(3, jnp.bfloat16), None)
    got = kernels.as_cotangent(value, primal)
    assert got[0].dtype == jnp.bfloat16
    assert got[1] is None
    with pytest.raises(ValueError, match="expected the tree of its primal"):
        kernels.as_cotangent((jnp.ones(3), jnp.ones(3)), primal)


@pytest.mark.parametrize(
    ("axes", "specs", "want"),
    [
        ("n k, k m -> n m", [P("d", None), P(None, None)], {"n": "d"}),
        ("n k, k m -> n m", [P("d", None), P("d", None)], {"n": "d"}),  # parameters are gathered
        ("n k, k m -> n m", [P(None, "m"), P(None, "m")], {"m": "m"}),  # what is summed over is
        ("n k, k m -> n m", [P(None, "m"), P("m", None)], {"k": "m"}),  # parts of sums
        ("k n, k m -> n m", [P("d", None), P("d", "m")], {"k": "d", "m": "m"}),
        ("n H W c, P Q c o -> n I J o", [P("d", "m"), P()], {"n": "d"}),  # windows need all rows
    ],
)
def test_a_mesh_axis_cuts_one_axis_of_a_kernel(axes, specs, want):
    full = [
        P(*spec, *(None,) * (len(names.split()) - len(spec)))
        for spec, names in zip(specs, axes.split("->")[0].split(","), strict=True)
    ]
    found = cuts(axes, full)
    assert {name: over for name, over in found.items() if over} == {
        name: (axis,) for name, axis in want.items()
    }


def test_jax_lowers_kernels_for_the_devices_that_they_will_run_on():
    """By a private name of JAX; without it partitioned programs would run XLA's convolutions."""
    from jax._src import dispatch

    assert conv_k.primitive in dispatch.prim_requires_devices_during_lowering


@pytest.mark.integration
def test_over_eight_devices():
    out = run_python(
        """
import re
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from funcnet import kernels, layers, losses
from funcnet.layers import AffineParams, NormParams

assert jax.device_count() == 8
rng = np.random.default_rng(0)
EPS = 2.0**-52

def mesh_of(kind, shape=(8,), names=("d",)):
    return jax.make_mesh(shape, names, axis_types=(kind,) * len(names))

def place(mesh, x, *spec):
    return jax.device_put(x, NamedSharding(mesh, P(*spec)))

def same(got, want, bound):
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        assert a.shape == b.shape and np.abs(a - b).max() <= bound * np.abs(b).max(), (a, b)

# A cotangent takes its primal's type: summed over what the primal does not vary over, made to vary
# over what it does, laid out as it is.
explicit, auto = mesh_of(AxisType.Explicit), mesh_of(AxisType.Auto)
w, x = rng.normal(size=(8, 3)), rng.normal(size=(16, 8))

def types(w, x):
    g = kernels.as_cotangent(x.sum(0, keepdims=True).T * jnp.ones((1, 3)), w)
    assert jax.typeof(g) == jax.typeof(w), (jax.typeof(g), jax.typeof(w))
    h = kernels.as_cotangent(w, jnp.zeros_like(w) * x.sum())
    assert "d" in jax.typeof(h).manual_axis_type.varying
    return g, h

specs = {"in_specs": (P(), P("d")), "out_specs": (P(), P("d"))}
g, h = jax.jit(jax.shard_map(types, mesh=auto, **specs))(w, x)
same((g, h), (x.sum(0)[:, None] * np.ones((1, 3)), np.tile(w, (8, 1))), 64 * EPS)

cut = place(explicit, w, "d")
g = jax.jit(lambda w, v: kernels.as_cotangent(v, w))(cut, place(explicit, w))
assert g.sharding.is_equivalent_to(cut.sharding, 2) and (g == cut).all()

# Kernels run on each device's part, their sums added up by one all-reduce, nothing gathered; also
# where no jit is around them.
params = AffineParams(jnp.asarray(w), jnp.asarray(rng.normal(size=3)))
def loss(p, x): return jnp.square(layers.affine_relu(p, x)).sum()
both = jax.value_and_grad(loss, (0, 1))
want = jax.jit(both)(params, jnp.asarray(x))
for mesh in (auto, explicit):
    p, rows = jax.tree.map(lambda v: place(mesh, v), params), place(mesh, x, "d")
    compiled = jax.jit(both).lower(p, rows).compile()
    text = compiled.as_text()
    assert len(re.findall(r" all-reduce(?:-start)?\\(", text)) == 1, text
    assert "all-gather" not in text
    same(compiled(p, rows), want, 256 * EPS)
    with jax.set_mesh(mesh):  # op by op JAX asks for it on explicit axes
        same(both(p, rows), want, 256 * EPS)

# Of a product whose sum is cut each device has a part: bias and ReLU come after the sum.
grid = mesh_of(AxisType.Auto, (2, 4), ("d", "m"))
p = AffineParams(place(grid, params.w, "m"), place(grid, params.b))
same(jax.jit(both)(p, place(grid, x, "d", "m")), want, 256 * EPS)

# In a shard_map over some axes, whose other axes are explicit and cut operands.
both_axes = mesh_of(AxisType.Explicit, (4, 2), ("d", "m"))
p = AffineParams(place(both_axes, params.w[:, :2], None, "m"), None)
want = x @ np.asarray(p.w)
each = jax.shard_map(layers.affine, mesh=both_axes, in_specs=(P(), P("d")), out_specs=P("d"),
                     axis_names={"d"})
same(jax.jit(each)(p, place(both_axes, x, "d")), want, 256 * EPS)

# With groups channels are not cut: a part of them would have other groups.
image = jnp.asarray(rng.normal(size=(4, 6, 6, 4)))
grouped = ((2, (3, 3, 2, 8)), (4, (3, 3, 1, 8)), (4, (3, 3, 1, 4)))
filters = [jnp.asarray(rng.normal(size=kernel)) for _, kernel in grouped]

@jax.jit
def convolutions(filters, x):
    def conv(w, x, groups):
        return jnp.square(layers.conv2d(layers.ConvParams(w, None), x, groups=groups)).sum()
    of = jax.value_and_grad(conv, (0, 1))
    return [of(w, x, groups) for w, (groups, _) in zip(filters, grouped, strict=True)]

want = convolutions(filters, image)
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = mesh_of(kind, (4, 2), ("d", "m"))
    for w_spec, x_spec in (((None, None, None, "m"), ()), ((), ("d", None, None, "m"))):
        got = convolutions([place(mesh, w, *w_spec) for w in filters], place(mesh, image, *x_spec))
        for a, b in zip(got, want, strict=True):
            same(a, b, 2**10 * EPS)

# Losses whose operands lie otherwise than each other, and class weights.
scores, target = rng.normal(size=(16, 6)), rng.integers(0, 6, 16).astype(np.int32)
weights, several = rng.uniform(1, 2, 6), rng.integers(0, 2, (16, 6))
of_scores = (
    (losses.mean_squared_error, (rng.normal(size=(16, 6)),)),
    (losses.binary_cross_entropy, (several,)),
    (losses.softmax_cross_entropy, (target,)),
    (losses.multiclass_hinge, (target,)),
    (lambda z, y, w: losses.softmax_cross_entropy(z, y, class_weights=w), (target, weights)),
    (lambda z, y, w: losses.multiclass_hinge(z, y, class_weights=w), (target, weights)),
    (lambda z, y, w: losses.binary_cross_entropy(z, y, pos_weight=w), (several, weights)),
)

@jax.jit
def all_losses(scores, operands):
    pairs = zip(of_scores, operands, strict=True)
    return [jax.value_and_grad(f)(scores, *others) for (f, _), others in pairs]

want = all_losses(scores, [others for _, others in of_scores])
for z_spec, y_spec in ((("d",), ()), ((), ("d",)), (("d",), ("d",))):
    placed = [
        [place(explicit, y, *y_spec), *(place(explicit, w) for w in rest)]
        for _, (y, *rest) in of_scores
    ]
    for a, b in zip(all_losses(place(explicit, scores, *z_spec), placed), want, strict=True):
        same(a, b, 256 * EPS)

# Batch norm inside a shard_map: by the whole batch's statistics, in three sums; the gradient too,
# taken inside and around.
norm = NormParams(*(jnp.asarray(rng.normal(size=8)) for _ in range(2)))
x = jnp.asarray(100 + 3 * rng.normal(size=(16, 8)))
dy = jnp.asarray(rng.normal(size=x.shape))
affine = AffineParams(jnp.asarray(rng.normal(size=(8, 8))), None)
for rule, p, sums in (
    (layers.batch_norm, norm, 3),
    (layers.affine_batch_norm_relu, (affine, norm), 4),  # the last one is the weights' gradient
):
    def pulled(p, x, dy, axis_name=None):
        (y, stats), pull = jax.vjp(lambda p, x: rule(p, x, 1e-5, axis_name), p, x)
        return y, stats, pull((dy, jax.tree.map(jnp.zeros_like, stats)))
    want = jax.jit(pulled)(p, x, dy)
    inside = jax.jit(jax.shard_map(
        lambda *a: pulled(*a, "d"), mesh=auto, in_specs=(P(), P("d"), P("d")),
        out_specs=(P("d"), P(), (P(), P("d"))),
    ))
    same(inside(p, x, dy), want, 2**14 * EPS)
    for checked in (True, False):
        def around(p, x):
            each = jax.shard_map(lambda p, x: rule(p, x, 1e-5, "d")[0], mesh=auto,
                                 in_specs=(P(), P("d")), out_specs=P("d"), check_vma=checked)
            return (each(p, x) * dy).sum()
        same(jax.jit(jax.grad(around, (0, 1)))(p, x), want[2], 2**14 * EPS)
    for mesh in (auto, explicit):
        whole = jax.tree.map(lambda v: place(mesh, v), p)
        placed = whole, place(mesh, x, "d"), place(mesh, dy, "d")
        compiled = jax.jit(pulled).lower(*placed).compile()
        assert len(re.findall(r" all-reduce(?:-start)?\\(", compiled.as_text())) <= sums
        same(compiled(*placed), want, 2**14 * EPS)
print("done")
""",
        JAX_ENABLE_X64="1",
        XLA_FLAGS=device_flags(8),
    )
    assert out.split()[-1] == "done"


@pytest.mark.slow
def test_any_axis_may_be_cut():
    """Rows, columns and channels of images, classes, and the batch that a `vmap` maps."""
    out = run_python(
        """
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from funcnet import layers, losses
from funcnet.layers import ConvParams, NormParams

def pool(f, *args, **options):
    return lambda x: f(x, *args, **options)

rng = np.random.default_rng(0)
target, weights = rng.dirichlet(np.ones(8), 4), rng.uniform(1, 2, 8)
kernel, norm = ConvParams(rng.normal(size=(3, 3, 8, 8)), None), NormParams(weights, -weights)
batch_of_batches, scores = rng.normal(size=(4, 2, 4, 4, 8)), rng.normal(size=(4, 8))
by_row = (
    pool(layers.max_pool), pool(layers.max_pool, 3, ceil_mode=True), layers.global_avg_pool,
    pool(layers.avg_pool, 3, 2, 1), layers.flatten,
)
by_column = (  # outputs that the mesh does not divide, and windows that begin in the padding
    pool(layers.max_pool), pool(layers.max_pool, 3, 2, 1), pool(layers.avg_pool, 3, None, "SAME"),
    pool(layers.max_pool, 2, 1, ((0, 1), (1, 0))),
)
mapped = (
    lambda x: layers.group_norm(norm, x, 2), lambda x: layers.conv2d(kernel, x), layers.flatten,
    pool(layers.max_pool), lambda x: losses.softmax_cross_entropy(x, x),
)
over_classes = (
    lambda z, q, w: losses.softmax_cross_entropy(z, q, 0.1),
    lambda z, q, w: losses.softmax_cross_entropy(z, q, class_weights=w, reduction="none"),
    lambda z, q, w: losses.softmax_cross_entropy(z, q.argmax(-1), class_weights=w),
    lambda z, q, w: losses.multiclass_hinge(z, q.argmax(-1), class_weights=w),
)
groups = [  # functions, their arguments, and how these are cut
    (by_row, [rng.normal(size=(4, 12, 3, 8))], [("d", "m")]),
    (by_column, [rng.normal(size=(4, 3, 12, 8))], [("d", None, "m")]),
    ((layers.flatten,), [rng.normal(size=(4, 3, 2, 8))], [("d", None, None, "m")]),
    ([jax.vmap(f) for f in mapped], [batch_of_batches], [("d",)]),
    (over_classes, [scores, target, weights], [("d", "m"), ("d", "m"), ("m",)]),
]

@jax.jit
def everything(arguments):
    def of(f, *args):
        y, pull = jax.vjp(f, *args)
        return y, pull(jnp.cos(y))  # another cotangent for each number
    return [
        of(f, *args) for (functions, *_), args in zip(groups, arguments) for f in functions
    ]

want = everything([args for _, args, _ in groups])
for kind in (AxisType.Auto, AxisType.Explicit):
    mesh = jax.make_mesh((2, 4), ("d", "m"), axis_types=(kind, kind))
    got = everything([
        [jax.device_put(a, NamedSharding(mesh, P(*s))) for a, s in zip(args, specs)]
        for _, args, specs in groups
    ])
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        np.testing.assert_allclose(a, b, rtol=0, atol=2**10 * 2.0**-52 * np.abs(b).max())
print("done")
""",
        JAX_ENABLE_X64="1",
        XLA_FLAGS=device_flags(8),
    )
    assert out.split()[-1] == "done"


def test_what_a_row_holds_is_taken_out():
    rows = jnp.asarray(np.arange(6.0).reshape(2, 3))
    assert kernels.entries_of(rows, jnp.array([2, 0], jnp.int32)).tolist() == [2.0, 3.0]
    assert jax.typeof(kernels.reshape(rows, (2, 3, 1))).shape == (2, 3, 1)
