"""The tokens stage: every curated shard becomes one token shard of the same name.

A document's tokens stand for exactly its text. Where the tokenizer lacks a byte of it (an adopted one may; ours never
does), the document is left out and counted, because its tokens would be those of another text.

A recipe with `finetune.instructions` has conversations, too, or nothing but these (codeshell/data/instructions.py).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from codeshell.data import conversations, instructions
from codeshell.documents.shards import list_shards
from codeshell.documents.texts import text_buffers
from codeshell.documents.token_shards import TokenShardWriter
from codeshell.engine.files import TEMPORARY, make_directory, remove_quietly
from codeshell.engine.local import Engine
from codeshell.engine.shard_map import map_shards
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.encoder import tokenizer_threads
from codeshell.tokenizer.templates import encode_column

SPLITS = ("train", "valid", "test")

GROUP_BYTES = 4_000_000
"""Bytes of text encoded together (or a batch more): enough for the threads to share, little to hold."""

BATCH = 64
"""Documents that are read at a time."""

COLUMNS = ["id", "text", "bytes", "language"]
"""What is read of each document."""


@dataclass(frozen=True)
class Task:
    """One shard's work."""

    split: str
    source: Path
    target: Path
    tokenizer: Path
    tokenizer_hash: str
    threads: int


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Encode `curated/` with `tokenizer/` into `tokens/`.

    Returns:
        `{split: {documents, tokens, bytes, dropped {"missing_bytes": {documents, bytes}}}}` and the tokenizer's hash.
        Conversations are counted among the documents, and by themselves under `conversations`.
    """
    curated, target, home = directory / "curated", directory / "tokens", directory / "tokenizer"
    tokenizer_hash = Tokenizer.load(home).hash
    # Every split in order; there is no training without the first. Conversations may be all that there is.
    spoken = bool(recipe.finetune.instructions)
    alone = spoken and not recipe.collect.inputs
    sources = [] if alone else [(split, path) for split in SPLITS for path in list_shards(curated, split)]
    if not alone and (not sources or sources[0][0] != "train"):
        raise UserError(f"{curated}: no training shards; run the stages before this one again")
    make_directory(target)
    for leftover in target.glob(f"*{TEMPORARY}"):
        remove_quietly(leftover)
    # Processes come first, one per shard; threads share what is left when there are fewer shards than workers.
    threads = max(1, engine.workers // max(len(sources), 1))
    tasks = [
        Task(split, path, target / f"{path.stem}.tokens", home, tokenizer_hash, threads) for split, path in sources
    ]
    parts = map_shards(engine, target, "tokens", tokenize_shard, tasks) if tasks else []
    statistics: dict[str, Any] = {"tokenizer_hash": tokenizer_hash} | {
        split: _add([part for part in parts if part["split"] == split]) for split in SPLITS
    }
    if spoken:
        found = instructions.run(recipe, directory)
        for split in ("train", "valid"):
            for name in ("documents", "tokens", "bytes"):
                statistics[split][name] += found[split][name]
        statistics["conversations"] = found
    return statistics


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for files of conversations that are not there: the stages before this one may take hours."""
    for path in recipe.finetune.instructions:
        conversations.check_file(path)


