"""The index of everything seen before, which new data is compared with: `codeshell dedup --index DIR`.

    DIR/index.json                       format, parameters, segments with the size and CRC-32 of every file
    DIR/segment-00000/sign-00000.bin     the documents that a run kept: band keys, sketches, fingerprints (sign.py)
                     /sets-00000.bin     their shingle sets (decide.py), so that old documents need not be read again
                     /documents-00000.parquet   their ids

A run writes its segment under a name that the index does not have yet, and then replaces `index.json` in one step. So a
killed run leaves the old index as it was, and the next run removes what the killed one had written.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from codeshell.dedup.decide import write_sets
from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import Found, Prior, Search
from codeshell.dedup.sign import partitioned
from codeshell.documents.arrays import ArrayFile, write_arrays
from codeshell.documents.shards import read_table, write_table
from codeshell.engine import Engine
from codeshell.engine.files import make_directory, read_json, write_json
from codeshell.errors import UserError

FORMAT = 1
"""The version of the format. It rises when tokens, shingles, lanes, keys or the files change, because an index of
another format cannot be compared with."""

COMPARED = ("shingles", "ngram", "bands", "rows", "seed", "threshold")
"""Parameters that a run and its index must share. The first five give keys and sets their meaning; the threshold
decided which documents are in the index."""


@dataclass(frozen=True)
class Index:
    """An index on disk. `segments` is empty for one that does not exist yet."""

    directory: Path
    parameters: Parameters
    segments: tuple[dict[str, Any], ...]

    @staticmethod
    def open(directory: Path, parameters: Parameters, engine: Engine) -> Index:
        """Open an index and check all of its files, or begin one in a new or empty directory.

        Raises:
            UserError: another format, other parameters (the first that differs is named), a missing or damaged file,
                or a directory of something else.
        """
        path = directory / "index.json"
        check_directory(directory)
        if not path.exists():
            return Index(directory, parameters, ())
        # The manifest: its format first, for nothing else of another format can be trusted.
        manifest = read_json(path)
        if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
            found = manifest.get("format") if isinstance(manifest, dict) else None
            raise UserError(f"{directory}: an index of format {found}, not {FORMAT}; make a new one with this version")
        # Damage is found before anything is compared: a missing key, or a list where an object should be.
        try:
            made = {name: manifest["parameters"][name] for name in COMPARED}
            checks = [
                (str(directory / segment["name"] / name), facts["bytes"], facts["crc32"])
                for segment in manifest["segments"]
                for name, facts in segment["files"].items()
            ]
        except (KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path}: damaged ({error}); restore the index from a copy, or make a new one") from None
        # The parameters, then the size and checksum of every file (in parallel: an index may have many gigabytes).
        for name, old in made.items():
            new = getattr(parameters, name)
            if old != new:
                raise UserError(
                    f"{directory}: made with {name} {old}, but this run has {new}; use the same or a new index"
                )
        index = Index(directory, parameters, tuple(manifest["segments"]))
        for (file, _, _), wrong in zip(checks, engine.map(_check, checks), strict=True):
            if wrong:
                raise UserError(f"{file}: {wrong}; restore the index from a copy, or make a new one")
        return index

    @property
    def documents(self) -> int:
        return sum(segment["documents"] for segment in self.segments)

    def prior(self) -> list[Prior]:
        """The files of all segments, oldest first."""
        return [Prior(signed, signed.with_name(signed.name.replace("sign", "sets"))) for signed in self._signed()]

    def ids(self) -> Iterator[pa.ChunkedArray]:
        """The ids of the documents of each file of `prior`."""
        for signed in self._signed():
            yield read_table(signed.with_name(signed.name.replace("sign", "documents")).with_suffix(".parquet"))["id"]

    def before(self, job: dict[str, Any]) -> Index:
        """The index without the segment that `job` added to it, if that is the last segment."""
        if self.segments and self.segments[-1]["job"] == _job_key(job):
            return replace(self, segments=self.segments[:-1])
        return self

    def add(self, task: Search, found: Found, job: dict[str, Any], engine: Engine) -> int:
        """Add the documents that a search kept as a new segment; return how many they are. `job` is the content of the
        job's `job.json`: `before` recognises the segment by it."""
        make_directory(self.directory)
        self._remove_orphans()
        name = f"segment-{len(self.segments):05d}"
        home = make_directory(self.directory / name)
        # By position, prior documents too, whose flags nobody reads.
        dropped = np.zeros(int(found.firsts[-1]), np.bool_)
        dropped[found.decisions.dropped] = True
        # One part per shard of the search; ~dropped[first:last] are its kept documents.
        parts = []
        for number in range(len(task.shards)):
            first, last = found.firsts[len(task.prior) + number : len(task.prior) + number + 2].tolist()
            sources = (task.signed_path(number), task.sets_path(number), task.documents_path(number))
            parts.append(_SegmentPart(sources, ~dropped[first:last], home, number))
        counts = list(engine.map(_write_part, parts))
        # All files of the segment are on the disk; the new manifest makes them part of the index at once.
        files: dict[str, Any] = {}
        for facts in counts:
            files |= facts["files"]
        documents = sum(facts["documents"] for facts in counts)
        segment = {"name": name, "job": _job_key(job), "documents": documents, "files": files}
        parameters = {compared: getattr(self.parameters, compared) for compared in COMPARED}
        manifest = {"format": FORMAT, "parameters": parameters, "segments": [*self.segments, segment]}
        write_json(self.directory / "index.json", manifest)
        return int(documents)

    def _signed(self) -> Iterator[Path]:
        """Yield the files of signatures of all segments, oldest first; their order is that of the prior positions."""
        for segment in self.segments:
            for name in sorted(segment["files"]):
                if name.startswith("sign"):
                    yield self.directory / segment["name"] / name

    def _remove_orphans(self) -> None:
        """Remove segments that a killed run wrote and `index.json` does not name."""
        known = {segment["name"] for segment in self.segments}
        for path in self.directory.glob("segment-[0-9]*"):
            if path.name not in known:
                shutil.rmtree(path)


