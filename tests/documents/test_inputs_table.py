"""One table of inputs, given to `codeshell run` and to `codeshell dedup`: both read the same documents, or refuse both
in the same words."""

from __future__ import annotations

import gzip
import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard
from helpers.read_both import dedup_texts, run_texts
from helpers.trees import program, recipe, rows, run_collect, write_tree

from codeshell.cli import main
from codeshell.documents import batches, inputs
from codeshell.documents.inputs import InputOptions
from codeshell.errors import UserError

TEXTS = [program(i) for i in range(12)]
RECORDS: list[dict[str, Any]] = [
    {"text": text, "path": f"src/m{i}.py", "repo": f"r{i % 3}"} for i, text in enumerate(TEXTS)
]
FILES: dict[str, str | bytes] = {f"pkg{i % 2}/m{i}.py": text for i, text in enumerate(TEXTS)}


def parquet(path: Path, records: list[dict[str, Any]] = RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:  # Arrow opens no path that is not UTF-8
        pq.write_table(pa.Table.from_pylist(records), file, row_group_size=5)
    return path


def jsonl(path: Path, records: list[dict[str, Any]] = RECORDS) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    data = "".join(json.dumps(record) + "\n" for record in records).encode()
    pack = {".gz": gzip.compress, ".zst": zstandard.compress}.get(path.suffix, bytes)
    path.write_bytes(pack(data))
    return path


def folder_of_code(root: Path) -> list[str]:
    return [str(write_tree(root / "code", FILES | {"picture.png": b"\x89PNG\0", "empty.py": b"", "data.csv": "1,2"}))]


def git_checkout(root: Path) -> list[str]:
    return [str(write_tree(root / "code", FILES | {".git/HEAD": "ref: x", ".git/hooks/run.py": program(90)}))]


def single_file(root: Path) -> list[str]:
    write_tree(root / "code", {"a.py": TEXTS[0], "b.py": program(90)})
    return [str(root / "code/a.py")]


def several_files_and_globs(root: Path) -> list[str]:
    write_tree(
        root / "code", {"a.py": TEXTS[0], "x/b.py": TEXTS[1], "x/c.py": TEXTS[2], "y/d.py": TEXTS[3], "e.c": "x"}
    )
    return [str(root / "code/a.py"), str(root / "code/*/*.py")]


def deep_glob(root: Path) -> list[str]:
    write_tree(root / "code", {"a.py": TEXTS[0], "x/b.py": TEXTS[1], "x/y/c.py": TEXTS[2], "x/y/d.c": "int x;"})
    return [str(root / "code/**/*.py")]


def deep_glob_of_folders(root: Path) -> list[str]:
    write_tree(root / "code", {"a.py": "x", "x/src/b.py": TEXTS[0], "y/z/src/c.py": TEXTS[1], "y/d.py": "x"})
    return [str(root / "code/**/src")]


def glob_of_tables(root: Path) -> list[str]:
    parquet(root / "a.parquet", RECORDS[:4])
    jsonl(root / "b.jsonl", RECORDS[4:])
    return [str(root / "[ab].*")]


def parquet_file(root: Path) -> list[str]:
    return [str(parquet(root / "a.parquet"))]


def folder_of_parquet(root: Path) -> list[str]:
    parquet(root / "data/a.parquet", RECORDS[:7])
    parquet(root / "data/b.parquet", RECORDS[7:])
    write_tree(root / "data", {"README.md": "# Data\n", "_SUCCESS": "", ".gitattributes": "x"})
    return [str(root / "data")]


def nested_folders_of_parquet(root: Path) -> list[str]:
    for i, record in enumerate(RECORDS):
        parquet(root / f"data/language={i % 3}/part-{i}/0.parquet", [record])
    return [str(root / "data")]


def jsonl_file(root: Path) -> list[str]:
    return [str(jsonl(root / "a.jsonl"))]


def jsonl_gz(root: Path) -> list[str]:
    return [str(jsonl(root / "a.jsonl.gz"))]


def jsonl_zst(root: Path) -> list[str]:
    return [str(jsonl(root / "a.ndjson.zst"))]


def folder_of_jsonl(root: Path) -> list[str]:
    jsonl(root / "data/a.jsonl", RECORDS[:7])
    jsonl(root / "data/more/b.jsonl.gz", RECORDS[7:])
    return [str(root / "data")]


def file_url(root: Path) -> list[str]:
    return [f"file://{parquet(root / 'a.parquet')}"]


def url(root: Path) -> list[str]:
    import fsspec

    system = fsspec.filesystem("memory")
    for name, part in (("a.parquet", RECORDS[:5]), ("more/b.parquet", RECORDS[5:])):
        system.pipe(f"/table/{name}", parquet(root / name, part).read_bytes())
    return ["memory://table"]


def names_that_are_not_utf8(root: Path) -> list[str]:
    folder = root / os.fsdecode(b"caf\xe9")
    write_tree(folder / "code", {os.fsdecode(b"\xff.py"): TEXTS[0], os.fsdecode(b"\xe9/b.py"): TEXTS[1]})
    return [str(folder / "code"), str(parquet(folder / os.fsdecode(b"\xff.parquet"), RECORDS[2:]))]


def given_twice(root: Path) -> list[str]:
    write_tree(root / "code", FILES)
    return [str(root / "code"), str(root / "code/pkg0"), str(root / "code/pkg1/m1.py"), str(root / "code")]


def what_python_writes_as_json(root: Path) -> list[str]:
    odd = [record | {"stars": float("nan"), "author": "x\ud83d", "most": float("-inf")} for record in RECORDS]
    return [str(jsonl(root / "a.jsonl", odd))]


def bad_rows(root: Path) -> list[str]:
    path = jsonl(root / "a.jsonl")
    with open(path, "ab") as file:
        file.write(b'\n{"text": "\\ud800"}\n{"text": 5}\n{"text": ""}\n[]\n{"text": "\xff"}\n{broken\n')
    return [str(path)]


CASES: list[tuple[Callable[[Path], list[str]], list[str]]] = [
    (folder_of_code, TEXTS),
    (git_checkout, TEXTS),
    (single_file, TEXTS[:1]),
    (several_files_and_globs, TEXTS[:4]),
    (deep_glob, TEXTS[:3]),
    (deep_glob_of_folders, TEXTS[:2]),
    (glob_of_tables, TEXTS),
    (parquet_file, TEXTS),
    (folder_of_parquet, TEXTS),
    (nested_folders_of_parquet, TEXTS),
    (jsonl_file, TEXTS),
    (jsonl_gz, TEXTS),
    (jsonl_zst, TEXTS),
    (folder_of_jsonl, TEXTS),
    (file_url, TEXTS),
    (url, TEXTS),
    (names_that_are_not_utf8, TEXTS),
    (given_twice, TEXTS),
    (what_python_writes_as_json, TEXTS),
    (bad_rows, TEXTS),
]


@pytest.mark.parametrize(("build", "expected"), CASES, ids=[build.__name__ for build, _ in CASES])
def test_run_and_dedup_read_the_same_documents(
    tmp_path: Path, build: Callable[[Path], list[str]], expected: list[str]
) -> None:
    names = build(tmp_path / "in")
    by_run, by_dedup = run_texts(names, tmp_path / "run"), dedup_texts(names, tmp_path / "out")
    assert by_run == by_dedup
    assert sorted(by_run) == sorted(expected)


def test_the_standard_library(tmp_path: Path) -> None:
    names = ["{stdlib}/json", "{stdlib}/[h]ashlib.py"]
    by_run = run_texts(names, tmp_path / "run")
    assert len(by_run) > 4
    assert by_run == dedup_texts(names, tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "one of them is empty; name a folder"),
        ("{}/missing", "/missing: no such file or folder; fix the path"),
        ("{}/*.pq", r"/\*.pq': matches no file; fix the path"),
        ("{}/pipe", "/pipe: neither a file nor a folder; leave it out"),
        ("memory://nowhere/a.parquet", "no such file"),
        ("memory://nowhere/folder", "a URL must end in .parquet or .jsonl"),
        ("nosuch://a.parquet", "nosuch://a.parquet: .*; install the fsspec driver"),
        ("{}/other.parquet", "other.parquet: no column 'text'; it has content; set collect.text_column"),
        ("{}/other.jsonl", "other.jsonl: no column 'text'; it has content; set collect.text_column"),
        ("{}/numbers.parquet", "numbers.parquet: column 'text' holds int64, not text"),
        ("{}/broken.parquet", "broken.parquet: cannot be read whole"),
        ("{}/nothing", "nothing: no document in"),
    ],
)
def test_run_and_dedup_refuse_in_the_same_words(tmp_path: Path, name: str, message: str) -> None:
    root = tmp_path / "in"
    write_tree(root, {"a.py": TEXTS[0], "broken.parquet": "PAR1 no"})
    (root / "nothing").mkdir()
    os.mkfifo(root / "pipe")
    parquet(root / "numbers.parquet", [{"text": 1}])
    parquet(root / "other.parquet", [{"content": "x"}])
    jsonl(root / "other.jsonl", [{"content": "x"}])
    said = []
    for read, output in ((run_texts, "run"), (dedup_texts, "out")):
        with pytest.raises(UserError, match=message) as caught:
            read([name.format(root)], tmp_path / output)
        said.append(str(caught.value))
    assert said[0] == said[1] or "no document in" in message
    assert "\n" not in said[0]


