"""Completions of several tools: what is read, which program it becomes, and what is wrong named in one line."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.completions import Problems, made_by, programs, read_completions, read_problems

ROWS: list[dict[str, Any]] = [
    {
        "task_id": f"Own/{number}",
        "prompt": f"def f{number}(x):\n",
        "entry_point": f"f{number}",
        "test": f"def check(candidate):\n    assert candidate(1) == {number}\n",
    }
    for number in range(3)
]


def lines(path: Path, rows: list[Any]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


@pytest.fixture
def problems(tmp_path: Path) -> Problems:
    return read_problems(lines(tmp_path / "problems.jsonl", ROWS))


def read(problems: Problems, path: str) -> list[tuple[str, str, int]]:
    """(problem, program, sample) of each completion."""
    answers, _ = read_completions(path, problems)
    asked, made = programs(answers, problems)
    return [(one.id, program.code, one.sample) for one, program in zip(asked, made, strict=True)]


EXPECTED = [("Own/0", "def f0(x):\n    return 0", 0), ("Own/2", "def f2(x):\n    return 2", 0)]


def test_every_format_gives_the_same_programs(problems: Problems, tmp_path: Path) -> None:
    path = tmp_path / "completions"
    ours = {"sample": 0, "ended": True, "by": {"task": "humaneval"}}
    human = [{"task_id": name, "completion": code[len("def f0(x):\n") :]} for name, code, _ in EXPECTED]
    logged = [
        {"doc_id": 0, "doc": {"task_id": row["task_id"]}, "resps": [[row["completion"]]], "filtered_resps": ["x"]}
        for row in human
    ]
    for rows in (human, [row | ours for row in human], logged):
        assert read(problems, lines(path, rows)) == EXPECTED
    assert read(problems, lines(path, [{"task_id": n, "solution": code} for n, code, _ in EXPECTED])) == EXPECTED
    path.write_text(json.dumps(human))
    assert read(problems, str(path)) == EXPECTED
    path.write_bytes(gzip.compress("\n\n".join(map(json.dumps, human)).encode()))
    assert read(problems, str(path)) == EXPECTED
    # bigcode's has no ids and holds whole programs; the second problem was given no completion.
    path.write_text(json.dumps([[EXPECTED[0][1]], [], [EXPECTED[1][1]]]))
    assert read(problems, str(path)) == EXPECTED


def test_samples_are_counted_in_the_order_of_the_file(problems: Problems, tmp_path: Path) -> None:
    rows = [{"task_id": f"Own/{number}", "completion": "    pass"} for number in (2, 0, 2, 2, 0)]
    assert [(name, sample) for name, _, sample in read(problems, lines(tmp_path / "c", rows))] == [
        ("Own/2", 0), ("Own/0", 0), ("Own/2", 1), ("Own/2", 2), ("Own/0", 1)
    ]  # fmt: skip


def test_the_ids_of_a_file_come_back(problems: Problems, tmp_path: Path) -> None:
    mbpp = [
        {"task_id": n, "text": "t", "code": "c", "test_setup_code": "s = 1", "test_list": ["assert g() == 1"]}
        for n in (11, 12)
    ]
    found = read_problems(lines(tmp_path / "mbpp.jsonl", mbpp))
    answers, _ = read_completions(lines(tmp_path / "c", [{"task_id": 11, "completion": "x"}]), found)
    assert answers[0].shown == 11 and answers[0].problem == "MBPP/11"
    _, made = programs(answers, found)
    assert (made[0].code, made[0].setup, made[0].style) == ("x", "s = 1", "mbpp")
    # Other tools write it as a text, or with a prefix; all of them are samples of one problem.
    rows = [{"task_id": name, "completion": "x"} for name in ("11", "Mbpp/11", "MBPP/11", 11)]
    answers, _ = read_completions(lines(tmp_path / "c", rows), found)
    assert [(answer.problem, answer.sample) for answer in answers] == [("MBPP/11", n) for n in range(4)]


def test_the_prompt_is_where_helpers_of_the_tests_come_from(problems: Problems, tmp_path: Path) -> None:
    answers, _ = read_completions(lines(tmp_path / "c", [{"task_id": "Own/1", "completion": "    return 1"}]), problems)
    _, (program,) = programs(answers, problems, {"cpu_seconds": 2.0})
    assert program.helpers == ROWS[1]["prompt"] and program.tests == ROWS[1]["test"]
    assert program.entry_point == "f1" and program.language == "python"
    assert program.limits.cpu_seconds == 2.0 and program.limits.wall_seconds == 60.0


def test_fewer_lists_are_the_first_problems_and_it_is_said(problems: Problems, tmp_path: Path) -> None:
    path = tmp_path / "generations.json"
    path.write_text(json.dumps([["a", "b"], ["c"]]))
    answers, note = read_completions(str(path), problems)
    assert [(answer.problem, answer.sample) for answer in answers] == [("Own/0", 0), ("Own/0", 1), ("Own/1", 0)]
    assert "2 lists without ids are taken for the first problems" in note


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"task_id": "Own/0"}', "line 1: no field 'completion'"),
        ('{"completion": "x"}', "line 1: no field 'task_id'"),
        ('\n{"task_id": "Own/0", "completion": 3}', "line 2: completion is int"),
        ('{"task_id": ["Own/0"], "completion": "x"}', "line 1: task_id is list"),
        ('{"task_id": true, "completion": "x"}', "line 1: task_id is bool"),
        ('{"task_id": "Own/9", "completion": "x"}', "Own/9 of 1 completions is not in"),
        ('{"doc": {"task_id": "Own/0"}, "resps": [[null]]}', "line 1: resps is NoneType"),
        ('{"task_id": "Own/0", "completion": "x"', "line 1: no JSON"),
        ("3", "line 1: int, not an object"),
        ("", "no completions in it"),
        ("[]", "no completions in it"),
        ("[[]]", "no completions in it"),
        ('[["x"], [1]]', "list 2 holds int"),
        ('[["x"], ["x"], ["x"], ["x"]]', "4 lists for 3 problems"),
        ('["x"]', "entry 1: str, not an object"),
        ('[["x"]', "no JSON array"),
        ("[" * 100_000, "no JSON array"),
        ('{"a":' * 100_000, "line 1: no JSON"),
    ],
)
def test_bad_files_are_one_line(problems: Problems, tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text(content)
    with pytest.raises(UserError) as caught:
        read_completions(str(path), problems)
    message = str(caught.value)
    assert message.startswith(str(path)) and words in message and "\n" not in message and len(message) < 500


def test_unreadable_files_are_one_line(problems: Problems, tmp_path: Path) -> None:
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes(gzip.compress(b"x" * 10_000)[:-20])
    for path in (tmp_path / "none.jsonl", tmp_path, cut):
        with pytest.raises(UserError, match="cannot be read"):
            read_completions(str(path), problems)


def test_many_unknown_ids_are_counted(problems: Problems, tmp_path: Path) -> None:
    rows = [{"task_id": f"HumanEval/{number}", "completion": ""} for number in range(164)]
    words = r"HumanEval/0, HumanEval/1, HumanEval/2 … \(164 in all\) of 164 completions are not in"
    with pytest.raises(UserError, match=words):
        read_completions(lines(tmp_path / "c", rows), problems)


@pytest.mark.parametrize(
    ("row", "name"),
    [
        ({"task_id": 2, "text": "", "code": "", "test_setup_code": "", "test_list": []}, "mbpp"),
        ({"name": "H_0", "language": "lua", "prompt": "", "tests": "", "stop_tokens": []}, "multipl-e:lua"),
        ({"task_id": "CPP/0", "prompt": "", "test": "", "declaration": ""}, "humaneval-x:cpp"),
        ({"task_id": "Rust/0", "prompt": "", "test": "", "declaration": ""}, "humaneval-x:rust"),
        ({"task_id": "x", "prompt": "", "test": "", "entry_point": ""}, "humaneval"),
        (
            {"task_id": "JavaScript/0/L0", "language": "js", "prompt": "", "suffix": "", "canonical_solution": "",
             "test": "", "entry_point": "", "trivial": False},
            "infill:js",
        ),
        (
            {"task_id": "x", "prompt": "", "suffix": "", "canonical_solution": "", "test": "", "entry_point": ""},
            "humaneval-infilling:single",
        ),
        (
            {"task_id": "HumanEval/0", "prompt": "", "entry_point": "", "canonical_solution": "", "base_input": [],
             "plus_input": [], "atol": 0},
            "humaneval+",
        ),
    ],
)  # fmt: skip
def test_problems_are_told_by_their_fields(tmp_path: Path, row: dict[str, Any], name: str) -> None:
    assert read_problems(lines(tmp_path / "p.jsonl", [row])).task.name == name


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([{"question": "?"}], "have the fields question"),
        ([ROWS[0], {"task_id": "x", "prompt": "", "test": ""}], "problem 2: no field 'entry_point'"),
        ([ROWS[0], ROWS[0]], "problem 2: task_id 'Own/0' twice"),
        ([ROWS[0] | {"test": None}], "problem 1: field 'test' is NoneType"),
        ([{"name": "H_0", "language": "cobol", "prompt": "", "tests": "", "stop_tokens": []}], "cobol"),
        ([{"task_id": "CPP/0", "prompt": 3, "test": ""}], "problem 1: field 'prompt' is int"),
        ([], "no problems in it"),
    ],
)
def test_bad_problems_are_one_line(tmp_path: Path, rows: list[Any], words: str) -> None:
    with pytest.raises(UserError) as caught:
        read_problems(lines(tmp_path / "p.jsonl", rows))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_the_prompt_of_humanevalpack_is_whole(tmp_path: Path) -> None:
    row = {"task_id": "Rust/0", "prompt": "fn f() {\n", "declaration": "fn f() {\n", "test": "t"}
    for more, code in (({}, "fn f() {\nfn f() {\n}"), ({"buggy_solution": ""}, "fn f() {\n}")):
        found = read_problems(lines(tmp_path / "p.jsonl", [row | more]))
        answers, _ = read_completions(lines(tmp_path / "c", [{"task_id": "Rust/0", "completion": "}"}]), found)
        assert programs(answers, found)[1][0].code == code


def test_a_gap_has_no_whole_program(tmp_path: Path) -> None:
    row = {"task_id": "x", "prompt": "a", "suffix": "b", "canonical_solution": "", "test": "", "entry_point": ""}
    found = read_problems(lines(tmp_path / "p.jsonl", [row]))
    path = tmp_path / "generations.json"
    path.write_text('[["whole"]]')
    answers, _ = read_completions(str(path), found)
    with pytest.raises(UserError, match="stand in a gap"):
        programs(answers, found)


def test_a_file_of_completions_names_no_code_to_load(tmp_path: Path) -> None:
    path = tmp_path / "c.jsonl"
    row: dict[str, Any] = {"task_id": "x", "completion": "y"}
    for by, name in (
        ({"task": "humaneval"}, "humaneval"),
        ({"task": "multipl-e:lua"}, "multipl-e:lua"),
        ({"task": f"{tmp_path}/evil.py:Task"}, ""),
        ({"task": "os:system"}, ""),
        ({"task": 3}, ""),
        (None, ""),
    ):
        assert made_by(lines(path, [row | {"by": by}])) == name
    assert made_by(lines(path, [row])) == ""
