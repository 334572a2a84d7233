"""What a target names: files, folders, modules and packages, imported as the modules they are."""

from __future__ import annotations

import ast
import contextlib
import importlib
import importlib.util
import os
import re
import sys
import traceback
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType

from funcnet._reports import sentence

# What a file says that makes rules, or that has samples of some.
_SAYS_RULE = re.compile(rb"custom_(?:vjp|jvp|gradient)|defvjp|defjvps?|funcnet_samples?")
_FOLDERS = {"__pycache__", "node_modules", "build", "dist", "site-packages", "venv", "env"}
_OF_TESTS = {"tests", "test", "testing"}
_FILES = {"__main__.py", "conftest.py", "setup.py", "noxfile.py"}
_NAME = r"[^\W\d]\w*(?:\.\w+|\[[^\[\]]+\])*"
_OURS: set[str] = set()  # folders of lone files, which we put on sys.path


class TargetError(ValueError):
    """A target that names nothing: the message says what was looked for."""


@dataclass(frozen=True)
class Broken:
    """A module that does not import.

    Attributes:
        module: Its name.
        file: Its file.
        reason: What it raised, in a line.
        trace: The traceback.
    """

    module: str
    file: str
    reason: str
    trace: str = ""


@dataclass(frozen=True)
class Target:
    """What a word of the command line names, imported.

    Attributes:
        word: As it was given.
        modules: The modules in it, in order.
        name: The function after the colon, or None for all of it.
        broken: Modules in it that do not import and that may hold rules.
        notes: What was left out, and why.
    """

    word: str
    modules: tuple[ModuleType, ...]
    name: str | None = None
    broken: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()


def split(word: str) -> tuple[str, str | None]:
    """The place and the name of PLACE:NAME, or the place and None.

    >>> split("rules.py:Layer.apply"), split("pkg.rules")
    (('rules.py', 'Layer.apply'), ('pkg.rules', None))
    """
    place, colon, name = word.rpartition(":")
    if not colon or os.path.exists(word):
        return word, None
    if not place or not re.fullmatch(_NAME, name):
        raise TargetError(f"{word} is no FILE.py:FUNCTION and no MODULE:FUNCTION.")
    return place, name


def load(word: str, folder: str | os.PathLike[str] = ".") -> Target:
    """Imports what a target names.

    A file of a package is imported as the module that it is there, so that its relative imports
    work; a lone file with its folder on `sys.path`, so that it finds its neighbours. Of a folder
    the files that mention a rule are imported, of a package all, but for tests.

    Args:
        word: `FILE.py`, `FOLDER`, `MODULE`, `PACKAGE`, or one of these with `:FUNCTION`.
        folder: Where relative paths, and packages that are not installed, are looked for.

    Raises:
        TargetError: When there is no such file or module.
    """
    place, name = split(word)
    path = Path(folder, place)
    if path.is_dir():
        if name is not None:
            raise TargetError(f"{place} is no file; expected FILE.py:FUNCTION or MODULE:FUNCTION.")
        return _walked(word, None, path)
    if path.is_file():
        if path.suffix != ".py":
            raise TargetError(f"{place} is no Python file; expected FILE.py or FILE.py:FUNCTION.")
        loaded = _loaded(path)
        broken = (loaded,) if isinstance(loaded, Broken) else ()
        return Target(word, () if broken else (loaded,), name, broken)  # type: ignore[arg-type]
    if place.endswith(".py") or os.sep in place or not _dotted(place):
        raise TargetError(f"{place} is no file; expected FILE.py, FILE.py:FUNCTION or a module.")
    return _of_module(word, place, name, folder)


def _dotted(place: str) -> bool:
    return all(part.isidentifier() for part in place.split("."))


def _of_module(word: str, place: str, name: str | None, folder: str | os.PathLike[str]) -> Target:
    spec = None
    for root in (None, Path(folder), Path(folder, "src")):
        if root is not None and root.is_dir():
            _on_path(root)
        try:
            spec = importlib.util.find_spec(place)
        except ModuleNotFoundError as error:
            if not place.startswith(str(error.name)):  # one that a parent of it needs
                return Target(word, (), name, (_broken(place, "", error),))
        except (Exception, SystemExit) as error:
            return Target(word, (), name, (_broken(place, "", error),))
        if spec is not None:
            break
    if spec is None:
        parent, _, last = place.rpartition(".")
        hint = f"; for a function in {parent} write {parent}:{last}" if parent else ""
        raise TargetError(f"there is no file, folder or module {place}{hint}.")
    found = _attempt(place, spec.origin or "", lambda: importlib.import_module(place))
    if isinstance(found, Broken):
        return Target(word, (), name, (found,))
    if spec.submodule_search_locations is None or name is not None:
        return Target(word, (found,), name)
    modules = [found]
    broken: list[Broken] = []
    notes: list[str] = []
    for location in spec.submodule_search_locations:
        inside = _walked(word, place, Path(location))
        modules += [module for module in inside.modules if module is not found]
        broken += inside.broken
        notes += inside.notes
    return Target(word, tuple(modules), None, tuple(broken), tuple(notes))


# Folders --------------------------------------------------------------------------------------


