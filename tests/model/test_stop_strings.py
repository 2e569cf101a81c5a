"""Text out of bytes: whole characters, exact cuts, and nothing held back longer than it must be."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from codeshell.model.stops import TextStream, cut, needles


def streamed(parts, stops=(), indent=0):
    """The text of a stream, what ended it, and how many parts were read."""
    stream, shown = TextStream([stop.encode() for stop in stops], indent), []
    read = 0
    for part in parts:
        shown.append(stream.add(part))
        read += 1
        if stream.ended:
            break
    shown.append(stream.finish())
    return "".join(shown), stream, read


def pieces(draw, data):
    """Bytes cut anywhere."""
    places = sorted(draw(st.lists(st.integers(0, len(data)), max_size=8)))
    return [data[a:b] for a, b in zip([0, *places], [*places, len(data)], strict=True)]


ALPHABET = st.text(alphabet="ab\n é😀", max_size=30)


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_stream_is_the_whole_text_cut_once(data):
    raw = data.draw(st.one_of(st.binary(max_size=30), ALPHABET.map(str.encode)))
    stops = data.draw(st.lists(st.text(alphabet="ab\né", min_size=1, max_size=4), max_size=3))
    parts = pieces(data.draw, raw)
    got, stream, count = streamed(parts, stops)
    # As `complete_batch` has it: after each token, the whole text is searched.
    seen, encoded = b"", needles(stops)
    for number, part in enumerate(parts, 1):
        seen += part
        if any(stop in seen for stop in encoded):
            assert count == number and stream.stopped_by in stops
            break
    else:
        assert not stream.ended
    assert got == cut(seen, encoded).decode("utf-8", errors="replace")


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_nothing_is_held_back_without_a_reason(data):
    text = data.draw(ALPHABET)
    stops = data.draw(st.lists(st.text(alphabet="ab\n", min_size=1, max_size=4), max_size=3))
    stream, shown, seen = TextStream(needles(stops)), "", b""
    for part in pieces(data.draw, text.encode()):
        shown += stream.add(part)
        seen += part
        if stream.ended:
            return
        held = seen[len(shown.encode()) :]
        # What is held back begins a stop string, before at most an unfinished character.
        begins = any(stop.startswith(held) for stop in needles(stops))
        try:
            held.decode()
            assert not held or begins
        except UnicodeDecodeError:
            assert len(held) < 4 or any(held.startswith(stop[:1]) for stop in needles(stops))


def slow_indent(text: str, least: int) -> str:
    """The text before the first line but the first one that is not blank and indented by fewer than `least`."""
    lines = text.split("\n")
    for number, line in enumerate(lines[1:], 1):
        rest = line.lstrip(" \t")
        if rest.strip("\r") and len(line) - len(rest) < least:
            while number > 1 and not lines[number - 1].strip(" \t\r"):
                number -= 1
            return "\n".join(lines[:number])
    return text


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_the_text_ends_before_a_line_of_less_indentation(data):
    line = st.builds(lambda n, rest: " " * n + rest, st.integers(0, 4), st.sampled_from(["", "a", "bc\t", "\tx", "é"]))
    text = "\n".join(data.draw(st.lists(line, max_size=6)))
    least = data.draw(st.integers(1, 3))
    got, stream, _ = streamed(pieces(data.draw, text.encode()), indent=least)
    want = slow_indent(text, least)
    # Tokens after the cut are never asked for, so the reference sees the whole text.
    assert got == want
    assert stream.dedented == (want != text)


@pytest.mark.parametrize(
    ("parts", "stops", "shown"),
    [
        (["ab", "c", "d"], ["bcx"], ["a", "", "bcd", ""]),  # given out as soon as it cannot become the stop string
        (["ab", "cx", "y"], ["bcx"], ["a", "", ""]),
        (["\xe9".encode()[:1], "\xe9".encode()[1:]], [], ["", "é", ""]),
        ([b"a", b"\xff", b"b"], [], ["a", "\ufffd", "b", ""]),
        ([b"a", b"\xf0\x9f"], [], ["a", "", "\ufffd"]),  # an unfinished character at the end
        (["aa", "a", "b"], ["aab"], ["", "a", "", ""]),
        (["abcd"], ["abcd", "b"], ["", ""]),  # the earliest counts
        (["a\n", "\nb"], ["\n\n"], ["a", "", ""]),
    ],
)
def test_what_each_token_shows(parts, stops, shown):
    stream, got = TextStream(needles(stops)), []
    for part in parts:
        got.append(stream.add(part if isinstance(part, bytes) else part.encode()))
        if stream.ended:
            break
    got.append(stream.finish())
    assert got == shown


@pytest.mark.parametrize(
    ("parts", "shown"),
    [
        ([b"x\n", b"  ", b"  y", b"\n", b"z"], ["x", "", "\n    y", "", "", ""]),
        ([b"x\n", b"\n", b"z"], ["x", "", "", ""]),  # blank lines before the end go with it
        ([b"x\n", b"\r\n", b"    y"], ["x", "", "\n\r\n    y", ""]),
        ([b"x", b"\n   "], ["x", "", "\n   "]),  # the end of the tokens: nothing is lost
    ],
)
def test_indentation_is_decided_at_the_first_letter(parts, shown):
    stream = TextStream(indent=4)
    assert [*(stream.add(part) for part in parts), stream.finish()] == shown


def test_a_stop_string_before_the_dedent_and_after_it():
    assert streamed([b"a#\nb"], ["#"], 2)[0] == "a"
    text, stream, _ = streamed([b"a\nb#"], ["#"], 2)
    assert text == "a" and stream.dedented and not stream.stopped_by


def test_the_longest_of_the_stop_strings_at_one_place_is_named():
    assert streamed([b"xabc"], ["a", "abc", "ab"])[1].stopped_by == "abc"


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=40))
@example(b"\xed\xa0\x80\xf5\xc0")
def test_what_is_no_utf_8_comes_out_as_a_decoder_has_it(raw):
    assert streamed([raw[i : i + 1] for i in range(len(raw))])[0] == raw.decode("utf-8", errors="replace")
