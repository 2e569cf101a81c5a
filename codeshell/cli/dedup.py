"""`codeshell dedup`: near duplicates among files, Parquet and JSONL rows, without a run around it."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HELP = "find near duplicates in folders, Parquet and JSONL files"

BATCH_BYTES = 16 << 20
"""Text in memory at once."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell dedup ~/src -o duplicates\n"
        "  codeshell dedup data/*.parquet --text-column content --threshold 0.85 -o duplicates\n"
        "Inputs are taken in the order given (folders by path). A document is a duplicate if its exact Jaccard, over\n"
        "shingles of 5 tokens, with a document kept before it reaches the threshold. DIR gets\n"
        "  duplicates.parquet  id, kept_id, jaccard: what to drop, and the kept document that it resembles most\n"
        "  kept.parquet        id: what stays\n"
        "  stats.json          counts, and what could not be read by reason\n"
        "An id is the file's path, with #ROW or @BYTE behind it for a row of a Parquet or JSONL file."
    )
    parser.add_argument("inputs", nargs="+", metavar="INPUT", help="folders, .parquet, .jsonl[.gz|.zst], single files")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="a new or empty directory")
    parser.add_argument("--threshold", type=float, default=0.7, help="Jaccard of a duplicate (default: 0.7)")
    parser.add_argument("--bands", type=int, default=21, help="MinHash bands (default: 21)")
    parser.add_argument("--rows", type=int, default=6, help="rows a band (default: 6)")
    parser.add_argument("--ngram", type=int, default=5, help="tokens in a shingle (default: 5)")
    parser.add_argument("--text-column", default="text", metavar="NAME", help="of Parquet and JSONL (default: text)")
    parser.add_argument("--max-file-bytes", type=int, default=1 << 20, metavar="N", help="leave out larger (1048576)")
    parser.add_argument("--vendored", action="store_true", help="enter folders like node_modules and third_party too")


def main(args: argparse.Namespace) -> int:
    from collections import Counter

    import pyarrow as pa

    from codeshell.data.shards import write_table
    from codeshell.dedup import Deduper
    from codeshell.engine.files import make_directory, write_json
    from codeshell.engine.progress import Progress
    from codeshell.errors import UserError
    from codeshell.recipe import Collect

    if args.max_file_bytes < 1:
        raise UserError(f"--max-file-bytes: {args.max_file_bytes} is below 1; give a number of bytes")
    settings = Collect(text_column=args.text_column, max_file_bytes=args.max_file_bytes, vendored=args.vendored)
    try:
        deduper = Deduper(threshold=args.threshold, bands=args.bands, rows=args.rows, ngram=args.ngram)
    except ValueError as error:
        raise UserError(f"{error}; see codeshell dedup --help") from None
    output = make_directory(args.output)
    if any(output.iterdir()):
        raise UserError(f"{output}: not empty; choose another output directory")

    left_out: Counter[str] = Counter()
    ids: list[str] = []
    total = 0
    with Progress("dedup", total=len(args.inputs), unit="inputs") as progress:
        for name in args.inputs:
            for batch in _batches(documents(name, settings), left_out):
                total += sum(len(text) for _, text in batch)
                ids += [identity for identity, _ in batch]
                texts = pa.array([text for _, text in batch], pa.large_binary()).cast(pa.large_string())
                deduper.add([identity for identity, _ in batch], texts)
            progress.advance(1, documents=len(ids))
    if not ids:
        raise UserError(f"{args.inputs[0]}: no document in the inputs ({dict(left_out) or 'they are empty'})")

    duplicates = deduper.duplicates()
    positions = set(deduper.positions())
    kept = pa.table({"id": pa.array([identity for i, identity in enumerate(ids) if i not in positions], pa.string())})
    counts = deduper.counts
    stats = {
        "documents": len(ids),
        "bytes": total,
        "kept": kept.num_rows,
        "duplicates": duplicates.num_rows,
        "clusters": len(duplicates["kept_id"].unique()),
        "left_out": dict(sorted(left_out.items())),
        "threshold": args.threshold,
        **counts,
    }
    write_table(output / "duplicates.parquet", duplicates)
    write_table(output / "kept.parquet", kept)
    write_json(output / "stats.json", stats)
    print(
        f"{len(ids):,} documents, {total / 1e6:,.1f} MB: {duplicates.num_rows:,} near duplicates of "
        f"{stats['clusters']:,} kept ones ({counts['candidate_pairs']:,} pairs compared); written to {output}"
    )
    return 0


def documents(name: str, settings: Any) -> Iterator[tuple[str, bytes, str]]:
    """Yield (id, text, reason) of one input; `reason` is empty if the text counts."""
    from codeshell.data import readers, walk
    from codeshell.errors import UserError

    kind = readers.kind_of(name)
    if kind == "parquet":
        groups = range(len(readers.parquet_groups(name, settings)))
        for row in readers.parquet_rows(name, groups, settings):
            yield name + row.place, row.text, row.reason
    elif kind == "jsonl":
        readers.jsonl_check(name, settings)
        for row in readers.jsonl_rows(name, 0, None, settings):
            yield name + row.place, row.text, row.reason
    elif Path(name).is_dir():
        for found in walk.walk(name, max_file_bytes=settings.max_file_bytes, vendored=settings.vendored):
            path = f"{name.rstrip('/')}/{found.path}"
            text, reason = (b"", found.reason) if found.reason else readers.read_file(path, settings.max_file_bytes)
            yield path.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace"), text, reason
    elif Path(name).is_file():
        text, reason = readers.read_file(name, settings.max_file_bytes)
        yield name, text, reason
    else:
        raise UserError(f"{name}: no such file or folder; mend the path")


def _batches(rows: Iterator[tuple[str, bytes, str]], left_out: Any) -> Iterator[list[tuple[str, bytes]]]:
    """The documents of an input in batches of `BATCH_BYTES`; those with a reason, or not UTF-8, are counted."""
    batch: list[tuple[str, bytes]] = []
    size = 0
    for identity, text, reason in rows:
        if not reason and not _is_utf8(text):
            reason = "bad_utf8"
        if reason:
            left_out[reason] += 1
            continue
        batch.append((identity, text))
        size += len(text)
        if size >= BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _is_utf8(text: bytes) -> bool:
    if text.isascii():
        return True
    try:
        text.decode()
    except UnicodeDecodeError:
        return False
    return True
