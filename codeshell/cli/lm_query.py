"""`codeshell lm query`: the probability of each line under a model, as KenLM's `query` prints it."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

HELP = "print the probability, unknown words and perplexity of each line of text"

LINES = 10_000
"""Lines that are scored at a time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell lm query python.lm < lines.txt\n"
        "  codeshell lm query en.arpa a.txt b.txt -v\n"
        "Each line is a sentence: the base-10 logarithm of its probability, its unknown words (OOV), and its\n"
        "perplexity per word. With -v each word comes first: word=length of the n-gram that was found, logarithm."
    )
    parser.add_argument("model", metavar="MODEL", help="a model, an ARPA file, or a probing binary of KenLM")
    parser.add_argument("files", nargs="*", metavar="FILE", help="files of lines (default: standard input)")
    parser.add_argument("-v", "--verbose", action="store_true", help="print every word with its score")
    parser.add_argument("--no-bos", action="store_true", help="lines do not begin with <s>")
    parser.add_argument("--no-eos", action="store_true", help="do not count </s> at the end of a line")


def main(args: argparse.Namespace) -> int:
    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    from codeshell.ngram.model import LanguageModel

    model = LanguageModel.load(args.model)
    ends = {"bos": not args.no_bos, "eos": not args.no_eos}
    # Of all lines: logarithms, that of unknown words alone, unknown words, words with the ends that count.
    total = of_unknown = 0.0
    unknown = words = 0
    for lines in _batches(args.files):
        scores = model.score(lines, **ends)
        columns = (scores.log10.tolist(), scores.unknown.tolist(), scores.perplexity.tolist(), scores.tokens.tolist())
        for line, log10, missing, perplexity, tokens in zip(lines, *columns, strict=True):
            if args.verbose or missing:
                each = model.trace(line, **ends)
                of_unknown += sum(word.log10 for word in each if word.unknown)
                if args.verbose:
                    print("\t".join(f"{word.word}={word.length} {word.log10:.6g}" for word in each), end="\t")
            print(f"Total: {log10:.6f} OOV: {missing} Perplexity: {perplexity:.6g}")
            total, unknown, words = total + log10, unknown + missing, words + tokens + ends["eos"]
    print(f"Perplexity including OOVs:\t{_perplexity(total, words)}")
    print(f"Perplexity excluding OOVs:\t{_perplexity(total - of_unknown, words - unknown)}")
    print(f"OOVs:\t{unknown}\nTokens:\t{words}")
    return 0


def _perplexity(log10: float, words: int) -> str:
    try:
        return f"{10 ** (-log10 / words):.6g}" if words else "undefined"
    except OverflowError:
        return "inf"


def _batches(files: list[str]) -> Iterator[list[str]]:
    """Lines without their ends, some at a time; what is not UTF-8 is replaced."""
    import contextlib
    import itertools
    import sys

    from codeshell.errors import UserError

    with contextlib.ExitStack() as stack:
        try:
            sources = [stack.enter_context(open(name, "rb")) for name in files] if files else [sys.stdin.buffer]
        except OSError as error:
            raise UserError(f"{error.filename}: {error.strerror}; name a file of lines") from None
        lines = itertools.chain.from_iterable(sources)
        while some := list(itertools.islice(lines, LINES)):
            yield [line.removesuffix(b"\n").decode("utf-8", "replace") for line in some]
