"""The measures against references in plain Python, at every SIMD level; HTML, XML and generated files."""

from __future__ import annotations

import io
import subprocess
import sys
import unicodedata
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.scorers import SCORERS
from codeshell.scorers import text as scores
from codeshell.scorers.text import SCORES

LEVELS = ["scalar", "avx2", "avx512"]
COUNTS = ["characters", "lines", "max_line_length", "line_characters", "letters", "alphanumeric"]

# Characters of one to four bytes, every line end, and some that only look like one (vertical tab, NEL, U+2028).
pieces = st.text(
    st.sampled_from("aZz[`{@A09/: _\n\r\t\v\x00\x7fé\u07c0ªⅣ²漢\u0085\u2028\ud7ff\ue000\U0001d7ce\U00020000")
)
documents = st.builds(
    lambda parts: "".join(text * times for text, times in parts),
    st.lists(st.tuples(pieces, st.integers(0, 90)), max_size=6),
)


def reference(text: str) -> dict[str, int]:
    lines = io.StringIO(text, newline=None).read().split("\n")
    if lines[-1] == "":
        lines.pop()
    return {
        "characters": len(text),
        "lines": len(lines),
        "max_line_length": max(map(len, lines), default=0),
        "line_characters": sum(map(len, lines)),
        "letters": sum(character.isalpha() for character in text),
        "alphanumeric": sum(character.isalnum() for character in text),
    }


def measure(texts: list[bytes], level: str = "") -> dict[str, np.ndarray]:
    offsets = np.cumsum([0, *map(len, texts)], dtype=np.int64)
    return _C.measure_texts(b"".join(texts), offsets, level)


@settings(max_examples=150, deadline=None)
@given(st.lists(documents, max_size=5))
def test_measures_equal_the_reference_at_every_level(texts: list[str]) -> None:
    wanted = [reference(text) for text in texts]
    for level in LEVELS:
        found = measure([text.encode() for text in texts], level)
        assert found["valid"].all()
        for name in COUNTS:
            assert found[name].tolist() == [row[name] for row in wanted], (name, level)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=40), st.integers(0, 70), st.binary(max_size=5))
def test_arbitrary_bytes_are_valid_exactly_when_python_decodes_them(middle: bytes, before: int, after: bytes) -> None:
    data = b"x" * before + middle + after
    try:
        data.decode()
        valid = True
    except UnicodeDecodeError:
        valid = False
    for level in LEVELS:
        found = measure([b"ok\n", data, b"ok\n"], level)
        assert found["valid"].tolist() == [True, valid, True]
        assert found["lines"].tolist()[::2] == [1, 1], "a bad neighbour changes nothing"
        if not valid:
            assert all(found[name][1] == 0 for name in COUNTS)


@pytest.mark.parametrize(
    "data",
    [
        *(b"\xc0\x80", b"\xc1\xbf", b"\xe0\x80\x80", b"\xf0\x80\x80\x80"),  # overlong
        *(b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"\xf5", b"\xff"),  # a surrogate, beyond the last code point
        *(b"\x80", b"\xc3", b"\xe6\xbc", b"\xf0\x9f\x98", b"\xe6\xbca"),  # cut off
        *(b"a" * 63 + b"\xc3", b"a" * 64 + b"\xbf"),  # at the edge of a block
    ],
)
def test_ill_formed_utf8_is_found(data: bytes) -> None:
    for level in LEVELS:
        assert not measure([data], level)["valid"][0]


def test_every_code_point_is_classified_as_python_does() -> None:
    points = [point for point in range(0x110000) if not 0xD800 <= point < 0xE000]
    found = measure([chr(point).encode() for point in points])
    letters = np.array([chr(point).isalpha() for point in points])
    alphanumeric = np.array([chr(point).isalnum() for point in points])
    if unicodedata.unidata_version == _C.unicode_version:
        assert (found["letters"] == letters).all()
        assert (found["alphanumeric"] == alphanumeric).all()
    else:  # a Python of another Unicode version: a later one knows all that an earlier one knew, and more
        assert ((found["letters"] == 1) != letters).sum() < 20_000
        assert (found["letters"] == letters)[:0x2000].mean() > 0.99


def test_the_checked_in_tables_are_what_the_tool_writes() -> None:
    root = Path(__file__).parents[2]
    if unicodedata.unidata_version != _C.unicode_version:
        pytest.skip(f"this Python has Unicode {unicodedata.unidata_version}, the tables {_C.unicode_version}")
    tool = subprocess.run([sys.executable, root / "tools/make_unicode_tables.py"], stdout=subprocess.PIPE, check=True)
    assert tool.stdout == (root / "csrc/text/unicode_tables.h").read_bytes()


