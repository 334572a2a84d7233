"""`funcnet check`: certifies the catalogue, or rules of your own."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar

import jax
import numpy as np
import tyro
from rich.table import Table

from funcnet import _machine, checks, discovery
from funcnet._files import descriptor, replacing
from funcnet.cli import _stdout
from funcnet.cli._check_targets import (
    found_in,
    judged,
    print_lines,
    rows,
    show,
    totals,
    verdict,
)
from funcnet.cli._command import (
    CommandError,
    console,
    option,
    print_whole,
    writable,
    written,
)

_BAD = tuple(v.replace(" ", "-") for v in checks.VERDICTS if v not in ("right", "wrong"))


@dataclasses.dataclass(frozen=True)
class CheckCommand:
    """Certify every rule of the catalogue, or the backward rules of your own files and packages.

    Without a target, each rule of funcnet is compared with autodiff of its plain twin and put
    through every check; the table shows the worst error in units of eps per dtype. With targets,
    every jax.custom_vjp and jax.custom_jvp that is defined in them is found and checked on its
    sample inputs, and the report says where a rule is wrong, in which line its backward function
    is, and what kind of mistake it looks like.
    """

    target: Annotated[
        tyro.conf.Positional[tuple[str, ...]],
        tyro.conf.arg(metavar="[TARGET ...]", help_behavior_hint="(default: all of the catalogue)"),
    ] = ()
    """FILE.py, FOLDER, MODULE or PACKAGE: every rule in it; FILE.py:FUNCTION, MODULE:FUNCTION or
    MODULE:CLASS.METHOD: this one; or the name of a rule of the catalogue."""
    args: Annotated[tuple[str, ...], option("what the target's module says")] = ()
    """Sample arguments of the one function that is the target, a word each: see below."""
    plain: Annotated[str | None, option("the function without its rule")] = None
    """The function in the same file that is the truth."""
    examples: int = 1
    """How many sizes and arrays to draw for a rule whose sample inputs are drawn."""
    seconds: float = 120.0
    """How long the checks of one rule of your own may take: what is not done then is not judged."""
    all_samples: bool = False
    """Check every sample of the catalogue's rules, not the first of each alone."""
    fail_on: Annotated[tuple[str, ...], option("wrong alone")] = ()
    """Further verdicts that make the exit code 1: imprecise, by-design, cannot-be-judged."""
    json: Annotated[str | None, option("none")] = None
    """File to write the reports to; - for stdout, which then holds nothing else."""
    junit: Annotated[str | None, option("none")] = None
    """File to write the reports to as JUnit's XML, or -."""
    sarif: Annotated[str | None, option("none")] = None
    """File to write what is not right to as SARIF, for code scanning, or -."""
    markdown: Annotated[str | None, option("none")] = None
    """File to write the table to as Markdown, or -."""
    github: Annotated[bool, option("on where GITHUB_ACTIONS is true")] = False
    """Print GitHub's workflow commands, which show what is wrong beside the code."""
    seed: int = 0
    """What samples and cotangents are drawn from."""
    traceback: bool = False
    """Show where an error came from."""

    EPILOG: ClassVar[str] = """
Examples:

  funcnet check
  funcnet check batch_norm --all-samples
  funcnet check mypackage.rules src/layers.py --junit report.xml
  funcnet check mylayers.py:my_norm --args 5x4 4 --plain my_norm_plain
  funcnet check mylayers.py:loss --args "f32[8,5]" "i32[8]:0..5" axis=1 --json -

The words of --args: a shape such as 5x4 (normal floats) or 5:int10 (five ints below 10), or with a
dtype f32[3,4], bf16[], bool[3], i32[8]:0..5 (0 to 4), f32[3]:-1..1; key; a number such as 0.5 or
int(4), 'SAME', True, None; tuples, lists and dicts of these, {"w": f32[3,2], "b": f32[2]};
@jax.numpy:tanh, a function, or @name of the target's module; @Params(f32[3,2], b=f32[2]), a
NamedTuple; and last static options, axis=0.

Without them the target's module says what its rules are checked on, or jaxtyping's annotations do:

  funcnet_samples = {
      "my_norm": "f32[5,4], f32[4]",
      "my_loss": lambda rng: (rng.normal(size=(8, 5)), rng.integers(5, size=8)),
      "my_pool": dict(args="f32[2,8,8,3]", plain=plain_pool, static={"window": 2}),
  }

The exit code is 0 where every rule is right, 1 where one is wrong, 2 for a wrong command line, and
3 where one cannot be judged, such as for want of sample inputs, or where there is none; 1 wins
over 3. In a test the same is one line, funcnet.checks.assert_rule(my_norm, x, gain), or one of
pytest's settings: funcnet_rules = ["mypackage.rules"]. More of it in docs/check_in_ci.md.
"""

    def run(self) -> int:
        """Checks, prints, and writes the reports."""
        files = self._files()
        self._refuse(files)
        streamed = [name for name, path in files.items() if _is_stdout(path)]
        if not streamed:
            return self._run(files, "")[0]
        with _stdout.reserved():
            code, text = self._run(files, streamed[0])
        print(text, end="")
        return code

    def _run(self, files: dict[str, str], streamed: str) -> tuple[int, str]:
        """The exit code, and the text of the file that is stdout."""
        began = time.perf_counter()
        out = console()
        if self._is_catalogue:
            judgements = self._catalogue(out)
            reports: Any = [j.report.to_dict() for j in judgements if j.report is not None]
            texts = {"--json": json.dumps(reports, indent=1)}
        else:
            found = found_in(self.target)
            with _fast_compilation():
                judgements = judged(
                    found, out, self.seed, self.examples, self.args, self.plain, self.seconds
                )
            show(out, found, judgements, self._is_one, self.traceback)
            texts = {"--json": discovery.to_json(judgements)}
        bad = [word.replace("-", " ") for word in self.fail_on]
        texts["--junit"] = discovery.to_junit(judgements, bad)
        texts["--sarif"] = discovery.to_sarif(judgements, bad)
        texts["--markdown"] = _markdown(judgements)
        for name, path in files.items():
            if name != streamed:
                with written(name, path), replacing(path) as file:
                    file.write(texts[name].encode())
        if self.github or os.environ.get("GITHUB_ACTIONS") == "true":
            print_lines(discovery.to_github(judgements, bad))
        if self._is_catalogue:
            wrong = [j.name for j in judgements if j.verdict == "wrong"]
            seconds = time.perf_counter() - began
            said = f"{len(wrong)} wrong: {', '.join(wrong)}" if wrong else "all right"
            ran = sum(check.passed is not None for j in judgements for check in j.report or ())
            precision = f"matmul precision {_precision()}"
            out.print(
                f"{len(judgements)} reports, {ran} checks in {seconds:.0f} s, {precision}: {said}"
            )
        elif not self._is_one or len(judgements) != 1 or judgements[0].report is None:
            out.print(totals(judgements, began))
        code = discovery.exit_code(judgements, bad) if judgements else 3
        return code, texts.get(streamed, "")

    @property
    def _is_catalogue(self) -> bool:
        return all(word.isidentifier() and word in rows() for word in self.target)

    @property
    def _is_one(self) -> bool:
        return len(self.target) == 1 and ":" in self.target[0]

    def _files(self) -> dict[str, str]:
        """The files to write, by the options that name them."""
        given = {
            **{"--json": self.json, "--junit": self.junit},
            **{"--sarif": self.sarif, "--markdown": self.markdown},
        }
        return {name: path for name, path in given.items() if path is not None}

    def _refuse(self, files: dict[str, str]) -> None:
        """Raises CommandError for options that say nothing, or nothing that can be done."""
        if not 0 <= self.seed < 2**32:
            raise CommandError(f"--seed is {self.seed}, expected a number from 0 to 2^32 - 1.")
        if not self.seconds > 0:
            raise CommandError(f"--seconds is {self.seconds}, expected more than 0.")
        if not 1 <= self.examples <= 1000:
            raise CommandError(f"--examples is {self.examples}, expected a number from 1 to 1000.")
        for word in self.fail_on:
            if word not in _BAD:
                raise CommandError(f"--fail-on is {word}, expected of {', '.join(_BAD)}.")
        of_one = {"--args": self.args != (), "--plain": self.plain is not None}
        for name, given in of_one.items():
            if given and not self._is_one:
                raise CommandError(
                    f"{name} is an option of FILE.py:FUNCTION and MODULE:FUNCTION alone."
                )
        if self.all_samples and not self._is_catalogue:
            raise CommandError("--all-samples is an option of a rule of the catalogue alone.")
        if self.examples != 1 and self._is_catalogue:
            raise CommandError("--examples is an option of targets of your own alone.")
        for name, path in files.items():
            if not _is_stdout(path):
                writable(name, path)
        streamed = [name for name, path in files.items() if _is_stdout(path)]
        if len(streamed) > 1:
            raise CommandError(f"{' and '.join(streamed)} are stdout, expected one of them.")

    def _catalogue(self, out: Any) -> list[discovery.Judgement]:
        from funcnet.cli._certificate import certify, with_meshes

        chosen = [row for name, row in rows().items() if not self.target or name in self.target]
        judgements: list[discovery.Judgement] = []
        with _fast_compilation():
            for row in chosen:
                count = len(row.samples(np.random.default_rng(self.seed)))
                file, line = discovery.place_of(row.function)
                for index in range(count if self.all_samples else 1):
                    with out.status(f"{row.name} ({len(judgements)} done)"):
                        report = certify(row, index, self.seed)
                    found = discovery.Judgement(
                        name=report.name,
                        module=row.function.__module__,
                        verdict=report.verdict,
                        file=file,
                        line=line,
                        origin="catalogue",
                        report=report,
                        seconds=report.seconds,
                    )
                    judgements.append(found)
            with out.status("over the devices of a mesh"):
                reports = with_meshes([j.report for j in judgements if j.report], self.seed)
        judgements = [
            dataclasses.replace(j, report=r, verdict=r.verdict, seconds=r.seconds)
            for j, r in zip(judgements, reports, strict=True)
        ]
        print_whole(out, table(judgements))
        for judgement in judgements:
            if judgement.verdict != "right" or len(judgements) == 1:
                out.print(judgement.report)
        return judgements


