"""Data sets of tables."""

import json

import numpy as np
import pytest

from funcnet import data

pl = pytest.importorskip("polars", reason="Polars is not installed: the extra data has it")

RNG = np.random.default_rng(0)


def write(folder, text, name="mine.csv"):
    (folder / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    return folder / name


def table(*lines):
    return "\n".join(lines) + "\n"


def everything(path, **options):
    """The rows of a table in their order, none of them held out."""
    return data.from_table(path, val=0, test=0, **options)


def test_columns_become_features(tmp_path):
    path = write(
        tmp_path,
        table(
            "age, town ,smokes,note,label",
            '1.5,"Ulm",true,x,no',
            "-2e3, Ulm ,False,x,yes",
            '.5,"Bonn, ""am Rhein""",TRUE,x,no',
            '7,"Bonn, ""am Rhein""",false,x,yes',
        ),
    )
    dataset = everything(path)
    np.testing.assert_array_equal(
        dataset.train.images,
        [[1.5, 0, 1, 1, 1], [-2000, 0, 1, 0, 1], [0.5, 1, 0, 1, 1], [7, 1, 0, 0, 1]],
    )
    assert dataset.train.images.dtype == np.float64
    assert dataset.train.labels.tolist() == [0, 1, 0, 1]
    assert (dataset.classes, dataset.name, dataset.task) == (
        ("no", "yes"),
        "mine",
        "classification",
    )
    assert dataset.reading == {
        "kind": "table",
        "columns": [
            {"name": "age", "kind": "number"},
            {"name": "town", "kind": "category", "values": ['Bonn, "am Rhein"', "Ulm"]},
            {"name": "smokes", "kind": "boolean"},
            {"name": "note", "kind": "category", "values": ["x"]},
        ],
        "missing": "error",
        "target": ["label"],
    }


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("a,b,y\n1,2,u\n3,4,v\n", "mine.csv"),
        ("\ufeffa,b,y\n1,2,u\n3,4,v\n", "mine.csv"),
        ("a,b,y\r\n1,2,u\r\n\r\n3,4,v\r\n\r\n", "MINE.CSV"),
        ("a\tb\ty\n1\t2\tu\n3\t4\tv", "mine.tsv"),
        ('"a";"b";"y"\n1;2;u\n3;4;v\n', "mine.csv"),
    ],
    ids=["comma", "BOM", "CRLF and blank lines", "tabs", "semicolons"],
)
def test_texts_of_every_kind_are_read(text, name, tmp_path):
    dataset = everything(write(tmp_path, text, name))
    np.testing.assert_array_equal(dataset.train.images, [[1, 2], [3, 4]])
    assert dataset.classes == ("u", "v")


def test_numbers_survive_as_they_are(tmp_path):
    numbers = RNG.standard_normal(50) * 10.0 ** RNG.integers(-300, 300, 50)
    path = write(
        tmp_path, table("x,y", *(f"{x!r},{i % 2}" for i, x in enumerate(numbers.tolist())))
    )
    np.testing.assert_array_equal(everything(path).train.images[:, 0], numbers)


def test_a_table_of_measurements_is_a_regression(tmp_path):
    """Like the diabetes of scikit-learn: ten features, and a target of whole numbers."""
    x = RNG.standard_normal((442, 10))
    y = np.round(150 + 70 * x[:, 0])
    names = [*(f"s{i}" for i in range(10)), "target"]
    lines = (",".join(map(str, row)) for row in np.column_stack([x, y]).tolist())
    path = write(tmp_path, table(",".join(names), *lines))
    with pytest.raises(data.LabelError, match=r"mine\.csv: column 'target' has .* 442 rows.*task="):
        data.read(path)
    dataset = data.read(path, task="regression", seed=1)
    assert [len(split.labels) for split in dataset[:3]] == [354, 44, 44]
    assert (dataset.task, dataset.classes) == ("regression", ("target",))
    for split in dataset[:3]:
        np.testing.assert_array_equal(split.labels, np.round(150 + 70 * split.images[:, 0]))


def test_several_targets(tmp_path):
    path = write(tmp_path, table("x,a,b", "1,0.5,1", "2,1.5,2"))
    dataset = everything(path, target=["b", "a"])
    assert (dataset.task, dataset.classes) == ("regression", ("b", "a"))
    np.testing.assert_array_equal(dataset.train.labels, [[1, 0.5], [2, 1.5]])
    path = write(tmp_path, table("x,a,b", "1,0,1", "2,1,1"))
    dataset = everything(path, target=["a", "b"])
    assert (dataset.task, dataset.classes) == ("multilabel", ("a", "b"))
    np.testing.assert_array_equal(dataset.train.labels, [[0, 1], [1, 1]])


