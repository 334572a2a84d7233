"""A run's history as a table and for TensorBoard, and several callbacks at once."""

import csv

import pytest

from funcnet import nets, train
from tests.support.small_runs import fit

NET = nets.softmax_classifier(3)


def test_a_table_has_the_history_and_goes_on_with_the_run(tmp_path):
    path = tmp_path / "history.csv"
    seen = []
    begun = fit(NET, epochs=2, on_epoch=[train.csv_log(path), seen.append])
    assert seen == begun.history
    run = fit(NET, epochs=3, resume=begun, on_epoch=train.csv_log(path))
    with open(path, newline="") as file:
        rows = list(csv.DictReader(file))
    assert [list(row) for row in rows] == [list(row) for row in run.history]
    for column in ("epoch", "loss", "val_accuracy", "val_loss"):
        assert [float(row[column]) for row in rows] == run.history[column]
    assert rows[0]["images_per_second"] == ""
    before = path.read_bytes()
    with pytest.raises(FileExistsError, match="nothing is overwritten"):
        fit(NET, epochs=1, on_epoch=train.csv_log(path))
    assert path.read_bytes() == before


def test_a_run_that_goes_on_from_an_earlier_epoch_doubles_no_row(tmp_path):
    """As after a power cut, which falls between two checkpoints."""
    path = tmp_path / "history.csv"
    begun = fit(NET, epochs=1)
    fit(NET, epochs=3, on_epoch=train.csv_log(path))
    with open(path, "a") as file:
        file.write("4,1")  # half a row
    fit(NET, epochs=4, resume=begun, on_epoch=train.csv_log(path))
    with open(path, newline="") as file:
        assert [row["epoch"] for row in csv.DictReader(file)] == ["0", "1", "2", "3", "4"]
    path.write_text("another,table\n1,2\n")
    with pytest.raises(ValueError, match="has no column epoch"):
        fit(NET, epochs=2, resume=begun, on_epoch=train.csv_log(path))
    assert path.read_text() == "another,table\n1,2\n"


@pytest.mark.slow
def test_tensorboard_shows_each_step_of_a_run_that_went_on_once(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    begun = fit(NET, epochs=1)
    fit(NET, epochs=3, on_epoch=train.tensorboard_log(tmp_path / "0"))
    run = fit(NET, epochs=4, resume=begun, on_epoch=train.tensorboard_log(tmp_path / "1"))
    # Two files of one folder, in the order of their names, which are the seconds of their making.
    for index, folder in enumerate("01"):
        (file,) = (tmp_path / folder).iterdir()
        file.rename(tmp_path / file.name.replace("tfevents.", f"tfevents.{index}"))
        (tmp_path / folder).rmdir()
    found = EventAccumulator(str(tmp_path))
    found.Reload()
    assert [event.step for event in found.Scalars("val/accuracy")] == run.history["step"]


def test_any_of_several_callbacks_ends_a_run():
    seen = []
    run = fit(NET, epochs=5, on_epoch=(lambda row: "enough", seen.append))
    assert (run.stopped, len(seen)) == ("enough", 1)


def test_tensorboard_reads_the_history(tmp_path):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_file_loader import EventFileLoader

    run = fit(NET, epochs=2, on_epoch=train.tensorboard_log(tmp_path / "log"))
    (file,) = (tmp_path / "log").iterdir()
    found = {}
    for event in EventFileLoader(str(file)).Load():
        for value in event.summary.value:
            found.setdefault(value.tag, []).append((event.step, value.tensor.float_val[0]))
    assert [step for step, _ in found["val/accuracy"]] == run.history["step"]
    for tag, column in (("loss", "loss"), ("val/loss", "val_loss"), ("train/accuracy", None)):
        values = [value for _, value in found[tag]]
        assert values == pytest.approx(run.history[column or "train_accuracy"], rel=1e-6)
    assert len(found["images_per_second"]) == 2  # row 0 has none
    assert "epoch" not in found
