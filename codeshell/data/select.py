"""Select: which of the distinct documents stay, by their scores. No pass reads a text.

    sketch   columns -> the distribution of every score in every language (`distributions`)
    decide   columns -> the first limit that each document breaks (`decisions`) and its rank; only for a budget or a cap
    choose   the budget and the cap of libraries, over all documents at once (`budget`), in this process
    write    kept-NNNNN and dropped-NNNNN, with the reason of every drop; it decides here, where `decide` has not

Another threshold needs this stage again, and no scorer. Memory is one shard's columns, the sketches, and for a budget
some 50 bytes per document.
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from codeshell.data import decisions
from codeshell.data.budget import Candidates, Uses, choose
from codeshell.data.decisions import LIBRARIES, Plan
from codeshell.data.distributions import Distributions, hashes, languages_of, merge, sketch_shard
from codeshell.data.edges import EDGES, edges_of, merge_edges
from codeshell.data.rules import is_text
from codeshell.data.score import columns_of
from codeshell.data.scored import MEASURES, Scored
from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import KEPT, by_language, read_table, shard_path, totals, write_table
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import TEMPORARY, make_directory, remove_quietly
from codeshell.engine.memory import give_back_large_blocks
from codeshell.engine.shard_map import marker_path
from codeshell.errors import UserError, reasons
from codeshell.recipe import Recipe, Select

DETAILED = DROPPED.append(pa.field("detail", pa.string()))
"""A drop of this stage. `detail` is what a number cannot say: the text of a score that is text (the problem that a
contaminated document holds, say), or the library that is full; null for the others."""

DECIDED = pa.schema(
    [
        ("reason", pa.int16()),
        ("value", pa.float64()),
        ("limit", pa.float64()),
        ("detail", pa.string()),
        ("rank", pa.float64()),
    ]
)
"""A row for each document of a shard: a number of `Plan.reasons` or -1, and what belongs to it; the rank where a budget
or a cap needs it."""


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for an unknown score, language or rule in the settings; the line names the known ones."""
    decisions.check(recipe, _known(recipe))


