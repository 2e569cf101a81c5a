"""Filter: the language floor, the initial rules, exact duplicates; in that order.

Three passes over shards, none of which reads a text:

    decide      scores-NNNNN -> which rows break a rule; the MD5s of the others, sorted, 16 bytes each
    duplicates  one range of MD5s, of all shards: the first document in collect order stays
    write       kept-NNNNN and dropped-NNNNN, with the reason of every drop

Other thresholds need this stage again, not the scores. Memory is one shard's rows, or one range of about
`RANGE_DOCUMENTS` MD5s.
"""

from __future__ import annotations

import bisect
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from codeshell.data.rules import RULES, check_columns, decide, own_rules, thresholds
from codeshell.documents import languages
from codeshell.documents.arrays import save_array
from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import KEPT, by_language, list_shards, read_table, shard_path, write_table
from codeshell.engine import Engine, map_shards
from codeshell.engine.files import TEMPORARY, make_directory, read_json, remove_quietly
from codeshell.engine.memory import give_back_large_blocks
from codeshell.engine.shard_map import marker_path
from codeshell.errors import UserError, reasons
from codeshell.recipe import Recipe, Rules
from codeshell.registry import absolute
from codeshell.scorers.text import SCORES

RANGE_DOCUMENTS = 250_000
"""Documents whose MD5s are compared at once: 6 MB of MD5s, and a few times that while they are sorted."""

ID = np.dtype([("high", ">u8"), ("low", ">u8"), ("row", "<i8")])
"""An MD5 as two numbers, which sort as the hexadecimal digits do, and the document's row in its shard."""

DUPLICATES = pa.schema(
    [
        ("shard", pa.int32()),
        ("row", pa.int32()),
        ("kept_id", pa.string()),
        ("kept_repo", pa.string()),
        ("kept_path", pa.string()),
    ]
)


def reasons_of(rules: Rules) -> tuple[str, ...]:
    """Why a document may be dropped here, in the order of the statistics; the arrays `reason` below index this."""
    own = (rule.name for rule in own_rules(rules.own))
    return ("language_floor", "languages", *(rule.name for rule in RULES), *own, "exact_duplicate")


def check(recipe: Recipe) -> None:
    """Raise a `UserError` for an unknown language or threshold, or a rule of one's own that is none or reads a column
    that there is not before scoring."""
    for name in recipe.rules.languages:
        if name not in languages.names():
            raise UserError(f"rules.languages: no language '{name}'; {languages.closest(name)}")
    own = own_rules(recipe.rules.own)
    thresholds(recipe.rules, own)
    check_columns(own, SCORES.names)


