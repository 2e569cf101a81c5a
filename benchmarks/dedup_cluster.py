"""The cluster stage alone, at a size that no text corpus of this machine has: synthetic band keys of many documents.

    python benchmarks/dedup_cluster.py --documents 100000000 --directory /fast/disk --json

Every shard gets the file that signing would have written, without sketches: 21 random band keys per document. A fifth
of the documents are copies: a copy shares each key of an earlier document with probability 0.4 (as at Jaccard 0.86 with
6 rows), and one in fifty has the fingerprint of an earlier one. Then the remaining steps of `codeshell.dedup.search`
run with `verify="none"`: equal fingerprints, groups of equal keys, candidate edges, the greedy decision. None of these
steps is simulated. Missing are only the reading of texts, the comparison of sketches and the exact Jaccards.

Reports seconds and peak memory of every step, and checks the outcome against what was planted.
"""

from __future__ import annotations

import argparse
import shutil
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from codeshell.dedup import search as steps
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.sign import partitioned
from codeshell.documents.arrays import write_arrays
from codeshell.engine import LocalEngine, map_shards
from codeshell.engine.files import write_json
from codeshell.environment import usable_cores

SHARD = 1_000_000
COPIES, SHARED, EQUAL = 0.2, 0.4, 0.02


@dataclass(frozen=True)
class Shard:
    """Documents [first, first + count)."""

    first: int
    count: int
    bands: int
    output: Path


def keys_of(documents: np.ndarray, bands: int) -> np.ndarray:
    """(n, bands) the own keys of documents: a hash of (document, band), never 0."""
    x = documents.astype(np.uint64)[:, None] * np.uint64(64) + np.arange(1, bands + 1, dtype=np.uint64)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        x = (x ^ (x >> np.uint64(shift))) * np.uint64(factor)
    return (x ^ (x >> np.uint64(31))) | np.uint64(1)


def origins(shard: Shard) -> tuple[np.ndarray, np.ndarray]:
    """(count,) the document that each one is a copy of (itself if of none), and whether the copy is equal to it."""
    random = np.random.default_rng(shard.first)
    documents = np.arange(shard.first, shard.first + shard.count)
    copy = random.random(shard.count) < COPIES
    # Originals are the documents that divide by 16: never copies themselves, so what should be dropped is known.
    copy[documents % 16 == 0] = False
    origin = (random.random(shard.count) * documents).astype(np.int64) // 16 * 16
    return np.where(copy, origin, documents), copy & (random.random(shard.count) < EQUAL / COPIES)


def make_shard(shard: Shard) -> dict[str, Any]:
    """Write the file that `codeshell.dedup.sign` would have written."""
    random = np.random.default_rng([shard.first, 1])
    documents = np.arange(shard.first, shard.first + shard.count)
    origin, equal = origins(shard)
    keys = keys_of(documents, shard.bands)
    copies = np.flatnonzero(origin != documents)
    # A copy takes each key of its origin with probability SHARED and has its own keys elsewhere.
    shared = random.random((len(copies), shard.bands)) < SHARED
    keys[copies] = np.where(shared, keys_of(origin[copies], shard.bands), keys[copies])
    # Fingerprints have two words. Those of an equal copy are its origin's.
    own = np.where(equal, origin, documents)
    prints = np.stack([keys_of(own, 1)[:, 0], keys_of(own + (1 << 40), 1)[:, 0]], axis=1)
    rows = {
        "sketches": np.empty((shard.count, 0), np.uint8),
        "shingles": np.full(shard.count, 1000, np.uint32),
        "bytes": np.full(shard.count, 5000, np.int64),
        "rows": documents.astype(np.int64),
    }
    write_arrays(shard.output, rows | partitioned(keys, prints))
    # What the search must drop: a copy that shares a key or the fingerprint. Without either it cannot be found.
    found = int((shared.any(axis=1) | equal[copies]).sum())
    return {"documents": shard.count, "bytes": 5000 * shard.count, "keys": keys.size, "left_out": {}, "found": found}


class Peak(threading.Thread):
    """Samples the resident memory of this process and its children."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.total = self.largest = 0
        self.start()

    def run(self) -> None:
        me = psutil.Process()
        while True:
            sizes = []
            for process in [me, *me.children(recursive=True)]:
                try:
                    sizes.append(process.memory_full_info().pss)
                except psutil.Error:
                    continue
            self.total, self.largest = max(self.total, sum(sizes)), max(self.largest, *sizes)
            time.sleep(0.2)

    def take(self) -> dict[str, int]:
        """The peaks since the last call, in MB: of all processes together, and of the largest."""
        result = {"peak_mb": self.total // 1_000_000, "largest_process_mb": self.largest // 1_000_000}
        self.total = self.largest = 0
        return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--documents", type=int, default=2_000_000)
    parser.add_argument("--directory", type=Path, default=Path("runs/dedup-cluster"), help="270 bytes per document")
    parser.add_argument("--memory", type=float, default=2.0, help="GiB for the search's arrays")
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--json", type=Path, help="write the rows here")
    args = parser.parse_args()

    parameters = Parameters(verify="none")
    work = args.directory / "work"
    work.mkdir(parents=True, exist_ok=True)
    shards = [
        Shard(first, min(SHARD, args.documents - first), parameters.bands, work / f"sign-{i:05d}.bin")
        for i, first in enumerate(range(0, args.documents, SHARD))
    ]
    task = steps.Search(shards, _no_reader, work, parameters, memory=int(args.memory * (1 << 30)))
    rows: list[dict[str, Any]] = []
    peak = Peak()
    with LocalEngine(args.workers) as engine:
        made = map_shards(engine, work, "sign", make_shard, shards)
        peak.take()
        clock = [time.monotonic()]

        def timed(name: str) -> None:
            now = time.monotonic()
            rows.append({"step": name, "seconds": round(now - clock[0], 1)} | peak.take())
            clock[0] = now

        # The steps of the search report when they end; the decision is what is left at the end.
        same, edges = steps.find_same, steps.find_edges
        steps.find_same = lambda *given: (same(*given), timed("same"))[0]
        steps.find_edges = lambda *given: (edges(*given), timed("edges"))[0]
        found = steps.search(task, engine)
        timed("decide")
    planted = sum(shard["found"] for shard in made)
    dropped = len(found.decisions.dropped)
    assert dropped == planted, (dropped, planted)
    report = {
        "documents": args.documents,
        "keys": sum(shard["keys"] for shard in made),
        "memory_gib": args.memory,
        "workers": engine.workers,
        "cores": usable_cores(),
        "dropped": dropped,
        "seconds": round(sum(row["seconds"] for row in rows), 1),
        "steps": rows,
        "counts": found.counts,
    }
    for row in rows:
        print(row)
    print({name: value for name, value in report.items() if name != "steps"})
    if args.json:
        write_json(args.json, report)
    shutil.rmtree(work)


def _no_reader(shard: Any, wanted: frozenset[str]) -> Any:
    raise AssertionError("there are no texts")


if __name__ == "__main__":
    main()
