"""`codeshell dedup`: near duplicates among files and rows, without a run around it."""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codeshell.recipe import NearDedup, Recipe

if TYPE_CHECKING:
    from codeshell.engine import Engine

HELP = "find near duplicates in folders, Parquet and JSONL files, and write what stays"

UNITS = {"": 0, "k": 1, "m": 2, "g": 3, "t": 4}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell dedup ~/src -o deduplicated\n"
        "  codeshell dedup 'data/*.parquet' --text-column content --threshold 0.85 -o deduplicated\n"
        "  codeshell dedup new.jsonl.zst --index seen -o deduplicated\n"
        "Documents are taken in the order of --keep-order. One is dropped if its exact Jaccard, over shingles of 5\n"
        "tokens, with a document kept before it reaches the threshold. DIR gets\n"
        "  kept/               what stays, in the input's format and order (--ids-only: kept.parquet, ids)\n"
        "  duplicates.parquet  id, kept_id, jaccard, cluster_id, cluster_size, shard, row, kept_shard, kept_row\n"
        "  stats.json          counts; and what could not be read, by reason\n"
        "The same command goes on where a killed one was. `codeshell report DIR` shows the clusters,\n"
        "`codeshell explain ID --dedup DIR` one document."
    )
    defaults = NearDedup()
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="folders, .parquet, .jsonl[.gz|.zst], single files, globs, URLs")
    add("-o", "--output", metavar="DIR", help="a new or empty directory (with --dry-run it may be left out)")
    add("--threshold", type=float, default=defaults.threshold, help="Jaccard of a duplicate (default: %(default)s)")
    add("--keep-order", default="first", metavar="ORDER", help="first, longest or column:NAME[:desc] (default: first)")
    add(
        "--cluster", default="kept", choices=("kept", "components"), help="components: one of every connected component"
    )
    add("--verify", default="exact", choices=("exact", "signature", "none"), help="of candidate pairs (default: exact)")
    add("--method", default="bands", choices=("bands", "cpsjoin"), help="that finds candidates (default: bands)")
    add("--bands", type=int, default=defaults.bands, help="MinHash bands (default: %(default)s)")
    add("--rows", type=int, default=defaults.rows, help="rows per band (default: %(default)s)")
    add("--shingles", default="code", metavar="NAME", help="code, starcoder, stack-v2, datatrove or char-24")
    add(
        "--ngram",
        type=int,
        metavar="N",
        help=f"tokens (or characters) in a shingle (default: {defaults.ngram}, of char-24 24)",
    )
    add("--seed", type=int, default=Recipe().seed, help="seed of the hash functions (default: %(default)s)")
    add("--text-column", default="text", metavar="NAME", help="of Parquet and JSONL (default: text)")
    add("--id-column", metavar="NAME", help="of Parquet and JSONL; else an id is the file's name and the place in it")
    add("--max-file-bytes", type=int, default=1 << 20, metavar="N", help="leave out larger files of folders (1048576)")
    add("--vendored", action="store_true", help="enter folders like node_modules and third_party too")
    add("--ids-only", action="store_true", help="write the ids of what stays, not the rows")
    add("--dry-run", action="store_true", help="report only: write no rows, change no index")
    add("--index", metavar="DIR", help="compare with all that earlier runs kept there too, and add what this one keeps")
    add("--memory", default="1GiB", metavar="SIZE", help="for the search's arrays, over all workers (default: 1GiB)")
    add("--workers", type=int, default=0, metavar="N", help="processes (default: all cores)")
    add("--engine", default="local", choices=("local", "ray"), help="where the work runs (default: local)")
    add("--address", metavar="HOST:PORT", help="of a running Ray cluster (auto: the one this machine belongs to)")


