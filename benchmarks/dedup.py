"""Speed of `codeshell dedup` and of other deduplicators: signatures, whole jobs, growth, hard corpora.

    python benchmarks/dedup.py --corpus corpus/*.parquet --work work --json benchmarks/results/dedup.json \\
        --peer rensa=venv-a/bin/python --peer datatrove=venv-b/bin/python \\
        --scale scale-250000 scale-1000000 --header header

The corpus is Parquet files (or folders of them) with a column `text`. `dedup_corpora.py` makes such files from folders
of source code, and also the corpora of --scale and --header. What is measured:

    signatures   from text in memory to signatures. codeshell signs the first --megabytes of the corpus, up to band
                 keys, at every SIMD level. Peers make shingles and signatures of the first --peer-megabytes, in one
                 process.
    whole        read Parquet, find duplicates, write the rows that stay, with --workers processes. codeshell runs on
                 the whole corpus, then every system on its first --part-megabytes. Peers' clocks leave out their start.
    growth       codeshell on every corpus of --scale, and on the two of --header.

In every round each system has its turn, so that all see the same machine. MB are 10^6 bytes of text; the files are in
the page cache. Memory is sampled over the whole tree of processes: every 50 ms the sum of their resident sizes (a page
that several processes have mapped counts for each of them), and every 2 s the sum of their proportional sizes. Every
measurement is kept as a file in --work, and is not made again while that file exists.
"""

from __future__ import annotations

import argparse
import json
import resource
import shutil
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import dedup_peers
import pyarrow as pa
from dedup_corpora import Shards, parquet_files, read_texts

from codeshell import _C
from codeshell.dedup.minhash import BANDS, NGRAM, ROWS, SEED
from codeshell.documents.texts import text_buffers
from codeshell.environment import environment

PAGE = resource.getpagesize()

PART_FILES = 8
"""Files of the peers' part of the corpus: more than workers, so that a peer whose tasks are files keeps all busy."""


Case: TypeAlias = Callable[[Path], dict[str, Any]]
"""Makes one measurement; gets an empty folder."""


class Memory(threading.Thread):
    """The largest sums of resident and proportional sizes of a process and all below it.

    It shares the cores with what it watches, so it must be cheap: psutil's search for children, twenty times a second,
    took a fifth of a core.
    """

    def __init__(self, process: int) -> None:
        super().__init__(daemon=True)
        self._tree, self._others, self._over = {process}, set[int](), threading.Event()
        self.resident = self.proportional = 0

    def run(self) -> None:
        turn = 0
        while not self._over.wait(0.05):
            self._look()
            self.resident = max(self.resident, sum(_resident(pid) for pid in self._tree))
            # The kernel walks all mappings of a process for its proportional size, so that is read every 2 s only.
            if turn % 40 == 0:
                self.proportional = max(self.proportional, sum(_proportional(pid) for pid in self._tree))
            turn += 1

    def _look(self) -> None:
        """Find new processes; the parent of each is read once."""
        # Processes that were seen before need no look: a process never changes from one tree to the other.
        there = {int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()}
        self._tree &= there
        self._others &= there
        for pid in sorted(there - self._tree - self._others):
            (self._tree if _parent(pid) in self._tree else self._others).add(pid)

    def stop(self) -> dict[str, float]:
        self._over.set()
        self.join()
        return {"peak_rss_MB": round(self.resident / 1e6, 1), "peak_pss_MB": round(self.proportional / 1e6, 1)}


def _proc(pid: int, name: str) -> str:
    """A file of /proc; empty if the process has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_text()
    except OSError:
        return ""


def _parent(pid: int) -> int:
    fields = _proc(pid, "stat").rpartition(")")[2].split()  # the name before it may hold anything
    return int(fields[1]) if fields else 0


def _resident(pid: int) -> int:
    fields = _proc(pid, "statm").split()
    return int(fields[1]) * PAGE if fields else 0


def _proportional(pid: int) -> int:
    lines = [line.split() for line in _proc(pid, "smaps_rollup").splitlines()]
    return sum(int(line[1]) * 1024 for line in lines if line[0] == "Pss:")


def observed(command: list[str], log: Path) -> dict[str, Any]:
    """Run a command; return its seconds and the memory of its processes."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with open(log, "wb") as out:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=out, stderr=out, env=dedup_peers.ENVIRONMENT)
        memory = Memory(process.pid)
        memory.start()
        code = process.wait()
        seconds = time.perf_counter() - started
    sizes = memory.stop()
    if code:
        raise SystemExit(f"{command[0]} ... ended with {code}; see {log}")
    return {"seconds": round(seconds, 3), **sizes}


def into_cache(files: list[Path]) -> None:
    """Read files into the page cache, from which the system may have dropped them since the last measurement."""
    for file in files:
        with open(file, "rb") as source:
            while source.read(1 << 24):
                pass


