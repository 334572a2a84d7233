"""What a command prints, where: other encodings, closed pipes, full disks, files and terminals."""

import contextlib
import io
import json
import os
import pathlib
import shlex
import sys

import matplotlib
import pytest

from funcnet import cli, nets, plots
from funcnet.cli import _command
from funcnet.cli._sweep_command import _shown
from funcnet.cli._train_report import Report, layers
from funcnet.train import Progress
from tests.support.bench_files import reports
from tests.support.lanes import by_default

QUICK = "train --net softmax --epochs 2 --out run"
SWEEP = "sweep --net softmax --epochs 1 --learning-rate 1e-3 1e-2 --how loop --out swept"


@pytest.fixture
def here(tmp_path, monkeypatch):
    """An empty working folder, without data sets."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("FUNCNET_DOWNLOAD", "0")
    monkeypatch.setenv("FUNCNET_DATA_DIR", str(tmp_path / "data"))
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@contextlib.contextmanager
def printing_to(stream):
    """What is printed goes there; pytest's own stdout comes back in the end."""
    with contextlib.redirect_stdout(stream):
        yield stream


# --- Encodings


HELPS = [f"{command} --help" for command in ("", *cli.COMMANDS)]
PRINTING = [*HELPS, "--version", "info", "bench --load good.json"]


@pytest.mark.integration
@pytest.mark.parametrize(
    "case",
    by_default(
        [(line, encoding) for line in PRINTING for encoding in ("ascii", "cp1252")]
        + [(line, "ascii") for line in (QUICK, SWEEP, "check relu")],
        {*((line, "ascii") for line in PRINTING), ("info", "cp1252"), (QUICK, "ascii")},
    ),
    ids="-".join,
)
def test_every_encoding_takes_what_is_printed(here, capsys, case):
    """Nothing raises, and nothing comes out as an escape: "×" is x where there is no such sign."""
    line, encoding = case
    (here / "good.json").write_text(reports()["good.json"])
    stream = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    with printing_to(stream):
        assert cli.main(shlex.split(line)) == 0
    printed = stream.buffer.getvalue().decode(encoding)
    assert printed.strip()
    assert "\\x" not in printed
    assert "\\u" not in printed
    if line == QUICK:
        assert "images of 8x8x1" in printed
    assert capsys.readouterr().err == ""


def test_names_of_files_pass_as_they_are_and_other_alphabets_as_escapes():
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="surrogateescape")
    name = "größe".encode()
    with printing_to(stream), cli._stdout.robust():
        print("3×4 in", name.decode("ascii", "surrogateescape"))  # as an ASCII locale reads it
        print("語")
    assert stream.buffer.getvalue() == b"3x4 in " + name + b"\n\\u8a9e\n"


# --- A stdout that takes no more


@contextlib.contextmanager
def nobody_reads():
    """A pipe whose reader is gone."""
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as stream, printing_to(stream):
        yield


@contextlib.contextmanager
def full_disk():
    """A file on a disk without room."""
    with open("/dev/full", "w") as stream, printing_to(stream):
        yield


CLOSED = [
    pytest.param(nobody_reads, 141, "Broken pipe", id="pipe"),
    pytest.param(
        full_disk,
        1,
        "No space left on device",
        id="disk",
        marks=[
            pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full"),
            pytest.mark.slow,
        ],
    ),
]


@pytest.mark.integration
@pytest.mark.parametrize(("closed", "code", "why"), CLOSED)
def test_a_closed_stdout_ends_a_run_as_ctrl_c_does(here, capsys, closed, code, why):
    """The run is saved at the end of its chunk, stderr says how it goes on, and so it does."""
    with closed():
        assert cli.main(shlex.split("train --net softmax --epochs 4 --out 'a run'")) == code
    (line,) = capsys.readouterr().err.splitlines()
    said = f"funcnet train: stdout is closed ({why}). Interrupted after step "
    assert line.startswith(said)
    again = line.partition("It goes on by: funcnet ")[2]
    steps = int(line.removeprefix(said).partition(":")[0])
    result = json.loads(pathlib.Path("a run/result.json").read_text())
    assert (result["stopped"], result["steps"]) == ("interrupted", steps)
    assert steps < 100
    assert cli.main([*shlex.split(again), "--quiet"]) == 0
    history, losses = plots.load_run("a run")
    assert (history["epoch"], len(losses)) == ([0, 1, 2, 3, 4], 100)


@pytest.mark.integration
@pytest.mark.parametrize(("closed", "code", "why"), CLOSED)
def test_a_closed_stdout_ends_a_sweep_as_ctrl_c_does(here, capsys, closed, code, why):
    with closed():
        assert cli.main(shlex.split(SWEEP)) == code
    assert capsys.readouterr().err == (
        f"funcnet sweep: stdout is closed ({why}): 1 of 2 members are in swept; the same command "
        "with --out swept runs the rest.\n"
    )
    assert cli.main([*shlex.split(SWEEP), "--quiet"]) == 0
    assert (here / "swept/sweep.json").exists()


@pytest.mark.parametrize("line", ["info", "--help", "train --help", "--version", "bench --load r"])
def test_the_others_end_quietly_where_nobody_reads(here, capsys, line):
    (here / "r").write_text(reports()["good.json"])
    with nobody_reads():
        assert cli.main(shlex.split(line)) == 0
    assert capsys.readouterr().err == ""


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
@pytest.mark.parametrize("line", ["info", "--help", "--version"])
def test_the_others_say_that_the_disk_is_full(here, capsys, line):
    with full_disk():
        assert cli.main(shlex.split(line)) == 1
    assert capsys.readouterr().err == (
        "funcnet: error: cannot write to stdout: No space left on device.\n"
    )


