"""Train byte-level BPE on a sample of the training split; the tokenizer stage of a run.

The pre-tokenizer is the released one's: digits one by one, then GPT-2's regular expression. All 256 bytes are in the
alphabet, so every text survives. The special tokens follow the vocabulary, in the released order. Which documents are
read is a hash of (seed, document id, purpose): the same ones in any sharding, and a larger sample holds the smaller.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from codeshell.documents.choose import choose as choose_documents
from codeshell.documents.shards import list_shards
from codeshell.engine.files import make_directory
from codeshell.engine.local import Engine
from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.tokenizer.statistics import Meter
from codeshell.tokenizer.tokenizer import SPECIAL_TOKENS, Tokenizer, tokenizer_threads

MIN_FREQUENCY = 2
"""A pair seen once is not merged: such a token would be a copy of one place in the corpus."""

STATISTICS_BYTES = 64_000_000
"""Held-out text that is measured at most; ratios are steady long before."""

SMALL_BYTES = 1_000_000
"""With less held-out text than this, a sample of the training text is measured beside it."""

ROWS = 512
"""Documents in memory at once: about 4 MB."""


@dataclass(frozen=True)
class Sample:
    """Documents chosen from shards.

    Attributes:
        paths: the shards.
        chosen: one array of booleans a shard, by row.
        documents, bytes: what is chosen.
    """

    paths: list[Path]
    chosen: list[npt.NDArray[np.bool_]]
    documents: int
    bytes: int

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The chosen rows of the named columns, in the order of the shards, at most `ROWS` at a time."""
        for path, chosen in zip(self.paths, self.chosen, strict=True):
            row = 0
            for batch in _read(path, columns):
                kept = batch.filter(pa.array(chosen[row : row + batch.num_rows]))
                row += batch.num_rows
                if kept.num_rows:
                    yield kept


def choose(paths: list[Path], *, seed: int, purpose: str, max_bytes: int) -> Sample:
    """Take documents in the order of hash(seed, id, purpose) for as long as `max_bytes` holds them.

    Args:
        paths: shards of schema `DOCUMENTS`.
        seed, purpose: of the hash.
        max_bytes: text at most. 17 bytes a document are held in memory.
    """
    counts = [0] * len(paths)

    def measured() -> Iterator[tuple[str, int]]:
        for number, path in enumerate(paths):
            for batch in _read(path, ["id", "bytes"]):
                counts[number] += batch.num_rows
                yield from zip(batch.column("id").to_pylist(), batch.column("bytes").to_pylist(), strict=True)

    taken, size = choose_documents(seed, purpose, measured(), max_bytes)
    mask = np.zeros(sum(counts), dtype=np.bool_)
    mask[taken] = True
    return Sample(paths, np.split(mask, np.cumsum(counts)[:-1]) if paths else [], len(taken), size)


def train(batches: Iterable[list[str]], vocab_size: int) -> Tokenizer:
    """Learn merges until the vocabulary has `vocab_size` tokens, or no pair occurs twice; then add the special tokens.

    The result depends on the texts and the size alone: not on their order, their batches or the number of threads.

    Args:
        batches: lists of texts.
        vocab_size: tokens before the special ones, at least the 256 bytes.
    """
    if vocab_size < 256:
        raise ValueError(f"vocab_size: {vocab_size} is below the 256 bytes")
    learner = tokenizers.Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    learner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=MIN_FREQUENCY,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    learner.train_from_iterator(batches, trainer)
    learner.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return Tokenizer(learner.to_str(pretty=True))


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """The tokenizer stage: `curated/` to `tokenizer/`.

    Trains on the `train` split, or takes the tokenizer that the recipe names. `by_language` is measured on the
    `valid` split; where that is small, `train_sample` is the same of training text.

    Raises:
        UserError: no training text, or a tokenizer that cannot be used.
    """
    settings, curated, target = recipe.tokenizer, directory / "curated", directory / "tokenizer"
    paths = list_shards(curated, "train")
    make_directory(target)
    with tokenizer_threads(engine.workers):
        documents = size = 0
        if not settings.path:
            sample = choose(paths, seed=recipe.seed, purpose="tokenizer", max_bytes=settings.sample_bytes)
            documents, size = sample.documents, sample.bytes
            if not documents:
                raise UserError(
                    f"{curated}: no training document within tokenizer.sample_bytes = {settings.sample_bytes}; "
                    "raise it, or give more input"
                )
        # save() writes tokenizer.json last, so a stage that was killed behind it does not train again.
        if not (target / "tokenizer.json").exists():
            tokenizer = Tokenizer.load(settings.path) if settings.path else _train_on(sample, settings.base_vocab_size)
            tokenizer.save(target)
        tokenizer = Tokenizer.load(target)
        held_out = _measure(tokenizer, list_shards(curated, "valid"), recipe.seed, STATISTICS_BYTES)
        statistics: dict[str, Any] = {
            "vocab_size": tokenizer.vocab_size,
            "base_vocab_size": tokenizer.base_vocab_size,
            "asked_vocab_size": tokenizer.base_vocab_size if settings.path else settings.base_vocab_size,
            "missing_bytes": len(tokenizer.missing_bytes),
            "hash": tokenizer.hash,
            "trained": not settings.path,
            "trained_on_documents": documents,
            "trained_on_bytes": size,
        }
        if held_out["bytes"] < SMALL_BYTES:
            training = _measure(tokenizer, paths, recipe.seed, SMALL_BYTES)
            statistics["train_sample"] = training
        if held_out["documents"]:
            return statistics | {"measured_on": "valid"} | held_out
        return statistics | {"measured_on": "train"} | training


def _train_on(sample: Sample, vocab_size: int) -> Tokenizer:
    with Progress("tokenizer", total=sample.documents, unit="documents") as progress:

        def texts() -> Iterator[list[str]]:
            for batch in sample.batches(["text"]):
                yield batch.column("text").to_pylist()
                progress.advance(batch.num_rows)

        return train(texts(), vocab_size)


def _measure(tokenizer: Tokenizer, paths: list[Path], seed: int, max_bytes: int) -> dict[str, Any]:
    meter = Meter(tokenizer)
    sample = choose(paths, seed=seed, purpose="tokenizer statistics", max_bytes=max_bytes)
    for batch in sample.batches(["language", "text"]):
        meter.add(batch.column("language").to_pylist(), batch.column("text").to_pylist())
    return meter.result()


def _read(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    try:
        yield from pq.ParquetFile(path).iter_batches(batch_size=ROWS, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from None
