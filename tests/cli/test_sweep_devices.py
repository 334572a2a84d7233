"""`funcnet sweep` over devices and processes: members are shared, and a signal to one ends all."""

import json
import signal
import subprocess
import sys
import time

import pytest

from tests.support.processes import ROOT, USERS_ENVIRONMENT, commands, device_flags, run_python

WORDS = ["sweep", "--data", "synthetic", "--net", "softmax", "--learning-rate", "1e-3", "1e-2"]


@pytest.mark.integration
def test_devices_of_one_process(tmp_path):
    words = [*WORDS, "1e300", "--epochs", "1"]
    out = run_python(
        f"""
from funcnet import cli
words, folder = {words!r}, {str(tmp_path)!r}
assert cli.main([*words, "--devices", "9", "--out", folder + "/no"]) == 2
assert cli.main([*words, "--process", "1", "--out", folder + "/no"]) == 2
assert cli.main([*words, "--out", folder + "/one"]) == 0
assert cli.main([*words, "--devices", "2", "--out", folder + "/two"]) == 0
""",
        XLA_FLAGS=device_flags(3),
    )
    assert not (tmp_path / "no").exists()
    assert "1 of 3 devices is used, --devices all uses them all" in out
    assert "data 2; 1 devices are not used" in out
    one, two = ((tmp_path / name / "sweep.jsonl").read_text() for name in ("one", "two"))
    assert one == two
    assert len(one.splitlines()) == 3


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_to_one_process_ends_all_and_one_process_does_the_rest(tmp_path, signum, code):
    """Eight members over two processes of two devices, four at once."""
    folder = tmp_path / "swept"
    words = [*WORDS, "--seeds", "4", "--epochs", "400", "--how", "loop", "--out", str(folder)]
    children = commands(words, words, XLA_FLAGS=device_flags(2))
    try:
        limit = time.monotonic() + 200
        while not (folder / "0003.json").exists() and time.monotonic() < limit:
            time.sleep(0.02)
        children[1].send_signal(signum)
        said = [child.communicate(timeout=100) for child in children]
    finally:
        for child in children:
            child.kill()
    assert [child.returncode for child in children] == [code, code], said
    assert "data 4, 2 processes" in said[0][0]
    assert "4 of 8 members are in" in said[0][0]
    assert "Gloo" not in said[0][0]
    assert said[1][0] == said[0][1] == said[1][1] == ""
    done = {path: path.stat().st_mtime_ns for path in folder.glob("0*.json")}
    assert len(done) == 4
    rest = [sys.executable, "-m", "funcnet", *words]
    subprocess.run(rest, cwd=ROOT, env=USERS_ENVIRONMENT, check=True, timeout=300)
    assert all(path.stat().st_mtime_ns == then for path, then in done.items())
    rows = [json.loads(row) for row in (folder / "sweep.jsonl").read_text().splitlines()]
    assert sorted(row["member"] for row in rows) == list(range(8))


@pytest.mark.slow
def test_processes_that_are_asked_for_other_sweeps_end_with_a_line(tmp_path):
    words = [*WORDS, "--epochs", "1", "--out", str(tmp_path / "swept")]
    children = commands(words, [*words, "--epochs", "2"])
    said = [child.communicate(timeout=200) for child in children]
    assert [child.returncode for child in children] == [1, 2], said
    assert "holds another sweep (epochs: 1 there, 2 here" in said[1][1]
    assert "process 1 has failed" in said[0][1]
    assert all(text.count("\n") == 1 for _, text in said), said
