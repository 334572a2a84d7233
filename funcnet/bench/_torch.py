"""Torch as a peer: requests to its own process, and what comes back in funcnet's layout."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet import _machine
from funcnet.bench._cases import Step
from funcnet.bench._timing import Timing
from funcnet.bench.peers import Layout
from funcnet.bench.results import Contender
from funcnet.catalogue import BenchCase


class TorchError(Exception):
    """Torch's process failed; the text says how."""


class Torch:
    """Torch in a process of its own; `with torch() as peer` makes and ends it."""

    def __init__(self, process: subprocess.Popen[str], folder: str):
        self.process, self.folder = process, Path(folder)

    def rule(
        self, name: str, case: BenchCase, cotangent: np.ndarray, seconds: float, least: int
    ) -> tuple[Contender, list[Any]] | None:
        """Times a rule; returns also its output and the gradients of the float leaves.

        A gradient that torch does not give is None; the whole is None where torch has no such rule.
        """
        args = case.arguments()
        layout = Layout(name, args)
        leaves = jax.tree.leaves(args)
        keep = [i for i, leaf in enumerate(leaves) if not isinstance(leaf, str)]
        sent = layout.there(leaves)
        answer = self._ask(
            {"kind": "rule", "name": name, "static": case.static, "images": layout.images},
            {f"leaf{j}": sent[i] for j, i in enumerate(keep)}
            | {"cotangent": layout.output_there(cotangent)},
            seconds,
            least,
            leaves=len(keep),
        )
        if answer.get("absent"):
            return None
        with np.load(self.folder / "answers.npz") as found:
            results: list[Any] = [layout.output_back(found["output"])]
            for j, i in enumerate(keep):
                if np.asarray(leaves[i]).dtype.kind == "f":
                    here = f"gradient{j}" in found
                    results.append(layout.back(found[f"gradient{j}"], i) if here else None)
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
    ) -> tuple[Contender, list[float]]:
        """Times a whole step, and returns the first losses; `kind` is "step" or "run"."""
        turned = {f"p{i}": p for i, p in enumerate(params)}
        for i, (x, y) in enumerate(batches):
            first = x.transpose(0, 3, 1, 2) if x.ndim == 4 else x
            turned |= {f"x{i}": first, f"y{i}": y}
        answer = self._ask(
            {
                "kind": kind,
                "layers": spec.layers,
                "optimizer": spec.optimizer,
                "learning_rate": spec.learning_rate,
                "batches": len(batches),
                "losses": losses,
            },
            turned | arrays,
            seconds,
            least,
        )
        return _fastest(answer["samples"], "step"), answer["losses"]

    def _ask(
        self,
        request: dict[str, Any],
        arrays: dict[str, np.ndarray],
        seconds: float,
        least: int,
        **more: Any,
    ) -> dict[str, Any]:
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
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
            line = self.process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
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
        tempfile.TemporaryDirectory() as folder,
        open(Path(folder) / "stderr", "w") as said,
        subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            text=True,
            env=environment,
        ) as process,
    ):
        try:
            yield Torch(process, folder)
        finally:
            if process.stdin is not None:
                process.stdin.close()
            process.terminate()


def _fastest(samples: dict[str, list[float]], timing: str) -> Contender:
    """The fastest of the ways that torch was tried in, by the median of one pass."""
    ways: dict[str, dict[str, Timing]] = {}
    for name, values in samples.items():
        way, _, which = name.rpartition("|")
        ways.setdefault(way, {})[which] = Timing.of(values)
    best = min(ways, key=lambda way: ways[way][timing].seconds)
    return Contender("torch", ways[best], detail=best if len(ways) > 1 else "")