def test_several_targets_are_numbers(tmp_path):
    path = write(tmp_path, table("x,a,b,on", "1,u,1.5,true", "2,v,2.5,false"))
    message = r"mine\.csv: the targets are 'a' \(strings\), 'b' \(numbers\), 'on' \(booleans\), exp"
    with pytest.raises(data.LabelError, match=message):
        everything(path, target=["a", "b", "on"])
    path = write(tmp_path, table("x,a,b", "1,0,2", "2,1,1"))
    with pytest.raises(data.LabelError, match=r"mine\.csv: columns 'a', 'b' has shape \(2, 2\)"):
        everything(path, target=["a", "b"])


@pytest.mark.parametrize("name", ["target", "Label", "CLASS", "y"])
def test_the_target_is_found_by_its_name(name, tmp_path):
    dataset = everything(write(tmp_path, table(f"a,{name},b", "1,u,2", "3,v,4")))
    np.testing.assert_array_equal(dataset.train.images, [[1, 2], [3, 4]])


@pytest.mark.parametrize("names", ["a,b,c", "a,label,y"])
def test_another_target_is_asked_for(names, tmp_path):
    path = write(tmp_path, table(names, "1,2,3", "4,5,6"))
    with pytest.raises(ValueError, match=r"Pass target, one of 'a', '\w+', '\w'\. .* first line"):
        data.from_table(path)
    assert everything(path, target="a").classes == ("1", "4")


def test_features_may_be_chosen(tmp_path):
    path = write(tmp_path, table("a,b,c,y", "1,2,3,u", "4,5,6,v"))
    dataset = everything(path, features=["c", "a"])
    np.testing.assert_array_equal(dataset.train.images, [[3, 1], [6, 4]])
    with pytest.raises(data.DataFormatError, match=r"no column 'd'\. Its columns are 'a', 'b'"):
        data.from_table(path, features=["d"])
    with pytest.raises(ValueError, match="target not among them"):
        data.from_table(path, features=["a", "y"])
    with pytest.raises(ValueError, match="missing is 'median', expected one of error, drop, mean"):
        data.from_table(path, missing="median")


def test_columns_may_be_left_out(tmp_path):
    path = write(tmp_path, table("a,b,c,y", "1,2,3,u", "4,5,6,v"))
    np.testing.assert_array_equal(everything(path, without=["b"]).train.images, [[1, 3], [4, 6]])
    np.testing.assert_array_equal(everything(path, without="b").train.images, [[1, 3], [4, 6]])
    with pytest.raises(data.DataFormatError, match=r"no column 'd'\. Its columns are 'a', 'b'"):
        data.from_table(path, without=["d"])
    with pytest.raises(ValueError, match="expected one of the two"):
        data.from_table(path, without=["a"], features=["b"])


@pytest.mark.parametrize("name", ["", "Unnamed: 0", "__index_level_0__"])
def test_the_index_of_pandas_is_no_feature(name, tmp_path):
    path = write(tmp_path, table(f"{name},a,y", "0,5,u", "7,6,v"))
    dataset = everything(path)
    assert [entry["name"] for entry in dataset.reading["columns"]] == ["a"]
    both = everything(path, features=[name, "a"])
    np.testing.assert_array_equal(both.train.images, [[0, 5], [7, 6]])


def test_strings_of_many_values_are_refused(tmp_path):
    rows = [f"name{i},{-i},{'uv'[i % 2]}" for i in range(10)]
    path = write(tmp_path, table("who,b,y", *rows))
    with pytest.raises(
        data.DataFormatError,
        match=r"'who' has strings of 10 .*'name0' in line 2, .*by without=\['who'\]",
    ):
        data.from_table(path)
    rows = [f"1.{i},{-i},{'uv'[i % 2]}" for i in range(10)]
    path = write(tmp_path, table("who,b,y", *rows, '"1,5",7,u', "one,8,v"))
    with pytest.raises(data.DataFormatError, match="the first 'one' in line 13"):
        data.from_table(path)


GAPS = table(
    "a,b,y",  # line 1
    "1,u,p",
    '"2","u',  # two lines of one row
    'v",q',
    "",
    ",u,p",  # line 6
    "NA,u,q",
    "4,?,p",
    "5,u,q",
)


