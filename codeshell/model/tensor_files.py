"""Tensors on the disk, one at a time: safetensors files that are written piece by piece, and tensors that lie by rows
in several such files.

A checkpoint of several processes has a *part* for each of them, `STEM.part-00001-of-00004.safetensors`, with the rows
of each tensor that the process holds. The header of a part says in its metadata which rows those are, so the parts
describe themselves, and a reader takes just the rows that it needs. A file without such metadata holds whole tensors,
so `STEM.safetensors` is the same with one part. Everything here is safetensors and JSON; nothing is ever unpickled.

`TensorWriter` gives the bytes of `safetensors.torch.save_file`. It exists because that function wants all tensors in
memory at a time, gives no checksum, and hides the system's error number.
"""

from __future__ import annotations

import json
import os
import re
import struct
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple

import torch
from safetensors import SafetensorError, safe_open

# In the order of safetensors' own list: a file has its tensors from the last dtype of it to the first.
_NAMES = {
    torch.bool: "BOOL",
    torch.uint8: "U8",
    torch.int8: "I8",
    torch.int16: "I16",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int32: "I32",
    torch.float32: "F32",
    torch.float64: "F64",
    torch.int64: "I64",
}
_RANK = {dtype: rank for rank, dtype in enumerate(_NAMES)}
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}

CHUNK = 16 << 20
"""Bytes that are hashed and written at a time: few enough to be in a cache for both, and to stop soon."""

ROWS = "rows"
"""Key of a part's metadata: JSON, `{name: [first row, rows of the whole tensor]}` of each tensor that is cut."""


class TensorFileError(Exception):
    """A file that is not safetensors, or parts that do not make whole tensors; the message is one line."""


