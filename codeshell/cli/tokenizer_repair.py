"""`codeshell tokenizer repair`: give dead tokens and missing bytes a place, without changing an id."""

from __future__ import annotations

import argparse

from codeshell.cli.tokenizer_options import TOKENIZER, check_output

HELP = "write a tokenizer without dead tokens and missing bytes, with the same ids"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = f"{HELP.capitalize()}. DIR gets repairs.json: what was repaired."
    parser.epilog = "example: codeshell tokenizer repair path/to/codeshell-7b -o repaired"
    parser.add_argument("tokenizer", metavar="TOKENIZER", help=TOKENIZER)
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="directory for tokenizer.json")


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.engine.files import make_directory, write_json
    from codeshell.tokenizer import Tokenizer
    from codeshell.tokenizer.repair import inspect, repair

    check_output(args.output)
    tokenizer = Tokenizer.load(args.tokenizer)
    found = inspect(tokenizer)
    repaired, repairs = repair(tokenizer, found)
    make_directory(args.output)
    write_json(Path(args.output) / "repairs.json", repairs.to_dict() | {"found": found.to_dict()})
    repaired.save(args.output)
    print(f"{args.output}: {repairs.line() if not found.clean else 'nothing to repair'}")
    print(f"{repaired.base_vocab_size:,} tokens and {len(repaired.specials)} special ones")
    return 0
