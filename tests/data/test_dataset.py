"""Labels: which are taken, and which are refused by name."""

import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import data
from tests.support import data_sets

_no_network = data_sets.no_network


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
        (np.eye(3, dtype=int), r"train has shape \(3, 3\), .*argmax"),
        (3, r"train has shape \(\)"),
        ([[1], [2, 3]], "train: .*one integer for each row"),
    ],
)
def test_bad_labels_are_named(labels, message):
    with pytest.raises(data.LabelError, match=message):
        data.check_labels(labels, 10, "train")
    assert issubclass(data.LabelError, ValueError)
