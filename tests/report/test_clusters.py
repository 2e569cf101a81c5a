"""The cluster view of a run and of a `codeshell dedup`: counts by another way, the choice, hostile and lost texts."""

from __future__ import annotations

import dataclasses
import re
import shutil
import statistics
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import lxml.html
import numpy as np
import pyarrow as pa
import pytest
from helpers import browser
from helpers.dedup_output import SCHEMA, Drops, build, finish
from helpers.synthetic_run import HOSTILE, document, dropped, source
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.cli import main
from codeshell.documents.inputs import InputOptions
from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import DOCUMENTS, shard_path, write_rows
from codeshell.errors import UserError
from codeshell.report import dedup, read
from codeshell.report.clusters import (
    DRAWN,
    LARGEST,
    MARGIN,
    MEMBERS,
    Clusters,
    choose,
    cluster_view,
    likeness_counts,
    size_counts,
)
from codeshell.report.pairs import DedupPairs, RunPairs

PAIRS = st.lists(st.tuples(st.integers(0, 9), st.sampled_from([0.7, 0.75, 0.8, 0.9, 1.0, float("nan")])), max_size=60)


@given(PAIRS)
@settings(max_examples=150)
def test_sizes_and_ranges_are_those_of_plain_python(pairs: list[tuple[int, float]]) -> None:
    numbers = np.array([cluster for cluster, _ in pairs], np.int64)
    jaccard = np.array([value for _, value in pairs], np.float64)
    clusters = Clusters(numbers, jaccard)
    expected: dict[int, list[float]] = defaultdict(list)
    for cluster, value in pairs:
        expected[cluster].append(value)
    assert clusters.sizes.tolist() == [len(expected[cluster]) for cluster in sorted(expected)]
    for index, cluster in enumerate(sorted(expected)):
        known = sorted(value for value in expected[cluster] if value == value)
        found = (clusters.low[index], clusters.median[index], clusters.high[index])
        if known:
            assert found == pytest.approx((known[0], statistics.median(known), known[-1]))
        else:
            assert np.isnan(found).all()
        members = clusters.members(index, 3)
        assert (numbers[members] == cluster).all()
        assert [value for value in jaccard[members] if value == value] == known[:3]
        assert numbers[clusters.middle(index)] == cluster


@given(st.lists(st.integers(1, 10**6), max_size=40))
@settings(max_examples=50)
def test_every_cluster_is_in_one_row_of_sizes(sizes: list[int]) -> None:
    rows = size_counts(np.array(sizes, np.int64))
    assert sum(row["clusters"] for row in rows) == len(sizes)
    for row in rows:
        assert row["clusters"] == sum(row["low"] <= size <= row["high"] for size in sizes)


def test_likeness_is_counted_in_steps_from_the_threshold() -> None:
    values = np.array([0.72, 0.75, 0.799999, 0.95, 0.999, 1.0, 1.0, np.nan])
    rows = [(row["low"], row["high"], row["pairs"]) for row in likeness_counts(values, 0.72)]
    assert rows[:3] == [(0.72, 0.75, 1), (0.75, 0.8, 2), (0.8, 0.85, 0)]
    assert rows[-2:] == [(0.95, 1.0, 2), (1.0, 1.0, 2)]
    assert likeness_counts(np.array([np.nan]), 0.7) == []
    # A component may hold a pair below the threshold: it is counted, not hidden.
    assert likeness_counts(np.array([0.52]), 0.7)[0]["low"] == 0.52


def test_the_largest_then_two_draws_that_do_not_overlap() -> None:
    generator = np.random.default_rng(3)
    numbers = generator.integers(0, 300, 2000)
    clusters = Clusters(numbers, generator.uniform(0.7, 1.0, 2000))
    largest, close, ordinary = choose(clusters, 0.7)
    by_size = Counter(numbers.tolist()).most_common()
    assert sorted(clusters.sizes[largest].tolist()) == sorted(count for _, count in by_size[:LARGEST])
    assert len(close) == len(ordinary) == DRAWN
    assert len({*largest.tolist(), *close.tolist(), *ordinary.tolist()}) == LARGEST + 2 * DRAWN
    assert (clusters.low[close] < 0.7 + MARGIN).all() and (np.diff(clusters.low[close]) >= 0).all()
    assert [part.tolist() for part in choose(clusters, 0.7)] == [largest.tolist(), close.tolist(), ordinary.tolist()]
    # Not the first ones, nor the nearest: a draw.
    near = np.flatnonzero(clusters.low < 0.7 + MARGIN)
    assert sorted(close.tolist()) != np.setdiff1d(near, largest)[:DRAWN].tolist()
    # Nothing near the threshold: the lowest.
    rest = np.setdiff1d(np.arange(len(clusters.sizes)), largest)
    _, close, _ = choose(clusters, 0.1)
    assert close.tolist() == rest[np.argsort(clusters.low[rest])][:DRAWN].tolist()


