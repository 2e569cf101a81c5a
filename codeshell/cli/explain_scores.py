"""The scores of a document for `codeshell explain`: each with its place among the documents of its language, the limits
that it met, and the lines that cost most under a language model.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

LINES = 1_000
"""Lines of a text that `--lines` prints at most."""
WIDTH = 160
"""Characters of a line that it prints at most."""
BAR = 8
"""Characters of the bar that stands for the colour where there is none."""

SHADES = (22, 28, 64, 100, 136, 130, 124, 160)
"""Backgrounds of a terminal of 256 colours, from green to red."""


def scores_of(run: Path, ids: Iterable[str]) -> dict[str, dict[str, Any]]:
    """The scores of documents of a run.

    Returns:
        By id: `scores {name: {value, percentile, scorer, limits}}`. `percentile` is 0 to 100 among the distinct
        documents of the language, null without a distribution; `limits` are those of `[select]` that are about the
        score in this language: `{rule, drops, limit, broken}`.
    """
    from codeshell.data.distributions import Distributions
    from codeshell.data.scored import MEASURES, Scored
    from codeshell.documents.shards import list_shards, read_table
    from codeshell.engine.files import read_json

    wanted = set(ids)
    scored = Scored.of_run(run)
    found: dict[str, dict[str, Any]] = {}
    # Distinct documents have all columns, those that went before have the text measures.
    for shard in scored.shards:
        kept = scored.kept(shard)
        for row, identity in _rows(kept, wanted - found.keys()):
            # One shard's columns, and of them one row: a person asks for a few documents.
            values = scored.read(shard, scored.columns, kept).slice(row, 1).to_pylist()[0]
            found[identity] = {"language": kept["language"][row].as_py(), "values": values}
    for path in list_shards(run / "collect", "scores") if wanted - found.keys() else ():
        table = read_table(path)
        for row, identity in _rows(table, wanted - found.keys()):
            values = table.select(list(MEASURES)).slice(row, 1).to_pylist()[0]
            found[identity] = {"language": table["language"][row].as_py(), "values": values}
    distributions = Distributions(run / "select")
    done = run / "select" / "stats.json"
    limits = read_json(done).get("limits", []) if done.exists() else []
    names = {column: home.name if home else "text" for column, home in scored.columns.items()}
    return {
        identity: {
            "scores": {
                name: {
                    "value": value,
                    "percentile": _percentile(distributions, name, one["language"], value),
                    "scorer": names.get(name, "text"),
                    "limits": list(_limits(limits, name, one["language"], value)),
                }
                for name, value in one["values"].items()
            }
        }
        for identity, one in found.items()
    }


def describe(scores: dict[str, dict[str, Any]], language: str) -> Iterator[str]:
    """The lines of a terminal about the scores of one document: those with a limit first, then the others by scorer."""
    from codeshell.report.format import one_line

    width = max(map(len, scores), default=0)
    decided = {name: entry for name, entry in scores.items() if entry["limits"]}
    groups: list[tuple[str, dict[str, dict[str, Any]]]] = [("scores with a limit", decided)]
    for scorer in dict.fromkeys(entry["scorer"] for entry in scores.values()):
        rest = {name: entry for name, entry in scores.items() if entry["scorer"] == scorer and name not in decided}
        groups.append((f"scores by {scorer}", rest))
    for title, entries in groups:
        if entries:
            yield f"  {title} (percentile among documents in {one_line(language)})"
        for name, entry in entries.items():
            place = "" if entry["percentile"] is None else f"p{entry['percentile']:.0f}"
            text = f"    {name:<{width}}  {_number(entry['value']):>10}  {place:>4}"
            for limit in entry["limits"]:
                verdict = "broken" if limit["broken"] else "passed"
                text += f"  {verdict} {limit['rule']}: drops {limit['drops'].replace('_', ' ')} {limit['limit']:g}"
            yield text.rstrip()


def heat(
    run: Path, rows: Sequence[dict[str, Any]], texts: dict[str, dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """What each line of some documents costs, by id, as `{line, bytes, bits, text}`.

    Args:
        rows: of `provenance.find`.
        texts: by id, as `report.read.documents` gives them.

    Raises:
        UserError: no scorer of the run knows the cost of lines, or its files are gone.
    """
    import pyarrow as pa

    from codeshell.documents.shards import DOCUMENTS
    from codeshell.errors import UserError

    scorer = _scorer_of_lines(run)
    if scorer is None:
        raise UserError(f"--lines: {run} has no scores by a language model; run it with perplexity in score.scorers")
    found = {}
    for row in rows:
        there = texts.get(str(row["id"]))
        if there is not None:
            document = {"id": row["id"], "repo": row["repo"], "path": row["path"]} | there
            batch = pa.Table.from_pylist([{name: document[name] for name in DOCUMENTS.names}], DOCUMENTS)
            (lines,) = scorer.lines(batch)
            parts = there["text"].encode().split(b"\n")
            found[row["id"]] = [
                {
                    "line": line.number,
                    "bytes": line.bytes,
                    "bits": line.bits,
                    "text": parts[line.number - 1].decode("utf-8", "replace"),
                }
                for line in lines
            ]
    return found


def heat_map(lines: Sequence[dict[str, Any]], colour: bool) -> Iterator[str]:
    """The lines of a text with what they cost: the longer the bar (the redder the ground), the more bits per byte."""
    from codeshell.report.format import one_line

    if not lines:
        yield "  no model of its language: its lines have no cost"
        return
    # Against the costliest line of some length: a bracket on a line of its own costs much for its byte and says little.
    rates = [line["bits"] / max(line["bytes"], 1) for line in lines]
    top = max((rate for rate, line in zip(rates, lines, strict=True) if line["bytes"] >= 8), default=max(rates))
    yield f"  bits of each line, and bits per byte as {'colour' if colour else 'bar'} (0 to {top:.2f})"
    for line, rate in list(zip(lines, rates, strict=True))[:LINES]:
        level = min(max(rate / top if top > 0 else 0.0, 0.0), 1.0)
        text = one_line(line["text"].expandtabs(4))
        text = text if len(text) <= WIDTH else text[: WIDTH - 1] + "…"
        if colour:
            shade = SHADES[min(int(level * len(SHADES)), len(SHADES) - 1)]
            yield f"  {line['bits']:8.1f} \x1b[48;5;{shade}m\x1b[97m{text}\x1b[0m"
        else:
            yield f"  {line['bits']:8.1f} {'#' * round(level * BAR):<{BAR}} | {text}"
    if len(lines) > LINES:
        yield f"  (the first {LINES:,} of {len(lines):,} lines)"


def coloured() -> bool:
    """Whether the output is a terminal that shows colours."""
    import os

    return sys.stdout.isatty() and "NO_COLOR" not in os.environ and os.environ.get("TERM", "") != "dumb"


def _scorer_of_lines(run: Path) -> Any:
    """The first scorer of the run that knows the cost of lines, as the run had it; None if there is none."""
    from codeshell.data.scored import scorer_home
    from codeshell.recipe import load
    from codeshell.scorers import make

    recipe = run / "recipe.toml"
    settings = load(recipe).score if recipe.exists() else None
    for name in settings.scorers if settings is not None else ():
        scorer: Any = make(name, settings.settings.get(name, {}) if settings is not None else {})
        if callable(getattr(scorer, "lines", None)):
            state = scorer_home(run / "score", name) / "state"
            if callable(getattr(scorer, "load", None)) and state.is_dir():
                scorer.load(state)
            return scorer
    return None


def _rows(table: pa.Table, ids: set[str]) -> list[tuple[int, str]]:
    """The rows of a table that have one of some ids, with the id."""
    import pyarrow as pa
    import pyarrow.compute as pc

    mask = pc.is_in(table["id"], value_set=pa.array(sorted(ids), pa.string()))
    return [(row, table["id"][row].as_py()) for row in pc.indices_nonzero(mask).to_pylist()]


def _percentile(distributions: Any, column: str, language: str, value: Any) -> float | None:
    import numpy as np

    if value is None or isinstance(value, str):
        return None
    rank = float(distributions.of(column, language).rank(np.array([float(value)]))[0])
    return None if np.isnan(rank) else round(100 * rank, 2)


def _limits(limits: list[dict[str, Any]], column: str, language: str, value: Any) -> Iterator[dict[str, Any]]:
    """The limits of a language that are about a column, and whether the value breaks them."""
    import numpy as np

    from codeshell.data.limits import Limit

    for entry in limits:
        limit = entry["by_language"].get(language, entry["limit"])
        if entry["column"] != column or limit is None:
            continue
        number = np.nan if value is None else float(bool(value)) if isinstance(value, str) else float(value)
        rule = Limit(entry["rule"], column, entry["drops"])
        broken = bool(rule.broken(np.array([number]), np.array([limit]))[0])
        yield {"rule": entry["rule"], "drops": entry["drops"], "limit": limit, "broken": broken}


def _number(value: Any) -> str:
    from codeshell.report.format import one_line

    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, str):
        return one_line(value) or '""'
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"
