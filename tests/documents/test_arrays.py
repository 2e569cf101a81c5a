"""The container of named arrays: what is read is what was written, and a broken file is refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

from codeshell.documents.arrays import ALIGNMENT, ArrayFile, save_array, write_arrays
from codeshell.engine.files import TEMPORARY
from codeshell.errors import UserError

ARRAYS = {
    "keys": np.arange(1000, dtype=np.uint64) << np.uint64(50),
    "sketches": np.arange(640, dtype=np.uint8).reshape(10, 64),
    "nothing": np.empty((0, 64), np.uint8),
    "flags": np.array([True, False]),
}


def test_round_trip_and_ranges(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_arrays(path, ARRAYS)
    file = ArrayFile(path)
    for name, array in ARRAYS.items():
        assert name in file
        read = file.read(name)
        assert read.dtype == array.dtype
        assert file.offset(name) % ALIGNMENT == 0
        np.testing.assert_array_equal(read, array)
    assert "other" not in file
    np.testing.assert_array_equal(file.read("sketches", 3, 7), ARRAYS["sketches"][3:7])
    assert file.read("keys", 5, 5).shape == (0,)
    first = path.read_bytes()
    write_arrays(path, ARRAYS)
    assert path.read_bytes() == first


@settings(max_examples=30, deadline=None)
@given(
    arrays_of.arrays(st.sampled_from([np.uint8, np.int64, np.uint32]), st.tuples(st.integers(0, 30), st.integers(0, 4)))
)
def test_any_shape(tmp_path_factory: pytest.TempPathFactory, array: np.ndarray) -> None:
    path = tmp_path_factory.mktemp("any") / "a.bin"
    write_arrays(path, {"a": array, "b": array[:, ::-1]})
    np.testing.assert_array_equal(ArrayFile(path).read("a"), array)
    np.testing.assert_array_equal(ArrayFile(path).read("b"), array[:, ::-1])


def test_every_cut_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    write_arrays(path, ARRAYS)
    whole = path.read_bytes()
    for size in [0, 7, 8, 15, 16, 40, len(whole) // 2, len(whole) - 1]:
        path.write_bytes(whole[:size])
        with pytest.raises(UserError, match=r"a\.bin: cannot be read"):
            ArrayFile(path)
    path.write_bytes(b"PAR1" + whole[4:])
    with pytest.raises(UserError, match="not a file of this program"):
        ArrayFile(path)
    path.unlink()
    with pytest.raises(UserError, match="cannot be read"):
        ArrayFile(path)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here, a disk that is always full")
@pytest.mark.parametrize("size", [10, 1_000_000])
def test_a_full_disk_is_one_line(size: int, tmp_path: Path) -> None:
    path = tmp_path / "a.bin"
    for write in (lambda: write_arrays(path, {"a": np.arange(size)}), lambda: save_array(path, np.arange(size))):
        path.with_name(path.name + TEMPORARY).symlink_to("/dev/full")  # where it is written before it is renamed
        with pytest.raises(UserError, match=r"a\.bin: the disk is full; free some space"):
            write()
        assert not list(tmp_path.iterdir())


def test_one_array_is_an_npy_file(tmp_path: Path) -> None:
    rows = np.zeros(3, np.dtype([("high", "<u8"), ("row", "<i4")]))
    rows["row"] = [3, 1, 2]
    for array in (rows, np.empty(0, np.uint32), np.arange(12).reshape(3, 4).T, np.array([True, False])):
        save_array(tmp_path / "a.npy", array)
        mapped = np.load(tmp_path / "a.npy", mmap_mode="r" if array.size else None)
        assert mapped.dtype == array.dtype
        np.testing.assert_array_equal(mapped, array)
