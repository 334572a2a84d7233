"""Pages: what they hold is what the folder and the data hold, and strangers' text stays text."""

import dataclasses
import json

import jax
import numpy as np
import pytest

import funcnet
from funcnet import checkpoint, data, losses, nets, report, train
from funcnet.report import _figures, _html, _measures
from tests.support import pages

EVIL = "<script>alert('$1$')</script>"
NAMES = (EVIL, 'b & "c"', "日本")
NET = nets.two_layer_net(5, classes=3)


def trained(net=NET, shape=(4, 4, 1), **options):
    params, state = net.init(jax.random.key(0), shape)
    preprocessing = data.Preprocessing(
        *(np.full((1,) * len(shape), value) for value in (0.0, 1 / 16))
    )
    fields = {"classes": NAMES, "input_shape": shape} | options
    return train.Trained(net, params, state, preprocessing, **fields)


def dataset(rng, shape=(4, 4, 1), labels=None, **options):
    def split(n):
        drawn = rng.integers(3, size=n) if labels is None else labels(n)
        return data.Split(rng.integers(17, size=(n, *shape)).astype(np.uint8), drawn)

    return data.Dataset(split(30), split(20), split(40), NAMES, full_scale=16.0, **options)


def as_run(folder, net, result):
    """A run's folder, as `funcnet train` leaves it."""
    if net is not None:
        checkpoint.save_trained(folder, net)
    history = [
        {"epoch": e, "step": 4 * e, "train_accuracy": 0.3 * e, "val_accuracy": 0.2, "val_loss": 1.0}
        for e in range(3)
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(row) + "\n" for row in history))
    np.save(folder / "losses.npy", np.linspace(2, 1, 8))
    options = {"data": {"name": EVIL}, "net": {"name": "two_layer"}}
    versions = {"funcnet": EVIL}
    config = {"command": f"funcnet train {EVIL}", "options": options, "versions": versions}
    (folder / "config.json").write_text(json.dumps(config))
    if result is not None:
        (folder / "result.json").write_text(json.dumps(result))
    return folder


RESULT = {
    **{"best_epoch": 2, "epochs": 2, "steps": 8, "seconds": 1.25, "stopped": None},
    **{"val_accuracy": 0.2, "val_loss": 1.0, "test_accuracy": 0.25, "test_loss": 1.5},
}


@pytest.fixture(autouse=True)
def _without_layers(monkeypatch):
    """`own` has what `diagnose` finds, which is compiled for each net."""
    monkeypatch.setattr(_measures, "_layers", lambda trained, split: [])


@pytest.fixture(scope="module")
def own_rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="module")
def own(tmp_path_factory, own_rng):
    """A run, its data, and what is written of both."""
    folder = as_run(tmp_path_factory.mktemp("run"), trained(), RESULT)
    found = dataset(own_rng)
    return found, report.write(folder, found)


@pytest.mark.integration
def test_a_page_is_whole_and_strangers_text_stays_text(own):
    _, written = own
    tags, text = pages.read(written.path.read_text())
    assert EVIL in text
    assert 'b & "c"' in text
    assert f"funcnet train {EVIL}" in text
    assert tags.count("svg") == 3  # loss, accuracy, sizes
    for title in ("Learning", "Confusion matrix, test split", "Worst mistakes", "First-layer"):
        assert title in text
    assert written.left_out == []


@pytest.mark.integration
def test_the_page_says_the_numbers_beside_it_and_these_are_those_of_the_net(own):
    found, written = own
    numbers = json.loads(written.path.with_suffix(".json").read_text())
    net = funcnet.load(written.path.parent)
    assert numbers["split"] == "test"
    assert {key: numbers[key] for key in ("accuracy", "loss")} == net.evaluate(found.test)
    predicted = net.predict(found.test.images)
    for i in range(3):
        there = found.test.labels == i
        row = [int((predicted[there] == other).sum()) for other in NAMES]
        assert numbers["confusion"][i] == row
        assert numbers["classes"][i]["support"] == there.sum()
    assert numbers["result"] == RESULT
    _, text = pages.read(written.path.read_text())
    assert f"{100 * numbers['accuracy']:.2f} % of the 40 test examples" in text
    assert "epoch 2 of 2, 1.2 seconds" in text
    counts = " ".join(str(n or "·") for n in numbers["confusion"][2])
    assert f"日本 {counts}" in text