def _walked(word: str, package: str | None, folder: Path) -> Target:
    """The files of a folder; with the name of the package that it is, as its modules."""
    modules: list[ModuleType] = []
    broken: list[Broken] = []
    silent: list[Broken] = []
    left_out = 0
    for file in _files_below(folder):
        says = _SAYS_RULE.search(file.read_bytes()) is not None
        if package is not None:
            relative = file.relative_to(folder).with_suffix("").parts
            parts = relative[:-1] if relative[-1] == "__init__" else relative
            if not all(part.isidentifier() for part in parts):
                continue
            loaded = _as_module(".".join((package, *parts)), file)
        elif says or (file.parent / "__init__.py").is_file():
            loaded = _loaded(file)
        else:  # it may be a script, which would run
            left_out += 1
            continue
        if not isinstance(loaded, Broken):
            modules.append(loaded)
        else:
            (broken if says else silent).append(loaded)
    notes = [f"{one.module} does not import and mentions no rule: {one.reason}" for one in silent]
    if left_out:
        notes.append(f"{left_out} files that mention no rule were not imported")
    if not modules and not broken:
        notes.append(f"no file of {folder} mentions a rule")
    return Target(word, tuple(dict.fromkeys(modules)), None, tuple(broken), tuple(notes))


def _files_below(folder: Path) -> Iterator[Path]:
    """The Python files of a folder and of those in it, in order, but for tests and scripts."""
    of_tests = folder.absolute().name in _OF_TESTS
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(
            name
            for name in folders
            if name not in _FOLDERS
            and (of_tests or name not in _OF_TESTS)
            and not name.startswith(".")
            and not os.path.exists(os.path.join(place, name, "pyvenv.cfg"))
        )
        for name in sorted(files):
            test = name.startswith("test_") or name.endswith("_test.py")
            if name.endswith(".py") and name not in _FILES and (of_tests or not test):
                yield Path(place, name)


# Imports --------------------------------------------------------------------------------------


def _attempt(name: str, file: str, load: Callable[[], ModuleType]) -> ModuleType | Broken:
    """What a module's import gives, whatever it raises: it is not our code."""
    try:
        return load()
    except (Exception, SystemExit) as error:
        return _broken(name, file, error)


def _broken(name: str, file: str, error: BaseException) -> Broken:
    return Broken(name, file, sentence(error), "".join(traceback.format_exception(error)))


def _loaded(path: Path) -> ModuleType | Broken:
    """A file's module: the one that is imported already, or the one that it is in its package."""
    file = Path(os.path.abspath(path))
    known = _imported(file)
    if known is not None:
        return known
    root, parts = _home(file)
    if len(parts) == 1 and file.name != "__init__.py":
        return _lone(file)
    if not all(part.isidentifier() for part in parts):
        return _lone(file)
    _on_path(root)
    return _as_module(".".join(parts), file)


def _as_module(name: str, file: Path) -> ModuleType | Broken:
    """A module by its name, which must be this file."""
    found = _attempt(name, str(file), lambda: importlib.import_module(name))
    if isinstance(found, Broken) or _is(found, file):
        return found
    where = getattr(found, "__file__", None) or "elsewhere"
    return Broken(name, str(file), f"{name} is imported from {where} already, another one")


def _lone(file: Path) -> ModuleType | Broken:
    """A file of no package, under its own name where that is free."""
    _make_room(file.parent)
    _on_path(file.parent, first=True)
    _OURS.add(str(file.parent))
    name = file.stem
    if name.isidentifier() and name not in sys.modules:
        with contextlib.suppress(ImportError, ValueError):
            spec = importlib.util.find_spec(name)
            if spec is not None and spec.origin and os.path.samefile(spec.origin, file):
                return _attempt(name, str(file), lambda: importlib.import_module(name))
    name = f"{re.sub(r'[^0-9a-zA-Z_]', '_', name)}_{zlib.crc32(os.fsencode(file)):08x}"
    return _attempt(file.stem, str(file), lambda: _executed(name, file))


def _executed(name: str, file: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{file} is no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles look there for their own module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _make_room(folder: Path) -> None:
    """Lets a folder's files be imported by names that files of an earlier folder of ours have."""
    names = {path.stem for path in folder.glob("*.py")}
    names |= {path.parent.name for path in folder.glob("*/__init__.py")}
    for name in names:
        place = getattr(sys.modules.get(name), "__file__", None)
        if place is None:
            continue
        top = Path(place).parent.parent if Path(place).name == "__init__.py" else Path(place).parent
        if str(top) in _OURS and top != folder:
            for other in [n for n in sys.modules if n == name or n.startswith(f"{name}.")]:
                del sys.modules[other]


def _imported(file: Path) -> ModuleType | None:
    for name, module in list(sys.modules.items()):
        if isinstance(module, ModuleType) and name != "__main__" and _is(module, file):
            return module
    return None


def _is(module: ModuleType, file: Path) -> bool:
    place = vars(module).get("__file__")
    if not isinstance(place, str) or os.path.basename(place) != file.name:
        return False
    with contextlib.suppress(OSError):
        return os.path.samefile(place, file)
    return False


def _on_path(folder: Path, first: bool = False) -> None:
    place = os.path.abspath(folder)
    if first and place in sys.path:
        sys.path.remove(place)
    if place not in sys.path:
        sys.path.insert(0, place)
    importlib.invalidate_caches()


def _home(file: Path) -> tuple[Path, list[str]]:
    """The folder that a file is imported from, and the parts of its name there."""
    is_package = file.name == "__init__.py"
    parts, folder = ([] if is_package else [file.stem]), file.parent
    while (folder / "__init__.py").is_file() and folder.name:
        parts.insert(0, folder.name)
        folder = folder.parent
    levels = len(parts) - (not is_package)
    for _ in range(_highest_level(file) - levels):  # folders that are packages without saying so
        if not folder.name.isidentifier():
            break
        parts.insert(0, folder.name)
        folder = folder.parent
    return folder, parts


def _highest_level(file: Path) -> int:
    """How many dots its relative imports have, at most."""
    try:
        tree = ast.parse(file.read_bytes())
    except (SyntaxError, ValueError, RecursionError, OSError):
        return 0  # which importing it will say
    levels = [node.level for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
    return max(levels, default=0)