def near_duplicates() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    documents = [document("r", f"p{index}.py", "python", f"text {index}\n") for index in range(30)]
    # Document 0 keeps 1 to 9, document 10 keeps 11 to 14, document 15 keeps 16.
    owners = [(0, range(1, 10)), (10, range(11, 15)), (15, range(16, 17))]
    rows = [
        dropped(documents[copy], "neardup", "near_duplicate", value=0.7 + copy / 100, limit=0.7, kept=documents[owner])
        for owner, copies in owners
        for copy in copies
    ]
    return documents, rows


def write_drops(run: Path, shards: list[list[dict[str, Any]]]) -> None:
    (run / "neardup").mkdir(parents=True)
    for index, rows in enumerate(shards):
        write_rows(shard_path(run / "neardup", "dropped", index), DROPPED, rows)


def write_documents(run: Path, documents: list[dict[str, Any]]) -> None:
    (run / "collect").mkdir()
    for index in range(3):
        part = documents[index * 10 : index * 10 + 10]
        write_rows(shard_path(run / "collect", "documents", index), DOCUMENTS, part)


def test_a_run_does_not_show_its_shards(tmp_path: Path) -> None:
    documents, rows = near_duplicates()
    results = []
    for name, shards in (("one", [rows]), ("three", [rows[::3], [], rows[1::3], rows[2::3]]), ("back", [rows[::-1]])):
        run = tmp_path / name
        write_drops(run, shards)
        write_documents(run, documents)
        pairs = RunPairs(run)
        closest = read.extreme_pairs(run, "neardup", [("value", "ascending"), ("id", "ascending")], 2)
        results.append((cluster_view(pairs), closest, read.examples(run, "neardup", 3)))
    assert results[0] == results[1] == results[2]
    view, closest, examples = results[0]
    assert (view["clusters"], view["pairs"]) == (3, 14)
    (group,) = view["groups"]
    first = group["entries"][0]
    assert [(entry.size, entry.kept.path, entry.shown.path) for entry in group["entries"]] == [
        (9, "p0.py", "p1.py"),
        (4, "p10.py", "p11.py"),
        (1, "p15.py", "p16.py"),
    ]
    assert (first.low, first.median, first.high) == pytest.approx((0.71, 0.75, 0.79))
    assert [pair.dropped.path for pair in first.members] == [f"p{index}.py" for index in range(1, 10)]
    # The kept document's language and size are known from its text alone.
    assert (first.kept.language, first.kept.bytes, first.kept.repo) == ("python", len("text 0\n"), "r")
    assert first.diff is not None and first.diff.changed == 1
    assert [row["path"] for row in closest] == ["p1.py", "p11.py"], "one pair per cluster"
    assert len(examples["near_duplicate"]) == 3


def test_documents_come_from_any_shard(tmp_path: Path) -> None:
    documents, _ = near_duplicates()
    write_documents(tmp_path, documents)
    wanted = {documents[index]["id"]: documents[index] for index in (0, 19, 29)}
    found = read.documents(tmp_path, {*wanted, "0" * 32})
    names = ("id", "text", "language", "bytes")
    assert found == {key: {name: row[name] for name in names} for key, row in wanted.items()}


def test_rows_come_from_any_row_group(tmp_path: Path) -> None:
    path = tmp_path / "rows.parquet"
    pa.parquet.write_table(pa.table({"number": range(100)}), path, row_group_size=7)
    for wanted in ([], [0], [6, 7], [0, 13, 14, 50, 99], list(range(100))):
        assert [row["number"] for row in read.parquet_rows(path, np.array(wanted, np.int64))] == wanted


