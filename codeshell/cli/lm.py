"""`codeshell lm`: n-gram language models of code. Each subcommand is a module with HELP, add_arguments and main."""

from __future__ import annotations

import argparse

from codeshell.cli.subcommands import add_subcommands, main

__all__ = ["HELP", "add_arguments", "main"]

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
    add_subcommands(parser, "lm", SUBCOMMANDS)