def _is_stdout(path: str) -> bool:
    return path == "-" or descriptor(path) == 1


DTYPES = {"cotangent": "f64", "float32": "f32", "bfloat16": "bf16", "float16": "f16"}
COLUMNS = ("rule", *DTYPES.values(), "2nd", "transf", "meshes", "bytes", "plain's", "sees", "")


def table(judgements: Sequence[discovery.Judgement]) -> Table:
    """A row a rule: worst errors in eps, checks passed, residual bytes, detection, verdict."""
    drawn = Table(box=None, pad_edge=False, padding=(0, 1, 0, 0), header_style="bold")
    for column in COLUMNS:
        justify: Any = "left" if column in ("rule", "") else "right"
        drawn.add_column(column, justify=justify, no_wrap=True)
    for judgement in judgements:
        drawn.add_row(*cells(judgement))
    return drawn


def cells(judgement: discovery.Judgement) -> list[Any]:
    """One row of the table."""
    report = judgement.report
    if report is None:
        return [judgement.name, *["-"] * (len(COLUMNS) - 2), verdict(judgement.verdict)]

    def worst(name: str) -> str:
        worst = report[name].worst if name in report else None
        return "-" if worst is None or report[name].passed is None else f"{worst:.2f}"

    def passed(*names: str) -> str:
        ran = [check for check in report if check.name in names and check.passed is not None]
        return f"{sum(bool(check.passed) for check in ran)}/{len(ran)}" if ran else "-"

    return [
        report.name,
        *(worst(name) for name in DTYPES),
        passed("second_order", "forward_over_reverse"),
        passed("jit", "vmap", "scan", "cond", "remat"),
        passed(*(check.name for check in report if check.name.startswith("sharding/"))),
        "-" if report.residual_bytes is None else str(report.residual_bytes),
        "-" if report.plain_residual_bytes is None else str(report.plain_residual_bytes),
        "-" if report.detects is None else f"{report.detects:.0e}",
        verdict(judgement.verdict),
    ]


