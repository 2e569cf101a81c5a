"""`codeshell eval`: the evaluation tasks, the package's or one's own, on any saved model and any documents."""

from __future__ import annotations

import argparse

from codeshell.cli import functional_options, judging_options

HELP = "measure a model: bits per byte, infilling, programs that pass their tests, or a task of your own"

BESIDE = ("generate", "judge")
"""Subcommands that stand in the place of TASK; the module of `judge` is `codeshell.cli.eval_judge`."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from codeshell.evaluate.tasks import ALIASES, FUNCTIONAL, TASKS, family_names

    families = "\n".join(f"  {family}:X, with X one of {names}" for family, names in family_names().items())
    short = {name: alias for alias, name in ALIASES.items()}
    parser.epilog = (
        f"tasks: {', '.join(f'{name} ({short[name]})' if name in short else name for name in TASKS)}\n"
        "  all does each of them that needs no more than a model and documents.\n"
        "  FILE.py:NAME is a task of your own; examples/own_task.py is one.\n"
        f"functional tasks, whose answers are run in a sandbox: {', '.join(FUNCTIONAL)}, and\n"
        f"{families}\n"
        "  codeshell eval generate TASK … -o FILE writes the completions and no more, and\n"
        "  codeshell eval judge FILE … judges those of any tool; each has a --help of its own.\n"
        "examples:\n"
        "  codeshell eval all runs/demo\n"
        "  codeshell eval bpb -m runs/demo/model --corpus documents.parquet --json bpb.json\n"
        "  codeshell eval examples/own_task.py:Imports runs/demo\n"
        "  codeshell eval humaneval -m bigcode/starcoder2-3b --data problems/\n"
        "A run directory gives the model, its held-out and training documents and the recipe's settings. With\n"
        "--corpus any Parquet with a text column is read; --train adds the baselines that need training text.\n"
        "Sample sizes: --set max_bytes=500000, infill_lines, functions, max_new_tokens."
    )
    parser.add_argument("task", metavar="TASK", help="what to measure: the name of a task, all, or FILE.py:NAME")
    functional_options.add_model_arguments(parser)
    parser.add_argument("--corpus", nargs="+", metavar="PATH", help="held-out documents: Parquet files or directories")
    parser.add_argument("--train", nargs="+", metavar="PATH", help="training documents, for the baselines")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of [evaluate]")
    parser.add_argument("--json", metavar="FILE", help="write the statistics here; - is standard output")
    functional_options.add_sampling_arguments(parser)
    judging_options.add_arguments(parser, "DIR")


def main(args: argparse.Namespace) -> int:
    import json
    import sys

    from codeshell.engine.files import write_json
    from codeshell.errors import UserError
    from codeshell.evaluate.measure import measure
    from codeshell.evaluate.tasks import TASKS, get_task

    if args.task == "all":
        tasks = [task for task in map(get_task, TASKS) if not task.needs_run]
    else:
        tasks = [get_task(args.task)]
    outcome = measure(tasks, functional_options.subject(args, tasks))
    stats = outcome.statistics()
    if args.json == "-":
        json.dump(stats, sys.stdout, indent=2, sort_keys=True, allow_nan=False)
        print()
    else:
        for claim in stats["claims"]:
            print(claim)
        if args.json:
            write_json(args.json, stats)
    if outcome.not_finite:
        raise UserError(f"eval: {outcome.not_finite}; evaluate a model that is finite")
    return 0
