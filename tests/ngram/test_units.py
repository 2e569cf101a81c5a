"""Lexical units: the C++ against the definition in csrc/ngram/lexer.h, written again as a regular expression."""

from __future__ import annotations

import pickle
import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.documents.texts import text_buffers

PAIRS = """
== != <= >= += -= *= /= %= &= |= ^= := => -> <- :: && || ++ -- << >> ** // /* */ .. ?. ?? "" '' `` ## $$ ~~ </ /> #!
"""
UNIT = re.compile(
    rb"(?P<number>[0-9][0-9A-Za-z_\x80-\xff]*(?:\.[0-9][0-9A-Za-z_\x80-\xff]*)*)"
    rb"|(?P<name>[A-Za-z_\x80-\xff][0-9A-Za-z_\x80-\xff]*)"
    rb"|(?P<run>([!\"#$%&'*+,\-./:;<=>?@\\^`|~])\4{2,})"
    rb"|(?P<pair>" + b"|".join(re.escape(pair.encode()) for pair in PAIRS.split()) + rb")"
    rb"|(?P<mark>[!-/:-@\[-^`{-~])"
    rb"|(?P<blank>[ \t\v\f\r\n]+)"
    rb"|(?P<control>[\x00-\x1f\x7f])"
)


def shape(word: str | bytes, number: bool) -> str:
    """The class of a word that has no id."""
    data = word if isinstance(word, bytes) else word.encode()
    if len(data) > 64:
        return "<long>"
    if number:
        if data.isdigit():
            return "<12>" if len(data) <= 2 else "<1234>" if len(data) <= 4 else "<12345>"
        if re.fullmatch(rb"[0-9.]+", data):
            return "<1.5>"
        return "<0x1F>" if data[:2] in (b"0x", b"0X") else "<1a>"
    upper, lower = re.search(rb"[A-Z]", data), re.search(rb"[a-z]", data)
    if re.search(rb"[\x80-\xff]", data):
        name = "other"
    elif b"_" in data:
        name = ("Mixed_" if lower else "UPPER_SNAKE") if upper else "snake"
    elif not upper:
        name = "lower"
    elif not lower:
        name = "UPPER"
    else:
        name = "Pascal" if data[:1].isupper() else "camel"
    return f"<{name}{'1' if re.search(rb'[0-9]', data) else ''}>"


def reference(text: bytes, known: set[bytes]) -> list[tuple[str | bytes, int, int]]:
    """(word, begin, end) of each unit; a known word is bytes."""
    units: list[tuple[str | bytes, int, int]] = []
    at = 0
    while at < len(text):
        found = UNIT.match(text, at)
        assert found, text[at : at + 10]
        at, piece = found.end(), found[0]
        if found["run"]:
            units.append((piece[:1].decode() * 3, *found.span()))
        elif found["number"] or found["name"]:
            word = piece if piece in known and len(piece) <= 64 else shape(piece, bool(found["number"]))
            units.append((word, *found.span()))
        elif found["pair"] or found["mark"]:
            units.append((piece.decode(), *found.span()))
        elif found["control"]:
            units.append(("<control>", *found.span()))
    return units


WORDS = (b"self", b"x", b"0", b"return", b"a_b", b"1.5", "größe".encode(), b"\xff\xfe")
UNITS = _C.ngram.Units("lexical", list(WORDS))
CODE = st.lists(
    st.one_of(
        st.sampled_from(
            [b"self", b"x", b" ", b"\n", b"\n    ", b"\n\t", b"\r\n", b"==", b"===", b"->", b"((", b".", b"..", b"1.5",
             b"0x1F", b"0", b"12", b"123", b"12345", b"1e5", b"a_b", b"FooBar", b"fooBar", b"FOO", b"A_B", b"A_b",
             b"x1", "größe".encode(), b"\xff\xfe", b"\x00", b"\x7f", b"z" * 65, b"----", b"'''", b"//", b"{", b"}}"]
        ),
        st.binary(max_size=20),
    ),
    max_size=40,
).map(b"".join)  # fmt: skip


def encode_one(units: _C.ngram.Units, text: bytes) -> list[int]:
    ids, offsets = units.encode(text, np.array([0, len(text)], np.int64))
    assert offsets.tolist() == [0, len(ids)]
    return [int(one) for one in ids]


