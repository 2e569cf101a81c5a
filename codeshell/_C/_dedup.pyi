"""Signatures of near-duplicate search, which are names of `codeshell._C` itself: this stub has no module of its own."""

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

# dedup: texts are data[offsets[i]:offsets[i + 1]] of a bytes-like `data` and (texts + 1,) int64 `offsets`.
# `preset` says what a shingle is: code, starcoder, stack-v2, datatrove or char-24; `ngram` how many tokens, words or
# characters.
def dedup_sign(
    data: Buffer,
    offsets: NDArray[np.int64],
    preset: str,
    ngram: int,
    bands: int,
    rows: int,
    seed: int,
    threads: int = 1,
    level: str = "",
) -> tuple[NDArray[np.uint64], NDArray[np.uint8], NDArray[np.uint64], NDArray[np.uint32]]:
    """Band keys (texts, bands), sketches (texts, bands * rows padded to a multiple of 64), fingerprints (texts, 2) and
    shingle counts (texts,): see `codeshell.dedup.minhash.Signed`."""

def dedup_minhash(
    data: Buffer,
    offsets: NDArray[np.int64],
    ngram: int,
    lanes: int,
    seed: int,
    threads: int = 1,
    level: str = "",
    preset: str = "code",
) -> NDArray[np.uint32]:
    """MinHash signatures (texts, lanes); all lanes of a text without shingles are 2^32 - 1."""

def dedup_datasketch(
    data: Buffer,
    offsets: NDArray[np.int64],
    preset: str,
    ngram: int,
    scheme: str,
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    wide: bool,
    threads: int = 1,
    level: str = "",
) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """datasketch's signatures (texts, permutations), uint32 for the scheme affine32, else uint64 (legacy, affine64).

    They are made from the SHA-1 of each shingle: 64 bits of it if `wide`, else 32. `a` and `b` (permutations,) are
    datasketch's.
    """

def dedup_datasketch_sets(
    data: Buffer,
    offsets: NDArray[np.int64],
    sets: NDArray[np.int64],
    scheme: str,
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    wide: bool,
    threads: int = 1,
    level: str = "",
) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """The same for sets of strings: set i has the strings sets[i] to sets[i + 1] of `data`; `sets` is (sets + 1,)."""

def dedup_datasketch_hashes(
    values: NDArray[np.uint64],
    sets: NDArray[np.int64],
    scheme: str,
    a: NDArray[np.uint64],
    b: NDArray[np.uint64],
    wide: bool,
    threads: int = 1,
    level: str = "",
) -> NDArray[np.uint32] | NDArray[np.uint64]:
    """The same for sets of hash values: set i has values[sets[i]:sets[i + 1]]."""

