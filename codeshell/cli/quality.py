"""`codeshell quality`: label files, train a learned quality score, and score files with it."""

from __future__ import annotations

import argparse

from codeshell.cli.subcommands import add_subcommands, main

__all__ = ["HELP", "add_arguments", "main"]

HELP = "judge files: label a sample, train a learned quality score, and score files with it"

SUBCOMMANDS = ("annotate", "train", "score")
"""The module of `train` is `codeshell.cli.quality_train`, and so on."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell quality score ~/my/projects -o scores.parquet\n"
        "  codeshell quality score 'data/*.parquet' --text-column content --id-column id -o scores.parquet\n"
        "  codeshell quality annotate ~/projects --endpoint http://127.0.0.1:8000/v1 --model NAME -o labels.parquet\n"
        "  codeshell quality train labels.parquet -o my.model"
    )
    add_subcommands(parser, "quality", SUBCOMMANDS)
