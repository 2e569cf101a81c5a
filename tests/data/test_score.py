"""Scorers of a user, each added by one file: what scores, what does not score again, and what is wrong in one line."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from helpers.trees import contents, program, write_tree

from codeshell import cli
from codeshell.data import score, select
from codeshell.documents import shards
from codeshell.documents.corpus import Corpus
from codeshell.documents.shards import list_shards, read_table
from codeshell.engine import LocalEngine, files
from codeshell.engine.files import write_json
from codeshell.errors import UserError
from codeshell.recipe import from_tree, load

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
    """Reads the measures and a column of the scorer before it."""

    version = 1
    needs = ("todo",)
    columns = pa.schema([("todo_per_line", pa.float64())])

    def score(self, batch):
        assert "first" not in batch.column_names, "only what it needs"
        return {"todo_per_line": batch["todo"].to_numpy() / batch["lines"].to_numpy()}


class Rare:
    """Learns how many documents begin with each word."""

    version = 1
    columns = pa.schema([("beginnings", pa.int64())])

    def fit(self, corpus, home, engine):
        from collections import Counter
        from codeshell.engine.files import write_json
        with open("fitted.txt", "a") as file:
            file.write("once ")
        counts = Counter()
        for shard in corpus.shards:
            for table in corpus.read(shard):
                counts.update(text.split()[0] for text in table["text"].to_pylist())
        write_json(home / "counts.json", counts)

    def load(self, home):
        from codeshell.engine.files import read_json
        self.counts = read_json(home / "counts.json")

    def score(self, batch):
        return {"beginnings": [self.counts[text.split()[0]] for text in batch["text"].to_pylist()]}
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
    """The working directory of a user who has some code, one file with scorers and one with a rule."""
    write_tree(tmp_path / "code", FILES)
    write_tree(tmp_path, {"my_scorer.py": SCORER, "my_rule.py": RULE})
    (tmp_path / "recipe.toml").write_text(
        '[collect]\ninputs = ["code"]\nshard_bytes = 600\n'
        '[score]\nscorers = ["my_scorer.py:Todo", "my_scorer.py:PerLine"]\n'
        "[rules]\nlanguage_floor = 0\n[near_dedup]\nenabled = false\n"
        '[select]\nown = ["my_rule.py:MANY", "my_rule.py:NoTests"]\n'
    )
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*more: str, name: str = "run", until: str = "select", workers: int = 1) -> int:
    overrides = [part for setting in more for part in ("--set", setting)]
    return cli.main(["run", "recipe.toml", "-o", name, "--until", until, "--workers", str(workers), *overrides])


def drops(run_directory: Path) -> dict[str, tuple[str, float, float]]:
    rows = [row for path in list_shards(run_directory / "select", "dropped") for row in read_table(path).to_pylist()]
    return {row["path"]: (row["rule"], row["value"], row["limit"]) for row in rows}


def homes(run_directory: Path) -> dict[str, Path]:
    """The directory of each scorer, by the name of its class."""
    return {path.name.split("-")[0]: path for path in (run_directory / "score").iterdir() if path.is_dir()}


def times(home: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in home.glob("scores-*.parquet")}


EXPECTED = {
    "unfinished.py": ("todo_per_line", 5 / 20, 0.1),
    "tests/check.py": ("no_tests", float(len(program(2))), 1.0),
}


def test_a_scorer_and_a_rule_are_one_file_each(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0, capsys.readouterr().err
    assert drops(own / "run") == EXPECTED
    score = json.loads((own / "run/score/stats.json").read_text())
    assert score == {
        "documents": 3,
        "columns": {"my_scorer.py:Todo": ["todo", "first"], "my_scorer.py:PerLine": ["todo_per_line"]},
        "unmeasured": {},
    }
    # The columns of distinct documents alone, by id and in their order, shard for shard.
    corpus = Corpus.of_stage(own / "run/collect", own / "run/neardup")
    paths = list_shards(homes(own / "run")["Todo"], "scores")
    assert len(paths) == len(corpus.shards) > 1
    for shard, path in enumerate(paths):
        texts = [text for table in corpus.read(shard) for text in table["text"].to_pylist()]
        columns = read_table(path)
        assert columns["id"] == corpus.rows(shard)["id"]
        assert columns["todo"].to_pylist() == [text.count("TODO") for text in texts]
    capsys.readouterr()
    assert cli.main(["explain", "unfinished.py", "--run", "run"]) == 0
    assert "dropped  in select by todo_per_line: 0.25 against a limit of 0.1" in capsys.readouterr().out


def test_other_limits_score_nothing_again(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run() == 0
    capsys.readouterr()
    assert run("select.overrides={python={todo_per_line=0.5}, '*'={no_tests='off'}}") == 0
    error = capsys.readouterr().err
    assert "score: done before" in error and "select: other settings (select.overrides" in error
    assert drops(own / "run") == {}


def test_a_new_scorer_scores_its_own_columns(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    todo = "my_scorer.py:Todo"
    assert run(f"score.scorers=['{todo}']", "select.own=[]") == 0
    before = times(homes(own / "run")["Todo"])
    capsys.readouterr()
    assert run() == 0
    error = capsys.readouterr().err
    assert "score: other settings (" in error and "score.scorers was" in error and "doing again what they" in error
    assert f"score: scored before: {todo}" in error
    assert times(homes(own / "run")["Todo"]) == before
    assert drops(own / "run") == EXPECTED
    # A scorer that nobody names any more leaves no file.
    assert run(f"score.scorers=['{todo}']", "select.own=[]") == 0
    assert set(homes(own / "run")) == {"Todo"} and times(homes(own / "run")["Todo"]) == before
    # And the result is that of a run that never had it.
    assert run(f"score.scorers=['{todo}']", "select.own=[]", name="fresh") == 0
    for stage in ("score", "select"):
        assert contents(own / "run" / stage) == contents(own / "fresh" / stage)


def test_settings_of_a_scorer_and_what_is_done_again(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("score.scorers=['my_scorer.py:Todo', 'my_scorer.py:PerLine', 'my_scorer.py:Rare']") == 0
    before = {name: times(home) for name, home in homes(own / "run").items()}
    capsys.readouterr()
    more = "score.scorers=['my_scorer.py:Todo', 'my_scorer.py:PerLine', 'my_scorer.py:Rare']"
    code = run(more, "score.settings={'my_scorer.py:Todo'={word='function_0'}}", "select.overrides.'*'.no_tests='off'")
    error = capsys.readouterr().err
    assert code == 0, error
    assert "collect: done before" in error and "neardup: done before" in error
    # Its own columns, and those of the scorer that needs one of them; not those of the third.
    assert "score: my_scorer.py:Todo: other settings or code; scoring it again" in error
    assert "score: my_scorer.py:PerLine: other settings or code; scoring it again" in error
    assert "score: scored before: my_scorer.py:Rare" in error
    after = {name: times(home) for name, home in homes(own / "run").items()}
    assert after["Rare"] == before["Rare"] and after["Todo"] != before["Todo"] and after["PerLine"] != before["PerLine"]
    assert (own / "fitted.txt").read_text() == "once "
    assert drops(own / "run")["copy.py"][0] == "todo_per_line"
    # An edit of the file is another rule.
    assert run() == 0
    for limit in ("0.3", "0.4"):
        write_tree(own, {"my_rule.py": RULE.replace("0.1)", f"{limit})")})
        capsys.readouterr()
        assert run() == 0
    error = capsys.readouterr().err
    assert "score: done before" in error and "select: other settings (code of my_rule.py:MANY was" in error
    assert "unfinished.py" not in drops(own / "run"), "the edited rule decided, not the one loaded before"


def test_a_run_without_scorers_has_no_stage_of_them(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = 'inputs = ["code"]\nshard_bytes = 600\n[rules]\nlanguage_floor = 0\n[split]\nvalid = 0\ntest = 0\n'
    (own / "recipe.toml").write_text("[collect]\n" + plain)
    assert run(name="plain", until="split") == 0
    assert "score" not in capsys.readouterr().err
    assert not (own / "plain/score").exists() and not (own / "plain/select").exists()
    before = contents(own / "plain/curated")
    # With a scorer and without it again: the stages go, and the split is as it was, key and all.
    assert run("score.scorers=['my_scorer.py:Todo']", name="plain", until="split") == 0
    error = capsys.readouterr().err
    assert "neardup: done before" in error
    assert "split: other settings (what select needs is new); doing it again" in error
    assert (own / "plain/select/kept-00000.parquet").exists()
    assert run(name="plain", until="split") == 0
    error = capsys.readouterr().err
    assert "score: other settings (score.scorers is empty); removed" in error
    assert "select: other settings (what select needs is empty); removed" in error
    assert "split: other settings (what select needs is empty); doing it again" in error
    assert not (own / "plain/score").exists() and not (own / "plain/select").exists()
    assert contents(own / "plain/curated") == before


def test_workers_and_kills_change_no_byte(own: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ["score.scorers=['my_scorer.py:Todo', 'my_scorer.py:PerLine', 'my_scorer.py:Rare']"]
    settings += ["select.lowest={python={beginnings=0.3}}", "select.weights={todo=-1.0}", "select.budget=900"]
    assert run(*settings, name="two", workers=2) == 0
    assert run(*settings, name="one", until="neardup") == 0
    shutil.copytree(own / "one", own / "killed")
    recipe = load("recipe.toml", settings)

    def both(name: str) -> None:
        for module, stage in ((score, "score"), (select, "select")):
            write_json(own / name / stage / "stats.json", module.run(recipe, own / name, LocalEngine(1)))

    both("one")
    for stage in ("score", "select"):
        ours, theirs = (contents(own / name / stage) for name in ("one", "two"))
        assert ours == {name: theirs[name] for name in ours}
        assert theirs.keys() - ours.keys() <= {"key.json"}
    # Killed after every few files: what is whole stays, the rest is done, and nothing else is left.
    atomic, left = files.atomic_path, [0]

    @contextlib.contextmanager
    def killed(path: Any, flush: bool = True) -> Iterator[Path]:
        with atomic(path, flush) as temporary:
            yield temporary
        left[0] -= 1
        if left[0] == 0:
            raise KeyboardInterrupt

    for module in (files, shards):
        monkeypatch.setattr(module, "atomic_path", killed)
    kills, done = 0, False
    while not done:
        left[0] = 10
        try:
            both("killed")
            done = True
        except KeyboardInterrupt:
            kills += 1
            assert kills < 20, "every run gets further"
    assert kills > 3, "it was killed in the fit, while scoring, and in passes of select"
    for stage in ("score", "select"):
        assert contents(own / "one" / stage) == contents(own / "killed" / stage)


def test_shards_of_another_size_give_the_same_scores_and_decisions(own: Path) -> None:
    settings = ["score.scorers=['my_scorer.py:Todo', 'my_scorer.py:PerLine', 'my_scorer.py:Rare']", "select.budget=900"]
    found = []
    for size in (300, 1500, 100_000):
        name = f"size-{size}"
        assert run(*settings, f"collect.shard_bytes={size}", name=name) == 0
        rows = {}
        for home in homes(own / name).values():
            for path in list_shards(home, "scores"):
                for row in read_table(path).to_pylist():
                    rows.setdefault(row["id"], {}).update(row)
        kept = [
            row["path"] for path in list_shards(own / name / "select", "kept") for row in read_table(path).to_pylist()
        ]
        sketches, edges, sample = (
            read_table(own / name / f"select/{one}.parquet") for one in ("sketches", "edges", "sample")
        )
        found.append((rows, kept, drops(own / name), sketches, edges, sample))
    assert found[0] == found[1] == found[2]


def test_a_fit_that_was_killed_is_called_again(own: Path) -> None:
    write_tree(own, {"my_scorer.py": SCORER.replace('write_json(home / "counts.json", counts)', STOPS)})
    more = "score.scorers=['my_scorer.py:Todo', 'my_scorer.py:PerLine', 'my_scorer.py:Rare']"
    assert run(more) == 130
    assert run(more) == 0
    assert (own / "fitted.txt").read_text() == "once once "


STOPS = """
        if not (home / "half.json").exists():
            write_json(home / "half.json", counts)
            raise KeyboardInterrupt
        write_json(home / "counts.json", counts)
