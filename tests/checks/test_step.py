"""The contract of a train step: no alarm where it is kept, and the leaf by name where it is not."""

import json
import os
import subprocess
import sys

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.experimental import io_callback

from funcnet import checks, losses, nets, optimizers, train
from funcnet.train import contract
from tests.support.lanes import by_default

KEY = jax.random.key(0)
NET = nets.serial(nets.affine(3))
BATCH = np.ones((6, 4), np.float32), np.array([0, 1, 2, 0, 1, 2], np.int32)


def state_of(net=NET, optimizer=None, shape=(4,)):
    return train.init_state(net, optimizer or ADAM, KEY, shape)


# --- Steps that keep it

OPTIMIZERS = {
    **{name: getattr(optimizers, name)(1e-2) for name in optimizers.__all__ if name.islower()},
    "a schedule": optimizers.sgd(optax.cosine_decay_schedule(0.1, 10)),
    "scaled nesterov": optimizers.nesterov(0.1, velocity="scaled"),
    "optax adamw": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
    "optax, injected": optax.inject_hyperparams(optax.adam)(learning_rate=1e-3),
    "optax, infinite at first": optax.chain(
        optax.sgd(0.1), optax.contrib.reduce_on_plateau(), optax.identity()
    ),
}
NETS = {
    "batch norm, dropout": nets.fully_connected_net([5], classes=3, norm="batch", dropout=0.2),
    "layer norm": nets.fully_connected_net([5], classes=3, norm="layer"),
    "a residual": nets.serial(nets.residual(nets.affine(4)), nets.affine(3)),
}


def with_value(optimizer):
    """An optimizer that wants the loss, given a constant."""
    optimizer = optax.with_extra_args_support(optimizer)

    def update(grads, state, params=None):
        return optimizer.update(grads, state, params, value=jnp.zeros((), jnp.float32))

    return optax.GradientTransformation(optimizer.init, update)


# A state of each form: none, two moments with a counter, matrices apart, a chain with weak types.
COMMON = {"sgd", "adam", "muon", "optax, injected"}


@pytest.mark.parametrize("name", by_default(OPTIMIZERS, COMMON))
def test_every_optimizer_keeps_it(name):
    optimizer = with_value(OPTIMIZERS[name])
    step, state = train.make_step(NET, optimizer), state_of(optimizer=optimizer)
    with jax.numpy_dtype_promotion("standard" if name.startswith("optax") else "strict"):
        report = checks.check_step(step, state, BATCH)
    assert all(check.passed for check in report), str(report)
    assert not any(leaf.is_deleted() for leaf in jax.tree.leaves(state))


@pytest.mark.parametrize("name", NETS)
def test_every_net_keeps_it(name):
    optimizer = optimizers.momentum(0.1)
    step = train.make_step(NETS[name], optimizer, reg=1e-3, compute_dtype=jnp.bfloat16)
    report = checks.check_step(step, state_of(NETS[name], optimizer), BATCH, calls=2)
    assert report.raise_if_bad().ok
    assert tuple(check.name for check in report) == checks.STEP_CHECKS


@pytest.mark.integration
def test_images_and_a_jitted_step_keep_it():
    net, optimizer = nets.two_layer_convnet(3, channels=2), optimizers.adam(1e-3)
    step = jax.jit(train.make_step(net, optimizer), donate_argnums=0)
    batch = np.ones((3, 6, 6, 1), np.float32), np.zeros(3, np.int64)
    report = checks.check_step(step, state_of(net, optimizer, (6, 6, 1)), batch, name="images")
    assert all(check.passed for check in report), str(report)
    assert report.summary().startswith("check_step images: right · 11 checks pass")


# --- Steps that break it: what is wrong -> (the check that says so, what it says)


def simple(optimizer, change=lambda state: state, before=lambda *args: None):
    """A train step as anybody writes it, which changes its new state by `change`."""

    def step(state, batch):
        def loss(params):
            z, _ = NET.apply(params, {}, batch[0], train=True, key=state.key)
            return losses.softmax_cross_entropy(z, batch[1])

        value, grads = jax.value_and_grad(loss)(state.params)
        before(state, value)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        new = train.TrainState(params, state.state, opt_state, state.step + 1, state.key)
        return change(new), {"loss": value}

    return step


def changed(**leaves):
    """A fault that changes some fields of the new TrainState."""
    return lambda state: state._replace(**{k: f(getattr(state, k)) for k, f in leaves.items()})


