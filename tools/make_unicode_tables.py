"""Write csrc/text/unicode_tables.h: which code points are letters and which are numbers, as Python's str sees them.

    python tools/make_unicode_tables.py > csrc/text/unicode_tables.h

The header is checked in, so that every build gives the same measures, whatever Python it is built with. Run this script
only to move to another version of Unicode, and record that in docs/decisions.md, because scores and shingles change.
"""

from __future__ import annotations

import sys
import unicodedata
from collections.abc import Callable

BLOCK = 256
HEAD = """\
// Which code points are letters (Python's str.isalpha: categories L*) and which are numbers (str.isalnum without
// str.isalpha: categories N*). Made by tools/make_unicode_tables.py from Unicode {version}; do not edit.
//
// Two stages: the block of 256 code points, then one bit. Equal blocks are stored once.
#pragma once

#include <cstddef>
#include <cstdint>

namespace codeshell::text {{

inline constexpr char unicode_version[] = "{version}";
inline constexpr uint32_t unicode_end = {end:#x};  // nothing at or after this is a letter or a number
"""
TAIL = """
inline bool in_unicode_table(const uint64_t (*bits)[4], uint32_t code_point) {
  if (code_point >= unicode_end) return false;
  const size_t block = unicode_blocks[code_point >> 8];
  return bits[block][(code_point >> 6) & 3] >> (code_point & 63) & 1;
}

inline bool is_letter(uint32_t code_point) { return in_unicode_table(letter_bits, code_point); }
inline bool is_number(uint32_t code_point) { return in_unicode_table(number_bits, code_point); }

}  // namespace codeshell::text
"""


def words(test: Callable[[str], bool], start: int) -> tuple[int, ...]:
    """The four 64-bit words of one block."""
    return tuple(
        sum(1 << bit for bit in range(64) if test(chr(start + 64 * word + bit))) for word in range(BLOCK // 64)
    )


def rows(values: list[str], indent: str = "    ", width: int = 120) -> str:
    """Comma-separated values in lines of at most `width`."""
    lines, line = [], indent
    for value in values:
        if len(line) + len(value) + 1 > width:
            lines.append(line.rstrip())
            line = indent
        line += value + ", "
    return "\n".join([*lines, line.rstrip()])


def main() -> None:
    blocks: dict[tuple[tuple[int, ...], tuple[int, ...]], int] = {}
    index = []
    for start in range(0, sys.maxunicode + 1, BLOCK):
        block = (words(str.isalpha, start), words(lambda c: c.isalnum() and not c.isalpha(), start))
        index.append(blocks.setdefault(block, len(blocks)))
    empty = blocks[((0,) * 4, (0,) * 4)]
    while index[-1] == empty:
        index.pop()
    assert len(blocks) <= 256, "a block number no longer fits a byte"
    print(HEAD.format(version=unicodedata.unidata_version, end=len(index) * BLOCK))
    print("// clang-format off")
    print(f"inline constexpr uint8_t unicode_blocks[] = {{\n{rows([str(i) for i in index])}\n}};\n")
    for name, part in (("letter", 0), ("number", 1)):
        body = "\n".join("    {" + ", ".join(f"0x{word:x}" for word in block[part]) + "}," for block in blocks)
        print(f"inline constexpr uint64_t {name}_bits[][4] = {{\n{body}\n}};\n")
    print("// clang-format on" + TAIL, end="")


if __name__ == "__main__":
    main()
