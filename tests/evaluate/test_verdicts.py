"""Verdicts: hostile output is cleaned and bounded, whatever it is, and the JSON form gives the same object back."""

from __future__ import annotations

import json
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell.evaluate.verdicts import LONGEST_OUTPUT, LONGEST_WHY, Judged, Verdict, one_line, tail

TEXTS = st.one_of(
    st.text(max_size=2000), st.text(st.sampled_from("\x1b\x00\r\n\t é€𝄞\u202e\u2028\ud800a"), max_size=6000)
)
BYTES = st.one_of(st.binary(max_size=2000), st.text(max_size=2000).map(lambda text: text.encode("utf-8", "replace")))


def hostile(text: str) -> set[str]:
    """Characters that command a terminal, break a line, turn the direction of writing, or cannot be encoded."""
    kinds = {"Cc", "Cs", "Zl", "Zp", "Bidi"}
    bidi = {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
    return {c for c in text if unicodedata.category(c) in kinds or unicodedata.bidirectional(c) in bidi}


@given(st.one_of(TEXTS, BYTES))
def test_one_line_is_one_clean_line(text: str | bytes) -> None:
    line = one_line(text)
    assert len(line) <= LONGEST_WHY
    assert not hostile(line)
    assert line == " ".join(line.split())
    assert line.encode().decode() == line


@given(st.one_of(TEXTS, BYTES))
def test_a_tail_is_clean_and_bounded(text: str | bytes) -> None:
    end = tail(text)
    assert len(end.encode()) <= LONGEST_OUTPUT
    assert hostile(end) <= {"\n", "\t"}


@given(st.text(st.characters(codec="ascii", categories=["L", "N", "P"]), min_size=1, max_size=5000))
def test_plain_text_stays(text: str) -> None:
    assert tail(text) == text[-LONGEST_OUTPUT:] == tail(text.encode())
    line = one_line(text)
    if len(text) <= LONGEST_WHY:
        assert line == text
    else:
        first, last = line.split(" … ")
        assert text.startswith(first) and text.endswith(last) and len(line) == LONGEST_WHY


def test_what_is_escaped_can_be_read() -> None:
    assert one_line("\x1b[31mred\r\n\tand\x00\u202e") == "\\x1b[31mred and\\x00\\u202e"
    assert tail(b"a\r\nb\rc\x07\xff") == "a\nb\nc\\x07\ufffd"


def test_megabytes_cost_nothing() -> None:
    # 64 MiB of escapes: only the ends are cleaned, so the result is there at once and is bounded.
    assert len(one_line(b"\x1b" * (64 << 20))) <= LONGEST_WHY
    assert tail(b"\x1b" * (64 << 20)) == ("\\x1b" * LONGEST_OUTPUT)[-LONGEST_OUTPUT:]


@given(st.builds(Judged, st.sampled_from(Verdict), st.text().map(one_line), st.text().map(tail), st.just(1.25)))
def test_json_gives_it_back(judged: Judged) -> None:
    assert Judged.from_json(json.loads(json.dumps(judged.to_json()))) == judged


def test_the_mode_is_kept_where_there_is_one() -> None:
    judged = Judged(Verdict.PASS, level=3, toolchain="CPython 3.11.7", mode="same-process")
    assert Judged.from_json(judged.to_json()) == judged
    assert "mode" not in Judged(Verdict.PASS).to_json()


@pytest.mark.parametrize(
    "change", [{"verdict": "passed"}, {"verdict": None}, {"why": 3}, {"seconds": "1"}, {"level": None}, {"mode": []}]
)
def test_other_fields_are_refused(change: dict[str, object]) -> None:
    with pytest.raises(ValueError):
        Judged.from_json(Judged(Verdict.WRONG).to_json() | change)


def test_only_a_pass_counts() -> None:
    assert [verdict for verdict in Verdict if Judged(verdict).passed] == [Verdict.PASS]
