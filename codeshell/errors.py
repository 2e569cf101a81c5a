"""What a person at a terminal reads: the one exception that is meant for users, and lines of progress."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any


class UserError(Exception):
    """Bad input: a file, an argument or a recipe key that the user can fix.

    The message is one line that names the thing and the remedy. The command line prints it and exits with 2;
    library users get it as an ordinary exception. Bugs raise anything else.
    """


_hushed = False


def hush(hushed: bool = True) -> None:
    """Print nothing from here on, or do it again: of several ranks that do the same, one speaks."""
    global _hushed
    _hushed = hushed


def hushed() -> bool:
    """Whether nothing is printed."""
    return _hushed


def say(line: str) -> None:
    """Print a line for a person on stderr at once, whatever the encoding of stderr.

    A path in the line may hold bytes that are not UTF-8, or a line break; these, and what the encoding lacks, are shown
    escaped. Where stderr is closed or full, the line is lost, but not the work.
    """
    # In a process without a console Python has no stderr, and `print` would take stdout.
    if _hushed or sys.stderr is None:
        return
    try:
        print(printable(line), file=sys.stderr, flush=True)
    except BrokenPipeError:
        # Whoever read the lines went away (`2>&1 | head`), and expects the command to end.
        raise
    except (OSError, ValueError):  # a ValueError where it is closed
        return


def reasons(dropped: Mapping[str, Any]) -> str:
    """Counts by reason for a line, the largest first: "1,200 over_large, 3 bad_json".

    Args:
        dropped: reason to count, or to `{"documents": count, …}`.
    """
    counts = {name: item["documents"] if isinstance(item, Mapping) else item for name, item in dropped.items()}
    return ", ".join(f"{counts[name]:,} {name}" for name in sorted(counts, key=lambda n: -counts[n]) if counts[name])


_CONTROL = {code: f"\\x{code:02x}" for code in (*range(32), 127)} | {9: "\t", 10: "\\n", 13: "\\r"}
"""What would break a line, or command the terminal. A tab is itself."""


def printable(line: str) -> str:
    """The line with an escape (`\\n`, `\\xNN`, …) for control characters and what the encoding of stderr lacks."""
    encoding = sys.stderr.encoding or "utf-8"
    return line.translate(_CONTROL).encode(encoding, "backslashreplace").decode(encoding)
