"""`funcnet report` and `funcnet train --report`: a page from a run's folder, whatever it lacks."""

import json
import os

import pytest

from funcnet import cli
from tests.support import command_lines, pages
from tests.support.command_lines import PROCESS

here = command_lines.here
TRAIN = ["train", *PROCESS, "--epochs", "1", "--quiet", "--checkpoint-every", "never"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "own"
    assert cli.main([*TRAIN, "--out", str(folder), "--report"]) == 0
    return folder


def copied(run, folder):
    """The run without its page, to be spoiled."""
    folder.mkdir(parents=True)
    for path in run.iterdir():
        if path.is_file() and path.name not in ("report.html", "report.json", "lock"):
            (folder / path.name).write_bytes(path.read_bytes())
    return folder


@pytest.mark.integration
def test_a_run_writes_its_page_where_it_is_asked_to(run):
    _, text = pages.read((run / "report.html").read_text())
    numbers = json.loads((run / "report.json").read_text())
    result = json.loads((run / "result.json").read_text())
    assert numbers["split"] == "test"
    assert (numbers["accuracy"], numbers["loss"]) == (result["test_accuracy"], result["test_loss"])
    assert numbers["result"] == result
    assert "funcnet train --data synthetic --net softmax" in text


@pytest.mark.integration
def test_the_command_makes_the_same_of_the_folder(run, tmp_path, capsys):
    page = tmp_path / "page.html"
    assert cli.main(["report", str(run), "--out", str(page)]) == 0
    assert capsys.readouterr().out == f"{page}\n"
    assert page.read_bytes() == (run / "report.html").read_bytes()
    assert page.with_suffix(".json").read_bytes() == (run / "report.json").read_bytes()


@pytest.mark.integration
def test_the_latest_run_is_the_default(run, here, capsys):
    for age, name in enumerate(("new", "old")):
        folder = copied(run, here / "runs" / name)
        for other in ("best.npz", "model.json", "history.jsonl"):  # which take their time
            (folder / other).unlink()
        os.utime(folder / "config.json", (1e9 - age, 1e9 - age))
    assert cli.main(["report"]) == 0
    assert capsys.readouterr().out.startswith("runs/new/report.html\nleft out: ")
    assert not (here / "runs/old/report.html").exists()


@pytest.mark.parametrize("what", ["gone", "others"])
def test_without_its_data_the_folder_is_told_of(run, tmp_path, capsys, here, what):
    folder = copied(run, tmp_path / "own")
    config = json.loads((folder / "config.json").read_text())
    if what == "gone":
        config["options"]["data"]["name"] = "cifar10"
    else:
        config["data_sha256"] = "0"
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "history.jsonl").unlink()  # whose curves take their time
    assert cli.main(["report", str(folder)]) == 0
    said = "found no complete copy" if what == "gone" else "the data are not those"
    assert said in capsys.readouterr().out
    _, text = pages.read((folder / "report.html").read_text())
    assert said in text
    assert "of the test examples are classified correctly" in text


@pytest.mark.parametrize(
    ("name", "text"), [("config.json", "{}"), ("best.npz", "no"), ("history.jsonl", "no\n{}\n")]
)
def test_a_damaged_folder_is_said_in_a_line(run, tmp_path, capsys, name, text):
    folder = copied(run, tmp_path / "own")
    (folder / name).write_text(text)
    assert cli.main(["report", str(folder)]) == 2
    err = capsys.readouterr().err
    assert err.startswith("funcnet report: error: ")
    assert name in err
    assert err.count("\n") == 1
    assert not (folder / "report.html").exists()