def notes(recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """A line for the terminal where documents were left out, and one for conversations."""
    lost = sum(statistics[split]["dropped"]["missing_bytes"]["documents"] for split in SPLITS)
    spoken = instructions.notes(statistics["conversations"]) if "conversations" in statistics else []
    if not lost:
        return spoken
    return [
        *spoken,
        f"warning: tokens: {lost:,} documents are left out (missing_bytes): the tokenizer has no symbol for some of "
        "their bytes; name one that has all 256 in tokenizer.path, or leave it empty to train one",
    ]


def tokenize_shard(task: Task) -> dict[str, Any]:
    """Write one token shard; return its counts."""
    tokenizer = _load(task.tokenizer, task.tokenizer_hash)
    n_bytes = 0
    dropped = {"documents": 0, "bytes": 0}
    with (
        tokenizer_threads(task.threads),
        TokenShardWriter(task.target, vocab_size=tokenizer.vocab_size, tokenizer_hash=tokenizer.hash) as writer,
    ):
        total = 0
        # `total` counts what is read, the writer what is written: the two must agree at the end.
        for group in _groups(task.source):
            total += group.num_rows
            # A text with a byte that the tokenizer lacks has no tokens that stand for it.
            kept = _without_lost_bytes(tokenizer, group)
            dropped["documents"] += group.num_rows - kept.num_rows
            dropped["bytes"] += _sum(group) - _sum(kept)
            # One call for the group: the encoder's threads share its documents.
            try:
                ids, offsets = encode_column(tokenizer, kept.column("text"), kept.column("language").to_pylist())
            except ValueError as error:
                raise UserError(f"{task.source}: a text cannot be read ({error}); delete it and run again") from None
            writer.add_many(kept.column("id").to_pylist(), ids, offsets, kept.column("bytes").to_pylist())
            n_bytes += _sum(kept)
        assert total == writer.n_documents + dropped["documents"], task.source
    return {
        "split": task.split,
        "documents": writer.n_documents,
        "tokens": writer.n_tokens,
        "bytes": n_bytes,
        "dropped": {"missing_bytes": dropped},
    }


def _groups(path: Path) -> Iterator[pa.RecordBatch]:
    """The documents of a shard in order, `GROUP_BYTES` at a time."""
    group: list[pa.RecordBatch] = []
    size = 0
    try:
        # Small batches, because one document may be a megabyte.
        for batch in pq.ParquetFile(path).iter_batches(batch_size=BATCH, columns=COLUMNS):
            group.append(batch)
            size += _sum(batch)
            if size >= GROUP_BYTES:
                yield from _joined(group)
                group, size = [], 0
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from None
    # The rest, which did not fill a group.
    if group:
        yield from _joined(group)


def _joined(batches: list[pa.RecordBatch]) -> list[pa.RecordBatch]:
    """The rows of all batches in one, or in as few as can hold their text."""
    return list(pa.Table.from_batches(batches).combine_chunks().to_batches())


def _sum(batch: pa.RecordBatch) -> int:
    """Bytes of all its texts."""
    return int(pc.sum(batch.column("bytes")).as_py() or 0)


def _without_lost_bytes(tokenizer: Tokenizer, batch: pa.RecordBatch) -> pa.RecordBatch:
    """The documents of which `encode` drops no byte: all of them, unless the tokenizer lacks some."""
    if not tokenizer.missing_bytes:
        return batch
    (texts,) = text_buffers(batch.column("text"))
    bounds = texts.offsets.tolist()
    whole = [
        len(text.translate(None, tokenizer.missing_bytes)) == len(text)
        for text in (bytes(texts.data[begin:end]) for begin, end in pairwise(bounds))
    ]
    return batch.filter(pa.array(whole, pa.bool_()))


@lru_cache(maxsize=1)
def _load(path: Path, expected: str) -> Tokenizer:
    """The tokenizer of this process, read once."""
    tokenizer = Tokenizer.load(path)
    # Shards of two tokenizers in one run could not be told apart later.
    if tokenizer.hash != expected:
        raise UserError(f"{path}: changed while the run was using it; start the run again")
    return tokenizer


def _add(parts: list[dict[str, Any]]) -> dict[str, Any]:
    """The counts of one split, summed over its shards."""
    dropped = [part["dropped"]["missing_bytes"] for part in parts]
    counts = {name: sum(part[name] for part in parts) for name in ("documents", "tokens", "bytes")}
    lost = {name: sum(part[name] for part in dropped) for name in ("documents", "bytes")}
    return counts | {"dropped": {"missing_bytes": lost}}
