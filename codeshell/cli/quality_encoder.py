"""The part of `codeshell quality train` that trains an encoder beside the trees: `--encoder DIR`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.quality.encoder_settings import Settings
    from codeshell.quality.labels import Labels


def add_arguments(parser: argparse.ArgumentParser) -> None:
    group = parser.add_argument_group(
        "an encoder beside the trees", "writes the folder MODEL.encoder, which the scorer `encoder` reads"
    )
    add = group.add_argument
    add("--encoder", metavar="DIR", help="BERT, RoBERTa or ModernBERT: config.json, model.safetensors, tokenizer.json")
    add("--encoder-head", choices=("ridge", "mlp"), default="ridge", help="on a frozen encoder (default: ridge)")
    add("--finetune", action="store_true", help="train the encoder as well: once per fold, and once on all labels")
    add(
        "--window", type=int, default=256, metavar="TOKENS", help="tokens that the encoder reads at once (default: 256)"
    )
    add("--windows", type=int, default=8, metavar="N", help="windows of a text at most (default: 8)")
    add("--epochs", type=int, default=3, metavar="N", help="of fine-tuning (default: 3)")
    add("--encoder-rate", type=float, default=3e-5, metavar="X", help="peak rate of fine-tuning (default: 3e-5)")
    add("--batch", type=int, default=16, metavar="N", help="documents per step of fine-tuning (default: 16)")


def settings(args: argparse.Namespace) -> Settings | None:
    """The settings of the arguments, checked; None without `--encoder`.

    Raises:
        UserError: a setting out of its range, or a directory that is no encoder.
    """
    from codeshell.engine.files import user_path
    from codeshell.errors import UserError
    from codeshell.quality.encoder_settings import Settings
    from codeshell.scorers.bert import read_config, usable_positions, weight_files

    if args.encoder is None:
        if args.finetune:
            raise UserError("--finetune: there is no encoder to train; name one with --encoder DIR")
        return None
    for name, low, high in (("windows", 1, 10_000), ("epochs", 1, 1000), ("batch", 1, 100_000)):
        if not low <= getattr(args, name) <= high:
            raise UserError(f"--{name} {getattr(args, name)}: give {low} to {high}")
    if not 0 < args.encoder_rate <= 1:
        raise UserError(f"--encoder-rate {args.encoder_rate:g}: give a number above 0, at most 1")
    # The trees may train for minutes before the encoder is read: what can be seen is said first.
    directory = user_path(args.encoder)
    positions = usable_positions(read_config(directory))
    weight_files(directory)
    if not 64 <= args.window <= positions:
        raise UserError(f"--window {args.window}: give 64 to {positions}, what {directory} can read")
    return Settings(
        window=args.window,
        windows=args.windows,
        head=args.encoder_head,
        finetune=args.finetune,
        epochs=args.epochs,
        lr=args.encoder_rate,
        batch=args.batch,
        seed=args.seed,
    )


def train(encoder: str, chosen: Settings, labels: Labels, folds: Any, trees: Any, output: Path) -> list[str]:
    """Train the encoder and write MODEL.encoder; the lines that the command prints.

    Args:
        folds, trees: (labels,) the folds of the trees, and their scores out of fold.
    """
    from codeshell.engine.files import user_path
    from codeshell.errors import say
    from codeshell.quality import encoder_train

    say(f"the encoder {encoder}")
    folder = output.with_name(f"{output.name}.encoder")
    labelled = encoder_train.Labelled(labels.documents, labels.targets, labels.names)
    figures = encoder_train.train(labelled, folds, user_path(encoder), chosen, folder, trees)
    lines = [
        f"{title}: Spearman {found['spearman']:.3f}, AUC at 4 {found['auc_4']:.3f}, mean error {found['mae']:.3f}"
        for title, found in (
            ("encoder alone", figures["encoder"]),
            ("trees alone", figures["trees"]),
            ("mean of both", figures["mean"]),
            ("joined", figures["joined"]),
        )
    ]
    return [*lines, f"written to {folder}; score.settings.encoder.model names it in a recipe"]
