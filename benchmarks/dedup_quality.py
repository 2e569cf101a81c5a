"""Recall and precision of deduplicators on real files, against all pairs of Jaccard 0.5 and more, found exactly.

    python benchmarks/dedup_quality.py --corpus corpus/*.parquet --work quality --json dedup-quality.json \\
        --peer datasketch=venv-a/bin/python --peer rensa=venv-b/bin/python ...

The corpus is Parquet files (or folders of them) with a column `text`. It has no equal texts, because any hash finds
those. The truth is the Jaccard similarity of the shingle sets of `codeshell dedup` (5 tokens), found by an inverted
index over all documents (`exact_join.py`). The index is checked on a sample of documents against brute force with sets
made in Python. Every system runs with its defaults at the threshold 0.7, on its own shingles, each peer in its own
interpreter (`peers/`).

Columns of a system's row (J is the Jaccard similarity):
    recall          share of true pairs (J >= 0.7) that it saw as similar: a common band key, and any check it makes
    resolved        share of true pairs of which it drops at least one document: what a user wants
    precision       share of the pairs that it reports that have J >= 0.7, and J >= 0.5
    own recall      recall on the true pairs of its own shingles, if these differ from ours
    left            documents that stay though they have J >= 0.7 with an earlier one that stays
    wrong           documents that are dropped though they have J >= 0.7 with none that stays

`--work` keeps the truth and every system's outcome, and a second run uses them. Without --peer only codeshell is
judged, with its two methods at the thresholds 0.5, 0.7 and 0.85.
"""

from __future__ import annotations

import argparse
import json
import re
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import dedup_peers
import numpy as np
import pyarrow.parquet as pq
from dedup_corpora import parquet_files, read_texts
from exact_join import exact_pairs
from numpy.typing import NDArray

from codeshell import _C
from codeshell.dedup import job
from codeshell.dedup.candidates import unpack
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import Search, search
from codeshell.documents import batches, inputs
from codeshell.documents.arrays import ArrayFile
from codeshell.documents.texts import text_buffers
from codeshell.engine import LocalEngine
from codeshell.environment import environment

THRESHOLD, LEAST = 0.7, 0.5
BINS = (0.7, 0.8, 0.9, 1.0001)


class Truth(NamedTuple):
    """All pairs of Jaccard `LEAST` and more, ordered, as i << 32 | j with i < j."""

    packed: NDArray[np.int64]
    jaccard: NDArray[np.float64]

    def of(self, pairs: NDArray[np.int64]) -> NDArray[np.float64]:
        """The Jaccard of some packed pairs; 0 for those below `LEAST`."""
        if not len(self.packed):
            return np.zeros(len(pairs))
        at = np.minimum(np.searchsorted(self.packed, pairs), len(self.packed) - 1)
        return np.where(self.packed[at] == pairs, self.jaccard[at], 0.0)

    def above(self, threshold: float) -> NDArray[np.int64]:
        return self.packed[self.jaccard >= threshold]


class Outcome(NamedTuple):
    """What a system decided."""

    kept: NDArray[np.bool_]
    seen: NDArray[np.int64]
    """Packed pairs that it took for candidates, after any check that it makes except an exact one."""
    reported: NDArray[np.int64]
    """Packed pairs that it says are near duplicates."""


def pack(pairs: NDArray[Any]) -> NDArray[np.int64]:
    """(m, 2) pairs in any order as sorted numbers, each once."""
    pairs = np.sort(pairs.astype(np.int64), axis=1)
    return np.unique(pairs[:, 0] << 32 | pairs[:, 1])


def truth_of(values: NDArray[np.uint64], bounds: NDArray[np.int64], cache: Path) -> Truth:
    if not cache.exists():
        pairs, jaccard = exact_pairs(values, bounds, LEAST)
        # Written under another name first, so that a killed run leaves no half of it.
        partial_file = cache.with_suffix(".partial.npz")
        np.savez(partial_file, packed=pairs[:, 0] << 32 | pairs[:, 1], jaccard=jaccard)
        partial_file.rename(cache)
    with np.load(cache) as found:
        return Truth(found["packed"], found["jaccard"])


SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
TOKENS = re.compile(rf"[A-Za-z0-9_]+|[{SINGLE}]|[^\W0-9A-Za-z_{SINGLE}]+")


