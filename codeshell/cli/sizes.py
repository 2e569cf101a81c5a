"""Sizes in bytes as arguments of commands: memory and the like."""

from __future__ import annotations

import re

from codeshell.errors import UserError

UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}
"""Powers of 1000 (or of 1024, with an i) that a size may be given in."""


def parse_size(text: str, name: str) -> int:
    """The number of bytes that '2GiB', '500MB' or '1073741824' stands for.

    Args:
        text: what the user wrote; a number and a unit, in any case and with or without the B.
        name: the option, for the messages.

    Raises:
        UserError: it is no size, less than 64 MiB, or more than any machine has.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?", text.strip(), re.IGNORECASE)
    if not found:
        raise UserError(f"{name}: {text!r} is not a size; write 2GiB or 500MB")
    unit = (found[2] or "").lower()
    size = float(found[1]) * (1024 if unit.endswith("i") else 1000) ** UNITS[unit[:1]]
    if size < 64 << 20:
        raise UserError(f"{name}: {text} is too little; give 64MiB or more")
    if size >= 1 << 62:
        raise UserError(f"{name}: {text} is more than any machine has; give what this machine has")
    return int(size)
