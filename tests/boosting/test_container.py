"""Files of arrays: what is written comes back, and no damaged or hostile file gets through."""

from __future__ import annotations

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codeshell.boosting.container import DTYPES, MAGIC, load, save
from codeshell.errors import UserError


def write(path: Path) -> dict[str, np.ndarray]:
    arrays = {name: np.arange(6, dtype=name).reshape(2, 3) for name in sorted(DTYPES)}
    arrays["empty"] = np.empty((0, 4))
    save(path, "test", {"a": [1, "é"]}, arrays)
    return arrays


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    arrays = write(tmp_path / "a")
    found = load(tmp_path / "a", "test", "make it")
    assert found.meta == {"a": [1, "é"]}
    assert list(found.arrays) == list(arrays)
    for name, array in arrays.items():
        assert found.arrays[name].dtype == array.dtype
        assert found.arrays[name].shape == array.shape
        assert (found.arrays[name] == array).all()
    # Saved again, the same bytes.
    save(tmp_path / "b", "test", found.meta, found.arrays)
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_every_shorter_file_is_refused(tmp_path: Path) -> None:
    write(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    for size in [*range(40), *range(40, len(data), 37), len(data) - 1]:
        refused(tmp_path, data[:size])


def test_every_changed_byte_is_noticed(tmp_path: Path) -> None:
    write(tmp_path / "a")
    data = (tmp_path / "a").read_bytes()
    for place in range(0, len(data), 11):
        refused(tmp_path, data[:place] + bytes([data[place] ^ 0x55]) + data[place + 1 :])
    refused(tmp_path, data + b"x")


def refused(tmp_path: Path, data: bytes) -> str:
    path = tmp_path / "bad"
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        load(path, "test", "make it")
    message = str(error.value)
    assert message.startswith(str(path))
    assert "make it" in message
    assert "\n" not in message
    return message


def packed(header: Any, rest: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return MAGIC + len(text).to_bytes(4, "little") + zlib.crc32(text).to_bytes(4, "little") + text + rest


def one(**changes: Any) -> dict[str, Any]:
    entry = {"dtype": "int8", "shape": [3], "bytes": 3, "crc": 0, **changes}
    return {"version": 1, "kind": "test", "meta": {}, "arrays": {"x": entry}}


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ([], "no description"),
        (b"[" * 100_000, "no description"),
        (b"\xff", "no description"),
        ({"version": 1}, "no description"),
        ({"version": 1, "kind": "test", "meta": [], "arrays": {}}, "no description"),
        ({"version": 2, "kind": "test", "meta": {}, "arrays": {}}, "version is 2"),
        ({"version": 1, "kind": "other", "meta": {}, "arrays": {}}, "it holds 'other'"),
        (one(dtype="object"), "wrongly"),
        (one(shape=[-1]), "wrongly"),
        (one(shape=[1.5]), "wrongly"),
        (one(bytes=-1), "wrongly"),
        (one(shape=[1 << 40]), "larger"),
        (one(shape=[1 << 40, 0]), "cut short"),
        (one(bytes=4), "cut short"),
        ({"version": 1, "kind": "test", "meta": {}, "arrays": {"x": 3}}, "not described"),
    ],
)
def test_hostile_headers(tmp_path: Path, header: Any, words: str) -> None:
    assert words in refused(tmp_path, packed(header))


def test_a_bomb_is_not_unpacked(tmp_path: Path) -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    entry = one(bytes=len(bomb), crc=zlib.crc32(bomb))
    assert "another size" in refused(tmp_path, packed(entry, bomb))


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no: No such file"):
        load(tmp_path / "no", "test", "make it")


def test_other_types_are_not_stored(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="dtype"):
        save(tmp_path / "a", "test", {}, {"x": np.array(["a"])})
    assert list(tmp_path.iterdir()) == []
