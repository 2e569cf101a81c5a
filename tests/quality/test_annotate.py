"""Annotation whole: labels, journal, resuming, bad answers, batch files, agreement, against a server of our own."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import scipy.stats
from helpers.chat_server import GOOD, Reply, Server, completion, good, serve

from codeshell.cli import quality_annotate
from codeshell.errors import UserError
from codeshell.quality import annotate, prompts
from codeshell.quality.agreement import compare
from codeshell.quality.journal import Journal


def main(*arguments: str | Path) -> int:
    import argparse

    parser = argparse.ArgumentParser()
    quality_annotate.add_arguments(parser)
    return quality_annotate.main(parser.parse_args(list(map(str, arguments))))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    records = [
        {"id": f"d{n}", "repo": f"r{n % 3}", "path": f"f{n}.py", "language": "python", "text": f"x = {n}\n" * (n + 1)}
        for n in range(8)
    ]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    return path


def number(body: dict[str, Any]) -> int:
    """The document that a request is about."""
    return int(body["messages"][1]["content"].split("x = ")[1].split("\n")[0])


def run(rows: Path, server: Server, *more: str, repeat: str = "0") -> int:
    common = ("--model", "judge", "--endpoint", server.url, "--id-column", "id", "--repeat", repeat)
    return main(rows, "-o", rows.with_name("labels.parquet"), *common, *more)


def labels(rows: Path) -> dict[str, dict[str, Any]]:
    return {row["id"]: row for row in pq.read_table(rows.with_name("labels.parquet")).to_pylist()}


def test_labels(rows: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MY_KEY", "secret")
    with serve(lambda body, n: good(score=number(body) % 6, why=f"file {number(body)}")) as server:
        assert run(rows, server, "--key-variable", "MY_KEY", "--set", "temperature=0", "--set", "max_tokens=null") == 0
        path, headers, body = server.requests[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer secret"
    assert body["model"] == "judge" and body["temperature"] == 0 and "max_tokens" not in body
    found = labels(rows)
    table = pq.read_table(rows.with_name("labels.parquet"))
    assert table.schema == annotate.LABELS and table["id"].to_pylist() == [f"d{n}" for n in range(8)]
    assert found["d4"] == GOOD | {
        "id": "d4",
        "repo": "r1",
        "path": "f4.py",
        "language": "python",
        "text": "x = 4\n" * 5,
        "score": 4.0,
        "why": "file 4",
        "annotations": 1,
    }
    assert "8 of 8 files are labelled" in capsys.readouterr().out


def test_nothing_is_asked_twice(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with serve(lambda body, n: good()) as server:
        run(rows, server, "--sample", "5")
        assert len(server.requests) == 5
        # A larger sample holds the smaller one: three are new.
        run(rows, server, "--sample", "8")
        assert len(server.requests) == 8
        run(rows, server, "--sample", "8")
        assert len(server.requests) == 8
    assert "(0 answers in this run)" in capsys.readouterr().out


def test_a_run_that_dies_continues(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    fails = serve(lambda body, n: good() if n < 3 else Reply(b"gone", 401))
    with fails as server, pytest.raises(UserError, match="401"):
        run(rows, server, "--concurrency", "1")
    first = labels(rows)
    assert len(first) == 3
    assert capsys.readouterr().out == ""
    # A kill in the middle of a write: the line that it cut short is taken off.
    journal = rows.with_name("labels.parquet.journal")
    whole = journal.read_bytes()
    journal.write_bytes(whole[:-5])
    with serve(lambda body, n: good()) as server:
        run(rows, server)
        assert len(server.requests) == 6
    assert "cut short" in capsys.readouterr().err
    assert len(labels(rows)) == 8
    assert journal.read_bytes().startswith(whole[: whole.rindex(b"\n", 0, -1) + 1])


def test_bad_answers_are_asked_again_then_given_up(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nonsense = ["I would say 4.", json.dumps({**GOOD, "score": 9}), json.dumps(GOOD)[:50]]
    count: dict[int, int] = {}

    def answer(body: dict[str, Any], n: int) -> dict[str, Any] | Reply:
        which = number(body)
        count[which] = count.get(which, 0) + 1
        if which == 2:  # never a usable answer
            return completion(nonsense[count[which] % 3], "stop")
        if which == 3:  # one at the third try
            return good() if count[which] == 3 else completion(json.dumps(GOOD), "length")
        if which == 4:  # refused by the endpoint
            return Reply({"error": {"message": "too long"}}, 400)
        return good()

    with serve(answer) as server:
        run(rows, server, "--tries", "3")
        assert count == {0: 1, 1: 1, 2: 3, 3: 3, 4: 3, 5: 1, 6: 1, 7: 1}
        out = capsys.readouterr().out
        assert "6 of 8 files are labelled" in out and "2 files have no usable answer after 3 tries" in out
        assert "  d2: " in out and "  d4: status 400: too long" in out
        # They are not asked again, unless more tries are allowed.
        run(rows, server, "--tries", "3")
        assert sum(count.values()) == 14
        run(rows, server, "--tries", "4")
        assert count[2] == count[4] == 4 and count[3] == 3
    assert set(labels(rows)) == {f"d{n}" for n in (0, 1, 3, 5, 6, 7)}


def test_an_endpoint_that_refuses_everything_ends_the_run(rows: Path) -> None:
    with serve(lambda body, n: Reply({"error": {"message": "bad max_tokens"}}, 400)) as server:
        with pytest.raises(UserError, match=r"refuses every request \(status 400: bad max_tokens\); check --model"):
            run(rows, server, "--concurrency", "1")
        assert len(server.requests) < 8


def test_repeated_files_give_means_and_agreement(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    seen: dict[int, int] = {}
    lock = threading.Lock()

    def answer(body: dict[str, Any], n: int) -> dict[str, Any]:
        which = number(body)
        with lock:
            seen[which] = seen.get(which, 0) + 1
            # The two readings differ by one for every second file.
            return good(score=which % 5 + (seen[which] == 2) * (which % 2))

    with serve(answer) as server:
        run(rows, server, "--concurrency", "1", repeat="1")
    found = labels(rows)
    assert {row["annotations"] for row in found.values()} == {2}
    assert found["d3"]["score"] == 3.5 and found["d4"]["score"] == 4.0
    out = capsys.readouterr().out
    rank = scipy.stats.spearmanr([n % 5 for n in range(8)], [n % 5 + n % 2 for n in range(8)]).statistic
    assert f"score: Spearman {rank:.3f}, equal 50.0%, mean error 0.50 (8 files)" in out
    assert "value: Spearman undefined, equal 100.0%, mean error 0.00" in out


def test_concurrency_is_used_and_bounded(rows: Path) -> None:
    # Three requests must be there at one time before any is answered.
    barrier = threading.Barrier(3, timeout=20)

    def answer(body: dict[str, Any], n: int) -> dict[str, Any]:
        if n < 6:
            barrier.wait()
        return good()

    with serve(answer) as server:
        run(rows, server, "--concurrency", "3")
        assert server.most == 3


def test_batch_files(rows: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "labels.jsonl"
    common = (rows, "-o", output, "--model", "judge", "--id-column", "id", "--repeat", "0")
    batch = tmp_path / "batch.jsonl"
    assert main(*common, "--batch", batch) == 0
    lines = [json.loads(line) for line in batch.read_text().splitlines()]
    assert len(lines) == 8 and len({line["custom_id"] for line in lines}) == 8
    for line in lines:
        assert line["method"] == "POST" and line["url"] == "/v1/chat/completions"
        assert line["body"]["model"] == "judge" and line["body"]["messages"][0]["content"] == prompts.INSTRUCTIONS
    assert output.read_text() == ""
    # The answers come in another order; one is nonsense, one an error, one is missing, one belongs to nobody.
    answers = [
        {"custom_id": line["custom_id"], "response": {"status_code": 200, "body": good(score=number(line["body"]) % 6)}}
        for line in lines[:0:-1]
    ]
    answers[0]["response"]["body"] = completion("no")
    answers[1] = {"custom_id": lines[-2]["custom_id"], "response": None, "error": {"message": "expired"}}
    answers.append({"custom_id": "stranger", "response": {"status_code": 200, "body": good()}})
    given = tmp_path / "answers.jsonl"
    given.write_text("\n".join(json.dumps(answer) for answer in answers) + "\n")
    capsys.readouterr()
    # The next batch asks for the three that have none yet.
    assert main(*common, "--answers", given, "--batch", batch) == 0
    assert "1 answers belong to no file" in (out := capsys.readouterr().out) and "5 of 8 files are labelled" in out
    again = [json.loads(line)["custom_id"] for line in batch.read_text().splitlines()]
    assert sorted(again) == sorted([lines[0]["custom_id"], lines[-1]["custom_id"], lines[-2]["custom_id"]])
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(found) == 5 and all(row["score"] == int(row["id"][1:]) % 6 for row in found)
    # The same answers again: a reading that has its answer keeps it.
    main(*common, "--answers", given)
    assert [json.loads(line) for line in output.read_text().splitlines()] == found


@pytest.mark.parametrize(
    ("content", "message"),
    [("nonsense\n", "line 1 is no answer"), ('{"custom_id": 3}\n', "line 1"), ("\n[1]\n", "line 2"), (None, "No such")],
)
def test_bad_answer_files(rows: Path, tmp_path: Path, content: str | None, message: str) -> None:
    given = tmp_path / "answers.jsonl"
    if content is not None:
        given.write_text(content)
    with pytest.raises(UserError, match=message):
        main(rows, "-o", tmp_path / "l.jsonl", "--model", "m", "--answers", given)


def test_a_journal_of_another_model_is_refused(rows: Path) -> None:
    with serve(lambda body, n: good()) as server:
        run(rows, server)
        with pytest.raises(UserError, match="has answers for prompt"):
            run(rows, server, "--characters", "4000")
        with pytest.raises(UserError, match="has answers for settings"):
            run(rows, server, "--set", "temperature=1")
        assert len(server.requests) == 8


def test_a_foreign_file_is_no_journal_and_a_cut_header_is_written_again(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    path.write_text("notes without a line feed")
    with pytest.raises(UserError, match="not a journal of answers"):
        Journal(path, {"model": "m"})
    assert path.read_text() == "notes without a line feed"
    path.write_text('{"journal":1,"mod')
    with Journal(path, {"model": "m"}) as journal:
        journal.append({"key": "a"})
    with Journal(path, {"model": "m"}) as journal:
        assert journal.entries == [{"key": "a"}]


def test_a_damaged_journal_names_its_line_and_a_used_one_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.journal"
    with Journal(path, {"model": "m"}) as journal:
        journal.append({"key": "a"})
        with pytest.raises(UserError, match="another process"):
            Journal(path, {"model": "m"})
    with Journal(path, {"model": "m"}) as journal:
        assert journal.entries == [{"key": "a"}]
    path.write_bytes(path.read_bytes() + b"garbage\n")
    with pytest.raises(UserError, match="line 3 is damaged"):
        Journal(path, {"model": "m"})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "--endpoint URL or --batch"),
        (("--endpoint", "http://h/v1", "--batch", "b"), "give one of them"),
        (("--batch", "b", "--sample", "0"), "--sample 0"),
        (("--batch", "b", "--repeat", "1.5"), "--repeat 1.5"),
        (("--batch", "b", "--repeat", "nan"), "--repeat nan"),
        (("--batch", "b", "--timeout", "0"), "--timeout 0"),
        (("--batch", "b", "--set", "temperature"), "--set temperature"),
        (("--batch", "b", "--set", "model=x"), "--set model=x"),
        (("--batch", "b", "-o", "labels.csv"), "-o labels.csv"),
        (("--batch", "b", "-o", "no/such/labels.jsonl"), "no directory"),
        (("--endpoint", "localhost"), "--endpoint 'localhost'"),
    ],
)
def test_bad_arguments_are_one_line(
    rows: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], message: str
) -> None:
    monkeypatch.chdir(rows.parent)
    with pytest.raises(UserError, match=message) as caught:
        main(rows, "-o", "l.jsonl", "--model", "m", *arguments)
    assert "\n" not in str(caught.value)


def test_inputs_without_text(tmp_path: Path) -> None:
    (tmp_path / "empty.py").write_text("  \n")
    with pytest.raises(UserError, match=r"no document with a text \(1 blank\)"):
        main(tmp_path / "empty.py", "-o", tmp_path / "l.jsonl", "--model", "m", "--batch", tmp_path / "b.jsonl")


def test_agreement() -> None:
    values = np.random.default_rng(0)
    a, b = values.integers(0, 6, 50).astype(float), values.normal(size=50)
    assert compare(a, b).spearman == pytest.approx(scipy.stats.spearmanr(a, b).statistic)
    assert compare([3, 3, 3], [1, 2, 3]).spearman is None and compare([1, 2], [1, 2]).spearman is None
    assert compare([1, 2, 4], [1, 3, 4])[2:] == (pytest.approx(2 / 3), pytest.approx(1 / 3))
