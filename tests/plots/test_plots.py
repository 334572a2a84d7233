"""Figures: their axes say what they show, and what they show is the run."""

import json
import math
import os
import subprocess
import sys
from typing import NamedTuple

import matplotlib
import numpy as np
import pytest

from funcnet import plots
from funcnet._matplotlib import BLUE, ORANGE
from funcnet.train import History


def _row(epoch, **values):
    return {"epoch": epoch, "step": 20 * epoch, "loss": 2.0 / (epoch + 1)} | values


@pytest.fixture
def history():
    train, val = (0.1, 0.5, 0.8, 0.9, 0.95), (0.1, 0.45, 0.75, 0.7, 0.75)
    return History(
        _row(epoch, train_accuracy=a, val_accuracy=b)
        for epoch, (a, b) in enumerate(zip(train, val, strict=True))
    )


@pytest.fixture
def losses(rng):
    return (2.0 + 0.1 * rng.standard_normal(80)).astype(np.float32)


def _data(line):
    return np.asarray(line.get_xdata()), np.asarray(line.get_ydata())


def _legend(axes):
    return [text.get_text() for text in axes.get_legend().get_texts()]


@pytest.mark.courses("4-27")
def test_curves_show_the_run(history, losses):
    figure = plots.curves(history, losses, title="a run")
    loss, accuracy = figure.axes
    assert figure.get_suptitle() == "a run"
    assert (loss.get_xlabel(), loss.get_ylabel()) == ("step", "loss, mean over the batch")
    assert (accuracy.get_xlabel(), accuracy.get_ylabel()) == ("epoch", "accuracy (%)")
    assert loss.get_title()
    assert accuracy.get_title()
    assert _legend(loss) == ["loss", "mean of 2 steps"]
    assert _legend(accuracy) == ["training", "validation", "best: 75.0 % (epoch 2)"]

    raw, mean = loss.lines
    np.testing.assert_array_equal(_data(raw), (np.arange(1, 81), losses))
    steps, means = _data(mean)
    np.testing.assert_array_equal(steps, np.arange(1.5, 80))
    pairs = losses.astype(np.float64)
    np.testing.assert_allclose(means, (pairs[1:] + pairs[:-1]) / 2, rtol=1e-15)

    train, val, best = accuracy.lines
    for line, key in ((train, "train_accuracy"), (val, "val_accuracy")):
        epochs, values = _data(line)
        np.testing.assert_array_equal(epochs, history["epoch"])
        np.testing.assert_array_equal(values[1:], 100 * np.array(history[key][1:]))
        assert np.isnan(values[0])  # out of sight, and so without a stroke that leads to it
    assert [v[0] for v in _data(best)] == [2, 75.0]  # the first of two that are equal


@pytest.mark.integration
def test_curves_show_the_validation_loss_and_any_metric(history, losses):
    rows = [
        {**_row(i), "train_mean_absolute_error": 0.5 / (i + 1), "val_mean_absolute_error": v,
         "train_f1": 0.1, "val_f1": 0.2, "val_loss": 3.0 - i}
        for i, v in enumerate((0.6, 0.3, 0.4))
    ]  # fmt: skip
    loss, metric = plots.curves(rows, losses).axes
    assert _legend(loss) == ["loss", "mean of 2 steps", "validation"]
    assert [v.tolist() for v in _data(loss.lines[-1])] == [[0, 20, 40], [3.0, 2.0, 1.0]]
    assert metric.get_ylabel() == "mean absolute error"
    assert _data(metric.lines[1])[1][1:].tolist() == [0.3, 0.4]
    assert _legend(metric)[-1] == "best: 0.3 (epoch 1)"
    _, train, val = plots.compare({"a run": (rows, losses)}).axes
    assert train.get_title() == "training mean absolute error"
    assert _data(val.lines[0])[1][1:].tolist() == [0.3, 0.4]


