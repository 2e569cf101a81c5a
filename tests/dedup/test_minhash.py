"""Tokens, shingles, signatures and band keys against a slow Python reading of their definition."""

from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest
from helpers.corpus_builder import stdlib_texts
from helpers.shingle_definitions import LEVELS, MASK, TEXT, shingle_sets, slow_key, slow_shingles, slow_signature
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.dedup import jaccard, minhash
from codeshell.dedup.minhash import band_keys
from codeshell.documents.texts import text_buffers


@settings(max_examples=150, deadline=None)
@given(TEXT, st.integers(1, 7))
def test_shingles_are_those_of_the_definition(text: str, ngram: int) -> None:
    expected = sorted(set(slow_shingles(text, ngram)))
    for level in LEVELS:
        assert shingle_sets([text], ngram, level) == [expected]


@settings(max_examples=40, deadline=None)
@given(st.lists(TEXT, max_size=5), st.integers(1, 140), st.integers(0, MASK))
def test_signatures_are_those_of_the_definition_at_every_level(texts: list[str], lanes: int, seed: int) -> None:
    expected = [slow_signature(slow_shingles(text, 5), lanes, seed) for text in texts]
    (piece,) = text_buffers(texts)
    for level in LEVELS:
        found = _C.dedup_minhash(piece.data, piece.offsets, 5, lanes, seed, 1, level)
        assert found.dtype == np.uint32
        assert found.tolist() == expected
    assert minhash(texts, bands=lanes, rows=1, seed=seed).tolist() == expected


def test_levels_agree_on_real_files() -> None:
    """Long texts cross every block boundary; the level of the environment counts as well as the argument."""
    texts = stdlib_texts(40)
    (piece,) = text_buffers(texts)
    found = [_C.dedup_minhash(piece.data, piece.offsets, 5, 126, 1, 1, level) for level in LEVELS]
    assert all((one == found[0]).all() for one in found)
    script = (
        "import sys, hashlib; from codeshell.dedup import minhash; "
        "print(hashlib.md5(minhash([sys.stdin.read()], seed=1).tobytes()).hexdigest())"
    )
    digests = {
        subprocess.run(
            [sys.executable, "-c", script],
            input="\n".join(texts[:5]).encode(),
            env=os.environ | {"CODESHELL_SIMD": level},
            capture_output=True,
            check=True,
        ).stdout
        for level in LEVELS
    }
    assert len(digests) == 1


def test_golden_signature() -> None:
    """The format: stored signatures and indexes are readable as long as this holds."""
    assert minhash(["def f(x):\n    return x + 1\n"], bands=2, rows=2).tolist() == GOLDEN
    assert slow_signature(slow_shingles("def f(x):\n    return x + 1\n", 5), 4, 0) == GOLDEN[0]


GOLDEN = [[2388138113, 1061108630, 910047329, 1618036998]]


def test_band_keys() -> None:
    texts = ["one two three four five six", "", "x"]
    (piece,) = text_buffers(texts)
    keys = band_keys(piece, bands=3, rows=2, ngram=5, seed=9)
    signatures = minhash(texts, bands=3, rows=2, seed=9).tolist()
    for text in (0, 2):
        expected = [slow_key(signatures[text][2 * band : 2 * band + 2], band) for band in range(3)]
        assert keys[text].tolist() == expected
    assert keys[1].tolist() == [0, 0, 0]


def test_bytes_that_are_not_utf8_separate() -> None:
    """The C++ takes any bytes: malformed sequences, NUL and truncated characters separate."""
    bad = [
        b"\xff",
        b"\xc3",
        b"\xe4\xb8",
        b"\xed\xa0\x80",
        b"\xc0\x80",
        b"\xf4\x90\x80\x80",
        b"\xf8\x88\x80\x80\x80",
        b"\0",
    ]
    for junk in bad:
        data = b"alpha" + junk + b"beta"
        values, _ = _C.dedup_shingle_sets(data, np.array([0, len(data)]), 1)
        assert values.tolist() == sorted(slow_shingles("alpha beta", 1)), junk
    # a truncated character at the very end of the text, though its missing byte comes after it in the buffer
    data = "一".encode()
    values, bounds = _C.dedup_shingle_sets(data, np.array([0, 2, 3]), 1)
    assert len(values) == 0 and bounds.tolist() == [0, 0, 0]


