"""`codeshell tokenizer train`: learn a byte-level BPE vocabulary."""

from __future__ import annotations

import argparse

from codeshell.cli.tokenizer_options import Sample, add_sample, add_threads, check_output, threads

HELP = "learn a vocabulary and write it as Hugging Face tools read it"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Learn a byte-level BPE vocabulary: digits one by one, all 256 bytes, 20 special tokens after it."
    )
    parser.epilog = "example: codeshell tokenizer train ~/my/projects -o my-tokenizer --base-vocab-size 32000"
    add_sample(parser)
    parser.add_argument(
        "--base-vocab-size",
        "--vocab-size",  # its name in earlier versions
        type=int,
        required=True,
        metavar="N",
        help="tokens before the special ones, at least 256",
    )
    add_threads(parser)


def main(args: argparse.Namespace) -> int:
    with threads(args):
        return _train(args)


def _train(args: argparse.Namespace) -> int:
    from codeshell.engine.files import make_directory
    from codeshell.errors import UserError
    from codeshell.tokenizer.train import train

    # All that can be wrong with the arguments is found before the first text is read.
    if args.base_vocab_size < 256:
        raise UserError(f"--base-vocab-size {args.base_vocab_size}: the 256 bytes are always in it; give at least 256")
    check_output(args.output, ("--base-vocab-size", args.base_vocab_size), ("--sample-bytes", args.sample_bytes))
    sample = Sample(args)
    make_directory(args.output)
    tokenizer = train(sample.batches(), args.base_vocab_size)
    tokenizer.save(args.output)
    print(f"{args.output}: {tokenizer.base_vocab_size:,} tokens and {len(tokenizer.specials)} special ones")
    # A small corpus may have too few pairs that occur twice: no error, but worth a line.
    if tokenizer.base_vocab_size < args.base_vocab_size:
        print(f"fewer than the {args.base_vocab_size:,} asked for: no further pair of tokens occurs twice in this text")
    print(sample.line())
    return 0
