"""What a report measures: each number is one that can be counted by hand, or that others give."""

import dataclasses
import functools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data, losses, nets, report, train
from funcnet.layers import AffineParams
from funcnet.report import _measures

NAMES = ("a", "b", "c")


@pytest.fixture(autouse=True)
def _without_layers(monkeypatch):
    """What `diagnose` finds is compiled for each net; `test_write.py` asks for it once."""
    monkeypatch.setattr(_measures, "_layers", lambda trained, split: [])


@functools.cache
def giving(k):
    """A net whose parameters are its outputs: row x[0] of them."""

    def apply(w, state, x, *, train=False, key=None):
        return jnp.asarray(w)[x[:, 0].astype(int)], state

    return nets.Net(lambda key, shape: (jnp.zeros((6, k)), ()), apply)


def told(outputs, **options):
    """A net that gives these outputs, each for the example that is its number."""
    k = outputs.shape[-1]
    fields = {"classes": NAMES[:k], "input_shape": (1,)} | options
    preprocessing = data.Preprocessing(np.zeros(1), np.ones(1))
    return train.Trained(giving(k), jnp.asarray(outputs), (), preprocessing, **fields)


def rows(labels):
    return data.Split(np.arange(len(labels))[:, None], np.asarray(labels))


# Examples 0 to 5: right, right, wrong by far, wrong, wrong, right.
OUTPUTS = np.array([[3, 0, 0], [0, 2, 0], [0, 0, 9], [0, 1, 0], [4, 0, 0], [0, 0, 1]], float)
LABELS = np.array([0, 1, 0, 0, 2, 2])


@pytest.mark.integration
def test_confusions_are_counted_and_make_the_scores():
    found = report.measure(told(OUTPUTS), rows(LABELS))
    assert found["confusion"] == [[1, 1, 1], [0, 1, 0], [1, 0, 1]]
    assert found["undecided"] == 0
    assert found["rows"] == 6
    a, b, c = found["classes"]
    assert a == {"name": "a", "precision": 1 / 2, "recall": 1 / 3, "f1": 2 / 5, "support": 3}
    assert b == {"name": "b", "precision": 1 / 2, "recall": 1.0, "f1": 2 / 3, "support": 1}
    assert c["f1"] == 1 / 2


def test_loss_and_accuracy_are_those_of_evaluate():
    trained = told(OUTPUTS)
    found = report.measure(trained, rows(LABELS))
    assert {key: found[key] for key in ("loss", "accuracy")} == trained.evaluate(rows(LABELS))


def test_the_worst_mistakes_come_first():
    trained, split = told(OUTPUTS), rows(LABELS)
    found = report.measure(trained, split, most=2)
    assert found["wrong"] == 3
    assert [one["row"] for one in found["mistakes"]] == [2, 4]
    first = found["mistakes"][0]
    assert (first["true"], first["predicted"]) == ("a", "c")
    assert first["probability"] == trained.predict_proba(split.images[2:3])[0, 2]
    assert first["loss"] == pytest.approx(9 + np.log1p(2 * np.exp(-9)), rel=1e-14)


def test_a_loss_that_tells_no_rows_apart_leaves_the_probability():
    trained = dataclasses.replace(told(OUTPUTS), loss=lambda z, y: jnp.square(z).mean())
    found = report.measure(trained, rows(LABELS))
    assert [one["row"] for one in found["mistakes"]] == [2, 4, 3]
    assert found["mistakes"][0]["loss"] is None


def test_without_a_loss_there_are_answers_alone():
    found = report.measure(dataclasses.replace(told(OUTPUTS), loss=None), rows(LABELS))
    assert (found["accuracy"], found["loss"], found["layers"]) == (0.5, None, [])


def test_what_is_not_finite_is_no_answer():
    outputs = OUTPUTS.copy()
    outputs[0, 1] = np.nan
    found = report.measure(told(outputs), rows(LABELS))
    assert found["undecided"] == 1
    assert np.trace(found["confusion"]) / found["rows"] == found["accuracy"] == 2 / 6
    assert found["classes"][0]["support"] == 3
    assert json.loads(json.dumps(found, allow_nan=False)) == found


