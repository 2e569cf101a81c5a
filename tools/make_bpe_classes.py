"""Write csrc/bpe/class_table.h: the classes of each code point as Hugging Face's pre-tokenizers see them.

    python tools/make_bpe_classes.py > csrc/bpe/class_table.h

The classes are asked of the installed `tokenizers`: its regular expressions and its `Digits` have Unicode tables of
their own, of two versions of Unicode. The header is checked in, so that every build cuts a text in the same places;
tests/tokenizer/test_native_encoder.py compares it with the installed library. Record a change in docs/decisions.md,
because ids change.
"""

from __future__ import annotations

import sys

import tokenizers
from tokenizers import Regex, pre_tokenizers

CLASSES = {
    "letter": pre_tokenizers.Split(Regex(r"\p{L}"), "isolated"),
    "number": pre_tokenizers.Split(Regex(r"\p{N}"), "isolated"),
    "space": pre_tokenizers.Split(Regex(r"\s"), "isolated"),
    "digit": pre_tokenizers.Digits(individual_digits=True),
    "punctuation": pre_tokenizers.Split(Regex(r"\p{P}"), "isolated"),
    "symbol": pre_tokenizers.Split(Regex(r"\p{S}"), "isolated"),
    "mark": pre_tokenizers.Split(Regex(r"\p{M}"), "isolated"),
}
"""What cuts out the code points of each class. `digit` is what Rust's char::is_numeric takes for one."""

STEP = 4096

HEAD = """\
// The classes of each code point, as Hugging Face's pre-tokenizers see them. Made by tools/make_bpe_classes.py from
// tokenizers {version}; do not edit.
#pragma once

#include <cstdint>

namespace codeshell::bpe {{

// Bits of a code point's classes. `digit` is what Digits cuts out (Rust's char::is_numeric). The others are those of
// regular expressions (Oniguruma's \\p{{L}}, \\p{{N}}, \\s and so on, of another version of Unicode).
enum Class : uint8_t {{
{bits}
}};

// Runs of code points that have the same classes: the first code point of the run, and its classes in the low byte.
// clang-format off
inline constexpr uint32_t class_runs[] = {{
{runs}
}};
// clang-format on

}}  // namespace codeshell::bpe"""


def members(cutter: pre_tokenizers.PreTokenizer, separator: str) -> set[int]:
    """The code points that `cutter` cuts out of a text in which `separator` stands on both sides of each."""
    found: set[int] = set()
    characters = [code for code in range(sys.maxunicode + 1) if not 0xD800 <= code < 0xE000]
    for start in range(0, len(characters), STEP):
        part = characters[start : start + STEP]
        text = separator * 2 + (separator * 2).join(map(chr, part))
        for _, (begin, end) in cutter.pre_tokenize_str(text):
            if end - begin == 1 and begin % 3 == 2:
                found.add(part[begin // 3])
    return found


def main() -> None:
    # A separator must be outside the class; an exclamation mark is punctuation.
    classes = {
        name: members(cutter, "a" if name in ("punctuation", "symbol") else "!") for name, cutter in CLASSES.items()
    }
    runs, before = [], -1
    for code in range(sys.maxunicode + 1):
        flags = sum(1 << bit for bit, name in enumerate(classes) if code in classes[name])
        if flags != before:
            runs.append(f"{code << 8 | flags:#x}")
            before = flags
    lines, line = [], "   "
    for run in runs:
        if len(line) + len(run) + 2 > 120:
            lines.append(line)
            line = "   "
        line += f" {run},"
    bits = "\n".join(f"  {name} = {1 << bit}," for bit, name in enumerate(classes))
    print(HEAD.format(version=tokenizers.__version__, bits=bits, runs="\n".join([*lines, line])))


if __name__ == "__main__":
    main()
