"""Whole epochs: funcnet's `fit` beside NumPy, torch and scikit-learn."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from funcnet import data, train
from funcnet.bench import _programs
from funcnet.bench._cases import BATCH, DIGITS, RUN, RUNS, Step
from funcnet.bench._numpy import NumpyNet
from funcnet.bench._programs import DEFAULT_VARIANTS, Variant
from funcnet.bench._settings import Budget, Progress, ceilings, selection, silent, torch_if
from funcnet.bench._steps import (
    LOSSES,
    Stepper,
    _for_torch,
    _loss_notes,
    _on_host,
    _optimizer,
    _ours,
    _work,
    build,
)
from funcnet.bench._timing import Timing, interleaved
from funcnet.bench._torch import TorchError
from funcnet.bench.peers import choose
from funcnet.bench.results import Ceilings, Contender, Report, Result, report

DIGITS_BATCH, DIGITS_EPOCHS = 50, 20
DIGITS_KIND: Any = "standardised"


def runs(
    only: Iterable[str] | None = None,
    *,
    variants: Sequence[Variant] = DEFAULT_VARIANTS,
    peers: Iterable[str] | None = None,
    quick: bool = False,
    rows: int | None = None,
    epochs: int = 3,
    seconds: int | float | None = None,
    limits: Ceilings | None = None,
    on_progress: Progress = silent,
) -> Report:
    r"""Measures whole epochs: `train.fit` beside NumPy and torch, and beside scikit-learn.

    "course_000" is 3072-500-500-500-10 with batch norm and Adam on images as CIFAR-10 has them
    (uint8, random): batches of 100 are gathered, the mean image is taken off, and a step is done.
    The times are those of a step, funcnet's the mean over an epoch (without the first, and without
    evaluations). NumPy works as a course does, on images that are float64 already; torch also goes
    under bfloat16 autocast, as in `steps`.

    "digits" is 64-100-100-10 with ReLU and Adam on the 1,297 training digits, standardised, 20
    epochs in batches of 50 without a penalty, beside scikit-learn's `MLPClassifier` of the same
    settings in float32. The times are those of an epoch, funcnet's without the first and without
    evaluations, scikit-learn's a 20th of a whole `fit`, which evaluates nothing; each side has the
    accuracy on the 300 test digits after its last epoch. The two draw other first parameters.

    Args:
      only: some of "course_000" and "digits"; both by default.
      variants: ways to run `fit`; ratios are of the first.
      peers: some of "torch" and "sklearn"; those installed by default. NumPy is always there.
      quick: 5,000 images in place of 49,000, and short budgets.
      rows: the number of images of "course_000".
      epochs: the number of its epochs, at least 2.
      seconds: how long to time each peer; 4 by default, 1 with `quick`.
      limits: the machine's ceilings; measured by default.
      on_progress: called with (done, total, label) before each run.

    Returns:
      The `Report`; timings are of "step", and of "epoch" for "digits".

    Raises:
      ValueError: there is no such run or peer, no variant, or `epochs` is below 2.

    Source: courses.md row 0-19.

    >>> runs(epochs=1)
    Traceback (most recent call last):
        ...
    ValueError: runs: epochs is 1, expected 2 or more: the first is not counted.
    """
    if epochs < 2:
        raise ValueError(f"runs: epochs is {epochs}, expected 2 or more: the first is not counted.")
    if not variants:
        raise ValueError("runs: variants is empty, expected at least one.")
    names = selection("runs", RUNS, only)
    there, missing = choose(peers, ("torch", "sklearn"))
    rows = rows or (5000 if quick else 49000)
    budget = Budget.of(quick, seconds or (1.0 if quick else 4.0))
    limits = limits or ceilings(min(budget.seconds, 1.0))
    results: list[Result] = []
    said: tuple[str, ...] = ()
    for number, name in enumerate(names):
        on_progress(number, len(names), f"run {name}")
        if name == DIGITS.name:
            results.append(_digits(variants, "sklearn" in there, budget))
        else:
            result, said = _course_000(variants, "torch" in there, rows, epochs, budget)
            results.append(result)
    on_progress(len(names), len(names), "")
    return report(results, limits, missing, _programs.notes() + said)


def _course_000(
    variants: Sequence[Variant], with_torch: bool, rows: int, epochs: int, budget: Budget
) -> tuple[Result, tuple[str, ...]]:
    """The run of course 000's net, and what torch has to say of bfloat16."""
    dataset = data.synthetic(shape=(32, 32, 3), sizes=(rows, 100, 100))
    contenders = []
    for variant in variants:
        fitted = _fitted(RUN, dataset, variant, variants, epochs, BATCH, "mean_image")
        rates = [row["images_per_second"] for row in fitted.history[2:]]
        timing = Timing.of([BATCH / rate for rate in rates])
        contenders.append(Contender(variant.name, {"step": timing}))
    step, state = _ours(RUN)
    first = _on_host(state)
    batches = RUN.batches()
    losses = {variants[0].name: Stepper(step, state, batches).losses()}
    timing, losses["numpy"] = _numpy_steps(first.params, batches, dataset.train, budget)
    contenders.append(Contender("numpy", {"step": timing}, detail="float64"))
    notes: list[str] = []
    said: tuple[str, ...] = ()
    with torch_if(with_torch) as torch:
        if torch is not None:
            images, labels = (np.asarray(a) for a in dataset.train)
            try:
                sides, theirs = torch.step(
                    "run",
                    RUN,
                    _for_torch(RUN, first.params),
                    batches,
                    LOSSES,
                    budget.seconds,
                    budget.least,
                    images=images.reshape(len(images), -1),
                    labels=labels,
                )
                contenders += sides
                losses |= theirs
                said = torch.notes
            except TorchError as error:
                notes.append(f"torch failed: {error}")
    flops, least_bytes = _work(RUN, first, batches[0])
    notes += _loss_notes(losses, losses[variants[0].name])
    result = Result(
        "runs",
        RUN.name,
        f"{RUN.words}; epochs of {rows} images",
        tuple(contenders),
        {"step": flops},
        {"step": least_bytes},
        BATCH,
        tuple(notes),
    )
    return result, said