def test_layers_are_those_of_diagnose(own):
    found, written = own
    layers = written.numbers["layers"]
    assert [row["name"] for row in layers] == ["input", "affine1", "relu1", "affine2"]
    assert layers[0]["output"]["max_abs"] == found.test.images.max() / 16
    assert layers[1]["params"]["size"] == 16 * 5 + 5
    text = pages.read(written.path.read_text())[1]
    assert f"{layers[1]['params_grad']['rms']:.2e}, " in text


def test_a_mistake_is_shown_as_its_picture(own):
    found, written = own
    first = written.numbers["mistakes"][0]
    image = _figures.picture(found.test.images[first["row"]], 16.0)
    assert image in written.path.read_text()


@pytest.mark.integration
def test_what_the_test_split_was_not_asked_is_told_of_the_validation_split(tmp_path, own):
    found, _ = own
    stopped = RESULT | {"test_accuracy": None, "test_loss": None, "stopped": "interrupted"}
    written = report.write(as_run(tmp_path, trained(), stopped), found, tmp_path / "a.html")
    assert written.numbers["split"] == "validation"
    assert written.numbers["rows"] == 20
    _, text = pages.read((tmp_path / "a.html").read_text())
    assert "The run was stopped: interrupted." in text
    assert (tmp_path / "a.json").is_file()


def test_without_data_the_folder_tells_what_it_can(tmp_path):
    written = report.write(as_run(tmp_path, trained(), RESULT))
    tags, text = pages.read(written.path.read_text())
    assert "25.00 % of the test examples" in text
    assert "First-layer weights" in text
    assert (
        "Left out: answers, mistakes and the sizes of activations: no data set was given." in text
    )
    assert tags.count("svg") == 2
    assert written.numbers["split"] is None


def test_a_run_that_has_not_ended_has_its_curves(tmp_path, own):
    written = report.write(as_run(tmp_path, None, None), own[0])
    tags, text = pages.read(written.path.read_text())
    assert "The run has not ended; its history has 2 epochs." in text
    assert "20.00 % of the validation examples, at best, are classified correctly." in text
    assert "Left out: the net, for there is none in the folder" in text
    assert tags.count("svg") == 2


@pytest.mark.integration
def test_examples_that_are_no_images_are_rows(tmp_path, own_rng):
    checkpoint.save_trained(tmp_path, trained(shape=(10,)))
    written = report.write(tmp_path, dataset(own_rng, shape=(10,)))
    tags, text = pages.read(written.path.read_text())
    assert "Of the 10 numbers of an example, the first 8." in text
    assert "x7" in text
    assert "img" not in tags


@pytest.mark.integration
def test_columns_of_a_table_have_their_names(tmp_path, own_rng):
    columns = [{"name": EVIL, "kind": "number"}, {"name": "b", "values": ["p", "q"]}]
    net = trained(shape=(3,), reading={"kind": "table", "columns": columns})
    checkpoint.save_trained(tmp_path, net)
    written = report.write(tmp_path, dataset(own_rng, shape=(3,)))
    _, text = pages.read(written.path.read_text())
    assert f"probability {EVIL} b: p b: q" in text
    assert "Rows are those of the validation split, counted from 0." in text


@pytest.mark.integration
def test_regression_has_its_residuals(tmp_path, own_rng):
    net = nets.affine(3)
    options = {"task": "regression", "loss": losses.mean_squared_error}
    checkpoint.save_trained(tmp_path, trained(net, (10,), **options))
    found = dataset(own_rng, (10,), lambda n: own_rng.standard_normal((n, 3)), task="regression")
    written = report.write(tmp_path, found)
    tags, text = pages.read(written.path.read_text())
    assert tags.count("svg") == 6  # two a target
    assert f"R² is {written.numbers['r2']:.4f} on the 20 validation examples." in text
    assert f"{EVIL}, predicted" in text
    row = written.numbers["mistakes"][0]
    k = row["row"]
    residual = found.val.labels[k] - funcnet.load(tmp_path).predict(found.val.images)[k]
    assert row["residual"] == residual.tolist()


