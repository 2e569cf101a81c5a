"""Train, valid and test by repository or by file, as a stage: `select/kept-*` (or `neardup/kept-*`) to `curated/`.

A repository belongs to one split as a whole: files of one project share names, idioms and copied lines. With
`split.unit = "file"` a file does: whoever tunes a model on one project asks how well it knows that project.
Repositories (or files) are taken in the order of a hash of (seed, name). First test is filled up to its share of the
bytes, then valid; repositories that are larger than what is still missing are passed over, and the others train. Where
nothing fits, a split gets the smallest repository, so it is never empty.

Then the leak is measured: the exact highest Jaccard of every held-out document with all training documents, through an
inverted index over the held-out shingles, without sampling. A held-out document that reaches the deduplication
threshold is dropped. The held-out texts are in memory for this; the training texts are read one row group at a time.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell import _C
from codeshell.data.select import source
from codeshell.documents.provenance import dropped_rows
from codeshell.documents.shards import (
    DOCUMENTS,
    KEPT,
    by_language,
    list_shards,
    read_kept,
    read_table,
    shard_path,
    take_rows,
    totals,
    write_table,
)
from codeshell.documents.texts import text_buffers
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import make_directory
from codeshell.engine.progress import Progress
from codeshell.errors import UserError, say
from codeshell.randomness import draw
from codeshell.recipe import Recipe, Split

HELD_OUT = ("test", "valid")
"""In the order in which they are filled."""


@dataclass(frozen=True)
class WriteTask:
    """One training shard to write: rows of some kept files, in order."""

    collect: Path
    output: Path
    sources: list[tuple[Path, NDArray[np.int64]]]
    redact: tuple[str, ...] = ()
    """Kinds of `scorers.secrets.KINDS` to replace in the texts."""


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Run the stage in the run `directory`; see docs/run-directory.md for files and statistics.

    Raises:
        UserError: no document is left, the shares leave nothing to train on, there are fewer repositories (files) than
            splits, or every held-out document resembles a training one.
    """
    # The rows of the whole corpus, without texts; each knows its place in the kept files.
    output = make_directory(directory / "curated")
    stage = source(directory)
    sources = list_shards(stage, "kept")
    corpus = _read_corpus(sources)
    if corpus.num_rows == 0:
        raise UserError(f"{stage}: no document is left to train on; loosen the rules or add inputs")
    # Assign every document by its repository. The training rows stay without text; the held-out ones are read whole.
    splits = _split_column(corpus, recipe.split, recipe.seed)
    is_train = pc.equal(splits, "train")
    train = corpus.filter(is_train)
    held = _read_rows(directory / "collect", sources, corpus.filter(pc.invert(is_train)))
    held = held.append_column("split", splits.filter(pc.invert(is_train)))

    # Measure the leak, and drop the held-out documents that reach the threshold of near duplicates.
    threshold = recipe.near_dedup.threshold
    match, jaccard = _max_jaccard(recipe, directory / "collect", sources, train, held, engine)
    leaks = jaccard >= threshold
    kept = held.filter(pa.array(~leaks))
    leak = {
        "before": _leak(held["split"], jaccard, threshold),
        # The training documents are the same, so the remaining ones keep their maxima: no second pass.
        "after": _leak(kept["split"], jaccard[~leaks], threshold),
    }
    _require_documents(kept["split"], recipe.split)

    # Write the shards: the training ones by the workers, the held-out ones, which are in memory, here.
    tasks = [
        WriteTask(
            directory / "collect", shard_path(output, "train", index), _by_source(sources, rows), recipe.split.redact
        )
        for index, rows in enumerate(_cut(train, recipe.collect.shard_bytes))
    ]
    written = map_shards(engine, output, "write", write_shard, tasks)
    replaced: Counter[str] = Counter(dict.fromkeys(recipe.split.redact, 0))
    for part in written:
        replaced.update(part.get("replaced", {}))
    for name in HELD_OUT:
        rows = kept.filter(pc.equal(kept["split"], name)).select(DOCUMENTS.names)
        for index, part in enumerate(_cut(rows, recipe.collect.shard_bytes)):
            part, counts = redacted(part, recipe.split.redact)
            replaced.update(counts)
            write_table(shard_path(output, name, index), part)
    # One shard of drops: held-out documents are few.
    dropped = held.filter(pa.array(leaks))
    names = train.take(pa.array(match[leaks]))
    rows = dropped_rows(dropped, "split", "near_duplicate_of_train", jaccard[leaks], threshold, names)
    write_table(shard_path(output, "dropped", 0), rows)
    statistics = _statistics(corpus, train, kept, dropped, leak)
    return statistics | ({"replaced": dict(replaced)} if recipe.split.redact else {})


