"""Train byte-level BPE on a sample of the training split; the tokenizer stage of a run.

The pre-tokenizer is that of the released tokenizer: digits one by one, then GPT-2's regular expression. All 256 bytes
are in the alphabet, so encoding loses nothing. The special tokens follow the vocabulary, in the released order. A hash
of (seed, document id, purpose) decides which documents are read: the same ones in any sharding, and a larger sample
contains the smaller one.

csrc/bpe counts the words and learns the merges: those of Hugging Face's BpeTrainer, the order of equal counts included.
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
from tokenizers import decoders, models, pre_tokenizers

from codeshell import _C
from codeshell.documents.choose import choose as choose_documents
from codeshell.documents.shards import list_shards
from codeshell.documents.templates import SPECIAL_TOKENS
from codeshell.documents.texts import Texts, cut, text_buffers
from codeshell.engine import hub
from codeshell.engine.files import make_directory
from codeshell.engine.local import Engine
from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.recipe import Recipe
from codeshell.tokenizer.encoder import BYTE_SYMBOLS, thread_count, tokenizer_threads
from codeshell.tokenizer.statistics import Meter
from codeshell.tokenizer.tokenizer import Tokenizer

MIN_FREQUENCY = 2
"""Occurrences that a pair needs to be merged. A token made from one occurrence would be a copy of that place."""

STATISTICS_BYTES = 64_000_000
"""The most held-out text that is measured. The ratios are steady long before that."""

SMALL_BYTES = 1_000_000
"""If there is less held-out text than this, a sample of the training text is measured, too."""

LONGEST_WORD = 1000
"""Characters of the longest word that is learnt from in one piece. Learning costs the square of a word's length, and a
run of one class of characters, such as a gene or a picture's data, is one word."""

PATTERN = "digits-gpt2"
"""The pre-tokenizer, by its name in codeshell/tokenizer/encoder.py."""

ROWS = 512
"""Documents in memory at once: about 4 MB."""


@dataclass(frozen=True)
class Sample:
    """Documents chosen from shards.

    Attributes:
        paths: the shards.
        chosen: for each shard, a boolean per row.
        documents, bytes: size of the sample.
    """

    paths: list[Path]
    chosen: list[npt.NDArray[np.bool_]]
    documents: int
    bytes: int

    def batches(self, columns: list[str]) -> Iterator[pa.RecordBatch]:
        """The chosen rows of the named columns, in the order of the shards, at most `ROWS` at a time."""
        for path, chosen in zip(self.paths, self.chosen, strict=True):
            row = 0  # of the shard, where the next batch begins
            # Filtered batch by batch, so a shard is never in memory as a whole.
            for batch in _read(path, columns):
                kept = batch.filter(pa.array(chosen[row : row + batch.num_rows]))
                row += batch.num_rows
                if kept.num_rows:
                    yield kept


