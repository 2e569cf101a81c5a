"""Canonical solutions must pass and buggy ones must not: HumanEval, MBPP and HumanEvalPack in Python."""

from __future__ import annotations

from collections import Counter
from typing import Any

from evaluate_programs import humaneval, mbpp, pack, parser

from codeshell.engine.files import write_json
from codeshell.environment import environment
from codeshell.evaluate.judging import judge_programs
from codeshell.evaluate.sandbox import levels

WORKERS = 2


def main() -> None:
    args = parser(__doc__, data=True).parse_args()
    proof = levels.require()
    print(proof.line(), flush=True)
    sets = {
        "HumanEval, canonical": (humaneval(args.data), True),
        "MBPP, canonical": (mbpp(args.data), True),
        "HumanEvalPack, canonical": (pack(args.data, "canonical_solution"), True),
        "HumanEvalPack, buggy": (pack(args.data, "buggy_solution"), False),
    }
    result: dict[str, Any] = {"environment": environment(WORKERS), "level": int(proof.level), "sets": {}}
    for name, (programs, should_pass) in sets.items():
        judged = judge_programs(list(programs.values()), level=proof, workers=WORKERS, journal=None)
        against = [key for key, one in zip(programs, judged, strict=True) if one.passed != should_pass]
        row = {
            "programs": len(programs),
            "passed": sum(one.passed for one in judged),
            "against_what_they_are": against,
            "same_process": [key for key, one in zip(programs, judged, strict=True) if one.mode],
            "verdicts": dict(Counter(one.verdict.value for one in judged)),
        }
        result["sets"][name] = row
        print(f"{name}: {row['passed']} of {row['programs']} pass", flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
