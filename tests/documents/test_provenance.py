"""What became of a document: `provenance.find` and `codeshell explain`."""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import pytest
from helpers.trees import program, recipe, run_collect, run_filter, write_tree

from codeshell.cli import explain, main
from codeshell.documents import provenance, shards
from codeshell.errors import UserError


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("run")
    root = write_tree(
        path / "code",
        {
            "a/good.py": program(0),
            "b/good.py": program(0),
            "b/long.py": "x = '" + "a" * 1200 + "'\n",
            "b/not-good.py": program(1),
            "b/empty.py": b"",
            "c/latin.py": b"# caf\xe9\n",
        },
    )
    settings = recipe(root, shard_bytes=100)
    run_collect(settings, path / "run")
    run_filter(settings, path / "run")
    return path / "run"


def say(run: Path, key: str, *more: str) -> list[str]:
    parser = argparse.ArgumentParser()
    explain.add_arguments(parser)
    lines: list[str] = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("builtins.print", lambda text: lines.append(text))
        assert explain.main(parser.parse_args([key, "--run", str(run), *more])) == 0
    return lines


def test_a_path_matches_by_its_end_at_a_slash(finished: Path) -> None:
    kept, dropped = provenance.find(finished, "good.py")
    assert [row["path"] for row in kept] == ["a/good.py"]
    assert [row["path"] for row in dropped] == ["b/good.py"]
    assert provenance.find(finished, "ood.py") == ([], [])


def test_an_id_matches_by_its_beginning_of_8_digits(finished: Path) -> None:
    digest = hashlib.md5(program(1).encode()).hexdigest()
    for key in (digest, digest[:8]):
        kept, dropped = provenance.find(finished, key)
        assert ([row["path"] for row in kept], dropped) == (["b/not-good.py"], [])
    assert provenance.find(finished, digest[:7]) == ([], [])


def test_explain_names_rule_value_limit_and_the_kept_document(finished: Path) -> None:
    (text,) = say(finished, "long.py")
    assert "dropped  in filter by max_line_length: 1206 against a limit of 1000" in text
    kept, copy = say(finished, "good.py")
    assert "kept     by every stage so far" in kept
    assert "dropped  in filter by exact_duplicate" in copy
    assert "in favour of  a/good.py  (code/a, id " in copy
    assert "dropped  in collect by empty" in say(finished, "b/empty.py")[0]
    assert "dropped  in collect by encoding_latin1" in say(finished, "latin.py")[0]


def test_explain_as_json(finished: Path) -> None:
    (line,) = say(finished, "long.py", "--json")
    row = json.loads(line)
    assert (row["rule"], row["value"], row["limit"]) == ("max_line_length", 1206, 1000)


def test_the_split_is_named_once_there_is_one(finished: Path, tmp_path: Path) -> None:
    (tmp_path / "curated").mkdir()
    (tmp_path / "collect").mkdir()
    table = shards.read_table(shards.list_shards(finished / "collect", "documents")[0])
    shards.write_table(shards.shard_path(tmp_path / "curated", "valid", 0), table)
    (text,) = say(tmp_path, "good.py")
    assert "kept     in the valid split" in text


def test_explain_without_a_match_or_a_run_is_one_clear_line(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"nothing\.py: no such document in .*; give an id of 8 digits or more"):
        say(finished, "nothing.py")
    with pytest.raises(UserError, match="not a run's directory"):
        say(tmp_path, "a.py")


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("folders")
    names = ("src/a.py", "node_modules/lib/index.js", "src/__pycache__/x/y.py", "two/a.py")
    write_tree(path / "code", {name: program(number) for number, name in enumerate(names)})
    (path / "code/linked").symlink_to(path / "code/src")
    write_tree(path / "outside", {"b.py": program(9)})
    run_collect(recipe(path / "code"), path / "run")
    return path


@pytest.mark.parametrize(
    ("key", "shown"),
    [
        ("node_modules/lib/index.js", "by vendored: node_modules was not entered"),
        ("lib/index.js", ""),
        ("node_modules/never/there.js", "by vendored: node_modules was not entered"),
        ("src/__pycache__/x/y.py", "by cache: src/__pycache__ was not entered"),
        ("./__pycache__/x/y.py", "by cache: src/__pycache__ was not entered"),
        ("linked/a.py", "by link: linked was not entered"),
        ("node_modules", "dropped  in collect by vendored"),
        ("./src/a.py", "kept     by every stage so far"),
        ("src//../src/a.py", "kept     by every stage so far"),
        ("HERE/code/src/a.py", "src/a.py  (code/src"),
        ("HERE/run/../code/node_modules/lib/index.js", "by vendored: node_modules was not entered"),
        ("code/src/a.py", "src/a.py  (code/src"),
        ("./code/two/a.py", "two/a.py  (code/two"),
        ("LINK/two/a.py", "two/a.py  (code/two"),
    ],
)
def test_explain_takes_a_path_however_it_is_written(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: str, shown: str
) -> None:
    monkeypatch.chdir(folders)
    (tmp_path / "link").symlink_to(folders / "code")
    key = key.replace("HERE", str(folders)).replace("LINK", str(tmp_path / "link"))
    if not shown:
        with pytest.raises(UserError, match="no such document"):
            say(folders / "run", key)
        return
    (text,) = say(folders / "run", key)
    assert shown in text


def test_explain_of_a_path_that_fits_several_documents(folders: Path) -> None:
    assert [text.split()[0] for text in say(folders / "run", "a.py")] == ["src/a.py", "two/a.py"]
    (text,) = say(folders / "run", str(folders / "code/two/a.py"), "--json")
    assert json.loads(text)["repo"] == "code/two"
    (text,) = say(folders / "run", "node_modules/x", "--json")
    row = json.loads(text)
    assert (row["path"], row["folder"], row["rule"]) == ("node_modules/x", "node_modules", "vendored")


def test_explain_says_that_a_path_is_below_no_input_or_new(folders: Path) -> None:
    with pytest.raises(UserError, match="not below an input of"):
        say(folders / "run", str(folders / "outside/b.py"))
    with pytest.raises(UserError, match=r"not there when the run listed it; .*--refresh"):
        say(folders / "run", str(folders / "code/src/new.py"))


def test_explain_of_a_dedup_takes_paths_and_says_why_a_file_was_not_compared(
    folders: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(folders)
    output = str(tmp_path / "out")
    assert main(["dedup", "code", "--exclude", "two/", "-o", output, "--workers", "1"]) == 0
    for key, shown in (
        ("code/node_modules/lib/index.js", "not compared  vendored: node_modules was not entered"),
        (str(folders / "code/node_modules/lib/index.js"), "not compared  vendored: node_modules was not entered"),
        ("two/a.py", "not compared  excluded: two was not entered"),
        ("./code/src/a.py", "kept     resembles no other document"),
        (str(folders / "code/src/a.py"), "code/src/a.py"),
    ):
        capsys.readouterr()
        assert main(["explain", key, "--dedup", output]) == 0
        assert shown in capsys.readouterr().out
    assert main(["explain", str(folders / "outside/b.py"), "--dedup", output]) == 2
