"""Scores of any files, outside of a run: their ids, the quality, and every column that it is made of.

    plan    `documents.inputs` lists the inputs and cuts them into shards, the same for any number of workers
    shard   read, run the model's scorers, predict; a Parquet file of its own for each shard
    join    the shards' row groups, in order, into one file that is there whole or not at all

A row of the output is a row or file of the input: those that cannot be scored have nulls, and are counted by reason.
Memory is a row group in a worker, whatever the size of the input.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.boosting.quality_model import SHIPPED, QualityModel, matrix
from codeshell.documents import languages
from codeshell.documents.batches import Row, rows
from codeshell.documents.inputs import InputOptions, Shard, plan
from codeshell.documents.readers import encoding_reason, storable
from codeshell.documents.shards import TableWriter, document_id
from codeshell.engine import Engine
from codeshell.engine.files import TEMPORARY, atomic_path, disk_error
from codeshell.engine.memory import give_back_large_blocks
from codeshell.errors import UserError
from codeshell.quality import features
from codeshell.quality.labels import UNKNOWN
from codeshell.scorers import Scorer

SHARD_BYTES = 32 << 20
GROUP_ROWS = 2048
GROUP_BYTES = 8 << 20
"""Documents and text that a worker holds at once (or one longer document)."""

DOCUMENT = pa.schema(
    [
        ("id", pa.string()),
        ("repo", pa.string()),
        ("path", pa.string()),
        ("language", pa.string()),
        ("text", pa.large_string()),
        ("bytes", pa.int64()),
    ]
)


@dataclass(frozen=True)
class Job:
    """What is scored, and with what."""

    inputs: tuple[str, ...]
    output: Path
    options: InputOptions
    model: Path = SHIPPED
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Settings of the scorers, by name."""


@dataclass(frozen=True)
class Counts:
    """What came of it."""

    rows: int
    scored: int
    not_scored: dict[str, int]
    """Rows with nulls, by the reason for which they have no score."""
    not_read: dict[str, int]
    """Files of folders that are no documents (pictures, other people's code), which have no row."""


def score_files(job: Job, engine: Engine) -> Counts:
    """Score the inputs into `job.output`.

    Raises:
        UserError: as the reader and the model's scorers do; no document at all.
    """
    _tools.cache_clear()
    _tools(job.model, _frozen(job.settings))
    found = plan(job.inputs, job.options, SHARD_BYTES, own=[job.output])
    try:
        folder = tempfile.TemporaryDirectory(
            prefix=f".{job.output.name}-", suffix=TEMPORARY, dir=job.output.absolute().parent
        )
    except OSError as error:
        raise disk_error(error, job.output) from error
    with folder as scratch:
        parts: list[dict[str, Any]] = list(engine.map(partial(score_shard, job, scratch), found.shards))
        not_scored: Counter[str] = Counter()
        for part in parts:
            not_scored.update(part["not_scored"])
        total = sum(part["rows"] for part in parts)
        if not total:
            raise UserError(f"{', '.join(job.inputs)}: no document to score")
        with atomic_path(job.output) as temporary:
            _join([Path(part["path"]) for part in parts], temporary)
    return Counts(total, total - not_scored.total(), dict(sorted(not_scored.items())), found.left_out)


def _join(paths: Sequence[Path], output: Path) -> None:
    """Put the row groups of some files into one."""
    with pq.ParquetFile(paths[0]) as first:
        schema = first.schema_arrow
    with pq.ParquetWriter(output, schema, compression="zstd", compression_level=3) as writer:
        for path in paths:
            with pq.ParquetFile(path) as source:
                for group in range(source.num_row_groups):
                    writer.write_table(source.read_row_group(group, use_threads=False))


def score_shard(job: Job, scratch: str, shard: Shard) -> dict[str, Any]:
    """Write the rows of one shard; return its statistics."""
    give_back_large_blocks()
    model, scorers = _tools(job.model, _frozen(job.settings))
    schema = _schema(model, scorers)
    path = Path(scratch) / f"scores-{shard.number:05d}.parquet"
    not_scored: Counter[str] = Counter()
    count = 0
    with TableWriter(path, schema) as writer:
        for group in _groups(rows(shard, job.options)):
            writer.write(_scored(group, shard, model, scorers, schema, not_scored))
            count += len(group)
    return {"path": str(path), "rows": count, "not_scored": dict(not_scored)}


