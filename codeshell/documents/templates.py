"""The forms in which commits, issues and notebooks become texts: StarCoder's special tokens between their parts.

    git-commits          <commit_before>OLD<commit_msg>SUBJECT<commit_after>NEW
    github-issues        <issue_start>Title: T\\nusername_0: TEXT<issue_comment>username_1: TEXT…<issue_closed>
    jupyter-structured   <jupyter_start><jupyter_text>TEXT<jupyter_code>CODE<jupyter_output>OUTPUT…, or <empty_output>

The tokens are those of the released tokenizer (ids 70004 to 70018). What stands between them comes from strangers, so
each special token in it is replaced by a space first: a comment cannot end its issue, or begin a commit.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

COMMITS = "git-commits"
ISSUES = "github-issues"
SCRIPTS = "jupyter-scripts"
STRUCTURED = "jupyter-structured"

TEMPLATED = frozenset({COMMITS, ISSUES, STRUCTURED})
"""Languages whose documents have special tokens as such. In a text of any other language they are ordinary text."""

END_OF_TEXT = "<|endoftext|>"

SPECIAL_TOKENS = (
    # The end of a document, and the sentinels of fill-in-the-middle.
    END_OF_TEXT,
    "<fim_prefix>",
    "<fim_middle>",
    "<fim_suffix>",
    "<fim_pad>",
    # StarCoder's marks for what a file is part of: repositories, issues, notebooks, commits.
    "<filename>",
    "<gh_stars>",
    "<issue_start>",
    "<issue_comment>",
    "<issue_closed>",
    "<jupyter_start>",
    "<jupyter_text>",
    "<jupyter_code>",
    "<jupyter_output>",
    "<empty_output>",
    "<commit_before>",
    "<commit_msg>",
    "<commit_after>",
    "<reponame>",
    "<|end|>",
)
"""The special tokens in the order of the released tokenizer, where they are ids 70000 to 70019."""

SPECIAL = frozenset(SPECIAL_TOKENS)

MARKS = SPECIAL_TOKENS[SPECIAL_TOKENS.index("<issue_start>") : SPECIAL_TOKENS.index("<reponame>")]
"""The special tokens that the templates use."""

_ANY = re.compile("|".join(map(re.escape, sorted(SPECIAL))))
_MARK = re.compile("(" + "|".join(map(re.escape, MARKS)) + ")")


def plain(text: str) -> str:
    """A text without special tokens: each is a space.

    One pass is enough, because no token holds a space: what stands on both sides cannot join to a new one.
    """
    return _ANY.sub(" ", text) if "<" in text else text


def pieces(text: str) -> Iterator[tuple[bool, str]]:
    """The parts of a document of a `TEMPLATED` language in order: (whether it is a special token, text). Texts between
    two tokens may be empty and are left out."""
    for place, part in enumerate(_MARK.split(text)):
        if part:
            yield place % 2 == 1, part


def commit(before: str, subject: str, after: str) -> str:
    """A change of a file; `before` is empty for a new one."""
    return f"<commit_before>{plain(before)}<commit_msg>{plain(subject)}<commit_after>{plain(after)}"


def notebook(groups: list[tuple[str, str, str]]) -> str:
    """(text, code, output) of each pair of cells, without special tokens in them."""
    parts = ["<jupyter_start>"]
    for text, code, output in groups:
        parts.append(f"<jupyter_text>{plain(text)}<jupyter_code>{plain(code)}<jupyter_output>")
        parts.append(plain(output) or "<empty_output>")
    return "".join(parts)