def dedup_shingle_sets(
    data: Buffer, offsets: NDArray[np.int64], ngram: int, level: str = "", preset: str = "code"
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Distinct ascending shingles, and (texts + 1,) bounds: those of text i are values[bounds[i]:bounds[i + 1]]."""

def dedup_bins(
    data: Buffer, offsets: NDArray[np.int64], ngram: int, level: str = "", preset: str = "code"
) -> NDArray[np.uint8]:
    """One-permutation sketches (texts, 1024) of the texts' shingles."""

def dedup_bins_of_sets(values: NDArray[np.uint64], bounds: NDArray[np.int64]) -> NDArray[np.uint8]:
    """The same for sets of shingles: set i has values[bounds[i]:bounds[i + 1]]."""

def dedup_sharpen(
    sketches: DedupSketches,
    shingles: NDArray[np.uint32],
    edges: NDArray[np.uint32],
    threshold: float,
    threads: int = 1,
    level: str = "",
) -> NDArray[np.bool_]:
    """Which of the (m, 2) pairs of sketches may have a Jaccard of `threshold`: (m,).

    `sketches` are those of `dedup_bins`; `shingles` (sketches,) says how many shingles each was made of.
    """

class DedupSets:
    """Shingle sets of documents, which are read when they are needed.

    Args:
        parts: (path, position of the file's document 0, byte offset of `documents`, how many, byte offset of `bounds`,
            byte offset of `values`). Documents (m,) uint32 ascend and are numbered within the file; the set of
            documents[i] is values[bounds[i]:bounds[i + 1]], uint64, distinct and ascending.

    Raises:
        OSError: a file that cannot be read.
        ValueError: a file that is too short or holds something else; positions of two files that interleave.
    """

    def __init__(self, parts: list[tuple[str, int, int, int, int, int]]) -> None: ...
    @staticmethod
    def from_arrays(documents: NDArray[np.uint32], bounds: NDArray[np.int64], values: NDArray[np.uint64]) -> DedupSets:
        """Sets in memory; `values` is not copied, and must not change."""

    def __len__(self) -> int: ...

def dedup_verify(
    sets: DedupSets, edges: NDArray[np.uint32], threshold: float, threads: int = 1, level: str = ""
) -> NDArray[np.float64]:
    """Jaccards (m,) of (m, 2) pairs of positions: exact where they reach the threshold (in [0, 1]), else 0.

    Two empty sets have 0. Pairs in the order of their first document are fastest. Raises ValueError where a document
    has no set.
    """

class DedupGreedy:
    """Decides in the order of ranks which of fewer than 2^32 documents stay. At first, all do.

    Edges are (m, 2) uint32 (later, earlier) ranks, in the order of the later; otherwise ValueError.
    """

    def __init__(self, documents: int) -> None: ...
    def pending(self, edges: NDArray[np.uint32]) -> NDArray[np.bool_]:
        """For each edge, (m,): whether none of its documents is known to be dropped, so that the edge may matter."""

    def decide(
        self, edges: NDArray[np.uint32], jaccard: NDArray[np.float64], threshold: float
    ) -> tuple[NDArray[np.uint32], NDArray[np.uint32], NDArray[np.float64]]:
        """Drop every later document with an edge of at least the threshold to an earlier one that stays.

        All edges of a later document come in one call; calls come in ascending order of the later documents.

        Returns:
            (k,) dropped ranks, ascending; (k,) for each the rank that stays of highest Jaccard, the earliest of equals;
            (k,) the Jaccard of the two.
        """

    def drop(self, ranks: NDArray[np.uint32]) -> None:
        """Drop documents (k,) for reasons that the caller has."""

    def kept(self) -> NDArray[np.bool_]:
        """Which documents stay: (documents,)."""

class DedupComponents:
    """Connected components of fewer than 2^32 documents."""

    def __init__(self, documents: int) -> None: ...
    def add(self, edges: NDArray[np.uint32]) -> None:
        """Join the components of the two documents of every edge, (m, 2) in any order."""

    def labels(self) -> NDArray[np.uint32]:
        """For each document the smallest one of its component, (documents,). A view, valid until the next `add`."""

class DedupMatcher:
    """Decides in order which documents of a stream stay.

    Args:
        preset, ngram: see above.
        bands: number of keys per document.
        threshold: least Jaccard of a duplicate, in (0, 1].
        max_bucket: most documents that a key leads to.
        lanes: how many bytes of a sketch count.
        least: how many bytes of two sketches must be equal for a comparison; 0 compares all that share a key.
    """

    def __init__(
        self, preset: str, ngram: int, bands: int, threshold: float, max_bucket: int, lanes: int, least: int
    ) -> None: ...
    def add(
        self,
        data: Buffer,
        offsets: NDArray[np.int64],
        keys: NDArray[np.uint64],
        sketches: NDArray[np.uint8],
        fingerprints: NDArray[np.uint64],
        kept: NDArray[np.int64],
        jaccard: NDArray[np.float64],
        candidate: NDArray[np.bool_] | None = None,
        threads: int = 1,
    ) -> None:
        """Decide on the next texts, which come with what `dedup_sign` gives for them.

        Fills `kept` (texts,) with the number of the kept document that a text resembles, counted over all calls, or -1
        if the text stays; and `jaccard` (texts,) with that of the two, or 0. A text that is no `candidate` stays
        without being looked at, because the caller knows that it shares no key with another. After an exception
        `documents` says how many texts have been decided.
        """

    @property
    def documents(self) -> int:
        """How many documents have been decided so far."""

    def counts(self) -> dict[str, int]:
        """The counts `candidate_pairs`, `verified_pairs` and `capped_keys`."""

class DedupSketches:
    """MinHash sketches, one byte per lane: in files (path, byte offset, documents), or in an array."""

    def __init__(self, parts: list[tuple[str, int, int]], width: int, in_memory: bool) -> None: ...
    @staticmethod
    def from_array(sketches: NDArray[np.uint8]) -> DedupSketches:
        """From an array (documents, width), which is not copied."""

    def equal(self, pairs: NDArray[np.uint32], lanes: int, level: str = "") -> NDArray[np.uint32]:
        """How many of the first `lanes` bytes are equal in each of the (m, 2) pairs."""

    def __len__(self) -> int: ...

def dedup_groups_edges(
    keys: NDArray[np.uint64],
    documents: NDArray[np.uint32],
    representative: NDArray[np.bool_],
    rank: NDArray[np.uint32] | None,
    sketches: DedupSketches | None,
    lanes: int,
    least: int,
    sure: int,
    largest: int = 512,
    leaders: int = 64,
    leader_edges: int = 8,
    threads: int = 1,
    level: str = "",
) -> tuple[NDArray[np.uint32], NDArray[np.uint32], dict[str, int]]:
    """Candidate edges (m, 2) of documents with an equal key, as (later, earlier) ranks; the documents of large groups,
    which are left to `dedup_cpsjoin`; and counts."""

def dedup_cpsjoin(
    sketches: DedupSketches,
    positions: NDArray[np.uint32] | None,
    rank: NDArray[np.uint32] | None,
    lanes: int,
    threshold: float,
    least: int,
    sure: int,
    seed: int,
    repetitions: int = 10,
    limit: int = 250,
    neighbours: int = 32,
    budget: int = 4096,
    threads: int = 1,
    level: str = "",
) -> tuple[NDArray[np.uint32], dict[str, int]]:
    """Candidate edges (m, 2) among the documents at `positions`, as (later, earlier) ranks; and counts."""

class DedupOverlap:
    """Exact highest Jaccard of each text of a small set with all texts of a stream."""

    def __init__(self, data: Buffer, offsets: NDArray[np.int64], ngram: int) -> None: ...
    def compare(self, data: Buffer, offsets: NDArray[np.int64], threads: int = 1) -> None:
        """Compare the next texts of the stream."""

    def best(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """For each text of the small set: the earliest text of the stream of highest Jaccard (-1 is none), and it."""
