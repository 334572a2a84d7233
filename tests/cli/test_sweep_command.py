"""`funcnet sweep`: it is the sweep that it says, and what it refuses."""

import dataclasses
import json
import re

import pytest

from funcnet import cli
from funcnet.cli import _sweep_command
from funcnet.cli._train_options import OWN, flag
from funcnet.optimizers import OPTIMIZERS
from tests.support import command_lines

here, blank_figures = command_lines.here, command_lines.blank_figures
QUICK = ["sweep", "--net", "softmax", "--optimizer", "sgd", "--epochs", "1", "--how", "loop"]


@pytest.mark.integration
def test_command_is_the_sweep_that_it_says(here, capsys):
    words = ["--learning-rate", "1e-3", "1e-2", "--reg", "0", "0.1", "--seeds", "2", "--seed", "3"]
    assert cli.main([*QUICK, *words, "--out", "out"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert out.count("val ") == 8 + 1  # a line a member, and the table's head
    assert "mean over seeds" in out
    ranking = [json.loads(line) for line in (here / "out/sweep.jsonl").read_text().splitlines()]
    assert sorted(row["member"] for row in ranking) == list(range(8))
    assert {row["seed"] for row in ranking} == {3, 4}
    summary = json.loads((here / "out/sweep.json").read_text())
    assert summary["best"] == ranking[0]
    assert f"{100 * summary['test_accuracy']:.2f} %" in out
    assert (here / "out/sweep.png").exists()

    best = ranking[0]
    one = ["train", *QUICK[1:-2], "--out", "one", "--quiet", "--seed", str(best["seed"])]
    for name in ("learning_rate", "reg"):
        one += [flag(name), str(best[name])]
    assert cli.main(one) == 0
    alone = json.loads((here / "one/result.json").read_text())
    assert alone["val_accuracy"] == best["best_val_accuracy"]
    assert alone["test_accuracy"] == summary["test_accuracy"]

    capsys.readouterr()
    again = [*summary["command"].split()[1:], "--out", "out"]
    assert cli.main(again) == 0
    assert json.loads((here / "out/sweep.json").read_text())["best"] == best
    assert cli.main([*again, "--epochs", "2"]) == 2
    assert "holds another sweep (epochs: 1 there, 2 here" in capsys.readouterr().err


@pytest.mark.integration
def test_command_draws_at_random(here, capsys):
    ranges = ["--learning-rate-range", "1e-3", "1e-1", "--weight-scale-range", "0.01", "1"]
    words = ["--random", "4", *ranges, "--reg", "0", "0.5", "--out", "out", "--quiet"]
    assert cli.main([*QUICK, *words, "--epochs", "0"]) == 0
    assert capsys.readouterr().out == ""
    rows = [json.loads(line) for line in (here / "out/sweep.jsonl").read_text().splitlines()]
    assert len({row["learning_rate"] for row in rows}) == 4
    assert all(1e-3 <= row["learning_rate"] < 0.1 for row in rows)
    assert all(0.01 <= row["weight_scale"] < 1 for row in rows)
    assert {row["reg"] for row in rows} <= {0.0, 0.5}


NAMES = ["sweep", "--data", "synthetic", "--epochs", "1", "--how", "loop", "--out", "out"]
NAMES += ["--optimizer", "sgd", "adam", "--net", "softmax", "two_layer", "--hidden", "5"]


def _rows(here):
    return [json.loads(line) for line in (here / "out/sweep.jsonl").read_text().splitlines()]


@pytest.mark.slow
def test_names_are_sweeps_of_their_own_ranked_together(here, capsys):
    assert cli.main([*NAMES, "--seeds", "2"]) == 0
    out = capsys.readouterr().out
    assert "two_layer-adam  member 1" in out
    assert "8/8" in out
    ranking = _rows(here)
    found = {(row["net"], row["optimizer"], row["learning_rate"], row["seed"]) for row in ranking}
    rates = {rule: OPTIMIZERS[rule].learning_rate for rule in ("sgd", "adam")}
    nets = ("softmax", "two_layer")
    assert found == {
        (net, rule, rates[rule], seed) for net in nets for rule in rates for seed in (0, 1)
    }
    accuracies = [row["best_val_accuracy"] for row in ranking]
    assert accuracies == sorted(accuracies, reverse=True)
    summary, best = json.loads((here / "out/sweep.json").read_text()), ranking[0]
    assert summary["best"] == best
    assert out.count("test accuracy") == 1
    assert {path.name for path in (here / "out").iterdir() if path.is_dir()} == summary[
        "how"
    ].keys()
    label = f"{best['net']}-{best['optimizer']}"
    saved = json.loads((here / f"out/{label}/{best['member']:04}.json").read_text())
    assert saved["best_val_accuracy"] == best["best_val_accuracy"]
    assert (here / "out/sweep.png").exists()

    member = here / "out/softmax-sgd/0001.json"
    before = {path: path.stat().st_mtime_ns for path in here.glob("out/*/0*.json")}
    member.unlink()
    more = [*summary["command"].split()[1:], "--out", "out", "--quiet"]
    assert cli.main([*more, "--optimizer", "sgd", "adam", "momentum"]) == 0
    after = {path: path.stat().st_mtime_ns for path in here.glob("out/*/0*.json")}
    assert {path for path in before if before[path] != after[path]} == {member}
    assert len(_rows(here)) == 12
    assert cli.main([*NAMES, "--optimizer", "sgd", "muon"]) == 2
    assert "holds softmax-adam, which is none of these sweeps" in capsys.readouterr().err


@pytest.mark.integration
def test_each_name_has_the_numbers_that_are_its_own(here, capsys):
    words = ["--momentum", "0.5", "0.9", "--weight-decay-range", "1e-3", "1e-1", "--random", "2"]
    words = [*NAMES, *words, "--optimizer", "sgd", "momentum", "adamw", "--epochs", "0", "--quiet"]
    assert cli.main([*words, "--net", "fully_connected", "--norm", "none", "layer"]) == 0
    rows = {rule: [] for rule in ("sgd", "momentum", "adamw")}
    for row in _rows(here):
        assert row["norm"] in ("none", "layer")
        rows[row["optimizer"]].append(row)
    assert [len(found) for found in rows.values()] == [4, 4, 4]
    assert {row["momentum"] for row in rows["momentum"]} <= {0.5, 0.9}
    assert all(row["momentum"] is None and row["weight_decay"] > 0 for row in rows["adamw"])


@pytest.mark.integration
def test_names_that_differ_in_nothing_are_one(here):
    """A net without norms is trained once, whatever the norms are."""
    words = ["--net", "softmax", "fully_connected", "--norm", "none", "batch", "--epochs", "0"]
    assert cli.main([*NAMES, *words, "--optimizer", "sgd", "--quiet"]) == 0
    found = [(row["net"], row["norm"]) for row in _rows(here)]
    assert sorted(found, key=str) == [
        ("fully_connected", "batch"),
        ("fully_connected", "none"),
        ("softmax", None),
    ]


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--b1", "0.5"], "--b1 is no option of --optimizer sgd momentum, expected one that"),
        (["--norm", "batch"], "--norm is no option of --net softmax two_layer"),
        (["--net"], "--net has no value"),
        (["--net", "softmax", "softmx"], "'softmx'"),
        (["--hidden", "5", "5"], "--hidden is 5 5, expected one number for --net two_layer"),
        (["--out", "data"], "data holds mine, which is none of these sweeps (softmax-sgd"),
        (["--out", "data/mine"], "cannot write into data/mine"),
    ],
)
def test_names_are_refused_in_a_line(here, capsys, words, said):
    (here / "data").mkdir()
    (here / "data/mine").write_bytes(b"")
    assert cli.main([*NAMES, "--optimizer", "sgd", "momentum", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert said in err


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--random", "3"], "a range to draw from"),
        (["--random", "0", "--reg-range", "1", "2"], "--random is 0"),
        (["--reg-range", "1e-3", "1"], "--reg-range is an option of --random alone"),
        (
            ["--random", "3", "--reg-range", "0", "1"],
            "--reg-range is 0.0 1.0, expected two numbers",
        ),
        (["--random", "3", "--reg", "1", "--reg-range", "1", "2"], "are both given"),
        (["--weight-scale", "he", "0.1"], "he beside numbers"),
        (
            ["--learning-rate", "0.1", "-1"],
            "--learning-rate is -1.0, expected a number of at least",
        ),
        (
            ["--optimizer", "adam", "--b1", "0.9", "1.5"],
            "b1 is 1.5, expected a number in [0.0, 1.0)",
        ),
        (["--b2", "0.5", "0.9"], "--b2 is no option of --optimizer sgd"),
        (["--dropout", "0.1", "0.2"], "unrecognized options: 0.2"),
        (["--seeds", "0"], "--seeds is 0"),
        (["--batch-size", "100000"], "--batch-size is 100000"),
        (["--members-at-once", "0"], "members_at_once is 0"),
        (["--data", "cifar10"], "cifar10"),
        (["--learning-rate", "1e38", "--reg", "1"], "no member reached its end"),
    ],
)
def test_command_says_no_in_a_line(here, capsys, words, said):
    code = cli.main([*QUICK, *words])
    err = capsys.readouterr().err
    assert said in err
    assert err.count("\n") == 1
    assert code == (1 if "no member" in said else 2)