def _fitted(
    spec: Step,
    dataset: data.Dataset,
    variant: Variant,
    variants: Sequence[Variant],
    epochs: int,
    batch_size: int,
    preprocessing: Any,
) -> train.Run:
    with _programs.traced_as(variant, alone=len(variants) == 1):
        return train.fit(
            build(spec),
            dataset,
            _optimizer(spec),
            epochs,
            batch_size,
            preprocessing=preprocessing,
        )


def _numpy_steps(
    params: Any, batches: list[tuple[np.ndarray, np.ndarray]], split: Any, budget: Budget
) -> tuple[Timing, list[float]]:
    """Times of NumPy's step with its gathering of the batch, and the first losses."""
    named: dict[str, np.ndarray] = {}
    for name, p in params.items():
        kind, number = name.rstrip("0123456789"), name[-1]
        fields = {"w": "W", "b": "b"} if kind == "affine" else {"gamma": "gamma", "beta": "beta"}
        named |= {f"{theirs}{number}": getattr(p, ours) for ours, theirs in fields.items()}
    peer = NumpyNet(named, RUN.learning_rate)
    losses = [peer.step(x.astype(np.float64), y) for x, y in batches[:LOSSES]]
    images = np.asarray(split.images[:5000], np.float64).reshape(-1, RUN.input_shape[0])
    images -= images.mean(0)
    labels, rng = np.asarray(split.labels[:5000]), np.random.default_rng(0)

    def step() -> float:
        rows = rng.choice(len(images), BATCH)
        return peer.step(images[rows], labels[rows])

    samples = interleaved({"numpy": step}, budget.seconds, least=budget.least)
    return Timing.of(samples["numpy"]), losses


def _digits(variants: Sequence[Variant], with_sklearn: bool, budget: Budget) -> Result:
    dataset = data.load("digits")
    count = len(dataset.train.labels)
    contenders = []
    for variant in variants:
        fitted = _fitted(
            DIGITS, dataset, variant, variants, DIGITS_EPOCHS, DIGITS_BATCH, DIGITS_KIND
        )
        rates = [row["images_per_second"] for row in fitted.history[2:]]
        found = train.evaluate(build(DIGITS), fitted.final, dataset.test, fitted.preprocessing)
        contenders.append(
            Contender(
                variant.name,
                {"epoch": Timing.of([count / rate for rate in rates])},
                accuracy=found["accuracy"],
            )
        )
    if with_sklearn:
        contenders.append(_sklearn(dataset, budget))
    batch = DIGITS.batches(1, DIGITS_BATCH)[0]
    flops, least_bytes = _work(DIGITS, _on_host(_ours(DIGITS)[1]), batch)
    return Result(
        "runs",
        DIGITS.name,
        f"{DIGITS.words}; {DIGITS_EPOCHS} epochs of {count} images, batches of {DIGITS_BATCH}",
        tuple(contenders),
        {"epoch": flops * count // DIGITS_BATCH},
        {"epoch": least_bytes * count // DIGITS_BATCH},
        count,
    )


def _sklearn(dataset: data.Dataset, budget: Budget) -> Contender:
    """Scikit-learn's `MLPClassifier`: the time of an epoch, and its accuracy after the last."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.neural_network import MLPClassifier

    preprocessing = data.fit_preprocessing(dataset.train.images, DIGITS_KIND)
    x, held = (
        np.asarray(data.preprocess(preprocessing, split.images)).reshape(len(split.labels), -1)
        for split in (dataset.train, dataset.test)
    )
    y, right = (np.asarray(split.labels) for split in (dataset.train, dataset.test))
    affines = [numbers[0] for kind, *numbers in DIGITS.layers if kind == "affine"]
    net = MLPClassifier(
        affines[:-1],
        alpha=0.0,
        batch_size=DIGITS_BATCH,
        learning_rate_init=DIGITS.learning_rate,
        max_iter=DIGITS_EPOCHS,
        n_iter_no_change=DIGITS_EPOCHS,
        random_state=0,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ConvergenceWarning)  # it has the epochs that it shall have
        samples = interleaved(
            {"sklearn": lambda: net.fit(x, y)}, budget.seconds, least=budget.least
        )
    timing = Timing.of(samples["sklearn"] / DIGITS_EPOCHS)
    accuracy = float(net.score(held, right))
    return Contender("sklearn", {"epoch": timing}, detail=x.dtype.name, accuracy=accuracy)
