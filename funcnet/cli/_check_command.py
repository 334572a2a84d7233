"""`funcnet check`: certifies the catalogue, or a rule of your own."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
import math
import os
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
import tyro
from rich.table import Table
from rich.text import Text

from funcnet import _machine, checks
from funcnet._files import replacing
from funcnet.cli._command import (
    CommandError,
    console,
    expected_errors,
    option,
    print_whole,
    writable,
    written,
)


@dataclasses.dataclass(frozen=True)
class CheckCommand:
    """Certify every rule of the catalogue, or a backward rule of your own.

    Without a target, each rule is compared with autodiff of its plain twin and put through every
    check; the table shows the worst error in units of eps per dtype. With a target, that function
    is checked, and the report says where it is wrong and what kind of mistake it looks like.
    """

    target: tyro.conf.Positional[str | None] = None
    """FILE.py:FUNCTION, a function with a custom_vjp; or the name of a rule of the catalogue. Of
    the whole catalogue, if left out."""
    args: Annotated[tuple[str, ...], option("what FUNCTION_samples() in the file returns")] = ()
    """Sample arguments: a shape such as 5x4 (normal floats), 5:int10 (five ints below 10), key, or
    a number such as 0.5 (static)."""
    plain: Annotated[str | None, option("the function without its rule")] = None
    """The function in the same file that is the truth."""
    all_samples: bool = False
    """Check every sample of the catalogue's rules, not the first of each alone."""
    json: Annotated[str | None, option("none")] = None
    """File to write the reports to."""
    markdown: Annotated[str | None, option("none")] = None
    """File to write the table to, as Markdown."""
    seed: int = 0
    """What samples and cotangents are drawn from."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet check
  funcnet check batch_norm --all-samples
  funcnet check mylayers.py:my_norm --args 5x4 4 --plain my_norm_plain

The exit code is 1 where a rule is wrong. In a test the same is one line:
funcnet.checks.assert_rule(my_norm, x, gain).
"""

    def run(self) -> int:
        """Checks, prints, and writes the reports."""
        began = time.perf_counter()
        out = console()
        self._refuse()
        if self._is_stranger:
            reports = [self._stranger()]
            out.print(reports[0])
        else:
            reports = self._catalogue(out)
        if self.json is not None:
            with written("--json", self.json), replacing(self.json) as file:
                file.write(json.dumps([r.to_dict() for r in reports], indent=1).encode())
        if self.markdown is not None:
            with written("--markdown", self.markdown), replacing(self.markdown) as file:
                file.write(_markdown(reports).encode())
        wrong = [r.name for r in reports if not r.ok]
        if not self._is_stranger:
            seconds = time.perf_counter() - began
            verdict = f"{len(wrong)} wrong: {', '.join(wrong)}" if wrong else "all right"
            ran = sum(check.passed is not None for r in reports for check in r)
            out.print(f"{len(reports)} reports, {ran} checks in {seconds:.0f} s: {verdict}")
        return 1 if wrong else 0

    @property
    def _is_stranger(self) -> bool:
        return self.target is not None and ":" in self.target

    def _refuse(self) -> None:
        """Raises CommandError for options that say nothing, or nothing that can be done."""
        if not 0 <= self.seed < 2**32:
            raise CommandError(f"--seed is {self.seed}, expected a number from 0 to 2^32 - 1.")
        of_strangers = {"--args": self.args != (), "--plain": self.plain is not None}
        of_rows = {"--all-samples": self.all_samples}
        needs = "a rule of the catalogue" if self._is_stranger else "FILE.py:FUNCTION"
        for name, given in (of_rows if self._is_stranger else of_strangers).items():
            if given:
                raise CommandError(f"{name} is an option of {needs} alone.")
        writable("--json", self.json)
        writable("--markdown", self.markdown)

    def _stranger(self) -> checks.RuleReport:
        path, _, name = str(self.target).rpartition(":")
        if not path or not name:
            raise CommandError(f"{self.target} is no FILE.py:FUNCTION.")
        module = _module(path)
        function = _attribute(module, name, path)
        plain = None if self.plain is None else _attribute(module, self.plain, path)
        with _theirs(f"the sample arguments of {name}"):
            args, static = self._arguments(module, name)
        with _theirs(name), expected_errors():
            return checks.check_rule(
                function, *args, plain=plain, static=static, name=name, seed=self.seed
            )

    def _arguments(self, module: ModuleType, name: str) -> tuple[tuple[Any, ...], dict[str, Any]]:
        samples = getattr(module, f"{name}_samples", None)
        if self.args:
            rng = np.random.default_rng(self.seed)
            return tuple(_argument(word, rng) for word in self.args), {}
        if samples is None:
            raise CommandError(
                f"no sample arguments for {name}: give --args, such as --args 5x4 4, or define "
                f"{name}_samples() in the file, which returns a tuple of them (and, if need be, a "
                "dict of static options as a second value: (args, options))."
            )
        given = samples()
        if not isinstance(given, (tuple, list)):
            raise CommandError(
                f"{name}_samples() returned a {type(given).__name__}, expected a tuple."
            )
        if len(given) == 2 and isinstance(given[0], tuple) and isinstance(given[1], dict):
            return given[0], given[1]
        return tuple(given), {}

    def _catalogue(self, out: Any) -> list[checks.RuleReport]:
        from funcnet.catalogue import ROWS
        from funcnet.cli._certificate import certify

        if self.target is not None and self.target not in ROWS:
            raise CommandError(
                f"{self.target} is neither FILE.py:FUNCTION nor a rule of the catalogue: "
                f"{', '.join(ROWS)}."
            )
        rows = [row for name, row in ROWS.items() if self.target in (None, name)]
        reports: list[checks.RuleReport] = []
        with _fast_compilation():
            for row in rows:
                count = len(row.samples(np.random.default_rng(self.seed)))
                for index in range(count if self.all_samples else 1):
                    with out.status(f"{row.name} ({len(reports)} done)"):
                        reports.append(certify(row, index, self.seed))
        print_whole(out, table(reports))
        for report in reports:
            if not report.ok or len(reports) == 1:
                out.print(report)
        return reports


