"""`check_optimizer` on pairs across funcnet, optax, torch and Keras, and the ways to name one."""

import functools
import re

import jax
import numpy as np
import optax
import pytest

from funcnet import checks, optimizers
from tests.support import optimizer_pairs as pairs
from tests.support.processes import run_python

PARAMS = pairs.PARAMS
pytestmark = pytest.mark.usefixtures("_standard_promotion")
ACROSS = [pair for rows in pairs.DIFFERENT.values() for pair in rows]


@pytest.fixture
def _standard_promotion():
    """Optax and Keras mix dtypes, which the strict mode of this suite refuses."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


@pytest.mark.parametrize(
    ("ours", "theirs", "cause"), ACROSS, ids=[f"{ours}-{theirs}" for ours, theirs, _ in ACROSS]
)
def test_the_same_name_and_other_numbers(ours, theirs, cause):
    report = checks.check_optimizer(
        ours.make(), theirs.make(), PARAMS, steps=24, checks=["trajectory"]
    )
    assert report.equal is False
    assert re.search(cause, report.cause), (report.cause, report.properties)


@pytest.mark.parametrize(
    ("ours", "theirs"), pairs.EQUAL, ids=[f"{ours}-{theirs}" for ours, theirs in pairs.EQUAL]
)
def test_equal_once_the_options_are(ours, theirs):
    options = {"steps": 40, "checks": ["trajectory", "extremes"]}
    report = checks.check_optimizer(ours.make(), theirs.make(), PARAMS, **options)
    assert report.raise_if_bad().equal is True
    assert report.name.endswith(f"vs {theirs.library}.{theirs.name}")


def test_equal_and_not_robust_are_two_verdicts():
    """Optax's Adam has an eps that is 0 in float16, and torch's has the same."""
    torch = pairs.module("torch")
    report = checks.check_optimizer(optax.adam(1e-3), torch.Adam, PARAMS, steps=40)
    assert (report.equal, report.robust, report.ok) == (True, False, True)
    assert report.raise_if_bad() is report
    assert report.not_robust == ("zero_gradients", "float16")
    assert report.shared == ["zero_gradients", "float16"]
    assert (
        "optax.scale_by_adam vs torch.Adam: equal · not robust: zero_gradients (theirs too), "
        "float16 (theirs too)" in report.summary()
    )
    ours = checks.check_optimizer(optimizers.adam(1e-3), torch.Adam, PARAMS, steps=40, robust=True)
    assert ours.raise_if_bad().robust is True


SPELLINGS = {
    "torch": {
        "class": lambda t: t.Adagrad,
        "class and options": lambda t: (t.Adagrad, {"lr": 0.01}),
        "partial": lambda t: functools.partial(t.Adagrad, lr=0.01),
        "function": lambda t: lambda params: t.Adagrad(params),
        "optimizer": lambda t: t.Adagrad([pytest.importorskip("torch").zeros(2)], lr=0.01),
        "wrapped": lambda t: checks.torch_optimizer(t.Adagrad),
    },
    "keras": {
        "class": lambda k: k.Adagrad,
        "class and options": lambda k: (k.Adagrad, {"learning_rate": 0.001}),
        "partial": lambda k: functools.partial(k.Adagrad, learning_rate=0.001),
        "function": lambda k: lambda: k.Adagrad(0.001),
        "optimizer": lambda k: k.Adagrad(0.001),
        "config": lambda k: {"class_name": "Adagrad", "config": {"learning_rate": 0.001}},
        "wrapped": lambda k: checks.keras_optimizer(k.Adagrad),
    },
}


@pytest.mark.parametrize(
    ("library", "how"), [(library, how) for library, ways in SPELLINGS.items() for how in ways]
)
def test_any_spelling_of_an_optimizer_is_taken_on_either_side(library, how):
    given = SPELLINGS[library][how](pairs.module(library))
    want = {
        "torch": optimizers.adagrad(0.01, 0.0, 1e-10, eps_in_sqrt=False),
        "keras": optimizers.adagrad(0.001),
    }[library]
    options = {"steps": 5, "checks": ["trajectory"]}
    assert checks.check_optimizer(given, want, PARAMS, **options).equal
    assert checks.check_optimizer(want, given, PARAMS, **options).equal


def test_pairs_and_functions_are_taken():
    sgd = optax.sgd(0.1)
    for given in (
        sgd,
        tuple(sgd),
        (optax.sgd, {"learning_rate": 0.1}),
        functools.partial(optimizers.sgd, 0.1),
        lambda: optax.sgd(0.1),
    ):
        report = checks.check_optimizer(given, sgd, PARAMS, steps=3, checks=["trajectory"])
        assert report.raise_if_bad().equal
    named = checks.check_optimizer(
        (optax.sgd, {"learning_rate": 0.1}), optimizers.sgd(0.1), PARAMS, checks=["structure"]
    )
    assert named.name == "optax.sgd vs funcnet.sgd"
    assert (named.equal, named.robust) == (None, True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (optax.adam, r"adam needs a learning rate; give adam\(0.001\)"),
        ("adam", "got 'adam', expected an"),
        ({"w": np.ones(3)}, "expected an .init, update. pair"),
        (lambda grads, state: grads, "expected an .init, update. pair"),
    ],
)
def test_what_is_no_optimizer_is_named(given, message):
    with pytest.raises(TypeError, match=message):
        checks.check_optimizer(given, None, PARAMS)


def test_a_function_that_gives_no_torch_optimizer_is_named():
    pairs.module("torch")
    report = checks.check_optimizer(lambda p: p, None, PARAMS, checks=["float32"])
    assert "gave list for a list of tensors" in report["float32"].message


def test_a_precision_that_torch_does_not_have_cannot_be_judged():
    torch = pairs.module("torch")

    class Narrow(torch.SGD):
        def step(self, closure=None):
            if any(p.dtype.itemsize < 4 for group in self.param_groups for p in group["params"]):
                raise RuntimeError('"sgd_cpu" not implemented for Half')
            return super().step(closure)

    report = checks.check_optimizer(Narrow, optax.sgd(1e-3), PARAMS, steps=3)
    assert report["float16"].passed is None
    assert "cannot be judged: RuntimeError" in report["float16"].message
    assert report["zero_gradients"].message == "no update in float64, float32"
    assert report.equal


def test_keras_keeps_no_moments_in_bfloat16():
    """Its Adam computes 0.999 in bfloat16, which is 1, and takes a root of 1 - 1."""
    adam = pairs.module("keras").Adam
    report = checks.check_optimizer(adam, None, PARAMS, checks=["float32", "bfloat16"])
    assert report.not_robust == ("bfloat16",)
    assert "first update 0, in float64 " in report["bfloat16"].message


def test_a_schedule_of_keras_is_its_velocity_scaled():
    keras = pairs.module("keras")
    rates = {"learning_rate": keras.schedules.ExponentialDecay(0.1, 1, 0.95), "momentum": 0.9}
    raw = optax.sgd(lambda step: 0.1 * 0.95 ** step.astype(np.float64), 0.9)
    options = {"steps": 24, "checks": ["trajectory"]}
    report = checks.check_optimizer((keras.SGD, rates), raw, PARAMS, **options)
    assert report.first_divergence == 1
    assert "the velocity of ours holds the learning rate" in report.cause


@pytest.mark.slow
def test_keras_on_another_backend_gives_the_same():
    pairs.module("torch")
    pairs.module("keras")
    run_python(
        "import keras, numpy as np, optax; from funcnet import checks;"
        "assert keras.backend.backend() == 'torch';"
        "params = {'w': np.ones((2, 3)), 'b': np.zeros(4)};"
        "r = checks.check_optimizer(keras.optimizers.Adagrad, optax.adagrad(1e-3), params);"
        "print(r); r.raise_if_bad()",
        KERAS_BACKEND="torch",
    )
