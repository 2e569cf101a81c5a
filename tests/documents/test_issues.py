from __future__ import annotations

import gzip
import json
import random
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.documents import batches, bots, issue_texts, issues, templates
from codeshell.documents.inputs import InputOptions, Listing, cut
from codeshell.documents.issue_texts import Comment, Issue, clean, convert, hidden
from codeshell.errors import UserError

LONG = "The program stops with an error when its input is empty, and it should say what is wrong with it instead. " * 2


def read(*inputs: str, **options: Any) -> list[batches.Row]:
    given = InputOptions(max_row_bytes=1 << 20, **options)
    shards = [shard for task in cut(Listing(inputs, given, by_input=True), 1 << 20) for shard in task]
    return [row for shard in shards for row in batches.rows(shard, given)]


def write(path: Path, events: list[dict[str, Any]]) -> Path:
    data = "".join(json.dumps(event) + "\n" for event in events).encode()
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def opened(number: int = 1, *, user: str = "alice", body: str = LONG, title: str = "It stops", time: str = "01") -> Any:
    return {
        "number": number,
        "title": title,
        "body": body,
        "user": {"login": user},
        "state": "open",
        "created_at": f"2020-01-{time}T00:00:00Z",
    }


def issue_event(action: str, issue: dict[str, Any], time: str = "01", repo: str = "o/r") -> dict[str, Any]:
    payload = {"action": action, "issue": issue}
    return {
        "type": "IssuesEvent",
        "repo": {"name": repo},
        "created_at": f"2020-01-{time}T00:00:00Z",
        "payload": payload,
    }


def comment_event(
    issue: dict[str, Any], user: str, body: str, time: str, *, id: int, action: str = "created", repo: str = "o/r"
) -> dict[str, Any]:
    stamp = f"2020-01-{time}T00:00:00Z"
    comment = {"id": id, "user": {"login": user}, "body": body, "created_at": stamp, "updated_at": stamp}
    payload = {"action": action, "issue": issue, "comment": comment}
    return {"type": "IssueCommentEvent", "repo": {"name": repo}, "created_at": stamp, "payload": payload}


CONVERSATION = [
    issue_event("opened", opened()),
    {"type": "PushEvent", "repo": {"name": "o/r"}, "payload": {}},
    comment_event(opened(), "bob", "I see it too, @Alice. Which alice?", "02", id=11),
    issue_event("closed", opened(), "03"),
    comment_event(opened(), "alice", "Thank you bob", "04", id=12),
]
TEXT = (
    f"<issue_start>Title: It stops\nusername_0: {LONG.strip()}<issue_comment>username_1: I see it too, @username_0. "
    "Which username_0?<issue_closed><issue_comment>username_0: Thank you username_1"
)


@pytest.mark.parametrize("name", ["e.json", "e.json.gz", "e.jsonl"])
def test_events_of_the_archive_become_a_conversation(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, CONVERSATION)
    others, found = read(f"issues:{path}")
    assert (others.reason, others.path, others.size > 50) == ("other_events", name, True)
    assert found.text.decode() == TEXT
    assert (found.repo, found.path, found.place, found.language) == ("o/r", "issues/1", "o/r#1", "github-issues")


def test_events_may_be_in_any_order_in_any_files_and_again(tmp_path: Path) -> None:
    events = CONVERSATION + [
        event
        for number in range(2, 30)
        for event in (
            issue_event("opened", opened(number)),
            comment_event(opened(number), "bob", "Yes", "02", id=number),
        )
    ]
    write(tmp_path / "a.json.gz", events)
    whole = [row._replace(row=0) for row in read(f"issues:{tmp_path}/a.json.gz") if not row.reason]
    random.Random(1).shuffle(events)
    (tmp_path / "many/deep").mkdir(parents=True)
    for part in range(4):
        write(tmp_path / f"many/deep/{part}.json.gz", events[part::4] + events[:5])
    again = [row._replace(row=0) for row in read(f"issues:{tmp_path}/many") if not row.reason]
    assert len(whole) == 29
    assert again == whole
    assert [row._replace(row=0) for row in read(f"issues:{tmp_path}/many/*/?.json.gz") if not row.reason] == whole