@pytest.mark.integration
def test_ignored_labels_are_not_counted():
    loss = functools.partial(losses.softmax_cross_entropy, ignore_index=2)
    trained = dataclasses.replace(told(OUTPUTS), loss=loss)
    found = report.measure(trained, rows(LABELS))
    assert found["confusion"] == [[1, 1, 1], [0, 1, 0], [0, 0, 0]]
    assert np.trace(found["confusion"]) / 4 == found["accuracy"]
    assert found["classes"][2]["recall"] is None
    assert {one["row"] for one in found["mistakes"]} == {2, 3}


@pytest.mark.integration
def test_regression_has_residuals():
    outputs = np.array([[1.0, 0.0], [2.0, 0.0], [3.0, 0.0], [4.0, 0.0]])
    off = np.array([[0.0, 1.0], [-2.0, 1.0], [0.0, 1.0], [1.0, 1.0]])
    trained = told(outputs, task="regression", loss=losses.mean_squared_error)
    found = report.measure(trained, rows(outputs + off), most=2)
    y = (outputs + off)[:, 0]
    assert found["targets"][0]["r2"] == 1 - 5 / np.square(y - y.mean()).sum()
    assert found["targets"][1] == {"name": "b", "r2": 0.0, "mae": 1.0}  # a constant, missed
    assert found["mae"] == (3 / 4 + 1) / 2
    assert found["loss"] == pytest.approx((5 + 4) / 8, rel=1e-15)
    assert [one["row"] for one in found["mistakes"]] == [1, 0]
    assert found["mistakes"][0]["residual"] == [-2.0, 1.0]


def test_labels_of_a_single_target_are_a_row():
    trained = told(np.array([[1.0], [2.0]]), task="regression", loss=losses.mean_squared_error)
    assert report.measure(trained, rows([1.0, 2.0]))["r2"] == 1.0


@pytest.mark.integration
def test_several_labels_are_scored_one_by_one():
    outputs = np.array([[1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]])
    trained = told(outputs, task="multilabel", loss=None)
    found = report.measure(trained, rows([[1, 0], [0, 1], [0, 1]]))
    assert [row["precision"] for row in found["classes"]] == [1 / 2, 1.0]
    assert found["accuracy"] == 5 / 6
    assert found["exact_match"] == pytest.approx(2 / 3, rel=1e-6)


def test_an_empty_split_is_refused():
    with pytest.raises(ValueError, match="the split is empty"):
        report.measure(told(OUTPUTS), rows(np.zeros(0, int)))


@pytest.mark.parametrize(
    ("net", "shape", "found"),
    [
        (nets.two_layer_net(4, 3), (4, 4, 3), (48, 4)),
        (nets.two_layer_convnet(3, channels=2, size=3), (4, 4, 1), (3, 3, 1, 2)),
        (nets.resnet(3, channels=(2,)), (4, 4, 3), (3, 3, 3, 2)),
        (nets.two_layer_net(4, 3), (12,), None),
        (nets.two_layer_net(4, 3), (4, 4, 2), None),
        (nets.relu(), (4, 4, 3), None),
    ],
)
def test_the_first_weights_are_those_that_look_at_images(net, shape, found):
    params, state = jax.tree.map(
        lambda leaf: np.zeros(leaf.shape, leaf.dtype),
        jax.eval_shape(lambda: net.init(jax.random.key(0), shape)),
    )
    trained = train.Trained(
        net, params, state, data.Preprocessing(np.zeros(1), np.ones(1)), NAMES, shape
    )
    w = _measures.first_weights(trained)
    assert (w if w is None else w.shape) == found


def test_weights_are_found_in_anybodys_names():
    net = nets.affine(3)
    params = AffineParams(jnp.ones((12, 3)), jnp.zeros(3))
    trained = train.Trained(
        net, params, (), data.Preprocessing(np.zeros(1), np.ones(1)), NAMES, (2, 2, 3)
    )
    assert _measures.first_weights(trained).shape == (12, 3)
