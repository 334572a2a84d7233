"""Torch as a peer: requests to its own process, and what comes back in funcnet's layout."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet import _machine
from funcnet.bench._cases import Step
from funcnet.bench._timing import Timing
from funcnet.bench.peers import UNDER_AUTOCAST, Layout
from funcnet.bench.results import BFLOAT16, COMPILED, Contender
from funcnet.catalogue import BenchCase

MOST_SLOWDOWN = 3  # convolutions on a CPU with AVX2 alone: 8 to 15
COMPILERS = ("g++", "clang++", "c++")
COMPILE_SECONDS = 180
# Without helpers, which would outlive a process that takes too long.
COMPILES_AFRESH = {"TORCHINDUCTOR_COMPILE_THREADS": "1"}


class TorchError(Exception):
    """Torch's process failed; the text says how."""


class Torch:
    """Torch in a process of its own; `with torch() as peer` makes and ends it."""

    def __init__(self, process: subprocess.Popen[str], folder: str):
        self.process, self.folder = process, Path(folder)
        self.notes: tuple[str, ...] = ()  # of bfloat16, once it was asked for

    @cached_property
    def sides(self) -> dict[str, bool]:
        """Torch's sides, and whether each is under bfloat16 autocast; one probe decides."""
        usable = self._ask({"kind": "probe"}, {}, 0.0, 1)["slowdown"] <= MOST_SLOWDOWN
        if not usable:
            self.notes = (
                "torch under bfloat16 autocast is left out: a small convolution takes more than "
                f"{MOST_SLOWDOWN} times as long as in float32 here",
            )
        elif jax.default_backend() == "cpu" and not _machine.cpu_has_bfloat16():
            self.notes = (f"{BFLOAT16}: this CPU has no instructions for bfloat16",)
        return {"torch": False} | ({BFLOAT16: True} if usable else {})

    def rule(
        self, name: str, case: BenchCase, cotangent: np.ndarray, seconds: float, least: int
    ) -> tuple[list[Contender], dict[str, list[Any]]] | None:
        """Times a rule; returns also each side's output and its gradients of the float leaves.

        A gradient that a side does not give is None; the whole is None where torch has no such
        rule.
        """
        args = case.arguments()
        layout = Layout(name, args)
        leaves = jax.tree.leaves(args)
        keep = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, str)]
        sent = layout.there(leaves)
        sides = self.sides if name in UNDER_AUTOCAST else {"torch": False}
        answer = self._ask(
            {"kind": "rule", "name": name, "static": case.static, "images": layout.images},
            {f"leaf{j}": sent[i] for j, i in enumerate(keep)}
            | {"cotangent": layout.output_there(cotangent)},
            seconds,
            least,
            leaves=len(keep),
            sides=sides,
        )
        if answer.get("absent"):
            return None
        results: dict[str, list[Any]] = {}
        with np.load(self.folder / "answers.npz") as found:
            for side in sides:
                results[side] = [layout.output_back(found[f"{side}|output"])]
                for j, i in enumerate(keep):
                    if np.asarray(leaves[i]).dtype.kind == "f":
                        gradient = found.get(f"{side}|{j}")
                        there = gradient is not None
                        results[side].append(layout.back(gradient, i) if there else None)
        return _fastest(answer["samples"], "forward_backward"), results

    def step(
        self,
        kind: str,
        spec: Step,
        params: list[np.ndarray],
        batches: list[tuple[np.ndarray, np.ndarray]],
        losses: int,
        seconds: float,
        least: int,
        **arrays: np.ndarray,
    ) -> tuple[list[Contender], dict[str, list[float]]]:
        """Times a whole step; returns also the first losses of each side in each layout.

        `kind` is "step" or "run".
        """
        request, there = _whole(kind, spec, params, batches, losses)
        answer = self._ask(request, there | arrays, seconds, least, sides=self.sides)
        named = {way.replace("|", ", "): found for way, found in answer["losses"].items()}
        return _fastest(answer["samples"], "step"), named

    def compiled(
        self,
        spec: Step,
        params: list[np.ndarray],
        batches: list[tuple[np.ndarray, np.ndarray]],
        losses: int,
        seconds: float,
        least: int,
        layout: str,
    ) -> tuple[Contender, list[float]]:
        """Times `torch.compile` of a step and, in turns, the eager one ("eager"), in one layout.

        Raises:
          TorchError: there is no C++ compiler, or it all takes too long; the process is at its end
            then.
        """
        if not any(shutil.which(name) for name in (os.environ.get("CXX", ""), *COMPILERS) if name):
            raise TorchError(f"there is no C++ compiler ({', '.join(COMPILERS)})")
        request, there = _whole("compiled", spec, params, batches, losses)
        limit = COMPILE_SECONDS + 4 * seconds
        answer = self._ask(request, there, seconds, least, limit=limit, layout=layout)
        (found,) = _fastest(answer["samples"], "step")
        found = found._replace(name=COMPILED, compile_seconds=answer["compile_seconds"])
        return found._replace(detail=layout), answer["losses"]

    def _ask(
        self,
        request: dict[str, Any],
        arrays: dict[str, np.ndarray],
        seconds: float,
        least: int,
        limit: float | None = None,
        **more: Any,
    ) -> dict[str, Any]:
        """An answer; one that takes longer than `limit` seconds ends the process."""
        np.savez(self.folder / "arrays.npz", **arrays)  # type: ignore[arg-type]
        request = {
            **request,
            **more,
            "file": str(self.folder / "arrays.npz"),
            "answers": str(self.folder / "answers.npz"),
            "seconds": seconds,
            "least": least,
        }
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        late = threading.Event()

        def end() -> None:
            late.set()
            self.process.kill()

        watch = threading.Timer(limit or 0, end)
        if limit is not None:
            watch.start()
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        finally:
            watch.cancel()
        if not line:
            code = self.process.wait()
            if late.is_set():
                raise TorchError(f"it took longer than {limit:.0f} s")
            said = (self.folder / "stderr").read_text(errors="replace").strip().splitlines()
            raise TorchError(f"its process ended with code {code}: {said[-1] if said else ''}")
        answer = json.loads(line)
        if "error" in answer:
            raise TorchError(answer["error"])
        return answer


