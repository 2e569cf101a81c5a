"""`codeshell complete`: the text between a prefix and a suffix, or after a prefix."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from codeshell.cli.weights import add_weights_option
from codeshell.errors import UserError

HELP = "complete code: fill the gap between a prefix and a suffix, or continue a prefix"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "model", metavar="MODEL", help="a directory with a model and its tokenizer, or a name on the hub (OWNER/NAME)"
    )
    parser.add_argument("--prefix", required=True, metavar="FILE", help="text before the gap; - is standard input")
    parser.add_argument("--suffix", metavar="FILE", help="text after the gap; without it the prefix is continued")
    parser.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="tokens at most (default: 64)")
    parser.add_argument("--temperature", type=float, default=0.0, metavar="T", help="0, the default, is greedy")
    parser.add_argument("--top-p", type=float, default=1.0, metavar="P", help="nucleus sampling (default: 1, all)")
    parser.add_argument("--top-k", type=int, default=0, metavar="K", help="the K likeliest tokens (default: 0, all)")
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help="end before TEXT; may be repeated")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sampling (default: 0)")
    add_weights_option(parser)
    parser.add_argument("--json", action="store_true", help="print a JSON object with the completion and the settings")
    parser.epilog = r"example: codeshell complete runs/demo/model --prefix before.py --suffix after.py --stop $'\n'"


def main(args: argparse.Namespace) -> int:
    # Arguments and files are checked before torch is imported, which takes seconds.
    if args.prefix == "-" and args.suffix == "-":
        raise UserError("--suffix -: standard input is already the prefix; give one of them as a file")
    prefix = _text(args.prefix, "--prefix")
    suffix = _text(args.suffix, "--suffix") if args.suffix is not None else None
    from codeshell.engine.hub import model_directory

    model_directory(args.model)

    settings = {
        "max_new_tokens": args.max_new_tokens,
        "temperature": args.temperature,
        "top_p": args.top_p,
        "top_k": args.top_k,
        "stop": tuple(args.stop),
        "seed": args.seed,
    }
    try:
        text = _complete(args.model, args.weights, prefix, suffix, settings)
    except ValueError as error:
        raise UserError(f"complete: {error}") from None
    if args.json:
        print(json.dumps({"completion": text, **settings}, ensure_ascii=False))
    else:
        sys.stdout.write(text)
    return 0


def _complete(name: str, weights: str, prefix: str, suffix: str | None, settings: dict[str, Any]) -> str:
    from codeshell.model.generation import complete
    from codeshell.model.loading import load
    from codeshell.model.session import Settings
    from codeshell.serve import ready
    from codeshell.tokenizer import Tokenizer

    found = ready.find(name)
    if found.kind == "codeshell":
        tokenizer = Tokenizer.load(found.directory)
        return complete(load(found.directory, weights), tokenizer, prefix, suffix, **settings)
    return ready.complete(ready.load(found, weights), prefix, suffix, Settings(**settings))


def _text(source: str, option: str) -> str:
    """The text of a file or of standard input, which must be UTF-8; its line ends stay as they are."""
    if not source:
        raise UserError(f"{option}: an empty name; give a file or - for standard input")
    try:
        raw = sys.stdin.buffer.read() if source == "-" else Path(source).read_bytes()
    except OSError as error:
        raise UserError(
            f"{option} {source}: cannot be read ({error.strerror}); give a file or - for standard input"
        ) from None
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{option} {source}: not UTF-8 ({error.reason} at byte {error.start}); convert it first"
        ) from None
