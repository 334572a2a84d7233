"""What training and evaluation take: any arrays, anybody's functions, and the run itself."""

import dataclasses
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from funcnet import checkpoint, data, losses, nets, optimizers, sweep, train
from tests.support.lanes import by_default
from tests.support.small_runs import DATA, NET, assert_same, fit

LINEAR = nets.affine(3)


# --- Arrays


class Column:
    """Numbers in a strange container: as tensors, frames and HDF5 files, it has `__array__`."""

    def __init__(self, values):
        self._values = values

    def __len__(self):
        return len(self._values)

    def __getitem__(self, index):
        raise KeyError(index)  # a frame's [0] is the column of that name

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self._values, dtype)


class Elsewhere(Column):
    """A tensor on another device, or one that needs a gradient."""

    def __array__(self, dtype=None, copy=None):
        raise RuntimeError("call detach() first")


MAKERS = {"list": lambda array: array.tolist(), "duck": Column, "jax": jnp.asarray}


def made(make, split):
    return data.Split(make(np.asarray(split.images)), make(np.asarray(split.labels)))


@pytest.fixture(scope="module")
def usual():
    return fit(LINEAR, epochs=1)


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(MAKERS, {"duck"}))
def test_whatever_becomes_an_array_trains_and_evaluates_to_the_same_bits(name, usual):
    make = MAKERS[name]
    dataset = DATA._replace(train=made(make, DATA.train), val=made(make, DATA.val), classes=3)
    run = fit(LINEAR, dataset, epochs=1)
    assert_same(run.final, usual.final)
    assert run.history["val_accuracy"] == usual.history["val_accuracy"]
    assert run.history["train_accuracy"] == usual.history["train_accuracy"]
    expected = train.evaluate(LINEAR, usual, DATA.val)
    assert train.evaluate(LINEAR, run, dataset.val) == expected
    swept = sweep.run(
        lambda: sweep.Trial(LINEAR, optimizers.sgd(0.1)),
        dataset, epochs=1, batch_size=10, how="loop",
    )  # fmt: skip
    np.testing.assert_array_equal(swept.losses[0], usual.losses)
    assert swept.val_accuracy[0].tolist() == usual.history["val_accuracy"]
    x = data.preprocess(usual.preprocessing, DATA.val.images, jnp.float32)
    as_given = Column if make is MAKERS["list"] else make  # a list of floats is float64
    batch = as_given(np.asarray(x)), make(np.asarray(DATA.val.labels))
    found = train.diagnose(LINEAR, usual.final, batch)
    assert found == train.diagnose(LINEAR, usual.final, (x, jnp.asarray(DATA.val.labels)))


@pytest.mark.integration
def test_counts_are_whatever_is_an_index():
    counts = {"batch_size": 10, "epochs": 1, "train_accuracy_rows": 50, "chunk_steps": 3}
    usual = fit(LINEAR, **counts)
    for kind in (np.int32, jnp.asarray):
        run = fit(LINEAR, **{name: kind(value) for name, value in counts.items()})
        assert_same(run.final, usual.final)
        assert run.history["train_accuracy"] == usual.history["train_accuracy"]


IMAGES, LABELS = DATA.val
NO_SPLITS: dict[str, tuple[Any, type, str]] = {
    "pair": ((IMAGES, LABELS), TypeError, r"is a tuple, expected a data.Split\(images, labels\)"),
    "nothing": (3, TypeError, "is a int, expected a data.Split"),
    "images elsewhere": (data.Split(Elsewhere(IMAGES), LABELS), TypeError,
                         r"images is a Elsewhere .*\(call detach\(\) first\)"),
    "ragged images": (data.Split([[1.0], [1.0, 2.0]], LABELS[:2]), TypeError, "images is a list"),
    "images of text": (data.Split(np.array(["a"] * 30), LABELS), TypeError, "images has dtype <U1"),
    "images of objects": (data.Split(IMAGES.astype(object), LABELS), TypeError, "dtype object"),
    "missing values": (data.Split(np.ma.masked_equal(IMAGES, IMAGES[3, 1, 1, 0]), LABELS),
                       TypeError, r"images is a masked array without \d+ of its values; fill"),
    "complex images": (data.Split(IMAGES * 1j, LABELS), TypeError, "images has dtype complex128"),
    "one number": (data.Split(np.array(1.0), LABELS), TypeError, "images is one number"),
    "too few labels": (data.Split(IMAGES, LABELS[1:]), ValueError, "30 images but 29 labels"),
    "a label that 32 bits wrap": (
        data.Split(IMAGES, LABELS.astype(np.int64) + 2**32 * (np.arange(30) == 7)),
        data.LabelError, rf"labels\[7\] is {2**32 + int(LABELS[7])}, expected a class, 0 to 2",
    ),
    "a label of 2^63": (
        data.Split(IMAGES, LABELS.astype(np.uint64) + np.uint64(2**63) * (np.arange(30) == 29)),
        data.LabelError, r"labels\[29\] is 9223372036854775",
    ),
    "bools": (data.Split(IMAGES, LABELS > 0), data.LabelError,
              r"labels\[0\] is (True|False) of dtype bool.*astype"),
    "whole floats": (data.Split(IMAGES, LABELS.astype(float)), data.LabelError,
                     r"labels\[0\] is \d\.0 of dtype float64, .*astype\(np.int32\)"),
    "half a class": (data.Split(IMAGES, LABELS + 0.5 * (np.arange(30) == 4)), data.LabelError,
                     r"labels\[4\] is \d\.5 of dtype float64"),
    "names": (data.Split(IMAGES, ["cat", "dog", "emu"] * 10), data.LabelError,
              r"labels\[0\] is cat of dtype <U3.*return_inverse=True"),
    "names and numbers": (data.Split(IMAGES, [0, "dog", None] * 10), data.LabelError,
                          r"labels\[0\] is 0 of dtype object"),
    "a column": (data.Split(IMAGES, LABELS[:, None]), data.LabelError, r"shape \(30, 1\)"),
    "one label": (data.Split(IMAGES, 1), data.LabelError, r"labels has shape \(\)"),
    "labels elsewhere": (data.Split(IMAGES, Elsewhere(LABELS)), data.LabelError, "call detach"),
}  # fmt: skip


