"""The encoder in C++ gives the ids of the `tokenizers` library, whatever the text and the list of merges are."""

from __future__ import annotations

import json
import logging
import random
import re
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tokenizers
from helpers.long_runs import long_runs
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import pre_tokenizers

from codeshell import _C
from codeshell.documents.texts import TextBuffers
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer import encoder as room
from codeshell.tokenizer.encoder import BYTE_SYMBOLS, LibraryEncoder, NativeEncoder, make_encoder, tokenizer_threads
from codeshell.tokenizer.tokenizer import _buffers, _encoding_core, _parse
from codeshell.tokenizer.train import train

DIGITS = pre_tokenizers.Digits(individual_digits=True)
GPT2 = pre_tokenizers.ByteLevel(add_prefix_space=False)
SPLITTERS = {"gpt2": GPT2, "digits-gpt2": pre_tokenizers.Sequence([DIGITS, GPT2])}
"""The library's pre-tokenizer of each of our patterns."""

CODE_POINTS = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]

CORPUS = [
    "def merge_sort(values):\n    return sorted(values)  # it's 1234567890, we'll see\n" * 3,
    'for (int i = 0; i < n; ++i) {\n\tprintf("%d\\n", i);\r\n}\n\n\n' * 3,
    "你好,世界。用Python写一个HTTP server。世界你好\n" * 4,
    "Ωμέγα привет नमस्ते e\u0301 😀👍🏽 ٣٤ Ⅷ½\n" * 3,
    "ACGTACGGTTAACC" * 30 + "    " * 40 + "\n" * 9,
]

ALPHABET = [
    *"aZ_s1' \t\n\r\x00\x0c<|>",
    "'s",
    "'re",
    "'ll",
    "'ve",
    "'d",
    "'T",
    "re",
    "ll",
    "  ",
    "    ",
    "12",
    "٣",
    "Ⅷ",
    "½",
]
ALPHABET += [
    "é",
    "\u017f",
    "e\u0301",
    "\u0301",
    "你",
    "好世",
    "。",
    "😀",
    "👍🏽",
    "\u200d",
    "\u00a0",
    "\u2028",
    "\u3000",
    "\u0085",
]
ALPHABET += ["\ufeff", "\U000105c0", "\U0010ffff", "\u0378", "\U00011de0", "<|endoftext|>", "def", "return", "ACGT"]
TEXTS = st.lists(st.one_of(st.sampled_from(ALPHABET), st.text(max_size=4)), max_size=20).map("".join)


def core_of(tokenizer: Tokenizer, **changes: Any) -> dict[str, Any]:
    """What decides the ids of a tokenizer, with other fields of its model."""
    core = _encoding_core(_parse(tokenizer.__reduce__()[1][0], "a test"), "a test")
    core["model"] |= changes
    return core


def both(core: dict[str, Any], texts: list[str]) -> None:
    """Assert that the two encoders agree on every text."""
    ours, theirs = NativeEncoder(core, room.served(core)[0] or "", "a test"), LibraryEncoder(core, "a test")
    same(ours, theirs, texts)


def same(ours: NativeEncoder, theirs: LibraryEncoder, texts: list[str]) -> None:
    found, expected = (encoder.encode(_buffers(texts)) for encoder in (ours, theirs))
    for i, text in enumerate(texts):
        one, other = (ids[offsets[i] : offsets[i + 1]].tolist() for ids, offsets in (found, expected))
        assert one == other, ascii(text[:200])
    assert np.array_equal(found[1], expected[1])


@pytest.fixture(scope="module")
def core() -> dict[str, Any]:
    return core_of(train([CORPUS], 420))


@pytest.fixture(scope="module")
def pair(core: dict[str, Any]) -> tuple[NativeEncoder, LibraryEncoder]:
    ours = make_encoder(core, "a test")
    assert isinstance(ours, NativeEncoder)
    return ours, LibraryEncoder(core, "a test")


def words_of(cutter: Any, text: str) -> list[int]:
    """The ends of the library's words in bytes, after a 0."""
    starts = np.cumsum([0, *(len(character.encode()) for character in text)])
    return [0, *(int(starts[end]) for _, (_, end) in cutter.pre_tokenize_str(text))]