def test_memory_is_bounded_by_parts_on_the_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # \ud800: JSON may hold what no file can.
    events = [issue_event("opened", opened(number, body=f"{LONG} {number} \ud800é")) for number in range(1, 400)]
    path = write(tmp_path / "a.jsonl", events)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spilled: list[int] = []
    spill = issues._Parts._spill
    monkeypatch.setattr(issues._Parts, "_spill", lambda parts: (spilled.append(parts._depth), spill(parts)))
    whole = read(f"issues:{path}")
    assert Counter(row.reason for row in whole) == {"": 399}
    assert not spilled
    # So small that nothing is held, and parts are cut into parts several times.
    monkeypatch.setattr(issues, "HELD_BYTES", 1000)
    assert read(f"issues:{path}") == whole
    assert set(spilled) >= {0, 1}
    assert sorted(one.name for one in tmp_path.iterdir() if one.name != "pytest") == ["a.jsonl"]


def test_the_last_edit_counts_and_what_was_deleted_is_gone(tmp_path: Path) -> None:
    edited = opened(body=f"{LONG}, edited", title="It stops early")
    events = [
        issue_event("opened", opened()),
        comment_event(opened(), "bob", "First words", "02", id=5),
        comment_event(edited, "bob", "Second words", "03", id=5, action="edited"),
        comment_event(edited, "carol", "To be deleted", "04", id=6),
        comment_event(edited, "carol", "To be deleted", "05", id=6, action="deleted"),
        issue_event("closed", edited, "06"),
        issue_event("reopened", edited, "07"),
    ]
    (row,) = read(f"issues:{write(tmp_path / 'a.jsonl', events)}")
    assert row.text.decode() == (
        f"<issue_start>Title: It stops early\nusername_0: {LONG}, edited<issue_comment>username_1: Second words"
    )


def test_a_missing_beginning_is_taken_from_a_comment(tmp_path: Path) -> None:
    events = [comment_event(opened(), "bob", "Me too", "05", id=9)]
    (row,) = read(f"issues:{write(tmp_path / 'a.jsonl', events)}")
    assert row.text.decode().startswith(f"<issue_start>Title: It stops\nusername_0: {LONG.strip()}<issue_comment>")


def test_dumps_of_the_api_as_lines_and_as_arrays(tmp_path: Path) -> None:
    issue = opened() | {
        "repository_url": "https://api.github.com/repos/o/r",
        "state": "closed",
        "closed_at": "2020-01-03T00:00:00Z",
        "updated_at": "2020-01-04T00:00:00Z",
        "pull_request": None,
    }
    comments = [
        {
            "id": 11,
            "issue_url": "https://api.github.com/repos/o/r/issues/1",
            "user": {"login": "bob"},
            "body": "I see it too, @Alice. Which alice?",
            "created_at": "2020-01-02T00:00:00Z",
        },
        {
            "id": 12,
            "issue_url": "https://api.github.com/repos/o/r/issues/1",
            "user": {"login": "alice"},
            "body": "Thank you bob",
            "created_at": "2020-01-04T00:00:00Z",
        },
    ]
    (tmp_path / "lines").mkdir()
    write(tmp_path / "lines/issues.jsonl", [issue])
    write(tmp_path / "lines/comments.jsonl", comments)
    assert [row.text.decode() for row in read(f"issues:{tmp_path}/lines")] == [TEXT]
    # `gh api --paginate` writes one array after another.
    (tmp_path / "arrays").mkdir()
    (tmp_path / "arrays/issues.json").write_text(json.dumps([issue], indent=2))
    (tmp_path / "arrays/comments.json").write_text("\n".join(json.dumps([one], ensure_ascii=False) for one in comments))
    assert [row.text.decode() for row in read(f"issues:{tmp_path}/arrays")] == [TEXT]


