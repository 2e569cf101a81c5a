from __future__ import annotations

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from helpers.made_history import History
from hypothesis import given
from hypothesis import strategies as st

from codeshell.cli import main
from codeshell.documents import batches, commits, corpora, history, templates
from codeshell.documents.inputs import InputOptions, Listing, check_unchanged, cut, plan
from codeshell.errors import UserError

BODY = "".join(f"line_{i} = {i}\n" for i in range(200))
LONGER = BODY.replace("line_100 = 100\n", "line_100 = 0\nother = 1\nthird = 2\nfourth = 4\n")
MESSAGE = "Give the hundredth line its own value, and three more"
LIMIT = 1 << 20


def read(*inputs: str, shard_bytes: int = 1 << 20, **options: Any) -> list[batches.Row]:
    given = InputOptions(max_row_bytes=1 << 20, **options)
    shards = [shard for task in cut(Listing(inputs, given, by_input=True), shard_bytes) for shard in task]
    return [row for shard in shards for row in batches.rows(shard, given)]


def reasons(path: Path) -> Counter[str]:
    return Counter(row.reason for row in read(f"commits:{path}"))


@pytest.fixture
def made(tmp_path: Path) -> History:
    return History(tmp_path / "repo")


@pytest.fixture
def all_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits, "share", lambda *_: 1.0)


def test_a_change_becomes_before_message_after(made: History, all_kept: None) -> None:
    made.commit("Begin the program with two hundred lines of values", {"a/x.py": BODY})
    commit = made.commit(f"{MESSAGE}\n\nMore words.\n\nSigned-off-by: A", {"a/x.py": LONGER})
    first, second = read(f"commits:{made.path}")
    assert (first.place, first.path, first.repo) == (f"{commit}/a/x.py", f"{commit[:12]}/a/x.py", "repo")
    assert first.language == "git-commits"
    text = first.text.decode()
    before, _, rest = text.removeprefix("<commit_before>").partition("<commit_msg>")
    message, _, after = rest.partition("<commit_after>")
    assert message == MESSAGE
    assert before in BODY
    assert after in LONGER
    assert after.replace("line_100 = 0\nother = 1\nthird = 2\nfourth = 4\n", "line_100 = 100\n") == before
    assert "line_100 = 100\n" in before
    # The first commit has nothing before it.
    assert second.text.decode().startswith("<commit_before><commit_msg>Begin")
    assert second.text.decode().endswith(BODY[-200:]) or "<commit_after>line_0 = 0\n" in second.text.decode()


def test_the_window_is_around_the_change_and_not_from_the_top() -> None:
    # BigCode's first version began every window at line 0, because it looked for the least of 0 and the changed lines.
    begins = []
    for number in range(200):
        before, after, lines = commits.window(BODY, LONGER, f"{number}", "x.py")
        assert lines == 4
        assert before in BODY
        assert after in LONGER
        begins.append(int(before.split("\n", 1)[0].removeprefix("line_").split(" ")[0]))
    whole = sum(begin == 0 for begin in begins)
    # A fifth are whole files; the others begin 0 to 32 lines above.
    assert 20 <= whole <= 60
    assert {begin for begin in begins if begin} <= set(range(100 - commits.AROUND, 101))
    assert len(set(begins)) > 20


@given(st.lists(st.sampled_from("abc"), max_size=12), st.lists(st.sampled_from("abc"), max_size=12), st.integers(0, 9))
def test_a_window_holds_every_line_that_differs(old: list[str], new: list[str], salt: int) -> None:
    before, after = ("".join(f"{line}\n" for line in lines) for lines in (old, new))
    first, second, lines = commits.window(before, after, f"{salt}", "p")
    assert (lines == 0) == (old == new)
    # What is around both windows is the same text.
    for head in range(len(before) + 1):
        inside = before[head:].startswith(first) and after[head:].startswith(second)
        around = before[:head] == after[:head] and before[head + len(first) :] == after[head + len(second) :]
        if inside and around:
            return
    raise AssertionError((before, after, first, second))


