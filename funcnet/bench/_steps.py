"""Whole train steps and whole epochs: funcnet's beside those of the peers."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import data, nets, optimizers, plain, train
from funcnet.bench import _programs
from funcnet.bench._cases import BATCH, RUN, STEPS, Step
from funcnet.bench._numpy import NumpyNet
from funcnet.bench._programs import DEFAULT_VARIANTS, Variant
from funcnet.bench._settings import Budget, Progress, ceilings, selection, silent, torch_if
from funcnet.bench._timing import Timing, interleaved
from funcnet.bench._torch import Torch, TorchError
from funcnet.bench.peers import choose
from funcnet.bench.results import Ceilings, Contender, Report, Result, report

LOSSES = 3  # compared before the clock starts: the first tells of the net, the others of updates


def steps(
    only: Iterable[str] | None = None,
    *,
    table: dict[str, Step] | None = None,
    variants: Sequence[Variant] = DEFAULT_VARIANTS,
    peers: Iterable[str] | None = None,
    quick: bool = False,
    seconds: int | float | None = None,
    batch_size: int = BATCH,
    limits: Ceilings | None = None,
    on_progress: Progress = silent,
) -> Report:
    r"""Measures whole train steps: `train.make_step`, jitted and donated, beside Flax and torch.

    All start from the same parameters and see the same batches, random images with random labels;
    their first three losses are compared before the clock starts. Flax's step is value_and_grad and
    optax, jitted and donated; torch's is eager, in a process of its own, in the better of its
    layouts and of its optimizers (default and fused). funcnet's step also computes the accuracy and
    the gradient's norm, and refuses updates that are not finite; the others do not.

    Args:
      only: names of steps, of `STEPS`; all by default.
      table: other steps to measure.
      variants: ways to run funcnet's step; ratios are of the first.
      peers: some of "flax", "equinox" (which has no step) and "torch"; those installed by default.
      quick: short budgets.
      seconds: how long to time each step; 4 by default, 0.5 with `quick`.
      batch_size: images in a step.
      limits: the machine's ceilings; measured by default.
      on_progress: called with (done, total, label) before each step.

    Returns:
      The `Report`; timings are of "step".

    Raises:
      ValueError: there is no such step or peer, or no variant.

    >>> tiny = Step("tiny", "4-3-10", (("affine", 3), ("relu",), ("affine", 10)), (4,), "adam", 0.1)
    >>> found = steps(table={"tiny": tiny}, peers=(), seconds=1e-3, batch_size=5,
    ...               limits=Ceilings(1e9, 1e9))
    >>> found.results[0].images, list(found.results[0].contenders[0].timings)
    (5, ['step'])
    """
    if not variants:
        raise ValueError("steps: variants is empty, expected at least one.")
    table = STEPS if table is None else table
    names = selection("steps", table, only)
    there, missing = choose(peers)
    budget = Budget.of(quick, seconds)
    if seconds is None:
        budget = budget._replace(seconds=0.5 if quick else 4.0)
    limits = limits or ceilings(min(budget.seconds, 1.0))
    results = []
    with torch_if("torch" in there) as torch:
        for number, name in enumerate(names):
            on_progress(number, len(names), f"step {name}")
            batches = table[name].batches(size=batch_size)
            results.append(_measure(table[name], batches, variants, "flax" in there, torch, budget))
    on_progress(len(names), len(names), "")
    return report(results, limits, missing, _programs.notes())


class Stepper:
    """A compiled step and its state: each call does one step on the next batch."""

    def __init__(self, step: Any, state: Any, batches: Sequence[tuple[Any, Any]]):
        self.batches = [tuple(map(jnp.asarray, batch)) for batch in batches]
        began = time.perf_counter()
        self.compiled = jax.jit(step, donate_argnums=0).lower(state, self.batches[0]).compile()
        self.compile_seconds = time.perf_counter() - began
        self.state, self.count = state, 0

    def __call__(self) -> Any:
        batch = self.batches[self.count % len(self.batches)]
        self.count += 1
        self.state, metrics = self.compiled(self.state, batch)
        return metrics, self.state

    def losses(self) -> list[float]:
        """The losses of the next steps, each before its update."""
        return [float(self()[0]["loss"]) for _ in range(LOSSES)]


def _measure(
    spec: Step,
    batches: list[tuple[np.ndarray, np.ndarray]],
    variants: Sequence[Variant],
    with_flax: bool,
    torch: Torch | None,
    budget: Budget,
) -> Result:
    notes: list[str] = []
    steppers: dict[str, Stepper] = {}
    for variant in variants:
        with _programs.traced_as(variant, alone=len(variants) == 1):
            steppers[variant.name] = Stepper(*_ours(spec), batches)
    first = _on_host(_ours(spec)[1])
    if with_flax:
        try:
            steppers["flax"] = Stepper(*_flax(spec, first), batches)
        except Exception as error:  # a peer of another version is no reason to stop
            notes.append(f"flax failed: {type(error).__name__}: {str(error)[:200]}")
    losses = {who: stepper.losses() for who, stepper in steppers.items()}
    truth = losses[variants[0].name]
    samples = interleaved(steppers, budget.seconds, wait=jax.block_until_ready, least=budget.least)
    contenders = [
        Contender(
            who,
            {"step": Timing.of(samples[who])},
            None if _programs.cached_programs() else stepper.compile_seconds,
            temporary_bytes=_programs.temporary_bytes(stepper.compiled),
        )
        for who, stepper in steppers.items()
    ]
    if torch is not None:
        try:
            one, losses["torch"] = torch.step(
                "step",
                spec,
                _for_torch(spec, first.params),
                batches,
                LOSSES,
                budget.seconds,
                budget.least,
            )
            contenders.append(one)
        except TorchError as error:
            notes.append(f"torch failed: {error}")
    notes += _loss_notes(losses, truth)
    flops, least_bytes = _work(spec, first, batches[0])
    return Result(
        "steps",
        spec.name,
        spec.words,
        tuple(contenders),
        {"step": flops},
        {"step": least_bytes},
        len(batches[0][1]),
        tuple(notes),
    )


def _loss_notes(losses: dict[str, list[float]], truth: list[float]) -> list[str]:
    notes = []
    for who, theirs in losses.items():
        if found := _programs.disagreement([np.array(theirs)], [np.array(truth)]):
            words = ", ".join(f"{loss:.6f}" for loss in theirs)
            ours = ", ".join(f"{loss:.6f}" for loss in truth)
            notes.append(f"{who}'s first losses are {words}, not {ours}: {found}")
    return notes


def build(spec: Step) -> nets.Net:
    """The net of a step."""
    makers: dict[str, Callable[..., nets.Net]] = {
        "affine": nets.affine,
        "conv": nets.conv,
        "relu": nets.relu,
        "batch_norm": nets.batch_norm,
        "max_pool": nets.max_pool,
    }
    return nets.serial(*(makers[kind](*numbers) for kind, *numbers in spec.layers))


def _optimizer(spec: Step) -> Any:
    return getattr(optimizers, spec.optimizer)(spec.learning_rate)


def _ours(spec: Step) -> tuple[Any, train.TrainState]:
    net, optimizer = build(spec), _optimizer(spec)
    state = train.init_state(net, optimizer, jax.random.key(0), spec.input_shape)
    return train.make_step(net, optimizer), state


def _on_host(state: train.TrainState) -> train.TrainState:
    """Copies that no donation takes away; without the key, which nobody else needs."""
    nothing: Any = ()
    return jax.tree.map(np.array, state._replace(key=nothing))


def _work(spec: Step, state: train.TrainState, batch: tuple[Any, Any]) -> tuple[int, int]:
    """FLOPs of a step's products; bytes of its state, read and written, and of its batch."""

    def flops(layers: tuple[tuple[Any, ...], ...]) -> int:
        arguments = _programs.Arguments((state.params, batch[0]))
        return _programs.work(partial(_plainly, layers), arguments)[0]["forward"]

    # Three products a layer, but for the gradient of the images, which nobody asks for.
    total = 3 * flops(spec.layers) - flops(spec.layers[:1])
    kept = sum(np.asarray(leaf).nbytes for leaf in jax.tree.leaves(state))
    return total, 2 * kept + sum(array.nbytes for array in batch)


