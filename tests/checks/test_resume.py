"""A run that goes on from a `Run` is the run not stopped; and the certificate of it."""

import os
import re
import signal
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checks, data, layers, nets, plain, train
from funcnet.checkpoint import Checkpoints
from funcnet.checks import _resume
from funcnet.train import _evaluation
from tests.support import resume_runs
from tests.support.lanes import by_default
from tests.support.resuming import (
    DATA,
    NET,
    OPTIMIZER,
    assert_same,
    assert_same_run,
    fit,
    stop_at,
)


@pytest.fixture(scope="module")
def whole():
    return fit()


# --- fit goes on from a Run


@pytest.mark.integration
@pytest.mark.parametrize("at", by_default([1, 4, 6, 11], {4, 6}))
def test_a_run_goes_on_to_the_same_bits(whole, at):
    first = fit(chunk_steps=1, on_chunk=stop_at(at))
    assert (first.stopped, int(first.final.step)) == ("interrupted", at)
    rows = []
    run = fit(resume=first, on_epoch=rows.append)
    assert_same_run(run, whole)
    assert rows == run.history[1 + at // 4 :]
    assert run.seconds > first.seconds > 0


def test_a_run_interrupted_before_its_row_of_the_history(whole):
    """As by a signal during the evaluation at the end of an epoch."""

    def stop(progress):
        if progress.step == 8:
            raise KeyboardInterrupt

    first = fit(on_progress=stop, chunk_steps=2)
    assert int(first.final.step) == 8
    assert first.history[-1]["step"] == 4
    assert_same_run(fit(resume=first), whole)


def test_a_signal_ends_an_evaluation_at_once(whole, monkeypatch):
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    evaluations = []

    def evaluate(*arguments, **options):
        evaluations.append(arguments)
        if len(evaluations) == 3:  # two before training, and the first at the end of an epoch
            os.kill(os.getpid(), signal.SIGINT)
            raise AssertionError("not reached")
        return evaluate_rows(*arguments, **options)

    evaluate_rows = _evaluation.evaluate_rows
    monkeypatch.setattr(_evaluation, "evaluate_rows", evaluate)
    try:
        first = fit()
    finally:
        signal.signal(signal.SIGINT, before)
    assert (first.stopped, int(first.final.step), len(first.history)) == ("interrupted", 4, 1)
    monkeypatch.undo()
    assert_same_run(fit(resume=first), whole)


@pytest.mark.integration
def test_more_epochs_than_before_or_none(whole):
    first = fit(epochs=2)
    assert_same_run(fit(resume=first, epochs=3), whole)
    assert_same_run(fit(resume=whole), whole)


@pytest.mark.integration
def test_without_a_validation_split_too():
    options = {"dataset": DATA._replace(val=None)}

    def fit(**more):
        return train.fit(NET, optimizer=OPTIMIZER, epochs=2, batch_size=10, **options, **more)

    first = fit(chunk_steps=1, on_chunk=stop_at(3))
    assert_same_run(fit(resume=first), fit())


def test_what_cannot_go_on_is_refused(whole):
    with pytest.raises(TypeError, match=r"resume is .*expected a train\.Run"):
        fit(resume=whole.final)
    with pytest.raises(ValueError, match="both state and resume"):
        fit(resume=whole, state=whole.final)
    with pytest.raises(ValueError, match=r"epoch 1 ended with step 4, .* make 2 steps"):
        fit(resume=whole, batch_size=20)


# --- The same draws with float64 and without

IMAGES = np.arange(64 * 4 * 4, dtype=np.uint8).reshape(64, 4, 4, 1)
DRAWS = {
    "dropout": lambda key: layers.dropout(key, jnp.ones((50, 9), jnp.float32), 0.3),
    "plain dropout": lambda key: plain.dropout(key, jnp.ones((50, 9), jnp.float32), 0.3),
    "flip": lambda key: data.random_flip(key, IMAGES),
    "crop": lambda key: data.random_crop(key, IMAGES),
    "cutout": lambda key: data.cutout(key, IMAGES, size=2),
    "composed": lambda key: data.compose(data.random_flip, data.cutout)(key, IMAGES),
    "permutation": lambda key: train.batch_order(key, 3, 103, 10),
    "replacement": lambda key: train.batch_order(key, 3, 103, 10, "replacement"),
    "weights": lambda key: layers.conv_init(key, 3, 2, 4),
    "scaled weights": lambda key: layers.affine_init(key, 30, 20, np.float64(0.1)),
}


@pytest.mark.parametrize("name", by_default(DRAWS, {"composed", "replacement", "dropout"}))
def test_draws_are_the_same_with_x64_and_without(name):
    draw = DRAWS[name]
    wide = jax.jit(draw)(jax.random.key(7))
    with jax.enable_x64(False):
        narrow = jax.jit(draw)(jax.random.key(7))
    assert_same(wide, narrow)


@pytest.mark.integration
def test_a_run_that_goes_on_without_x64_differs_by_rounding_alone(whole):
    first = fit(chunk_steps=1, on_chunk=stop_at(6))
    with jax.enable_x64(False):
        run = fit(resume=first)
    rtol = 12 * 10 * np.finfo(np.float32).eps  # twelve steps
    np.testing.assert_allclose(run.losses, whole.losses, rtol=rtol)


# --- check_resume


@pytest.mark.slow
def test_check_resume():
    report = checks.check_resume(resume_runs.everything, stops=(4,)).raise_if_bad()
    assert [check.name for check in report] == ["repeat", "step 4"]
    assert checks.ResumeReport.from_json(report.to_json()) == report


@pytest.mark.slow
@pytest.mark.parametrize("make", [resume_runs.plain, resume_runs.everything, resume_runs.conv])
def test_check_resume_at_every_step(make):
    report = checks.check_resume(make).raise_if_bad()
    assert len(list(report)) == (6 if make is resume_runs.everything else 4)


@pytest.mark.slow
@pytest.mark.parametrize("make", [resume_runs.everything, resume_runs.conv])
def test_on_several_threads_the_difference_is_rounding(make):
    """On two threads of one machine there was none; XLA does not promise it."""
    for check in checks.check_resume(make, stops=(2,), one_thread=False):
        by = re.search(r"by up to ([\d.e+-]+)", check.message)
        assert check.passed or float(by[1]) < 1e-4, check.text


@pytest.mark.slow
def test_check_resume_sees_what_does_not_resume():
    report = checks.check_resume(resume_runs.forgetful, stops=(2,))
    assert report["repeat"].passed
    assert "numbers differ, by up to" in report.failed[0].text
    with pytest.raises(checks.RuleError, match="WRONG"):
        report.raise_if_bad()


def test_check_resume_names_what_differs(whole, tmp_path):
    Checkpoints(tmp_path / "a").save(whole)
    a = _resume._saved(tmp_path / "a")
    assert _resume._compared("step 1", a, _resume._saved(tmp_path / "a")).passed
    state = jax.tree.map(jnp.copy, whole.final)
    odd = whole.history[-1] | {"val_loss": 0.5}
    nudged = state.opt_state._replace(count=state.opt_state.count + 1)
    for name, run, where in (
        ("b", whole._replace(final=state._replace(opt_state=nudged)), "opt_state.count"),
        ("c", whole._replace(losses=-whole.losses), "run.losses"),
        ("d", whole._replace(nonfinite=(3,)), "nonfinite"),
        ("e", whole._replace(history=whole.history[:-1]), "history"),
        ("f", whole._replace(history=[*whole.history[:-1], odd]), "history[3].val_loss"),
    ):
        Checkpoints(tmp_path / name).save(run)
        check = _resume._compared("step 1", a, _resume._saved(tmp_path / name))
        assert (check.passed, check.where) == (False, where)


def test_check_resume_needs_a_function_that_can_be_found():
    for make in (lambda: None, partial(resume_runs.plain), nets.Net):
        with pytest.raises(ValueError, match="expected a function at the top level"):
            checks.check_resume(make)
