"""The same verdicts alone and at eight times the load.

Canonical and buggy solutions, the tricks, and programs that loop, sleep and eat memory are judged twice: by one worker,
and by eight per core. CPU time decides, and a program that only hit the wall limit runs again alone, so not one verdict
may differ.
"""

from __future__ import annotations

import time
from collections import Counter
from typing import Any

from evaluate_programs import humaneval, mbpp, pack, parser, tricks

from codeshell.engine.files import write_json
from codeshell.environment import environment, usable_cores
from codeshell.evaluate.judging import judge_programs
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.sandbox import levels

TIMES = 8

LIMITS = Limits(cpu_seconds=2, wall_seconds=20, memory=1 << 30)

HEAVY = {
    "loops": "def solve(numbers):\n    while True:\n        pass",
    "sleeps": "import time\ndef solve(numbers):\n    time.sleep(100)",
    "eats": "def solve(numbers):\n    return bytearray(2 << 30)",
    "works 1 s": "import time\nwhile time.process_time() < 1:\n    pass\ndef solve(numbers):\n    return 20",
}
"""What the limits end, and one that they must not end."""

TESTS = "def check(candidate):\n    assert candidate([1, 2, 3, 4]) == 20\n"


def chosen(args: Any) -> dict[str, Program]:
    """Every fourth program of the sets, all tricks, and several of each heavy one."""
    found = {f"canonical {name}": one for name, one in list(humaneval(args.data).items())[::4]}
    found |= {f"canonical {name}": one for name, one in list(mbpp(args.data).items())[::16]}
    found |= {f"buggy {name}": one for name, one in list(pack(args.data, "buggy_solution").items())[::4]}
    found |= {f"trick {name}": one for name, one in tricks().items()}
    for name, code in HEAVY.items():
        for copy in range(1 if name == "sleeps" else 4):
            found[f"{name} {copy}"] = Program("python", f"{code}\n# {copy}", TESTS, "solve", limits=LIMITS)
    return found


def main() -> None:
    args = parser(__doc__, data=True).parse_args()
    proof = levels.require()
    print(proof.line(), flush=True)
    programs = chosen(args)
    verdicts, seconds = {}, {}
    for workers in (1, TIMES * usable_cores()):
        started = time.perf_counter()
        judged = judge_programs(list(programs.values()), level=proof, workers=workers, journal=None)
        seconds[workers] = round(time.perf_counter() - started, 1)
        verdicts[workers] = [one.verdict.value for one in judged]
        print(f"{workers} workers: {seconds[workers]} s, {dict(Counter(verdicts[workers]))}", flush=True)
    alone, loaded = verdicts.values()
    different = [
        f"{name}: {one} alone, {other} under load"
        for name, one, other in zip(programs, alone, loaded, strict=True)
        if one != other
    ]
    print(f"{len(different)} of {len(programs)} verdicts differ", flush=True)
    if args.json:
        result = {
            "environment": environment(TIMES * usable_cores()),
            "level": int(proof.level),
            "programs": len(programs),
            "seconds": seconds,
            "verdicts": dict(Counter(alone)),
            "different": different,
        }
        write_json(args.json, result)


if __name__ == "__main__":
    main()