def test_filters_have_their_reasons(made: History, all_kept: None) -> None:
    made.commit("Add a program and its data to the repository", {"x.py": BODY, "gone.py": BODY + "gone = 1\n"})
    made.commit("update readme", {"x.py": BODY + "y = 1\n"})
    made.commit("Remove the file that is gone from now on", {"gone.py": None})
    made.commit("Rename the program to a better name for it", {"x.py": None, "y.py": BODY + "y = 1\n"})
    made.commit("Change very many files at once in this one commit", {f"many{i}.py": f"x = {i}\n" for i in range(5)})
    made.commit("Add a file of bytes and one without a language here", {"b.py": b"\0\1", "c.unknown": "word word\n"})
    made.commit("Add a vendored file and one that is in Latin 1", {"vendor/v.py": "x = 1\n", "l.py": b"# \xe9t\xe9\n"})
    made.commit("Say nothing in a commit that changes nothing at all", {})
    made.author = "dependabot[bot]"
    made.commit("Raise the version of a package that is needed here", {"y.py": BODY + "y = 2\n"})
    assert reasons(made.path) == {
        "": 2,
        "commit_message": 1,
        "commit_deleted": 1,
        "commit_unchanged": 2,
        "commit_files": 1,
        "binary": 1,
        "unknown_language": 1,
        "vendored": 1,
        "bad_utf8": 1,
        "commit_bot": 1,
    }


def test_merges_links_and_submodules(made: History, all_kept: None) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    made.git("checkout", "--quiet", "-b", "side")
    made.commit("Change the program on the side of the main branch", {"side.py": BODY})
    made.git("checkout", "--quiet", "main")
    made.commit("Change the program on the main branch of all of it", {"main.py": BODY})
    made.git("merge", "--quiet", "--no-ff", "-m", "Merge the side into the main branch again", "side")
    (made.path / "link.py").symlink_to("x.py")
    made.commit("Add a link that leads to the program beside it", {})
    empty = made.git("rev-parse", "HEAD")
    made.git("update-index", "--add", "--cacheinfo", f"160000,{empty},module.py")
    made.git("commit", "--quiet", "-m", "Add a submodule whose name is that of a program")
    # The commits of a branch that was merged are read, too: with merges alone on the first line, nothing would be left.
    assert reasons(made.path) == {"": 3, "commit_merge": 1, "link": 2}


def test_messages_that_say_something() -> None:
    good = (
        "Fix the parser of numbers",
        "Überarbeite die Ausgabe",
        "修复 解析器 的 错误",
        "v2 of the parser reads floats",
    )
    bad = (
        *("", "  ", "update", "Updated README.md", "WIP", "1.2.3", "v1.2.3", "Release 2.0.0", "typo.", "fix"),
        *(
            "auto commit by the tool",
            "Update CONTRIBUTING",
            " one",
            f"{'x' * 60}",
            "0123456789abcdef0123456789abcdef01234567",
        ),
    )
    assert [text for text in good if not commits.says_something(text)] == []
    assert [text for text in bad if commits.says_something(text)] == []


def test_samples_are_a_hash_with_the_published_shares() -> None:
    long, short = "one two three four five", "one two three"
    assert commits.share(long, "python", 3) == commits.share(long, "markdown", 199) == 1.0
    assert commits.share(long, "python", 2) == commits.share(long, "python", 200) == 0.1
    assert commits.share(short, "python", 3) == 0.5
    assert commits.share(short, "json", 1) == 0.1 * 0.5 * 0.5


def test_sampled_changes_are_counted_and_always_the_same(made: History) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    for number in range(25):
        made.commit("Change one line of the program to another value", {"x.py": BODY + f"y = {number}\n"})
    found = reasons(made.path)
    assert found["commit_sampled"] + found[""] == 26
    assert 15 <= found["commit_sampled"] <= 25
    assert found == reasons(made.path)


