"""Data of one's own by one word."""

import sys

import numpy as np
import pytest

from funcnet import data


def test_what_cannot_be_read_says_what_can(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no file or folder .*Accepted are a folder"):
        data.read(tmp_path / "none.csv")
    (tmp_path / "mine.xlsx").write_bytes(b"PK")
    with pytest.raises(data.DataFormatError, match=r"mine\.xlsx: .*Accepted are .* \.csv, \.tsv"):
        data.read(tmp_path / "mine.xlsx")


def test_an_option_of_another_reader_is_refused(tmp_path):
    np.savez(tmp_path / "mine.npz", x=np.zeros((20, 2)), y=[0, 1] * 10)
    with pytest.raises(TypeError, match="'mode'"):
        data.read(tmp_path / "mine.npz", mode="L")


def test_a_data_set_of_arrays_has_no_reading(tmp_path):
    dataset = data.from_arrays(np.zeros((20, 2)), [0, 1] * 10)
    with pytest.raises(ValueError, match="reading is None, expected the `reading`"):
        data.read_inputs(dataset.reading, tmp_path)
    with pytest.raises(ValueError, match=r"reading is {'kind': 'sounds'}"):
        data.read_inputs({"kind": "sounds"}, tmp_path)
    with pytest.raises(ValueError, match="no paths"):
        data.read_inputs({"kind": "arrays"}, [])


@pytest.mark.parametrize(
    ("module", "name", "library"), [("PIL", "mine", "Pillow"), ("polars", "mine.csv", "Polars")]
)
def test_a_library_that_is_not_there_is_named(module, name, library, tmp_path, monkeypatch):
    for i in (0, 1):
        (tmp_path / "mine" / f"{i}").mkdir(parents=True)
        (tmp_path / "mine" / f"{i}" / "0.png").write_bytes(b"")
    (tmp_path / "mine.csv").write_text("a,y\n1,2\n")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ImportError, match=rf"need {library}: pip install funcnet\[data\]"):
        data.read(tmp_path / name)
