"""`codeshell tokenizer`: train a byte-level BPE tokenizer, or measure one."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from codeshell.tokenizer.inputs import Document

HELP = "train a byte-level BPE tokenizer, or measure how well one compresses"

INPUTS = "folders, source files, .parquet, .jsonl (.gz, .zst), globs, URLs, or the directory of a run"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell tokenizer train ~/my/projects -o my-tokenizer --base-vocab-size 32000\n"
        "  codeshell tokenizer stats my-tokenizer ~/my/projects\n"
        "  codeshell tokenizer stats runs/demo/tokenizer --corpus runs/demo --json stats.json"
    )
    # What both commands share is added to both at the end.
    commands = parser.add_subparsers(dest="tokenizer_command", metavar="train|stats", required=True)

    train = commands.add_parser(
        "train",
        help="learn a vocabulary and write it as Hugging Face tools read it",
        description="Learn a byte-level BPE vocabulary: digits one by one, all 256 bytes, 20 special tokens after it.",
        epilog="example: codeshell tokenizer train ~/my/projects -o my-tokenizer --base-vocab-size 32000",
    )
    train.add_argument("inputs", nargs="+", metavar="INPUT", help=f"{INPUTS} (its training split)")
    train.add_argument("-o", "--output", required=True, metavar="DIR", help="directory for tokenizer.json")
    train.add_argument(
        "--base-vocab-size",
        "--vocab-size",  # its name in earlier versions
        type=int,
        required=True,
        metavar="N",
        help="tokens before the special ones, at least 256",
    )
    train.add_argument(
        "--sample-bytes",
        type=int,
        default=2_000_000_000,
        metavar="N",
        help="bytes of text at most (default: %(default)s)",
    )
    train.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample (default: %(default)s)")

    stats = commands.add_parser(
        "stats",
        help="characters and bytes per token, by language",
        description="Characters per token are all characters over all tokens, as in Table 2 of the CodeShell report.",
        epilog="example: codeshell tokenizer stats runs/demo/tokenizer --corpus runs/demo --split test",
    )
    stats.add_argument("tokenizer", metavar="TOKENIZER", help="a tokenizer.json, or a directory that holds one")
    stats.add_argument("inputs", nargs="*", metavar="INPUT", help=INPUTS)
    stats.add_argument("--corpus", metavar="DIR", help="the directory of a run, or its curated/")
    stats.add_argument(
        "--split",
        choices=("train", "valid", "test"),
        default="valid",
        help="of a run, the split (default: %(default)s)",
    )
    stats.add_argument("--json", metavar="FILE", help="file to write the numbers to as well")

    for command in (train, stats):
        command.add_argument("--threads", type=int, default=0, metavar="N", help="threads to use (default: every core)")


def main(args: argparse.Namespace) -> int:
    from codeshell.environment import thread_count
    from codeshell.errors import UserError
    from codeshell.tokenizer.tokenizer import tokenizer_threads

    # The tokenizers library reads its number of threads from the environment, before its first use.
    try:
        args.threads = thread_count(args.threads)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    with tokenizer_threads(args.threads):
        return _train(args) if args.tokenizer_command == "train" else _stats(args)


def _train(args: argparse.Namespace) -> int:
    from collections import Counter
    from pathlib import Path

    from codeshell.engine.files import make_directory
    from codeshell.engine.progress import Progress
    from codeshell.errors import UserError
    from codeshell.tokenizer import inputs
    from codeshell.tokenizer.train import train

    # All that can be wrong with the arguments is found before the first text is read.
    if not args.output:
        raise UserError("-o: an empty name; give the directory to write tokenizer.json to")
    output = Path(args.output)
    if args.base_vocab_size < 256:
        raise UserError(f"--base-vocab-size {args.base_vocab_size}: the 256 bytes are always in it; give at least 256")
    for name in ("base_vocab_size", "sample_bytes"):
        high = 1 << 31 if name == "base_vocab_size" else 1 << 62
        if getattr(args, name) >= high:
            raise UserError(f"--{name.replace('_', '-')} {getattr(args, name)}: too large; give less than {high}")
    if not 0 <= args.seed < 1 << 64:
        raise UserError(f"--seed {args.seed}: give a number from 0 to 2^64 - 1")
    if (output / "tokenizer.json").exists():
        raise UserError(f"{output}: already holds a tokenizer; remove it or choose another -o")
    left_out: Counter[str] = Counter()
    size = 0

    # The inputs are read twice: once to choose, once for the texts. Each time the reasons are counted from the start.
    def read() -> Iterator[Document]:
        left_out.clear()
        return inputs.documents(args.inputs, "train", left_out)

    count, chosen = inputs.sample(read, seed=args.seed, max_bytes=args.sample_bytes)
    if not count:
        raise UserError(
            f"{' '.join(args.inputs)}: no text in it within --sample-bytes {args.sample_bytes}{_reasons(left_out)}; "
            "give files that hold some"
        )
    make_directory(output)

    # The trainer pulls batches; what it has taken is counted for the last line and for the progress bar.
    def texts() -> Iterator[list[str]]:
        nonlocal size
        for batch in inputs.batches(chosen):
            yield [item.text for item in batch]
            size += sum(len(item.text.encode()) for item in batch)
            progress.advance(len(batch))

    with Progress("tokenizer", total=count, unit="documents") as progress:
        tokenizer = train(texts(), args.base_vocab_size)
    tokenizer.save(output)
    print(f"{output}: {tokenizer.base_vocab_size:,} tokens and {len(tokenizer.specials)} special ones")
    # A small corpus may have too few pairs that occur twice: no error, but worth a line.
    if tokenizer.base_vocab_size < args.base_vocab_size:
        print(f"fewer than the {args.base_vocab_size:,} asked for: no further pair of tokens occurs twice in this text")
    print(f"from {progress.done:,} different texts, {size / 1e6:.1f} MB{_reasons(left_out)}")
    return 0


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
        raise UserError(f"{' '.join(sources)}: no text in it{_reasons(left_out)}; give files that hold some")
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
    print(f"encoded at {rate:.2f} MB/s on {threads}{_reasons(left_out)}")
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


def _reasons(left_out: Counter[str]) -> str:
    from codeshell.errors import reasons

    return f"; left out: {reasons(left_out)}" if left_out else ""
