"""How functional tasks appear in the report: pass@k beside the numbers of the CodeShell report, the verdicts, the
isolation with what it does not cover, and samples with the test that failed.

Its input are the statistics of `functional_result`. What programs print is foreign: the judges clean and bound it, and
the report escapes every text.
"""

from __future__ import annotations

from typing import Any

from codeshell.evaluate.section import Bar, Cell, Interval, Row, Sample, Section, Share, Table, Text, left_over
from codeshell.evaluate.task import SAMPLE_CHARACTERS
from codeshell.evaluate.verdicts import Judged, Verdict

__all__ = ["PAPER", "VERDICTS", "claims", "sample", "section", "show"]

_TABLE_5 = ("CodeShell-7b", "CodeLlama-7b", "StarCoder-7b", "StarCoder-15b")
_TABLE_6 = ("StarCoder-15B", "CodeLlama-7B", "CodeShell-7B")

PAPER: dict[str, tuple[str, dict[str, float]]] = {
    # The report's text has the names of no other system of this table.
    "humaneval": ("Table 4", {"CodeShell-7B": 34.3}),
    "mbpp": ("Table 4", {"CodeShell-7B": 38.7}),
    **{
        f"multipl-e:{language}": ("Table 5", dict(zip(_TABLE_5, values, strict=True)))
        for language, values in {
            "js": (33.17, 31.30, 27.02, 30.50),
            "java": (30.43, 29.24, 24.30, 28.16),
            "cpp": (28.21, 27.33, 23.04, 29.69),
            "swift": (24.30, 25.32, 15.70, 18.86),
            "php": (30.87, 25.96, 22.11, 26.65),
            "d": (8.85, 11.60, 8.08, 13.33),
            "jl": (22.08, 25.28, 22.96, 22.20),
            "lua": (22.39, 30.50, 22.92, 23.35),
            "r": (20.52, 18.57, 14.29, 15.90),
            "rkt": (17.20, 12.55, 10.43, 9.94),
            "rs": (24.55, 25.90, 22.82, 21.92),
        }.items()
    },
    **{
        f"infill:{language}": ("Table 6", dict(zip(_TABLE_6, values, strict=True)))
        for language, values in {
            "python": (62.0, 67.6, 65.3),
            "java": (73.0, 74.3, 76.9),
            "js": (74.0, 80.2, 80.6),
        }.items()
    },
}
"""What the CodeShell report has for a task: its table, and the percent of each system there. Tables 4 and 5 are pass@1
in percent; Table 6 is exact match of single lines, on SantaCoder's set, of which `infill:…` is rebuilt."""

VERDICTS = {
    Verdict.PASS: "all tests held",
    Verdict.WRONG: "a test did not hold",
    Verdict.EXCEPTION: "raised or crashed",
    Verdict.CPU_TIME: "used up its CPU time",
    Verdict.WALL_TIME: "waited until the wall limit, also alone",
    Verdict.MEMORY: "asked for too much memory",
    Verdict.OUTPUT: "printed too much",
    Verdict.EARLY_EXIT: "ended before its tests",
    Verdict.COMPILE: "is no valid program",
    Verdict.NOT_RUN: "not run",
}
"""What a verdict says of a program, in a table."""


def section(title: str, result: dict[str, Any]) -> Section:
    """The task's part of the report."""
    tables = [_pass_table(result), _verdict_table(result)]
    return Section(
        title,
        tuple(_sentences(result)),
        tuple(table for table in tables if table.rows),
        others=left_over(
            result, *("problems", "answers", "pass_at", "unjudged", "verdicts", "not_run", "isolation", "paper")
        ),
    )


def claims(title: str, result: dict[str, Any]) -> list[str]:
    """Sentences that the statistics carry: pass@k with its interval, and what was not judged."""
    sentences = []
    for k, score in result["pass_at"].items():
        sentences.append(
            f"{title}: pass@{k} is {_percent(score['value'])} (95 % interval {_percents(score['interval'])}, "
            f"{score['problems']:,} problems)."
        )
    if result["unjudged"]:
        why = next(iter(result["not_run"]), "no answer")
        sentences.append(f"{title}: {_problems(result['unjudged'], 'was', 'were')} not judged ({why}).")
    return sentences


