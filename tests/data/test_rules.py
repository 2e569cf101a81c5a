"""Every rule at its boundary; the table; overrides."""

from __future__ import annotations

import math
from typing import Any

import pyarrow as pa
import pytest

from codeshell.data import rules
from codeshell.errors import UserError
from codeshell.recipe import Rules
from codeshell.scorers.text import SCORES

GOOD: dict[str, Any] = {
    "id": "0" * 32,
    "language": "python",
    "characters": 500,
    "lines": 20,
    "max_line_length": 40,
    "mean_line_length": 20.0,
    "alphanumeric": 0.7,
    "alphabetic": 0.6,
    "xml_header": False,
    "html_text_share": None,
    "html_text_characters": None,
    "generated": "",
}


def broken(table: dict[str, rules.Thresholds] | None = None, **score: Any) -> tuple[str, float, float] | None:
    scores = pa.Table.from_pylist([GOOD, GOOD | score, GOOD], schema=SCORES)
    decision = rules.decide(scores, table or rules.THRESHOLDS)
    assert decision.rule[0] == decision.rule[2] == -1, "its neighbours are not touched"
    if decision.rule[1] < 0:
        assert math.isnan(decision.value[1])
        return None
    return rules.RULES[decision.rule[1]].name, decision.value[1], decision.limit[1]


@pytest.mark.parametrize(
    ("language", "column", "rule", "limit", "passes", "breaks"),
    [
        ("python", "max_line_length", "max_line_length", 1000, 1000, 1001),
        ("python", "mean_line_length", "mean_line_length", 100, 100.0, 100.0001),
        ("python", "alphanumeric", "min_alphanumeric", 0.25, 0.25, 0.2499),
        ("vhdl", "alphabetic", "min_alphabetic", 0.25, 0.25, 0.2499),
        ("yaml", "alphabetic", "min_alphabetic", 0.5, 0.5, 0.4999),
        ("json", "alphabetic", "min_alphabetic", 0.5, 0.5, 0.4999),
        ("json", "characters", "min_characters", 50, 50, 49),
        ("json", "characters", "max_characters", 5000, 5000, 5001),
        ("yaml", "characters", "max_characters", 5000, 5000, 5001),
        ("python", "xml_header", "xml_header", 1, False, True),
        ("python", "generated", "generated", 1, "", "do not edit"),
        ("html", "html_text_share", "html_text_share", 0.2, 0.2001, 0.2),
        ("html", "html_text_characters", "html_text_characters", 100, 101, 100),
    ],
)
def test_boundaries(language: str, column: str, rule: str, limit: float, passes: Any, breaks: Any) -> None:
    score: dict[str, Any] = {"language": language}
    if language == "html":
        score |= {"html_text_share": 0.5, "html_text_characters": 400}
    assert broken(**score) is None
    assert broken(**(score | {column: passes})) is None
    value = 1.0 if isinstance(breaks, str | bool) else breaks
    assert broken(**(score | {column: breaks})) == (rule, value, limit)


@pytest.mark.parametrize("language", ["markdown", "tex", "sql", "r", "restructuredtext", "cmake", "json"])
def test_languages_without_a_line_rule(language: str) -> None:
    assert broken(language=language, max_line_length=10**6, mean_line_length=1e5) is None


def test_xslt_may_be_xml_and_a_program_may_have_few_letters() -> None:
    assert broken(language="xslt", xml_header=True) is None
    assert broken(language="python", alphabetic=0.0) is None
    assert broken(language="python", characters=1) is None


def test_the_first_rule_broken_is_the_reason() -> None:
    assert broken(max_line_length=2000, mean_line_length=2000.0, alphanumeric=0.0) == ("max_line_length", 2000, 1000)


def test_overrides_go_over_the_table_and_a_language_over_all() -> None:
    table = rules.thresholds(Rules(overrides={"*": {"max_line_length": 10}, "python": {"max_line_length": 0}}))
    assert table["python"]["max_line_length"] == 0
    assert broken(table, max_line_length=5000, mean_line_length=5.0) is None
    assert table["markdown"]["max_line_length"] == table["go"]["max_line_length"] == 10
    assert rules.THRESHOLDS["go"]["max_line_length"] == 1000, "the table itself is untouched"


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({"pyhton": {"max_line_length": 1}}, "no language 'pyhton'; did you mean python"),
        ({"python": {"max_line": 1}}, "no threshold 'max_line'; there are max_line_length"),
        ({"*": {"size": 1}}, "no threshold 'size'"),
    ],
)
def test_wrong_overrides_are_named(overrides: dict[str, dict[str, float]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        rules.thresholds(Rules(overrides=overrides))


def test_a_rule_of_ones_own_is_not_off_without_a_word() -> None:
    """A threshold of 0 switches a rule off, and 0 is what a `Threshold` has if nothing is said."""
    own = [rules.Threshold("few_stars", column="stars", drops="below")]
    with pytest.raises(UserError, match="rule few_stars: its limit is 0, which switches it off"):
        rules.thresholds(Rules(), own)
    assert rules.thresholds(Rules(overrides={"python": {"few_stars": 3}}), own)["python"]["few_stars"] == 3
    assert rules.thresholds(Rules(overrides={"*": {"few_stars": 0}}), own)["python"]["few_stars"] == 0


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string()])
def test_a_column_of_texts_says_whether_there_is_one(kind: pa.DataType) -> None:
    found = rules.numbers(pa.chunked_array([pa.array(["a phrase", "", None], kind)]))
    assert found[:2].tolist() == [1.0, 0.0] and math.isnan(found[2])


def test_no_documents_are_no_problem() -> None:
    assert len(rules.decide(SCORES.empty_table(), rules.THRESHOLDS).rule) == 0


def test_the_table_is_complete() -> None:
    assert set(rules.EXCEPTIONS) <= set(rules.THRESHOLDS)
    assert {rule.name for rule in rules.RULES} == set(rules.DEFAULT)
    assert all(set(values) == set(rules.DEFAULT) for values in rules.THRESHOLDS.values())
    assert {rule.column for rule in rules.RULES} <= set(SCORES.names)
