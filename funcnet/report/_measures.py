"""What a page says of a trained net on a split, as numbers that JSON holds."""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data, nets, train
from funcnet._validate import float_dtype
from funcnet.train import Trained, metrics

MOST = 24  # mistakes, or rows with the largest residuals
BATCH = 100  # rows of which the sizes of activations and gradients are measured


def measure(trained: Trained, split: data.Split, *, most: int = MOST) -> dict[str, Any]:
    r"""Measures a trained net on a split: what its answers are worth, and where they are wrong.

    The answers are those of `Trained.predict`, loss and metrics those of `Trained.evaluate`.

    | task | what there is |
    |---|---|
    | classification | "accuracy", "confusion", "classes", "mistakes" |
    | multilabel | "accuracy", "exact_match", "classes" |
    | regression | "r2", "mae", "targets", "mistakes" |

    Entry $(i, j)$ of "confusion" counts the rows of class $i$ that are told to be of class $j$;
    "undecided" counts those that are told nothing, for their outputs are not finite. Of several
    labels "accuracy" is the share of the labels that are right, "exact_match" that of the rows of
    which all are, both of `train.metrics`. Of each class, with TP of its rows found, FP rows
    wrongly told to be of it and FN of its rows missed, there are precision TP / (TP + FP), recall
    TP / (TP + FN), f1 2 TP / (2 TP + FP + FN) and support TP + FN.
    "mistakes" are wrong rows, that of the highest loss first; of regression the rows of the largest
    $|r|$, with $r$ the label minus the output; r2 and mae are `train.metrics.r2` and
    `mean_absolute_error`, of each of the "targets" too. "layers" are the sizes that
    `train.diagnose` finds on the first 100 rows, by the loss without a penalty. What is no number
    is None.

    Args:
      trained: `run.trained`, or what `funcnet.load` read.
      split: examples and labels, as the data set has them.
      most: of "mistakes", how many.

    Returns:
      The numbers by name, as JSON holds them; "rows" counts the split's.

    Raises:
      LabelError: labels are no classes.
      TypeError: the split does not become arrays.
      ValueError: the split is empty, or of another shape than what the net was trained on.

    >>> from funcnet import nets, optimizers, report
    >>> dataset = data.synthetic(sizes=(200, 50, 50), classes=3)
    >>> run = train.fit(nets.softmax_classifier(3), dataset, optimizers.adam(1e-2), epochs=1)
    >>> found = report.measure(run.trained, dataset.val)
    >>> right = sum(found["confusion"][i][i] for i in range(3))
    >>> right / found["rows"] == found["accuracy"] == run.history["val_accuracy"][1]
    True
    """
    images = data.opened(split.images)
    if not isinstance(images, data.Streamed):
        images = np.asarray(images)
    split = data.Split(images, np.asarray(split.labels))
    if not len(split.labels):
        raise ValueError("measure: the split is empty.")
    kinds = {"classification": _classes, "multilabel": _labels, "regression": _targets}
    found = {"task": trained.task, "rows": len(split.labels), **_evaluated(trained, split)}
    found |= kinds[trained.task](trained, split, most)
    return plain(found | {"layers": _layers(trained, split), "batch": BATCH})


def _evaluated(trained: Trained, split: data.Split) -> dict[str, Any]:
    """Loss and metrics; no loss where nobody knows it."""
    if trained.loss is not None:
        return dict(trained.evaluate(split))
    found = train.evaluate(trained.net, trained, split, metrics=trained.metrics)
    return {**found, "loss": None}


def _classes(trained: Trained, split: data.Split, most: int) -> dict[str, Any]:
    outputs = trained.outputs(split.images)
    classes = outputs.shape[-1]
    labels, predicted = split.labels, outputs.argmax(-1)
    keywords = getattr(trained.loss, "keywords", {})
    counted = labels != keywords.get("ignore_index", classes)
    decided = counted & ~np.isnan(outputs).any(-1)
    confusion = np.zeros((classes, classes), int)
    np.add.at(confusion, (labels[decided], predicted[decided]), 1)
    support = np.bincount(labels[counted], minlength=classes)
    found = {
        "confusion": confusion.tolist(),
        "undecided": int((counted & ~decided).sum()),
        "classes": _scores(trained, confusion.diagonal(), support, confusion.sum(0)),
        "mistakes": [],
    }
    if labels.ndim == 1:
        rows = np.flatnonzero(decided & (predicted != labels))
        sure = trained.probabilities(outputs[rows]).max(-1)
        losses = _row_losses(trained, outputs[rows], labels[rows])
        worst = np.argsort(-(sure if losses is None else losses), kind="stable")[:most]
        found["wrong"] = len(rows)
        found["mistakes"] = [
            {
                "row": int(rows[i]),
                "true": trained.classes[labels[rows[i]]],
                "predicted": trained.classes[predicted[rows[i]]],
                "probability": float(sure[i]),
                "loss": None if losses is None else float(losses[i]),
            }
            for i in worst
        ]
    return found


