"""What both estimators have in common: parameters, preprocessing, training, pickling."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array
from jax.typing import ArrayLike
from sklearn.base import BaseEstimator
from sklearn.model_selection import train_test_split
from sklearn.preprocessing import StandardScaler
from sklearn.utils import check_random_state
from sklearn.utils.validation import _check_sample_weight, check_is_fitted, validate_data

from funcnet import _validate, data, losses, nets, optimizers, train
from funcnet._validate import float_dtype

Norm = Literal["batch", "layer"] | None
FLOATS = np.float64, np.float32
_LARGEST_BATCH = 200
_STEP = "_step"  # what pickle and copies leave out, and partial_fit makes again


class NetEstimator(BaseEstimator):
    """What both have in common: parameters, preprocessing, training, pickling."""

    _task: data.Task
    _loss: Callable[..., Array]  # of outputs and targets, each with a column more
    trained_: train.Trained
    n_features_in_: int

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
        random_state: Any = None,
        net: Callable[[int], nets.Net] | None = None,
        verbose: bool = False,
    ):
        self.hidden = hidden
        self.activation = activation
        self.norm = norm
        self.dropout = dropout
        self.optimizer = optimizer
        self.learning_rate = learning_rate
        self.epochs = epochs
        self.batch_size = batch_size
        self.reg = reg
        self.tol = tol
        self.patience = patience
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.random_state = random_state
        self.net = net
        self.verbose = verbose

    def _fit(
        self, X: np.ndarray, targets: np.ndarray, weights: np.ndarray, stratify: Any = None
    ) -> NetEstimator:
        """Trains from the beginning on what has been checked: (n, k) targets, (n,) weights."""
        _validate.count(type(self).__name__, "epochs", self.epochs)
        rng = check_random_state(self.random_state)
        seed = seed_of(rng)
        held: Any = None
        if self.early_stopping:
            X, held_X, targets, held_targets, weights, held_weights = train_test_split(
                X,
                targets,
                weights,
                test_size=self.validation_fraction,
                random_state=rng,
                stratify=stratify,
            )
            held = data.Split(held_X, _with_weights(held_targets, held_weights))
        net, optimizer = self._make_net(targets.shape[1]), self._make_optimizer()
        size = self._batch_size(len(X))
        split, columns = data.Split(X, _with_weights(targets, weights)), targets.shape[1] + 1
        names = tuple(map(str, range(columns)))
        dataset = data.Dataset(split, held, held, names, task="regression")
        with computing_in(X.dtype):
            run = train.fit(
                _with_column(net, targets.shape[1]),
                dataset,
                optimizer,
                self.epochs,
                size,
                seed,
                loss=self._loss,
                metrics={},
                reg=self.reg,
                sampling="full" if size == len(X) else "permutation",
                preprocessing=standardised(X, weights),
                train_accuracy_rows=1,
                dtype=X.dtype,
                on_epoch=self._on_epoch(),
            )
        self.loss_curve_ = run.history["loss"][1:]
        self.validation_loss_curve_ = run.history["val_loss"] if self.early_stopping else None
        self.n_iter_ = run.history[-1]["epoch"]
        self._keep(net, run.best, run.preprocessing)
        return self

    def _pass(self, X: np.ndarray, targets: np.ndarray, weights: np.ndarray) -> NetEstimator:
        """Trains for one pass, from the beginning or on from where it stands."""
        first = not hasattr(self, "trained_")
        dtype = X.dtype if first else float_dtype(self.trained_.params)
        with computing_in(dtype):
            net, optimizer = self._make_net(targets.shape[1]), self._make_optimizer()
            if first:
                preprocessing = standardised(X, weights)
                key = jax.random.key(seed_of(check_random_state(self.random_state)))
                state = train.init_state(net, optimizer, key, X.shape[1:], dtype)
                self.loss_curve_, self.n_iter_ = [], 0
            else:
                preprocessing = self.trained_.preprocessing
                state = train.TrainState(*self._train_state)
                state = state._replace(key=jax.random.wrap_key_data(state.key))
            if _STEP not in vars(self):
                made = train.make_step(
                    _with_column(net, targets.shape[1]), optimizer, self._loss, self.reg
                )
                self._step = jax.jit(made)
            size, found = self._batch_size(len(X)), []
            sampling: Any = "full" if size == len(X) else "permutation"
            labels = _with_weights(targets, weights).astype(dtype)
            order = train.batch_order(state.key, self.n_iter_, len(X), size, sampling)
            for rows in np.asarray(order):
                x = data.preprocess(preprocessing, X[rows], dtype)
                state, measured = self._step(state, (x, labels[rows]))
                found.append(float(measured["loss"]))
        self.loss_curve_.append(float(np.mean(found)))
        self.n_iter_ += 1
        self._keep(net, state, preprocessing)
        return self

    def _make_net(self, outputs: int) -> nets.Net:
        """The net that is trained, of which the parameters are a dict."""
        if self.net is None:
            return nets.fully_connected_net(
                self.hidden, outputs, self.norm, self.dropout, self.activation
            )
        net = self.net(outputs)
        if not isinstance(net, nets.Net):
            raise TypeError(
                f"{type(self).__name__}: net({outputs}) is {net!r}, expected a nets.Net with that "
                "many outputs, such as nets.softmax_classifier makes."
            )
        return net if net.kind == "serial" else nets.serial(net)

    def _make_optimizer(self) -> Any:
        """The optimizer, with the rate that is given or its own."""
        name, rate, who = self.optimizer, self.learning_rate, type(self).__name__
        if not isinstance(name, str):
            if rate is not None:
                raise ValueError(
                    f"{who}: learning_rate is {rate!r}, but the optimizer is given with a rate of "
                    "its own; give its name, or learning_rate=None."
                )
            return name
        if name not in optimizers.OPTIMIZERS:
            raise ValueError(
                f"{who}: optimizer is {name!r}, expected an optax optimizer or one of "
                f"{', '.join(optimizers.OPTIMIZERS)}."
            )
        entry = optimizers.OPTIMIZERS[name]
        return entry.make(entry.learning_rate if rate is None else rate)

    def _batch_size(self, rows: int) -> int:
        """Rows in a step: all, where they are few, else equal parts of at most 200."""
        if isinstance(self.batch_size, str):
            if self.batch_size != "auto":
                raise ValueError(
                    f'{type(self).__name__}: batch_size is {self.batch_size!r}, expected "auto" or '
                    "a number of rows."
                )
            return rows // -(-rows // _LARGEST_BATCH)
        return min(_validate.count(type(self).__name__, "batch_size", self.batch_size), rows)

    def _on_epoch(self) -> Callable[[dict[str, Any]], str | None]:
        """What ends a run that gets no better: by the held-out loss, or else by its own."""
        stop = train.early_stopping(self.patience, min_delta=self.tol)

        def on_epoch(row: dict[str, Any]) -> str | None:
            if self.verbose:
                held = "" if row["val_loss"] is None else f", held out {row['val_loss']:.6g}"
                print(f"epoch {row['epoch']}: loss {row['loss']:.6g}{held}")
            if self.early_stopping:
                return stop(row)
            # Row 0 has the loss of the first step, which is in row 1 again.
            return stop(row | {"val_loss": row["loss"]}) if row["epoch"] else None

        return on_epoch

    def _outputs(self, X: ArrayLike) -> np.ndarray:
        check_is_fitted(self)
        examples = validate_data(self, X, dtype=FLOATS, reset=False)
        with computing_in(float_dtype(self.trained_.params)):
            return self.trained_.outputs(examples)

    def _keep(self, net: nets.Net, state: Any, preprocessing: data.Preprocessing) -> None:
        """Keeps where training stands, as NumPy's arrays, which are the same under any x64."""
        state = jax.device_get(state._replace(key=jax.random.key_data(state.key)))
        self._train_state = tuple(state)
        self.trained_ = train.Trained(
            self._delivered(net),
            state.params,
            state.state,
            preprocessing,
            self._names(),
            (self.n_features_in_,),
            self._task,
            LOSSES[self._task],
        )

    def _forget_step(self) -> None:
        """A fit begins anew, perhaps with other parameters."""
        self.__dict__.pop(_STEP, None)

    def _delivered(self, net: nets.Net) -> nets.Net:
        """The net that predicts, of the one that is trained."""
        return net

    def _names(self) -> tuple[Any, ...]:
        """What the outputs are of."""
        raise NotImplementedError

    def __getstate__(self) -> dict[str, Any]:
        """A net holds functions, which are made again by what made them."""
        state = {name: value for name, value in super().__getstate__().items() if name != _STEP}
        if "trained_" in state:
            trained = state["trained_"]
            fields = {field.name: getattr(trained, field.name) for field in _STORED}
            try:
                state["trained_"] = fields | {"net": nets.to_config(trained.net)}
            except ValueError as error:
                raise TypeError(
                    f"{type(self).__name__} cannot be pickled: {error} Give it a net that is made "
                    "of the functions of funcnet.nets, or keep its arrays: "
                    "checkpoint.save_params(path, trained_.params, trained_.state)."
                ) from None
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        fields = state.get("trained_")
        if fields is not None:
            made = {"net": nets.from_config(fields["net"]), "loss": LOSSES[fields["task"]]}
            state = state | {"trained_": train.Trained(**(fields | made))}
        super().__setstate__(state)