def test_line_ends_at_the_edges_of_blocks() -> None:
    for at in (62, 63, 64, 127, 128):
        for end in ("\n", "\r\n", "\r", "\r\r\n", "\n\r"):
            text = "x" * at + end + "y" * 70
            for level in LEVELS:
                found = measure([text.encode()], level)
                assert {name: int(found[name][0]) for name in COUNTS} == reference(text), (at, end, level)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="offsets: beyond"):
        _C.measure_texts(b"abc", np.array([0, 4]))
    with pytest.raises(ValueError, match="offsets: must not fall"):
        _C.measure_texts(b"abc", np.array([0, 2, 1]))
    with pytest.raises(ValueError, match="level: 'sse'"):
        _C.measure_texts(b"abc", np.array([0, 3]), "sse")


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        (b"// Code generated by protoc-gen-go. DO NOT EDIT.\npackage x\n", "code generated by"),
        (b"# This file is generated, see make.py\n", "this file is generated"),
        (b"/* AutoGenerated */", "autogenerated"),
        (b"# a\n# b\n# c\n# d\n# @generated\n", "@generated"),
        (b"# a\n# b\n# c\n# d\n# e\n# @generated\n", ""),
        (b"# Automatically generated", "automatically generated"),
        (b"def generated_ids():\n    return 1\n", ""),
        (b" " * 5000 + b"@generated", ""),
        (b"", ""),
    ],
)
def test_generated_files_say_so_in_their_first_five_lines(text: bytes, phrase: str) -> None:
    assert scores.generated_by(text) == phrase


def test_xml_header_counts_in_characters() -> None:
    header = '<?xml version="1.0"?>'
    assert scores.has_xml_header(header.encode())
    assert scores.has_xml_header(("漢" * (100 - len("<?xml version=")) + header).encode())
    assert not scores.has_xml_header(("漢" * (101 - len("<?xml version=")) + header).encode())
    assert not scores.has_xml_header(b"<?xml?>")


def test_html_text_is_what_is_outside_of_tags_scripts_and_styles() -> None:
    head = b"<head><style>p {}</style><script>let a = 1;</script></head>"
    page = b"<html>" + head + b"<body><!-- no --><p>one <b>two</b></p></body></html>"
    assert scores.html_text_characters(page) == len("one two")
    assert scores.html_text_characters("<p>漢字</p>".encode()) == 2


@pytest.mark.parametrize("page", [b"<", b"<<<>>>", b"\x00\x01", b"<div>" * 50_000, b"<!DOCTYPE", b"&#xFFFFFFFF;", b" "])
def test_html_that_no_browser_wrote_is_no_error(page: bytes) -> None:
    assert scores.html_text_characters(page) >= 0


def test_a_row_of_scores_equals_the_reference() -> None:
    texts = ["def f():\n    return 1\n", "<p>" + "x" * 30 + "</p>", "漢字 = 2\r\n\r\nx\r"]
    languages = ["python", "html", "python"]
    encoded = [text.encode() for text in texts]
    table = scores.score(encoded, ["a", "b", "c"], languages, scores.measure(encoded)[2])
    assert table.schema == scores.SCORES
    for row, text, language in zip(table.to_pylist(), texts, languages, strict=True):
        wanted = reference(text)
        assert row["characters"] == wanted["characters"]
        assert row["lines"] == wanted["lines"]
        assert row["mean_line_length"] == wanted["line_characters"] / wanted["lines"]
        assert row["alphanumeric"] == wanted["alphanumeric"] / wanted["characters"]
        assert row["alphabetic"] == wanted["letters"] / wanted["characters"]
        assert (row["html_text_characters"] is None) == (language != "html")
    assert table["html_text_characters"][1].as_py() == 30
    assert table["html_text_share"][1].as_py() == 30 / 37


def test_the_scorer_gives_the_columns_that_collect_writes() -> None:
    texts, names = ["x = 1\n", "<html><p>hi</p></html>", "# café, do not edit\n"], ["python", "html", "python"]
    batch = pa.table({"id": ["a", "b", "c"], "language": names, "text": pa.array(texts, pa.large_string())})
    encoded = [text.encode() for text in texts]
    expected = scores.score(encoded, ["a", "b", "c"], names, scores.measure(encoded)[2])
    scorer = SCORERS.get("text")()
    given = scorer.score(batch)
    assert list(given) == scorer.columns.names == [name for name in SCORES.names if name not in ("id", "language")]
    for name in given:
        assert given[name].to_pylist() == expected[name].to_pylist()
