"""The distribution of every score in every language over the distinct documents of a run, and a sample of them.

One pass over the columns makes a sketch (`sketches`) of each column in each language for each shard; they are merged
into `select/sketches.parquet`. The sample, `select/sample.parquet`, is the documents with the smallest hashes: the same
whatever the shards. Quantiles, ranks, `codeshell explain` and the report read these two files.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.data.rules import is_text, numbers
from codeshell.data.scored import Scored
from codeshell.data.sketches import COARSE, Sketch, by_group
from codeshell.documents.shards import read_table, shard_path, write_table
from codeshell.randomness import draw, mix

SKETCHES = pa.schema(
    [
        ("column", pa.string()),
        ("language", pa.string()),
        ("bins_limit", pa.int32()),
        ("level", pa.int8()),
        ("bin", pa.uint64()),
        ("documents", pa.int64()),
        ("bytes", pa.int64()),
    ]
)
"""One row for each bin of a sketch, ascending; the rows of a sketch stand together."""

PARTS = pa.schema(
    [
        *(SKETCHES.field(name) for name in ("column", "language", "bins_limit", "level")),
        *(pa.field(name, pa.large_list(SKETCHES.field(name).type)) for name in ("bin", "documents", "bytes")),
    ]
)
"""The sketches of one shard, a working file: a row each."""

SAMPLE = 2_000
"""Documents in the sample: a correlation of 0.5 is then known to about 0.03."""

MERGED_AT_ONCE = 32
"""Shards whose sketches are in memory at a time while they are merged."""


def hashes(ids: pa.ChunkedArray, seed: int, purpose: str) -> NDArray[np.uint64]:
    """64 uniform bits for each document, from its id (32 hexadecimal digits), the seed and a purpose."""
    digits = np.frombuffer(bytes.fromhex("".join(ids.to_pylist())), dtype=">u8").reshape(-1, 2)
    return mix(digits[:, 0].astype(np.uint64), draw(seed, purpose))


def languages_of(column: pa.ChunkedArray) -> Iterator[tuple[str, NDArray[np.int64]]]:
    """Each language of a column with the rows that have it, ascending; by name."""
    encoded = pc.dictionary_encode(column.combine_chunks())
    encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
    codes = encoded.indices.to_numpy(zero_copy_only=False)
    names = encoded.dictionary.to_pylist()
    for code in sorted(range(len(names)), key=names.__getitem__):
        yield names[code], np.flatnonzero(codes == code)


def sketch_shard(scored: Scored, limits: Mapping[str, int], seed: int, stage: Path, shard: int) -> dict[str, int]:
    """Write `sketches-NNNNN.parquet` and `sample-NNNNN.parquet` of one shard below `stage`.

    Args:
        limits: the most bins of each column that decisions are taken from; every other column has `COARSE`.
    """
    kept = scored.kept(shard)
    table = scored.read(shard, [*scored.columns, "bytes"], kept)
    sizes = kept["bytes"].to_numpy()
    values = {name: numbers(table[name]) for name in table.column_names}
    names, group = [], np.zeros(kept.num_rows, np.int64)
    for number, (language, rows) in enumerate(languages_of(kept["language"])):
        names.append(language)
        group[rows] = number
    # The most bins are fixed for a column, so that sketches of all shards can be merged.
    found = {
        name: by_group(column, sizes, group, len(names), limits.get(name, COARSE)) for name, column in values.items()
    }
    parts = {(name, language): found[name][number] for number, language in enumerate(names) for name in values}
    write_table(shard_path(stage, "sketches", shard), _part_table(parts))
    keys = hashes(kept["id"], seed, "sample")
    rows = np.sort(np.argsort(keys, kind="stable")[:SAMPLE])
    sample = {"hash": pa.array(keys[rows])} | {name: kept[name].take(pa.array(rows)) for name in ("id", "language")}
    sample |= {
        name: pa.array(column[rows], from_pandas=True)  # NaN is null
        for name, column in values.items()
        if not is_text(table[name].type)
    }
    write_table(shard_path(stage, "sample", shard), pa.table(sample))
    return {"documents": kept.num_rows}


def merge(stage: Path, shards: range) -> None:
    """Write `sketches.parquet` and `sample.parquet` of all shards below `stage`."""
    whole: dict[tuple[str, str], Sketch] = {}
    chosen: pa.Table | None = None
    for first in range(0, len(shards), MERGED_AT_ONCE):
        some = shards[first : first + MERGED_AT_ONCE]
        parts: dict[tuple[str, str], list[Sketch]] = {key: [sketch] for key, sketch in whole.items()}
        for shard in some:
            for key, sketch in _part_sketches(read_table(shard_path(stage, "sketches", shard))):
                parts.setdefault(key, []).append(sketch)
        whole = {key: Sketch.merged(several, several[0].limit) for key, several in parts.items()}
        samples = [read_table(shard_path(stage, "sample", shard)) for shard in some]
        together = pa.concat_tables([*([chosen] if chosen is not None else []), *samples])
        chosen = together.take(pa.array(np.argsort(together["hash"].to_numpy(), kind="stable")[:SAMPLE]))
    if chosen is not None:
        write_table(stage / "sample.parquet", chosen.drop_columns(["hash"]))
    # Last: it says that both are there.
    write_table(stage / "sketches.parquet", _table(dict(sorted(whole.items()))))


def _part_table(parts: Mapping[tuple[str, str], Sketch]) -> pa.Table:
    """Sketches by (column, language) as rows of `PARTS`."""
    offsets = np.cumsum([0, *(len(sketch.bins) for sketch in parts.values())])
    numbers_of = [[getattr(sketch, name) for sketch in parts.values()] for name in ("limit", "level")]
    lists = [
        pa.LargeListArray.from_arrays(
            offsets, np.concatenate([np.empty(0, kind), *(getattr(sketch, name) for sketch in parts.values())])
        )
        for name, kind in (("bins", np.uint64), ("count", np.int64), ("size", np.int64))
    ]
    return pa.table([*([key[at] for key in parts] for at in (0, 1)), *numbers_of, *lists], schema=PARTS)


def _part_sketches(table: pa.Table) -> Iterator[tuple[tuple[str, str], Sketch]]:
    """The sketches of rows that `_part_table` made, each with its (column, language)."""
    table = table.combine_chunks()
    if not table.num_rows:
        return
    lists = [table[name].chunk(0) for name in ("bin", "documents", "bytes")]
    arrays = [column.flatten().to_numpy() for column in lists]
    offsets = lists[0].offsets.to_numpy()
    bounds = pairwise((offsets - offsets[0]).tolist())
    rows = zip(*(table[name].to_pylist() for name in ("column", "language", "bins_limit", "level")), strict=True)
    for (column, language, limit, level), (start, end) in zip(rows, bounds, strict=True):
        yield (column, language), Sketch(limit, level, *(array[start:end] for array in arrays))


def _table(parts: Mapping[tuple[str, str], Sketch]) -> pa.Table:
    """Sketches by (column, language) as rows of `SKETCHES`."""
    counts = np.array([len(sketch.bins) for sketch in parts.values()], dtype=np.int64)
    spread = np.repeat(np.arange(len(parts)), counts)
    names = [pa.array([key[at] for key in parts], pa.string()).take(pa.array(spread)) for at in (0, 1)]
    numbers_of = [
        np.array([getattr(sketch, name) for sketch in parts.values()], dtype=np.int64)[spread]
        for name in ("limit", "level")
    ]
    arrays = [
        np.concatenate([np.empty(0, kind), *(getattr(sketch, name) for sketch in parts.values())]).astype(kind)
        for name, kind in (("bins", np.uint64), ("count", np.int64), ("size", np.int64))
    ]
    return pa.table([*names, *map(pa.array, numbers_of), *map(pa.array, arrays)], names=SKETCHES.names).cast(SKETCHES)


def _sketches(table: pa.Table) -> Iterator[tuple[tuple[str, str], Sketch]]:
    """The sketches of rows that `_table` made, each with its (column, language)."""
    if not table.num_rows:
        return
    codes, names = [], []
    for at in ("column", "language"):
        encoded = pc.dictionary_encode(table[at].combine_chunks())
        encoded = encoded.combine_chunks() if isinstance(encoded, pa.ChunkedArray) else encoded
        codes.append(encoded.indices.to_numpy(zero_copy_only=False))
        names.append(encoded.dictionary.to_pylist())
    new = (np.diff(codes[0], prepend=-1) != 0) | (np.diff(codes[1], prepend=-1) != 0)
    starts = np.flatnonzero(new)
    limit, level = table["bins_limit"].to_numpy(), table["level"].to_numpy()
    arrays = [table[name].to_numpy() for name in ("bin", "documents", "bytes")]
    for start, end in zip(starts.tolist(), [*starts[1:].tolist(), table.num_rows], strict=True):
        key = names[0][codes[0][start]], names[1][codes[1][start]]
        yield key, Sketch(int(limit[start]), int(level[start]), *(array[start:end] for array in arrays))


class Distributions:
    """What `merge` wrote, read when it is asked for.

    Args:
        stage: the directory `select/` of a run.
        columns: those that will be asked for; None for all.
    """

    def __init__(self, stage: Path, columns: Collection[str] | None = None) -> None:
        self.path, self._columns = stage / "sketches.parquet", columns

    @cached_property
    def sketches(self) -> dict[tuple[str, str], Sketch]:
        """Every sketch by (column, language); a column that no document of a language has is not there."""
        if not self.path.exists():
            return {}
        table = read_table(self.path)
        if self._columns is not None:
            table = table.filter(pc.is_in(table["column"], value_set=pa.array(sorted(self._columns), pa.string())))
        return dict(_sketches(table))

    def of(self, column: str, language: str, limit: int = COARSE) -> Sketch:
        """The distribution of a column in a language, empty if there is none."""
        found = self.sketches.get((column, language))
        return found if found is not None else Sketch.merged([], limit)

    @cached_property
    def languages(self) -> dict[str, int]:
        """Documents of each language."""
        return {
            language: sketch.documents
            for (column, language), sketch in sorted(self.sketches.items())
            if column == "bytes"
        }