def text_of(page: str, section: str = "duplicates") -> str:
    return re.sub(r"\s+", " ", lxml.html.fromstring(page).get_element_by_id(section).text_content())


def collection(kind: str) -> tuple[list[tuple[str, str]], Drops]:
    """Sources by topic: of topics 0 to 29 three copies each, and one hostile pair."""
    documents, drops = [], {}
    for topic in range(30):
        for copy in range(3):
            documents.append((f"package_{topic}/copy_{copy}/module.py", source(topic, 2 * copy)))
            if copy:
                drops[3 * topic + copy] = (3 * topic, 0.99 - 0.09 * copy - 0.003 * topic)
    documents += [(f"{HOSTILE}a", f"{HOSTILE}\n" * 5 + "\x1b[31m\n"), (f"{HOSTILE}b", f"{HOSTILE}\n" * 4 + "\x07\n")]
    drops[91] = (90, 0.7001)
    return documents, drops


@pytest.mark.parametrize("kind", ["parquet", "jsonl", "files"])
def test_the_page_of_a_dedup(tmp_path: Path, kind: str) -> None:
    output = build(tmp_path, *collection(kind), kind=kind)
    assert main(["report", str(output)]) == 0
    page = (output / "report.html").read_text(encoding="utf-8")
    assert page == dedup.render(output), "the same files give the same page"
    assert len(page.encode()) < 1_000_000
    text = text_of(page)
    assert "package_3/copy_0/module.py" in text and "# revision" in text
    assert "Largest clusters" in text and "Closest calls" in text and "A fair draw" in text
    assert DedupPairs.absent not in text
    header = lxml.html.fromstring(page).xpath("//body/header")[0].text_content()
    assert "92 documents from 1 input" in header and "61 documents" in header and "2.0 s" in header
    assert "MB of text per second" in header
    assert "keep_order" in text_of(page, "job") and "left_out.empty" in text_of(page, "job")
    assert "row 90 of in.parquet" in text or kind != "parquet"
    # The hostile names and texts are shown, and dead.
    for dead in ("<img", "<script>alert", "\u202e", "\x1b", "\x07"):
        assert dead not in page
    assert HOSTILE.replace("\u202e", "[U+202E]") in text and "[U+001B][31m" in text and "[U+0007]" in text
    tree = lxml.html.fromstring(page)
    assert len(tree.xpath("//script")) == 2 and not tree.xpath("//@src") and not tree.xpath("//@style")


def test_texts_that_are_gone_or_changed(tmp_path: Path) -> None:
    documents, drops = collection("parquet")
    output = build(tmp_path, documents, drops)
    entries = [entry for group in cluster_view(DedupPairs(output))["groups"] for entry in group["entries"]]
    assert all(entry.diff for entry in entries)
    path = tmp_path / "in.parquet"
    shorter = pa.parquet.read_table(path).slice(0, 2)
    for change in (
        lambda: path.write_bytes(path.read_bytes() + b"more"),
        lambda: pa.parquet.write_table(shorter, path),
        path.unlink,
    ):
        change()
        text = text_of(dedup.render(output))
        assert text.count(DedupPairs.absent) == len(entries)
        assert "package_3/copy_0/module.py" in text


def test_one_file_of_many_is_gone(tmp_path: Path) -> None:
    documents = [("a.py", source(1)), ("b.py", source(1, 1)), ("c.py", source(2)), ("d.py", source(2, 1))]
    output = build(tmp_path, documents, {1: (0, 0.9), 3: (2, 0.9)}, kind="files")
    (tmp_path / "code" / "b.py").unlink()
    first, second = cluster_view(DedupPairs(output))["groups"][0]["entries"]
    assert first.diff is None and first.kept.bytes == len(source(1))
    assert second.diff is not None and second.kept.language == "python"


def test_nothing_was_dropped(tmp_path: Path, run: Path) -> None:
    output = build(tmp_path, [("a.py", "one\n"), ("b.py", "two\n")], {})
    assert "No near duplicates were found." in text_of(dedup.render(output))
    without = tmp_path / "run"
    shutil.copytree(run, without)
    for path in (without / "neardup").glob("dropped-*.parquet"):
        write_rows(path, DROPPED, [])
    from codeshell.report.run_page import render

    assert "No near duplicates were found." in text_of(render(without))


