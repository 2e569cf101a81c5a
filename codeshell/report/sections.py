"""What the sections about data show, as plain values: funnel, languages, duplicates, splits, tokenizer, time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from codeshell.report import read
from codeshell.report.clusters import cluster_view, compare_pairs
from codeshell.report.format import count, cut, number, plain, size
from codeshell.report.pairs import RunPairs, run_pair

EXAMPLES = 3
"""Dropped documents shown for every rule."""
HELD_OUT = 6
"""Pairs shown of a held-out file with the training file that it resembled."""
DUPLICATE_FACTS = {
    "candidate_pairs": "candidate pairs",
    "verified_pairs": "pairs at the threshold or above",
    "clusters": "clusters",
    "largest_cluster": "largest cluster",
}
"""The statistics that are shown above the clusters, with their names."""
TOKENIZER_FACTS = {
    "vocab_size": "vocabulary, special tokens included",
    "trained_on_bytes": "bytes trained on",
    "bytes_per_token": "bytes per token, all languages",
    "measured_on": "measured on",
}
"""The statistics of the tokenizer that are shown above the table, with their names."""
LANGUAGES = 24
"""Rows of the language table before the fold. Languages that were dropped whole are always below it."""

FUNNEL = (
    ("collect", "Collect", "Files read from the inputs. What is not text or not source code is left out here."),
    ("filter", "Filter", "Small languages, StarCoder's initial rules, then exact duplicates (by the MD5 of the text)."),
    ("neardup", "Near duplicates", "MinHash proposes pairs; the exact Jaccard index of their shingles decides."),
    ("select", "Select", "Limits, quantiles and the budget of the recipe, by the scores of each distinct document."),
    ("split", "Split", "Repositories or files are held out; one that resembles a file to train on is left out."),
)

Statistics = dict[str, dict[str, Any] | None]


def funnel(run: Path, stats: Statistics) -> list[dict[str, Any]]:
    """One entry per stage: what came in, what stayed, and every rule with its counts and a few dropped documents."""
    entries = []
    for stage, title, about in FUNNEL:
        node = stats[stage]
        # A recipe without scores has no such stage; the page then looks as if there were none.
        if stage == "select" and node is None:
            continue
        entry: dict[str, Any] = {"stage": stage, "title": title, "about": about, "ran": node is not None}
        if node is not None:
            entry |= (
                _collected(node) if stage == "collect" else {"in": pair(node.get("in")), "kept": pair(node.get("kept"))}
            )
            # Each rule with a few of its documents; the rule that dropped most comes first.
            shown = read.examples(run, stage, EXAMPLES)
            rules = [_rule(name, amount, shown.get(name, [])) for name, amount in mapping(node.get("dropped")).items()]
            entry["sized"] = any(rule["bytes"] is not None for rule in rules)
            entry["examples"] = any(rule["examples"] for rule in rules)
            entry["rules"] = sorted(rules, key=lambda rule: (-rule["documents"], rule["name"]))
            entry["dropped"] = {
                "documents": sum(rule["documents"] for rule in rules),
                # Files that never became documents have no recorded size.
                "bytes": sum(rule["bytes"] or 0 for rule in rules) if stage != "collect" else None,
            }
        entries.append(entry)
    return entries


def pair(node: Any) -> dict[str, float]:
    """`{documents, bytes}` with zeros for what is absent."""
    tree = mapping(node)
    return {"documents": number(tree.get("documents")) or 0.0, "bytes": number(tree.get("bytes")) or 0.0}


def mapping(node: Any) -> dict[str, Any]:
    """The node if it is an object, else an empty one."""
    return node if isinstance(node, dict) else {}


def objects(node: Any) -> list[dict[str, Any]]:
    """The objects of a list; an empty one for anything else."""
    return [item for item in node if isinstance(item, dict)] if isinstance(node, list) else []


def _collected(node: dict[str, Any]) -> dict[str, Any]:
    """The first stage counts files: those that became documents, and those that did not (without their sizes)."""
    kept = pair(node)
    left_out = sum(number(files) or 0.0 for files in mapping(node.get("dropped")).values())
    return {"in": {"documents": kept["documents"] + left_out, "bytes": None}, "kept": kept}


def _rule(name: str, amount: Any, examples: list[read.Row]) -> dict[str, Any]:
    shown = [_example(row) for row in examples]
    # The first stage counts files alone, the others documents and bytes.
    if isinstance(amount, dict):
        return {"name": name, "examples": shown} | pair(amount)
    return {"name": name, "documents": number(amount) or 0.0, "bytes": None, "examples": shown}


def _example(row: read.Row) -> dict[str, Any]:
    """A dropped document and the reason in words: the measured value and the limit, or the document that stayed."""
    value, limit = number(row["value"]), number(row["limit"])
    # The kept document explains a duplicate; a number and its limit explain any other drop.
    notes = []
    if value == limit == 1:
        pass  # The rule says yes or no: its name says all.
    elif value is not None and not row["kept_id"]:
        notes.append(f"measured {plain(value)}" + (f", limit {plain(limit)}" if limit is not None else ""))
    elif limit is not None and not row["kept_id"]:
        notes.append(f"limit {plain(limit)}")
    if row["language"]:
        notes.append(cut(row["language"]))
    if row["bytes"] is not None:
        notes.append(size(row["bytes"]))
    relation = "same text as" if value is None else f"Jaccard {value:.3f} (limit {plain(limit)}) with"
    return {"row": row, "notes": " · ".join(notes), "relation": relation if row["kept_id"] else ""}


def languages(stats: Statistics) -> dict[str, Any] | None:
    """The report's Table 1 for this run: size, files and share of every language before and after the curation."""
    if stats["collect"] is None:
        return None
    before = mapping(stats["collect"].get("by_language"))
    final = next((stage for stage in ("split", "select", "neardup", "filter") if stats[stage] is not None), None)
    after = mapping((stats[final] or {}).get("by_language")) if final else {}
    # Bytes per token of each language; of all languages together where one was not measured.
    measured = mapping((stats["tokenizer"] or {}).get("by_language"))
    overall = number((stats["tokenizer"] or {}).get("bytes_per_token"))
    rows: list[dict[str, Any]] = []
    for name in sorted(before.keys() | after.keys()):
        row: dict[str, Any] = {"name": name, "before": pair(before.get(name)), "after": pair(after.get(name))}
        density = number(mapping(measured.get(name)).get("bytes_per_token")) or overall
        row["tokens"] = row["after"]["bytes"] / density if density else None
        rows.append(row)
    exact = sum(number(mapping(split).get("tokens")) or 0.0 for split in (stats["tokens"] or {}).values())
    estimated = sum(row["tokens"] or 0.0 for row in rows)
    if exact and estimated:
        # Bytes per token are of a sample, but the total is known: the rows are scaled to add up to it.
        for row in rows:
            row["tokens"] = (row["tokens"] or 0.0) * exact / estimated
    rows.sort(key=lambda row: (-row["after"]["bytes"], -row["before"]["bytes"], row["name"]))
    total: dict[str, Any] = {
        "before": {key: sum(row["before"][key] for row in rows) for key in ("documents", "bytes")},
        "after": {key: sum(row["after"][key] for row in rows) for key in ("documents", "bytes")},
        "tokens": sum(row["tokens"] or 0.0 for row in rows),
    }
    # One unit for the whole table, that of its largest number.
    largest = max((row["before"]["bytes"] for row in rows), default=0.0)
    unit = next(((name, scale) for name, scale in (("GB", 1e9), ("MB", 1e6)) if largest >= scale), ("kB", 1e3))
    kept = sum(1 for row in rows if row["after"]["documents"])
    # Rows are sorted by what is kept, so the languages that were dropped whole come last.
    # If nothing was kept at all, the first rows are shown like any others.
    shown = min(LANGUAGES, kept) if kept else LANGUAGES
    return {
        "rows": rows[:shown],
        "more": rows[shown:],
        "found": len(rows),
        "total": total,
        "unit": unit,
        "after_stage": final,
        "kept": kept,
        "tokens": total["tokens"] > 0,
        "exact": exact > 0,
    }


