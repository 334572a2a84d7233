"""Training on rows that stay in storage: the bits of the same rows in memory, and what fails."""

import jax
import numpy as np
import pytest

from funcnet import checkpoint, data, nets, optimizers, sweep, train
from funcnet.data import SourceError, Streamed
from funcnet.train import _feed
from tests.support.small_runs import DATA, DROPOUT_NET, NET, assert_same, fit

CONVOLUTIONS = nets.serial(nets.conv(4), nets.relu(), nets.flatten(), nets.affine(3))


def streamed(dataset=DATA, of=Streamed):
    splits = {
        name: getattr(dataset, name)._replace(images=of(getattr(dataset, name).images))
        for name in ("train", "val", "test")
    }
    return dataset._replace(**splits)


def assert_same_run(found, expected):
    for name in ("final", "best"):
        assert_same(getattr(found, name), getattr(expected, name))
    np.testing.assert_array_equal(found.losses, expected.losses)
    times = "seconds", "images_per_second"
    for a, b in zip(found.history, expected.history, strict=True):
        assert {k: v for k, v in a.items() if k not in times} == {
            k: v for k, v in b.items() if k not in times
        }


@pytest.fixture(params=[2**24, 500, 1])
def window_bytes(request, monkeypatch):
    """Windows of an epoch, of three steps, the last one filled up, and of one."""
    monkeypatch.setattr(_feed, "WINDOW_BYTES", request.param)


CASES = {
    "dropout": (DROPOUT_NET, {}),
    "convolutions": (CONVOLUTIONS, {"optimizer": optimizers.adam(1e-2)}),
    "replacement": (NET, {"sampling": "replacement", "chunk_steps": 3}),
    "full": (NET, {"sampling": "full"}),
    "augmented": (NET, {"augment": data.random_flip, "chunk_steps": 7, "epochs": 3}),
    "float64": (NET, {"preprocessing": "mean_image"}),
}


@pytest.mark.integration
@pytest.mark.parametrize(
    "name",
    [*list(CASES)[:2], *(pytest.param(n, marks=pytest.mark.slow) for n in list(CASES)[2:])],
)
def test_a_run_has_the_bits_of_one_in_memory(name, window_bytes):
    net, options = CASES[name]
    assert_same_run(fit(net, streamed(), **options), fit(net, DATA, **options))


@pytest.mark.integration
def test_labels_may_be_a_source_and_evaluation_reads_both(monkeypatch):
    labels = (DATA.train.images[..., 0] > 99).astype(np.int32)  # a class for each pixel
    split = data.Split(DATA.train.images, labels)
    dataset = DATA._replace(train=split, val=split)
    apart = data.Split(Streamed(split.images), Streamed(labels))
    net = nets.conv(3)
    expected = fit(net, dataset, epochs=1)
    found = fit(net, dataset._replace(train=apart, val=apart), epochs=1)
    assert_same_run(found, expected)
    assert train.evaluate(net, found, apart) == train.evaluate(net, expected, split)
    rows = found.trained.predict(apart.images)
    np.testing.assert_array_equal(rows, expected.trained.predict(split.images))


@pytest.mark.integration
def test_a_large_file_is_streamed_by_itself(tmp_path, monkeypatch):
    monkeypatch.setattr("funcnet.data._streamed.RESIDENT_BYTES", 100)
    seen = []

    def stored(images):
        np.save(tmp_path / f"{len(images)}.npy", images)
        return np.load(tmp_path / f"{len(images)}.npy", mmap_mode="r")

    monkeypatch.setattr(_feed, "Windows", lambda *a, made=_feed.Windows: seen.append(a) or made(*a))
    assert_same_run(fit(dataset=streamed(of=stored)), fit())
    assert len(seen) == 1

    def make(learning_rate):
        return sweep.Trial(nets.affine(3), optimizers.sgd(learning_rate))

    rates = {"learning_rate": [0.1, 0.2]}
    expected, found = (
        sweep.run(make, d, rates, epochs=1, batch_size=10, how="loop")
        for d in (DATA, streamed(of=stored))
    )
    np.testing.assert_array_equal(found.losses, expected.losses)


class Failing:
    """Rows that cannot be read from the n-th time on."""

    def __init__(self, rows, times):
        self.rows, self.left = rows, times
        self.shape, self.dtype = rows.shape, rows.dtype

    def __len__(self):
        return len(self.rows)

    def __getitem__(self, rows):
        self.left -= 1
        if self.left < 0:
            raise OSError("the disk is gone")
        return self.rows[rows]


@pytest.mark.integration
@pytest.mark.parametrize("chunk_steps", [1, 4, None])
def test_a_source_that_fails_ends_the_run_and_nothing_is_lost(chunk_steps, monkeypatch, tmp_path):
    monkeypatch.setattr(_feed, "WINDOW_BYTES", 1)
    images = DATA.train.images
    preprocessing = data.fit_preprocessing(images)
    options = {"preprocessing": preprocessing, "train_accuracy_rows": 10}
    broken = DATA._replace(train=data.Split(Streamed(Failing(images, 15)), DATA.train.labels))
    with pytest.raises(SourceError, match="OSError: the disk is gone") as caught:
        fit(dataset=broken, chunk_steps=chunk_steps, **options)
    run = caught.value.run
    step = int(run.final.step)
    assert 0 < step < 20
    assert len(run.losses) == step
    assert "Failing: reading 10 rows" in run.stopped
    checkpoints = checkpoint.Checkpoints(tmp_path)
    checkpoints.save(run)
    begun = checkpoint.Checkpoints(tmp_path).restore(jax.eval_shape(lambda: run.final))
    assert_same_run(fit(resume=begun, train_accuracy_rows=10), fit(**options))


@pytest.mark.integration
def test_steps_that_are_not_finite_end_a_streamed_run_alike(monkeypatch):
    monkeypatch.setattr(_feed, "WINDOW_BYTES", 1)
    found = []
    for dataset in (streamed(), DATA):
        with pytest.warns(RuntimeWarning, match="training ended there"):
            found.append(fit(nets.affine(3), dataset, optimizers.sgd(1e38), chunk_steps=10))
    assert found[0].stopped == found[1].stopped
    assert_same(found[0].final, found[1].final)
