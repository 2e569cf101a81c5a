"""`codeshell model`: change a model directory. Each subcommand is a module with HELP, add_arguments and main."""

from __future__ import annotations

import argparse

from codeshell.cli.subcommands import add_subcommands, main

__all__ = ["HELP", "add_arguments", "main"]

HELP = "add a LoRA adapter to its base; fit a model to another tokenizer"

SUBCOMMANDS = ("merge", "resize")
"""In the order of `--help`; the module of `resize` is `codeshell.cli.model_resize`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: codeshell model resize runs/demo/model larger-tokenizer -o larger-model"
    add_subcommands(parser, "model", SUBCOMMANDS)