def sample(problem: str, prompt: str, completion: str, judged: Judged, after: str = "") -> dict[str, Any]:
    """One answer with its verdict, as JSON that `show` understands.

    Args:
        problem: its name.
        prompt: what the model was given; the end of it is kept.
        completion: what it wrote, cut.
        judged: the verdict.
        after: the text after the gap, where a gap was filled.
    """
    return {
        "problem": problem,
        "prompt": prompt[-SAMPLE_CHARACTERS * 2 :],
        "completion": completion[: SAMPLE_CHARACTERS * 8],
        "after": after[: SAMPLE_CHARACTERS // 2],
        "verdict": judged.verdict.value,
        "why": judged.why,
        "output": judged.output,
        "mode": judged.mode,
    }


def show(sample: dict[str, Any]) -> Sample:
    """A sample that `sample` made, as the report draws it."""
    verdict = Verdict(sample["verdict"])
    notes = [("why", sample["why"]), ("what it printed", sample["output"])]
    # A small model may write a screen of line breaks.
    texts = [Text(sample["prompt"]), Text(sample["completion"].rstrip() or " ", made=True)]
    if sample["after"]:
        texts.append(Text(sample["after"]))
    return Sample(
        verdict.value.replace("_", " "),
        verdict is Verdict.PASS,
        tuple(texts),
        path=sample["problem"],
        remarks=(sample["mode"],) if sample["mode"] else (),
        notes=tuple((label, text) for label, text in notes if text.strip()),
    )


def _sentences(result: dict[str, Any]) -> list[str]:
    """How many, how judged, and how far the isolation reaches."""
    problems, answers = result["problems"], result["answers"]
    each = f", {answers / problems:.3g} answers each" if problems and answers != problems else ""
    sentences = [
        f"{problems:,} problems{each}. An answer counts if all tests of its problem hold; pass@k is the unbiased "
        "estimate, with a bootstrap over the problems."
    ]
    if result["unjudged"]:
        reasons = "; ".join(result["not_run"]) or "no answer"
        which = _problems(result["unjudged"], "is", "are")
        sentences.append(f"{which} not in the numbers, because nothing was run: {reasons}.")
    isolation = result["isolation"]
    sentences.append(f"The programs ran at isolation level {isolation['level']} ({isolation['name']}).")
    if isolation["covers"]:
        sentences.append(f"It closes off: {'; '.join(isolation['covers'])}.")
    if isolation["does_not_cover"]:
        sentences.append(f"It does not cover: {'; '.join(isolation['does_not_cover'])}.")
    if result["paper"] in PAPER:
        table, _ = PAPER[result["paper"]]
        if table != "Table 6":
            sentences.append(f"The other rows are those of {table} of the CodeShell report, which gives no intervals.")
    return sentences


def _pass_table(result: dict[str, Any]) -> Table:
    """pass@k of the model, above the systems of the report that have a pass@1 of this task."""
    rows = []
    for k, score in result["pass_at"].items():
        low, high = score["interval"]
        cells: tuple[Cell, ...] = (f"pass@{k}", Share(score["value"]), Interval(low, high, percent=True))
        rows.append(Row("this model", cells, Bar(score["value"], 1.0, (low, high)), strong=True))
    table, systems = PAPER.get(result["paper"], ("", {}))
    # Table 6 is exact match, which is no pass@1.
    if rows and table != "Table 6":
        for name, percent in systems.items():
            rows.append(Row(name, ("pass@1", Share(percent / 100), ""), Bar(percent / 100, 1.0)))
    return Table(("Model", "Measure", "Share", "95 % interval", ""), tuple(rows))


def _verdict_table(result: dict[str, Any]) -> Table:
    """Programs by verdict, in the order of the verdicts."""
    total = result["answers"]
    rows = []
    for verdict, words in VERDICTS.items():
        count = result["verdicts"].get(verdict.value, 0)
        if count:
            share = count / total
            rows.append(Row(f"{verdict.value.replace('_', ' ')}: {words}", (count, Share(share)), Bar(share, 1.0)))
    return Table(("Verdict", "Programs", "Share", ""), tuple(rows), "What became of the programs")


def _problems(count: int, one: str, many: str) -> str:
    return f"1 problem {one}" if count == 1 else f"{count:,} problems {many}"


def _percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def _percents(ends: list[float]) -> str:
    return f"{100 * ends[0]:.1f} to {100 * ends[1]:.1f} %"
