"""`codeshell tokenizer extend`: continue the training of a tokenizer on new texts."""

from __future__ import annotations

import argparse

from codeshell.cli.tokenizer_options import TOKENIZER, Sample, add_sample, add_threads, check_output, threads

HELP = "continue the training of a tokenizer on new texts; the ids that it has stay"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learn new merges over the tokens of BASE. A text gets the ids that BASE gives it unless a new merge applies; "
        "no text gets more tokens. A base with dead tokens or missing bytes is repaired first (`tokenizer check` lists "
        "them). DIR gets extension.json beside the tokenizer: what was repaired, and what was added."
    )
    parser.epilog = "example: codeshell tokenizer extend my-tokenizer ~/chinese -o larger --vocab-size 40000"
    parser.add_argument("base", metavar="BASE", help=TOKENIZER)
    add_sample(parser)
    parser.add_argument(
        "--vocab-size",
        "--base-vocab-size",  # its name in `tokenizer train`
        type=int,
        required=True,
        metavar="N",
        help="tokens of the result, the special ones left out; more than BASE has",
    )
    parser.add_argument(
        "--specials",
        choices=("keep", "end"),
        default="keep",
        help="special tokens keep their ids, or move after all others (default: %(default)s)",
    )
    parser.add_argument("--no-repair", action="store_true", help="leave dead tokens and missing bytes as they are")
    add_threads(parser)


def main(args: argparse.Namespace) -> int:
    with threads(args):
        return _extend(args)


def _extend(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.engine.files import make_directory, write_json
    from codeshell.errors import UserError
    from codeshell.tokenizer import Tokenizer
    from codeshell.tokenizer.extend import check_size, extend

    # All that can be wrong with the arguments is found before the first text is read.
    check_output(args.output, ("--vocab-size", args.vocab_size), ("--sample-bytes", args.sample_bytes))
    base = Tokenizer.load(args.base)
    check_size(base, args.vocab_size, args.base)
    sample = Sample(args)
    result = extend(base, sample.batches(), args.vocab_size, specials=args.specials, repairing=not args.no_repair)
    tokenizer = result.tokenizer
    if not result.added and result.repairs is None:
        raise UserError(
            f"{' '.join(args.inputs)}: no pair of tokens occurs twice in it, so nothing can be learnt; give more text"
        )
    make_directory(args.output)
    write_json(Path(args.output) / "extension.json", result.to_dict())
    tokenizer.save(args.output)
    if result.repairs is not None:
        print(f"repaired first: {result.repairs.line()}")
    print(
        f"{args.output}: {tokenizer.base_vocab_size:,} tokens and {len(tokenizer.specials)} special ones; "
        f"{len(result.added):,} of them are new"
    )
    if tokenizer.base_vocab_size < args.vocab_size:
        print(f"fewer than the {args.vocab_size:,} asked for: no further pair of tokens occurs twice in this text")
    print(sample.line())
    return 0
