"""The weights of a model directory by rows: what an export reads, without a model in memory.

`WeightRows` gives any rows of any tensor under our names, whichever of the two layouts the directory has, so that a
7 B model is converted in the memory of a few thousand rows. Headers are read and checked at once: a tensor that is
missing, unknown or of the wrong shape is refused before anything is written.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal

import torch

from codeshell.engine.downloads import fault, read_downloaded_json
from codeshell.errors import UserError
from codeshell.model import checkpoints
from codeshell.model.checkpoints import EMBEDDING, HEAD
from codeshell.model.modules import CodeShellForCausalLM
from codeshell.model.tensor_files import Layout, TensorFileError, TensorParts, part_names

BLOCK_BYTES = 16 << 20
"""Rows of about so many bytes are read at a time, counted in fp32."""


class WeightRows:
    """The tensors of a model directory, read by rows.

    Args:
        directory: in the layout of CodeShell or Starcoder2; safetensors, `.bin` files, or a trainer's checkpoint.

    Attributes:
        config: the model's.
        layouts: dtype and shape of every tensor by our names, a tied embedding once, as `transformer.wte.weight`.

    Raises:
        UserError: a file is missing, broken or unsafe; a tensor is missing, unknown or of the wrong shape.
    """

    def __init__(self, directory: str | Path) -> None:
        self.directory = Path(directory)
        self.config = checkpoints.read_config(directory)
        kind = read_downloaded_json(self.directory / "config.json").get("model_type")
        layout: Literal["codeshell", "starcoder2"] = "starcoder2" if kind == "starcoder2" else "codeshell"
        self._files = _open(self.directory)
        with torch.device("meta"):
            model = CodeShellForCausalLM(self.config)
        # Each of our tensors is one in the file, or three that stand below one another (q, k and v of Starcoder2).
        self.layouts: dict[str, Layout] = {}
        self._parts: dict[str, list[tuple[str, int]]] = {}
        known: dict[str, torch.Size] = {}
        for name, parameter in model.named_parameters():
            parts = list(checkpoints.to_layout(name, parameter, self.config, layout))
            known |= {key: part.shape for key, part in parts}
            self._parts[name] = [(key, part.shape[0]) for key, part in parts]
            self.layouts[name] = Layout(torch.float32, tuple(parameter.shape))
        # A tied embedding may have the head's name or its own, and files may hold both.
        if self.config.tie_word_embeddings:
            other = "model.embed_tokens.weight" if layout == "starcoder2" else EMBEDDING
            known |= {HEAD: self._shape(EMBEDDING), other: self._shape(EMBEDDING)}
            self._tie(other)
        self._check(known)
        for name, names in self._parts.items():
            dtypes = {self._files.layouts[key].dtype for key, _ in names}
            if len(dtypes) > 1:
                raise UserError(f"{directory}: the parts of {name} are of several dtypes; save the model in one")
            self.layouts[name] = Layout(dtypes.pop(), self.layouts[name].shape)

    def _shape(self, name: str) -> torch.Size:
        return torch.Size(self.layouts[name].shape)

    def _tie(self, other: str) -> None:
        """Take the embedding from whichever name the files have it under."""
        there = [key for key in (other, HEAD) if key in self._files.layouts]
        if len(there) == 2 and self._files.layouts[other] == self._files.layouts[HEAD]:
            rows = self._files.layouts[HEAD].shape[0]
            for low, high in spans(rows, self._files.layouts[HEAD].shape):
                if not torch.equal(self._files.read(other, low, high), self._files.read(HEAD, low, high)):
                    raise UserError(
                        f"{self.directory}: {HEAD} differs from {other}, but config.json ties them; "
                        'set "tie_word_embeddings": false in config.json'
                    )
        if there:
            self._parts[EMBEDDING] = [(there[0], self.layouts[EMBEDDING].shape[0])]

    def _check(self, known: dict[str, torch.Size]) -> None:
        """Refuse what is unknown, of another shape, or missing."""
        for key, layout in self._files.layouts.items():
            if checkpoints.IGNORED.search(key):
                continue
            shape = torch.empty(layout.shape, dtype=layout.dtype, device="meta")
            checkpoints.check_tensor(key, shape, known, self.directory)
        missing = [key for parts in self._parts.values() for key, _ in parts if key not in self._files.layouts]
        if missing:
            raise UserError(
                f"{self.directory}: tensor {missing[0]} is in none of its weight files ({len(missing)} missing in "
                "all); the download is incomplete or config.json is another model's"
            )

    @property
    def dtypes(self) -> set[torch.dtype]:
        """The dtypes of the tensors; one, unless somebody mixed them."""
        return {layout.dtype for layout in self.layouts.values()}

    def read(self, name: str, first: int = 0, last: int | None = None) -> torch.Tensor:
        """Rows `first` to `last` (exclusive; all by default) of a tensor, on the CPU, in the dtype of the files."""
        end = self.layouts[name].shape[0] if last is None else last
        pieces, start = [], 0
        for key, rows in self._parts[name]:
            low, high = max(first, start), min(end, start + rows)
            if low < high:
                pieces.append(self._files.read(key, low - start, high - start))
            start += rows
        return pieces[0] if len(pieces) == 1 else torch.cat(pieces)

    def blocks(self, name: str) -> Iterator[tuple[int, int]]:
        """Bounds of the rows of a tensor, about `BLOCK_BYTES` at a time."""
        shape = self.layouts[name].shape
        return spans(shape[0], shape)


def spans(rows: int, shape: Sequence[int]) -> Iterator[tuple[int, int]]:
    """(first, last) of `rows` rows of a tensor of this shape, about `BLOCK_BYTES` of fp32 at a time."""
    width = 4
    for length in shape[1:]:
        width *= length
    step = max(BLOCK_BYTES // width, 1)
    for low in range(0, rows, step):
        yield low, min(low + step, rows)


class _Bins:
    """The tensors of `.bin` files, mapped into memory; the reading side of `TensorParts`."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._tensors: dict[str, torch.Tensor] = {}
        for file in files:
            self._tensors |= checkpoints.read_file(file, mmap=True)
        self.layouts = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in self._tensors.items()}

    def read(self, name: str, first: int, last: int) -> torch.Tensor:
        return self._tensors[name][first:last].clone()


def _open(directory: Path) -> TensorParts | _Bins:
    """The directory's files of weights."""
    try:
        names = part_names(directory, "model")
        if not names:
            files = checkpoints.weight_files(directory)
            if any(file.suffix != ".safetensors" for file in files):
                return _Bins(files)
            names = [file.name for file in files]
        return TensorParts(directory, names)
    except TensorFileError as error:
        name = str(error).partition(":")[0]
        wrong = fault(directory / name) if (directory / name).is_file() else None
        raise UserError(f"{directory}: {f'{name} is {wrong}' if wrong else error}; take another copy of it") from None