def in_mu(change):
    """A fault in the first moment of affine1.w."""

    def mended(opt_state):
        first, *rest = opt_state
        affine = first.mu["affine1"]
        mu = first.mu | {"affine1": affine._replace(w=change(affine.w))}
        return (first._replace(mu=mu), *rest)

    return changed(opt_state=mended)


def first_of(opt_state, **fields):
    return (opt_state[0]._replace(**fields), *opt_state[1:])


ADAM = optax.chain(optimizers.adam(1e-2), optax.identity())


def fault(change=lambda state: state, state=lambda state: state, before=lambda *args: None):
    return simple(ADAM, change, before), state(state_of())


class Counted:
    """A Python counter, as some keep their step in."""

    def __init__(self):
        self.calls = 0

    def __call__(self, state):
        self.calls += 1
        return state._replace(step=state.step + jnp.int32(self.calls))


def noisy(state):
    noise = np.random.default_rng().normal(size=(3,)).astype(np.float32)
    b = state.params["affine1"].b + noise
    return state._replace(params={"affine1": state.params["affine1"]._replace(b=b)})


@jax.tree_util.register_pytree_node_class
class Labelled:
    """A leaf with a static part."""

    def __init__(self, leaf, label):
        self.leaf, self.label = leaf, label

    def tree_flatten(self):
        return (self.leaf,), self.label

    @classmethod
    def tree_unflatten(cls, label, leaves):
        return cls(leaves[0], label)


def on_the_host(array):
    return jax.device_put(array, jax.memory.Space.Host)


def float64(array):
    return array.astype(jnp.float64)


def lazy():
    """An optimizer that makes its state when it first sees a gradient."""

    def update(grads, state, params=None):
        return grads, jax.tree.map(jnp.zeros_like, grads)

    return optax.GradientTransformation(lambda params: None, update)


def own(change, optimizer=ADAM):
    """A fault of the optimizer itself, in the step of train.make_step."""

    def update(grads, state, params=None):
        updates, state = optimizer.update(grads, state, params)
        return updates, change(state)

    stranger = optax.GradientTransformation(optimizer.init, update)
    return train.make_step(NET, stranger), state_of(optimizer=stranger)


def of_net(change):
    """A fault of the net's state."""
    net = nets.serial(nets.affine(3), nets.batch_norm())

    def apply(params, state, x, *, train=False, key=None):
        z, state = net.apply(params, state, x, train=train, key=key)
        return z, change(state)

    stranger = nets.Net(net.init, apply)
    return train.make_step(stranger, ADAM), state_of(stranger)


def mean(change):
    return lambda state: {
        "batch_norm1": state["batch_norm1"]._replace(mean=change(state["batch_norm1"].mean))
    }


def tied(state):
    return state._replace(opt_state=first_of(state.opt_state, mu=state.params))


def nan_at(opt_state):
    nu = jax.tree.map(
        lambda a: a * (jnp.ones_like(a) - 1) / (jnp.ones_like(a) - 1), opt_state[0].nu
    )
    return first_of(opt_state, nu=nu)


