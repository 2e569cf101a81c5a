"""Single-line fill-in-the-middle: mask one line of a held-out file and compare what the model writes there.

The protocol is SantaCoder's (Allal et al. 2023; report, section 3.4): prompt
`<fim_prefix>{before}<fim_suffix>{after}<fim_middle>`, generation to `<|endoftext|>` with no cut at the line's end,
correct if the two are equal after `strip()`. Here it is greedy, one answer a task, and the lines come from whole
held-out files instead of HumanEval bodies; so the rates are not comparable with the report's Table 6.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from codeshell.evaluate.corpus import Document
from codeshell.evaluate.intervals import compare_shares, share
from codeshell.randomness import draw

NOT_CODE = frozenset(
    {"", "asciidoc", "css", "csv", "html", "ini", "json", "less", "markdown", "org", "restructuredtext", "rmarkdown"}
    | {"scss", "svg", "tex", "text", "toml", "unknown", "xml", "xslt", "yaml"}
)
"""Languages (lower case) whose lines are no tasks: prose, markup and data."""

MAX_LINE = 100
"""Characters of a line at most; longer ones are no tasks."""

MAX_NEW_TOKENS = 64
"""Of an answer. SantaCoder allows 25 of a vocabulary of 49,152; a vocabulary of 4,096 needs about twice as many
tokens for the same text. A correct answer that does not fit (with its end) counts as wrong."""

PROMPT_CHARACTERS = 16
"""Characters of context a token at most: text further away than this times the budget is not even tokenised."""

GROUPS = ("all", "trivial", "non_trivial")
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Task:
    """One masked line. `line` is without its newline and with its indentation."""

    document: Document
    number: int
    before: str
    line: str
    after: str
    previous: str
    """The nearest line above that is not blank."""


def eligible(line: str) -> bool:
    """A line that can be a task: not blank, not over `MAX_LINE` characters."""
    return len(line.strip()) > 0 and len(line) <= MAX_LINE


def trivial(line: str) -> bool:
    """A line with at most one word (`\\w+`): closing brackets, `else:`, `return`, `pass`, `try:`, `});`, `\"\"\"` …"""
    return len(_WORD.findall(line)) <= 1


def make_tasks(documents: Sequence[Document], *, seed: int, count: int) -> list[Task]:
    """Choose lines by hash(seed, document id, "infill", line number).

    Every file gives one line before any gives a second, so tasks are as independent as the files allow. The first
    line of a file is never a task.

    Args:
        documents: code files, in the order in which they are asked.
        seed: of the run.
        count: tasks at most; fewer where there are no more lines.
    """
    lines_of = [document.text.split("\n") for document in documents]
    ranked = [
        sorted(
            (number for number in range(1, len(lines)) if eligible(lines[number])),
            key=lambda number: (draw(seed, document.id, "infill", number), number),
        )
        for document, lines in zip(documents, lines_of, strict=True)
    ]
    tasks: list[Task] = []
    turn = 0
    while len(tasks) < count and any(turn < len(numbers) for numbers in ranked):
        for document, lines, numbers in zip(documents, lines_of, ranked, strict=True):
            if turn < len(numbers) and len(tasks) < count:
                tasks.append(_task(document, lines, numbers[turn]))
        turn += 1
    return tasks


def _task(document: Document, lines: list[str], number: int) -> Task:
    before = "\n".join(lines[:number]) + "\n"
    after = "".join("\n" + line for line in lines[number + 1 :])
    previous = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return Task(document, number, before, lines[number], after, previous)


def prompt(task: Task, tokenizer: Any, *, context: int, max_new_tokens: int, start: Sequence[int] = ()) -> list[int]:
    """The ids that ask for the line, with as much text before and after it as the context holds.

    What does not fit is cut far from the line. Each side may use half of the room, and what the other leaves.

    Args:
        context: tokens the model was trained on.
        max_new_tokens: room that is left for the answer.
        start: ids in front of all (see `scoring`, `start`).
    """
    room = context - max_new_tokens - 3 - len(start)
    if room < 2:
        raise ValueError(f"context: {context} leaves no room for a prompt and {max_new_tokens} new tokens")
    far = room * PROMPT_CHARACTERS
    before, after = tokenizer.encode_batch([task.before[-far:], task.after[:far]])
    kept_before = min(len(before), max(room // 2, room - len(after)))
    kept_after = min(len(after), room - kept_before)
    return [
        *start,
        tokenizer.fim_prefix,
        *before[len(before) - kept_before :],
        tokenizer.fim_suffix,
        *after[:kept_after],
        tokenizer.fim_middle,
    ]


def exact(answer: str, line: str) -> bool:
    """SantaCoder's rule: the whole answer equals the line after `strip()`."""
    return answer.strip() == line.strip()


