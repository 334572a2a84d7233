"""`funcnet train --data PATH`: tables, pictures and arrays of one's own, by one word."""

import json
from pathlib import Path

import numpy as np
import pytest

import funcnet
from funcnet import cli
from tests.support.command_lines import blank_figures  # noqa: F401  (a fixture)

pytest.importorskip("polars", reason="the extra data is not installed")
pytest.importorskip("PIL", reason="the extra data is not installed")

QUIET = ["--quiet", "--out", "run"]


@pytest.fixture
def here(tmp_path, monkeypatch, rng):
    """A folder with a table of numbers, one of classes, pictures in folders, and arrays."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    x = rng.normal(size=(200, 2))
    price = 1000 + 50 * (x @ [2.0, -1.0])
    rows = "".join(f"{a},{b},{p}\n" for (a, b), p in zip(x.tolist(), price.tolist(), strict=True))
    Path("houses.csv").write_text("size,age,price\n" + rows)
    rows = "".join(f"{a},{'red' if b > 0 else 'blue'}\n" for a, b in x.tolist())
    Path("colours.csv").write_text("size,class\n" + rows)
    for index in range(24):
        name = ("cat", "dog")[index % 2]
        folder = Path("pets", name)
        folder.mkdir(parents=True, exist_ok=True)
        shade = 60 + 120 * (index % 2)
        Image.new("RGB", (18, 16), (shade, shade, 5 * index)).save(folder / f"{index}.png")
    rows = "".join(f"{i},person {i},{i * i},{'uv'[i % 2]}\n" for i in range(40))
    Path("named.csv").write_text(",full name,id,class\n" + rows)
    Path("gaps.csv").write_text("size,class\n1,u\n,v\n3,u\n")
    Path("counts.csv").write_text("size,y\n" + "".join(f"{i % 7},{i * i}\n" for i in range(40)))
    np.savez("arrays.npz", x=np.zeros((40, 3), np.float32), y=np.arange(40) % 4)
    return tmp_path


@pytest.mark.integration
def test_a_table_of_numbers_is_a_regression_in_its_own_units(here):
    code = cli.main(
        ["train", "--data", "houses.csv", "--target", "price", "--hidden", "20", *QUIET]
    )
    assert code == 0
    trained = funcnet.load("run")
    assert (trained.task, trained.classes, trained.input_shape) == ("regression", ("price",), (2,))
    prices = trained.predict(np.array([[1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(prices, [1100.0, 950.0], atol=25)
    result = json.loads(Path("run/result.json").read_text())
    assert result["val_r2"] > 0.8


@pytest.mark.integration
def test_a_table_of_classes_knows_their_names(here):
    assert cli.main(["train", "--data", "colours.csv", "--epochs", "1", *QUIET]) == 0
    trained = funcnet.load("run")
    assert trained.classes == ("blue", "red")
    assert trained.reading["kind"] == "table"
    assert set(trained.predict(np.zeros((3, 1)))) <= {"blue", "red"}


@pytest.mark.slow  # the README's pictures are by default
def test_pictures_in_folders_are_trained_with_convolutions_and_told_apart(here):
    assert cli.main(["train", "--data", "pets", "--epochs", "20", "--val", "4", *QUIET]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["net"]["name"] == "three_layer_convnet"
    trained = funcnet.load("run")
    names, images = funcnet.data.read_inputs(trained.reading, ["pets/cat/0.png", "pets/dog/1.png"])
    assert len(names) == 2
    assert trained.predict(images).tolist() == ["cat", "dog"]


@pytest.mark.slow
def test_a_run_on_ones_own_data_goes_on_from_another_folder(here, monkeypatch):
    command = ["train", "--data", "arrays.npz", "--hidden", "5"]
    assert cli.main([*command, "--epochs", "1", *QUIET]) == 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir(here / "elsewhere")
    again = ["train", "--resume", "--epochs", "2", "--out", str(here / "run"), "--quiet"]
    assert cli.main(again) == 0
    assert len((here / "run" / "history.jsonl").read_text().splitlines()) == 3


@pytest.mark.integration
def test_a_run_goes_on_with_its_data_in_another_place(here, capsys):
    command = ["train", "--data", "houses.csv", "--target", "price", "--hidden", "5"]
    assert cli.main([*command, "--epochs", "1", *QUIET]) == 0
    (here / "elsewhere").mkdir()
    (here / "houses.csv").rename("elsewhere/homes.csv")
    again = ["train", "--resume", "--data", "elsewhere/homes.csv", *QUIET]
    assert cli.main([*again, "--epochs", "2"]) == 0
    config = json.loads(Path("run/config.json").read_text())
    assert config["options"]["data"]["name"] == str(here / "elsewhere" / "homes.csv")
    assert cli.main(["train", "--resume", "--epochs", "3", *QUIET]) == 0
    assert len(Path("run/history.jsonl").read_text().splitlines()) == 4
    result = json.loads(Path("run/result.json").read_text())

    (here / "elsewhere" / "homes.csv").rename("again.csv")
    capsys.readouterr()
    words = ["evaluate", "run", "--data", "again.csv"]
    assert cli.main([*words, "--split", "test", "--json", "-"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["split"], found["loss"]) == ("test", result["test_loss"])

    text = Path("again.csv").read_text()
    Path("again.csv").write_text(text + text.splitlines()[-1] + "\n")
    assert cli.main(["train", "--resume", "--data", "again.csv", *QUIET]) == 2
    assert "the data are not those" in capsys.readouterr().err
    assert cli.main([*words, "--split", "test"]) == 2
    assert "again has no examples in test: it is not what the run" in capsys.readouterr().err
    assert cli.main(["train", "--resume", "--data", "digits", *QUIET]) == 2
    assert "--data is digits, but the run in run was begun with" in capsys.readouterr().err


@pytest.mark.integration
def test_the_name_of_the_data_names_the_run(here):
    assert cli.main(["train", "--data", str(here / "colours.csv"), "--epochs", "0", "--quiet"]) == 0
    assert [path.name.startswith("colours-fully_connected-") for path in Path("runs").iterdir()]


@pytest.mark.integration
def test_the_columns_of_a_table_are_said_before_the_run(here, capsys):
    words = ["train", "--data", "named.csv", "--without", "full name", "--epochs", "0"]
    assert cli.main([*words, "--out", "run"]) == 0
    assert "columns    id (1)" in capsys.readouterr().out
    lines = [",".join([*(f"column{j}" for j in range(20)), "y"])]
    lines += [",".join([*(str(i * j) for j in range(20)), "uv"[i % 2]]) for i in range(9)]
    Path("wide.csv").write_text("\n".join(lines))
    assert cli.main(["train", "--data", "wide.csv", "--epochs", "0", "--out", "wide"]) == 0
    out = capsys.readouterr().out
    assert "column4, ... (20)" in out
    words = ["train", "--data", "wide.csv", "--features", "column3", "column1"]
    assert cli.main([*words, "--epochs", "0", "--out", "few"]) == 0
    assert "columns    column3, column1 (2)" in capsys.readouterr().out


@pytest.mark.integration
def test_what_is_odd_about_a_table_is_said_in_a_line(here, capsys):
    rows = "".join(f"{i},{i * i},{'uv'[i % 2] if i else 'x'}\n" for i in range(40))
    Path("odd.csv").write_text("room no,size,class\n" + rows)
    assert cli.main(["train", "--data", "odd.csv", "--epochs", "0", *QUIET]) == 0
    counts, rare = capsys.readouterr().err.splitlines()
    assert counts.startswith("funcnet train: warning: odd.csv: column 'room no' counts the rows")
    assert counts.endswith("leave it out by --without 'room no'")
    assert rare == "funcnet train: warning: odd: class 'x' has 1 row"


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--data", "cifar11"], "perhaps cifar10?"),
        (["--data", "nowhere.csv"], "no path nowhere.csv"),
        (["--target", "price"], "--target is for data of your own"),
        (["--data", "houses.csv"], "which is to be told? Pass --target, one of"),
        (["--data", "pets", "--target", "price"], "--target is no option"),
        (["--data", "colours.csv", "--loss", "mse"], "--loss is mse, expected softmax or hinge"),
        (["--data", "colours.csv", "--augment", "flip"], "the examples are no pictures"),
        (["--data", "colours.csv", "--missing", "guess"], "guess"),
        (["--data", "named.csv"], "Leave it out by --without 'full name'."),
        (["--data", "named.csv", "--without", "full name", "a"], "there is no column 'a'"),
        (["--data", "named.csv", "--features", "id", "--without", "id"], "one of the two"),
        (["--data", "pets", "--without", "a"], "--without is no option of what pets is"),
        (["--data", "gaps.csv"], "--missing drop leaves such rows out, --missing mean puts"),
        (["--data", "arrays.npz", "--val", "30", "--test", "9"], "--val 30 and --test 9 are 39"),
        (
            ["--data", "named.csv", "--target", "class", "full name"],
            "the targets are 'class' (strings), 'full name' (strings), expected numbers",
        ),
        (["--data", "counts.csv"], "counts.csv: column 'y' has 40 distinct whole numbers"),
        (["--data", "counts.csv"], "pass --task classification, 'regression' or 'multilabel'"),
    ],
)
def test_what_does_not_fit_is_said_in_a_line(here, capsys, words, said):
    assert cli.main(["train", *words, "--epochs", "1", *QUIET]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("run").exists()
