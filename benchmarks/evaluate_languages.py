"""The languages other than Python: canonical solutions pass, buggy ones do not, and what a program costs.

    python benchmarks/evaluate_languages.py --data DIR --json FILE [--toolchain swift=DIR] [--every 8] [--workers 2]

Three parts, each a list of rows; a language whose toolchain is absent keeps its row, with what to install:

    cases      MultiPL-E's shape: a right, a wrong, an early leaving and a broken program for each language
               (lang_cases.jsonl), and the CPU seconds of the right one
    solutions  HumanEvalPack in its five languages: all canonical solutions, and all buggy ones, by verdict
    cost       CPU seconds of a C++ and a Java program, in turns with and without what is prepared for the compiler

CPU seconds are those of all processes of compiler and program together, so that other work on the machine changes them
little. The canonical solutions of HumanEvalPack are HumanEval-X's, with a few errors of these corrected.
"""

from __future__ import annotations

import argparse
import gzip
import json
import statistics
import sys
from collections import Counter
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from codeshell.environment import environment
from codeshell.evaluate.programs import Program
from codeshell.evaluate.sandbox import levels
from codeshell.evaluate.sandbox.toolchains import Toolchain, find, get
from codeshell.evaluate.verdicts import Judged

TARGET = {"cpp": 0.8, "java": 0.8}
"""CPU seconds of one program."""

TURNS = 7


def read(path: Path) -> list[dict[str, Any]]:
    """The rows of a JSON-lines file, compressed or not."""
    data = path.read_bytes()
    text = gzip.decompress(data) if path.suffix == ".gz" else data
    return [json.loads(line) for line in text.decode().split("\n") if line]


def multipl_e(case: dict[str, Any]) -> Program:
    """A program of lang_cases.jsonl. Go's prompts there import what their own proof of end uses."""
    prompt = case["prompt"] if "os." in case["completion"] else case["prompt"].replace('    "os"\n', "")
    return Program(case["language"], prompt + case["completion"], case["tests"], style="multipl-e")


def solution(row: dict[str, Any], language: str, kind: str) -> Program:
    """A program of HumanEvalPack; `kind` is "canonical" or "buggy"."""
    # Rust's prompt names no function: its declaration does.
    begin = row["declaration"] if language == "rust" else row["prompt"]
    setup = row.get("test_setup") or "" if language == "go" else ""
    return Program(language, begin + row[f"{kind}_solution"], row["test"], style="humaneval-x", setup=setup)


def cases(path: Path, toolchain: dict[str, Toolchain], level: levels.Level) -> Iterable[dict[str, Any]]:
    """One row for each language of lang_cases.jsonl."""
    by_language: dict[str, list[dict[str, Any]]] = {}
    for case in read(path):
        by_language.setdefault(case["language"], []).append(case)
    for language, found in by_language.items():
        if language == "d-gdc":  # a second compiler of D; the first that is there is used
            continue
        made = toolchain[find(language)]
        row: dict[str, Any] = {"language": language, "toolchain": made.version()}
        if missing := made.missing("multipl-e"):
            yield row | {"not_run": missing}
            continue
        judged = {case["kind"]: made.judge(multipl_e(case), level) for case in found}
        right = all(judged[case["kind"]].passed == (case["expect"] == "pass") for case in found)
        verdicts = {kind: one.verdict.value for kind, one in judged.items()}
        yield row | {"as_wanted": right, "verdicts": verdicts, "cpu_seconds": round(judged["good"].seconds, 3)}


def counted(ids: list[str], judged: list[Judged], wanted: bool) -> dict[str, Any]:
    """The verdicts of one language's solutions, and which of them are not as wanted."""
    seconds = [one.seconds for one in judged if one.verdict != "not_run"]
    other = {
        name: f"{one.verdict.value}: {one.why}"
        for name, one in zip(ids, judged, strict=True)
        if one.passed != wanted and one.verdict != "not_run"
    }
    return {
        "n": len(judged),
        "verdicts": dict(Counter(one.verdict.value for one in judged)),
        "not_as_wanted": other,
        "not_run": sorted({one.why for one in judged if one.verdict == "not_run"}),
        "cpu_seconds_mean": round(statistics.fmean(seconds), 3) if seconds else None,
        "cpu_seconds_median": round(statistics.median(seconds), 3) if seconds else None,
    }


def cost(program: Program, made: Toolchain, level: levels.Level) -> dict[str, Any]:
    """CPU seconds of one program, with what is prepared and without, in turns; medians and smallest."""
    seconds: dict[str, list[float]] = {"prepared": [], "plain": []}
    real = made._prepared
    for _ in range(TURNS):
        for name, prepared in (("prepared", real), ("plain", lambda: None)):
            made._prepared = prepared  # type: ignore[method-assign]
            judged = made.judge(program, level)
            assert judged.passed, judged
            seconds[name].append(judged.seconds)
    made._prepared = real  # type: ignore[method-assign]
    found = {name: {"median": statistics.median(all_), "smallest": min(all_)} for name, all_ in seconds.items()}
    return {name: {key: round(value, 3) for key, value in row.items()} for name, row in found.items()}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="DIR", help="the folder with the evaluation sets")
    parser.add_argument("--toolchain", action="append", default=[], metavar="LANGUAGE=DIR")
    parser.add_argument("--every", type=int, default=1, help="of the solutions, take every N-th")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE", help="where the numbers go")
    args = parser.parse_args()
    folders = dict(text.split("=", 1) for text in args.toolchain)
    proof = levels.require()
    print(proof.line(), file=sys.stderr)
    every = [case["language"] for case in read(args.data / "lang_cases.jsonl") if case["language"] != "d-gdc"]
    toolchain = {find(name): get(name, folders) for name in every}
    rows: dict[str, list[dict[str, Any]]] = {"cases": [], "solutions": [], "cost": []}

    def add(part: str, row: dict[str, Any]) -> None:
        rows[part].append(row)
        print(part, json.dumps(row), flush=True)

    for row in cases(args.data / "lang_cases.jsonl", toolchain, proof.level):
        add("cases", row)
    for language in ("cpp", "java"):
        made = toolchain[language]
        if missing := made.missing("multipl-e"):
            add("cost", {"language": language, "not_run": missing})
            continue
        good = next(
            case
            for case in read(args.data / "lang_cases.jsonl")
            if (case["language"], case["kind"]) == (language, "good")
        )
        found = cost(multipl_e(good), made, proof.level)
        add("cost", {"language": language, "toolchain": made.version(), "target": TARGET[language], **found})
    for language in ("js", "java", "cpp", "rust", "go"):
        made = toolchain[find(language)]
        problems = read(args.data / f"humanevalpack-{language}.jsonl.gz")[:: args.every]
        for kind in ("canonical", "buggy"):
            row = {"language": language, "solutions": kind, "toolchain": made.version()}
            if missing := made.missing("humaneval-x"):
                add("solutions", row | {"n": len(problems), "not_run": [missing]})
                continue
            programs = [solution(problem, language, kind) for problem in problems]
            with ThreadPoolExecutor(args.workers) as pool:
                judged = list(pool.map(lambda program: made.judge(program, proof.level), programs))  # noqa: B023
            ids = [problem["task_id"] for problem in problems]
            add("solutions", row | counted(ids, judged, wanted=kind == "canonical"))
    if args.json:
        result = {"level": int(proof.level), "every": args.every, **rows, "environment": environment(args.workers)}
        args.json.write_text(json.dumps(result, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
