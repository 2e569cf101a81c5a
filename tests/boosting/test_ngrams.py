"""Hashed n-grams against a definition in Python, and the head against dense algebra."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.boosting import ngrams
from codeshell.boosting.ngrams import Vectors, rarity_of, train, unit_rows, vectors

BITS = 12
MASK = (1 << 64) - 1
TOKEN = re.compile(
    rb"([0-9][0-9A-Za-z_$\x80-\xff.]*)|([A-Za-z_$\x80-\xff][0-9A-Za-z_$\x80-\xff]*)|([ \t\r\f\v]+)|(\n[ \t\r\f\v]*)|(.)"
)
LINE, NUMBER, BLANKS, SHAPE = 256, 259, 260, 264


def spread(x: int) -> int:
    x = x * 0x9E3779B97F4A7C15 & MASK
    return (x ^ x >> 32) * 0xBF58476D1CE4E5B9 & MASK


def join(before: int, now: int) -> int:
    return spread((before * 31 + now) & MASK)


def word_hash(word: bytes) -> int:
    found = 0
    whole = len(word) // 8 * 8
    for at in range(0, whole, 8):
        found = join(found, int.from_bytes(word[at : at + 8], "little"))
    return join(found, int.from_bytes(word[whole:], "little"))


def shape_of(word: bytes) -> int:
    """The definition in csrc/boosting/ngrams.h, case by case."""
    if len(word) == 1:
        return SHAPE
    uppers, lowers = re.search(rb"[A-Z]", word), re.search(rb"[a-z]", word)
    inner = re.search(rb"[A-Z]", word[1:])
    if uppers and not lowers:
        return SHAPE + 1
    if word[:1] in b"_$":
        return SHAPE + 2
    if re.search(rb"[_$]", word[1:]):
        return SHAPE + 3
    if word[:1].isupper():
        return SHAPE + (4 if inner else 5)
    return SHAPE + 6 if inner else SHAPE + 7 + min(3, len(word) // 4)


def definition(text: bytes) -> Counter[int]:
    """Buckets of a text and how often each is hit."""
    found: Counter[int] = Counter()
    before, last, indentation = LINE, LINE, 0
    for match in TOKEN.finditer(text):
        number, word, blanks, line, _ = match.groups()
        if number:
            token = shape = number[0] if len(number) == 1 else NUMBER
        elif word:
            token, shape = word_hash(word), shape_of(word)
        elif blanks:
            token = shape = BLANKS
        elif line:
            columns = len(line) - 1
            token = shape = LINE + (0 if columns == indentation else 1 if columns > indentation else 2)
            indentation = columns
        else:
            token = shape = match[0][0]
        for key in (spread(token), join(last + 2, shape), join(join(before + 3, last), shape)):
            found[key >> (64 - BITS)] += 1
        before, last = last, shape
    return found


def damped(count: int) -> int:
    power = count.bit_length() - 1
    return 23 + 16 * power + ((count - (1 << power)) * 16 >> power)


SAMPLES = [
    "",
    "\n",
    "def f(x):\n    return x_1 + 0x1F * 3\n\n\tgetHTTPName = None  # Größe 1.5e3\r\n",
    "class FooBar { static const int MAX_SIZE = 10_000; };\n" * 40,
    "_private $jquery A b __init__ camelCase Title x",
]


@pytest.mark.parametrize("text", SAMPLES)
def test_counts_are_the_definition(text: str) -> None:
    check_counts(text)


@given(st.text(alphabet="aZ_09 .\n\t(é$\x00", max_size=60))
@settings(max_examples=150, deadline=None)
def test_counts_of_any_text(text: str) -> None:
    check_counts(text)


def check_counts(text: str) -> None:
    found = vectors(["x", text], BITS, 1 << 20)
    begin, end = found.bounds[1:3].tolist()
    expected = definition(text.encode())
    assert found.buckets[begin:end].tolist() == sorted(expected)
    assert found.values[begin:end].tolist() == [damped(expected[bucket]) for bucket in sorted(expected)]


def test_damped_is_about_one_plus_the_logarithm() -> None:
    for count in (1, 2, 3, 10, 1000, 123_456):
        assert damped(count) / 23 == pytest.approx(1 + np.log(count), rel=0.03)


def test_only_the_first_bytes_count() -> None:
    long = "alpha beta\n" * 100
    assert vectors([long], BITS, 55).values.tolist() == vectors([long[:55]], BITS, 1 << 20).values.tolist()


def corpus() -> tuple[list[str], np.ndarray]:
    """Texts of two styles and what they are worth."""
    words = ["alpha", "beta_gamma", "deltaEps", "OMEGA", "x1", "print"]
    texts = [
        " ".join(words[(i * 7 + j * (1 + i % 3)) % 6] for j in range(5 + i % 9)) + "\n" * (i % 4) for i in range(60)
    ]
    return texts, np.array([[text.count("beta") - text.count("print"), len(text) / 40] for text in texts], np.float64)


def dense(found: Vectors, unit: np.ndarray) -> np.ndarray:
    matrix = np.zeros((len(found), 1 << found.bits))
    rows = np.repeat(np.arange(len(found)), np.diff(found.bounds))
    matrix[rows, found.buckets] = unit
    return matrix


def test_training_is_ridge_regression(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ngrams, "TOLERANCE", 1e-10)
    monkeypatch.setattr(ngrams, "STEPS", 400)
    texts, targets = corpus()
    weights = np.linspace(0.2, 2, len(texts))
    found = vectors(texts, 9, 1 << 20)
    rarity = rarity_of(found)
    head = train(found, rarity, targets, weights, 0.5)
    # (A^T W A + r) w = A^T W y, solved for all at once.
    a = dense(found, unit_rows(found, rarity))
    start = np.average(targets, axis=0, weights=weights)
    normal = a.T @ (weights[:, None] * a) + 0.5 * np.eye(a.shape[1])
    solution = np.linalg.solve(normal, a.T @ (weights[:, None] * (targets - start)))
    # What is left is the rounding of weights to 16 bits.
    np.testing.assert_allclose(head.predict(texts), a @ solution + start, atol=2e-3)
    np.testing.assert_allclose(np.sqrt((a**2).sum(1)), 1, atol=1e-9)


def test_a_score_is_the_integers_formula() -> None:
    texts, targets = corpus()
    head = train(vectors(texts, BITS, 1 << 20), rarity_of(vectors(texts, BITS, 1 << 20)), targets, np.ones(60), 1.0)
    for text in (texts[5], SAMPLES[2], ""):
        counts = definition(text.encode())
        length = sum((damped(c) * int(head.rarity[b])) ** 2 for b, c in counts.items()) ** 0.5
        for target in range(2):
            total = sum(damped(c) * int(head.weights[b, target]) for b, c in counts.items())
            expected = (total / length if length else 0.0) * head.scale[target] + head.start[target]
            assert head.predict([text])[0, target] == pytest.approx(expected, rel=1e-12)


def test_batches_and_arrow_forms_change_nothing() -> None:
    texts, targets = corpus()
    found = vectors(texts, BITS, 1 << 20)
    head = train(found, rarity_of(found), targets, np.ones(60), 1.0)
    whole = head.predict(texts)
    chunked = pa.chunked_array([pa.array(texts[:7], pa.large_string()), pa.array(texts[7:], pa.large_string())])
    assert (head.predict(pa.array(texts, pa.string())) == whole).all()
    assert (head.predict(chunked) == whole).all()
    assert (np.concatenate([head.predict([text]) for text in texts]) == whole).all()
    assert head.predict([]).shape == (0, 2)


def test_rows_are_taken_in_order() -> None:
    found = vectors(["a b", "", "c d e\n f", "a"], BITS, 1 << 20)
    taken = found.take(np.array([2, 1, 0]))
    for row, source in enumerate((2, 1, 0)):
        begin, end = found.bounds[source : source + 2]
        first, last = taken.bounds[row : row + 2]
        assert taken.buckets[first:last].tolist() == found.buckets[begin:end].tolist()
