"""`codeshell tokenizer stats`: characters and bytes per token, by language."""

from __future__ import annotations

import argparse

from codeshell.cli.tokenizer_options import INPUTS, TOKENIZER, add_measuring, left_out_line, threads

HELP = "characters and bytes per token, by language"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Characters per token are all characters over all tokens, as in Table 2 of the CodeShell report."
    )
    parser.epilog = "example: codeshell tokenizer stats runs/demo/tokenizer --corpus runs/demo --split test"
    parser.add_argument("tokenizer", metavar="TOKENIZER", help=TOKENIZER)
    parser.add_argument("inputs", nargs="*", metavar="INPUT", help=INPUTS)
    parser.add_argument("--corpus", metavar="DIR", help="the directory of a run, or its curated/")
    add_measuring(parser)


def main(args: argparse.Namespace) -> int:
    with threads(args):
        return _stats(args)


def _stats(args: argparse.Namespace) -> int:
    from collections import Counter

    from codeshell.engine.files import write_json
    from codeshell.errors import UserError
    from codeshell.tokenizer import Tokenizer, inputs
    from codeshell.tokenizer.statistics import Meter, table

    # A run is one more input: `inputs.documents` knows its directory and takes the split.
    sources = args.inputs + ([args.corpus] if args.corpus else [])
    if not sources:
        raise UserError("tokenizer stats: nothing to measure; name files or folders, or a run with --corpus")
    tokenizer = Tokenizer.load(args.tokenizer)
    # Everything is measured, document by document; nothing is chosen.
    meter = Meter(tokenizer)
    left_out: Counter[str] = Counter()
    for batch in inputs.batches(inputs.documents(sources, args.split, left_out)):
        meter.add([item.language for item in batch], [item.text for item in batch])
    result = meter.result()
    if not result["tokens"]:
        raise UserError(f"{' '.join(sources)}: no text in it{left_out_line(left_out)}; give files that hold some")
    # The time of encoding alone, without reading.
    rate = result["bytes"] / 1e6 / meter.seconds
    print(table(result))
    used = result["vocabulary_used"]
    print(f"vocabulary: {tokenizer.base_vocab_size:,} and {len(tokenizer.specials)} special tokens; {used:.1%} occur")
    # A tokenizer from elsewhere may lack bytes: then texts come back changed.
    if tokenizer.missing_bytes:
        changed = result["changed_documents"]
        print(f"no symbol for {len(tokenizer.missing_bytes)} of the 256 bytes: {changed:,} documents lose some")
    threads = "1 thread" if args.threads == 1 else f"{args.threads} threads"
    print(f"encoded at {rate:.2f} MB/s on {threads}{left_out_line(left_out)}")
    # The file holds what was printed and what a comparison needs besides.
    if args.json:
        extra = {
            "tokenizer_hash": tokenizer.hash,
            "vocab_size": tokenizer.vocab_size,
            "encode_megabytes_per_second": round(rate, 3),
            "threads": args.threads,
            "left_out": dict(left_out),
        }
        write_json(args.json, result | extra)
    return 0
