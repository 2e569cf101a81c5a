"""`codeshell explain`: the scores of a document with their percentiles and limits, and the heat map of its lines."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from helpers.scored_run import SCORERS, Values, documents, register, write

from codeshell.cli import explain_scores, main
from codeshell.data import select
from codeshell.engine import LocalEngine
from codeshell.engine.files import write_json, write_text
from codeshell.recipe import from_tree, to_toml

EVIL = "\x1b]0;taken\x07"


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = write(tmp_path_factory.mktemp("explain") / "run", documents())
    tree = {
        "score": {"scorers": [*SCORERS]},
        "select": {"minimum": {"python": {"quality": 1.0}}, "maximum": {"*": {"problem": 0, "bits": 4.9}}},
    }
    with pytest.MonkeyPatch.context() as patch:
        register(patch)
        recipe = from_tree(tree, "test")
        write_json(run / "select/stats.json", select.run(recipe, run, LocalEngine(1)))
    write_text(run / "recipe.toml", to_toml(recipe))
    return run


def explained(run: Path, name: str, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["explain", name, "--run", str(run), *more]) == 0
    return capsys.readouterr().out


def test_every_score_has_its_value_percentile_and_limits(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = documents()
    for row in rows[:12]:
        (answer,) = map(json.loads, explained(run, row["path"], capsys, "--json").splitlines())
        scores = answer["scores"]
        for name in ("quality", "bits", "problem", "library_names", "library_bonus"):
            assert scores[name]["value"] == row[name]
        assert scores["lines"]["value"] == row["text"].count("\n") and scores["lines"]["scorer"] == "text"
        for name in ("quality", "bits"):
            values = [r[name] for r in rows if r["language"] == row["language"] and r[name] is not None]
            if row[name] is None:
                assert scores[name]["percentile"] is None
                continue
            place = sum(value < row[name] for value in values) + sum(value == row[name] for value in values) / 2
            assert scores[name]["percentile"] == pytest.approx(100 * place / len(values), abs=0.01)
        quality = scores["quality"]["limits"]
        if row["language"] == "python":
            broken = row["quality"] is not None and row["quality"] < 1
            assert quality == [{"rule": "min_quality", "drops": "below", "limit": 1.0, "broken": broken}]
        else:
            assert quality == []
        assert scores["bits"]["limits"][0]["broken"] == (row["bits"] > 4.9)


def test_the_words_name_the_reason_and_what_was_passed(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    contaminated = next(
        row for row in documents() if row["problem"] and row["bits"] <= 4.9 and row["language"] != "python"
    )
    text = explained(run, contaminated["path"], capsys)
    assert "dropped  in select by max_problem: 1 against a limit of 0" in text
    assert "because of  humaneval:7" in text
    assert "broken max_problem: drops above 0" in text and "passed max_bits: drops above 4.9" in text
    assert "scores by libraries (percentile among documents in " in text
    kept = next(
        row
        for row in documents()
        if not row["problem"] and row["quality"] and row["quality"] >= 1 and row["bits"] < 4.9
    )
    assert "kept     by every stage so far" in explained(run, kept["path"], capsys)


class Costly(Values):
    """A line costs a bit for each of its bytes, and a line with `dear` ten times that."""

    def lines(self, batch: pa.Table) -> list[list[tuple[int, int, float]]]:
        from codeshell.ngram.model import Line

        return [
            [
                Line(number, len(line.encode()) + 1, len(line) * (10.0 if "dear" in line else 1.0))
                for number, line in enumerate(text.removesuffix("\n").split("\n"), start=1)
            ]
            for text in batch["text"].to_pylist()
        ]


def test_a_heat_map_of_the_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = documents(3)
    rows[1]["text"] = f"cheap line\nvery dear line\n\tdear {EVIL}\n"
    run = write(tmp_path / "run", rows)
    write_text(run / "recipe.toml", to_toml(from_tree({"score": {"scorers": ["values"]}}, "test")))
    register(monkeypatch)
    assert main(["explain", "1.txt", "--run", str(run), "--lines"]) == 2
    assert "has no scores by a language model; run it with perplexity in score.scorers" in capsys.readouterr().err
    monkeypatch.setattr("codeshell.scorers.make", lambda name, settings: Costly())
    text = explained(run, "1.txt", capsys, "--lines")
    map_lines = text.split("bits of each line")[1].splitlines()[1:]
    assert map_lines[0] == "      10.0 #        | cheap line"
    assert map_lines[1].startswith("     140.0 ######## | very dear line")
    assert "\x1b" not in text and "    dear [U+001B]]0;taken" in text
    (answer,) = map(json.loads, explained(run, "1.txt", capsys, "--lines", "--json").splitlines())
    assert [(line["line"], line["bits"]) for line in answer["lines"]][:2] == [(1, 10.0), (2, 140.0)]
    assert main(["explain", "x", "--dedup", str(tmp_path), "--lines"]) == 2
    assert "--lines: a dedup has no language model" in capsys.readouterr().err


def test_colours_are_for_terminals_and_never_those_of_the_text() -> None:
    lines: list[dict[str, Any]] = [
        {"line": 1, "bytes": 10, "bits": 5.0, "text": f"a {EVIL} b"},
        {"line": 2, "bytes": 10, "bits": 40.0, "text": "x" * 500},
        {"line": 3, "bytes": 1, "bits": 9.0, "text": "}"},
    ]
    head, first, second, third = explain_scores.heat_map(lines, colour=True)
    assert "colour (0 to 4.00)" in head
    assert first.count("\x1b") == 3 and "[U+001B]" in first
    # A bracket alone costs more a byte than any line, and is no measure of them.
    assert f"48;5;{explain_scores.SHADES[-1]}m" in second and f"48;5;{explain_scores.SHADES[-1]}m" in third
    assert "x" * 159 + "…" in second and "x" * 160 not in second
    assert next(explain_scores.heat_map([], colour=False)).strip().startswith("no model of its language")
