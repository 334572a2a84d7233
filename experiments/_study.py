"""What the studies share: their options, their records, and figures that are drawn from these.

A study is a module with a docstring (question, command, what it takes, what was measured), a frozen
dataclass of options, `measure(options) -> Iterator[Record]` and `draw(records, folder)`; its last
line is `_study.main(...)`. Records go to `experiments/records/NAME.jsonl`, a line each as soon as
it is measured; figures to `experiments/figures/`. With `--smoke` both go to a temporary folder,
unless one is named.
"""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from funcnet import _machine, data

HERE = Path(__file__).parent
Rows = list[dict[str, Any]]


@dataclasses.dataclass(frozen=True)
class Options:
    """What every study can be asked."""

    smoke: bool = False
    """Run in seconds on synthetic data, and keep nothing but in a folder that is named."""
    draw: bool = False
    """Measure nothing: draw figures and tables again from the records."""
    folder: Path = HERE
    """Where `records` and `figures` are."""


class Record(NamedTuple):
    """One run: what was asked, what came out, and how long it took (of that, compiling)."""

    config: dict[str, Any]
    result: dict[str, Any]
    seconds: float
    compile_seconds: float


class Stopwatch:
    """Seconds since it was started, and how many of them JAX spent on compiling."""

    _EVENTS = (
        "/jax/core/compile/jaxpr_trace_duration",
        "/jax/core/compile/jaxpr_to_mlir_module_duration",
        "/jax/core/compile/backend_compile_duration",
    )

    def __init__(self) -> None:
        self.seconds = self.compile_seconds = 0.0
        self._began = time.perf_counter()
        self._spans: list[tuple[float, float]] = []

    def _listen(self, event: str, duration_secs: float, **_: Any) -> None:
        if event in self._EVENTS:
            end = time.perf_counter()
            self._spans.append((end - duration_secs, end))

    def _stop(self) -> None:
        end = time.perf_counter()
        self.seconds = end - self._began
        done = self._began
        for start, stop in sorted(self._spans):  # what is traced within a trace counts once
            start, stop = max(start, done), min(stop, end)
            self.compile_seconds += max(stop - start, 0.0)
            done = max(done, stop)

    def record(self, config: dict[str, Any], result: dict[str, Any]) -> Record:
        """The record of what was done under this watch."""
        return Record(config, result, self.seconds, self.compile_seconds)


@contextmanager
def timed() -> Iterator[Stopwatch]:
    """Times its block; what the block starts on a device it has to wait for itself."""
    watch = Stopwatch()
    jax.monitoring.register_event_duration_secs_listener(watch._listen)
    try:
        yield watch
    finally:
        watch._stop()
        jax.monitoring.unregister_event_duration_listener(watch._listen)


def load(name: str, smoke: bool) -> data.Dataset:
    """A data set; with `smoke` a few hundred synthetic images of its shape."""
    if not smoke:
        return data.load(name)
    shapes = {"cifar10": (32, 32, 3), "mnist": (28, 28, 1), "svhn": (32, 32, 3)}
    return data.synthetic(shape=shapes[name], sizes=(250, 50, 50))


def mean_and_spread(values: Sequence[float]) -> str:
    """`mean ± standard deviation (n)`, the deviation that of a sample.

    >>> mean_and_spread([0.5, 0.6, 0.7])
    '0.600 ± 0.100 (3)'
    """
    spread = np.std(values, ddof=1) if len(values) > 1 else 0.0
    return f"{np.mean(values):.3f} ± {spread:.3f} ({len(values)})"


def read(path: Path) -> Rows:
    """The last record of each configuration in a file, in the order of the configurations."""
    lines = path.read_text(encoding="utf-8").splitlines()
    rows = {json.dumps(row["config"], sort_keys=True): row for row in map(json.loads, lines)}
    return list(rows.values())


def matching(rows: Rows, **config: Any) -> Rows:
    """The records whose configuration has these values."""
    return [row for row in rows if all(row["config"].get(name) == v for name, v in config.items())]


def main(
    name: str,
    document: str | None,
    options_type: type[Options],
    measure: Callable[[Any], Iterator[Record]],
    draw: Callable[[Rows, Path], None],
    arguments: Sequence[str] | None = None,
) -> None:
    """Runs a study from the command line: measures, keeps the records, draws from them."""
    import tyro

    options = tyro.cli(options_type, description=document, args=arguments)
    if options.smoke and options.folder == HERE:
        with tempfile.TemporaryDirectory() as folder:
            _run(name, dataclasses.replace(options, folder=Path(folder)), measure, draw)
    else:
        _run(name, options, measure, draw)


def _run(name: str, options: Options, measure: Any, draw: Any) -> None:
    records, figures = options.folder / "records", options.folder / "figures"
    for folder in (records, figures):
        folder.mkdir(parents=True, exist_ok=True)
    path = records / f"{name}.jsonl"
    if not options.draw:
        provenance = _provenance()
        for record in measure(options):
            row = {"study": name, **record._asdict(), **provenance}
            with path.open("a", encoding="utf-8") as file:
                file.write(json.dumps(row, default=_jsonable, allow_nan=True) + "\n")
            print(f"{name}: {_line(record.config)}: {_line(record.result)}", flush=True)
    if not path.exists():
        sys.exit(f"{name}: there are no records in {path}; run the study without --draw first.")
    draw(read(path), figures)


def _line(values: dict[str, Any]) -> str:
    """The numbers, words and short lists of a record."""

    def words(value: Any) -> str:
        if isinstance(value, float | np.floating):
            return f"{value:.6g}"
        if isinstance(value, list | tuple):
            return f"[{' '.join(map(words, value))}]"
        return str(value)

    said = {name: words(value) for name, value in values.items()}
    return ", ".join(f"{name} {text}" for name, text in said.items() if len(text) <= 100)


def _provenance() -> dict[str, Any]:
    return {
        "commit": _commit(),
        "versions": _machine.versions(),
        "device": {**_machine.device(), "vectors": _machine.cpu_vectors()},
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _commit() -> str | None:
    """The commit that the code is of, with "+" where files differ from it; None outside of git."""
    git = ["git", "-C", str(HERE)]
    try:
        commit = subprocess.run([*git, "rev-parse", "--short=12", "HEAD"], capture_output=True)
        changed = subprocess.run(
            [*git, "status", "--porcelain", "--", "../funcnet", "."], capture_output=True
        )
    except OSError:
        return None
    dirty = any(not line.startswith(b"??") for line in changed.stdout.splitlines())
    return commit.stdout.decode().strip() + "+" * dirty or None


def _jsonable(value: Any) -> Any:
    if isinstance(value, (np.ndarray, jax.Array, np.generic)):
        return np.asarray(value).tolist()
    if isinstance(value, Path):
        return str(value)
    raise TypeError(f"a record holds {value!r}, expected what JSON can hold, or an array")