MU = "opt_state[0].mu.affine1.w"
FAULTS = {
    # The dtype, shape and structure of a leaf.
    "a moment in float64": (lambda: fault(in_mu(float64)), "dtypes", MU, "float32 in, float64 out"),
    "a moment in bfloat16": (
        lambda: fault(in_mu(lambda a: a.astype(jnp.bfloat16))),
        *("dtypes", MU, "float32 in, bfloat16 out"),
    ),
    "a counter of floats": (
        lambda: fault(changed(step=lambda n: n.astype(jnp.float32))),
        *("dtypes", "step", "int32 in, float32 out"),
    ),
    "a counter in int64": (
        lambda: fault(
            changed(opt_state=lambda s: first_of(s, count=s[0].count.astype(jnp.int64)))
        ),
        *("dtypes", "opt_state[0].count", "int32 in, int64 out"),
    ),
    "parameters in float64": (
        lambda: fault(changed(params=lambda p: jax.tree.map(float64, p))),
        *("dtypes", "params.affine1.w", "float64 out; the same kind of fault in params.affine1.b"),
    ),
    "a key as raw bits": (
        lambda: fault(changed(key=jax.random.key_data)),
        *("shapes", "key", "() in, (2,) out"),
    ),
    "a moment that is broadcast": (
        lambda: fault(in_mu(lambda a: jnp.stack([a, a]))),
        *("shapes", MU, "(4, 3) in, (2, 4, 3) out"),
    ),
    "a state that grows": (
        lambda: fault(
            changed(state=lambda s: jnp.concatenate([s, s[:1]])),
            lambda state: state._replace(state=jnp.zeros(1)),
        ),
        *("shapes", "state", "(1,) in, (2,) out"),
    ),
    "a leaf more": (
        lambda: fault(changed(params=lambda p: p | {"ema": p["affine1"].w})),
        *("structure", "params.ema", "comes out and did not come in"),
    ),
    "a leaf less": (
        lambda: fault(changed(opt_state=lambda s: s[1:])),
        *("structure", "opt_state[0].count", "comes in and does not come out"),
    ),
    "a list for a tuple": (
        lambda: fault(changed(opt_state=list)),
        *("structure", "opt_state[0].count", "the container is a tuple in, a list out"),
    ),
    "another static part": (
        lambda: fault(
            changed(state=lambda s: Labelled(s.leaf, s.label + 1)),
            lambda state: state._replace(state=Labelled(jnp.zeros(1), 0)),
        ),
        *("structure", "state[<flat index 0>]", "Labelled 0 in, a Labelled 1 out"),
    ),
    "a state made at the first step": (
        lambda: (simple(lazy()), state_of(optimizer=lazy())),
        *("structure", "opt_state.affine1.w", "comes out and did not come in"),
    ),
    "no state comes back": (
        lambda: (lambda state, batch: state, (jnp.zeros(2), jnp.zeros(2), jnp.zeros(2))),
        *("structure", "", "the step returns a tuple, expected (state, metrics)"),
    ),
    "the metrics come first": (
        lambda: (lambda s, b: simple(ADAM)(s, b)[::-1], state_of()),
        *("structure", "params.affine1.w", "comes in and does not come out"),
    ),
    # Weak types.
    "a weak counter": (
        lambda: fault(changed(step=lambda n: jnp.asarray(1))),
        *("weak_types", "step", "a weak int64 comes out"),
    ),
    "a Python number": (
        lambda: fault(state=changed(step=lambda n: 0)),
        *("weak_types", "step", "a Python int comes in"),
    ),
    "a weak beginning": (
        lambda: fault(state=changed(state=lambda s: jnp.asarray(0.5))),
        *("weak_types", "state", "a weak float64 comes in"),
    ),
    # The host.
    "a print": (
        lambda: fault(before=lambda state, loss: jax.debug.print("{}", loss)),
        *("host", "test_step.py", "debug_print asks the host at every step"),
    ),
    "a pure callback": (
        lambda: fault(
            in_mu(lambda a: jax.pure_callback(np.abs, jax.ShapeDtypeStruct(a.shape, a.dtype), a))
        ),
        *("host", "test_step.py", "pure_callback asks the host"),
    ),
    "a callback in a branch": (
        lambda: fault(
            before=lambda state, loss: jax.lax.cond(
                loss > 100, lambda x: io_callback(lambda x: None, None, x), lambda x: None, loss
            )
        ),
        *("host", "test_step.py", "io_callback asks the host"),
    ),
    "a leaf into the host's memory": (
        lambda: fault(in_mu(on_the_host)),
        *("host", "test_step.py", "device_put into the host's memory"),
    ),
    "float of the loss": (
        lambda: fault(before=lambda state, loss: float(loss)),
        *("host", "", "Looks like Python that asks for a number"),
    ),
    "if of the loss": (
        lambda: fault(before=lambda state, loss: 1 if loss > 0 else 0),
        *("host", "", "TracerBoolConversionError"),
    ),
    "NumPy of the parameters": (
        lambda: fault(before=lambda state, loss: np.asarray(state.params["affine1"].w)),
        *("host", "", "TracerArrayConversionError"),
    ),
    "a NumPy leaf": (
        lambda: fault(state=changed(state=lambda s: np.zeros(2, np.float32))),
        *("host", "state", "a NumPy array"),
    ),
    # What is outside the arguments.
    "a Python counter": (lambda: fault(Counted()), "pure", "", "two traces differ: "),
    "NumPy's noise": (lambda: fault(noisy), "pure", "", "two traces differ"),
    # Buffers.
    "a shared buffer": (
        lambda: fault(state=tied),
        *("buffers", MU, "shares its buffer with params.affine1.w"),
    ),
    "nothing donated": (
        lambda: (jax.jit(simple(ADAM)), state_of()),
        *("donation", "params.affine1.w", "is not donated; jax.jit(step, donate_argnums=0)"),
    ),
    # Numbers.
    "zero by zero": (
        lambda: fault(changed(opt_state=nan_at)),
        *("finite", "opt_state[0].nu.affine1.w", "is NaN after step 1"),
    ),
    "an infinite loss": (
        lambda: (
            lambda s, b: (simple(ADAM)(s, b)[0], {"loss": jnp.float32(jnp.inf)}), state_of()
        ),
        *("finite", "metrics.loss", "is infinite after step 1"),
    ),
    "NaN from the start": (
        lambda: fault(state=changed(params=lambda p: jax.tree.map(lambda a: a * jnp.nan, p))),
        *("finite", "params.affine1.w", "is NaN before the first step"),
    ),
    "an overflow at the third step": (
        lambda: fault(
            changed(state=lambda s: s * 1e30), lambda state: state._replace(state=jnp.ones(1, "f4"))
        ),
        *("finite", "state", "is infinite after step 3"),
    ),
    # A stranger's optimizer or net in train.make_step.
    "an optimizer's moment in float64": (
        lambda: own(lambda s: in_mu(float64)(train.TrainState(0, 0, s, 0, 0)).opt_state),
        *(None, "", "mu.affine1.w"),
    ),
    "an optimizer's state more": (
        lambda: own(lambda s: (*s, jnp.zeros(2))),
        *(None, "", "[2]"),
    ),
    "a net's mean in bfloat16": (
        lambda: of_net(mean(lambda a: a.astype(jnp.bfloat16))),
        *(None, "", "batch_norm1.mean"),
    ),
}  # fmt: skip


