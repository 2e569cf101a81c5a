"""Commits as texts: a file before the change, the first line of the message, the file after it.

The filters are BigCode's for StarCoder's commits, with what was wrong in them put right: its windows began at the top
of every file, because the smallest changed line was looked for from 0. Its samples were of a generator's state; here
they are a hash of commit and path. Each changed file of a commit is a document, or is left out for a reason:

    commit_merge       two parents or more: it shows no change of its own
    commit_shallow     its parent is not in this clone, so that its change cannot be seen
    commit_bot         a program wrote it, by its author's name
    commit_message     the message says nothing of the change, or is none
    commit_files       it changes more than `MOST_FILES` files: the message cannot say what happened in each
    commit_unchanged   a rename or a change of permissions
    commit_deleted     nothing is left of the file
    commit_large       over `MOST_OLD` characters before the change, or over the limit for files afterwards
    commit_sampled     one of a kind that there is too much of (`share`)
    link, unknown_language, vendored, binary, bad_utf8 and the like   as for files

The document is the whole file with a chance of 20 %, else the changed lines and up to 32 lines on each side.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from codeshell.documents import bots, history, languages, templates, walk
from codeshell.documents.history import Change
from codeshell.documents.readers import why_not_text
from codeshell.randomness import below, draw

MOST_FILES = 4
"""Files of a commit. BigCode's commits change one, of which a checkout has too few: a change and its test are two."""

MOST_OLD = 100_000
"""Characters of a file before the change (BigCode)."""

MOST_MESSAGE = 1 << 16
"""Bytes of a commit object that are read."""

WHOLE = 0.2
"""Share of the documents that are whole files (BigCode)."""

AROUND = 32
"""Lines around the change at most, on each side (BigCode)."""

SMALL, LARGE = 2, 200
"""A change of at most, or of at least, so many lines is kept with a chance of 10 % (BigCode)."""

FEW_WORDS = 5
"""A message of fewer words is kept with a chance of 50 % (BigCode)."""

DATA = frozenset({"json", "yaml", "html", "xml", "css", "toml"})
"""Languages of which half is kept (BigCode: json, yml, xml, html)."""

NOTHING_SAID = frozenset(
    """readme update dummy updated debug test tests wip fix fixes fixed typo typos cleanup minor changes misc temp tmp
    commit initial init .""".split()  # noqa: SIM905
) | {
    "update readme",
    "update readme.md",
    "updated readme",
    "updated readme.md",
    "initial commit",
    "first commit",
    "bug fix",
    "bug fixes",
    "minor changes",
    "small fix",
    "code cleanup",
}
"""Whole messages that say nothing: BigCode's ten, and others of that kind."""

MACHINES = ("auto commit", "update contributing", "<?xml")
"""What a message must not hold (BigCode)."""

_VERSION = re.compile(r"(?i)\A(?:release |version |bump (?:version )?(?:to )?)?v?\d+\.\d+(?:\.\d+)?\S{0,20}$")
_ENCODINGS = frozenset(
    """iso-8859-1 latin1 iso8859-1 iso-8859-15 windows-1252 cp1252 windows-1251 koi8-r shift_jis sjis euc-jp gbk
    gb18030 gb2312 big5 euc-kr""".split()  # noqa: SIM905
)
"""What a message may be in besides UTF-8: Python has codecs of other names that do more than decode."""


class Document(NamedTuple):
    """A changed file of a commit."""

    place: int
    """Its place in the commit, below `MOST_FILES` (a commit that is left out whole has 0)."""
    path: str
    """Empty for a commit that is left out whole."""
    text: bytes
    reason: str
    size: int


class Message(NamedTuple):
    """What a commit object says."""

    subject: str
    author: str
    parents: int


def read(
    directory: str, start: str, skip: int, most: int, limit: int, *, vendored: bool
) -> Iterator[tuple[int, str, list[Document]]]:
    """Yield (place, hash, documents) of commits in order, the newest first.

    Args:
        directory: a checkout or a bare repository.
        start: the newest commit; `skip` and `most`: how many commits before the first, and at most.
        limit: bytes of a file after its change at most.
        vendored: take files of vendored folders.
    """
    found = history.commits(directory, start, skip, most)
    single = [one for one in found if one.parents < 2]
    objects = history.Objects(directory)
    try:
        changed = history.changes(directory, single, MOST_FILES)
        ahead = next(changed, None)
        for place, one in enumerate(found, skip):
            files: list[Change] = []
            # Commits that change nothing are not listed there.
            if ahead is not None and ahead[0] == one.hash:
                files, ahead = ahead[1], next(changed, None)
            yield place, one.hash, list(_documents(objects, one, files, limit, vendored))
    finally:
        objects.close()