def assign(sizes: dict[str, int], shares: Split, seed: int) -> dict[str, str]:
    """The split of every repository, or of every file: `{name: "train" | "valid" | "test"}`.

    Args:
        sizes: bytes by repository, or by the id of a file, as `shares.unit` says.
        shares: of the bytes; a share of 0 leaves that split out.
        seed: decides the order in which repositories are taken.

    Raises:
        UserError: the shares add up to 1 or more, or there are not enough of them to have one in every split.
    """
    wanted = [name for name in HELD_OUT if getattr(shares, name) > 0]
    if shares.valid + shares.test >= 1.0:
        raise UserError(
            f"split: valid {shares.valid:g} and test {shares.test:g} leave nothing to train on; "
            "make them add up to less than 1"
        )
    if len(sizes) < len(wanted) + 1:
        raise UserError(
            f"split: {_only(sizes, shares)} for train and {' and '.join(sorted(wanted))}; add inputs, "
            + ("set split.unit=file, " if shares.unit == "repository" else "")
            + f"or turn splits off with {' and '.join(f'split.{name}=0' for name in sorted(wanted))}"
        )
    # The name breaks the ties of the hash, so equal inputs always give equal splits.
    order = sorted(sizes, key=lambda repo: (draw(seed, repo, "split"), repo))
    splits = dict.fromkeys(sizes, "train")
    total = sum(sizes.values())
    for position, name in enumerate(wanted):
        budget = getattr(shares, name) * total
        rest = [repo for repo in order if splits[repo] == "train"]
        # How many may be taken: one must be left for train and one for each split still to come.
        spare = len(rest) - (len(wanted) - position)
        chosen: list[str] = []
        for repo in rest:
            if len(chosen) < spare and sizes[repo] <= budget:
                chosen.append(repo)
                budget -= sizes[repo]
        # All repositories are larger than the share: take the smallest rather than none.
        for repo in chosen or [min(rest, key=sizes.__getitem__)]:
            splits[repo] = name
    return splits


def _only(sizes: dict[str, int], shares: Split) -> str:
    """How many repositories or files there are, for the message that they are too few."""
    if shares.unit == "file":
        return f"only {len(sizes)} file{'s' * (len(sizes) != 1)}"
    return f"only one repository ({next(iter(sizes))})" if len(sizes) == 1 else f"only {len(sizes)} repositories"


def write_shard(task: WriteTask) -> dict[str, Any]:
    """Write one training shard of schema `DOCUMENTS`."""
    parts = [DOCUMENTS.empty_table()]
    for kept, rows in task.sources:
        parts += _tables(task.collect, kept, rows)
    table, counts = redacted(pa.concat_tables(parts), task.redact)
    write_table(task.output, table)
    return totals(table) | ({"replaced": counts} if task.redact else {})


def redacted(table: pa.Table, kinds: tuple[str, ...]) -> tuple[pa.Table, dict[str, int]]:
    """Documents with some kinds of secrets and personal data replaced, and how many pieces of each kind were.

    The ids stay those of the texts as they were collected, so that `codeshell explain` finds them; `bytes` is that of
    the new text.
    """
    if not kinds or not table.num_rows:
        return table, {}
    # Only a recipe that asks for it pays for the import.
    from codeshell.scorers.secrets import redact

    texts, counts = redact(table["text"].combine_chunks(), kinds)
    table = table.set_column(DOCUMENTS.names.index("text"), DOCUMENTS.field("text"), texts)
    sizes = pc.binary_length(texts).cast(pa.int64())
    table = table.set_column(DOCUMENTS.names.index("bytes"), DOCUMENTS.field("bytes"), sizes)
    return table, {kind: int(counts[kind].sum()) for kind in kinds}


def _read_corpus(sources: list[Path]) -> pa.Table:
    """The rows of all kept files (no texts), with `source` (the file's number) and `row_in_source`."""
    parts = [KEPT.append(pa.field("source", pa.int64())).append(pa.field("row_in_source", pa.int64())).empty_table()]
    for number, path in enumerate(sources):
        rows = read_table(path).select(KEPT.names).cast(KEPT)
        rows = rows.append_column("source", pa.array(np.full(rows.num_rows, number, np.int64)))
        parts.append(rows.append_column("row_in_source", pa.array(np.arange(rows.num_rows, dtype=np.int64))))
    return pa.concat_tables(parts)


def _split_column(corpus: pa.Table, shares: Split, seed: int) -> pa.Array:
    """The split of every document, (documents,), in the order of the corpus."""
    # Repositories are far fewer than documents. `index` leads from each document to its repository, or to itself.
    column = "repo" if shares.unit == "repository" else "id"
    groups = corpus.group_by(column).aggregate([("bytes", "sum")])
    names = groups[column].to_pylist()
    splits = assign(dict(zip(names, groups["bytes_sum"].to_pylist(), strict=True)), shares, seed)
    index = pc.index_in(corpus[column], value_set=pa.array(names)).combine_chunks()
    return pa.array([splits[name] for name in names]).take(index)


