"""Single-line infilling of solutions in Python, Java and JavaScript: exact match, and whether the tests pass.

The protocol is SantaCoder's (Allal et al. 2023; report, section 3.4 and Table 6): one line of a solution is masked, the
prompt is prefix-suffix-middle, temperature 0.2, top-p 0.95, 25 new tokens, one sample, cut at the end of text or at
the mark of a file name; an answer matches if it equals the line after `strip()`. The lines are those of a set rebuilt
from HumanEvalPack, not SantaCoder's own 4,792, so the rates can be compared only roughly.

A line is trivial by the set's own field: a lone bracket or keyword. Many lines of Java are, so the rate of the others
is given beside that of all. `functional_result`'s pass@1 counts answers with which the solution passes its tests.

Its statistics have, beside those of every functional task,

    {"exact_match": {"all" | "non_trivial" | "trivial": {"value", "interval", "problems"}}}
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

from codeshell.evaluate.functional import Asked, FamilyTask
from codeshell.evaluate.functional_section import PAPER
from codeshell.evaluate.pass_at_k import estimate
from codeshell.evaluate.problem_sets import SINGLE_LINE
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Prompt
from codeshell.evaluate.section import Bar, Interval, Row, Section, Share, Table
from codeshell.evaluate.tasks.humaneval_x import python_program
from codeshell.evaluate.tasks.infill import exact
from codeshell.evaluate.verdicts import Judged

GROUPS = {"all": "All lines", "non_trivial": "Without lone brackets and keywords", "trivial": "Lone brackets, keywords"}


class SingleLine(FamilyTask):
    """The tasks `infill:LANGUAGE`."""

    family = "infill"
    arguments = SINGLE_LINE
    max_new_tokens = 25
    temperature_by_default = 0.2

    def __init__(self, argument: str) -> None:
        super().__init__(argument)
        self.language = argument
        self.style = "humaneval" if argument == "python" else "humaneval-x"
        self.heading = f"Fill in one line of a solution, {argument}"

    def prompt(self, row: dict[str, Any]) -> Prompt:
        return Prompt(row["prompt"], row["suffix"])

    def program(self, row: dict[str, Any], completion: str) -> Program:
        code = row["prompt"] + completion + row["suffix"]
        if self.language == "python":
            # The prompt ends inside the function, so what tests may need of it is the whole solution.
            return python_program(code, row["test"], row["prompt"] + row["canonical_solution"] + row["suffix"])
        return Program(self.language, code, row["test"], row["entry_point"], style=self.style)

    def statistics(
        self, asked: Sequence[Asked], answers: Sequence[str], judged: Sequence[Judged], *, proof: Any, seed: int
    ) -> dict[str, Any]:
        result = super().statistics(asked, answers, judged, proof=proof, seed=seed)
        return result | {"exact_match": self.exact_match(asked, answers, seed=seed)}

    def exact_match(self, asked: Sequence[Asked], answers: Sequence[str], *, seed: int) -> dict[str, dict[str, Any]]:
        """The share of answers that equal their line, for each group of lines, with its interval over the lines."""
        hits: dict[str, list[bool]] = defaultdict(list)
        trivial: dict[str, bool] = {}
        for one, answer in zip(asked, answers, strict=True):
            hits[one.id].append(exact(answer, one.row["canonical_solution"]))
            trivial[one.id] = one.row["trivial"]
        shares = {name: sum(found) / len(found) for name, found in hits.items()}
        of = {
            "all": list(shares.values()),
            "non_trivial": [value for name, value in shares.items() if not trivial[name]],
            "trivial": [value for name, value in shares.items() if trivial[name]],
        }
        return {group: estimate(of[group], seed=seed, purpose=f"{self.name} exact {group}") for group in GROUPS}

    def claims(self, result: dict[str, Any]) -> list[str]:
        found = result["exact_match"]["all"]
        sentences = super().claims(result)
        if found["value"] is not None:
            sentences.append(
                f"{self.title}: {100 * found['value']:.1f} % of {found['problems']:,} lines are filled in exactly "
                f"(95 % interval {100 * found['interval'][0]:.1f} to {100 * found['interval'][1]:.1f} %)."
            )
        return sentences

    def section(self, result: dict[str, Any]) -> Section:
        section = super().section(result)
        rows = [
            Row(
                GROUPS[group],
                (score["problems"], Share(score["value"]), Interval(low, high, percent=True)),
                Bar(score["value"], 1.0, (low, high)),
                strong=group == "all",
            )
            for group, score in result["exact_match"].items()
            if score["value"] is not None
            for low, high in [score["interval"]]
        ]
        # The report's rates are of all lines.
        table, systems = PAPER[self.name]
        for name, percent in systems.items():
            rows.append(Row(f"{name} ({table})", ("", Share(percent / 100), ""), Bar(percent / 100, 1.0)))
        exact_match = Table(("Lines", "Number", "Exact match", "95 % interval", ""), tuple(rows), "Exact match")
        return Section(
            section.heading,
            section.sentences,
            (exact_match, *section.tables),
            section.charts,
            {name: value for name, value in section.others.items() if name != "exact_match"},
        )
