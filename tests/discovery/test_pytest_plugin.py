"""The plugin of pytest, in a stranger's package with three rules of which one is wrong."""

import importlib.metadata
import re
import subprocess
import sys

import pytest

from tests.support.processes import USERS_ENVIRONMENT
from tests.support.strangers import RULES, write

INSTALLED = any(
    entry.name == "funcnet" for entry in importlib.metadata.entry_points(group="pytest11")
)
PACKAGE = {
    "mypkg/__init__.py": "",
    "mypkg/rules.py": RULES
    + """
@jax.custom_vjp
def double(x):
    return 2 * x

double.defvjp(lambda x: (2 * x, None), lambda _, g: (2 * g,))

funcnet_samples = {name: dict(args="f32[2]", checks=["cotangent"]) for name in ("square", "cube")}
funcnet_samples["double"] = dict(args="f32[2]", checks=["cotangent"])
""",
    "src/mypkg2/__init__.py": "",
    "src/mypkg2/other.py": RULES.replace("cube", "third").replace("square", "second"),
    "tests/test_one.py": "def test_one(): pass\n",
    "tests/samples.py": "from mypkg2.other import second\n"
    "funcnet_samples = {'second': dict(args='f32[2]', checks=['cotangent'])}\n",
}
SETTINGS = '[tool.pytest.ini_options]\nfuncnet_rules = ["mypkg.rules"]\n'


@pytest.fixture
def package(tmp_path):
    """The package, with the two lines of settings."""
    write(tmp_path, PACKAGE | {"pyproject.toml": SETTINGS})
    return tmp_path


def run(package, *lines, **environment):
    """What each of these lines of pytest says, and its exit code, all in one process."""
    plugin = [] if INSTALLED else ["-p", "funcnet.pytest_plugin"]
    usual = [*plugin, "-p", "no:cacheprovider", "-rA", "--tb=short"]
    code = (
        "import sys, pytest\n"
        f"for line in {[[*usual, *line] for line in lines]!r}:\n"
        "    print('<<', int(pytest.main(line)), flush=True)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=package,
        env={**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu", **environment},
        capture_output=True,
        text=True,
    )
    parts = re.split(r"<< (\d+)\n", done.stdout)
    assert len(parts) == 2 * len(lines) + 1, done.stdout + done.stderr
    return [(said, int(code)) for said, code in zip(parts[::2], parts[1::2], strict=False)]


def holds_one_red_and_two_green(package, said, code):
    """The red one with the line of its backward function, and nothing of the checker's own."""
    assert code == 1, said
    assert re.search(r"1 failed, 3 passed", said), said
    lines = (package / "mypkg/rules.py").read_text().splitlines()
    line = 1 + lines.index("def _cube_bwd(x, g):")
    assert f"mypkg/rules.py:{line}: check_rule cube: WRONG" in said
    assert re.search(r"PASSED mypkg/rules.py::rule\[square\]", said)
    assert re.search(r"FAILED mypkg/rules.py::rule\[cube\]", said)
    assert "cotangent: x[" in said
    assert "Traceback" not in said


@pytest.mark.slow
def test_rules_are_tests_in_each_process_of_xdist(package):
    ((said, code),) = run(package, ["-n", "2"])
    holds_one_red_and_two_green(package, said, code)


RULE_IDS = [f"mypkg/rules.py::rule[{name}]" for name in ("square", "cube", "double")]
OTHER_IDS = [f"src/mypkg2/other.py::rule[{name}]" for name in ("second", "third")]
BOTH = ["-o", "funcnet_rules=mypkg.rules\nsrc/mypkg2", "--collect-only", "-q"]
COLLECTED = [
    (["tests"], [*RULE_IDS, *OTHER_IDS, "tests/test_one.py::test_one"]),
    (["tests", "-k", "cube or one"], [RULE_IDS[1], "tests/test_one.py::test_one"]),
    (["tests/test_one.py"], ["tests/test_one.py::test_one"]),
    (["mypkg/rules.py::rule[cube]", "src/mypkg2/other.py"], [RULE_IDS[1], *OTHER_IDS]),
    (["mypkg/rules.py", "-o", "funcnet_rules=mypkg/rules.py:cube"], [RULE_IDS[1]]),
]


@pytest.mark.integration
def test_two_lines_of_settings_make_rules_tests(package):
    """Rules join runs of folders; of a file or a rule there is only what was asked for."""
    write(package, {"broken.py": "import nowhere  # custom_vjp"})
    other = "funcnet_rules=src/mypkg2/other.py"
    settings = [other + "\nno.such.module\nbroken.py", "funcnet_strict=true"]
    first, *collections, skipped, strict, apart = run(
        package,
        [],
        *([*BOTH, *words] for words, _ in COLLECTED),
        ["-o", other],
        ["-o", settings[0], "-o", settings[1], "tests"],
        ["-o", other + "\ntests/samples.py", "src"],
    )
    holds_one_red_and_two_green(package, *first)
    for (said, code), (_, expected) in zip(collections, COLLECTED, strict=True):
        ids = [line for line in said.splitlines() if re.match(r"\S+::\S+$", line)]
        assert (sorted(ids), code) == (sorted(expected), 0), said
    said, code = skipped
    assert code == 0, said
    assert re.search(r"1 passed, 2 skipped", said), said
    assert re.search(r"SKIPPED \[1\] src/mypkg2/other.py:\d+: no sample inputs: x has no ann", said)
    said, code = strict
    assert code == 1
    assert re.search(r"4 failed, 1 passed", said), said
    assert "there is no file, folder or module no.such.module" in said
    assert "broken does not import: ModuleNotFoundError" in said
    said, code = apart
    assert code == 0
    assert re.search(r"2 passed, 1 skipped", said), said
    assert "PASSED src/mypkg2/other.py::rule[second]" in said
    assert "PASSED tests/samples.py::rule[second]" in said


def test_without_the_settings_nothing_is_imported(package):
    (package / "pyproject.toml").write_text("")
    write(
        package,
        {
            "tests/test_one.py": """
                import sys
                def test_one():
                    loaded = {name.partition(".")[0] for name in sys.modules}
                    assert "funcnet.pytest_plugin" in sys.modules
                    assert "funcnet.checks" not in sys.modules
                    assert "funcnet.discovery" not in sys.modules
                    assert not loaded & {"jax", "jaxlib", "numpy", "optax"}, loaded
            """
        },
    )
    words = ["-p", "funcnet.pytest_plugin"] if INSTALLED else []
    ((said, code),) = run(package, words, PYTEST_DISABLE_PLUGIN_AUTOLOAD="1")
    assert code == 0, said
