"""Data sets as people see them, and labels: which are taken, and which are refused by name."""

import pickle

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data
from tests.support import data_sets

_no_network = data_sets.no_network


# --- As people see them


def test_a_data_set_says_what_it_is_and_prints_no_array():
    dataset = data.synthetic(sizes=(200, 50, 0), classes=3)
    said = (
        "Dataset('synthetic': task classification, train (200, 8, 8, 1) uint8 with labels (200,) "
        "int32, val (50, 8, 8, 1) uint8 with labels (50,) int32, test (0, 8, 8, 1) uint8 with "
        "labels (0,) int32, classes 3: 0 1 2)"
    )
    assert repr(dataset) == str(dataset) == said
    assert repr(dataset.val) == "Split(images (50, 8, 8, 1) uint8, labels (50,) int32)"
    html = dataset._repr_html_()
    assert html.startswith("<table><caption>Dataset synthetic</caption><tr><th>task</th>")
    assert "<th>val</th><td>(50, 8, 8, 1) uint8 with labels (50,) int32</td>" in html
    assert "<th>labels</th><td>(50,) int32</td>" in dataset.val._repr_html_()


def test_whatever_a_data_set_holds_it_is_short_and_escaped():
    names = tuple(f"<b>{index}" * 1000 for index in range(1000))
    split = data.Split([[1.0]] * 10**5, np.zeros(10**5))
    large = data.Dataset(split, None, "no split", names, name="<i>" * 10**5)
    for value in (large, split, large._replace(classes=3), large._replace(task="regression")):
        assert len(repr(value)) <= 1000
        assert len(value._repr_html_()) <= 5000
        assert "<b>" not in value._repr_html_()
        assert "<i>" not in value._repr_html_()
    assert "images list of 100000" in repr(split)
    assert "classes 1000: " in repr(large)
    assert "val none, test str of 8" in repr(large)


def test_a_data_set_is_the_tuple_that_it_was():
    dataset = data.Dataset(*[data.Split((1, 2), (0, 1))] * 3, classes=("a", "b"))
    again = pickle.loads(pickle.dumps(dataset))
    assert again == dataset
    assert type(again.train) is data.Split
    (images, labels), *_ = again
    assert (images, labels) == ((1, 2), (0, 1))


# --- Labels


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int16, np.int32, np.int64, np.uint64])
def test_good_labels_of_every_integer_dtype(dtype):
    checked = data.check_labels(np.array([0, 9, 3], dtype), 10)
    assert checked.dtype == np.int32
    np.testing.assert_array_equal(checked, [0, 9, 3])
    np.testing.assert_array_equal(data.check_labels(jnp.array([0, 9]), 10), [0, 9])
    assert data.check_labels([], 10).shape == (0,)


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([0, 1, 10], r"train\[2\] is 10, expected a class, 0 to 9"),
        ([0, -1, 10], r"train\[1\] is -1"),
        (np.array([0, 255], np.uint8), r"train\[1\] is 255"),
        (np.array([0, 2**63], np.uint64), r"train\[1\] is 9223372036854775808"),
        ([0.0, 1.0], r"train\[0\] is 0.0 of dtype float64"),
        ([0.0, 1.5], r"train\[1\] is 1.5 of dtype float64"),
        ([0.0, 1.0, np.nan], r"train\[2\] is nan"),
        ([0.0, np.inf], r"train\[1\] is inf"),
        (np.float32([1, 2]), r"train\[0\] is 1.0 of dtype float32"),
        (jnp.bfloat16([1, 2]), r"train\[0\] is 1 of dtype bfloat16"),
        ([True, False], r"train\[0\] is True of dtype bool"),
        (["a", "b"], r"train\[0\] is a of dtype <U1"),
        ([None, 1], r"train\[0\] is None of dtype object"),
        ([[0], [1]], r"train has shape \(2, 1\), .*ravel.*argmax"),
        ([[0, 1], [1, 10]], r"train\[1, 1\] is 10"),
        (3, r"train has shape \(\)"),
        ([[1], [2, 3]], "train: .*one integer for each row"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(data.LabelError, match=message):
        data.check_labels(labels, 10, "train")
    assert issubclass(data.LabelError, ValueError)
