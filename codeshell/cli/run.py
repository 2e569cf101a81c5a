"""`codeshell run`: the main job."""

from __future__ import annotations

import argparse

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
        help="a directory, git checkout, Parquet or JSONL file to read, in place of the recipe's; may be repeated",
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
    import json
    from pathlib import Path

    from codeshell import pipeline, recipe
    from codeshell.errors import UserError

    overrides = list(args.set)
    if args.input:
        # `src/` and `src` are one folder, and a run that resumes must see one input. A URL and an empty string stay as
        # they are: as paths, they would be `https:/...` and the working directory.
        inputs = [str(Path(item).expanduser()) if item and "://" not in item else item for item in args.input]
        overrides.append("collect.inputs=" + json.dumps(inputs))
    for name in ("include", "exclude"):
        if getattr(args, name):
            overrides.append(f"collect.{name}=" + json.dumps(getattr(args, name), ensure_ascii=False))
    if args.no_gitignore:
        overrides.append("collect.gitignore=false")
    if args.encoding:
        overrides.append(f"collect.encoding={args.encoding}")
    if args.workers < 0:
        raise UserError(f"--workers {args.workers}: give 1 or more, or 0 for every core")
    settings = recipe.load(args.recipe, overrides)
    output = Path(args.output) if args.output else Path("runs") / Path(args.recipe).stem
    pipeline.run(settings, output, workers=args.workers, until=args.until, refresh=args.refresh)
    return 0
