"""`search`: the table of `GridSearchCV`, by one program a fold."""

import functools

import numpy as np
import pytest
from sklearn.datasets import load_iris
from sklearn.model_selection import GridSearchCV, KFold

from funcnet.sklearn import NetClassifier, NetRegressor, search

X, Y = load_iris(return_X_y=True)
small = functools.partial(NetClassifier, hidden=(5,), epochs=12, random_state=0)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("net", "grid"),
    [
        pytest.param(
            small(dropout=0.2, batch_size=32),
            {"learning_rate": [1e-3, 0.05]},
            marks=pytest.mark.slow,
        ),
        # One ends by patience, the other does not.
        (small(patience=2, tol=0.02), {"learning_rate": [1e-4, 0.05], "reg": [0.1]}),
    ],
)
def test_scores_are_those_of_fits(net, grid):
    found = search(net, grid, X, Y, cv=2)
    table = GridSearchCV(net, grid, cv=2).fit(X, Y).cv_results_
    assert found["params"] == table["params"]
    for name in set(found) - {"params"}:
        np.testing.assert_allclose(found[name], table[name], rtol=1e-12, err_msg=name)


@pytest.mark.integration
def test_a_candidate_that_is_not_finite_has_no_score_and_the_last_rank():
    net = small(optimizer="sgd", epochs=4)
    found = search(net, {"learning_rate": [1e300, 0.1]}, X, Y, cv=2)
    assert np.isnan(found["mean_test_score"]).tolist() == [True, False]
    assert found["rank_test_score"].tolist() == [2, 1]


def test_what_a_sweep_cannot_do_is_refused():
    with pytest.raises(ValueError, match=r"the grid has \['dropout'\], expected learning_rate"):
        search(small(), {"dropout": [0.1]}, X, Y)
    with pytest.raises(ValueError, match=r"class_weight is 'balanced'.*GridSearchCV"):
        search(small(class_weight="balanced"), {"reg": [0.1]}, X, Y)
    with pytest.raises(TypeError, match="expected a NetClassifier"):
        search(NetRegressor(), {"reg": [0.1]}, X, Y)
    with pytest.raises(ValueError, match="fold 0 trains without one of the 3 classes"):
        search(small(), {"reg": [0.1]}, X, Y, cv=KFold(3))
