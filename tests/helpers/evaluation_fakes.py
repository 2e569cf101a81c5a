"""A tokenizer of bytes and models with known answers, so that the arithmetic of the evaluation can be checked."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pyarrow as pa
import torch

from codeshell.documents.shards import DOCUMENTS, document_id, write_table
from codeshell.evaluate.corpus import Document


class ByteTokenizer:
    """Ids are bytes; the special tokens follow at 256."""

    specials: ClassVar[dict[str, int]] = {
        "<|endoftext|>": 256,
        "<fim_prefix>": 257,
        "<fim_middle>": 258,
        "<fim_suffix>": 259,
        "<fim_pad>": 260,
    }
    eot, fim_prefix, fim_middle, fim_suffix, fim_pad = range(256, 261)
    vocab_size = 261

    def encode(self, text: str) -> list[int]:
        return list(text.encode("utf-8"))

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        return [self.encode(text) for text in texts]

    def decode_bytes(self, ids: Iterable[int]) -> bytes:
        return bytes(index for index in ids if index < 256)

    def decode(self, ids: Iterable[int], *, specials: bool = True) -> str:
        names = {index: name for name, index in self.specials.items()}
        parts = [names[i].encode() if i in names else bytes([i]) for i in ids if specials or i not in names]
        return b"".join(parts).decode("utf-8", "replace")


class UniformModel(torch.nn.Module):
    """Every token is as likely as every other; records the shapes it is asked for."""

    def __init__(self, config: Any = None) -> None:
        super().__init__()
        self.config = config or SimpleNamespace(vocab_size=384)
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.shapes: list[tuple[int, ...]] = []

    def forward(self, ids: torch.Tensor) -> Any:
        self.shapes.append(tuple(ids.shape))
        return SimpleNamespace(logits=torch.zeros(*ids.shape, self.config.vocab_size))


class SumModel(UniformModel):
    """The logits depend on every token of the window so far and on the position, so a wrong window shows."""

    def forward(self, ids: torch.Tensor) -> Any:
        seen = torch.cumsum(ids.double() * torch.arange(1, ids.shape[1] + 1), dim=1)
        classes = torch.arange(self.config.vocab_size, dtype=torch.float64)
        return SimpleNamespace(logits=torch.sin(seen[..., None] * 0.01 + classes).float() * 3)


def document(text: str, *, language: str = "Python", path: str = "a.py") -> Document:
    return Document(document_id(text.encode()), path, language, text)


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {
            "id": item.id,
            "repo": "r",
            "path": item.path,
            "language": item.language,
            "text": item.text,
            "bytes": len(item.data),
        }
        for item in documents
    ]
    write_table(path, pa.Table.from_pylist(rows, schema=DOCUMENTS))


LOG2_384 = math.log2(384)
