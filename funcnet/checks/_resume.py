"""A run that is stopped and resumed, against the same run that is not: equal in every byte."""

from __future__ import annotations

import importlib
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from funcnet import train
from funcnet._reports import Check
from funcnet.checkpoint import Checkpoints, read_npz
from funcnet.checks._reports import ResumeReport

# What a clock has put into the rows of a history.
_TIMES = ("seconds", "images_per_second")


def check_resume(
    make: str | Callable[[], Any],
    *,
    stops: Sequence[int] | None = None,
    name: str | None = None,
    one_thread: bool = True,
    timeout_seconds: float = 600.0,
) -> ResumeReport:
    r"""Checks that a run which is stopped and goes on in another process is the run not stopped.

    One new process trains to the end, then again for each stop, is interrupted there and saves a
    checkpoint; a second process restores each of them and trains to the end. Everything must be
    equal byte for byte: parameters, running statistics, optimizer state, step, key, the best state,
    the loss of every step, the history but for its times, and the steps that were not finite. The
    second process also repeats the run that is not stopped, so that a run which is not equal to
    itself is told from one that does not resume.

    XLA is given one thread, because on a CPU sums over several may be taken in another order.

    Args:
        make: A function at the top level of a module, or "FILE.py:FUNCTION" or "MODULE:FUNCTION",
            for another process to call: it returns (net, dataset, optimizer, options), the
            arguments of `train.fit`, its keyword arguments as a dict. Keep it short: a few steps in
            two epochs show everything.
        stops: The steps to stop after; every one by default.
        name: What the report calls the run.
        one_thread: False leaves XLA its threads.
        timeout_seconds: For each of the two processes.

    Returns:
        A report with the check "repeat", and one check for each stop.

    Raises:
        ValueError: When `make` cannot be found again by another process.
        RuntimeError: When one of the processes fails; the message has the end of what it said.

    >>> check_resume(lambda: None)
    Traceback (most recent call last):
    ...
    ValueError: check_resume: make is ..., expected a function at the top level of a module's file.
    """
    began = time.perf_counter()
    target = make if isinstance(make, str) else _target(make)
    chosen = "" if stops is None else ",".join(map(str, stops))
    with tempfile.TemporaryDirectory() as folder:
        for role in ("stop", "resume"):
            _run([role, target, folder, chosen], one_thread, timeout_seconds)
        whole = _saved(Path(folder, "whole"))
        checks = [_compared("repeat", whole, _saved(Path(folder, "repeat")))]
        for path in sorted(Path(folder).glob("end_*"), key=_number):
            checks.append(_compared(f"step {_number(path)}", whole, _saved(path)))
    leaves, rest = whole
    size = sum(array.nbytes for array in leaves.values())
    return ResumeReport(
        name=name or target.rpartition(":")[2],
        checks=tuple(checks),
        seconds=time.perf_counter() - began,
        notes=(
            f"{len(leaves)} arrays of {size:,} bytes and {rest['history']} of history "
            f"compared at the end of {rest['step']} steps{', on one thread' * one_thread}",
        ),
    )


def _target(make: Callable[[], Any]) -> str:
    code = getattr(make, "__code__", None)
    where = getattr(make, "__qualname__", "")
    if code is None or not where.isidentifier() or not Path(code.co_filename).is_file():
        raise ValueError(
            f"check_resume: make is {make!r}, expected a function at the top level of a module's "
            "file."
        )
    return f"{code.co_filename}:{where}"


def _run(arguments: list[str], one_thread: bool, timeout_seconds: float) -> None:
    """Runs this module in a new process, which finds what this one finds."""
    flags = os.environ.get("XLA_FLAGS", "")
    if one_thread:
        flags += " --xla_cpu_multi_thread_eigen=false"
    environment = os.environ | {
        "XLA_FLAGS": flags,
        "PYTHONPATH": os.pathsep.join(path or os.getcwd() for path in sys.path),
        "JAX_ENABLE_X64": str(jax.config.values["jax_enable_x64"]),
    }
    command = [sys.executable, "-m", __name__, *arguments]
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, timeout=timeout_seconds
    )
    if done.returncode:
        raise RuntimeError(f"check_resume: {' '.join(command)} failed:\n{done.stderr[-3000:]}")


def _number(path: Path) -> int:
    return int(path.name.partition("_")[2])


def _saved(folder: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The arrays and the other facts of the newest checkpoint in a folder."""
    path = Checkpoints(folder).paths()[0]
    rest = json.loads((path / "run.json").read_bytes())
    facts = {key: rest[key] for key in ("step", "leaves", "best_epoch", "nonfinite", "stopped")}
    facts["history"] = f"{len(rest['history'])} rows"
    for number, row in enumerate(rest["history"]):
        # As text, in which NaN is itself.
        facts |= {f"history[{number}].{k}": str(v) for k, v in row.items() if k not in _TIMES}
    return read_npz(path / "arrays.npz"), facts


def _compared(name: str, want: Any, got: Any) -> Check:
    (arrays, rest), (other_arrays, other_rest) = want, got
    wrong = [leaf for leaf, a in arrays.items() if a.tobytes() != other_arrays[leaf].tobytes()]
    if wrong:
        a, b = (of[wrong[0]].astype(np.float64) for of in (arrays, other_arrays))
        if a.shape != b.shape:
            return Check(name, False, f"shape {b.shape}, without a stop {a.shape}", where=wrong[0])
        count, by = int((a != b).sum()), float(np.abs(a - b).max())
        more = f", and {len(wrong) - 1} more arrays differ" if len(wrong) > 1 else ""
        message = f"{count} of {a.size} numbers differ, by up to {by:.2g}{more}"
        return Check(name, False, message, where=wrong[0])
    for where, value in rest.items():
        if value != other_rest.get(where):
            message = f"{other_rest.get(where)}, without a stop {value}"
            return Check(name, False, message, where=where)
    return Check(name, True, f"{len(arrays)} arrays and the history are equal byte for byte")


# --- In the other processes


def _made(target: str) -> tuple[Any, Any, Any, dict[str, Any]]:
    place, _, name = target.rpartition(":")
    if Path(place).is_file():
        spec = importlib.util.spec_from_file_location(Path(place).stem, place)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
    else:
        module = importlib.import_module(place)
    made = getattr(module, name)()
    if not isinstance(made, tuple) or len(made) != 4:
        raise TypeError(f"{target} returned {made!r}, expected (net, dataset, optimizer, options).")
    return made


def _work(role: str, target: str, folder: str, chosen: str) -> None:
    net, dataset, optimizer, options = _made(target)

    def fit(**more: Any) -> train.Run:
        return train.fit(net, dataset, optimizer, **options, **more)

    def save(run: train.Run, name: str) -> None:
        Checkpoints(Path(folder, name)).save(run)

    if role == "stop":
        whole = fit()
        save(whole, "whole")
        every = range(1, int(whole.final.step))
        for stop in map(int, chosen.split(",")) if chosen else every:

            def interrupt(run: train.Run, stop: int = stop) -> None:
                if int(run.final.step) == stop:
                    raise KeyboardInterrupt

            save(fit(chunk_steps=1, on_chunk=interrupt), f"stop_{stop}")
        return
    whole = fit()
    save(whole, "repeat")
    for path in Path(folder).glob("stop_*"):
        begun = Checkpoints(path).restore(whole.final)
        save(fit(resume=begun), f"end_{_number(path)}")


if __name__ == "__main__":
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    with tempfile.TemporaryDirectory() as programs:  # each process compiles its own, but once
        jax.config.update("jax_compilation_cache_dir", programs)
        _work(*sys.argv[1:])
