"""Issues and their comments from dumps: events in any order become one text for each issue.

Three forms are read, as JSON Lines (packed or not) or as JSON arrays one after another, and may be mixed:

    GitHub Archive   `IssuesEvent` and `IssueCommentEvent`; other events are passed over, and each file has one row that
                     counts them
    the GitHub API   what `gh api repos/OWNER/NAME/issues` and `…/issues/comments` give
    BigCode          {"repo", "org", "issue_number", "events": [{"type", "action", "author", …}]}

Events of an issue may be far apart, in different files. Each goes into one of 64 parts by a hash of repository and
number; parts that outgrow `HELD_BYTES` together wait on the disk, compressed, in the directory for temporary files.
Then part after part is put in order by hash. So memory is bounded by some times `HELD_BYTES` and by the largest issue,
the order of the documents depends on the issues alone, and a dump is read once. An issue of over `MOST_EVENTS` events
or `MOST_BYTES` is left out (`issue_large`).
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import IO, Any, NamedTuple

import msgspec
import pyarrow as pa

from codeshell.documents import issue_texts, readers
from codeshell.documents.issue_texts import Comment, Issue
from codeshell.documents.json_lines import decode_record

PARTS = 64
"""Parts by hash; a part that is too large is cut into as many again."""

HELD_BYTES = 64 << 20
"""Bytes of events that are held, before they go to the disk, and of a part that is read back at once."""

MOST_EVENTS = 10_000
MOST_BYTES = 16 << 20
"""Events of one issue, and bytes of their texts, at most."""

PIECE = 1 << 20

WANTED = (b"IssuesEvent", b"IssueCommentEvent", b'"events"', b'"number"', b'"issue_url"')
"""One of these words is in every line that matters: all others are passed over without being decoded."""


class Event(msgspec.Struct, array_like=True):
    """What is kept of an event."""

    repo: str
    number: int
    time: str
    """ISO 8601 in UTC, which GitHub writes and which sorts as text."""
    comment: int
    """Number of a comment; 0 for the issue itself."""
    action: str
    """`text`, `deleted`, `closed` or `reopened`."""
    author: str
    title: str
    body: str


class Found(NamedTuple):
    """An issue as a document, or what is left out."""

    place: str
    """`OWNER/NAME#12`, or for what is left out of a file, its path."""
    repo: str
    number: int
    text: str
    reason: str
    size: int


def read(root: str, paths: Iterable[str], longest: int) -> Iterator[Found]:
    """The issues of some files, ordered by a hash of repository and number, after what the files hold besides.

    Args:
        root: the folder that the paths are below.
        longest: bytes of a line at most.

    Raises:
        UserError: a damaged file.
    """
    with tempfile.TemporaryDirectory(prefix="codeshell-issues-") as directory:
        parts = _Parts(Path(directory), 0)
        for path in paths:
            others, lost = [0, 0], [0, 0]
            for record, size in _records(f"{root}/{path}", longest):
                events = _events(record) if record is not None else []
                counted = lost if record is None and size < 0 else others
                if not events:
                    counted[0] += 1
                    counted[1] += abs(size)
                for event in events:
                    parts.add(event)
            for (count, size), reason in ((others, "other_events"), (lost, "bad_json")):
                if count:
                    yield Found(path, "", 0, "", reason, size)
        yield from _issues(parts)


def _issues(parts: _Parts) -> Iterator[Found]:
    # A stack in place of recursion: parts of parts.
    stack: list[tuple[_Parts, int]] = [(parts, part) for part in reversed(range(PARTS))]
    while stack:
        whole, part = stack.pop()
        inner = whole.split(part)
        if inner is not None:
            stack += [(inner, one) for one in reversed(range(PARTS))]
            continue
        issues: dict[tuple[int, str, int], list[Event]] = {}
        sizes: dict[tuple[int, str, int], int] = {}
        for event in whole.take(part):
            key = (_hash(event.repo, event.number), event.repo, event.number)
            events = issues.setdefault(key, [])
            size = sizes[key] = sizes.get(key, 0) + len(event.body)
            # Of an issue that is too large, only that is remembered.
            if len(events) > MOST_EVENTS or size > MOST_BYTES:
                events[:] = events[:1]
                sizes[key] = max(size, MOST_BYTES + 1)
                continue
            events.append(event)
        for key in sorted(issues):
            _, repo, number = key
            place = f"{repo}#{number}"
            if sizes[key] > MOST_BYTES:
                yield Found(place, repo, number, "", "issue_large", sizes[key])
                continue
            issue = put_together(issues[key])
            text, reason = issue_texts.convert(issue) if issue else ("", "issue_no_text")
            yield Found(place, repo, number, text, reason, len(text.encode("utf-8", "surrogatepass")))


def put_together(events: list[Event]) -> Issue | None:
    """An issue from its events, in any order and each any number of times; None if nothing says what it is about.

    The last edit of each text counts. A comment on an issue that was opened before the dump began carries the issue,
    so that a missing beginning is no loss.
    """
    events = sorted(events, key=lambda event: (event.time, event.comment, event.action, event.author, event.body))
    title = body = author = ""
    known = False
    # comment -> (time of its first appearance, author, text)
    comments: dict[int, tuple[str, str, str]] = {}
    closed_at = ""
    for event in events:
        if event.action == "text" and event.comment == 0:
            title, body, author, known = event.title, event.body, event.author or author, True
        elif event.action == "text":
            first = comments.get(event.comment, (event.time, "", ""))[0]
            comments[event.comment] = (first, event.author, event.body)
        elif event.action == "deleted":
            comments.pop(event.comment, None)
        elif event.action in ("closed", "reopened"):
            closed_at = event.time if event.action == "closed" else ""
    if not known:
        return None
    ordered = sorted(comments.items(), key=lambda item: (item[1][0], item[0]))
    texts = [Comment(author, body), *(Comment(who, text) for _, (_, who, text) in ordered)]
    closed = 1 + sum(first <= closed_at for _, (first, _, _) in ordered) if closed_at else -1
    return Issue(title, texts, closed)


def _records(path: str, longest: int) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """(record, bytes) of a file; a line that was passed over is (None, bytes), and no JSON (None, -bytes)."""
    with readers.damage(path), readers.open_lines(path) as file:
        head = file.read(1)
        while head and head.isspace():
            head = file.read(1)
        if head == b"[":
            yield from _array(path, file)
            return
    for _, _, line in readers.numbered_lines(path, 0, None, longest):
        if line is None:
            yield None, -longest
        elif not line.isspace():
            if not any(word in line for word in WANTED):
                yield None, len(line)
                continue
            record = decode_record(line)
            yield (record, len(line)) if record is not None else (None, -len(line))


def _array(path: str, file: IO[bytes]) -> Iterator[tuple[dict[str, Any] | None, int]]:
    """The objects of arrays one after another, as `gh api --paginate` writes them; the first bracket is read.

    One object is in memory at a time.
    """
    decoder = json.JSONDecoder(strict=False)
    text, place, ended = "", 0, False
    while True:
        # Between the objects, at any depth of arrays.
        while place < len(text) and text[place] in " \t\r\n,[]":
            place += 1
        try:
            if place == len(text):
                raise ValueError
            record, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            if ended:
                break
            # Twice as much at least, so that a long object is not tried again and again.
            text = text[place:]
            more = file.read(max(PIECE, len(text)))
            ended, place = not more, 0
            text += more.decode("utf-8", "surrogateescape") if more.isascii() else _whole(more, file)
            continue
        yield (record if isinstance(record, dict) else None), end - place
        place = end
    if text[place:].strip():
        raise readers.DamagedError(
            f"{path}: no JSON from its object number on that begins {text[place : place + 40]!r}; fix it"
        )


def _whole(data: bytes, file: IO[bytes]) -> str:
    """Bytes as text, with those that the last character lacks."""
    for _ in range(4):
        try:
            return data.decode()
        except UnicodeDecodeError as error:
            if error.reason != "unexpected end of data":
                break
            data += file.read(1)
    return data.decode("utf-8", "surrogateescape")


def _events(record: dict[str, Any]) -> list[Event]:
    """What a record says of an issue; nothing for other records."""
    kind = record.get("type")
    if kind in ("IssuesEvent", "IssueCommentEvent"):
        return _archive(record, kind)
    if isinstance(record.get("events"), list):
        return _bigcode(record)
    if isinstance(record.get("number"), int) and isinstance(record.get("title"), str):
        repo = _repo_of(record, "repository_url")
        return _issue(repo, record, _text(record, "updated_at")) if repo else []
    if isinstance(record.get("issue_url"), str):
        place, _, number = record["issue_url"].rpartition("/issues/")
        repo = "/".join(place.split("/")[-2:])
        if number.isdigit() and len(number) < 12 and repo:
            return [_comment(repo, int(number), record, "created")]
    return []


def _archive(record: dict[str, Any], kind: str) -> list[Event]:
    payload, repo = _object(record, "payload"), _text(_object(record, "repo"), "name")
    issue = _object(payload, "issue")
    number, time, action = issue.get("number"), _text(record, "created_at"), _text(payload, "action")
    if not repo or not isinstance(number, int):
        return []
    # An event carries the issue as it was then.
    found = [event for event in _issue(repo, issue, time) if event.action == "text"]
    if kind == "IssueCommentEvent":
        comment = _object(payload, "comment")
        if comment:
            found.append(_comment(repo, number, comment, action))
    elif action in ("closed", "reopened"):
        found.append(Event(repo, number, time, 0, action, "", "", ""))
    return found


def _issue(repo: str, issue: dict[str, Any], time: str) -> list[Event]:
    number = issue["number"]
    author = _text(_object(issue, "user"), "login")
    found = [Event(repo, number, time, 0, "text", author, _text(issue, "title"), _text(issue, "body"))]
    if _text(issue, "state") == "closed" and _text(issue, "closed_at"):
        found.append(Event(repo, number, _text(issue, "closed_at"), 0, "closed", "", "", ""))
    return found


def _comment(repo: str, number: int, comment: dict[str, Any], action: str) -> Event:
    identity = comment.get("id")
    time = _text(comment, "updated_at" if action == "edited" else "created_at") or _text(comment, "created_at")
    what = "deleted" if action == "deleted" else "text"
    if what == "deleted":
        time = "9999"  # whatever is said of the comment, it is gone
    author = _text(_object(comment, "user"), "login")
    return Event(
        repo,
        number,
        time,
        identity if isinstance(identity, int) and identity > 0 else 1,
        what,
        author,
        "",
        _text(comment, "body"),
    )


def _bigcode(record: dict[str, Any]) -> list[Event]:
    org, name, number = _text(record, "org"), _text(record, "repo"), record.get("issue_number")
    repo = name if "/" in name or not org else f"{org}/{name}"
    if not repo or not isinstance(number, int):
        return []
    found = []
    for place, one in enumerate(record["events"]):
        if not isinstance(one, dict):
            continue
        time, author, action = _text(one, "datetime"), _text(one, "author"), _text(one, "action")
        if _text(one, "type") == "issue":
            if action in ("closed", "reopened"):
                found.append(Event(repo, number, time, 0, action, "", "", ""))
            else:
                found.append(
                    Event(repo, number, time, 0, "text", author, _text(one, "title"), _text(one, "description"))
                )
        else:
            identity = one.get("comment_id")
            number_of = int(identity) if isinstance(identity, (int, float)) and 0 < identity < 2**53 else place + 1
            found.append(Event(repo, number, time, number_of, "text", author, "", _text(one, "comment")))
    return found


def _repo_of(record: dict[str, Any], key: str) -> str:
    """`owner/name` from an address of the API, or of the page."""
    address = _text(record, key) or _text(record, "html_url").partition("/issues/")[0].partition("/pull/")[0]
    parts = address.rstrip("/").split("/")
    return "/".join(parts[-2:]) if len(parts) >= 4 else ""


def _object(record: dict[str, Any], key: str) -> dict[str, Any]:
    value = record.get(key)
    return value if isinstance(value, dict) else {}


def _text(record: dict[str, Any], key: str) -> str:
    value = record.get(key)
    return value if isinstance(value, str) else ""


def _hash(repo: str, number: int) -> int:
    data = f"{repo}#{number}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big")


class _Parts:
    """Events by six bits of their hash: in memory, or in a compressed file for each part."""

    def __init__(self, directory: Path, depth: int) -> None:
        self._directory, self._depth = directory, depth
        directory.mkdir(exist_ok=True)
        self._held: list[list[bytes]] = [[] for _ in range(PARTS)]
        self._held_bytes = 0
        # Bytes of each part before compression.
        self._sizes = [0] * PARTS
        self._on_disk: set[int] = set()
        self._encode: Callable[[Event], bytes] = msgspec.json.Encoder().encode

    def add(self, event: Event) -> None:
        # Lone surrogates of JSON have no UTF-8; what was escaped bytes stays so.
        try:
            data = self._encode(event)
        except UnicodeEncodeError:
            for name in ("repo", "time", "author", "title", "body"):
                setattr(event, name, readers.storable(getattr(event, name)))
            data = self._encode(event)
        # 64 bits, six at a time from the top: sorted parts of sorted parts are sorted.
        part = _hash(event.repo, event.number) >> (58 - 6 * self._depth) & 63
        self._held[part].append(data)
        self._held_bytes += len(data)
        self._sizes[part] += len(data)
        if self._held_bytes > HELD_BYTES:
            self._spill()

    def _spill(self) -> None:
        for part, lines in enumerate(self._held):
            if lines:
                # Frames of Zstandard one after another are one stream.
                with (
                    open(self._directory / f"{part}", "ab") as raw,
                    pa.CompressedOutputStream(pa.PythonFile(raw, "w"), "zstd") as file,
                ):
                    file.write(b"\n".join(lines) + b"\n")
                self._on_disk.add(part)
                lines.clear()
        self._held_bytes = 0

    def split(self, part: int) -> _Parts | None:
        """The part in parts of its own, if it is too large to be held and its hash has bits left."""
        if self._sizes[part] <= HELD_BYTES or self._depth == 9:
            return None
        inner = _Parts(self._directory / f"part-{part}", self._depth + 1)
        for event in self.take(part):
            inner.add(event)
        return inner

    def take(self, part: int) -> Iterator[Event]:
        """The events of a part, which are then gone."""
        decode = msgspec.json.Decoder(Event).decode
        path = self._directory / f"{part}"
        if part in self._on_disk:
            with readers.open_lines(str(path)) as file:
                for line in file:
                    yield decode(line)
            path.unlink()
        held, self._held[part] = self._held[part], []
        self._held_bytes -= sum(map(len, held))
        for data in held:
            yield decode(data)