def test_bigcode_s_form(tmp_path: Path) -> None:
    events = [
        {
            "type": "issue",
            "action": "opened",
            "datetime": "2020-01-01",
            "author": "alice",
            "title": "It stops",
            "description": LONG,
            "comment": None,
            "comment_id": None,
        },
        {
            "type": "comment",
            "action": "created",
            "datetime": "2020-01-02",
            "author": "bob",
            "comment": "I see it too, @Alice. Which alice?",
            "comment_id": 11.0,
        },
        {"type": "issue", "action": "closed", "datetime": "2020-01-03", "author": "bob"},
        {
            "type": "comment",
            "action": "created",
            "datetime": "2020-01-04",
            "author": "alice",
            "comment": "Thank you bob",
            "comment_id": 12.0,
        },
    ]
    record = {"repo": "r", "org": "o", "issue_id": 5, "issue_number": 1, "pull_request": None, "events": events}
    (row,) = read(f"issues:{write(tmp_path / 'a.jsonl', [record])}")
    assert row.text.decode() == TEXT


def test_a_long_array_is_read_object_by_object(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issues, "PIECE", 7)
    numbers = list(range(1, 40))
    found = [opened(n, body=f'{LONG}é\\"[{{') | {"html_url": f"https://github.com/o/r/issues/{n}"} for n in numbers]
    (tmp_path / "a.json").write_text(json.dumps(found, ensure_ascii=False))
    rows = read(f"issues:{tmp_path}/a.json")
    assert sorted(row.path or "" for row in rows) == sorted(f"issues/{n}" for n in numbers)
    assert all('é\\"[{' in row.text.decode() for row in rows)
    (tmp_path / "a.json").write_text(json.dumps(found)[:-30])
    with pytest.raises(UserError, match=r"a\.json"):
        read(f"issues:{tmp_path}/a.json")


def test_lines_that_are_broken_or_of_something_else_are_counted(tmp_path: Path) -> None:
    path = write(tmp_path / "a.jsonl", CONVERSATION)
    path.write_bytes(path.read_bytes() + b'{"type": "IssuesEvent", \n\n{"number": 5}\n{"events": 7}\n"number"\n')
    found = {row.reason: row for row in read(f"issues:{path}")}
    assert sorted(found) == ["", "bad_json", "other_events"]
    assert found[""].text.decode() == TEXT


def test_a_truncated_archive_is_one_line(tmp_path: Path) -> None:
    path = write(tmp_path / "a.json.gz", CONVERSATION * 100)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UserError, match=r"a\.json\.gz: cannot be read whole"):
        read(f"issues:{path}")


def test_an_issue_that_is_too_large_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(issues, "MOST_EVENTS", 20)
    many = [comment_event(opened(), "bob", "Again", "02", id=number) for number in range(1, 40)]
    (row,) = read(f"issues:{write(tmp_path / 'a.jsonl', many)}")
    assert (row.reason, row.text) == ("issue_large", b"")


def test_comments_without_their_issue_are_left_out(tmp_path: Path) -> None:
    comment = {
        "id": 1,
        "issue_url": "https://api.github.com/repos/o/r/issues/7",
        "user": {"login": "b"},
        "body": LONG,
        "created_at": "2020",
    }
    (row,) = read(f"issues:{write(tmp_path / 'a.jsonl', [comment])}")
    assert (row.reason, row.path) == ("issue_no_text", "issues/7")


def issue(*comments: tuple[str, str], closed: int = -1) -> Issue:
    return Issue("Title", [Comment(*one) for one in comments], closed)


@pytest.mark.parametrize(
    ("made", "reason"),
    [
        (issue(("alice", "Short"), ("bob", "Yes")), "issue_short"),
        (issue(("alice", LONG)), ""),
        (issue(("alice", LONG * 40)), "issue_single"),
        (issue(("alice", LONG * 40), ("bob", "Yes")), ""),
        (issue(("alice", LONG), *[("alice", "More")] * 10), "issue_single"),
        (issue(("alice", LONG), *[("alice", "More")] * 9), ""),
        (issue(("dependabot[bot]", LONG), ("bob", LONG)), "issue_bot"),
        (issue(("codecov-io", LONG)), "issue_bot"),
        (Issue("", [], -1), "issue_bot"),
    ],
)
def test_which_issues_are_kept(made: Issue, reason: str) -> None:
    text, why = convert(made)
    assert why == reason
    assert bool(text) == (reason == "")


def test_bots_and_what_calls_them_are_left_out() -> None:
    found = issue(
        ("alice", LONG),
        ("bob", "/retest"),
        ("k8s-ci-robot", "Testing"),
        ("bob", "Thanks"),
        ("carol", "@Some-Bot go"),
        ("some-bot", "Done"),
        closed=5,
    )
    text, _ = convert(found)
    assert (
        text == f"<issue_start>Title: Title\nusername_0: {LONG.strip()}<issue_comment>username_1: Thanks<issue_closed>"
    )


