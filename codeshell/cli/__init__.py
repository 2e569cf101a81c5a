"""The command line: one module per command, each with HELP, add_arguments and main.

The command modules import nothing heavy at the top, so `codeshell --help` is quick.
"""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from typing import NoReturn

from codeshell.errors import UserError, printable, say

COMMANDS = ("run", "train", "complete", "eval", "tokenizer", "dedup", "explain", "report", "bench", "info")
"""In the order of `--help`; the module of `eval` is `codeshell.cli.eval`, and so on."""


class _Parser(argparse.ArgumentParser):
    """Bad arguments are one line, as all bad input is: the usage of argparse can be twenty lines before it."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, printable(f"{self.prog}: error: {message}; see {self.prog} --help\n"))


def main(argv: list[str] | None = None) -> int:
    """Parse, run, and turn a `UserError` into one line and exit code 2."""
    from codeshell import __version__

    parser = _Parser(
        prog="codeshell",
        description="From a folder of code to a trained and evaluated code model.",
        epilog="example: codeshell run recipes/demo.toml -o runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"codeshell {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    argv = sys.argv[1:] if argv is None else argv
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name in COMMANDS:
        # Only the command that is asked for needs its arguments; their defaults may cost an import.
        module = importlib.import_module(f"codeshell.cli.{name}")
        command = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        if name == asked:
            module.add_arguments(command)
        command.set_defaults(main=module.main)
    args = parser.parse_args(argv)
    if args.command is None:
        parser.print_help()
        return 2
    try:
        result: int = args.main(args)
        return result
    except UserError as error:
        say(f"codeshell: error: {error}")
        return 2
    except KeyboardInterrupt:
        say("codeshell: interrupted; what is finished is kept")
        return 130
    except BrokenPipeError:
        # The reader of our output went away (`codeshell … | head`). Point stdout elsewhere, or the interpreter
        # complains once more when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
