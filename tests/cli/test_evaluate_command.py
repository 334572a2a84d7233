"""`funcnet evaluate`: a run's own numbers to the bit, and those of other data."""

import json

import numpy as np
import pytest

import funcnet
from funcnet import cli, data, nets, optimizers, train
from tests.support.command_lines import blank_figures, here  # noqa: F401  (fixtures)

TRAIN = "train --data synthetic --net softmax --epochs 2 --out run --quiet"


@pytest.fixture
def run(here):  # noqa: F811
    assert cli.main(TRAIN.split()) == 0
    return here / "run"


def measured(capsys, *words):
    assert cli.main(["evaluate", *words, "--json", "-"]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.integration
def test_numbers_of_the_run_are_those_of_its_result(run, capsys):
    result = json.loads((run / "result.json").read_text())
    found = measured(capsys, "run")
    assert found["loss"] == result["test_loss"]
    assert found["accuracy"] == result["test_accuracy"]
    assert found["examples"] == 200
    assert measured(capsys, "run", "--split", "val")["accuracy"] == result["val_accuracy"]
    assert measured(capsys, "run", "--data", "synthetic", "--split", "test") == found

    assert cli.main(["evaluate", "run"]) == 0
    printed = capsys.readouterr().out
    assert f"accuracy  {found['accuracy']:.6g}" in printed
    assert cli.main(["evaluate", "run", "--json", "numbers.json"]) == 0
    assert json.loads((run.parent / "numbers.json").read_text()) == found


def test_other_data_are_measured_whole_and_their_classes_matched_by_name(run, capsys):
    trained, others = funcnet.load("run"), data.synthetic(seed=1).test
    names = np.array(trained.classes)[others.labels]
    np.savez("others.npz", images=others.images, labels=names)
    found = measured(capsys, "run", "--data", "others.npz")
    assert found["split"] == "all"
    want = trained.evaluate(others)
    assert found["accuracy"] == want["accuracy"]
    assert found["loss"] == pytest.approx(want["loss"], rel=1e-6)  # the rows' order is another


def test_what_cannot_be_measured_is_refused_in_one_line(run, capsys):
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps(config | {"data_sha256": "0"}))
    (run.parent / "bare").mkdir()
    funcnet.save(run.parent / "bare", funcnet.load("run"))
    for words, said in {
        "run": "the data are not those that the run in run was trained on (another SHA-256)",
        "bare": "bare does not say which data its net was trained on",
    }.items():
        assert cli.main(["evaluate", words]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert said in line


@pytest.mark.integration
def test_a_table_is_measured_with_the_categories_of_the_run(here, capsys):  # noqa: F811
    pytest.importorskip("polars", reason="Polars is not installed")
    names = {0: "low", 1: "high"}
    lines = [f"{i % 2 + i / 100},{'rg'[i % 3 > 0]},{names[i % 2]}" for i in range(40)]
    (here / "all.csv").write_text("\n".join(["size,colour,class", *lines, ""]))
    (here / "few.csv").write_text("\n".join(["colour,class,size", "r,low,0.1", "r,high,1.1", ""]))
    dataset = data.read("all.csv")
    trained = train.fit(nets.affine(2), dataset, optimizers.adam(0.1), 20, 10).trained
    funcnet.save("cells", trained)
    assert measured(capsys, "cells", "--data", "all.csv")["examples"] == 40
    found = measured(capsys, "cells", "--data", "few.csv")
    want = trained.evaluate(data.Split(np.array([[0.1, 0, 1], [1.1, 0, 1]]), np.array([1, 0])))
    assert {key: found[key] for key in want} == want
    (here / "new.csv").write_text("size,colour,class\n1,mauve,low\n1,r,high\n")
    assert cli.main(["evaluate", "cells", "--data", "new.csv"]) == 2
    assert "mauve" in capsys.readouterr().err


def test_other_classes_and_other_kinds_of_data_are_refused(run, capsys):
    images = data.synthetic().test.images
    np.savez("others.npz", images=images, labels=np.where(np.arange(200) % 2, "cat", "dog"))
    for path, said in {
        "others.npz": "'dog', expected one of the 10 classes",
        ".": "arrays",
    }.items():
        assert cli.main(["evaluate", "run", "--data", path]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert said in line
