"""The catalogue in other modes, most in processes of their own: shapes executed, eight devices."""

from __future__ import annotations

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import _machine, checks
from funcnet.catalogue import ROWS
from tests.support.processes import run_python
from tests.support.rules import SAMPLES, problem_of

# A rule of each kind, a convolution, and one with statistics over the whole batch.
SOME = ["relu", "dropout", "affine", "conv2d", "max_pool", "batch_norm", "softmax_cross_entropy"]
# Over devices, one by kernels that say how they are cut, and one with sums over the devices.
OVER_DEVICES = ["conv2d", "batch_norm"]


def some_and_all(some):
    every = pytest.param([*ROWS], id="all", marks=pytest.mark.slow)
    return [pytest.param(some, id="some"), every]


@pytest.mark.integration
@pytest.mark.parametrize("parts", ["some", pytest.param("all", marks=pytest.mark.slow)])
def test_annotations_hold_when_they_are_executed(parts):
    """First samples of rules pass, NumPy's arrays too, and a run; a wrong shape is caught.

    In the slow lane every module imports, every sample passes, and so does a tour: train, resume,
    sweep, evaluate, diagnose, draw and check.
    """
    out = run_python(
        """
import jax, numpy as np
jax.config.update("jax_enable_x64", True)
from jaxtyping import install_import_hook, TypeCheckError
install_import_hook("funcnet", "beartype.beartype")
import contextlib, importlib, io, os, pkgutil, tempfile
import funcnet
every = os.environ["PARTS"] == "all"
for module in pkgutil.walk_packages(funcnet.__path__, "funcnet.") if every else ():
    if not module.name.endswith(("__main__", "_torch_worker")):
        importlib.import_module(module.name)
from funcnet import data, kernels, layers, nets, optimizers, train
from funcnet.catalogue import ROWS
import jax.numpy as jnp
from tests.support.rules import problem_of
TAKE_NUMPY = ("_activations", "_fused", "_norms", "_pools")
count = 0
for row in ROWS.values():
    samples = row.samples(np.random.default_rng(0))
    for sample in samples if every else samples[:1]:
        def both(floats):
            y, pull = jax.vjp(problem.rule, floats)
            return y, pull(y)
        problem = problem_of(row, sample)
        jax.eval_shape(both, problem.floats)
        if row.function.__module__.endswith(TAKE_NUMPY):  # traced, an array would be JAX's
            jax.eval_shape(lambda: row.function.fun(*sample.args, **sample.static))
        count += 1
for name in ("affine", "affine_relu", "conv2d", "conv1d", "conv2d_transpose", "conv_relu_pool"):
    (params, x), static, _ = ROWS[name].samples(np.random.default_rng(0))[0]
    for args in ((params, x), jax.tree.map(jnp.asarray, (params, x))):  # NumPy's arrays and JAX's
        y, pull = jax.vjp(lambda *args: ROWS[name].function(*args, **static), *args)
        pull(np.asarray(y))
kernels.wide_dtype(jnp.float32), layers.conv_init(jax.random.key(0), 3, 1, 1, scale=1)
for name, shapes in [("matmul", ((2, 3), (4, 5))), ("conv", ((1, 4, 4, 2), (3, 3, 1, 1)))]:
    try:
        rest = ((1, 1), ((0, 0), (0, 0))) if name == "conv" else ()
        getattr(kernels, name)(*(jnp.ones(s) for s in shapes), *rest)
    except TypeCheckError:
        count += 1
from funcnet import losses
try:
    losses.mean_squared_error(jnp.ones((2, 1)), jnp.ones(2))
except TypeCheckError:
    count += 1
dataset = data.synthetic(shape=(8, 8, 1), sizes=(40, 20, 20), classes=3)
net = nets.fully_connected_net([4], 3, norm="batch", dropout=0)
run = train.fit(net, dataset, optimizers.sgd(train.decay_per_epoch(1, 1, 4)), 1, 10, reg=0)
train.evaluate(net, run.best, dataset.test, run.preprocessing)
for name in filter(str.islower, optimizers.__all__):
    rule = getattr(optimizers, name)(1)
    jax.eval_shape(lambda p: rule.update(p, rule.init(p), p), run.final.params)
print(count)
if not every:
    raise SystemExit
from funcnet import checks, cli
os.chdir(tempfile.mkdtemp())
np.save("images.npy", data.synthetic().test.images)
small = "--data synthetic --net softmax"
for line in (
    f"train {small} --epochs 1 --augment crop-flip-cutout --reg 0 --out run",
    "train --resume --epochs 2 --out run",
    f"sweep {small} --epochs 1 --learning-rate 1e-3 1e-2 --weight-scale 1 --how vmap --out swept",
    "evaluate run",
    "predict run images.npy --csv -",
    *(f"export run --to {to}" for to in ("onnx", "safetensors")),
    "info",
):
    with contextlib.redirect_stdout(io.StringIO()):
        assert cli.main(line.split()) == 0, line
images = jnp.asarray(dataset.test.images, jnp.float32)
train.diagnose(net, run.final, (images, jnp.asarray(dataset.test.labels)))
net.apply(run.best.params, run.best.state, images)
report = checks.check_rule(losses.softmax_cross_entropy, jnp.ones((2, 3)), jnp.array([0, 2]))
assert checks.RuleReport.from_json(report.to_json()).raise_if_bad().ok
""",
        PARTS=parts,
        XLA_FLAGS=_machine.quick_compile_flags(),
    )
    assert int(out) == len(SAMPLES if parts == "all" else ROWS) + 3


