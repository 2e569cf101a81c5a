"""Write csrc/text/unicode_mappings.h: lower case, canonical decomposition and the classes that they need, as Python's
str and unicodedata have them.

    python tools/make_unicode_mappings.py > csrc/text/unicode_mappings.h

The header is checked in for the same reason as unicode_tables.h: some presets follow Python programs, and their
shingles must not change with the Python that builds the package.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable, Iterable

HEAD = """\
// What Python's str.lower() and unicodedata.normalize("NFD") do to a code point, and the classes that they and
// str.isspace() use. Made by tools/make_unicode_mappings.py from Unicode {version}; do not edit.
//
// Classes are ascending inclusive ranges. Not in the tables, because they are rules: the final sigma (U+03A3 becomes
// U+03C2 at the end of a word), and the Hangul syllables (U+AC00-D7A3), which decompose by arithmetic.
#pragma once

#include <cstdint>

namespace codeshell::text {{

struct CodeRange {{
  uint32_t first, last;
}};
struct ClassRange {{
  uint32_t first, last, value;
}};
// From `code` to `count` code points that begin at `pool[at]`.
struct CodeMapping {{
  uint32_t code;
  uint16_t at, count;
}};

// clang-format off
"""


def ranges(test: Callable[[int], object]) -> list[tuple[int, int, object]]:
    """The maximal runs of code points that share a true value of `test`."""
    found: list[tuple[int, int, object]] = []
    for code in range(sys.maxunicode + 1):
        value = test(code)
        if not value:
            continue
        if found and found[-1][1] == code - 1 and found[-1][2] == value:
            found[-1] = (found[-1][0], code, value)
        else:
            found.append((code, code, value))
    return found


def rows(values: Iterable[str], width: int = 120) -> str:
    lines, line = [], "    "
    for value in values:
        if len(line) + len(value) + 1 > width:
            lines.append(line.rstrip())
            line = "    "
        line += value + ", "
    return "\n".join([*lines, line.rstrip()])


def print_class(name: str, comment: str, test: Callable[[int], object]) -> None:
    body = rows(f"{{0x{first:x}, 0x{last:x}}}" for first, last, _ in ranges(test))
    print(f"// {comment}\ninline constexpr CodeRange {name}[] = {{\n{body}\n}};\n")


def print_mapping(name: str, comment: str, mapping: dict[int, str]) -> None:
    pool = "".join(dict.fromkeys(sorted(mapping.values(), key=lambda text: (-len(text), text))))
    entries = (f"{{0x{code:x}, {pool.index(text)}, {len(text)}}}" for code, text in mapping.items())
    assert len(pool) < 1 << 16
    print(f"// {comment}\ninline constexpr char32_t {name}_pool[] = {{")
    print(rows(f"0x{ord(c):x}" for c in pool) + "\n};")
    print(f"inline constexpr CodeMapping {name}[] = {{\n{rows(entries)}\n}};\n")


def is_surrogate(code: int) -> bool:
    return 0xD800 <= code <= 0xDFFF


def makes_final(before: str) -> bool:
    return (before + "\u03a3").lower().endswith("\u03c2")


def main() -> None:
    codes = [code for code in range(sys.maxunicode + 1) if not is_surrogate(code)]
    lower = {code: chr(code).lower() for code in codes if chr(code).lower() != chr(code)}
    nfd = {
        code: unicodedata.normalize("NFD", chr(code))
        for code in codes
        if not 0xAC00 <= code <= 0xD7A3 and unicodedata.normalize("NFD", chr(code)) != chr(code)
    }
    print(HEAD.format(version=unicodedata.unidata_version))
    print_mapping("lower", "Lower case of one code point by itself.", lower)
    print_mapping("decomposition", "Canonical decomposition, applied until nothing decomposes.", nfd)
    combining = (f"{{0x{a:x}, 0x{b:x}, {v}}}" for a, b, v in ranges(lambda code: unicodedata.combining(chr(code))))
    print("// Canonical combining classes other than 0.")
    print(f"inline constexpr ClassRange combining_class[] = {{\n{rows(combining)}\n}};\n")
    print_class("space", "str.isspace(), which is also what \\s matches.", lambda code: chr(code).isspace())
    print_class("nonspacing", "Category Mn.", lambda code: unicodedata.category(chr(code)) == "Mn")
    # str.lower() looks for these around a capital sigma; its answers tell them apart.
    print_class(
        "case_ignorable",
        "Looked through where a final sigma is sought.",
        lambda code: not is_surrogate(code) and makes_final("A" + chr(code)) and not makes_final(chr(code)),
    )
    print_class(
        "cased",
        "Letters with case, for the final sigma.",
        lambda code: not is_surrogate(code) and makes_final(chr(code)),
    )
    print("// clang-format on\n\n}  // namespace codeshell::text")


if __name__ == "__main__":
    main()
