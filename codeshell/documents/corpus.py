"""The documents of a run that a stage has kept, with their texts: what a scorer that learns from the corpus reads.

A `Corpus` holds paths alone, so it is pickled into a worker for nothing. Its shards are those of the kept files; a
shard is read by row groups, so a reader holds one group of texts.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import pyarrow as pa

from codeshell.documents.shards import by_language, list_shards, read_kept, read_table
from codeshell.errors import UserError


@dataclass(frozen=True)
class Corpus:
    """The documents that the files `kept` (schema `shards.KEPT`) name.

    Raises:
        UserError: a damaged file, in any member that reads.
    """

    collect: Path
    """The directory that holds `documents-NNNNN.parquet`."""
    kept: tuple[Path, ...]
    """One file for each shard, in order. Each names documents of one collected shard, in collect order."""

    @classmethod
    def of_stage(cls, collect: Path, stage: Path) -> Corpus:
        """What the stage in the directory `stage` kept.

        Raises:
            UserError: the stage has not run.
        """
        kept = list_shards(stage, "kept")
        if not kept:
            raise UserError(f"{stage}: no kept-*.parquet here; run the {stage.name} stage first")
        return cls(collect, tuple(kept))

    @property
    def shards(self) -> Sequence[int]:
        """The numbers of the shards, ascending from 0."""
        return range(len(self.kept))

    def read(self, shard: int) -> Iterator[pa.Table]:
        """The documents (schema `shards.DOCUMENTS`, with text) of one shard, by row groups, in collect order."""
        return read_kept(self.collect, self.kept[shard])

    def rows(self, shard: int, columns: Sequence[str] | None = None) -> pa.Table:
        """The rows of `kept` (schema `shards.KEPT`) of one shard: what is known of its documents without the text."""
        return read_table(self.kept[shard], None if columns is None else list(columns))

    @cached_property
    def languages(self) -> dict[str, int]:
        """Bytes of text in each language, by name; languages without a document are not in it."""
        sizes: Counter[str] = Counter()
        for shard in self.shards:
            for name, numbers in by_language(self.rows(shard, ["language", "bytes"])).items():
                sizes[name] += numbers["bytes"]
        return dict(sorted(sizes.items()))
