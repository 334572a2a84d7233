"""`NetClassifier`: what scikit-learn's checks do not ask."""

import functools
import pickle

import jax
import numpy as np
import optax
import pytest
from sklearn.base import clone
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer

import funcnet
from funcnet import nets
from funcnet.sklearn import NetClassifier

X, Y = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])[Y]
small = functools.partial(NetClassifier, hidden=(5,), epochs=3, random_state=0)
RNG = np.random.default_rng(0)
REPEATS = RNG.integers(0, 4, len(X))


@pytest.fixture(scope="module")
def fitted():
    return small(epochs=60, learning_rate=0.03).fit(X, NAMES)


def same(one, other, rows=X, rtol=1e-9):
    np.testing.assert_allclose(
        one.predict_log_proba(rows), other.predict_log_proba(rows), rtol=rtol, atol=1e-12
    )


@pytest.mark.integration
def test_names_of_classes_are_learnt(fitted):
    assert fitted.score(X, NAMES) > 0.9
    assert fitted.trained_.classes == tuple(np.unique(NAMES)) == tuple(fitted.classes_)


@pytest.mark.integration
def test_probabilities_are_of_the_logits(fitted):
    z = fitted.decision_function(X)
    np.testing.assert_allclose(fitted.predict_proba(X).sum(1), 1.0, rtol=1e-12)
    np.testing.assert_allclose(np.diff(fitted.predict_log_proba(X)), np.diff(z), atol=1e-12)
    assert (fitted.classes_[z.argmax(1)] == fitted.predict(X)).all()


@pytest.mark.integration
def test_of_two_classes_the_decision_is_positive_for_the_second():
    two = small().fit(X[:100], NAMES[:100])
    z = two.decision_function(X[:100])
    assert z.shape == (100,)
    assert ((z > 0) == (two.predict(X[:100]) == "versicolor")).all()


@pytest.mark.integration
def test_a_weight_of_k_is_k_rows_and_0_is_none():
    whole = small(batch_size=1000)
    copied = clone(whole).fit(np.repeat(X, REPEATS, 0), np.repeat(Y, REPEATS))
    same(whole.fit(X, Y, sample_weight=REPEATS), copied)


@pytest.mark.integration
def test_class_weights_are_weights_of_rows():
    of_classes = small(class_weight={0: 1.0, 1: 2.0, 2: 5.0}).fit(X, Y)
    same(of_classes, small().fit(X, Y, sample_weight=np.array([1.0, 2.0, 5.0])[Y]))


@pytest.mark.integration
def test_balanced_classes_weigh_the_same_in_all():
    rows = np.r_[0:50, 50:60, 100:105]
    balanced = small(class_weight="balanced").fit(X[rows], Y[rows])
    same(balanced, small().fit(X[rows], Y[rows], sample_weight=np.array([1.0, 5.0, 10.0])[Y[rows]]))


@pytest.mark.integration
def test_balance_counts_weights():
    weights = np.array([1.0, 2.0, 4.0])[Y]
    same(small(class_weight="balanced").fit(X, Y, weights), small().fit(X, Y))


@pytest.mark.integration
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_it_computes_in_the_dtype_of_the_examples(dtype):
    with jax.enable_x64(False):
        net = small().fit(X.astype(dtype), Y)
        assert net.decision_function(X.astype(dtype)).dtype == dtype
    assert net.trained_.params["affine1"].w.dtype == dtype
    same(net, small().fit(X.astype(dtype), Y), X.astype(dtype), rtol=1e-5)


@pytest.mark.integration
def test_partial_fit_goes_on_and_pickle_keeps_where():
    net = small(dropout=0.3, optimizer="momentum")
    net.partial_fit(X, Y, classes=[0, 1, 2])
    again = pickle.loads(pickle.dumps(net))
    for one in (net, again):
        one.partial_fit(X[:100], Y[:100])
    assert net.n_iter_ == len(net.loss_curve_) == 2
    np.testing.assert_array_equal(net.decision_function(X), again.decision_function(X))


@pytest.mark.integration
def test_passes_over_all_rows_are_the_epochs_of_fit():
    passes = small()
    for _ in range(3):
        passes.partial_fit(X, Y, classes=[0, 1, 2])
    whole = small().fit(X, Y)
    same(passes, whole)
    np.testing.assert_allclose(passes.loss_curve_, whole.loss_curve_)


