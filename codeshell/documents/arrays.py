"""Named NumPy arrays in one file: what the steps of the deduper hand to one another.

    8 bytes    magic
    8 bytes    length of the header, little endian
    header     JSON: for every array its name, dtype, shape and byte offset
    arrays     little endian, C order, each on a multiple of 64 bytes

Any range of an array can be read alone, so a task takes just its part of every shard's file. A file is whole or absent.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from codeshell.engine.files import atomic_path
from codeshell.errors import UserError

MAGIC = b"CSarray1"
ALIGNMENT = 64
"""Bytes: a cache line, so that C++ finds rows of sketches aligned."""


def write_arrays(path: Path, arrays: Mapping[str, NDArray[Any] | Sequence[NDArray[Any]]]) -> None:
    """Write the file: the same arrays give the same bytes. Several arrays under one name are one, end to end: large
    ones need not be joined in memory first."""
    # Lay out first: the header says where each array begins, so its length must be known before the offsets are.
    entries: dict[str, dict[str, Any]] = {}
    parts = {name: [value] if isinstance(value, np.ndarray) else list(value) for name, value in arrays.items()}
    for name, pieces in parts.items():
        entries[name] = {
            "dtype": pieces[0].dtype.newbyteorder("<").str,
            "shape": [sum(len(piece) for piece in pieces), *pieces[0].shape[1:]],
            "offset": "0" * 16,  # of fixed width, so that the header's length does not depend on it
        }
    # 16 bytes of magic and length, the header, then the arrays one after the other, each aligned.
    header = _pack(entries)
    at = _aligned(16 + len(header))
    for name, pieces in parts.items():
        entries[name]["offset"] = f"{at:016d}"
        at = _aligned(at + sum(piece.nbytes for piece in pieces))
    header = _pack(entries)
    # Write in the order of the layout; zeros fill the gap before each array.
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        file.write(MAGIC + len(header).to_bytes(8, "little") + header)
        for name, pieces in parts.items():
            file.write(b"\0" * (int(entries[name]["offset"]) - file.tell()))
            for piece in pieces:
                _write(file, np.ascontiguousarray(piece))


def save_array(path: Path, array: NDArray[Any]) -> None:
    """Write one array as .npy, for tasks to map with `np.load(path, mmap_mode="r")`."""
    # Header and bytes apart, so that a full disk is an error.
    array = np.ascontiguousarray(array)
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.lib.format.write_array_header_1_0(file, np.lib.format.header_data_from_array_1_0(array))
        _write(file, array)


def _write(file: BinaryIO, array: NDArray[Any]) -> None:
    """Write a contiguous array's bytes. `ndarray.tofile` and `np.save` do not say that the disk is full when it is."""
    if array.size:
        file.write(array.reshape(-1).view(np.uint8).data)


class ArrayFile:
    """The arrays of one file, read on demand.

    Raises:
        UserError: no such file, or not one of ours, or cut short.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            # Nothing of the header is trusted: a file of another kind may claim any length.
            with open(path, "rb") as file:
                start = file.read(16)
                if len(start) != 16 or start[:8] != MAGIC:
                    raise ValueError("not a file of this program")
                length = int.from_bytes(start[8:], "little")
                size = path.stat().st_size
                header = json.loads(file.read(length)) if 16 + length <= size else None
                if header is None:
                    raise ValueError("cut short")
            self._entries: dict[str, dict[str, Any]] = header
            # The last array may end before the file does, but none may end after it.
            for name in self._entries:
                if self.offset(name) + self._bytes(name) > size:
                    raise ValueError("cut short")
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: cannot be read ({error}); delete it and run again") from None

    def __contains__(self, name: str) -> bool:
        return name in self._entries

    def offset(self, name: str) -> int:
        """Where the array begins, in bytes from the start of the file."""
        return int(self._entries[name]["offset"])

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self._entries[name]["shape"])

    def read(self, name: str, start: int = 0, stop: int | None = None) -> NDArray[Any]:
        """The rows [start, stop) of an array; all by default."""
        shape = self.shape(name)
        stop = shape[0] if stop is None else stop
        dtype = np.dtype(self._entries[name]["dtype"])
        row = int(np.prod(shape[1:], dtype=np.int64))
        # A row of an (n, width) array is `width` values; rows lie end to end.
        count = (stop - start) * row
        offset = self.offset(name) + start * row * dtype.itemsize
        values = np.fromfile(self.path, dtype, count, offset=offset) if count else np.empty(0, dtype)
        if len(values) != count:
            raise UserError(f"{self.path}: cut short; delete it and run again")
        return values.reshape(stop - start, *shape[1:])

    def _bytes(self, name: str) -> int:
        entry = self._entries[name]
        return int(np.prod(entry["shape"], dtype=np.int64)) * int(np.dtype(entry["dtype"]).itemsize)


def _pack(entries: dict[str, Any]) -> bytes:
    return json.dumps(entries, sort_keys=True).encode()


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT
