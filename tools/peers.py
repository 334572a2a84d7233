"""Two processes of `funcnet train`, one of them killed or told to stop: `python -m tools.peers`.

deaths COUNT kills one process or the other, its parent or its child, at random moments from its
start on: the survivor has to end with exit code 1 and one line on stderr, and it is said how soon.
signals COUNT sends SIGTERM or SIGINT to one of them: both have to end with the same code, after the
same step, which the newest checkpoint and the next run confirm.
kills COUNT kills one amid training and saving, and resumes with one process or with two: the run
has to go on at the newest checkpoint, keep the rows from before, and end where one ends that nobody
killed.
"""

from __future__ import annotations

import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.support.processes import commands

LONGEST_SECONDS = 60.0
TRAIN = ["train", "--hidden", "16", "--batch-size", "64"]


def started(folder: Path, *words: str) -> list[subprocess.Popen[str]]:
    """The two processes of a run into a folder."""
    each = [*TRAIN, "--out", str(folder), *words]
    return commands(each, each, XLA_FLAGS="--xla_backend_optimization_level=0")


def child_of(pid: int) -> int:
    """The process that works for this one, itself where there is none yet."""
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return int(found[0]) if found else pid


def begun(folder: Path, seconds: float = 200.0) -> None:
    """Waits for the first row of a run's history."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        path = folder / "history.jsonl"
        if path.exists() and path.stat().st_size:
            return
        time.sleep(0.05)
    raise TimeoutError(f"{folder} has no history after {seconds} s")


def death(folder: Path, number: int) -> dict[str, Any]:
    """One process is killed; what the other made of it."""
    random.seed(number)
    pair = started(folder, "--epochs", "100000", "--checkpoint-every", "20steps")
    victim, survivor = pair if number % 2 else pair[::-1]
    try:
        if number % 4 < 3:
            begun(folder)
            time.sleep(random.uniform(0, 2))
            when = "in training"
        else:
            time.sleep(random.uniform(4, 15))
            when = "before training"
        whole = random.random() < 0.5
        os.kill(victim.pid if whole else child_of(victim.pid), signal.SIGKILL)
        at = time.monotonic()
        try:
            _, said = survivor.communicate(timeout=LONGEST_SECONDS)
        except subprocess.TimeoutExpired:
            return {"fine": False, "hung": True, "when": when}
        seconds = time.monotonic() - at
        lines = [line for line in said.splitlines() if line.strip()]
        return {
            "fine": survivor.returncode == 1 and len(lines) == 1,
            "code": survivor.returncode,
            "seconds": round(seconds, 1),
            "lines": lines,
            "when": when,
            "killed": f"process {number % 2 ^ 1}, {'the parent' if whole else 'the child'}",
        }
    finally:
        for process in pair:
            process.kill()
            process.communicate()


def stop(folder: Path, number: int) -> dict[str, Any]:
    """One process is told to stop; where both did."""
    random.seed(number)
    signum, code = ((signal.SIGTERM, 143), (signal.SIGINT, 130))[number % 4 // 2]
    pair = started(folder, "--epochs", "100000", "--checkpoint-every", "100000steps")
    try:
        begun(folder)
        time.sleep(random.uniform(0, 3))
        pair[number % 2].send_signal(signum)
        at = time.monotonic()
        said = [process.communicate(timeout=2 * LONGEST_SECONDS) for process in pair]
        seconds = time.monotonic() - at
        steps = re.findall(r"after step\s+(\d+)", said[0][0])
        saved = sorted((folder / "checkpoints").glob("step_*"))[-1]
        run = json.loads((saved / "run.json").read_text())
        codes = [process.returncode for process in pair]
        same = [str(run["step"])] == steps and all(
            (saved / name).exists() for name in ("arrays.npz", "arrays.1.npz")
        )
        return {
            "fine": codes == [code, code] and same and not (said[0][1] + said[1][1]).strip(),
            "codes": codes,
            "seconds": round(seconds, 1),
            "step": steps,
            "lines": [text for _, text in said],
        }
    finally:
        for process in pair:
            process.kill()
            process.communicate()


KILLED = ["--epochs", "60", "--checkpoint-every", "20steps"]


@functools.cache
def undisturbed() -> dict[str, Any]:
    """The last row of a run's history that nobody kills."""
    with tempfile.TemporaryDirectory() as folder:
        pair = started(Path(folder) / "run", *KILLED)
        for process in pair:
            process.communicate(timeout=300)
        return rows(Path(folder) / "run")[-1]


def rows(folder: Path) -> list[dict[str, Any]]:
    """A run's history, the whole lines of it."""
    lines = (folder / "history.jsonl").read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def kill(folder: Path, number: int) -> dict[str, Any]:
    """One process is killed; what a resumed run made of what is there."""
    random.seed(number)
    wanted = undisturbed()
    pair = started(folder, *KILLED)
    try:
        begun(folder)
        time.sleep(random.uniform(0, 4))
        done = all(process.poll() is not None for process in pair)
        victim = pair[number % 2].pid
        if not done:
            os.kill(victim if random.random() < 0.5 else child_of(victim), signal.SIGKILL)
        for process in pair:
            process.communicate(timeout=LONGEST_SECONDS)
    finally:
        for process in pair:
            process.kill()
            process.communicate()
    saved = folder / "checkpoints"
    steps = sorted(int(path.parent.name[5:]) for path in saved.glob("step_*/run.json"))
    before = [row for row in rows(folder) if steps and row["step"] <= steps[-1]]
    again = started(folder, "--resume") if number % 4 < 2 else [alone(folder)]
    said = [process.communicate(timeout=300) for process in again]
    after = rows(folder)
    went_on = not steps or any(f"step {steps[-1]}" in " ".join(out.split()) for out, _ in said)
    close = abs(after[-1]["loss"] - wanted["loss"]) <= 0.02 * wanted["loss"]
    whole = [row["epoch"] for row in after] == list(range(61)) and after[: len(before)] == before
    return {
        "fine": went_on and whole and close and all(p.returncode == 0 for p in again),
        "amid": not done,
        "saved": steps[-1:],
        "processes": len(again),
        "went_on": went_on,
        "whole": whole,
        "loss": (after[-1]["loss"], wanted["loss"]),
        "lines": [text for _, text in said if text],
    }


def alone(folder: Path) -> subprocess.Popen[str]:
    """One process that resumes."""
    return subprocess.Popen(
        [sys.executable, "-m", "funcnet", *TRAIN, "--out", str(folder), "--resume"],
        env={**os.environ, "JAX_PLATFORMS": "cpu"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def main(what: str, count: str) -> None:
    """Prints a line for each, and how many were as they have to be."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a job in the background ignores it
    fine, slowest = 0, 0.0
    for number in range(int(count)):
        folder = Path(tempfile.mkdtemp()) / "run"
        try:
            found = {"deaths": death, "signals": stop, "kills": kill}[what](folder, number)
        except (TimeoutError, subprocess.TimeoutExpired) as error:
            found = {"fine": False, "error": str(error)}
        shutil.rmtree(folder.parent)
        fine += found["fine"]
        slowest = max(slowest, found.get("seconds", 0.0))
        print(json.dumps(found), flush=True)
    print(f"{fine} of {count} {what}, the slowest after {slowest} s", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
