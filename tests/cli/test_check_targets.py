"""`funcnet check TARGET...`: files, folders and packages of others, in their CI."""

import json
import os
import re
import shlex
import subprocess
import sys
import threading
import xml.etree.ElementTree as ET

import pytest

from funcnet import checks, cli
from tests.support import strangers
from tests.support.processes import USERS_ENVIRONMENT
from tests.support.strangers import RULES, write

folder = strangers.folder
FEW = """
FEW = {"checks": ["structure", "cotangent"]}
funcnet_samples = {"square": {"args": "f32[2]", **FEW}, "cube": {"args": "f32[2]", **FEW}}
"""
PACKAGE = {
    "pkg/__init__.py": "",
    "pkg/rules.py": RULES + FEW,
    "pkg/right.py": "from .rules import square, FEW\nimport jax\n"
    "same = jax.custom_vjp(lambda x: x)\n"
    "same.defvjp(lambda x: (x, None), lambda _, g: (g,))\n"
    "funcnet_samples = {'same': dict(args='f32[2]', **FEW)}\n",
    "pkg/bare.py": RULES.replace("cube", "third").replace("square", "second"),
}


@pytest.fixture
def here(folder, monkeypatch):
    """The package in the working folder."""
    monkeypatch.delenv("GITHUB_ACTIONS", raising=False)
    write(folder, PACKAGE)
    return folder


def check(words, capsys):
    code = cli.main(["check", *shlex.split(words)])
    return code, capsys.readouterr()


@pytest.mark.parametrize(
    ("words", "code", "verdicts"),
    [
        ("pkg/right.py", 0, "1 right"),
        ("pkg.right:same", 0, ""),
        ("pkg/rules.py", 1, "1 right, 1 wrong"),
        ("pkg.rules:cube", 1, ""),
        ("pkg/bare.py", 3, "2 cannot be judged"),
        ("pkg/__init__.py", 3, "no rule found"),
        ("pkg/right.py pkg.bare", 3, "1 right, 2 cannot be judged"),
        ("pkg", 1, "2 right, 1 wrong, 2 cannot be judged"),
        ("pkg pkg/rules.py pkg.right:same", 1, "2 right, 1 wrong, 2 cannot be judged"),
    ],
)
def test_every_kind_of_target_and_its_exit_code(here, capsys, words, code, verdicts):
    found, said = check(words, capsys)
    assert found == code
    assert said.err == ""
    assert re.search(rf"reports? in \d+ s: {verdicts}\n$" if verdicts else "check_rule", said.out)


def test_what_is_printed(here, capsys):
    _, said = check("pkg", capsys)
    lines = (here / "pkg/rules.py").read_text().splitlines()
    line = 1 + lines.index("def _cube_bwd(x, g):")
    assert re.search(rf"WRONG +pkg\.rules:cube +pkg/rules\.py:{line} +funcnet_samples", said.out)
    assert "\npkg.rules:cube WRONG\n" in said.out
    assert re.search(r"\n  cotangent: x\[.*factor", said.out)
    mend = 'say some in pkg.bare: funcnet_samples = {"second": "f32[3,4]"}  # x\n'
    assert mend in said.out


@pytest.mark.integration
def test_arguments_in_words(here, capsys):
    write(
        here,
        {
            "more.py": """
                import jax, jax.numpy as jnp
                from typing import NamedTuple

                class Params(NamedTuple):
                    w: object
                    b: object = None

                @jax.jit
                def dense(params, x, labels, act, mode, scale, axis=0):
                    assert mode == "same" and labels.dtype == jnp.int32 and axis == 1
                    return act(x @ params.w + params.b[None]) * scale
            """
        },
    )
    text = (here / "more.py").read_text().replace("@jax.jit\n", "")
    (here / "more.py").write_text(text)
    words = (
        "more.py:dense --args '@Params(f32[3,2], b=f32[2])' 'f32[4,3]' 'i32[4]:0..5' "
        "@jax.numpy:tanh \"'same'\" 0.5 axis=1"
    )
    code, said = check(words, capsys)
    assert code == 0, said
    assert "check_rule dense: right" in said.out


