"""`codeshell finetune`: a run that begins with an existing model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.recipe import Recipe

HELP = "continue an existing model on your own code: all weights or LoRA; resumes"

DEFAULTS = Path(__file__).parents[1] / "train" / "finetune.toml"
"""The recipe where none is named."""

LORA_RATE = 2e-4
"""The learning rate of LoRA where nothing else is said: its factors begin at no change, and take about ten times the
rate of the weights (Hu et al. 2021; Biderman et al. 2024, "LoRA learns less and forgets less")."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell finetune Qwen/Qwen2.5-Coder-0.5B ~/my/projects -o runs/mine --lora 16\n"
        "  codeshell finetune runs/demo/model ~/my/projects -o runs/mine\n"
        "  codeshell finetune runs/demo/model -o runs/chat --set 'finetune.instructions=[\"answers.jsonl\"]'\n"
        "  codeshell finetune WisdomShell/CodeShell-7B ~/my/projects -o runs/mine --lora 16 --plan\n"
        "The tuned model is in DIR/model, in its base's format; with --lora, the adapter is in DIR/adapter.\n"
        "Run the same command again to resume; what is done is not done again."
    )
    parser.add_argument("base", metavar="BASE", help="a model directory, or a name on the hub")
    parser.add_argument(
        "inputs", nargs="*", metavar="INPUT", help="directories, git checkouts, Parquet or JSONL files with code"
    )
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="the run's directory")
    parser.add_argument(
        "--lora", type=int, metavar="RANK", help="freeze the model and train factors of this rank beside its matrices"
    )
    parser.add_argument("--recipe", metavar="RECIPE.toml", help="settings of all stages (default: two epochs)")
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. finetune.epochs=1"
    )
    parser.add_argument(
        "--workers", type=int, default=0, metavar="N", help="processes for the data stages (default: all cores)"
    )
    parser.add_argument("--plan", action="store_true", help="print the memory that training needs, and do nothing")
    parser.add_argument("--until", metavar="STAGE", help="stop after this stage, e.g. tokens")


def main(args: argparse.Namespace) -> int:
    from codeshell import pipeline
    from codeshell.engine import MAX_WORKERS
    from codeshell.engine.files import output_path
    from codeshell.errors import UserError
    from codeshell.train.launch import refuse_several

    refuse_several("codeshell finetune")
    output = output_path(args.output)
    if not 0 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers {args.workers}: give 1 to {MAX_WORKERS}, or 0 for every core")
    settings = _settings(args)
    if not (settings.collect.inputs or settings.finetune.instructions):
        raise UserError(
            "nothing to train on: name directories or files with code after BASE, or conversations with "
            "--set 'finetune.instructions=[\"FILE.jsonl\"]'"
        )
    # What cannot be is known before a file is read.
    _show_plan(settings)
    if args.plan:
        return 0
    pipeline.run(settings, output, workers=args.workers, until=args.until)
    return 0


def _settings(args: argparse.Namespace) -> Recipe:
    """The recipe with what the arguments say."""
    from codeshell import recipe
    from codeshell.engine import hub
    from codeshell.engine.files import user_path
    from codeshell.errors import UserError

    if "" in (args.base, *args.inputs):
        raise UserError('"" names nothing; name a model and what to read (a shell variable may not be set)')
    values: dict[str, Any] = {"finetune.base": args.base if hub.on_hub(args.base) else str(user_path(args.base))}
    if args.inputs:
        values["collect.inputs"] = [item if "://" in item else str(user_path(item)) for item in args.inputs]
    overrides = list(args.set)
    if args.lora is not None:
        if args.lora < 1:
            raise UserError(f"--lora {args.lora}: the rank is 1 or more, for example 16")
        values |= {"finetune.method": "lora", "finetune.rank": args.lora}
        if not any(item.partition("=")[0].strip() == "finetune.alpha" for item in overrides):
            values["finetune.alpha"] = 2.0 * args.lora
        if args.recipe is None and not any(item.partition("=")[0].strip() == "train.lr" for item in overrides):
            values["train.lr"] = LORA_RATE
    return recipe.load(args.recipe or DEFAULTS, overrides, values)


def _show_plan(settings: Recipe) -> None:
    """Print the memory plan.

    Raises:
        UserError: the base is not one that is served, or it cannot fit; with the first remedy that does.
    """
    from codeshell.errors import UserError
    from codeshell.tokenizer import Tokenizer
    from codeshell.train import base as bases
    from codeshell.train.base_memory import plan_of_base, refusal_of_base

    base = bases.read(settings.finetune.base)
    bases.check(settings, base, Tokenizer.load(base.directory))
    print("\n".join(plan_of_base(settings, base).lines()), flush=True)
    refusal = refusal_of_base(settings, base)
    if refusal is not None:
        raise UserError(refusal)
