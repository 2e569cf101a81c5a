"""Every functional task: a model that answers the set's own solutions solves all of it, one that does not does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from helpers.functional_sets import MBPP, SETS, Oracle, judge, without_sandbox, write_sets

from codeshell.errors import UserError
from codeshell.evaluate import functional
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.functional import FunctionalTask
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import NotRunError, Prompt
from codeshell.evaluate.section import Sample
from codeshell.evaluate.tasks import get_task
from codeshell.evaluate.tasks.humaneval_plus import plus_tests
from codeshell.evaluate.verdicts import Judged, Verdict


@pytest.fixture
def sets(tmp_path: Path) -> str:
    return str(write_sets(tmp_path / "sets"))


def task_of(name: str) -> FunctionalTask:
    task = get_task(name)
    assert isinstance(task, FunctionalTask)
    return task


@pytest.mark.parametrize("name", list(SETS))
def test_the_solutions_solve_every_task(name: str, sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_sandbox(monkeypatch)
    task = task_of(name)
    measured = task.measure(Oracle(task, Execution(data=sets)))
    result = measured.result
    assert result["pass_at"]["1"]["value"] == 1.0 and result["verdicts"] == {"pass": result["answers"]}
    assert result["data"]["sha256"] == task.load(sets).sha256
    assert result["model"] == {"name": "oracle", "hash": "0"} and result["prompts_cut"] == 0
    # The report can be drawn from what is kept.
    assert task.section(result).heading == task.title and task.claims(result)
    assert all(isinstance(task.show(sample), Sample) for sample in measured.samples or [])


@pytest.mark.parametrize("name", [name for name in SETS if "rust" not in name and "lua" not in name])
def test_wrong_answers_solve_none(name: str, sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_sandbox(monkeypatch)
    task = task_of(name)
    wrong = "def nothing():\n    return None\n" if name == "mbpp" else "    x = None\n    return None"
    result = task.measure(Oracle(task, Execution(data=sets), lambda solution, key: wrong)).result
    assert result["pass_at"]["1"]["value"] == 0.0 and "pass" not in result["verdicts"]


def test_what_follows_the_answer_is_cut(sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = without_sandbox(monkeypatch)
    more = {
        "humaneval": "\n\ndef broken(:\n",
        "mbpp": "\n[DONE]\nbroken (\n",
        "multipl-e:lua": "\n\nlocal broken",
        "humaneval-x:rust": "\nfn main() { broken",
    }
    for name, rest in more.items():
        task = task_of(name)
        oracle = Oracle(task, Execution(data=sets), lambda solution, key, rest=rest: solution + rest)
        assert task.measure(oracle).result["pass_at"]["1"]["value"] == 1.0
        # Generation stops where the cut is.
        enough = oracle.calls[0].sampling.enough
        assert enough("    return 1" + ("\n}" if "rust" in name else "") + rest) and not enough("    return 1")
    assert not any("broken" in program.code for program in programs)


def test_samples_have_keys_of_their_own(sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_sandbox(monkeypatch)
    monkeypatch.setattr(functional, "TOGETHER", 3)
    task = task_of("humaneval")
    # The second of four samples of a problem is right.
    oracle = Oracle(
        task, Execution(samples=4, data=sets), lambda solution, key: solution if key.endswith("\x1f1") else "    pass"
    )
    result = task.measure(oracle).result
    keys = [key for call in oracle.calls for key in call.keys]
    assert len(keys) == len(set(keys)) == 8 and keys[0] == "Own/0\x1f0" and keys[2] == "Own/0\x1f1"
    assert [len(call.keys) for call in oracle.calls] == [3, 3, 2]
    assert result["pass_at"]["1"]["value"] == 0.25
    assert result["sampling"]["temperature"] == 0.2 and result["sampling"]["top_p"] == 0.95


def test_the_settings_of_sampling() -> None:
    task, infill = task_of("humaneval"), task_of("infill:js")
    assert task.settings(Execution()) == (1, 0.0, 1.0)
    assert task.settings(Execution(samples=20)) == (20, 0.2, 0.95)
    assert task.settings(Execution(samples=20, temperature=0.8, top_p=1.0)) == (20, 0.8, 1.0)
    # SantaCoder's protocol.
    assert infill.settings(Execution()) == (1, 0.2, 0.95) and infill.max_new_tokens == 25
    for bad in (Execution(samples=0), Execution(samples=2, temperature=0.0)):
        with pytest.raises(UserError):
            task.settings(bad)


def test_the_limit_takes_the_first_problems(sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_sandbox(monkeypatch)
    task = task_of("humaneval")
    assert task.measure(Oracle(task, Execution(limit=1, data=sets))).result["problems"] == 1
    with pytest.raises(UserError, match="--limit 0"):
        task.chosen(task.load(sets), Execution(limit=0))


def test_mbpp_shows_three_solved_problems(sets: str) -> None:
    task = task_of("mbpp")
    found = task.load(sets)
    assert [row["task_id"] for row in found.rows] == [11, 12]
    prompt = task.prompt(found.rows[1]).before
    assert prompt.count("[BEGIN]") == 4 and prompt.count("[DONE]") == 3 and "\r" not in prompt
    assert prompt.startswith(
        "You are an expert Python programmer, and here is your task: Write a function to add 2 to a number. Your code "
        "should pass these tests:\n\nassert add_2(0) == 2\nassert add_2(1) == 3\nassert add_2(-2) == 0\n[BEGIN]\n"
        "def add_2(x):\n    return x + 2\n[DONE]\n\nYou are"
    )
    assert prompt.endswith("assert add_12(-12) == 0\n[BEGIN]\n")


def test_mbpp_without_its_examples(tmp_path: Path) -> None:
    for rows, message in ((MBPP[1:], "no problem with task_id 2"), (MBPP[:3] + MBPP[-1:], "task_id of 11 to 510")):
        path = tmp_path / "mbpp.jsonl"
        path.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
        with pytest.raises(UserError, match=message):
            task_of("mbpp").load(str(path))


def test_infilling_asks_for_the_middle_and_reports_exact_matches(sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    programs = without_sandbox(monkeypatch)
    task = task_of("infill:python")

    # Another line with the same effect passes, and is no exact match; blanks at its ends do not matter.
    def answer(solution: str, key: str) -> str:
        return {"        y = x + x": "        y = 2 * x", "    return y": "return y  "}.get(solution, solution)

    oracle = Oracle(task, Execution(data=sets), answer)
    result = task.measure(oracle).result
    assert oracle.calls[0].prompts[0] == Prompt(*(SETS["infill:python"][1][0][name] for name in ("prompt", "suffix")))
    exact = result["exact_match"]
    assert {group: (score["value"], score["problems"]) for group, score in exact.items()} == {
        "all": (0.8, 5),
        "non_trivial": (0.75, 4),
        "trivial": (1.0, 1),
    }
    # The unindented `return y` is an exact match by the rule, and no Python.
    assert result["verdicts"] == {"pass": 4, "exception": 1}
    assert programs[1].code.endswith("    if x:\n        y = 2 * x\n    else:\n        y = 0\n    return y\n")
    heads = [table.caption for table in task.section(result).tables]
    assert heads[0] == "Exact match" and "exact_match" not in task.section(result).others
    assert any("filled in exactly" in claim for claim in task.claims(result))


def test_tests_of_humaneval_plus() -> None:
    row = SETS["humaneval+"][1][1]
    program = task_of("humaneval+").program(row, "    return math.pi * r * r\n")
    assert judge(program).verdict == Verdict.PASS
    # Wrong for one of the added inputs only.
    assert judge(_with(program, row, "    return math.pi * min(r, 9e5) ** 2\n")).verdict == Verdict.WRONG
    assert judge(_with(program, row, "    return 'x'\n")).verdict == Verdict.WRONG


def _with(program: Program, row: dict[str, Any], completion: str) -> Program:
    return Program("python", row["prompt"] + completion, program.tests, program.entry_point, helpers=program.helpers)


@pytest.mark.parametrize(
    ("expected", "atol", "found", "same"),
    [
        ("[1, 2]", 0, "[1, 2]", True),
        ("[1, 2]", 0, "[1, 2.0000001]", False),
        ("1.0", 0, "1.0000001", True),
        ("1.0", 0, "1.001", False),
        ("[1.0, 2.0]", 0, "[1.0000001, 2.0]", True),
        ("[1.0, 2.0]", 0, "(1.0, 2.0)", False),
        ("[1.0, 2.0]", 0, "[1.0]", False),
        ("[]", 0, "[]", True),
        ("[]", 0, "[1]", False),
        ("1", 1e-4, "1.00001", False),
        ("1.0", 1e-4, "1.00005", True),
        ("float('inf')", 0, "float('inf')", True),
        ("None", 1e-4, "0.0", False),
        ("True", 0, "1", True),
    ],
)
def test_values_are_compared_as_evalplus_does(expected: str, atol: float, found: str, same: bool) -> None:
    row = {
        "prompt": "def f(x):\n",
        "canonical_solution": f"    return {expected}\n",
        "entry_point": "f",
        "base_input": [[0]],
        "plus_input": [],
        "atol": atol,
    }
    names: dict[str, Any] = {}
    exec(plus_tests(row), names)
    value = eval(found)
    if same:
        names["check"](lambda x: value)
    else:
        with pytest.raises(AssertionError, match="input 0"):
            names["check"](lambda x: value)


def test_a_zero_is_put_into_its_polynomial_and_inputs_are_copies() -> None:
    row = {
        "prompt": "def find_zero(xs):\n",
        "canonical_solution": "    return xs.pop()\n",
        "entry_point": "find_zero",
        "base_input": [[[-4, 0, 1, 0]]],
        "plus_input": [],
        "atol": 1e-4,
    }
    names: dict[str, Any] = {}
    exec(plus_tests(row), names)
    for zero in (2.0, -2.0):
        names["check"](lambda xs, zero=zero: zero * len([xs.pop()]))
    with pytest.raises(AssertionError, match="the polynomial is"):
        names["check"](lambda xs: 1.0)


def test_nothing_that_can_be_judged_is_not_run(sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    without_sandbox(monkeypatch, lambda program: Judged(Verdict.NOT_RUN, "install lua5.4"))
    task = task_of("multipl-e:lua")
    with pytest.raises(NotRunError, match=r"install lua5\.4"):
        task.measure(Oracle(task, Execution(data=sets)))


def test_the_judge_is_looked_for_before_the_model_writes(sets: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(execution: Execution, language: str, style: str) -> None:
        raise NotRunError(f"install {language} for {style}")

    monkeypatch.setattr(functional, "require_judge", missing)
    task = task_of("multipl-e:lua")
    oracle = Oracle(task, Execution(data=sets))
    with pytest.raises(NotRunError, match="install lua for multipl-e"):
        task.measure(oracle)
    assert not oracle.calls


def test_the_programs_of_each_language(sets: str) -> None:
    def program(name: str, completion: str = "X") -> Program:
        task = task_of(name)
        return task.program(task.load(sets).rows[0], completion)

    rust = program("humaneval-x:rust")
    assert rust.language == "rust" and rust.style == "humaneval-x"
    assert rust.code == "\n/*\n Twice x.\n*/\n\nfn double(x: i32) -> i32 {\nX"
    python = program("humaneval-x:python")
    assert (python.style, python.entry_point) == ("humaneval", "double")
    assert python.tests.rstrip().endswith("assert double(2) == 4")
    lua = program("multipl-e:lua")
    assert (lua.language, lua.style) == ("lua", "multipl-e") and lua.code.endswith("double(x)\nX")
    mbpp = program("mbpp")
    assert mbpp.code == "X" and mbpp.setup == "start = add_11(0)" and mbpp.tests.count("\n") == 2


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("humanevl", "did you mean humaneval"),
        ("nothing_like_it", r"humaneval\+.*mbpp.*multipl-e:…"),
        ("multipl-e:cobol", "no such language; write multipl-e: and one of cpp, cs, d, go, java"),
        ("multipl-e", "write multipl-e: and one of cpp"),
        ("multipl_e:lua", "did you mean multipl-e:lua"),
        ("humaneval-infilling:half", "no such part; write humaneval-infilling: and one of single, multi, random"),
        ("infill:lua", "one of java, js, python"),
    ],
)
def test_unknown_names_name_the_known_ones(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        get_task(name)


def test_infill_alone_is_the_task_on_documents() -> None:
    assert get_task("infill").needs_documents and not get_task("infill:python").needs_documents
