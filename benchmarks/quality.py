"""The quality filters: each measure's speed, the learned score's figures, and the whole job from files to a selection.

    python benchmarks/quality.py --corpus FOLDER --labels LABELS.parquet --json benchmarks/results/quality.json

The rows of the parts come from their own benchmarks, which this runs one after another, each as a process of its own:

    quality_ngram.py     language models: training and scoring, with KenLM
    quality_lexical.py   measures of tokens and lines, libraries, standards
    quality_syntax.py    syntax trees, with tree-sitter's own parser, lizard and radon
    quality_learned.py   the learned score: folds by repository with baselines, documents per second (needs --labels)

The whole job is `codeshell run --until select` of a folder of real code: collect, filter, near duplicates, score,
select, on two workers. It runs at several sizes, with all scorers but the encoder and once more without syntax trees.
MB are 10^6 bytes of collected text. The peak memory is the sum over all processes of the job, sampled 20 times a
second; a job with flat memory has the same at every size.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import psutil

from codeshell.engine.files import write_json
from codeshell.environment import environment

HERE = Path(__file__).resolve().parent

PARTS = ("ngram", "lexical", "syntax", "learned")

SCORERS = ("lexical", "libraries", "standards", "syntax", "perplexity", "quality")

SAMPLES_PER_SECOND = 20

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


def copy_files(sources: list[Path], folder: Path, limit: int) -> int:
    """Copy files of code from `sources` below `folder` until `limit` bytes are there; the bytes copied."""
    from codeshell.documents import walk

    size = 0
    for number, root in enumerate(sources):
        for found in walk.walk(str(root), max_file_bytes=1 << 20, vendored=True):
            if found.reason or size >= limit:
                continue
            target = folder / f"{number}-{root.name}" / found.path
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / found.path, target)
            size += found.size
    return size


class Memory:
    """The largest sum of the resident memory of a process and its descendants, in bytes."""

    def __init__(self, pid: int) -> None:
        self.peak = 0
        self._process = psutil.Process(pid)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        while not self._ended.wait(1 / SAMPLES_PER_SECOND):
            total = 0
            try:
                for process in (self._process, *self._process.children(recursive=True)):
                    # Pages that are shared count once: each process is charged its part of them.
                    total += process.memory_full_info().pss
            except (psutil.Error, OSError):
                continue
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        self._ended.set()
        self._thread.join()
        return self.peak


def whole_job(corpus: Path, run: Path, scorers: tuple[str, ...]) -> dict[str, Any]:
    """One run from files to a selection, timed."""
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
    memory = Memory(child.pid)
    _, errors = child.communicate()
    seconds, peak = time.perf_counter() - started, memory.stop()
    if child.returncode:
        raise SystemExit(f"codeshell run ended with {child.returncode}: {errors.strip().splitlines()[-1]}")
    metrics = json.loads((run / "metrics.json").read_text())
    megabytes = metrics["collect"]["bytes"] / 1e6
    return {
        "case": "collect, filter, neardup, score, select; two workers",
        "scorers": list(scorers),
        "MB": round(megabytes, 1),
        "documents": metrics["collect"]["documents"],
        "scored_MB": round(metrics["neardup"]["kept"]["bytes"] / 1e6, 1),
        "selected_MB": round(metrics["select"]["kept"]["bytes"] / 1e6, 1),
        "seconds": round(seconds, 1),
        "stage_seconds": json.loads((run / "timings.json").read_text()),
        "MB_per_second": round(megabytes / seconds, 1),
        "peak_memory_MB": round(peak / 1e6),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", help="folders of code (default: this interpreter's own)")
    parser.add_argument("--labels", help="of `codeshell quality train`, for the learned score")
    parser.add_argument("--good", help="good code of other repositories, for the learned score")
    parser.add_argument("--bad", help="bad code of other repositories, for the learned score")
    parser.add_argument("--lmplz", help="KenLM's estimator, to compare with")
    parser.add_argument("--sizes", type=int, nargs="+", default=[250, 1000], metavar="MB", help="of the whole job")
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
            copy_files(sources, corpus, megabytes * 1_000_000)
            for scorers in (SCORERS, tuple(name for name in SCORERS if name != "syntax")):
                row = whole_job(corpus, base / "run", scorers)
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
