"""`codeshell tokenizer compare`: several tokenizers on the same texts."""

from __future__ import annotations

import argparse

from codeshell.cli.tokenizer_options import INPUTS, add_measuring, left_out_line, threads

HELP = "characters and bytes per token of several tokenizers on named corpora"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        f"{HELP.capitalize()}, as in Table 2 of the CodeShell report. The first tokenizer is the one that the others "
        "are compared with. Chinese/token counts the Chinese characters over the tokens that hold one."
    )
    parser.epilog = (
        "example: codeshell tokenizer compare base larger released --corpus chinese=~/held-out --corpus code=src/"
    )
    parser.add_argument(
        "tokenizers",
        nargs="+",
        metavar="[NAME=]TOKENIZER",
        help="a tokenizer.json, or a directory that holds one; its name in the table is NAME, or the path's last part",
    )
    parser.add_argument(
        "--corpus",
        action="append",
        required=True,
        metavar="NAME=PATH",
        help=f"a corpus and its name in the table, any number of times; several PATHs of one NAME are one: {INPUTS}",
    )
    add_measuring(parser)


def main(args: argparse.Namespace) -> int:
    with threads(args):
        return _compare(args)


def _compare(args: argparse.Namespace) -> int:
    from collections import Counter
    from pathlib import Path

    from codeshell.engine.files import write_json
    from codeshell.errors import UserError
    from codeshell.tokenizer import Tokenizer, inputs
    from codeshell.tokenizer.compression import TOTAL, Comparison, table

    # Names and paths first, then the tokenizers: whatever is wrong is said before a text is read.
    corpora: dict[str, list[str]] = {}
    for item in args.corpus:
        name, equals, path = item.partition("=")
        if not equals or not name or not path or name == TOTAL:
            raise UserError(f"--corpus {item}: give NAME=PATH, with a name other than {TOTAL!r}")
        corpora.setdefault(name, []).append(path)
    named: dict[str, str] = {}
    for item in args.tokenizers:
        name, equals, path = item.partition("=")
        if not equals or Path(item).exists():
            name, path = Path(item).resolve().name, item
        if name in named:
            raise UserError(f"{item}: a second tokenizer of the name {name!r}; name them apart: NAME={path}")
        named[name] = path
    comparison = Comparison({name: Tokenizer.load(path) for name, path in named.items()})
    left_out: Counter[str] = Counter()
    for name, paths in corpora.items():
        reading = Counter[str]()
        comparison.add(
            name,
            ([item.text for item in batch] for batch in inputs.batches(inputs.documents(paths, args.split, reading))),
        )
        left_out.update(reading)
        if not comparison.documents(name):
            raise UserError(f"--corpus {name}={' '.join(paths)}: no text in it{left_out_line(reading)}")
    result = comparison.result()
    print(table(result) + left_out_line(left_out))
    if args.json:
        write_json(args.json, result)
    return 0
