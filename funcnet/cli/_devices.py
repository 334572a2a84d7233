"""The devices and processes of `funcnet train` and `sweep`: a mesh of them, and how they end."""

from __future__ import annotations

import contextlib
import dataclasses
import math
import os
import re
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from typing import Annotated, Any

import jax
import numpy as np
from jax.sharding import Mesh

from funcnet import _processes, train
from funcnet.cli import _stdout
from funcnet.cli._command import CommandError, choice, option, traced
from funcnet.train.engine import SHARDS, reachable

HEARTBEAT_SECONDS = 40
"""After which a process that does not answer is taken for dead; of one that ends all hear soon."""


@dataclasses.dataclass(frozen=True)
class DeviceOptions:
    """Which devices share the work."""

    devices: Annotated[str | None, option("1, of several processes all", metavar="all|INT")] = None
    """Devices that share the members; all for all there are."""
    coordinator: Annotated[str | None, option("one process", metavar="HOST:PORT|auto")] = None
    """Where process 0 waits for the others; auto asks SLURM, the TPU pod or Kubernetes for all
    three."""
    processes: Annotated[int | None, option("1")] = None
    """How many processes there are, each started by its own command."""
    process: Annotated[int | None, option("0")] = None
    """Number of this one, from 0."""
    wait: int = 30
    """Seconds that processes wait for each other at the start; of a cluster that starts them one
    after the other, more."""

    @property
    def several(self) -> bool:
        """Whether there are other processes."""
        return self.coordinator is not None

    def checked(self) -> None:
        """Raises CommandError where the options contradict each other."""
        numbers = self.processes, self.process
        if self.coordinator in (None, "auto"):
            if numbers != (None, None):
                raise CommandError("--processes and --process need --coordinator HOST:PORT.")
            return
        if not re.fullmatch(r".+:\d+", self.coordinator or ""):
            raise CommandError(f"--coordinator is {self.coordinator}, expected HOST:PORT or auto.")
        count, number = numbers
        if count is None or number is None or not 0 <= number < count:
            raise CommandError(
                f"--processes is {count} and --process {number}, expected their number and one "
                "of 0 to below it."
            )

    def over(self) -> Mesh | None:
        """The mesh that is asked for, None for one device; CommandError where there is none."""
        found = jax.devices()
        axes = self.axes()
        count = math.prod(axes.values()) if axes else len(found) if self.several else 1
        if self.devices == "all":
            count = len(found)
        elif self.devices is not None:
            if not self.devices.isdecimal() or not int(self.devices):
                raise CommandError(f"--devices is {self.devices}, expected a number or all.")
            count = int(self.devices)
        if count > len(found):
            raise CommandError(f"--devices: {count} are asked for, and {len(found)} are there.")
        if self.several and count < len(found):
            raise CommandError(
                f"--devices: {count} of {len(found)} are asked for, expected all with several "
                "processes."
            )
        if axes and math.prod(axes.values()) != count:
            asked = ",".join(f"{name}={size}" for name, size in axes.items())
            raise CommandError(
                f"--mesh is {asked}, of {math.prod(axes.values())} devices, but --devices asks "
                f"for {count}."
            )
        if count == 1 and not axes and not self.several:
            return None
        axes = axes or {"data": count}
        return Mesh(np.array(found[:count]).reshape(tuple(axes.values())), tuple(axes))

    def said(self, mesh: Mesh | None) -> str:
        """What is used, in words; empty where there is nothing to say."""
        there = len(jax.devices())
        if mesh is None:
            return f"1 of {there} devices is used, --devices all uses them all" * (there > 1)
        shape = " × ".join(f"{name} {size}" for name, size in mesh.shape.items())
        processes = f", {_processes.count()} processes" * self.several
        unused = f"; {there - mesh.size} devices are not used" * (mesh.size < there)
        return f"{shape}{processes}{self.lies()}{unused}"

    def axes(self) -> dict[str, int]:
        """The axes of the mesh that are asked for, with their sizes; empty for one axis, data."""
        return {}

    def lies(self) -> str:
        """How the state lies on the devices, where that is a choice."""
        return ""


@dataclasses.dataclass(frozen=True)
class MeshOptions(DeviceOptions):
    """Which devices share the work, and how."""

    devices: Annotated[str | None, option("1, of several processes all", metavar="all|INT")] = None
    """Devices to train on, which --batch-size must be a multiple of; all for all there are."""
    mesh: Annotated[str | None, option("data=DEVICES", metavar="AXIS=INT,...")] = None
    """Shape of the mesh of devices, as data=4,model=2."""
    shard: Annotated[str, choice(SHARDS)] = "data"
    """How the state lies on them: data copies it to each, fsdp cuts it into parts."""

    def axes(self) -> dict[str, int]:
        """The axes of --mesh."""
        return _axes(self.mesh)

    def lies(self) -> str:
        """What --shard says."""
        return f", the state by {self.shard}"


def _axes(text: str | None) -> dict[str, int]:
    if text is None:
        return {}
    pairs = re.findall(r"([A-Za-z_]\w*)=([1-9]\d*)", text)
    if ",".join(f"{name}={size}" for name, size in pairs) != text or len({*dict(pairs)}) < len(
        pairs
    ):
        raise CommandError(f"--mesh is {text}, expected axes with their sizes, as data=4,model=2.")
    return {name: int(size) for name, size in pairs}