def choose(paths: list[Path], *, seed: int, purpose: str, max_bytes: int) -> Sample:
    """Take documents in the order of hash(seed, id, purpose) for as long as they fit into `max_bytes`.

    Args:
        paths: shards of schema `DOCUMENTS`.
        seed, purpose: what is hashed, beside the id.
        max_bytes: the most text to take. 17 bytes per document are held in memory.
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


def train(batches: Iterable[Texts], base_vocab_size: int) -> Tokenizer:
    """Learn merges until there are `base_vocab_size` tokens or no pair occurs twice; then add the special tokens.

    The result depends only on the texts and the size: not on their order, their batches or the number of threads. A
    word of more than `LONGEST_WORD` characters is learnt from in pieces of that length, so the time grows with the
    text alone. The tokenizer itself cuts no word.

    Args:
        batches: lists or Arrow arrays of texts.
        base_vocab_size: number of tokens without the special ones, at least the 256 bytes.
    """
    if base_vocab_size < 256:
        raise ValueError(f"base_vocab_size: {base_vocab_size} is below the 256 bytes")
    # The split comes before learning, so no merge crosses a digit or a word's end.
    counter = _C.bpe.Counter(PATTERN, LONGEST_WORD)
    for batch in batches:
        for buffers in text_buffers(batch):
            for piece in cut(buffers):
                counter.add(piece.data, piece.offsets, thread_count())
    # The alphabet in the order of its characters, which is the library's: ids decide among pairs of equal counts.
    alphabet = [BYTE_SYMBOLS[symbol] for symbol in sorted(BYTE_SYMBOLS)]
    ids = np.zeros(256, np.uint32)
    ids[alphabet] = np.arange(256)
    words, offsets, counts = counter.words()
    del counter
    tokens, merges = _C.bpe.learn(
        ids[np.frombuffer(words, np.uint8)],
        offsets,
        counts,
        [bytes([byte]) for byte in alphabet],
        base_vocab_size,
        MIN_FREQUENCY,
    )
    return _build(tokens, merges.tolist())


def _build(tokens: list[bytes], merges: list[list[int]]) -> Tokenizer:
    """The tokenizer of a vocabulary, by id, and its merges (left, right, product), the special tokens added."""
    symbols = {byte: symbol for symbol, byte in BYTE_SYMBOLS.items()}
    names = ["".join(map(symbols.__getitem__, token)) for token in tokens]
    # A pair that was merged twice counts where it stands last.
    ordered = list(dict.fromkeys((left, right) for left, right, _ in reversed(merges)))[::-1]
    model = models.BPE(
        vocab={name: index for index, name in enumerate(names)},
        merges=[(names[left], names[right]) for left, right in ordered],
    )
    written = tokenizers.Tokenizer(model)
    written.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
        ]
    )
    written.decoder = decoders.ByteLevel()
    # Added after learning, so they get the ids that follow the vocabulary.
    written.add_special_tokens([tokenizers.AddedToken(name, special=True, normalized=False) for name in SPECIAL_TOKENS])
    return Tokenizer(written.to_str(pretty=True))


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """The tokenizer stage: `curated/` to `tokenizer/`.

    It trains on the `train` split, or takes the tokenizer that the recipe names. `by_language` is measured on the
    `valid` split. If that split is small, `train_sample` has the same numbers for training text.

    Raises:
        UserError: no training text, or a tokenizer that cannot be used.
    """
    settings, curated, target = recipe.tokenizer, directory / "curated", directory / "tokenizer"
    given = _given(recipe)
    paths = list_shards(curated, "train")
    make_directory(target)
    with tokenizer_threads(engine.workers):
        # The sample is chosen again on a resume, because its size is part of the statistics.
        documents = size = 0
        if given is None:
            sample = choose(paths, seed=recipe.seed, purpose="tokenizer", max_bytes=settings.sample_bytes)
            documents, size = sample.documents, sample.bytes
            # Either there is no training split, or its first document in hash order is larger than the sample.
            if not documents:
                raise UserError(
                    f"{curated}: no training document within tokenizer.sample_bytes = {settings.sample_bytes}; "
                    "raise it, or give more input"
                )
        # save() writes tokenizer.json last, so a stage that was killed after it does not train again.
        if not (target / "tokenizer.json").exists():
            tokenizer = _train_on(sample, settings.base_vocab_size) if given is None else Tokenizer.load(given)
            tokenizer.save(target)
        tokenizer = Tokenizer.load(target)
        held_out = _measure(tokenizer, list_shards(curated, "valid"), recipe.seed, STATISTICS_BYTES)
        statistics: dict[str, Any] = {
            "vocab_size": tokenizer.vocab_size,
            "base_vocab_size": tokenizer.base_vocab_size,
            "asked_vocab_size": settings.base_vocab_size if given is None else tokenizer.base_vocab_size,
            "missing_bytes": len(tokenizer.missing_bytes),
            "hash": tokenizer.hash,
            "trained": given is None,
            "trained_on_documents": documents,
            "trained_on_bytes": size,
        }
        # The numbers of the held-out text, or of training text if nothing is held out; `measured_on` says which.
        if held_out["bytes"] < SMALL_BYTES:
            # Text that the tokenizer was trained on compresses better than new text, so the two are kept apart.
            training = _measure(tokenizer, paths, recipe.seed, SMALL_BYTES)
            statistics["train_sample"] = training
        # A run of conversations alone has no corpus to measure it on.
        if held_out["documents"] or not paths:
            return statistics | {"measured_on": "valid"} | held_out
        return statistics | {"measured_on": "train"} | training


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for a tokenizer of the recipe that cannot be used."""
    given = _given(recipe)
    if given is not None:
        Tokenizer.load(given)


def _given(recipe: Recipe) -> str | Path | None:
    """The tokenizer that is taken as it is: that of the model to fine-tune, or the recipe's; None to train one.

    Raises:
        UserError: both are named.
    """
    if not recipe.finetune.base:
        return recipe.tokenizer.path or None
    if recipe.tokenizer.path:
        raise UserError(
            f"tokenizer.path {recipe.tokenizer.path}: a model is fine-tuned with its own tokenizer; leave out "
            "tokenizer.path, or take `codeshell model resize` first"
        )
    return hub.model_directory(recipe.finetune.base)


def notes(recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """A line for the terminal where the vocabulary is smaller than asked for."""
    made, asked = statistics["base_vocab_size"], statistics["asked_vocab_size"]
    if made >= asked:
        return []
    return [
        f"tokenizer: {made:,} of the {asked:,} tokens of tokenizer.base_vocab_size: no further pair of tokens occurs "
        "twice in this text"
    ]


def _train_on(sample: Sample, base_vocab_size: int) -> Tokenizer:
    """`train` on a sample, read as the learner asks for it, with a progress line."""
    with Progress("tokenizer", total=sample.documents, unit="documents") as progress:

        def texts() -> Iterator[Texts]:
            for batch in sample.batches(["text"]):
                yield batch.column("text")
                progress.advance(batch.num_rows)

        return train(texts(), base_vocab_size)


def _measure(tokenizer: Tokenizer, paths: list[Path], seed: int, max_bytes: int) -> dict[str, Any]:
    """`Meter.result` over a sample of the shards; the hash's purpose differs from that of training."""
    meter = Meter(tokenizer)
    sample = choose(paths, seed=seed, purpose="tokenizer statistics", max_bytes=max_bytes)
    for batch in sample.batches(["language", "text"]):
        meter.add(batch.column("language").to_pylist(), batch.column("text").to_pylist())
    return meter.result()


def _read(path: Path, columns: list[str]) -> Iterator[pa.RecordBatch]:
    """The columns of a shard, `ROWS` rows at a time; a broken file is a `UserError`."""
    try:
        yield from pq.ParquetFile(path).iter_batches(batch_size=ROWS, columns=columns)
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from None
