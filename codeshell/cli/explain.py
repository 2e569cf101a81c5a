"""`codeshell explain`: says what happened to a document in a run, or in a `codeshell dedup`."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

    from codeshell.report.pairs import DedupPairs

HELP = "say why a document is in the corpus or not: its split, or the stage, rule, value and limit that dropped it"

SIMILAR = 20
"""Dropped documents that are listed for one that stayed."""
CANDIDATES = 5
"""Ids that are named when a key fits none, or several."""
DIFF_LINES = 20_000
"""Lines of each text that `--diff` compares at most."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell explain json/decoder.py --run runs/demo\n"
        "  codeshell explain 0cc175b9c0f1b6a8 --run runs/demo --diff\n"
        "  codeshell explain decoder.py --dedup duplicates --diff\n"
        "A path may be absolute, relative to the working directory, or relative to the input. In a run, the end of a\n"
        "path is enough, or the first 8 digits of an id (the MD5 of the text). In a codeshell dedup, the end of an id\n"
        "after a slash is enough, or any part that no other id has."
    )
    parser.add_argument("document", metavar="ID-OR-PATH", help="an id or its beginning, or the end of a path")
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--run", default="runs/demo", metavar="DIR", help="the run's directory (default: runs/demo)")
    where.add_argument("--dedup", metavar="DIR", help="the directory that codeshell dedup wrote to")
    parser.add_argument(
        "--diff", action="store_true", help="print how a near duplicate differs from the document that was kept"
    )
    parser.add_argument(
        "--lines", action="store_true", help="print what each line costs under the run's language model, as a heat map"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object per document")


def main(args: argparse.Namespace) -> int:
    import json

    from codeshell.cli import explain_scores
    from codeshell.errors import UserError

    # Bytes of an argument that are not UTF-8 become backslash escapes, as in ids and paths.
    key = args.document.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    if not key.strip():
        raise UserError("ID-OR-PATH: it is empty; give an id or its beginning, or the end of a path")
    words: Callable[[dict[str, Any]], str]
    if args.dedup is not None and args.lines:
        raise UserError("--lines: a dedup has no language model; give a run with --run")
    if args.dedup is not None:
        rows, words = _answers_of(Path(args.dedup), args.document, key, args.diff), describe_duplicate
    else:
        rows, words = _rows(Path(args.run), args.document, key, args.diff), describe
        _add_scores(Path(args.run), rows, args.lines)
    for row in rows:
        print(json.dumps(row, ensure_ascii=False) if args.json else words(row))
        if args.diff and not args.json:
            print(_shown(row["diff"]) if row["diff"] is not None else "  no diff: no two texts to compare here")
        if args.lines and not args.json:
            print("\n".join(explain_scores.heat_map(row["lines"] or [], explain_scores.coloured())))
    return 0


def _rows(run: Path, given: str, key: str, diff: bool) -> list[dict[str, Any]]:
    """The rows of a run that fit the key, kept documents first. With `diff`, each row has its diff under that name.

    Args:
        given: the argument as it is, to be looked up as a path; `key` is what ids and paths are compared with.
    """
    from codeshell.errors import UserError
    from codeshell.report import read

    if not (run / "collect").is_dir():
        raise UserError(f"{run}: not a run's directory (no collect/ in it); give one with --run, or --dedup DIR")
    rows = _find(run, given, key)
    if diff:
        texts = read.documents(
            run, {row[name] for row in rows if "kept_id" in row for name in ("id", "kept_id") if row["kept_id"]}
        )
        for row in rows:
            kept_row, dropped_row = texts.get(str(row.get("kept_id"))), texts.get(str(row["id"]))
            row["diff"] = None
            if kept_row and dropped_row:
                row["diff"] = unified(kept_row["text"], dropped_row["text"], row["kept_path"], row["path"])
    return rows


def _add_scores(run: Path, rows: list[dict[str, Any]], lines: bool) -> None:
    """Put into each row its `scores`, empty for a file that became no document, and with `lines` the cost of each."""
    from codeshell.cli import explain_scores
    from codeshell.report import read

    ids = {row["id"] for row in rows if row["id"]}
    found = explain_scores.scores_of(run, ids)
    heat = explain_scores.heat(run, rows, read.documents(run, ids)) if lines else {}
    for row in rows:
        row["scores"] = found.get(row["id"], {}).get("scores", {})
        if lines:
            row["lines"] = heat.get(row["id"])


def _find(run: Path, given: str, key: str) -> list[dict[str, Any]]:
    """The rows that an id or a path means, whichever way the path is written.

    Raises:
        UserError: there are none; the line says whether the path lies below an input at all.
    """
    import os.path

    from codeshell.documents import provenance
    from codeshell.documents.readers import storable
    from codeshell.engine.files import user_path
    from codeshell.errors import UserError

    def find(text: str) -> list[dict[str, Any]]:
        return [row for rows in provenance.find(run, text) for row in rows]

    # As ids and ends of paths are written; else as a path on this machine; else as `./end/of/a/path`.
    as_path = given.startswith(("/", "./", "../", "~"))
    rows = [] if as_path else find(key)
    if rows:
        return rows
    plans = sorted((run / "collect").glob("plan-*.json"))
    places = provenance.locate(plans, user_path(given))
    for place in places:
        if place.found is not None:
            names = storable(place.found.path), storable(place.found.repo)
            mine = [row for row in find(names[0]) if (row["path"], row["repo"]) == names]
            rows += mine if place.found.path == place.path else [_within(row, place.path) for row in mine]
    end = storable(os.path.normpath(given))
    if not rows and not given.startswith(("/", "../", "~")):
        rows = find(end) or [_within(row, end) for row in provenance.left_out_around(run, end)]
    if rows:
        return rows
    if places:
        raise UserError(
            f"{_line(key)}: below an input of {run}, but not there when the run listed it; `codeshell run … "
            "--refresh` reads it"
        )
    if as_path and plans:
        raise UserError(
            f"{_line(key)}: not below an input of {run} (recipe.toml there names them, as collect.inputs); give "
            "the end of a path, or an id"
        )
    raise UserError(f"{_line(key)}: no such document in {run}; give an id of 8 digits or more, or the end of a path")


def _within(row: dict[str, Any], path: str) -> dict[str, Any]:
    """What happened to a path in a folder that was left out whole: the folder's row, with its name besides."""
    return row | {"path": path, "folder": row["path"]}


def describe(row: dict[str, Any]) -> str:
    """A few lines about one document that `provenance.find` returned."""
    size = f"{row['bytes']:,} bytes" if row["bytes"] is not None else "unknown size"
    lines = [f"{_line(row['path'])}  ({', '.join(map(_line, filter(None, (row['repo'], row['language'], size))))})"]
    if row["id"]:
        lines.append(f"  id       {row['id']}")
    if "split" in row:
        lines.append(f"  kept     in the {row['split']} split" if row["split"] else "  kept     by every stage so far")
        return "\n".join([*lines, *_scores(row)])
    reason = f"  dropped  in {row['stage']} by {row['rule']}"
    if row["value"] is not None:
        reason += f": {row['value']:g}"
        if row["limit"] is not None:
            reason += f" against a limit of {row['limit']:g}"
    if "folder" in row:
        reason += f": {_line(row['folder'])} was not entered"
    lines.append(reason)
    if row.get("detail"):
        lines.append(f"  because of  {_line(row['detail'])}")
    if row["kept_id"]:
        lines.append(f"  in favour of  {_line(row['kept_path'])}  ({_line(row['kept_repo'])}, id {row['kept_id']})")
    return "\n".join([*lines, *_scores(row)])


def _scores(row: dict[str, Any]) -> Iterator[str]:
    """The lines about its scores, where there are some."""
    from codeshell.cli import explain_scores

    yield from explain_scores.describe(row.get("scores") or {}, row["language"] or "")


def _answers(directory: Path, key: str, diff: bool) -> list[dict[str, Any]]:
    """What a `codeshell dedup` did with the document that the key means. There are several answers only if several
    documents have the same id."""
    import pyarrow.compute as pc

    from codeshell.report.pairs import DedupPairs

    source = DedupPairs(directory)
    table = source.columns("id", "kept_id", "jaccard", "cluster_size")
    identity = resolve(key, directory, table)
    common = {"id": identity, "threshold": source.threshold, "keep_order": source.parameters.get("keep_order")}
    answers: list[dict[str, Any]] = []
    for row in pc.indices_nonzero(pc.equal(table["id"], identity)).to_pylist():
        found = {name: table[name][row].as_py() for name in ("kept_id", "jaccard", "cluster_size")}
        answers.append({"status": "dropped"} | common | found)
        if diff:
            answers[-1]["diff"] = _diff_of(source, row)
    if not answers:
        similar = table.filter(pc.equal(table["kept_id"], identity)).select(["id", "jaccard"])
        listed = similar.sort_by([("jaccard", "descending"), ("id", "ascending")]).slice(0, SIMILAR).to_pylist()
        answers.append({"status": "kept"} | common | {"dropped_for_it": similar.num_rows, "most_alike": listed})
        if diff:
            answers[-1]["diff"] = None
    return answers


def _answers_of(directory: Path, given: str, key: str, diff: bool) -> list[dict[str, Any]]:
    """The answers for an id or a part of one, or for a path of this machine below an input."""
    import os.path

    from codeshell.documents.readers import storable
    from codeshell.errors import UserError

    try:
        return _answers(directory, key, diff)
    except UserError:
        # Not a part of an id: perhaps a path, absolute or relative. Its id is made of the input's name.
        plain = storable(os.path.normpath(given))
        if plain != key and not given.startswith("/"):
            with contextlib.suppress(UserError):
                return _answers(directory, plain, diff)
        found = _by_path(directory, given, diff)
        if not found:
            raise
        return found


def _by_path(directory: Path, given: str, diff: bool) -> list[dict[str, Any]]:
    """What became of a file of a folder that was an input: compared, or left out and why; empty for any other path."""
    from codeshell.documents import inputs, provenance, walk
    from codeshell.documents.readers import storable
    from codeshell.engine.files import read_json, user_path
    from codeshell.errors import UserError
    from codeshell.report.pairs import DedupPairs

    plan = directory / "plan.json"
    if not plan.exists():
        return []
    # A path relative to an input is one, too.
    candidates = [user_path(given)]
    if not candidates[0].is_absolute():
        sources = inputs.read_plan(plan).sources
        candidates += [Path(source.path, given) for source in sources if source.kind == "files"]
    for candidate in candidates:
        for place in provenance.locate([plan], candidate):
            name = storable(f"{place.source.name}/{place.path}" if place.source.name else place.path)
            if place.found is not None:
                with contextlib.suppress(UserError):
                    return _answers(directory, name, diff)
                source = DedupPairs(directory)
                answer = {"threshold": source.threshold, "keep_order": source.parameters.get("keep_order")}
                return [{"status": "kept", "id": name, "diff": None} | answer]
            # It was not compared: the folder is walked once more, as it is now, to say why.
            job = read_json(directory / "job.json")
            listing = inputs.Listing(
                [place.source.path], inputs.InputOptions(**job["options"]), [directory], by_input=True, check=False
            )
            for _, pieces in listing.pieces(1 << 40):
                for _, found in pieces:
                    if isinstance(found, walk.Found) and f"{place.path}/".startswith(f"{found.path}/"):
                        reason = found.reason or "new"
                        return [
                            {"status": "not compared", "id": name, "reason": reason, "at": found.path, "diff": None}
                        ]
    return []


def resolve(key: str, directory: Path, table: pa.Table) -> str:
    """The one id that the key means: the id equal to it, else one that ends in it (after a slash first), else one that
    contains it.

    Raises:
        UserError: several ids fit equally well, or none does; the line names some.
    """
    import pyarrow as pa
    import pyarrow.compute as pc

    from codeshell.documents.shards import read_table
    from codeshell.errors import UserError

    columns = [table["id"], table["kept_id"]]
    if (directory / "kept.parquet").exists():
        columns.append(read_table(directory / "kept.parquet", ["id"])["id"])

    def fitting(matches: Any) -> list[str]:
        parts = [column.filter(matches(column)).unique() for column in columns]
        return sorted(set(pa.chunked_array([*parts, pa.array([], pa.string())]).to_pylist()))

    # From the strictest meaning of the key to the loosest; the first that fits any id decides.
    for matches in (
        lambda column: pc.equal(column, key),
        lambda column: pc.ends_with(column, "/" + key),
        lambda column: pc.ends_with(column, key),
        lambda column: pc.match_substring(column, key),
    ):
        found = fitting(matches) if key else []
        if len(found) == 1:
            return found[0]
        if found:
            raise UserError(f"{_line(key)}: {len(found):,} documents fit: {_some(found)}; give more of the id")
    near = _near(key, fitting)
    also = f"; near it: {_some(near)}" if near else ""
    raise UserError(
        f"{_line(key)}: neither dropped nor kept for a dropped document in {directory}; "
        f"if it was in the inputs, it stayed and resembles no other{also}"
    )


def _near(key: str, fitting: Any) -> list[str]:
    """Ids that share a word of the key (the longest that any id has) or the beginning of one, the most alike first."""
    import difflib
    import re

    import pyarrow.compute as pc

    words = sorted(re.findall(r"\w{3,}", key), key=len, reverse=True)
    for part in dict.fromkeys([*words, *(word[:length] for length in (5, 3) for word in words)]):
        found = fitting(lambda column, part=part: pc.match_substring(column, part, ignore_case=True))
        # The ends of the ids are compared, as long as the key. With very many ids only the first, so that it is quick.
        ends = {one[-len(key) :]: one for one in found[:2000]}
        if ends:
            return [ends[end] for end in difflib.get_close_matches(key, ends, CANDIDATES, cutoff=0.0)]
    return []


def _diff_of(source: DedupPairs, row: int) -> str | None:
    """The diff of pair `row`; None if a text can no longer be read."""
    import numpy as np

    (pair,) = source.pairs(np.array([row], np.int64))
    texts = source.texts({pair.kept.key, pair.dropped.key})
    kept, dropped = texts.get(pair.kept.key), texts.get(pair.dropped.key)
    if kept is None or dropped is None:
        return None
    return unified(kept.text, dropped.text, str(pair.kept.id), str(pair.dropped.id))


def describe_duplicate(answer: dict[str, Any]) -> str:
    """A few lines about one answer of `_answers`."""
    lines = [_line(answer["id"])]
    if answer["status"] == "not compared":
        why = answer["reason"] if answer["reason"] != "new" else "it was not there, or empty, when the job listed it"
        at = "" if answer["id"].endswith(answer["at"]) else f": {_line(answer['at'])} was not entered"
        return f"{lines[0]}\n  not compared  {why}{at}"
    threshold = f"a threshold of {answer['threshold']:g}" if answer["threshold"] is not None else "the threshold"
    order = f"keep order: {_line(answer['keep_order'])}" if answer["keep_order"] else "keep order not recorded"
    if answer["status"] == "dropped":
        lines.append(f"  dropped  {_jaccard(answer['jaccard'])} against {threshold}")
        lines.append(f"  in favour of  {_line(answer['kept_id'])}")
        lines.append(f"  cluster  of {answer['cluster_size']:,} documents, of which one stays ({order})")
        return "\n".join(lines)
    count = answer.get("dropped_for_it", 0)
    if not count:
        lines.append(f"  kept     resembles no other document by {threshold}")
        return "\n".join(lines)
    lines.append(f"  kept     {count:,} document{'s' if count > 1 else ''} dropped for it by {threshold} ({order})")
    lines += [f"    {_jaccard(one['jaccard'])}  {_line(one['id'])}" for one in answer["most_alike"]]
    if count > len(answer["most_alike"]):
        lines.append(f"    and {count - len(answer['most_alike']):,} more")
    return "\n".join(lines)


def _jaccard(value: float | None) -> str:
    return "Jaccard not computed" if value is None else f"Jaccard {value:.4f}"


def unified(kept: str, dropped: str, kept_name: str, dropped_name: str) -> str:
    """The unified diff of the first `DIFF_LINES` lines of two texts."""
    return "\n".join(_unified(kept, dropped, kept_name, dropped_name))


def _unified(kept: str, dropped: str, kept_name: str, dropped_name: str) -> Iterator[str]:
    import difflib

    if kept == dropped:
        yield "The texts are equal."
        return
    before, after = kept.split("\n"), dropped.split("\n")
    names = f"{_line(kept_name)} (kept)", f"{_line(dropped_name)} (dropped)"
    yield from difflib.unified_diff(before[:DIFF_LINES], after[:DIFF_LINES], *names, lineterm="")
    if max(len(before), len(after)) > DIFF_LINES:
        yield f"(only the first {DIFF_LINES:,} lines of each text were compared)"


def _shown(text: str) -> str:
    """Foreign text, made safe for a terminal: control characters could move the cursor, and bidirectional overrides
    could change the order of code."""
    from codeshell.report.format import show_controls

    return show_controls(text)


def _line(text: Any) -> str:
    """Foreign text as one line that is safe for a terminal."""
    from codeshell.report.format import one_line

    return one_line(text)


def _some(identities: list[str]) -> str:
    """The first few ids, and how many more there are."""
    from codeshell.report.format import cut

    more = f" and {len(identities) - CANDIDATES:,} more" if len(identities) > CANDIDATES else ""
    return ", ".join(_line(cut(one)) for one in identities[:CANDIDATES]) + more
