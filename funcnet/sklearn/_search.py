"""`search`: what a grid of rates and penalties gives in cross-validation, by one program a fold."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from jax.typing import ArrayLike
from sklearn.base import clone
from sklearn.model_selection import ParameterGrid, check_cv
from sklearn.utils import check_random_state, check_X_y

from funcnet import data, sweep
from funcnet.sklearn._classifier import NetClassifier
from funcnet.sklearn._estimator import FLOATS, computing_in, seed_of, standardised
from funcnet.train import early_stopping

_NUMBERS = "learning_rate", "reg"


def search(
    estimator: NetClassifier,
    grid: Mapping[str, Sequence[float]] | Sequence[Mapping[str, Sequence[float]]],
    X: ArrayLike,
    y: ArrayLike,
    cv: Any = 5,
) -> dict[str, Any]:
    r"""Accuracies of all candidates of a grid in cross-validation, as `GridSearchCV` has them.

    The candidates of a fold are the members of one `sweep.run`, which is compiled once where
    `GridSearchCV` compiles for each: what they train is the same to rounding, with a `random_state`
    that is a number. Where the loss of a candidate no longer falls, its score is that of the epoch
    in which `fit` would have ended.

    Args:
      estimator: all but what the grid has.
      grid: `learning_rate` and `reg`, one or both, and the numbers to try; or several such grids.
      X: (n, features).
      y: (n,), the classes.
      cv: a number of folds, stratified, or whatever splits as scikit-learn's do.

    Returns:
      A table like `cv_results_`: "params", a list of the candidates; "split0_test_score" and so on,
      "mean_test_score" and "std_test_score", (candidates,); "rank_test_score", 1 for the best. The
      score of a candidate whose steps are not finite is NaN.

    Raises:
      TypeError: the estimator is no `NetClassifier`, or X is sparse.
      ValueError: the grid has other parameters, the estimator `early_stopping` or `class_weight`,
        or a fold lacks a class; what `fit` refuses.

    >>> from sklearn.datasets import load_iris
    >>> X, y = load_iris(return_X_y=True)
    >>> net = NetClassifier(hidden=(10,), epochs=20, random_state=0)
    >>> found = search(net, {"learning_rate": [1e-5, 0.03]}, X, y, cv=2)
    >>> found["params"][found["rank_test_score"].argmin()]
    {'learning_rate': 0.03}
    """
    candidates = _candidates(estimator, grid)
    checked: tuple[np.ndarray, np.ndarray] = check_X_y(X, y, dtype=FLOATS)
    classes, codes = np.unique(checked[1], return_inverse=True)
    scores: list[np.ndarray] = []
    for rows, held in check_cv(cv, y, classifier=True).split(*checked):
        if len(np.unique(codes[rows])) < len(classes):
            raise ValueError(
                f"search: fold {len(scores)} trains without one of the {len(classes)} classes; "
                "take fewer folds, or stratified ones."
            )
        train, test = (data.Split(checked[0][part], codes[part]) for part in (rows, held))
        dataset = data.Dataset(train, test, test, tuple(map(str, classes)))
        scores.append(_scores(estimator, candidates, dataset))
    table: dict[str, Any] = {"params": candidates}
    table |= {f"split{index}_test_score": score for index, score in enumerate(scores)}
    mean = np.mean(scores, 0)
    order = np.where(np.isnan(mean), -math.inf, mean)
    rank = 1 + (order[None] > order[:, None]).sum(1)
    return table | {
        "mean_test_score": mean,
        "std_test_score": np.std(scores, 0),
        "rank_test_score": rank.astype(np.int32),
    }


def _candidates(estimator: Any, grid: Any) -> list[dict[str, float]]:
    """The rows of the grid, each with all its columns, or an error."""
    if not isinstance(estimator, NetClassifier):
        raise TypeError(f"search: estimator is {estimator!r}, expected a NetClassifier.")
    for name, unset in (("early_stopping", False), ("class_weight", None)):
        if getattr(estimator, name) != unset:
            raise ValueError(
                f"search: {name} is {getattr(estimator, name)!r}, which a sweep does not have; "
                "use sklearn.model_selection.GridSearchCV."
            )
    candidates = list(ParameterGrid(grid))
    names = {name for row in candidates for name in row}
    if not names or not all(names == set(row) <= set(_NUMBERS) for row in candidates):
        raise ValueError(
            f"search: the grid has {sorted(names)}, expected learning_rate, reg or both, in each "
            "grid the same; for other parameters use sklearn.model_selection.GridSearchCV."
        )
    return candidates


def _scores(estimator: Any, candidates: Any, dataset: data.Dataset) -> np.ndarray:
    """The accuracy of each candidate on the rows held out, when `fit` would have ended."""
    X, labels = dataset.train
    size = estimator._batch_size(len(X))

    def make(**row: Any) -> sweep.Trial:
        one = clone(estimator).set_params(**row)
        return sweep.Trial(one._make_net(dataset.num_classes), one._make_optimizer(), one.reg)

    with computing_in(X.dtype):
        result = sweep.run(
            make,
            dataset,
            {name: [row[name] for row in candidates] for name in candidates[0]},
            [seed_of(check_random_state(clone(estimator).random_state))],
            estimator.epochs,
            size,
            how="map",
            keep=(),
            sampling="full" if size == len(X) else "permutation",
            preprocessing=standardised(X, np.ones(len(labels))),
            train_accuracy_rows=1,
            dtype=X.dtype,
        )
    losses = result.losses.reshape(len(candidates), estimator.epochs, -1).mean(2, np.float64)
    ends = [_end(estimator, of_epochs) for of_epochs in losses]
    return result.val_accuracy[np.arange(len(candidates)), ends]


def _end(estimator: Any, losses: np.ndarray) -> int:
    """The epoch, from 1, with which `fit` ends by these losses of epochs."""
    stop = early_stopping(estimator.patience, min_delta=estimator.tol)
    for epoch, loss in enumerate(losses.tolist(), 1):
        if stop({"epoch": epoch, "val_loss": loss}) is not None:
            return epoch
    return len(losses)
