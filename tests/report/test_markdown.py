"""Foreign text in Markdown: a parser must see just the text, wherever the page puts it."""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from codeshell.paragraphs import wrapped
from codeshell.report.format import show_controls
from codeshell.report.markdown import escape, front_matter, table

markdown_it = pytest.importorskip("markdown_it", reason="markdown-it-py is not installed: a parser did NOT read a card")

WICKED = "abc 123 *_`~[]()<>!#+-=|\\&$@:/.\"'{}^\n\t"
HTML = {"html_inline", "html_block", "link_open", "image", "code_inline", "code_block", "fence", "s_open"}


def tokens(text: str):
    parser = markdown_it.MarkdownIt("commonmark").enable(["table", "strikethrough"])
    for token in parser.parse(text):
        yield token
        yield from token.children or []


def shown(text: str) -> str:
    return "".join(
        " " if token.type == "softbreak" else token.content
        for token in tokens(text)
        if token.type in ("text", "text_special", "softbreak")
    )


@given(st.text(alphabet=WICKED, max_size=60))
@example("[a](http://x.example)")
@example("![a](x)")
@example("- item\n# head\n1. one\n=== \n---")
@example("<img src=x onerror=alert(1)> &amp; &lt;")
@example("a_b __c__ _d_ *e* ~~f~~ `g`")
@example("\\*a\\* \\")
def test_a_paragraph_shows_the_text_and_nothing_else(text: str) -> None:
    line = "\n".join(wrapped("begin " + escape(text), width=20))
    kinds = {token.type for token in tokens(line)}
    assert kinds <= {"paragraph_open", "paragraph_close", "inline", "text", "text_special", "softbreak"}, kinds
    assert shown(line) == " ".join(show_controls(f"begin {text}").split())


@given(st.text(alphabet=WICKED, max_size=40), st.text(alphabet=WICKED, max_size=40))
def test_a_table_keeps_its_cells(first: str, second: str) -> None:
    page = "\n".join(table(("A", "B"), [[escape(first), escape(second)]]))
    found = list(tokens(page))
    assert not {token.type for token in found} & HTML
    cells = [token for token in found if token.type == "inline"]
    assert [cell.content for cell in cells[:2]] == ["A", "B"] and len(cells) == 4
    read = ["".join(part.content for part in cell.children) for cell in cells[2:]]
    assert read == [" ".join(text.split()) for text in (first, second)]


@pytest.mark.parametrize("text", ["https://evil.example/x", "www.evil.example", "someone@evil.example", "@team"])
def test_no_bare_link_is_left_for_the_hub(text: str) -> None:
    escaped = escape(f"see {text}")
    assert re.search(r"https?://|www\.|(?<!\\)@", escaped) is None
    assert shown(escaped) == f"see {text}"


def test_controls_and_long_texts() -> None:
    assert escape("a\u202eb\x00\ud800") == "a\\[U+202E\\]b\\[U+0000\\]\\[U+D800\\]"
    assert len(escape("x" * 5000)) <= 301


@given(st.text(max_size=40))
def test_the_header_is_json_of_each_value(text: str) -> None:
    lines = front_matter({"name": text, "tags": [text, "code"]})
    assert lines[0] == lines[-1] == "---" and len(lines) == 4
    assert json.loads(lines[1].removeprefix("name: ")) == text
    assert all("\n" not in line and line.isascii() for line in lines)
