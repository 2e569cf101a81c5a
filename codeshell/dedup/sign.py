"""The first step of the search: one file of signatures per shard.

`sign-NNNNN.bin` holds, for the documents of its shard in their order (`arrays.py` is the container):

    sketches            (n, width) uint8     the low byte of every MinHash lane
    shingles            (n,) uint32          the number of shingles, with repetitions
    bytes               (n,) int64           the size of the text
    rows                (n,) int64           the place in the input file

and, ordered by partition (the highest 12 bits of the key), so that a task reads one range of every shard's file:

    key_bounds          (4097,) int64        partition p is keys[key_bounds[p]:key_bounds[p + 1]]
    keys                (k,) uint64          band keys; no zeros
    key_documents       (k,) uint32          the document of each key, numbered within the shard
    print_bounds        (4097,) int64        the same three for the fingerprints
    prints              (n, 2) uint64
    print_documents     (n,) uint32

`documents-NNNNN.parquet` beside it holds `id` and, for an order by a column, `order`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.dedup.minhash import sign
from codeshell.dedup.parameters import Parameters
from codeshell.documents.arrays import ArrayFile, write_arrays
from codeshell.documents.batches import Batch
from codeshell.documents.shards import write_table
from codeshell.documents.texts import text_buffers

PARTITION_BITS = 12
PARTITIONS = 1 << PARTITION_BITS
"""Keys are cut by value into so many partitions; a task takes a range of them. 4,096 are enough to cut 10^9 documents
into tasks of 2 GB."""

Reader = Callable[[Any, frozenset[str]], Iterator[Batch]]
"""`reader(shard, wanted)` yields the shard's documents in order, the same at every call; `wanted` is a subset of
{"text", "id", "order"}. It is pickled with the shard: a module-level function or a `functools.partial` of one."""


@dataclass(frozen=True)
class SignTask:
    """One shard to sign."""

    shard: Any
    reader: Reader
    parameters: Parameters
    output: Path
    documents: Path
    wanted: frozenset[str]


def sign_shard(task: SignTask) -> dict[str, Any]:
    """Write the two files of one shard; return its counts."""
    # By name of the array: one piece per batch, in the order of the documents.
    parts: dict[str, list[NDArray[Any]]] = {}
    labels: list[pa.Table] = []
    left_out: dict[str, int] = {}
    for batch in task.reader(task.shard, task.wanted):
        for reason, count in batch.left_out.items():
            left_out[reason] = left_out.get(reason, 0) + count
        if len(batch.rows) == 0:  # a batch of documents that are all left out
            continue
        for piece in text_buffers(batch.texts):
            # One pass over the texts, in C++. Arrow may give a batch in several pieces.
            signed = sign(piece, task.parameters)
            lengths = np.diff(piece.offsets)
            named = signed._asdict() | {"bytes": lengths}
            for name, array in named.items():
                parts.setdefault(name, []).append(array)
        parts.setdefault("rows", []).append(batch.rows)
        # Labels go into a Parquet file: ids are strings, and order values have a type of their own.
        columns = {name: getattr(batch, column) for name, column in (("id", "ids"), ("order", "order"))}
        labels.append(pa.table({name: column for name, column in columns.items() if column is not None}))
    # Write the files only now, when all of the shard has been read: they are whole or absent.
    arrays = _layout(parts, task.parameters)
    write_arrays(task.output, arrays)
    if labels and labels[0].num_columns:
        write_table(task.documents, pa.concat_tables(labels, promote_options="permissive"))
    return {
        "documents": len(arrays["rows"]),
        "bytes": int(arrays["bytes"].sum()),
        "keys": len(arrays["keys"]),
        "left_out": left_out,
    }


def _layout(parts: dict[str, list[NDArray[Any]]], parameters: Parameters) -> dict[str, NDArray[Any]]:
    """The arrays of the file, from the pieces of `sign_shard`."""
    # A shard without documents has arrays too, of these dtypes.
    empty: dict[str, NDArray[Any]] = {
        "keys": np.empty((0, parameters.bands), np.uint64),
        "sketches": np.empty((0, parameters.width), np.uint8),
        "fingerprints": np.empty((0, 2), np.uint64),
        "shingles": np.empty(0, np.uint32),
        "bytes": np.empty(0, np.int64),
        "rows": np.empty(0, np.int64),
    }
    whole = {name: np.concatenate(parts[name]) if name in parts else array for name, array in empty.items()}
    arrays = {name: whole[name] for name in ("sketches", "shingles", "bytes", "rows")}
    return arrays | partitioned(whole["keys"], whole["fingerprints"])


def partitioned(keys: NDArray[np.uint64], prints: NDArray[np.uint64]) -> dict[str, NDArray[Any]]:
    """The partitioned arrays of keys (n, bands) and fingerprints (n, 2)."""
    # A key of 0 is "no key" and is not stored. `nonzero` goes row by row, so documents ascend within a partition.
    document, band = np.nonzero(keys)
    flat = keys[document, band]
    order, bounds = _by_partition(flat)
    arrays: dict[str, NDArray[Any]] = {"key_bounds": bounds, "keys": flat[order]}
    arrays["key_documents"] = document[order].astype(np.uint32)
    # By the second half of the fingerprint; both halves are hashes, so either cuts evenly.
    order, bounds = _by_partition(prints[:, 1])
    return arrays | {"print_bounds": bounds, "prints": prints[order], "print_documents": order.astype(np.uint32)}


def _by_partition(keys: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The order (k,) that sorts keys by partition, and the bounds (4097,) of the partitions."""
    # The highest 12 bits of the key.
    partition = (keys >> np.uint64(64 - PARTITION_BITS)).astype(np.uint16)
    bounds = np.zeros(PARTITIONS + 1, np.int64)
    np.cumsum(np.bincount(partition, minlength=PARTITIONS), out=bounds[1:])
    # For 16-bit values NumPy's stable sort is a radix sort.
    return np.argsort(partition, kind="stable"), bounds