def test_an_unset_variable_is_not_the_working_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_tree(tmp_path, {"private.py": TEXTS[0], "r.toml": ""})
    monkeypatch.chdir(tmp_path)
    for command in (["run", "r.toml", "--input", "", "--until", "collect"], ["dedup", ""]):
        assert main([*command, "-o", "out", "--workers", "1"]) == 2
        assert "empty; name" in capsys.readouterr().err


def test_rows_without_a_language_say_what_to_set(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [{"text": text} for text in TEXTS])
    with pytest.raises(UserError, match=r"unknown_language 12\); set collect\.language_column or collect\.path_column"):
        run_collect(recipe(path), tmp_path / "run")


def test_what_a_run_writes_is_none_of_its_inputs(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "project", dict(FILES))
    run_collect(recipe(root), root / "runs/x")
    before = rows(root / "runs/x/collect", "documents")
    assert len(before) == len(FILES)
    run_collect(recipe(root, shard_bytes=300), root / "runs/x/again")
    paths = {row["path"] for row in rows(root / "runs/x/again/collect", "documents")}
    assert set(FILES) <= paths
    assert not any("again" in path for path in paths)


def test_a_table_that_changed_since_it_was_listed_is_refused(tmp_path: Path) -> None:
    from codeshell.data import collect

    path = jsonl(tmp_path / "a.jsonl")
    settings = recipe(path, shard_bytes=300)
    stage = tmp_path / "run/collect"
    stage.mkdir(parents=True)
    collect.make_plan(settings.collect, stage)
    path.write_text(json.dumps({"text": program(90)}) + "\n" + path.read_text())
    with pytest.raises(
        UserError, match=r"a\.jsonl: it changed since it was listed, and its rows may have moved; begin again"
    ):
        run_collect(settings, tmp_path / "run")


