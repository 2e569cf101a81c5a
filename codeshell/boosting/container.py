"""Named arrays and a JSON header in one file: whole or not at all, checked when it is loaded, no pickle.

    8 bytes    the magic word
    uint32     length of the header, little endian (as all that follows)
    uint32     CRC-32 of the header
    header     UTF-8 JSON: {"version": 1, "kind": ..., "meta": {...}, "arrays": {name: {dtype, shape, bytes, crc}}}
    arrays     one after the other, in the order of the header, each deflated

The same arrays give the same bytes on one version of zlib; the arrays themselves are always the same.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from codeshell.engine.files import atomic_path
from codeshell.errors import UserError

MAGIC = b"CSARRAY\x01"
VERSION = 1
MOST_BYTES = 1 << 30
"""Bytes of an array that is loaded: a damaged or hostile header must not take all memory."""

DTYPES = frozenset({"int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "float64"})


class Contents(NamedTuple):
    """What a file holds."""

    meta: dict[str, Any]
    arrays: dict[str, NDArray[Any]]


def save(path: str | Path, kind: str, meta: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write a file, whole or not at all.

    Args:
        kind: what it is, in lower case; `load` asks for it.
        meta: JSON-ready.
        arrays: of the types in `DTYPES`.
    """
    parts: list[bytes] = []
    entries: dict[str, Any] = {}
    for name, array in arrays.items():
        if array.dtype.name not in DTYPES:
            raise ValueError(f"{name}: dtype {array.dtype} cannot be stored")
        raw = np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
        packed = zlib.compress(raw, 9)
        parts.append(packed)
        entries[name] = {
            "dtype": array.dtype.name,
            "shape": list(array.shape),
            "bytes": len(packed),
            "crc": zlib.crc32(packed),
        }
    header = json.dumps(
        {"version": VERSION, "kind": kind, "meta": dict(meta), "arrays": entries}, sort_keys=False, allow_nan=False
    ).encode()
    head = MAGIC + len(header).to_bytes(4, "little") + zlib.crc32(header).to_bytes(4, "little")
    with atomic_path(path) as temporary:
        temporary.write_bytes(b"".join([head, header, *parts]))


def load(path: str | Path, kind: str, remedy: str) -> Contents:
    """Read a file that `save` wrote.

    Raises:
        UserError: one line that names the file: it is not there, is something else, is cut short or damaged, or comes
            from a newer version.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror or error}; {remedy}") from None
    try:
        return _parse(data, kind)
    except _BadFileError as error:
        raise UserError(f"{path}: not a readable {kind} file ({error}); {remedy}") from None


class _BadFileError(Exception):
    pass


def _parse(data: bytes, kind: str) -> Contents:
    start = len(MAGIC) + 8
    if not data.startswith(MAGIC):
        raise _BadFileError("it begins otherwise")
    if len(data) < start:
        raise _BadFileError("it is cut short")
    length, crc = (int.from_bytes(data[at : at + 4], "little") for at in (len(MAGIC), len(MAGIC) + 4))
    text = data[start : start + length]
    if len(text) < length:
        raise _BadFileError("it is cut short")
    if zlib.crc32(text) != crc:
        raise _BadFileError("its header is damaged")
    try:
        header = json.loads(text)
        version, found, meta, entries = (header[name] for name in ("version", "kind", "meta", "arrays"))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise _BadFileError("its header is no description of arrays") from None
    if not isinstance(meta, dict) or not isinstance(entries, dict):
        raise _BadFileError("its header is no description of arrays")
    if version != VERSION:
        raise _BadFileError(f"its version is {version!r}, and this codeshell reads {VERSION}")
    if found != kind:
        raise _BadFileError(f"it holds {found!r}")
    arrays: dict[str, NDArray[Any]] = {}
    at = start + length
    for name, entry in entries.items():
        arrays[name], at = _array(data, at, name, entry)
    if at != len(data):
        raise _BadFileError("bytes follow after its end")
    return Contents(meta, arrays)


def _array(data: bytes, at: int, name: str, entry: Any) -> tuple[NDArray[Any], int]:
    """One array that begins at byte `at`, and the byte after it."""
    try:
        dtype, shape, size, crc = (entry[key] for key in ("dtype", "shape", "bytes", "crc"))
    except (KeyError, TypeError):
        raise _BadFileError(f"array {name!r} is not described") from None
    whole = isinstance(shape, list) and len(shape) <= 4 and all(type(n) is int and n >= 0 for n in shape)
    if dtype not in DTYPES or not whole or type(size) is not int or size < 0:
        raise _BadFileError(f"array {name!r} is described wrongly")
    kind = np.dtype(dtype).newbyteorder("<")
    raw_size = kind.itemsize
    for extent in shape:
        raw_size *= extent
    if raw_size > MOST_BYTES:
        raise _BadFileError(f"array {name!r} is larger than {MOST_BYTES:,} bytes")
    packed = data[at : at + size]
    if len(packed) < size:
        raise _BadFileError("it is cut short")
    if zlib.crc32(packed) != crc:
        raise _BadFileError(f"array {name!r} is damaged")
    # At most one byte more than is expected is unpacked, whatever the stream says.
    unpacker = zlib.decompressobj()
    try:
        raw = unpacker.decompress(packed, raw_size + 1)
    except zlib.error:
        raise _BadFileError(f"array {name!r} is damaged") from None
    if len(raw) != raw_size:
        raise _BadFileError(f"array {name!r} has another size than its header says")
    array = np.frombuffer(raw, kind).reshape(shape).astype(np.dtype(dtype))
    return array, at + size
