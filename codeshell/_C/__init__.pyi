"""Signatures of the C++ extension. Arrays are NumPy; work runs without the GIL."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor
from typing_extensions import Buffer

from codeshell._C import boosting as boosting
from codeshell._C import bpe as bpe
from codeshell._C import int8 as int8
from codeshell._C import lexical as lexical
from codeshell._C import ngram as ngram
from codeshell._C import sandbox as sandbox
from codeshell._C import secrets as secrets
from codeshell._C import syntax as syntax
from codeshell._C._dedup import *  # noqa: F403

cuda_built: bool
cuda_runtime: int
"""The CUDA that this was built with, as CUDA writes it: 13000 is 13.0; 0 without CUDA."""
cuda_architectures: str
"""All that any kernel was compiled for, for people: "80, 86, 89, 90, 90a, 100, 120, PTX of 80"; empty without CUDA."""
kernel_architectures: dict[str, list[str]]
"""What each CUDA kernel was compiled for, by its source below csrc, in the names of `codeshell.architectures.parse`;
empty lists where this build has none of it."""
possible_architectures: dict[str, list[str]]
"""What each CUDA kernel can be compiled for, in any build; the same sources."""
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

def gelu_forward(x: int, bias: int, y: int, rows: int, columns: int, bf16: bool, threads: int) -> None: ...
def gelu_backward(
    x: int,
    bias: int,
    dy: int,
    grad: int,
    partial: int,
    sums: int,
    rows: int,
    columns: int,
    bf16: bool,
    threads: int,
) -> None: ...
def product_pays() -> bool: ...
def product_packed_size(n: int, k: int) -> int: ...
def product_pack(b: int, row: int, step: int, n: int, k: int, packed: int, threads: int) -> None: ...
def product_multiply(
    a: int,
    a_row: int,
    a_step: int,
    packed: int,
    c: int,
    c_row: int,
    bias: int,
    add: bool,
    m: int,
    n: int,
    k: int,
    threads: int,
) -> None: ...
def product_rows(
    x: int,
    x_row: int,
    weights: int,
    w_row: int,
    bias: int,
    y: int,
    m: int,
    n: int,
    k: int,
    bf16: bool,
    threads: int,
) -> None: ...
def gelu_sum_chunks(rows: int, columns: int) -> int: ...
def norm_forward(
    tensors: tuple[int, ...], rows: int, width: int, eps: float, bf16: tuple[bool, bool, bool], threads: int
) -> None: ...
def norm_backward(tensors: tuple[int, ...], rows: int, width: int, bf16: tuple[bool, bool], threads: int) -> None: ...
def norm_sum_chunks(rows: int) -> int: ...
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

def softmax_gradient_cuda(
    logits: int,
    row_stride: int,
    rows: int,
    vocabulary: int,
    dtype: str,
    targets: int,
    ignore_index: int,
    scale: int,
    losses: int,
    partials: int,
    splits: int,
    stream: int,
) -> None:
    """Logits become their gradient in place on a GPU; codeshell/ops/loss_cuda.py calls it, after its checks.

    Tensors are addresses: `scale` of one fp32 on the device (0 is 1), `partials` of an fp32 (rows, splits, 2) workspace
    (0 where `splits` is 1), `dtype` is that of the logits. RuntimeError in a build without CUDA.
    """

def softmax_gradient_splits(rows: int, vocabulary: int, dtype: str) -> int:
    """Into how many parts `softmax_gradient_cuda` is to split rows on the current device. RuntimeError without CUDA."""

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
