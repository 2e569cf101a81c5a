"""The one exception that a user is meant to read."""

from __future__ import annotations


class UserError(Exception):
    """Bad input: a file, an argument or a recipe key that the user can mend.

    The message is one line that names the thing and the remedy. The command line prints it and exits with 2;
    library users get it as an ordinary exception. Bugs raise anything else.
    """
