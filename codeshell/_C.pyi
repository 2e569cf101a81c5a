"""Signatures of the C++ extension. Arrays are NumPy; work runs without the GIL."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from typing_extensions import Buffer

cuda_built: bool
cuda_architectures: str
compiler: str

def simd_level() -> str: ...
def gpu_devices() -> list[dict[str, object]]: ...

# text
unicode_version: str

def measure_texts(data: Buffer, offsets: NDArray[np.int64], level: str = "") -> dict[str, NDArray[Any]]:
    """Measures of every text `data[offsets[i]:offsets[i + 1]]`.

    Args:
        data: bytes-like, one-dimensional.
        offsets: (texts + 1,) int64, not falling.
        level: highest SIMD level to use ("scalar", "avx2", ...); empty is the processor's.

    Returns:
        (texts,) arrays: `valid` (bool, is it UTF-8; if not, the rest is 0) and, int64, in characters: `characters`,
        `lines`, `max_line_length`, `line_characters` (all but line ends), `letters`, `alphanumeric`.
    """

# dedup: texts are data[offsets[i]:offsets[i + 1]] of a bytes-like `data` and (texts + 1,) int64 `offsets`.
def dedup_minhash(
    data: Buffer,
    offsets: NDArray[np.int64],
    ngram: int,
    lanes: int,
    seed: int,
    threads: int = 1,
    level: str = "",
) -> NDArray[np.uint32]:
    """MinHash signatures (texts, lanes); all lanes of a text without tokens are 2^32 - 1."""

def dedup_band_keys(signatures: NDArray[np.uint32], bands: int) -> NDArray[np.uint64]:
    """Band keys (texts, bands) of signatures (texts, bands * rows); 0 is no key (a text without tokens)."""

def dedup_shingle_sets(
    data: Buffer, offsets: NDArray[np.int64], ngram: int, level: str = ""
) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Distinct ascending shingles, and (texts + 1,) bounds: those of text i are values[bounds[i]:bounds[i + 1]]."""

class DedupMatcher:
    """Decides in order which documents stay."""

    def __init__(self, ngram: int, bands: int, threshold: float, max_bucket: int) -> None: ...
    def add(
        self, data: Buffer, offsets: NDArray[np.int64], keys: NDArray[np.uint64], candidate: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """By text: the kept document it resembles (counted over all calls; -1: it is kept itself) and their Jaccard.

        A text that is not a `candidate` is kept unseen: the caller knows that it shares no key with another.
        """

    def counts(self) -> dict[str, int]:
        """`candidate_pairs`, `verified_pairs`, `capped_keys`."""

class DedupOverlap:
    """Exact highest Jaccard of each text of a small set with all texts of a stream."""

    def __init__(self, data: Buffer, offsets: NDArray[np.int64], ngram: int) -> None: ...
    def compare(self, data: Buffer, offsets: NDArray[np.int64], threads: int = 1) -> None:
        """Compares the stream's next texts."""

    def best(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """By text of the small set: the stream's earliest text of highest Jaccard (-1: none), and that Jaccard."""

# neural: tensors as (address, token stride, head stride), strides in elements; see codeshell/ops/native.py.
_View = tuple[int, int, int]

def attention_forward(
    tensors: tuple[_View, _View, _View, _View],
    lse: int,
    bf16: bool,
    query_offsets: NDArray[np.int32],
    key_offsets: NDArray[np.int32],
    shape: tuple[int, int, int],
    scale: float,
    causal: bool,
    window: int,
    rotary: tuple[int, int, int],
    threads: int,
) -> None:
    """Fills out and lse. `tensors`: q, k, v, out; `shape`: heads, kv_heads, dim; `rotary`: cos, sin, positions or 0."""

def attention_backward(
    tensors: tuple[_View, _View, _View, _View],
    gradients: tuple[_View, _View, _View, _View],
    lse: int,
    bf16: bool,
    query_offsets: NDArray[np.int32],
    key_offsets: NDArray[np.int32],
    shape: tuple[int, int, int],
    scale: float,
    causal: bool,
    window: int,
    rotary: tuple[int, int, int],
    threads: int,
) -> None:
    """Fills the gradients of q, k and v; `gradients` is those three, then the gradient of out."""

def gelu_forward(x: int, y: int, n: int, bf16: bool, threads: int) -> None: ...
def gelu_backward(x: int, dy: int, grad: int, n: int, bf16: bool, threads: int) -> None: ...
def cross_entropy(
    logits: int,
    rows: int,
    n: int,
    targets: int,
    ignore_index: int,
    scale: float,
    losses: int,
    bf16: bool,
    threads: int,
) -> None:
    """Logits (rows, n) become their gradient in place; losses are fp32 (rows,)."""
