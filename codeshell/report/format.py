"""Numbers, sizes, shares and durations as the report prints them, and text made safe to show."""

from __future__ import annotations

import math
import re
from typing import Any

MISSING = "\u2013"
"""Shown where a run has no value."""

# Control characters except tab and newline, line separators, bidirectional controls, surrogates, non-characters.
_UNSHOWABLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufeff\ufffe\uffff]"
)


def show_controls(text: str) -> str:
    """Write control characters, bidirectional overrides and lone surrogates as `[U+202E]`.

    None of them is visible, some are not allowed in UTF-8 or HTML, and the overrides can make code read as something
    else (Boucher and Anderson, "Trojan Source", 2021). A page that shows foreign code has to show them.
    """
    return _UNSHOWABLE.sub(lambda match: f"[U+{ord(match[0]):04X}]", text)


def one_line(text: Any) -> str:
    """Foreign text as one line that is safe for a terminal, whatever characters it has."""
    return show_controls(str(text)).replace("\n", "[U+000A]").replace("\t", "[U+0009]")


def number(value: Any) -> float | None:
    """A JSON number as a finite float; None for anything else (a boolean is no number here)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def count(value: Any) -> str:
    """A whole number with separators: `12,345`."""
    amount = number(value)
    return MISSING if amount is None else f"{round(amount):,}"


def counted(value: Any, one: str, many: str) -> str:
    """A count with its noun: `1 file`, `12 files`."""
    return f"{count(value)} {one if number(value) == 1 else many}"


def short_count(value: Any) -> str:
    """A count in three digits: `7.69 B`, `3.28 M`, `412 k`."""
    amount = number(value)
    if amount is None:
        return MISSING
    # Below 10,000 a count is short enough as it is.
    return f"{round(amount):,}" if abs(amount) < 1e4 else _scaled(amount, ("T", "B", "M", "k"))


def size(value: Any) -> str:
    """Bytes in decimal units: `63.2 MB`."""
    amount = number(value)
    if amount is None:
        return MISSING
    return f"{round(amount)} B" if abs(amount) < 1e3 else _scaled(amount, ("TB", "GB", "MB", "kB"))


def share(part: Any, whole: Any, digits: int = 1) -> str:
    """`part / whole` in percent. A share that is too small for the digits is `< 0.1 %`, not zero."""
    above, below = number(part), number(whole)
    if above is None or not below:
        return MISSING
    # "0.0 %" is for nothing at all.
    percent, least = 100 * above / below, 10.0**-digits
    if 0 < percent < least / 2:
        return f"< {least:.{digits}f} %"
    return f"{percent:.{digits}f} %"


def duration(seconds: Any) -> str:
    """`840 ms`, `12.4 s`, `3 min 20 s`, `5 h 12 min`."""
    amount = number(seconds)
    if amount is None:
        return MISSING
    if amount < 1:
        return f"{round(1000 * amount)} ms"
    if amount < 60:
        return f"{amount:.1f} s"
    # Rounded first, so that 59.9 s after a minute become the next minute instead of 60 s.
    whole = round(amount)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def plain(value: Any) -> str:
    """Any number for a reader: an integer with separators, a float in four significant digits."""
    amount = number(value)
    if amount is None:
        return MISSING
    if amount == round(amount) and abs(amount) < 1e15:
        return f"{round(amount):,}"
    return f"{amount:,.1f}" if abs(amount) >= 1000 else f"{amount:.4g}"


def words(name: Any) -> str:
    """A key as words: `max_line_length` becomes `max line length`."""
    return cut(str(name).replace("_", " ").strip())


def cut(text: Any, limit: int = 160) -> str:
    """A name or value in `limit` characters at most: its beginning and its end, with `…` for the middle.

    Paths and languages of Parquet and JSONL inputs may have any length.
    """
    shown = str(text)
    if len(shown) <= limit:
        return shown
    # The end of a path says as much as its beginning.
    half = (limit - 1) // 2
    return f"{shown[:half]}…{shown[-half:]}"


def _scaled(amount: float, units: tuple[str, str, str, str]) -> str:
    """An amount of 1,000 or more in three digits, with the largest unit that leaves 1 or more before the point."""
    scale, unit = next(pair for pair in zip((1e12, 1e9, 1e6, 1e3), units, strict=True) if abs(amount) >= pair[0])
    value = amount / scale
    # Rounding happens at the last shown digit, so 9.996 is 10.0 and not 10.00.
    digits = f"{value:.0f}" if abs(value) >= 99.95 else f"{value:.1f}" if abs(value) >= 9.995 else f"{value:.2f}"
    return f"{digits} {unit}"