def _labels(trained: Trained, split: data.Split, most: int) -> dict[str, Any]:
    outputs, there = trained.outputs(split.images), split.labels > 0
    told = trained.answers(outputs)
    scores = _scores(trained, (told & there).sum(0), there.sum(0), told.sum(0))
    exact = metrics.exact_match(jnp.asarray(outputs), split.labels)
    return {"exact_match": float(exact), "classes": scores}


def _targets(trained: Trained, split: data.Split, most: int) -> dict[str, Any]:
    outputs = trained.outputs(split.images)
    labels = np.reshape(split.labels, outputs.shape)
    residuals = labels - outputs
    largest = np.abs(residuals).max(1)

    def scores(columns: slice) -> dict[str, float]:
        both = jnp.asarray(outputs[:, columns]), jnp.asarray(labels[:, columns])
        return {
            "r2": float(metrics.r2(*both)),
            "mae": float(metrics.mean_absolute_error(*both)),
        }

    return {
        **scores(slice(None)),
        "targets": [
            {"name": name} | scores(slice(k, k + 1)) for k, name in enumerate(trained.classes)
        ],
        "mistakes": [
            {
                "row": int(row),
                "true": labels[row].tolist(),
                "predicted": outputs[row].tolist(),
                "residual": residuals[row].tolist(),
            }
            for row in np.argsort(-largest, kind="stable")[:most]
        ],
    }


def _scores(trained: Trained, both: Any, support: Any, told: Any) -> list[dict[str, Any]]:
    """Precision, recall and F1 of each class, from how many are right, there, and told."""

    def share(part: Any, whole: Any) -> float | None:
        return float(part / whole) if whole else None

    return [
        {
            "name": name,
            "precision": share(both[k], told[k]),
            "recall": share(both[k], support[k]),
            "f1": share(2 * both[k], told[k] + support[k]),
            "support": int(support[k]),
        }
        for k, name in enumerate(trained.classes)
    ]


def _row_losses(trained: Trained, outputs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
    """The run's loss of each row; None where it is a loss that does not say."""
    loss: Any = trained.loss
    if loss is None or "reduction" not in inspect.signature(loss).parameters:
        return None
    found = functools.partial(loss, reduction="none")(jnp.asarray(outputs), labels)
    return np.asarray(found)


def _layers(trained: Trained, split: data.Split) -> list[dict[str, Any]]:
    """The sizes that `train.diagnose` finds on the first rows; none where nobody knows the loss."""
    if trained.loss is None:
        return []
    dtype = float_dtype(trained.params)
    x = data.preprocess(trained.preprocessing, split.images[:BATCH], dtype)
    labels = split.labels[:BATCH]
    if trained.task == "regression":
        labels = labels.reshape(len(labels), -1).astype(x.dtype)
    state = train.TrainState(
        trained.params, trained.state, (), jnp.zeros((), jnp.int32), jax.random.key(0)
    )
    found = train.diagnose(trained.net, state, (x, labels), trained.loss)
    return [
        {
            name: value._asdict() if hasattr(value, "_asdict") else value
            for name, value in row._asdict().items()
        }
        for row in found.rows
    ]


def first_weights(trained: Trained) -> np.ndarray | None:
    """The weights of the first layer that has some, where they look at images of 1 or 3 channels.

    (h*w*c, units) of an affine layer, or filters (h, w, c, channels); else None, and where they are
    not finite.
    """
    shape = trained.input_shape
    if len(shape) != 3 or shape[-1] not in (1, 3):
        return None
    found: list[Any] = []

    def visit(name: str, apply: Any) -> Any:
        def noting(params: Any, *args: Any, **options: Any) -> Any:
            w = params.get("w") if isinstance(params, Mapping) else getattr(params, "w", None)
            if w is not None:
                found.append(w)
            return apply(params, *args, **options)

        return noting

    x = jax.ShapeDtypeStruct((2, *shape), float_dtype(trained.params))
    apply = nets.walk(trained.net, visit, apart=True)
    # The parameters are no arguments of what is traced, and so are seen as they are.
    jax.eval_shape(lambda x: apply(trained.params, trained.state, x, train=False), x)
    w = np.asarray(found[0], np.float64) if found else np.array(np.nan)
    if not np.isfinite(w).all():
        return None
    images = w.ndim == 4 and w.shape[2] == shape[-1]
    return w if images or (w.ndim == 2 and len(w) == math.prod(shape)) else None


def plain(value: Any) -> Any:
    """The value as JSON holds it: Python's own numbers, and None for what is not finite."""
    if isinstance(value, Mapping):
        return {str(key): plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [plain(each) for each in value]
    if hasattr(value, "item"):
        value = value.item()
    return None if isinstance(value, float) and not math.isfinite(value) else value
