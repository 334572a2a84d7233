"""Pages that are programs: their blocks are run, and what they show must be what came.

A page with the line `<!-- run -->` is run from its own source, top to bottom, in an empty folder:
`python` blocks in one process, `bash` blocks by bash. A `text` block right after one is what it
prints; `...` in it stands for anything, as in doctests. A block after `<!-- not run: WHY -->` is
left out, one after `<!-- with PACKAGE -->` where that is not installed. Pictures that the blocks
write are the page's: `images/made/PAGE/NAME.png`. Settings of the environment stand in the mark:
`<!-- run XLA_FLAGS=... -->`.

python -m tools.site.run            # all pages that have changed, or whose library has
python -m tools.site.run PAGE...    # these; with --write, what they print is written into them
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import doctest
import hashlib
import importlib.util
import io
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import NamedTuple

from funcnet import _machine

ROOT = Path(__file__).parent.parent.parent
CACHE = ROOT / "build" / "ran"  # not .cache, which Zensical empties
MARK = re.compile(r"^<!-- run( [^>]*)?-->$", re.MULTILINE)
BLOCK = re.compile(
    r"^(?P<skip><!-- not run: [^>]+ -->\n)?(?:<!-- with (?P<needs>\w+) -->\n)?"
    r"```(?P<kind>python|bash)\n(?P<code>.*?)^```\n"
    r"(?P<shown>\n*```text\n(?P<text>.*?)^```\n)?",
    re.DOTALL | re.MULTILINE,
)
CHECKER = doctest.OutputChecker()
OPTIONS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
SECONDS = 900  # for one page, on a machine that does other things too


class Ran(NamedTuple):
    """A page's faults, what each of its blocks printed, and how long it took."""

    faults: list[str]
    printed: list[str]
    seconds: float


def pages() -> list[Path]:
    """The pages that are run."""
    return [path for path in sorted((ROOT / "docs").glob("*.md")) if MARK.search(path.read_text())]


def blocks(text: str) -> list[re.Match[str]]:
    """The blocks that are run here."""

    def runs(block: re.Match[str]) -> bool:
        needs = block["needs"]
        return not block["skip"] and (not needs or importlib.util.find_spec(needs) is not None)

    return [block for block in BLOCK.finditer(text) if runs(block)]


def settings(text: str) -> dict[str, str]:
    mark = MARK.search(text)
    said = (mark[1] or "").split() if mark else []
    return dict(setting.split("=", 1) for setting in said)


def run(page: Path, pictures: Path) -> Ran:
    """Runs a page in a folder of its own, and moves what it drew to `pictures`."""
    text = page.read_text()
    found = blocks(text)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder, "work")
        work.mkdir()
        program = Path(folder, "blocks.json")
        program.write_text(json.dumps([[block["kind"], block["code"]] for block in found]))
        environment = {"PYTHONPATH": "", "NO_COLOR": "1", "COLUMNS": "100", **os.environ}
        environment |= settings(text)
        quick = _machine.quick_compile_flags()  # what is compiled here runs once or twice
        environment["XLA_FLAGS"] = f"{environment.get('XLA_FLAGS', '')} {quick}"
        environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
        command = [sys.executable, __file__, "--blocks", str(program)]
        ended = subprocess.run(
            command, cwd=work, env=environment, capture_output=True, text=True, timeout=SECONDS
        )
        answer = Path(folder, "blocks.out")
        results = json.loads(answer.read_text()) if answer.exists() else []
        pictures.mkdir(parents=True, exist_ok=True)
        for picture in [*work.glob("*.png"), *work.glob("*.svg")]:
            shutil.copy(picture, pictures)
    faults = []
    for block, (printed, error) in zip(found, results, strict=False):
        line = text[: block.start("code")].count("\n") + 1
        if error:
            faults.append(f"{page.name}:{line} raises\n{error}")
        elif block["shown"] and not CHECKER.check_output(block["text"], printed, OPTIONS):
            faults.append(f"{page.name}:{line} prints\n{printed}\nand shows\n{block['text']}")
    if len(results) < len(found) and not faults:
        faults.append(f"{page.name} ends early: {ended.stderr[-2000:]}")
    return Ran(faults, [printed for printed, _ in results], time.perf_counter() - began)


def key(page: Path) -> str:
    """What a page's run depends on: its source, the library, and the versions of others."""
    import jax

    digest = hashlib.sha256(page.read_bytes() + jax.__version__.encode() + sys.version.encode())
    digest.update(Path(__file__).read_bytes())
    for file in sorted((ROOT / "funcnet").rglob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()[:24]


def run_all(chosen: list[Path] | None = None) -> list[str]:
    """Runs the pages whose results are not kept, and returns the faults of all."""

    def fresh(page: Path) -> bool:
        kept = CACHE / page.stem / "key"
        return chosen is None and kept.exists() and kept.read_text() == key(page)

    def ran(page: Path) -> list[str]:
        kept = CACHE / page.stem
        shutil.rmtree(kept, ignore_errors=True)
        found = run(page, kept)
        print(f"{page.name}: {len(found.printed)} blocks, {found.seconds:.1f} s", flush=True)
        if not found.faults:
            (kept / "key").write_text(key(page))
        return found.faults

    stale = [page for page in (chosen or pages()) if not fresh(page)]
    with concurrent.futures.ThreadPoolExecutor(os.cpu_count()) as workers:
        return [fault for faults in workers.map(ran, stale) for fault in faults]


def write(page: Path) -> None:
    """Runs a page, and writes into it what its blocks print, where it shows anything."""
    ran = run(page, CACHE / page.stem)
    text = page.read_text()
    found = blocks(text)
    for block, printed in reversed(list(zip(found, ran.printed, strict=False))):
        if block["shown"]:
            lines = "\n".join(line.rstrip() for line in printed.rstrip().split("\n"))
            text = f"{text[: block.start('text')]}{lines}\n{text[block.end('text') :]}"
    page.write_text(text)


def run_blocks(program: Path) -> None:
    """Runs blocks in this process, one after the other, until one raises."""
    names: dict[str, object] = {"__name__": "__main__"}
    results = []
    for index, (kind, code) in enumerate(json.loads(program.read_text())):
        printed, error = io.StringIO(), ""
        if kind == "bash":
            command = ["bash", "-euo", "pipefail", "-c", code]
            ended = subprocess.run(command, capture_output=True, text=True, check=False)
            printed.write(ended.stdout)
            error = ended.stderr[-2000:] + ended.stdout[-2000:] if ended.returncode else ""
        else:
            try:
                with contextlib.redirect_stdout(printed):
                    exec(compile(code, f"block {index}", "exec"), names)
            except BaseException:
                error = traceback.format_exc()
        results.append((printed.getvalue(), error))
        program.with_suffix(".out").write_text(json.dumps(results))
        if error:
            return


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("pages", nargs="*", type=Path)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--blocks", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.blocks:
        sys.path[:1] = [""]
        run_blocks(asked.blocks)
        return 0
    if asked.write:
        for page in asked.pages:
            write(page)
    faults = run_all(asked.pages or None)
    print(*faults, sep="\n")
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