@settings(max_examples=150, deadline=None)
@given(CODE)
def test_units_are_those_of_the_definition(text: bytes) -> None:
    ids, spans = UNITS.encode_spans(text)
    found = [
        (WORDS[one - UNITS.fixed("lexical")] if one >= UNITS.fixed("lexical") else UNITS.word(one), begin, end)
        for one, (begin, end) in zip(ids.tolist(), spans.tolist(), strict=True)
    ]
    assert found == reference(text, set(WORDS))
    assert encode_one(UNITS, text) == ids.tolist()


def test_text_longer_than_any_buffer() -> None:
    text = b"def f(x):\n    return x1 + 0x1F\n" * 3000 + b"y" * 100_000
    ids, spans = UNITS.encode_spans(text)
    assert [(begin, end) for begin, end in spans.tolist()] == [(a, b) for _, a, b in reference(text, set(WORDS))]
    assert encode_one(UNITS, text) == ids.tolist()
    assert UNITS.word(int(ids[-1])) == "<long>"


def test_texts_of_a_batch_are_apart() -> None:
    texts = ["a\n  b", "", "  c\nd"]
    (piece,) = text_buffers(texts)
    ids, offsets = UNITS.encode(piece.data, piece.offsets)
    assert offsets[1] == offsets[2]
    for place, text in enumerate(texts):
        assert ids[offsets[place] : offsets[place + 1]].tolist() == encode_one(UNITS, text.encode())


@pytest.mark.parametrize("kind", ["lexical", "bytes", "words", "bpe"])
def test_words_can_stand_in_an_arpa_file(kind: str) -> None:
    words = list(WORDS) if kind in ("lexical", "bpe", "words") else []
    units = _C.ngram.Units(kind, [word for word in words if b"\xff" not in word or kind == "lexical"])
    found = [units.word(one) for one in range(len(units))]
    assert len(set(found)) == len(found)
    assert found[:3] == ["<unk>", "<s>", "</s>"]
    for word in found:
        assert word and not re.search(r"[\x00-\x20\x7f]", word)
        word.encode()


def test_bytes_and_words() -> None:
    ids = encode_one(_C.ngram.Units("bytes"), bytes(range(256)))
    assert ids == list(range(3, 259))
    units = _C.ngram.Units("words", [b"the", b"cat"])
    assert encode_one(units, b"  the\tcat\nsat the") == [3, 4, 0, 3]
    assert units.encode_spans(b" the cat")[1].tolist() == [[1, 4], [5, 8]]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.binary(min_size=1, max_size=64), unique=True, max_size=20), st.binary(max_size=30))
def test_blob_gives_the_same_units(words: list[bytes], extra: bytes) -> None:
    units = _C.ngram.Units("bpe", words, extra)
    blob = units.serialize()
    again = _C.ngram.Units.deserialize(blob)
    assert again.serialize() == blob
    assert (again.kind, again.extra, len(again)) == ("bpe", extra, 3 + len(words))
    for size in range(0, len(blob), max(1, len(blob) // 20)):
        with pytest.raises(ValueError, match="damaged"):
            _C.ngram.Units.deserialize(blob[:size])
    with pytest.raises(ValueError, match="damaged"):
        _C.ngram.Units.deserialize(blob + b"x")
    assert pickle.loads(pickle.dumps(units)).serialize() == blob


def test_lexical_blob_keeps_ids() -> None:
    again = _C.ngram.Units.deserialize(UNITS.serialize())
    text = "def f(self):\n  return größe_1 == 0x1F".encode()
    assert encode_one(again, text) == encode_one(UNITS, text)


@pytest.mark.parametrize(
    ("kind", "words", "message"),
    [
        ("lexical", [b"a", b"a"], "twice"),
        ("lexical", [b""], "empty"),
        ("lexical", [b"x" * 65], "64 bytes"),
        ("bytes", [b"a"], "no words"),
        ("letters", [], "lexical, bpe, bytes or words"),
    ],
)
def test_units_that_cannot_be(kind: str, words: list[bytes], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        _C.ngram.Units(kind, words)


def test_bpe_is_not_encoded_here() -> None:
    with pytest.raises(ValueError, match="tokenizer"):
        _C.ngram.Units("bpe", [b"a"]).encode(b"a", np.array([0, 1], np.int64))
