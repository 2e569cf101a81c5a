"""`codeshell ablate`: the same model on several selections of one corpus, at equal tokens."""

from __future__ import annotations

import argparse

HELP = "train one model on random and on filtered data of equal tokens, several seeds, and draw the curves; resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell ablate recipes/ablation.toml -o runs/ablation\n"
        "  codeshell ablate recipes/ablation.toml -o runs/mine --input ~/my/projects --set ablate.seeds=5\n"
        "The arms are in the recipe's section [ablate] (docs/ablation.md). Run the same command again to resume: arms\n"
        "and seeds that are done are not done again, and new ones are added."
    )
    parser.add_argument("recipe", metavar="RECIPE.toml", help="the recipe, with a section [ablate]")
    parser.add_argument(
        "-o", "--output", metavar="DIR", help="the ablation's directory (default: runs/NAME-OF-THE-RECIPE)"
    )
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="PATH",
        help="a directory, git checkout or file of rows to read, in place of the recipe's inputs; may be repeated",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. ablate.seeds=5"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes for the shared stages (default: all cores)"
    )


def main(args: argparse.Namespace) -> int:
    from codeshell import ablate, recipe
    from codeshell.cli.run import output_directory, read_inputs
    from codeshell.engine import MAX_WORKERS
    from codeshell.errors import UserError

    values = read_inputs(args.input)
    if not 0 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers {args.workers}: give 1 to {MAX_WORKERS}, or 0 for every core")
    settings = recipe.load(args.recipe, args.set, values)
    ablate.run(settings, output_directory(args), workers=args.workers)
    return 0