def _plainly(layers: tuple[tuple[Any, ...], ...], params: Any, x: Any) -> Any:
    """The products of a net in plain JAX, however its rules go about them."""
    seen: dict[str, int] = {}
    for kind, *_ in layers:
        seen[kind] = seen.get(kind, 0) + 1
        if kind in ("affine", "conv"):
            layer = plain.affine if kind == "affine" else plain.conv2d
            x = layer(params[f"{kind}{seen[kind]}"], x)
        elif kind == "max_pool":
            x = plain.max_pool(x)
    return x


def _flax(spec: Step, first: train.TrainState) -> tuple[Any, Any]:
    """Flax's step (linen and optax) and its state, from our parameters."""
    import flax.linen as nn
    import optax

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any) -> Any:
            seen: dict[str, int] = {}
            for kind, *numbers in spec.layers:
                seen[kind] = seen.get(kind, 0) + 1
                name = f"{kind}{seen[kind]}"
                if kind == "affine":
                    x = nn.Dense(numbers[0], name=name)(x.reshape(x.shape[0], -1))
                elif kind == "conv":
                    x = nn.Conv(numbers[0], (numbers[1],) * 2, name=name)(x)
                elif kind == "batch_norm":
                    x = nn.BatchNorm(
                        use_running_average=False, momentum=0.9, epsilon=1e-5, name=name
                    )(x)
                elif kind == "relu":
                    x = nn.relu(x)
                else:
                    x = nn.max_pool(x, (2, 2), (2, 2))
            return x

    makers = {
        "momentum": lambda rate: optax.sgd(rate, momentum=0.9),
        "adam": optax.adam,
    }
    net, optimizer = Net(), makers[spec.optimizer](spec.learning_rate)
    theirs = {"gamma": "scale", "beta": "bias", "w": "kernel", "b": "bias"}
    params = {
        name: {theirs[field]: jnp.array(leaf) for field, leaf in p._asdict().items()}
        for name, p in first.params.items()
    }
    stats = {
        name: {field: jnp.array(leaf) for field, leaf in s._asdict().items()}
        for name, s in first.state.items()
    }

    def step(state: Any, batch: Any) -> Any:
        params, stats, opt_state = state
        x, y = batch

        def objective(params: Any) -> Any:
            variables = {"params": params, "batch_stats": stats}
            logits, updated = net.apply(variables, x, mutable=["batch_stats"])
            loss = optax.softmax_cross_entropy_with_integer_labels(logits, y).mean()
            return loss, updated.get("batch_stats", {})

        (loss, stats), grads = jax.value_and_grad(objective, has_aux=True)(params)
        updates, opt_state = optimizer.update(grads, opt_state, params)
        return (optax.apply_updates(params, updates), stats, opt_state), {"loss": loss}

    return step, (params, stats, optimizer.init(params))


