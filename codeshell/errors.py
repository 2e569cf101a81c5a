"""What a person at a terminal reads: the one exception that is meant for users, and lines of progress."""

from __future__ import annotations

import sys


class UserError(Exception):
    """Bad input: a file, an argument or a recipe key that the user can fix.

    The message is one line that names the thing and the remedy. The command line prints it and exits with 2;
    library users get it as an ordinary exception. Bugs raise anything else.
    """


def say(line: str) -> None:
    """Print a line for a person on stderr at once, whatever the encoding of stderr.

    A path in the line may hold bytes that are not UTF-8; these, and what the encoding lacks, are shown escaped.
    """
    print(printable(line), file=sys.stderr, flush=True)


def printable(line: str) -> str:
    """The line with an escape (`\\xNN`, `\\uNNNN`) in place of each character that the encoding of stderr lacks."""
    encoding = sys.stderr.encoding or "utf-8"
    return line.encode(encoding, "backslashreplace").decode(encoding)
