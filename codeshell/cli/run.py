"""`codeshell run`: the main job."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

HELP = "the main job: collect, filter, deduplicate, split, tokenize, train, evaluate, report; resumes"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell run recipes/demo.toml -o runs/demo\n"
        "  codeshell run recipes/demo.toml -o runs/mine --input ~/my/projects --set train.steps=500\n"
        "Run the same command again to resume; what is done is not done again."
    )
    parser.add_argument("recipe", metavar="RECIPE.toml", help="the recipe; recipes/ has some to start from")
    parser.add_argument("-o", "--output", metavar="DIR", help="the run's directory (default: runs/NAME-OF-THE-RECIPE)")
    parser.add_argument(
        "--input",
        action="append",
        default=[],
        metavar="PATH",
        help="a directory, git checkout, Parquet or JSONL file to read, in place of the recipe's, or commits:CHECKOUT, "
        "issues:DUMP, notebook-texts:FOLDER; may be repeated",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. train.steps=100"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes for the data stages (default: all cores)"
    )
    parser.add_argument(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="read only files of folders that match, as in .gitignore, e.g. '*.py' or /src/; may be repeated",
    )
    parser.add_argument(
        "--exclude", action="append", default=[], metavar="PATTERN", help="leave out files that match; may be repeated"
    )
    parser.add_argument("--no-gitignore", action="store_true", help="also read what git ignores in checkouts")
    parser.add_argument(
        "--refresh", action="store_true", help="do everything again if the inputs have changed since they were read"
    )
    parser.add_argument("--encoding", choices=("utf-8", "auto"), help="short for --set collect.encoding=...")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage, e.g. split")


def main(args: argparse.Namespace) -> int:
    from codeshell import pipeline, recipe
    from codeshell.engine import MAX_WORKERS
    from codeshell.errors import UserError

    values = read_inputs(args.input)
    # Values, not text of TOML: a pattern may hold any character.
    for name in ("include", "exclude"):
        if getattr(args, name):
            values[f"collect.{name}"] = getattr(args, name)
    if args.no_gitignore:
        values["collect.gitignore"] = False
    if args.encoding:
        values["collect.encoding"] = args.encoding
    if not 0 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers {args.workers}: give 1 to {MAX_WORKERS}, or 0 for every core")
    settings = recipe.load(args.recipe, args.set, values)
    pipeline.run(settings, output_directory(args), workers=args.workers, until=args.until, refresh=args.refresh)
    return 0


def read_inputs(given: list[str]) -> dict[str, Any]:
    """The recipe's `collect.inputs` that `--input` gives, as values for `recipe.load`; empty where it gives none.

    Raises:
        UserError: one of them is empty.
    """
    from codeshell.engine.files import user_path
    from codeshell.errors import UserError

    if "" in given:
        raise UserError('--input "": empty; name what to read (a shell variable may not be set)')
    # `src/` and `src` are one folder, and a run that resumes must see one input. A URL stays as it is: as a path, it
    # would be `https:/...`.
    return {"collect.inputs": [item if "://" in item else str(user_path(item)) for item in given]} if given else {}


def output_directory(args: argparse.Namespace) -> Path:
    """The run's directory that `-o` names, or that of the recipe's name.

    Raises:
        UserError: the name is empty, a URL, or not UTF-8.
    """
    from codeshell.engine.files import output_path

    return output_path(str(Path("runs") / Path(args.recipe).stem) if args.output is None else args.output)
