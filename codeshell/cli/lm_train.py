"""`codeshell lm train`: an n-gram language model of the texts of any inputs."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections import Counter
    from collections.abc import Iterator

    from codeshell.documents.inputs import InputOptions, Shard
    from codeshell.documents.texts import Texts
    from codeshell.ngram.training import Summary, Units

HELP = "train an n-gram language model, within a limit of memory"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell lm train ~/good/python -o good.lm --language python\n"
        "  codeshell lm train ~/bad/python -o bad.lm --vocabulary good.lm\n"
        "  codeshell lm train 'data/*.parquet' -o small.lm --prune 0 1 2 --quantize\n"
        "Bits of two models can be compared only if both have the same units: give the first model as --vocabulary of\n"
        "the second. Temporary files lie beside MODEL and have no names, so that a killed job leaves none."
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folders, files of rows (.parquet, .arrow, .jsonl, .csv, packed or not), .tar, single files, globs, URLs",
    )
    add("-o", "--output", metavar="MODEL", help="file to write (optional with --arpa)")
    add("--arpa", metavar="FILE", help="also write the model as ARPA text, which other toolkits read")
    add("--order", type=int, default=3, metavar="N", help="longest n-gram, 1 to 6 (default: %(default)s)")
    add(
        "--units",
        choices=("lexical", "bpe", "bytes"),
        default="lexical",
        help="what a text is cut into: words and marks of code, tokens of --tokenizer, or bytes (default: lexical)",
    )
    add("--tokenizer", metavar="FILE", help="tokenizer.json, or the directory of one, for --units bpe")
    add(
        "--vocabulary",
        default="4096",
        metavar="N|MODEL",
        help="ids of lexical units, classes included; or a model whose units are used (default: %(default)s)",
    )
    add(
        "--prune",
        type=int,
        nargs="+",
        default=[],
        metavar="N",
        help="by order: leave out n-grams that occur this often or less, e.g. 0 1 2 (the last one counts for all "
        "higher orders)",
    )
    add("--quantize", action="store_true", help="8-bit probabilities: a model of about a third of the size")
    add("--keep-words", action="store_true", help="keep the n-grams' words, for `codeshell lm convert` to ARPA")
    add("--language", metavar="NAME", help="train on documents of this language only, e.g. python")
    add("--memory", default="1GiB", metavar="SIZE", help="memory that the process may take (default: 1GiB)")
    add("--threads", type=int, default=0, metavar="N", help="threads to use (default: every core)")
    add(
        "--text-column",
        metavar="NAME",
        help="column of the text in files of rows (default: text, or content or code beside a path or repository)",
    )
    add(
        "--max-file-bytes",
        type=int,
        default=1 << 20,
        metavar="N",
        help="leave out larger files of folders (default: 1048576)",
    )
    add("--vendored", action="store_true", help="also enter folders like node_modules and third_party")
    add(
        "--include",
        action="append",
        default=[],
        metavar="PATTERN",
        help="read only files of folders that match, as in .gitignore, e.g. '*.py' or /src/; may be repeated",
    )
    add("--exclude", action="append", default=[], metavar="PATTERN", help="leave out files that match; may be repeated")


def main(args: argparse.Namespace) -> int:
    import time
    from collections import Counter
    from pathlib import Path

    from codeshell.cli.sizes import parse_size
    from codeshell.engine.arrow import leave_out_pandas
    from codeshell.engine.memory import give_back_large_blocks
    from codeshell.environment import thread_count
    from codeshell.errors import UserError, reasons

    leave_out_pandas()
    # Or the C library keeps what one step has freed, and the next one takes its own beside it.
    give_back_large_blocks()
    from codeshell.documents import inputs
    from codeshell.engine.progress import Progress
    from codeshell.ngram.training import Settings, train

    # All that can be wrong with the arguments is found before the first text is read.
    if not args.output and not args.arpa:
        raise UserError("-o MODEL: missing; name the file to write, or give --arpa FILE")
    for flag, name in (("-o", args.output), ("--arpa", args.arpa)):
        _check_output(flag, name)
    if args.max_file_bytes < 1:
        raise UserError(f"--max-file-bytes {args.max_file_bytes}: give 1 or more")
    try:
        threads = thread_count(args.threads)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    ids, units = _vocabulary(args.vocabulary, args.units)
    settings = Settings(
        order=args.order,
        units=args.units,
        vocabulary=ids,
        prune=tuple(args.prune),
        memory=parse_size(args.memory, "--memory"),
        threads=threads,
        quantize=args.quantize,
        keep_words=args.keep_words,
    )
    try:
        settings.check()
    except UserError as error:
        raise UserError(f"--{error}") from None
    language = _language(args.language)
    options = inputs.InputOptions(
        text_column=args.text_column,
        max_file_bytes=args.max_file_bytes,
        vendored=args.vendored,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
    )
    own = [Path(path) for path in (args.output, args.arpa) if path]
    plan = inputs.plan(args.inputs, options, 64 << 20, own)
    left_out: Counter[str] = Counter()
    readings = 2 if units is None and args.units == "lexical" else 1
    started = time.monotonic()
    megabytes = max(1, sum(shard.size for shard in plan.shards) // 1_000_000)
    with Progress("lm train", total=readings * megabytes, unit="MB") as progress:

        def texts() -> Iterator[Texts]:
            left_out.clear()
            before = done = 0
            for shard in plan.shards:
                yield from _texts(shard, options, language, left_out)
                done += shard.size
                progress.advance(min(megabytes, done // 1_000_000) - before)
                before = min(megabytes, done // 1_000_000)

        try:
            summary = train(texts, args.output, settings, units=units, tokenizer=args.tokenizer, arpa=args.arpa)
        except UserError as error:
            if not str(error).startswith("no text"):
                raise
            left_out.update(plan.left_out)
            why = f" ({reasons(left_out)} left out)" if left_out else ""
            which = f" in {language}" if language else ""
            raise UserError(f"{' '.join(args.inputs)}: no text{which} in it{why}; give files that hold some") from None
    seconds = time.monotonic() - started
    left_out.update(plan.left_out)
    for line in _lines(summary):
        print(line)
    if left_out:
        print(f"not read: {reasons(left_out)}")
    peak = _peak() / 1024
    print(
        f"{summary.bytes / 1e6 / max(seconds, 1e-9):.1f} MB/s with {settings.threads} threads, {peak:,.0f} MiB of "
        f"memory at most, {summary.spilled / 1e6:,.0f} MB through temporary files"
    )
    written = [f"{path} ({Path(path).stat().st_size / 1e6:,.1f} MB)" for path in (args.output, args.arpa) if path]
    print(f"written to {' and '.join(written)}")
    return 0


def _peak() -> int:
    """Kilobytes that this process has had in memory at most."""
    import re
    import resource
    from pathlib import Path

    # The system's own count begins with what the parent had when it started us; this one does not.
    status = Path("/proc/self/status")
    found = re.search(r"VmHWM:\s+(\d+) kB", status.read_text()) if status.exists() else None
    return int(found[1]) if found else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def _check_output(flag: str, name: str | None) -> None:
    """Raise a `UserError` if no file of this name can be written."""
    from pathlib import Path

    from codeshell.engine.files import output_path
    from codeshell.errors import UserError

    if name is None:
        return
    path = output_path(name, flag)
    if path.is_dir():
        raise UserError(f"{flag} {name}: is a directory; name a file in it")
    if not Path(path.parent).is_dir():
        raise UserError(f"{flag} {name}: {path.parent} is no directory; make it first")


def _vocabulary(given: str, kind: str) -> tuple[int, Units | None]:
    """The number of ids, or the units of a model."""
    from pathlib import Path

    from codeshell.errors import UserError
    from codeshell.ngram.training import Settings, Units

    if given.isdecimal():
        return int(given), None
    from codeshell.ngram.model import LanguageModel

    if not Path(given).is_file():
        raise UserError(f"--vocabulary {given}: no number, and no such file; give a number of ids or a model")
    units = Units.deserialize(LanguageModel.load(given, "mapped").handle.units.serialize())
    if kind != "lexical":
        raise UserError(f"--vocabulary {given}: its units are used, so --units {kind} says nothing; leave one out")
    return Settings().vocabulary, units


def _language(name: str | None) -> str | None:
    """The language as documents have it."""
    from codeshell.documents import languages
    from codeshell.errors import UserError

    if name is None:
        return None
    if (language := languages.by_label(name)) is None:
        raise UserError(f"--language {name}: not known; {languages.closest(name)}")
    return language


def _texts(shard: Shard, options: InputOptions, language: str | None, left_out: Counter[str]) -> Iterator[Texts]:
    """The texts of a shard in batches, and what is left out by reason."""
    from codeshell.documents import batches, languages

    if language is None:
        for batch in batches.read(shard, options):
            left_out.update(batch.left_out)
            found = batch.texts
            # A batch that has been read must not be in memory while the next one is made.
            del batch
            yield found
            del found
        return
    held: list[str] = []
    size = 0
    for row, text in batches.texts(shard, options, left_out):
        if (row.language or languages.by_path(row.path or "", row.text)) != language:
            left_out["other_language"] += 1
            continue
        held.append(text)
        size += len(text)
        if size >= batches.BATCH_BYTES:
            yield held
            held, size = [], 0
    if held:
        yield held


def _lines(summary: Summary) -> list[str]:
    """What the command prints of the summary."""
    lines = [
        f"{summary.documents:,} documents, {summary.bytes / 1e6:,.1f} MB, {summary.tokens:,} units of "
        f"{summary.units:,} kinds"
    ]
    if summary.types:
        lines.append(f"{summary.types:,} different words; {summary.covered:.1%} of all words have an id of their own")
    for number, order in enumerate(summary.orders, 1):
        pruned = f", {order['kept']:,} of them kept" if order["kept"] != order["ngrams"] else ""
        discounts = " ".join(f"{value:.4f}" for value in order["discounts"])
        lines.append(f"order {number}: {order['ngrams']:,} n-grams{pruned}; discounts {discounts}")
    fallback = [str(number) for number, order in enumerate(summary.orders, 1) if order["fallback"]]
    if fallback:
        lines.append(
            f"the counts of order {', '.join(fallback)} give no discounts, as with few words or little text: "
            "0.5, 1 and 1.5 are used there"
        )
    return lines
