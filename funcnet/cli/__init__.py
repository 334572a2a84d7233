"""The command `funcnet`: `funcnet train`, `sweep`, `check`, `bench` and `info`.

A command is a frozen dataclass, whose fields are its options, with a method `run() -> int`; tyro
makes the command line and its help of it, and its `EPILOG` ends the help. What it needs beyond the
core is imported when a command is asked for, not before.

>>> main(["--version"])
funcnet 0.1.0
0
"""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import os
import re
import sys
import threading
import traceback
from collections.abc import Sequence
from typing import Annotated, Any, NoReturn, Union

import funcnet
from funcnet import _validate
from funcnet.cli import _memory, _stdout
from funcnet.cli._command import CommandError, expected_errors, need, traced

__all__ = ["COMMANDS", "main", "program"]

# The commands, in the order of the help: name -> module and dataclass.
COMMANDS = {
    "train": "funcnet.cli._train_command:Train",
    "sweep": "funcnet.cli._sweep_command:SweepCommand",
    "check": "funcnet.cli._check_command:CheckCommand",
    "bench": "funcnet.cli._bench_command:BenchCommand",
    "info": "funcnet.cli._info_command:Info",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command line, and returns its exit code.

    Args:
      argv: the words after `funcnet`; those of the process by default.

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
    prog = " ".join(["funcnet", *(arg for arg in args[:1] if arg in COMMANDS)])
    try:
        with expected_errors():  # of variables that are read later, amid the work
            _validate.enabled("FUNCNET_TRACEBACK", default=False)
            _validate.enabled("FUNCNET_NATIVE")
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            raise CommandError(
                f"there is no command {args[0]!r}{f'; perhaps {near[0]}?' if near else ','} "
                f"expected one of {', '.join(COMMANDS)}. See funcnet --help."
            )
        need("tyro", "rich")
        with _memory.out_of_memory():
            return _parsed(args, prog).run()
    except SystemExit as done:  # of --help
        return int(done.code or 0)
    except KeyboardInterrupt as press:
        terminated = isinstance(press, funcnet.train.Terminated)
        _stdout.say(f"{prog}: {'terminated' if terminated else 'interrupted'}")
        return 143 if terminated else 130
    except CommandError as error:
        if traced("--traceback" in args):
            traceback.print_exc()
        _stdout.say(f"{prog}: error: {_one_line(str(error))}")
        return error.code


def _parsed(args: list[str], prog: str) -> Any:
    """Returns the command that the words make, or raises CommandError, or SystemExit for help."""
    import tyro

    commands: dict[str, Any] = {}
    for name, place in COMMANDS.items():
        module, attribute = place.split(":")
        commands[name] = getattr(importlib.import_module(module), attribute)
    union: Any = Union[  # noqa: UP007  (made of values)
        tuple(Annotated[c, tyro.conf.subcommand(name)] for name, c in commands.items())
    ]
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                union,
                prog="funcnet",
                description=(funcnet.__doc__ or "").partition("\n")[0],
                args=args,
                config=(
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.OmitSubcommandPrefixes,
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                ),
            )
    except SystemExit as done:
        if done.code:
            raise CommandError(f"{_unboxed(printed.getvalue(), args)} See {prog} --help.") from None
        if args[:1] and args[0] in commands:
            print(commands[args[0]].EPILOG, end="")
        raise


# What tyro says, and how it is said in one line.
_SHORTER = (
    (r" Got errors:.*| Arguments are applied .*", ""),
    (r"^Error parsing ", ""),
    (r"no type matching (.+) could be instantiated from \[(.*)\]", r"expected \1, not \2"),
    (r"could not convert string to float: (.*)", r"expected FLOAT, not \1"),
    (r"invalid literal for int\(\) with base 10: (.*)", r"expected INT, not \1"),
    (r"Expected 1 values", "Expected one value"),
    (r" or misplaced| \(applied to .*?\)|'None', |, 'None'", ""),
)


def _unboxed(text: str, args: list[str]) -> str:
    """The message of a box that tyro prints: what is above its first rule, and its first hint."""
    parts: list[list[str]] = [[]]
    for line in text.splitlines():
        if not re.search(r"\w", line):
            parts.append([])  # a rule
        elif not line.startswith("╭"):
            parts[-1].append(line.strip("│ "))
    # Without box characters the title is a part of its own.
    words = [" ".join(part) for part in parts if part]
    title = 0 if "│" in text else 1
    message = _one_line(" ".join(words[title : title + 1]))
    for pattern, shorter in _SHORTER:
        message = re.sub(pattern, shorter, message)
    message = message[:1].lower() + message[1:].rstrip(".")
    hint = re.search(r"Perhaps you meant:.*?(--[\w-]+)", text, re.DOTALL)
    return f"{message}; perhaps {hint[1]}?" if hint and hint[1] not in args else f"{message}."


def _one_line(text: str) -> str:
    return " ".join(text.split())
