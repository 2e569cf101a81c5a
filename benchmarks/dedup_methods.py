"""The two candidate methods of `codeshell dedup`, band keys and CPSJoin, at matched recall on real files.

    python benchmarks/dedup_corpora.py files --distinct ~/a/v1 ~/a/v2 -o methods/files
    python benchmarks/dedup_methods.py --corpus methods/files --work methods --json dedup-methods.json

The corpus and the truth (all pairs of Jaccard similarity 0.5 and more, exact) are those of `dedup_quality.py`.
Documents are signed once. The stage from there to candidate edges is compared, with sketches and keys in memory and
one thread. *bands* groups equal keys and hands large groups to CPSJoin; *cpsjoin* is CPSJoin over everything.

At every threshold both methods are tried with all parameters of a grid. For each target recall, the candidates are all
pairs of settings whose recalls are within `WITHIN` of each other and within `NEAR` of the target. The two fastest
settings among them are timed again, `--repeats` times. So the two rows have equal recall, and each method has the best
parameters that were tried. A row without a target has the command's defaults.

Columns of a row:
    recall      share of true pairs (Jaccard >= threshold) that became an edge; one document takes part for all that
                have its fingerprint
    seconds     median time of the stage; `fastest` and `slowest` are beside it
    compared    pairs of sketches that were compared
    edges       candidate pairs that are left to verify

CPSJoin's `neighbours` is how many earlier neighbours of a document it remembers. The default is 32, because a document
is dropped for one kept neighbour, not for all. That caps the recall of pairs in large clusters, so here (but not in the
rows of defaults) it is twice the largest number of true earlier neighbours that any document has, rounded up to a power
of two.

`--work` keeps the truth and what was tried, so a second run only times.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from dedup_corpora import parquet_files, read_texts
from dedup_quality import Truth, check, expand, truth_of
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup.candidates import equal_prints
from codeshell.dedup.minhash import band_keys, sign
from codeshell.dedup.parameters import Parameters
from codeshell.documents.texts import TextBuffers, text_buffers
from codeshell.environment import environment

THRESHOLDS = (0.5, 0.7, 0.85)
TARGETS = (0.9, 0.95, 0.98)
WITHIN, NEAR = 0.005, 0.015
LANES = Parameters().lanes
ROWS = (2, 3, 4, 5, 6, 7, 9, 12, 14, 18)
"""Rows per band; each is tried with any number of bands that the default signature has lanes for."""
REPETITIONS = (1, 2, 3, 4, 5, 6, 8, 10, 12, 16, 20, 30)
LIMITS = (30, 45, 60, 90, 120, 250, 500)
BUDGETS = (410, 4096)
"""Budgets of one repetition. The defaults are 10 repetitions, the paper's limit of 250, and a total budget of 4,096."""


