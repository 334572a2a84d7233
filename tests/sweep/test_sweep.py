"""Sweeps: members equal their solo runs, leave each other alone, are saved, ranked and drawn."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from funcnet import data, losses, nets, optimizers, plots, sweep, train
from funcnet.sweep import _members, _programs
from tests.support.lanes import by_default
from tests.support.small_sweeps import DATA, assert_close, run, softmax

HOWS = ("loop", "map", "vmap")
STEPS, EPOCHS = 10, 3
ROWS = {
    "learning_rate": [0.1, 0.02],
    "reg": [0.01, 0.0],
    "weight_scale": [0.1, 0.3],
    "momentum": [0.9, 0.5],
}


def make(learning_rate, reg, weight_scale, momentum):
    net = nets.fully_connected_net([8], 3, norm="batch", dropout=0.2, weight_scale=weight_scale)
    rate = train.decay_per_epoch(learning_rate, 0.9, STEPS)
    return sweep.Trial(net, optimizers.momentum(rate, momentum=momentum), reg)


def solo(member, make=make, **options):
    trial = make(**member.values)
    settings = {"epochs": EPOCHS, "batch_size": 10, "dtype": jnp.float64, **options}
    own = {"loss": trial.loss, "reg": trial.reg, "label_smoothing": trial.label_smoothing}
    return train.fit(trial.net, DATA, trial.optimizer, seed=member.seed, **own, **settings)


def assert_is_fit(member, fitted, rtol):
    """A member is the run that `train.fit` makes."""
    history = fitted.history
    done = len(history)
    np.testing.assert_array_equal(member.train_accuracy[:done], history["train_accuracy"])
    np.testing.assert_array_equal(member.val_accuracy[:done], history["val_accuracy"])
    assert np.isnan(member.val_accuracy[done:]).all()
    steps = len(fitted.losses)
    np.testing.assert_allclose(member.losses[:steps], fitted.losses, rtol=rtol, atol=0)
    assert np.isnan(member.losses[steps:]).all()
    assert member.best_epoch == fitted.best_epoch
    assert member.best_val_accuracy == history[fitted.best_epoch]["val_accuracy"]
    assert_close(member.best, fitted.best, rtol)
    assert_close(member.final, fitted.final, rtol)


@pytest.fixture(scope="module")
def fitted():
    """The solo runs of the first row with seed 3 and of the second with seed 7."""
    rows = [dict(zip(ROWS, row, strict=True)) for row in zip(*ROWS.values(), strict=True)]
    members = [sweep.Member(row, seed, *[None] * 6) for row, seed in zip(rows, (3, 7), strict=True)]
    return [solo(member) for member in members]


# --- Members are runs of fit


@pytest.mark.parametrize("how", by_default(HOWS, {"vmap"}))
def test_a_member_is_its_solo_run(how, fitted):
    at_once = {"members_at_once": 3} if how == "vmap" else {}  # the last group is filled up
    result = run(make, ROWS, (3, 7), how, epochs=EPOCHS, dtype=jnp.float64, **at_once)
    assert result.how == how
    assert result.seeds.tolist() == [3, 7] * 2
    assert result.values["learning_rate"].tolist() == [0.1, 0.1, 0.02, 0.02]
    assert result.losses.shape == (4, EPOCHS * STEPS)
    assert result.val_accuracy.shape == result.train_accuracy.shape == (4, EPOCHS + 1)
    for index, one in zip((0, 3), fitted, strict=True):
        assert_is_fit(result.member(index), one, rtol=1e-12)


@pytest.mark.integration
def test_in_float32_a_member_is_its_solo_run_too():
    member = run(make, {name: column[:1] for name, column in ROWS.items()}, epochs=EPOCHS).member(0)
    # XLA may fuse what is a constant in one program and an argument in the other.
    rtol = 100 * np.finfo(np.float32).eps
    assert_is_fit(member, solo(member, dtype=jnp.float32), rtol)


@pytest.mark.integration
@pytest.mark.parametrize(
    ("how", "impl"),
    [
        ("loop", "rbg"),
        pytest.param("measure", "unsafe_rbg", marks=pytest.mark.slow),
        *(("map", "rbg"), ("map", "unsafe_rbg"), ("vmap", "rbg"), ("vmap", "unsafe_rbg")),
    ],
)
def test_with_keys_that_vmap_draws_otherwise_from_a_member_is_its_solo_run_or_refused(how, impl):
    """Of the last member: the first draws the same in a batch."""
    options = {"epochs": 1, "dtype": jnp.float64, "augment": data.random_flip}
    with jax.default_prng_impl(impl):
        if how in ("map", "vmap"):
            said = rf"how is '{how}' and jax_default_prng_impl '{impl}'.*expected how=\"loop\""
            with pytest.raises(ValueError, match=said):
                run(make, ROWS, (3, 7), how, **options)
            return
        result = run(make, ROWS, (3, 7), how, members_at_once=2, **options)
        assert result.how == "loop"
        assert_is_fit(result.member(3), solo(result.member(3), **options), rtol=1e-12)


def test_a_sweep_does_not_go_on_with_other_keys(tmp_path):
    run(folder=tmp_path, epochs=0)
    with jax.default_prng_impl("rbg"), pytest.raises(ValueError, match=r"another sweep.*program"):
        run(folder=tmp_path, epochs=0)


def smoothed(learning_rate):
    return softmax(learning_rate)._replace(label_smoothing=0.1)


@pytest.mark.integration
@pytest.mark.parametrize(("make", "options"), [
    (softmax, {"sampling": "replacement", "train_accuracy_rows": 7, "evaluation_batch_size": 4}),
    (smoothed, {"sampling": "full", "preprocessing": None,
                "augment": lambda key, images: data.random_crop(key, images, padding=1)}),
], ids=["replacement", "full"])  # fmt: skip
def test_it_takes_the_options_of_fit(make, options):
    member = run(make, how="map", dtype=jnp.float64, **options).member(1)
    assert_is_fit(member, solo(member, make, epochs=1, **options), rtol=1e-12)


@pytest.mark.integration
def test_loss_and_schedule_may_be_members_own():
    def make(margin, decay):
        def loss(scores, labels):
            return losses.multiclass_hinge(scores, labels) * margin

        rate = optax.polynomial_schedule(0.1, 0.01, decay, 10)
        return sweep.Trial(nets.softmax_classifier(3), optimizers.adam(rate), loss=loss)

    result = run(make, {"margin": [1.0, 0.5], "decay": [1, 2]}, how="vmap", dtype=jnp.float64)
    member = result.member(1)
    assert isinstance(member.values["decay"], int)
    assert_is_fit(member, solo(member, make, epochs=1), rtol=1e-12)


@pytest.mark.integration
def test_convolutions_that_loops_spoil_are_called_one_by_one(monkeypatch):
    monkeypatch.setattr(_programs.engine, "slow_in_loops", lambda jaxpr: True)
    result = run(how="measure", dtype=jnp.float64)
    assert (result.how, result.step_seconds) == ("loop", {})
    monkeypatch.undo()
    looped = run(how="loop", dtype=jnp.float64)
    np.testing.assert_allclose(result.losses, looped.losses, rtol=1e-12)


@pytest.mark.integration
def test_labels_that_the_loss_ignores_are_labels_of_a_sweep():
    loss = functools.partial(losses.softmax_cross_entropy, ignore_index=-1)
    labels = DATA.train.labels.copy()
    labels[:7] = -1
    ignored = DATA._replace(train=data.Split(DATA.train.images, labels))

    def make(learning_rate):
        return softmax(learning_rate)._replace(loss=loss)

    options = {"epochs": 2, "batch_size": 10, "dtype": jnp.float64}
    values = {"learning_rate": [0.1, 0.01]}
    member = sweep.run(make, ignored, values, how="map", **options).member(1)
    trial = make(0.01)
    alone = train.fit(trial.net, ignored, trial.optimizer, loss=loss, reg=trial.reg, **options)
    np.testing.assert_allclose(member.losses, alone.losses, rtol=1e-12)
    np.testing.assert_allclose(member.train_accuracy, alone.history["train_accuracy"], rtol=1e-12)
    with pytest.raises(data.LabelError):
        sweep.run(softmax, ignored, values, epochs=1, batch_size=10)


@pytest.mark.integration
def test_without_validation_the_last_state_is_the_best():
    dataset = DATA._replace(val=None)
    result = sweep.run(softmax, dataset, {"learning_rate": [0.1, 1e300]}, epochs=2, batch_size=10,
                       how="vmap", max_nonfinite=1)  # fmt: skip
    assert np.isnan(result.val_accuracy).all()
    assert result.best_epoch.tolist() == [2, 0]
    for index in range(2):
        member = result.member(index)
        assert_close(member.best, member.final, rtol=0)
    assert [row["member"] for row in result.ranking()] == [0, 1]


def test_no_epoch_evaluates_only():
    result = run(epochs=0, how="measure")
    assert result.losses.shape == (2, 0)
    assert result.val_accuracy.shape == (2, 1)
    assert result.best_epoch.tolist() == [0, 0]


# --- One that is not finite


DIVERGES = {"learning_rate": 1e200}


@functools.cache
def diverged(max_nonfinite):
    """The solo run of the one that diverges, the same whichever way the sweep goes."""
    options = {"epochs": EPOCHS, "dtype": jnp.float64, "max_nonfinite": max_nonfinite}
    return solo(sweep.Member(DIVERGES, 0, *[None] * 6), softmax, **options)


@pytest.mark.integration
@pytest.mark.parametrize(
    "case", by_default([("loop", 3), ("map", 1), ("vmap", 3)], {("vmap", 3)}), ids=HOWS
)
@pytest.mark.filterwarnings("ignore:the (loss|gradient):RuntimeWarning")
def test_a_member_that_diverges_stops_as_in_fit_and_leaves_the_others_to_the_bit(case):
    how, max_nonfinite = case
    options = {"epochs": EPOCHS, "dtype": jnp.float64, "max_nonfinite": max_nonfinite}
    calm, wild = (
        run(values={"learning_rate": [0.1, rate, 0.05]}, how=how, **options)
        for rate in (0.2, DIVERGES["learning_rate"])
    )
    for index in (0, 2):
        for a, b in zip(calm.member(index)[2:5], wild.member(index)[2:5], strict=True):
            assert a.tobytes() == b.tobytes()
        assert_close(calm.member(index).best, wild.member(index).best, rtol=0)
        assert_close(calm.member(index).final, wild.member(index).final, rtol=0)

    assert (wild.stopped_at > 0).tolist() == [False, True, False]
    member = wild.member(1)
    assert (member.values, member.seed) == (DIVERGES, 0)
    one = diverged(max_nonfinite)
    assert f"at step {member.stopped_at} " in one.stopped
    assert len(one.losses) == member.stopped_at + max_nonfinite - 1
    assert_is_fit(member, one, rtol=1e-12)


@pytest.mark.integration
def test_a_single_bad_step_is_passed_over_as_in_fit():
    images = DATA.train.images.astype(np.float64)
    images[5, 0, 0, 0] = np.nan
    dataset = DATA._replace(train=data.Split(images, DATA.train.labels))
    options = {"epochs": 2, "batch_size": 10, "preprocessing": "none", "dtype": jnp.float64}
    result = sweep.run(softmax, dataset, {"learning_rate": [1e-4, 1e-3]}, **options, how="vmap")
    assert result.stopped_at.tolist() == [0, 0]
    trial = softmax(1e-3)
    with pytest.warns(RuntimeWarning):
        one = train.fit(trial.net, dataset, trial.optimizer, reg=trial.reg, **options)
    assert len(one.nonfinite) == np.isnan(result.losses[1]).sum() > 0
    assert_is_fit(result.member(1), one, rtol=1e-12)


# --- One program


@pytest.mark.integration
def test_the_number_of_members_does_not_change_the_number_of_traces():
    def counted(learning_rate):
        calls.append(learning_rate)
        return softmax(learning_rate)

    traces = []
    for count in (1, 5):
        calls = []
        run(counted, {"learning_rate": np.linspace(0.1, 0.2, count)}, how="vmap", epochs=2)
        traces.append(len(calls))
    assert traces[0] == traces[1] < 8


@pytest.mark.integration
def test_the_fastest_way_is_chosen(monkeypatch):
    seconds = {"loop": 3.0, "map": 1.0, "vmap": 2.0}
    asked = []

    def measured(self, programs, members):
        asked.append(len(members.seeds))
        return next(taken)

    monkeypatch.setattr(_members.Trainer, "step_seconds", measured)
    taken = iter(seconds.values())
    result = run(how="measure", values={"learning_rate": [0.1, 0.2, 0.3]}, members_at_once=2)
    assert (result.how, result.step_seconds) == ("map", seconds)
    assert asked == [1, 2, 2]
    taken = iter([0.001])  # 20 steps: not worth two more programs
    assert run(how="measure").step_seconds == {"loop": 0.001}


@pytest.mark.integration
def test_a_measurement_is_seconds_for_a_step_of_a_member():
    result = run(how="measure")
    assert result.how == "loop"
    assert 0 < result.step_seconds["loop"] < result.seconds


def test_progress():
    heard, members = [], []
    result = run(
        values={"learning_rate": [0.1, 1e300, 0.2]},
        epochs=2,
        how="loop",
        on_progress=heard.append,
        on_member=lambda index, member: members.append((index, member.stopped_at > 0)),
    )
    assert members == [(0, False), (1, True), (2, False)]
    steps = [now.step for now in heard]
    assert steps == sorted(steps)
    assert heard[-1][:6] == (2, 3, 2, 2, 60, 60)
    assert heard[-1].seconds_left == 0
    assert {now.finished for now in heard} == {0, 1, 2}
    assert result.seconds > 0


# --- Results


def test_grid_is_the_product():
    values = sweep.grid(a=[1, 2], b=[0.5], c=[3, 4, 5])
    rows = list(zip(*(column.tolist() for column in values.values()), strict=True))
    assert rows == [(1, 0.5, 3), (1, 0.5, 4), (1, 0.5, 5), (2, 0.5, 3), (2, 0.5, 4), (2, 0.5, 5)]
    assert sweep.grid() == {}


def test_log_uniform(rng):
    values = sweep.log_uniform(rng, 1e-4, 1e-1, 3000)
    counts, _ = np.histogram(values, [1e-4, 1e-3, 1e-2, 1e-1])
    assert counts.sum() == 3000
    assert (abs(counts - 1000) < 130).all()  # five standard deviations of a third of 3000
    with pytest.raises(ValueError, match="low is 0 and high is 1, expected 0 < low <= high"):
        sweep.log_uniform(rng, 0, 1, 1)


@pytest.fixture(scope="module")
def result():
    """Three rates, the last of which diverges, with two seeds each."""
    return run(values={"learning_rate": [1e-9, 0.1, 1e30]}, seeds=(0, 4), epochs=2, how="map")


@pytest.mark.integration
def test_ranking(result):
    rows = result.ranking()
    found = [row["best_val_accuracy"] for row in rows]
    assert found == sorted(result.best_val_accuracy.tolist(), reverse=True)
    for row in rows:
        index, epoch = row["member"], row["best_epoch"]
        assert row["learning_rate"] == result.values["learning_rate"][index]
        assert row["seed"] == result.seeds[index]
        assert row["best_val_accuracy"] == result.val_accuracy[index, epoch]
        assert row["train_accuracy"] == result.train_accuracy[index, epoch]
        assert (row["stopped_at"] > 0) == (row["learning_rate"] == 1e30)
    assert len({row["member"] for row in rows}) == 6


@pytest.mark.integration
def test_ranking_over_seeds(result):
    rows = result.ranking(over_seeds=True)
    assert rows[0]["learning_rate"] == 0.1
    found = result.best_val_accuracy[2:4]
    np.testing.assert_allclose(rows[0]["best_val_accuracy"], found.mean(), rtol=1e-15)
    np.testing.assert_allclose(rows[0]["spread"], abs(found[0] - found[1]) / 2**0.5, rtol=1e-12)
    assert [row["seeds"] for row in rows] == [2, 2, 2]
    assert {row["learning_rate"]: row["stopped"] for row in rows} == {1e-9: 0, 0.1: 0, 1e30: 2}


def test_table(result):
    head, *lines = result.table().splitlines()
    assert head.split()[:4] == ["member", "learning_rate", "seed", "best_val_accuracy"]
    assert [int(line.split()[0]) for line in lines] == [r["member"] for r in result.ranking()]
    assert len({len(line) for line in (head, *lines)}) == 1


def test_states_are_kept_as_asked():
    only = run(keep=("best",), epochs=0)
    assert only.final is None
    assert only.best.params["affine1"].w.shape == (2, 16, 3)
    nothing = run(keep=(), epochs=0)
    assert nothing.best is nothing.final is nothing.member(1).best is None
    np.testing.assert_array_equal(only.val_accuracy, nothing.val_accuracy)


def test_the_best_state_gives_the_best_accuracy(result):
    for index in range(6):
        member = result.member(index)
        net = softmax(**member.values).net
        measured = train.evaluate(net, member.best, DATA.val, result.preprocessing)
        assert measured["accuracy"] == member.best_val_accuracy


# --- Folders


# --- What is refused


def test_what_shapes_the_program_is_no_column():
    def make(learning_rate, hidden):
        return sweep.Trial(nets.two_layer_net(hidden, 3), optimizers.sgd(learning_rate))

    with pytest.raises(TypeError, match="hidden has to be known before there is a program"):
        run(make, {"learning_rate": [0.1], "hidden": [5]})

    def make(rate):
        return sweep.Trial(nets.fully_connected_net([5], 3, dropout=rate), optimizers.sgd(0.1))

    with pytest.raises(TypeError, match=r"rate has to be known .* in a sweep for each rate"):
        run(make, {"rate": [0.1]})

    def make(smoothing):
        return softmax(0.1)._replace(label_smoothing=smoothing)

    with pytest.raises(TypeError, match="smoothing has to be known"):
        run(make, {"smoothing": [0.1]})


@pytest.mark.parametrize(
    ("change", "error", "words"),
    [
        ({"values": {"learning_rate": [0.1], "reg": [0.1, 0.2]}}, ValueError,
         r"different lengths \(learning_rate 1, reg 2\).*sweep.grid"),
        ({"values": {"learning_rate": 0.1}}, ValueError, "expected a list of numbers"),
        ({"values": {"learning_rate": ["he"]}}, ValueError, "expected a list of numbers"),
        ({"values": {"learning_rate": [[0.1]]}}, ValueError, "expected a list of numbers"),
        ({"values": {"rate": [0.1]}}, TypeError, "make does not take the columns"),
        ({"values": {}}, TypeError, "missing a required argument: 'learning_rate'"),
        ({"make": lambda learning_rate: 3}, TypeError, "make returned 3, expected sweep.Trial"),
        ({"make": lambda learning_rate: (nets.affine(3), None)}, TypeError, "expected sweep.Trial"),
        ({"make": lambda learning_rate: softmax(0.1)._replace(net=nets.affine(4))}, ValueError,
         r"\(2, 4\), but the data have 3 classes"),
        ({"make": lambda learning_rate: softmax(0.1)._replace(optimizer=None)}, TypeError,
         "optimizer is None"),
        ({"seeds": 3}, TypeError, r"seeds is 3, expected a sequence such as \(0, 1, 2\)"),
        ({"seeds": ()}, TypeError, "expected a sequence"),
        ({"seeds": (0.5,)}, TypeError, r"seeds\[0\] is 0.5"),
        ({"seeds": (1, 1)}, ValueError, "expected each one once"),
        ({"how": "fast"}, ValueError, r"how is 'fast', expected one of \('measure', 'loop'"),
        ({"keep": ("worst",)}, ValueError, "keep is"),
        ({"members_at_once": 0}, ValueError, "members_at_once is 0"),
        ({"batch_size": 1000}, ValueError, "batch_size is 1000"),
        ({"max_nonfinite": 0}, ValueError, "max_nonfinite is 0"),
    ],
)  # fmt: skip
def test_refusals(change, error, words):
    with pytest.raises(error, match=words):
        run(**change)


# --- Figures


@pytest.mark.integration
def test_the_figure_of_one_value(result, tmp_path):
    figure = plots.sweep(result, tmp_path / "sweep.png", title="rates")
    assert (tmp_path / "sweep.png").read_bytes().startswith(b"\x89PNG")
    left, right = figure.axes
    drawn = {tuple(line.get_ydata()) for line in left.lines}
    alive = result.stopped_at == 0
    assert {tuple(100 * row) for row in result.val_accuracy[alive]} <= drawn
    assert f"{100 * result.best_val_accuracy.max():.1f}" in left.get_legend().texts[0].get_text()
    assert (right.get_xlabel(), right.get_xscale()) == ("learning rate", "log")
    points, means, lost = right.lines
    np.testing.assert_array_equal(points.get_ydata(), 100 * result.best_val_accuracy[alive])
    expected = 100 * result.best_val_accuracy.reshape(3, 2).mean(1)
    np.testing.assert_allclose(means.get_ydata(), expected, rtol=1e-14)
    np.testing.assert_array_equal(lost.get_xdata(), [1e30, 1e30])


def test_the_figure_of_two_values(result):
    values = {"rate": result.values["learning_rate"], "b": np.repeat([1.0, 0.0, 0.0], 2)}
    plane = plots.sweep(result._replace(values=values)).axes[1]
    means, lost = plane.collections
    expected = np.stack(list(values.values()), 1)[::2]
    np.testing.assert_array_equal(means.get_offsets(), expected)
    accuracies = 100 * result.best_val_accuracy.reshape(3, 2).mean(1)
    np.testing.assert_allclose(means.get_array(), accuracies, rtol=1e-14)
    np.testing.assert_array_equal(lost.get_offsets(), expected[-1:])
    assert (plane.get_xscale(), plane.get_yscale()) == ("log", "linear")


@pytest.mark.integration
def test_the_figure_of_more_and_of_none(result):
    more = result._replace(values=dict.fromkeys("abc", result.values["learning_rate"]))
    assert [axes.get_xlabel() for axes in plots.sweep(more).axes] == ["epoch", "a", "b", "c"]
    assert len(plots.sweep(result._replace(values={})).axes) == 1
    with pytest.raises(ValueError, match="expected a validation split"):
        plots.sweep(result._replace(best_val_accuracy=np.full(6, np.nan)))
