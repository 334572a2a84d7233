"""`NetClassifier`: a net that tells classes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import optax
from jax.typing import ArrayLike
from sklearn.base import ClassifierMixin
from sklearn.utils import compute_class_weight
from sklearn.utils.multiclass import check_classification_targets, unique_labels
from sklearn.utils.validation import column_or_1d, validate_data

from funcnet import losses, nets
from funcnet.sklearn._estimator import FLOATS, NetEstimator, Norm, counted, weighted


class NetClassifier(ClassifierMixin, NetEstimator):
    r"""A net as a classifier of scikit-learn: softmax cross-entropy, minimised by `train.fit`.

    Features are standardised within, by their weighted means and deviations. The loss is
    $\frac{1}{\sum_i w_i} \sum_i w_i L_i + \frac{\rho}{2} \sum \lVert W \rVert^2$ with
    $\rho$ = `reg` and w the sample weight times the class weight; over batches, each is divided by
    the mean weight of all. Where all rows are one batch, a weight of k is k rows, and 0 is none.
    It computes in the dtype of X: float64 in float64, whatever JAX's x64 says, float32 in float32.

    Training ends after `epochs`, or when the loss has not fallen by `tol` for `patience` epochs.
    With `early_stopping` that is the loss of the rows held out, and the best epoch is kept.

    Args:
      hidden: units of the hidden layers: see `nets.fully_connected_net`.
      activation: behind each of them.
      norm: "batch", "layer" or None.
      dropout: the probability of dropping, in [0, 1).
      optimizer: a name of `optimizers.OPTIMIZERS`, or an optax optimizer.
      learning_rate: the rate of a named optimizer; None for the one to begin with.
      epochs: the most passes over the data.
      batch_size: rows in a step, at most all; "auto" for equal parts of at most 200, so for all
        where these are not more.
      reg: the strength ρ of the L2 penalty on weights.
      tol: by how much a loss must fall to be better.
      patience: so many epochs that are no better end the training.
      early_stopping: whether rows are held out, by whose loss it ends.
      validation_fraction: how many of the rows, stratified by class.
      class_weight: {class: weight}, "balanced" for $\sum_i w_i / (C \sum_{y_i = c} w_i)$, or None.
      random_state: of initial parameters, batches, dropout, and the rows held out.
      net: `net(outputs) -> nets.Net` for another net than the above; pickle needs a function of a
        module, and of nets made of the functions of `nets`.
      verbose: whether a line is printed each epoch.

    Attributes:
      classes_: (C,), the classes, sorted.
      trained_: the net with its preprocessing, `train.Trained`, for `funcnet.save` and `export`.
      loss_curve_: the mean loss of each epoch, penalty included.
      validation_loss_curve_: with `early_stopping` that of the rows held out, before training and
        after each epoch; else None.
      n_iter_: the number of epochs.
      n_features_in_: the number of features.
      feature_names_in_: their names, where X has any.

    >>> from sklearn.datasets import load_wine
    >>> from sklearn.model_selection import cross_val_score
    >>> X, y = load_wine(return_X_y=True)
    >>> bool(cross_val_score(NetClassifier(epochs=50, random_state=0), X, y, cv=2).mean() > 0.9)
    True
    """

    _task = "classification"
    _loss = staticmethod(weighted(partial(losses.softmax_cross_entropy, reduction="none")))

    def __init__(
        self,
        hidden: Sequence[int] = (100,),
        activation: str = "relu",
        norm: Norm = None,
        dropout: float = 0.0,
        optimizer: str | optax.GradientTransformation = "adam",
        learning_rate: float | None = None,
        epochs: int = 200,
        batch_size: int | str = "auto",
        reg: float = 1e-4,
        tol: float = 1e-4,
        patience: int = 10,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        class_weight: Mapping[Any, float] | str | None = None,
        random_state: Any = None,
        net: Callable[[int], nets.Net] | None = None,
        verbose: bool = False,
    ):
        super().__init__(
            hidden,
            activation,
            norm,
            dropout,
            optimizer,
            learning_rate,
            epochs,
            batch_size,
            reg,
            tol,
            patience,
            early_stopping,
            validation_fraction,
            random_state,
            net,
            verbose,
        )
        self.class_weight = class_weight

    def fit(
        self, X: ArrayLike, y: ArrayLike, sample_weight: ArrayLike | None = None
    ) -> NetClassifier:
        r"""Trains the net from the beginning.

        Args:
          X: (n, features).
          y: (n,), the classes.
          sample_weight: (n,), 0 or more; rows of weight 0 do not count at all.

        Returns:
          The estimator itself.

        Raises:
          TypeError: X is sparse, or a parameter of the wrong kind.
          ValueError: shapes do not fit, numbers are not finite, y is no class, no weight is above
            0, or a parameter has no such value.
        """
        X, y, weights = self._read(X, y, sample_weight)
        self.classes_, codes = np.unique(y, return_inverse=True)
        weights = weights * self._class_weights(codes, weights)[codes]
        self._forget_step()
        return self._fit(X, np.eye(len(self.classes_))[codes], weights, codes)

    def partial_fit(
        self,
        X: ArrayLike,
        y: ArrayLike,
        classes: ArrayLike | None = None,
        sample_weight: ArrayLike | None = None,
    ) -> NetClassifier:
        r"""Trains for one pass over these rows, on from where it stands.

        The first call fits the preprocessing to its rows, and compiles the step, with the
        parameters that there are then. A weight counts beside the mean weight of its own call.

        Args:
          X: (n, features).
          y: (n,), the classes.
          classes: all classes that there will be; needed at the first call.
          sample_weight: (n,), 0 or more.

        Returns:
          The estimator itself.

        Raises:
          TypeError: X is sparse, or a parameter of the wrong kind.
          ValueError: as `fit`; `classes` is lacking or another than before, y has a class that is
            none of them, or `class_weight` is "balanced", which a part of the rows does not tell.
        """
        first = not hasattr(self, "classes_")
        if first and classes is None:
            raise ValueError(
                "NetClassifier: classes must be passed on the first call of partial_fit."
            )
        X, y, weights = self._read(X, y, sample_weight, first)
        known = self.classes_ if classes is None else unique_labels(classes)
        if not first and not np.array_equal(known, self.classes_):
            raise ValueError(
                f"NetClassifier: classes is {known}, but it was {self.classes_} at the first call."
            )
        if unknown := set(np.unique(y).tolist()) - set(known.tolist()):
            raise ValueError(f"NetClassifier: y has {unknown}, expected of classes {known}.")
        if self.class_weight == "balanced":
            raise ValueError(
                'NetClassifier: class_weight is "balanced", which partial_fit cannot know; give '
                "weights, {class: weight}."
            )
        self.classes_ = known
        codes = np.searchsorted(known, y)
        weights = weights * self._class_weights(codes, weights)[codes]
        return self._pass(X, np.eye(len(known))[codes], weights)

    def _read(
        self, X: Any, y: Any, sample_weight: Any, reset: bool = True
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        X, y = validate_data(self, X, y, dtype=FLOATS, reset=reset)
        check_classification_targets(y)
        return counted(type(self).__name__, X, column_or_1d(y, warn=True), sample_weight)

    def _class_weights(self, codes: np.ndarray, weights: np.ndarray) -> np.ndarray:
        if self.class_weight == "balanced":
            of_class = np.bincount(codes, weights, len(self.classes_))
            return of_class.sum() / (len(of_class) * of_class)
        labels = self.classes_[codes]
        return compute_class_weight(self.class_weight, classes=self.classes_, y=labels)

    def _names(self) -> tuple[Any, ...]:
        names = self.classes_.tolist()
        plain = all(type(name) in (str, int, float) for name in names)  # what JSON holds
        return tuple(names if plain else map(str, names))

    def decision_function(self, X: ArrayLike) -> np.ndarray:
        r"""The logits, (n, C); of two classes the second's less the first's, (n,)."""
        logits = self._outputs(X)
        return logits[:, 1] - logits[:, 0] if logits.shape[1] == 2 else logits

    def predict(self, X: ArrayLike) -> np.ndarray:
        r"""The most probable class of each row, (n,)."""
        found = self._outputs(X).argmax(1)
        return self.classes_[found]

    def predict_proba(self, X: ArrayLike) -> np.ndarray:
        r"""The probability of each class, (n, C), in the order of `classes_`."""
        return np.exp(self.predict_log_proba(X))

    def predict_log_proba(self, X: ArrayLike) -> np.ndarray:
        r"""The logarithm of the probability of each class, (n, C)."""
        logits = self._outputs(X)
        return logits - np.logaddexp.reduce(logits, 1, keepdims=True)
