"""A sweep's folder: members are taken up, and another's or a damaged one is refused."""

import json

import jax
import numpy as np
import pytest

from funcnet import data, sweep
from tests.support.small_sweeps import DATA, assert_close, run, softmax


@pytest.mark.integration
def test_members_in_a_folder_are_taken_up(tmp_path):
    options = {"values": {"learning_rate": [0.1, 1e300, 0.2]}, "seeds": (0, 1), "epochs": 2}
    whole = run(**options, folder=tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"config.json"} | {f"000{i}.{end}" for i in range(6) for end in ("npz", "json")}
    numbers = json.loads((tmp_path / "0002.json").read_text())
    assert numbers["values"] == {"learning_rate": 1e300}
    assert numbers["val_accuracy"][1:] == [None, None]

    class EndError(Exception):
        pass

    def end(index, member):
        if index == 4:
            raise EndError

    for index in (3, 4, 5):
        (tmp_path / f"000{index}.json").unlink()
    with pytest.raises(EndError):
        run(**options, folder=tmp_path, on_member=end)
    assert (tmp_path / "0004.json").exists()
    assert not (tmp_path / "0005.json").exists()
    heard = []
    again = run(**options, folder=tmp_path, on_progress=heard.append)
    assert {now.finished for now in heard} == {5}
    assert heard[-1].step == 6 * 20
    for name in ("losses", "train_accuracy", "val_accuracy", "stopped_at", "best_epoch"):
        np.testing.assert_array_equal(getattr(again, name), getattr(whole, name))
    for index in range(6):
        assert_close(again.member(index).best, whole.member(index).best, rtol=0)
        assert_close(again.member(index).final, whole.member(index).final, rtol=0)
    finished = []
    run(
        **options,
        folder=tmp_path,
        on_member=lambda index, member: finished.append(index),
        how="vmap",
    )
    assert finished == list(range(6))


@pytest.mark.integration
def test_another_sweep_is_refused(tmp_path):
    run(folder=tmp_path, epochs=0)
    other = DATA._replace(val=data.Split(DATA.val.images, DATA.val.labels[::-1]))
    for words, change in {
        "epochs: 0 there, 2 here": {"epochs": 2},
        r"seeds: \[0\] there, \[1\] here": {"seeds": (1,)},
        r"values: .*0\.5": {"values": {"learning_rate": [0.5]}},
        r"keep: .* there, \[\] here": {"keep": ()},
        "program: ": {"make": lambda learning_rate: softmax(learning_rate)._replace(reg=0.1)},
    }.items():
        with pytest.raises(ValueError, match=f"holds another sweep.*{words}.*name another folder"):
            run(**{"epochs": 0, **change}, folder=tmp_path)
    with pytest.raises(ValueError, match="data: "):
        sweep.run(softmax, other, {"learning_rate": [0.1, 0.01]}, epochs=1, batch_size=10,
                  folder=tmp_path)  # fmt: skip
    run(
        make=lambda learning_rate: softmax(learning_rate), folder=tmp_path, epochs=0
    )  # the same program


def test_settings_that_are_others_are_said(tmp_path):
    run(folder=tmp_path, epochs=0)
    with (
        jax.threefry_partitionable(False),
        pytest.warns(
            RuntimeWarning, match=r"threefry_partitionable False, was True: members' bits"
        ),
    ):
        run(folder=tmp_path, epochs=0)


@pytest.mark.integration
def test_damaged_members_are_named(tmp_path):
    run(folder=tmp_path, epochs=0)
    for name, content, said in (
        ("0001.json", b'{"values": ', r"0001\.json is damaged \(Expecting value.*run again\.$"),
        ("0001.json", b"\xff\xfe\x00", r"0001\.json is damaged \(.*decode byte"),
        ("0001.json", b"[]", r"0001\.json is damaged \(a list\)"),
        ("0000.json", b"{}", r"0000\.json is damaged \(KeyError\('seed'\)\)"),
        ("0000.npz", b"", r"0000\.npz is no complete"),
        ("config.json", b"[" * 10**5, r"config\.json is damaged \(.*recursion.*another folder\.$"),
    ):
        whole = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=said):
            run(folder=tmp_path, epochs=0)
        (tmp_path / name).write_bytes(whole)
    (tmp_path / "0001.json").unlink()
    run(folder=tmp_path, epochs=0)


def test_folders_that_are_none(tmp_path):
    (tmp_path / "thesis.txt").touch()
    with pytest.raises(ValueError, match="is not empty and holds no sweep"):
        run(folder=tmp_path)
    with pytest.raises(ValueError, match="is a file, expected a folder"):
        run(folder=tmp_path / "thesis.txt")
