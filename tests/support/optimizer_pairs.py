"""Optimizers of funcnet, optax, torch and Keras, two by two: equal ones, and why others are not."""

import os
from typing import Any, NamedTuple

import numpy as np
import optax
import pytest

from funcnet import optimizers

PARAMS = {
    "w": np.random.default_rng(0).normal(size=(3, 4)),
    "b": np.random.default_rng(1).normal(size=4),
}


class Side(NamedTuple):
    """One optimizer of a library, by its name there and with options of its own."""

    library: str
    name: str
    options: dict[str, Any]

    def __str__(self) -> str:
        options = ", ".join(
            f"{k}={v:g}" if type(v) is float else f"{k}={v}" for k, v in self[2].items()
        )
        return f"{self.library}.{self.name}({options})"

    def make(self) -> Any:
        """What `check_optimizer` takes; skips where the library is not installed."""
        if self.library == "funcnet":
            return getattr(optimizers, self.name)(**self.options)
        if self.library == "optax":
            return getattr(optax, self.name)(**self.options)
        return getattr(module(self.library), self.name), self.options


def module(library: str) -> Any:
    """`torch.optim` or `keras.optimizers`, or a skip."""
    os.environ.setdefault("KERAS_BACKEND", "jax")
    reason = f"{library} is not installed: the extra bench has it"
    found = pytest.importorskip(library, reason=reason, exc_type=ImportError)
    return found.optim if library == "torch" else found.optimizers


def ours(name: str, learning_rate: float, **options: Any) -> Side:
    return Side("funcnet", name, {"learning_rate": learning_rate, **options})


def of_optax(name: str, learning_rate: float, **options: Any) -> Side:
    return Side("optax", name, {"learning_rate": learning_rate, **options})


def of_torch(name: str, **options: Any) -> Side:
    return Side("torch", name, options)


def of_keras(name: str, **options: Any) -> Side:
    return Side("keras", name, options)


KERAS_EPS = (
    r"theirs outside the root, 1e-07 beside a mean .*without bias correction \(decay 0.999\)"
)

DIFFERENT: dict[str, list[tuple[Side, Side, str]]] = {
    "SGD": [
        (of_torch("SGD"), of_keras("SGD"), "^a constant factor of 0.1 .*another learning rate$"),
        (
            of_torch("SGD", lr=0.01, momentum=0.9, dampening=0.9),
            of_keras("SGD", momentum=0.9),
            r"^the momentum form: ours adds the first gradient whole and 0.1 of .*\(dampening\)$",
        ),
        (
            of_torch("SGD", lr=0.01, momentum=0.9, weight_decay=0.1),
            of_keras("SGD", momentum=0.9, weight_decay=0.1),
            r"^weight decay: ours .* through the momentum \(coupled\), theirs .*\(decoupled\)$",
        ),
    ],
    "Adam": [
        (
            of_optax("adam", 0.001),
            of_keras("Adam"),
            f"^what eps stands beside and the size of eps: .*1e-08 at every step, {KERAS_EPS}$",
        ),
        (of_torch("Adam"), of_keras("Adam"), f"^what eps .*1e-08 at every step, {KERAS_EPS}$"),
        (
            of_torch("Adam", eps=1e-7),
            of_keras("Adam"),
            f"^what eps stands beside: ours .*1e-07 at every step, {KERAS_EPS}$",
        ),
        (
            of_torch("Adam", weight_decay=0.01),
            of_keras("Adam", weight_decay=0.01),
            r"^weight decay: ours .*\(coupled, as L2 in the loss\), theirs .*1e-05.*\(decoupled\)",
        ),
    ],
    "AMSGrad": [
        (
            of_optax("amsgrad", 0.001),
            of_torch("Adam", amsgrad=True),
            "^the momentum form: ours .*largest corrected second.*theirs .*corrected then",
        ),
    ],
    "AdamW": [
        (
            of_optax("adamw", 0.001),
            of_torch("AdamW"),
            r"^weight decay: ours has decay of 1e-07 a step .* theirs decay of 1e-05 [^;]*$",
        ),
        (
            of_optax("adamw", 0.001),
            of_keras("AdamW"),
            f"^weight decay: .* of 1e-07 .* of 4e-06 .*; also what eps stands beside.*{KERAS_EPS}$",
        ),
        (
            of_torch("AdamW"),
            of_keras("AdamW"),
            f"^weight decay: .* of 1e-05 .* of 4e-06 .*; also what eps stands beside.*{KERAS_EPS}$",
        ),
    ],
    "Adamax": [
        (
            of_optax("adamax", 0.001),
            of_keras("Adamax"),
            "^the size of eps: ours .* outside the root, 1e-08 .*, theirs outside the root, 1e-07",
        ),
        (
            of_torch("Adamax", lr=0.001, eps=1e-7),
            of_keras("Adamax"),
            "^the place of eps: ours has it in what is remembered, theirs adds it anew",
        ),
    ],
    "NAdam": [
        (
            of_optax("nadam", 0.002),
            of_torch("NAdam"),
            r"^the momentum form: ours .* 0.9, corrected .*, theirs NAdam.* 0.96\^\(0.004 t\)/2$",
        ),
        (
            of_optax("nadam", 0.001),
            of_keras("Nadam"),
            r"^the momentum form: .*, theirs NAdam.* 1 - 0.96\^t/2; also the size of eps: .*1e-07",
        ),
        (
            of_torch("NAdam", lr=0.001, eps=1e-7),
            of_keras("Nadam"),
            r"^the momentum form: ours .* 0.96\^\(0.004 t\)/2, theirs .* 0.96\^t/2$",
        ),
    ],
    "RAdam": [
        (
            of_optax("radam", 0.001),
            of_torch("RAdam"),
            r"^what eps stands beside: theirs before the bias correction \(decay 0.999\)$",
        ),
    ],
    "RMSprop": [
        (
            of_optax("rmsprop", 0.01),
            of_torch("RMSprop"),
            "^the accumulator of squares: ours is a mean that forgets by 0.9, theirs .* by 0.99; "
            "also the place of eps: ours has it inside the root, 1e-08 .*outside the root, 1e-08",
        ),
        (
            of_optax("rmsprop", 0.001),
            of_keras("RMSprop"),
            "^the size of eps: ours .* inside the root, 1e-08 .*, theirs inside the root, 1e-07",
        ),
        (
            of_torch("RMSprop", lr=0.001, alpha=0.9),
            of_keras("RMSprop"),
            "^the place of eps: ours has it outside the root, 1e-08 .*inside the root, 1e-07",
        ),
    ],
    "Adagrad": [
        (
            of_optax("adagrad", 0.01),
            of_torch("Adagrad"),
            "^the accumulator's first value, or the place of eps: ours .* inside the root, 0.1 .*"
            "outside the root, 1e-10",
        ),
        (of_torch("Adagrad", lr=0.001), of_keras("Adagrad"), "^the accumulator's first value"),
    ],
    "Adadelta": [
        (
            of_optax("adadelta", 0.001),
            of_torch("Adadelta"),
            "^a constant factor of 0.001 in every step: another learning rate$",
        ),
        (
            of_optax("adadelta", 0.001),
            of_keras("Adadelta"),
            r"^the size of eps at the first step \(or the decay of .*\): ours has 1e-05",
        ),
    ],
    "Lion": [
        (
            of_optax("lion", 0.001),
            of_keras("Lion"),
            r"^weight decay: ours has decay of 1e-06 a step .*\(decoupled\), theirs none$",
        ),
    ],
    "LAMB": [
        (
            of_optax("lamb", 0.001),
            of_keras("Lamb"),
            "^the size of eps: ours .* 1e-06 .*, theirs outside the root, 1e-07",
        ),
    ],
}
"""Name -> pairs: an optimizer, another, and what the named cause is."""

