"""Small problem sets of our own in the form of the field's, a model that knows the answers, and a judge without a
sandbox, for programs that the tests themselves have written."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from codeshell.evaluate import functional
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.functional import FunctionalTask
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Completion, Prompt, Sampling
from codeshell.evaluate.verdicts import Judged, Verdict
from helpers.evaluation_fakes import ByteTokenizer

DOUBLE = 'def double(x):\n    """Twice x.\n\n    >>> double(2)\n    4\n    """\n'
AREA = "import math\n\n\ndef square(x):\n    return x * x\n\n\ndef area(r):\n" + '    """The area of a circle."""\n'
HUMANEVAL: list[dict[str, Any]] = [
    {
        "task_id": "Own/0",
        "prompt": DOUBLE,
        "entry_point": "double",
        "canonical_solution": "    return 2 * x\n",
        "test": "def check(candidate):\n    assert candidate(2) == 4\n    assert candidate(-3) == -6\n",
    },
    {
        "task_id": "Own/1",
        "prompt": AREA,
        "entry_point": "area",
        "canonical_solution": "    return math.pi * square(r)\n",
        "test": "def check(candidate):\n    assert abs(candidate(2) - 3.14159265 * square(2)) < 1e-6\n",
    },
]
HUMANEVAL_PLUS = [
    HUMANEVAL[0] | {"base_input": [[2], [-3]], "plus_input": [[0], [10**30]], "atol": 0},
    HUMANEVAL[1] | {"base_input": [[2]], "plus_input": [[0.5], [1e6]], "atol": 1e-6},
]
MBPP: list[dict[str, Any]] = [
    {
        "text": f"Write a function to add {n} to a number.",
        "code": f"def add_{n}(x):\r\n    return x + {n}",
        "task_id": n,
        "test_setup_code": "start = add_11(0)" if n == 11 else "",
        "test_list": [f"assert add_{n}({x}) == {x + n}" for x in (0, 1)] + [f"assert add_{n}(-{n}) == 0"],
        "challenge_test_list": [],
    }
    for n in (2, 3, 4, 11, 12, 601)
]
MBPP[3]["test_list"][0] = "assert add_11(start) == 22"
LUA = [
    {
        "name": "HumanEval_0_double",
        "language": "lua",
        "prompt": "-- Twice x.\nlocal function double(x)\n",
        "tests": "lu = require('luaunit')\nfunction test_humaneval()\nlu.assertEquals(double(2), 4)\nend\n\n"
        "os.exit(lu.LuaUnit.run())",
        "stop_tokens": ["\nlocal", "\nfunction", "\n--", "\n\n"],
        "canonical_solution": "    return 2 * x\nend",
    }
]
X_PYTHON = [
    {
        "task_id": "Python/0",
        "prompt": DOUBLE,
        "canonical_solution": "    return 2 * x\n",
        "test": "\n\ndef check(double):\n    assert double(2) == 4\n\ncheck(double)",
    }
]
X_RUST = [
    {
        "task_id": "Rust/0",
        "prompt": "\n/*\n Twice x.\n*/\n",
        "declaration": "\nfn double(x: i32) -> i32 {\n",
        "canonical_solution": "    2 * x\n}\n",
        "test": "#[cfg(test)]\nmod tests { use super::*; #[test] fn test() { assert_eq!(double(2), 4); } }\n",
    }
]
SINGLE_LINE: list[dict[str, Any]] = [
    {
        "task_id": f"Python/0/L{n}",
        "language": "python",
        "prompt": DOUBLE + "".join(f"{line}\n" for line in lines[:n]),
        "canonical_solution": lines[n],
        "suffix": "\n" + "\n".join(lines[n + 1 :]) + "\n",
        "test": "\n\ndef check(double):\n    assert double(2) == 4\n\ncheck(double)",
        "entry_point": "double",
        "trivial": lines[n].strip() == "else:",
    }
    for lines in [["    if x:", "        y = x + x", "    else:", "        y = 0", "    return y"]]
    for n in range(5)
]
INFILLING = [
    {
        "task_id": "SingleLineInfilling/Own/0/L0",
        "entry_point": "double",
        "prompt": DOUBLE,
        "suffix": "    return y\n",
        "canonical_solution": "    y = 2 * x\n",
        "test": HUMANEVAL[0]["test"],
    }
]
SETS: dict[str, tuple[str, list[dict[str, Any]]]] = {
    "humaneval": ("humaneval", HUMANEVAL),
    "humaneval+": ("humanevalplus", HUMANEVAL_PLUS),
    "mbpp": ("mbpp", MBPP),
    "multipl-e:lua": ("multiple-humaneval-lua", LUA),
    "humaneval-x:python": ("humaneval-x-python", X_PYTHON),
    "humaneval-x:rust": ("humaneval-x-rust", X_RUST),
    "infill:python": ("fim-single-line-python", SINGLE_LINE),
    "humaneval-infilling:single": ("humaneval-infilling-single-line", INFILLING),
}
"""File name and rows of each set, by the name of its task."""


def write_sets(folder: Path) -> Path:
    """All sets in a folder; every second file is gzipped."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, (file, rows) in enumerate(SETS.values()):
        text = "".join(json.dumps(row) + "\n" for row in rows).encode()
        if number % 2:
            (folder / f"{file}.jsonl.gz").write_bytes(gzip.compress(text))
        else:
            (folder / f"{file}.jsonl").write_bytes(text)
    return folder


