"""`codeshell tokenizer`: train, extend, check, repair, measure and compare byte-level BPE tokenizers.

Each subcommand is a module with HELP, add_arguments and main.
"""

from __future__ import annotations

import argparse

from codeshell.cli.subcommands import add_subcommands, main

__all__ = ["HELP", "add_arguments", "main"]

HELP = "train or extend a byte-level BPE tokenizer, or measure how well one compresses"

SUBCOMMANDS = ("train", "extend", "check", "repair", "stats", "compare")
"""In the order of `--help`; the module of `train` is `codeshell.cli.tokenizer_train`, and so on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell tokenizer train ~/my/projects -o my-tokenizer --base-vocab-size 32000\n"
        "  codeshell tokenizer extend my-tokenizer ~/chinese -o larger --vocab-size 40000\n"
        "  codeshell tokenizer compare my-tokenizer larger --corpus chinese=~/held-out\n"
        "  codeshell tokenizer stats runs/demo/tokenizer --corpus runs/demo --json stats.json"
    )
    add_subcommands(parser, "tokenizer", SUBCOMMANDS)