def test_the_estimator_is_unbiased_with_the_variance_of_k_minima() -> None:
    """200 pairs of word sets at each Jaccard: mean error and spread of the estimates against J(1-J)/k."""
    lanes, pairs = 126, 200
    for shared, own in ((30, 35), (140, 30), (90, 5)):
        exact = shared / (shared + 2 * own)
        texts = []
        for pair in range(pairs):
            common = [f"c{pair}x{i}" for i in range(shared)]
            texts += [" ".join(common + [f"{side}{pair}x{i}" for i in range(own)]) for side in "ab"]
        signatures = minhash(texts, ngram=1, bands=lanes, rows=1, seed=3)
        estimates = (signatures[0::2] == signatures[1::2]).mean(axis=1)
        sigma = (exact * (1 - exact) / lanes) ** 0.5
        assert jaccard(texts[0], texts[1], ngram=1) == exact
        assert abs(estimates.mean() - exact) < 4 * sigma / pairs**0.5
        assert 0.8 < estimates.std() / sigma < 1.2


def test_candidates_follow_the_curve() -> None:
    """P(candidate) = 1 - (1 - J^6)^21: a correlation of the six lanes of a band would show here."""
    pairs = 2000
    texts = []
    for pair in range(pairs):
        common = [f"c{pair}x{i}" for i in range(40)]
        texts += [" ".join(common + [f"{side}{pair}x{i}" for i in range(20)]) for side in "ab"]  # J = .5
    (piece,) = text_buffers(texts)
    keys = band_keys(piece, bands=21, rows=6, ngram=1, seed=0)
    found = (keys[0::2] == keys[1::2]).any(axis=1).mean()
    expected = 1 - (1 - 0.5**6) ** 21
    assert abs(found - expected) < 4 * (expected * (1 - expected) / pairs) ** 0.5


def test_jaccard() -> None:
    assert jaccard("a b c d e f", "a b c d e f") == 1.0
    assert jaccard("a b c d e f", "a b c d e g") == 1 / 3
    assert jaccard("a b", "a, b") == 1.0  # one shingle of the whole token list
    assert jaccard("a b", "a b c") == 0.0
    assert jaccard("a b", "A b") == 0.0
    assert jaccard("", "a") == 0.0
    assert jaccard("", "") == 1.0
    assert jaccard("+", "-") == 0.0
    assert jaccard("你好世界", "你好世人", ngram=2) == 2 / 4


def test_inputs_are_equal_whatever_their_form() -> None:
    texts = ["", "alpha beta", "一二三四五六", "x" * 100]
    expected = minhash(texts)
    large = pa.array(texts, pa.large_string())
    forms = [
        large,
        pa.array(texts, pa.string()),
        pa.array(["skipped", *texts], pa.large_string())[1:],
        pa.chunked_array([large[:1], large[1:3], large[3:]]),
        pa.array(texts).dictionary_encode(),
    ]
    for form in forms:
        assert (minhash(form) == expected).all()
    for threads in (1, 2, 5):
        assert (minhash(texts * 40, threads=threads) == np.tile(expected, (40, 1))).all()
    assert minhash([]).shape == (0, 126)
    assert minhash(pa.chunked_array([], pa.large_string())).shape == (0, 126)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        ({"bands": 0}, "bands"),
        ({"rows": 0}, "rows"),
        ({"ngram": 0}, "ngram"),
        ({"seed": -1}, "seed"),
        ({"seed": 1 << 64}, "seed"),
        ({"threads": -1}, "threads"),
        ({"bands": 1 << 20}, "bands"),
    ],
)
def test_impossible_parameters(arguments: dict[str, int], named: str) -> None:
    with pytest.raises(ValueError, match=named):
        minhash(["a"], **arguments)


def test_texts_that_are_none() -> None:
    for texts in (["a", None], [b"\xff"], ["\ud800"], [1], "abc", pa.array([1, 2]), pa.array(["a", None])):
        with pytest.raises(ValueError, match="texts"):
            minhash(texts)


def test_bindings_refuse_bad_buffers() -> None:
    for offsets in ([0, 9], [-1, 2], [2, 1], []):
        with pytest.raises(ValueError, match="offsets"):
            _C.dedup_minhash(b"abc", np.array(offsets, np.int64), 5, 4, 0)
    with pytest.raises(ValueError, match="level"):
        _C.dedup_minhash(b"abc", np.array([0, 3]), 5, 4, 0, 1, "sse9")