def _by_source(sources: list[Path], rows: pa.Table) -> list[tuple[Path, NDArray[np.int64]]]:
    """Rows of the corpus as (kept file, rows in it); both ascending."""
    source, row = rows["source"].to_numpy(), rows["row_in_source"].to_numpy()
    # `source` ascends, so each file's rows are one stretch [a, b).
    _, starts = np.unique(source, return_index=True)
    return [(sources[source[a]], row[a:b]) for a, b in pairwise([*starts.tolist(), len(row)])]


def _tables(collect: Path, kept: Path, rows: NDArray[np.int64]) -> Iterator[pa.Table]:
    """Yield some rows of a kept file as documents, a row group at a time."""
    # `first` is the row of the kept file with which the group begins.
    first = 0
    for table in read_kept(collect, kept):
        inside = rows[(rows >= first) & (rows < first + table.num_rows)]
        if len(inside):
            yield take_rows(table, inside - first).select(DOCUMENTS.names).cast(DOCUMENTS)
        first += table.num_rows


def _read_rows(collect: Path, sources: list[Path], rows: pa.Table) -> pa.Table:
    parts = [DOCUMENTS.empty_table()]
    for kept, inside in _by_source(sources, rows):
        parts += _tables(collect, kept, inside)
    return pa.concat_tables(parts)


def _max_jaccard(
    recipe: Recipe, collect: Path, sources: list[Path], train: pa.Table, held: pa.Table, engine: Engine
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The row of `train` with the highest Jaccard for each held-out document (-1: none shares a shingle), and the
    Jaccard."""
    if held.num_rows == 0:
        return np.empty(0, np.int64), np.empty(0, np.float64)
    # The index is over the held-out shingles, which are few; each training text is looked up in it and forgotten.
    (piece,) = text_buffers(held["text"].combine_chunks())
    overlap = _C.DedupOverlap(piece.data, piece.offsets, recipe.near_dedup.ngram)
    by_source = _by_source(sources, train)
    with Progress("split: leak", total=len(by_source), unit="shards") as progress:
        for kept, rows in by_source:
            for table in _tables(collect, kept, rows):
                for texts in text_buffers(table["text"]):
                    overlap.compare(texts.data, texts.offsets, engine.workers)
            progress.advance(1)
    return overlap.best()


def _leak(splits: pa.ChunkedArray, jaccard: NDArray[np.float64], threshold: float) -> dict[str, dict[str, Any]]:
    result: dict[str, dict[str, Any]] = {}
    for name in HELD_OUT:
        values = jaccard[pc.equal(splits, name).to_numpy()]
        count = max(len(values), 1)
        result[name] = {
            "documents": int((values >= threshold).sum()),
            "share": float((values >= threshold).sum() / count),
            "share_at_half": float((values >= 0.5).sum() / count),
            "max_jaccard": float(values.max(initial=0.0)),
        }
    return result


def _require_documents(splits: pa.ChunkedArray, shares: Split) -> None:
    """Raise a `UserError` if a split that was asked for has no document left."""
    for name in HELD_OUT:
        if getattr(shares, name) > 0 and pc.sum(pc.equal(splits, name)).as_py() in (None, 0):
            raise UserError(
                f"split.{name}: every held-out document resembles a training one; enable near_dedup, add inputs, "
                f"or set split.{name}=0"
            )


def _cut(rows: pa.Table, shard_bytes: int) -> list[pa.Table]:
    """Consecutive rows as shards of about `shard_bytes` of text each, at least one document."""
    if rows.num_rows == 0:
        return []
    # A document belongs to the shard that its last byte falls into, so a cut never divides one.
    ends = np.cumsum(rows["bytes"].to_numpy())
    _, starts = np.unique((ends - 1) // shard_bytes, return_index=True)
    bounds = [*starts.tolist(), rows.num_rows]
    return [rows.slice(first, last - first) for first, last in pairwise(bounds)]


def _statistics(
    corpus: pa.Table, train: pa.Table, held: pa.Table, dropped: pa.Table, leak: dict[str, Any]
) -> dict[str, Any]:
    """The stage's statistics; a line on stderr says what the leak was."""
    columns = ["repo", "language", "bytes"]
    splits = {"train": train.select(columns)}
    splits |= {name: held.filter(pc.equal(held["split"], name)).select(columns) for name in HELD_OUT}
    kept = pa.concat_tables(splits.values())
    # No document is lost: each is in a split or dropped.
    assert kept.num_rows + dropped.num_rows == corpus.num_rows
    summary = {name: totals(rows) | {"repos": pc.count_distinct(rows["repo"]).as_py()} for name, rows in splits.items()}
    sizes = ", ".join(f"{name} {entry['documents']:,}" for name, entry in summary.items())
    before, after = (
        ", ".join(f"{name} {entry['documents']} (max {entry['max_jaccard']:.2f})" for name, entry in leak[when].items())
        for when in ("before", "after")
    )
    say(f"split: documents {sizes}; held-out near duplicates of train: before {before}, after {after}")
    return {
        "in": totals(corpus),
        "kept": totals(kept),
        "dropped": {"near_duplicate_of_train": totals(dropped)},
        "by_language": by_language(kept),
        "splits": summary,
        "leak": leak,
    }