def _precision() -> str:
    """The precision of products that the session asks for."""
    return str(jax.config.values["jax_default_matmul_precision"] or "default")


def _markdown(judgements: Sequence[discovery.Judgement]) -> str:
    lines = [
        "# The certificate",
        "",
        "Made by `funcnet check --markdown docs/certificate.md`. Errors are the worst entry's, in",
        "units of eps of the dtype; `2nd` and `transf` count the checks of the second order and of",
        "jit, vmap, scan, cond and remat that passed, `meshes` those of 64 rows over 2, 4 and 8",
        "virtual devices: on a mesh with auto axes, one with explicit axes, and in shard_map;",
        "`bytes` are kept between the passes beside the arguments, `plain's` by autodiff of",
        "plain JAX; `sees` is the smallest relative error of a whole gradient that the comparison",
        "rejects on these samples.",
        "",
        f"It was made with `jax_default_matmul_precision` = {_precision()}; the checks themselves",
        "ask for products at the highest.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(str(cell) for cell in cells(one)) + " |" for one in judgements),
    ]
    return "\n".join(lines) + "\n"


class _fast_compilation:  # noqa: N801  (a context manager, read as a verb)
    """Hundreds of programs that run once: where no backend is up yet, XLA compiles them quickly."""

    def __enter__(self) -> None:
        self.flags = _machine.quick_compile_flags()
        os.environ.setdefault("XLA_FLAGS", self.flags)

    def __exit__(self, *exception: Any) -> None:
        if os.environ.get("XLA_FLAGS") == self.flags:
            del os.environ["XLA_FLAGS"]
