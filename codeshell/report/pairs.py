"""Duplicates, each with the document that was kept for it, for the cluster view: from a run or from `codeshell dedup`.

For all pairs only a cluster number and a Jaccard stay in memory, and for a run the row as well (and the ids while they
are sorted). The rest is read for the few pairs that the page shows.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Hashable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.documents.batches import texts_at
from codeshell.documents.inputs import InputOptions, Shard, read_plan
from codeshell.documents.languages import by_name
from codeshell.documents.provenance import DROPPED
from codeshell.documents.readers import open_parquet
from codeshell.documents.shards import list_shards, read_table
from codeshell.errors import UserError
from codeshell.report import read
from codeshell.report.format import number


@dataclass(frozen=True)
class Document:
    """One side of a pair. Its reader finds the text by `key`; `where` names the input and the row, if it has one."""

    key: Hashable
    id: str | None
    path: str | None
    repo: str | None = None
    language: str | None = None
    bytes: int | None = None
    where: str = ""


class Pair(NamedTuple):
    """A dropped document, the kept one that it names, and their Jaccard (None if it is not known)."""

    jaccard: float | None
    dropped: Document
    kept: Document


class Text(NamedTuple):
    """A document's text, with what only the file that holds the text says about the document."""

    text: str
    language: str | None
    bytes: int


class Place(NamedTuple):
    """The key of a document of `codeshell dedup`: row `row` of the source with the number `shard` in `plan.json`."""

    shard: int
    row: int


class PairSource(Protocol):
    """What the cluster view needs of a reader."""

    clusters: NDArray[np.int64]
    """(pairs,): the cluster of each pair. The numbers and the order of the pairs depend on the documents alone."""
    jaccard: NDArray[np.float64]
    """(pairs,): NaN where it is not known."""
    threshold: float | None
    absent: str
    """Said in place of a diff whose texts are gone."""

    def pairs(self, rows: NDArray[np.int64]) -> list[Pair]:
        """The pairs at these positions of `clusters`; the positions ascend, and each is there once."""

    def texts(self, keys: set[Hashable]) -> dict[Hashable, Text]:
        """The texts of some documents by key; those that cannot be read are left out."""


class RunPairs:
    """The near duplicates of a run: `neardup/dropped-NNNNN.parquet`, with the texts in `collect/`."""

    absent = "The texts are no longer in collect/."

    def __init__(self, run: Path) -> None:
        """Raises `UserError` for a damaged shard."""
        self._run = run
        # Read the four columns that order and group the pairs; `_ends` are the rows up to the end of each shard.
        self._shards = list_shards(run / read.DIRECTORIES["neardup"], "dropped")
        columns = pa.schema([DROPPED.field(name) for name in ("id", "kept_id", "value", "limit")])
        tables = [_columns(path, columns) for path in self._shards]
        self._ends = np.cumsum([table.num_rows for table in tables], dtype=np.int64)
        table = pa.concat_tables([columns.empty_table(), *tables])
        # Drops for another reason name no kept document.
        rows = np.flatnonzero(pc.is_valid(table["kept_id"]).to_numpy())
        table = table.take(pa.array(rows)).combine_chunks()
        # Pairs are ordered by id, and clusters by the id of the kept document, so that the page does not depend on how
        # the corpus was cut into shards.
        order = pc.sort_indices(table["id"]).to_numpy()
        self._rows = rows[order]
        self.jaccard = table["value"].to_numpy()[order]
        # The dictionary is in the order of first appearance; `rank` turns its indices into the order of the ids.
        kept = table["kept_id"].combine_chunks().dictionary_encode()
        # `rank[i]` is the place of the i-th dictionary entry in the sorted order: the inverse of a permutation.
        rank = np.empty(len(kept.dictionary), np.int64)
        rank[pc.sort_indices(kept.dictionary).to_numpy()] = np.arange(len(rank))
        self.clusters = rank[kept.indices.to_numpy()[order]]
        self.threshold = number(pc.max(table["limit"]).as_py())

    def pairs(self, rows: NDArray[np.int64]) -> list[Pair]:
        # Rows of all shards put together, ascending, so that each shard is read once and forwards.
        wanted = self._rows[rows]
        ascending = np.sort(wanted)
        found: dict[int, Pair] = {}
        start = 0
        # Each shard gets the rows that fall into it, counted from its own start.
        for path, end in zip(self._shards, self._ends, strict=True):
            here = ascending[(ascending >= start) & (ascending < end)]
            if len(here):
                shard_rows = read.parquet_rows(path, here - start)
                found.update(zip(here.tolist(), map(run_pair, shard_rows), strict=True))
            start = int(end)
        return [found[row] for row in wanted.tolist()]

    def texts(self, keys: set[Hashable]) -> dict[Hashable, Text]:
        documents = read.documents(self._run, {str(key) for key in keys})
        return {key: Text(row["text"], row["language"], row["bytes"]) for key, row in documents.items()}


def run_pair(row: read.Row) -> Pair:
    """The pair in a row of the schema `provenance.DROPPED` that names a kept document."""
    dropped = Document(row["id"], row["id"], row["path"], row["repo"], row["language"], row["bytes"])
    kept = Document(row["kept_id"], row["kept_id"], row["kept_path"], row["kept_repo"])
    return Pair(number(row["value"]), dropped, kept)


def _columns(path: Path, schema: pa.Schema) -> pa.Table:
    try:
        return read_table(path, schema.names).select(schema.names).cast(schema)
    except (KeyError, ValueError) as error:
        raise UserError(f"{path}: not a readable shard of drops ({error}); delete it and run again") from None


