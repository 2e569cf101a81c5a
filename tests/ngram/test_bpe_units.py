"""BPE units: the ids of the tokenizers library, whichever of the two encoders makes them."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers

from codeshell.documents.texts import TextBuffers, text_buffers
from codeshell.ngram.bpe import SPECIAL, Encoder, bpe_units
from codeshell.tokenizer.train import train

TEXTS = ["def f(x):\n    return x + 12  # 你好\n", "", "<|endoftext|> it's <fim_prefix>", "\x00\x0c é ٣ 😀\r\n"]


def encoder(folder: Path, **changes: Any) -> tuple[Encoder, tokenizers.Tokenizer]:
    """Units of a trained tokenizer whose file was changed, and the library's own reading of it."""
    train([TEXTS * 3], 320).save(folder)
    tree = json.loads((folder / "tokenizer.json").read_text())
    tree |= changes
    (folder / "tokenizer.json").write_text(json.dumps(tree))
    library = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    library.encode_special_tokens = True
    return Encoder(bpe_units(folder)), library


DIGITS = {"type": "Digits", "individual_digits": False}
BYTE_LEVEL = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
TEXT_TOKEN = {"id": 320, "content": "return", "single_word": False, "lstrip": False, "rstrip": False}
CHANGES: dict[str, tuple[bool, dict[str, Any]]] = {
    "as trained": (True, {}),
    "other digits": (False, {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [DIGITS, BYTE_LEVEL]}}),
    "a token that is text": (False, {"added_tokens": [TEXT_TOKEN | {"normalized": False, "special": False}]}),
    "a normaliser": (False, {"normalizer": {"type": "Lowercase"}}),
}


@pytest.mark.parametrize("name", CHANGES)
def test_ids_are_those_of_the_library(name: str, tmp_path: Path) -> None:
    native, changes = CHANGES[name]
    ours, library = encoder(tmp_path, **changes)
    assert (ours._native is not None) == native
    (piece,) = text_buffers(TEXTS)
    ids, begins = ours.encode(piece)
    expected = [one.ids for one in library.encode_batch(TEXTS, add_special_tokens=False)]
    assert [ids[a:b].tolist() for a, b in pairwise(begins)] == [[index + SPECIAL for index in one] for one in expected]
    for text in TEXTS:
        found, places = ours.encode_spans(text)
        assert found.tolist() == ours.encode(TextBuffers(text.encode(), np.array([0, len(text.encode())])))[0].tolist()
        assert places.tolist() == sorted(places.tolist())