class Bench:
    """Measurements, kept as files by name and round."""

    def __init__(self, work: Path, rounds: int) -> None:
        self.work, self.rounds = work, rounds
        (work / "rows").mkdir(parents=True, exist_ok=True)

    def measure(self, name: str, turn: int, work: Case) -> dict[str, Any]:
        """The measurement of this name: read from its file, or made by `work`, which gets an empty folder."""
        file = self.work / "rows" / f"{name.replace('/', '_')}.{turn}.json"
        if not file.exists():
            folder = self.work / "scratch"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir()
            print(f"{name}, round {turn + 1} ...", flush=True)
            found = work(folder)
            shutil.rmtree(folder)
            file.write_text(json.dumps(found))
        row: dict[str, Any] = json.loads(file.read_text())
        return row

    def alternate(self, cases: dict[str, Case]) -> list[dict[str, Any]]:
        """Run all cases in turn, for some rounds; return the round of median time of each, with all times."""
        found: dict[str, list[dict[str, Any]]] = {name: [] for name in cases}
        for turn in range(self.rounds):
            for name, work in cases.items():
                found[name].append(self.measure(name, turn, work))
        rows = []
        for name, results in found.items():
            times = [row["seconds"] for row in results]
            # The round nearest to the median stands for all; memory is the largest of any round.
            middle = min(
                results, key=lambda row: abs(row["seconds"] - statistics.median(row["seconds"] for row in found[name]))
            )
            if "peak_rss_MB" in middle:
                middle = middle | {key: max(row[key] for row in results) for key in ("peak_rss_MB", "peak_pss_MB")}
            rate = middle["MB"] / middle["seconds"]
            rows.append({"case": name, **middle, "MB_per_second": round(rate, 3), "all_seconds": times})
        return rows


def first_texts(files: list[Path], megabytes: float) -> tuple[pa.Array, float]:
    """The first texts, up to so many megabytes, as one Arrow array, and their size in MB."""
    texts, size = [], 0
    for text in read_texts(files):
        texts.append(text)
        size += len(text.encode())
        if size >= megabytes * 1e6:
            break
    return pa.array(texts, pa.large_string()), size / 1e6


def levels() -> list[str]:
    """SIMD levels of this processor, best first."""
    order = ["avx512", "avx2", "scalar"]
    best = _C.simd_level()
    return order[order.index(best) :] if best in order else [best, "scalar"]


def signature_cases(args: argparse.Namespace, files: list[Path]) -> dict[str, Case]:
    array, size = first_texts(files, args.megabytes)
    (piece,) = text_buffers(array)

    def ours(folder: Path, level: str, threads: int) -> dict[str, Any]:
        started = time.perf_counter()
        _C.dedup_sign(piece.data, piece.offsets, "code", NGRAM, BANDS, ROWS, SEED, threads, level)
        seconds = time.perf_counter() - started
        return {
            "MB": round(size, 1),
            "documents": len(array),
            "seconds": round(seconds, 4),
        }

    def theirs(folder: Path, peer: tuple[str, str]) -> dict[str, Any]:
        facts = dedup_peers.run(peer, "signatures", files, folder / "out", "--megabytes", str(args.peer_megabytes))
        steps = facts["seconds"]
        # A peer may have several ways to make signatures of the same shingles; its fastest one counts.
        ways = {name: seconds for name, seconds in steps.items() if name != "shingles"}
        megabytes = facts["bytes"] / 1e6
        return {
            "version": dedup_peers.version(facts),
            "MB": round(megabytes, 1),
            "documents": facts["documents"],
            "seconds": round(steps["shingles"] + min(ways.values()), 3),
            "shingles_MB_per_second": round(megabytes / steps["shingles"], 2) if steps["shingles"] > 0.01 else None,
            "signatures_MB_per_second": {name: round(megabytes / seconds, 2) for name, seconds in ways.items()},
            "M_shingles_per_second": {
                name: round(facts["shingles"] / seconds / 1e6, 2) for name, seconds in ways.items()
            },
        }

    cases: dict[str, Case] = {}
    for level in levels():
        cases[f"signatures: codeshell {level}, 1 thread"] = partial(ours, level=level, threads=1)
    cases[f"signatures: codeshell {levels()[0]}, {args.workers} threads"] = partial(
        ours, level="", threads=args.workers
    )
    for peer in args.peer:
        if peer[0] != "bigcode":
            name = dedup_peers.NAMES.get(peer[0], peer[0])
            cases[f"signatures: {name}, 1 process"] = partial(theirs, peer=peer)
    return cases


def text_bytes(files: list[Path]) -> tuple[int, float]:
    """Number of documents in the files, and MB of their text."""
    documents = size = 0
    for text in read_texts(files):
        documents += 1
        size += len(text.encode())
    return documents, size / 1e6


