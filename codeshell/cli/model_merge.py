"""`codeshell model merge`: a LoRA adapter added to its base."""

from __future__ import annotations

import argparse

HELP = "add a LoRA adapter to its base"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write BASE with the products of ADAPTER's factors added to its matrices, in BASE's own format, with its "
        "tokenizer and settings. An adapter of another base is refused."
    )
    parser.epilog = "example: codeshell model merge Qwen/Qwen2.5-Coder-0.5B runs/mine/adapter -o mine"
    parser.add_argument("base", metavar="BASE", help="a model directory, or a name on the hub")
    parser.add_argument("adapter", metavar="ADAPTER", help="a directory in peft's format")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="directory of the new model")


def main(args: argparse.Namespace) -> int:
    from codeshell.engine.files import output_path
    from codeshell.train.tuned import merge

    output = output_path(args.output)
    changed = merge(args.base, args.adapter, output)
    print(f"{output}: {args.base} with {changed} matrices changed by {args.adapter}")
    return 0
