"""The command `funcnet`: train, predict, evaluate, report, compare, export, sweep and others.

A command is a frozen dataclass, whose fields are its options, with a method `run() -> int`; tyro
makes the command line and its help of it, and its `EPILOG` ends the help. A command's module, and
JAX with it, is imported when that command is asked for, not before.

>>> main(["--version"])
funcnet 0.1.0
0
"""

from __future__ import annotations

import contextlib
import os
import sys
import textwrap
import threading
from collections.abc import Sequence
from typing import NamedTuple, NoReturn

import funcnet
from funcnet.cli import _stdout

__all__ = ["COMMANDS", "main", "program"]


class Place(NamedTuple):
    """Where a command is: the dataclass of a module, and its docstring's first line."""

    module: str
    name: str
    does: str


COMMANDS = {
    "train": Place(
        "funcnet.cli._train_command",
        "Train",
        "Train a net on a data set: without options on digits, in a few seconds.",
    ),
    "predict": Place(
        "funcnet.cli._predict_command",
        "Predict",
        "Predict new examples from files, by the net of a run.",
    ),
    "evaluate": Place(
        "funcnet.cli._evaluate_command",
        "Evaluate",
        "Measure a run's net: the loss and the metrics on the test images, or on other data.",
    ),
    "report": Place(
        "funcnet.cli._report_command",
        "ReportCommand",
        "Write a page on a run: result, curves, confusions, mistakes, first weights and gradients.",
    ),
    "compare": Place(
        "funcnet.cli._compare_command",
        "CompareCommand",
        "Compare runs: the options in which they differ, and their results, the best first.",
    ),
    "export": Place(
        "funcnet.cli._export_command",
        "Export",
        "Write a run's net as ONNX, StableHLO or safetensors, for other programs.",
    ),
    "sweep": Place(
        "funcnet.cli._sweep_command",
        "SweepCommand",
        "Train a net with many hyper-parameters and seeds, compiled once, and rank them.",
    ),
    "pack": Place(
        "funcnet.cli._pack_command",
        "Pack",
        "Write a data set as plain arrays in a folder, which training reads without holding them.",
    ),
    "check": Place(
        "funcnet.cli._check_command",
        "CheckCommand",
        "Certify every rule of the catalogue, or the backward rules of your own files and "
        "packages.",
    ),
    "bench": Place(
        "funcnet.cli._bench_command",
        "BenchCommand",
        "Measure time and memory of every rule and of whole train steps, beside other libraries.",
    ),
    "info": Place(
        "funcnet.cli._info_command",
        "Info",
        "Print versions, devices, and the data sets found and where they were looked for.",
    ),
}
"""The commands, in the order of the help."""

# Those that call programs over and over, in a process that is theirs.
_COMPUTING = ("train", "sweep", "bench")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, and returns its exit code.

    Args:
      argv: the words after `funcnet`; those of the process by default. None of them is --help.

    Returns:
      0 when it worked; 1 when it began and failed, as by a loss that is not finite or for want of
      memory; 2 for a wrong command line or input, said in one line on stderr; 130 after Ctrl-C, 143
      after SIGTERM or SIGHUP, 141 where nobody read on what a run printed.
      `--traceback` or FUNCNET_TRACEBACK=1 shows where an error came from.

    >>> main(["train", "--epochs", "-1"])
    2
    """
    args = list(sys.argv[1:] if argv is None else argv)
    with _stdout.robust() as stdout:
        code = _main(args)
    if stdout.lost is not None and not code and not isinstance(stdout.lost, BrokenPipeError):
        what = stdout.lost.strerror or stdout.lost
        _stdout.say(f"funcnet: error: cannot write to stdout: {what}.")
        return 1
    return code


def program() -> NoReturn:
    """The process: runs its command line, and exits with the command's code.

    XLA compiles on threads of its own, which neither a signal nor a check's time limit ends. One
    that is still at it while Python takes the process down finds its client gone and crashes, so
    nothing is taken down then: what was to be written is written.
    """
    if {*sys.argv[1:2]} & {*_COMPUTING}:
        from funcnet.kernels import keep_memory

        keep_memory()
    code = main()
    if code > 128 or any(thread.daemon for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, AttributeError):  # None, or closed
                stream.flush()
        os._exit(code)
    sys.exit(code)


def _main(args: list[str]) -> int:
    if args == ["--version"]:
        print(f"funcnet {funcnet.__version__}")
        return 0
    if not args or args[0] in ("-h", "--help"):
        print(_help(), end="")
        return 0
    from funcnet.cli import _parser  # and JAX, which takes longer than all of the above

    return _parser.run(args)


def _help() -> str:
    """The help of `funcnet`, which imports no command."""
    lines = ["usage: funcnet [-h] [--version] COMMAND [OPTIONS]", ""]
    lines += [(funcnet.__doc__ or "").partition("\n")[0], "", "Commands:", ""]
    for name, place in COMMANDS.items():
        lines += textwrap.wrap(
            f"{name:9}{place.does}", 80, initial_indent="  ", subsequent_indent=" " * 11
        )
    lines += ["", "funcnet COMMAND --help explains the options of a command.", ""]
    return "\n".join(lines)
