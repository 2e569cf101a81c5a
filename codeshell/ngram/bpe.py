"""BPE units: the ids of a tokenizer.json, three added (<unk>, <s> and </s> come first).

The ids are those of the `tokenizers` library, which takes special tokens in a text for text. C++ makes them where it
serves the tokenizer (codeshell/tokenizer/encoder.py), and the library, twenty times slower, where it does not.
"""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codeshell import _C
from codeshell.documents.texts import TextBuffers
from codeshell.errors import UserError
from codeshell.tokenizer.tokenizer import Tokenizer as OurTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

SPECIAL = 3
"""Ids before those of the tokenizer."""

DOCUMENTS = 256
"""Documents that are encoded at a time."""


def bpe_units(tokenizer: str | Path | None) -> _C.ngram.Units:
    """Units of a tokenizer.json or of the directory that holds one.

    Raises:
        UserError: none is given, or it is no tokenizer.
    """
    if tokenizer is None:
        raise UserError("units bpe: need --tokenizer FILE; name a tokenizer.json")
    path = Path(tokenizer)
    path = path / "tokenizer.json" if path.is_dir() else path
    try:
        blob = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: {error.strerror}; name a tokenizer.json, or the directory of one") from None
    known = load(blob, str(path)).get_vocab(with_added_tokens=True)
    tokens = {number: token for token, number in known.items()}
    # A number without a token keeps its place.
    words = [_word(tokens.get(number, f"<no {number}>")) for number in range(max(tokens, default=-1) + 1)]
    return _C.ngram.Units("bpe", words, blob)


def load(blob: bytes, name: str) -> Tokenizer:
    """The tokenizer of a tokenizer.json, which takes special tokens in a text for text.

    Raises:
        UserError: it is none.
    """
    from tokenizers import Tokenizer

    try:
        tokenizer = Tokenizer.from_str(blob.decode())
    except Exception as error:  # the library raises Exception itself
        raise UserError(f"{name}: no tokenizer.json ({str(error)[:100]}); name another") from None
    tokenizer.encode_special_tokens = True
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def _native(blob: bytes) -> OurTokenizer | None:
    """Our reading of a tokenizer.json, if its ids are the library's and made in C++."""
    try:
        tokenizer = OurTokenizer(blob.decode())
    except UserError:
        return None
    # What our reading leaves out, and the library does not.
    tree = json.loads(blob)
    text = any(not token.get("special") for token in tree.get("added_tokens") or [])
    if text or tree["model"].get("unk_token") is not None or tree["model"].get("dropout") or tokenizer.missing_bytes:
        return None
    return tokenizer if tokenizer.native else None


class Encoder:
    """Makes the ids of texts for units of BPE."""

    def __init__(self, units: _C.ngram.Units) -> None:
        self._tokenizer = load(units.extra, "tokenizer of the model")
        self._native = _native(units.extra)

    def encode(self, piece: TextBuffers) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of texts: (units,), and where those of each text begin: (texts + 1,)."""
        if self._native:
            found, begins = self._native.encode_buffers(piece)
            return found + np.uint32(SPECIAL), begins
        ids: list[NDArray[np.uint32]] = []
        bounds = piece.offsets.tolist()
        for first in range(0, len(piece), DOCUMENTS):
            some = bounds[first : first + DOCUMENTS + 1]
            texts = [str(piece.data[begin:end], "utf-8") for begin, end in itertools.pairwise(some)]
            encoded = self._tokenizer.encode_batch_fast(texts, add_special_tokens=False)
            ids += [np.array(one.ids, np.uint32) + np.uint32(SPECIAL) for one in encoded]
        offsets = np.zeros(len(ids) + 1, np.int64)
        np.cumsum([len(one) for one in ids], out=offsets[1:])
        return np.concatenate(ids or [np.zeros(0, np.uint32)]), offsets

    def encode_spans(self, text: str) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
        """The ids of a text, and the byte at which each one's token begins: both (units,)."""
        found = self._tokenizer.encode(text, add_special_tokens=False)
        # The library counts characters: bytes[i] is where character i begins.
        sizes = [len(character.encode()) for character in text]
        starts = np.cumsum([0, *sizes])
        begins = np.array([begin for begin, _ in found.offsets], np.int64)
        return np.array(found.ids, np.uint32) + np.uint32(SPECIAL), starts[begins]


def _word(token: str) -> bytes:
    """A token as a word of an ARPA file: what separates there, and what would be a special word, as \\xHH."""
    if token in ("<unk>", "<s>", "</s>"):
        token = "\\x3C" + token[1:]
    return re.sub(r"[\x00-\x20\x7f]", lambda found: f"\\x{ord(found[0]):02X}", token or "\\x").encode()
