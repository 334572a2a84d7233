"""Labels of any kind, and rows cut into splits."""

import numpy as np
import pytest

from funcnet.data import LabelError
from funcnet.data._encoding import divide, encode


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (["dog", "cat", "dog"], ("cat", "dog"), [1, 0, 1]),
        (np.array([b"b", b"a"]), ("a", "b"), [1, 0]),
        (np.array(["b", "a"], object), ("a", "b"), [1, 0]),
        (np.array(["b", "a"], np.dtypes.StringDType()), ("a", "b"), [1, 0]),
        ([True, False], ("False", "True"), [1, 0]),
        ([10, 9, 100], ("9", "10", "100"), [1, 0, 2]),
        ([10.0, 9.0], ("9", "10"), [1, 0]),
        ([-1, 1], ("-1", "1"), [0, 1]),
        ([[3], [1], [2]], ("1", "2", "3"), [2, 0, 1]),
        (np.array([3, 2**63], np.uint64), ("3", str(2**63)), [0, 1]),
    ],
    ids=["str", "bytes", "objects", "StringDType", "bool", "int", "whole", "signs", "n1", "uint64"],
)
def test_classes_are_numbered_in_the_order_of_their_values(labels, classes, indices):
    encoded, names, task = encode(labels)
    assert (names, task) == (classes, "classification")
    assert encoded.dtype == np.int32
    np.testing.assert_array_equal(encoded, indices)


@pytest.mark.parametrize(
    ("labels", "classes", "indices"),
    [
        (["cat", "dog"], ["dog", "cat", "cow"], [1, 0]),
        ([0, 2], ["dog", "cat", "cow"], [0, 2]),  # indices, of names
        ([3, 1], [3, 2, 1], [0, 2]),  # values
        ([3.0, 1.0], ["3", "1"], [0, 1]),
        ([True, False], [True, False], [0, 1]),
    ],
)
def test_given_classes_fix_the_order(labels, classes, indices):
    encoded, names, _ = encode(labels, classes)
    np.testing.assert_array_equal(encoded, indices)
    assert names == tuple(map(str, classes))


@pytest.mark.parametrize(
    ("labels", "classes", "message"),
    [
        (["cat", "cow"], ["cat", "dog"], r"labels\[1\] is 'cow', .* classes cat, dog"),
        ([0, 1, 2], ["cat", "dog"], r"labels\[2\] is 2, "),
        ([-1, 1], ["cat", "dog"], r"labels\[0\] is -1, "),
        ([3, 4], [3, 5], r"labels\[1\] is 4, "),
    ],
)
def test_a_label_outside_the_given_classes_is_named(labels, classes, message):
    with pytest.raises(LabelError, match=message):
        encode(labels, classes)


@pytest.mark.parametrize(
    ("labels", "task"),
    [
        ([0.5, 1.0, 2.0], "regression"),
        ([[0.5, 1.0], [2.0, 3.0]], "regression"),
        ([[1, 1, 0], [0, 0, 0]], "multilabel"),
        ([[True, True], [False, True]], "multilabel"),
        (np.arange(20), "classification"),
        (np.arange(200) % 20.0, "classification"),
        (np.arange(1000) % 100, "classification"),
        (np.arange(8).reshape(2, 2, 2), "classification"),
    ],
)
def test_the_task_follows_from_the_labels(labels, task):
    assert encode(labels)[2] == task


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        (np.arange(300.0) % 150, "150 distinct whole numbers in 300 rows.*pass task="),
        (np.arange(300) % 150, "150 distinct whole numbers in 300 rows.*pass task="),
        (np.arange(300.0) % 21, "21 distinct"),
        (np.eye(3), r"one-hot rows become classes with argmax\(1\)"),
        ([[1, 2], [3, 4]], "pass task="),
    ],
    ids=["floats", "ints", "21", "onehot", "n2"],
)
def test_what_may_be_two_things_is_asked_for(labels, message):
    with pytest.raises(LabelError, match=message):
        encode(labels)


