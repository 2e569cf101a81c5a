"""The split by repository and the leak, against brute force."""

from __future__ import annotations

import random
import shutil
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from helpers.corpus_builder import build, edited, stdlib_texts
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.data import split
from codeshell.dedup import jaccard
from codeshell.documents.provenance import find
from codeshell.documents.shards import DOCUMENTS, list_shards, read_table
from codeshell.engine import LocalEngine
from codeshell.errors import UserError
from codeshell.recipe import Collect, NearDedup, Recipe, Split

SIZES = st.dictionaries(st.text("abcxyz/-", min_size=1, max_size=6), st.integers(1, 10**9), min_size=3, max_size=60)
SHARES = st.tuples(st.floats(0, 0.49), st.floats(0, 0.49))


@settings(max_examples=200, deadline=None)
@given(SIZES, SHARES, st.integers(0, 2**40))
def test_assignment(sizes: dict[str, int], shares: tuple[float, float], seed: int) -> None:
    """Every repository is in one split, no wanted split is empty, and a split stays within its share of the bytes
    unless it is one repository, the smallest that was left."""
    wanted = Split(valid=shares[0], test=shares[1])
    splits = split.assign(sizes, wanted, seed)
    assert set(splits) == set(sizes)
    assert "train" in splits.values()
    total = sum(sizes.values())
    taken: set[str] = set()
    for name in ("test", "valid"):
        repos = {repo for repo, one in splits.items() if one == name}
        share = getattr(wanted, name)
        assert bool(repos) == (share > 0)
        if sum(sizes[repo] for repo in repos) > share * total:
            assert len(repos) == 1
            assert sizes[repos.pop()] == min(size for repo, size in sizes.items() if repo not in taken)
        taken |= {repo for repo, one in splits.items() if one == name}
    shuffled = list(sizes.items())
    random.Random(seed).shuffle(shuffled)
    assert split.assign(dict(shuffled), wanted, seed) == splits


def test_assignment_depends_on_the_seed_and_fills_the_shares() -> None:
    sizes = {f"repo{i}": 100 + i for i in range(500)}
    first, second = (split.assign(sizes, Split(valid=0.05, test=0.1), seed) for seed in (1, 2))
    assert first != second
    for name, share in (("test", 0.1), ("valid", 0.05)):
        taken = sum(size for repo, size in sizes.items() if first[repo] == name) / sum(sizes.values())
        assert share - 0.003 < taken <= share


@pytest.mark.parametrize(
    ("count", "shares", "message"),
    [
        (1, Split(), r"only one repository \(repo0\) for train and test and valid; .*split.test=0 and split.valid=0"),
        (2, Split(), "only 2 repositories for train and test and valid"),
        (1, Split(valid=0.0), "only one repository .* for train and test; .*split.test=0"),
        (1, Split(), "add inputs, set split.unit=file, or turn splits off"),
        (1, Split(unit="file"), r"only 1 file for train and test and valid; add inputs, or turn splits off"),
        (5, Split(valid=0.5, test=0.5), "leave nothing to train on"),
    ],
)
def test_impossible_splits(count: int, shares: Split, message: str) -> None:
    with pytest.raises(UserError, match=message):
        split.assign({f"repo{i}": 10 for i in range(count)}, shares, 0)


def test_no_split_is_asked_for() -> None:
    assert split.assign({"only": 5}, Split(valid=0.0, test=0.0), 0) == {"only": "train"}
    assert set(split.assign({"a": 5, "b": 5}, Split(valid=0.0, test=0.1), 0).values()) == {"train", "test"}


@pytest.fixture(scope="module")
def documents() -> list[tuple[str, str, str]]:
    """30 repositories; every third document is an edited copy of one in some other repository, so there is a leak."""
    texts = list(dict.fromkeys(stdlib_texts(160, largest=12_000)))
    choice = random.Random(3)
    texts += [edited(choice.choice(texts), 0.01 * choice.randrange(1, 9), i) for i in range(80)]
    return [(f"repo{choice.randrange(30)}", f"file{i}.py", text) for i, text in enumerate(dict.fromkeys(texts))]