def check(texts: list[str], truth: Truth, sample: int) -> int:
    """Compare the truth of a sample of documents, half of them in true pairs, with brute force in Python.

    Returns:
        How many pairs were compared.
    """
    rng = np.random.default_rng(0)
    some = rng.choice(len(truth.packed), min(sample // 4, len(truth.packed)), replace=False)
    chosen = np.concatenate(
        [truth.packed[some] >> 32, truth.packed[some] & 0xFFFFFFFF, rng.integers(len(texts), size=sample // 2)]
    )
    documents = np.unique(chosen).tolist()
    # Shingles as Python makes them: 5 tokens in a row, or all tokens of a text that has fewer.
    sets = []
    for document in documents:
        tokens = TOKENS.findall(texts[document])
        sets.append(frozenset(zip(*(tokens[i:] for i in range(5)), strict=False)) or frozenset([tuple(tokens)]))
    compared = 0
    for i, first in enumerate(sets):
        for j in range(i):
            shared = len(first & sets[j])
            jaccard = shared / (len(first) + len(sets[j]) - shared)
            # The join keeps no pair below LEAST; there it has to say 0.
            said = truth.of(np.array([documents[j] << 32 | documents[i]]))[0]
            if abs(said - (jaccard if jaccard >= LEAST else 0.0)) > 1e-9:
                raise SystemExit(
                    f"documents {documents[j]}, {documents[i]}: the join says {said}, brute force {jaccard}"
                )
            compared += 1
    return compared


def judge(outcome: Outcome, truth: Truth, own: Truth | None, threshold: float = THRESHOLD) -> dict[str, Any]:
    """The measures of one system; see the head of this file."""
    pairs = truth.above(threshold)
    first, second = pairs >> 32, pairs & 0xFFFFFFFF
    kept = outcome.kept
    seen = np.isin(pairs, outcome.seen)
    # A true pair of which both stay is left unresolved.
    both = kept[first] & kept[second]
    reported = truth.of(outcome.reported)
    # A dropped document is covered if a true pair joins it with one that stays; the others were dropped wrongly.
    covered = kept.copy()
    covered[first[kept[second]]] = True
    covered[second[kept[first]]] = True
    row = {
        "true_pairs": len(pairs),
        "recall": round(float(seen.mean()), 4),
        "resolved": round(float(1 - both.mean()), 4),
        "reported_pairs": len(reported),
        "precision": round(float((reported >= threshold).mean()), 4) if len(reported) else None,
        "precision_at_.5": round(float((reported >= LEAST).mean()), 4) if len(reported) else None,
        "kept": int(kept.sum()),
        "left": len(np.unique(second[both])),
        "wrong": int((~covered).sum()),
    }
    if threshold == THRESHOLD:
        jaccard = truth.of(pairs)
        for low, high in pairwise(BINS):
            inside = (jaccard >= low) & (jaccard < high)
            row[f"recall_{low}_to_{min(high, 1.0)}"] = round(float(seen[inside].mean()), 4) if inside.any() else None
    if own is not None:
        row["own_true_pairs"] = len(own.above(threshold))
        row["own_recall"] = round(float(np.isin(own.above(threshold), outcome.seen).mean()), 4)
    return row


def positions(files: list[Path], shard: NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Positions over all files, from file numbers and the rows in them."""
    sizes = [pq.ParquetFile(file).metadata.num_rows for file in files]
    firsts: NDArray[np.int64] = np.concatenate([np.zeros(1, np.int64), np.cumsum(sizes)])
    result: NDArray[np.int64] = firsts[shard] + row
    return result


def command(
    files: list[Path], documents: int, output: Path, workers: int
) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """The outcome of `codeshell dedup` with its defaults: who stays, and the pairs that it names."""
    if not (output / "stats.json").exists():
        shutil.rmtree(output, ignore_errors=True)
        arguments = [*map(str, files), "-o", str(output), "--workers", str(workers)]
        subprocess.run([sys.executable, "-m", "codeshell", "dedup", *arguments], check=True, stdout=subprocess.DEVNULL)
    table = pq.read_table(output / "duplicates.parquet")
    columns = {name: table[name].to_numpy().astype(np.int64) for name in ("shard", "row", "kept_shard", "kept_row")}
    dropped = positions(files, columns["shard"], columns["row"])
    named = positions(files, columns["kept_shard"], columns["kept_row"])
    kept = np.ones(documents, bool)
    kept[dropped] = False
    return kept, np.stack([dropped, named], axis=1)


def candidates(files: list[Path], parameters: Parameters, directory: Path, workers: int) -> Outcome:
    """The outcome of the search itself, with its candidate pairs."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(parents=True)
    options = inputs.InputOptions()
    plan = inputs.plan([str(file) for file in files], options, job.SHARD_BYTES)
    task = Search(plan.shards, partial(read_shard, options=options), directory, parameters)
    found = search(task, LocalEngine(workers))
    # The edges are between representatives of equal fingerprints; `expand` gives those of all documents.
    edges = [unpack(ArrayFile(path).read("edges")) for path in sorted(directory.glob("edges-*.bin"))]
    same = [ArrayFile(path) for path in sorted(directory.glob("same-*.bin"))]
    representative = np.arange(found.documents)
    for file in same:
        representative[file.read("same")] = file.read("representative")
    kept = np.ones(found.documents, bool)
    kept[found.decisions.dropped] = False
    named = np.stack([found.decisions.dropped, found.decisions.kept], axis=1)
    shutil.rmtree(directory)
    seen = expand(np.concatenate([np.empty((0, 2), np.uint32), *edges]), representative)
    return Outcome(kept, seen, pack(named))


def expand(edges: NDArray[np.uint32], representative: NDArray[np.int64]) -> NDArray[np.int64]:
    """Edges between representatives, as packed pairs of all documents that they stand for."""
    copies = {
        int(r): np.flatnonzero(representative == r)
        for r in np.unique(representative[representative != np.arange(len(representative))])
    }
    # The documents that one representative stands for are pairs among themselves, and each has its edges.
    found = [edges.astype(np.int64)]
    for members in copies.values():
        left, right = np.triu_indices(len(members), 1)
        found.append(np.stack([members[left], members[right]], axis=1))
    for a, b in edges.tolist():
        if a in copies or b in copies:
            left, right = copies.get(a, np.array([a])), copies.get(b, np.array([b]))
            found.append(np.stack(np.meshgrid(left, right), axis=-1).reshape(-1, 2))
    return pack(np.concatenate(found))


def read_shard(shard: inputs.Shard, wanted: frozenset[str], options: inputs.InputOptions) -> Any:
    return batches.read(shard, options, wanted)


def peer_rows(args: argparse.Namespace, files: list[Path], truth: Truth) -> list[dict[str, Any]]:
    rows = []
    for peer in args.peer:
        output = args.work / peer[0]
        facts = dedup_peers.run(peer, "whole", files, output, "--pairs", "--workers", str(args.workers))
        # A peer whose shingles differ from ours is also judged on the true pairs of its own.
        own = None
        if (output / "values.npy").exists():
            own = truth_of(np.load(output / "values.npy"), np.load(output / "bounds.npy"), output / "truth.npz")
        pairs = pack(np.load(output / "pairs.npy"))
        outcome = Outcome(np.load(output / "kept.npy"), pairs, pairs)
        name = {"system": dedup_peers.NAMES.get(peer[0], peer[0]), "version": dedup_peers.version(facts)}
        rows.append({**name, "parameters": facts["parameters"], **judge(outcome, truth, own)})
    return rows


def own_rows(args: argparse.Namespace, files: list[Path], truth: Truth, documents: int) -> list[dict[str, Any]]:
    kept, named = command(files, documents, args.work / "codeshell", args.workers)
    outcome = candidates(files, Parameters(), args.work / "search", args.workers)
    if not np.array_equal(kept, outcome.kept):
        raise SystemExit("codeshell: the command and the search do not keep the same documents")
    rows = [
        {
            "system": "codeshell",
            "parameters": "21x6, verified",
            **judge(outcome._replace(reported=pack(named)), truth, None),
        }
    ]
    for threshold in (0.5, 0.7, 0.85):
        for method in ("bands", "cpsjoin"):
            parameters = replace(Parameters(), threshold=threshold, method=method)
            outcome = candidates(files, parameters, args.work / "search", args.workers)
            row = {"system": f"codeshell --method {method} --threshold {threshold}"}
            rows.append(row | judge(outcome, truth, None, threshold))
    return rows


COLUMNS = ("recall", "resolved", "precision", "precision_at_.5", "kept", "left", "wrong", "own_recall")


def show(rows: list[dict[str, Any]]) -> None:
    width = max(len(row["system"]) for row in rows)
    print(" ".join([f"{'system':{width}}", f"{'parameters':27}", *(f"{name:>15}" for name in COLUMNS)]))
    for row in rows:
        cells = [f"{'' if row.get(name) is None else row[name]:>15}" for name in COLUMNS]
        print(" ".join([f"{row['system']:{width}}", f"{row.get('parameters', ''):27}", *cells]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--corpus", type=Path, nargs="+", required=True, help="Parquet files, or folders of them")
    parser.add_argument("--work", type=Path, required=True, metavar="DIR", help="what is there is not made again")
    dedup_peers.add_argument(parser)
    parser.add_argument("--check", type=int, default=1_000, metavar="N", help="documents compared by brute force")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--json", type=Path, metavar="FILE")
    args = parser.parse_args()
    args.work.mkdir(parents=True, exist_ok=True)
    files = parquet_files(args.corpus)
    texts = list(read_texts(files))
    (piece,) = text_buffers(texts)
    values, bounds = _C.dedup_shingle_sets(piece.data, piece.offsets, 5)
    started = time.perf_counter()
    truth = truth_of(values, bounds, args.work / "truth.npz")
    print(f"{len(texts):,} documents, {len(truth.packed):,} pairs >= {LEAST} ({time.perf_counter() - started:.0f} s)")
    compared = check(texts, truth, args.check)
    print(f"{compared:,} of the pairs agree with brute force")
    corpus = {
        "documents": len(texts),
        "bytes": sum(len(text.encode()) for text in texts),
        "pairs": {f">= {low}": len(truth.above(low)) for low in (0.5, 0.6, 0.7, 0.8, 0.9)},
        "pairs_checked_by_brute_force": compared,
    }
    rows = own_rows(args, files, truth, len(texts)) + peer_rows(args, files, truth)
    show(rows)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        found = {"environment": environment(args.workers), "corpus": corpus, "rows": rows}
        args.json.write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