@pytest.mark.integration
def test_curves_mark_the_epoch_that_the_run_chose(history, losses, tmp_path):
    best = plots.curves(history, losses, best_epoch=1).axes[1]
    assert [v[0] for v in _data(best.lines[-1])] == [1, 45.0]
    assert _legend(best)[-1] == "best: 45.0 % (epoch 1)"
    rows = "".join(json.dumps(row) + "\n" for row in history)
    (tmp_path / "history.jsonl").write_text(rows)
    (tmp_path / "result.json").write_text('{"best_epoch": 3}')
    for place in (tmp_path, tmp_path / "history.jsonl"):
        assert _legend(plots.curves(place).axes[1])[-1] == "best: 70.0 % (epoch 3)"


def test_curves_make_room_for_what_was_learned(history, losses):
    low, high = plots.curves(history, losses).axes[1].get_ylim()
    assert 10 < low < 45
    assert 95 < high < 101


def test_curves_without_losses_have_the_epochs(history):
    axes = plots.curves(history).axes[0]
    np.testing.assert_array_equal(_data(axes.lines[0]), (history["step"], history["loss"]))
    assert _legend(axes) == ["mean of each epoch"]


@pytest.mark.parametrize(("last", "scale"), [(1.0, "linear"), (0.001, "log"), (0.0, "linear")])
def test_a_deep_fall_is_drawn_on_a_logarithmic_axis(history, last, scale):
    figure = plots.curves(history, [2.0, 1.5, last])
    assert figure.axes[0].get_yscale() == scale


def test_what_is_not_finite_leaves_a_gap(losses):
    history = [
        _row(0, train_accuracy=0.1, val_accuracy=None, loss=None),
        _row(1, train_accuracy=0.2, val_accuracy=None),
    ]
    losses[-1] = math.nan
    loss, accuracy = plots.curves(history, losses).axes
    assert len(accuracy.lines) == 1  # no validation, and no best
    assert np.isnan(_data(loss.lines[0])[1][-1])
    assert np.isfinite(_data(loss.lines[1])[1][:-1]).all()
    assert np.isnan(_data(plots.curves(history).axes[0].lines[0])[1][0])


@pytest.mark.integration
def test_few_rows_are_enough():
    row = _row(0, train_accuracy=0.1, val_accuracy=0.2, loss=None)
    for losses in (None, [], [2.3]):
        plots.curves([row], losses)
    with pytest.raises(ValueError, match="no row"):
        plots.curves([])


@pytest.mark.courses("0-14", "0-18", "1-28")
def test_compare_has_the_courses_three_panels(history, losses):
    other = [row | {"val_accuracy": 0.5} for row in history]
    figure = plots.compare({"sgd": (history, losses), "adam": (other, None)}, title="rules")
    loss, train, val = figure.axes
    assert [axes.get_xlabel() for axes in figure.axes] == ["step", "epoch", "epoch"]
    assert [axes.get_ylabel() for axes in (train, val)] == ["accuracy (%)"] * 2
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "adam"]
    first, second = (_data(line)[1] for line in val.lines)
    np.testing.assert_array_equal(first[1:], 100 * np.array(history["val_accuracy"][1:]))
    np.testing.assert_array_equal(second, 50.0)
    np.testing.assert_array_equal(_data(loss.lines[0])[1], losses)
    for panel in (train, val):
        assert [line.get_color() for line in panel.lines] == [BLUE, ORANGE]
    with pytest.raises(ValueError, match="no run"):
        plots.compare({})


def test_more_runs_than_colours_are_told_apart(history):
    figure = plots.compare({str(i): (history, None) for i in range(20)})
    looks = {(line.get_color(), line.get_linestyle()) for line in figure.axes[2].lines}
    assert len(looks) == 20


