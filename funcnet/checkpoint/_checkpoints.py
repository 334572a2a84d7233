"""A run's checkpoints in a folder: written whole or not at all, verified before they are read.

A checkpoint is a folder `step_00000490` with `arrays.npz` (every array by its name, or in pieces),
`run.json` (the rest, and what the arrays must be) and `manifest.json` (the SHA-256 of all), written
under another name and then renamed. Of several processes each writes the pieces of its own devices,
process i in `arrays.i.npz`; when all have, the first one makes the manifest and renames.

It is not orbax's: orbax 0.12.8 takes an empty folder "200" for the latest step; and of 55 ways to
damage a checkpoint of its 11 files (each emptied, halved, short of a byte, deleted, or with one bit
flipped) it restored 37 without a word, one of them with wrong numbers. The manifest, the specs and
the order of renames would all have to be built around it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from funcnet import _processes
from funcnet._machine import changed, settings, versions
from funcnet.checkpoint._arrays import (
    CheckpointError,
    compare,
    is_key,
    named,
    spec,
    stored,
    write_npz,
)
from funcnet.checkpoint._shards import Pieces, file_of, wrapped
from funcnet.checkpoint._shards import pieces as pieces_of
from funcnet.data import Preprocessing
from funcnet.kernels import native_status
from funcnet.train import History, Run, TrainState

_NAME = re.compile(r"step_(\d{8,})(\.old)?")
_HIDDEN = ".part-"  # what is not complete yet, or not any more
_FORMAT = 2  # 1 had no pieces, and else the same
_RUN, _MANIFEST = "run.json", "manifest.json"
_BEST, _REST = "best.", "run."


class _Coming(NamedTuple):
    """A checkpoint that a thread writes."""

    step: int
    written: Future[None]


class Checkpoints:
    r"""The checkpoints of one run, in a folder of their own.

    Given to `train.fit` as `on_chunk`, it saves whenever one is due. A checkpoint holds the whole
    `Run` so far: the final and the best `TrainState` (parameters, running statistics, optimizer
    state, step and key), history, losses and preprocessing, and `config`. It is there completely or
    not at all, whenever the process is killed: its files are written and synced under another name,
    with a manifest of their SHA-256 sums last; then it is renamed, and only then older ones go.
    Saving is done when `save` returns; nothing refers to the run's buffers afterwards. With
    `background`, what is due is copied to the host and written by a thread, with the same order and
    the same promises; what goes wrong there is raised by the next call, `wait` or the end of a
    `with` block.

    Of several processes, started by `jax.distributed`, each has a `Checkpoints` of the same folder,
    on a file system that they share, and calls it when the others do: each writes what its own
    devices hold, and what is restored may be of any other number of processes and devices.

    A run has a folder of its own: one with checkpoints in it must be restored from before it is
    saved to, and `locked` keeps a second process out.

    Args:
      folder: the folder; it is made when there is something to save.
      keep: how many checkpoints stay; the best state is in each of them.
      every_steps: save when as many steps have been done since the last time.
      every_seconds: save when as many seconds have gone; None and None save only by `save`.
      config: what the run depends on, as JSON; restoring compares it.
      background: whether a thread writes what is due; `save` itself returns when it is there.
      steps: called with the name of each step of saving, for tests that kill it there: "begin",
        "data" (half-written), "written", and in the first process "manifest" (before it), "rename"
        (before it), "prune".

    >>> import tempfile
    >>> from funcnet import data, nets, optimizers, train
    >>> dataset, net = data.synthetic(sizes=(60, 20, 20), classes=3), nets.affine(3)
    >>> def fit(**options):
    ...     return train.fit(net, dataset, optimizers.adam(0.1), epochs=2, batch_size=20, **options)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     checkpoints = Checkpoints(folder, every_steps=1)
    ...     whole = fit(on_chunk=checkpoints, chunk_steps=1)
    ...     [path.name for path in checkpoints.paths()]
    ...     saved = Checkpoints(folder).restore(whole.final)
    ['step_00000006', 'step_00000005', 'step_00000004']
    >>> len(saved.losses), saved.history == whole.history
    (6, True)
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        keep: int = 3,
        *,
        every_steps: int | None = None,
        every_seconds: int | float | None = 60.0,
        config: Mapping[str, Any] | None = None,
        background: bool = False,
        steps: Callable[[str], Any] = lambda name: None,
    ):
        if keep < 1:
            raise ValueError(f"Checkpoints: keep is {keep}, expected at least 1.")
        self.folder, self.keep = Path(folder), keep
        self.every_steps, self.every_seconds = every_steps, every_seconds
        self.config = json.loads(json.dumps(dict(config or {})))
        self.background = background
        self._steps = steps
        self._coming: _Coming | None = None
        self._thread: ThreadPoolExecutor | None = None
        self._ours: set[int] = set()  # the steps of this run's
        self._bad: set[str] = set()
        self._last = 0, time.monotonic()

    def paths(self) -> list[Path]:
        """The folders named as checkpoints are, the newest first; whether they are good is open."""
        found = []
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            name = _NAME.fullmatch(path.name)
            if name:
                found.append(((int(name[1]), not name[2]), path))
        return [path for _, path in sorted(found, reverse=True)]

    def __call__(self, run: Run) -> None:
        """Saves, if a checkpoint is due."""
        step, at = self._last
        steps, seconds = int(run.final.step) - step, time.monotonic() - at
        due = (self.every_steps is not None and steps >= self.every_steps) or (
            self.every_seconds is not None and seconds >= self.every_seconds
        )
        if self.every_seconds is not None:
            due = _processes.exchanged(due)[0]  # no two clocks agree
        if not self.background:
            if due:
                self.save(run)
            return
        if due:
            self.wait()
            self._begin(run)
        elif self._coming and all(_processes.exchanged(self._coming.written.done())):
            self.wait()

    def save(self, run: Run) -> Path:
        """Writes a checkpoint and returns its path; afterwards, the last `keep` are there.

        Raises:
          CheckpointError: parameters, running statistics or the optimizer's state are not finite
            (a scalar of the optimizer's may be infinite, as a best loss is at first), or the folder
            holds checkpoints that are not of this run.
          OSError: it cannot be written; what was there before is untouched.
          TypeError: a leaf is neither a PRNG key nor an array of numbers that JAX computes with.
        """
        self.wait()
        step, pieces, rest = self._checked(run)
        with self._cleared(step):
            with _processes.together(f"step {step} is written"):
                self._write(step, pieces, rest)
            with _processes.together(f"step {step} is saved"):
                self._publish(step)
        return self._place(step)

    def wait(self) -> None:
        """Ends what is written in the background; raises what went wrong there, as `save`."""
        coming, self._coming = self._coming, None
        if coming is None:
            return
        with self._cleared(coming.step):
            with _processes.together(f"step {coming.step} is written"):
                coming.written.result()
            if _processes.count() > 1:
                with _processes.together(f"step {coming.step} is saved"):
                    self._publish(coming.step)

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(self, *_: Any) -> None:
        """Waits for what is written in the background."""
        self.wait()

    def _begin(self, run: Run) -> None:
        """Copies a run to the host, and has a thread write it; alone, to the end."""
        step, pieces, rest = self._checked(run)
        copies = {name: np.array(stored(name, piece)) for name, piece in pieces.items()}
        self._last = step, time.monotonic()

        def work() -> None:
            self._write(step, copies, rest)
            if _processes.count() == 1:
                self._publish(step)

        if self._thread is None:
            self._thread = ThreadPoolExecutor(1, "funcnet-checkpoints")
        self._coming = _Coming(step, self._thread.submit(work))

    def _checked(self, run: Run) -> tuple[int, dict[str, Any], bytes]:
        """The step of a run that may be saved, this process's pieces, and what is no arrays.

        The folder of what is not complete is there then, and empty.
        """
        step = int(run.final.step)
        with _processes.together(f"step {step} is sound"):
            self._check(run, step)
            rest = _encoded(_rest_of(run, self.config))
            pieces = pieces_of(_arrays_of(run))
        with _processes.together(f"step {step} begins"):
            self._steps("begin")
            if _processes.index() == 0:
                self.folder.mkdir(parents=True, exist_ok=True)
                for left_over in self.folder.glob(f"{_HIDDEN}*"):
                    shutil.rmtree(left_over)
                self._part(step).mkdir()
        return step, pieces, rest

    def _place(self, step: int) -> Path:
        return self.folder / f"step_{step:08}"

    def _part(self, step: int) -> Path:
        return self.folder / f"{_HIDDEN}{self._place(step).name}"

    @contextlib.contextmanager
    def _cleared(self, step: int) -> Iterator[None]:
        """Takes away what is not complete where the block fails."""
        try:
            yield
        except BaseException:
            if _processes.index() == 0:
                shutil.rmtree(self._part(step), ignore_errors=True)
            raise

    def _write(self, step: int, pieces: dict[str, Any], rest: bytes) -> None:
        """Writes what this process has to write."""
        part = self._part(step)
        with _synced(part / file_of(_processes.index())) as file:
            write_npz(file, pieces, half=lambda: self._steps("data"))
        if _processes.index() == 0:
            with _synced(part / _RUN) as file:
                file.write(rest)
        self._steps("written")

    def _publish(self, step: int) -> None:
        """Gives what all processes have written its manifest and its name; the first one does."""
        self._ours.add(step)
        self._bad.discard(self._place(step).name)
        self._last = step, time.monotonic()
        if _processes.index():
            return
        place, part = self._place(step), self._part(step)
        self._steps("manifest")
        manifest = _manifest(part)
        with _synced(part / _MANIFEST) as file:
            file.write(manifest)
        _sync(part)
        self._steps("rename")
        old = place.with_suffix(".old")
        if place.exists():  # of the same step: there must be one of the two at every moment
            shutil.rmtree(old, ignore_errors=True)
            place.rename(old)
        part.rename(place)
        _sync(self.folder)
        good = [path for path in self.paths() if path.name not in self._bad and path != old]
        for path in set(self.paths()) - set(good[: self.keep]):
            gone = self.folder / f"{_HIDDEN}{path.name}"
            path.rename(gone)  # what is half deleted has no checkpoint's name
            self._steps("prune")
            shutil.rmtree(gone)

    def restore(self, template: TrainState) -> Run | None:
        """Reads the newest checkpoint that is whole.

        Warns of those passed over for it; and where float64, random numbers, the precision of
        products, kernels or XLA's flags are set otherwise than when it was saved, for then a run
        that goes on makes other numbers than one that was not stopped.

        Args:
          template: a `TrainState` with arrays or `jax.ShapeDtypeStruct` as leaves: the structure,
            shapes and dtypes that must be found. Arrays are placed as its leaves are.

        Returns:
          The `Run`, for `train.fit(resume=...)`; None where no checkpoint has ever been completed.

        Raises:
          CheckpointError: the checkpoint is of another net, optimizer or configuration: the message
            names every leaf that differs; or there are checkpoints, and not one is whole: it says
            what is wrong with each.
        """
        self.wait()
        if self.folder.is_dir():
            for path in sorted(self.folder.iterdir()):
                if not _NAME.fullmatch(path.name) and not path.name.startswith(_HIDDEN):
                    text = f"{path} is no checkpoint, and is ignored."
                    warnings.warn(text, RuntimeWarning, stacklevel=2)
        self._bad, wrong = set(), []
        for path in self._common(self.paths()):
            run, others, damage = None, list[str](), None
            with _processes.together(f"{path.name} is restored"):
                try:
                    _verify(path)
                    run, others = _read(path, template, self.config)
                except CheckpointError:
                    raise
                # Behind a right manifest, a run.json that no run has written raises the others.
                except (
                    *(_DamagedError, OSError),
                    *(ValueError, TypeError, LookupError, AttributeError, RecursionError),
                ) as error:
                    damage = str(error)
            damage = next(filter(None, _processes.exchanged(damage and damage[:500])), None)
            if run is None or damage is not None:
                wrong.append(f"{path.name}: {damage}")
                self._bad.add(path.name)
                continue
            if wrong:
                text = f"{path} is restored; passed over: {'; '.join(wrong)}."
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            if others:
                text = f"{path}: {'; '.join(others)}: bits may differ"
                warnings.warn(text, RuntimeWarning, stacklevel=2)
            self._ours = {_step(path) for path in self.paths()}
            self._last = int(run.final.step), time.monotonic()
            return run
        if wrong:
            raise CheckpointError(f"{self.folder} has no whole checkpoint: {'; '.join(wrong)}.")
        return None

    def _common(self, paths: list[Path]) -> list[Path]:
        """The paths, which all processes must see alike."""
        names = " ".join(path.name for path in paths)
        seen = _processes.exchanged([len(paths), hashlib.sha256(names.encode()).hexdigest()])
        if any(one != seen[0] for one in seen):
            raise CheckpointError(
                f"{self.folder}: the processes see {', '.join(str(count) for count, _ in seen)} "
                "checkpoints in it, or others; expected a folder that all of them share."
            )
        return paths

    def _check(self, run: Run, step: int) -> None:
        for state in (run.final, run.best):
            for name, leaf in pieces_of(_numbers(named(state))).items():
                if not _is_sound(name, leaf):
                    raise CheckpointError(
                        f"step {step} is not saved: {name} holds numbers that are not finite. A "
                        "lower learning rate may help."
                    )
        for path in self.paths():
            later = _step(path) > step and path.name not in self._bad
            if later or _step(path) not in self._ours:
                raise CheckpointError(
                    f"step {step} is not saved: {path} is of another run. Restore from it first, "
                    "or give this run a folder of its own."
                )


