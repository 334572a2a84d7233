"""The law of the house: who may import whom, and what a door holds.

The floors, from the ground up, are printed by `python -m tests.house.test_house`.
"""

import ast
import functools
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

import funcnet
from tests.support.processes import run_python

ROOT = Path(funcnet.__file__).parent
GROUND = {
    *("_validate", "_files", "_homes", "_machine", "_deprecated"),
    *("_matplotlib", "_moments", "_notebook", "_reports", "_jaxprs"),
    "_processes",
}
# What each room may import, beside the ground. A room that is not here may import nothing.
BELOW = {
    "kernels": "",
    "optimizers": "",
    "data": "",
    "augment": "data",
    "layers": "kernels",
    "losses": "kernels",
    "plain": "layers",
    "catalogue": "layers losses plain",
    "nets": "kernels layers",
    "train": "kernels losses nets data optimizers",
    "checkpoint": "kernels losses nets data train",
    "export": "kernels layers nets data train checkpoint",
    "sweep": "kernels losses nets data optimizers train checkpoint",
    "sklearn": "nets losses data optimizers train sweep",
    "checks": "kernels train checkpoint",
    "discovery": "checks",
    "pytest_plugin": "discovery",
    "bench": "kernels layers losses plain catalogue nets optimizers data train checks",
    "plots": "train sweep",
    "report": "nets data train checkpoint plots",
}
MOST_LINES, MOST_LINES_OF_A_BODY = 570, 80
BELOW["cli"] = " ".join(BELOW)
BELOW["__main__"] = "cli"


class Import(NamedTuple):
    """One import of one of funcnet's own names."""

    line: str
    room: str
    name: str
    inside: bool


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def statements(node, inside=False):
    """The statements below a node, none of their expressions, and whether a function holds them."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, (ast.stmt, ast.ExceptHandler, ast.match_case)):
            yield child, inside
            yield from statements(child, inside or isinstance(child, ast.FunctionDef))


@functools.cache
def imports():
    """Every import of funcnet in funcnet."""
    found = []
    for path in sorted(ROOT.rglob("*.py")):
        for node, inside in statements(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "funcnet":
                names = [f"{node.module}.{alias.name}" for alias in node.names]
            elif isinstance(node, ast.Import):
                names = [a.name for a in node.names if a.name.startswith("funcnet.")]
            else:
                continue
            line = f"{path.relative_to(ROOT.parent)}:{node.lineno}"
            for name in names:
                found.append(Import(line, room_of(path), name.removeprefix("funcnet."), inside))
    return [one for one in found if one.room != "__init__"]


def target(found):
    return found.name.split(".")[0]


def test_no_room_imports_what_is_private_to_another():
    wrong = [
        f"{found.line} imports {found.name}"
        for found in imports()
        if target(found) not in {found.room, *GROUND}
        and any(part.startswith("_") for part in found.name.split("."))
    ]
    assert not wrong, "\n".join(wrong)


def test_arrows_go_one_way():
    wrong = [
        f"{found.line}: {found.room} imports {target(found)}"
        for found in imports()
        if target(found) not in {found.room, *GROUND, *BELOW.get(found.room, "").split()}
    ]
    assert not wrong, "\n".join(wrong)


def test_no_import_goes_round_a_circle():
    """An import inside a function is for what is slow to load, or an extra: from below.

    So the commands import, and the plugin that every run of pytest loads.
    """
    wrong = [
        f"{found.line} imports {found.name}"
        for found in imports()
        if found.inside and found.room not in ("cli", "__main__", "pytest_plugin")
    ]
    assert not wrong, "\n".join(wrong)


def floors():
    """The rooms, floor by floor, the ground first."""
    graph = {}
    for found in imports():
        graph.setdefault(found.room, set()).add(target(found))
        graph.setdefault(target(found), set())
    for room, below in graph.items():
        below.discard(room)
    sorter = TopologicalSorter(graph)
    sorter.prepare()  # which raises where there is a circle
    while sorter.is_active():
        ready = sorter.get_ready()
        yield sorted(ready)
        sorter.done(*ready)


def test_the_floors_have_no_circle():
    assert GROUND & set(next(floors()))
    assert max(len(floor) for floor in floors()) > 1


def test_no_function_and_no_file_is_a_hall():
    """Bodies of at most 80 lines, signature and docstring aside; files of little over 500."""
    halls = []
    for path in sorted(ROOT.rglob("*.py")):
        text = path.read_text(encoding="utf-8")
        if text.count("\n") > MOST_LINES:
            halls.append(f"{path.relative_to(ROOT)} has {text.count(chr(10))} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                first = node.body[1:2] if ast.get_docstring(node) else node.body[:1]
                if first and node.end_lineno - first[0].lineno + 1 > MOST_LINES_OF_A_BODY:
                    halls.append(f"{path.relative_to(ROOT)}:{node.lineno} {node.name}")
    assert not halls, "\n".join(halls)


TESTS = Path(__file__).parents[1]
OF_NO_ROOM = {"support", "house", "courses", "wild"}
MOST_LINES_OF_TESTS = 600


def test_tests_mirror_the_rooms():
    rooms = {room_of(path) for path in ROOT.rglob("*.py")}
    folders = {path.relative_to(TESTS).parts[0] for path in TESTS.rglob("*.py")}
    assert folders - OF_NO_ROOM <= rooms, folders - OF_NO_ROOM - rooms


def test_no_test_imports_another_and_no_file_of_tests_is_a_hall():
    """What tests share is in `tests/support`, which knows none of them."""
    wrong = []
    for path in sorted(TESTS.rglob("*.py")):
        text, name = path.read_text(encoding="utf-8"), path.relative_to(TESTS)
        if (lines := text.count("\n")) > MOST_LINES_OF_TESTS:
            wrong.append(f"{name} has {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.ImportFrom):
                parts = [node.module or "", *(alias.name for alias in node.names)]
            elif isinstance(node, ast.Import):
                parts = [alias.name for alias in node.names]
            else:
                continue
            found = [part for part in ".".join(parts).split(".") if part.startswith("test_")]
            if found and not parts[0].startswith("jax"):
                wrong.append(f"{name}:{node.lineno} imports {found[0]}")
    assert not wrong, "\n".join(wrong)


def test_public_classes_say_the_room_that_shows_them():
    for name in funcnet.__all__[1:]:
        room = getattr(funcnet, name)
        if not hasattr(room, "__all__"):
            continue  # a function of a room's
        classes = [
            public for public in map(vars(room).get, room.__all__) if isinstance(public, type)
        ]
        private = [public for public in classes if "._" in public.__module__]
        assert not private, (name, private)


def test_rooms_and_extras_load_when_they_are_asked_for():
    """A room loads those below it, and importing the command none of what only its work needs."""
    out = run_python(
        "import sys, funcnet.train; print(*sys.modules); import funcnet.cli; print(*sys.modules)"
    )
    loaded, with_command = map(str.split, out.splitlines())
    assert "funcnet.train" in loaded
    assert not {"funcnet.bench", "funcnet.catalogue", "funcnet.checks"} & set(loaded)
    assert "funcnet.cli" in with_command
    assert not {"tyro", "rich", "matplotlib", "sklearn", "scipy"} & set(with_command)


if __name__ == "__main__":
    for number, floor in enumerate(floors()):
        print(number, *floor)
