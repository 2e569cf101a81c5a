"""Compares sketches that read each shingle once with k minima: builds and runs `one_permutation.cpp`, prints its rows.

    python benchmarks/one_permutation.py ~/src --work one-permutation --json one-permutation.json

The corpus is a part of the files that `codeshell dedup` would read below the folders, shuffled by a hash of their
paths. The deduper's own sources are compiled as the package compiles them (-O3), the alternatives with -march=native as
well. One thread runs; every number is the median of 7 runs, and the schemes take turns.

`--work` keeps the program, the corpus and the accuracy, so a second run only times.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
from pathlib import Path
from typing import Any

import numpy as np

from codeshell.documents import readers, walk
from codeshell.environment import environment

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *(f"dedup/{name}.cpp" for name in ("minhash", "shingles", "tokens", "edges", "presets", "datatrove")),
    "text/fold.cpp",
    "simd/cpu.cpp",
]
LARGEST = 1_000_000
"""Bytes of a file."""


def build(folder: Path) -> None:
    compiler = os.environ.get("CXX", "g++")
    flags = ["-std=c++20", "-O3", "-Wno-maybe-uninitialized", f"-I{ROOT / 'csrc'}"]
    objects = []
    for source in [ROOT / "csrc" / name for name in SOURCES] + [Path(__file__).with_suffix(".cpp")]:
        objects.append(str(folder / f"{source.stem}.o"))
        native = ["-march=native"] if source.parent == Path(__file__).parent else []
        subprocess.run([compiler, *flags, *native, "-c", str(source), "-o", objects[-1]], check=True)
    subprocess.run([compiler, *objects, "-o", str(folder / "one_permutation")], check=True)


def write_corpus(folders: list[Path], size: int, data: Path, offsets: Path) -> None:
    paths = [
        folder / entry.path
        for folder in folders
        for entry in walk.walk(str(folder), max_file_bytes=LARGEST, vendored=False)
        if not entry.reason
    ]
    paths.sort(key=lambda path: hashlib.md5(str(path.relative_to(path.anchor)).encode()).digest())
    bounds = [0]
    with data.open("wb") as out:
        for path in paths:
            if bounds[-1] >= size:
                break
            text, reason = readers.read_file(str(path), LARGEST)
            if not reason:
                out.write(text)
                bounds.append(bounds[-1] + len(text))
    np.array(bounds, np.int64).tofile(offsets)


def run(program: Path, *arguments: str) -> list[dict[str, Any]]:
    done = subprocess.run([str(program), *arguments], check=True, stdout=subprocess.PIPE, text=True)
    print(done.stdout, end="", flush=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", nargs="+", type=Path)
    parser.add_argument("--megabytes", type=int, default=60)
    parser.add_argument("--trials", type=int, default=40_000, help="pairs of random sets for a measure of accuracy")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what is there is not made again")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    work: Path = args.work
    work.mkdir(parents=True, exist_ok=True)
    program, data, offsets = work / "one_permutation", work / "text", work / "offsets"
    if not program.exists():
        build(work)
    if not offsets.exists():
        write_corpus(args.folders, args.megabytes * 1_000_000, data, offsets)
    accuracy = work / "accuracy.json"
    if not accuracy.exists():
        accuracy.write_text(json.dumps(run(program, "accuracy", str(args.trials))))
    rows = run(program, "speed", str(data), str(offsets)) + json.loads(accuracy.read_text())
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"environment": environment(1), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
