"""Histories, issues and notebooks in the main job's first stages: the same bytes for any shards and workers."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path

import pytest
from helpers.made_history import History
from helpers.trees import contents, recipe, rows, run_collect, write_tree

from codeshell.cli import main
from codeshell.data import collect
from codeshell.engine import LocalEngine
from codeshell.errors import UserError

PROGRAM = "".join(f"def f{i}(x):\n    return x + {i}\n\n\n" for i in range(30))
WORDS = "The program stops when its input is empty, and says nothing about what it is that it does not like there. "
NOTEBOOK = {
    "cells": [
        {"cell_type": "markdown", "source": "# A lesson on sums"},
        {"cell_type": "code", "source": "print(1 + 1)", "outputs": [{"output_type": "stream", "text": "2\n"}]},
    ],
    "metadata": {"language_info": {"name": "python"}},
}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    history = History(tmp_path_factory.mktemp("history") / "repo")
    history.commit("Begin the program with some thirty functions of it", {"x.py": PROGRAM})
    for number in range(12):
        three_lines = PROGRAM.replace(f"x + {number}\n", f"x - {number}\n").replace(f"x + {number + 3}\n", "x\n")
        history.commit("Let three of the functions give another value than before", {"x.py": three_lines})
        one_line = three_lines.replace("f0(", f"g{number}(")
        history.commit("Give the first of the functions another name now", {"x.py": one_line})
    return history.path


@pytest.fixture
def made(tmp_path: Path, repository: Path) -> list[str]:
    shutil.copytree(repository, tmp_path / "repo")
    events = [
        {
            "type": "IssuesEvent",
            "repo": {"name": "o/r"},
            "created_at": "2020-01-01T00:00:00Z",
            "payload": {
                "action": "opened",
                "issue": {"number": number, "title": "T", "body": WORDS * 3, "user": {"login": "a"}},
            },
        }
        for number in range(9)
    ] + [{"type": "PushEvent"}]
    (tmp_path / "events.json").write_text("".join(json.dumps(event) + "\n" for event in events))
    write_tree(
        tmp_path / "docs", {"a.md": "# Title\n\nWords.\n", "b.rst": "Title\n=====\n", "n.ipynb": json.dumps(NOTEBOOK)}
    )
    return [
        str(tmp_path / "docs"),
        f"commits:{tmp_path / 'repo'}",
        f"issues:{tmp_path / 'events.json'}",
        f"notebook-texts:{tmp_path / 'docs'}",
    ]


def test_each_corpus_has_its_language_and_all_is_counted(made: list[str], tmp_path: Path) -> None:
    statistics = run_collect(recipe(*made), tmp_path / "run")
    found = Counter(row["language"] for row in rows(tmp_path / "run/collect", "documents"))
    commits = found.pop("git-commits")
    assert found == {
        "markdown": 1,
        "restructuredtext": 1,
        "jupyter-scripts": 1,
        "github-issues": 9,
        "jupyter-structured": 1,
    }
    assert statistics["by_input"] == [
        {"document": 3},
        {"commit_sampled": 25 - commits, "document": commits},
        {"document": 9, "other_events": 1},
        {"document": 1},
    ]
    assert 13 <= commits <= 20
    assert statistics["by_language"]["git-commits"]["documents"] == commits
    dropped = rows(tmp_path / "run/collect", "dropped")
    assert {row["rule"] for row in dropped} == {"commit_sampled", "other_events"}
    assert {row["language"] for row in dropped} == {"git-commits", "github-issues"}


def test_shards_and_workers_change_no_byte(made: list[str], tmp_path: Path) -> None:
    def documents(run: Path) -> list[tuple[str, str, str]]:
        return [(row["id"], row["path"], row["text"]) for row in rows(run / "collect", "documents")]

    run_collect(recipe(*made), tmp_path / "one")
    run_collect(recipe(*made), tmp_path / "two", workers=2)
    run_collect(recipe(*made, shard_bytes=3000), tmp_path / "small")
    assert contents(tmp_path / "one/collect") == contents(tmp_path / "two/collect")
    assert documents(tmp_path / "one") == documents(tmp_path / "small")


def test_what_has_changed_since_is_seen(made: list[str], tmp_path: Path) -> None:
    settings = recipe(*made)
    run_collect(settings, tmp_path / "run")
    assert collect.since(settings, tmp_path / "run") == ""
    History.commit(_continued(tmp_path / "repo"), "Say something more in the program", {"x.py": "x = 1\n"})
    with (tmp_path / "events.json").open("a") as file:
        file.write('{"type": "PushEvent"}\n')
    said = collect.since(settings, tmp_path / "run")
    assert said.startswith("2 files are changed since (commits:")
    assert "issues:" in said


def _continued(path: Path) -> History:
    history = History.__new__(History)
    history.path, history.author, history._minute = path, "A", 1000
    return history


def test_a_dump_that_changed_after_it_was_listed_is_refused(made: list[str], tmp_path: Path) -> None:
    settings = recipe(made[2])
    stage = tmp_path / "run/collect"
    stage.mkdir(parents=True)
    collect.make_plan(settings.collect, stage)
    with (tmp_path / "events.json").open("a") as file:
        file.write("{}\n")
    with pytest.raises(UserError, match=r"issues:.*changed since it was listed"):
        collect.run(settings, tmp_path / "run", LocalEngine(1))


def test_the_tokenizer_reads_them(made: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "tokenizer"
    assert main(["tokenizer", "train", *made, "-o", str(out), "--vocab-size", "300"]) == 0
    assert (out / "tokenizer.json").exists()
