"""`NetRegressor`: what scikit-learn's checks do not ask."""

import functools
import pickle

import numpy as np
import pytest
from sklearn.datasets import load_diabetes

import funcnet
from funcnet.sklearn import NetRegressor

X, Y = (part[:180] for part in load_diabetes(return_X_y=True))
BOTH = np.stack([Y, X[:, 0] - 2 * X[:, 1]], 1)
small = functools.partial(NetRegressor, hidden=(5,), epochs=3, random_state=0)


@pytest.fixture(scope="module")
def fitted():
    return small(epochs=60, learning_rate=0.03).fit(X, BOTH)


@pytest.mark.integration
def test_several_targets_are_learnt_each_in_its_units(fitted):
    from sklearn.metrics import r2_score

    assert fitted.predict(X).shape == BOTH.shape
    assert (r2_score(BOTH, fitted.predict(X), multioutput="raw_values") > 0.4).all()


@pytest.mark.integration
def test_units_of_targets_and_features_change_nothing():
    one = small().fit(X, Y)
    other = small().fit(1000 * X + 7, 1e6 * Y - 3)
    np.testing.assert_allclose(other.predict(1000 * X + 7), 1e6 * one.predict(X) - 3, rtol=1e-9)


@pytest.mark.integration
def test_a_weight_of_k_is_k_rows_and_0_is_none():
    repeats = np.arange(len(X)) % 3
    weighted = small().fit(X, Y, sample_weight=repeats)
    copied = small().fit(np.repeat(X, repeats, 0), np.repeat(Y, repeats))
    np.testing.assert_allclose(weighted.predict(X), copied.predict(X), rtol=1e-9)


@pytest.mark.integration
def test_a_constant_target_is_told_exactly():
    np.testing.assert_allclose(small(reg=0.0).fit(X, np.full(len(X), 3.0)).predict(X), 3.0, atol=2)


@pytest.mark.integration
def test_partial_fit_goes_on_from_a_fit():
    net = small().fit(X, BOTH)
    net.partial_fit(X, BOTH)
    longer = small(epochs=4).fit(X, BOTH)
    np.testing.assert_allclose(net.predict(X), longer.predict(X), rtol=1e-9)
    with pytest.raises(ValueError, match="y has 1 targets, but 2 were fitted"):
        net.partial_fit(X, Y)


def test_pickled_and_saved_it_predicts_the_same(fitted, tmp_path):
    again = pickle.loads(pickle.dumps(fitted))
    funcnet.save(tmp_path, again.trained_)
    np.testing.assert_array_equal(again.predict(X), fitted.predict(X))
    np.testing.assert_array_equal(funcnet.load(tmp_path).predict(X), fitted.predict(X))
    np.testing.assert_array_equal(again.trained_.predict(X), fitted.predict(X))