def _is_sound(name: str, leaf: Any) -> bool:
    """Whether a leaf may be saved: all numbers finite, or an optimizer's infinity.

    A number alone in an optimizer's state may be infinite, as the best loss is before the first.
    """
    numbers = stored(name, leaf)
    if not jnp.issubdtype(numbers.dtype, jnp.inexact):
        return True
    if name.startswith("opt_state") and numbers.ndim == 0:
        return not np.isnan(numbers)
    return bool(np.isfinite(numbers).all())


class _DamagedError(Exception):
    """A checkpoint is not as it was written."""


def _step(path: Path) -> int:
    return int(path.name.removesuffix(".old").removeprefix("step_"))


# --- What a checkpoint holds


def _arrays_of(run: Run) -> dict[str, Any]:
    """Every array of a run by name, keys as their data."""
    arrays = named(run.final) | named(run.best, _BEST) | {f"{_REST}losses": run.losses}
    arrays |= named(run.preprocessing, f"{_REST}preprocessing.")
    return _numbers(arrays)


def _numbers(arrays: dict[str, Any]) -> dict[str, Any]:
    """The arrays with keys as their data."""
    return {n: jax.random.key_data(a) if is_key(a) else a for n, a in arrays.items()}


def _rest_of(run: Run, config: Any) -> dict[str, Any]:
    """What of a run is not arrays, and the specs that its arrays must have."""
    leaves = named(run.final) | named(run.best, _BEST)
    return {
        "format": _FORMAT,
        "processes": _processes.count(),
        "step": int(run.final.step),
        "leaves": {name: spec(leaf) for name, leaf in leaves.items()},
        "keys": {n: str(jax.random.key_impl(leaf)) for n, leaf in leaves.items() if is_key(leaf)},
        "paths": _paths(run.final),
        "history": list(run.history),
        "stopped": run.stopped,
        "best_epoch": run.best_epoch,
        "nonfinite": run.nonfinite,
        "seconds": run.seconds,
        "task": run.task,
        "config": config,
        "versions": versions(),
        "settings": settings(native_status()),
    }


