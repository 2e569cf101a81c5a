"""Encodes the documents of code-related corpora, in which special tokens stand for themselves.

`Tokenizer.encode` never gives a special token, so that no text can inject one. In a commit, an issue or a structured
notebook the reader put them there, after it had taken them out of the content (codeshell/documents/templates.py).
"""

from __future__ import annotations

from collections.abc import Sequence

from codeshell.documents import templates
from codeshell.tokenizer.tokenizer import Tokenizer


def encode_documents(tokenizer: Tokenizer, texts: Sequence[str], languages: Sequence[str]) -> list[list[int]]:
    """Ids of each document, by its language. A tokenizer without these special tokens takes them for ordinary text.

    Args:
        texts, languages: (documents,) each.
    """
    known = all(mark in tokenizer.specials for mark in templates.MARKS)
    if not known or templates.TEMPLATED.isdisjoint(languages):
        return tokenizer.encode_batch(texts)
    # One call for all pieces, because the tokenizer's threads share what is in a call. A special token is its id, a
    # piece of text the place of its ids.
    plain: list[str] = []
    layout: list[list[tuple[bool, int]]] = []
    for text, language in zip(texts, languages, strict=True):
        parts = templates.pieces(text) if language in templates.TEMPLATED else iter([(False, text)])
        row = []
        for special, part in parts:
            row.append((special, tokenizer.specials[part] if special else len(plain)))
            if not special:
                plain.append(part)
        layout.append(row)
    encoded = tokenizer.encode_batch(plain)
    return [[index for special, at in row for index in ([at] if special else encoded[at])] for row in layout]