def test_partial_fit_says_which_classes_it_needs():
    with pytest.raises(ValueError, match="classes must be passed on the first call"):
        small().partial_fit(X, Y)
    with pytest.raises(ValueError, match=r"y has \{2\}, expected of classes \[0 1\]"):
        small().partial_fit(X, Y, classes=[0, 1])
    with pytest.raises(ValueError, match='"balanced", which partial_fit cannot know'):
        small(class_weight="balanced").partial_fit(X, Y, classes=[0, 1, 2])


@pytest.mark.integration
def test_early_stopping_keeps_the_epoch_that_was_best_on_rows_held_out():
    net = small(epochs=50, learning_rate=0.3, early_stopping=True, patience=2).fit(X, Y)
    curve = net.validation_loss_curve_
    assert len(curve) == net.n_iter_ + 1 < 51
    assert min(curve) < curve[-1]
    assert small().fit(X, Y).validation_loss_curve_ is None


def test_it_ends_when_the_loss_no_longer_falls():
    assert small(epochs=50, tol=100.0, patience=4).fit(X, Y).n_iter_ == 5


def linear(outputs):
    return nets.affine(outputs)


def foreign(outputs):
    return nets.serial(nets.affine(outputs), nets.Net(*nets.relu()[:2]))


def test_a_net_of_ones_own_is_trained_and_pickled():
    net = small(net=linear).fit(X, Y)
    assert list(net.trained_.params) == ["affine1"]
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(net)).predict(X), net.predict(X))
    assert clone(net).net is linear


def test_a_net_that_cannot_be_written_down_is_not_pickled():
    net = small(net=foreign).fit(X, Y)
    with pytest.raises(TypeError, match=r"NetClassifier cannot be pickled.*save_params"):
        pickle.dumps(net)


def test_nets_without_the_outputs_are_refused():
    with pytest.raises(ValueError, match=r"net\(3\) turns 2 rows into \(2, 4\), expected \(2, 3\)"):
        small(net=lambda outputs: nets.affine(outputs + 1)).fit(X, Y)
    with pytest.raises(TypeError, match=r"net\(3\) is None, expected a nets.Net"):
        small(net=lambda outputs: None).fit(X, Y)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"optimizer": "adm"}, "optimizer is 'adm', expected an optax optimizer or one of sgd"),
        ({"optimizer": optax.sgd(0.1), "learning_rate": 0.1}, "with a rate of its own"),
        ({"batch_size": "all"}, "batch_size is 'all', expected \"auto\""),
        ({"activation": "tan"}, "activation is 'tan', expected one of"),
    ],
)
def test_wrong_parameters_are_named(options, message):
    with pytest.raises(ValueError, match=message):
        small(**options).fit(X, Y)


def test_weights_are_not_negative_and_not_all_0():
    with pytest.raises(ValueError, match=r"sample_weight has -1.0, expected 0 or more"):
        small().fit(X, Y, -np.ones(len(X)))
    with pytest.raises(ValueError, match=r"sample_weight is 0|at least one non-zero"):
        small().fit(X, Y, np.zeros(len(X)))


@pytest.mark.integration
def test_steps_that_are_not_finite_are_told_of():
    with pytest.warns(RuntimeWarning, match="the loss is"):
        small(optimizer="sgd", learning_rate=1e300, epochs=9).fit(X, Y)


@pytest.mark.slow
def test_it_is_a_step_of_a_pipeline_whose_parameters_are_searched():
    pipeline = make_pipeline(FunctionTransformer(), small(learning_rate=0.1, epochs=20))
    search = GridSearchCV(pipeline, {"netclassifier__reg": [0.0, 100.0]}, cv=2).fit(X, Y)
    assert search.best_params_ == {"netclassifier__reg": 0.0}


@pytest.mark.slow
def test_processes_train_what_one_process_trains():
    grid = {"reg": [0.0, 0.1]}
    scores = [
        GridSearchCV(small(), grid, cv=2, n_jobs=jobs).fit(X, Y).cv_results_["mean_test_score"]
        for jobs in (1, 2)
    ]
    np.testing.assert_array_equal(*scores)


def test_what_is_trained_is_saved_and_read(fitted, tmp_path):
    funcnet.save(tmp_path, fitted.trained_)
    assert (funcnet.load(tmp_path).predict(X) == fitted.predict(X)).all()
    with jax.enable_x64(False), pytest.raises(ValueError, match="float64, which JAX is without"):
        funcnet.load(tmp_path)
