"""Infilling: which lines are asked, what the model is shown, and when an answer counts."""

from __future__ import annotations

import pytest
from helpers import chat_templates
from helpers.evaluation_fakes import ByteTokenizer, document
from helpers.evaluation_run import byte_tokenizer

from codeshell.evaluate.prompts import NotRunError, Prompt, prompt_ids
from codeshell.evaluate.tasks.infill import (
    NOT_CODE,
    CommonLines,
    Infill,
    eligible,
    exact,
    exact_first_line,
    mask_lines,
    summarise,
    trivial,
)
from codeshell.train import fim

TEXT = "import os\n\ndef f(a):\n    if a:\n        return os.sep\n    else:\n        return a\n"


@pytest.mark.parametrize(
    ("answer", "strict", "first"),
    [
        ("        return a", True, True),
        ("return a", True, True),
        ("return a\n", True, True),
        ("\treturn a \r", True, True),
        ("return a\n\n\n", True, True),
        ("return a\nx = 1", False, True),
        ("return  a", False, False),
        ("return b", False, False),
        ("\nreturn a", True, False),
        ("", False, False),
        ("Return a", False, False),
    ],
)
def test_when_an_answer_counts(answer: str, strict: bool, first: bool) -> None:
    assert exact(answer, "        return a") == strict
    assert exact_first_line(answer, "        return a") == first


@pytest.mark.parametrize(
    "line",
    ["}", "    else:", "return", "\tpass", "try:", "});", '"""', "end", "// ---", "*/", "# x", "x)", "{ 5 }", "break;"],
)
def test_trivial_lines(line: str) -> None:
    assert trivial(line) and eligible(line)


@pytest.mark.parametrize("line", ["return a", "x += 1", "f(y)", "elif b:", "import os", "} else if {", "a.b"])
def test_lines_that_are_not_trivial(line: str) -> None:
    assert not trivial(line)


def test_blank_first_and_long_lines_are_no_tasks() -> None:
    text = "first line\n\n   \n" + "x" * 101 + "\n" + "y" * 100 + "\nz\n"
    assert sorted(task.line for task in mask_lines([document(text)], seed=0, count=99)) == ["y" * 100, "z"]


def test_a_task_puts_the_file_back_together() -> None:
    crlf = "a\r\nb\r\n\r\nc"
    for text in (TEXT, "one\ntwo", crlf, "a\n\n\n  b\n"):
        for task in mask_lines([document(text)], seed=0, count=99):
            assert task.before + task.line + task.after == text
            assert task.before.endswith("\n") and (task.after == "" or task.after.startswith("\n"))
            assert "\n" not in task.line
    by_line = {task.line: task for task in mask_lines([document(TEXT)], seed=0, count=99)}
    assert by_line["def f(a):"].previous == "import os"


def test_every_file_is_asked_before_any_is_asked_twice() -> None:
    files = [document("head\n" + "\n".join(f"line {n} of {name}" for n in range(30))) for name in "abcd"]
    tasks = mask_lines(files, seed=1, count=6)
    asked = [task.document.id for task in tasks]
    assert sorted(asked[:4]) == sorted(item.id for item in files)
    assert asked[4:] == asked[:2]
    assert len({(task.document.id, task.number) for task in tasks}) == 6


def test_the_choice_is_a_hash_of_seed_and_document() -> None:
    files = [document("head\n" + "\n".join(f"line {n} of {name}" for n in range(30))) for name in "abcd"]
    first = {(t.document.id, t.number) for t in mask_lines(files, seed=1, count=4)}
    assert first == {(t.document.id, t.number) for t in mask_lines(files[::-1], seed=1, count=4)}
    assert first != {(t.document.id, t.number) for t in mask_lines(files, seed=2, count=4)}


def test_fewer_lines_than_asked_are_all_asked() -> None:
    assert len(mask_lines([document("a\nb\nc"), document("x")], seed=0, count=50)) == 2
    assert mask_lines([], seed=0, count=5) == []