@pytest.mark.integration
def test_figures_come_from_files_as_from_the_run(tmp_path, history, losses):
    lines = [json.dumps(row) for row in history]
    (tmp_path / "history.jsonl").write_text("\n".join([*lines, '{"epoch": 5, "st']))
    assert plots.load_run(tmp_path)[1] is None
    np.save(tmp_path / "losses.npy", losses)
    stored, values = plots.load_run(tmp_path)
    assert stored == history
    np.testing.assert_array_equal(values, losses)
    kept = plots.curves(history, losses)
    for place in (tmp_path, str(tmp_path / "history.jsonl")):
        again = plots.curves(place)
        for axes, others in zip(kept.axes, again.axes, strict=True):
            for line, other in zip(axes.lines, others.lines, strict=True):
                np.testing.assert_array_equal(_data(line), _data(other))
    assert len(plots.compare({"a": tmp_path, "b": (history, losses)}).axes[0].lines) == 4
    (tmp_path / "history.jsonl").write_text("\n".join([lines[0], "[]", lines[1]]))
    with pytest.raises(ValueError, match=r"history.jsonl, line 2: '\[\]' is no row"):
        plots.load_run(tmp_path)


@pytest.mark.integration
@pytest.mark.parametrize("suffix", ["png", "svg", "pdf"])
def test_figures_are_saved(tmp_path, history, losses, suffix):
    path = tmp_path / f"curves.{suffix}"
    plots.curves(history, losses, path)
    start = {"png": b"\x89PNG", "svg": b"<?xml", "pdf": b"%PDF"}[suffix]
    assert path.read_bytes().startswith(start)


@pytest.mark.integration
def test_nothing_is_cut_off(tmp_path, history):
    losses = np.linspace(2.31, 0.42, 4900)  # ticks of four characters, and no round limits
    for row in history:
        row["train_accuracy"] = 0.5 + row["epoch"] / 11.3
    figure = plots.curves(history, losses, tmp_path / "curves.png", title="cifar10")
    width, height = figure.bbox.width, figure.bbox.height
    for axes in figure.axes:
        for part in (axes.yaxis.label, axes.xaxis.label, axes.title, axes.get_legend()):
            box = part.get_window_extent()
            assert box.x0 >= 0, part
            assert box.y0 >= 0, part
            assert box.x1 <= width, part
            assert box.y1 <= height, part


# --- Weights


def _grid(*args, **options):
    (axes,) = plots.weight_grid(*args, **options).axes
    return np.asarray(axes.images[0].get_array())


@pytest.mark.courses("4-16", "4-27")
def test_weights_of_an_affine_layer_are_images(rng):
    w = rng.standard_normal((32 * 32 * 3, 10))
    grid = _grid(w, padding=3, columns=5)
    assert grid.shape == (2 * 32 + 3, 5 * 32 + 4 * 3, 3)
    image = w[:, 7].reshape(32, 32, 3)  # the third of the second row
    expected = (image - image.min()) / (image.max() - image.min())
    np.testing.assert_array_equal(grid[35:67, 70:102], expected)
    np.testing.assert_array_equal(grid[32:35], 1.0)
    np.testing.assert_array_equal(grid[:, 32:35], 1.0)


@pytest.mark.courses("4-49")
def test_filters_are_images(rng):
    w = rng.standard_normal((5, 5, 3, 32))
    grid = _grid(w)
    assert grid.shape == (6 * 6 - 1, 6 * 6 - 1, 3)  # 6 by 6, of which 4 places are empty
    filters = [grid[6 * i : 6 * i + 5, 6 * j : 6 * j + 5] for i in range(6) for j in range(6)]
    for k in range(32):
        assert (filters[k].min(), filters[k].max()) == (0.0, 1.0)
        assert np.corrcoef(filters[k].ravel(), w[..., k].ravel())[0, 1] == pytest.approx(1)
    assert all((empty == 1).all() for empty in filters[32:])


def test_one_channel_is_grey_and_a_constant_image_is_dark():
    w = np.ones((8 * 8, 3))
    w[5, 1] = 2
    grid = _grid(w, padding=0)
    assert grid.shape == (16, 16)
    assert grid[:8, :8].max() == 0
    assert (grid[0, 13], grid[:8, 8:].sum()) == (1.0, 1.0)
    assert _grid(np.arange(12.0).reshape(6, 2), image_shape=(2, 3, 1), padding=1).shape == (2, 7)


