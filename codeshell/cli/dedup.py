"""`codeshell dedup`: finds near duplicates among files and rows, outside of a run."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codeshell.cli.sizes import parse_size

if TYPE_CHECKING:
    from codeshell.documents.inputs import InputOptions
    from codeshell.engine import Engine

HELP = "find near duplicates in folders, Parquet and JSONL files, and write what stays"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    from codeshell.recipe import NearDedup, Recipe

    defaults = NearDedup()
    parser.epilog = (
        "examples:\n"
        "  codeshell dedup ~/src -o deduplicated\n"
        "  codeshell dedup 'data/*.parquet' --text-column content --threshold 0.85 -o deduplicated\n"
        "  codeshell dedup new.jsonl.zst --index seen -o deduplicated\n"
        "Documents are taken in the order of --keep-order. A document is dropped if its exact Jaccard (over shingles\n"
        f"of {defaults.ngram} tokens) with a document that was kept before it reaches the threshold. DIR gets:\n"
        "  kept/               what stays, in the input's format and order (--ids-only: kept.parquet with the ids)\n"
        "  duplicates.parquet  id, kept_id, jaccard, cluster_id, cluster_size, shard, row, kept_shard, kept_row\n"
        "  left_out.parquet    files and folders of folders that were not read: shard, path, reason\n"
        "  stats.json          counts, and the number of documents that could not be read, by reason\n"
        "The same command resumes a job that was killed. `codeshell report DIR` shows the clusters,\n"
        "`codeshell explain ID --dedup DIR` shows one document."
    )
    add = parser.add_argument
    add(
        "inputs",
        nargs="+",
        metavar="INPUT",
        help="folders, files of rows (.parquet, .arrow, .jsonl, .csv, packed or not), .tar, single files, globs, URLs; "
        "commits:CHECKOUT, issues:DUMP, notebook-texts:FOLDER",
    )
    add("-o", "--output", metavar="DIR", help="a new or empty directory (optional with --dry-run)")
    # What is not given stays None here: `Parameters` has the defaults, and its import is too slow for --help.
    add(
        "--threshold",
        type=float,
        help=f"Jaccard from which two documents are near duplicates (default: {defaults.threshold})",
    )
    add(
        "--keep-order",
        metavar="ORDER",
        help="which documents come first and so stay: first, longest or column:NAME[:desc] (default: first)",
    )
    add(
        "--cluster",
        choices=("kept", "components"),
        help="kept: drop what resembles a document that stays; components: keep one document of every connected "
        "component (default: kept)",
    )
    add("--verify", choices=("exact", "signature", "none"), help="how candidate pairs are checked (default: exact)")
    add("--method", choices=("bands", "cpsjoin"), help="how candidate pairs are found (default: bands)")
    add("--bands", type=int, help=f"number of MinHash bands (default: {defaults.bands})")
    add("--rows", type=int, help=f"rows per band (default: {defaults.rows})")
    add(
        "--shingles",
        metavar="NAME",
        help="kind of shingles: code, starcoder, stack-v2, datatrove or char-24 (default: code)",
    )
    add(
        "--ngram",
        type=int,
        metavar="N",
        help=f"tokens (or characters) in a shingle (default: {defaults.ngram}; for char-24: 24)",
    )
    add("--seed", type=int, help=f"seed of the hash functions (default: {Recipe().seed})")
    add(
        "--text-column",
        metavar="NAME",
        help="column of the text in files of rows (default: text, or content or code beside a path or repository)",
    )
    add(
        "--layout",
        default="auto",
        metavar="NAME",
        help="the data set whose columns the files have: auto, plain, the-stack, the-stack-v2, starcoderdata, "
        "github-code or codeparrot (default: auto)",
    )
    add(
        "--damaged",
        default="refuse",
        choices=("refuse", "skip"),
        help="what a truncated or broken file of rows does: end the job, or be left out as a whole (default: refuse)",
    )
    add(
        "--id-column",
        metavar="NAME",
        help="column of the id in files of rows (default: the file's name and the place in it are the id)",
    )
    add(
        "--max-file-bytes",
        type=int,
        default=1 << 20,
        metavar="N",
        help="leave out larger files of folders (default: 1048576)",
    )
    add(
        "--encoding",
        choices=("utf-8", "auto"),
        default="utf-8",
        help="auto: also read files in other encodings (UTF-16, Latin-1, Shift-JIS, GBK ...) where they can be told; "
        "kept/ has their own bytes (default: utf-8)",
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
    add("--no-gitignore", action="store_true", help="also read what git ignores in checkouts")
    add("--ids-only", action="store_true", help="write the ids of what stays instead of the rows")
    add("--dry-run", action="store_true", help="only report: write no rows and change no index")
    add(
        "--index",
        metavar="DIR",
        help="also compare with everything that earlier runs kept in this index, and add what this run keeps",
    )
    add(
        "--memory",
        default="1GiB",
        metavar="SIZE",
        help="memory for the arrays of the search, over all workers (default: 1GiB)",
    )
    add("--workers", type=int, default=0, metavar="N", help="number of processes (default: one per core)")
    add("--engine", default="local", choices=("local", "ray"), help="where the work runs (default: local)")
    add(
        "--address",
        metavar="HOST:PORT",
        help="address of a running Ray cluster (auto: the cluster this machine belongs to)",
    )


def main(args: argparse.Namespace) -> int:
    from codeshell.engine import MAX_WORKERS, make_engine
    from codeshell.engine.files import output_path
    from codeshell.errors import UserError

    if args.output is None and not args.dry_run:
        raise UserError("-o DIR: missing; name a new directory, or ask for --dry-run")
    for flag, value in (("-o", args.output), ("--index", args.index)):
        if value is not None:
            output_path(value, flag)
    for name in ("max_file_bytes", "workers"):
        low = 1 if name == "max_file_bytes" else 0
        if getattr(args, name) > (MAX_WORKERS if name == "workers" else 1 << 62):
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)} is too large; give a smaller number")
        if getattr(args, name) < low:
            raise UserError(f"--{name.replace('_', '-')}: {getattr(args, name)} is below {low}; give a larger number")
    # The engine starts before our own imports, so that the workers do theirs at the same time.
    with make_engine(args.engine, args.workers, args.address, "codeshell.dedup.job") as engine:
        return _run(args, engine)


def _run(args: argparse.Namespace, engine: Engine) -> int:
    import tempfile
    from dataclasses import fields

    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    from codeshell.dedup import job
    from codeshell.dedup.parameters import Parameters
    from codeshell.documents.columns import LAYOUTS
    from codeshell.documents.inputs import InputOptions
    from codeshell.errors import UserError

    # Every parameter has the name of its option; those that were not given keep their defaults.
    given = {field.name: getattr(args, field.name) for field in fields(Parameters)}
    parameters = Parameters(**{name: value for name, value in given.items() if value is not None})
    try:
        parameters.check()
    except ValueError as error:
        raise UserError(f"--{str(error).replace('_', '-', 1)}; see codeshell dedup --help") from None
    if args.layout not in ("auto", *LAYOUTS):
        raise UserError(f"--layout {args.layout}: no such layout; choose auto, {', '.join(LAYOUTS)}")
    options = InputOptions(
        text_column=args.text_column,
        layout=args.layout,
        damaged=args.damaged,
        id_column=args.id_column,
        order_column=parameters.order_column,
        max_file_bytes=args.max_file_bytes,
        vendored=args.vendored,
        gitignore=not args.no_gitignore,
        include=tuple(args.include),
        exclude=tuple(args.exclude),
        encoding=args.encoding,
    )
    # A dry run without -o works in a directory that is removed afterwards.
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
        for line in [*summary(statistics), *losses(statistics, options), *copies(statistics)]:
            print(line)
        if args.output:
            print(f"written to {args.output}; see codeshell report {args.output}")
    return 0


def summary(statistics: dict[str, Any]) -> list[str]:
    """The lines that the command prints about `stats.json`."""
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
        lines.append(f"{statistics['repeated_ids']:,} documents repeat an earlier id; (shard, row) tells rows apart")
    if "index" in statistics:
        index = statistics["index"]
        lines.append(f"index: {index['before']:,} documents before, {index['added']:,} added")
    return lines


def losses(statistics: dict[str, Any], options: InputOptions) -> list[str]:
    """A line for each reason for which something was not compared that the user may not expect, with the remedy."""
    left_out: Counter[str] = Counter()
    for reason, count in statistics["left_out"].items():
        left_out["encoding" if reason.startswith("encoding_") else reason] += count
    remedies = {
        "no_text": (f"rows without a text in the column {options.text_column!r}", "name another with --text-column"),
        "bad_json": ("lines that are no JSON objects", "fix them, or find out what cut the file"),
        "bad_csv": ("records of CSV with more fields than the header", "write the file again with a CSV writer"),
        "damaged": ("files that cannot be read whole", "fetch them again"),
        "encoding": ("documents in other encodings than UTF-8", "--encoding auto reads them"),
        "bad_utf8": ("documents that are not UTF-8, in no encoding that can be told", "convert them to UTF-8 first"),
        "over_large": (f"files of more than {options.max_file_bytes:,} bytes", "raise --max-file-bytes"),
        "unreadable": ("files that cannot be read", "give yourself the permission, or leave them out"),
    }
    lines = [
        f"warning: {what}: {left_out[reason]:,}; {remedy}"
        for reason, (what, remedy) in remedies.items()
        if reason in left_out
    ]
    # Pictures and data among code are no loss; documents that should have been read are.
    lost = sum(left_out[reason] for reason in remedies)
    total = lost + statistics["documents"]
    if 2 * lost > total:
        lines.append(f"warning: {lost:,} of {total:,} documents were not compared: duplicates among them stay")
    if "vendored" in left_out:
        lines.append(f"folders of other people's code, not entered: {left_out['vendored']:,}; --vendored enters them")
    if statistics.get("listed"):
        lines.append(f"left_out.parquet lists the files and folders that were not read: {statistics['listed']:,}")
    return lines


def copies(statistics: dict[str, Any]) -> list[str]:
    """What kept/ of a folder has besides the documents that stay, and what it lacks besides duplicates."""
    copied, left_out = statistics.get("copied", {}), statistics["left_out"]
    lines = []
    if "not_compared" in copied:
        lines.append(f"kept/ also holds the other files and links, as they were: {copied['not_compared']:,}")
    folders = [f"{left_out[reason]:,} {reason}" for reason in ("vcs", "cache", "vendored") if reason in left_out]
    lacks = [f"folders that were not entered ({', '.join(folders)})"] if folders and "copied" in statistics else []
    if "links_out" in copied:
        lacks.append(f"links that lead out of their folder ({copied['links_out']:,})")
    if "unreadable" in copied:
        lacks.append(f"files that can no longer be read ({copied['unreadable']:,})")
    return [*lines, f"kept/ lacks {' and '.join(lacks)}"] if lacks else lines