def test_special_tokens_are_taken_out_of_what_strangers_wrote(made: History, all_kept: None) -> None:
    bad = "x = '<commit_msg><|endoftext|>'\n<commit_<commit_after>after>\n"
    made.commit("Begin <commit_after> with <jupyter_start> words of others", {"x.py": bad})
    (row,) = read(f"commits:{made.path}")
    marks = [part for special, part in templates.pieces(row.text.decode()) if special]
    assert marks == ["<commit_before>", "<commit_msg>", "<commit_after>"]
    assert b"<|endoftext|>" not in row.text


def test_the_same_rows_however_the_history_is_cut(made: History) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    for number in range(12):
        made.commit(
            "Change two files of the program at the same time", {"x.py": BODY * (number % 3 + 1), f"{number}.py": BODY}
        )
    whole = read(f"commits:{made.path}")
    assert read(f"commits:{made.path}", shard_bytes=corpora.COMMIT_BYTES * 3) == whole
    assert read(f"commits:{made.path}", shard_bytes=1) == whole
    assert [row.row for row in whole] == sorted({row.row for row in whole})


def test_a_history_is_read_from_the_commit_that_was_listed(made: History, all_kept: None) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    options = InputOptions()
    found = plan([f"commits:{made.path}"], options, 1 << 20)
    made.commit("Change the program after it has been listed here", {"x.py": LONGER})
    check_unchanged(found.sources[0])
    assert [row.place.rpartition("/")[2] for row in batches.rows(found.shards[0], options)] == ["x.py"]
    assert len(read(f"commits:{made.path}")) == 2


def test_bare_repositories_and_folders_of_checkouts(made: History, tmp_path: Path, all_kept: None) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    many = tmp_path / "many"
    many.mkdir()
    made.git("clone", "--quiet", "--bare", ".", f"{many}/bare.git")
    made.git("clone", "--quiet", ".", f"{many}/deep/inside")
    made.git("worktree", "add", "--quiet", f"{many}/tree")
    History(many / "unborn")
    rows = read(f"commits:{many}")
    assert len({row.text for row in rows}) == 1
    assert len(rows) == 3
    # A history given twice is read once; beside its own files it is another input.
    assert len(read(f"commits:{many}/bare.git", f"commits:{many}/*.git")) == 1
    both = read(str(made.path), f"commits:{made.path}")
    assert [row.path.rpartition("/")[2] for row in both if row.path and not row.reason] == ["x.py", "x.py"]


def test_a_shallow_clone_has_no_first_change(made: History, tmp_path: Path, all_kept: None) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    made.commit("Change the program after its beginning for the first time", {"x.py": LONGER})
    made.commit("Change the program after its beginning once again", {"x.py": BODY})
    made.git("clone", "--quiet", "--depth=2", f"file://{made.path}", f"{tmp_path}/shallow")
    assert reasons(tmp_path / "shallow") == {"": 1, "commit_shallow": 1}


def test_nothing_of_a_hostile_repository_runs(
    made: History, tmp_path: Path, all_kept: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    mark = tmp_path / "ran"
    script = tmp_path / "evil.sh"
    script.write_text(f"#!/bin/sh\ntouch {mark}\ncat\n")
    script.chmod(0o755)
    made.commit(
        "Begin the program with two hundred lines of values",
        {"x.py": BODY, ".gitattributes": "* diff=evil filter=evil text\n"},
    )
    made.commit(MESSAGE, {"x.py": LONGER})
    for key in (
        "diff.external",
        "diff.evil.textconv",
        "diff.evil.command",
        "filter.evil.smudge",
        "filter.evil.clean",
        "core.pager",
        "core.fsmonitor",
        "core.sshCommand",
        "core.editor",
        "core.alternateRefsCommand",
        "gpg.program",
    ):
        made.git("config", key, str(script))
    made.git("config", "log.showSignature", "true")
    made.git("config", "core.hooksPath", str(tmp_path))
    made.git("config", "alias.rev-list", f"!{script}")
    for hook in ("post-checkout", "pre-commit", "reference-transaction"):
        shutil.copy(script, made.path / ".git/hooks" / hook)
    # What the caller's own environment says of another repository does not count either.
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "nowhere"))
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", str(script))
    assert reasons(made.path) == {"": 2, "unknown_language": 1}
    assert not mark.exists()


