"""Write csrc/dedup/datatrove_tables.h: what datatrove's default word tokenizer (spaCy's blank English) still changes in
text that datatrove's simplify_text has simplified.

    pip install 'datatrove[processing]' spacy
    python tools/make_datatrove_tables.py > csrc/dedup/datatrove_tables.h

The script asks the two packages about one character after another. csrc/dedup/datatrove.cpp says at the preset's rules
why single characters are enough.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Iterable
from importlib.metadata import version

import regex
import spacy
from datatrove.utils.text import PUNCTUATION, simplify_text
from spacy.lang.char_classes import ALPHA, CURRENCY, UNITS

HEAD = """\
// What datatrove {datatrove} and spaCy {spacy} do to single characters and to whole words. Made by
// tools/make_datatrove_tables.py; do not edit. Only what simplify_text can leave in a text is listed.
#pragma once

#include "text/unicode_mappings.h"

namespace codeshell::dedup::datatrove_tables {{

using text::CodeRange;

// clang-format off
"""


def rows(values: Iterable[str], width: int = 120) -> str:
    lines, line = [], "    "
    for value in values:
        if len(line) + len(value) + 1 > width:
            lines.append(line.rstrip())
            line = "    "
        line += value + ", "
    return "\n".join([*lines, line.rstrip()])


def print_class(name: str, comment: str, codes: Iterable[int]) -> None:
    found: list[tuple[int, int]] = []
    for code in sorted(codes):
        if found and found[-1][1] == code - 1:
            found[-1] = (found[-1][0], code)
        else:
            found.append((code, code))
    body = rows(f"{{0x{first:x}, 0x{last:x}}}" for first, last in found)
    print(f"// {comment}\ninline constexpr CodeRange {name}[] = {{\n{body}\n}};\n")


def literal(text: str) -> str:
    assert '"' not in text and "\\" not in text
    return f'"{text}"'


def main() -> None:
    tokenizer = spacy.blank("en").tokenizer
    every = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code <= 0xDFFF]
    # The package regex has a newer Unicode than Python's unicodedata, so it knows more digits.
    digits = {chr(code) for code in every if regex.match(r"\p{Nd}", chr(code))}
    # Numbers become 0 and punctuation becomes a space between the lower case and the decomposition.
    left: set[str] = set()
    for code in every:
        for c in chr(code).lower():
            if c not in PUNCTUATION and not c.isspace() and chr(code) not in digits:
                left.update(d for d in unicodedata.normalize("NFD", c) if unicodedata.category(d) != "Mn")
    left.add("0")
    codes = sorted(map(ord, left))

    print(HEAD.format(datatrove=version("datatrove"), spacy=version("spacy")))
    print_class("digit", "A run of these becomes 0.", map(ord, digits))
    print_class("punctuation", "Becomes a space.", (ord(c) for c in PUNCTUATION))
    print_class(
        "prefix", "Cut from the front of a word.", (c for c in codes if tokenizer.find_prefix(chr(c) + "x") == 1)
    )
    suffix = {c for c in codes if tokenizer.find_suffix("x" + chr(c)) == 1}
    print_class("suffix", "Cut from the end of a word.", suffix)
    print_class(
        "infix",
        "Cut out of the middle of a word.",
        (c for c in codes if tokenizer.find_infix("\u03b1\u00df0" + chr(c) + "0")),
    )
    alpha = spacy.util.re.compile(f"[{ALPHA}]")
    print_class(
        "between",
        "Cut out of the middle of a word where `alpha` is on both sides (before it also 0).",
        (c for c in codes if tokenizer.find_infix("a" + chr(c) + "a") and not tokenizer.find_infix("0" + chr(c) + "0")),
    )
    print_class("alpha", "spaCy's ALPHA.", (c for c in codes if alpha.match(chr(c))))
    units = {
        u for u in f"{UNITS}|{CURRENCY}".replace("\\", "").split("|") if set(u) <= left and u not in map(chr, suffix)
    }
    for unit in units:
        assert tokenizer.find_suffix("x0" + unit) == len(unit), unit
    print("// Cut from the end of a word where they follow a 0.")
    print(f"inline constexpr const char* units[] = {{\n{rows(literal(u) for u in sorted(units))}\n}};\n")
    # These two also arise from their parts: datatrove.cpp joins them.
    assert [
        t for t in tokenizer.rules if set(t) <= left and (tokenizer.find_prefix(t) or tokenizer.find_suffix(t))
    ] == [
        "<space>",
        "\u2018s",
    ]
    cases = []
    for text, tokens in sorted(tokenizer.rules.items()):
        if set(text) <= left:
            assert simplify_text(text) == text or set(text) & set("<>=`"), text
            cases.append(literal(" ".join(t.get("ORTH", t.get(65, "")) for t in tokens)))
    print("// Words with a division of their own, shown by the spaces.")
    print(f"inline constexpr const char* special[] = {{\n{rows(cases)}\n}};\n")
    print("// clang-format on\n\n}  // namespace codeshell::dedup::datatrove_tables")


if __name__ == "__main__":
    main()
