"""Paragraphs of the Markdown pages that are written: model cards and cards of quality models."""

from __future__ import annotations

import textwrap


def wrapped(text: str, first: str = "", width: int = 115) -> list[str]:
    """A paragraph in lines of at most `width` characters, or an entry of a list that begins with `first`.

    A word that is longer has a line of its own, because links and names must stay whole.
    """
    lines = textwrap.wrap(
        " ".join(text.split()),
        width,
        initial_indent=first,
        subsequent_indent=" " * len(first),
        break_long_words=False,
        break_on_hyphens=False,
    )
    return lines or [first.rstrip()]
