"""`NetRegressor`: a net that tells numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
from jax import Array
from jax.typing import ArrayLike
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from funcnet import losses, nets
from funcnet.sklearn._estimator import FLOATS, NetEstimator, counted, moments, weighted


def _squares(output: Array, targets: Array) -> Array:
    return losses.mean_squared_error(output, targets, reduction="none").mean(1)


class NetRegressor(RegressorMixin, MultiOutputMixin, NetEstimator):
    r"""A net as a regressor of scikit-learn: the mean squared error, minimised by `train.fit`.

    Features and targets are standardised within, so that losses and `reg` know no units;
    predictions are in those of y. Everything else is as `NetClassifier` has it.

    Args:
      hidden: units of the hidden layers: see `nets.fully_connected_net`.
      activation: behind each of them.
      norm: "batch", "layer" or None.
      dropout: the probability of dropping, in [0, 1).
      optimizer: a name of `optimizers.OPTIMIZERS`, or an optax optimizer.
      learning_rate: the rate of a named optimizer; None for the one to begin with.
      epochs: the most passes over the data.
      batch_size: rows in a step, at most all; "auto" for equal parts of at most 200.
      reg: the strength of the L2 penalty on weights.
      tol: by how much a loss must fall to be better.
      patience: so many epochs that are no better end the training.
      early_stopping: whether rows are held out, by whose loss it ends.
      validation_fraction: how many of the rows.
      random_state: of initial parameters, batches, dropout, and the rows held out.
      net: `net(outputs) -> nets.Net` for another net than the above.
      verbose: whether a line is printed each epoch.

    Attributes:
      trained_: the net with its preprocessing, `train.Trained`, for `funcnet.save` and `export`.
      loss_curve_: the mean loss of each epoch, of targets of deviation 1, penalty included.
      validation_loss_curve_: with `early_stopping` that of the rows held out; else None.
      n_iter_: the number of epochs.
      n_features_in_: the number of features.
      feature_names_in_: their names, where X has any.

    >>> from sklearn.datasets import load_diabetes
    >>> X, y = load_diabetes(return_X_y=True)
    >>> net = NetRegressor(hidden=(20,), epochs=50, random_state=0).fit(X, y)
    >>> bool(net.score(X, y) > 0.4), net.predict(X[:3]).shape
    (True, (3,))
    """

    _task = "regression"
    _loss = staticmethod(weighted(_squares))

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NetRegressor:
        r"""Trains the net from the beginning.

        Args:
          X: (n, features).
          y: (n,) or (n, targets).
          sample_weight: (n,), 0 or more; rows of weight 0 do not count at all.

        Returns:
          The estimator itself.

        Raises:
          TypeError: X is sparse, or a parameter of the wrong kind.
          ValueError: shapes do not fit, numbers are not finite, no weight is above 0, or a
            parameter has no such value.
        """
        X, y, weights = self._read(X, y, sample_weight)
        self._units = moments(y, weights)
        self._forget_step()
        return self._fit(X, self._standard(y), weights)

    def partial_fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NetRegressor:
        r"""Trains for one pass over these rows, on from where it stands.

        The first call fits the preprocessing, and the units of the targets, to its rows, and
        compiles the step.

        Args:
          X: (n, features).
          y: (n,) or (n, targets).
          sample_weight: (n,), 0 or more.

        Returns:
          The estimator itself.

        Raises:
          TypeError: X is sparse, or a parameter of the wrong kind.
          ValueError: as `fit`, or there is another number of targets than before.
        """
        first = not hasattr(self, "trained_")
        X, y, weights = self._read(X, y, sample_weight, first)
        if first:
            self._units = moments(y, weights)
        elif y.shape[1] != len(self._units[0]):
            raise ValueError(
                f"NetRegressor: y has {y.shape[1]} targets, but {len(self._units[0])} were fitted."
            )
        return self._pass(X, self._standard(y), weights)

    def _read(
        self, X: Any, y: Any, sample_weight: Any, reset: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        X, y = validate_data(
            self, X, y, dtype=FLOATS, multi_output=True, y_numeric=True, reset=reset
        )
        X, y, weights = counted(type(self).__name__, X, y, sample_weight)
        return X, y.reshape(len(y), -1).astype(np.float64), weights

    def _standard(self, y: np.ndarray) -> np.ndarray:
        mean, deviation = self._units
        return (y - mean) / deviation

    def _delivered(self, net: nets.Net) -> nets.Net:
        mean, deviation = self._units
        return nets.rescaled(net, np.stack([mean - deviation, mean + deviation]))

    def _names(self) -> tuple[Any, ...]:
        return tuple(range(len(self._units[0])))

    def predict(self, X: ArrayLike) -> np.ndarray:
        r"""The targets of each row, (n, targets), and (n,) of one."""
        outputs = self._outputs(X)
        return outputs[:, 0] if outputs.shape[1] == 1 else outputs
