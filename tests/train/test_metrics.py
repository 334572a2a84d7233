"""Metrics against scikit-learn's, and what they say to what is odd."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet.train import metrics

N, CLASSES = 60, 4
RNG = np.random.default_rng(3)
SCORES = RNG.normal(size=(N, CLASSES)).astype(np.float32)
LABELS = RNG.integers(0, CLASSES - 1, N).astype(np.int32)  # the last class is only answered
SEVERAL = RNG.integers(0, 2, (N, CLASSES)).astype(np.float32)
TARGETS = RNG.normal(3.0, [0.1, 1.0, 10.0], (N, 3)).astype(np.float32)
GUESSES = TARGETS + RNG.normal(size=(N, 3)).astype(np.float32)


def of(metric, output, labels):
    """Compiled, as `fit` does: alone each operation is a program."""
    return jax.jit(metric)(output, labels)


def test_metrics_of_classes_are_those_of_scikit_learn():
    learn = pytest.importorskip("sklearn.metrics")
    answers = SCORES.argmax(-1)
    assert of(metrics.accuracy, SCORES, LABELS) == pytest.approx(
        learn.accuracy_score(LABELS, answers)
    )
    for k in (1, 2, 3):
        expected = learn.top_k_accuracy_score(LABELS, SCORES, k=k, labels=range(CLASSES))
        assert of(metrics.top_k_accuracy(k), SCORES, LABELS) == pytest.approx(expected)
    expected = learn.f1_score(LABELS, answers, average="macro")
    assert of(metrics.f1, SCORES, LABELS) == pytest.approx(expected)
    per_position = SCORES.reshape(10, 6, CLASSES), LABELS.reshape(10, 6)
    for metric in (metrics.accuracy, metrics.top_k_accuracy(2), metrics.f1):
        assert float(of(metric, *per_position)) == float(of(metric, SCORES, LABELS))


def test_metrics_of_several_labels_are_those_of_scikit_learn():
    learn = pytest.importorskip("sklearn.metrics")
    several = SEVERAL * (np.arange(CLASSES) > 0)
    scores = np.where(np.arange(CLASSES) > 0, SCORES, -1)  # nobody has the first label
    answers = scores > 0
    assert of(metrics.accuracy, scores, several) == pytest.approx((answers == several).mean())
    expected = learn.f1_score(several, answers, average="macro", zero_division=np.nan)
    assert of(metrics.f1, scores, several) == pytest.approx(expected)


def test_metrics_of_numbers_are_those_of_scikit_learn():
    learn = pytest.importorskip("sklearn.metrics")
    assert of(metrics.r2, GUESSES, TARGETS) == pytest.approx(
        learn.r2_score(TARGETS, GUESSES), rel=1e-4
    )
    expected = learn.mean_absolute_error(TARGETS, GUESSES)
    assert of(metrics.mean_absolute_error, GUESSES, TARGETS) == pytest.approx(expected)
    constant = np.ones((5, 1), np.float32)
    for guesses in (constant, constant + 1):
        assert float(of(metrics.r2, guesses, constant)) == learn.r2_score(constant, guesses)


def test_what_is_nan_is_wrong_and_never_hidden():
    scores = np.where(np.arange(N)[:, None] < 30, np.float32(np.nan), SCORES)
    whole = np.eye(CLASSES, dtype=np.float32)[LABELS]
    whole[:30, 1] = np.nan
    for metric in (metrics.accuracy, metrics.top_k_accuracy(CLASSES)):
        assert of(metric, whole, LABELS) == 0.5
    found = float(of(metrics.accuracy, scores, np.zeros((N, CLASSES))))
    assert found == pytest.approx((SCORES[30:] <= 0).mean() / 2)
    assert np.isnan(of(metrics.r2, scores[:, :3], TARGETS))
    assert np.isnan(of(metrics.r2, scores[:5, :1], np.ones((5, 1), np.float32)))
    assert np.isnan(of(metrics.mean_absolute_error, scores[:, :3], TARGETS))


def test_accuracy_leaves_out_what_is_ignored():
    right = jnp.asarray(np.eye(2, dtype=np.float32)[[0, 1, 0]])
    assert metrics.accuracy(right, np.array([0, 0, -1]), ignore_index=-1) == 0.5


def test_shapes_that_would_broadcast_are_refused():
    for metric in (metrics.r2, metrics.mean_absolute_error):
        with pytest.raises(ValueError, match=r"\(60, 1\) but labels \(60,\)"):
            metric(TARGETS[:, :1], TARGETS[:, 0])
    with pytest.raises(ValueError, match="k is 0"):
        metrics.top_k_accuracy(0)
    with pytest.raises(ValueError, match=r"k is 5.*4 classes"):
        metrics.top_k_accuracy(5)(SCORES, LABELS)


def test_a_name_says_which_way_is_better():
    for name in ("val_loss", "mean_absolute_error", "val_mae", "rmse", "perplexity"):
        assert metrics.lower_is_better(name)
    for name in ("val_accuracy", "r2", "loss_share", "f1"):
        assert not metrics.lower_is_better(name)


def test_a_row_matches_where_each_of_its_labels_is_right(rng):
    output, labels = rng.standard_normal((40, 3)), rng.integers(2, size=(40, 3))
    output[0, 1] = np.nan
    want = (((output > 0) == labels) & ~np.isnan(output)).all(1).mean()
    assert float(of(metrics.exact_match, output, labels)) == pytest.approx(want, rel=1e-6)
    classes = rng.integers(3, size=40)
    assert of(metrics.exact_match, output, classes) == of(metrics.accuracy, output, classes)
