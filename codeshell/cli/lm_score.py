"""`codeshell lm score`: bits per byte of every document of any inputs, under one model or two."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow as pa

    from codeshell.ngram import LanguageModel

HELP = "score documents by an n-gram model, or by the contrast of two"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell lm score src/ -m python.good.lm --against python.bad.lm -o scores.parquet\n"
        "  codeshell lm score data/*.jsonl -m en.arpa --text-column content --id-column key -o -\n"
        "Columns: id, bytes, tokens, unknown, log10, bits_per_byte, perplexity; with --against also bad_bits_per_byte\n"
        "and contrast (bad - good; higher is better). Both models should have the same units; see lm train."
    )
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="folders, files of rows (.parquet, .jsonl, …), .tar, files, globs")
    add("-m", "--model", required=True, metavar="MODEL", help="a model, an ARPA file, or a probing binary of KenLM")
    add("--against", metavar="BAD", help="a model of bad text, for the contrast of the two")
    add("-o", "--output", default="-", metavar="FILE", help="FILE.parquet, or - for lines of JSON (default: -)")
    add("--text-column", metavar="NAME", help="column of the text in files of rows")
    add("--id-column", metavar="NAME", help="column of the ids (default: made of the file's name and the place in it)")
    add("--threads", type=int, default=0, metavar="N", help="threads to use (default: every core)")
    add("--max-file-bytes", type=int, default=1 << 20, metavar="N", help="leave out larger files of folders")


def main(args: argparse.Namespace) -> int:
    from collections import Counter
    from contextlib import nullcontext
    from pathlib import Path

    from codeshell.engine.arrow import leave_out_pandas
    from codeshell.environment import thread_count
    from codeshell.errors import UserError, reasons, say

    leave_out_pandas()
    import pyarrow as pa

    from codeshell.documents import batches, inputs
    from codeshell.documents.shards import TableWriter
    from codeshell.ngram.model import LanguageModel

    if not args.output or (args.output != "-" and Path(args.output).is_dir()):
        raise UserError(f"-o {args.output!r}: empty or a directory; name a file, or - for standard output")
    if args.max_file_bytes < 1:
        raise UserError(f"--max-file-bytes {args.max_file_bytes}: give 1 or more")
    try:
        threads = thread_count(args.threads)
    except ValueError as error:
        raise UserError(f"--{error}") from None
    models = [LanguageModel.load(name) for name in (args.model, args.against) if name]
    if len(models) == 2 and models[0].kind != models[1].kind:
        raise UserError(f"--against {args.against}: has {models[1].kind} units and the model {models[0].kind}; "
                        "bits of different units cannot be compared; train both on the same units")  # fmt: skip
    if len({model.handle.units.serialize() for model in models}) > 1:
        say(
            f"{args.against}: has another vocabulary than {args.model}, which blurs the contrast; "
            f"train it with --vocabulary {args.model}"
        )
    options = inputs.InputOptions(
        text_column=args.text_column,
        id_column=args.id_column,
        max_file_bytes=args.max_file_bytes,
        max_single_bytes=1 << 30,
    )
    listing = inputs.Listing(args.inputs, options)
    left_out: Counter[str] = Counter()
    totals: Counter[str] = Counter()

    def tables() -> Iterator[pa.Table]:
        for (shard,) in inputs.cut(listing, 64 << 20):
            for batch in batches.read(shard, options, ("text", "id")):
                left_out.update(batch.left_out)
                if len(batch.texts):
                    yield _scored(models, batch.ids, batch.texts, threads, totals)
        left_out.update(listing.left_out)

    integers, floats = ("bytes", "tokens", "unknown"), ("log10", "bits_per_byte", "perplexity")
    contrast = ("bad_bits_per_byte", "contrast") if len(models) == 2 else ()
    fields = [("id", pa.string())] + [(name, pa.int64()) for name in integers]
    schema = pa.schema(fields + [(name, pa.float64()) for name in (*floats, *contrast)])
    # Nothing is written before the inputs are known to be there.
    with nullcontext() if args.output == "-" else TableWriter(Path(args.output), schema) as writer:
        for table in tables():
            _print_rows(table) if writer is None else writer.write(table.cast(schema))
    noted = f"; left out: {reasons(left_out)}" if left_out else ""
    size = totals["bytes"]
    mean = f", {totals['bits'] / size:.4f} bits per byte" if size else ""
    say(f"{totals['documents']:,} documents, {size / 1e6:,.1f} MB{mean}{noted}")
    return 0


def _scored(models: list[LanguageModel], ids: Any, texts: Any, threads: int, totals: Any) -> pa.Table:
    """The rows of a batch; what an empty text has none of is null."""
    import pyarrow as pa

    from codeshell.ngram.model import score_all

    good, *bad = score_all(models, texts, threads=threads)
    columns = {
        "id": ids,
        "bytes": good.bytes,
        "tokens": good.tokens,
        "unknown": good.unknown,
        "log10": good.log10,
        "bits_per_byte": pa.array(good.bits_per_byte, from_pandas=True),
        "perplexity": good.perplexity,
    }
    if bad:
        columns["bad_bits_per_byte"] = pa.array(bad[0].bits_per_byte, from_pandas=True)
        columns["contrast"] = pa.array(bad[0].bits_per_byte - good.bits_per_byte, from_pandas=True)
    totals["documents"] += len(good.tokens)
    totals["bytes"] += int(good.bytes.sum())
    totals["bits"] += float(good.bits.sum())
    return pa.table(columns)


def _print_rows(table: pa.Table) -> None:
    import json
    import math

    for row in table.to_pylist():
        # JSON has no infinity; a perplexity may be one.
        for name, value in row.items():
            if isinstance(value, float) and not math.isfinite(value):
                row[name] = None
        print(json.dumps(row, ensure_ascii=False))
