"""Runs of other tasks than one class for each row: labels, losses, metrics, the best epoch, ids."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checkpoint, data, losses, nets, optimizers, sweep, train
from funcnet.train import metrics
from tests.support.lanes import by_default
from tests.support.small_runs import DATA, assert_same

RNG = np.random.default_rng(0)
X = RNG.normal(size=(90, 4)).astype(np.float32)
Y = (X @ RNG.normal(size=(4, 2)) + 3).astype(np.float32)
IDS = RNG.integers(0, 1000, (90, 5))
OPTIMIZER = optimizers.adam(0.1)


def dataset_of(labels, task="classification", classes=(), x=X):
    splits = (data.Split(x[a:b], labels[a:b]) for a, b in ((0, 50), (50, 70), (70, 90)))
    return data.Dataset(*splits, classes, task=task)


def fit(net, dataset, **options):
    return train.fit(net, dataset, OPTIMIZER, **{"epochs": 3, "batch_size": 10, **options})


def cross_entropy(logits, labels):
    """Of several labels, by their logits."""
    return (jax.nn.softplus(logits) - labels * logits).mean()


@pytest.fixture(scope="module")
def regression():
    return fit(nets.affine(2), dataset_of(Y, "regression"), epochs=8)


# --- Regression


@pytest.mark.integration
def test_a_run_of_numbers_is_measured_by_its_error_and_r2(regression, tmp_path):
    learn = pytest.importorskip("sklearn.metrics")
    val = dataset_of(Y).val
    assert list(regression.history[0])[4:7] == ["train_r2", "val_r2", "val_loss"]
    assert regression.history[-1]["val_r2"] > 0.9
    assert regression.best_epoch == int(np.argmax(regression.history["val_r2"]))
    found = train.evaluate(nets.affine(2), regression, val)
    best = regression.history[regression.best_epoch]
    assert found == {"r2": best["val_r2"], "loss": best["val_loss"]}
    x = data.preprocess(regression.preprocessing, val.images)
    output = nets.affine(2).apply(regression.best.params, (), x)[0]
    assert found["r2"] == pytest.approx(learn.r2_score(val.labels, output), rel=1e-5)
    assert found["loss"] == pytest.approx(learn.mean_squared_error(val.labels, output), rel=1e-4)

    checkpoint.Checkpoints(tmp_path).save(regression)
    restored = checkpoint.Checkpoints(tmp_path).restore(regression.final)
    assert restored.task == "regression"
    assert train.evaluate(nets.affine(2), restored, val) == found


@pytest.mark.slow
def test_a_column_of_numbers_and_ints_are_one_target():
    runs = [
        fit(nets.affine(1), dataset_of(labels, "regression", names), epochs=1)
        for labels, names in ((Y[:, 0], ()), (Y[:, :1], ("height",)), (Y[:, 0].tolist(), ()))
    ]
    for run in runs[1:]:
        assert_same(run.final, runs[0].final)
        assert run.history["val_r2"] == runs[0].history["val_r2"]
    counts = np.round(Y[:, 0]).astype(int)
    assert fit(nets.affine(1), dataset_of(counts, "regression")).history[-1]["val_r2"] < 1


def test_progress_has_no_accuracy_of_numbers():
    said = []
    fit(nets.affine(2), dataset_of(Y, "regression"), epochs=1, on_progress=said.append)
    assert np.isnan([now.accuracy for now in said]).all()
    assert np.isfinite([now.loss for now in said]).all()


# --- Several labels, and positions


@pytest.mark.integration
def test_several_labels_are_told_each_by_its_sign():
    labels = (Y > 3).astype(int)
    dataset = dataset_of(labels, "multilabel", ("tall", "wide"))
    net = nets.affine(2)
    run = fit(net, dataset, epochs=20)
    x = data.preprocess(run.preprocessing, dataset.val.images)
    output = np.asarray(net.apply(run.best.params, (), x)[0])
    right = ((output > 0) == dataset.val.labels).mean()
    assert max(run.history["val_accuracy"]) == right > 0.8
    whole = ((output > 0) == dataset.val.labels).all(1).mean()
    assert run.trained.evaluate(dataset.val)["exact_match"] == pytest.approx(whole, rel=1e-6)
    measured = {"f1": metrics.f1}
    found = train.evaluate(net, run, dataset.val, metrics=measured)
    own = fit(net, dataset, loss=cross_entropy, epochs=20)  # the same loss in other words
    np.testing.assert_allclose(run.losses, own.losses, rtol=1e-4)
    assert found["f1"] == pytest.approx(float(metrics.f1(output, dataset.val.labels)))


def table(rows, width):
    def init(key, shape):
        return {"table": jax.random.normal(key, (rows, width), jnp.float32)}, ()

    def apply(params, state, x, *, train=False, key=None):
        return jnp.take(params["table"], x, axis=0), state  # which refuses floats

    return nets.Net(init, apply)


@pytest.mark.parametrize("dtype", by_default([np.uint16, np.int64], {np.int64}))
def test_ids_reach_the_net_as_they_are_whatever_it_computes_in(dtype):
    """In bfloat16 999 would be 1000: the label of each id is told only where none is rounded."""
    dataset = dataset_of(IDS % 3, classes=3, x=IDS.astype(dtype))
    dataset = dataset._replace(val=dataset.train)
    net = table(1000, 3)
    run = fit(net, dataset, preprocessing="integers", compute_dtype=jnp.bfloat16, epochs=30)
    assert run.history[-1]["val_accuracy"] == 1.0
    assert train.evaluate(net, run, dataset.train)["accuracy"] == 1.0
    # Only the rows of the ids that are there have moved.
    start = train.init_state(net, OPTIMIZER, jax.random.key(0), (5,)).params["table"]
    moved = (np.asarray(run.final.params["table"]) != np.asarray(start)).any(-1)
    assert set(np.flatnonzero(moved)) == set(IDS[:50].ravel())


@pytest.mark.integration
def test_classes_of_positions_are_counted_one_by_one():
    dataset = dataset_of(IDS % 3, classes=3, x=IDS)
    net, options = table(1000, 3), {"preprocessing": "integers", "epochs": 2}
    run = fit(net, dataset, **options)
    output = net.apply(run.final.params, (), dataset.val.images)[0]
    right = (np.asarray(output).argmax(-1) == dataset.val.labels).mean()
    assert run.history[-1]["val_accuracy"] == right
    ignoring = partial(losses.softmax_cross_entropy, ignore_index=0)
    ignored = fit(net, dataset, loss=ignoring, **options).history[-1]["val_accuracy"]
    assert ignored not in (right, 0.0)
    swept = sweep.run(
        lambda: sweep.Trial(net, OPTIMIZER), dataset, epochs=2, batch_size=10,
        preprocessing="integers", how="loop",
    )  # fmt: skip
    assert swept.val_accuracy[0].tolist() == run.history["val_accuracy"]


def test_integers_are_kept_only_where_they_are_some():
    for images, words in ((X, "dtype float32, expected integers"), (IDS + 2**40, "int32 holds")):
        with pytest.raises(ValueError, match=words):
            fit(table(9, 3), dataset_of(IDS % 3, classes=3, x=images), preprocessing="integers")
    images = dataset_of(Y, x=IDS.astype(np.uint8)).train.images
    assert data.preprocess(data.fit_preprocessing(images, "none"), images).dtype == jnp.float32


# --- Metrics and the best epoch


def distance(output, labels):
    return jnp.abs(output - labels).max()


@pytest.mark.integration
def test_any_column_of_validation_chooses_the_best_epoch(regression):
    measured = {"mae": metrics.mean_absolute_error, "distance": distance}
    net, dataset = nets.affine(2), dataset_of(Y, "regression")
    for best, choose in (
        (None, np.argmin),  # of the first metric, whose name says that it is an error
        ("val_loss", np.argmin),
        ("val_distance", np.argmax),
        (("val_distance", "min"), np.argmin),
    ):
        run = fit(net, dataset, metrics=measured, best=best)
        column = best[0] if isinstance(best, tuple) else best or "val_mae"
        assert run.best_epoch == choose(run.history[column])
        found = train.evaluate(net, run, dataset.val, metrics=measured)
        assert found["distance"] == run.history[run.best_epoch]["val_distance"]
    assert regression.history["val_loss"][:4] == run.history["val_loss"]


@pytest.mark.integration
def test_an_accuracy_among_other_metrics_is_the_same_to_the_last_answer():
    net, options = nets.softmax_classifier(3), {"epochs": 2}
    measured = {"top_2": metrics.top_k_accuracy(2), "accuracy": metrics.accuracy}
    plain, run = fit(net, DATA, **options), fit(net, DATA, metrics=measured, **options)
    assert_same(run.final, plain.final)
    for column in ("train_accuracy", "val_accuracy", "val_loss"):
        assert run.history[column] == plain.history[column]
    assert run.history["val_top_2"] > run.history["val_accuracy"]


def test_nan_is_never_the_best():
    def after_the_first(output, labels):  # NaN before training, whose outputs are of weights of 0
        return jnp.where(jnp.abs(output).max() < 0.05, jnp.nan, -jnp.abs(output).max())

    run = fit(
        nets.affine(2, weight_scale=0.0),
        dataset_of(Y, "regression"),
        metrics={"m": after_the_first},
    )
    assert np.isnan(run.history[0]["val_m"])
    assert run.best_epoch == 1


def test_a_run_goes_on_by_the_metrics_that_it_began_with(regression):
    net, dataset = nets.affine(2), dataset_of(Y, "regression")
    begun = fit(net, dataset, epochs=3)
    assert_same(fit(net, dataset, epochs=8, resume=begun).best, regression.best)
    with pytest.raises(ValueError, match="has no val_mae; give it the metrics"):
        fit(net, dataset, resume=begun, metrics={"mae": metrics.mean_absolute_error})


# --- What is refused


def without(value, row=7):
    changed = Y.copy()
    changed[row, 1] = value
    return changed


REFUSED = {
    "classes of floats": (dataset_of(Y[:, 0], classes=3), r'set task="regression"'),
    "nan": (dataset_of(without(np.nan), "regression"), r"train.labels\[7, 1\] is nan, expected a"),
    "infinite": (dataset_of(without(np.inf, 55), "regression"), r"val.labels\[5, 1\] is inf"),
    "names": (dataset_of(np.array(["a"] * 90), "regression"), "dtype <U1, expected numbers"),
    "three axes": (dataset_of(Y[:, :, None], "regression"), r"\(50, 2, 1\), expected \(n,\) or"),
    "other names": (dataset_of(Y, "regression", "abc"), r"\(50, 2\), expected \(n, 3\)"),
    "no label": (dataset_of(Y, "multilabel"), r"train.labels\[0, 0\] is .*, expected 0 or 1"),
    "one label": (dataset_of(Y[:, 0] > 3, "multilabel"), r"\(50,\), expected \(n, k\)"),
    "task": (dataset_of(Y, "ranking"), "task is 'ranking', expected one of classification, reg"),
    "width": (dataset_of(Y[:, 0], "regression"), r"into \(2, 2\), .* 1 targets; expected \(2, 1\)"),
    "one-hot": (dataset_of(np.eye(2, dtype=int)[IDS[:, 0] % 2], classes=2), r"labels.argmax\(-1\)"),
}  # fmt: skip


@pytest.mark.parametrize(("dataset", "words"), REFUSED.values(), ids=REFUSED)
def test_labels_that_are_none_of_the_task_are_named(dataset, words):
    with pytest.raises(ValueError, match=words):
        fit(nets.affine(2), dataset, loss=cross_entropy)


def test_evaluation_asks_the_same_of_labels(regression):
    net, split = nets.affine(2), dataset_of(Y).val
    with pytest.raises(data.LabelError, match=r"split.labels\[5, 1\] is nan"):
        train.evaluate(net, regression, dataset_of(without(np.nan, 55)).val)
    with pytest.raises(data.LabelError, match=r"\(20, 5\), but .*expected \(n,\)"):
        train.evaluate(
            net, regression, split._replace(labels=IDS[50:70] % 2), task="classification"
        )


def test_metrics_and_best_are_checked_before_anything_runs():
    dataset = dataset_of(Y, "regression")
    for options, error, words in (
        ({"best": "val_accuracy"}, ValueError, "expected one of val_r2, val_loss"),
        ({"best": "train_r2"}, ValueError, "expected a column of the history"),
        ({"best": ("val_r2", "lowest")}, ValueError, "min or max"),
        ({"metrics": {"loss": metrics.r2}}, TypeError, "other than loss"),
        ({"metrics": {"r2": 1.0}}, TypeError, "a function metric"),
        ({"metrics": {"each": lambda o, y: (o - y).sum(0)}}, ValueError, r"the shape \(2,\)"),
    ):
        with pytest.raises(error, match=words):
            fit(nets.affine(2), dataset, **options)


def test_a_sweep_of_another_task_is_refused():
    dataset = dataset_of(Y, "regression")
    with pytest.raises(ValueError, match=r"task is regression, expected class.*train\.fit"):
        sweep.run(lambda: sweep.Trial(nets.affine(2), OPTIMIZER), dataset, batch_size=10)


# --- Ending a run


def test_a_run_ends_where_its_callback_says_why():
    net, rows = nets.affine(2), []

    def third(row):
        rows.append(row)
        return "enough" if row["epoch"] == 2 else None

    run = fit(net, dataset_of(Y, "regression"), epochs=5, on_epoch=third)
    assert (run.stopped, run.final.step, len(rows)) == ("enough", 10, 3)
    whole = fit(net, dataset_of(Y, "regression"), epochs=5)
    on = fit(net, dataset_of(Y, "regression"), epochs=5, resume=run)
    assert on.stopped is None
    assert_same(on.final, whole.final)


def test_early_stopping_counts_the_epochs_that_are_no_better():
    def ends(values, *arguments, **options):
        stop = train.early_stopping(*arguments, **options)
        rows = ({"epoch": i, "val_loss": v, "val_r2": v} for i, v in enumerate(values))
        return [row["epoch"] for row in rows if stop(row) is not None]

    nan = float("nan")
    assert ends([5, 4, 4, 3, 3.5, 3, 3, 9], 3) == [6]
    assert ends([5, 4, 4.5, 4.5, 4.5, 4.5], 2) == [3, 5]  # again, where it goes on
    assert ends([1, 2, 3, 3, 3], 2, "val_r2") == [4]
    assert ends([1, 2, 3], 2, ("val_r2", "min")) == [2]
    assert ends([5.0, 4.8, 4.4, 4.2, 3.8], 2, min_delta=0.5) == []
    assert ends([5.0, 4.8, 4.6, 4.5], 2, min_delta=0.5) == [2]
    assert ends([nan, nan, nan], 2) == [2]
    assert ends([nan, 4, nan, 3], 2) == []
    stop = train.early_stopping(1)
    for _ in range(2):  # each run begins anew
        assert [stop({"epoch": i, "val_loss": 1 + i}) for i in (0, 1)] == [None, "early stopping"]
    with pytest.raises(ValueError, match=r"no val_f1, expected .* val_loss"):
        train.early_stopping(1, "val_f1")({"epoch": 0, "val_loss": 1.0})
    with pytest.raises(ValueError, match="patience is 0"):
        train.early_stopping(0)


def test_early_stopping_ends_a_run_and_keeps_its_best():
    run = fit(nets.affine(2), dataset_of(Y, "regression"), epochs=300, best="val_loss",
              on_epoch=train.early_stopping(3))  # fmt: skip
    assert run.stopped == train.EARLY_STOPPING
    assert run.best_epoch == run.history[-1]["epoch"] - 3 < 297
