"""A trained net as one value: what it predicts, and the numbers that it evaluates to."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data, losses, nets, optimizers, train


@pytest.fixture(scope="module")
def run():
    dataset = data.synthetic(sizes=(200, 60, 60), classes=3)._replace(classes=("ant", "bee", "cow"))
    net = nets.fully_connected_net([20], classes=3, norm="batch")
    return dataset, train.fit(net, dataset, optimizers.adam(1e-2), epochs=3, batch_size=20)


def _affine(units):
    return nets.affine(units).init(jax.random.key(0), (2,))[0]


@pytest.mark.integration
def test_a_run_delivers_its_best_state_with_what_its_numbers_mean(run):
    dataset, run = run
    assert run.trained.params is run.best.params
    assert run.trained.state is run.best.state
    assert run.trained.classes == ("ant", "bee", "cow")
    assert run.trained.input_shape == dataset.input_shape


def test_it_evaluates_to_the_number_that_was_logged(run):
    dataset, run = run
    found = run.trained.evaluate(dataset.val)
    row = run.history[run.best_epoch]
    assert (found["accuracy"], found["loss"]) == (row["val_accuracy"], row["val_loss"])


@pytest.mark.integration
def test_a_prediction_is_the_class_of_the_largest_output_on_raw_images(run):
    dataset, run = run
    images, labels = dataset.test
    x = data.preprocess(run.preprocessing, images)
    logits, _ = run.trained.net.apply(run.best.params, run.best.state, x)
    np.testing.assert_allclose(run.trained.outputs(images), logits, rtol=1e-5, atol=1e-5)
    found = run.trained.predict(images)
    np.testing.assert_array_equal(found, np.array(dataset.classes)[np.argmax(logits, -1)])
    accuracy = (found == np.array(dataset.classes)[labels]).mean()
    assert accuracy == run.trained.evaluate(dataset.test)["accuracy"]


def test_probabilities_are_the_softmax_and_sum_to_one(run):
    dataset, run = run
    found = run.trained.predict_proba(dataset.test.images)
    expected = jax.nn.softmax(run.trained.outputs(dataset.test.images).astype(np.float64))
    eps = np.finfo(np.float64).eps
    np.testing.assert_allclose(found, expected, rtol=20 * eps)
    np.testing.assert_allclose(found.sum(-1), 1, rtol=4 * eps)


@pytest.mark.parametrize("rows", [0, 1, 3, 60])
def test_any_number_of_examples_gives_as_many_predictions(run, rows):
    dataset, run = run
    found = run.trained.outputs(dataset.test.images[:rows], batch_size=7)
    assert found.shape == (rows, 3)
    whole = run.trained.outputs(dataset.test.images)[:rows]
    np.testing.assert_allclose(found, whole, rtol=1e-5, atol=1e-5)


def test_images_of_another_shape_are_refused(run):
    dataset, run = run
    with pytest.raises(ValueError, match=r"images\[None\]"):
        run.trained.predict(dataset.test.images[0])
    with pytest.raises(ValueError, match="as the net was trained on"):
        run.trained.predict(np.zeros((2, 5, 5, 3), np.uint8))


def test_a_regression_predicts_numbers_and_has_no_probabilities():
    net = nets.affine(1)
    ones = data.Preprocessing(np.zeros((1,)), np.ones((1,)))
    params = _affine(1)._replace(w=jnp.array([[1.0], [2.0]], jnp.float32))
    trained = train.Trained(net, params, (), ones, ("price",), (2,), "regression")
    np.testing.assert_array_equal(trained.predict(np.array([[1.0, 1.0], [0.0, 2.0]])), [3.0, 4.0])
    with pytest.raises(TypeError, match="regression"):
        trained.predict_proba(np.zeros((1, 2)))


def test_several_labels_are_told_one_by_one():
    ones = data.Preprocessing(np.zeros((1,)), np.ones((1,)))
    params = _affine(2)._replace(w=jnp.eye(2, dtype=jnp.float32))
    trained = train.Trained(nets.affine(2), params, (), ones, ("a", "b"), (2,), "multilabel")
    x = np.array([[3.0, -800.0]])
    np.testing.assert_array_equal(trained.predict(x), [[True, False]])
    np.testing.assert_allclose(trained.predict_proba(x), [[1 / (1 + np.exp(-3.0)), 0.0]])


def test_an_unknown_loss_is_asked_for():
    ones = data.Preprocessing(np.zeros((1,)), np.ones((1,)))
    params, _ = nets.affine(2).init(jax.random.key(0), (2,))
    trained = train.Trained(nets.affine(2), params, (), ones, ("a", "b"), (2,), loss=None)
    split = data.Split(np.zeros((3, 2)), np.array([0, 1, 1]))
    with pytest.raises(TypeError, match="loss="):
        trained.evaluate(split)
    loss = functools.partial(losses.softmax_cross_entropy, label_smoothing=0.1)
    assert np.isfinite(train.evaluate(trained.net, trained, split, loss=loss)["loss"])


def test_what_is_printed_is_short(run):
    _, run = run
    for value in (run, run.trained):
        assert len(repr(value)) <= 1000
    assert "val_accuracy" in repr(run)
    assert "3 classes" in repr(run.trained)


def test_a_notebook_shows_a_run_and_what_it_trained(run):
    _, run = run
    shown = run._repr_html_()
    best = run.history[run.best_epoch]
    assert f"<th>best epoch</th><td>{run.best_epoch}</td>" in shown
    assert f"<th>val accuracy</th><td>{best['val_accuracy']:.4g}</td>" in shown
    assert "<th>stopped" not in shown
    stopped = run._replace(stopped="<b>", nonfinite=(3,), trained=None)._repr_html_()
    assert "<th>steps skipped</th><td>1</td><" in stopped
    assert "<th>stopped</th><td>&lt;b&gt;</td>" in stopped
    shown = run.trained._repr_html_()
    count = sum(leaf.size for leaf in jax.tree.leaves(run.best.params))
    assert f"<th>parameters</th><td>{count:,}</td>" in shown
    assert "<td>3 classes: ant bee cow</td>" in shown
    assert "norm=&#x27;batch&#x27;" in shown
