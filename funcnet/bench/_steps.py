"""Whole train steps: funcnet's beside those of the peers."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import nets, optimizers, plain, train
from funcnet.bench import _programs, _torch
from funcnet.bench._cases import BATCH, STEPS, Step
from funcnet.bench._programs import DEFAULT_VARIANTS, Variant
from funcnet.bench._settings import Budget, Progress, ceilings, selection, silent, torch_if
from funcnet.bench._timing import Timing, interleaved
from funcnet.bench._torch import Torch, TorchError
from funcnet.bench.peers import choose
from funcnet.bench.results import (
    BFLOAT16,
    COMPILED,
    Ceilings,
    Contender,
    Report,
    Result,
    report,
)

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
    torch_compile: bool = False,
    limits: Ceilings | None = None,
    on_progress: Progress = silent,
) -> Report:
    r"""Measures whole train steps: `train.make_step`, jitted and donated, beside Flax and torch.

    All start from the same parameters and see the same batches, random images with random labels;
    their first three losses are compared before the clock starts. Flax's step is value_and_grad and
    optax, jitted and donated; torch's is eager, in a process of its own, with a fused optimizer, in
    float32 and under bfloat16 autocast, each in the better of its layouts. Where a CPU makes
    bfloat16 more than three times as slow as float32, it is left out, and the notes say so.
    funcnet's step also computes the accuracy and the gradient's norm, and refuses updates that are
    not finite; the others do not.

    Compile times are from the function to the program, tracing included, the shorter of two, with
    JAX's caches cleared: the first also pays for what a process does once.

    Args:
      only: names of steps, of `STEPS`; all by default.
      table: other steps to measure.
      variants: ways to run funcnet's step; ratios are of the first.
      peers: some of "flax", "equinox" (which has no step) and "torch"; those installed by default.
      quick: short budgets.
      seconds: how long to time each step; 4 by default, 0.5 with `quick`.
      batch_size: images in a step.
      torch_compile: whether to time `torch.compile` of torch's step beside the eager one, in a
        process of its own. It needs a C++ compiler, and may take three minutes a step at most.
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
    there, missing = choose(peers, ("flax", "torch"))
    budget = Budget.of(quick, seconds)
    if seconds is None:
        budget = budget._replace(seconds=0.5 if quick else 4.0)
    limits = limits or ceilings(min(budget.seconds, 1.0))
    results = []
    with torch_if("torch" in there) as torch:
        for number, name in enumerate(names):
            on_progress(number, len(names), f"step {name}")
            batches = table[name].batches(size=batch_size)
            results.append(
                _measure(
                    table[name], batches, variants, "flax" in there, torch, budget, torch_compile
                )
            )
        said = () if torch is None else torch.notes
    on_progress(len(names), len(names), "")
    return report(results, limits, missing, _programs.notes() + said)


class Stepper:
    """A compiled step and its state: each call does one step on the next batch."""

    def __init__(self, step: Any, state: Any, batches: Sequence[tuple[Any, Any]]):
        self.batches = [tuple(map(jnp.asarray, batch)) for batch in batches]
        self.step, self.state, self.count = step, state, 0
        self.compiled, self.compile_seconds = self._compile()

    def _compile(self) -> tuple[Any, float]:
        began = time.perf_counter()
        jitted = jax.jit(self.step, donate_argnums=0)
        compiled = jitted.lower(self.state, self.batches[0]).compile()
        return compiled, time.perf_counter() - began

    def compile_again(self) -> None:
        """Takes the time once more, with nothing left of the first; the shorter counts."""
        jax.clear_caches()
        self.compile_seconds = min(self.compile_seconds, self._compile()[1])

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
    torch_compile: bool,
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
    if not _programs.cached_programs():
        contexts = {variant.name: variant.context for variant in variants}
        for who, stepper in steppers.items():
            with contexts.get(who, contextlib.nullcontext)():
                stepper.compile_again()
        jax.clear_caches()  # of what the last variant traced
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
        params = _for_torch(spec, first.params)
        sides, theirs, said = _by_torch(torch, spec, params, batches, budget, torch_compile)
        contenders, losses, notes = contenders + sides, losses | theirs, notes + said
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


def _by_torch(
    torch: Torch,
    spec: Step,
    params: list[np.ndarray],
    batches: list[tuple[np.ndarray, np.ndarray]],
    budget: Budget,
    torch_compile: bool,
) -> tuple[list[Contender], dict[str, list[float]], list[str]]:
    """Torch's sides, the first losses of each in each layout, and what went wrong."""
    asked = (spec, params, batches, LOSSES, budget.seconds, budget.least)
    try:
        sides, losses = torch.step("step", *asked)
    except TorchError as error:
        return [], {}, [f"torch failed: {error}"]
    if not torch_compile:
        return sides, losses, []
    try:
        with _torch.torch() as own:
            one, losses[COMPILED] = own.compiled(*asked, sides[0].detail or "contiguous")
    except TorchError as error:
        return sides, losses, [f"torch.compile failed: {error}"]
    return [*sides, one], losses, []


def _loss_notes(losses: dict[str, list[float]], truth: list[float]) -> list[str]:
    notes = []
    for who, theirs in losses.items():
        within = _programs.BFLOAT16_TOLERANCE if who.startswith(BFLOAT16) else None
        if found := _programs.disagreement([np.array(theirs)], [np.array(truth)], within):
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
        "adamw": optax.adamw,
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
