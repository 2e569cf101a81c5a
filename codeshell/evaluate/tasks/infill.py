"""Single-line fill-in-the-middle: mask one line of a held-out file and compare what the model writes there.

The protocol is SantaCoder's (Allal et al. 2023; report, section 3.4): prompt
`<fim_prefix>{before}<fim_suffix>{after}<fim_middle>`, generation to `<|endoftext|>` with no cut at the line's end. An
answer is correct if it equals the line after `strip()`. Here decoding is greedy, one answer per line, and the lines
come from whole held-out files instead of HumanEval bodies, so the rates cannot be compared with the report's Table 6.

With `evaluate.infill_search` the same lines are asked a second time, for the most likely answer as a whole that is not
blank (`codeshell.evaluate.search`). It is the answer that is right most often if the model's probabilities are right,
as the most common line is for whoever sees no context. It stands beside the protocol and does not replace it.

Its statistics, where a score is `{"count", "n", "share", "interval"}`:

    {"tasks", "files", "protocol",
     "groups": {"all" | "trivial" | "non_trivial": {
       "exact_match" | "exact_match_first_line" | "base" | "majority_line" | "copy_previous_line": score,
       "against_base" | "against_majority_line" | "against_copy_previous_line":
         {"n", "difference", "p_value", "significant"},
       "exact_match_search": score, "search_against_majority_line": as above; both only with a search}},
     "by_language": {name: score}}

`base` is there for a fine-tuned model alone: the whole answers of the model that tuning began with.

Its samples: `{id, path, language, line, before, target, after, answer, exact_match, trivial}`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codeshell.evaluate import claims
from codeshell.evaluate.corpus import Document
from codeshell.evaluate.intervals import compare_shares, share
from codeshell.evaluate.section import SHARE_HEAD, Sample, Section, Table, Text, difference_cell, left_over, share_row
from codeshell.evaluate.task import SAMPLES, BySystem, NotRunError, Prompt, Sampling, Task, take_turns
from codeshell.randomness import draw

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject

TASK_BYTES = 16_777_216
"""Held-out text among which lines are chosen."""

NOT_CODE = frozenset(
    {"", "asciidoc", "css", "csv", "html", "ini", "json", "less", "markdown", "org", "restructuredtext", "rmarkdown"}
    | {"scss", "svg", "tex", "text", "toml", "unknown", "xml", "xslt", "yaml"}
)
"""Languages (lower case) whose lines are not asked: prose, markup and data."""

MAX_LINE = 100
"""Characters of a line at most; longer ones are not asked."""

MAX_NEW_TOKENS = 64
"""Tokens of an answer at most. SantaCoder allows 25 of a vocabulary of 49,152; a vocabulary of 4,096 needs about twice
as many tokens for the same text. A correct answer that does not fit (with its end) counts as wrong."""

GROUPS = ("all", "trivial", "non_trivial")
GROUP_NAMES = {"all": "All lines", "non_trivial": "Lines of two words or more", "trivial": "Lines of at most one word"}
SCORES = {
    "exact_match": "the model, whole answer",
    "exact_match_first_line": "the model, first line of the answer",
    "exact_match_search": "the model, most likely line by a search",
    "base": "the base before tuning, whole answer",
    "majority_line": "most common line of the language",
    "copy_previous_line": "the line above, copied",
}
CONTEXT_LINES = 8
"""Lines that a sample shows on each side of the masked one."""
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class MaskedLine:
    """One masked line. `line` is without its newline and with its indentation."""

    document: Document
    number: int
    before: str
    line: str
    after: str
    previous: str
    """The nearest line above that is not blank."""


@dataclass(frozen=True)
class Verdict:
    """Whether an answer counts, under SantaCoder's rule and with its first line alone."""

    exact: bool
    first_line: bool


