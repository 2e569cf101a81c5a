"""Collect: what is read and left out, in which order, as which repository; resume; bad input."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.trees import (
    HOSTILE_DOCUMENTS,
    HOSTILE_DROPS,
    HOSTILE_LIMIT,
    contents,
    hostile_tree,
    program,
    recipe,
    rows,
    run_collect,
    write_tree,
)

from codeshell.data import collect
from codeshell.documents import inputs, readers, shards, walk
from codeshell.documents.inputs import InputOptions
from codeshell.documents.provenance import DROPPED
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.scorers import text as scores


def test_hostile_tree_every_entry_is_a_document_or_a_counted_drop(tmp_path: Path) -> None:
    root = hostile_tree(tmp_path / "code")
    statistics = run_collect(recipe(root, max_file_bytes=HOSTILE_LIMIT), tmp_path / "run")
    stage = tmp_path / "run/collect"
    documents, dropped = rows(stage, "documents"), rows(stage, "dropped")
    assert {row["path"] for row in documents} == HOSTILE_DOCUMENTS
    assert {row["path"]: row["rule"] for row in dropped} == HOSTILE_DROPS
    assert statistics["documents"] == len(HOSTILE_DOCUMENTS)
    assert sum(statistics["dropped"].values()) == len(HOSTILE_DROPS)
    assert all(row["stage"] == "collect" and row["id"] is None and row["kept_id"] is None for row in dropped)
    assert {row["path"]: row["repo"] for row in documents} == {
        path: "nested" if path.startswith("nested/") else "code" for path in HOSTILE_DOCUMENTS
    }


def test_documents_and_scores_are_what_is_on_disk(tmp_path: Path) -> None:
    texts = {f"pkg{i}/mod.py": program(i) + "# 漢字 é\n" * i for i in range(5)} | {"x.rst": "Title\r\n=====\r\n"}
    root = write_tree(tmp_path / "code", dict(texts))
    statistics = run_collect(recipe(root), tmp_path / "run")
    table = pq.read_table(tmp_path / "run/collect/documents-00000.parquet")
    assert table.schema.equals(shards.DOCUMENTS)
    measured = rows(tmp_path / "run/collect", "scores")
    assert len(measured) == len(texts) == table.num_rows
    for row, score in zip(table.to_pylist(), measured, strict=True):
        data = texts[row["path"]].encode()
        assert row["text"].encode() == data
        assert row["bytes"] == len(data)
        assert row["id"] == score["id"] == hashlib.md5(data).hexdigest()
        assert row["language"] == score["language"]
        assert score["characters"] == len(texts[row["path"]])
    assert statistics["bytes"] == sum(len(text.encode()) for text in texts.values())
    assert statistics["by_language"]["restructuredtext"] == {"documents": 1, "bytes": 14}


def test_order_is_bytewise_by_path_and_input_by_input(tmp_path: Path) -> None:
    names = ["a.py", "a/b.py", "a-b/c.py", "a/b/c.py", "Z.py", "é.py", "a.b/c.py"]
    first = write_tree(tmp_path / "one", {name: program(i) for i, name in enumerate(names)})
    second = write_tree(tmp_path / "two", {"0.py": program(99)})
    run_collect(recipe(first, second), tmp_path / "run")
    paths = [row["path"] for row in rows(tmp_path / "run/collect", "documents")]
    assert paths == [*sorted(names, key=os.fsencode), "0.py"]


def test_repositories_of_modules_packages_and_checkouts(tmp_path: Path) -> None:
    root = write_tree(
        tmp_path / "lib",
        {
            "json/decoder.py": program(0),
            "abc.py": program(1),
            "six.pyi": program(2),
            ".hidden.py": program(3),
            "work/project/.git/HEAD": "ref: x",
            "work/project/src/a.py": program(4),
            "work/project/sub/.git": "gitdir: y",
            "work/project/sub/b.py": program(5),
            "work/c.py": program(6),
        },
    )
    run_collect(recipe(root), tmp_path / "run")
    assert {row["path"]: row["repo"] for row in rows(tmp_path / "run/collect", "documents")} == {
        "json/decoder.py": "lib/json",
        "abc.py": "lib/abc",
        "six.pyi": "lib/six",
        ".hidden.py": "lib/.hidden",
        "work/project/src/a.py": "project",
        "work/project/sub/b.py": "sub",
        "work/c.py": "lib/work",
    }


def test_vendored_folders_below_the_root_only_and_on_demand(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "site-packages", {"numpy/core.py": program(0), "pip/_vendor/six.py": program(1)})
    assert run_collect(recipe(root), tmp_path / "without")["documents"] == 1
    assert run_collect(recipe(root, vendored=True), tmp_path / "with")["documents"] == 2


def test_stdlib_and_site_packages_stand_for_the_interpreters_own(tmp_path: Path) -> None:
    settings = recipe("{stdlib}/json", "{site-packages}/hypothesis/strategies")
    run_collect(settings, tmp_path / "run")
    paths = {(row["repo"], row["path"]) for row in rows(tmp_path / "run/collect", "documents")}
    assert ("json/decoder", "decoder.py") in paths
    assert any(path == "_internal/strategies.py" for _, path in paths)
    listing = inputs.Listing(["{stdlib}"], InputOptions(vendored=True), by_input=True)
    ((_, pieces),) = listing.pieces(1 << 30)
    found = {piece.path: piece.reason for _, piece in pieces if isinstance(piece, walk.Found)}
    assert "json/decoder.py" in found
    assert not any(path.startswith("site-packages/") for path in found)


@pytest.mark.parametrize("shard_bytes", [1, 10**9])
def test_worker_count_changes_no_byte(tmp_path: Path, shard_bytes: int) -> None:
    root = hostile_tree(tmp_path / "code")
    settings = recipe(root, max_file_bytes=HOSTILE_LIMIT, shard_bytes=shard_bytes)
    one = run_collect(settings, tmp_path / "one", workers=1)
    two = run_collect(settings, tmp_path / "two", workers=2)
    assert one == two
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert one["documents"] == len(HOSTILE_DOCUMENTS), "the number of shards changes nothing either"


def test_shards_are_cut_by_size_and_by_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "code", {f"m{i}.py": "x = 1  # xxxx\n" * 10 for i in range(10)})
    run_collect(recipe(root, shard_bytes=300), tmp_path / "run")
    sizes = [len(shards.read_table(path)) for path in shards.list_shards(tmp_path / "run/collect", "documents")]
    assert sizes == [2] * 5
    monkeypatch.setattr(inputs, "SHARD_FILES", 3)
    run_collect(recipe(root), tmp_path / "again")
    sizes = [len(shards.read_table(path)) for path in shards.list_shards(tmp_path / "again/collect", "documents")]
    assert sizes == [3, 3, 3, 1]


def test_row_groups_are_cut_by_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collect, "GROUP_BYTES", 1000)
    root = write_tree(tmp_path / "code", {f"m{i}.py": program(i) for i in range(9)})
    run_collect(recipe(root), tmp_path / "run")
    source = pq.ParquetFile(tmp_path / "run/collect/documents-00000.parquet")
    assert source.num_row_groups > 1
    assert [row["path"] for row in source.read().to_pylist()] == [f"m{i}.py" for i in range(9)]


def test_files_that_change_after_the_plan_are_drops_not_failures(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {f"m{i}.py": program(i) for i in range(6)})
    settings = recipe(root, max_file_bytes=5000)
    (tmp_path / "run").mkdir()
    stage = tmp_path / "run/collect"
    stage.mkdir()
    collect.make_plan(settings.collect, stage)
    (root / "m0.py").unlink()
    (root / "m1.py").unlink()
    os.mkfifo(root / "m1.py")
    (root / "m2.py").write_text("x = 1\n" * 5000)
    (root / "m3.py").unlink()
    (root / "m3.py").symlink_to("/etc/passwd")
    (root / "m4.py").write_bytes(b"")
    (root / "m9.py").write_text("came later\n")
    statistics = run_collect(settings, tmp_path / "run")
    assert {row["path"]: row["rule"] for row in rows(stage, "dropped")} == {
        "m0.py": "unreadable",
        "m1.py": "special_file",
        "m2.py": "over_large",
        "m3.py": "unreadable",
        "m4.py": "empty",
    }
    assert statistics["documents"] == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every file")
def test_unreadable_files_and_folders_are_counted(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0), "b.py": program(1), "closed/c.py": program(2)})
    (root / "b.py").chmod(0)
    (root / "closed").chmod(0)
    try:
        statistics = run_collect(recipe(root), tmp_path / "run")
    finally:
        (root / "closed").chmod(0o700)
    assert statistics["dropped"] == {"unreadable": 2}


def test_a_folder_that_cannot_be_listed_is_one_drop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0), "closed/c.py": program(2)})
    scandir = os.scandir

    def refuse(path: str) -> object:
        if str(path).endswith("closed"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(walk.os, "scandir", refuse)
    found = {entry.path: entry.reason for entry in walk.walk(str(root), max_file_bytes=10**6, vendored=False)}
    assert found == {"a.py": "", "closed": "unreadable"}


def test_a_very_deep_tree_is_walked(tmp_path: Path) -> None:
    here = tmp_path / "code"
    here.mkdir()
    deep = here
    for _ in range(300):
        deep = deep / "d"
    deep.mkdir(parents=True)
    (deep / "a.py").write_text(program(0))
    assert run_collect(recipe(here), tmp_path / "run")["documents"] == 1


CHILD = """
import sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from helpers.trees import recipe, run_collect, run_filter
settings = recipe({root!r}, shard_bytes=2000)
run_collect(settings, Path({run!r}))
run_filter(settings, Path({run!r}))
"""


@pytest.mark.parametrize("after", ["collect/plan.json", "collect/collect-00003.json", "filter/decide-00002.json"])
def test_a_killed_run_ends_with_the_same_bytes(tmp_path: Path, after: str) -> None:
    root = write_tree(tmp_path / "code", {f"p{i % 7}/m{i}.py": program(i % 50) for i in range(60)})
    code = CHILD.format(tests=str(Path(__file__).parents[1]), root=str(root), run=str(tmp_path / "killed"))
    child = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not (tmp_path / "killed" / after).exists() and child.poll() is None and time.monotonic() < deadline:
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    child.wait()
    # What a kill in the middle of a write leaves behind.
    (tmp_path / "killed/collect/documents-00001.parquet.partial").write_bytes(b"half")
    for name in ("killed", "whole"):
        subprocess.run(
            [sys.executable, "-c", code.replace(str(tmp_path / "killed"), str(tmp_path / name))],
            check=True,
            stderr=subprocess.DEVNULL,
        )
    assert contents(tmp_path / "killed") == contents(tmp_path / "whole")


def test_a_run_that_an_earlier_version_began_to_collect_begins_again(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {f"m{i}.py": program(i) for i in range(6)})
    settings = recipe(root, shard_bytes=500)
    run_collect(settings, tmp_path / "whole")
    stage = tmp_path / "killed/collect"
    run_collect(settings, stage.parent)
    # The earlier version listed other things under these names, and its plan had fewer keys.
    plan = json.loads((stage / "plan.json").read_text())
    (stage / "plan.json").write_text(json.dumps({key: plan[key] for key in ("settings", "shards")}))
    (stage / "plan-00000.json").write_text('{"roots": {}, "entries": []}')
    (stage / "collect-00001.json").unlink()
    (stage / "documents-00009.parquet").write_bytes(b"of a shard that is not there any more")
    (stage / "key.json").write_text("{}")
    run_collect(settings, stage.parent)
    assert contents(stage) == contents(tmp_path / "whole/collect") | {"key.json": b"{}"}


def test_a_resumed_run_reads_nothing_that_is_done(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0)})
    settings = recipe(root)
    first = run_collect(settings, tmp_path / "run")
    (root / "a.py").unlink()
    assert run_collect(settings, tmp_path / "run") == first
    with pytest.raises(UserError, match="other \\[collect\\] settings; choose another output directory"):
        run_collect(recipe(root, vendored=True), tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("missing", "missing: no such file or folder"),
        ("missing/*.parquet", r"missing/\*\.parquet': matches no file"),
        ("empty", "empty: no document in it \\(it is empty\\)"),
        ("unknown", "unknown: no document in it \\(left out: unknown_language 1\\)"),
        ("pipe", "pipe: neither a file nor a folder"),
    ],
)
def test_an_input_without_a_document_is_named(tmp_path: Path, name: str, message: str) -> None:
    good = write_tree(tmp_path / "good", {"a.py": program(0)})
    (tmp_path / "empty").mkdir()
    write_tree(tmp_path / "unknown", {"a.csv": "1,2\n"})
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(UserError, match=message):
        run_collect(recipe(good, tmp_path / name), tmp_path / "run")


@pytest.mark.parametrize(("names", "message"), [((), "collect.inputs: empty"), (("",), "one of them is empty")])
def test_no_input_at_all(tmp_path: Path, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(UserError, match=message):
        run_collect(recipe(*names), tmp_path)


def test_a_single_source_file_is_an_input(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0), "b.py": program(1)})
    assert run_collect(recipe(root / "a.py"), tmp_path / "run")["documents"] == 1
    (row,) = rows(tmp_path / "run/collect", "documents")
    assert (row["repo"], row["path"]) == ("code", "a.py")


def test_a_disk_that_is_full_is_one_clear_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0)})

    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pq.ParquetWriter, "write_table", full)
    with pytest.raises(UserError, match="the disk is full"):
        run_collect(recipe(root), tmp_path / "run")
    assert not list((tmp_path / "run").rglob("*.partial"))
    assert not shards.list_shards(tmp_path / "run/collect", "documents")


def test_the_accounting_is_asserted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0), "b.csv": "1"})
    monkeypatch.setattr(collect._Output, "_drop", lambda *_: None)
    with pytest.raises(AssertionError, match="a document or a drop"):
        collect.run(recipe(root), tmp_path, LocalEngine(1))


def test_no_files_of_a_stage_hold_a_path_of_this_machine(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0), "b.csv": "1"})
    run_collect(recipe(root), tmp_path / "run")
    for path in (tmp_path / "run/collect").glob("*"):
        if not path.name.startswith("plan"):
            assert str(tmp_path).encode() not in path.read_bytes(), path.name


def test_schemas_are_those_of_the_run_directory(tmp_path: Path) -> None:
    root = write_tree(tmp_path / "code", {"a.py": program(0), "b.csv": "1"})
    run_collect(recipe(root), tmp_path / "run")
    for name, schema in (("documents", shards.DOCUMENTS), ("scores", scores.SCORES), ("dropped", DROPPED)):
        found: pa.Schema = pq.read_schema(tmp_path / f"run/collect/{name}-00000.parquet")
        assert found.equals(schema), name


def test_a_listing_and_the_reader_agree_on_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "a.py"
    path.write_bytes(b"x" * 100)
    assert readers.read_file(str(path), 100) == (b"x" * 100, "")
    assert readers.read_file(str(path), 99) == (b"", "over_large")
    assert walk.why_not_read("a.py", 100, 100) == ""
    assert walk.why_not_read("a.py", 101, 100) == "over_large"


def test_notes_name_each_loss_with_its_remedy(tmp_path: Path) -> None:
    good = [json.dumps({"text": program(i), "path": f"{i}.py"}) for i in range(3)]
    lines = [*good, "{bad", json.dumps({"text": None}), json.dumps({"text": "a = 1\n", "path": "x.unknown"})]
    write_tree(tmp_path, {"d.jsonl": "".join(line + "\n" for line in lines)})
    write_tree(tmp_path / "code", {"a.py": program(9), "b.png": b"\0"})
    settings = recipe(tmp_path / "d.jsonl", tmp_path / "code")
    statistics = run_collect(settings, tmp_path / "run")
    assert statistics["by_input"] == [
        {"bad_json": 1, "document": 3, "no_text": 1, "unknown_language": 1},
        {"binary": 1, "document": 1},
    ]
    first, *warnings = collect.notes(settings, statistics, tmp_path / "run")
    assert first.startswith("collect: left out 1 bad_json, ") or "1 bad_json" in first
    assert "run/collect/dropped-*.parquet" in first and "codeshell explain PATH --run" in first
    assert len(warnings) == 2
    assert "d.jsonl: 1 of 6 left out as no_text: " in "".join(warnings) and "collect.text_column" in "".join(warnings)
    assert "d.jsonl: 1 of 6 left out as bad_json: " in "".join(warnings)
    assert collect.notes(settings, {"dropped": {}, "by_input": []}, tmp_path) == []


@pytest.mark.parametrize(
    ("reasons", "shown"),
    [
        ({"document": 4, "unknown_language": 3}, ""),
        ({"document": 3, "unknown_language": 4}, "4 of 7 left out as unknown_language: .*collect.language_column"),
        ({"document": 9, "bad_utf8": 1}, "1 of 10 left out as bad_utf8"),
        ({"document": 9, "encoding_shift_jis": 1}, "in shift-jis, not in UTF-8; collect.encoding"),
        ({"document": 1, "ignored": 2}, "--no-gitignore reads them"),
        ({"document": 1, "over_large": 2_000}, "2,000 of 2,001 left out as over_large: .*collect.max_file_bytes"),
        ({"document": 9, "vcs": 10, "empty": 30}, ""),
    ],
)
def test_losses(reasons: dict[str, int], shown: str) -> None:
    lines = collect.losses({"in": reasons})
    assert len(lines) == bool(shown)
    assert not shown or re.search(shown, lines[0])
