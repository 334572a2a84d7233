"""The words after `funcnet`: the command that they name, made of its options, and run."""

from __future__ import annotations

import contextlib
import difflib
import importlib
import io
import re
import traceback
from typing import Any

import funcnet
from funcnet import _validate
from funcnet.cli import COMMANDS, _compiled, _memory, _stdout
from funcnet.cli._command import CommandError, expected_errors, need, traced


def run(args: list[str]) -> int:
    """Runs the command that the words name, and returns its exit code."""
    prog = " ".join(["funcnet", *(arg for arg in args[:1] if arg in COMMANDS)])
    try:
        with expected_errors():  # of variables that are read later, amid the work
            _validate.enabled("FUNCNET_TRACEBACK", default=False)
            _validate.enabled("FUNCNET_NATIVE")
            _validate.said(*_validate.WINOGRAD)
            _compiled.folder()
        if args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, 1)
            raise CommandError(
                f"there is no command {args[0]!r}{f'; perhaps {near[0]}?' if near else ','} "
                f"expected one of {', '.join(COMMANDS)}. See funcnet --help."
            )
        need("tyro", "rich")
        with _memory.out_of_memory():
            return parsed(args).run()
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


def parsed(args: list[str]) -> Any:
    """Returns the command that the words make, or raises CommandError, or SystemExit for help."""
    import tyro

    place = COMMANDS[args[0]]
    command = getattr(importlib.import_module(place.module), place.name)
    prog = f"funcnet {args[0]}"
    printed = io.StringIO()
    try:
        with contextlib.redirect_stderr(printed):
            return tyro.cli(
                command,
                prog=prog,
                args=args[1:],
                config=(
                    tyro.conf.OmitArgPrefixes,
                    tyro.conf.FlagCreatePairsOff,
                    tyro.conf.DisallowNone,
                ),
            )
    except SystemExit as done:
        if done.code:
            raise CommandError(f"{_unboxed(printed.getvalue(), args)} See {prog} --help.") from None
        print(command.EPILOG, end="")
        raise


# What tyro says, and how it is said in one line. It has an error object too, but for itself alone:
# its hook, tyro._errors.on_parse_error, "may change in any release, without notice".
_SHORTER = (
    (r" Got errors:.*| Arguments are applied .*", ""),
    (r"^Error parsing ", ""),
    (r"no type matching (.+) could be instantiated from \[(.*)\]", r"expected \1, not \2"),
    (r"could not convert string to float: (.*)", r"expected FLOAT, not \1"),
    (r"invalid literal for int\(\) with base 10: (.*)", r"expected INT, not \1"),
    (r"Expected 1 values", "Expected one value"),
    (r"'None', |, 'None'", ""),
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
