"""The texts that `codeshell tokenizer` is pointed at: any inputs of `codeshell.documents`, or a run's own corpus.

Unlike the collect stage, nothing here needs a known language: a plain file that is named is read whatever it is, and
a row without a language counts under the one its path suggests, or as `unknown`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from codeshell.documents import languages
from codeshell.documents.batches import texts
from codeshell.documents.choose import choose
from codeshell.documents.inputs import InputOptions, Listing, cut
from codeshell.documents.shards import document_id, list_shards
from codeshell.engine.files import user_path

OPTIONS = InputOptions(max_row_bytes=1 << 20, max_single_bytes=1 << 30)
"""Column names and size limits, as in a recipe that does not set them; a file that is named may be a whole corpus."""

SHARD_BYTES = 64 << 20
"""Text that is listed at a time; it changes nothing in what is read."""

BATCH_BYTES = 2_000_000
BATCH_DOCUMENTS = 256


class Document(NamedTuple):
    language: str | None
    text: str


def documents(inputs: list[str], split: str, left_out: Counter[str]) -> Iterator[Document]:
    """Yield every text of the inputs, in a fixed order; what cannot be read is counted in `left_out` by reason.

    Args:
        inputs: paths, globs and URLs; for a run's directory (or its `curated/`), the split named is read.
        split: `train`, `valid` or `test`.
        left_out: reasons, added to.

    Raises:
        UserError: an input that is not there, or a damaged Parquet or JSONL file.
    """
    names: list[str] = []
    for item in inputs:
        # A run stands for the shards of one split. Its other files are no text to learn from.
        path = user_path(item)
        shards = (list_shards(path, split) or list_shards(path / "curated", split)) if path.is_dir() else []
        names += map(str, shards) if shards and item else [item]
    # The listing is a stream, so a folder of any size is read without holding its list.
    listing = Listing(names, OPTIONS)
    for (shard,) in cut(listing, SHARD_BYTES):
        for row, text in texts(shard, OPTIONS, left_out):
            # Rows of a run say their language; for other texts the path or the first line tells, or nothing does.
            yield Document(row.language or languages.by_path(row.path or "", row.text), text)
    # What the walk left out is known when it is over.
    left_out.update(listing.left_out)


def batches(items: Iterable[Document]) -> Iterator[list[Document]]:
    """Group documents so that one group is about `BATCH_BYTES` of text."""
    batch: list[Document] = []
    size = 0
    for item in items:
        batch.append(item)
        size += len(item.text)
        if size >= BATCH_BYTES or len(batch) == BATCH_DOCUMENTS:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def sample(read: Callable[[], Iterator[Document]], *, seed: int, max_bytes: int) -> tuple[int, Iterator[Document]]:
    """Each different text once, chosen by hash for as long as `max_bytes` holds them, as the tokenizer stage chooses.

    `read` is called twice: to hash and measure now, and to give the texts. Two numbers per document stay in memory.

    Returns:
        How many texts are chosen, and the texts in the order of `read`.
    """

    def measured() -> Iterator[tuple[str, int]]:
        for item in read():
            data = item.text.encode()
            yield document_id(data), len(data)

    taken, _ = choose(seed, "tokenizer", measured(), max_bytes, once=True)

    def chosen() -> Iterator[Document]:
        # The second reading gives the same texts in the same places; the chosen ones are met in ascending order.
        places = iter(np.sort(taken).tolist())
        target = next(places, None)
        for place, item in enumerate(read()):
            if place == target:
                yield item
                target = next(places, None)

    return len(taken), chosen()