_MOST_ENTRIES = 10**7  # of a sample argument
DTYPES = {"cotangent": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
COLUMNS = ("rule", *DTYPES.values(), "2nd", "transf", "bytes", "plain's", "sees", "")


def table(reports: list[checks.RuleReport]) -> Table:
    """A row a rule: worst errors in eps, checks passed, residual bytes, detection, verdict."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in COLUMNS:
        justify: Any = "left" if column in ("rule", "") else "right"
        drawn.add_column(column, justify=justify, no_wrap=True)
    for report in reports:
        drawn.add_row(*cells(report))
    return drawn


def cells(report: checks.RuleReport) -> list[Any]:
    """One row of the table."""

    def worst(name: str) -> str:
        check = report[name]
        if check.passed is None or check.worst is None:
            return "-"
        return f"{check.worst:.2f}"

    def passed(*names: str) -> str:
        ran = [report[name] for name in names if report[name].passed is not None]
        return f"{sum(bool(check.passed) for check in ran)}/{len(ran)}"

    return [
        report.name,
        *(worst(name) for name in DTYPES),
        passed("second_order", "forward_over_reverse"),
        passed("jit", "vmap", "scan", "cond", "remat"),
        "-" if report.residual_bytes is None else str(report.residual_bytes),
        "-" if report.plain_residual_bytes is None else str(report.plain_residual_bytes),
        "-" if report.detects is None else f"{report.detects:.0e}",
        Text("right", "green") if report.ok else Text("WRONG", "bold red"),
    ]


def _markdown(reports: list[checks.RuleReport]) -> str:
    lines = [
        "# The certificate",
        "",
        "Made by `funcnet check --markdown docs/certificate.md`. Errors are the worst entry's, in",
        "units of eps of the dtype; `2nd` and `transf` count the checks of the second order and of",
        "jit, vmap, scan, cond and remat that passed; `bytes` are kept between the passes beside",
        "the arguments, `plain's` by autodiff of plain JAX; `sees` is the smallest relative error",
        "of a whole gradient that the comparison rejects on these samples.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(str(cell) for cell in cells(r)) + " |" for r in reports),
    ]
    return "\n".join(lines) + "\n"


def _module(path: str) -> ModuleType:
    file = Path(path)
    if not file.is_file():
        raise CommandError(f"{path} is no file; expected FILE.py:FUNCTION.")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    if spec is None or spec.loader is None:
        raise CommandError(f"{path} is no Python file; expected FILE.py:FUNCTION.")
    module = importlib.util.module_from_spec(spec)
    with _theirs(f"{path} does not import"):
        spec.loader.exec_module(module)
    return module


@contextmanager
def _theirs(what: str) -> Iterator[None]:
    """Turns whatever code that is not ours raises into `CommandError`."""
    try:
        yield
    except CommandError:
        raise
    except (Exception, SystemExit) as error:
        raise CommandError(
            f"{what}: {type(error).__name__}: {error}. --traceback shows where."
        ) from error


def _attribute(module: ModuleType, name: str, path: str) -> Callable[..., Any]:
    function = getattr(module, name, None)
    if not callable(function):
        known = [k for k, v in vars(module).items() if isinstance(v, jax.custom_vjp)]
        raise CommandError(
            f"{path} has no function {name}; functions with a custom_vjp in it: "
            f"{', '.join(known) or 'none'}."
        )
    return function


def _argument(word: str, rng: np.random.Generator) -> Any:
    """A sample argument from its word: a shape, a shape of ints, a key, or a static number."""
    if word == "key":
        return jax.random.key(0)
    shaped = re.fullmatch(r"(\d+(?:x\d+)*)(?::int(\d+))?", word)
    if shaped:
        shape = tuple(int(size) for size in shaped[1].split("x"))
        if math.prod(shape) > _MOST_ENTRIES:
            raise CommandError(f"--args {word}: expected at most {_MOST_ENTRIES} numbers.")
        if shaped[2] is None:
            return rng.normal(size=shape)
        if not 1 <= int(shaped[2]) <= 2**31:
            raise CommandError(f"--args {word}: expected ints below 1 to 2^31.")
        return rng.integers(int(shaped[2]), size=shape, dtype=np.int32)
    if re.fullmatch(r"-?\d*\.\d+(e-?\d+)?", word):
        return float(word)
    raise CommandError(
        f"--args {word}: expected a shape such as 5x4, a shape of ints such as 5:int10, key, or a "
        "number with a point such as 0.5."
    )


class _fast_compilation:  # noqa: N801  (a context manager, read as a verb)
    """Hundreds of programs that run once: where no backend is up yet, XLA compiles them quickly."""

    def __enter__(self) -> None:
        self.flags = _machine.quick_compile_flags()
        os.environ.setdefault("XLA_FLAGS", self.flags)

    def __exit__(self, *exception: Any) -> None:
        if os.environ.get("XLA_FLAGS") == self.flags:
            del os.environ["XLA_FLAGS"]
