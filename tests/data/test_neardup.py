"""The near-duplicate stage: what it writes, and that shards, workers and kills change nothing."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.corpus_builder import build, edited, stdlib_texts

from codeshell.data import neardup
from codeshell.dedup import find_duplicates, jaccard, search
from codeshell.documents.provenance import DROPPED, find
from codeshell.documents.shards import KEPT, list_shards
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import NearDedup, Recipe


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str, str]]:
    texts = list(dict.fromkeys(stdlib_texts(120, largest=20_000)))
    texts += [edited(text, 0.02, i) for i, text in enumerate(texts[:60])]
    texts = list(dict.fromkeys(texts))
    random.Random(1).shuffle(texts)
    return [(f"repo{i % 7}", f"src/file{i}.py", text) for i, text in enumerate(texts)]


def rows(run: Path, name: str) -> list[dict[str, Any]]:
    return [row for path in list_shards(run / "neardup", name) for row in pq.read_table(path).to_pylist()]


def test_the_stage_is_find_duplicates(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    texts = [text for _, _, text in documents]
    run = build(tmp_path / "run", documents, shards=3)
    stats = neardup.run(Recipe(seed=4), run, LocalEngine(1))
    expected = find_duplicates(texts, seed=4).to_pylist()
    assert len(expected) > 30
    gone = {row["index"] for row in expected}
    dropped, kept = rows(run, "dropped"), rows(run, "kept")
    assert [(row["path"], row["kept_path"], row["value"]) for row in dropped] == [
        (documents[row["index"]][1], documents[row["kept_index"]][1], row["jaccard"]) for row in expected
    ]
    assert [row["path"] for row in kept] == [path for i, (_, path, _) in enumerate(documents) if i not in gone]
    assert all(pq.read_schema(path).equals(KEPT) for path in list_shards(run / "neardup", "kept"))
    assert all(pq.read_schema(path).equals(DROPPED) for path in list_shards(run / "neardup", "dropped"))
    by_path = {path: text for _, path, text in documents}
    for row in dropped:
        assert (row["stage"], row["rule"]) == ("neardup", "near_duplicate")
        assert row["value"] == jaccard(by_path[row["path"]], by_path[row["kept_path"]]) >= row["limit"] == 0.7
        assert row["kept_repo"] == next(repo for repo, path, _ in documents if path == row["kept_path"])
        assert row["kept_id"] in {other["id"] for other in kept}
        assert find(run, row["id"])[1] == [row]

    assert stats["in"] == {"documents": len(texts), "bytes": sum(len(text.encode()) for text in texts)}
    assert stats["kept"] == {"documents": len(kept), "bytes": sum(row["bytes"] for row in kept)}
    assert stats["dropped"]["near_duplicate"] == {
        "documents": len(dropped),
        "bytes": sum(row["bytes"] for row in dropped),
    }
    assert stats["by_language"] == {"Python": stats["kept"]}
    sizes = [sum(row["kept_id"] == one for row in dropped) for one in {row["kept_id"] for row in dropped}]
    assert (stats["clusters"], stats["largest_cluster"]) == (len(sizes), max(sizes) + 1)
    assert stats["candidate_pairs"] >= stats["verified_pairs"] >= len(dropped)


def test_shards_and_workers_change_nothing(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    found = []
    for shards, workers in ((1, 1), (4, 2), (len(documents), 1)):
        run = build(tmp_path / f"run{shards}", documents, shards=shards)
        stats = neardup.run(Recipe(), run, LocalEngine(workers))
        kept = [{**row, "shard": 0, "row": 0} for row in rows(run, "kept")]
        found.append((stats, kept, rows(run, "dropped")))
    assert found[0] == found[1] == found[2]


def test_a_killed_stage_goes_on(
    documents: list[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed while signing and while writing, then run again: the bytes of an undisturbed run."""
    whole, broken = (build(tmp_path / name, documents, shards=4) for name in ("whole", "broken"))
    expected = neardup.run(Recipe(), whole, LocalEngine(1))

    class Killed(BaseException):
        pass

    for module, function in ((search, "sign_shard"), (neardup, "write_table")):
        real, calls = getattr(module, function), iter(range(100))

        def dies(*arguments: Any, real: Any = real, calls: Any = calls, **more: Any) -> Any:
            if next(calls) == 2:
                raise Killed
            return real(*arguments, **more)

        with monkeypatch.context() as patched, pytest.raises(Killed):
            patched.setattr(module, function, dies)
            neardup.run(Recipe(), broken, LocalEngine(1))
    assert (broken / "neardup" / "work" / "sign-00003.json").exists()
    assert neardup.run(Recipe(), broken, LocalEngine(1)) == expected
    names = sorted(path.name for path in (whole / "neardup").iterdir())
    assert names == sorted(path.name for path in (broken / "neardup").iterdir())
    for name in names:
        assert (whole / "neardup" / name).read_bytes() == (broken / "neardup" / name).read_bytes()


def test_turned_off_it_passes_everything_on(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    run = build(tmp_path / "run", documents, shards=2)
    stats = neardup.run(Recipe(near_dedup=NearDedup(enabled=False)), run, LocalEngine(1))
    assert stats["kept"] == stats["in"]
    assert stats["dropped"] == {"near_duplicate": {"documents": 0, "bytes": 0}}
    assert len(rows(run, "kept")) == len(documents)
    assert rows(run, "dropped") == []


def test_an_empty_shard_and_an_empty_corpus(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    run = build(tmp_path / "some", documents[:3], shards=5)
    assert neardup.run(Recipe(), run, LocalEngine(1))["kept"]["documents"] == 3
    run = build(tmp_path / "none", [])
    stats = neardup.run(Recipe(), run, LocalEngine(1))
    assert (stats["in"], stats["clusters"], stats["largest_cluster"]) == ({"documents": 0, "bytes": 0}, 0, 0)


def test_bad_input(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="run the filter stage first"):
        neardup.run(Recipe(), tmp_path, LocalEngine(1))
    run = build(tmp_path / "run", documents[:2])
    with pytest.raises(UserError, match="near_dedup: bands"):
        neardup.run(Recipe(near_dedup=NearDedup(bands=100_000)), run, LocalEngine(1))
