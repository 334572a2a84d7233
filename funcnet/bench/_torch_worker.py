"""Torch's side of the scorecard, in a process of its own: two OpenMP runtimes slow each other.

Reads one request a line (JSON) on stdin and answers each by one line on stdout; arrays travel
through .npz files. Run as `python -m funcnet.bench._torch_worker THREADS DEVICE`.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import product
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812  (torch's own habit)

from funcnet import kernels
from funcnet.bench._timing import interleaved

LAYOUTS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def _windows(static: dict[str, Any]) -> dict[str, Any]:
    window = static.get("window", 2)
    return {
        "kernel_size": window,
        "stride": static.get("stride") or window,
        "padding": static.get("padding", 0),
    }


def _batch_norm(gamma: Any, beta: Any, x: Any) -> Any:
    return F.batch_norm(x, None, None, gamma, beta, training=True, eps=1e-5)


def _conv(static: dict[str, Any], w: Any, b: Any, x: Any) -> Any:
    """With zeros around the images, or the sequences, so that they keep their size."""
    reach = static.get("dilation", 1) * (w.shape[-1] - 1)
    return (F.conv1d if w.ndim == 3 else F.conv2d)(x, w, b, padding=reach // 2, **static)


def _conv_transpose(static: dict[str, Any], w: Any, b: Any, x: Any) -> Any:
    """That enlarges the images by the stride, a kernel as wide or wider, by an even number."""
    stride = static.get("stride", 1)
    return F.conv_transpose2d(x, w, b, stride, (w.shape[-1] - stride) // 2)


RULES: dict[str, Callable[..., Any]] = {
    "relu": lambda static, x: F.relu(x),
    "leaky_relu": lambda static, x: F.leaky_relu(x),
    "elu": lambda static, x: F.elu(x),
    "sigmoid": lambda static, x: torch.sigmoid(x),
    "tanh": lambda static, x: torch.tanh(x),
    "softplus": lambda static, x: F.softplus(x),
    "silu": lambda static, x: F.silu(x),
    "gelu": lambda static, x: F.gelu(
        x, approximate="tanh" if static.get("approximate", True) else "none"
    ),
    "dropout": lambda static, x: F.dropout(x, static["rate"]),
    "affine": lambda static, w, b, x: F.linear(x, w, b),
    "affine_relu": lambda static, w, b, x: F.relu(F.linear(x, w, b)),
    "affine_batch_norm_relu": lambda static, w, b, gamma, beta, x: F.relu(
        _batch_norm(gamma, beta, F.linear(x, w, b))
    ),
    "conv2d": _conv,
    "conv1d": _conv,
    "conv2d_transpose": _conv_transpose,
    "conv_relu": lambda static, w, b, x: F.relu(_conv(static, w, b, x)),
    "conv_relu_pool": lambda static, w, b, x: F.max_pool2d(F.relu(_conv(static, w, b, x)), 2),
    "max_pool": lambda static, x: F.max_pool2d(x, **_windows(static)),
    "avg_pool": lambda static, x: F.avg_pool2d(x, **_windows(static), count_include_pad=False),
    "global_avg_pool": lambda static, x: x.mean((2, 3)),
    "batch_norm": lambda static, gamma, beta, x: _batch_norm(gamma, beta, x),
    "batch_norm_inference": lambda static, gamma, beta, mean, var, x: F.batch_norm(
        x, mean, var, gamma, beta, eps=1e-5
    ),
    "layer_norm": lambda static, gamma, beta, x: F.layer_norm(x, gamma.shape, gamma, beta, 1e-5),
    "group_norm": lambda static, gamma, beta, x: F.group_norm(
        x, static["groups"], gamma, beta, 1e-5
    ),
    "rms_norm": lambda static, gamma, x: F.rms_norm(x, gamma.shape, gamma, 1e-6),
    "softmax_cross_entropy": lambda static, x, y: F.cross_entropy(x, y),
    # Torch divides by the number of classes as well.
    "multiclass_hinge": lambda static, x, y: F.multi_margin_loss(x, y) * x.shape[1],
    "binary_cross_entropy": lambda static, x, y: F.binary_cross_entropy_with_logits(
        x, y.to(x.dtype)
    ),
    "mean_squared_error": lambda static, x, y: F.mse_loss(x, y),
}
NO_GRADIENT = {"batch_norm_inference": (2, 3)}


def rule(request: dict[str, Any], device: str, wait: Callable[[Any], Any]) -> dict[str, Any]:
    """Times a rule, each side in each layout; its answers go to request["answers"].

    These are the output and gradients of the side that is not under autocast, and the output of the
    other: where rounding to bfloat16 moves a number across a kink, its gradient is another one.
    """
    function = partial(RULES[request["name"]], request["static"])
    with np.load(request["file"]) as arrays:
        leaves = [arrays[f"leaf{i}"] for i in range(request["leaves"])]
        cotangent = arrays["cotangent"]
    skipped = NO_GRADIENT.get(request["name"], ())
    calls: dict[str, Callable[[], Any]] = {}
    answers: dict[str, Any] = {}
    layouts = tuple(LAYOUTS) if request["images"] else ("contiguous",)
    for (side, autocast), layout in product(request["sides"].items(), layouts):
        call = _narrowed(function, device) if autocast else function
        tensors = [_tensor(leaf, layout, device) for leaf in leaves]
        diff = [i for i, t in enumerate(tensors) if t.is_floating_point() and i not in skipped]
        for i in diff:
            tensors[i].requires_grad_()
        ct = _tensor(cotangent, layout, device).to(_forward(call, tensors).dtype)
        calls[f"{side}|{layout}|forward"] = partial(_forward, call, tensors)
        both = partial(_both, call, tensors, diff, ct)
        calls[f"{side}|{layout}|forward_backward"] = both
        y, gradients = both()
        answers[f"{side}|output"] = y
        if not autocast:
            answers |= {f"{side}|{i}": g for i, g in zip(diff, gradients, strict=True)}
    arrays = {name: found.detach().float().cpu().numpy() for name, found in answers.items()}
    np.savez(request["answers"], **arrays)
    return _samples(calls, request, wait)


def _narrowed(function: Any, device: str) -> Callable[..., Any]:
    """The function as bfloat16 autocast has it; its backward pass follows from the forward one."""

    def call(*tensors: Any) -> Any:
        with torch.autocast(device, torch.bfloat16):
            return function(*tensors)

    return call


def probe(request: dict[str, Any], device: str, wait: Callable[[Any], Any]) -> dict[str, Any]:
    """How many times as long a small convolution takes under bfloat16 autocast: its "slowdown"."""
    x, w = (
        torch.randn(shape).to(device, memory_format=torch.channels_last).requires_grad_()
        for shape in ((16, 64, 16, 16), (64, 64, 3, 3))
    )
    plain = partial(F.conv2d, padding=1)
    calls = {}
    for name, call in (("float32", plain), ("bfloat16", _narrowed(plain, device))):
        y = call(x, w)
        calls[name] = partial(_both, call, (x, w), (0, 1), torch.ones_like(y))
    samples = interleaved(calls, 0.0, wait=wait, least=5)
    return {"slowdown": float(np.median(samples["bfloat16"]) / np.median(samples["float32"]))}


def _forward(function: Any, tensors: Any) -> Any:
    with torch.no_grad():
        return function(*tensors)


def _both(function: Any, tensors: Any, diff: Any, cotangent: Any) -> Any:
    y = function(*tensors)
    return y, torch.autograd.grad(y, [tensors[i] for i in diff], cotangent)


def _samples(calls: Any, request: dict[str, Any], wait: Callable[[Any], Any]) -> dict[str, Any]:
    samples = interleaved(calls, request["seconds"], wait=wait, least=request["least"])
    return {"samples": {name: values.tolist() for name, values in samples.items()}}


def _tensor(array: np.ndarray, layout: str, device: str) -> Any:
    tensor = torch.from_numpy(np.array(array))
    if tensor.dtype == torch.int32:
        tensor = tensor.long()
    if tensor.ndim == 4:
        tensor = tensor.contiguous(memory_format=LAYOUTS[layout])
    return tensor.to(device)


def build(layers: list[list[Any]], channels: int) -> torch.nn.Sequential:
    """The net of a `Step`, from its layers; `channels` are those of its input."""
    modules: list[Any] = []
    flat = True
    for kind, *numbers in layers:
        if kind == "conv":
            filters, size = numbers
            modules.append(torch.nn.Conv2d(channels, filters, size, padding=size // 2))
            channels, flat = numbers[0], False
        elif kind == "affine":
            if not flat:
                modules.append(torch.nn.Flatten())
            modules.append(torch.nn.LazyLinear(numbers[0]))
            channels, flat = numbers[0], True
        elif kind == "batch_norm":
            modules.append((torch.nn.BatchNorm1d if flat else torch.nn.BatchNorm2d)(channels))
        else:
            modules.append(torch.nn.ReLU() if kind == "relu" else torch.nn.MaxPool2d(2))
    return torch.nn.Sequential(*modules)


OPTIMIZERS: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "momentum": partial(torch.optim.SGD, momentum=0.9, fused=True),
    "adam": partial(torch.optim.Adam, fused=True),
    "adamw": partial(torch.optim.AdamW, weight_decay=1e-4, fused=True),  # as optax and funcnet
}


class Step:
    """A net in training: a call is one step on the next batch, and returns the loss before it.

    Args:
      request: what to build, and the number of batches.
      arrays: the parameters p0, p1, ... and the batches x0, y0, x1, ...
      layout: of images and kernels, one of `LAYOUTS`.
      device: "cpu" or "cuda".
      autocast: whether net and loss go by bfloat16 autocast.
      compiled: whether they go through `torch.compile`, in the first call.
    """

    def __init__(
        self,
        request: dict[str, Any],
        arrays: Any,
        layout: str,
        device: str,
        autocast: bool = False,
        compiled: bool = False,
    ) -> None:
        self.batches = [
            (
                _tensor(arrays[f"x{i}"], layout, device),
                _tensor(arrays[f"y{i}"], layout, device),
            )
            for i in range(request["batches"])
        ]
        self.net = build(request["layers"], self.batches[0][0].shape[1])
        self.net.to(device)(self.batches[0][0])  # gives LazyLinear its shapes
        with torch.no_grad():
            for i, p in enumerate(self.net.parameters()):
                p.copy_(_tensor(arrays[f"p{i}"], layout, device))
        net: Any = self.net  # of a keyword that torch's annotations of `to` lack
        net.to(memory_format=LAYOUTS[layout])
        make = OPTIMIZERS[request["optimizer"]]
        self.optimizer = make(self.net.parameters(), request["learning_rate"])
        self.loss: Any = lambda x, y: F.cross_entropy(self.net(x), y)
        if autocast:
            self.loss = _narrowed(self.loss, device)
        if compiled:
            self.loss = torch.compile(self.loss)
        self.count = 0

    def __call__(self) -> Any:
        x, y = self.batches[self.count % len(self.batches)]
        return self.on(x, y)

    def on(self, x: Any, y: Any) -> Any:
        """One step on a batch."""
        self.count += 1
        self.optimizer.zero_grad()
        loss = self.loss(x, y)
        loss.backward()
        self.optimizer.step()
        return loss.detach()


def step(request: dict[str, Any], device: str, wait: Callable[[Any], Any]) -> dict[str, Any]:
    """Times a whole step, each side in each layout."""
    with np.load(request["file"]) as loaded:
        arrays = dict(loaded)
    calls: dict[str, Callable[[], Any]] = {}
    losses: dict[str, list[float]] = {}
    layouts = tuple(LAYOUTS) if arrays["x0"].ndim == 4 else ("contiguous",)
    for (side, autocast), layout in product(request["sides"].items(), layouts):
        made = Step(request, arrays, layout, device, autocast)
        losses[f"{side}|{layout}"] = [float(made()) for _ in range(request["losses"])]
        calls[f"{side}|{layout}|step"] = made
    return {**_samples(calls, request, wait), "losses": losses}


def compiled(request: dict[str, Any], device: str, wait: Callable[[Any], Any]) -> dict[str, Any]:
    """Times `torch.compile` of a step and, in turns, the eager one, in request["layout"]."""
    with np.load(request["file"]) as loaded:
        arrays = dict(loaded)
    layout = request["layout"]
    made = Step(request, arrays, layout, device, compiled=True)
    began = time.perf_counter()
    losses = [float(made()) for _ in range(request["losses"])]
    seconds = time.perf_counter() - began
    eager = Step(request, arrays, layout, device)
    calls = {f"compiled|{layout}|step": made, f"compiled|{layout}|eager": eager}
    return {**_samples(calls, request, wait), "losses": losses, "compile_seconds": seconds}


def run(request: dict[str, Any], device: str, wait: Callable[[Any], Any]) -> dict[str, Any]:
    """Times steps as an epoch has them: rows gathered from uint8 images, the mean taken off."""
    with np.load(request["file"]) as loaded:
        arrays = dict(loaded)
    images = torch.from_numpy(arrays["images"]).to(device)
    labels = torch.from_numpy(arrays["labels"]).long().to(device)
    mean = images.float().mean(0)
    calls: dict[str, Callable[[], Any]] = {}
    losses: dict[str, list[float]] = {}
    for side, autocast in request["sides"].items():
        made = Step(request, arrays, "contiguous", device, autocast)
        losses[f"{side}|contiguous"] = [float(made()) for _ in range(request["losses"])]
        order = _orders(len(images), len(arrays["x0"]), device)
        calls[f"{side}|contiguous|step"] = partial(_epoch_step, made, images, labels, mean, order)
    return {**_samples(calls, request, wait), "losses": losses}


def _orders(rows: int, batch: int, device: str) -> Iterator[Any]:
    while True:
        order = torch.randperm(rows, device=device)
        for start in range(0, rows - batch + 1, batch):
            yield order[start : start + batch]


def _epoch_step(made: Step, images: Any, labels: Any, mean: Any, order: Iterator[Any]) -> Any:
    rows = next(order)
    return made.on(images[rows].float() - mean, labels[rows])


def main(threads: int, device: str) -> None:
    """Answers requests until stdin ends."""
    kernels.keep_memory()  # as funcnet's own process does: it is as good for torch
    answers, sys.stdout = sys.stdout, sys.stderr  # what else is printed is no answer
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    wait: Callable[[Any], Any] = lambda value: value  # noqa: E731
    if device == "cuda":
        # As XLA multiplies by default.
        torch.backends.cuda.matmul.allow_tf32 = True
        wait = lambda value: torch.cuda.synchronize()  # noqa: E731
    kinds = {"rule": rule, "step": step, "run": run, "probe": probe, "compiled": compiled}
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["kind"] == "rule" and request["name"] not in RULES:
                answer: dict[str, Any] = {"absent": True}
            else:
                answer = kinds[request["kind"]](request, device, wait)
        except Exception as error:
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), sys.argv[2])