def test_the_prompt_is_prefix_suffix_middle() -> None:
    task = Prompt("ab\n", "\nef")
    ids = prompt_ids(task, ByteTokenizer(), context=64, max_new_tokens=8)
    assert ids == [257, *b"ab\n", 259, *b"\nef", 258]
    assert prompt_ids(task, ByteTokenizer(), context=64, max_new_tokens=8, start=[256]) == [256, *ids]


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        (100, 100, (25, 25)),
        (100, 5, (45, 5)),
        (5, 100, (5, 45)),
        (25, 100, (25, 25)),
        (0, 100, (0, 50)),
        (100, 0, (50, 0)),
        (20, 30, (20, 30)),
    ],
)
def test_what_does_not_fit_is_cut_far_from_the_line(before: int, after: int, kept: tuple[int, int]) -> None:
    head = bytes(65 + n % 26 for n in range(before)).decode()
    tail = bytes(97 + n % 26 for n in range(after)).decode()
    ids = prompt_ids(Prompt(head, tail), ByteTokenizer(), context=61, max_new_tokens=8)
    assert len(ids) == sum(kept) + 3 <= 61 - 8
    assert ids == [257, *head.encode()[before - kept[0] :], 259, *tail.encode()[: kept[1]], 258]


def test_no_room_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"^context: 12 "):
        prompt_ids(Prompt("a", "b"), ByteTokenizer(), context=12, max_new_tokens=8)
    with pytest.raises(ValueError, match=r"^context: 8 "):
        prompt_ids(Prompt("a"), ByteTokenizer(), context=8, max_new_tokens=8)


def test_a_continuation_keeps_the_end_of_its_text() -> None:
    ids = prompt_ids(Prompt("abcdefgh"), ByteTokenizer(), context=12, max_new_tokens=8, start=[256])
    assert ids == [256, *b"fgh"]


def test_special_tokens_in_the_text_stay_text() -> None:
    line = "x = '<|endoftext|><fim_middle>'"
    task = mask_lines([document("a\n" + line)], seed=0, count=1)[0]
    ids = prompt_ids(*Infill().prompts([task]), ByteTokenizer(), context=200, max_new_tokens=60)
    assert [token for token in ids if token > 255] == [257, 259, 258]
    assert exact(ByteTokenizer().decode(ByteTokenizer().encode(line)), task.line)


def test_the_prompt_is_what_training_has_before_the_middle() -> None:
    tokenizer = byte_tokenizer()
    for task in mask_lines([document(TEXT)], seed=0, count=99):
        trained = fim.encode(fim.Plan("psm", task.before, task.line, task.after), tokenizer)
        asked = prompt_ids(*Infill().prompts([task]), tokenizer, context=512, max_new_tokens=64)
        assert trained == asked + tokenizer.encode(task.line)


def test_the_most_common_line_by_language_and_group() -> None:
    common = CommonLines(
        [
            document("pass\npass\nelse:\n  else:\n    else:\nimport os\nimport os\nx = 1\n"),
            document("first\n}\n}\n", language="C"),
        ]
    )
    assert common.lines["all"] == {"Python": "else:", "C": "}"}
    assert common.lines["trivial"]["Python"] == "else:"
    assert common.lines["non_trivial"] == {"Python": "import os", "C": ""}
    task = mask_lines([document("a\nelse:", language="Go")], seed=0, count=1)[0]
    assert common.guess(task, "all") == "" and not exact(common.guess(task, "all"), task.line)


def test_equally_common_lines_are_ranked_by_the_alphabet() -> None:
    for text in ("h\nb b\na a\n", "h\na a\nb b\n"):
        assert CommonLines([document(text)]).lines["all"]["Python"] == "a a"