def duplicates(run: Path, stats: Statistics) -> dict[str, Any] | None:
    """The cluster view of the run, and one more group for the held-out files that resembled training files."""
    node = stats["neardup"]
    if node is None:
        return None
    source = RunPairs(run)
    # The most alike first; equal ones by id, so that the choice is always the same.
    closest = [("value", "descending"), ("id", "ascending")]
    held_out = compare_pairs(source, [run_pair(row) for row in read.extreme_pairs(run, "split", closest, HELD_OUT)])
    group = {
        "title": "Held-out files that resembled training files",
        "about": "Dropped from the validation and test splits, so that no score comes from a copy. Most alike first.",
        "entries": held_out,
    }
    return {
        "view": cluster_view(source),
        "held_out": [group] if held_out else [],
        "fact_rows": [(name, count(node[key])) for key, name in DUPLICATE_FACTS.items() if key in node],
    }


def splits(stats: Statistics) -> dict[str, Any] | None:
    """Documents, bytes, repositories and tokens of each split, and the leak before and after its removal."""
    node = stats["split"]
    if node is None:
        return None
    tokens = stats["tokens"] or {}
    rows = []
    for name in ("train", "valid", "test"):
        entry = mapping(mapping(node.get("splits")).get(name))
        rows.append(
            {"name": name, "repos": entry.get("repos"), "tokens": mapping(tokens.get(name)).get("tokens")} | pair(entry)
        )
    # Where no leak was measured there is no table of it.
    leak = mapping(node.get("leak"))
    leaks = [
        {
            "name": name,
            "before": mapping(mapping(leak.get("before")).get(name)),
            "after": mapping(mapping(leak.get("after")).get(name)),
        }
        for name in ("valid", "test")
    ]
    return {"rows": rows, "leaks": leaks if leak else []}


