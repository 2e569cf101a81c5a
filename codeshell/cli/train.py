"""`codeshell train`: the training stage alone, on a run's tokens."""

from __future__ import annotations

import argparse

HELP = "train on the tokens of a run, or go on where training stopped"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell run recipes/demo.toml -o runs/demo --until tokens\n"
        "  codeshell train recipes/demo.toml -o runs/demo --set train.steps=200\n"
        "SIGUSR1 saves a checkpoint at the next step; SIGTERM saves one and ends with exit code 143.\n"
        "Run the same command again to go on from the newest checkpoint."
    )
    parser.add_argument("recipe", metavar="RECIPE.toml", help="the recipe; its model, train and seed are used")
    parser.add_argument(
        "-o",
        "--output",
        metavar="DIR",
        help="the run's directory, with tokenizer/ and tokens/ (default: runs/NAME-OF-THE-RECIPE)",
    )
    parser.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help="change a setting, e.g. train.steps=100"
    )


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell import pipeline, recipe, train
    from codeshell.engine import LocalEngine
    from codeshell.engine.files import lock, make_directory, read_json, write_json
    from codeshell.errors import UserError

    settings = recipe.load(args.recipe, args.set)
    directory = Path(args.output) if args.output else Path("runs") / Path(args.recipe).stem
    if not (directory / "tokens").is_dir():
        raise UserError(
            f"{directory / 'tokens'}: no such directory, so there is nothing to train on; "
            f"`codeshell run {args.recipe} -o {directory} --until tokens` makes it"
        )
    with lock(directory):
        home = make_directory(directory / "train")
        # The key that `codeshell run` compares, so that it takes this training for its own and goes on to evaluate.
        stage = next(stage for stage in pipeline.STAGES if stage.name == "train")
        chosen = pipeline.stage_settings(recipe.to_tree(settings), stage)
        upstream = directory / "tokens" / "key.json"
        key = {"key": pipeline.stage_key(chosen, read_json(upstream)["key"])} if upstream.exists() else None
        same = (home / "key.json").exists() and key is not None and read_json(home / "key.json")["key"] == key["key"]
        if same and (home / "stats.json").exists():
            pipeline.say(f"train: done before, the model is in {directory / 'model'}")
            return 0
        if key is not None and not any((home / "checkpoints").glob("step-*")):
            write_json(home / "key.json", key | {"settings": chosen})
        statistics = train.run(settings, directory, LocalEngine(1))
        if key is not None:
            write_json(home / "key.json", key | {"settings": chosen})
        write_json(home / "stats.json", statistics)
        pipeline.say(f"train: the model is in {directory / 'model'}{pipeline.summary('train', statistics)}")
    return 0
