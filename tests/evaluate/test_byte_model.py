"""The byte model against a dictionary of counts and the textbook recursion."""

from __future__ import annotations

import math
from collections import Counter, defaultdict

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.evaluate import byte_model
from codeshell.evaluate.byte_model import ByteModel, keys_of


class Dictionary:
    """Witten-Bell by the book: one dictionary an order, one byte at a time."""

    def __init__(self, files: list[bytes]) -> None:
        self.counts: list[dict[bytes, Counter[int]]] = [defaultdict(Counter) for _ in range(4)]
        for data in files:
            padded = b"\0\0\0" + data
            for at in range(3, len(padded)):
                for order in range(4):
                    self.counts[order][padded[at - order : at]][padded[at]] += 1

    def probability(self, context: bytes, byte: int, order: int = 3) -> float:
        if order < 0:
            return 1 / 256
        lower = self.probability(context, byte, order - 1)
        seen = self.counts[order].get(context[len(context) - order :])
        if seen is None:
            return lower
        return (seen[byte] + len(seen) * lower) / (sum(seen.values()) + len(seen))

    def bits(self, data: bytes) -> float:
        padded = b"\0\0\0" + data
        return -sum(math.log2(self.probability(padded[at - 3 : at], padded[at])) for at in range(3, len(padded)))


TRAINING = [b"def f(x):\n    return x\n", b"for i in range(9):\n\tpass", b"\xff\xfe\x00\x00\x00\x01", b"", b"a"]
small = st.binary(max_size=40) | st.text("ab\n", max_size=40).map(str.encode)


@pytest.mark.parametrize("data", [b"def g(y):\n    return y\n", b"\0\0\0\0", b"\xff" * 9, b"zq", b"", b"range(range("])
def test_bits_equal_the_dictionary(data: bytes) -> None:
    assert ByteModel(TRAINING).bits(data) == pytest.approx(Dictionary(TRAINING).bits(data), rel=1e-12)


@settings(max_examples=40, deadline=None)
@given(st.lists(small, max_size=4), small)
def test_bits_equal_the_dictionary_on_anything(files: list[bytes], data: bytes) -> None:
    assert ByteModel(files).bits(data) == pytest.approx(Dictionary(files).bits(data), rel=1e-12)


@pytest.mark.parametrize("context", [b"\0\0\0", b"def", b"\nde", b"   ", b"zzz", b"\xff\xfe\x00", b"a b"])
def test_every_context_sums_to_one(context: bytes) -> None:
    head = int.from_bytes(context, "big") << 8
    keys = (head + np.arange(256)).astype(np.uint32)
    probabilities = ByteModel(TRAINING).probabilities(keys)
    assert probabilities.sum() == pytest.approx(1.0, abs=1e-12)
    assert probabilities.min() > 0


def test_no_training_text_is_the_uniform_model() -> None:
    model = ByteModel([])
    assert model.bits(b"anything") == pytest.approx(64.0)
    assert model.trained_on_bytes == 0


def test_chunks_do_not_change_the_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"some text, some more text, and the rest of some text"
    whole = ByteModel(TRAINING).bits(data)
    monkeypatch.setattr(byte_model, "CHUNK", 7)
    assert ByteModel(TRAINING).bits(data) == whole


def test_files_do_not_run_into_one_another() -> None:
    assert ByteModel([b"ab", b"cd"]).bits(b"bc") == pytest.approx(Dictionary([b"ab", b"cd"]).bits(b"bc"))
    assert ByteModel([b"ab", b"cd"]).bits(b"abcd") != pytest.approx(ByteModel([b"abcd"]).bits(b"abcd"))


def test_keys_hold_the_last_four_bytes() -> None:
    assert [hex(key) for key in keys_of(b"\x01\x02\x03\x04\x05")] == [
        "0x1",
        "0x102",
        "0x10203",
        "0x1020304",
        "0x2030405",
    ]


def test_samples_follow_the_distribution() -> None:
    model = ByteModel([b"x" + bytes([byte]) for byte in b"aaab"])
    drawn = model.sample([b"x"] * 4000, 1, temperature=1.0, key=11)
    share = Counter(drawn)
    keys = (int.from_bytes(b"\0\0x", "big") << 8) + np.array([ord("a"), ord("b")], dtype=np.int64)
    a, b = model.probabilities(keys.astype(np.uint32))
    assert share[b"a"] / 4000 == pytest.approx(a, abs=4 * math.sqrt(a * (1 - a) / 4000))
    assert share[b"b"] / 4000 == pytest.approx(b, abs=4 * math.sqrt(b * (1 - b) / 4000))


def test_cold_samples_repeat_the_text_and_are_reproducible() -> None:
    model = ByteModel([b"abcdefgh" * 50])
    assert model.sample([b"abc", b"gh"], 8, temperature=0.02, key=1) == [b"defghabc", b"abcdefgh"]
    warm = model.sample([b"abc", b"x", b""], 30, temperature=1.0, key=5)
    assert warm == model.sample([b"abc", b"x", b""], 30, temperature=1.0, key=5)
    assert warm != model.sample([b"abc", b"x", b""], 30, temperature=1.0, key=6)