LOSSES: dict[str, Callable[..., Array]] = {
    "classification": losses.softmax_cross_entropy,
    "regression": losses.mean_squared_error,
}
_STORED = [field for field in dataclasses.fields(train.Trained) if field.name != "loss"]


def seed_of(rng: np.random.RandomState) -> int:
    return int(rng.randint(np.iinfo(np.int32).max))


def computing_in(dtype: Any) -> Any:
    """JAX with float64 where that is the dtype, and as it is where it is not."""
    config: Any = jax.config
    return jax.enable_x64(bool(config.jax_enable_x64) or dtype == np.float64)


def counted(name: str, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, np.ndarray]:
    """The rows whose weight is above 0, and these weights."""
    weights = _check_sample_weight(sample_weight, X, dtype=np.float64)
    if (weights < 0).any():
        raise ValueError(f"{name}: sample_weight has {weights.min()}, expected 0 or more.")
    rows = weights > 0
    if not rows.any():
        raise ValueError(f"{name}: every sample_weight is 0, expected one above.")
    return (X, y, weights) if rows.all() else (X[rows], y[rows], weights[rows])


def moments(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weighted means and deviations of columns, 1 for the deviation of a constant one."""
    scaler = StandardScaler().fit(values, sample_weight=weights)
    return scaler.mean_, scaler.scale_


def standardised(X: np.ndarray, weights: np.ndarray) -> data.Preprocessing:
    mean, deviation = moments(X, weights)
    return data.Preprocessing(mean, 1 / deviation)


def _with_weights(targets: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Targets with weights of mean 1 as a last column: `fit` takes labels, and rows have none."""
    return np.column_stack([targets, weights / weights.mean()])


def _with_column(net: nets.Net, outputs: int) -> nets.Net:
    """The net with a last column that is compared with nothing, as labels have one more."""

    def apply(
        params: Any, state: Any, x: Array, *, train: bool = False, key: Any = None
    ) -> tuple[Array, Any]:
        output, state = net.apply(params, state, x, train=train, key=key)
        if output.shape != (len(x), outputs):
            raise ValueError(
                f"net({outputs}) turns {len(x)} rows into {output.shape}, expected "
                f"{(len(x), outputs)}."
            )
        return jnp.concatenate([output, jnp.ones_like(output[:, :1])], 1), state

    return nets.Net(net.init, apply)


def weighted(loss: Callable[..., Array]) -> Callable[..., Array]:
    """Makes the mean over rows of weight times `loss(output, targets)`, which has one a row."""

    def mean(output: Array, labels: Array) -> Array:
        labels = labels.astype(output.dtype)
        return (labels[:, -1] * loss(output[:, :-1], labels[:, :-1])).mean()

    return mean