class DedupPairs:
    """The duplicates of a finished `codeshell dedup`: `duplicates.parquet`, with the texts where the job read them.

    `job` is its `job.json`, `path` its table; the rows of the table are in the order of the inputs.
    """

    absent = "The inputs are no longer where the job read them, or have changed since."

    def __init__(self, directory: Path) -> None:
        """Raises `UserError` if no finished job is in `directory`, or a file of it is damaged."""
        job = read.read_dict(directory / "job.json")
        if job is None or job.get("command") != "dedup":
            raise UserError(f"{directory}: no job.json of codeshell dedup here; give the directory of its -o")
        self.job, self.path = job, directory / "duplicates.parquet"
        if not (self.path.exists() and (directory / "stats.json").exists()):
            raise UserError(f"{directory}: this codeshell dedup has not finished; run the same command again")
        self._groups: dict[str, list[int]] = {}
        table = self.columns("cluster_id", "jaccard")
        self.clusters = table["cluster_id"].to_numpy()
        self.jaccard = table["jaccard"].to_numpy()
        self.threshold = number(self.parameters.get("threshold"))

    @property
    def parameters(self) -> dict[str, Any]:
        """The settings of the job: threshold, keep order and so on."""
        return _mapping(self.job.get("parameters"))

    def columns(self, *names: str) -> pa.Table:
        """Some columns of the whole table."""
        table = read_table(self.path, list(names))
        if missing := [name for name in names if name not in table.column_names]:
            raise UserError(f"{self.path}: no column {missing[0]}; codeshell dedup did not write this file")
        return table

    def pairs(self, rows: NDArray[np.int64]) -> list[Pair]:
        found = []
        for row in read.parquet_rows(self.path, rows):
            dropped = self._document(row["id"], row["shard"], row["row"])
            kept = self._document(row["kept_id"], row["kept_shard"], row["kept_row"])
            found.append(Pair(number(row["jaccard"]), dropped, kept))
        return found

    def texts(self, keys: set[Hashable]) -> dict[Hashable, Text]:
        # Group the documents by the piece of an input that holds them, so that no piece is read twice.
        pieces: dict[Shard, list[Place]] = {}
        for place in sorted(key for key in keys if isinstance(key, Place)):
            piece = self._piece(place)
            if piece is not None:
                pieces.setdefault(piece, []).append(place)
        # Columns and encodings as the job read them.
        options = InputOptions(**_mapping(self.job.get("options")))
        found: dict[Hashable, Text] = {}
        for piece, places in pieces.items():
            try:
                texts = texts_at(piece, [place.row for place in places], options).to_pylist()
            except (UserError, ValueError, OSError):
                continue  # The file is gone, or is another one by now: the page says so in place of the text.
            found |= {
                place: Text(text, None, len(text.encode())) for place, text in zip(places, texts, strict=True) if text
            }
        return found

    @cached_property
    def _shards(self) -> list[Shard]:
        """The pieces into which the job cut its inputs, ascending by source and row; empty if that is not recorded."""
        path = self.path.parent / "plan.json"
        return read_plan(path).shards if path.exists() else []

    def _piece(self, place: Place) -> Shard | None:
        """The smallest piece of the inputs that holds a document: a file, a row group, or a shard of JSONL."""
        # The last piece that starts at or before the place, if it is of the same source.
        at = bisect_right(self._shards, place, key=lambda shard: Place(shard.source.number, shard.first_row)) - 1
        if at < 0 or self._shards[at].source.number != place.shard:
            return None
        shard = self._shards[at]
        if shard.source.kind == "files":
            name = shard.files[place.row - shard.first_row : place.row - shard.first_row + 1]
            return replace(shard, first_row=place.row, rows=1, files=name)
        if shard.source.kind == "parquet":
            return self._row_group(shard, place.row)
        return shard

    def _row_group(self, shard: Shard, row: int) -> Shard | None:
        """The part of a shard of a Parquet file that is the row group of a row."""
        path = shard.source.path
        try:
            if path not in self._groups:
                with open_parquet(path) as file:
                    metadata = file.metadata
                    self._groups[path] = [metadata.row_group(i).num_rows for i in range(metadata.num_row_groups)]
        except UserError:
            return None
        # The first row of every group; the group of a row is the last that starts at or before it.
        firsts = np.cumsum([0, *self._groups[path]])
        group = int(np.searchsorted(firsts, row, side="right")) - 1
        if group >= len(firsts) - 1:
            return None  # The file has fewer rows by now.
        rows = self._groups[path][group]
        return replace(shard, begin=group, end=group + 1, first_row=int(firsts[group]), rows=rows)

    def _document(self, identity: str, shard: int | None, row: int | None) -> Document:
        """A document of the inputs, or of the index if `shard` is None."""
        if shard is None or row is None:
            return Document(None, identity, identity, where="known from the index")
        file = self._file(shard)
        # An id that comes from a column does not say where its row is; a path, or an id made of name and row, does.
        named = file.get("kind") != "files" and _mapping(self.job.get("options")).get("id_column") is not None
        where = f"row {row:,} of {file.get('name', '')}" if named else ""
        language, _ = by_name(identity.rsplit("/", 1)[-1])
        return Document(Place(shard, row), identity, identity, language=language, where=where)

    def _file(self, shard: int) -> dict[str, Any]:
        # The job's own list of its inputs; a damaged one names nothing.
        files = self.job.get("files")
        return _mapping(files[shard]) if isinstance(files, list) and 0 <= shard < len(files) else {}


def _mapping(node: Any) -> dict[str, Any]:
    return node if isinstance(node, dict) else {}
