"""`codeshell explain` of a dedup's output, and its diffs; tests/documents/test_provenance.py has the rest."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from helpers.dedup_output import build

from codeshell.cli import main
from codeshell.documents.provenance import DROPPED
from codeshell.documents.shards import DOCUMENTS, document_id, shard_path, write_rows

LINES = [f"line {number} of a file that is long enough" for number in range(30)]
TEXT = "\n".join(LINES) + "\n"
NEAR = TEXT.replace("line 7 of", "line seven of")
EVIL = "\x1b]0;taken\x07\u202egnp.exe"
"""Sets a terminal's title, and reads backwards."""


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """One cluster of 26 around `lib/a.py`, one pair with hostile texts and names, and documents like no other."""
    documents = [("lib/a.py", TEXT), ("lib/alone.py", "nothing like it\n"), ("other/b.py", NEAR)]
    documents += [(f"copies/{number:02}/a_copy.py", TEXT + f"# {number}\n") for number in range(24)]
    documents += [(f"evil/{EVIL}\n1", f"{EVIL}\nx\n"), (f"evil/{EVIL}\n2", f"{EVIL}\ny\n")]
    drops = {2: (0, 0.91)} | {3 + number: (0, 0.99 - number / 1000) for number in range(24)} | {28: (27, 0.8)}
    return build(tmp_path, documents, drops)


def say(capsys: pytest.CaptureFixture[str], *arguments: object) -> list[str]:
    assert main(["explain", *map(str, arguments)]) == 0
    captured = capsys.readouterr()
    assert captured.err == ""
    return captured.out.removesuffix("\n").split("\n")