# For each option of `funcnet sweep` that its members' numbers depend on, another value.
OTHERS = {
    "data": {"name": "synthetic"},
    "net": {
        **{"name": "small", "hidden": "9", "norm": "layer", "activation": "gelu", "dropout": "0"},
        **{"channels": "8", "filter_size": "3", "depth": "2", "weight_scale": "0.25"},
    },
    "optimizer": {
        **{"name": "adam", "learning_rate": "0", "lr_decay": "0.25", "momentum": "0"},
        **{"velocity": "raw", "decay": "0", "rho": "0", "b1": "0", "b2": "0", "beta": "0"},
        **{"eps": "0.5", "eps_in_sqrt": "False", "centered": "False", "weight_decay": "0"},
    },
    "training": {
        **{"epochs": "1", "batch_size": "7", "loss": "hinge", "label_smoothing": "0.1"},
        **{"reg": "0.1", "preprocessing": "none", "augment": "flip", "seed": "5"},
        **{"compute_dtype": "bfloat16", "precision": "high", "sampling": "full"},
        "accumulate": "2",
    },
    "search": {"seeds": "2"},
}


@pytest.mark.slow
def test_every_option_makes_another_sweep(here, capsys):
    """And none is passed over where the folder holds one that was begun without it."""
    words = ["sweep", "--net", "fully_connected", "--hidden", "5", "--dropout", "0.1"]
    words += ["--optimizer", "rmsprop", "--momentum", "0.5", "--eps-in-sqrt", "True"]
    words += ["--centered", "True", "--epochs", "0", "--how", "loop", "--quiet", "--out", "out"]
    assert cli.main(words) == 0
    command = _sweep_command.SweepCommand()
    for kind in ("data", "net", "optimizer", "training"):
        there = {field.name for field in dataclasses.fields(getattr(command, kind))}
        assert OTHERS[kind].keys() == there - {"data_dir", "allow_unverified", *OWN}
    capsys.readouterr()
    for kind, values in OTHERS.items():
        for name, value in values.items():
            option = flag(kind if name == "name" else name)
            assert cli.main([*words, option, value]) == 2, option
            said = capsys.readouterr().err
            assert "holds another sweep" in said or option in said, (option, said)


def test_help_explains_every_option(capsys):
    assert cli.main(["sweep", "--help"]) == 0
    text = capsys.readouterr().out
    command = _sweep_command.SweepCommand()
    kinds = ("data", "net", "optimizer", "training", "search", "output")
    for kind in kinds:
        for field in dataclasses.fields(getattr(command, kind)):
            name = flag(kind if field.name == "name" else field.name)
            entry = re.search(rf"\n[│ ]+{name}[ \n].*?\(default:[^)]+\)", text, re.DOTALL)
            assert entry, name
            assert len(entry[0].split()) > 5, entry[0]
            assert "None" not in entry[0], entry[0]
    assert "Examples:" in text
