"""A byte tokenizer, corpora in memory, and a tiny run on the disk: what training needs of the stages before it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from codeshell.recipe import Recipe, from_tree
from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
from codeshell.tokenizer.encoder import BYTE_SYMBOLS

MERGES = [("e", "r"), ("r", "e"), ("Ġ", "="), ("re", "t"), ("Ċ", "Ġ")]
"""A few, so that a cut inside a word changes the ids."""


class MemoryCorpus:
    """The reading side of `codeshell.documents.token_shards.TokenCorpus`. `masks`: what `trained` gives of each."""

    def __init__(
        self,
        tokenizer: Tokenizer,
        texts: Sequence[str | bytes],
        ids: Sequence[str] | None = None,
        masks: Sequence[np.ndarray | None] | None = None,
    ) -> None:
        self.ids = list(ids) if ids else [f"{index:032x}" for index in range(len(texts))]
        self.sizes = [len(text.encode() if isinstance(text, str) else text) for text in texts]
        # Ids of the byte tokenizer are the bytes themselves, which is how a text that is not UTF-8 gets in.
        self.documents = [
            np.asarray(tokenizer.encode(text) if isinstance(text, str) else list(text), dtype=np.uint16)
            for text in texts
        ]

        self.masks = list(masks) if masks else [None] * len(texts)
        self.masked = any(mask is not None for mask in self.masks)

    def __len__(self) -> int:
        return len(self.documents)

    def trained(self, index: int) -> np.ndarray | None:
        return self.masks[index]

    @property
    def n_trained(self) -> int:
        return sum(len(d) if m is None else int(m.sum()) for d, m in zip(self.documents, self.masks, strict=True))

    @property
    def n_tokens(self) -> int:
        return sum(map(len, self.documents))

    @property
    def token_counts(self) -> np.ndarray:
        return np.asarray([len(document) for document in self.documents], dtype=np.int64)

    def document(self, index: int) -> np.ndarray:
        return self.documents[index]

    def document_id(self, index: int) -> str:
        return self.ids[index]

    def document_bytes(self, index: int) -> int:
        return self.sizes[index]


def byte_tokenizer(merges: Sequence[tuple[str, str]] = MERGES) -> Tokenizer:
    """All bytes with id = byte, the products of `merges`, and the 20 special tokens after them."""
    symbols = {value: symbol for symbol, value in BYTE_SYMBOLS.items()}
    vocabulary = {symbols[value]: value for value in range(256)}
    for first, second in merges:
        vocabulary[first + second] = len(vocabulary)
    added = [
        {"id": len(vocabulary) + index, "content": name, "special": True, "single_word": False, "lstrip": False}
        | {"rstrip": False, "normalized": False}
        for index, name in enumerate(SPECIAL_TOKENS)
    ]
    tree = {
        "version": "1.0",
        "added_tokens": added,
        "normalizer": None,
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "post_processor": None,
        "decoder": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": vocabulary, "merges": [list(pair) for pair in merges]},
    }
    return Tokenizer(json.dumps(tree))


def write_run(directory: Path, tokenizer: Tokenizer, train: Sequence[str], valid: Sequence[str]) -> None:
    """What the stages before training leave: `tokenizer/` and `tokens/`, the training split in two shards."""
    from codeshell.documents.token_shards import TokenShardWriter

    tokenizer.save(directory / "tokenizer")
    (directory / "tokens").mkdir(parents=True)
    half = len(train) // 2
    for name, texts in {"train-00000": train[:half], "train-00001": train[half:], "valid-00000": valid}.items():
        path = directory / "tokens" / f"{name}.tokens"
        with TokenShardWriter(path, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash) as shard:
            for text in texts:
                data = text.encode()
                shard.add(hashlib.md5(data, usedforsecurity=False).hexdigest(), tokenizer.encode(text), len(data))


def texts(count: int, tag: str = "a") -> list[str]:
    """Small functions, each another."""
    return [f"def {tag}_{n}(x):\n    y = x + {n % 7}\n    return y * {n % 5}\n" for n in range(count)]


def tiny_recipe(seed: int = 0, dropout: float = 0.1, **train: object) -> Recipe:
    tree = {
        "steps": 24,
        "batch_tokens": 256,
        "micro_batch_tokens": 128,
        "phases": [{"share": 0.75, "context": 32}, {"share": 0.25, "context": 128}],
        "lr": 3e-3,
        "warmup_steps": 4,
        "valid_every": 5,
        "checkpoint_every": 4,
        "keep_checkpoints": 2,
        "threads": 1,
        "precision": "fp32",
    }
    model = {"n_layer": 2, "n_embd": 32, "n_head": 4, "num_query_groups": 2, "n_positions": 128, "dropout": dropout}
    return from_tree({"seed": seed, "model": model, "train": tree | train}, "test")