def test_the_summary_counts_by_group() -> None:
    texts = ["h\nelse:\nelse:\n", "h\nx = 1", "h\ny = 2\n"]
    tasks = sorted(mask_lines([document(text) for text in texts], seed=0, count=99), key=lambda task: task.line)
    assert [task.line for task in tasks] == ["else:", "else:", "x = 1", "y = 2"]
    verdicts = Infill().judge(tasks, ["else:\n", "if", "x = 1\ny", "y = 2"])
    result = summarise(tasks, verdicts, CommonLines([document("h\nelse:\nz = 3")]))
    everything, plain = result["groups"]["all"], result["groups"]["non_trivial"]
    assert result["tasks"] == 4 and result["files"] == 3
    assert everything["exact_match"]["count"] == 2 and everything["exact_match"]["n"] == 4
    assert everything["exact_match_first_line"]["count"] == 3
    assert everything["majority_line"]["count"] == 2
    assert everything["copy_previous_line"]["count"] == 1
    assert plain["exact_match"]["count"] == 1 and plain["exact_match"]["n"] == 2
    assert plain["majority_line"]["count"] == 0
    assert result["groups"]["trivial"]["exact_match"]["n"] == 2
    assert result["by_language"]["Python"]["share"] == 0.5
    assert not everything["against_majority_line"]["significant"]
    alone = summarise(tasks, Infill().judge(tasks, ["", "", "", ""]), None)["groups"]["all"]
    assert alone["majority_line"] is None and alone["exact_match"]["count"] == 0


def test_what_a_search_found_is_counted_beside_the_greedy_answers() -> None:
    tasks = mask_lines([document("h\nelse:\nx = 1\ny = 2\n")], seed=0, count=99)
    greedy, searched = (Infill().judge(tasks, [line] * 3) for line in ("no", "else:"))
    result = summarise(tasks, greedy, CommonLines([document("h\nx = 1")]), searched)
    for group, found, common in (("all", 1, 1), ("trivial", 1, 0), ("non_trivial", 0, 1)):
        scores = result["groups"][group]
        assert scores["exact_match"]["count"] == 0 and scores["exact_match_search"]["count"] == found
        assert scores["search_against_majority_line"]["difference"] * scores["exact_match"]["n"] == found - common
    # The report has a row for it, and a group without a line has its zero.
    rows = [row.name for row in Infill().section(result | {"protocol": ""}).tables[0].rows]
    assert any("search" in name for name in rows)
    alone = summarise(tasks[:1], greedy[:1], None, searched[:1])["groups"]
    assert {alone[group]["exact_match_search"]["n"] for group in ("trivial", "non_trivial")} == {0, 1}
    assert "search_against_majority_line" not in alone["all"]


def test_prose_and_data_are_no_code() -> None:
    assert {"markdown", "json", "html", ""} <= NOT_CODE
    assert not NOT_CODE & {"python", "c", "c++", "shell", "java", "makefile"}


def test_a_prompt_with_the_suffix_first_has_the_same_text():
    """Both sides have as much text as with the prefix first; the prefix stands next to the answer, as in training."""
    task = Prompt("abcdefgh" * 9, "ijklmnop" * 9)
    prefix_first, suffix_first = (
        prompt_ids(task, ByteTokenizer(), context=64, max_new_tokens=8, start=[7], order=order)
        for order in ("psm", "spm")
    )
    t = ByteTokenizer()
    middle, suffix = prefix_first.index(t.fim_suffix), prefix_first.index(t.fim_middle)
    before, after = prefix_first[2:middle], prefix_first[middle + 1 : suffix]
    assert suffix_first == [7, t.fim_prefix, t.fim_suffix, *after, t.fim_middle, *before]
    assert len(suffix_first) == 64 - 8


def test_a_tokenizer_without_marks_of_a_gap_is_not_run() -> None:
    """A run that trained without gaps still gets its other tasks: the error of training must not end its evaluation."""
    tokenizer = chat_templates.ours("llama-3")
    for order in ("psm", "spm"):
        with pytest.raises(NotRunError, match="no fill-in-the-middle tokens"):
            prompt_ids(Prompt("a", "b"), tokenizer, context=64, max_new_tokens=8, order=order)
    assert prompt_ids(Prompt("a"), tokenizer, context=64, max_new_tokens=8) == tokenizer.encode("a")