@pytest.mark.parametrize(("split", "error", "words"), NO_SPLITS.values(), ids=NO_SPLITS)
def test_what_is_no_split_is_said_at_once(split, error, words, usual):
    trial = partial(sweep.Trial, LINEAR, optimizers.sgd(0.1))
    with jax.no_tracing(True):
        for dataset in (DATA._replace(train=split), DATA._replace(val=split)):
            with pytest.raises(error, match=rf"dataset\.(train|val).*{words}"):
                fit(LINEAR, dataset)
            with pytest.raises(error, match=rf"dataset\.(train|val).*{words}"):
                sweep.run(trial, dataset, batch_size=10)
        with pytest.raises(TypeError, match=r"dataset is a Split, expected a data\.Dataset"):
            fit(LINEAR, DATA.train)
    with pytest.raises(error, match=rf"split.*{words}"):
        train.evaluate(LINEAR, usual, split)


# --- Pairs of arrays


@pytest.mark.integration
@pytest.mark.parametrize("name", by_default(MAKERS, {"list"}))
def test_a_pair_of_arrays_is_a_data_set(name):
    make = MAKERS[name]
    images, labels = DATA.train
    by_hand = data.from_arrays(images, labels, val=0.1, test=0, seed=0)
    expected = fit(LINEAR, by_hand)
    run = fit(LINEAR, (make(images), make(labels)))
    assert_same(run.best, expected.best)
    assert run.history["val_loss"] == expected.history["val_loss"]
    assert run.trained.classes == ("0", "1", "2")
    assert_same(fit(LINEAR, (make(images), make(labels)), resume=run).final, run.final)


def test_a_pair_of_pairs_is_split_already():
    run = fit(LINEAR, (tuple(DATA.train), tuple(DATA.val)))
    expected = fit(LINEAR)
    assert_same(run.final, expected.final)
    assert run.history["val_loss"] == expected.history["val_loss"]
    trial = partial(sweep.Trial, LINEAR, optimizers.sgd(0.1))
    swept = sweep.run(
        trial, (tuple(DATA.train), tuple(DATA.val)), epochs=2, batch_size=10, how="loop"
    )
    np.testing.assert_array_equal(swept.val_accuracy[0], run.history["val_accuracy"])


PAIRS: dict[str, tuple[Any, type, str]] = {
    "numbers": ((1, 2), TypeError, "dataset.images is one number"),
    "text": (("a", "b"), TypeError, "dataset.images has dtype <U1"),
    "none of a validation": ((tuple(DATA.train), (3, LABELS)), TypeError, r"dataset\[1\]\.images"),
    "three": ((IMAGES, LABELS, IMAGES), TypeError, r"dataset is a tuple, .*or a pair of arrays"),
    "a list": ([IMAGES, LABELS], TypeError, "dataset is a list, expected a data.Dataset"),
    "too few labels": ((IMAGES, LABELS[1:]), data.LabelError, "^fit: labels: 29 for 30 images"),
    "other shapes": (((IMAGES, LABELS), (IMAGES[:, 1:], LABELS)), ValueError, "^fit: .*shapes"),
    "classes or numbers": ((IMAGES, np.arange(30)), data.LabelError,
                           r"30 distinct .* make it by data.from_arrays\(x, y, task=...\) with"),
    "a masked array": ((np.ma.masked_equal(IMAGES, IMAGES[3, 1, 1, 0]), LABELS), TypeError,
                       "dataset.images is a masked array"),
}  # fmt: skip


