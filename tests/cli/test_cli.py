"""`funcnet` itself: its help and version, and that only the command that is asked for is loaded."""

import importlib

import pytest

import funcnet
from funcnet import cli
from tests.support.processes import run_python


@pytest.mark.parametrize("words", [[], ["--help"], ["-h"], ["--help", "train"]])
def test_help_lists_every_command_with_what_it_does(capsys, words):
    assert cli.main(words) == 0
    text = " ".join(capsys.readouterr().out.split())
    for name, place in cli.COMMANDS.items():
        assert f" {name} {place.does}" in text


@pytest.mark.parametrize("name", cli.COMMANDS)
def test_what_a_command_does_is_its_docstrings_first_line(name):
    place = cli.COMMANDS[name]
    command = getattr(importlib.import_module(place.module), place.name)
    assert command.__doc__.partition("\n\n")[0] == place.does


def test_version(capsys):
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out == f"funcnet {funcnet.__version__}\n"


def test_help_and_version_import_neither_jax_nor_a_command():
    out = run_python(
        "import sys\n"
        "from funcnet import cli\n"
        "for words in ([], ['--help'], ['--version']):\n"
        "    assert cli.main(words) == 0\n"
        "print(*sys.modules)\n"
    )
    loaded = set(out.splitlines()[-1].split())
    assert "funcnet.cli" in loaded
    assert not {"jax", "numpy", "tyro", "rich", "funcnet.cli._parser"} & loaded


@pytest.mark.integration
def test_a_command_is_loaded_without_the_others():
    out = run_python(
        "import sys\n"
        "from funcnet import cli\n"
        "assert cli.main(['train', '--help']) == 0\n"
        "print(*sys.modules)\n"
    )
    loaded = set(out.splitlines()[-1].split())
    assert "funcnet.cli._train_command" in loaded
    others = {place.module for name, place in cli.COMMANDS.items() if name != "train"}
    assert not (others | {"funcnet.bench", "funcnet.checks", "matplotlib", "scipy"}) & loaded


@pytest.mark.slow
def test_commands_that_compute_keep_their_memory_and_no_other_does():
    program = """
import sys
from funcnet import cli, kernels
kernels.keep_memory = lambda: print("kept")
cli.main = lambda: 0
for name in (*cli.COMMANDS, "--help"):
    sys.argv = ["funcnet", name]
    print(name)
    try:
        cli.program()
    except SystemExit:
        pass
"""
    words = run_python(program).split()
    assert {words[i - 1] for i, word in enumerate(words) if word == "kept"} == {
        "train",
        "sweep",
        "bench",
    }
