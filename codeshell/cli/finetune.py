"""`codeshell finetune`: a run that begins with an existing model."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.recipe import Recipe
    from codeshell.tokenizer import Tokenizer
    from codeshell.train.base import Base

HELP = "continue an existing model on your own code: all weights or LoRA; resumes"

DEFAULTS = Path(__file__).parents[1] / "train" / "finetune.toml"
"""The recipe where none is named."""

LORA_RATE = 2e-4
"""The learning rate of LoRA where nothing else is said: its factors begin at no change, and take about ten times the
rate of the weights (Hu et al. 2021; Biderman et al. 2024, "LoRA learns less and forgets less")."""

CONTEXT = 2048
"""Tokens of a sequence where nothing else is said and the base holds as many."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell finetune Qwen/Qwen2.5-Coder-0.5B ~/my/projects -o runs/mine --lora 16\n"
        "  codeshell finetune runs/demo/model ~/my/projects -o runs/mine\n"
        "  codeshell finetune runs/demo/model --answers answers.jsonl -o runs/chat\n"
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
    parser.add_argument(
        "--answers",
        action="append",
        default=[],
        metavar="FILE",
        help="conversations (JSON Lines) whose answers are learned; may be repeated",
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
    from codeshell.tokenizer import Tokenizer
    from codeshell.train import base as bases
    from codeshell.train.launch import refuse_several

    refuse_several("codeshell finetune")
    output = output_path(args.output)
    if not 0 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers {args.workers}: give 1 to {MAX_WORKERS}, or 0 for every core")
    values = _values(args)
    # What cannot be is known before a file is read.
    base = bases.read(values["finetune.base"])
    tokenizer = Tokenizer.load(base.directory)
    settings = _settings(args, values, base, tokenizer)
    if not (settings.collect.inputs or settings.finetune.instructions):
        raise UserError("nothing to train on: name directories or files with code after BASE, or --answers FILE.jsonl")
    bases.check(settings, base, tokenizer)
    _show_plan(settings, base)
    if args.plan:
        return 0
    pipeline.run(settings, output, workers=args.workers, until=args.until)
    _show_outcome(settings, output)
    return 0


def _values(args: argparse.Namespace) -> dict[str, Any]:
    """What the arguments say, as `{"section.key": value}`."""
    from codeshell.engine import hub
    from codeshell.engine.files import user_path
    from codeshell.errors import UserError

    if "" in (args.base, *args.inputs, *args.answers):
        raise UserError('"" names nothing; name a model and what to read (a shell variable may not be set)')
    values: dict[str, Any] = {"finetune.base": args.base if hub.on_hub(args.base) else str(user_path(args.base))}
    for key, named in (("collect.inputs", args.inputs), ("finetune.instructions", args.answers)):
        if named:
            values[key] = [item if "://" in item else str(user_path(item)) for item in named]
    said = _said(args)
    if args.lora is not None:
        if args.lora < 1:
            raise UserError(f"--lora {args.lora}: the rank is 1 or more, for example 16")
        values |= {"finetune.method": "lora", "finetune.rank": args.lora}
        if "finetune.alpha" not in said:
            values["finetune.alpha"] = 2.0 * args.lora
        if args.recipe is None and "train.lr" not in said:
            values["train.lr"] = LORA_RATE
    # The last word counts: who names the steps does not mean the epochs of the recipe.
    if "train.steps" in said and "finetune.epochs" not in said:
        values["finetune.epochs"] = 0.0
    return values


def _said(args: argparse.Namespace) -> set[str]:
    """The keys of `--set`."""
    return {item.partition("=")[0].strip() for item in args.set}


def _settings(args: argparse.Namespace, values: dict[str, Any], base: Base, tokenizer: Tokenizer) -> Recipe:
    """The recipe with what the arguments say; without a recipe, what the base can hold and has tokens for."""
    import msgspec

    from codeshell import recipe
    from codeshell.errors import UserError, say
    from codeshell.tokenizer import families

    said, defaults = _said(args), args.recipe is None
    if defaults and "train.phases" not in said and base.context < CONTEXT:
        # Every power of two up to the default divides the default batch.
        context = 1 << (base.context.bit_length() - 1)
        say(f"finetune: contexts of {context:,} tokens, because {base.name} holds {base.context:,}")
        values = values | {"train.phases": [{"share": 1.0, "context": context}]}
    if defaults and "train.fim_rate" not in said and families.fim_of(tokenizer.specials) is None:
        say(f"finetune: the tokenizer of {base.name} has no tokens to fill in the middle; it learns to continue alone")
        values = values | {"train.fim_rate": 0.0}
    settings = recipe.load(args.recipe or DEFAULTS, args.set, values)
    if settings.finetune.method == "full":
        for key in ("rank", "alpha", "dropout", "targets"):
            if f"finetune.{key}" in said:
                raise UserError(f"finetune.{key}: it is about LoRA, and all weights are trained; add --lora RANK")
    if defaults and "train.steps" in said and "train.warmup_steps" not in said:
        # A warm-up is a part of the run, and not all of it.
        train = settings.train
        train = msgspec.structs.replace(train, warmup_steps=min(train.warmup_steps, train.steps // 10))
        settings = msgspec.structs.replace(settings, train=train)
    return settings


def _show_plan(settings: Recipe, base: Base) -> None:
    """Print the memory plan.

    Raises:
        UserError: the base cannot fit; with the first remedy that does.
    """
    from codeshell.errors import UserError
    from codeshell.train.base_memory import plan_of_base, refusal_of_base

    print("\n".join(plan_of_base(settings, base).lines()), flush=True)
    refusal = refusal_of_base(settings, base)
    if refusal is not None:
        raise UserError(refusal)


def _show_outcome(settings: Recipe, output: Path) -> None:
    """Print what tuning has changed, and where its result is; nothing of a run that stopped before its model."""
    from codeshell.engine.files import read_json
    from codeshell.evaluate.before_after import lines

    evaluated = output / "evaluate" / "stats.json"
    if evaluated.exists():
        print("\n".join(lines(read_json(evaluated))))
    if (output / "model").is_dir():
        adapter = f", the adapter in {output / 'adapter'}" if settings.finetune.method == "lora" else ""
        print(f"the tuned model is in {output / 'model'}{adapter}")
