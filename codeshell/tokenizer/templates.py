"""Encodes the documents of code-related corpora, in which special tokens stand for themselves.

`Tokenizer.encode` never gives a special token, so that no text can inject one. In a commit, an issue or a structured
notebook the reader put them there, after it had taken them out of the content (codeshell/documents/templates.py).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from codeshell.documents import templates
from codeshell.documents.texts import text_buffers
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


def encode_column(
    tokenizer: Tokenizer, texts: pa.Array, languages: Sequence[str]
) -> tuple[npt.NDArray[np.uint32], npt.NDArray[np.int64]]:
    """`encode_documents` of an Arrow column, without Python strings unless a document needs its special tokens.

    Args:
        texts: (documents,) strings.
        languages: (documents,).

    Returns:
        The ids of all documents end to end, (ids,), and where those of each begin: (documents + 1,).

    Raises:
        ValueError: a text that is null or not UTF-8.
    """
    if templates.TEMPLATED.isdisjoint(languages):
        (buffers,) = text_buffers(texts)
        return tokenizer.encode_buffers(buffers)
    encoded = encode_documents(tokenizer, texts.to_pylist(), languages)
    offsets = np.zeros(len(encoded) + 1, np.int64)
    np.cumsum([len(ids) for ids in encoded], out=offsets[1:])
    return np.fromiter((index for ids in encoded for index in ids), np.uint32, int(offsets[-1])), offsets