def _for_torch(spec: Step, params: Any) -> list[np.ndarray]:
    """Our parameters in the order and the layout of torch's modules."""
    turned: list[np.ndarray] = []
    seen: dict[str, int] = {}
    channels = 0  # of the image that the next layer takes; 0 for rows
    for kind, *_ in spec.layers:
        seen[kind] = seen.get(kind, 0) + 1
        p = params.get(f"{kind}{seen[kind]}")
        if kind == "conv":
            turned += [p.w.transpose(3, 2, 0, 1), p.b]
            channels = p.w.shape[3]
        elif kind == "affine":
            w = p.w
            if channels:  # torch flattens (c, h, w), we (h, w, c)
                w = w.reshape(-1, channels, w.shape[1]).swapaxes(0, 1).reshape(w.shape)
            turned += [w.T, p.b]
            channels = 0
        elif kind == "batch_norm":
            turned += [p.gamma, p.beta]
    return [np.ascontiguousarray(p) for p in turned]


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
    r"""Measures whole epochs of course 000's net: `train.fit`, beside NumPy float64 and torch.

    3072-500-500-500-10 with batch norm and Adam on images as CIFAR-10 has them (uint8, random):
    batches of 100 are gathered, the mean image is taken off, and a step is done. The times are
    those of a step, funcnet's the mean over an epoch (without the first, and without evaluations).
    NumPy works as a course does, on images that are float64 already.

    Args:
      only: "course_000", or nothing for the same.
      variants: ways to run `fit`; ratios are of the first.
      peers: "torch" or none; as installed by default. NumPy is always there.
      quick: 5,000 images in place of 49,000, and short budgets.
      rows: the number of images.
      epochs: the number of epochs, at least 2.
      seconds: how long to time NumPy and torch each; 4 by default, 1 with `quick`.
      limits: the machine's ceilings; measured by default.
      on_progress: called with (done, total, label).

    Returns:
      The `Report`; timings are of "step".

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
    selection("runs", (RUN.name,), only)
    there, missing = choose(peers)
    rows = rows or (5000 if quick else 49000)
    budget = Budget.of(quick, seconds or (1.0 if quick else 4.0))
    limits = limits or ceilings(min(budget.seconds, 1.0))
    on_progress(0, 3, f"fit, {rows} images")
    dataset = data.synthetic(shape=(32, 32, 3), sizes=(rows, 100, 100))
    net, optimizer = build(RUN), _optimizer(RUN)
    contenders = []
    for variant in variants:
        with _programs.traced_as(variant, alone=len(variants) == 1):
            fitted = train.fit(net, dataset, optimizer, epochs, BATCH, preprocessing="mean_image")
        rates = [row["images_per_second"] for row in fitted.history[2:]]
        timing = Timing.of([BATCH / rate for rate in rates])
        contenders.append(Contender(variant.name, {"step": timing}))
    on_progress(1, 3, "numpy")
    step, state = _ours(RUN)
    first = _on_host(state)
    batches = RUN.batches()
    losses = {variants[0].name: Stepper(step, state, batches).losses()}
    timing, losses["numpy"] = _numpy_steps(first.params, batches, dataset.train, budget)
    contenders.append(Contender("numpy", {"step": timing}, detail="float64"))
    notes: list[str] = []
    on_progress(2, 3, "torch")
    with torch_if("torch" in there) as torch:
        if torch is not None:
            images, labels = (np.asarray(a) for a in dataset.train)
            try:
                one, losses["torch"] = torch.step(
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
                contenders.append(one)
            except TorchError as error:
                notes.append(f"torch failed: {error}")
    on_progress(3, 3, "")
    flops, least_bytes = _work(RUN, first, batches[0])
    notes += _loss_notes(losses, losses[variants[0].name])
    words = f"{RUN.words}; epochs of {rows} images"
    result = Result(
        "runs",
        RUN.name,
        words,
        tuple(contenders),
        {"step": flops},
        {"step": least_bytes},
        BATCH,
        tuple(notes),
    )
    return report([result], limits, missing, _programs.notes())


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