@contextmanager
def torch() -> Iterator[Torch]:
    """Starts torch's process, and ends it with the block."""
    device = "cuda" if jax.default_backend() == "gpu" else "cpu"
    # The process imports funcnet, whose JAX shall leave an accelerator alone.
    environment = {**os.environ, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-m", "funcnet.bench._torch_worker", str(_machine.cores()), device]
    with (
        # A compiler that outlives its killed parent may still write into it.
        tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder,
        open(Path(folder) / "stderr", "w") as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env={**environment, **COMPILES_AFRESH, "TORCHINDUCTOR_CACHE_DIR": folder},
        ) as process,
    ):
        try:
            yield Torch(process, folder)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.terminate()


def _whole(
    kind: str,
    spec: Step,
    params: list[np.ndarray],
    batches: list[tuple[np.ndarray, np.ndarray]],
    losses: int,
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """A request for a whole step, and its arrays in torch's layout."""
    request = {
        "kind": kind,
        "layers": spec.layers,
        "optimizer": spec.optimizer,
        "learning_rate": spec.learning_rate,
        "batches": len(batches),
        "losses": losses,
    }
    arrays = {f"p{i}": p for i, p in enumerate(params)}
    for i, (x, y) in enumerate(batches):
        first = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
        arrays |= {f"x{i}": first, f"y{i}": y}
    return request, arrays


def _fastest(samples: dict[str, list[float]], timing: str) -> list[Contender]:
    """Each side in the fastest of its layouts, by the median of one pass."""
    sides: dict[str, dict[str, dict[str, Timing]]] = {}
    for name, values in samples.items():
        side, layout, which = name.split("|")
        sides.setdefault(side, {}).setdefault(layout, {})[which] = Timing.of(values)
    found = []
    for side, layouts in sides.items():
        best = min(layouts, key=lambda layout: layouts[layout][timing].seconds)
        found.append(Contender(side, layouts[best], detail=best if len(layouts) > 1 else ""))
    return found
