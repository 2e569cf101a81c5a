"""Decodes the lines of JSON Lines: all that Python's `json` and other programs write is a record."""

from __future__ import annotations

import json
import re
from typing import Any

import msgspec

# Strings, and the brackets outside of them.
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|[\[\]{}]', re.DOTALL)

LONGEST_INTEGER = 400
"""Digits from which an integer is read as a double: Python refuses to convert very long ones."""


def decode_record(line: bytes) -> dict[str, Any] | None:
    """The object that a line of JSONL holds, or None.

    What the fast decoder refuses, though it does no harm in a field that is not asked for, is read by the slow one:
    NaN and Infinity, escaped lone surrogates, bytes that are not UTF-8, numbers of any size, control characters in
    strings, a byte order mark, values nested thousands deep. In the text itself, what is not UTF-8 is found later.
    """
    try:
        record = msgspec.json.decode(line)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
        # Files that were joined have byte order marks in the middle; a record separator may begin a line (RFC 7464).
        text = line.lstrip(b"\xef\xbb\xbf\x1e").decode("utf-8", "surrogateescape")
        record = _decode_slowly(text)
    return record if isinstance(record, dict) else None


def _decode_slowly(text: str) -> Any:
    try:
        return json.loads(text, strict=False, parse_int=_integer)
    except ValueError:
        return None
    except RecursionError:
        shallow = _without_depth(text)
    try:
        return json.loads(shallow, strict=False, parse_int=_integer)
    except (ValueError, RecursionError):
        return None


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) < LONGEST_INTEGER else float(digits)


def _without_depth(text: str) -> str:
    """The object with null for each object or list in it; without a bracket's partner the result is no JSON."""
    pieces: list[str] = []
    depth = copied = 0
    for token in _TOKEN.finditer(text):
        mark = token[0]
        if mark in "[{":
            depth += 1
            if depth == 2:
                pieces += [text[copied : token.start()], "null"]
        elif mark in "]}":
            depth -= 1
            if depth == 1:
                copied = token.end()
    return "".join(pieces) + text[copied if depth == 0 else len(text) :]
