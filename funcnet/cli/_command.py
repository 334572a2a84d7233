"""What the commands of `funcnet` share: how they end, and how their options are written."""

from __future__ import annotations

import importlib.util
import os
import sys
import traceback as traceback_module
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from funcnet import _files, _validate
from funcnet.cli import _stdout

if TYPE_CHECKING:  # extras, which `import funcnet` does without
    from rich.console import Console
    from rich.table import Table
else:
    Console = Table = Any  # annotations that are executed find a name


class CommandError(Exception):
    """Ends a command with one line on stderr and an exit code; 2 is for what the user can mend."""

    def __init__(self, message: str, code: int = 2):
        super().__init__(message)
        self.code = code


def traced(asked: bool) -> bool:
    """Whether tracebacks are wanted, by --traceback or by FUNCNET_TRACEBACK."""
    try:
        return asked or _validate.enabled("FUNCNET_TRACEBACK", default=False)
    except ValueError:  # which main reports
        return asked


@contextmanager
def expected_errors() -> Iterator[None]:
    """Turns the exceptions of wrong input and missing files into `CommandError`.

    Around what reads the configuration, never around the work itself: there, a ValueError is a
    mistake of ours, and its traceback is wanted.
    """
    try:
        yield
    except (ValueError, TypeError, OSError, ImportError) as error:
        raise CommandError(str(error)) from error


def writable(name: str, path: str | None, suffixes: Iterable[str] = ()) -> None:
    """Raises CommandError where an option's file cannot be written: now, not after the work."""
    if path is None:
        return
    file, folder = Path(path), Path(path).absolute().parent
    suffixes = tuple(suffixes)
    if suffixes and file.suffix not in suffixes:
        raise CommandError(f"{name} is {path}, expected a file in {', '.join(suffixes)}.")
    if file.is_dir():
        raise CommandError(f"{name}: {path} is a folder, expected a file to write.")
    if _files.is_stream(file):
        return
    if file.exists() and not file.is_file():
        raise CommandError(f"{name}: {path} is neither a file nor a pipe.")
    if not folder.is_dir():
        raise CommandError(f"{name}: {file.parent} is no folder to write {path} to.")
    if not os.access(folder, os.W_OK):
        raise CommandError(f"{name}: cannot write into {file.parent}.")


@contextmanager
def written(name: str, path: str) -> Iterator[None]:
    """Turns what the disk says of an option's file into `CommandError`, of code 1."""
    try:
        yield
    except OSError as error:
        raise CommandError(f"{name}: cannot write {path}: {error.strerror or error}.", 1) from error


@contextmanager
def drawing(prog: str, path: Path, traceback: bool) -> Iterator[None]:
    """Says in a line that a figure could not be drawn: it ends no run, whatever went wrong."""
    try:
        yield
    except Exception as error:
        if traced(traceback):
            traceback_module.print_exc()
        _stdout.say(f"{prog}: warning: {not_drawn(path, error)}")


def not_drawn(path: str | Path, error: Exception) -> str:
    """What is said of a figure that could not be drawn, in one line."""
    return " ".join(f"{path} could not be drawn: {type(error).__name__}: {error}".split())


def need(*modules: str) -> None:
    """Raises CommandError unless the modules are installed, without importing them."""
    missing = [module for module in modules if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandError(f'{", ".join(missing)} is not installed: pip install "funcnet[run]"')


def console(quiet: bool = False) -> Console:
    """A console on stdout that prints strings as they are.

    It is a terminal where a bar can live: FORCE_COLOR makes no terminal of a file, and TERM=dumb
    has none. These get their lines, in the colours that were asked for.
    """
    from rich.console import Console

    options: Any = {
        **{"file": sys.stdout, "quiet": quiet},
        **{"highlight": False, "markup": False, "emoji": False},
    }
    console = Console(**options)
    if not console.is_terminal or (console.is_interactive and sys.stdout.isatty()):
        return console
    colours: Any = console.color_system
    return Console(**options, force_terminal=False, color_system=colours)


def print_whole(out: Console, table: Table) -> None:
    """Prints a table as wide as it is: a narrow terminal breaks its lines, and no cell is cut."""
    width, anything = out.width, out.options.update(max_width=10_000)
    out.width = max(width, out.measure(table, options=anything).maximum)
    out.print(table)
    out.width = width


def choice(names: Iterable[str]) -> Any:
    """Says of an option of type str that it is one of `names`."""
    import tyro

    choices = tuple(names)
    return tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="{" + ",".join(choices) + "}",
        instance_from_str=lambda strings: strings[0],
        is_instance=lambda value: value is None or value in choices,
        str_from_instance=lambda value: [str(value)],
        choices=choices,
    )


def option(default: str | None = None, name: str | None = None, metavar: str | None = None) -> Any:
    """Says what an option is where it has not been given, and how it is called on a command line.

    Args:
      default: for the help, where the field's own default does not say it.
      name: where the field has another.
      metavar: what stands for its value in the help, where the type does not say it.
    """
    import tyro

    hint = None if default is None else f"(default: {default})"
    return tyro.conf.arg(name=name, metavar=metavar, help_behavior_hint=hint)