# Faults of a leaf that a neighbour in the table has in another leaf or to another dtype.
LIKE_OTHERS = {"a moment in bfloat16", "a counter in int64", "parameters in float64"}
LIKE_OTHERS |= {"a weak beginning", "a callback in a branch", "NaN from the start", "a leaf more"}


@pytest.mark.parametrize("fault_of", by_default(FAULTS, {*FAULTS} - LIKE_OTHERS))
def test_a_broken_step_is_found_and_the_leaf_is_named(fault_of):
    make, name, where, said = FAULTS[fault_of]
    report = checks.check_step(*make(), BATCH)
    assert not report.ok
    found = report.failed if name is None else [report[name]]
    assert found[0].passed is False, str(report)
    assert said in " ".join(check.text for check in found), str(report)
    assert where in found[0].where
    if name is not None and not where.endswith(".py"):
        assert found[0].where == where
    with pytest.raises(checks.RuleError, match=f"{len(report.failed)} of 11 checks FAIL"):
        report.raise_if_bad()


def test_there_are_at_least_twenty_faults_of_every_kind():
    assert len(FAULTS) >= 20
    found = {name for _, name, *_ in FAULTS.values()} - {None}
    # A step that moves its leaves needs several devices, and too many traces have another cause.
    assert found == set(checks.STEP_CHECKS) - {"sharding", "traces"}


def test_too_many_traces_have_their_cause_named():
    report = checks.check_step(*fault(in_mu(float64)), BATCH, calls=4)
    assert report["traces"].text == f"{MU}: 2 traces in 4 calls, because of dtypes"
    grows = FAULTS["a state that grows"][0]()
    assert (
        "4 traces in 4 calls, because of shapes"
        in checks.check_step(*grows, BATCH, calls=4)["traces"].text
    )


# --- On several devices

DEVICES = """
import json
import jax, jax.numpy as jnp, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec as P
jax.config.update("jax_num_cpu_devices", 2)
from funcnet import checks, nets, optimizers, train

net, optimizer = nets.affine(4), optimizers.momentum(0.1)
mesh = Mesh(np.array(jax.devices()), ("data",))
whole, shared = NamedSharding(mesh, P()), NamedSharding(mesh, P("data"))
state = jax.device_put(train.init_state(net, optimizer, jax.random.key(0), (8,)), whole)
batch = np.ones((8, 8), np.float32), np.zeros(8, np.int32)
good = train.make_step(net, optimizer)

def moved(place):
    def step(state, batch):
        state, metrics = good(state, batch)
        w = jax.lax.with_sharding_constraint(state.params.w, place)
        return state._replace(params=state.params._replace(w=w)), metrics
    return step

put = lambda params: params._replace(w=jax.device_put(params.w, shared))
momentum = state.opt_state._replace(trace=put(state.opt_state.trace))
sharded = state._replace(params=put(state.params), opt_state=momentum)
found = {
    "replicated": (good, state),
    "sharded": (moved(shared), sharded),
    "spread": (moved(shared), state),
    "gathered": (moved(whole), sharded),
    "turned": (moved(NamedSharding(mesh, P(None, "data"))), sharded),
}
batch = jax.device_put(batch, shared)
print(json.dumps({k: checks.check_step(*v, batch).to_dict() for k, v in found.items()}))
"""