def tokenizer(stats: Statistics) -> dict[str, Any] | None:
    """The measure of the report's Table 2 for each language: how much text a token holds."""
    node = stats["tokenizer"]
    if node is None:
        return None
    by_language = mapping(node.get("by_language"))
    rows: list[dict[str, Any]] = [
        {
            "name": name,
            "characters": number(mapping(entry).get("characters_per_token")),
            "bytes": number(mapping(entry).get("bytes_per_token")),
        }
        for name, entry in by_language.items()
    ]
    rows.sort(key=lambda row: (-(row["characters"] or 0.0), row["name"]))
    # Known statistics above the table with a name of their own, the others below it with their key.
    facts = {key: node[key] for key in TOKENIZER_FACTS if key in node}
    rest = {key: value for key, value in node.items() if key not in TOKENIZER_FACTS and key != "by_language"}
    return {
        "rows": rows,
        "facts": [(TOKENIZER_FACTS[key], text) for key, text in flatten(facts)],
        "rest": flatten(rest) if rest else [],
        "largest": max((row["characters"] or 0.0 for row in rows), default=0.0),
    }


def timings(node: dict[str, Any] | None) -> dict[str, Any] | None:
    """Seconds per stage, in the order of the pipeline; a stage that this version does not know comes last."""
    if not node:
        return None
    order = list(read.DIRECTORIES)
    names = sorted(node, key=lambda name: (order.index(name) if name in order else len(order), name))
    rows: list[dict[str, Any]] = [{"name": name, "seconds": number(node[name]) or 0.0} for name in names]
    total = sum(row["seconds"] for row in rows)
    return {"rows": rows, "total": total, "largest": max(row["seconds"] for row in rows)}


def flatten(node: Any, prefix: str = "") -> list[tuple[str, str]]:
    """Any JSON value as rows of dotted key and text, so that nothing that a stage wrote is hidden."""
    # Objects and lists of objects go down a level; a list of scalars is one row.
    if isinstance(node, dict) and node:
        return [row for key in node for row in flatten(node[key], f"{prefix}.{cut(key)}" if prefix else cut(key))]
    if isinstance(node, list) and any(isinstance(item, dict | list) for item in node):
        return [row for index, item in enumerate(node) for row in flatten(item, f"{prefix}[{index}]")]
    if isinstance(node, list):
        return [(prefix, ", ".join(_scalar(item) for item in node) or "none")]
    return [(prefix, _scalar(node))]


def _scalar(value: Any) -> str:
    if value is None or value == {} or value == "":
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.6g}"
    return f"{value:,}" if isinstance(value, int) else cut(value, 500)