@pytest.mark.integration
def test_of_several_labels_the_share_of_labels_and_of_whole_examples_are_told(tmp_path, own_rng):
    options = {"task": "multilabel", "loss": losses.binary_cross_entropy}
    checkpoint.save_trained(tmp_path, trained(**options))
    found = dataset(own_rng, (4, 4, 1), lambda n: own_rng.integers(2, size=(n, 3)))
    written = report.write(tmp_path, found._replace(task="multilabel"))
    right = funcnet.load(tmp_path).predict(found.val.images) == found.val.labels
    said = (
        f"{100 * right.mean():.2f} % of the labels of the 20 validation examples are right; "
        f"all labels of an example in {100 * right.all(1).mean():.2f} %."
    )
    _, text = pages.read(written.path.read_text())
    assert said in text
    assert f"validation exact match of all labels {100 * right.all(1).mean():.2f} %" in text
    numbers = json.loads(written.path.with_suffix(".json").read_text())
    assert numbers["exact_match"] == pytest.approx(right.all(1).mean())


@pytest.mark.integration
def test_of_several_labels_no_example_is_said_to_be_classified(tmp_path):
    result = RESULT | {"val_exact_match": 0.1, "test_exact_match": 0.125}
    _, text = pages.read(report.write(as_run(tmp_path, None, result)).path.read_text())
    assert "25.00 % of the labels of the test examples are right (epoch 2 of 2" in text
    assert "test accuracy of labels 25.00 %" in text
    assert "classified" not in text


@pytest.mark.integration
def test_many_classes_are_a_picture_and_pairs(tmp_path, own_rng):
    net = nets.two_layer_net(5, classes=30)
    names = tuple(f"class {k}" for k in range(30))
    checkpoint.save_trained(tmp_path, trained(net, classes=names))
    written = report.write(tmp_path, dataset(own_rng))
    _, text = pages.read(written.path.read_text())
    assert "Dark is a large share of the row." in text
    assert "precision, recall and F1 of the 30 classes" in text


def test_a_net_of_ones_own_is_given(tmp_path, own):
    mine = nets.Net(NET.init, NET.apply)
    checkpoint.save_trained(tmp_path, dataclasses.replace(trained(), net=mine))
    assert "pass the net" in report.write(tmp_path, own[0]).left_out[0]
    assert report.write(tmp_path, own[0], net=mine).left_out == []


@pytest.mark.integration
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_a_net_that_is_not_finite_has_a_page(tmp_path, own, value):
    net = trained()
    spoiled = jax.tree.map(lambda leaf: leaf * value, net.params)
    checkpoint.save_trained(tmp_path, dataclasses.replace(net, params=spoiled))
    written = report.write(tmp_path, own[0])
    _, text = pages.read(written.path.read_text())
    assert "20 examples have outputs that are not finite." in text
    assert "0.00 % of the 20 validation examples" in text


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("config.json", "{"),
        ("config.json", '{"device": []}'),
        ("result.json", '{"val_accuracy": "high"}'),
        ("result.json", "[]"),
        ("history.jsonl", "no\n{}\n"),
        ("losses.npy", ""),
        ("model.json", "{}"),
        ("best.npz", "no"),
    ],
)
def test_a_damaged_file_is_named(tmp_path, name, text):
    (as_run(tmp_path, trained(), RESULT) / name).write_text(text)
    with pytest.raises(ValueError, match=name):
        report.write(tmp_path)
    assert not (tmp_path / "report.html").exists()


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="holds no run"):
        report.write(tmp_path)


def test_long_runs_make_small_figures(own_rng):
    (svg,) = _figures.curves([{"epoch": 0}], own_rng.random(100_000))
    assert len(svg) < 500_000


def test_many_points_are_a_picture(own_rng):
    points, histogram = _figures.residuals(*own_rng.random((2, 5000)), "y")
    assert points.count("<image") == 1
    assert len(points) + len(histogram) < 200_000


def test_large_pictures_are_made_smaller():
    small = _figures.picture(np.zeros((40, 30, 3), np.uint8), 255.0)
    assert len(_figures.picture(np.zeros((4000, 3000, 3), np.uint8), 255.0)) < 3 * len(small)


def test_large_weights_make_a_small_picture(own_rng):
    w = own_rng.random((300 * 300 * 3, 20))
    picture, units, width = _figures.weights(w, (300, 300, 3))
    assert (units, width) == (17, 5 * 75 + 4)
    assert len(picture) < 500_000


def test_attributes_are_escaped():
    assert _html.tag("p", ["<", None, _html.tag("br")], title='"') == (
        '<p title="&quot;">&lt;<br></p>'
    )