def test_grafts_and_replacements_change_nothing(made: History, all_kept: None) -> None:
    first = made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    second = made.commit(MESSAGE, {"x.py": LONGER})
    before = read(f"commits:{made.path}")
    made.git("replace", second, first)
    (made.path / ".git/info/grafts").write_text(f"{second}\n")
    assert read(f"commits:{made.path}") == before


def test_a_broken_history_is_one_line(made: History) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY})
    tree = made.git("rev-parse", "HEAD^{tree}")
    (made.path / ".git/objects" / tree[:2] / tree[2:]).unlink()
    with pytest.raises(UserError, match="its history cannot be read"):
        read(f"commits:{made.path}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("commits:", "names nothing"),
        ("commits:nowhere", "no such file or folder"),
        ("commits:plain", "no git checkout"),
        ("commits:https://example.org/a/b", "a URL"),
        ("issues:*.none", "no such file or folder"),
        ("issues:plain", "no file that ends in"),
        ("notebook-texts:plain/x.py", "no notebook"),
    ],
)
def test_prefixes_that_name_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, message: str) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain/x.py").write_text("x = 1\n")
    with pytest.raises(UserError, match=message):
        Listing([text], InputOptions())


def test_a_path_may_have_a_colon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "commits:mine").mkdir()
    (tmp_path / "commits:mine/x.py").write_text("x = 1\n")
    assert [row.path for row in read("commits:mine")] == ["x.py"]


def test_message_and_author_of_a_commit_object() -> None:
    raw = b"tree 0\nparent 1\nauthor J\xf6rg <a <b@c> 1 +0000\nencoding ISO-8859-1\n\n\nGr\xf6\xdfer\r\nbody"
    message = commits.parse(raw)
    assert (message.subject, message.author, message.parents) == ("Größer", "Jörg <a", 1)
    assert commits.parse(raw.replace(b"ISO-8859-1", b"unicode_escape")).subject == ""
    assert commits.parse(b"") == commits.Message("", "", 0)


def test_changes_of_a_commit_with_odd_names(made: History) -> None:
    names = ["a b.py", "new\nline.py", ":colon.py", "é.py"]
    commit = made.commit("x", dict.fromkeys(names, BODY))
    ((found, changed),) = history.changes(str(made.path), history.commits(str(made.path), commit, 0, 9), 10)
    assert found == commit
    assert sorted(one.path for one in changed) == sorted(names)
    ((_, changed),) = history.changes(str(made.path), history.commits(str(made.path), commit, 0, 9), 2)
    assert len(changed) == 3


def test_dedup_writes_the_documents_that_stay(
    made: History, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    made.commit("Begin the program with two hundred lines of values", {"x.py": BODY[:1000]})
    made.git("clone", "--quiet", ".", f"{tmp_path}/copy")
    arguments = ["dedup", f"commits:{made.path}", f"commits:{tmp_path}/copy", "-o", str(tmp_path / "out")]
    assert main([*arguments, "--workers", "1"]) == 0
    kept = sorted((tmp_path / "out/kept").glob("*.jsonl"))
    lines = [json.loads(line) for path in kept for line in path.read_text().splitlines()]
    assert [path.name for path in kept] == ["copy.commits.jsonl", "repo.commits.jsonl"]
    assert [line["language"] for line in lines] == ["git-commits"]
    assert lines[0]["text"].startswith("<commit_before><commit_msg>Begin")