def _paths(template: TrainState) -> list[str]:
    """The paths of all leaves, with the kinds of containers on them."""
    return [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(template)]


def _encoded(value: Any) -> bytes:
    return (json.dumps(value, indent=1) + "\n").encode()


# --- Files


@contextlib.contextmanager
def _synced(path: Path) -> Any:
    """Opens a new file, which is on the disk when the block ends."""
    with open(path, "xb") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _sync(folder: Path) -> None:
    """Brings the names in a folder to the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _manifest(folder: Path) -> bytes:
    """The manifest that the files in a folder would have."""
    sums = {}
    for path in sorted(folder.iterdir()):
        if path.name != _MANIFEST:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            sums[path.name] = {"bytes": path.stat().st_size, "sha256": digest}
    return _encoded(sums)


def _verify(folder: Path) -> None:
    """Raises _DamagedError unless the manifest is that of the files as they are."""
    written = folder / _MANIFEST
    if not written.is_file():
        raise _DamagedError(f"there is no {_MANIFEST}")
    there, stated = _manifest(folder), written.read_bytes()
    if there == stated:
        return
    try:
        sums = dict(json.loads(stated))
    except ValueError:
        raise _DamagedError(f"{_MANIFEST} is damaged") from None
    for name, found in json.loads(there).items():
        expected = sums.pop(name, None)
        if expected is None:
            raise _DamagedError(f"{name} is not in {_MANIFEST}")
        if found != expected:
            raise _DamagedError(f"{name} is not what was written ({found['bytes']} bytes)")
    raise _DamagedError(f"{next(iter(sums), _MANIFEST)} is missing or damaged")


def _read(folder: Path, template: TrainState, config: dict[str, Any]) -> tuple[Run, list[str]]:
    """Reads a checkpoint that is verified, and says which settings are others by now.

    Compares all that can be before it reads an array.
    """
    rest = json.loads((folder / _RUN).read_bytes())
    if rest["format"] not in (1, _FORMAT):
        raise CheckpointError(
            f"{folder} has format {rest['format']}, expected {_FORMAT}: it is of another version, "
            f"funcnet {rest['versions']['funcnet']}."
        )
    for key in [key for key in rest["config"] if key in config]:
        if rest["config"][key] != config[key]:
            raise CheckpointError(
                f"{folder} was saved with {key} {rest['config'][key]!r}, not {config[key]!r}."
            )
    leaves = named(template) | named(template, _BEST)
    compare(str(folder), rest["leaves"], {name: spec(leaf) for name, leaf in leaves.items()})
    if rest["paths"] != _paths(template):
        raise CheckpointError(f"{folder} does not fit: its containers are other ones.")
    files = sorted(folder.glob("arrays*.npz"))
    if {file.name for file in files} != {file_of(index) for index in range(len(files))} or (
        len(files) != rest.get("processes", 1)
    ):
        raise ValueError(f"{len(files)} files of arrays are not those of {rest['processes']!r}")
    others = [f"{_REST}losses", *(f"{_REST}preprocessing.{n}" for n in Preprocessing._fields)]
    with Pieces(files, leaves, others) as arrays:
        made = [
            wrapped(arrays.placed(str(folder), name, leaf), rest["keys"][name], leaf)
            if is_key(leaf)
            else arrays.placed(str(folder), name, leaf)
            for name, leaf in leaves.items()
        ]
        losses, *statistics = (arrays[name] for name in others)
    tree, count = jax.tree.structure(template), len(made) // 2
    final, best = (jax.tree.unflatten(tree, half) for half in (made[:count], made[count:]))
    run = Run(
        History(rest["history"]),
        best,
        final,
        losses,
        Preprocessing(*statistics),
        rest["stopped"],
        rest["best_epoch"],
        tuple(rest["nonfinite"]),
        rest["seconds"],
        rest.get("task", "classification"),
    )
    # A checkpoint of an earlier version does not say under which settings it was saved.
    return run, changed(
        "settings", rest["settings"], settings(native_status())
    ) if "settings" in rest else []
