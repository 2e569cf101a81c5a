"""`codeshell quality score`: the learned score of any files, with every column that it is made of."""

from __future__ import annotations

import argparse
from pathlib import Path

HELP = "score folders, Parquet, JSONL and other files: the quality from 0 to 5 and what it is made of"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    parser.epilog = (
        "SCORES.parquet has a row for each row or file of the input, in its order: id, quality (0 to 5), its\n"
        "dimensions, language, and the columns that the model reads. What cannot be scored has nulls and is counted.\n"
        "example: codeshell quality score data.jsonl --text-column content --id-column id -o scores.parquet"
    )
    add("inputs", nargs="+", metavar="INPUT", help="folders, files of rows (.parquet, .jsonl, ...), .tar, files, globs")
    add("-o", "--output", required=True, metavar="SCORES.parquet", help="file to write")
    add("--model", metavar="FILE", help="a model of codeshell quality train (default: the model of the package)")
    add("--language-models", metavar="DIR", help="folder with LANGUAGE.good.lm and LANGUAGE.bad.lm, as at training")
    add("--text-column", metavar="NAME", help="column of the text in files of rows (default: the usual names)")
    add("--id-column", metavar="NAME", help="column of the id (default: the file's name and the place in it)")
    add("--language-column", metavar="NAME", help="column of the language (default: language or lang)")
    add("--path-column", metavar="NAME", help="column of the path, which tells the language too (default: path)")
    add("--max-file-bytes", type=int, default=1 << 20, metavar="N", help="leave out larger files (default: 1048576)")
    add("--damaged", default="refuse", choices=("refuse", "skip"), help="what a broken file does (default: refuse)")
    add("--workers", type=int, default=0, metavar="N", help="number of processes (default: one per core)")


def main(args: argparse.Namespace) -> int:
    from codeshell.engine import MAX_WORKERS, make_engine
    from codeshell.errors import UserError

    if not 0 <= args.workers <= MAX_WORKERS:
        raise UserError(f"--workers {args.workers}: give 1 to {MAX_WORKERS}, or 0 for every core")
    if args.max_file_bytes < 1:
        raise UserError(f"--max-file-bytes {args.max_file_bytes} is below 1; give a larger number")
    with make_engine("local", args.workers, None, "codeshell.quality.apply") as engine:
        from codeshell.engine.arrow import leave_out_pandas

        leave_out_pandas()
        from codeshell.boosting.quality_model import SHIPPED
        from codeshell.documents.inputs import InputOptions
        from codeshell.engine.files import is_utf8, user_path
        from codeshell.errors import reasons
        from codeshell.quality.apply import Job, score_files

        if not args.output or "://" in args.output or not is_utf8(args.output):
            raise UserError(f"-o {args.output!r}: name a Parquet file of this machine to write")
        output = user_path(args.output)
        if output.is_dir() or not output.absolute().parent.is_dir():
            raise UserError(f"-o {output}: name a file in a folder that is there")
        settings = {}
        if args.language_models:
            settings["perplexity"] = {"good": args.language_models, "bad": args.language_models}
        options = InputOptions(
            text_column=args.text_column,
            id_column=args.id_column,
            language_column=args.language_column,
            path_column=args.path_column,
            max_file_bytes=args.max_file_bytes,
            damaged=args.damaged,
        )
        model = Path(args.model) if args.model else SHIPPED
        counts = score_files(Job(tuple(args.inputs), output, options, model, settings), engine)
        print(f"{counts.rows:,} rows, {counts.scored:,} with a score; written to {output}")
        if counts.not_scored:
            print(f"no score (null): {reasons(counts.not_scored)}")
        if counts.not_read:
            print(f"files and folders that were not read: {reasons(counts.not_read)}")
    return 0