@pytest.mark.slow
def test_on_two_devices_leaves_must_lie_where_they_lay():
    done = subprocess.run(
        [sys.executable, "-c", DEVICES],
        capture_output=True,
        text=True,
        timeout=120,
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    reports = {k: checks.StepReport.from_dict(v) for k, v in json.loads(done.stdout).items()}
    for name in ("replicated", "sharded"):
        assert reports[name].ok, str(reports[name])
    places = {
        "spread": r"P() in, P('data',) out",
        "gathered": r"P('data',) in, P() out",
        "turned": r"P('data',) in, P(None, 'data') out",
    }
    for name, said in places.items():
        check = reports[name]["sharding"]
        assert check.passed is False
        assert check.where == "params.w"
        assert check.message.replace("PartitionSpec", "P").startswith(said)
    # Of whole parameters the gradients are added up, by one or more; the others are gathered too.
    sent = reports["replicated"].collectives
    assert set(sent) == {"all-reduce"}
    params = (8 * 4 + 4) * 4  # float32
    assert params <= sent["all-reduce"][1] <= params + 64
    count, size = sent["all-reduce"]
    assert (
        f"over 2 devices, a step: {count} all-reduce ({size} bytes)" in reports["replicated"].notes
    )
    assert "all-gather" in reports["sharded"].collectives


# --- For who has the trace and the program already


def program_of(step, state):
    """What train.fit has at hand before its first step: a trace and a compiled program."""
    traced, returned = jax.make_jaxpr(step, return_shape=True)(state, BATCH)
    jitted = jax.jit(step, donate_argnums=0, keep_unused=True)
    return traced, returned[0], jitted, state


def test_a_trace_and_a_program_are_enough():
    traced, returned, jitted, state = program_of(simple(ADAM), state_of())
    found = contract.of_trace(traced, state, returned)
    found += contract.of_program(jitted.lower(state, BATCH).compile(), state, returned)
    contract.require("fit", found)
    assert [check.name for check in found if check.passed] == [
        *("structure", "shapes", "dtypes", "weak_types", "host", "donation", "sharding")
    ]
    kept = jax.jit(simple(ADAM)).lower(state, BATCH).compile()
    said = r"^fit: .* contract \(donation\): params\.affine1\.w: its buffer is not reused"
    with pytest.warns(RuntimeWarning, match=said):
        contract.require("fit", contract.of_program(kept, state, returned))


def test_a_trace_is_enough_to_refuse_a_step_before_it_is_compiled():
    step, state = fault(in_mu(float64))
    traced, returned, *_ = program_of(step, state)
    with pytest.raises(checks.StepError) as raised:
        contract.require("fit", contract.of_trace(traced, state, returned))
    assert str(raised.value) == f"fit: {MU}: float32 in, float64 out"
    assert isinstance(raised.value, TypeError)


def test_leaves_alone_are_enough_inside_of_a_step():
    """What train.make_step has at hand between its gradient and its update."""
    state = state_of()
    shapes = jax.eval_shape(lambda s: in_mu(float64)(s), state)
    with pytest.raises(
        checks.StepError, match=r"make_step: opt_state\[0\]\.mu\.affine1\.w: float32"
    ):
        contract.require("make_step", contract.of_leaves(state, shapes))
    contract.require("make_step", contract.of_leaves(state, jax.eval_shape(lambda: state)))


def test_what_a_step_refuses_in_its_trace_is_named():
    def step(state, batch):
        contract.require("make_step", [checks.Check("dtypes", False, "a in, b out", where=MU)])

    check = checks.check_step(step, state_of(), BATCH)["dtypes"]
    assert (check.where, check.message) == (MU, "a in, b out")


# --- The report


def test_the_report_reads_well_and_goes_round():
    report = checks.check_step(*fault(in_mu(float64)), BATCH, name="mine")
    lines = str(report).splitlines()
    assert lines[0].startswith("check_step mine: WRONG · 2 of 11 checks FAIL, 7 checks pass")
    assert lines[1].split() == ["FAIL", "dtypes", f"{MU}:", "float32", "in,", "float64", "out"]
    assert "not judged: see dtypes" in report["donation"].text
    assert checks.StepReport.from_json(report.to_json()) == report


def test_a_step_that_raises_is_said():
    def step(state, batch):
        raise RuntimeError("no such layer")

    report = checks.check_step(step, state_of(), BATCH)
    assert report["traces"].text == "tracing raised RuntimeError: no such layer"
    with pytest.raises(ValueError, match="check_step: calls is 1, expected an int of at least 2"):
        checks.check_step(step, state_of(), BATCH, calls=1)