class SignedShards(NamedTuple):
    """The signed shards of a search, in order; document i of shard s has the position `firsts[s] + i`."""

    files: Sequence[Path]
    firsts: NDArray[np.int64]
    """(shards + 1,) the position of each shard's first document."""

    def partitions(self, name: str, begin: int, end: int) -> tuple[NDArray[Any], NDArray[np.uint32]]:
        """The `keys` or `prints` of the partitions [begin, end) of all shards, and their documents' positions (k,)."""
        owner = {"keys": "key", "prints": "print"}[name]
        values: list[NDArray[Any]] = []
        positions: list[NDArray[np.uint32]] = []
        # Of every file only this range is read; numbers within the shard become positions.
        for path, first in zip(self.files, self.firsts[:-1].tolist(), strict=True):
            file = ArrayFile(path)
            bounds = file.read(f"{owner}_bounds")
            start, stop = int(bounds[begin]), int(bounds[end])
            values.append(file.read(name, start, stop))
            positions.append(file.read(f"{owner}_documents", start, stop) + np.uint32(first))
        return np.concatenate(values), np.concatenate(positions)

    def partition_sizes(self, name: str) -> NDArray[np.int64]:
        """How many keys or fingerprints each partition has in all shards, (4096,)."""
        total = np.zeros(PARTITIONS, np.int64)
        for path in self.files:
            total += np.diff(ArrayFile(path).read({"keys": "key_bounds", "prints": "print_bounds"}[name]))
        return total

    def column(self, name: str) -> NDArray[Any]:
        """An array of all documents in the order of their positions: `bytes`, `rows` or `shingles`."""
        return np.concatenate([ArrayFile(path).read(name) for path in self.files])

    def sketch_parts(self) -> list[tuple[str, int, int]]:
        """Where the sketches lie: (path, byte offset, number of documents) per shard."""
        files = [ArrayFile(path) for path in self.files]
        return [(str(file.path), file.offset("sketches"), file.shape("sketches")[0]) for file in files]


def ranges(sizes: NDArray[np.int64], largest: int) -> list[tuple[int, int]]:
    """Cut partitions of the given sizes into consecutive ranges [begin, end) of at most `largest` entries. A partition
    is never cut, so one that is larger is a range of its own."""
    result: list[tuple[int, int]] = []
    begin, total = 0, 0
    for partition, size in enumerate(sizes.tolist()):
        if total and total + size > largest:
            result.append((begin, partition))
            begin, total = partition, 0
        total += size
    result.append((begin, len(sizes)))
    return result