class Signed(NamedTuple):
    """A signed corpus."""

    piece: TextBuffers
    sketches: NDArray[np.uint8]
    representative: NDArray[np.int64]
    """(documents,) the earliest document of the same fingerprint."""
    truth: Truth
    keys: dict[int, NDArray[np.uint64]]
    """Rows per band to keys of as many bands as fit, (documents, bands)."""

    @property
    def chosen(self) -> NDArray[np.bool_]:
        flags: NDArray[np.bool_] = self.representative == np.arange(len(self.representative))
        return flags

    def keys_of(self, rows: int) -> NDArray[np.uint64]:
        if rows not in self.keys:
            p = Parameters()
            self.keys[rows] = band_keys(self.piece, bands=LANES // rows, rows=rows, ngram=p.ngram, seed=p.seed)
        return self.keys[rows]


class Run(NamedTuple):
    """What one method found; ranks are positions here."""

    edges: NDArray[np.uint32]
    compared: int
    seconds: float


def sign_corpus(files: list[Path], work: Path, sample: int) -> tuple[Signed, dict[str, Any]]:
    texts = list(read_texts(files))
    (piece,) = text_buffers(texts)
    cache = work / "truth.npz"
    # Shingle sets are needed only where the truth is not cached yet.
    values, bounds = (np.empty(0, np.uint64), np.zeros(1, np.int64))
    if not cache.exists():
        values, bounds = _C.dedup_shingle_sets(piece.data, piece.offsets, Parameters().ngram)
    truth = truth_of(values, bounds, cache)
    compared = check(texts, truth, sample)
    signed = sign(piece, Parameters())
    positions = np.arange(len(texts), dtype=np.uint32)
    # Of equal fingerprints the first document stands for all.
    same, first = equal_prints(signed.fingerprints, positions, positions)
    representative = np.arange(len(texts))
    representative[same] = first
    facts = {
        "documents": len(texts),
        "bytes": int(piece.offsets[-1] - piece.offsets[0]),
        "equal_fingerprints": len(same),
        "pairs": {f">= {low}": len(truth.above(low)) for low in THRESHOLDS},
        "pairs_checked_by_brute_force": compared,
    }
    return Signed(piece, signed.sketches, representative, truth, {}), facts


def run_bands(signed: Signed, threshold: float, bands: int, rows: int) -> Run:
    """The steps of `candidates.find_edges`, without its files."""
    p = replace(Parameters(), threshold=threshold)
    # The first bands of those that fit; each key has the number of its document beside it.
    keys = np.ascontiguousarray(signed.keys_of(rows)[:, :bands])
    owner = np.repeat(np.arange(len(keys), dtype=np.uint32), bands)
    keys, chosen = keys.reshape(-1), signed.chosen
    sketches = _C.DedupSketches.from_array(signed.sketches)
    started = time.perf_counter()
    edges, heavy, counts = _C.dedup_groups_edges(keys, owner, chosen, None, sketches, LANES, p.least, p.sure)
    # The clock includes CPSJoin over the documents of large groups, which is part of this method.
    compared = counts["pairs_compared"]
    if len(heavy):
        more, join = _C.dedup_cpsjoin(sketches, heavy, heavy, LANES, threshold, p.least, p.sure, p.seed)
        edges, compared = np.unique(np.concatenate([edges, more]), axis=0), compared + join["compared"]
    return Run(edges, compared, time.perf_counter() - started)


def run_join(signed: Signed, threshold: float, **options: int) -> Run:
    p = replace(Parameters(), threshold=threshold)
    sketches = _C.DedupSketches.from_array(signed.sketches)
    positions = np.flatnonzero(signed.chosen).astype(np.uint32)
    started = time.perf_counter()
    edges, counts = _C.dedup_cpsjoin(
        sketches, positions, positions, LANES, threshold, p.least, p.sure, p.seed, **options
    )
    return Run(edges, counts["compared"], time.perf_counter() - started)


def recall(signed: Signed, run: Run, threshold: float) -> float:
    found = expand(run.edges, signed.representative)
    return float(np.isin(signed.truth.above(threshold), found).mean())


def keys_recall(signed: Signed, threshold: float, rows: int) -> NDArray[np.float64]:
    """(bands,) the share of true pairs that share a key of the first 1, 2, ... bands."""
    pairs = signed.truth.above(threshold)
    first, second = signed.representative[pairs >> 32], signed.representative[pairs & 0xFFFFFFFF]
    keys = signed.keys_of(rows)
    met = (keys[first] == keys[second]) | (first == second)[:, None]
    shares: NDArray[np.float64] = np.logical_or.accumulate(met, axis=1).mean(axis=0)
    return shares


class Tried(NamedTuple):
    """The outcome of one setting of a method, run once."""

    recall: float
    seconds: float
    options: dict[str, int]


def try_bands(signed: Signed, threshold: float) -> list[Tried]:
    tried = []
    for rows in ROWS:
        reached = keys_recall(signed, threshold, rows)
        for bands in range(1, len(reached) + 1):
            # What the keys reach is more than what the stage does, but only where large groups are not compared whole.
            if TARGETS[0] - 2 * NEAR < reached[bands - 1] < 0.999:
                run = run_bands(signed, threshold, bands, rows)
                tried.append(Tried(recall(signed, run, threshold), run.seconds, {"bands": bands, "rows": rows}))
    return tried


def try_join(signed: Signed, threshold: float) -> list[Tried]:
    # CPSJoin may remember twice the earlier neighbours that any document truly has, so that this limit loses none.
    later = signed.truth.above(threshold) & 0xFFFFFFFF
    most = int(np.bincount(later).max())
    neighbours = max(32, 1 << (2 * most - 1).bit_length())
    tried = []
    for repetitions, limit, budget in itertools.product(REPETITIONS, LIMITS, BUDGETS):
        options = {
            "repetitions": repetitions,
            "limit": limit,
            "budget": budget * repetitions,
            "neighbours": neighbours,
        }
        run = run_join(signed, threshold, **options)
        tried.append(Tried(recall(signed, run, threshold), run.seconds, options))
    return tried


def choose(threshold: float, bands: list[Tried], join: list[Tried]) -> list[dict[str, Any]]:
    """The settings to time at a threshold; `options` is None where no two settings match."""
    chosen: list[dict[str, Any]] = []
    for target in TARGETS:
        # Settings of the two methods with the same recall, near the target; the fastest such pair is timed.
        pairs = [
            (one, other)
            for one in bands
            for other in join
            if abs(one.recall - other.recall) <= WITHIN and max(abs(r.recall - target) for r in (one, other)) <= NEAR
        ]
        best = min(pairs, key=lambda pair: pair[0].seconds + pair[1].seconds) if pairs else (None, None)
        for method, setting in zip(("bands", "cpsjoin"), best, strict=True):
            options = setting.options if setting else None
            chosen.append({"threshold": threshold, "target": target, "method": method, "options": options})
    return chosen


DEFAULTS: list[dict[str, Any]] = [
    {"threshold": threshold, "target": None, "method": method, "options": options}
    for threshold in THRESHOLDS
    for method, options in (
        ("bands", {"bands": Parameters().bands, "rows": Parameters().rows}),
        ("cpsjoin", {}),
    )
]


def measure(signed: Signed, row: dict[str, Any], repeats: int) -> dict[str, Any]:
    threshold, options = row["threshold"], row["options"]
    if options is None:
        return row
    method: Callable[..., Run] = run_bands if row["method"] == "bands" else run_join
    runs = [method(signed, threshold, **options) for _ in range(repeats)]
    seconds = [run.seconds for run in runs]
    return row | {
        "recall": round(recall(signed, runs[0], threshold), 4),
        "seconds": round(statistics.median(seconds), 4),
        "fastest": round(min(seconds), 4),
        "slowest": round(max(seconds), 4),
        "compared": runs[0].compared,
        "edges": len(runs[0].edges),
    }


def show(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        parameters = "default" if row["target"] is None else json.dumps(row["options"])
        numbers = "".join(
            f"{row.get(name, ''):>12}" for name in ("recall", "seconds", "fastest", "slowest", "compared", "edges")
        )
        print(f"{row['threshold']:>5} {row['target'] or '':>5} {row['method']:8}{numbers}  {parameters}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="Parquet files, or folders of them")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what is there is not made again")
    parser.add_argument("--check", type=int, default=200, metavar="N", help="documents compared by brute force")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    signed, corpus = sign_corpus(parquet_files(args.corpus), args.work, args.check)
    wanted = list(DEFAULTS)
    for threshold in THRESHOLDS:
        # Trying the grid takes long, so its outcome is kept; what is reported is timed again below.
        cache = args.work / f"tried-{threshold}.json"
        if not cache.exists():
            cache.write_text(json.dumps([try_bands(signed, threshold), try_join(signed, threshold)]))
        bands, join = ([Tried(*row) for row in tried] for tried in json.loads(cache.read_text()))
        wanted += choose(threshold, bands, join)
    rows = [measure(signed, row, args.repeats) for row in sorted(wanted, key=lambda row: row["threshold"])]
    show(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"environment": environment(1), "corpus": corpus, "rows": rows}
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
