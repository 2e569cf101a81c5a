"""`codeshell lm`: n-gram language models of code. Each subcommand is a module with HELP, add_arguments and main."""

from __future__ import annotations

import argparse
import importlib

HELP = "train n-gram language models, and score texts by them"

SUBCOMMANDS = ("train", "score", "query", "convert")
"""In the order of `--help`; the module of `train` is `codeshell.cli.lm_train`, and so on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell lm train ~/good/python -o good.lm --language python\n"
        "  codeshell lm train ~/bad/python -o bad.lm --language python --vocabulary good.lm\n"
        "  codeshell lm score ~/my/projects -m good.lm --against bad.lm -o scores.parquet"
    )
    commands = parser.add_subparsers(dest="lm_command", metavar="|".join(SUBCOMMANDS), required=True)
    for name in SUBCOMMANDS:
        module = importlib.import_module(f"codeshell.cli.lm_{name}")
        command = commands.add_parser(
            name, help=module.HELP, description=module.HELP, formatter_class=argparse.RawDescriptionHelpFormatter
        )
        module.add_arguments(command)


def main(args: argparse.Namespace) -> int:
    result: int = importlib.import_module(f"codeshell.cli.lm_{args.lm_command}").main(args)
    return result