def test_plans_are_read_back_as_they_were_written(tmp_path: Path) -> None:
    names = names_that_are_not_utf8(tmp_path) + folder_of_jsonl(tmp_path)
    plan = inputs.plan(names, InputOptions(), 500)
    assert len(plan.shards) > len(plan.sources) > 3
    inputs.write_plan(tmp_path / "plan.json", plan)
    assert inputs.read_plan(tmp_path / "plan.json") == plan
    # Earlier versions wrote the paths of files alone.
    tree = json.loads((tmp_path / "plan.json").read_text())
    for shard in tree["shards"]:
        shard["files"] = [file[0] for file in shard["files"]]
    (tmp_path / "plan.json").write_text(json.dumps(tree))
    found = inputs.read_plan(tmp_path / "plan.json")
    options = InputOptions()
    for old, new in zip(found.shards, plan.shards, strict=True):
        assert [row.text for row in batches.rows(old, options)] == [row.text for row in batches.rows(new, options)]


def test_inputs_of_one_name_get_places_of_their_own(tmp_path: Path) -> None:
    names = [str(parquet(tmp_path / f"{i}" / name)) for i, name in enumerate(["a.parquet", "2-a.parquet", "A.parquet"])]
    names += [str(parquet(tmp_path / "x/a.parquet")), str(parquet(tmp_path / "y/a.parquet"))]
    names += [str(write_tree(tmp_path / f"{i}/code", {"a.py": "x"})) for i in range(2)]
    outputs = [source.output for source in inputs.plan(names, InputOptions(), 1 << 20).sources]
    assert outputs == ["a.parquet", "2-a.parquet", "3-A.parquet", "4-a.parquet", "5-a.parquet", "code", "2-code"]


def test_many_files_of_one_name_are_listed_quickly(tmp_path: Path) -> None:
    write_tree(tmp_path, {f"{i}/m.py": "x = 1\n" for i in range(3000)})
    listing = inputs.Listing([str(tmp_path / "*/m.py")], InputOptions(), by_input=True)
    started = time.process_time()
    (task,) = inputs.cut(listing, 1 << 30)
    assert len(task) == len(listing.sources) == 3000
    assert time.process_time() - started < 5  # some 0.2 s; quadratic work takes half a minute


def test_tasks_of_a_run_span_inputs_and_name_what_is_left_out(tmp_path: Path) -> None:
    names = folder_of_code(tmp_path) + parquet_file(tmp_path)
    listing = inputs.Listing(names, InputOptions(), by_input=True)
    (task,) = inputs.cut(listing, 1 << 30)
    assert [(shard.source.kind, shard.source.input) for shard in task] == [("files", 0), ("parquet", 1)]
    assert {file.path: file.reason for file in task[0].files if file.reason} == {
        "data.csv": "unknown_language",
        "empty.py": "empty",
        "picture.png": "binary",
    }
    assert not listing.left_out