class Layout(NamedTuple):
    """Dtype and shape of a tensor in a file."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        size = self.dtype.itemsize
        for length in self.shape:
            size *= length
        return size


def part_name(stem: str, part: int, parts: int) -> str:
    """The file of one part, counted from 0: `model.safetensors` alone, else `model.part-00001-of-00004.safetensors`."""
    return f"{stem}.safetensors" if parts == 1 else f"{stem}.part-{part + 1:05d}-of-{parts:05d}.safetensors"


def part_names(directory: Path, stem: str) -> list[str]:
    """The files in `directory` that together hold the tensors of `stem`; empty if there are none.

    Raises:
        TensorFileError: a part is missing, or there are parts of two sets.
    """
    found: dict[int, set[int]] = {}
    for path in directory.glob(f"{stem}.part-*.safetensors"):
        match = re.fullmatch(re.escape(stem) + r"\.part-(\d{5})-of-(\d{5})\.safetensors", path.name)
        if match:
            found.setdefault(int(match[2]), set()).add(int(match[1]))
    if not found:
        return [part_name(stem, 0, 1)] if (directory / part_name(stem, 0, 1)).is_file() else []
    if len(found) > 1 or (directory / part_name(stem, 0, 1)).exists():
        raise TensorFileError(f"{stem}: parts of more than one set of files")
    ((parts, there),) = found.items()
    for part in range(parts):
        if part + 1 not in there:
            raise TensorFileError(f"{part_name(stem, part, parts)} is missing")
    return [part_name(stem, part, parts) for part in range(parts)]


class TensorWriter:
    """A safetensors file that gets its tensors one by one; a context manager.

    Args:
        path: the file; an earlier one is replaced.
        layouts: dtype and shape of each tensor that will be written.
        metadata: strings for the header.
        observe: called with the file's bytes in their order (for a checksum), and before each chunk is written, so it
            may also raise to stop. Tensors must then be written in the order of `names`.

    Attributes:
        names: the tensors in the order that they have in the file.
        nbytes: size of the whole file.

    Raises:
        OSError: the disk is full, or something else of the system.
    """

    def __init__(
        self,
        path: Path,
        layouts: Mapping[str, Layout],
        metadata: Mapping[str, str] | None = None,
        observe: Callable[[memoryview], None] | None = None,
    ) -> None:
        self._layouts, self._observe = layouts, observe
        self.names = sorted(layouts, key=lambda name: (-_RANK[layouts[name].dtype], name.encode()))
        # The header: lengths, dtypes and places of the tensors, padded so that the data begins at a multiple of 8.
        tree: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
        self._places: dict[str, int] = {}
        end = 0
        for name in self.names:
            start, end = end, end + layouts[name].nbytes
            self._places[name] = start
            shape = list(layouts[name].shape)
            tree[name] = {"dtype": _NAMES[layouts[name].dtype], "shape": shape, "data_offsets": [start, end]}
        text = json.dumps(tree, separators=(",", ":"), ensure_ascii=False).encode()
        text += b" " * (-len(text) % 8)
        header = struct.pack("<Q", len(text)) + text
        self._start = len(header)
        self.nbytes = self._start + end
        self._missing = set(self.names)
        # Without Python's buffer: the chunks are large, and an error of the disk comes from the write that caused it.
        self._file = open(path, "wb", buffering=0)  # noqa: SIM115 (this class is its context manager)
        self._at = 0
        try:
            self._put(memoryview(header))
        except BaseException:
            self._file.close()
            raise

    def write(self, name: str, tensor: torch.Tensor) -> None:
        """Write one tensor, of any device and strides, whose dtype and shape were announced."""
        layout = self._layouts[name]
        assert name in self._missing and (tensor.dtype, tuple(tensor.shape)) == layout, f"{name}: not as announced"
        self._missing.remove(name)
        place = self._start + self._places[name]
        if place != self._at:
            assert self._observe is None, "a checksum needs the order of the file"
            self._file.seek(place)
            self._at = place
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        self._put(flat.view(torch.uint8).numpy().data)

    def _put(self, data: memoryview) -> None:
        for start in range(0, len(data), CHUNK):
            chunk = data[start : start + CHUNK]
            if self._observe is not None:
                self._observe(chunk)
            # The system may write less than it was asked for, as right before the disk is full.
            while len(chunk):
                chunk = chunk[self._file.write(chunk) :]
        self._at += len(data)

    def flush(self) -> None:
        """Wait until the bytes are on the disk."""
        os.fsync(self._file.fileno())

    def __enter__(self) -> TensorWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        assert error is not None or not self._missing, f"{min(self._missing)} was not written"


class _Piece(NamedTuple):
    """Rows `first` to `last` (exclusive) of a tensor, in one file."""

    first: int
    last: int
    file: int


class TensorParts:
    """The tensors of some files that belong together; only headers are read until a tensor is asked for.

    Args:
        directory: where the files are.
        names: of the files, in any order.

    Attributes:
        layouts: dtype and shape of every whole tensor, by name in alphabetical order.

    Raises:
        TensorFileError: a file is no safetensors, or the rows of a tensor overlap or leave a gap.
    """

    def __init__(self, directory: Path, names: list[str]) -> None:
        self._files: list[Any] = []
        pieces: dict[str, list[tuple[_Piece, Layout, int]]] = {}
        for number, name in enumerate(names):
            try:
                file = safe_open(directory / name, framework="pt")
                self._files.append(file)
                for tensor, piece, layout, rows in _pieces(file, number):
                    pieces.setdefault(tensor, []).append((piece, layout, rows))
            except (SafetensorError, OSError, ValueError, TypeError, KeyError) as error:
                raise TensorFileError(f"{name}: {(str(error) or repr(error)).splitlines()[0][:200]}") from None
        self.layouts: dict[str, Layout] = {}
        self._pieces: dict[str, list[_Piece]] = {}
        for tensor, found in sorted(pieces.items()):
            found.sort(key=lambda item: item[0])
            ordered = [piece for piece, _, _ in found]
            (_, layout, rows) = found[0]
            # The pieces follow one another from the first row to the last, and agree in all but their rows.
            ends = [0, *(piece.last for piece in ordered)]
            fits = all(piece.first == end for piece, end in zip(ordered, ends, strict=False)) and ends[-1] == rows
            alike = all((one.dtype, one.shape[1:], n) == (layout.dtype, layout.shape[1:], rows) for _, one, n in found)
            if not (fits and alike):
                raise TensorFileError(f"{tensor}: its parts do not make one tensor of {rows} rows")
            self._pieces[tensor] = ordered
            self.layouts[tensor] = Layout(layout.dtype, (rows, *layout.shape[1:]) if layout.shape else ())

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows `first` to `last` (exclusive; all by default) of a tensor, on the CPU, in memory of its own."""
        layout = self.layouts[name]
        # A tensor without dimensions counts as one row.
        rows = layout.shape[0] if layout.shape else 1
        shape = ((rows if last is None else last) - first, *layout.shape[1:]) if layout.shape else ()
        result = torch.empty(shape, dtype=layout.dtype)
        self.read_into(name, result, first)
        return result

    def read_into(self, name: str, target: torch.Tensor, first: int = 0) -> None:
        """Copy rows `first` to `first + len(target)` into a tensor of any device; dtypes are converted."""
        layout = self.layouts[name]
        last = first + (target.shape[0] if layout.shape else 1)
        for piece in self._pieces[name]:
            low, high = max(piece.first, first), min(piece.last, last)
            if low >= high:
                continue
            file = self._files[piece.file]
            if not layout.shape:
                target.copy_(file.get_tensor(name))
            else:
                rows = file.get_slice(name)[low - piece.first : high - piece.first]
                target[low - first : high - first].copy_(rows)


def _pieces(file: Any, number: int) -> Iterator[tuple[str, _Piece, Layout, int]]:
    """Name, rows, layout and number of rows of the whole tensor, for each tensor in a file."""
    cut = json.loads((file.metadata() or {}).get(ROWS, "{}"))
    names = set(file.keys())
    if not isinstance(cut, dict) or not set(cut) <= names:
        raise ValueError("its metadata has rows of tensors that are not in it")
    for name in names:
        part = file.get_slice(name)
        shape, dtype = tuple(part.get_shape()), _DTYPES.get(part.get_dtype())
        if dtype is None:
            raise ValueError(f"tensor {name} is {part.get_dtype()}")
        here = shape[0] if shape else 1
        first, rows = cut.get(name, (0, here))
        if type(first) is not int or type(rows) is not int or not 0 <= first <= first + here <= rows:
            raise ValueError(f"rows of {name} are beyond the tensor")
        yield name, _Piece(first, first + here, number), Layout(dtype, shape), rows