@pytest.mark.integration
def test_without_a_stdout_a_run_is_a_run(here, capsys, monkeypatch):
    """A shell's `>&-`, or a service's, is None."""
    monkeypatch.setattr(sys, "stdout", None)
    assert cli.main(shlex.split(QUICK)) == 0
    assert sys.stdout is None
    assert (here / "run/result.json").exists()


# --- Files and terminals


class Screen(io.StringIO):
    """A terminal."""

    def isatty(self):
        return True


@pytest.mark.parametrize(
    ("stream", "environment", "bar", "colours"),
    [
        (Screen, {"TERM": "xterm"}, True, True),
        (Screen, {"TERM": "xterm", "NO_COLOR": "1"}, True, False),
        (Screen, {"TERM": "dumb"}, False, False),
        (io.StringIO, {"TERM": "xterm"}, False, False),
        (io.StringIO, {"TERM": "xterm", "FORCE_COLOR": "1"}, False, True),
        (io.StringIO, {"TERM": "xterm", "FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        (io.StringIO, {"TERM": "xterm", "TTY_COMPATIBLE": "1"}, False, True),
    ],
    ids=["bar", "grey bar", "dumb", "file", "coloured file", "grey file", "a CI's log"],
)
def test_a_bar_lives_on_a_terminal_and_elsewhere_there_are_lines(
    here, monkeypatch, stream, environment, bar, colours
):
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    row = {"epoch": 1, "step": 9, "loss": 2.3, "train_accuracy": 0.1, "val_accuracy": 0.125}
    with cli._stdout.robust(), printing_to(stream()) as screen:
        console = _command.console()
        with Report(console, epochs=4) as report:
            report.step(Progress(2, 4, 30, 100, 0.25, 0.9, 1234.0, 65.2), 300)
            report._bar.refresh()
            report.epoch(row | {"images_per_second": None, "seconds": 0.5})
        with _shown(console, 3):
            pass
        with console.status("relu (2 done)"):
            pass
        console.print("told", style="cyan")
    printed = screen.getvalue()
    assert ("\x1b[?25l" in printed) == bar  # the cursor is hidden
    assert ("step 30/100" in printed) == bar
    assert printed.count("epoch 1/4  step 9  loss 2.3000") == 1
    assert ("relu (2 done)" in printed) == bar
    assert ("\x1b[36mtold" in printed) == colours


def test_a_narrow_terminal_cuts_no_cell(here, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    net = nets.fully_connected_net([500, 500], classes=10, norm="batch")
    with printing_to(io.StringIO()) as screen:
        console = _command.console()
        with contextlib.redirect_stdout(io.StringIO()):
            summary = nets.summary(net, (8, 8, 1))
        _command.print_whole(console, layers(summary))
        console.print("later")
        assert console.width == 40
    printed = screen.getvalue()
    assert "affine1 + batch_norm1 + relu1  500 " in printed
    assert "…" not in printed


# --- Figures that cannot be drawn


def usetex(monkeypatch):
    """A matplotlibrc's LaTeX, which is not installed."""
    monkeypatch.setenv("PATH", "")
    monkeypatch.setitem(matplotlib.rcParams, "text.usetex", True)


def missing(monkeypatch):
    """No matplotlib."""
    monkeypatch.setitem(sys.modules, "matplotlib", None)


def full(monkeypatch):
    """No room for the figure alone."""

    def save(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("funcnet._matplotlib.save", save)


TRAINED = "train --net softmax --epochs 0 --out run --quiet", "run/curves.png", "run/result.json"
SWEPT = f"{SWEEP} --quiet", "swept/sweep.png", "swept/sweep.json"
TROUBLES = [
    (full, "OSError: [Errno 28] No space left on device"),
    (usetex, "RuntimeError: Failed to process string with tex"),
    (missing, 'ImportError: plots needs matplotlib: pip install "funcnet[run]"'),
]


@pytest.mark.integration
@pytest.mark.parametrize(
    ("trouble", "why", "line", "figure", "result"),
    [
        *((*trouble, *TRAINED) for trouble in TROUBLES),
        (*TROUBLES[0], *SWEPT),
        *(pytest.param(*trouble, *SWEPT, marks=pytest.mark.slow) for trouble in TROUBLES[1:]),
    ],
)
def test_a_figure_that_cannot_be_drawn_is_a_line(
    here, capsys, monkeypatch, trouble, why, line, figure, result
):
    """Everything else of the run is there, and nothing of the figure."""
    trouble(monkeypatch)
    assert cli.main(shlex.split(line)) == 0
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"funcnet {line.split()[0]}: warning: {figure} could not be drawn: ")
    assert why in said
    assert (here / result).exists()
    assert not list((here / figure).parent.glob("*.png*"))


def test_the_figure_of_bench_fails_after_its_tables(here, capsys, monkeypatch):
    """It was asked for: the exit code is 1. What was measured is printed all the same."""
    (here / "r.json").write_text(reports()["good.json"])
    words = ["bench", "--load", "r.json", "--figure", "f.png"]
    assert cli.main(words) == 1  # there is nothing to draw
    printed = capsys.readouterr()
    assert "GFLOP/s" in printed.out
    (line,) = printed.err.splitlines()
    assert line.startswith("funcnet bench: error: --figure: f.png could not be drawn: ValueError")
    missing(monkeypatch)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: name != "matplotlib" or None)
    assert cli.main(words) == 2
    assert "matplotlib is not installed" in capsys.readouterr().err