def test_a_given_task_is_taken():
    values, names, _ = encode([3, 7, 9], task="regression")
    assert values.dtype == np.float64
    assert names == ("target",)
    hot, names, _ = encode(np.eye(3), task="multilabel", classes=["a", "b", "c"])
    assert hot.dtype == np.int32
    assert names == ("a", "b", "c")
    assert encode(np.arange(300.0), task="classification")[0][-1] == 299


@pytest.mark.parametrize(
    ("labels", "options", "message"),
    [
        (["a", None], {}, r"labels\[1\] is None"),
        (["a", float("nan")], {}, r"labels\[1\] is nan"),
        ([1.0, float("nan")], {}, r"labels\[1\] is nan"),
        (["a", 1], {}, r"labels\[1\] is 1"),
        ([], {}, "empty"),
        ("a", {}, r"shape \(\)"),
        ([1j, 2j], {}, "labels"),
        (["a", "a"], {}, "1 distinct values, expected at least two"),
        ([0.5, 1], {"task": "classification"}, r"labels\[0\] is 0.5"),
        (["a", "b"], {"task": "regression"}, "expected .* numbers"),
        ([[0, 2]], {"task": "multilabel"}, r"labels\[0, 1\] is 2"),
        ([0, 1], {"task": "multilabel"}, r"\(n, k\) of 0 and 1"),
        ([[1, 2], [3]], {}, "labels"),
    ],
)
def test_labels_that_are_none_are_named(labels, options, message):
    with pytest.raises(LabelError, match=message):
        encode(labels, **options)


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="task is 'clustering', expected one of"):
        encode([0, 1], task="clustering")
    with pytest.raises(ValueError, match="expected each once"):
        encode(["a", "b"], classes=["a", "b", "a"])
    with pytest.raises(ValueError, match="3 names, expected 2"):
        encode([[0.5, 1]], classes=["a", "b", "c"])
    with pytest.raises(TypeError, match="expected a sequence of names"):
        encode(["a", "b"], classes="ab")


def test_splits_are_stratified_disjoint_and_seeded():
    labels = np.repeat([0, 1, 2], [500, 300, 200])
    splits = divide(labels, 0.1, 200, seed=3)
    train, val, test = splits
    np.testing.assert_array_equal(np.sort(np.concatenate(splits)), np.arange(1000))
    assert np.bincount(labels[val]).tolist() == [50, 30, 20]
    np.testing.assert_allclose(np.bincount(labels[test]), [100, 60, 40], atol=1)
    for again, same in zip(divide(labels, 0.1, 200, seed=3), splits, strict=True):
        np.testing.assert_array_equal(again, same)
    assert not np.array_equal(divide(labels, 0.1, 200, seed=4)[1], val)
    assert (np.diff(labels[train]) != 0).sum() > 100  # in no order of classes


def test_training_keeps_a_row_of_each_class():
    labels = np.array([0] * 20 + [1, 2, 3])
    for seed in range(20):
        train, val, test = divide(labels, 9, 9, seed=seed)
        assert set(labels[train]) == {0, 1, 2, 3}
        assert (len(val), len(test)) == (9, 9)
    with pytest.raises(ValueError, match="20 of 23 rows, expected at most 19"):
        divide(labels, 10, 10, seed=0)


def test_nothing_to_cut_keeps_the_order():
    train, val, test = divide(np.array([1, 0, 1]), 0, 0.0, seed=0)
    assert (train.tolist(), len(val), len(test)) == ([0, 1, 2], 0, 0)


@pytest.mark.parametrize("size", [-1, 1.0, 1.5, True, "all", -0.1, float("nan")])
def test_sizes_are_counts_or_fractions(size):
    with pytest.raises((ValueError, TypeError), match="val"):
        divide(np.zeros(10, int), size, 0, seed=0)
