"""Runs `check_rule` on the corpus, and prints one line of JSON for each entry.

`python -m tests.wild.run [NAME ...]`. Each entry has a process of its own, as each user has: the
packages change JAX's configuration when they are imported. What is not done within `SECONDS` is
not judged; after `LIMIT` seconds a process is ended, and its line says where it was.
"""

from __future__ import annotations

import faulthandler
import json
import os
import subprocess
import sys
import time
import warnings
from typing import Any

from tests.wild.corpus import WILD
from tests.wild.entries import Wild

SECONDS = 60  # that an entry's checks may take: what is not done by then is not judged
LIMIT = 120  # seconds after which an entry's process is ended, wherever it is
IMPORTS = 120  # seconds that an entry may take in addition until it is made


def judged(wild: Wild) -> dict[str, Any]:
    """What `check_rule` says of an entry, in this process."""
    warnings.simplefilter("ignore")  # of the packages
    f, args = wild.make()
    from funcnet.checks import check_rule

    faulthandler.dump_traceback_later(LIMIT, exit=True)
    started = time.perf_counter()
    try:
        report = check_rule(f, *args, seconds=SECONDS, **wild.options)
    except Exception as error:
        # The function itself: what the checks raise is in their report.
        return {"verdict": "cannot be judged", "error": f"{type(error).__name__}: {error}"[:2000]}
    finally:
        faulthandler.cancel_dump_traceback_later()
    failing = {check.name: check.text for check in report.failed}
    return {
        "verdict": report.verdict,
        "seconds": round(time.perf_counter() - started, 1),
        "failing": failing,
        "notes": list(report.notes),
    }


def line(wild: Wild) -> dict[str, Any]:
    """The line of an entry, from a process of its own."""
    about = {
        "entry": wild.entry,
        "version": wild.version,
        "deserves": wild.deserves,
        "expects": "expect" in wild.options,
    }
    command = [sys.executable, "-m", "tests.wild.run", "--here", wild.entry]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT + IMPORTS, check=False
        )
    except subprocess.TimeoutExpired:
        return about | {"verdict": "hangs", "error": "its process had to be killed"}
    lines = [text for text in done.stdout.splitlines() if text.startswith('{"verdict"')]
    if lines:
        return about | json.loads(lines[-1])
    verdict = "hangs" if "Timeout (" in done.stderr else "died"
    return about | {"verdict": verdict, "error": done.stderr[-2000:]}


def main(arguments: list[str]) -> None:
    here = arguments[:1] == ["--here"]
    wanted = arguments[here:]
    known = {wild.entry: wild for wild in WILD}
    for name in wanted or known:
        print(json.dumps(judged(known[name]) if here else line(known[name])), flush=True)
    if here:
        os._exit(0)  # a check whose time was over may still compile


if __name__ == "__main__":
    main(sys.argv[1:])