def test_missing_values_are_named(tmp_path):
    path = write(tmp_path, GAPS.replace("u\nv", "u"))
    with pytest.raises(
        data.DataFormatError, match=r"'a' has no value in line 5, nor in 1 more rows\. .*drop.*mean"
    ):
        data.from_table(path)
    path = write(tmp_path, GAPS)
    with pytest.raises(data.DataFormatError, match="'a' has no value in line 6, nor in 1 more"):
        data.from_table(path, features=["a"])
    with pytest.raises(data.DataFormatError, match="'y' has no value in line 3"):
        data.from_table(write(tmp_path, "a,y\n1,p\n2,\n3,q\n"), missing="mean")


def test_rows_with_missing_values_are_dropped(tmp_path):
    path = write(tmp_path, GAPS.replace("u\nv", "u") + "6,u,\n")
    dataset = everything(path, missing="drop")
    np.testing.assert_array_equal(dataset.train.images, [[1, 1], [2, 1], [5, 1]])
    assert dataset.train.labels.tolist() == [0, 1, 1]


def test_a_mean_is_that_of_the_training_rows(tmp_path):
    lines = [f"{i if i % 3 else ''},{['u', 'v', ''][i % 3]},{i + 0.5}" for i in range(30)]
    path = write(tmp_path, table("a,b,y", *lines))
    dataset = data.from_table(path, missing="mean", val=10, test=5)
    there = dataset.train.labels // 1 % 3 != 0
    mean = (dataset.train.labels[there] - 0.5).mean()
    assert dataset.reading["columns"][0]["mean"] == pytest.approx(mean)
    for split in dataset[:3]:
        rows = (split.labels - 0.5).astype(int)
        np.testing.assert_allclose(split.images[:, 0], np.where(rows % 3, rows, mean))
        np.testing.assert_array_equal(split.images[:, 1:], np.eye(3)[rows % 3][:, :2])
    with pytest.raises(ValueError, match="'a' has no value in the training rows"):
        everything(write(tmp_path, "a,b,y\n,1,p\n,2,q\n"), missing="mean")


def test_numbers_that_are_not_finite_are_named(tmp_path):
    path = write(tmp_path, table("a,y", "1,p", "inf,q"))
    for missing in ("error", "drop", "mean"):
        with pytest.raises(
            data.DataFormatError, match=r"'a' has 'inf' in line 3, .* finite number"
        ):
            data.from_table(path, missing=missing)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (b"", "no table can be read"),
        (b"a,y\n", "it has no rows"),
        (b"a,y\n1,2,3\n", "as many fields in each line"),
        ("a,y\n1,é\n".encode("latin-1"), "Expected UTF-8"),
        (b'a,y\n"1,2\n3,4\n', "no table can be read"),
    ],
    ids=["empty", "names", "fields", "latin-1", "quotes"],
)
def test_text_that_is_no_table_is_refused(text, message, tmp_path):
    with pytest.raises(data.DataFormatError, match=rf"mine\.csv: .*{message}"):
        data.from_table(write(tmp_path, text), target="y")


def test_a_parquet_table_keeps_its_types(tmp_path):
    frame = pl.DataFrame(
        {
            "i": pl.Series([1, 2, 3, 4], dtype=pl.Int16),
            "x": pl.Series([0.1, 0.2, 0.3, 0.4], dtype=pl.Float32),
            "on": [True, False, True, False],
            "code": ["01", "1", "01", "1"],
            "kind": pl.Series(["a", "b", "a", "b"], dtype=pl.Categorical),
            "y": [1.5, 2.5, 3.5, 4.5],
        }
    )
    frame.write_parquet(tmp_path / "mine.parquet")
    dataset = data.read(tmp_path / "mine.parquet", val=0, test=0)
    np.testing.assert_array_equal(dataset.train.images[0], [1, np.float32(0.1), 1, 1, 0, 1, 0])
    assert [entry["kind"] for entry in dataset.reading["columns"]] == [
        *("number", "number", "boolean", "category", "category")
    ]
    gaps = frame.with_columns(x=pl.Series([0.1, None, float("nan"), 0.4]))
    gaps.write_parquet(tmp_path / "mine.parquet")
    with pytest.raises(data.DataFormatError, match="'x' has no value in row 2, nor in 1 more"):
        data.read(tmp_path / "mine.parquet")
    dates = frame.with_columns(day=pl.date(2026, 1, pl.col("i")))
    dates.write_parquet(tmp_path / "mine.parquet")
    with pytest.raises(data.DataFormatError, match=r"'day' has type Date, .* by without=\['day'\]"):
        data.read(tmp_path / "mine.parquet")


