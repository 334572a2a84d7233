"""Targets: what a word names, and which modules are imported for it."""

import sys

import pytest

from funcnet import discovery
from tests.support import strangers
from tests.support.strangers import write

folder = strangers.folder

PACKAGE = {
    "pkg/__init__.py": "from .sub.rules import name",
    "pkg/base.py": "base = 'base'",
    "pkg/sub/__init__.py": "",
    "pkg/sub/rules.py": """
        import dataclasses
        from ..base import base

        @dataclasses.dataclass
        class Options:
            size: "int" = 3

        name = __name__ + base  # custom_vjp
    """,
    "pkg/__main__.py": "raise RuntimeError",
    "pkg/tests/test_rules.py": "raise RuntimeError  # custom_vjp",
}


def names(target):
    return [module.__name__ for module in target.modules]


def test_a_file_of_a_package_is_the_module_that_it_is(folder):
    write(folder, PACKAGE)
    loaded = discovery.load("pkg/sub/rules.py")
    assert names(loaded) == ["pkg.sub.rules"]
    assert loaded.modules[0] is sys.modules["pkg.sub.rules"]
    assert loaded.modules[0].name == "pkg.sub.rulesbase"
    assert discovery.load("pkg.sub.rules").modules == loaded.modules
    assert discovery.load("pkg/sub/rules.py:Options.size").name == "Options.size"


@pytest.mark.parametrize("word", ["pkg", ".", "./pkg/"])
def test_a_package_is_all_its_modules_but_for_tests(folder, word):
    write(folder, PACKAGE)
    loaded = discovery.load(word)
    assert set(names(loaded)) == {"pkg", "pkg.base", "pkg.sub", "pkg.sub.rules"}
    assert loaded.broken == ()


def test_a_package_below_src_and_one_that_is_nowhere(folder):
    write(folder, {f"src/{name}": content for name, content in PACKAGE.items()})
    assert set(names(discovery.load("pkg"))) == {"pkg", "pkg.base", "pkg.sub", "pkg.sub.rules"}
    with pytest.raises(discovery.TargetError, match=r"no file, folder or module pkg\.nothing"):
        discovery.load("pkg.nothing")


def test_a_lone_file_finds_its_neighbours_and_is_registered(folder):
    write(
        folder,
        {
            "one/rules.py": """
                import dataclasses, neighbour
                @dataclasses.dataclass
                class A:
                    b: "dataclasses.InitVar[int]" = 1
                here = neighbour.here
            """,
            "one/neighbour.py": "here = 'one'",
            "two/rules.py": "import neighbour; here = neighbour.here",
            "two/neighbour.py": "here = 'two'",
            "two/not-a-name.py": "here = __name__",
            "two/sys.py": "here = __name__",
        },
    )
    (one,) = discovery.load("one/rules.py").modules
    (two,) = discovery.load("two/rules.py").modules
    assert (one.here, two.here, one.__name__, two.__name__) == ("one", "two", "rules", "rules")
    (odd,) = discovery.load("two/not-a-name.py").modules
    assert odd.here.startswith("not_a_name_")
    (taken,) = discovery.load("two/sys.py").modules
    assert taken.here.startswith("sys_")
    assert sys.modules[taken.here] is taken


def test_folders_that_are_packages_without_saying_so(folder):
    write(
        folder,
        {"spaces/inner/rules.py": "from ..base import base", "spaces/base.py": "base = 'b'"},
    )
    (module,) = discovery.load("spaces/inner/rules.py").modules
    assert (module.__name__, module.base) == ("spaces.inner.rules", "b")


def test_a_folder_runs_no_script_and_says_what_does_not_import(folder):
    write(
        folder,
        {
            "lib/script.py": "raise RuntimeError('it ran')",
            "lib/rules.py": "import jax; name = jax.custom_vjp",
            "lib/broken.py": "import nowhere  # custom_vjp",
            "lib/.venv/x.py": "raise RuntimeError  # custom_vjp",
            "pack/__init__.py": "",
            "pack/optional.py": "import nowhere",
        },
    )
    loaded = discovery.load(".")
    assert names(loaded) == ["rules", "pack"]
    assert [one.module for one in loaded.broken] == ["broken"]
    assert "ModuleNotFoundError: No module named 'nowhere'" in loaded.broken[0].reason
    assert "broken.py" in loaded.broken[0].trace
    assert any("pack.optional does not import and mentions no" in note for note in loaded.notes)
    assert any(note.startswith("1 files that mention no rule") for note in loaded.notes)


def test_another_package_of_the_same_name(folder):
    write(folder, {"a/pkg/__init__.py": "", "a/pkg/m.py": "", "b/pkg/__init__.py": ""})
    write(folder, {"b/pkg/m.py": "", "b/pkg/n.py": ""})
    assert names(discovery.load("a/pkg/m.py")) == ["pkg.m"]
    (broken,) = discovery.load("b/pkg/m.py").broken
    assert "already, another one" in broken.reason


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("no.py", "no.py is no file"),
        ("x.py:", "is no FILE.py:FUNCTION"),
        ("x.py:1 + 1", "is no FILE.py:FUNCTION"),
        ("notes.txt", "notes.txt is no Python file"),
        ("no/where", "no/where is no file"),
        ("os.no", "for a function in os write os:no"),
        ("a folder:f", "a folder is no file"),
    ],
)
def test_what_names_nothing(folder, word, said):
    write(folder, {"notes.txt": "", "x.py": "", "a folder/x.py": ""})
    with pytest.raises(discovery.TargetError, match=said):
        discovery.load(word)
