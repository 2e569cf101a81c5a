"""Scorers and rules of a user, each added by one file: scored, decided, recorded, explained; done again on change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import contents, program, write_tree

from codeshell import cli
from codeshell.documents.shards import list_shards, read_table
from codeshell.errors import UserError
from codeshell.recipe import from_tree

SCORER = '''
import pyarrow as pa

class Todo:
    version = 1
    columns = pa.schema([("todo", pa.float64()), ("first", pa.string())])

    def __init__(self, word="TODO"):
        self.word = word

    def score(self, batch):
        texts = batch["text"].to_pylist()
        return {"todo": [text.count(self.word) for text in texts], "first": [text[:3] or None for text in texts]}


class PerLine:
    """Reads the measures and the columns of the scorer before it."""

    version = 1
    columns = pa.schema([("todo_per_line", pa.float64())])

    def score(self, batch):
        import numpy as np
        return {"todo_per_line": batch["todo"].to_numpy() / batch["lines"].to_numpy()}
'''

RULE = """
from codeshell.data.rules import Threshold, numbers

MANY = Threshold("todo_per_line", "todo_per_line", "above", 0.1)

class NoTests:
    name = "no_tests"
    columns = ("path", "bytes")
    limit = 1

    def decide(self, columns, limit):
        value = numbers(columns["bytes"])
        return [path.startswith("tests/") for path in columns["path"].to_pylist()], value
