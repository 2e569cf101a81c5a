"""The select stage: thresholds, quantiles, rules, budget and cap against plain definitions; every drop has a reason."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from helpers.scored_run import LANGUAGES, SCORERS, documents, register, write

from codeshell.data import distributions, limits, select
from codeshell.data.limits import Limit
from codeshell.data.scored import Scored
from codeshell.data.sketches import FINE
from codeshell.documents.shards import document_id, list_shards, read_table, shard_path, write_table
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import from_tree
from codeshell.scorers import text as measures


@pytest.fixture
def scorers(monkeypatch: pytest.MonkeyPatch) -> None:
    register(monkeypatch)


def recipe(**settings: Any) -> Any:
    return from_tree({"score": {"scorers": [*SCORERS]}, "seed": 5, "select": settings}, "test")


def outcome(run: Path, workers: int = 1, **settings: Any) -> tuple[dict[str, Any], dict[str, Any]]:
    """Statistics, and by path the drop of each document (None if it stays)."""
    stats = select.run(recipe(**settings), run, LocalEngine(workers))
    found: dict[str, Any] = {}
    for name in ("kept", "dropped"):
        for path in list_shards(run / "select", name):
            for row in read_table(path).to_pylist():
                assert row["path"] not in found
                found[row["path"]] = (row["rule"], row["value"], row["limit"], row["detail"]) if "rule" in row else None
    return stats, found


def dropped_paths(found: dict[str, Any], rule: str) -> set[str]:
    return {path for path, drop in found.items() if drop and drop[0] == rule}


def test_minimum_and_maximum_by_language(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows)
    settings = {
        "minimum": {"*": {"quality": 1.5}, "java": {"quality": 3.0}},
        "maximum": {"*": {"problem": 0.0}, "c": {"bits": 4.5}},
    }
    stats, found = outcome(run, **settings)
    for row in rows:
        quality = 3.0 if row["language"] == "java" else 1.5
        expected = None
        if row["quality"] is not None and row["quality"] < quality:
            expected = ("min_quality", row["quality"], quality, None)
        elif row["language"] == "c" and row["bits"] > 4.5:
            expected = ("max_bits", row["bits"], 4.5, None)
        elif row["problem"]:
            expected = ("max_problem", 1.0, 0.0, "humaneval:7")
        assert found[row["path"]] == expected, row
    assert set(stats["dropped"]) == {"min_quality", "max_bits", "max_problem"}
    for unit, size in (("documents", len(rows)), ("bytes", sum(row["bytes"] for row in rows))):
        assert stats["in"][unit] == size
        assert size == stats["kept"][unit] + sum(part[unit] for part in stats["dropped"].values())
        assert stats["kept"][unit] == sum(part[unit] for part in stats["by_language"].values())
    # What is kept names the rows of the collected shards.
    for path in list_shards(run / "select", "kept"):
        for row in read_table(path).to_pylist():
            text = read_table(shard_path(run / "collect", "documents", row["shard"]))["text"][row["row"]].as_py()
            assert document_id(text.encode()) == row["id"]


def test_quantiles_are_of_each_language(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows)
    _, found = outcome(run, lowest={"*": {"quality": 0.2}, "c": {"quality": 0.0}}, highest={"*": {"bits": 0.1}})
    for language in LANGUAGES:
        mine = [row for row in rows if row["language"] == language]
        values = sorted(row["quality"] for row in mine if row["quality"] is not None)
        # A fifth of those that have the score, but no two of the same value are parted.
        limit = values[int(0.2 * len(values))]
        low = {row["path"] for row in mine if row["quality"] is not None and row["quality"] < limit}
        assert {p for p in dropped_paths(found, "lowest_quality") if p in {r["path"] for r in mine}} == (
            set() if language == "c" else low
        )
        bits = sorted((row["bits"] for row in mine), reverse=True)
        high = {row["path"] for row in mine if row["bits"] > bits[int(0.1 * len(bits))]}
        also_low = low if language != "c" else set()
        assert {p for p in dropped_paths(found, "highest_bits") if p in {r["path"] for r in mine}} == high - also_low
        assert low and high


def expected_ranks(rows: list[dict[str, Any]], weights: dict[str, float]) -> dict[str, float]:
    """Weighted means of mid-ranks, as docs/quality.md has them."""
    result = {}
    for row in rows:
        total = 0.0
        for column, weight in sorted(weights.items()):
            values = [r[column] for r in rows if r["language"] == row["language"] and r[column] is not None]
            place = 0.5
            if row[column] is not None:
                below, equal = sum(v < row[column] for v in values), sum(v == row[column] for v in values)
                place = (below + equal / 2) / len(values)
            total += abs(weight) / sum(map(abs, weights.values())) * (place if weight > 0 else 1 - place)
        result[row["path"]] = total
    return result


def test_a_budget_keeps_the_best_of_each_language(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows)
    weights = {"quality": 2.0, "bits": -1.0}
    budget = sum(row["bytes"] for row in rows) // 2
    stats, found = outcome(run, weights=weights, budget=budget)
    assert 0.9 * budget < stats["kept"]["bytes"] <= budget
    ranks = expected_ranks(rows, weights)
    for language in LANGUAGES:
        mine = [row for row in rows if row["language"] == language]
        kept = [ranks[row["path"]] for row in mine if found[row["path"]] is None]
        gone = [found[row["path"]] for row in mine if found[row["path"]] is not None]
        assert min(kept) >= max(drop[1] for drop in gone) - 1e-12
        for row in mine:
            if drop := found[row["path"]]:
                assert drop[0] == "budget" and np.isclose(drop[1], ranks[row["path"]])
                assert np.isclose(drop[2], min(kept))
        # Each language has its half.
        assert (
            abs(sum(r["bytes"] for r in mine if found[r["path"]] is None) / sum(r["bytes"] for r in mine) - 0.5) < 0.1
        )


def test_budgets_in_tokens_with_weights_of_languages_and_a_bonus(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows)
    whole = sum(row["bytes"] for row in rows)
    stats, found = outcome(
        run,
        budget=whole // 6,
        budget_unit="tokens",
        bytes_per_token=2.0,
        language_weights={"c": 0.0},
        bonus={"library_bonus": 0.5},
    )
    assert stats["kept"]["bytes"] <= whole // 6 * 2 and "c" not in stats["by_language"]
    # Without weights the rank is the middle, and the bonus alone decides: 0.5 x (1 + 0.5 x bonus).
    for row in rows:
        drop = found[row["path"]]
        if drop:
            assert drop[1] == 0.5 * (1 + 0.5 * row["library_bonus"])


def test_a_library_is_capped_and_named(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows)
    stats, found = outcome(run, library_cap=0.2, weights={"quality": 1.0})
    kept = [row for row in rows if found[row["path"]] is None]
    for library in ("numpy", "torch"):
        share = sum(row["bytes"] for row in kept if library in row["library_names"]) / stats["kept"]["bytes"]
        assert 0.1 < share <= 0.2
    capped = {path: drop for path, drop in found.items() if drop}
    assert {drop[0] for drop in capped.values()} == {"library_cap"}
    for path, drop in capped.items():
        row = rows[int(path.removesuffix(".txt"))]
        assert drop[3] in row["library_names"].split() and drop[1] > drop[2] == 0.2
    assert all(row["library_names"] for row in rows if found[row["path"]] is not None)


@pytest.mark.parametrize("size", [7, 50, 1000])
def test_shards_and_workers_change_no_decision(tmp_path: Path, scorers: None, size: int) -> None:
    settings = {
        "lowest": {"*": {"quality": 0.15}},
        "weights": {"quality": 1.0, "bits": -0.5},
        "library_cap": 0.3,
        "budget": 2000,
        "maximum": {"*": {"problem": 0}},
    }
    rows = documents()
    expected = outcome(write(tmp_path / "whole", rows, 200), **settings)
    found = outcome(write(tmp_path / "cut", rows, size), workers=1, **settings)
    assert found == expected
    for name in ("sketches", "sample", "edges"):
        one, other = (read_table(tmp_path / run / f"select/{name}.parquet") for run in ("whole", "cut"))
        assert one.equals(other), name
    # No working file is left.
    left = {path.name.split("-")[0] for path in (tmp_path / "cut/select").glob("*.parquet")}
    assert left == {"kept", "dropped", "sketches.parquet", "sample.parquet", "edges.parquet"}


def test_the_rules_of_the_package_and_their_overrides(
    tmp_path: Path, scorers: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = (
        Limit("dull", "quality", "below", 1.0, {"java": 2.0, "c": limits.OFF}, "here"),
        Limit("other", "not_scored", "below", 1.0, {}, "here"),
    )
    monkeypatch.setattr("codeshell.data.decisions.package_limits", lambda: table)
    rows = documents()
    run = write(tmp_path / "run", rows)

    def limit_of(**settings: Any) -> dict[str, float]:
        _, found = outcome(run, **settings)
        for path in (run / "select").iterdir():
            path.unlink()
        assert dropped_paths(found, "dull") == {p for p, drop in found.items() if drop}
        return {
            language: max(
                (drop[2] for path, drop in found.items() if drop and rows[int(path[:-4])]["language"] == language),
                default=0,
            )
            for language in LANGUAGES
        }

    assert limit_of() == {"python": 0, "java": 0, "c": 0}
    assert limit_of(package_rules=True) == {"python": 1.0, "java": 2.0, "c": 0}
    everywhere = {"*": {"dull": 1.5}}
    assert limit_of(package_rules=True, overrides=everywhere) == {"python": 1.5, "java": 1.5, "c": 1.5}
    several = {"*": {"dull": 1.5}, "java": {"dull": "off"}, "python": {"dull": 3.0}}
    assert limit_of(package_rules=True, overrides=several) == {"python": 3.0, "java": 0, "c": 1.5}


def test_the_shipped_table_is_well_formed() -> None:
    for limit in limits.package_limits():
        assert limit.source, limit.name
        assert not np.isnan(limit.everywhere) or limit.by_language, limit.name
    with pytest.raises(ValueError, match="no language 'pythn'"):
        limits.parsed("a", {"column": "x", "drops": "above", "source": "s", "languages": {"pythn": 1}})
    with pytest.raises(ValueError, match="drops 'over'"):
        limits.parsed("a", {"column": "x", "drops": "over", "source": "s"})
    with pytest.raises(ValueError, match="not \\['limt'\\]"):
        limits.parsed("a", {"column": "x", "drops": "above", "source": "s", "limt": 1})


def test_distributions_and_sample_are_those_of_the_columns(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows)
    outcome(run, lowest={"*": {"quality": 0.1}})
    found = distributions.Distributions(run / "select")
    for language in LANGUAGES:
        mine = [row for row in rows if row["language"] == language]
        assert found.languages[language] == len(mine)
        sketch = found.of("quality", language, FINE)
        values = [row["quality"] for row in mine if row["quality"] is not None]
        assert sketch.documents == len(values) and sketch.low.tolist() == sorted(set(values))
        assert found.of("bytes", language).size.sum() == sum(row["bytes"] for row in mine)
    # The text measures are those of the rows that neardup kept.
    lines = sorted(row["text"].count("\n") for row in rows if row["language"] == "python")
    assert np.repeat(*(lambda s: (s.low, s.count))(found.of("lines", "python"))).tolist() == lines
    sample = read_table(run / "select/sample.parquet")
    assert sample.num_rows == len(rows)
    quality = dict(zip(sample["id"].to_pylist(), sample["quality"].to_pylist(), strict=True))
    assert quality == {row["id"]: row["quality"] for row in rows}


def test_edges_are_the_nearest_documents_of_both_sides(tmp_path: Path, scorers: None) -> None:
    rows = documents()
    run = write(tmp_path / "run", rows, 30)
    outcome(run, minimum={"*": {"quality": 2.0}})
    table = read_table(run / "select/edges.parquet").to_pylist()
    for kept in (True, False):
        values = [row["quality"] for row in rows if row["quality"] is not None and (row["quality"] >= 2.0) == kept]
        expected = sorted(values, key=lambda value: abs(value - 2.0))[:3]
        found = [row for row in table if row["kept"] is kept]
        assert [row["value"] for row in found] == expected
        assert {row["rule"] for row in found} == {"min_quality"} and {row["limit"] for row in found} == {2.0}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"minimum": {"python": {"qualty": 1}}},
            "select.minimum.python: no score 'qualty'; did you mean quality? There are",
        ),
        ({"maximum": {"*": {"language": 1}}}, "select.maximum.*: no score 'language'"),
        ({"lowest": {"pythn": {"quality": 0.1}}}, "select.lowest: no language 'pythn'; "),
        ({"weights": {"grade": 1.0}}, "select.weights: no score 'grade'; There are "),
        ({"bonus": {"library": 1.0}}, "select.bonus: no score 'library'; did you mean library_"),
        ({"overrides": {"python": {"dull": 1}}}, "select.overrides.python: no rule 'dull'; there are none"),
        ({"language_weights": {"*": 2.0}}, "select.language_weights: no language '*'"),
        ({"minimum": {"*": {"quality": 99}}, "lowest": {}}, "no document is left after select (dropped: "),
    ],
)
def test_what_is_wrong_is_one_line(tmp_path: Path, scorers: None, settings: dict[str, Any], message: str) -> None:
    rows = [row | {"quality": 1.0} for row in documents(20)]
    run = write(tmp_path / "run", rows)
    with pytest.raises(UserError) as caught:
        outcome(run, **settings)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_a_cap_needs_the_scorer_of_libraries(scorers: None) -> None:
    tree = {"score": {"scorers": ["values"]}, "select": {"library_cap": 0.1}}
    with pytest.raises(UserError, match=r"select\.library_cap: reads the column 'library_names'; name libraries in"):
        select.check(from_tree(tree, "test"))
    # A score of a scorer that the recipe does not name: which one it is.
    tree = {"score": {"scorers": ["values"]}, "select": {"bonus": {"library_bonus": 0.1}}}
    with pytest.raises(UserError, match="no score 'library_bonus' in this run; name the scorer libraries in score"):
        select.check(from_tree(tree, "test"))


def test_scores_that_do_not_fit_the_documents_are_named(tmp_path: Path, scorers: None) -> None:
    run = write(tmp_path / "run", documents(20))
    path = shard_path(run / "score/values", "scores", 0)
    write_table(path, read_table(path).slice(1))
    with pytest.raises(UserError, match=r"scores-00000\.parquet: 19 rows for 20 documents; delete .*values and run"):
        outcome(run)
    path.write_bytes(b"rubbish")
    with pytest.raises(UserError, match=r"scores-00000\.parquet: not a readable Parquet file"):
        outcome(run)


def test_a_text_measure_alone_needs_no_scorer(tmp_path: Path) -> None:
    run = write(tmp_path / "run", documents(40))
    (run / "score/stats.json").unlink()
    settings = from_tree({"select": {"maximum": {"*": {"lines": 3}}, "budget": 10**6}}, "test")
    stats = select.run(settings, run, LocalEngine(1))
    assert stats["dropped"]["max_lines"]["documents"] == sum(at % 5 > 2 for at in range(40))
    assert json.dumps(stats)
    assert set(Scored.of_run(run).columns) == set(measures.SCORES.names) - {"id", "language"}
