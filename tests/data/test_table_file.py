"""What the columns of a table's file are: decimal commas, and columns that count the rows."""

import numpy as np
import pytest

from funcnet import data

pytest.importorskip("polars", reason="Polars is not installed: the extra data has it")


def write(folder, text, name="mine.csv"):
    (folder / name).write_text(text)
    return folder / name


def table(*lines):
    return "\n".join(lines) + "\n"


def everything(path, **options):
    """The rows of a table in their order, none of them held out."""
    return data.from_table(path, val=0, test=0, **options)


@pytest.mark.parametrize(("name", "separator"), [("mine.csv", ";"), ("mine.tsv", "\t")])
def test_numbers_may_have_a_decimal_comma(name, separator, tmp_path):
    lines = ["a;b;y", "3,4;1,234;0,5", "-,5;7;1,25", "?;1,50e2;2", "1;0,123;3,5"]
    path = write(tmp_path, table(*lines).replace(";", separator), name)
    dataset = everything(path, missing="mean")
    np.testing.assert_array_equal(
        dataset.train.images, [[3.4, 1.234], [-0.5, 7], [1.3, 150], [1, 0.123]]
    )
    assert (dataset.task, dataset.train.labels.tolist()) == ("regression", [0.5, 1.25, 2, 3.5])
    assert [entry["decimal"] for entry in dataset.reading["columns"]] == [",", ","]
    one = write(tmp_path, "a;b\n2;1,234\n", "new.csv")
    np.testing.assert_array_equal(data.read_inputs(dataset.reading, one)[1], [[2, 1.234]])
    points = write(tmp_path, "a,b\n2.5,1.5\n", "points.csv")
    np.testing.assert_array_equal(data.read_inputs(dataset.reading, points)[1], [[2.5, 1.5]])
    with pytest.raises(data.DataFormatError, match="'b' has 'x' in line 3, expected a finite"):
        data.read_inputs(dataset.reading, write(tmp_path, "a;b\n2;1,5\n3;x\n", "new.csv"))


@pytest.mark.parametrize(
    "lines",
    [
        ["a;y", "1,234;p", "5,678;q"],
        ["a;y", "1,234,567;p", "5,6;q"],
        ["a;y", "1,5;p", "2.5;q"],
        ["a;y", "1.234,5;p", "7;q"],
        ["a,y", '"1,5",p', '"1,5",q'],
    ],
    ids=["thousands", "millions", "both", "both in one", "quoted"],
)
def test_a_comma_of_several_meanings_is_refused(lines, tmp_path):
    path = write(tmp_path, table(*lines, *lines[1:]))
    message = r"'a' has '1.*' in line 2, which may be .* decimal comma.* without=\['a'\]"
    with pytest.raises(data.DataFormatError, match=message):
        everything(path)
    with pytest.raises(data.DataFormatError, match=message):
        everything(path, target="a", features=["y"])


def test_one_column_tells_what_the_commas_of_others_are(tmp_path):
    path = write(tmp_path, table("a;b;y", "1,234;0,5;p", "5,678;1;p", "1;1,5;q", "2,345;;q"))
    rows = everything(path, missing="mean").train.images
    np.testing.assert_array_equal(rows, [[1.234, 0.5], [5.678, 1], [1, 1.5], [2.345, 1]])


def test_a_category_may_have_commas(tmp_path):
    path = write(tmp_path, table("a;y", "1,2,3;p", "1;q", "1,2,3;q", "1;p"))
    assert everything(path).reading["columns"][0]["values"] == ["1", "1,2,3"]


@pytest.mark.parametrize("first", [0, 1])
def test_a_column_that_counts_the_rows_is_named(first, tmp_path):
    lines = [f"{first + i},{i * i},{'uv'[i % 2]}" for i in range(12)]
    path = write(tmp_path, table("id,a,y", *lines))
    with pytest.warns(RuntimeWarning, match=r"mine\.csv: column 'id' counts the rows; .*\['id'\]"):
        assert everything(path).input_shape == (2,)
    assert everything(path, without=["id"]).input_shape == (1,)
    assert everything(path, features=["id", "a"]).input_shape == (2,)