@pytest.mark.parametrize("cut", [0, 8, 100, -8])
def test_a_damaged_parquet_is_refused(cut, tmp_path, capfd):
    path = tmp_path / "mine.parquet"
    pl.DataFrame({"x": [1.5, 2.5], "y": [0, 1]}).write_parquet(path)
    path.write_bytes(path.read_bytes()[:cut])
    with pytest.raises(data.DataFormatError, match=r"mine\.parquet: no table can be read"):
        data.from_table(path)


def test_new_rows_are_read_alike(tmp_path):
    path = write(
        tmp_path, table("a,b,on,y", "1,u,true,p", "2,v,false,q", ",u,true,p", "4,v,true,q")
    )
    dataset = everything(path, missing="mean")
    reading = json.loads(json.dumps(dataset.reading))
    assert reading == dataset.reading
    new = write(tmp_path, table("b,id,on,a", "v,9,0,5", "u,9,true,", ",9,true,7"), "new.csv")
    names, rows = data.read_inputs(reading, new)
    assert names == ["1", "2", "3"]
    np.testing.assert_allclose(rows, [[5, 0, 1, 0], [7 / 3, 1, 0, 1], [7, 0, 0, 1]])
    pl.DataFrame({"a": [5], "b": ["v"], "on": [False]}).write_parquet(tmp_path / "new.parquet")
    several, rows = data.read_inputs(reading, [new, tmp_path / "new.parquet"])
    assert several == [*(f"{new}:{i}" for i in (1, 2, 3)), f"{tmp_path / 'new.parquet'}:1"]
    np.testing.assert_array_equal(rows[0], rows[3])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a,b\n1,u\n", "no column 'on'"),
        ("a,b,on\n1,w,true\n", r"'b' has 'w' in line 2, expected one of 'u', 'v'"),
        ("a,b,on\n1,u,true\nx,u,true\n", r"'a' has 'x' in line 3, expected a finite number"),
        ("a,b,on\n1,u,2\n", r"'on' has '2' in line 2, expected true or false"),
        ("a,b,on\n1,u,\n", r"'on' has no value in line 2\. Put one there"),
    ],
)
def test_new_rows_that_are_not_alike_are_named(text, message, tmp_path):
    path = write(
        tmp_path, table("a,b,on,y", "1,u,true,p", "2,v,false,q", "3,u,true,p", "4,v,true,q")
    )
    reading = everything(path).reading
    with pytest.raises(data.DataFormatError, match=message):
        data.read_inputs(reading, write(tmp_path, text, "new.csv"))


def test_dropped_rows_keep_the_numbers_of_the_others(tmp_path):
    path = write(tmp_path, table("a,y", "1,p", "2,q"))
    reading = everything(path, missing="drop").reading
    new = write(tmp_path, "a,b\n1,1\n,2\n3,3\n", "new.csv")
    with pytest.warns(RuntimeWarning, match=r"new\.csv: 1 of 3 rows lack a value .*: line 3$"):
        names, rows = data.read_inputs(reading, new)
    assert names == ["1", "3"]
    np.testing.assert_array_equal(rows, [[1], [3]])
    new = write(tmp_path, "a,b\n" + 7 * ",0\n" + "1,1\n", "new.csv")
    with pytest.warns(RuntimeWarning, match=r"7 of 8 rows .* line 2, line 3, .* line 6, \.\.\.$"):
        data.read_inputs(reading, new)
    with pytest.raises(data.DataFormatError, match="each of its 2 rows lacks a value"):
        data.read_inputs(reading, write(tmp_path, "a,b\n,1\n,2\n", "new.csv"))


def test_timestamps_are_standardised_in_float64(tmp_path):
    stamps = 1_760_000_000_000 + np.arange(100) * 1000
    lines = [f"{stamp},{0.001 * i},{'pq'[i % 2]}" for i, stamp in enumerate(stamps)]
    dataset = everything(write(tmp_path, table("when,x,y", *lines)))
    rows = dataset.train.images
    prepared = data.fit_preprocessing(rows, "standardised", dataset.full_scale)
    standard = np.asarray(data.preprocess(prepared, rows))
    expected = (np.arange(100) - 49.5) / np.arange(100).std()
    np.testing.assert_allclose(standard[:, 0], expected, rtol=1e-6)
    np.testing.assert_allclose(standard[:, 1], expected, rtol=1e-6)