def only_first() -> bool:
    """Whether this process is the one that prints, locks and writes."""
    return _processes.index() == 0


@contextlib.contextmanager
def endings() -> Iterator[None]:
    """Makes SIGTERM and SIGHUP end the run in good order, where nobody else has a use for them."""
    main = threading.current_thread() is threading.main_thread()
    ours = [s for s in train.ENDINGS if main and signal.getsignal(s) is signal.SIG_DFL]
    for signum in ours:
        signal.signal(signum, train.terminate)
    try:
        yield
    finally:
        for signum in ours:
            signal.signal(signum, signal.SIG_DFL)


# --- Several processes


def shared(prog: str, options: DeviceOptions, traceback: bool, work: Callable[[], int]) -> int:
    """Does the work, alone or with the other processes, and returns the exit code.

    Of several, each works in a child of its own: JAX's runtime ends a process with many lines and
    a signal where another one is gone, and the child's parent makes a line and a 1 of it.
    """
    options.checked()
    if not options.several:
        return work()
    return _Child(prog, options, traced(traceback)).run(work)


class _Child:
    """A process that works, and its parent, which hands signals on to it and says how it ended."""

    def __init__(self, prog: str, options: DeviceOptions, traced: bool):
        self.prog, self.options, self.traced = prog, options, traced
        self.number = options.process

    def run(self, work: Callable[[], int]) -> int:
        """Returns the exit code; in the child it does not return."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        errors, life = os.pipe(), os.pipe()
        pid = os.fork()
        if pid == 0:
            os.setpgid(0, 0)  # Ctrl-C comes by the parent, once
            os.close(life[1])
            threading.Thread(target=_die_with, args=(life[0],), daemon=True).start()
            os.dup2(errors[1], 2)
            os.close(errors[0])
            os.close(errors[1])
            os._exit(self._worked(work))
        os.close(errors[1])
        os.close(life[0])
        with _handed_on(pid):
            said = self._relayed(errors[0])
            _, status = os.waitpid(pid, 0)
        if os.WIFEXITED(status):
            return os.WEXITSTATUS(status)
        if not said:
            why = "another process has ended or cannot be reached"
            if os.WTERMSIG(status) != signal.SIGABRT:
                why = f"it was ended by signal {os.WTERMSIG(status)}"
            _stdout.say(f"{self.prog}: error: {self._name}{why}.")
        return 1

    @property
    def _name(self) -> str:
        return "" if self.number is None else f"process {self.number}: "

    def _worked(self, work: Callable[[], int]) -> int:
        """The exit code of the work, in the child."""
        code, at_peace = 1, False
        try:
            self._start()
            with reachable(self.prog):
                code, at_peace = work(), True
        except KeyboardInterrupt as press:
            code = 143 if isinstance(press, train.Terminated) else 130
        except CommandError as error:
            code = error.code
            self._say(error)
        except train.PeerError as error:
            self._say(error)
        except BaseException as error:
            traceback.print_exc()
            self._say(error)
        with contextlib.suppress(Exception):
            sys.stdout.flush()
        if at_peace:
            with contextlib.suppress(Exception):
                jax.distributed.shutdown()
        return code

    def _start(self) -> None:
        jax.config.update("jax_enable_preemption_service", False)  # which would take SIGTERM
        address = None if self.options.coordinator == "auto" else self.options.coordinator
        try:
            jax.distributed.initialize(
                address,
                self.options.processes,
                self.options.process,
                heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
                initialization_timeout=self.options.wait,
            )
        except (ValueError, RuntimeError) as error:
            raise CommandError(f"--coordinator {self.options.coordinator}: {error}") from error
        self.number = jax.process_index()
        _stdout.apart(silent=self.number > 0)  # gloo says on stdout that it is connected
        _processes.exchanged(None)

    def _say(self, error: BaseException) -> None:
        if self.traced:
            traceback.print_exc()
        text = " ".join(str(error).split())
        name = self._name if f"process {self.number}:" not in text else ""
        _stdout.say(f"{self.prog}: error: {name}{text}")

    def _relayed(self, descriptor: int) -> bool:
        """Passes on what the child says on stderr, but for the runtime's log; True for an error."""
        said = logged = False
        with open(descriptor, encoding="utf-8", errors="replace") as lines:
            for line in lines:
                logged = bool(_LOG.match(line)) or (logged and not _OURS.match(line))
                if self.traced or not logged:
                    said = said or line.startswith(f"{self.prog}: error")
                    _stdout.say(line.rstrip("\n"))
        return said


_LOG = re.compile(r"[IWEF]\d{4} \d\d:|\*\*\* |    @ |\[Gloo\]|terminate called")
_OURS = re.compile(r"funcnet|Traceback|\S+\.py:\d+: ")


def _die_with(life: int) -> None:
    """Ends the child when its parent is gone, and the other end of the pipe with it."""
    os.read(life, 1)
    os._exit(1)


@contextlib.contextmanager
def _handed_on(pid: int) -> Iterator[None]:
    """Hands the signals that end a run on to the child."""

    def hand_on(signum: int, frame: Any) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signum)

    before = {s: signal.signal(s, hand_on) for s in (signal.SIGINT, *train.ENDINGS)}
    try:
        yield
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler)