def test_json_on_stdout_is_alone(here, capsys):
    (here / "pkg/rules.py").write_text("print('loud')\n" + PACKAGE["pkg/rules.py"])
    code, said = check("pkg/rules.py --github --json -", capsys)
    document = json.loads(said.out)
    assert code == 1
    assert [rule["verdict"] for rule in document["rules"]] == ["right", "wrong"]
    report = checks.RuleReport.from_dict(document["rules"][1]["report"])
    assert report.failed[0].name == "cotangent"
    assert said.err.startswith("loud\n")
    assert "\n::error file=pkg/rules.py,line=" in said.err


@pytest.mark.slow
def test_stdout_of_a_process_is_alone_and_never_replaced(here):
    """Also what C prints is kept from it, and a shell's `>file` keeps what was there."""
    loud = "import os\nos.system('echo loud')\n"
    (here / "pkg/rules.py").write_text(loud + PACKAGE["pkg/rules.py"])
    code = "import sys; from funcnet import cli; sys.exit(cli.main(sys.argv[1:]))"
    with open(here / "out", "w+") as out, open(here / "three", "w+") as three:
        words = ["check", "pkg/rules.py", "--json", "/dev/stdout"]
        words += ["--junit", f"/dev/fd/{three.fileno()}"]
        out.write("before\n")
        out.flush()
        done = subprocess.run(
            [sys.executable, "-c", code, *words],
            stdout=out,
            stderr=subprocess.PIPE,
            pass_fds=[three.fileno()],
            text=True,
            env={**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu", "PYTHONDONTWRITEBYTECODE": "1"},
        )
        for file in (out, three):
            file.seek(0)
        before, _, rest = out.read().partition("\n")
        assert (done.returncode, before) == (1, "before"), done.stderr
        assert json.loads(rest)["counts"]["wrong"] == 1
        assert ET.fromstring(three.read()).get("failures") == "1"
    assert "loud" in done.stderr


def test_files(here, capsys):
    os.mkfifo("pipe")
    read = []
    reader = threading.Thread(target=lambda: read.append((here / "pipe").read_text()), daemon=True)
    reader.start()
    words = "pkg/right.py --json pipe --junit j.xml --sarif s.json --markdown /dev/null"
    code, _ = check(words, capsys)
    reader.join(10)
    assert code == 0
    assert json.loads(read[0])["counts"]["right"] == 1
    assert ET.parse("j.xml").getroot().get("tests") == "1"
    assert json.loads((here / "s.json").read_text())["version"] == "2.1.0"
    assert (here / "pipe").is_fifo()
    assert not os.path.isfile("/dev/null")


@pytest.mark.parametrize("asked", [True, False])
def test_annotations_on_github(here, capsys, monkeypatch, asked):
    if not asked:
        monkeypatch.setenv("GITHUB_ACTIONS", "true")
    code, said = check("pkg" + " --github" * asked, capsys)
    lines = [line for line in said.out.splitlines() if line.startswith("::")]
    kinds = [
        re.match(r"::(\w+) file=(pkg/\w+\.py),line=\d+,title=", line).groups() for line in lines
    ]
    assert kinds == [
        ("warning", "pkg/bare.py"),
        ("warning", "pkg/bare.py"),
        ("error", "pkg/rules.py"),
    ]
    assert code == 1


def test_further_verdicts_can_fail(here, capsys):
    assert check("pkg/bare.py --fail-on cannot-be-judged", capsys)[0] == 1
    assert check("pkg/right.py --fail-on imprecise by-design", capsys)[0] == 0


@pytest.mark.integration
def test_examples_are_drawn(here, capsys):
    text = PACKAGE["pkg/right.py"].partition("funcnet_samples")[0]
    text += "from jaxtyping import Array, Float\n"
    text += "same.fun.__annotations__['x'] = Float[Array, 'n d']\n"
    (here / "pkg/right.py").write_text(text)
    code, said = check("pkg/right.py --examples 2", capsys)
    assert code == 0
    assert "pkg.right:same/1" in said.out
    assert "2 right" in said.out


@pytest.mark.slow
def test_a_rule_of_the_catalogue_in_every_format(here, capsys):
    code, said = check("relu --junit - --markdown m.md --json j.json", capsys)
    assert code == 0
    (case,) = ET.fromstring(said.out)[0]
    assert (case.get("name"), case.get("classname")) == ("relu", "funcnet.layers._activations")
    assert "all right" in said.err
    assert json.loads((here / "j.json").read_text())[0]["name"] == "relu"
    assert "| relu |" in (here / "m.md").read_text()
