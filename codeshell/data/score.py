"""Score: the columns of the scorers that the recipe names, for every distinct document.

    fit    scorers that learn from the corpus do so, one after the other: `score/SCORER/state`
    score  a shard is read once, by row groups, and scored by all: `score/SCORER/scores-NNNNN.parquet`

Row i of `scores-NNNNN` is document i of `neardup/kept-NNNNN`, and has its id. The measures of `codeshell.scorers.text`
are not among the columns: collect writes those while it has the texts in memory.

Each scorer has a key of its own, `score/SCORER/key.json`: its name, settings, code, columns, and the keys of the
scorers whose columns it needs. With another key its directory is done again, and no other one is: a new scorer scores
its own columns. A run without `score.scorers` has no such stage.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa
import pyarrow.parquet as pq

from codeshell.data.scored import MEASURES, scorer_home
from codeshell.documents.corpus import Corpus
from codeshell.documents.shards import DOCUMENTS, TableWriter, read_table, shard_path
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import TEMPORARY, make_directory, read_json, remove_quietly, write_json
from codeshell.engine.memory import give_back_large_blocks
from codeshell.errors import UserError, say
from codeshell.recipe import Recipe, Score
from codeshell.registry import absolute
from codeshell.scorers import SCORERS, Scorer, make


@dataclass(frozen=True)
class Part:
    """A scorer of a run. It is pickled to the workers, where `_scorer` makes the object."""

    name: str
    place: str
    """The name with a whole path, for a worker that has another working directory."""
    settings: bytes
    """Keyword arguments as JSON."""
    home: Path
    schema: pa.Schema
    """The columns of its files: the id, then its own."""
    needs: Mapping[str, Path | None]
    """Columns that it reads of other scorers, each with the directory that holds it."""
    learns: bool
    absent: Mapping[str, str]
    """Columns that are null where a document cannot be measured, each with the usual reasons."""
    key: str
    """The hash of all that decides its columns, but for the corpus."""

    @property
    def columns(self) -> list[str]:
        return list(self.schema.names[1:])

    @property
    def state(self) -> Path:
        """What it learned from the corpus."""
        return self.home / "state"


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for a scorer that cannot be made, settings for one that is not named, a column twice, or a
    column that a scorer needs and none before it gives."""
    _parts(recipe.score, Path("score"))