class Oracle:
    """A subject whose model answers with the set's own solution, or with what `answer` makes of it.

    Attributes:
        calls: what it was asked: prompts, sampling, purpose and keys.
    """

    def __init__(
        self, task: FunctionalTask, execution: Execution, answer: Callable[[str, str], str] | None = None
    ) -> None:
        self.execution, self.seed, self.context = execution, 7, 4096
        self.tokenizer = ByteTokenizer()
        self.origin = {"name": "oracle", "hash": "0"}
        self._known = {task.prompt(row): task.reference(row) or "" for row in task.load(execution.data).rows}
        self._answer = answer or (lambda solution, key: solution)
        self.calls: list[SimpleNamespace] = []

    def room(self, max_new_tokens: int) -> int:
        return self.context - max_new_tokens

    def complete(
        self, prompts: Sequence[Prompt], sampling: Sampling, *, purpose: str, keys: Sequence[str]
    ) -> list[Completion]:
        self.calls.append(SimpleNamespace(prompts=list(prompts), sampling=sampling, purpose=purpose, keys=list(keys)))
        texts = [self._answer(self._known[prompt], key) for prompt, key in zip(prompts, keys, strict=True)]
        return [Completion(text, ended=True) for text in texts]


def judge(program: Program) -> Judged:
    """A verdict in this process, for programs in Python; another language passes if its text is as expected."""
    if program.language != "python":
        return Judged(Verdict.PASS if "2 * x" in program.code else Verdict.WRONG, level=4, toolchain="none")
    names: dict[str, Any] = {}
    try:
        exec(program.code, names)
        if program.style == "mbpp":
            exec(program.setup, names)
            exec(program.tests, names)
        else:
            candidate = names[program.entry_point]
            # As in the sandbox, the tests see the helpers' names and the function, and no other name of the candidate.
            exec(program.helpers, names := {})
            names[program.entry_point] = candidate
            exec(program.tests, names)
            names["check"](candidate)
    except AssertionError as error:
        return Judged(Verdict.WRONG, str(error), level=4, toolchain="none")
    except Exception as error:
        return Judged(Verdict.EXCEPTION, repr(error), level=4, toolchain="none")
    return Judged(Verdict.PASS, level=4, toolchain="none")


PROOF = SimpleNamespace(
    level=SimpleNamespace(name="NAMESPACES", __int__=lambda: 3), covers=("files",), does_not_cover=("kernel bugs",)
)


def without_sandbox(monkeypatch: Any, verdict: Callable[[Program], Judged] = judge) -> list[Program]:
    """Let functional tasks judge with `verdict`; the programs are in the list that is returned."""
    seen: list[Program] = []

    def run(programs: Sequence[Program], execution: Execution, name: str) -> tuple[list[Judged], Any]:
        seen.extend(programs)
        return [verdict(program) for program in programs], None

    monkeypatch.setattr(functional, "run_programs", run)
    monkeypatch.setattr(functional, "require_judge", lambda execution, language, style: None)
    return seen