@pytest.mark.parametrize(("pair", "error", "words"), PAIRS.values(), ids=PAIRS)
def test_what_is_no_pair_of_arrays_is_said_at_once(pair, error, words):
    with jax.no_tracing(True), pytest.raises(error, match=words):
        fit(LINEAR, pair)


# --- What evaluation preprocesses by


def test_a_run_evaluates_to_what_it_logged_without_having_to_know(tmp_path):
    """Without the run's preprocessing a net is measured on images it has never seen the like of."""
    run = fit(NET, epochs=3)
    best = train.evaluate(NET, run.best, DATA.val, run.preprocessing)
    assert best["accuracy"] == max(run.history["val_accuracy"])
    assert train.evaluate(NET, run, DATA.val) == best
    raw = train.evaluate(NET, run, DATA.val, None)
    assert raw == train.evaluate(NET, run.best, DATA.val, None)
    assert raw["loss"] != best["loss"]
    checkpoint.save_params(tmp_path / "net.npz", run.best.params, run.best.state, run.preprocessing)
    loaded = checkpoint.load_params(tmp_path / "net.npz", run.best.params, run.best.state)
    assert train.evaluate(NET, loaded, DATA.val) == best


def test_raw_images_are_refused_where_nothing_says_how_to_preprocess_them():
    run = fit(LINEAR, epochs=1, preprocessing=None)
    floats = DATA.val._replace(images=DATA.val.images.astype(np.float32))
    pair = run.best.params, run.best.state
    for trained, split in ((run.best, DATA.val), (run.best, floats), (pair, DATA.val)):
        with pytest.raises(TypeError, match=r"evaluate\(net, run, split\).*preprocessing=None"):
            train.evaluate(LINEAR, trained, split)
    expected = train.evaluate(LINEAR, run, DATA.val)
    assert expected["loss"] == run.history[-1]["val_loss"]
    assert train.evaluate(LINEAR, pair, floats) == expected
    assert train.evaluate(LINEAR, run.best, DATA.val, None) == expected
    with pytest.raises(TypeError, match=r"is 'standardised'.*run\.preprocessing"):
        train.evaluate(LINEAR, run.best, DATA.val, "standardised")


# --- Anybody's functions


@dataclasses.dataclass
class Method:
    """A method as Equinox makes one: a new object each time, compared by the arrays of its owner,
    and so without a hash."""

    __func__: Any
    __self__: Any

    def __call__(self, *arguments, **options):
        return self.__func__(self.__self__, *arguments, **options)


@dataclasses.dataclass
class Module:
    """A module as other libraries make them: compared by its arrays, and without a hash."""

    scale: jax.Array

    def __getattribute__(self, name):
        value = super().__getattribute__(name)
        own = name in ("init", "apply", "loss")
        return Method(value.__func__, self) if own else value

    def init(self, key, shape):
        return self.scale * jax.random.normal(key, (16, 3), jnp.float32), ()

    def apply(self, params, state, x, *, train=False, key=None):
        return x.reshape(len(x), -1) @ params, state

    def loss(self, scores, labels):
        return losses.softmax_cross_entropy(self.scale * scores, labels)

    def __call__(self, *arguments):
        return self.loss(*arguments)


@pytest.mark.slow
def test_methods_of_objects_without_a_hash_train():
    module = Module(jnp.full((1, 3), 0.1, jnp.float32))
    for unhashable in (module, module.apply):
        with pytest.raises(TypeError, match="unhashable"):
            hash(unhashable)
    net = nets.Net(module.init, module.apply)
    plain = nets.Net(lambda key, shape: module.init(key, shape), partial(module.apply))
    expected = fit(plain, epochs=1)
    for own in (net, nets.serial(net), nets.remat(net)):
        run = fit(own, epochs=1)
        assert run.losses.shape == (10,)
        assert (
            train.evaluate(own, run, DATA.val)["accuracy"]
            == run.history["val_accuracy"][run.best_epoch]
        )
    assert_same(fit(net, epochs=1).final, expected.final)
    for loss in (module.loss, module):
        run = fit(LINEAR, epochs=1, loss=loss)
        result = train.evaluate(LINEAR, run, DATA.val, loss=loss)
        assert result["loss"] == run.history[run.best_epoch]["val_loss"]


def test_nets_are_equal_where_their_functions_are_the_same():
    a, b = Module(jnp.ones((1, 3))), Module(jnp.ones((1, 3)))
    one = nets.Net(a.init, a.apply)
    assert one == nets.Net(a.init, a.apply)
    assert hash(one) == hash(nets.Net(a.init, a.apply))
    assert one != nets.Net(b.init, b.apply)
    assert one != one._replace(kind="mine")
    assert one != tuple(one)
    assert LINEAR._replace() == LINEAR
    assert nets.affine(3) != nets.affine(3)
    assert nets.serial(one, LINEAR).children == (one, LINEAR)