EQUAL: list[tuple[Side, Side]] = [
    (of_optax("sgd", 0.001), of_torch("SGD")),
    (of_optax("sgd", 0.01), of_keras("SGD")),
    (of_torch("SGD", lr=0.01, momentum=0.9), of_keras("SGD", momentum=0.9)),
    (
        of_optax("sgd", 0.01, momentum=0.9, nesterov=True),
        of_keras("SGD", momentum=0.9, nesterov=True),
    ),
    (ours("nesterov", 0.01), of_torch("SGD", lr=0.01, momentum=0.9, nesterov=True)),
    (of_optax("adam", 0.001), of_torch("Adam")),
    (ours("adam", 0.001), of_torch("Adam")),
    (
        ours("amsgrad", 0.001, bias_correction_nu=False, bias_correction_max=True),
        of_torch("Adam", amsgrad=True),
    ),
    (of_optax("adamw", 0.001, weight_decay=0.01), of_torch("AdamW")),
    (of_optax("adamax", 0.002), of_torch("Adamax")),
    (of_optax("nadam", 0.002), of_torch("NAdam", momentum_decay=1e6)),
    (of_torch("NAdam", lr=0.001, eps=1e-7, momentum_decay=1.0), of_keras("Nadam")),
    (ours("rmsprop", 0.01, decay=0.99, eps_in_sqrt=False), of_torch("RMSprop")),
    (of_optax("rmsprop", 0.001, eps=1e-7), of_keras("RMSprop")),
    (
        ours("adagrad", 0.01, initial_accumulator_value=0.0, eps=1e-10, eps_in_sqrt=False),
        of_torch("Adagrad"),
    ),
    (of_optax("adagrad", 0.001), of_keras("Adagrad")),
    (of_optax("adadelta", 1.0), of_torch("Adadelta")),
    (ours("adadelta", 0.001, rho=0.95, eps=1e-7), of_keras("Adadelta")),
    (of_torch("Adadelta", lr=0.001, rho=0.95, eps=1e-7), of_keras("Adadelta")),
    (ours("lion", 0.001, weight_decay=0.1), of_keras("Lion", weight_decay=0.1)),
    (of_optax("lamb", 0.001, eps=1e-7), of_keras("Lamb")),
]
"""Pairs that are equal, once the options are."""
