"""Arguments and lines that several subcommands of `codeshell tokenizer` share."""

from __future__ import annotations

import argparse
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter

    from codeshell.tokenizer.inputs import Document

INPUTS = "folders, source files, .parquet, .jsonl (.gz, .zst), globs, URLs, or the directory of a run"

TOKENIZER = "a tokenizer.json, or a directory that holds one"


def add_threads(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--threads", type=int, default=0, metavar="N", help="threads to use (default: every core)")


def add_measuring(parser: argparse.ArgumentParser) -> None:
    """Arguments of what measures tokenizers."""
    parser.add_argument(
        "--split",
        choices=("train", "valid", "test"),
        default="valid",
        help="of a run, the split (default: %(default)s)",
    )
    parser.add_argument("--json", metavar="FILE", help="file to write the numbers to as well")
    add_threads(parser)


def add_sample(parser: argparse.ArgumentParser) -> None:
    """Arguments of what learns from texts: where they are, and how many are taken."""
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help=f"{INPUTS} (its training split)")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="directory for tokenizer.json")
    parser.add_argument(
        "--sample-bytes",
        type=int,
        default=2_000_000_000,
        metavar="N",
        help="bytes of text at most (default: %(default)s)",
    )
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="seed of the sample (default: %(default)s)")


@contextlib.contextmanager
def threads(args: argparse.Namespace) -> Iterator[None]:
    """The threads that were asked for, as `args.threads` and for the tokenizers library, inside the block."""
    from codeshell.environment import thread_count
    from codeshell.errors import UserError
    from codeshell.tokenizer.encoder import tokenizer_threads

    # The tokenizers library reads its number of threads from the environment, before its first use.
    try:
        args.threads = thread_count(args.threads)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    with tokenizer_threads(args.threads):
        yield


def check_output(output: str, *sizes: tuple[str, int]) -> None:
    """Refuse an output that cannot be, and numbers beyond their range: before the first text is read.

    Raises:
        UserError: see above.
    """
    from pathlib import Path

    from codeshell.errors import UserError

    if not output:
        raise UserError("-o: an empty name; give the directory to write tokenizer.json to")
    for name, size in sizes:
        high = 1 << 62 if name == "--sample-bytes" else 1 << 31
        if size >= high:
            raise UserError(f"{name} {size}: too large; give less than {high}")
    if (Path(output) / "tokenizer.json").exists():
        raise UserError(f"{output}: already holds a tokenizer; remove it or choose another -o")


class Sample:
    """The texts of the inputs that are learnt from, each once, with a progress line.

    Attributes:
        count: how many texts are chosen.
        bytes: how much text was read so far.
        left_out: what could not be read, by reason.
    """

    def __init__(self, args: argparse.Namespace) -> None:
        from collections import Counter

        from codeshell.errors import UserError
        from codeshell.tokenizer import inputs

        if not 0 <= args.seed < 1 << 64:
            raise UserError(f"--seed {args.seed}: give a number from 0 to 2^64 - 1")
        self.left_out: Counter[str] = Counter()
        self.bytes = 0

        # The inputs are read twice: once to choose, once for the texts. Each time the reasons are counted anew.
        def read() -> Iterator[Document]:
            self.left_out.clear()
            return inputs.documents(args.inputs, "train", self.left_out)

        self.count, self._chosen = inputs.sample(read, seed=args.seed, max_bytes=args.sample_bytes)
        if not self.count:
            raise UserError(
                f"{' '.join(args.inputs)}: no text in it within --sample-bytes {args.sample_bytes}"
                f"{left_out_line(self.left_out)}; give files that hold some"
            )

    def batches(self) -> Iterator[list[str]]:
        """The texts, about 2 MB at a time."""
        from codeshell.engine.progress import Progress
        from codeshell.tokenizer import inputs

        with Progress("tokenizer", total=self.count, unit="documents") as progress:
            for batch in inputs.batches(self._chosen):
                yield [item.text for item in batch]
                self.bytes += sum(len(item.text.encode()) for item in batch)
                progress.advance(len(batch))

    def line(self) -> str:
        return f"from {self.count:,} different texts, {self.bytes / 1e6:.1f} MB{left_out_line(self.left_out)}"


def left_out_line(left_out: Counter[str]) -> str:
    from codeshell.errors import reasons

    return f"; left out: {reasons(left_out)}" if left_out else ""
