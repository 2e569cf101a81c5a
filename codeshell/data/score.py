"""Score: the columns of the scorers that the recipe names, beside the documents: `score/scores-NNNNN.parquet`.

The measures of `codeshell.scorers.text` are not among them: collect writes those while it has the texts in memory. A
run without `score.scorers` has no such stage. A shard is read, scored and written by row groups, so a worker holds one
group and the scorers. Row i of `scores-NNNNN` is document i of `collect/documents-NNNNN`.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.documents.shards import DOCUMENTS, TableWriter, list_shards, read_table, shard_path
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import TEMPORARY, make_directory, remove_quietly
from codeshell.engine.memory import give_back_large_blocks
from codeshell.errors import UserError
from codeshell.recipe import Recipe, Score
from codeshell.registry import absolute
from codeshell.scorers import Scorer, make
from codeshell.scorers.text import SCORES


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for a scorer that cannot be made, settings for one that is not named, or a column twice."""
    _checked(recipe.score)


def _checked(settings: Score) -> dict[str, Scorer]:
    """The scorers by name, made and checked as `check` says."""
    # Settings of a misspelt name would otherwise be ignored in silence.
    unknown = settings.settings.keys() - set(settings.scorers)
    if unknown:
        raise UserError(f"score.settings: {min(unknown)!r} is not in score.scorers; name it there as well")
    if "text" in settings.scorers:
        raise UserError("score.scorers: every document has the columns of 'text' already; leave it out")
    scorers = _make(settings)
    _schema(scorers)
    return scorers


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Score what `collect` left below `directory`, into `directory`/score.

    Returns:
        `documents`, and `columns {scorer: [name]}`.

    Raises:
        UserError: no such scorer, settings for one that is not named, two columns of one name, or a scorer that does
            not give what it declares.
    """
    settings, stage = recipe.score, make_directory(directory / "score")
    for leftover in stage.glob(f"*{TEMPORARY}"):
        remove_quietly(leftover)
    # Only their names are needed here. They are not held while the workers score: one may have loaded a model.
    columns = {name: scorer.columns.names for name, scorer in _checked(settings).items()}
    # If this process is the worker, it may have scored before with what a FILE.py was then.
    _scorers.cache_clear()
    # A worker may have another working directory, so it gets whole paths.
    places = {name: absolute(name) for name in settings.scorers}
    work = Score(
        scorers=tuple(places.values()), settings={places[name]: value for name, value in settings.settings.items()}
    )
    shards: list[int] = list(range(len(list_shards(directory / "collect", "documents"))))
    parts = map_shards(engine, stage, "score", partial(score_shard, str(directory), work), shards)
    return {"documents": sum(part["documents"] for part in parts), "columns": columns}


def score_shard(directory: str, settings: Score, shard: int) -> dict[str, Any]:
    """Write `scores-NNNNN.parquet` of one shard; return its statistics."""
    give_back_large_blocks()
    scorers = _scorers(msgspec.json.encode(settings))
    schema = _schema(scorers)
    # A group at a time: read, scored by all, written.
    documents = 0
    with TableWriter(shard_path(Path(directory) / "score", "scores", shard), schema) as writer:
        for batch in _batches(Path(directory) / "collect", shard):
            # Each scorer sees the columns of those before it.
            for name, scorer in scorers.items():
                for field, column in zip(scorer.columns, _columns(name, scorer, batch), strict=True):
                    batch = batch.append_column(field, column)
            writer.write(batch.select(schema.names).cast(schema))
            documents += batch.num_rows
    return {"documents": documents}


def _batches(collect: Path, shard: int) -> Iterator[pa.Table]:
    """The documents of a shard by row groups, with the text measures beside them."""
    # The measures of a whole shard are small: twelve numbers per document.
    measures = read_table(shard_path(collect, "scores", shard)).drop_columns(["id", "language"])
    path = shard_path(collect, "documents", shard)
    first = 0
    try:
        with pq.ParquetFile(path) as source:
            for group in range(source.num_row_groups):
                table = source.read_row_group(group, use_threads=False)
                beside = measures.slice(first, table.num_rows)
                for name in beside.column_names:
                    table = table.append_column(name, beside[name])
                first += table.num_rows
                yield table
    except (pa.ArrowInvalid, OSError) as error:
        raise UserError(f"{path}: not a readable Parquet file ({error}); delete it and run again") from None


def _columns(name: str, scorer: Scorer, batch: pa.Table) -> Iterator[pa.Array]:
    """What a scorer gives for a batch, checked against what it declares."""
    values = scorer.score(batch)
    for field in scorer.columns:
        # A scorer of a user may give anything; what does not fit is named here, not in Arrow's words.
        if field.name not in values:
            raise UserError(f"scorer {name}: score() gives no {field.name!r}, which its columns declare; return it")
        try:
            column = values[field.name]
            if isinstance(column, pa.Array | pa.ChunkedArray):
                column = column.cast(field.type)
            else:
                column = pa.array(column, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(f"scorer {name}: {field.name!r} is not {field.type} ({error}); fix the scorer") from None
        if len(column) != batch.num_rows:
            raise UserError(
                f"scorer {name}: {field.name!r} has {len(column)} values for {batch.num_rows} documents; give one each"
            )
        yield column


def _make(settings: Score) -> dict[str, Scorer]:
    return {name: make(name, settings.settings.get(name, {})) for name in settings.scorers}


@lru_cache(maxsize=1)
def _scorers(settings: bytes) -> dict[str, Scorer]:
    """The scorers of this process, made once: one of them may load a model. The key is the settings as JSON."""
    return _make(msgspec.json.decode(settings, type=Score))


def _schema(scorers: dict[str, Scorer]) -> pa.Schema:
    """The columns of all scorers after the document's id; each name once."""
    # Rules read columns by name alone, so a name may have one source only.
    fields = [DOCUMENTS.field("id")]
    taken = dict.fromkeys([*DOCUMENTS.names, *SCORES.names], "every document")
    for name, scorer in scorers.items():
        for field in scorer.columns:
            if field.name in taken:
                raise UserError(
                    f"scorer {name}: the column {field.name!r} is one of {taken[field.name]} already; rename it"
                )
            taken[field.name] = f"scorer {name}"
            fields.append(field)
    return pa.schema(fields)
