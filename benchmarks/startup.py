"""How long `import codeshell` and `codeshell --help` take: whole processes, alternated, medians.

    python benchmarks/startup.py --json benchmarks/results/startup.json

Targets: import < 100 ms and help < 300 ms, each with the interpreter's own start, which has a row of its own.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from codeshell.environment import environment

CASES = {
    "python -c pass": ["-c", "pass"],
    "import codeshell": ["-c", "import codeshell"],
    "codeshell --help": ["-m", "codeshell", "--help"],
    "codeshell info": ["-m", "codeshell", "info"],
}


def seconds(arguments: list[str]) -> float:
    started = time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    for case in CASES.values():
        seconds(case)  # bytecode and page cache
    times: dict[str, list[float]] = {name: [] for name in CASES}
    for _ in range(args.rounds):
        for name, case in CASES.items():
            times[name].append(seconds(case))
    rows = [
        {"case": name, "median_ms": round(1e3 * statistics.median(values), 1), "min_ms": round(1e3 * min(values), 1)}
        for name, values in times.items()
    ]
    for row in rows:
        print(f"{row['case']:<20} {row['median_ms']:7.1f} ms (fastest {row['min_ms']:.1f})")
    if args.json:
        args.json.write_text(json.dumps({"environment": environment(0), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
