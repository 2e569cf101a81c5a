"""`codeshell quality annotate`: scores of a large language model for a sample of files, as labels to train on."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.quality.annotate import Job, Outcome

HELP = "score a sample of files with a large language model, as labels for codeshell quality train"

LISTED = 10
"""Documents without a usable answer that are printed; all of them are in the journal."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("inputs", nargs="+", metavar="INPUT", help="folders, Parquet, JSONL or other files of code")
    add("-o", "--output", required=True, metavar="LABELS", help="labels to write, .parquet or .jsonl")
    add("--model", required=True, metavar="NAME", help="the model that is asked, as the endpoint calls it")
    add("--endpoint", metavar="URL", help="base URL of an OpenAI-compatible endpoint, e.g. http://127.0.0.1:8000/v1")
    add(
        "--batch",
        metavar="FILE.jsonl",
        help="instead of asking, write what is still to be asked as a batch file of the OpenAI form",
    )
    add("--answers", metavar="FILE.jsonl", action="append", default=[], help="take the answers of a batch")
    add("--sample", type=int, default=1000, metavar="N", help="files to annotate (default: 1000)")
    add(
        "--by",
        metavar="COLUMN",
        help="column of numbers (a score) whose quantiles are sampled alike (default: the length of the text)",
    )
    add(
        "--repeat", type=float, default=0.1, metavar="SHARE", help="share of the files to annotate twice (default: 0.1)"
    )
    add("--seed", type=int, default=0, metavar="N", help="another seed is another sample (default: 0)")
    add("--characters", type=int, default=16_000, metavar="N", help="of a longer file, show so many (default: 16000)")
    add("--tries", type=int, default=3, metavar="K", help="answers to ask for until one is usable (default: 3)")
    add("--key-variable", default="OPENAI_API_KEY", metavar="NAME", help="environment variable with the key")
    add("--concurrency", type=int, default=4, metavar="N", help="requests at a time (default: 4)")
    add("--per-minute", type=float, default=0, metavar="N", help="requests that begin in a minute (default: no limit)")
    add("--timeout", type=float, default=120, metavar="SECONDS", help="for one answer (default: 120)")
    add("--retries", type=int, default=6, metavar="N", help="tries after a failed request (default: 6)")
    add(
        "--set",
        action="append",
        default=[],
        metavar="NAME=JSON",
        help="member of each request, e.g. temperature=0 or max_tokens=null; may be repeated",
    )
    add("--text-column", metavar="NAME", help="column of the text in files of rows")
    add("--id-column", metavar="NAME", help="column of the id in files of rows (default: the hash of the text)")


def main(args: argparse.Namespace) -> int:
    from codeshell.engine.arrow import leave_out_pandas

    leave_out_pandas()
    from codeshell.engine.files import user_path
    from codeshell.quality.annotate import State, ask, write_batch
    from codeshell.quality.client import Endpoint, key_from

    job = _job(args)
    endpoint = None
    if args.endpoint:
        endpoint = Endpoint(
            args.endpoint, key_from(args.key_variable), args.key_variable, args.timeout, args.retries, args.per_minute
        )
    with State(job) as state:
        for name in args.answers:
            state.read_answers(user_path(name))
        try:
            if endpoint:
                ask(state, endpoint, args.concurrency)
            written = write_batch(state, user_path(args.batch)) if args.batch else None
        finally:
            # Also when the endpoint stops or a person does: the answers so far are labels.
            outcome = state.outcome()
    for line in summary(outcome, job):
        print(line)
    if written is not None:
        print(
            f"{args.batch}: {written:,} requests; hand its answers in with --answers FILE and the same other arguments"
        )
    return 0


def _job(args: argparse.Namespace) -> Job:
    """The job that the arguments describe, checked."""
    from codeshell.documents.inputs import InputOptions
    from codeshell.engine.files import user_path
    from codeshell.errors import UserError
    from codeshell.quality.annotate import Job

    if not args.endpoint and not args.batch and not args.answers:
        raise UserError("--endpoint URL or --batch FILE.jsonl: give one of them, or --answers of an earlier batch")
    if args.endpoint and args.batch:
        raise UserError("--endpoint and --batch: give one of them; a batch file is for asking later")
    for name, low in {"sample": 1, "characters": 200, "tries": 1, "concurrency": 1, "retries": 0}.items():
        if not low <= getattr(args, name) <= 1 << 40:
            raise UserError(f"--{name} {getattr(args, name)}: not in {low} …; give another number")
    if args.concurrency > 1000:
        raise UserError(f"--concurrency {args.concurrency}: more than 1000; give a smaller number")
    if not 0 <= args.repeat <= 1:
        raise UserError(f"--repeat {args.repeat:g}: not a share; give a number from 0 to 1")
    if not 0 < args.timeout <= 86_400:
        raise UserError(f"--timeout {args.timeout:g}: not in 0 … 86400; give a number of seconds")
    if not 0 <= args.per_minute <= 1e6:
        raise UserError(f"--per-minute {args.per_minute:g}: not in 0 … 1000000; give another number")
    output = user_path(args.output)
    if output.suffix not in (".parquet", ".jsonl"):
        raise UserError(f"-o {args.output}: give a name that ends in .parquet or .jsonl")
    if output.is_dir() or not output.parent.is_dir():
        what = "a directory" if output.is_dir() else f"there is no directory {output.parent}"
        raise UserError(f"-o {args.output}: {what}; name a file in a directory that is there")
    return Job(
        inputs=tuple(args.inputs),
        output=output,
        model=args.model,
        options=InputOptions(text_column=args.text_column, id_column=args.id_column),
        by=args.by,
        sample=args.sample,
        repeat=args.repeat,
        seed=args.seed,
        budget=args.characters,
        tries=args.tries,
        settings=dict(_setting(text) for text in args.set),
    )


def _setting(text: str) -> tuple[str, Any]:
    """A `NAME=JSON` of the command line; a value that is no JSON is a string."""
    from codeshell.errors import UserError

    name, equals, value = text.partition("=")
    if not equals or not name or name in ("model", "messages"):
        raise UserError(f"--set {text}: give NAME=VALUE with the name of a request's member, such as temperature=0")
    try:
        return name, json.loads(value)
    except ValueError:
        return name, value


def summary(outcome: Outcome, job: Job) -> list[str]:
    """The lines that the command prints."""
    from codeshell.errors import reasons
    from codeshell.quality.agreement import table

    lines = [
        f"{outcome.labelled:,} of {outcome.documents:,} files are labelled ({outcome.asked:,} answers in this run)"
    ]
    if outcome.left_out:
        lines.append(f"not read: {reasons(outcome.left_out)}")
    if outcome.unknown:
        lines.append(
            f"warning: {outcome.unknown:,} answers belong to no file of this sample; are the arguments the same?"
        )
    if outcome.open:
        lines.append(f"{outcome.open:,} readings have no answer yet; run the same command again")
    if outcome.failed:
        lines.append(f"warning: {len(outcome.failed):,} files have no usable answer after {job.tries} tries:")
        some = list(outcome.failed.items())
        lines += [f"  {identity}: {reason}" for identity, reason in some[:LISTED]]
        if len(some) > LISTED:
            lines.append(f"  and {len(some) - LISTED:,} more; the journal has all")
    if outcome.agreement:
        lines.append("agreement of the files that were annotated twice:")
        lines += [f"  {line}" for line in table(outcome.agreement)]
    return [*lines, f"written to {job.output}; the journal is {Path(job.journal).name}"]