@pytest.mark.parametrize(
    ("w", "options", "said"),
    [
        (np.zeros((50, 2)), {}, r"50 rows, which is no square.*image_shape="),
        (np.zeros((64, 2)), {"image_shape": (8, 8, 3)}, r"64 rows, but image_shape is \(8, 8, 3\)"),
        (np.zeros((3, 3, 64, 8)), {}, r"shape \(3, 3, 64, 8\).*first layer"),
        (np.zeros((64, 0)), {}, "shape"),
        (np.zeros(64), {}, r"shape \(64,\)"),
        (np.zeros((64, 2)), {"padding": -1}, "padding is -1"),
        (np.zeros((64, 2)), {"columns": 0}, "columns is 0"),
    ],
)
def test_other_weights_are_refused(w, options, said):
    with pytest.raises(ValueError, match=said):
        plots.weight_grid(w, **options)


# --- Sweeps


class Swept(NamedTuple):
    """What a figure takes of a sweep's result."""

    val_accuracy: np.ndarray
    stopped_at: np.ndarray

    @property
    def best_val_accuracy(self):
        return np.array([np.nan if np.isnan(row).all() else np.nanmax(row) for row in self[0]])


def test_sweeps_lie_side_by_side():
    nan = np.nan
    results = {
        "sgd": Swept(np.array([[0.1, 0.5, 0.4], [0.1, 0.6, 0.7]]), np.array([0, 0])),
        "adam": Swept(np.array([[0.2, 0.9, 0.8], [0.3, nan, nan]]), np.array([0, 7])),
        "muon": Swept(np.array([[nan, nan, nan]]), np.array([1])),
    }
    figure = plots.sweeps(results, title="rules")
    left, right = figure.axes
    np.testing.assert_allclose(_data(left.lines[0])[1], [nan, 60, 70])  # epoch 0 lies far below
    np.testing.assert_allclose(_data(left.lines[1])[1], [nan, 90, 80])
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["sgd", "adam"]
    np.testing.assert_allclose([bar.get_width() for bar in right.patches], [70, 90])
    points = {line.get_marker(): line for line in right.lines[2:4]}
    assert (points["o"].get_xdata(), points["x"].get_xdata()) == ([90], [30])
    assert [label.get_text() for label in right.get_yticklabels()] == list(results)
    with pytest.raises(ValueError, match="no member has a validation accuracy"):
        plots.sweeps({"muon": results["muon"]})


# --- Manners


def test_figures_leave_matplotlib_as_it_was(history, losses):
    before = dict(matplotlib.rcParams)
    plots.curves(history, losses)
    assert dict(matplotlib.rcParams) == before


def test_a_figure_that_fails_leaves_the_file_as_it_was(tmp_path, history, monkeypatch):
    path = tmp_path / "curves.png"
    path.write_bytes(b"an older figure")

    def fails(self, file, **options):
        file.write(b"half of")
        raise RuntimeError("no LaTeX")

    monkeypatch.setattr("matplotlib.figure.Figure.savefig", fails)
    with pytest.raises(RuntimeError, match="no LaTeX"):
        plots.curves(history, path=path)
    assert path.read_bytes() == b"an older figure"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.integration
def test_pyplot_is_not_imported():
    program = (
        "import sys; from funcnet import plots; print('matplotlib' in sys.modules); "
        "plots.curves([{'epoch': 0, 'train_accuracy': 0.5, 'val_accuracy': 0.5}], [1.0]); "
        "print('matplotlib.pyplot' in sys.modules)"
    )
    # A backend that a notebook's child inherits, without the package: a file needs none.
    environment = os.environ | {"MPLBACKEND": "module://no_such_package.backend_inline"}
    ended = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=environment
    )
    assert ended.stdout.split() == ["False", "False"], ended.stderr


def test_a_missing_matplotlib_is_named(history, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "funcnet\[run\]"'):
        plots.curves(history)
