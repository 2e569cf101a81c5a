"""Bits per byte: exact for a model whose answer is known, and against xz as the tool gives it."""

from __future__ import annotations

import lzma
import math
import random

import pytest
from helpers.evaluation_fakes import LOG2_384, ByteTokenizer, UniformModel, document

from codeshell.evaluate.scoring import score
from codeshell.evaluate.tasks.compression import compare, xz_bytes

FILES = [document(text) for text in ("x = 1\n" * 40, "é" * 30, "return\n", "a")]


def test_a_uniform_model_needs_log2_v_times_tokens_over_bytes() -> None:
    tokenizer = ByteTokenizer()
    ids = [tokens[::2] + tokens[1::2] for tokens in tokenizer.encode_batch([item.text for item in FILES])]
    nats = score(UniformModel(), ids, eot=256, window=16, stride=8)
    bits = [float(values[:-1].sum()) / math.log(2) for values in nats]
    result = compare(FILES, {"model": bits}, seed=0)
    tokens, size = sum(map(len, ids)), sum(len(item.data) for item in FILES)
    assert result["bytes"] == size and result["files"] == 4
    assert result["systems"]["model"]["bits_per_byte"] == pytest.approx(LOG2_384 * tokens / size, abs=1e-6)


def test_xz_is_what_the_tool_gives() -> None:
    source = random.Random(0)
    data = b"".join(b"%d def f(x): return x + %d\n" % (i, source.randrange(1000)) for i in range(4000))
    for sample in (data, data[:50], b"", b"\0", bytes(source.randrange(256) for _ in range(3000))):
        # The size of the dictionary stands in the header; the block is the same.
        assert abs(xz_bytes(sample) - len(lzma.compress(sample, preset=9 | lzma.PRESET_EXTREME))) <= 4


def test_xz_on_all_files_sees_what_they_share() -> None:
    texts = ["".join(random.Random(1).choices("abcdefgh\n", k=3000))] * 6
    result = compare([document(text) for text in texts], {"model": [1.0] * 6}, seed=0)
    systems = result["systems"]
    assert systems["xz"]["bits_per_byte"] < systems["xz_per_file"]["bits_per_byte"] / 4
    assert systems["xz"]["interval"] is None


def test_a_difference_is_significant_only_with_enough_files() -> None:
    def result(count: int, gap: float) -> dict:
        files = [document("x" * (50 + 7 * i)) for i in range(count)]
        ours = [2.0 * len(item.data) for item in files]
        theirs = [(2.0 + gap + 0.5 * (-1) ** i) * len(item.data) for i, item in enumerate(files)]
        return compare(files, {"model": ours, "byte_model": theirs}, seed=0)["differences"]["byte_model"]

    assert result(40, 1.0)["significant"] and result(40, 1.0)["difference"] == pytest.approx(-1.0, abs=0.02)
    assert not result(40, 0.02)["significant"]
    assert not result(9, 1.0)["significant"]
    assert result(1, 1.0)["interval"] is None and not result(1, 1.0)["significant"]


def test_languages_have_rows_of_their_own() -> None:
    files = [document("aaaa"), document("bb", language="C"), document("cc", language="C"), document("d", language="")]
    result = compare(files, {"model": [4.0, 4.0, 8.0, 3.0]}, seed=0)
    rows = result["by_language"]
    assert list(rows) == ["C", "Python", "unknown"]
    assert rows["C"]["systems"]["model"]["bits_per_byte"] == 3.0 and rows["C"]["files"] == 2
    assert rows["unknown"]["systems"]["model"] == {"bits_per_byte": 3.0, "interval": None}
    assert result["systems"]["model"]["bits_per_byte"] == pytest.approx(19 / 9, abs=1e-6)
    assert result == compare(files, {"model": [4.0, 4.0, 8.0, 3.0]}, seed=0)
