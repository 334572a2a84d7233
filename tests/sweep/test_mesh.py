"""A sweep over the devices of a mesh: its members are those of one device."""

import numpy as np
import pytest

from tests.support.spread_runs import spread


def compare(found, case, wanted, one):
    names = [name.removeprefix(f"{one} ") for name in wanted if name.startswith(f"{one} ")]
    assert len(names) > 50
    for name in names:
        a, b = found[f"{case} {name}"], wanted[f"{one} {name}"]
        scale = np.nanmax(np.abs(b), initial=1e-9)
        assert a.shape == b.shape
        assert np.array_equal(np.isnan(a), np.isnan(b)), (case, name)
        assert np.nanmax(np.abs(a - b), initial=0) <= 1e-12 * scale, (case, name)


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    return spread(tmp_path_factory.mktemp("swept") / "one.npz", ["loop/0"], devices=1)


@pytest.mark.integration
def test_members_of_one_process_are_those_of_one_device(alone, tmp_path):
    assert alone["loop/0 2 stopped_at"] == 2
    cases = ["loop/8", "map/8", "vmap/2"]
    found = spread(tmp_path / "eight.npz", cases)
    for case in cases:
        compare(found, case, alone, "loop/0")


@pytest.mark.integration
def test_members_of_two_processes_are_those_of_one_device(alone, tmp_path):
    """In a folder, by process 0, which both then find done."""
    cases = ["vmap/4"]
    found = spread(tmp_path / "two.npz", cases, devices=2, processes=2)
    compare(found, "vmap/4", alone, "loop/0")
    members = tmp_path / "two.npz.vmap"
    before = {path.name: path.stat().st_mtime_ns for path in members.iterdir()}
    assert {f"{index:04}.json" for index in range(5)} < before.keys()
    again = spread(tmp_path / "two.npz", ["vmap/4"], devices=2, processes=2)
    compare(again, "vmap/4", alone, "loop/0")
    assert before == {path.name: path.stat().st_mtime_ns for path in members.iterdir()}


@pytest.mark.slow
def test_members_of_four_processes_are_those_of_one_device(alone, tmp_path):
    cases = ["loop/4", "map/4", "measure/4"]
    found = spread(tmp_path / "four.npz", cases, devices=1, processes=4)
    for case in cases:
        compare(found, case, alone, "loop/0")