def _known(recipe: Recipe) -> dict[str, str | None]:
    """The columns that a run of this recipe has, each with its scorer (None: every document has it)."""
    return {**dict.fromkeys([*MEASURES, "bytes"]), **columns_of(recipe)}


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Select from what `neardup` left below `directory`, into `directory`/select.

    Returns:
        `in` and `kept` {documents, bytes}, `dropped {reason: {documents, bytes}}`, `by_language` of what is kept, and
        `limits`: a list of the reasons in order, each with the column, the side and the limits by language.

    Raises:
        UserError: as `check`; no document is left.
    """
    stage = make_directory(directory / "select")
    known = _known(recipe)
    decisions.check(recipe, known)
    for leftover in stage.glob(f"*{TEMPORARY}"):
        remove_quietly(leftover)
    scored = Scored.of_run(directory)
    missing = known.keys() - scored.columns.keys() - {"bytes"}
    if missing:
        raise UserError(f"{directory / 'score'}: no column {min(missing)!r}; delete it and run again")
    shards = scored.shards
    if not shards:
        raise UserError(f"{directory / 'neardup'}: no kept-*.parquet here; run the neardup stage first")

    if not (stage / "sketches.parquet").exists():
        sketch = partial(sketch_shard, scored, decisions.fine_columns(recipe.select), recipe.seed, stage)
        map_shards(engine, stage, "sketch", sketch, list(shards))
        merge(stage, shards)
    for name in ("sketches", "sample"):
        _remove(stage, name, shards)
    distributions = Distributions(stage)
    plan = decisions.plan(recipe, known, distributions)
    together = bool(recipe.select.budget or recipe.select.library_cap)
    if together:
        map_shards(engine, stage, "decide", partial(decide_shard, scored, plan, stage), list(shards))
        # A run that was killed after this has all the files of it, or needs them no more.
        done = [
            marker_path(stage, "select", shard).exists() or shard_path(stage, "cut", shard).exists() for shard in shards
        ]
        if not all(done):
            _choose(scored, plan, recipe.select, recipe.seed, stage)
    parts = map_shards(engine, stage, "select", partial(write_shard, scored, plan, stage), list(shards))
    merge_edges(stage, shards)
    # Working files; the markers stay, so a resumed run does not miss them.
    for name in ("decided", "cut"):
        _remove(stage, name, shards)

    result = _statistics(parts, plan, recipe.select)
    if not result["kept"]["documents"]:
        counts = reasons(result["dropped"])
        raise UserError(
            f"{stage}: no document is left after select (dropped: {counts or 'none came in'}); loosen [select]"
        )
    return result


def _remove(stage: Path, name: str, shards: range) -> None:
    for shard in shards:
        remove_quietly(shard_path(stage, name, shard))


def _statistics(parts: list[dict[str, Any]], plan: Plan, select: Select) -> dict[str, Any]:
    """The sums of the shards, with the reasons in their order."""
    dropped: dict[str, Counter[str]] = {name: Counter() for name in plan.reasons}
    languages: dict[str, Counter[str]] = {}
    sums: dict[str, Counter[str]] = {name: Counter(documents=0, bytes=0) for name in ("in", "kept")}
    for part in parts:
        for name, total in sums.items():
            total.update(part[name])
        for name, numbers in part["dropped"].items():
            dropped[name].update(numbers)
        for name, numbers in part["by_language"].items():
            languages.setdefault(name, Counter()).update(numbers)
    limits = [
        {
            "rule": limit.name,
            "column": limit.column,
            "drops": limit.drops,
            "limit": None if np.isnan(limit.everywhere) else limit.everywhere,
            # An infinite limit is that of a language without the score.
            "by_language": {
                name: value if np.isfinite(value) else None for name, value in (limit.by_language or {}).items()
            },
            "source": limit.source,
        }
        for limit in plan.limits
    ]
    return {
        **{name: dict(total) for name, total in sums.items()},
        "dropped": {name: dict(numbers) for name, numbers in dropped.items() if numbers["documents"]},
        "by_language": {name: dict(languages[name]) for name in sorted(languages)},
        "limits": limits,
    }


def notes(recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """Lines for the terminal: what was dropped by which rule."""
    dropped = statistics["dropped"]
    if not dropped:
        return []
    return [
        f"select: dropped {reasons(dropped)}; each is in {directory / 'select' / 'dropped-*.parquet'}, and "
        f"`codeshell explain PATH --run {directory}` shows its scores"
    ]


def decide_shard(scored: Scored, plan: Plan, stage: Path, shard: int) -> dict[str, Any]:
    """Write `decided-NNNNN.parquet` of one shard, for a budget or a cap of libraries."""
    give_back_large_blocks()
    table = scored.read(shard, [*plan.columns, "language"])
    write_table(shard_path(stage, "decided", shard), _decided(plan, table, Distributions(stage, plan.weights)))
    return {"documents": table.num_rows}


def _decided(plan: Plan, table: pa.Table, distributions: Distributions | None) -> pa.Table:
    """The rows of `DECIDED` for what the plan reads of some documents; with ranks if there are distributions."""
    decided = decisions.decide(plan, table)
    detail = np.full(table.num_rows, None, object)
    # What a score of text says, for those that it drops.
    for index, limit in enumerate(plan.limits):
        rows = np.flatnonzero(decided.reason == index)
        if len(rows) and is_text(table[limit.column].type):
            detail[rows] = table[limit.column].take(pa.array(rows)).to_pylist()
    rank = np.full(table.num_rows, np.nan)
    if distributions is not None:
        rank = decisions.ranks(plan, table, distributions)
    arrays = [decided.reason.astype(np.int16), decided.value, decided.limit, pa.array(detail, pa.string()), rank]
    return pa.table(arrays, schema=DECIDED)


def write_shard(scored: Scored, plan: Plan, stage: Path, shard: int) -> dict[str, Any]:
    """Write `kept-`, `dropped-` and `edges-NNNNN.parquet` of one shard; return its statistics."""
    give_back_large_blocks()
    kept = scored.kept(shard)
    columns = scored.read(shard, [*plan.columns, "language"], kept)
    # Without a budget or a cap a document is decided about by itself, here.
    cut = shard_path(stage, "cut", shard)
    decided = read_table(cut) if cut.exists() else _decided(plan, columns, None)
    reason = decided["reason"].to_numpy()
    names = np.array(plan.reasons, dtype=object)
    stays, goes = np.flatnonzero(reason < 0), np.flatnonzero(reason >= 0)
    there, out = kept.take(pa.array(stays)), kept.take(pa.array(goes))
    write_table(shard_path(stage, "kept", shard), there.select(KEPT.names).cast(KEPT))
    why = decided.take(pa.array(goes))
    empty = pa.nulls(len(goes), pa.string())
    dropped = pa.table(
        {
            **{name: out[name] for name in ("id", "repo", "path", "language", "bytes")},
            "stage": pa.repeat("select", len(goes)),
            "rule": pa.array(names[reason[goes]], pa.string()),
            **{name: pa.array(why[name].to_numpy(), from_pandas=True) for name in ("value", "limit")},
            **dict.fromkeys(("kept_id", "kept_repo", "kept_path"), empty),
            "detail": why["detail"],
        },
        schema=DETAILED,
    )
    write_table(shard_path(stage, "dropped", shard), dropped)
    edges = edges_of(plan.limits, columns, kept, reason)
    write_table(shard_path(stage, "edges", shard), pa.Table.from_pylist(edges, schema=EDGES))
    # The promise that no document is lost.
    statistics: dict[str, Any] = {
        "in": totals(kept),
        "kept": totals(there),
        "dropped": {
            str(names[code]): totals(out.filter(pa.array(reason[goes] == code))) for code in np.unique(reason[goes])
        },
        "by_language": by_language(there),
    }
    for unit in ("documents", "bytes"):
        lost = sum(numbers[unit] for numbers in statistics["dropped"].values())
        assert statistics["in"][unit] == statistics["kept"][unit] + lost, "in = kept + dropped"
    return statistics


def _choose(scored: Scored, plan: Plan, select: Select, seed: int, stage: Path) -> None:
    """Write `cut-NNNNN.parquet` of every shard: its `decided`, with what the budget and the cap drop besides."""
    ranks, keys, sizes, shards_of, rows_of = [], [], [], [], []
    names: list[pa.ChunkedArray] = []
    languages: list[pa.ChunkedArray] = []
    for shard in scored.shards:
        decided = read_table(shard_path(stage, "decided", shard))
        rows = np.flatnonzero(decided["reason"].to_numpy() < 0)
        kept = scored.kept(shard).take(pa.array(rows))
        ranks.append(decided["rank"].to_numpy()[rows])
        keys.append(hashes(kept["id"], seed, "select"))
        sizes.append(kept["bytes"].to_numpy())
        languages.append(kept["language"])
        shards_of.append(np.full(len(rows), shard))
        rows_of.append(rows)
        if select.library_cap:
            names.append(scored.read(shard, [LIBRARIES], None)[LIBRARIES].take(pa.array(rows)))
    code, known = _codes(languages)
    candidates = Candidates(np.concatenate(ranks), np.concatenate(keys), np.concatenate(sizes), code)
    uses, libraries = _uses(names) if select.library_cap else (None, [])
    # Bytes that the tokens of the budget stand for.
    budget = select.budget if select.budget_unit == "bytes" else int(select.budget * select.bytes_per_token)
    weights = {at: select.language_weights[name] for at, name in enumerate(known) if name in select.language_weights}
    choice = choose(
        candidates, budget if select.budget else None, weights, uses, select.library_cap if uses is not None else 1.0
    )
    # Each drop with its reason, value and limit, back into the shards.
    reason, value, limit = (np.full(len(code), fill) for fill in (-1.0, np.nan, np.nan))
    detail = np.full(len(code), None, object)
    at = {name: plan.reasons.index(name) for name in decisions.ALL_TOGETHER}
    reason[choice.capped], value[choice.capped] = at["library_cap"], choice.share
    limit[choice.capped] = select.library_cap
    detail[choice.capped] = [libraries[library] for library in choice.library]
    reason[choice.beyond], value[choice.beyond] = at["budget"], candidates.rank[choice.beyond]
    limit[choice.beyond] = choice.limit[code[choice.beyond]]
    shard_of, row_of = np.concatenate(shards_of), np.concatenate(rows_of)
    gone = reason >= 0
    for shard in scored.shards:
        decided = read_table(shard_path(stage, "decided", shard))
        mine = np.flatnonzero(gone & (shard_of == shard))
        columns: dict[str, NDArray[Any]] = {
            name: decided[name].to_numpy().copy() for name in ("reason", "value", "limit")
        }
        for name, found in (("reason", reason), ("value", value), ("limit", limit)):
            columns[name][row_of[mine]] = found[mine]
        details = np.array(decided["detail"].to_pylist(), dtype=object)
        details[row_of[mine]] = detail[mine]
        table = pa.table({**columns, "detail": pa.array(details, pa.string()), "rank": decided["rank"]}, schema=DECIDED)
        write_table(shard_path(stage, "cut", shard), table)


def _codes(columns: list[pa.ChunkedArray]) -> tuple[NDArray[np.int64], list[str]]:
    """Numbers for the languages of some columns, end to end, and the names by number; sorted by name."""
    column = pa.chunked_array([chunk for part in columns for chunk in part.chunks], pa.string())
    code = np.zeros(len(column), np.int64)
    names = []
    for number, (name, rows) in enumerate(languages_of(column)):
        code[rows] = number
        names.append(name)
    return code, names


def _uses(columns: list[pa.ChunkedArray]) -> tuple[Uses, list[str]]:
    """The libraries of documents, from names with spaces between them, and the names by number; sorted."""
    column = pa.chunked_array([chunk for part in columns for chunk in part.chunks], pa.string())
    lists = pc.split_pattern(pc.fill_null(column, ""), " ").combine_chunks()
    lists = lists.combine_chunks() if isinstance(lists, pa.ChunkedArray) else lists
    document, name = pc.list_parent_indices(lists).to_numpy(), pc.list_flatten(lists)
    there = pc.not_equal(name, "")
    document, name = document[there.to_numpy(zero_copy_only=False)], name.filter(there)
    known = sorted(set(name.to_pylist()))
    library = pc.index_in(name, value_set=pa.array(known, pa.string())).to_numpy()
    return Uses(document.astype(np.int64), library.astype(np.int64)), known


def source(directory: Path) -> Path:
    """The directory whose `kept-*` the split stage reads: the last that chose documents."""
    stage = directory / "select"
    return stage if stage.is_dir() else directory / "neardup"
