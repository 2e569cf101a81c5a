"""Statistics and section of functional tasks: pass@k against counting by hand, the report's rows, escaped text."""

from __future__ import annotations

import itertools
import json
from types import SimpleNamespace
from typing import Any

import lxml.html
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codeshell.evaluate import functional_result, functional_section
from codeshell.evaluate.section import Row, Share, Table
from codeshell.evaluate.tasks import get_task, in_package
from codeshell.evaluate.verdicts import Judged, Verdict, one_line, tail
from codeshell.report import evaluation as drawn

PROOF: Any = SimpleNamespace(
    level=type("Level", (int,), {"name": "NAMESPACES_CGROUP"})(4),
    covers=("files", "network"),
    does_not_cover=("faults of the kernel",),
)


def judged(*verdicts: str) -> list[Judged]:
    why = {"not_run": "install swift"}
    return [Judged(Verdict(name), why.get(name, ""), toolchain="CPython 3.11.7", level=4) for name in verdicts]


def statistics(ids: list[str], verdicts: list[Judged], paper: str = "") -> dict[str, Any]:
    made = functional_result.statistics(ids, verdicts, proof=PROOF, seed=0, paper=paper)
    # It becomes JSON, with no number that JSON has not.
    copy: dict[str, Any] = json.loads(json.dumps(made, allow_nan=False))
    return copy


@given(st.lists(st.lists(st.booleans(), min_size=1, max_size=6), min_size=1, max_size=6))
def test_pass_at_1_is_the_mean_over_problems_of_the_share_that_passes(solved: list[list[bool]]) -> None:
    ids = [str(at) for at, samples in enumerate(solved) for _ in samples]
    flat = list(itertools.chain.from_iterable(solved))
    result = statistics(ids, judged(*("pass" if good else "wrong" for good in flat)))
    mean = sum(sum(samples) / len(samples) for samples in solved) / len(solved)
    score = result["pass_at"]["1"]
    assert score["value"] == pytest.approx(mean, abs=1e-6) and score["problems"] == len(solved)
    assert score["interval"][0] <= score["value"] + 1e-9 and score["value"] - 1e-9 <= score["interval"][1]
    assert sum(result["verdicts"].values()) == len(flat) == result["answers"]


def test_what_was_not_run_counts_neither_way() -> None:
    # Of a, one of two samples was not run; of b, none was run: b is in no pass@k.
    result = statistics(["a", "a", "b", "b", "c"], judged("pass", "not_run", "not_run", "not_run", "wrong"))
    assert result["pass_at"]["1"]["value"] == 0.5 and result["pass_at"]["1"]["problems"] == 2
    assert result["unjudged"] == 1 and result["problems"] == 3 and result["not_run"] == {"install swift": 3}
    section = functional_section.section("T", result)
    assert any("1 problem is not in the numbers" in text and "install swift" in text for text in section.sentences)
    assert any("1 problem was not judged (install swift)" in text for text in functional_section.claims("T", result))


def test_nothing_run_is_no_zero() -> None:
    given_up = judged("not_run", "not_run")
    result = statistics(["a", "b"], given_up)
    assert result["pass_at"] == {} and functional_result.not_run(given_up) == "install swift"
    section = functional_section.section("T", result)
    assert [table.caption for table in section.tables] == ["What became of the programs"]
    assert not any("pass@" in text for text in functional_section.claims("T", result))


def named(table: Table) -> dict[str, Row]:
    return {row.name: row for row in table.rows}


def test_the_reports_numbers_stand_beside() -> None:
    result = statistics(["a", "b"], judged("pass", "wrong"), "multipl-e:js")
    section = functional_section.section("MultiPL-E", result)
    rows = named(section.tables[0])
    assert list(rows) == ["this model", "CodeShell-7b", "CodeLlama-7b", "StarCoder-7b", "StarCoder-15b"]
    assert rows["this model"].strong and rows["this model"].cells[1] == Share(0.5)
    assert [round(row.cells[1].value, 4) for row in list(rows.values())[1:]] == [0.3317, 0.3130, 0.2702, 0.3050]  # type: ignore[union-attr]
    assert any("Table 5 of the CodeShell report" in text for text in section.sentences)
    # Exact match of Table 6 is no pass@1, and most tasks are in no table.
    for paper in ("infill:java", "simple"):
        section = functional_section.section("T", statistics(["a"], judged("pass"), paper))
        assert list(named(section.tables[0])) == ["this model"]


def test_every_row_of_the_reports_tables_is_a_task() -> None:
    assert len(functional_section.PAPER) == 2 + 11 + 3
    for name in functional_section.PAPER:
        assert in_package(name) and get_task(name).name == name


def test_isolation_and_verdicts_are_shown() -> None:
    result = statistics(["a", "b", "c"], judged("pass", "wall_time", "early_exit"))
    section = functional_section.section("T", result)
    text = " ".join(section.sentences)
    assert "level 4 (namespaces+cgroup)" in text and "closes off: files; network." in text
    assert "does not cover: faults of the kernel." in text
    assert [row.cells[0] for row in section.tables[-1].rows] == [1, 1, 1]
    assert [row.name.partition(":")[0] for row in section.tables[-1].rows] == ["pass", "wall time", "early exit"]
    assert set(functional_section.VERDICTS) == set(Verdict)
    # What no table shows is listed; what is shown is not.
    assert set(section.others) == {"modes", "toolchains"}


HOSTILE = "<script>alert(1)</script>\x1b[2J\x00\u202e'\"&"


def test_foreign_text_is_escaped() -> None:
    one = Judged(Verdict.WRONG, one_line(f"assert f() == {HOSTILE}"), tail(HOSTILE * 2000), mode="same-process")
    sample = functional_section.sample(HOSTILE, HOSTILE, HOSTILE * 1000, one, after=HOSTILE)
    sample = json.loads(json.dumps(sample))
    shown = functional_section.show(sample)
    assert shown.verdict == "wrong" and not shown.good and shown.remarks == ("same-process",)
    markup = str(drawn._sample(shown))
    page = lxml.html.fromstring(markup)
    assert not page.xpath("//script") and "<script>alert(1)</script>" in page.text_content()
    notes = dict(shown.notes)
    assert notes["why"].startswith("assert f() == <script>") and "\x1b" not in "".join(notes.values())


def test_a_sample_says_what_there_is() -> None:
    sample = functional_section.sample("a/1", "def f():\n", "", Judged(Verdict.PASS))
    shown = functional_section.show(sample)
    assert shown.good and shown.notes == () and shown.path == "a/1" and len(shown.texts) == 2
