"""`funcnet train` over devices and processes: what is used, what is refused, how processes end."""

import json
import re
import subprocess
import sys

import pytest

from funcnet.cli._command import CommandError
from funcnet.cli._devices import _LOG, DeviceOptions, _axes
from tests.support.processes import ROOT, USERS_ENVIRONMENT, device_flags, free_port, run_python
from tools import peers


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"processes": 2}, "--processes and --process need --coordinator"),
        ({"coordinator": "auto", "process": 0}, "--processes and --process need"),
        ({"coordinator": "here", "processes": 2, "process": 0}, "expected HOST:PORT or auto"),
        ({"coordinator": "a:1", "processes": 2}, "--processes is 2 and --process None"),
        ({"coordinator": "a:1", "processes": 2, "process": 2}, "one of 0 to below it"),
    ],
)
def test_processes_that_contradict_each_other_are_refused(options, words):
    with pytest.raises(CommandError, match=words):
        DeviceOptions(**options).checked()


@pytest.mark.parametrize("text", ["data", "data=0", "data=2,data=2", "data=2 model=2", "=2"])
def test_axes_of_a_mesh(text):
    assert _axes("data=4,model=2") == {"data": 4, "model": 2}
    with pytest.raises(CommandError, match="expected axes with their sizes"):
        _axes(text)


def test_the_runtimes_log_is_told_from_what_we_say():
    lines = (
        "F1201 10:46:08.756463    9837 client.h:80] Terminating process because",
        "*** Check failure stack trace: ***",
        "    @     0x7f0419840634  absl::lts_20260107::log_internal",
        "[Gloo] Rank 0 is connected to 1 peer ranks.",
    )
    assert all(map(_LOG.match, lines))
    assert not _LOG.match("funcnet train: error: process 1: --epochs is -1")


@pytest.mark.integration
def test_eight_devices_of_one_process(tmp_path):
    """Said, refused and used, by one process of the command."""
    out = run_python(
        f"""
from funcnet import cli
quick = ["train", "--data", "synthetic", "--net", "softmax", "--epochs", "1"]
for words in (
    ["--devices", "9"], ["--devices", "no"], ["--mesh", "a=3", "--devices", "2"],
    ["--devices", "all", "--batch-size", "50"], ["--accumulate", "3", "--batch-size", "50"],
):
    assert cli.main([*quick, *words, "--out", {str(tmp_path / "no")!r}]) == 2, words
assert cli.main([*quick, "--out", {str(tmp_path / "one")!r}]) == 0
many = ["--batch-size", "40", "--mesh", "data=2,model=2", "--shard", "fsdp", "--accumulate", "2"]
assert cli.main([*quick, *many, "--out", {str(tmp_path / "four")!r}]) == 0
more = ["train", "--resume", "--epochs", "2", "--batch-size", "40"]
assert cli.main([*more, "--out", {str(tmp_path / "four")!r}]) == 0
""",
        XLA_FLAGS=device_flags(8),
    )
    assert not (tmp_path / "no").exists()
    assert "1 of 8 devices is used, --devices all uses them all" in out
    assert "data 2 × model 2, the state by fsdp; 4 devices are not used" in " ".join(out.split())
    config = json.loads((tmp_path / "four" / "config.json").read_text())
    assert config["options"]["training"]["accumulate"] == 2


@pytest.mark.slow
def test_the_four_commands_of_the_guide(tmp_path):
    """Two processes, evaluation, and one process that goes on, as the page has them."""
    text = (ROOT / "docs" / "many_devices.md").read_text()
    script = re.search(r"```bash\n(.*?)```", text, re.DOTALL)[1]
    assert script.count("funcnet ") == 4
    script = script.replace("funcnet ", f"{sys.executable} -m funcnet ")
    script = script.replace("29500", str(free_port()))
    environment = {**USERS_ENVIRONMENT, "JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", "-e", "-c", script],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=500,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    fewer = "funcnet train: warning: device: count 1, was 2: bits may differ\n"
    assert done.stderr == fewer  # of the last command, which goes on with one process
    rows = (tmp_path / "runs" / "two" / "history.jsonl").read_text().splitlines()
    assert [json.loads(row)["epoch"] for row in rows] == [0, 1, 2, 3, 4, 5]
    assert done.stdout.count("epoch 2/4") == 1  # of process 0 alone
    assert "goes on" in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("number", range(4))
def test_who_is_left_ends_with_one_line(tmp_path, number):
    found = peers.death(tmp_path / "run", number)
    assert found["fine"], found


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 3])
def test_a_signal_to_one_ends_both_after_the_same_step(tmp_path, number):
    found = peers.stop(tmp_path / "run", number)
    assert found["fine"], found