def _documents(
    objects: history.Objects, commit: history.Commit, files: list[Change], limit: int, vendored: bool
) -> Iterator[Document]:
    kind, data, size = objects.read(commit.hash, MOST_MESSAGE)
    message = parse(data)
    reason = ""
    if commit.parents > 1:
        reason = "commit_merge"
    elif kind != "commit" or size > MOST_MESSAGE:
        reason = "commit_message"
    elif message.parents > commit.parents:
        reason = "commit_shallow"
    elif bots.is_bot(message.author):
        reason = "commit_bot"
    elif not says_something(message.subject):
        reason = "commit_message"
    elif not files:
        reason = "commit_unchanged"
    elif len(files) > MOST_FILES:
        reason = "commit_files"
    if reason:
        yield Document(0, "", b"", reason, 0)
        return
    for index, change in enumerate(files):
        text, why = _document(objects, commit.hash, message.subject, change, limit, vendored)
        yield Document(
            index, change.path, text.encode("utf-8", "surrogatepass"), why, len(text.encode()) if text else 0
        )


def _document(
    objects: history.Objects, commit: str, subject: str, change: Change, limit: int, vendored: bool
) -> tuple[str, str]:
    """The text of a changed file, or the reason without one."""
    if not change.regular:
        return "", "link"
    if change.old == change.new:
        return "", "commit_unchanged"
    if history.NULL.fullmatch(change.new):
        return "", "commit_deleted"
    path, reason = walk.member(change.path, "file", 1, limit, vendored=vendored)
    if reason:
        return "", reason
    sides = []
    for identity in (change.old, change.new):
        if history.NULL.fullmatch(identity):
            sides.append("")
            continue
        kind, data, size = objects.read(identity, limit)
        if kind != "blob":
            return "", "unreadable"
        if size > limit:
            return "", "commit_large"
        reason = why_not_text(data, limit)
        if reason == "empty":
            sides.append("")
            continue
        try:
            sides.append(data.decode())
        except UnicodeDecodeError:
            reason = reason or "bad_utf8"
        if reason:
            return "", reason
    old, new = sides
    language = languages.by_path(path, new.encode())
    if language is None:
        return "", "unknown_language"
    if not new.strip():
        return "", "commit_deleted"
    if len(old) > MOST_OLD:
        return "", "commit_large"
    before, after, lines = window(old, new, commit, change.path)
    if lines == 0:
        return "", "commit_unchanged"
    if draw("commits", commit, change.path, "sample") >= share(subject, language, lines) * 2.0**64:
        return "", "commit_sampled"
    return templates.commit(before, subject, after), ""


def share(subject: str, language: str, lines: int) -> float:
    """The chance with which a change is kept: BigCode's samples, one draw for all.

    Args:
        lines: how many lines the change spans.
    """
    chance = 1.0
    if lines <= SMALL or lines >= LARGE:
        chance *= 0.1
    if len(subject.split()) < FEW_WORDS:
        chance *= 0.5
    if language in DATA:
        chance *= 0.5
    return chance


def window(old: str, new: str, commit: str, path: str) -> tuple[str, str, int]:
    """The parts of both texts that are shown, and how many lines the change spans in the longer of the two.

    The span is from the first to the last line that differs: what is equal at the beginning and at the end of both is
    around it. So it takes one pass, whatever is in the texts.
    """
    before, after = old.splitlines(keepends=True), new.splitlines(keepends=True)
    shorter = min(len(before), len(after))
    first = next((i for i in range(shorter) if before[i] != after[i]), shorter)
    same = next((i for i in range(shorter - first) if before[-1 - i] != after[-1 - i]), shorter - first)
    old_end, new_end = len(before) - same, len(after) - same
    lines = max(old_end, new_end) - first
    if draw("commits", commit, path, "whole") < WHOLE * 2.0**64:
        return old, new, lines
    above = below(draw("commits", commit, path, "above"), AROUND + 1)
    under = below(draw("commits", commit, path, "under"), AROUND + 1)
    begin = max(0, first - above)
    return "".join(before[begin : old_end + under]), "".join(after[begin : new_end + under]), lines


def says_something(subject: str) -> bool:
    """BigCode's rules on the first line of a message."""
    text = subject.strip()
    words = text.split()
    folded = text.lower()
    if not words or folded.rstrip(".! ") in NOTHING_SAID or folded in NOTHING_SAID:
        return False
    if any(mark in folded for mark in MACHINES) or _VERSION.match(text):
        return False
    # Long strings without blanks: hashes, addresses.
    if len(text) / len(words) > 20:
        return False
    return not (subject.startswith((" ", "\t")) and len(words) == 1)


def parse(data: bytes) -> Message:
    """A commit object: headers, a blank line, the message."""
    head, _, body = data.partition(b"\n\n")
    author, parents, encoding = b"", 0, "utf-8"
    for line in head.split(b"\n"):
        key, _, value = line.partition(b" ")
        if key == b"parent":
            parents += 1
        elif key == b"author" and not author:
            # `NAME <MAIL> TIME ZONE`
            author = value.rpartition(b" <")[0]
        elif key == b"encoding":
            name = value.decode("ascii", "replace").lower()
            encoding = name if name in _ENCODINGS else encoding
    first = body.lstrip(b"\n").split(b"\n", 1)[0].rstrip(b"\r")
    return Message(_decoded(first, encoding), _decoded(author, encoding), parents)


def _decoded(data: bytes, encoding: str) -> str:
    """The text; empty if it is not in its encoding."""
    for name in ("utf-8", encoding):
        try:
            return data.decode(name)
        except UnicodeDecodeError:
            continue
    return ""