def run(recipe: Recipe, directory: Path, engine: Engine) -> dict[str, Any]:
    """Filter what `collect` left below `directory`, into `directory`/filter.

    Returns:
        `in` and `kept` {documents, bytes}, `dropped {rule: {documents, bytes}}`, `by_language` of what is kept.

    Raises:
        UserError: an unknown language or threshold in the recipe, no document left.
    """
    collect, stage = directory / "collect", make_directory(directory / "filter")
    rules = recipe.rules
    # What is wrong with the settings is said before any work.
    check(recipe)
    # A worker may have another working directory, so it gets whole paths of the rules.
    rules = msgspec.structs.replace(rules, own=tuple(map(absolute, rules.own)))
    for leftover in stage.glob(f"*{TEMPORARY}"):
        remove_quietly(leftover)
    count = len(list_shards(collect, "documents"))
    shards: list[int] = list(range(count))
    totals = _language_bytes(collect, count)

    decided = map_shards(engine, stage, "decide", partial(decide_shard, str(directory), rules, totals), shards)
    # Ranges of the first 32 bits; MD5s are spread evenly.
    # Each range is compared on its own, so memory does not grow with the corpus.
    documents = sum(part["documents"] for part in decided)
    ranges = max(1, -(-documents // RANGE_DOCUMENTS))
    bounds = [((1 << 32) * index // ranges, (1 << 32) * (index + 1) // ranges) for index in range(ranges)]
    find = partial(find_duplicates, str(directory), count)
    map_shards(engine, stage, "duplicates", find, list(enumerate(bounds)), unit="ranges")
    parts = map_shards(engine, stage, "filter", partial(write_shard, str(directory), rules, totals, ranges), shards)
    # Working files of the first two passes; the markers stay, so a resumed run does not miss them.
    for name in ("survivors-*.npy", "duplicates-*.parquet"):
        for path in stage.glob(name):
            remove_quietly(path)

    # Add the shards up, with the reasons in their order.
    dropped: dict[str, Counter[str]] = {name: Counter() for name in reasons_of(rules)}
    by_language: dict[str, Counter[str]] = {}
    for part in parts:
        for name, numbers in part["dropped"].items():
            dropped[name].update(numbers)
        for name, numbers in part["by_language"].items():
            by_language.setdefault(name, Counter()).update(numbers)
    result: dict[str, Any] = {
        "in": _sum(part["in"] for part in parts),
        "kept": _sum(part["kept"] for part in parts),
        "dropped": {name: dict(numbers) for name, numbers in dropped.items() if numbers["documents"]},
        "by_language": {name: dict(by_language[name]) for name in sorted(by_language)},
    }
    if not result["kept"]["documents"]:
        reasons = ", ".join(f"{name} {numbers['documents']}" for name, numbers in result["dropped"].items())
        raise UserError(
            f"{directory / 'filter'}: no document is left after filtering (dropped: {reasons or 'none came in'}); "
            "give more input or lower rules.language_floor"
        )
    return result


def notes(recipe: Recipe, statistics: dict[str, Any], directory: Path) -> list[str]:
    """Lines for the terminal: what was dropped by which rule, louder where the floor took most of the input."""
    dropped, documents = statistics["dropped"], statistics["in"]["documents"]
    if not dropped:
        return []
    lines = [
        f"filter: dropped {reasons(dropped)}; each is in {directory / 'filter' / 'dropped-*.parquet'}, and "
        f"`codeshell explain PATH --run {directory}` shows its value and limit"
    ]
    floor = dropped.get("language_floor", {"documents": 0})["documents"]
    if floor > documents / 2:
        lines.append(
            f"warning: filter: {floor:,} of {documents:,} documents are in languages of less than "
            f"{recipe.rules.language_floor:,} bytes; to keep them, lower rules.language_floor"
        )
    return lines


def decide_shard(directory: str, rules: Rules, totals: dict[str, int], shard: int) -> dict[str, Any]:
    """Write `survivors-NNNNN.npy`: the MD5s (`ID`, ascending) of the rows that no rule drops."""
    give_back_large_blocks()
    # Values and limits are decided again by `write_shard`: that is cheaper than keeping them on the disk.
    reason, _, _ = _decide(Path(directory), rules, totals, shard)
    rows = np.flatnonzero(reason < 0)
    table = read_table(shard_path(Path(directory) / "collect", "scores", shard), ["id"])
    # All ids of the shard as one run of bytes: (rows, 2) numbers without a Python object for each.
    survivors = np.empty(len(rows), dtype=ID)
    digits = "".join(table["id"].take(pa.array(rows)).to_pylist())
    numbers = np.frombuffer(bytes.fromhex(digits), dtype=">u8").reshape(-1, 2)
    survivors["high"], survivors["low"], survivors["row"] = numbers[:, 0], numbers[:, 1], rows
    # By MD5, then by row: the last key of lexsort is the first that counts.
    survivors = survivors[np.lexsort((rows, numbers[:, 1], numbers[:, 0]))]
    save_array(_survivors_path(Path(directory), shard), survivors)
    return {"documents": len(rows)}


def find_duplicates(directory: str, shards: int, item: tuple[int, tuple[int, int]]) -> dict[str, Any]:
    """Write `duplicates-INDEX.parquet`: the documents that repeat an MD5 of one range, each with the first one."""
    give_back_large_blocks()
    index, (first, end) = item
    run_directory = Path(directory)
    # Of each shard the MD5s in this range, (piece,), and the shard's number beside each.
    pieces, sources = [np.empty(0, dtype=ID)], [np.empty(0, dtype=np.int32)]
    for shard in range(shards):
        survivors = np.load(_survivors_path(run_directory, shard), mmap_mode="r")
        # Not np.searchsorted: it would read the whole file to search it. A bisection touches a few pages.
        start, stop = (
            bisect.bisect_left(range(len(survivors)), bound << 32, key=lambda row: int(survivors[row]["high"]))
            for bound in (first, end)
        )
        piece = survivors[start:stop]
        pieces.append(np.array(piece))
        sources.append(np.full(len(piece), shard, dtype=np.int32))
    ids, source = np.concatenate(pieces), np.concatenate(sources)
    # Stable, and the pieces are in collect order, so the first of equal MD5s is the first collected.
    order = np.lexsort((ids["low"], ids["high"]))
    ids, source = ids[order], source[order]
    # same[i]: the MD5 of i is that of i - 1. kept[i]: where the group of i begins, that is, who stays.
    same = np.zeros(len(ids), dtype=bool)
    same[1:] = (ids["high"][1:] == ids["high"][:-1]) & (ids["low"][1:] == ids["low"][:-1])
    kept = np.maximum.accumulate(np.where(same, 0, np.arange(len(ids))))
    # Those that go, by shard and row, so that `write_shard` reads its part of the file alone.
    dropped = np.flatnonzero(same)
    dropped = dropped[np.lexsort((ids["row"][dropped], source[dropped]))]
    about = _look_up(run_directory / "collect", source[kept[dropped]], ids["row"][kept[dropped]])
    table = pa.table([source[dropped], ids["row"][dropped].astype(np.int32), *about], schema=DUPLICATES)
    write_table(shard_path(run_directory / "filter", "duplicates", index), table)
    return {"documents": len(dropped)}


def write_shard(directory: str, rules: Rules, totals: dict[str, int], ranges: int, shard: int) -> dict[str, Any]:
    """Write `kept-` and `dropped-NNNNN.parquet` of one shard; return its statistics."""
    give_back_large_blocks()
    collect, stage = Path(directory) / "collect", Path(directory) / "filter"
    documents = read_table(
        shard_path(collect, "documents", shard), ["id", "repo", "path", "language", "bytes"]
    ).combine_chunks()
    reason, value, limit = _decide(Path(directory), rules, totals, shard)
    reasons = reasons_of(rules)
    paths = [shard_path(stage, "duplicates", index) for index in range(ranges)]
    duplicates = pa.concat_tables(piece for path in paths for piece in _of_shard(path, shard))
    reason[duplicates["row"].to_numpy()] = reasons.index("exact_duplicate")

    # What stays: its place in the collected shards and what is known of it; no text is copied.
    rows = np.flatnonzero(reason < 0)
    kept = documents.take(pa.array(rows))
    columns = {"shard": np.full(len(rows), shard, dtype=np.int32), "row": rows.astype(np.int32)}
    write_table(
        shard_path(stage, "kept", shard),
        pa.table([*columns.values(), *(kept[name] for name in KEPT.names[2:])], schema=KEPT),
    )
    # What goes: the rule, and the value and limit where it has them.
    rows = np.flatnonzero(reason >= 0)
    out = documents.take(pa.array(rows))
    # The document that a duplicate fell to, by row; null for the other drops.
    which = pc.index_in(pa.array(rows, pa.int32()), value_set=duplicates["row"].combine_chunks())
    found = duplicates.take(which)
    table = pa.table(
        {
            **{name: out[name] for name in ("id", "repo", "path", "language", "bytes")},
            "stage": pa.repeat("filter", len(rows)),
            "rule": [reasons[code] for code in reason[rows]],
            "value": pa.array(value[rows], from_pandas=True),  # NaN is null
            "limit": pa.array(limit[rows], from_pandas=True),
            **{name: found[name] for name in ("kept_id", "kept_repo", "kept_path")},
        },
        schema=DROPPED,
    )
    write_table(shard_path(stage, "dropped", shard), table)

    # The counts that the stage adds up, and the promise that no document is lost.
    sizes = documents["bytes"].to_numpy()
    statistics = {
        "in": {"documents": len(reason), "bytes": int(sizes.sum())},
        "kept": {"documents": kept.num_rows, "bytes": int(sizes[reason < 0].sum())},
        "dropped": {
            reasons[code]: {"documents": int((reason == code).sum()), "bytes": int(sizes[reason == code].sum())}
            for code in np.unique(reason[rows]).tolist()
        },
        "by_language": by_language(kept),
    }
    for unit in ("documents", "bytes"):
        lost = sum(numbers[unit] for numbers in statistics["dropped"].values())
        assert statistics["in"][unit] == statistics["kept"][unit] + lost, "in = kept + dropped"
    return statistics


def _decide(
    directory: Path, rules: Rules, totals: dict[str, int], shard: int
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Index in `reasons_of` (-1: none so far), value and limit for every row of a shard; exact duplicates apart."""
    own, reasons = own_rules(rules.own), reasons_of(rules)
    columns = _columns(directory, shard, {name for rule in own for name in rule.columns})
    decision = decide(columns, thresholds(rules, own), (*RULES, *own))
    reason = np.where(decision.rule >= 0, decision.rule + reasons.index(RULES[0].name), -1)
    value, limit = decision.value, decision.limit
    language = columns["language"]
    # A language that is not wanted, or too small, is the reason whatever the rules say; the floor comes first of all.
    if rules.languages:
        other = pc.invert(pc.is_in(language, value_set=pa.array(rules.languages))).to_numpy()
        reason[other], value[other], limit[other] = reasons.index("languages"), np.nan, np.nan
    small = [name for name, size in totals.items() if size < rules.language_floor]
    if small:
        place = pc.fill_null(pc.index_in(language, value_set=pa.array(small)), -1).to_numpy()
        below = place >= 0
        reason[below], limit[below] = reasons.index("language_floor"), rules.language_floor
        value[below] = np.array([totals[name] for name in small], dtype=np.float64)[place[below]]
    return reason, value, limit


def _columns(directory: Path, shard: int, wanted: set[str]) -> pa.Table:
    """The text measures of a shard's documents and the `wanted` columns of the documents; rows as collected."""
    table = read_table(shard_path(directory / "collect", "scores", shard))
    missing = sorted(wanted - set(table.column_names))
    if missing:
        found = read_table(shard_path(directory / "collect", "documents", shard), missing)
        for name in missing:
            table = table.append_column(name, found[name])
    return table


def _language_bytes(collect: Path, shards: int) -> dict[str, int]:
    """Bytes collected in each language, from the markers of the collect stage."""
    totals: Counter[str] = Counter()
    for shard in range(shards):
        for name, numbers in read_json(marker_path(collect, "collect", shard))["by_language"].items():
            totals[name] += numbers["bytes"]
    return dict(sorted(totals.items()))


def _look_up(collect: Path, shard: NDArray[np.int32], row: NDArray[np.int64]) -> list[pa.Array]:
    """Id, repo and path of documents, shard by shard."""
    names = ["id", "repo", "path"]
    if not len(shard):
        return [pa.array([], pa.string()) for _ in names]
    # Read each shard once, in turn, and put the rows back into the order of the arguments at the end.
    order = np.argsort(shard, kind="stable")
    tables = []
    for number in np.unique(shard).tolist():
        rows = row[order[shard[order] == number]]
        tables.append(read_table(shard_path(collect, "documents", number), names).take(pa.array(rows)))
    back = np.empty(len(order), dtype=np.int64)
    back[order] = np.arange(len(order))
    table = pa.concat_tables(tables).take(pa.array(back))
    return [table[name] for name in names]


def _of_shard(path: Path, shard: int) -> Iterator[pa.Table]:
    """The rows of one shard in a file of `DUPLICATES`, which is sorted by shard: only the groups that can hold them."""
    yield DUPLICATES.empty_table()
    with pq.ParquetFile(path) as source:
        for group in range(source.num_row_groups):
            # Column 0 is the shard: its smallest and largest value say whether the group can hold rows of this one.
            statistics = source.metadata.row_group(group).column(0).statistics
            if statistics is not None and statistics.has_min_max and statistics.min <= shard <= statistics.max:
                table = source.read_row_group(group, use_threads=False)
                yield table.filter(pc.equal(table["shard"], shard))


def _survivors_path(directory: Path, shard: int) -> Path:
    return directory / "filter" / f"survivors-{shard:05d}.npy"


def _sum(parts: Any) -> dict[str, int]:
    total: Counter[str] = Counter(documents=0, bytes=0)
    for part in parts:
        total.update(part)
    return dict(total)
