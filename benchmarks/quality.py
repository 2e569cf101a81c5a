"""The quality filters: each measure's speed, the learned score's figures, and the whole job from files to a selection.

    python benchmarks/quality.py --corpus FOLDER --labels LABELS.parquet --json benchmarks/results/quality.json

The rows of the parts come from their own benchmarks, which this runs one after another, each as a process of its own:

    quality_ngram.py     language models: training and scoring, with KenLM
    quality_lexical.py   measures of tokens and lines, libraries, standards
    quality_syntax.py    syntax trees, with tree-sitter's own parser, lizard and radon
    quality_learned.py   the learned score: folds by repository with baselines, documents per second (needs --labels)

The whole job is `codeshell run --until select` of a folder of real code: collect, filter, near duplicates, score,
select, on two workers. It runs at several sizes, with all scorers but the encoder and once more without syntax trees.
MB are 10^6 bytes of collected text. The corpus is copied from the folders of `--corpus`; where they hold less than a
size asks for, their files are taken again with other names in them, and `renamed_MB` says how much that is. The peak
memory is the sum over all processes of the job, sampled ten times a second; a job with flat memory has the same at
every size. `cpu_seconds` over `seconds` says how many of the two cores were at work.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from codeshell.engine.files import write_json
from codeshell.environment import environment

HERE = Path(__file__).resolve().parent

PARTS = ("ngram", "lexical", "syntax", "learned")

SCORERS = ("lexical", "libraries", "standards", "syntax", "perplexity", "quality")

SAMPLES_PER_SECOND = 10

MOST_ROUNDS = 20
"""Times that a corpus is taken anew with other names, at most."""

NAMES = re.compile(rb"\b(?:[A-Za-z]+_\w+|[a-z]+[A-Z]\w*|[A-Z][a-z]+[A-Z]\w*|[A-Z][a-z]{5,})\b")
"""Words of code that are no keywords."""

WORKERS = 2


def part_rows(name: str, arguments: list[str], folder: Path) -> dict[str, Any]:
    """What the benchmark of one part wrote, or why it could not run."""
    output = folder / f"{name}.json"
    command = [sys.executable, str(HERE / f"quality_{name}.py"), *arguments, "--json", str(output)]
    done = subprocess.run(command)
    if done.returncode or not output.exists():
        return {"not_run": f"quality_{name}.py ended with {done.returncode}"}
    found: dict[str, Any] = json.loads(output.read_text())
    return {key: value for key, value in found.items() if key != "environment"}


def copy_files(sources: list[Path], folder: Path, limit: int) -> tuple[int, int]:
    """Copy files of code from `sources` below `folder` until `limit` bytes are there.

    Where there are too few, all are taken again, and once more, with other names in them (`renamed`), so that they are
    no copies.

    Returns:
        The bytes copied, and how many of them were made by renaming.
    """
    from codeshell.documents import walk

    size = first = 0
    for number in range(MOST_ROUNDS):
        before = size
        for place, root in enumerate(sources):
            for found in walk.walk(str(root), max_file_bytes=1 << 20, vendored=True):
                if found.reason:
                    continue
                if size >= limit:
                    return size, size - first if number else 0
                data = (root / found.path).read_bytes()
                if number:
                    data = renamed(data, number)
                target = folder / f"{number}-{place}-{root.name}" / found.path
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(data)
                size += len(data)
        first = first or size
        if size == before:
            break
    return size, size - first


def renamed(text: bytes, number: int) -> bytes:
    """A text with other names: those of several words and long capitalised ones get an ending, keywords stay."""
    ending = b"_%d" % number
    return NAMES.sub(lambda found: found[0] + ending, text)


class Watch:
    """Follows a process and its descendants: the largest sum of their memory, and their CPU time."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        """Bytes."""
        self._cpu: dict[int, float] = {}
        self._pid = pid
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    @property
    def cpu_seconds(self) -> float:
        """The CPU time of all processes, as they were last seen."""
        return sum(self._cpu.values())

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._ended.wait(1 / SAMPLES_PER_SECOND):
            self.peak = max(self.peak, sum(map(self._look_at, self._family())))

    def _family(self) -> list[int]:
        """The process and its descendants. Asking psutil would take a fifth of a core."""
        found = [self._pid]
        for pid in found:
            for task in Path(f"/proc/{pid}/task").glob("*/children"):
                with contextlib.suppress(OSError):
                    found += map(int, task.read_text().split())
        return found

    def _look_at(self, pid: int) -> int:
        """Note the CPU time of a process; its memory in bytes."""
        try:
            # After the name, which may hold anything: fields 14 and 15 are ticks in user and system mode.
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            self._cpu[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
            # Pages that are shared count once: each process is charged its part of them.
            rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
            return next(int(line.split()[1]) << 10 for line in rollup.splitlines() if line.startswith("Pss:"))
        except (OSError, StopIteration):
            return 0


def whole_job(corpus: Path, run: Path, scorers: tuple[str, ...], made: int) -> dict[str, Any]:
    """One run from files to a selection, timed; `made` bytes of the corpus are files that were renamed."""
    recipe = run.with_suffix(".toml")
    recipe.write_text(
        f"name = 'benchmark'\n[collect]\ninputs = ['{corpus}']\n[rules]\nlanguage_floor = 0\n"
        f"[score]\nscorers = {list(scorers)}\n"
        # The lowest tenth of each language by the score, and the package's limits: decisions that read every column.
        f"[select]\npackage_rules = true\nlowest = {{'*' = {{quality = 0.1}}}}\n"
    )
    command = [sys.executable, "-m", "codeshell", "run", str(recipe), "-o", str(run), "--until", "select"]
    command += ["--workers", str(WORKERS)]
    os.sync()  # or the run's own writes wait for those of the corpus
    started = time.perf_counter()
    child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    watch = Watch(child.pid)
    _, errors = child.communicate()
    seconds = time.perf_counter() - started
    watch.stop()
    if child.returncode:
        raise SystemExit(f"codeshell run ended with {child.returncode}: {errors.strip().splitlines()[-1]}")
    metrics = json.loads((run / "metrics.json").read_text())
    megabytes = metrics["collect"]["bytes"] / 1e6
    return {
        "case": "collect, filter, neardup, score, select; two workers",
        "scorers": list(scorers),
        "MB": round(megabytes, 1),
        "renamed_MB": round(made / 1e6, 1),
        "documents": metrics["collect"]["documents"],
        "scored_MB": round(metrics["neardup"]["kept"]["bytes"] / 1e6, 1),
        "selected_MB": round(metrics["select"]["kept"]["bytes"] / 1e6, 1),
        "seconds": round(seconds, 1),
        "stage_seconds": json.loads((run / "timings.json").read_text()),
        "MB_per_second": round(megabytes / seconds, 1),
        "cpu_seconds": round(watch.cpu_seconds, 1),
        "peak_memory_MB": round(watch.peak / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", help="folders of code (default: this interpreter's own)")
    parser.add_argument("--labels", help="of `codeshell quality train`, for the learned score")
    parser.add_argument("--good", help="good code of other repositories, for the learned score")
    parser.add_argument("--bad", help="bad code of other repositories, for the learned score")
    parser.add_argument("--lmplz", help="KenLM's estimator, to compare with")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 500, 1000], metavar="MB", help="of the whole job")
    parser.add_argument("--parts", nargs="*", default=PARTS, choices=PARTS, help="of the parts, only these")
    parser.add_argument("--no-job", action="store_true", help="leave the whole job out")
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    result: dict[str, Any] = {"environment": environment(WORKERS), "parts": {}, "whole_job": []}
    base = Path(tempfile.mkdtemp(prefix="codeshell-quality-"))
    try:
        sources = args.corpus or [Path(sysconfig.get_paths()[name]) for name in ("stdlib", "purelib")]
        learned = [("--labels", args.labels), ("--good", args.good), ("--bad", args.bad)]
        arguments = {
            "ngram": ["--lmplz", args.lmplz] if args.lmplz else [],
            "lexical": [],
            "syntax": [str(source) for source in sources],
            "learned": [word for option, value in learned if value for word in (option, value)],
        }
        for name in args.parts:
            if name == "learned" and not args.labels:
                result["parts"][name] = {"not_run": "needs --labels"}
                continue
            started = time.perf_counter()
            result["parts"][name] = part_rows(name, arguments[name], base)
            print(f"{name}: {time.perf_counter() - started:.0f} s", flush=True)
        for megabytes in () if args.no_job else args.sizes:
            corpus = base / "corpus"
            size, made = copy_files(sources, corpus, megabytes * 1_000_000)
            if made:
                print(f"{(size - made) / 1e6:.0f} MB of code are there; {made / 1e6:.0f} MB are files with other names")
            for scorers in (SCORERS, tuple(name for name in SCORERS if name != "syntax")):
                row = whole_job(corpus, base / "run", scorers, made)
                shutil.rmtree(base / "run")
                result["whole_job"].append(row)
                print(row, flush=True)
            shutil.rmtree(corpus)
    finally:
        shutil.rmtree(base, ignore_errors=True)
    if args.json:
        write_json(args.json, result)


if __name__ == "__main__":
    main()
