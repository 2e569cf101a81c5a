"""Commands that have subcommands, each a module of its own with HELP, add_arguments and main."""

from __future__ import annotations

import argparse
import importlib
from collections.abc import Sequence


def add_subcommands(parser: argparse.ArgumentParser, command: str, names: Sequence[str]) -> None:
    """Give `parser` the subcommands `names`, in the order of `--help`; that of `train` is in `codeshell.cli.lm_train`
    where `command` is `lm`."""
    commands = parser.add_subparsers(dest="subcommand", metavar="|".join(names), required=True)
    for name in names:
        module = importlib.import_module(f"codeshell.cli.{command}_{name}")
        subcommand = commands.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(subcommand)
        subcommand.set_defaults(subcommand_main=module.main)


def main(args: argparse.Namespace) -> int:
    """Do the subcommand that was asked for."""
    result: int = args.subcommand_main(args)
    return result
