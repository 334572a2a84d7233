"""Optax's own tests with funcnet's optimizers in the place of optax's, in a process of their own.

`python -m tests.support.optax_suite [alias_test] [contrib] [rest]` loads the test files that the
installed optax carries, with names patched, and prints a JSON object: the name of each test that
calls one of funcnet's optimizers, and what came of it: "ok", "skipped" (why, where it fails with
optax's own optimizers too), or the last line of its failure.
"""

from __future__ import annotations

import functools
import importlib
import json
import pathlib
import re
import sys
import unittest
from typing import Any

import optax
from absl import flags

from funcnet import optimizers

NAMES = [
    name
    for name in optimizers.__all__
    if name.islower() and (hasattr(optax, name) or hasattr(optax.contrib, name))
]
PARTS = ("alias_test", "contrib", "rest")
used, ours = False, True


def either(mine: Any, theirs: Any) -> Any:
    """Funcnet's function, or optax's where that is asked for; notes that it was called."""

    @functools.wraps(mine)
    def call(*args: Any, **options: Any) -> Any:
        global used
        used = True
        return (mine if ours else theirs)(*args, **options)

    return call


def patch() -> None:
    """Puts funcnet's optimizers under optax's names, wherever a module of optax has them."""
    homes = [module for name, module in sys.modules.items() if name.split(".")[0] == "optax"]
    for name in NAMES:
        theirs = getattr(optax if hasattr(optax, name) else optax.contrib, name)
        new = either(getattr(optimizers, name), theirs)
        for module in homes:
            if getattr(module, name, None) is theirs:
                setattr(module, name, new)


def test_modules() -> list[str]:
    root = pathlib.Path(optax.__file__).parent
    files = sorted(root.rglob("*_test.py"))
    words = re.compile(rf"\bopt_name\b|\b(?:alias|optax|contrib|_muon)\.(?:{'|'.join(NAMES)})\b")
    return [
        ".".join(("optax", *file.relative_to(root).with_suffix("").parts))
        for file in files
        if words.search(file.read_text())
    ]


def part_of(name: str) -> str:
    return next((part for part in PARTS if part in name), "rest")


def cases(suite: Any) -> Any:
    for item in suite:
        yield from cases(item) if isinstance(item, unittest.TestSuite) else [item]


def parameters(case: unittest.TestCase) -> str:
    return getattr(getattr(case, case._testMethodName), "__x_params_repr__", "")


def described(case: unittest.TestCase) -> str:
    """The test's class, method and parameters; its number is another in the next optax."""
    said = re.sub(r" at 0x[0-9a-f]+", "", parameters(case))
    method = re.sub(r"\d+$", "", case._testMethodName) if said else case._testMethodName
    return f"{type(case).__name__}.{method}{said}"


def of_others(case: unittest.TestCase) -> bool:
    """Whether a test's parameters name an optimizer that funcnet does not have."""
    said = parameters(case)
    named = re.findall(r"'?opt_name'?[=:] ?'(\w+)'", said)
    return bool(named) and not set(named) & set(NAMES)


def run(case: unittest.TestCase) -> str | None:
    """What came of a test; None where it called none of the optimizers."""
    global used, ours
    used, ours = False, True
    result = unittest.TestResult()
    case.run(result)
    if not used:
        needs = re.search(r"No module named '\w+'", "".join(said for _, said in result.errors))
        return f"skipped: {needs[0]}" if needs else None  # flax, of the extra `bench`
    if result.wasSuccessful():
        return "skipped" if result.skipped else "ok"
    ours, again = False, unittest.TestResult()
    case.run(again)
    if not again.wasSuccessful():
        return "skipped: fails with optax's own too"
    return (result.failures + result.errors)[0][1].strip().splitlines()[-1][:200]


def main() -> None:
    wanted = [argument for argument in sys.argv[1:] if argument in PARTS] or PARTS
    flags.FLAGS(["optax_suite"])
    patch()
    found: dict[str, str] = {}
    for name in test_modules():
        if part_of(name) not in wanted:
            continue
        try:
            module = importlib.import_module(name)
        except ModuleNotFoundError as error:  # flax, of the extra `bench`
            found[name.removeprefix("optax.")] = f"skipped: needs {error.name}"
            continue
        for case in cases(unittest.defaultTestLoader.loadTestsFromModule(module)):
            if of_others(case):
                continue
            outcome = run(case)
            if outcome is not None:
                key = f"{name.removeprefix('optax.')}.{described(case)}"
                found[key] = outcome
                print(key, outcome, file=sys.stderr, flush=True)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