"""

FILES = {
    "good.py": program(0),
    "unfinished.py": "x = 1  # TODO\n" * 5 + program(1),
    "tests/check.py": program(2),
    "long.py": "x = '" + "a" * 1200 + "'\n# TODO\n",
    "copy.py": program(0),
}


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working directory of a user who has some code, one file with a scorer and one with a rule."""
    write_tree(tmp_path / "code", FILES)
    write_tree(tmp_path, {"my_scorer.py": SCORER, "my_rule.py": RULE})
    (tmp_path / "recipe.toml").write_text(
        '[collect]\ninputs = ["code"]\nshard_bytes = 600\n'
        '[score]\nscorers = ["my_scorer.py:Todo", "my_scorer.py:PerLine"]\n'
        '[rules]\nlanguage_floor = 0\nown = ["my_rule.py:MANY", "my_rule.py:NoTests"]\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*more: str, name: str = "run", until: str = "filter") -> int:
    overrides = [part for setting in more for part in ("--set", setting)]
    return cli.main(["run", "recipe.toml", "-o", name, "--until", until, "--workers", "1", *overrides])


def drops(run_directory: Path) -> dict[str, tuple[str, float, float]]:
    rows = [row for path in list_shards(run_directory / "filter", "dropped") for row in read_table(path).to_pylist()]
    return {row["path"]: (row["rule"], row["value"], row["limit"]) for row in rows}


EXPECTED = {
    "unfinished.py": ("todo_per_line", 5 / 20, 0.1),
    "tests/check.py": ("no_tests", float(len(program(2))), 1.0),
    "long.py": ("max_line_length", 1206.0, 1000.0),
    "good.py": ("exact_duplicate", None, None),
}


def test_a_scorer_and_a_rule_are_one_file_each(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0, capsys.readouterr().err
    assert drops(own / "run") == EXPECTED
    statistics = json.loads((own / "run/filter/stats.json").read_text())
    assert set(statistics["dropped"]) == {rule for rule, _, _ in EXPECTED.values()}
    assert statistics["in"]["documents"] == 5 and statistics["kept"]["documents"] == 1
    # The columns lie beside the documents, by id and in their order, shard for shard.
    score = json.loads((own / "run/score/stats.json").read_text())
    assert score == {
        "documents": 5,
        "columns": {"my_scorer.py:Todo": ["todo", "first"], "my_scorer.py:PerLine": ["todo_per_line"]},
    }
    paths = list_shards(own / "run/score", "scores")
    assert len(paths) == len(list_shards(own / "run/collect", "documents")) > 1
    for path in paths:
        documents = read_table(own / "run/collect" / path.name.replace("scores", "documents"))
        columns = read_table(path)
        assert columns["id"] == documents["id"]
        assert columns["todo"].to_pylist() == [text.count("TODO") for text in documents["text"].to_pylist()]
    capsys.readouterr()
    assert cli.main(["explain", "unfinished.py", "--run", "run"]) == 0
    assert "dropped  in filter by todo_per_line: 0.25 against a limit of 0.1" in capsys.readouterr().out


def test_other_limits_score_nothing_again(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    capsys.readouterr()
    assert run("rules.overrides={python={todo_per_line=0.5}, '*'={no_tests=0}}") == 0
    error = capsys.readouterr().err
    assert "score: done before" in error and "filter: other settings (rules.overrides" in error
    assert drops(own / "run").keys() == EXPECTED.keys() - {"unfinished.py", "tests/check.py"}


def test_settings_of_a_scorer_and_what_is_done_again(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    capsys.readouterr()
    code = run("score.settings={'my_scorer.py:Todo'={word='function_0'}}")
    error = capsys.readouterr().err
    assert code == 0, error
    assert "collect: done before" in error and "score: other settings" in error
    assert drops(own / "run")["copy.py"][0] == "todo_per_line"
    # An edit of the file is another rule.
    write_tree(own, {"my_rule.py": RULE.replace("0.1)", "0.3)")})
    assert run() == 0
    assert "score.settings" in capsys.readouterr().err
    write_tree(own, {"my_rule.py": RULE.replace("0.1)", "0.4)")})
    assert run() == 0
    error = capsys.readouterr().err
    assert "score: done before" in error and "filter: other settings (code of my_rule.py:MANY was" in error
    assert "unfinished.py" not in drops(own / "run"), "the edited rule decided, not the one loaded before"


def test_a_run_without_scorers_has_no_stage_of_them(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = 'inputs = ["code"]\nshard_bytes = 600\n[rules]\nlanguage_floor = 0\n'
    (own / "recipe.toml").write_text("[collect]\n" + plain)
    assert run(name="plain") == 0
    assert "score" not in capsys.readouterr().err
    assert not (own / "plain/score").exists()
    before = contents(own / "plain/filter")
    # With a scorer and without it again: the stage goes, and the filter is as it was, key and all.
    assert run("score.scorers=['my_scorer.py:Todo']", name="plain") == 0
    assert "filter: other settings (score.scorers is new); doing it again" in capsys.readouterr().err
    assert (own / "plain/score/scores-00000.parquet").exists()
    assert run(name="plain") == 0
    error = capsys.readouterr().err
    assert "score: other settings (score.scorers is empty); removed" in error
    assert "filter: other settings (score.scorers is empty); doing it again" in error
    assert not (own / "plain/score").exists()
    assert contents(own / "plain/filter") == before


def test_workers_and_resumes_change_no_byte(own: Path) -> None:
    assert run(name="one") == 0
    assert run(name="two", until="collect") == 0
    (own / "two/score").mkdir(exist_ok=True)
    assert cli.main(["run", "recipe.toml", "-o", "two", "--until", "filter", "--workers", "2"]) == 0
    assert contents(own / "one/score") == contents(own / "two/score")
    # A shard without its marker is scored again, the others are not.
    path = own / "two/score/score-00001.json"
    path.unlink()
    for name in ("score/stats.json", "filter/stats.json"):
        (own / "two" / name).unlink()
    assert run(name="two") == 0
    assert contents(own / "one/score") == contents(own / "two/score")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"score.scorers": ["absent.py:X"]}, "scorer absent.py:X: 'absent.py' cannot be loaded"),
        ({"score.scorers": ["my_scorer.py:Nothing"]}, "my_scorer.py has no 'Nothing'"),
        ({"score.scorers": ["tekst"]}, "scorer 'tekst': unknown; did you mean text?"),
        ({"score.scorers": ["text"]}, "score.scorers: every document has the columns of 'text' already; leave it out"),
        ({"score.scorers": ["my_scorer.py:Todo", "other.py:Todo"]}, "the column 'todo' is one of scorer my_scorer.py"),
        ({"score.scorers": ["other.py:Short"]}, "other.py:Short: 'short' has 1 values for"),
        ({"score.scorers": ["other.py:Wrong"]}, "other.py:Wrong: 'wrong' is not double"),
        ({"score.scorers": ["other.py:Absent"]}, "score() gives no 'absent'"),
        ({"score.settings": {"my_scorer.py:X": {}}}, "score.settings: 'my_scorer.py:X' is not in score.scorers"),
        ({"rules.own": ["my_rule"]}, "rule 'my_rule': unknown; name one of your own by its place, FILE.py:NAME"),
        ({"rules.own": ["my_rule.py:MANY", "my_rule.py:MANY"]}, "the name 'todo_per_line' is taken"),
        ({"rules.own": ["other.py:Todo"]}, "rule other.py:Todo: has no 'name'; see codeshell.data.rules.Rule"),
        ({"rules.own": ["other.py:UNKNOWN"]}, "rule unknown: no column 'nothing'; name the scorer that writes it"),
        ({"rules.own": ["other.py:Scalar"]}, "rule scalar: decide() gave bool () and float64 () for"),
        ({"rules.own": ["other.py:TAKEN"]}, "the name 'exact_duplicate' is taken"),
        ({"rules.overrides": {"python": {"todo": 1}}}, "no threshold 'todo'; there are max_line_length, .*, no_tests"),
    ],
)
def test_what_is_wrong_is_one_line(
    own: Path, settings: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from codeshell import pipeline

    write_tree(
        own,
        {
            "other.py": SCORER
            + "from codeshell.data.rules import Threshold\n"
            + "".join(
                f"class {name}:\n    version = 1\n    columns = pa.schema([({name.lower()!r}, pa.float64())])\n"
                f"    def score(self, batch):\n        return {value}\n"
                for name, value in (
                    ("Short", "{'short': [1.0]}"),
                    ("Wrong", "{'wrong': ['a'] * len(batch)}"),
                    ("Absent", "{}"),
                )
            )
            + "UNKNOWN = Threshold('unknown', 'nothing', 'above', 1)\n"
            + "TAKEN = Threshold('exact_duplicate', 'lines', 'above', 1)\n"
            + "class Scalar:\n    name, columns, limit = 'scalar', ('lines',), 1\n"
            + "    def decide(self, columns, limit):\n        return True, 1.0\n"
        },
    )
    tree: dict[str, Any] = {
        "collect": {"inputs": ["code"]},
        "score": {"scorers": ["my_scorer.py:Todo", "my_scorer.py:PerLine"]},
        "rules": {"language_floor": 0, "own": ["my_rule.py:MANY", "my_rule.py:NoTests"]},
    }
    for key, value in settings.items():
        section, name = key.split(".")
        tree[section][name] = value
        if section == "score" and name == "scorers":
            tree["rules"]["own"] = []
    with pytest.raises(UserError, match=re.escape(message).replace(r"\.\*", ".*")) as caught:
        pipeline.run(from_tree(tree, "test"), own / "run", workers=1, until="filter")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting", ["rules.languages=['pythn']", "rules.overrides.python.max_line=3", "near_dedup.bands=100000"]
)
def test_a_wrong_setting_costs_nothing_that_is_done(
    own: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert run(until="neardup") == 0
    before = contents(own / "run")
    assert run(setting, until="neardup") == 2
    error = capsys.readouterr().err
    assert "doing it again" not in error
    assert contents(own / "run") == before