def job(files: list[Path], size: tuple[int, float], workers: int, *options: str) -> Case:
    """A case that measures `codeshell dedup`."""

    def measure(folder: Path) -> dict[str, Any]:
        into_cache(files)
        output = folder / "out"
        arguments = [*map(str, files), "-o", str(output), "--workers", str(workers), *options]
        found = observed([sys.executable, "-m", "codeshell", "dedup", *arguments], folder / "log")
        statistics_ = json.loads((output / "stats.json").read_text())
        return {
            "MB": round(size[1], 1),
            "documents": size[0],
            "kept": statistics_["kept"],
            **found,
            "steps": json.loads((output / "timings.json").read_text()),
            "pairs_compared": statistics_.get("pairs_compared"),
            "candidate_pairs": statistics_.get("candidate_pairs"),
            "verified_pairs": statistics_.get("verified_pairs"),
        }

    return measure


def peer_job(peer: tuple[str, str], files: list[Path], size: tuple[int, float], workers: int) -> Case:
    """A case that measures a peer's script for the same job."""

    def measure(folder: Path) -> dict[str, Any]:
        into_cache(files)
        output = folder / "out"
        command = dedup_peers.command(peer, "whole", files, output, "--workers", str(workers))
        found = observed(command, folder / "log")
        facts = dedup_peers.result(output)
        # text-dedup's script counts rows after the command: the steps are the peer's own.
        found["seconds"] = round(sum(facts["seconds"].values()), 3)
        return {
            "version": dedup_peers.version(facts),
            "parameters": facts["parameters"],
            "MB": round(size[1], 1),
            "documents": facts["documents"],
            "kept": facts["kept"],
            **found,
            "steps": facts["seconds"],
        }

    return measure


def part(files: list[Path], megabytes: float, folder: Path) -> list[Path]:
    """The first megabytes of the corpus as files of their own."""
    if not folder.exists():
        array, _ = first_texts(files, megabytes)
        partial = folder.with_name(folder.name + ".partial")
        shutil.rmtree(partial, ignore_errors=True)
        writer = Shards(partial, len(array), PART_FILES)
        for text in array.to_pylist():
            writer.add(text)
        writer.close()
        partial.rename(folder)
    return parquet_files([folder])


def whole_rows(bench: Bench, args: argparse.Namespace, files: list[Path]) -> list[dict[str, Any]]:
    some = part(files, args.part_megabytes, args.work / f"part-{args.part_megabytes:g}")
    size, some_size = text_bytes(files), text_bytes(some)
    rows = bench.alternate({"whole: codeshell": job(files, size, args.workers)})
    cases = {"whole, part: codeshell": job(some, some_size, args.workers)}
    for peer in args.peer:
        name = dedup_peers.NAMES.get(peer[0], peer[0])
        cases[f"whole, part: {name}"] = peer_job(peer, some, some_size, args.workers)
    return rows + bench.alternate(cases)


def growth_rows(bench: Bench, args: argparse.Namespace) -> list[dict[str, Any]]:
    cases = {}
    for folder in args.scale:
        files = parquet_files([folder])
        cases[f"growth: {folder.name}"] = job(files, text_bytes(files), args.workers)
    if args.header:
        for name in ("control", "header"):
            files = parquet_files([args.header / name])
            cases[f"one header and template: {name}"] = job(files, text_bytes(files), args.workers)
    return bench.alternate(cases)


def show(rows: list[dict[str, Any]]) -> None:
    print(f"{'case':58} {'MB':>8} {'documents':>10} {'seconds':>9} {'MB/s':>9} {'RSS MB':>8} {'PSS MB':>8} {'kept':>9}")
    for row in rows:
        cells = [row.get(name, "") for name in ("peak_rss_MB", "peak_pss_MB", "kept")]
        numbers = f"{row['MB']:>8} {row['documents']:>10} {row['seconds']:>9} {row['MB_per_second']:>9}"
        print(f"{row['case']:58} {numbers} {cells[0]:>8} {cells[1]:>8} {cells[2]:>9}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="Parquet files, or folders of them")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="on a disk, with room for the outputs")
    dedup_peers.add_argument(parser)
    parser.add_argument("--scale", type=Path, nargs="+", default=[], metavar="DIR", help="corpora of growing size")
    parser.add_argument("--header", type=Path, metavar="DIR", help="with header/ and control/")
    parser.add_argument(
        "--only", nargs="+", choices=("signatures", "whole", "growth"), default=["signatures", "whole", "growth"]
    )
    parser.add_argument("--megabytes", type=float, default=200, help="of text for our signatures (default: 200)")
    parser.add_argument("--peer-megabytes", type=float, default=20, help="for the peers' signatures (default: 20)")
    parser.add_argument("--part-megabytes", type=float, default=100, help="for whole jobs of peers (default: 100)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    files = parquet_files(args.corpus)
    bench = Bench(args.work, args.rounds)
    rows: list[dict[str, Any]] = []
    if "signatures" in args.only:
        rows += bench.alternate(signature_cases(args, files))
    if "whole" in args.only:
        rows += whole_rows(bench, args, files)
    if "growth" in args.only:
        rows += growth_rows(bench, args)
    show(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps({"environment": environment(args.workers), "rows": rows}, indent=2) + "\n")


if __name__ == "__main__":
    main()
