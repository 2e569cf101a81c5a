"""What an issue and its comments become: a text in StarCoder's template, or the reason without one.

The steps are BigCode's (filters of GitHub issues for StarCoder), and these are done otherwise:

    bots        all names are compared without case (documents/bots.py)
    users       names are replaced as whole words, the longest first; BigCode's plain replacement changed words that
                hold a name ("test" in "latest")
    comments    HTML comments, which are forms' instructions, are cut, and headings of a form without an answer

Every step takes one pass over the text, whatever is in it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from codeshell.documents import bots, templates

MOST_LINES, FIRST_LINES, LAST_LINES = 80, 60, 20
"""A comment of more lines is cut to its first and last ones."""

TRUNCATED = "[Truncated]"

FEW_USERS = 100
"""Up to so many names are looked for one by one in a text, before its words are."""

FEWEST_CHARACTERS = 200
"""Characters of all texts together, or the issue says nothing."""

ALONE_CHARACTERS, ALONE_EVENTS = 7000, 10
"""What a single user may write at most: a log or a diary is no conversation."""

_MAIL_MARK = re.compile(
    r"notifications@github\.com|\d{1,4}/\d{1,2}/\d{1,4},? \d{1,2}:\d{2} [AP]M.*wrote|^On .* wrote:$"
)
_MAIL_END = "reply to this email directly"
_SIGNATURE = re.compile(
    r"(?:sent from my \w+|get outlook for \w+|signed-off-by: .*|co-authored-by: .*|-- ?)$", re.IGNORECASE
)
_RULE = re.compile(r"_{20,}")
_HEADING = re.compile(r"#{1,6} |\*\*[^*]{1,100}\*\*:?$")
_BOX = re.compile(r"[-*] \[[ xX]\] ")


class Comment(NamedTuple):
    """One of the texts of an issue, in order of time."""

    author: str
    text: str


class Issue(NamedTuple):
    """An issue as it was found."""

    title: str
    comments: list[Comment]
    """The description first."""
    closed: int
    """How many comments were there when it was closed for the last time; -1 if it is open."""


def convert(issue: Issue) -> tuple[str, str]:
    """The text, and the reason without one: `issue_bot` (programs wrote all of it), `issue_short`, `issue_single`."""
    comments, closed = _without_bots(issue.comments, issue.closed)
    if not comments or (issue.comments and bots.is_bot(issue.comments[0].author)):
        return "", "issue_bot"
    texts = [clean(comment.text) for comment in comments]
    # What is left empty is no comment, but the description keeps its place.
    kept = [place for place, text in enumerate(texts) if text or place == 0]
    closed = sum(place < closed for place in kept) if closed >= 0 else closed
    authors = [comments[place].author for place in kept]
    texts = [texts[place] for place in kept]
    total = sum(map(len, texts))
    users = list(dict.fromkeys(authors))
    if total < FEWEST_CHARACTERS:
        return "", "issue_short"
    if len(users) < 2 and (total > ALONE_CHARACTERS or len(texts) > ALONE_EVENTS):
        return "", "issue_single"
    hide = hidden(users)
    names = {user: f"username_{number}" for number, user in enumerate(users)}
    parts = [f"<issue_start>Title: {templates.plain(hide(' '.join(issue.title.split())))}\n"]
    for place, (author, text) in enumerate(zip(authors, texts, strict=True)):
        if place:
            parts.append("<issue_comment>")
        parts.append(f"{names[author]}: {templates.plain(hide(text))}")
        if place + 1 == closed:
            parts.append("<issue_closed>")
    return "".join(parts), ""


def _without_bots(comments: Sequence[Comment], closed: int) -> tuple[list[Comment], int]:
    """The comments of people, without those that only call a bot which then answered; and `closed` among them."""
    kept: list[tuple[int, Comment]] = []
    for place, comment in enumerate(comments):
        if not bots.is_bot(comment.author):
            kept.append((place, comment))
            continue
        # The description is never a call.
        if len(kept) > 1:
            before = kept[-1][1].text.strip()
            if before.startswith("/") or (comment.author and f"@{comment.author}".lower() in before.lower()):
                kept.pop()
    inside = sum(place < closed for place, _ in kept) if closed >= 0 else closed
    return [comment for _, comment in kept], inside


_WORD = re.compile(r"(?<!\w)@?[A-Za-z0-9](?:[\w-]*[A-Za-z0-9])?(?!\w)")


def hidden(users: Sequence[str]) -> Callable[[str], str]:
    """A function that replaces the names of some users by `username_0`, `username_1`, … in a text.

    A name counts as a whole word of letters, digits and hyphens: after an @ in any case, elsewhere as it is written.
    """
    exact = {user: f"username_{number}" for number, user in enumerate(users) if user}
    folded = {user.lower(): name for user, name in exact.items()}

    def replaced(found: re.Match[str]) -> str:
        word = found[0]
        if word.startswith("@"):
            name = folded.get(word[1:].lower())
            return f"@{name}" if name else word
        return exact.get(word, word)

    few = list(folded) if len(folded) <= FEW_USERS else []

    def hide(text: str) -> str:
        # Most texts name nobody, and to look at every word takes most of the time.
        if few:
            lowered = text.lower()
            if not any(user in lowered for user in few):
                return text
        return _WORD.sub(replaced, text)

    return hide


def clean(text: str) -> str:
    """A comment without what mail programs, forms and drawn lines put into it; long ones are cut in the middle."""
    text = _without_html_comments(text.replace("\r\n", "\n").replace("\r", "\n"))
    lines = _without_mail(_RULE.sub("", text).split("\n"))
    lines = _without_forms([line.rstrip() for line in lines])
    if len(lines) > MOST_LINES:
        lines = [*lines[:FIRST_LINES], TRUNCATED, *lines[-LAST_LINES:]]
    return "\n".join(lines).strip()


def _without_html_comments(text: str) -> str:
    parts: list[str] = []
    place = 0
    while (begin := text.find("<!--", place)) >= 0:
        end = text.find("-->", begin + 4)
        if end < 0:
            break
        parts.append(text[place:begin])
        place = end + 3
    return "".join(parts) + text[place:]


def _without_mail(lines: list[str]) -> list[str]:
    """Cut a mail's answer: from the line that names the mail to the last quoted line, and signatures at the end."""
    marks = [place for place, line in enumerate(lines) if len(line) < 500 and _MAIL_MARK.search(line)]
    if marks:
        end = marks[-1]
        for place in range(end, len(lines)):
            if (
                lines[place].startswith(">")
                or _MAIL_END in lines[place].lower()
                or "view it on github" in lines[place].lower()
            ):
                end = place
        lines = lines[: marks[-1]] + lines[end + 1 :]
    while lines and (not lines[-1].strip() or _SIGNATURE.match(lines[-1].strip())):
        lines.pop()
    return lines


def _without_forms(lines: list[str]) -> list[str]:
    """Cut the boxes to tick of a form, headings that nothing follows, and blank lines after blank ones."""
    kept: list[str] = []
    pending: list[str] = []
    fenced = False
    for line in lines:
        text = line.lstrip()
        if text.startswith(("```", "~~~")):
            fenced = not fenced
        if fenced or not (_BOX.match(text) or _HEADING.match(text)):
            # A heading stays if something follows it that is not blank.
            if text:
                kept += pending
                pending = []
                kept.append(line)
            elif pending:
                pending.append(line)
            elif fenced or (kept and kept[-1]):
                kept.append(line)
        elif _HEADING.match(text):
            # Of headings that follow one another, a deeper one is below the one before it.
            level = len(text) - len(text.lstrip("#"))
            above = pending[0].lstrip() if pending else ""
            deeper = bool(above) and 0 < len(above) - len(above.lstrip("#")) < level
            pending = [*pending, line] if deeper else [line]
    return kept