def columns_of(recipe: Recipe) -> dict[str, str]:
    """The columns of the recipe's scorers, each with the scorer's name; errors as `check`."""
    return {column: part.name for part in _parts(recipe.score, Path("score")) for column in part.columns}


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Score what `neardup` left below `directory`, into `directory`/score.

    Returns:
        `documents`, `columns {scorer: [name]}`, and `unmeasured {scorer: {column: documents}}` of those columns that a
        scorer calls `absent` where it cannot measure a document.

    Raises:
        UserError: as `check`; a scorer that does not give what it declares.
    """
    stage = make_directory(directory / "score")
    parts = _parts(recipe.score, stage)
    # Parts that were made otherwise go, and those that nobody names any more.
    _clear(stage, parts)
    corpus = Corpus.of_stage(directory / "collect", directory / "neardup")
    todo = [part for part in parts if not (part.home / "stats.json").exists()]
    if len(todo) < len(parts):
        say(f"score: scored before: {', '.join(part.name for part in parts if part not in todo)}")
    # If this process is the worker, it may have scored before with what a FILE.py or a state was then.
    _scorer.cache_clear()
    for part in todo:
        if part.learns and not (part.home / "fitted.json").exists():
            scorer: Any = make(part.name, json.loads(part.settings))
            scorer.fit(corpus, make_directory(part.state), engine)
            write_json(part.home / "fitted.json", {"key": part.key})
    if todo:
        # What is done is told by the files of the shards, which are whole or absent and of these keys: the choice of
        # scorers may change while a run is stopped. So the markers are those of this call alone.
        markers = make_directory(stage / "markers")
        counts = map_shards(engine, markers, "score", partial(score_shard, directory, tuple(todo)), list(corpus.shards))
        documents = sum(count["documents"] for count in counts)
        for part in todo:
            unmeasured = _unmeasured(part, corpus.shards)
            statistics = {"documents": documents, "columns": part.columns, "unmeasured": unmeasured}
            write_json(part.home / "stats.json", statistics)
        shutil.rmtree(markers)
    counts = [read_json(part.home / "stats.json") for part in parts]
    return {
        "documents": max((count["documents"] for count in counts), default=0),
        "columns": {part.name: part.columns for part in parts},
        "unmeasured": {
            part.name: count["unmeasured"] for part, count in zip(parts, counts, strict=True) if count["unmeasured"]
        },
    }


def notes(recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """A line for the terminal: how many documents could not be measured, and why."""
    absent = {part.name: part.absent for part in _parts(recipe.score, directory / "score")}
    told = [
        f"{column} of {scorer} for {documents:,} ({absent.get(scorer, {}).get(column, 'not measured')})"
        for scorer, columns in statistics.get("unmeasured", {}).items()
        for column, documents in columns.items()
    ]
    return [f"score: of {statistics['documents']:,} documents, no {'; no '.join(told)}"] if told else []


def _unmeasured(part: Part, shards: Sequence[int]) -> dict[str, int]:
    """How many documents have no value in the columns that the scorer calls `absent`; those of none are left out."""
    # The files say how many nulls each column has: no column is read.
    counts = dict.fromkeys(part.absent, 0)
    for shard in shards if counts else ():
        metadata = pq.read_metadata(shard_path(part.home, "scores", shard))
        for group in range(metadata.num_row_groups):
            for column in counts:
                statistics = metadata.row_group(group).column(part.schema.get_field_index(column)).statistics
                counts[column] += statistics.null_count
    return {column: documents for column, documents in counts.items() if documents}


def score_shard(directory: Path, parts: tuple[Part, ...], shard: int) -> dict[str, Any]:
    """Write the files of one shard that are not there yet; return its statistics."""
    give_back_large_blocks()
    corpus = Corpus.of_stage(directory / "collect", directory / "neardup")
    kept = corpus.rows(shard)
    measures = read_table(shard_path(corpus.collect, "scores", shard), list(MEASURES))
    beside = measures.take(kept["row"].combine_chunks())
    # A file that is there is whole, and of this key: `run` removed all others.
    todo = [part for part in parts if not shard_path(part.home, "scores", shard).exists()]
    names = {part.home for part in todo}
    # Columns of scorers that are done already, for those that need them.
    for part in todo:
        for column, home in part.needs.items():
            if home is not None and home not in names and column not in beside.column_names:
                beside = beside.append_column(column, read_table(shard_path(home, "scores", shard), [column])[column])
    with ExitStack() as stack:
        # A group at a time: read, scored by all, written. At the end each file gets its name.
        writers = [
            stack.enter_context(TableWriter(shard_path(part.home, "scores", shard), part.schema)) for part in todo
        ]
        first = 0
        for documents in corpus.read(shard) if todo else ():
            batch = documents
            for name in beside.column_names:
                batch = batch.append_column(name, beside[name].slice(first, documents.num_rows))
            first += documents.num_rows
            _score(todo, writers, batch)
        assert not todo or first == kept.num_rows, f"{first} of {kept.num_rows} documents of shard {shard} were read"
    return {"documents": kept.num_rows}


def _score(parts: list[Part], writers: list[TableWriter], batch: pa.Table) -> None:
    """Score a batch by each scorer in turn, and write its rows."""
    common = [*DOCUMENTS.names, *MEASURES]
    for part, writer in zip(parts, writers, strict=True):
        scorer = _scorer(part.place, part.settings, part.state if part.learns else None)
        columns = dict(zip(part.columns, _columns(part, scorer, batch.select([*common, *part.needs])), strict=True))
        writer.write(pa.table({"id": batch["id"]} | columns, schema=part.schema))
        # Later scorers may need them.
        for name, column in columns.items():
            batch = batch.append_column(name, column)


def _columns(part: Part, scorer: Scorer, batch: pa.Table) -> Iterator[pa.Array]:
    """What a scorer gives for a batch, checked against what it declares."""
    try:
        values = scorer.score(batch)
    except KeyError as error:
        # Arrow's words for a column that a table does not have.
        if "does not exist in schema" not in str(error):
            raise
        raise UserError(
            f"scorer {part.name}: reads a column that it is not given ({error.args[0]}); name it in its member 'needs'"
        ) from error
    for field in list(part.schema)[1:]:
        # A scorer of a user may give anything; what does not fit is named here, not in Arrow's words.
        if field.name not in values:
            raise UserError(
                f"scorer {part.name}: score() gives no {field.name!r}, which its columns declare; return it"
            )
        try:
            column = values[field.name]
            if isinstance(column, pa.Array | pa.ChunkedArray):
                column = column.cast(field.type)
            else:
                column = pa.array(column, field.type)
        except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
            raise UserError(
                f"scorer {part.name}: {field.name!r} is not {field.type} ({error}); fix the scorer"
            ) from None
        if len(column) != batch.num_rows:
            raise UserError(
                f"scorer {part.name}: {field.name!r} has {len(column)} values for {batch.num_rows} documents; "
                "give one each"
            )
        yield column


@lru_cache(maxsize=64)
def _scorer(place: str, settings: bytes, state: Path | None) -> Scorer:
    """The scorer of this process, made once: it may load a model."""
    scorer: Any = make(place, json.loads(settings))
    if state is not None:
        scorer.load(state)
    found: Scorer = scorer
    return found


def _parts(settings: Score, stage: Path) -> list[Part]:
    """The scorers in the recipe's order, made and checked as `check` says. The objects are not held: one may have
    loaded a model."""
    # Settings of a misspelt name would otherwise be ignored in silence.
    unknown = settings.settings.keys() - set(settings.scorers)
    if unknown:
        raise UserError(f"score.settings: {min(unknown)!r} is not in score.scorers; name it there as well")
    if "text" in settings.scorers:
        raise UserError("score.scorers: every document has the columns of 'text' already; leave it out")
    parts: list[Part] = []
    # Rules read columns by name alone, so a name may have one source only.
    taken: dict[str, Part | None] = dict.fromkeys([*DOCUMENTS.names, *MEASURES])
    for name in settings.scorers:
        fingerprint = SCORERS.fingerprint(name)
        given = settings.settings.get(name, {})
        scorer = make(name, given)
        needs = _needs(name, scorer, taken, settings)
        for field in scorer.columns:
            if field.name in taken:
                other = taken[field.name]
                of = f"scorer {other.name}" if other else "every document"
                raise UserError(f"scorer {name}: the column {field.name!r} is one of {of} already; rename it")
        learns = callable(getattr(scorer, "fit", None))
        if learns != callable(getattr(scorer, "load", None)):
            raise UserError(f"scorer {name}: has one of fit() and load(); a scorer that learns has both")
        schema = pa.schema([DOCUMENTS.field("id"), *scorer.columns])
        decides = {
            "scorer": name,
            "settings": given,
            # The object's own version may depend on its settings (a model's hash, say); the code's is in the other.
            "version": [fingerprint, str(scorer.version)],
            "columns": [[field.name, str(field.type)] for field in scorer.columns],
            "needs": {column: part.key for column, part in sorted(needs.items())},
        }
        part = Part(
            name=name,
            place=absolute(name),
            settings=msgspec.json.encode(given),
            home=scorer_home(stage, name),
            schema=schema,
            needs={column: one.home for column, one in needs.items()},
            learns=learns,
            absent=dict(getattr(scorer, "absent", {})),
            key=_digest(decides),
        )
        parts.append(part)
        taken |= dict.fromkeys(part.columns, part)
    return parts


def _needs(name: str, scorer: Scorer, taken: Mapping[str, Part | None], settings: Score) -> dict[str, Part]:
    """The columns of other scorers that a scorer reads, each with its scorer.

    Raises:
        UserError: none before it gives one of them; the line names the one that would.
    """
    found: dict[str, Part] = {}
    for column in getattr(scorer, "needs", ()):
        if column in taken:
            part = taken[column]
            if part is not None:
                found[column] = part
            continue
        other = giver(column, settings)
        remedy = f"name {other} before it in score.scorers" if other else "name the scorer that gives it before it"
        raise UserError(f"scorer {name}: needs the column {column!r}, which no scorer before it gives; {remedy}")
    return found


def giver(column: str, settings: Score) -> str | None:
    """The scorer of the recipe or of the package that gives a column, if one can be made; for messages."""
    names: list[str] = list(dict.fromkeys([*settings.scorers, *SCORERS]))
    for name in names:
        try:
            if name != "text" and column in make(name, settings.settings.get(name, {})).columns.names:
                return name
        except UserError:
            # It needs settings, or a package that is not there.
            continue
    return None


def _clear(stage: Path, parts: list[Part]) -> None:
    """Remove what was made by other keys or is named no more, and half-written files; write the keys."""
    homes = {part.home: part for part in parts}
    for path in sorted(stage.iterdir()):
        if path.is_dir() and (path not in homes or _key(path) != homes[path].key):
            if path in homes and any(path.glob("scores-*.parquet")):
                say(f"score: {homes[path].name}: other settings or code; scoring it again")
            # By rename first: a kill while deleting must not leave half a part under its own name.
            trash = path.with_name(f".trash-{path.name}")
            shutil.rmtree(trash, ignore_errors=True)
            path.rename(trash)
            shutil.rmtree(trash)
        elif path.name.endswith(TEMPORARY):
            remove_quietly(path)
    for part in parts:
        make_directory(part.home)
        for leftover in part.home.glob(f"scores-*{TEMPORARY}"):
            remove_quietly(leftover)
        if _key(part.home) != part.key:
            write_json(part.home / "key.json", {"scorer": part.name, "key": part.key})


def _key(home: Path) -> str | None:
    path = home / "key.json"
    value = read_json(path) if path.exists() else None
    return value.get("key") if isinstance(value, dict) else None


def _digest(value: Any) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()
