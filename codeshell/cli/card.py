"""`codeshell card`: the model card of a run."""

from __future__ import annotations

import argparse

HELP = "write the model card of a run: its data, figures and limits"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Write README.md of the model that a run trained: sources and filters with counts, tokenizer, shape, settings, "
        "losses, every table of the evaluation with its intervals, and limits. `codeshell run` writes it, too."
    )
    parser.add_argument("run", metavar="RUN", help="the directory of a run that has trained")
    parser.add_argument(
        "-o", "--output", metavar="FILE", help="the file to write (default: README.md beside the model)"
    )
    parser.add_argument("--name", default="", help="name of the model (default: the recipe's)")
    parser.add_argument("--license", default="", metavar="ID", help="licence of the weights, as the hub names it")
    parser.epilog = "example: codeshell card runs/demo --name demo-1.3m --license apache-2.0"


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.errors import UserError
    from codeshell.report import card

    run = Path(args.run)
    if not run.is_dir():
        raise UserError(f"{run}: no such directory; give the directory of a codeshell run")
    output = Path(args.output) if args.output else run / "model" / card.NAME
    if output.is_dir():
        raise UserError(f"{output}: is a directory; give a file name")
    if not args.output and not (run / "model").is_dir():
        raise UserError(f"{run}: has no model/ to put the card into; give -o FILE")
    card.write(run, output, name=args.name, licence=args.license)
    print(output)
    return 0
