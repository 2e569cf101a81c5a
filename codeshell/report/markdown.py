"""Markdown from values of strangers: escaped text, tables, and the header that the hub reads."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from codeshell.report.format import cut, one_line

_SPECIAL = re.compile(
    # Code, emphasis, strike-through, links and images, columns, mathematics, mentions and addresses.
    r"[\\`*~\[\]|$@]"
    # An underscore inside a word is one.
    r"|(?<![0-9A-Za-z])_|_(?![0-9A-Za-z])"
    # A bare link, which the hub makes of "http://" and of "www." alone.
    r"|:(?=//)|(?<=\bwww)\."
    # What begins a list, a heading or a rule, if a line happens to begin there.
    r"|(?<!\S)[-+=#](?=[-+=#]*(?:\s|$))|(?<=\d)[.)](?=\s|$)",
    re.IGNORECASE,
)


def escape(text: Any, limit: int = 300) -> str:
    """Foreign text as one line of Markdown that shows just this text: no link, image, mention, HTML or new block.

    Control characters and those that turn the writing direction are written out. The words may be put on several lines.
    """
    shown = one_line(cut(" ".join(str(text).split()), limit))
    # Entities first: an ampersand that was there must not make one with what follows.
    shown = shown.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
    # A backslash before punctuation shows the punctuation alone, wherever it stands.
    return _SPECIAL.sub(lambda found: "\\" + found[0], shown)


def table(head: Sequence[str], rows: Iterable[Sequence[str]], texts: int = 1) -> list[str]:
    """Lines of a table; cells are Markdown already. The first `texts` columns are left-aligned, the others right."""
    marks = [" --- "] * texts + [" ---: "] * (len(head) - texts)
    lines = [f"| {' | '.join(head)} |", f"|{'|'.join(marks)}|"]
    return [*lines, *(f"| {' | '.join(row)} |" for row in rows)]


def front_matter(fields: Mapping[str, Any]) -> list[str]:
    """The YAML header of a card. Every value is JSON, which is YAML, so no text can end the header or add a key."""
    lines = [f"{key}: {json.dumps(value, ensure_ascii=True)}" for key, value in fields.items()]
    return ["---", *lines, "---"]