def _groups(found: Iterator[Row]) -> Iterator[list[Row]]:
    held: list[Row] = []
    size = 0
    for row in found:
        held.append(row)
        size += len(row.text)
        if len(held) >= GROUP_ROWS or size >= GROUP_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _scored(
    group: list[Row],
    shard: Shard,
    model: QualityModel,
    scorers: Mapping[str, Scorer],
    schema: pa.Schema,
    not_scored: Counter[str],
) -> pa.Table:
    """The output's rows of some rows of the input, in their order."""
    name = shard.source.name
    if name and shard.source.kind in ("files", "tar"):
        name += "/"
    ids = [storable(name + row.place if row.id is None else row.id) for row in group]
    # The place of each row that has a text among those that have.
    places: list[int | None] = []
    texts: list[str] = []
    chosen: list[Row] = []
    for row in group:
        reason, text = row.reason, ""
        if not reason:
            try:
                text = row.text.decode()
            except UnicodeDecodeError:
                reason = encoding_reason(row.text)
        if not reason and not text:
            reason = "empty"
        if reason:
            not_scored[reason] += 1
            places.append(None)
            continue
        places.append(len(texts))
        texts.append(text)
        chosen.append(row)
    columns: dict[str, pa.ChunkedArray] = {"id": pa.chunked_array([pa.array(ids, pa.string())])}
    if texts:
        table = _columns(chosen, texts, shard, model, scorers)
        take = pa.array(places, pa.int64())
        columns |= {field.name: table.column(field.name).take(take) for field in schema if field.name != "id"}
    else:
        columns |= {
            field.name: pa.chunked_array([pa.nulls(len(group), field.type)]) for field in schema if field.name != "id"
        }
    return pa.table([columns[field.name].cast(field.type) for field in schema], schema=schema)


def _columns(
    chosen: list[Row], texts: list[str], shard: Shard, model: QualityModel, scorers: Mapping[str, Scorer]
) -> pa.Table:
    """All columns of documents with a text."""
    paths = [storable(row.path or (row.place if shard.source.kind in ("files", "tar") else "")) for row in chosen]
    documents = pa.table(
        [
            [document_id(row.text) for row in chosen],
            [storable(row.repo or "") for row in chosen],
            paths,
            [_language(row, path) for row, path in zip(chosen, paths, strict=True)],
            texts,
            [len(row.text) for row in chosen],
        ],
        schema=DOCUMENT,
    )
    table = features.columns_of(documents, scorers)
    predicted = model.predict(matrix(table, model.columns), documents["text"])
    for place, target in enumerate(model.targets):
        table = table.append_column(target, pa.array(predicted[:, place]))
    return table.append_column("language", documents["language"])


def _language(row: Row, path: str) -> str:
    found = languages.by_label(row.language) if row.language else None
    if found is None and path:
        found = languages.by_path(path, row.text[:4096])
    return found or UNKNOWN


def _schema(model: QualityModel, scorers: Mapping[str, Scorer]) -> pa.Schema:
    """id, the scores, the language, and the model's columns in their order."""
    types = {item.name: item.type for item in features.BASE}
    types |= {item.name: item.type for scorer in scorers.values() for item in scorer.columns}
    fields = [pa.field("id", pa.string()), *(pa.field(target, pa.float64()) for target in model.targets)]
    fields += [pa.field("language", pa.string()), *(pa.field(name, types[name]) for name in model.columns)]
    return pa.schema(fields)


def _frozen(settings: Mapping[str, Mapping[str, Any]]) -> tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]:
    return tuple((name, tuple(sorted(values.items()))) for name, values in sorted(settings.items()))


@lru_cache(maxsize=1)
def _tools(
    path: Path, settings: tuple[tuple[str, tuple[tuple[str, Any], ...]], ...]
) -> tuple[QualityModel, dict[str, Scorer]]:
    """The model and its scorers, once for each process."""
    model = QualityModel.load(path)
    names = model.about.get("scorers", {})
    if not isinstance(names, dict):
        raise UserError(f"{path}: does not name the scorers of its columns; train the model again")
    scorers = features.scorers_of(list(names), {name: dict(values) for name, values in settings})
    have = {*features.BASE.names, *(name for scorer in scorers.values() for name in scorer.columns.names)}
    missing = [name for name in model.columns if name not in have]
    if missing:
        raise UserError(f"{path}: reads the column {missing[0]!r}, which no scorer gives; train the model again")
    return model, scorers