@pytest.mark.parametrize("pattern", SPLITTERS)
def test_every_code_point_is_cut_as_the_library_cuts_it(pattern: str) -> None:
    # One after the other: a code point that is in another class here and there is cut elsewhere. Then the first and the
    # last of each of our runs between other characters, which tells a run that is in another class as a whole.
    for begin in range(0, len(CODE_POINTS), 1 << 15):
        text = "".join(map(chr, CODE_POINTS[begin : begin + (1 << 15)]))
        assert _C.bpe.split(pattern, text.encode()).tolist() == words_of(SPLITTERS[pattern], text)
    table = (Path(__file__).parents[2] / "csrc" / "bpe" / "class_table.h").read_text()
    firsts = [int(run, 16) >> 8 for run in re.findall(r"0x[0-9a-f]+(?=,)", table)]
    assert firsts == sorted(set(firsts)) and len(firsts) > 2000
    edges = sorted({code for first in firsts for code in (first - 1, first)} & set(CODE_POINTS))
    text = "".join(f"a{chr(code)} {chr(code)}!\n" for code in edges)
    assert _C.bpe.split(pattern, text.encode()).tolist() == words_of(SPLITTERS[pattern], text)


@pytest.mark.parametrize("pattern", SPLITTERS)
@settings(max_examples=120, deadline=None)
@given(text=TEXTS)
@example("'s't're've'm'll'd 's")
@example("  a  1  \n\n x\t\t")
@example("   1   ")
def test_texts_are_cut_as_the_library_cuts_them(pattern: str, text: str) -> None:
    assert _C.bpe.split(pattern, text.encode()).tolist() == words_of(SPLITTERS[pattern], text)


@settings(max_examples=150, deadline=None)
@given(texts=st.lists(TEXTS, max_size=4))
@example(["<fim_prefix>", "", "\x00"])
def test_ids_are_those_of_the_library(pair: tuple[NativeEncoder, LibraryEncoder], texts: list[str]) -> None:
    same(*pair, texts)


def test_ids_of_every_byte_of_long_words_and_of_real_text(pair: tuple[NativeEncoder, LibraryEncoder]) -> None:
    same(*pair, [chr(code) for code in range(0x300)])
    # Around the lengths at which the cache and the way of merging change.
    lengths = [1, 2, 3, 15, 16, 17, 71, 72, 73, 126, 127, 128, 129, 130, 255, 256, 257, 4000]
    same(
        *pair,
        [
            (part * length)[:length]
            for part in ("a", "ACGT", " ", "\n", "=", "你好", "😀", "e\u0301")
            for length in lengths
        ],
    )
    noise = random.Random(5)
    same(*pair, ["".join(noise.choices("ACGTacgt_", k=length)) for length in range(100, 160)])
    same(*pair, list(long_runs(5000).values()))
    folder = Path(random.__file__).parent
    texts = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("[ab]*.py"))]
    # Twice: what the cache holds from the first time is what the second gives.
    same(*pair, texts * 2)


SYMBOLS = [symbol for symbol, byte in sorted(BYTE_SYMBOLS.items(), key=lambda item: item[1]) if chr(byte) in "ab1 -"]


@st.composite
def models(draw: st.DrawFn) -> dict[str, Any]:
    """Any list of merges, in any order: parts that come after their products, pairs twice, products made twice, and
    bytes that have no token."""
    vocabulary = {symbol: index for index, symbol in enumerate(draw(st.permutations(SYMBOLS)))}
    merges: list[tuple[str, str]] = []
    for _ in range(draw(st.integers(0, 25))):
        left, right = draw(st.sampled_from(list(vocabulary))), draw(st.sampled_from(list(vocabulary)))
        if len(left + right) <= 8:
            vocabulary.setdefault(left + right, len(vocabulary) + 3)
            merges.append((left, right))
    lost = draw(st.sampled_from([None, *SYMBOLS]))
    if lost:
        vocabulary.pop(lost)
        merges = [pair for pair in merges if lost not in pair]
    merges = draw(st.permutations(merges))
    return {"vocab": vocabulary or {"z": 0}, "merges": merges, "ignore_merges": draw(st.booleans())}


@settings(max_examples=150, deadline=None)
@given(
    model=models(),
    texts=st.lists(st.text("ab1 -", max_size=60), max_size=4),
    words=st.lists(st.builds(lambda word, times: word * times, st.text("ab", max_size=30), st.integers(1, 40))),
)
def test_any_list_of_merges_is_applied_as_the_library_applies_it(
    core: dict[str, Any], model: dict[str, Any], texts: list[str], words: list[str]
) -> None:
    both(core | {"model": core["model"] | model}, texts + words)


def test_long_words_under_merges_in_any_order() -> None:
    # Merges whose parts come later than they do bring pairs back between others of their rank.
    noise = random.Random(2)
    core = core_of(train([["ab"]], 256))
    for _ in range(60):
        vocabulary = {symbol: index for index, symbol in enumerate("abc")}
        merges = []
        for _ in range(noise.randrange(3, 40)):
            left, right = noise.choices(list(vocabulary), k=2)
            if len(left + right) <= 9:
                vocabulary.setdefault(left + right, len(vocabulary))
                merges.append((left, right))
        noise.shuffle(merges)
        words = ["".join(noise.choices("abc", k=noise.randrange(100, 900))) for _ in range(6)]
        both(core | {"model": core["model"] | {"vocab": vocabulary, "merges": merges}}, words)


