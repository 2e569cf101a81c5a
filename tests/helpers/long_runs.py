"""Texts that are one long run: what a gene, a picture's data, padding or blank lines look like to a pattern."""

from __future__ import annotations

import random


def long_runs(characters: int, seed: int = 1) -> dict[str, str]:
    """Runs of `characters` by name: each class that patterns tell apart, and classes that alternate."""
    draw = random.Random(seed)

    def of(alphabet: str) -> str:
        return "".join(draw.choices(alphabet, k=characters))

    def repeated(unit: str) -> str:
        return (unit * (characters // len(unit) + 1))[:characters]

    return {
        "one letter": repeated("a"),
        "letters": of("ACGT"),
        "digits": of("0123456789"),
        "numerals": repeated("Ⅷ"),
        "spaces": repeated(" "),
        "tabs": repeated("\t"),
        "newlines": repeated("\n"),
        "crlf": repeated("\r\n"),
        "white space": of(" \t\n\u3000\xa0"),
        "punctuation": of("+-*/"),
        "underscores": repeated("_"),
        "apostrophes": repeated("'"),
        "contractions": repeated("'s"),
        "brackets": repeated("("),
        "pairs": repeated("()"),
        "cjk": of("".join(map(chr, range(0x4E00, 0x4F00)))),
        "new cjk": repeated("\U0002ebf0"),
        "combining": "a" + repeated("\u0301")[1:],
        "emoji": repeated("\U0001f469\u200d"),
        "nul": repeated("\0"),
        "separators": repeated("\x1c!"),
        "base64": of("ABCDEFabcdef0123456789+/"),
        "words": repeated("a_1 "),
        "no space": repeated("f(a,b){return 1};"),
    }