class Infill(Task):
    """The task `infill`."""

    name = "infill"
    heading = "Fill in one line"
    samples_heading = "Filled-in lines"

    def problems(self, subject: Subject) -> list[MaskedLine]:
        # A quarter of a tiny context holds no line of code.
        if self.sampling(subject).max_new_tokens < 4:
            raise NotRunError(f"a context of {subject.context} tokens holds no infilling prompt and answer")
        if not subject.settings.infill_lines:
            raise NotRunError("evaluate.infill_lines is 0")
        # Lines are asked from code alone: a line of prose or data says nothing about programming.
        documents = subject.held_out.choose(subject.seed, "infill", max_bytes=TASK_BYTES, excluded=NOT_CODE)
        masked = mask_lines(documents, seed=subject.seed, count=subject.settings.infill_lines)
        if not masked:
            raise NotRunError("no held-out line of code (by the column language)")
        return masked

    def sampling(self, subject: Subject) -> Sampling:
        # Greedy, and never more than a quarter of the context: the rest is for the text around the gap.
        return Sampling(min(MAX_NEW_TOKENS, subject.context // 4), enough=decided)

    def prompts(self, problems: Sequence[MaskedLine]) -> list[Prompt]:
        return [Prompt(masked.before, masked.after) for masked in problems]

    def answers(self, subject: Subject, problems: Sequence[MaskedLine]) -> BySystem:
        systems = super().answers(subject, problems)
        base = subject.tuned_from
        if base is not None:
            written = subject.complete(self.prompts(problems), self.sampling(subject), purpose=self.name, model=base)
            systems["base"] = [completion.text for completion in written]
        width = subject.settings.infill_search
        if width:
            found = subject.most_likely(
                self.prompts(problems),
                width=width,
                max_new_tokens=self.sampling(subject).max_new_tokens,
                # A blank line is never asked.
                counts=lambda answer: bool(answer.strip()),
            )
            systems |= {} if found is None else {"search": found}
        return systems

    def judge(self, problems: Sequence[MaskedLine], answers: Sequence[str]) -> list[Verdict]:
        # Both rules look at the same answer, so the second one costs no generation.
        return [
            Verdict(exact(answer, masked.line), exact_first_line(answer, masked.line))
            for masked, answer in zip(problems, answers, strict=True)
        ]

    def summary(
        self, subject: Subject, problems: Sequence[MaskedLine], answers: BySystem, verdicts: BySystem
    ) -> dict[str, Any]:
        # The baselines need no generation: one copies the line above, the other answers what is most common.
        common = CommonLines(subject.training_sample) if subject.training_sample else None
        found = summarise(problems, verdicts["model"], common, verdicts.get("search"), verdicts.get("base"))
        return found | {
            "protocol": (
                f"{subject.order.upper()}, greedy, at most {self.sampling(subject).max_new_tokens} new tokens, "
                "no cut at the newline, "
                f"equal after strip(); lines of at most {MAX_LINE} characters; trivial: at most one word"
                + (f"; search: a beam of {subject.settings.infill_search} rows" if "search" in verdicts else "")
            )
        }

    def samples(self, problems: Sequence[MaskedLine], answers: BySystem, verdicts: BySystem) -> list[dict[str, Any]]:
        shown = list(zip(problems, answers["model"], verdicts["model"], strict=True))[:SAMPLES]
        return [
            {
                "id": masked.document.id,
                "path": masked.document.path,
                "language": masked.document.language,
                "line": masked.number + 1,
                "before": masked.before[-400:],
                "target": masked.line,
                "after": masked.after[:200],
                "answer": answer,
                "exact_match": verdict.exact,
                "trivial": trivial(masked.line),
            }
            for masked, answer, verdict in shown
        ]

    def claims(self, result: dict[str, Any]) -> list[str]:
        sentences = []
        for group, words in (("all", "masked lines"), ("non_trivial", "masked lines of more than one word")):
            # A group without lines supports no sentence. A group has no majority line if there is no training split.
            scores = result["groups"][group]
            if not scores["exact_match"]["n"]:
                continue
            sentences.append(f"The model fills in {claims.share(scores['exact_match'])} of the {words} exactly.")
            if "base" in scores:
                sentences.append(claims.against(scores["against_base"], "the base before tuning", scores["base"]))
            majority = scores["majority_line"]
            if majority is not None:
                peer = "the most common line of the language"
                sentences.append(claims.against(scores["against_majority_line"], peer, majority))
            if "exact_match_search" in scores:
                found = claims.share(scores["exact_match_search"])
                sentences.append(f"The most likely line by a search is exact for {found} of the {words}.")
                if majority is not None:
                    sentences.append(claims.against(scores["search_against_majority_line"], peer, majority))
        return sentences

    def section(self, result: dict[str, Any]) -> Section:
        # One table per group of lines, the model above the baselines; a baseline that is missing has no row.
        tables = [
            Table(
                ("Answer", *SHARE_HEAD, "Model minus this", ""),
                tuple(
                    share_row(
                        title,
                        scores[name],
                        difference_cell(scores.get(f"against_{name}"), percent=True),
                        strong=name == "exact_match",
                    )
                    for name, title in SCORES.items()
                    if scores.get(name) is not None
                ),
                GROUP_NAMES[group],
            )
            for group, scores in ((group, result["groups"][group]) for group in GROUP_NAMES)
        ]
        # Languages with the most lines first: their intervals are the narrowest.
        ranked = sorted(result["by_language"].items(), key=lambda item: (-item[1]["n"], item[0]))
        rows = tuple(share_row(language, score) for language, score in ranked)
        if rows:
            tables.append(Table(("Language", *SHARE_HEAD, ""), rows, "By language, the model's whole answer"))
        return Section(
            self.heading,
            (
                f"{result['tasks']:,} masked lines of {result['files']:,} held-out files; an answer counts if it "
                "equals the line, apart from blanks at both ends.",
                "Intervals are Wilson's, 95 %.",
            ),
            tuple(tables),
            others=left_over(result, "groups", "by_language", "tasks", "files"),
        )

    def show(self, sample: dict[str, Any]) -> Sample:
        before = sample["before"]
        # A sample keeps a number of characters, so its first line may be cut. What is left of it would only puzzle.
        if sample["line"] > before.count("\n") + 1:
            before = before.partition("\n")[2]
        above = "".join(before.splitlines(keepends=True)[-CONTEXT_LINES:])
        # The text after the gap starts with the newline that ends the masked line.
        below = "".join(sample["after"].splitlines(keepends=True)[: CONTEXT_LINES + 1])
        return Sample(
            "exact" if sample["exact_match"] else "differs",
            sample["exact_match"],
            (Text(above), Text(sample["answer"] or " ", made=True), Text(below)),
            path=sample["path"],
            line=sample["line"],
            language=sample["language"],
            notes=(("target", sample["target"]),),
        )


def eligible(line: str) -> bool:
    """A line that can be asked: not blank, not over `MAX_LINE` characters."""
    return len(line.strip()) > 0 and len(line) <= MAX_LINE


def trivial(line: str) -> bool:
    """A line with at most one word (`\\w+`): closing brackets, `else:`, `return`, `pass`, `try:`, `});`, `\"\"\"` …"""
    return len(_WORD.findall(line)) <= 1


def mask_lines(documents: Sequence[Document], *, seed: int, count: int) -> list[MaskedLine]:
    """Choose lines by hash(seed, document id, "infill", line number).

    Every file gives one line before any gives a second, so the lines are as independent as the files allow. The first
    line of a file is never asked.

    Args:
        documents: code files, in the order in which they are asked.
        seed: decides the choice.
        count: lines at most; fewer where there are no more.
    """
    lines_of = [document.text.split("\n") for document in documents]
    # For each file the places (file, line) that can be asked, in the order of their hashes.
    ranked = [
        sorted(
            ((file, number) for number in range(1, len(lines)) if eligible(lines[number])),
            key=lambda place: (draw(seed, documents[place[0]].id, "infill", place[1]), place[1]),
        )
        for file, lines in enumerate(lines_of)
    ]
    return [_mask(documents[file], lines_of[file], number) for file, number in take_turns(ranked, count)]


def _mask(document: Document, lines: list[str], number: int) -> MaskedLine:
    # before + line + after is the whole text; the newlines around the line are given, not asked.
    before = "\n".join(lines[:number]) + "\n"
    after = "".join("\n" + line for line in lines[number + 1 :])
    previous = next((line for line in reversed(lines[:number]) if line.strip()), "")
    return MaskedLine(document, number, before, lines[number], after, previous)


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
    """The most common line of each language in the training split, under the same rules, for each group of lines."""

    def __init__(self, documents: Iterable[Document]) -> None:
        counters: dict[str, Counter[str]] = {}
        # Counted like the questions: not the first line of a file, not what is never asked, without indentation.
        for document in documents:
            counter = counters.setdefault(document.language, Counter())
            counter.update(line.strip() for line in document.text.split("\n")[1:] if eligible(line))
        self.lines: dict[str, dict[str, str]] = {group: {} for group in GROUPS}
        for language, counter in counters.items():
            # The more frequent first, then the alphabet: equal counts give the same line on every machine.
            ranked = sorted(counter.items(), key=lambda item: (-item[1], item[0]))
            # Each group has its own most common line: the best guess if the group is known.
            for group in GROUPS:
                line = next((line for line, _ in ranked if in_group(line, group)), "")
                self.lines[group][language] = line

    def guess(self, masked: MaskedLine, group: str) -> str:
        """The baseline's answer; "" (always wrong) for a language that the training split lacks."""
        return self.lines[group].get(masked.document.language, "")


def in_group(line: str, group: str) -> bool:
    """Whether a line belongs to one of `GROUPS`."""
    return group == "all" or trivial(line) == (group == "trivial")


def summarise(
    problems: Sequence[MaskedLine],
    verdicts: Sequence[Verdict],
    common: CommonLines | None,
    searched: Sequence[Verdict] | None = None,
    base: Sequence[Verdict] | None = None,
) -> dict[str, Any]:
    """Exact match with its intervals, by group and by language, beside the baselines on the same lines.

    Args:
        problems: what was asked.
        verdicts: on the model's answers, one per line.
        common: None where there is no training split; then there is no baseline of the most common line.
        searched: verdicts on what a search found, one per line; None where there was none.
        base: verdicts on the answers of the model that tuning began with; None where there is none.
    """
    # (line, verdict, verdict on what was searched); a line is in the group "all" and in one of the other two.
    found: Sequence[Verdict | None] = [None] * len(problems) if searched is None else searched
    judged = list(zip(problems, verdicts, found, strict=True))
    by_language: dict[str, list[bool]] = {}
    for masked, verdict, _ in judged:
        by_language.setdefault(masked.document.language, []).append(verdict.exact)
    groups = {
        group: _scores(
            [entry for entry in judged if in_group(entry[0].line, group)], common, group, searched is not None
        )
        for group in GROUPS
    }
    if base is not None:
        for group, scores in groups.items():
            of_group = [
                (mine.exact, theirs.exact)
                for (masked, mine, _), theirs in zip(judged, base, strict=True)
                if in_group(masked.line, group)
            ]
            ours, before = [mine for mine, _ in of_group], [theirs for _, theirs in of_group]
            scores["base"] = share(sum(before), len(before))
            scores["against_base"] = compare_shares(ours, before)
    return {
        "tasks": len(problems),
        "files": len({masked.document.id for masked in problems}),
        "groups": groups,
        "by_language": {name: share(sum(hits), len(hits)) for name, hits in sorted(by_language.items())},
    }


def _scores(
    judged: Sequence[tuple[MaskedLine, Verdict, Verdict | None]],
    common: CommonLines | None,
    group: str,
    searching: bool,
) -> dict[str, Any]:
    # One entry per line of the group, in the same order for the model and for each baseline: the tests are paired.
    n = len(judged)
    strict = [verdict.exact for _, verdict, _ in judged]
    copied = [exact(masked.previous, masked.line) for masked, _, _ in judged]
    searched = [found.exact for _, _, found in judged if found is not None]
    scores: dict[str, Any] = {
        "exact_match": share(sum(strict), n),
        "exact_match_first_line": share(sum(verdict.first_line for _, verdict, _ in judged), n),
        "copy_previous_line": share(sum(copied), n),
        "majority_line": None,
        "against_majority_line": None,
    }
    if common is not None:
        guessed = [exact(common.guess(masked, group), masked.line) for masked, _, _ in judged]
        scores["majority_line"] = share(sum(guessed), n)
        scores["against_majority_line"] = compare_shares(strict, guessed)
        if searching:
            scores["search_against_majority_line"] = compare_shares(searched, guessed)
    if searching:
        scores["exact_match_search"] = share(sum(searched), n)
    scores["against_copy_previous_line"] = compare_shares(strict, copied)
    return scores