def test_a_kept_document_of_the_index_and_no_jaccard(tmp_path: Path) -> None:
    output = build(tmp_path, [("a.py", "one\n"), ("b.py", "two\n")], {0: (1, None), 1: (0, None)})
    table = pa.parquet.read_table(output / "duplicates.parquet").to_pylist()
    rows = [row | {"kept_shard": None, "kept_row": None} for row in table]
    pa.parquet.write_table(pa.Table.from_pylist(rows, SCHEMA), output / "duplicates.parquet")
    view = cluster_view(DedupPairs(output))
    entries = view["groups"][0]["entries"]
    assert [(entry.jaccard, entry.low, entry.diff) for entry in entries] == [(None, None, None)] * 2
    assert view["likeness"] == []
    assert "known from the index" in text_of(dedup.render(output))


def test_a_cluster_of_100_000(tmp_path: Path) -> None:
    count = 100_000
    numbers = np.arange(1, count + 1)
    table = pa.table(
        {
            "id": pc_strings(numbers),
            "kept_id": pa.repeat("0.py", count),
            "jaccard": 1 - numbers / (4 * count),
            "cluster_id": pa.repeat(0, count),
            "cluster_size": pa.repeat(count + 1, count),
            "shard": pa.repeat(0, count),
            "row": numbers,
            "kept_shard": pa.repeat(0, count),
            "kept_row": pa.repeat(0, count),
        }
    ).cast(SCHEMA)
    files = [{"path": str(tmp_path / "gone"), "kind": "files", "name": "gone", "stamp": [0, 0]}]
    output = finish(tmp_path, table, files, dataclasses.asdict(InputOptions()), {"documents": count + 1})
    page = dedup.render(output)
    text = text_of(page)
    assert "100,000 dropped" in text and f"The {MEMBERS} least alike of the 100,000 dropped documents" in text
    assert "And 99,950 more." in text and "65,537 to 131,072" in text and "Jaccard 0.750 to 1.000, median 0.875" in text
    assert "100000.py" in text and ">99949.py" not in page and len(page.encode()) < 100_000


def pc_strings(numbers: Any) -> pa.Array:
    return pa.array([f"{number}.py" for number in numbers.tolist()])


def test_not_a_finished_dedup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = build(tmp_path, [("a.py", "one\n"), ("b.py", "two\n")], {1: (0, 1.0)})
    with pytest.raises(UserError, match=r"no job\.json"):
        DedupPairs(tmp_path)
    for damage, message in ((b"PAR1 damaged", "not a readable Parquet file"), (None, "has not finished")):
        path = output / "duplicates.parquet"
        path.write_bytes(damage) if damage else path.unlink()
        assert main(["report", str(output)]) == 2
        error = capsys.readouterr().err
        assert message in error and error.count("\n") == 1
    pa.parquet.write_table(pa.table({"id": ["a"]}), output / "duplicates.parquet")
    assert main(["report", str(output)]) == 2
    assert "no column cluster_id" in capsys.readouterr().err


@pytest.mark.parametrize("width", [1280, 390])
def test_in_a_browser(tmp_path: Path, width: int) -> None:
    program = browser.find()
    if program is None:
        pytest.skip(f"no Chromium: none of {', '.join(browser.NAMES)} is on PATH; the page was not seen by a browser")
    output = build(tmp_path, *collection("parquet"))
    dedup.write(output, output / "report.html")
    with browser.start(program) as tab:
        tab.open(output / "report.html", width=width)
        tab.evaluate("document.querySelector('[data-open=duplicates]').click()")
        tab.evaluate("document.querySelectorAll('details.more').forEach((one) => { one.open = true; })")
        seen = "[...document.querySelectorAll('.pair .diff')].filter((one) => one.checkVisibility()).length"
        assert tab.evaluate(seen) == tab.evaluate("document.querySelectorAll('.pair').length") > 0
        assert tab.evaluate("document.documentElement.scrollWidth") == width
        assert tab.problems == []
        assert [url for url in tab.requests if not url.startswith(("data:", "file:", "about:"))] == []