def main(args: argparse.Namespace) -> int:
    from codeshell.engine import make_engine
    from codeshell.errors import UserError

    if args.output is None and not args.dry_run:
        raise UserError("-o DIR: missing; name a new directory, or ask for --dry-run")
    for flag, value in (("-o", args.output), ("--index", args.index)):
        if value == "":  # of a shell variable that is not set, say
            raise UserError(f"{flag} DIR: empty; name a directory")
        if value and not is_utf8(value):
            raise UserError(f"{flag} {value!r}: not UTF-8, and Arrow opens no such path; name another directory")
    for name in ("max_file_bytes", "workers"):
        low = 1 if name == "max_file_bytes" else 0
        if getattr(args, name) >= 1 << 62:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)} is too much; give a smaller number")
        if getattr(args, name) < low:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)} is below {low}; give a larger number")
    # Before our own imports, so that workers do theirs at the same time.
    with make_engine(args.engine, args.workers, args.address, "codeshell.dedup.job") as engine:
        return _run(args, engine)


def _run(args: argparse.Namespace, engine: Engine) -> int:
    import tempfile

    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    from codeshell.dedup import job
    from codeshell.dedup.parameters import Parameters
    from codeshell.documents.inputs import InputOptions
    from codeshell.errors import UserError

    parameters = Parameters(
        threshold=args.threshold,
        bands=args.bands,
        rows=args.rows,
        shingles=args.shingles,
        ngram=args.ngram,
        seed=args.seed,
        method=args.method,
        verify=args.verify,
        keep_order=args.keep_order,
        cluster=args.cluster,
    )
    try:
        parameters.check()
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-', 1)}; see codeshell dedup --help") from None
    options = InputOptions(
        text_column=args.text_column,
        id_column=args.id_column,
        order_column=parameters.order_column,
        max_file_bytes=args.max_file_bytes,
        vendored=args.vendored,
    )
    with tempfile.TemporaryDirectory() as scratch:
        asked = job.Job(
            inputs=tuple(args.inputs),
            output=Path(args.output or scratch),
            parameters=parameters,
            options=options,
            write="nothing" if args.dry_run else "ids" if args.ids_only else "rows",
            memory=parse_size(args.memory, "--memory"),
            index=Path(args.index) if args.index else None,
        )
        statistics = job.run(asked, engine)
        for line in summary(statistics):
            print(line)
        if args.output:
            print(f"written to {args.output}; see codeshell report {args.output}")
    return 0


def summary(statistics: dict[str, Any]) -> list[str]:
    """What the command prints of `stats.json`."""
    kept, documents = statistics["kept"], statistics["documents"]
    lines = [
        f"{documents:,} documents, {statistics['bytes'] / 1e6:,.1f} MB",
        f"{kept:,} stay ({statistics['kept_bytes'] / 1e6:,.1f} MB); {statistics['duplicates']:,} are near duplicates "
        f"of {statistics['clusters']:,} of them, {statistics['same']:,} with equal shingles; the largest cluster has "
        f"{statistics['largest_cluster']:,}",
        f"{statistics['candidate_pairs']:,} pairs compared, {statistics['verified_pairs']:,} at the threshold of "
        f"{statistics['threshold']:g} or above",
    ]
    if statistics["left_out"]:
        reasons = ", ".join(f"{count:,} {reason}" for reason, count in statistics["left_out"].items())
        lines.append(f"not compared: {reasons}")
    if statistics.get("repeated_ids"):
        lines.append(f"{statistics['repeated_ids']:,} ids occur again; rows are told apart by (shard, row)")
    if "index" in statistics:
        index = statistics["index"]
        lines.append(f"index: {index['before']:,} documents before, {index['added']:,} added")
    return lines


def is_utf8(path: str) -> bool:
    """Whether a path of the command line holds no byte that is not UTF-8: Python makes a surrogate of such a one."""
    return not any("\ud800" <= character <= "\udfff" for character in path)


def parse_size(text: str, name: str) -> int:
    """'2GiB', '500MB' or '1073741824' as bytes."""
    from codeshell.errors import UserError

    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([kmgt]i?)?b?\s*", text, re.IGNORECASE)
    if not found:
        raise UserError(f"{name}: {text!r} is not a size; write 2GiB or 500MB")
    unit = (found[2] or "").lower()
    size = float(found[1]) * (1024 if unit.endswith("i") else 1000) ** UNITS[unit[:1]]
    if size < 64 << 20:
        raise UserError(f"{name}: {text} is too little; give 64MiB or more")
    if size >= 1 << 62:
        raise UserError(f"{name}: {text} is more than there is; give what this machine has")
    return int(size)
