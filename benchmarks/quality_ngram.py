"""Speed and memory of training n-gram models from text, and of scoring by them (`quality_ngram_score.py`):

    python benchmarks/quality_ngram.py [--json FILE] [--text FOLDER] [--megabytes N] [--lmplz PROGRAM]

The text is Python code of the interpreter's own packages; every fourth package is kept for scoring and trains nothing.
Training is the command `codeshell lm train` in a process of its own, from a Parquet file to a finished model file: CPU
time and peak memory are those of that process, start of Python included.

`--lmplz` names KenLM's estimator, which no package has (its repository builds it). It is given the units ready, as
words between blanks, and stops at an ARPA file: neither the lexer nor `build_binary` is in its time. With it, the rows
say whether the n-grams are the same, and the largest difference of a logarithm.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import quality_ngram_score

from codeshell.environment import environment
from codeshell.ngram.model import LanguageModel

ROUNDS = 3

CASES = (
    # name, order, arguments
    ("order 3", 3, ()),
    ("order 5", 5, ()),
    ("order 3, 256 MiB", 3, ("--memory", "256MiB")),
    ("order 5, 256 MiB", 5, ("--memory", "256MiB")),
    ("order 5, pruned and quantised", 5, ("--prune", "0", "0", "1", "--quantize")),
    ("order 3, two threads", 3, ("--threads", "2")),
)


def split(folder: Path, most: int) -> tuple[list[str], list[str]]:
    """The texts to train on, up to `most` bytes, and the texts of every fourth package, up to a quarter of that."""
    training: list[str] = []
    held: list[str] = []
    room = [most, most // 4]
    for number, package in enumerate(sorted(path for path in folder.iterdir() if path.is_dir())):
        part = number % 4 == 3
        texts = quality_ngram_score.read(package, room[part])
        room[part] -= sum(len(text.encode()) for text in texts)
        (held if part else training).extend(texts)
    return training, held


def timed(command: Sequence[str]) -> tuple[float, float, float, str]:
    """CPU seconds, seconds, peak MiB and output of a process."""
    start = time.monotonic()
    with tempfile.TemporaryFile("w+") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        output.seek(0)
        printed = output.read()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)}: {printed[-500:]}")
    # A child's own ru_maxrss begins with its parent's, so what the command prints of itself counts.
    told = re.search(r"([\d,]+) MiB of memory at most", printed)
    peak = float(told[1].replace(",", "")) if told else math.nan
    return used.ru_utime + used.ru_stime, time.monotonic() - start, peak, printed


def row(case: str, name: str, size: int, rounds: list[tuple[float, float, float, str]], **more: Any) -> dict[str, Any]:
    """A row of the result: medians over the rounds."""
    cpu = statistics.median(one[0] for one in rounds)
    return {
        "case": case,
        "name": name,
        "megabytes_per_cpu_second": round(size / 1e6 / cpu, 2),
        "cpu_seconds": round(cpu, 2),
        "seconds": round(statistics.median(one[1] for one in rounds), 2),
        "peak_mebibytes": None if math.isnan(rounds[0][2]) else max(one[2] for one in rounds),
        "rounds_cpu_seconds": [round(one[0], 2) for one in rounds],
        "megabytes": round(size / 1e6, 2),
        **more,
    }


def train_rows(texts: list[str], folder: Path, lmplz: str | None) -> list[dict[str, Any]]:
    """The rows of training; files are written in `folder`."""
    size = sum(len(text.encode()) for text in texts)
    table = folder / "text.parquet"
    pq.write_table(
        pa.table({"text": pa.array(texts, pa.large_string())}), table, compression="zstd", row_group_size=500
    )
    found = []
    for case, order, arguments in CASES:
        model = folder / "model.lm"
        command = [sys.executable, "-m", "codeshell", "lm", "train", str(table), "-o", str(model)]
        command += ["--order", str(order), *(() if "--threads" in arguments else ("--threads", "1")), *arguments]
        rounds = [timed(command) for _ in range(ROUNDS)]
        about = json.loads(LanguageModel.load(model).handle.metadata)
        grams = sum(one["kept"] for one in about["orders"])
        more = {"n_grams": grams, "units": about["tokens"], "model_bytes": model.stat().st_size}
        spilled = re.search(r"([\d,]+) MB through temporary files", rounds[0][3])
        more["spilled_megabytes"] = int(spilled[1].replace(",", "")) if spilled else 0
        found.append(row(f"train, {case}", "ours", size, rounds, **more))
    for order in (3, 5) if lmplz else ():
        found += _peer(texts, table, folder, order, lmplz or "", size)
    return found


def _peer(texts: list[str], table: Path, folder: Path, order: int, lmplz: str, size: int) -> list[dict[str, Any]]:
    """The row of lmplz for an order, and whether its model is ours."""
    ours, theirs, lines = folder / "ours.arpa", folder / "theirs.arpa", folder / "lines.txt"
    model = folder / "model.lm"
    base = [sys.executable, "-m", "codeshell", "lm", "train", str(table), "-o", str(model), "--order", str(order)]
    timed([*base, "--arpa", str(ours)])
    units = LanguageModel.load(model).handle.units
    words = [units.word(number) for number in range(len(units))]
    with lines.open("w") as file:
        for text in texts:
            data = text.encode()
            ids, _ = units.encode(data, np.array([0, len(data)], np.int64))
            file.write(" ".join(words[number] for number in ids.tolist()) + "\n")
    command = [lmplz, "-o", str(order), "-S", "1G", "-T", str(folder), "--discount_fallback"]
    rounds = [timed([*command, "--text", str(lines), "--arpa", str(theirs)]) for _ in range(ROUNDS)]
    found, expected = _arpa(ours), _arpa(theirs)
    same = found.keys() == expected.keys()
    both = found.keys() & expected.keys()
    worst = max(abs(a - b) for gram in both for a, b in zip(found[gram], expected[gram], strict=True))
    more = {"same_n_grams": same, "largest_difference": worst}
    return [row(f"train, order {order}", "lmplz, units ready, to ARPA", size, rounds, **more)]


def _arpa(path: Path) -> dict[str, tuple[float, float]]:
    """Probability and backoff of each n-gram."""
    found = {}
    with path.open() as lines:
        for line in lines:
            parts = line.rstrip("\n").split("\t")
            if len(parts) > 1:
                found[parts[1]] = (float(parts[0]), float(parts[2]) if len(parts) > 2 else 0.0)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--text", type=Path, default=Path(sysconfig.get_paths()["purelib"]), help="folder of packages")
    parser.add_argument("--megabytes", type=int, default=40, help="of text to train on at most")
    parser.add_argument("--lmplz", help="KenLM's estimator, to compare with")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    training, held = split(args.text, args.megabytes * 10**6)
    with tempfile.TemporaryDirectory() as name:
        found = train_rows(training, Path(name), args.lmplz)
    for one in found:
        print(
            f"{one['case']:38} {one['name']:28} {one['megabytes_per_cpu_second']:6.1f} MB per CPU second, "
            f"{one['peak_mebibytes'] or 0:5,.0f} MiB",
            flush=True,
        )
    found += quality_ngram_score.rows(training, held)
    for one in found:
        if one["case"].startswith("score"):
            print(f"{one['case']:38} {one['name']:28} {one['megabytes_per_second']:6.1f} MB per CPU second")
    if args.json:
        facts = {"benchmark": "quality_ngram", "environment": environment(1), "rows": found}
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()
