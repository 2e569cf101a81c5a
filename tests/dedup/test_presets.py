"""The shingles of the peers, against the peers' own definitions written with `re` and `str`.

datatrove's tokenizer is not a dependency: recorded answers stand for it, and where it is installed, it answers itself.
"""

# ruff: noqa: RUF001 -- characters that look alike are what some of the cases are about
from __future__ import annotations

import random
import re
import unicodedata
from collections.abc import Callable

import numpy as np
import pytest
from helpers.corpus_builder import stdlib_texts
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.dedup import jaccard
from codeshell.documents.texts import text_buffers

MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
Shingler = Callable[[str, int], list[tuple[str, ...]]]

# What datatrove 0.10.0 with spaCy 3.8.18 makes of a text: " ".join(word_tokenize(simplify_text(text))).
DATATROVE_WORDS = [
    ("", ""),
    ("Hello, world! Hello again.", "hello world hello again"),
    ("def f(x_1, y2=3.14): return x_1 + 1,234.5 * 0x1F", "def f x 0 y0 0 return x 0 0 0 0x0f"),
    ("I can't, cannot, dont, won't; its Ill im ID id's", "i can t can not do nt won t its ill i m i d i d s"),
    (
        "10km 3.5 GB 2kb 7m² v2kb a1m 1e5 0b 12cm³ 5 µg 9€ €9 9% 100°C",
        "0 km 0 gb 0 kb 0 m² v0 kb a0 m 0e0 0b 0 cm³ 0 µg 0 € € 0 0 0 ° c",
    ),
    (
        "x→y ©2024 ™ ® • · § ★★★ 😀😀ok ok😀 a😀b",
        "x→y © 0 ™ ® • · § ★ ★ ★ 😀 😀 ok ok 😀 a 😀 b",
    ),
    (
        "naïve café Ångström İstanbul ΑΣ ΑΣΑ ὈΔΥΣΣΕΎΣ ß ﬁ Ǆ",
        "naive cafe angstrom istanbul ας ασα οδυσσευς ß ﬁ ǆ",
    ),
    ("a≠b a≮b≯c x≠1 1≠x 1≠1", "a = b a < b > c x=0 0 = x 0=0"),
    (
        "\u2018s \u2018tis x\u2018s \u2018s© \u2018s©© \u2018\u2018s",
        "\u2018s \u2018 tis x\u2018s \u2018s © \u2018s © © \u2018 \u2018s",
    ),
    ("≮space≯ x≮space≯ ≮ space ≯", "<space> x <space> < space >"),
    ("٣٫٥ १२३ ①② ½ x²+y²", "0 0 ①② ½ x² y²"),
    (
        "中文 字符，测试。한국어 각 カタカナ が",
        "中文 字符 测试 \u1112\u1161\u11ab\u1100\u116e\u11a8\u110b\u1165 \u1100\u1161\u11a8 カタカナ か",
    ),
    ("e\u0301 \u0301 x \u0301y \u0344 q\u0323\u0307 q\u0307\u0323", "e x y q q"),
    ("a\xa0b\u3000c\u2028d\u200be\ufefff", "a b c d\u200be\ufefff"),
    (
        "theyllve shouldnt've y'all gonna gotta em ol' nuff ಠ︵ಠ ¿que? ¡no!",
        "they ll ve should nt ve y all gon na got ta em ol nuff ಠ︵ಠ ¿ que ¡ no",
    ),
    (
        "¦ ¢ £5 5£ ¥ ¬ ± × ÷ ¶ ª º",
        "¦ ¢ £ 0 0 £ ¥ ¬ ± × ÷ ¶ ª º",
    ),
    (
        "км 5км 5 км 3мб 0кб 7кг. ٥كم 5كم",
        "км 0 км 0 км 0 мб 0 кб 0 кг 0 كم 0 كم",
    ),
    ("1.2.3.4 1,2,3 1..2 1.a 12.5kg 3,5.x", "0 0 0 0 0 0 0 a 0 kg 0 x"),
    (
        "foo_bar fooBar foo-bar foo/bar foo\\bar \"q\" 'q' `q` {x:[1]} <a href='#'>",
        "foo bar foobar foo bar foo bar foo bar q q q x 0 a href",
    ),
    ("ಠ_ಠ :-) xD XD <3 :3 8) o.O", "ಠ ಠ xd xd 0 0 0 o o"),
    (
        "\u16ff0\u0301 \U0001d165\U0001d16e𝅗𝅥 ᬆ\u1b44\u302e\u0f71\u0f72",
        "\u16ff0 \U0001d165\U0001d16e 𝅗 \U0001d165 ᬅ\u1b35\u1b44\u302e",
    ),
    (
        "Nuthin' doin: the lovin goin havin somethin nothin ima idve wedve",
        "nuthin doin the lovin goin havin somethin nothin i m a i d ve we d ve",
    ),
]


