"""`funcnet predict`: what it reads, what it says, and that both are the net's own."""

import csv
import dataclasses
import io
import os
import subprocess
import sys

import numpy as np
import pytest

import funcnet
from funcnet import cli
from tests.support.run_folders import IMAGES, runs  # noqa: F401  (a fixture)


@pytest.fixture
def here(runs):  # noqa: F811
    np.save(runs / "images.npy", IMAGES)
    np.save(runs / "one.npy", IMAGES[0])
    np.save(runs / "flat.npy", IMAGES[:, :, :, 0])
    np.savez(runs / "images.npz", x=IMAGES)
    return runs


def rows(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


def test_a_table_for_people_has_names_classes_and_probabilities(here, capsys):
    assert cli.main(["predict", "classification", "images.npy", "one.npy"]) == 0
    header, *lines = capsys.readouterr().out.splitlines()
    assert header.split() == ["name", "prediction", "probability"]
    trained = funcnet.load("classification")
    for line, name, probabilities in zip(
        lines[:5], trained.predict(IMAGES), trained.predict_proba(IMAGES), strict=True
    ):
        assert line.split()[1:] == [name, f"{probabilities.max():.4f}"]
    assert lines[0].startswith("images.npy:1 ")
    assert lines[5].split()[0] == "one.npy"
    assert lines[5].split()[1:] == lines[0].split()[1:]


@pytest.mark.parametrize("file", ["images.npy", "images.npz", "flat.npy"])
def test_csv_has_the_numbers_in_full(here, capsys, file):
    assert cli.main(["predict", "classification", file, "--csv", "-", "--proba"]) == 0
    text = capsys.readouterr().out
    trained = funcnet.load("classification")
    assert text.startswith("name,prediction,probability,a,b,c\r\n")
    found = [[float(row[name]) for name in "abc"] for row in rows(text)]
    np.testing.assert_array_equal(found, trained.predict_proba(IMAGES))
    assert [row["prediction"] for row in rows(text)] == trained.predict(IMAGES).tolist()


def test_names_with_commas_are_quoted_and_a_file_is_written(here, capsys):
    os.rename("one.npy", 'a "b", c.npy')
    words = ["predict", "classification", 'a "b", c.npy', "--csv", "out.csv"]
    assert cli.main(words) == 0
    assert capsys.readouterr().out == ""
    text = (here / "out.csv").read_bytes().decode()
    assert '"a ""b"", c.npy"' in text
    assert [row["name"] for row in rows(text)] == ['a "b", c.npy']


def test_targets_and_labels_have_a_column_each(here, capsys):
    for words, want in {
        ("regression",): funcnet.load("regression").predict(IMAGES),
        ("multilabel",): funcnet.load("multilabel").predict(IMAGES),
        ("multilabel", "--proba"): funcnet.load("multilabel").predict_proba(IMAGES),
    }.items():
        run, *more = words
        assert cli.main(["predict", run, "images.npy", "--csv", "-", *more]) == 0
        found = rows(capsys.readouterr().out)
        np.testing.assert_array_equal([[float(r[name]) for name in "abc"] for r in found], want)


def test_the_latest_run_is_meant_where_none_is_named(here, capsys):
    (here / "runs").mkdir()
    for run in ("regression", "classification"):
        os.rename(run, f"runs/{run}")
        (here / f"runs/{run}/config.json").write_text("{}")
        os.utime(here / f"runs/{run}/config.json", ns=(0, 0 if run == "regression" else 10**12))
    assert cli.main(["predict", "one.npy"]) == 0
    printed = capsys.readouterr()
    assert "prediction" in printed.out
    assert printed.err == "funcnet predict: by the net of runs/classification\n"
    assert cli.main(["predict", "runs/regression", "one.npy"]) == 0
    assert capsys.readouterr().err == ""


def test_a_first_word_that_is_nowhere_may_have_meant_a_run(here, capsys):
    assert cli.main(["predict", "classificatoin", "one.npy"]) == 2
    assert "there is no folder or file classificatoin, expected" in capsys.readouterr().err
    assert cli.main(["predict", "classification", "one.npy", "nowhere.npy"]) == 2
    assert "there is no file nowhere.npy, expected one of" in capsys.readouterr().err


def test_a_net_without_its_parameters_says_what_is_missing(here, capsys):
    os.remove("classification/best.npz")
    assert cli.main(["predict", "classification", "one.npy"]) == 2
    said = (
        "classification has a model.json, but its best.npz, the parameters of the net, is missing"
    )
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(("mode", "size"), [("L", (8, 8)), ("RGB", (8, 8)), ("1", (8, 8))])
def test_pictures_of_the_very_size_are_read(here, capsys, mode, size):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    picture = image.fromarray(IMAGES[0, :, :, 0]).convert(mode)
    picture.save("one.png")
    assert cli.main(["predict", "regression", "one.png", "--csv", "-"]) == 0
    (found,) = rows(capsys.readouterr().out)
    pixels = np.asarray(picture.convert("L")).reshape(1, 8, 8, 1)
    want = funcnet.load("regression").predict(pixels)[0]
    assert [float(found[name]) for name in "abc"] == want.tolist()


def test_what_is_no_example_is_refused_in_one_line(here, capsys):
    np.save(here / "wide.npy", np.zeros((2, 9, 9, 1)))
    np.save(here / "words.npy", np.full((2, 8, 8, 1), "a"))
    np.savez(here / "two.npz", x=IMAGES, y=IMAGES)
    (here / "bad.npy").write_bytes(b"no array")
    (here / "notes.txt").write_text("no array")
    (here / "bad.png").write_text("no picture")
    for file, said in {
        "wide.npy": "wide.npy: its array has shape (2, 9, 9, 1) and dtype float64, expected",
        "words.npy": "dtype <U1, expected numbers of shape (n, 8, 8, 1), or (8, 8, 1) for one",
        "two.npz": "two.npz has the arrays x, y, expected one alone",
        "bad.npy": "bad.npy: no arrays of numbers can be read from it",
        "notes.txt": "notes.txt is neither a .npy or .npz file of arrays nor a picture",
        "nowhere.npy": "there is no file nowhere.npy, expected one of examples",
        "bad.png": "bad.png: ",
    }.items():
        assert cli.main(["predict", "classification", file]) == 2
        printed = capsys.readouterr()
        assert printed.out == ""
        (line,) = printed.err.splitlines()
        assert said in line


def test_a_picture_of_another_size_is_refused(here, capsys):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.new("L", (9, 7)).save("wide.png")
    assert cli.main(["predict", "classification", "wide.png"]) == 2
    assert "wide.png is a picture of 9×7 pixels, expected 8×8" in capsys.readouterr().err


@pytest.mark.slow  # two processes
def test_a_closed_stdout_is_refused_and_one_without_a_reader_ends_it(here):
    words = f"{sys.executable} -m funcnet predict classification images.npy"
    closed = subprocess.run(f"{words} >&-", shell=True, capture_output=True, text=True)
    assert closed.returncode == 2
    assert closed.stderr.startswith("funcnet predict: error: stdout is closed")
    assert len(closed.stderr.splitlines()) == 1
    cut = f"(sleep 0.2; {words}; echo $? > code) | true"
    done = subprocess.run(cut, shell=True, capture_output=True, text=True)
    assert (here / "code").read_text().strip() == "141"
    assert "Traceback" not in done.stderr


def test_files_are_read_as_those_of_the_run_were(here, capsys):
    reading = {"kind": "arrays", "shape": [8, 8, 1], "dtype": "uint8"}
    trained = dataclasses.replace(funcnet.load("classification"), reading=reading)
    funcnet.save("read", trained)
    assert cli.main(["predict", "read", "images.npy", "--csv", "-"]) == 0
    found = rows(capsys.readouterr().out)
    assert [row["name"] for row in found] == ["1", "2", "3", "4", "5"]
    assert [row["prediction"] for row in found] == trained.predict(IMAGES).tolist()


@pytest.mark.integration
def test_a_picture_is_no_example_of_a_set_whose_pixels_have_another_scale(here, capsys):
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    image.fromarray(IMAGES[0, :, :, 0]).save("one.png")
    words = "train --net softmax --epochs 0 --out run --quiet"
    assert cli.main(words.split()) == 0
    assert cli.main(["predict", "run", "one.png"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "with pixels of 0 to 255, expected an array: images of digits hold 0 to 16" in line


@pytest.mark.integration
def test_rows_that_are_left_out_are_said(here, capsys):
    pytest.importorskip("polars", reason="Polars is not installed")
    (here / "cells.csv").write_text("a,class\n" + "1.5,u\n2.5,v\n" * 10)
    words = ["train", "--data", "cells.csv", "--missing", "drop", "--epochs", "0", "--quiet"]
    assert cli.main([*words, "--out", "run"]) == 0
    (here / "new.csv").write_text("a,b\n1.5,1\n,2\n2.5,3\n")
    assert cli.main(["predict", "run", "new.csv", "--csv", "-"]) == 0
    printed = capsys.readouterr()
    assert [row["name"] for row in rows(printed.out)] == ["1", "3"]
    assert printed.err == (
        "funcnet predict: warning: new.csv: 1 of 3 rows lack a value and are left out: line 3\n"
    )
    (here / "new.csv").write_text("a,b\n,2\n")
    assert cli.main(["predict", "run", "new.csv"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "each of its 1 rows lacks a value" in line