@pytest.mark.integration
@pytest.mark.parametrize("names", some_and_all(SOME))
def test_rules_compiled_as_users_compile_them(names):
    """Values and cotangents of a rule's samples equal the twin's under XLA's own optimisations.

    Of the first sample of some rules; in the slow lane of all samples.
    """
    chosen = [sample for sample in SAMPLES if sample[0] in names]
    if names == SOME:
        chosen = [sample for sample in chosen if sample[1] == 0]
    out = run_python(
        """
import json, os, jax, numpy as np
from tests.support.rules import cotangents, problem, worst
count = 0
for name, index in json.loads(os.environ["CHOSEN"]):
    p = problem(name, index)
    dys = [d[0] for d in cotangents(jax.eval_shape(p.plain, p.floats), np.random.default_rng(0), 1)]
    def both(x):
        results = []
        for f in (p.rule, p.plain):
            ys, pull = jax.vjp(f, x)
            results.append((ys, pull(dys)[0]))
        return results
    got, want = jax.jit(both)(p.floats)
    assert worst(got, want, 2.0**-52) <= p.tolerance, (name, index)
    count += 1
print(count)
""",
        JAX_ENABLE_X64="1",
        CHOSEN=json.dumps(chosen),
    )
    assert int(out) == len(chosen) >= len(names)


@pytest.mark.integration
def test_float32_stays_float32_without_x64():
    """With x64 off no program of a rule holds a float64, and gradients keep their dtypes."""
    with (
        jax.enable_x64(False),
        jax.numpy_dtype_promotion("standard"),
        jax.numpy_rank_promotion("allow"),
    ):
        for row in ROWS.values():
            p = problem_of(row, row.samples(np.random.default_rng(0))[0], jnp.float32)

            def both(x, rule=p.rule):
                y, pull = jax.vjp(rule, x)
                return y, pull([jnp.ones_like(v) for v in y])

            program = jax.make_jaxpr(both)(p.floats)
            assert "f64" not in str(program), row.name
            assert not any(a.weak_type for a in program.out_avals), row.name


@pytest.mark.integration
@pytest.mark.parametrize("names", some_and_all(OVER_DEVICES))
def test_rules_over_devices_give_what_one_device_gives(names):
    """Over 2, 4 and 8 devices, on axes of both types and in shard_map; no batch is gathered.

    A mistake of 1e-12 would be seen. x64 is on in the checks' context alone, as in a session of
    float32.
    """
    out = run_python(
        """
import json, os, jax
jax.config.update("jax_num_cpu_devices", 8)
from funcnet.catalogue import ROWS
from funcnet.cli._certificate import certify_spread
names = os.environ["NAMES"].split()
print(json.dumps([certify_spread(ROWS[name]).to_dict() for name in names]))
""",
        NAMES=" ".join(names),
        # Where a batch lies is decided before what these flags leave out.
        XLA_FLAGS=_machine.quick_compile_flags(),
    )
    reports = [checks.RuleReport.from_dict(data) for data in json.loads(out)]
    assert [report.name for report in reports] == names
    kinds = ("auto", "explicit", "shard_map")
    for report in reports:
        report.raise_if_bad()
        names = [f"sharding/{n}/{kind}" for n in (2, 4, 8) for kind in kinds]
        assert [check.name for check in report if check.passed] == names, report
        for check in report:
            assert check.worst <= check.tolerance <= 1e-12 / 2.0**-52
        # A note would say of a program that it gathers, or where a gradient lies otherwise.
        assert not any("sharding/" in note for note in report.notes), report