def test_the_released_tokenizer(shared: Path) -> None:
    released = core_of(Tokenizer.load(shared / "data" / "codeshell-tokenizer"))
    noise = random.Random(3)
    texts = ["".join(noise.choices(ALPHABET, k=60)) for _ in range(300)]
    both(released, [*CORPUS, *texts, *("".join(map(chr, noise.sample(CODE_POINTS, 500))) for _ in range(40))])


@given(data=st.binary(max_size=12), before=st.text(max_size=3))
def test_bytes_that_are_no_text_are_refused(
    pair: tuple[NativeEncoder, LibraryEncoder], data: bytes, before: str
) -> None:
    texts = TextBuffers(before.encode() + data, np.array([0, len(before.encode()), len(before.encode()) + len(data)]))
    for encoder in pair:
        try:
            data.decode()
        except UnicodeDecodeError:
            with pytest.raises(ValueError, match="UTF-8"):
                encoder.encode(texts)
        else:
            encoder.encode(texts)


def test_threads_and_batches_change_nothing(pair: tuple[NativeEncoder, LibraryEncoder]) -> None:
    ours, _ = pair
    noise = random.Random(7)
    texts = ["".join(noise.choices(ALPHABET, k=noise.randrange(3000))) for _ in range(400)]
    with tokenizer_threads(1):
        alone = ours.encode(_buffers(texts))
    with tokenizer_threads(3):
        ids, offsets = ours.encode(_buffers(texts))
    assert np.array_equal(ids, alone[0]) and np.array_equal(offsets, alone[1])
    single = [ours.encode(_buffers([text]))[0].tolist() for text in texts]
    assert [ids[begin:end].tolist() for begin, end in pairwise(offsets)] == single
    # A view of some texts, as a slice of an Arrow array is one.
    whole = _buffers(texts)
    part, bounds = ours.encode(TextBuffers(whole.data, whole.offsets[100:151]))
    assert [part[begin:end].tolist() for begin, end in pairwise(bounds)] == single[100:150]


def test_offsets_that_do_not_fit_are_refused(core: dict[str, Any]) -> None:
    encoder = _C.bpe.Encoder("gpt2", [-1] * 256, np.zeros((0, 3), np.uint32))
    for offsets in ([0, 4], [-1, 2], [2, 1], []):
        with pytest.raises(ValueError, match="offsets"):
            encoder.encode(b"abc", np.array(offsets, np.int64))
    with pytest.raises(ValueError, match="pattern"):
        _C.bpe.Encoder("none", [-1] * 256, np.zeros((0, 3), np.uint32))
    with pytest.raises(ValueError, match="merges"):
        _C.bpe.Encoder("gpt2", [-1] * 256, np.zeros((0, 2), np.uint32))
    with pytest.raises(ValueError, match="256"):
        _C.bpe.Encoder("gpt2", [0], np.zeros((0, 3), np.uint32))
    ids, ends = encoder.encode(b"abc", np.array([0, 1, 3], np.int64), narrow=True)
    assert (ids.dtype.itemsize, ids.size, ends.tolist()) == (2, 0, [0, 0, 0])


def test_other_pre_tokenizers_go_to_the_library_and_that_is_said_once(
    core: dict[str, Any], caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_said", set())
    steps = [{"type": "Digits", "individual_digits": False}, *core["pre_tokenizer"]["pretokenizers"][1:]]
    other = core | {"pre_tokenizer": {"type": "Sequence", "pretokenizers": steps}}
    with caplog.at_level(logging.WARNING):
        encoders = [make_encoder(other, "some/tokenizer.json") for _ in range(2)]
    assert [type(encoder) for encoder in encoders] == [LibraryEncoder] * 2
    assert len(caplog.records) == 1 and "some/tokenizer.json" in caplog.text and "Digits" in caplog.text
    reference = tokenizers.Tokenizer.from_str(json.dumps(other))
    monkeypatch.setattr(room, "CHUNK_CHARACTERS", 10)
    texts = [*CORPUS, "", "123 4"]
    ids, offsets = encoders[0].encode(_buffers(texts))
    expected = [one.ids for one in reference.encode_batch(texts, add_special_tokens=False)]
    assert [ids[begin:end].tolist() for begin, end in pairwise(offsets)] == expected
    assert encoders[0].encode(_buffers([]))[1].tolist() == [0]