def test_names_of_bots() -> None:
    for name in (
        "dependabot[bot]",
        "greenkeeper[bot]",
        "My-Service-Account",
        "codecov-io",
        "x-ci",
        "Jenkins-2",
        "rust-highfive-bot",
    ):
        assert bots.is_bot(name), name
    for name in ("alice", "botond", "robotics", "Jane Abbot", "", "testing1"):
        assert not bots.is_bot(name), name


def test_names_are_replaced_as_whole_words() -> None:
    # BigCode's replacement made `lausername_0` of `latest`, and `username_0-2` of the longer name.
    hide = hidden(["test", "test-2", "Ann", ""])
    assert hide("the latest test of test-2, attest") == "the latest username_0 of username_1, attest"
    assert (
        hide("@TEST @ann ann Ann, (Ann) Ann's x@Ann")
        == "@username_0 @username_2 ann username_2, (username_2) username_2's x@username_2"
    )
    assert hide("_test test_ test_x -test") == "_test test_ test_x -username_0"


@settings(deadline=None)
@given(st.lists(st.text("ab-", min_size=1, max_size=4), max_size=4, unique=True), st.text("ab-@_ .", max_size=40))
def test_no_name_is_left_as_a_word(users: list[str], text: str) -> None:
    names = [user for user in users if not user.startswith("-") and not user.endswith("-")]
    words = set(hidden(names)(text).replace("@", " ").replace(".", " ").split())
    assert not words & set(names)


@pytest.mark.parametrize(
    ("text", "cleaned"),
    [
        ("a\r\nb", "a\nb"),
        ("<!-- say\nwhat -->It fails<!-- x -->", "It fails"),
        ("It <!-- fails", "It <!-- fails"),
        ("a\n____________________________\nb", "a\n\nb"),
        (
            "I agree\n\nOn Mon, Jan 1, 2020, Bob wrote:\n> It fails\n> Always\n\nReply to this email directly",
            "I agree",
        ),
        (
            "I agree\nFrom: x <notifications@github.com>\n> quoted\nReply to this email directly.\nYours",
            "I agree\nYours",
        ),
        ("Yes\n\nSent from my iPhone", "Yes"),
        ("Yes\nSigned-off-by: A <a@b>", "Yes"),
        ("### Steps\n\n### Expected\nIt works\n\n### Actual\n", "### Expected\nIt works"),
        ("## Details\n### Version\n1.0", "## Details\n### Version\n1.0"),
        ("- [x] I have read\n- [ ] I have not\nIt fails", "It fails"),
        ("```\n# not a heading\n\n# another\n```", "```\n# not a heading\n\n# another\n```"),
        ("a\n\n\n\nb", "a\n\nb"),
    ],
)
def test_what_forms_and_mail_programs_write_is_cut(text: str, cleaned: str) -> None:
    assert clean(text) == cleaned


def test_long_comments_are_cut_in_the_middle() -> None:
    lines = [f"line {number}" for number in range(81)]
    assert clean("\n".join(lines[:80])).count("\n") == 79
    cut_text = clean("\n".join(lines)).split("\n")
    assert cut_text == [*lines[:60], issue_texts.TRUNCATED, *lines[-20:]]


def test_a_comment_cannot_end_its_issue() -> None:
    text, _ = convert(issue(("alice", LONG + "<issue_closed><|endoftext|>"), ("bob", "<issue_<issue_start>start>")))
    marks = [part for special, part in templates.pieces(text) if special]
    assert marks == ["<issue_start>", "<issue_comment>"]
    assert "<|endoftext|>" not in text


def test_texts_made_to_be_slow_are_not() -> None:
    # Each of these takes minutes if a step takes the square of its length.
    for text in (
        "<!--" * 100_000,
        "_" * 300_000,
        "# \n" * 100_000,
        ">" * 300_000,
        "- [ ] " * 50_000,
        "a-" * 150_000,
        "@" * 300_000,
        "x\n" * 200_000,
    ):
        clean(text)
        hidden(["a", "b-c"])(text)
