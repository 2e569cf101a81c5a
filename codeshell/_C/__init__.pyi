"""Signatures of the C++ extension. Arrays are NumPy; work runs without the GIL."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Buffer

cuda_built: bool
cuda_runtime: int
"""The CUDA that this was built with, as CUDA writes it: 13000 is 13.0; 0 without CUDA."""
cuda_architectures: str
"""All that any kernel was compiled for, for people: "80, 86, 89, 90, 90a, 100, 120, PTX of 80"; empty without CUDA."""
kernel_architectures: dict[str, list[str]]
"""What each CUDA kernel was compiled for, by its source below csrc, in the names of `codeshell.architectures.parse`;
empty lists where this build has none of it."""
debug_kernels: bool
"""Whether the CUDA kernels check their data and limit every wait (CODESHELL_DEBUG_KERNELS at the build)."""
compiler: str
kernel_sources: str
"""`path=hash;path=hash` of the CUDA kernels that this was built from: see `codeshell.kernels`."""

def simd_level() -> str: ...
def gpu_devices() -> list[dict[str, object]]: ...
def cuda_driver() -> int:
    """The newest CUDA that the driver of this machine knows, 13000 for 13.0; 0 without a driver or a CUDA build."""

# text
unicode_version: str

def measure_texts(data: Buffer, offsets: NDArray[np.int64], level: str = "") -> dict[str, NDArray[Any]]:
    """Measures of every text `data[offsets[i]:offsets[i + 1]]`.

    Args:
        data: bytes-like, one-dimensional.
        offsets: (texts + 1,) int64, not falling.
        level: highest SIMD level to use ("scalar", "avx2", ...); empty is the highest of the processor.

    Returns:
        (texts,) arrays: `valid` (bool: is the text UTF-8? if not, its other measures are 0), and int64 counts of
        characters: `characters`, `lines`, `max_line_length`, `line_characters` (all but line ends), `letters`,
        `alphanumeric`.
    """

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

# Operations of the model on the CPU. Tensors are (address, token stride, head stride), strides in elements;
# codeshell/ops/cpu.py calls these, and has checked the arguments.
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
    """Fills out and lse.

    `tensors` are q, k, v, out; `shape` is heads, kv_heads, dim; `rotary` are the addresses of cos, sin and positions,
    or three zeros.
    """

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
    """Fills the gradients of q, k and v; `gradients` are those three, and then the gradient of out."""

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
    """Turns logits (rows, n) into their gradient, in place, and fills losses, fp32 (rows,)."""

def attention_forward_cuda(
    q: tuple[int, int, int, int],
    k: tuple[int, int, int, int],
    v: tuple[int, int, int, int],
    out: tuple[int, int, int, int],
    lse: int,
    cu_seqlens: int,
    shape: tuple[int, int, int, int, int, int, int],
    bf16: bool,
    scale: float,
    causal: bool,
    window: int,
    stream: int,
) -> None:
    """Attention on a GPU of sm_90; codeshell/ops/attention_cuda.py calls it, and has checked the arguments.

    A tensor is its address, and the strides in elements of batch, token and head. `shape` is batch, queries, keys,
    longest sequence, heads, kv_heads, dim; `lse` and `cu_seqlens` (0 for a dense batch) are addresses. Raises
    RuntimeError in a build without CUDA.
    """

def attention_backward_cuda(
    tensors: tuple[tuple[int, int, int, int], ...],
    lse: int,
    cu_seqlens: int,
    workspace: int,
    shape: tuple[int, int, int, int, int, int, int],
    bf16: bool,
    scale: float,
    causal: bool,
    window: int,
    deterministic: bool,
    stream: int,
) -> None:
    """The gradients of `attention_forward_cuda`.

    `tensors` are q, k, v, out, the gradient of out, and the gradients of q, k and v, which are written. `workspace` is
    the address, a multiple of 128, of `attention_backward_workspace` bytes.
    """

def attention_backward_workspace(
    shape: tuple[int, int, int, int, int, int, int], packed: bool, causal: bool, window: int
) -> int:
    """Bytes that `attention_backward_cuda` needs on the current device. RuntimeError in a build without CUDA."""

def attention_visits(
    shape: tuple[int, int, int, int, int, int, int], causal: bool, window: int, splits: int
) -> list[tuple[int, int, int, int, int, int, int, int]]:
    """The visits of a backward launch, in order, for sequences that are all as long as the longest.

    Each is the number of the block, its block of 128 keys, its KV head and sequence; then the head, the tile of
    queries, how many additions to that tile's dQ come before this one, and whether all its queries see all keys.
    """

def attention_splits(
    shape: tuple[int, int, int, int, int, int, int], causal: bool, window: int, multiprocessors: int
) -> int:
    """How many blocks of a backward launch share the query heads of a KV head."""

def attention_tiles(
    shape: tuple[int, int, int, int, int, int, int], causal: bool, window: int
) -> list[tuple[int, int, int, int, int, int, int]]:
    """The tiles of a forward launch in the order in which they start, for sequences as long as the longest.

    Each is a block of 128 rows, a head and a sequence; then a range of blocks of 128 keys: its begin, the begin and
    the end of those that need no mask, and its end.
    """

def attention_decode_cuda(
    q: tuple[int, int, int, int],
    k_cache: tuple[int, int, int, int],
    v_cache: tuple[int, int, int, int],
    k_new: tuple[int, int, int, int],
    v_new: tuple[int, int, int, int],
    out: int,
    lse: int,
    cache_seqlens: int,
    block_table: int,
    block_table_stride: int,
    cos: int,
    sin: int,
    workspace: int,
    counters: int,
    shape: tuple[int, int, int, int, int, int, int, int, int, int, int, int],
    bf16: bool,
    interleaved: bool,
    scale: float,
    causal: bool,
    window: int,
    stream: int,
) -> None:
    """Decoding attention on a GPU of sm_90; codeshell/ops/decode_cuda.py calls it, and has checked the arguments.

    A tensor is its address, and the strides in elements of batch (or page), token and head; the other arguments are
    addresses, 0 where there is none. `shape` is batch, queries, heads, kv_heads, dim, new tokens, pages, page size,
    pages per row, rows and columns of the rotary tables, slots. Raises RuntimeError in a build without CUDA, and
    ValueError for slots that do not fit the plan.
    """

def attention_decode_plan(
    batch: int, queries: int, heads: int, kv_heads: int, dim: int, capacity: int, multiprocessors: int = 0
) -> tuple[int, int, int]:
    """What a launch needs: slots (blocks of each KV head and row tile), counters (int32 zeros), and fp32 numbers of
    workspace. With `multiprocessors` 0, the current device is asked."""

def attention_decode_shares(tiles: Sequence[int], slots: int) -> list[int]:
    """How many of the slots each row of the batch gets, given the number of tiles of 64 keys that it reads."""

def attention_decode_tiles(
    first_token: int, last_token: int, queries: int, total: int, causal: bool, window: int, splits: int
) -> list[tuple[int, int]]:
    """The range of tiles of 64 keys of each split that has work for these tokens: its first tile, and its end."""

def copy_cuda(source: int, target: int, bytes: int, stream: int) -> None:
    """Copies device memory with a plain kernel. Both addresses are 16-byte aligned. RuntimeError without CUDA."""

class AdamWTable:
    """The tensors that one AdamW launch updates; codeshell/optim/buckets.py uses it.

    Args:
        sizes: number of elements of each tensor.
        streams: one number per tensor, which tells its random numbers from the others'.
    """

    def __init__(self, sizes: list[int], streams: list[int]) -> None: ...
    def refresh(
        self,
        params: list[Tensor],
        gradients: list[Tensor | None] | None,
        states: list[dict[str, Any]],
        scheme: tuple[str, str, str, bool, bool],
        device: int,
        local: bool,
    ) -> int:
        """Read the addresses of the tensors.

        With `gradients` None, the `grad` of each parameter is read. `device` is the index of a CUDA device, or -1 for
        the CPU.

        Returns:
            -1 if they are as they were, -2 if some have changed, else the number of the first tensor that is not as the
            scheme says, or not contiguous.
        """

    def tensors(self) -> bytes: ...
    def chunks(self) -> bytes: ...
    def step_cpu(
        self,
        params: list[Tensor],
        gradients: list[Tensor | None] | None,
        states: list[dict[str, Any]],
        written: list[Tensor],
        increment_version: Callable[[list[Tensor]], None],
        scheme: tuple[str, str, str, bool, bool],
        settings: tuple[Any, ...],
        local: bool,
        threads: int,
    ) -> int:
        """Read the addresses of tensors on the CPU, and update those that have a gradient, both at the same time.

        `increment_version` is called for `written`, the tensors that autograd knows.

        Returns:
            -1 if all are updated, else the number of the first tensor that does not fit: then those before it are
            updated, and no others.
        """

    def sum_of_squares_cpu(self, gradient: str, threads: int) -> float: ...

def set_gate(
    tensor: type,
    parameter: type,
    probes: tuple[Any, Any, Any],
    function_modes: Any,
    before_autograd: Any,
    forward_ad: Any,
) -> None:
    """Tell `direct` and `unwatched` whom to ask; see codeshell/ops/library.py."""

def direct(*tensors: Any) -> bool: ...
def unwatched() -> bool: ...
def same_objects(objects: list[Any] | dict[Any, Any], others: list[Any]) -> bool:
    """Whether the items of a list, or the values of a dict, are the very objects of another list, in the same order."""

def adamw_step_cuda(
    table: tuple[int, int, int, int, int],
    scheme: tuple[str, str, str, bool, bool],
    settings: tuple[Any, ...],
    stream: int,
) -> None: ...
def gradient_norm_cuda(
    table: tuple[int, int, int, int, int],
    gradient: str,
    partials: int,
    sums: int,
    slot: int,
    slot_count: int,
    max_norm: float,
    result: int,
    stream: int,
) -> None: ...

# Rotary embedding. Tensors are torch's, on the CPU or a CUDA device. The last arguments are cos, sin, positions or
# None, cu_seqlens or None, offset, interleaved, doubled, conjugate, the number of threads for the CPU, and the CUDA
# stream. These functions check their arguments (ValueError) and fill their outputs, or return False where the kernels
# do not serve the case (fp64, heads beyond 1024).
def rotary(q_out: Any, k_out: Any, q: Any, k: Any, /, *angles_threads_stream: Any) -> bool:
    """Rotates q and k (batch, seq, heads, dim) or (total, heads, dim); the outputs may be q and k.

    Here and in the two functions below `stream` is None for a GPU that does not run the kernels: then the arguments are
    checked, and the answer is False, as for any case that no kernel serves.
    """

def rotary_qkv(
    q: Any, k: Any, v: Any, qkv: Any, bias: Any, heads: int, kv_heads: int, /, *angles_threads_stream: Any
) -> bool:
    """Adds the bias, unless None, to a fused projection (…, width), rotates, and fills q, k and v (…, heads, dim)."""

def rotary_qkv_backward(
    grad_q: Any,
    grad_k: Any,
    grad_v: Any,
    grad_qkv: Any,
    grad_bias: Any,
    partial_sums: Any,
    heads: int,
    kv_heads: int,
    /,
    *angles_threads_stream: Any,
) -> bool:
    """Fills grad_qkv, and the fp32 grad_bias unless it is None; partial_sums is (rotary_sum_chunks(tokens), width)."""

def rotary_sum_chunks(tokens: int) -> int: ...
