"""`check_rule` on rules in the wild, in an environment of their packages."""

from __future__ import annotations

import json
import os
import pathlib
import shutil
import subprocess
import sys
import time
import venv

import pytest

from tests.support.processes import ROOT, USERS_ENVIRONMENT
from tests.wild.corpus import WILD
from tests.wild.entries import REQUIREMENTS

pytestmark = pytest.mark.slow


def install(folder: pathlib.Path) -> str:
    """Makes an environment, and returns what went wrong, if anything."""
    venv.create(folder, with_pip=True)
    command = ["-m", "pip", "install", "--quiet", "--no-deps", "-r", str(REQUIREMENTS)]
    done = subprocess.run(
        [folder / "bin" / "python", *command], capture_output=True, text=True, check=False
    )
    for stray in folder.glob("lib/*/site-packages/tests"):
        shutil.rmtree(stray)  # of e3nn-jax, and it would hide this folder
    return done.stderr[-1000:] if done.returncode else ""


@pytest.fixture(scope="module")
def interpreter(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """The Python of an environment with the packages, which the workers of xdist share."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "wild"
    told = folder.with_suffix(".txt")
    try:
        folder.mkdir()
    except FileExistsError:
        while not told.exists():
            time.sleep(1)
    else:
        problem = install(folder)
        told.with_suffix(".part").write_text(problem)
        told.with_suffix(".part").rename(told)
    if problem := told.read_text():
        pytest.skip(f"the packages cannot be installed for {sys.version.split()[0]}: {problem}")
    return folder / "bin" / "python"


@pytest.mark.parametrize("entry", [wild.entry for wild in WILD])
def test_a_rule_in_the_wild_is_judged_as_it_deserves(entry, interpreter):
    done = subprocess.run(
        [interpreter, "-m", "tests.wild.run", entry],
        env={**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    )
    found = json.loads(done.stdout)
    assert found["verdict"] in accepted(found), json.dumps(found, indent=2)


def accepted(found: dict) -> set[str]:
    """What was deserved; of no derivative by design whatever notices it, until `expect` is said."""
    deserves = found["deserves"]
    if deserves == "by design" and not found["expects"]:
        return {"wrong", "cannot be judged"}
    # Of float32 arguments what is as precise as they are is right.
    return {deserves, "right"} if deserves == "imprecise" else {deserves}