"""


def test_a_run_of_an_earlier_version_is_scored_in_the_new_place(own: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Scores used to come before the filter, in one file for all scorers."""
    assert run() == 0
    expected = contents(own / "run/score")
    assert run(until="collect", name="old") == 0
    upstream = json.loads((own / "old/collect/key.json").read_text())["key"]
    settings = json.loads((own / "run/score/key.json").read_text())["settings"]
    (own / "old/score").mkdir(exist_ok=True)
    for path in list_shards(own / "old/collect", "documents"):
        (own / "old/score" / path.name.replace("documents", "scores")).write_bytes(path.read_bytes())
        (own / "old/score" / path.name.replace("documents", "score")).with_suffix(".json").write_text("{}")
    from codeshell.pipeline import stage_key

    write_json(own / "old/score/key.json", {"key": stage_key(settings, upstream), "settings": settings})
    write_json(own / "old/score/stats.json", {"documents": 5, "columns": {"my_scorer.py:Todo": ["todo", "first"]}})
    capsys.readouterr()
    assert run(name="old") == 0, capsys.readouterr().err
    assert contents(own / "old/score") == expected
    assert drops(own / "old") == EXPECTED


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
        ({"score.scorers": ["other.py:Half"]}, "other.py:Half: has one of fit() and load()"),
        (
            {"score.scorers": ["my_scorer.py:PerLine"]},
            "needs the column 'todo', which no scorer before it gives; name the",
        ),
        (
            {"score.scorers": ["my_scorer.py:PerLine", "my_scorer.py:Todo"]},
            "needs the column 'todo', which no scorer before it gives; name my_scorer.py:Todo before it",
        ),
        (
            {"score.scorers": ["my_scorer.py:Todo", "other.py:Reads"]},
            "scorer other.py:Reads: reads a column that it is not given",
        ),
        ({"score.settings": {"my_scorer.py:X": {}}}, "score.settings: 'my_scorer.py:X' is not in score.scorers"),
        ({"select.own": ["my_rule"]}, "rule 'my_rule': unknown; name one of your own by its place, FILE.py:NAME"),
        ({"select.own": ["my_rule.py:MANY", "my_rule.py:MANY"]}, "the name 'todo_per_line' is taken"),
        ({"select.own": ["other.py:Todo"]}, "rule other.py:Todo: has no 'name'; see codeshell.data.rules.Rule"),
        ({"select.own": ["other.py:UNKNOWN"]}, "rule unknown: no column 'nothing'; name the scorer that writes it"),
        ({"select.own": ["other.py:Scalar"]}, "rule scalar: decide() gave bool () and float64 () for"),
        ({"select.own": ["other.py:TAKEN"]}, "select.own: the name 'budget' is taken"),
        (
            {"rules.own": ["my_rule.py:MANY"]},
            "rule todo_per_line: no column 'todo_per_line'; a rule that reads a scorer's column belongs in select.own",
        ),
        ({"rules.own": ["other.py:EXACT"]}, "the name 'exact_duplicate' is taken"),
        ({"rules.overrides": {"python": {"todo": 1}}}, "no threshold 'todo'; there are max_line_length, "),
    ],
)
def test_what_is_wrong_is_one_line(own: Path, settings: dict[str, Any], message: str) -> None:
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
                    ("Reads", "{'reads': batch['todo']}"),
                )
            )
            + "class Half(Short):\n    def fit(self, corpus, home, engine):\n        pass\n"
            + "UNKNOWN = Threshold('unknown', 'nothing', 'above', 1)\n"
            + "TAKEN = Threshold('budget', 'lines', 'above', 1)\n"
            + "EXACT = Threshold('exact_duplicate', 'lines', 'above', 1)\n"
            + "class Scalar:\n    name, columns, limit = 'scalar', ('lines',), 1\n"
            + "    def decide(self, columns, limit):\n        return True, 1.0\n"
        },
    )
    tree: dict[str, Any] = {
        "collect": {"inputs": ["code"]},
        "score": {"scorers": ["my_scorer.py:Todo", "my_scorer.py:PerLine"]},
        "rules": {"language_floor": 0},
        "select": {"own": ["my_rule.py:MANY", "my_rule.py:NoTests"]},
    }
    for key, value in settings.items():
        section, name = key.split(".")
        tree[section][name] = value
        if section == "score" and name == "scorers":
            tree["select"]["own"] = []
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        pipeline.run(from_tree(tree, "test"), own / "run", workers=1, until="select")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "setting",
    [
        "rules.languages=['pythn']",
        "rules.overrides.python.max_line=3",
        "near_dedup.bands=100000",
        "select.minimum.python.qualty=1",
    ],
)
def test_a_wrong_setting_costs_nothing_that_is_done(
    own: Path, capsys: pytest.CaptureFixture[str], setting: str
) -> None:
    assert run() == 0
    before = contents(own / "run")
    assert run(setting) == 2
    error = capsys.readouterr().err
    assert "doing it again" not in error
    assert contents(own / "run") == before


def test_documents_that_could_not_be_measured_are_counted_and_said(
    own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (own / "some_scorer.py").write_text(
        "import pyarrow as pa\n"
        "class Some:\n"
        "    version = 1\n"
        "    columns = pa.schema([('some', pa.int64()), ('all', pa.int64())])\n"
        "    absent = {'some': 'too short', 'all': 'never'}\n"
        "    def score(self, batch):\n"
        "        sizes = batch['bytes'].to_pylist()\n"
        "        return {'some': [None if size < 300 else size for size in sizes], 'all': sizes}\n"
    )
    assert run("score.scorers=['some_scorer.py:Some']", "select.own=[]") == 0
    score = json.loads((own / "run/score/stats.json").read_text())
    sizes = [
        size for path in list_shards(own / "run/neardup", "kept") for size in read_table(path)["bytes"].to_pylist()
    ]
    short = sum(size < 300 for size in sizes)
    assert 0 < short < len(sizes)
    assert score["unmeasured"] == {"some_scorer.py:Some": {"some": short}}
    said = f"score: of {len(sizes)} documents, no some of some_scorer.py:Some for {short} (too short)"
    assert said in capsys.readouterr().err
