"""The job around the search: what it writes, kills, other jobs' directories, damaged input, and the index."""

from __future__ import annotations

import gzip
import json
import os
import random
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.dedup_search import by_definition, variants

from codeshell.dedup import index as index_files
from codeshell.dedup import job
from codeshell.dedup.job import Job
from codeshell.dedup.parameters import Parameters
from codeshell.documents.inputs import InputOptions
from codeshell.engine import LocalEngine
from codeshell.errors import UserError

CERTAIN = Parameters(bands=200, rows=1)


@pytest.fixture(scope="module")
def texts() -> list[str]:
    return variants(40, 110, seed=6)


@pytest.fixture(scope="module")
def data(texts: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The texts in three files: Parquet of small row groups, JSONL, Parquet."""
    folder = tmp_path_factory.mktemp("data")
    table = pa.table({"text": texts, "n": range(len(texts))})
    pq.write_table(table.slice(0, 60), folder / "a.parquet", row_group_size=9, compression="zstd")
    lines = [json.dumps(row) for row in table.slice(60, 40).to_pylist()]
    (folder / "b.jsonl").write_text("\n".join(lines) + "\n")
    pq.write_table(table.slice(100), folder / "c.parquet", row_group_size=100)
    return folder


def run(data: Path, output: Path, *, workers: int = 1, **settings: Any) -> dict[str, Any]:
    names = tuple(str(data / name) for name in ("a.parquet", "b.jsonl", "c.parquet"))
    asked = {"parameters": CERTAIN, "shard_bytes": 4000} | settings
    with LocalEngine(workers) as engine:
        return job.run(Job(inputs=names, output=output, **asked), engine)


def kept_rows(output: Path) -> list[int]:
    numbers = pq.read_table(output / "kept" / "a.parquet")["n"].to_pylist()
    numbers += [json.loads(line)["n"] for line in (output / "kept" / "b.jsonl").read_text().splitlines()]
    return numbers + pq.read_table(output / "kept" / "c.parquet")["n"].to_pylist()


def content(output: Path) -> dict[str, bytes]:
    """Every file of an output directory but those that name the run itself."""
    names = {"timings.json", "job.json", "plan.json"}
    return {
        str(path.relative_to(output)): path.read_bytes()
        for path in sorted(output.rglob("*"))
        if path.is_file() and path.name not in names
    }


def test_what_stays_is_the_definition(data: Path, texts: list[str], tmp_path: Path) -> None:
    stats = run(data, tmp_path / "out")
    expected = by_definition(texts, 0.7)
    assert len(expected) > 30
    assert kept_rows(tmp_path / "out") == [i for i in range(len(texts)) if i not in expected]
    found = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    place = {(0, i): i for i in range(60)} | {(1, i): 60 + i for i in range(40)}
    place |= {(2, i): 100 + i for i in range(len(texts) - 100)}
    assert {
        place[row["shard"], row["row"]]: (place[row["kept_shard"], row["kept_row"]], row["jaccard"]) for row in found
    } == expected
    sizes: dict[int, int] = {}
    for kept, _ in expected.values():
        sizes[kept] = sizes.get(kept, 1) + 1
    for row in found:
        assert row["cluster_id"] == place[row["kept_shard"], row["kept_row"]]
        assert row["cluster_size"] == sizes[row["cluster_id"]]
    assert stats["largest_cluster"] == max(sizes.values())
    assert stats["kept"] + stats["duplicates"] == stats["documents"] == len(texts)
    assert stats["kept_bytes"] == sum(len(text) for i, text in enumerate(texts) if i not in expected)
    assert pq.ParquetFile(tmp_path / "out" / "kept" / "a.parquet").metadata.row_group(0).column(0).compression == "ZSTD"


def test_workers_shards_and_memory_change_no_byte(data: Path, tmp_path: Path) -> None:
    run(data, tmp_path / "one")
    run(data, tmp_path / "two", workers=2, shard_bytes=1_000_000, memory=1 << 16)
    one, two = content(tmp_path / "one"), content(tmp_path / "two")
    assert one == two
    assert any(name.startswith("kept/") for name in one)


@pytest.mark.parametrize("write", ["rows", "ids"])
def test_groups_of_small_shards_change_no_byte(
    write: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run(data, tmp_path / "groups", write=write, index=tmp_path / "index-groups")
    monkeypatch.setattr(job, "GROUP_BYTES", 1)
    run(data, tmp_path / "alone", write=write, index=tmp_path / "index-alone")
    assert content(tmp_path / "groups") == content(tmp_path / "alone")
    # Both indexes know every document: nothing of the same files is new.
    for index in ("groups", "alone"):
        again = run(data, tmp_path / f"again-{index}", index=tmp_path / f"index-{index}")
        assert again["kept"] == 0


def test_many_small_shards_are_few_tasks_and_few_waits_for_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"def f{n}():\n    return [{', '.join(str(n * i) for i in range(20))}]\n" for n in range(60)]
    for n, text in enumerate([*texts, *texts[:3]]):
        pq.write_table(pa.table({"text": [text]}), tmp_path / f"{n:03d}.parquet")
        with gzip.open(tmp_path / f"{n:03d}.jsonl.gz", "wt") as file:
            file.write(json.dumps({"text": text.replace(", ", ", x")}) + "\n\n")
    waits: list[int] = []
    real = os.fsync
    monkeypatch.setattr(os, "fsync", lambda descriptor: waits.append(descriptor) or real(descriptor))
    inputs = (str(tmp_path / "*.parquet"), str(tmp_path / "*.gz"))
    with LocalEngine(1) as engine:
        stats = job.run(Job(inputs=inputs, output=tmp_path / "o"), engine)
    assert (stats["documents"], stats["duplicates"]) == (126, 6)
    assert len(waits) < 40
    kept = {path.name: path for path in (tmp_path / "o" / "kept").iterdir()}
    assert len(kept) == 126
    assert pq.read_table(kept["007.parquet"])["text"].to_pylist() == [texts[7]]
    assert pq.read_table(kept["061.parquet"]).num_rows == 0
    assert gzip.decompress(kept["007.jsonl.gz"].read_bytes()).count(b"\n") == 1
    found = pq.read_table(tmp_path / "o" / "duplicates.parquet").to_pylist()
    assert [(row["shard"], row["row"], row["kept_shard"]) for row in found[:3]] == [(60, 0, 0), (61, 0, 1), (62, 0, 2)]
    assert found[0]["id"].endswith("060.parquet#0")


@pytest.mark.parametrize(
    "name", ["sign_shard", "same_range", "edges_range", "sets_shard", "write_sources", "_write_duplicates"]
)
def test_a_killed_job_resumes(name: str, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codeshell.dedup import candidates, search

    monkeypatch.setattr(job, "GROUP_BYTES", 5000)  # several tasks in each step
    run(data, tmp_path / "whole")
    module = next(m for m in (search, candidates, job) if hasattr(m, name))
    real, calls = getattr(module, name), []

    def dies(*arguments: Any) -> Any:
        calls.append(arguments)
        if len(calls) == (1 if name == "_write_duplicates" else 2):
            raise KeyboardInterrupt
        return real(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, name, dies)
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "out")
    assert not (tmp_path / "out" / "stats.json").exists()
    run(data, tmp_path / "out")
    assert content(tmp_path / "out") == content(tmp_path / "whole")


def test_directories_of_other_jobs(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(data, tmp_path / "done")
    before = content(tmp_path / "done")
    with pytest.raises(UserError, match="finished job; choose another -o"):
        run(data, tmp_path / "done")
    assert content(tmp_path / "done") == before
    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_rows", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            run(data, tmp_path / "half")
    with pytest.raises(UserError, match="unfinished job with other parameters"):
        run(data, tmp_path / "half", parameters=Parameters(threshold=0.8))
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "note.txt").write_text("mine")
    with pytest.raises(UserError, match="not empty"):
        run(data, tmp_path / "foreign")


def test_truncated_input_is_named_and_nothing_is_half_written(data: Path, tmp_path: Path) -> None:
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    whole = (copy / "c.parquet").read_bytes()
    (copy / "c.parquet").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match=r"c\.parquet: cannot be read"):
        run(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "stats.json").exists()
    assert not (tmp_path / "out" / "kept").exists()


def test_a_damaged_page_is_named_and_nothing_is_half_written(data: Path, tmp_path: Path) -> None:
    """The footer is whole: the damage shows when the rows are read."""
    copy = tmp_path / "data"
    shutil.copytree(data, copy)
    whole = bytearray((copy / "a.parquet").read_bytes())
    whole[1000:2000] = bytes(1000)
    (copy / "a.parquet").write_bytes(whole)
    with pytest.raises(UserError, match=r"a\.parquet: cannot be read.*; fix it or leave it out"):
        run(copy, tmp_path / "out")
    assert not (tmp_path / "out" / "stats.json").exists()
    assert not (tmp_path / "out" / "kept").exists()


def test_a_full_disk_loses_nothing(data: Path, tmp_path: Path) -> None:
    """On a real file system without room, at several steps; with more room the same command resumes."""
    mount = tmp_path / "small"
    mount.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=60k", "tmpfs", str(mount)]
    if os.geteuid() != 0 or shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode:
        pytest.skip("a small tmpfs cannot be mounted here (needs root)")
    failures = 0
    try:
        for size in range(60, 10_000, 200):
            subprocess.run(["mount", "-o", f"remount,size={size}k", str(mount)], check=True)
            try:
                run(data, mount / "out")
                break
            except UserError as error:
                assert str(error).endswith("the disk is full; free some space or choose another output directory")
                assert not list(mount.rglob("*.partial"))
                failures += 1
        found = content(mount / "out")
    finally:
        subprocess.run(["umount", str(mount)], check=True)
    assert failures > 1
    run(data, tmp_path / "whole")
    assert found == content(tmp_path / "whole")


def test_nulls_and_empty_texts_stay(tmp_path: Path) -> None:
    texts = ["a b c d e f", None, "a b c d e f", "", None]
    pq.write_table(pa.table({"text": texts, "n": range(5)}), tmp_path / "a.parquet", row_group_size=2)
    with LocalEngine(1) as engine:
        stats = job.run(Job(inputs=(str(tmp_path / "a.parquet"),), output=tmp_path / "out"), engine)
    assert pq.read_table(tmp_path / "out" / "kept" / "a.parquet")["n"].to_pylist() == [0, 1, 3, 4]
    assert stats["left_out"] == {"empty": 1, "no_text": 2}
    assert (stats["documents"], stats["kept"], stats["duplicates"]) == (2, 1, 1)


class TestIndex:
    """`--index`: new data against everything seen before."""

    @pytest.fixture
    def halves(self, texts: list[str], tmp_path: Path) -> list[Path]:
        paths = [tmp_path / "first.parquet", tmp_path / "second.parquet"]
        for path, part in zip(paths, (texts[:80], texts[80:]), strict=True):
            pq.write_table(pa.table({"text": part}), path, row_group_size=25)
        return paths

    def one(self, path: Path, output: Path, index: Path, **settings: Any) -> dict[str, Any]:
        asked = {"parameters": CERTAIN, "shard_bytes": 4000} | settings
        with LocalEngine(1) as engine:
            return job.run(Job(inputs=(str(path),), output=output, index=index, **asked), engine)

    def test_two_runs_are_one(self, halves: list[Path], texts: list[str], tmp_path: Path) -> None:
        index = tmp_path / "index"
        first = self.one(halves[0], tmp_path / "1", index)
        second = self.one(halves[1], tmp_path / "2", index)
        expected = by_definition(texts, 0.7)
        assert first["index"] == {"before": 0, "added": first["kept"]}
        assert second["index"] == {"before": first["kept"], "added": second["kept"]}
        assert first["duplicates"] == len([d for d in expected if d < 80])
        found = {80 + row["row"]: row for row in pq.read_table(tmp_path / "2" / "duplicates.parquet").to_pylist()}
        assert set(found) == {d for d in expected if d >= 80}
        for document, row in found.items():
            kept, jaccard = expected[document]
            assert row["jaccard"] == jaccard
            name = f"{halves[0]}#{kept}" if kept < 80 else f"{halves[1]}#{kept - 80}"
            assert row["kept_id"] == name
            assert (row["kept_row"] is None) == (kept < 80)
        again = self.one(halves[1], tmp_path / "3", index)
        assert again["kept"] == 0  # all of it has been seen

    def test_a_dry_run_leaves_it(self, halves: list[Path], tmp_path: Path) -> None:
        self.one(halves[0], tmp_path / "1", tmp_path / "index")
        before = content(tmp_path / "index")
        self.one(halves[1], tmp_path / "2", tmp_path / "index", write="nothing")
        assert content(tmp_path / "index") == before
        self.one(halves[1], tmp_path / "3", tmp_path / "none", write="nothing")
        assert not (tmp_path / "none").exists()

    def test_a_killed_run_leaves_it(self, halves: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        index = tmp_path / "index"
        self.one(halves[0], tmp_path / "1", index)
        shutil.copytree(index, tmp_path / "copy")
        expected = self.one(halves[1], tmp_path / "expected", tmp_path / "copy")
        before = (index / "index.json").read_bytes()
        with monkeypatch.context() as patch:
            patch.setattr(index_files, "write_json", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                self.one(halves[1], tmp_path / "2", index)
        assert (index / "index.json").read_bytes() == before
        assert self.one(halves[1], tmp_path / "2", index) == expected
        assert content(index) == content(tmp_path / "copy") or (index / "index.json").exists()

    def test_killed_after_the_index(self, halves: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        index = tmp_path / "index"
        self.one(halves[0], tmp_path / "1", index)
        with monkeypatch.context() as patch:
            patch.setattr(job.shutil, "rmtree", lambda *_, **__: (_ for _ in ()).throw(KeyboardInterrupt))
            with pytest.raises(KeyboardInterrupt):
                self.one(halves[1], tmp_path / "2", index)
        (tmp_path / "2" / "stats.json").unlink()  # as if it had been killed a moment earlier
        stats = self.one(halves[1], tmp_path / "2", index)
        assert stats["kept"] > 0
        assert len(json.loads((index / "index.json").read_text())["segments"]) == 2

    def test_refused(self, halves: list[Path], tmp_path: Path) -> None:
        index = tmp_path / "index"
        self.one(halves[0], tmp_path / "1", index)
        with pytest.raises(UserError, match="made with bands 200, but this run has 21"):
            self.one(halves[1], tmp_path / "2", index, parameters=Parameters())
        manifest = json.loads((index / "index.json").read_text())
        (index / "index.json").write_text(json.dumps(manifest | {"format": 99}))
        with pytest.raises(UserError, match="format 99"):
            self.one(halves[1], tmp_path / "2", index)
        for broken in ({"format": 1}, manifest | {"segments": [{"name": "x"}]}, manifest | {"parameters": []}):
            (index / "index.json").write_text(json.dumps(broken))
            with pytest.raises(UserError, match="json: damaged"):
                self.one(halves[1], tmp_path / "2", index)
        (index / "index.json").write_text(json.dumps(manifest))
        files = sorted((index / "segment-00000").iterdir())
        for path in random.Random(1).sample(files, 3):
            whole = path.read_bytes()
            path.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
            with pytest.raises(UserError, match="damaged"):
                self.one(halves[1], tmp_path / "2", index)
            path.unlink()
            with pytest.raises(UserError, match="missing"):
                self.one(halves[1], tmp_path / "2", index)
            path.write_bytes(whole)
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "thing").write_text("x")
        with pytest.raises(UserError, match="other files are"):
            self.one(halves[1], tmp_path / "2", tmp_path / "other")
        assert names(tmp_path / "other") == ["thing"]


def test_options_reach_the_reader(tmp_path: Path) -> None:
    pq.write_table(pa.table({"body": ["a b c d e f g", "a b c d e f g"], "key": [7, 8]}), tmp_path / "a.parquet")
    options = InputOptions(text_column="body", id_column="key")
    with LocalEngine(1) as engine:
        job.run(Job(inputs=(str(tmp_path / "a.parquet"),), output=tmp_path / "out", options=options), engine)
    (row,) = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    assert (row["id"], row["kept_id"], row["jaccard"]) == ("8", "7", 1.0)


def dies_before_writing(monkeypatch: pytest.MonkeyPatch, folder: Path, output: Path) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(job, "_write_duplicates", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            one_folder(folder, output)


def one_folder(folder: Path, output: Path, **settings: Any) -> dict[str, Any]:
    with LocalEngine(1) as engine:
        return job.run(Job(inputs=(str(folder),), output=output, parameters=CERTAIN, **settings), engine)


@pytest.fixture
def folder(tmp_path: Path, texts: list[str]) -> Path:
    """Python files of which a third are near duplicates."""
    (tmp_path / "src").mkdir()
    for number, text in enumerate(texts[:30]):
        (tmp_path / "src" / f"f{number:02}.py").write_text(text)
    return tmp_path / "src"


def names(path: Path) -> list[str]:
    return sorted(one.name for one in path.rglob("*") if one.is_file())


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_a_resumed_job_is_of_the_files_that_it_listed(
    where: str, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Files that came since, the job's own in the folder that it reads among them, once shifted all that follow."""
    one_folder(folder, tmp_path / "whole")
    output = tmp_path / "out" if where == "beside" else folder / "a" / "out"
    dies_before_writing(monkeypatch, folder, output)
    (folder / "f000.py").write_text("came later")
    one_folder(folder, output)
    assert (output / "duplicates.parquet").read_bytes() == (tmp_path / "whole" / "duplicates.parquet").read_bytes()
    kept = names(output / "kept")
    assert kept == names(tmp_path / "whole" / "kept")
    assert len(kept) < 30


def test_what_the_job_writes_is_none_of_its_inputs(folder: Path, tmp_path: Path) -> None:
    (folder / "data").mkdir()
    first = one_folder(folder, tmp_path / "1", index=folder / "index")
    (folder / "out").mkdir()
    second = one_folder(folder, folder / "out", index=folder / "index")
    assert (first["documents"], second["documents"], second["kept"]) == (30, 30, 0)
    pq.write_table(pa.table({"text": ["a b c d e f"]}), folder / "data" / "a.parquet")
    for name in ("1", "2"):  # a folder of data stays one
        assert one_folder(folder / "data", folder / "data" / name, write="nothing")["documents"] == 1
        shutil.rmtree(folder / "data" / name)


def test_files_that_go_while_they_are_read(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from codeshell.dedup import search

    real = search.sets_shard

    def goes(task: Any) -> Any:
        (folder / "f00.py").unlink()
        return real(task)

    monkeypatch.setattr(search, "sets_shard", goes)
    with pytest.raises(UserError, match="30 documents became 29; run again in a new output directory"):
        one_folder(folder, tmp_path / "out")


def test_inputs_without_a_file_touch_nothing(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    one_folder(folder, tmp_path / "done")
    (tmp_path / "project" / "work").mkdir(parents=True)
    (tmp_path / "project" / "work" / "thesis").write_text("x")
    before = names(tmp_path)
    for output in (tmp_path / "done", tmp_path / "project", tmp_path / "new"):
        with pytest.raises(UserError, match="no document in the inputs"):
            one_folder(tmp_path / "empty", output, index=tmp_path / "index")
    assert names(tmp_path) == before
    assert not (tmp_path / "new").exists() and not (tmp_path / "index").exists()


def test_names_that_are_not_utf8(texts: list[str], tmp_path: Path) -> None:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    (folder / os.fsdecode(b"\xff.py")).write_text(texts[0])
    (folder / "b.py").write_text(texts[0])
    one_folder(folder, tmp_path / "out")
    (row,) = pq.read_table(tmp_path / "out" / "duplicates.parquet").to_pylist()
    assert (row["id"].rsplit("/", 1)[1], row["kept_id"].rsplit("/", 1)[1]) == ("\\xff.py", "b.py")
    assert os.listdir(os.fsencode(tmp_path / "out" / "kept")) == [b"caf\xe9"]  # noqa: PTH208
    assert one_folder(folder, tmp_path / "again", index=tmp_path / "seen")["documents"] == 2


def test_an_order_of_no_documents(tmp_path: Path) -> None:
    pq.write_table(pa.table({"text": pa.array([None], pa.string()), "n": [1]}), tmp_path / "a.parquet")
    order = {"parameters": Parameters(keep_order="column:n"), "options": InputOptions(order_column="n")}
    with LocalEngine(1) as engine, pytest.raises(UserError, match="1 no_text"):
        job.run(Job((str(tmp_path / "a.parquet"),), tmp_path / "out", **order), engine)  # type: ignore[arg-type]
    assert names(tmp_path) == ["a.parquet"]
