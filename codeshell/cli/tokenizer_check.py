"""`codeshell tokenizer check`: find dead tokens, missing bytes and merges that never apply."""

from __future__ import annotations

import argparse

from codeshell.cli.tokenizer_options import TOKENIZER

HELP = "find tokens that no text can produce, and bytes without a token"

SHOWN = 10
"""Dead tokens that are listed on the terminal; --json has them all."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{HELP.capitalize()}. The exit code is 1 if there are any."
    parser.epilog = "example: codeshell tokenizer check path/to/codeshell-7b --json findings.json"
    parser.add_argument("tokenizer", metavar="TOKENIZER", help=TOKENIZER)
    parser.add_argument("--json", metavar="FILE", help="file for the whole list")


def main(args: argparse.Namespace) -> int:
    from collections import Counter

    from codeshell.engine.files import write_json
    from codeshell.errors import reasons
    from codeshell.tokenizer import Tokenizer
    from codeshell.tokenizer.repair import inspect, shown

    tokenizer = Tokenizer.load(args.tokenizer)
    found = inspect(tokenizer)
    print(f"{found.tokens:,} tokens and {len(tokenizer.specials)} special ones")
    counts = Counter(dead.reason for dead in found.dead)
    print(f"dead tokens: {len(found.dead):,}" + (f" ({reasons(counts)})" if counts else ""))
    for dead in found.dead[:SHOWN]:
        pieces = " ".join(repr(shown(piece)) for piece in dead.pieces)
        print(f"  {dead.id} {shown(dead.token)!r}: {dead.reason}; its parts: {pieces or 'none'}")
    if len(found.dead) > SHOWN:
        print(f"  and {len(found.dead) - SHOWN:,} more")
    print(f"bytes without a token: {len(found.missing_bytes)}")
    print(f"merges that never apply: {found.idle:,}; listed before the merge of a part: {len(found.late):,}")
    if args.json:
        write_json(args.json, found.to_dict() | {"tokenizer_hash": tokenizer.hash})
    return 0 if found.clean else 1
