"""What the scripts in this folder share. Each runs another deduplicator over Parquet files with a column `text`, in an
interpreter of its own that has the package and pyarrow:

    PYTHON run_NAME.py whole --input A.parquet B.parquet --output DIR     find duplicates, write the rows that stay
    PYTHON run_NAME.py signatures --input ... --output DIR                text in memory to signatures, one process

`whole` writes DIR/kept/*.parquet, and DIR/result.json with the versions, the parameters and the seconds of its steps;
with `--pairs` also what `dedup_quality.py` judges: kept.npy (n,) bool, pairs.npy (m, 2) the pairs that it took for
duplicates, and, if its shingles differ from those of `code_shingles`, values.npy and bounds.npy, their sets.
Positions count the rows of the files in the order given.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Collection, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

ROWS = 2_000
NGRAM = 5

SINGLE = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7af\uf900-\ufaff"
TOKENS = re.compile(rf"[A-Za-z0-9_]+|[{SINGLE}]|[^\W0-9A-Za-z_{SINGLE}]+")


def code_shingles(text: str) -> set[str]:
    """The shingles of `codeshell dedup`, in the words of Python: what a careful user would write by hand."""
    tokens = TOKENS.findall(text)
    if len(tokens) < NGRAM:
        return {" ".join(tokens)}
    return {" ".join(tokens[i : i + NGRAM]) for i in range(len(tokens) - NGRAM + 1)}


def parser(*tasks: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser()
    parser.add_argument("task", choices=tasks)
    parser.add_argument("--input", nargs="+", required=True)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--megabytes", type=float, default=float("inf"), help="of text that `signatures` takes")
    parser.add_argument("--pairs", action="store_true")
    return parser


def batches(files: list[str]) -> Iterator[list[str]]:
    for file in files:
        for batch in pq.ParquetFile(file).iter_batches(ROWS, columns=["text"]):
            yield batch["text"].to_pylist()


def texts_in_memory(files: list[str], megabytes: float) -> tuple[list[str], int]:
    """Texts until there are so many megabytes, and their bytes."""
    texts: list[str] = []
    size = 0
    for batch in batches(files):
        for text in batch:
            texts.append(text)
            size += len(text.encode())
            if size >= megabytes * 1e6:
                return texts, size
    return texts, size


class Timer:
    """Seconds by step: `timer("name")` ends a step and begins the next."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, name: str) -> None:
        now = time.perf_counter()
        self.seconds[name] = round(self.seconds.get(name, 0.0) + now - self._last, 3)
        self._last = now


def write_kept(files: list[str], kept: np.ndarray, output: Path) -> None:
    """Write the rows that stay, file by file."""
    (output / "kept").mkdir(parents=True, exist_ok=True)
    first = 0
    for number, name in enumerate(files):
        file = pq.ParquetFile(name)
        with pq.ParquetWriter(
            output / "kept" / f"{number:05d}.parquet", file.schema_arrow, compression="zstd"
        ) as writer:
            for batch in file.iter_batches(ROWS):
                writer.write_batch(batch.filter(pa.array(kept[first : first + batch.num_rows])))
                first += batch.num_rows


def lay_out(files: list[str], folder: Path, *, numbered: bool) -> None:
    """The files, under names in their order, in a folder: links, or copies with a column `position`."""
    folder.mkdir(parents=True)
    first = 0
    for number, name in enumerate(files):
        target = folder / f"{number:05d}.parquet"
        if numbered:
            table = pq.read_table(name, columns=["text"])
            positions = np.arange(first, first + table.num_rows)
            pq.write_table(table.append_column("position", pa.array(positions)), target, row_group_size=ROWS)
            first += table.num_rows
        else:
            target.symlink_to(Path(name).resolve())


def band_pairs(bands: Iterable[np.ndarray]) -> np.ndarray:
    """(m, 2) the pairs of rows that are equal in any of some (n, width) arrays."""
    found = []
    for band in bands:
        _, group = np.unique(band, axis=0, return_inverse=True)
        order = np.argsort(group.ravel(), kind="stable")
        for members in np.split(order, np.flatnonzero(np.diff(group.ravel()[order])) + 1):
            if len(members) > 1:
                left, right = np.triu_indices(len(members), 1)
                found.append(members[left].astype(np.int64) << 32 | members[right])
    packed = np.unique(np.concatenate([np.empty(0, np.int64), *found]))
    return np.stack([packed >> 32, packed & 0xFFFFFFFF], axis=1)


def components(count: int, pairs: np.ndarray) -> np.ndarray:
    """(count,) the smallest member of everyone's connected component."""
    parent = list(range(count))

    def root(x: int) -> int:
        while parent[x] != x:
            parent[x] = parent[parent[x]]
            x = parent[x]
        return x

    for a, b in pairs.tolist():
        a, b = root(a), root(b)
        parent[max(a, b)] = min(a, b)
    return np.array([root(x) for x in range(count)])


def save_sets(output: Path, sets: Iterable[Collection[Any]]) -> None:
    """The hashes (of Python, good within one process) of the shingles of every document."""
    values, bounds = [], [0]
    for shingles in sets:
        values.append(np.unique(np.fromiter((hash(x) & (1 << 64) - 1 for x in shingles), np.uint64, len(shingles))))
        bounds.append(bounds[-1] + len(values[-1]))
    np.save(output / "values.npy", np.concatenate([np.empty(0, np.uint64), *values]))
    np.save(output / "bounds.npy", np.array(bounds))


def finish(output: Path, *packages: str, **facts: Any) -> None:
    """Write result.json: a directory that has it is complete."""
    facts["versions"] = {name: version(name) for name in packages} | {"python": sys.version.split()[0]}
    (output / "result.json").write_text(json.dumps(facts, indent=2) + "\n")


def signatures(
    args: argparse.Namespace, shingles: Callable[[str], Any], sign: dict[str, Callable[[Any], Any]]
) -> dict[str, Any]:
    """Time the shingles of all texts, then each of some ways to sign ready shingles (`sign` takes all sets at once)."""
    texts, size = texts_in_memory(args.input, args.megabytes)
    timer = Timer()
    sets = [shingles(text) for text in texts]
    timer("shingles")
    for name, work in sign.items():
        work(sets)
        timer(name)
    return {"documents": len(texts), "bytes": size, "shingles": sum(map(len, sets)), "seconds": timer.seconds}