@dataclass(frozen=True)
class _SegmentPart:
    """The documents of one shard for a segment: its `sign`, `sets` and `documents` files in a search; flags (n,)."""

    sources: tuple[Path, Path, Path]
    kept: NDArray[np.bool_]
    home: Path
    number: int


def _write_part(part: _SegmentPart) -> dict[str, Any]:
    """Write the three files of the kept documents of one shard; return their number, and facts about the files."""
    outputs = [part.home / path.name for path in part.sources]
    signed, sets = ArrayFile(part.sources[0]), ArrayFile(part.sources[1])

    # Signatures. Per-document arrays are filtered. Records of a document (its keys, its fingerprint) are filtered and
    # numbered anew: number[d] is the place of the kept document d among the kept ones.
    number = np.cumsum(part.kept) - 1
    arrays = {name: signed.read(name)[part.kept] for name in ("sketches", "shingles", "bytes", "rows")}
    # Keys of kept documents, in the same order, with new numbers.
    documents = signed.read("key_documents")
    stays = part.kept[documents]
    flat = {"keys": signed.read("keys")[stays], "key_documents": number[documents[stays]].astype(np.uint32)}
    # Fingerprints go back into the order of documents and are partitioned again. Keys stay partitioned, for a filter
    # keeps their order; each bound becomes the number of kept keys before it. `partitioned` gets no keys (0 bands).
    prints = np.empty((len(part.kept), 2), np.uint64)
    prints[signed.read("print_documents")] = signed.read("prints")
    layout = partitioned(np.zeros((int(part.kept.sum()), 0), np.uint64), prints[part.kept])
    key_bounds = np.concatenate([np.zeros(1, np.int64), np.cumsum(stays)])[signed.read("key_bounds")]
    write_arrays(outputs[0], arrays | layout | flat | {"key_bounds": key_bounds})

    # Shingle sets. With an index every document has one, so flags of documents are flags of sets.
    bounds = sets.read("bounds")
    values = sets.read("values")
    # One flag per value: is its document kept?
    inside = np.repeat(part.kept[sets.read("documents")], np.diff(bounds))
    write_sets(outputs[1], np.arange(int(part.kept.sum())), np.diff(bounds)[part.kept], values[inside])

    # Ids. A shard without documents has no such file, but the index wants one.
    if part.sources[2].exists():
        ids = read_table(part.sources[2], ["id"])
    else:
        ids = pa.table({"id": pa.array([], pa.string())})
    write_table(outputs[2], ids.filter(pa.array(part.kept)))
    return {
        "documents": int(part.kept.sum()),
        "files": {path.name: {"bytes": path.stat().st_size, "crc32": _crc32(path)} for path in outputs},
    }


def _check(facts: tuple[str, int, int]) -> str:
    """What is wrong with a file (path, bytes, CRC-32); "" if nothing is."""
    path, size, checksum = Path(facts[0]), facts[1], facts[2]
    if not path.exists():
        return "missing"
    if path.stat().st_size != size:
        return f"of {path.stat().st_size} bytes, not {size}"
    return "" if _crc32(path) == checksum else "damaged (its checksum is wrong)"


def _crc32(path: Path) -> int:
    """The CRC-32 of a file, read 16 MB at a time."""
    checksum = 0
    with open(path, "rb") as file:
        while piece := file.read(16 << 20):
            checksum = zlib.crc32(piece, checksum)
    return checksum


def _job_key(job: dict[str, Any]) -> str:
    """A digest of `job.json`, by which a resumed job recognises its own segment."""
    return hashlib.md5(json.dumps(job, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def check_directory(directory: Path) -> None:
    """Raise a `UserError` if a directory holds files, but no index."""
    new = directory.is_dir() and not (directory / "index.json").exists()
    if new and any(not _ours(path) for path in directory.iterdir()):
        raise UserError(f"{directory}: no index is here, but other files are; choose another --index")


def _ours(path: Path) -> bool:
    """Whether a run that was killed before its first `index.json` may have left this."""
    return path.name == "index.lock" or path.name.startswith("segment-")