def complaint(capsys: pytest.CaptureFixture[str], *arguments: object) -> str:
    assert main(["explain", *map(str, arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    return captured.err


@pytest.mark.parametrize("key", ["other/b.py", "b.py", "er/b", "/b."])
def test_a_dropped_document_by_its_id_or_a_part(output: Path, capsys: pytest.CaptureFixture[str], key: str) -> None:
    assert say(capsys, key, "--dedup", output) == [
        "other/b.py",
        "  dropped  Jaccard 0.9100 against a threshold of 0.7",
        "  in favour of  lib/a.py",
        "  cluster  of 26 documents, of which one stays (keep order: first)",
    ]


def test_a_kept_document_lists_the_most_alike(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = say(capsys, "a.py", "--dedup", output)
    assert lines[:3] == [
        "lib/a.py",
        "  kept     25 documents dropped for it by a threshold of 0.7 (keep order: first)",
        "    Jaccard 0.9900  copies/00/a_copy.py",
    ]
    assert len(lines) == 2 + 20 + 1
    assert lines[-1] == "    and 5 more"
    assert "b.py" not in "\n".join(lines), "the least alike is not among the first 20"


def test_a_kept_document_that_nothing_resembles(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "lib/alone.py", "--dedup", output)
    assert "it stayed and resembles no other; near it: lib/a.py" in line
    # With --ids-only the ids of all that stays are there.
    pq.write_table(pa.table({"id": ["lib/a.py", "lib/alone.py"]}), output / "kept.parquet")
    assert say(capsys, "alone.py", "--dedup", output) == [
        "lib/alone.py",
        "  kept     resembles no other document by a threshold of 0.7",
    ]


def test_the_diff_is_that_of_the_texts(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = say(capsys, "other/b.py", "--dedup", output, "--diff")[4:]
    assert lines[:3] == ["--- lib/a.py (kept)", "+++ other/b.py (dropped)", "@@ -5,7 +5,7 @@"]
    assert [line for line in lines[3:] if line[0] in "+-"] == [f"-{LINES[7]}", "+line seven of" + LINES[7][9:]]
    assert say(capsys, "lib/a.py", "--dedup", output, "--diff")[-1] == "  no diff: no two texts to compare here"
    (output.parent / "in.parquet").unlink()
    assert say(capsys, "other/b.py", "--dedup", output, "--diff")[4:] == ["  no diff: no two texts to compare here"]


def test_foreign_text_does_not_reach_the_terminal(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shown = EVIL.replace("\x1b", "[U+001B]").replace("\x07", "[U+0007]").replace("\u202e", "[U+202E]")
    for lines in (say(capsys, "exe\n2", "--dedup", output, "--diff"), say(capsys, "exe\n1", "--dedup", output)):
        text = "\n".join(lines)
        assert not {"\x1b", "\x07", "\u202e"} & set(text)
        assert lines[0].startswith(f"evil/{shown}[U+000A]")
    line = complaint(capsys, "evil/", "--dedup", output)
    assert "2 documents fit" in line and "\x1b" not in line


def test_json(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (line,) = say(capsys, "other/b.py", "--dedup", output, "--json", "--diff")
    answer = json.loads(line)
    assert answer.pop("diff").startswith("--- lib/a.py")
    assert answer == {
        "status": "dropped",
        "id": "other/b.py",
        "threshold": 0.7,
        "keep_order": "first",
        "kept_id": "lib/a.py",
        "jaccard": 0.91,
        "cluster_size": 26,
    }
    (line,) = say(capsys, "lib/a.py", "--dedup", output, "--json")
    answer = json.loads(line)
    assert (answer["status"], answer["dropped_for_it"], len(answer["most_alike"])) == ("kept", 25, 20)


def test_a_key_that_fits_none_or_many(output: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = complaint(capsys, "a_copy.py", "--dedup", output)
    assert "24 documents fit: copies/00/a_copy.py" in line and "and 19 more" in line
    line = complaint(capsys, "copies/07/a_cop.py", "--dedup", output)
    assert "near it: copies/" in line and "copies/07/a_copy.py" in line
    for key in ("zzzzzz", "\u202e", "\udcff"):
        line = complaint(capsys, key, "--dedup", output)
        assert "neither dropped nor kept" in line or "2 documents fit" in line
        assert "\u202e" not in line and "near it" not in line
    assert "no job.json" in complaint(capsys, "a.py", "--dedup", tmp_path)


def test_an_id_that_occurs_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    documents = [("a", TEXT), ("b", "second text\n"), ("same", NEAR), ("same", "second text!\n")]
    output = build(tmp_path, documents, {2: (0, 0.9), 3: (1, 0.75)})
    text = "\n".join(say(capsys, "same", "--dedup", output))
    assert "in favour of  a\n" in text and "in favour of  b\n" in text


def test_the_diff_of_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def row(path: str, text: str) -> dict[str, object]:
        data = text.encode()
        named = {"id": document_id(data), "repo": EVIL, "path": path, "language": "python", "bytes": len(data)}
        return named | {"text": text}

    kept, lost, binary = row("a.py", TEXT), row("b.py", NEAR), row("c.bin", "")
    for name in ("collect", "neardup"):
        (tmp_path / name).mkdir()
    write_rows(shard_path(tmp_path / "collect", "documents", 0), DOCUMENTS, [kept, lost])
    reason = {"stage": "neardup", "rule": "near_duplicate", "value": 0.9, "limit": 0.7}
    reason |= {"kept_id": kept["id"], "kept_repo": EVIL, "kept_path": "a.py"}
    drops = [{name: (lost | reason).get(name) for name in DROPPED.names}]
    drops += [{name: (binary | {"stage": "collect", "rule": "binary"}).get(name) for name in DROPPED.names}]
    write_rows(shard_path(tmp_path / "neardup", "dropped", 0), DROPPED, drops)
    lines = say(capsys, "b.py", "--run", tmp_path, "--diff")
    text = "\n".join(lines)
    assert "--- a.py (kept)" in lines and "+line seven of" + LINES[7][9:] in lines
    assert "\x1b" not in text and "[U+001B]" in text
    assert say(capsys, "c.bin", "--run", tmp_path, "--diff")[-1] == "  no diff: no two texts to compare here"
    (line,) = [line for line in say(capsys, "b.py", "--run", tmp_path, "--diff", "--json") if "near_duplicate" in line]
    assert json.loads(line)["diff"].startswith("--- a.py")
    shard_path(tmp_path / "collect", "documents", 0).unlink()
    assert say(capsys, "b.py", "--run", tmp_path, "--diff")[-1] == "  no diff: no two texts to compare here"


def test_an_empty_key_and_a_damaged_plan(output: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "ID-OR-PATH: it is empty" in complaint(capsys, "", "--dedup", output)
    (output / "plan.json").write_text("[]")
    assert "plan.json: not a plan of codeshell dedup" in complaint(capsys, "b.py", "--dedup", output, "--diff")