def exact_first_line(answer: str, line: str) -> bool:
    """The answer's text up to its first newline equals the line after `strip()`: what an editor would show."""
    return answer.split("\n", 1)[0].strip() == line.strip()


def decided(answer: str) -> bool:
    """Whether an answer has a second line of text, so that nothing after it can change either rule's verdict."""
    return "\n" in answer.strip()


class CommonLines:
    """The most common line of each language in the training split, under the tasks' own rules, for each group."""

    def __init__(self, documents: Iterable[Document]) -> None:
        counters: dict[str, Counter[str]] = {}
        for document in documents:
            counter = counters.setdefault(document.language, Counter())
            counter.update(line.strip() for line in document.text.split("\n")[1:] if eligible(line))
        self.lines: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
        for language, counter in counters.items():
            # The more frequent first, then the alphabet: equal counts give the same line on every machine.
            ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
            for group in GROUPS:
                line = next((line for line, _ in ranked if in_group(line, group)), "")
                self.lines[group][language] = line

    def guess(self, task: Task, group: str) -> str:
        """The baseline's answer; "" (always wrong) for a language that the training split lacks."""
        return self.lines[group].get(task.document.language, "")


def in_group(line: str, group: str) -> bool:
    """Whether a line belongs to one of `GROUPS`."""
    return group == "all" or trivial(line) == (group == "trivial")


def summarise(tasks: Sequence[Task], answers: Sequence[str], common: CommonLines | None) -> dict[str, Any]:
    """Exact match with its intervals, by group and by language, beside the baselines on the same tasks.

    Args:
        tasks: what was asked.
        answers: what the model wrote, one a task.
        common: None where there is no training split; then there is no majority-line baseline.
    """
    result: dict[str, Any] = {
        "tasks": len(tasks),
        "files": len({task.document.id for task in tasks}),
        "groups": {},
        "by_language": {},
    }
    for group in GROUPS:
        chosen = [(task, answer) for task, answer in zip(tasks, answers, strict=True) if in_group(task.line, group)]
        result["groups"][group] = _scores(chosen, common, group)
    for language in sorted({task.document.language for task in tasks}):
        hits = [exact(a, t.line) for t, a in zip(tasks, answers, strict=True) if t.document.language == language]
        result["by_language"][language] = share(sum(hits), len(hits))
    return result


def _scores(chosen: Sequence[tuple[Task, str]], common: CommonLines | None, group: str) -> dict[str, Any]:
    n = len(chosen)
    strict = [exact(answer, task.line) for task, answer in chosen]
    first = [exact_first_line(answer, task.line) for task, answer in chosen]
    copied = [exact(task.previous, task.line) for task, _ in chosen]
    scores: dict[str, Any] = {
        "exact_match": share(sum(strict), n),
        "exact_match_first_line": share(sum(first), n),
        "copy_previous_line": share(sum(copied), n),
        "majority_line": None,
        "against_majority_line": None,
    }
    if common is not None:
        guessed = [exact(common.guess(task, group), task.line) for task, _ in chosen]
        scores["majority_line"] = share(sum(guessed), n)
        scores["against_majority_line"] = compare_shares(strict, guessed)
    scores["against_copy_previous_line"] = compare_shares(strict, copied)
    return scores