def mix64(x: int) -> int:
    x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9 & MASK
    x = (x ^ (x >> 27)) * 0x94D049BB133111EB & MASK
    return x ^ (x >> 31)


def hash_bytes(data: bytes, start: int) -> int:
    for at in range(0, len(data), 8):
        start = mix64(start ^ int.from_bytes(data[at : at + 8], "little"))
    return start


def hash_shingle(tokens: tuple[str, ...], preset: str) -> int:
    """The hash that csrc/dedup/presets.h defines."""
    if preset == "char-24":
        data = tokens[0].encode()
        return hash_bytes(data, len(data))
    total = 0
    for token in tokens:
        total = (total * GOLDEN + (hash_bytes(token.encode(), 0) if token else GOLDEN)) & MASK
    return mix64(total)


def windows(tokens: list[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(tokens[i : i + n]) for i in range(len(tokens) - n + 1)]


def starcoder(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = re.split("[^A-Za-z_0-9]", text)
    return windows(tokens, n) if len(tokens) >= 5 else []


def stack_v2(text: str, n: int) -> list[tuple[str, ...]]:
    tokens = re.split(r"\W", text.lower())
    return [tuple(tokens[i : i + n]) for i in range(max(1, len(tokens) - n + 1))] if len(tokens) >= 5 else []


def characters(text: str, n: int) -> list[tuple[str, ...]]:
    return [(text[i : i + n],) for i in range(max(1, len(text) - n + 1))] if text else []


def datatrove(text: str, n: int) -> list[tuple[str, ...]]:
    """Right for texts whose words have no rule of their own; `plain` below gives such."""
    text = re.sub(r"\d+([.,]\d+)?", "0", text.lower())
    text = "".join(c for c in unicodedata.normalize("NFD", text) if unicodedata.category(c) != "Mn")
    return windows(re.findall(r"\w+", text.replace("_", " ")), n)


PEERS: dict[str, Shingler] = {"starcoder": starcoder, "stack-v2": stack_v2, "char-24": characters}


def shingle_set(data: bytes, preset: str, n: int) -> set[int]:
    values, bounds = _C.dedup_shingle_sets(data, np.array([0, len(data)]), n, preset=preset)
    assert list(bounds) == [0, len(values)]
    return set(map(int, values))


def check(data: bytes, preset: str, n: int, peer: Shingler) -> None:
    wanted = set(peer(data.decode(errors="replace"), n))
    hashes = {hash_shingle(tokens, preset) for tokens in wanted}
    assert shingle_set(data, preset, n) == hashes
    assert len(hashes) == len(wanted)


texts = st.one_of(
    st.text(max_size=60),
    st.text("aB_1 .\n\u00e9\u0130\u03a3\u03c3'\u0345\u2160\u4e2d\ud55c\U0001f600", max_size=60),
    st.lists(st.sampled_from(["the", "Cat", "_x9", "Σ", "ὈΔΣ", ".", "\xad"]), max_size=30).map(" ".join),
)
broken = st.binary(max_size=60) | st.lists(
    st.sampled_from(
        [b"ab", b" ", b"\xe2\x82\xac", b"\xe2\x82", b"\xf0\x9f", b"\xed\xa0\x80", b"\xc0\x80", b"\xff", b"\x80"]
    )
).map(b"".join)


@pytest.mark.parametrize("preset", PEERS)
@settings(max_examples=150, deadline=None)
@given(data=texts.map(str.encode) | broken, n=st.integers(1, 8))
@example(data="A\u03a3 \u03a3 A\u03a3B A'\u03a3'. A\u0345\u03a3\u0345".encode(), n=1)
@example(data=b"\xf4\x90\x80\x80 \xe0\x80\x80 \xf0\x80\x80\x80 \xf8\x88 x", n=1)
def test_every_preset_has_the_sets_of_its_peer(preset: str, data: bytes, n: int) -> None:
    check(data, preset, n, PEERS[preset])


@pytest.mark.parametrize("preset", PEERS)
def test_real_files(preset: str) -> None:
    for text in stdlib_texts(6):
        check(text.encode(), preset, 24 if preset == "char-24" else 5, PEERS[preset])


@pytest.mark.parametrize("preset", ["starcoder", "stack-v2"])
def test_every_character_of_unicode(preset: str) -> None:
    for start in range(0, 0x20000, 0x4000):
        text = "".join(f"x{chr(code)}" for code in range(start, start + 0x4000) if not 0xD800 <= code < 0xE000)
        check(text.encode(), preset, 1, PEERS[preset])


@pytest.mark.parametrize(
    ("preset", "text", "count"),
    [
        ("starcoder", "a b c d", 0),  # four tokens
        ("starcoder", "a b c d ", 1),  # the fifth is empty
        ("stack-v2", "a.b.c", 0),
        ("stack-v2", "\u0130a.b.c.d", 1),  # lower case makes two characters of the first, and the second separates
        ("datatrove", "one two three four", 0),
        ("datatrove", "one two three, four five!", 1),
        ("char-24", "", 0),
        ("char-24", "short", 1),
        ("char-24", "\u00e9" * 25, 1),  # two equal shingles
        ("char-24", "".join(map(chr, range(300, 326))), 3),
    ],
)
def test_short_texts(preset: str, text: str, count: int) -> None:
    assert len(shingle_set(text.encode(), preset, 24 if preset == "char-24" else 5)) == count


def test_ngrams_longer_than_the_text() -> None:
    assert len(shingle_set(b"a b c d e f", "stack-v2", 9)) == 1
    assert len(shingle_set(b"a b c d e f", "starcoder", 9)) == 0


@pytest.mark.parametrize(("text", "words"), DATATROVE_WORDS)
def test_recorded_datatrove_words(text: str, words: str) -> None:
    for n in (1, 3):
        check(text.encode(), "datatrove", n, lambda _, n: windows(words.split(), n))


plain = st.lists(
    st.sampled_from(
        ["alpha", "Beta", "x12", "Étude", "中文", "3.14", "7,8", "1.2.3", "naïve", "_", "--", "Жук", "(q)", "q_q", "#"]
    ),
    max_size=40,
)


@settings(max_examples=100, deadline=None)
@given(words=plain, gap=st.sampled_from([" ", "\n", "\t \r\n", " \u3000"]))
def test_datatrove_on_plain_words(words: list[str], gap: str) -> None:
    check(gap.join(words).encode(), "datatrove", 2, datatrove)


def test_datatrove_itself() -> None:
    text_module = pytest.importorskip("datatrove.utils.text")
    word_tokenizers = pytest.importorskip("datatrove.utils.word_tokenizers")
    tokenizer = word_tokenizers.load_word_tokenizer("eng")
    pytest.importorskip("spacy")

    def peer(text: str, n: int) -> list[tuple[str, ...]]:
        return windows(tokenizer.word_tokenize(text_module.simplify_text(text)), n)

    generator = random.Random(0)
    pieces = [text for text, _ in DATATROVE_WORDS] + [
        "dont",
        "km",
        "\u2018",
        "\u2260",
        "7",
        ".",
        "\u0301",
        "\u2605",
        "\u00b2",
    ]
    for _ in range(300):
        text = "".join(generator.choices(pieces, k=6))
        check(text.encode(), "datatrove", 2, peer)


def test_presets_change_what_is_a_duplicate() -> None:
    a, b = "int main() { return 1; } // one two three", "INT  Main() { return 2; } // one two three"
    assert jaccard(a, b, shingles="starcoder") < jaccard(a, b, shingles="stack-v2") < 1
    assert jaccard(a, b, shingles="datatrove") == 1


def test_a_batch_is_its_texts() -> None:
    batch = ["a b c d e f", "", "x" * 100, "\u0130 \u03a3", "a b c d e f"]
    (piece,) = text_buffers(batch)
    for preset in (*PEERS, "datatrove"):
        values, bounds = _C.dedup_shingle_sets(piece.data, piece.offsets, 2, preset=preset)
        for i, text in enumerate(batch):
            assert set(map(int, values[bounds[i] : bounds[i + 1]])) == shingle_set(text.encode(), preset, 2)
