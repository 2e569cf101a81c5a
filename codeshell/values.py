"""The values of a recipe, as its TOML and the JSON of a run can hold them: finite numbers, and paths of any bytes.

Python has a surrogate (U+DC80 to U+DCFF) for each byte of a path that is not UTF-8, and a file in UTF-8 cannot hold
one. It is written as a NUL and the byte's two digits: `caf\\u0000e9` in TOML. No path holds a NUL, so no other path
reads like this.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from codeshell.errors import UserError

LARGEST = 2**63 - 1
"""The largest whole number of TOML."""


def to_plain(value: Any) -> Any:
    """The value with each byte of a path that is not UTF-8 written as the module says; containers are copied."""
    if isinstance(value, str):
        return re.sub("[\udc80-\udcff]", lambda found: f"\0{ord(found[0]) - 0xDC00:02x}", value)
    if isinstance(value, Mapping):
        return {to_plain(key): to_plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(to_plain, value))
    return value


def from_plain(value: Any, where: str = "") -> Any:
    """The value that `to_plain` wrote, checked; `where` is its key, for messages.

    Raises:
        UserError: a number that is not finite or beyond 64 bits, a text that no file can hold, a date.
    """
    if isinstance(value, str):
        return _text(value, where)
    if isinstance(value, Mapping):
        return {_text(str(key), where): from_plain(item, f"{where}.{key}".strip(".")) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [from_plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
    if isinstance(value, bool):
        return value
    if isinstance(value, int):
        if not -LARGEST <= value <= LARGEST:
            raise UserError(f"{where}: a whole number of more than 64 bits; give one below 2^63")
        return value
    if isinstance(value, float):
        # NaN, unlike every number, is not equal to itself.
        if value != value or value in (float("inf"), float("-inf")):
            raise UserError(f"{where}: {value} is not a finite number; give one")
        return value
    raise UserError(f"{where}: {value} is a {type(value).__name__}; give a number, a text, or a list or table of these")


def _text(text: str, where: str) -> str:
    found = re.sub("\0([89a-f][0-9a-f])", lambda byte: chr(0xDC00 + int(byte[1], 16)), text)
    if "\0" in found:
        raise UserError(f"{where}: {found!r} holds a NUL, which no path and no name has; leave it out")
    try:
        found.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        raise UserError(f"{where}: {found!r} holds half a character (a lone surrogate); write it whole") from None
    return found
