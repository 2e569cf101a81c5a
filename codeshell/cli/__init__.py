"""The command line: one module per command, each with HELP, add_arguments and main.

The command modules import nothing heavy at the top, so `codeshell --help` is quick.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import re
import signal
import sys
from typing import TYPE_CHECKING, NoReturn

from codeshell.cli import process, subcommands
from codeshell.errors import UserError, say

if TYPE_CHECKING:
    from _typeshed import SupportsWrite

COMMANDS = (
    "run", "train", "finetune", "ablate", "complete", "serve", "export", "card", "eval", "tokenizer", "model", "dedup",
    "lm", "quality", "explain", "report", "bench", "info",
)  # fmt: skip
"""In the order of `--help`; the module of `eval` is `codeshell.cli.eval`, and so on."""


class _Parser(argparse.ArgumentParser):
    """Bad arguments are one line, as all bad input is: the usage of argparse can be twenty lines before it."""

    def error(self, message: str) -> NoReturn:
        say(f"{self.prog}: error: {message}; see {self.prog} --help")
        self.exit(2)

    def _print_message(self, message: str, file: SupportsWrite[str] | None = None) -> None:
        # argparse would pass over an error of stdout, and a help that nobody got would be a success.
        print(message, end="", file=file or sys.stderr)


def main(argv: list[str] | None = None) -> int:
    """Run a command; what a user can fix becomes one line and exit code 2, and a signal 128 and its number."""
    process.open_streams()
    with process.ending_signals():
        try:
            return _run(argv)
        except UserError as error:
            say(f"codeshell: error: {error}")
            return 2
        except KeyboardInterrupt as stop:
            process.let_signals_kill()
            number = signal.Signals(getattr(stop, "number", signal.SIGINT))
            how = "interrupted" if number == signal.SIGINT else f"ended by {number.name}"
            say(f"codeshell: {how}; what is finished is kept")
            process.wait_for_helpers()
            return 128 + number
        except BrokenPipeError:
            # The reader of our output went away (`codeshell … | head`), as it may.
            return 141
        except OSError as error:
            # Without a number it is the sentence of some library, and perhaps a fault of ours.
            if error.errno is None:
                raise
            say(f"codeshell: error: {_told(error)}")
            return 2
        except (MemoryError, RuntimeError) as error:
            # torch has no class of its own for the memory of the host.
            words = " ".join(str(error).split())
            if not (isinstance(error, MemoryError) or re.search(r"can't allocate memory|out of memory", words)):
                raise
            say(f"codeshell: error: not enough memory ({words[:200]}); ask for less, or for fewer --workers")
            return 2
        finally:
            process.drop_broken_streams()


def _run(argv: list[str] | None) -> int:
    """Parse the arguments, do the command, and see to it that all it has printed is out."""
    try:
        args = _parsed(sys.argv[1:] if argv is None else argv)
        result: int = args.main(args)
    finally:
        # Also for the SystemExit of --help. In an error's way, what was not printed is no news: `main` drops it.
        if isinstance(sys.exc_info()[1], SystemExit | None):
            sys.stdout.flush()
    return result


def _parsed(argv: list[str]) -> argparse.Namespace:
    from codeshell import __version__

    parser = _Parser(
        prog="codeshell",
        description="From a folder of code to a trained and evaluated code model.",
        epilog="example: codeshell run recipes/demo.toml -o runs/demo",
    )
    parser.add_argument("--version", action="version", version=f"codeshell {__version__}")
    subparsers = parser.add_subparsers(dest="command", metavar="COMMAND")
    asked = next((word for word in argv if not word.startswith("-")), None)
    for name in COMMANDS:
        # Only the command that is asked for needs its arguments; their defaults may cost an import.
        module = importlib.import_module(f"codeshell.cli.{name}")
        command = subparsers.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        # `eval judge` stands beside `eval TASK`, and only the next word tells them apart.
        beside = getattr(module, "BESIDE", ())
        if name == asked and set(argv[argv.index(name) + 1 :][:1]) & set(beside):
            subcommands.add_subcommands(command, name, beside)
            command.set_defaults(main=subcommands.main)
            continue
        if name == asked:
            module.add_arguments(command)
        command.set_defaults(main=module.main)

    def no_command(args: argparse.Namespace) -> int:
        parser.print_help()
        return 2

    parser.set_defaults(main=no_command)
    return parser.parse_args(argv)


def _told(error: OSError) -> str:
    """What the system refused, as one line: the file and its reason."""
    reason = error.strerror or str(error)
    if error.filename is not None:
        name = os.fsdecode(error.filename) if isinstance(error.filename, str | bytes) else str(error.filename)
        return f"{name}: {reason}; choose another path, or make this one readable and writable"
    # Files that we write are named by `engine.files.disk_error`; what is left is mostly what a command prints.
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO):
        return f"standard output or a temporary file: {reason}; free some space, or write elsewhere"
    return f"the system refused an operation: {reason}"
