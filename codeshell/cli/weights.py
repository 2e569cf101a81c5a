"""The option `--weights`, which every command has that uses a model."""

from __future__ import annotations

import argparse

CHOICES = ("auto", "fp32", "bf16", "int8")
"""Those of `codeshell.model.loading.WEIGHTS`, whose import would take seconds."""


def add_weights_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--weights",
        choices=CHOICES,
        default="auto",
        help="how weights are held: int8 takes a quarter of fp32's memory and generates fastest on a CPU (default: "
        "auto, what the model's files and this machine suggest)",
    )