RECIPE = Recipe(split=Split(valid=0.1, test=0.15), collect=Collect(shard_bytes=200_000))


def curated(run: Path) -> dict[str, list[dict[str, Any]]]:
    return {
        name: [row for path in list_shards(run / "curated", name) for row in pq.read_table(path).to_pylist()]
        for name in ("train", "valid", "test", "dropped")
    }


def test_the_leak_is_exact_and_removed(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    run = build(tmp_path / "run", documents, shards=4, stage="neardup")
    stats = split.run(RECIPE, run, LocalEngine(1))
    rows = curated(run)
    by_path = {path: text for _, path, text in documents}
    names = split.assign(
        {repo: sum(len(text.encode()) for one, _, text in documents if one == repo) for repo, _, _ in documents},
        RECIPE.split,
        RECIPE.seed,
    )
    train = [(path, text) for repo, path, text in documents if names[repo] == "train"]
    exact = {
        path: max((jaccard(text, other), -i, where) for i, (where, other) in enumerate(train))
        for repo, path, text in documents
        if names[repo] != "train"
    }
    leaks = {path for path, (value, _, _) in exact.items() if value >= 0.7}
    assert len(leaks) > 3
    assert {row["path"] for row in rows["dropped"]} == leaks
    for row in rows["dropped"]:
        assert (row["stage"], row["rule"], row["limit"]) == ("split", "near_duplicate_of_train", 0.7)
        assert (row["value"], row["kept_path"]) == (exact[row["path"]][0], exact[row["path"]][2])
        assert find(run, row["id"])[1] == [row]

    # every document is in one place, in the input's order, its text unharmed
    for name in ("train", "valid", "test"):
        assert [row["path"] for row in rows[name]] == [
            path for repo, path, _ in documents if names[repo] == name and path not in leaks
        ]
        assert all(row["text"] == by_path[row["path"]] for row in rows[name])
        assert all(pq.read_schema(path).equals(DOCUMENTS) for path in list_shards(run / "curated", name))
        summary = {
            "documents": len(rows[name]),
            "bytes": sum(row["bytes"] for row in rows[name]),
            "repos": len({row["repo"] for row in rows[name]}),
        }
        assert stats["splits"][name] == summary
    assert len(list_shards(run / "curated", "train")) > 2

    for name in ("valid", "test"):
        values = [value for path, (value, _, _) in exact.items() if names[dict_repo(documents)[path]] == name]
        left = [value for value in values if value < 0.7]
        for when, part in (("before", values), ("after", left)):
            assert stats["leak"][when][name] == {
                "documents": sum(value >= 0.7 for value in part),
                "share": sum(value >= 0.7 for value in part) / len(part),
                "share_at_half": sum(value >= 0.5 for value in part) / len(part),
                "max_jaccard": max(part),
            }
    assert stats["in"]["documents"] == stats["kept"]["documents"] + len(leaks) == len(documents)
    assert stats["dropped"] == {
        "near_duplicate_of_train": {"documents": len(leaks), "bytes": sum(row["bytes"] for row in rows["dropped"])}
    }


def dict_repo(documents: list[tuple[str, str, str]]) -> dict[str, str]:
    return {path: repo for repo, path, _ in documents}


def test_shards_workers_and_kills_change_nothing(
    documents: list[tuple[str, str, str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = None
    for shards, workers in ((1, 1), (5, 3), (40, 2)):
        run = build(tmp_path / f"run{shards}", documents, shards=shards, stage="neardup")
        if shards == 40:
            calls = iter(range(100))
            real = split.write_table

            def dies(*arguments: Any, real: Any = real, calls: Any = calls) -> Any:
                if next(calls) == 3:
                    raise KeyboardInterrupt
                return real(*arguments)

            with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
                patched.setattr(split, "write_table", dies)
                split.run(RECIPE, run, LocalEngine(1))
        stats = split.run(RECIPE, run, LocalEngine(workers))
        files = {path.name: path.read_bytes() for path in (run / "curated").iterdir()}
        expected = expected or (stats, files)
        assert (stats, files) == expected


def test_everything_trains_when_the_shares_are_zero(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    run = build(tmp_path / "run", [("only", path, text) for _, path, text in documents], stage="neardup")
    stats = split.run(Recipe(split=Split(valid=0.0, test=0.0)), run, LocalEngine(1))
    assert stats["splits"]["train"]["documents"] == len(documents)
    assert stats["splits"]["test"] == {"documents": 0, "bytes": 0, "repos": 0}
    assert stats["leak"]["before"]["test"]["max_jaccard"] == 0.0
    rows = curated(run)
    assert len(rows["train"]) == len(documents)
    assert rows["dropped"] == rows["test"] == []
    assert list_shards(run / "curated", "test") == []


def test_by_file_one_repository_is_enough(documents: list[tuple[str, str, str]], tmp_path: Path) -> None:
    """Every document is in one split or dropped as a leak, the shares are kept, and none resembles what trains."""
    run = build(tmp_path / "run", [("only", path, text) for _, path, text in documents], stage="neardup")
    recipe = Recipe(split=Split(valid=0.1, test=0.15, unit="file"), collect=RECIPE.collect)
    stats = split.run(recipe, run, LocalEngine(1))
    rows = curated(run)
    paths = [row["path"] for some in rows.values() for row in some]
    assert sorted(paths) == sorted(path for _, path, _ in documents)
    train = [row["text"] for row in rows["train"]]
    held = rows["valid"] + rows["test"]
    assert rows["valid"] and rows["test"] and rows["dropped"]
    assert all(max(jaccard(row["text"], text) for text in train) < 0.7 for row in held)
    for name, share in (("valid", 0.1), ("test", 0.15)):
        assert 0 < stats["splits"][name]["bytes"] <= share * stats["in"]["bytes"]


def test_bad_input(tmp_path: Path) -> None:
    run = build(tmp_path / "empty", [], stage="neardup")
    with pytest.raises(UserError, match="no document is left"):
        split.run(RECIPE, run, LocalEngine(1))
    run = build(tmp_path / "one", [("a", "x.py", "x = 1"), ("a", "y.py", "y = 2")], stage="neardup")
    with pytest.raises(UserError, match="only one repository"):
        split.run(RECIPE, run, LocalEngine(1))
    text = "one two three four five six seven"
    same = [(f"repo{i}", f"{i}.py", text + "\n" * i) for i in range(4)]
    run = build(tmp_path / "copies", same, stage="neardup")
    with pytest.raises(UserError, match=r"split.test: every held-out document resembles a training one"):
        split.run(Recipe(near_dedup=NearDedup(enabled=False)), run, LocalEngine(1))


def test_secrets_are_replaced_in_every_split_and_counted(tmp_path: Path) -> None:
    """The ids stay those of what was collected; the sizes are those of the new texts."""
    documents = [
        (f"r{at}", f"{at}.py", f"NAME_{at} = {at}\nmail = 'person.{at}@mail-host.org'\nvalue_{at} = {at * 7919}\n")
        for at in range(12)
    ]
    run = build(tmp_path / "run", documents, shards=2, stage="neardup")
    plain = split.run(Recipe(split=Split(valid=0.2, test=0.2)), run, LocalEngine(1))
    before = {row["id"]: row for path in (run / "curated").glob("*-0*.parquet") for row in read_table(path).to_pylist()}
    shutil.rmtree(run / "curated")
    wanted = Split(valid=0.2, test=0.2, redact=("emails",))
    stats = split.run(Recipe(split=wanted), run, LocalEngine(1))
    assert stats == plain | {"replaced": {"emails": 12}}
    names = [name for name in ("train", "valid", "test") for path in list_shards(run / "curated", name)]
    assert set(names) == {"train", "valid", "test"}
    found = [
        row
        for name in set(names)
        for path in list_shards(run / "curated", name)
        for row in read_table(path).to_pylist()
    ]
    assert len(found) == 12
    for row in found:
        assert "@" not in row["text"] and "<EMAIL>" in row["text"]
        assert row["bytes"] == len(row["text"].encode()) != before[row["id"]]["bytes"]
        assert "@" in before[row["id"]]["text"]
