"""Decoding attention on Hopper GPUs (`csrc/attention/decode_sm90.cu`): which calls it takes, and their launch.

As the forward kernel (`attention_cuda`) it is off unless CODESHELL_HOPPER_ATTENTION=1 asks for it.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch

from codeshell import _C
from codeshell.ops.library import stream_of

if TYPE_CHECKING:
    from codeshell.ops.decode import Call

extension: Any = _C
"""What holds the kernel; tests put the module in that runs it on the host."""

enabled = os.environ.get("CODESHELL_HOPPER_ATTENTION") == "1"
"""Off unless it is asked for: the kernel has never run on a GPU. To be on by default once `codeshell info --kernels`
says that it was verified on one."""

DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)
MOST_QUERIES = 16
"""More are a prompt: the work of a kernel whose products and not its bytes are the limit."""


def serves(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, call: Call) -> bool:
    """Whether the kernel takes a call that `decode_attention` has checked. Caches that TMA cannot walk are not copied:
    they go elsewhere."""
    if extension is _C and not (q.is_cuda and enabled):
        return False
    if q.dtype not in DTYPES or q.shape[-1] not in DIMS or not 1 <= q.shape[1] <= MOST_QUERIES or call.scale <= 0.0:
        return False
    if not _walkable(k_cache) or not _walkable(v_cache) or not k_cache.numel():
        return False
    if call.block_table is not None and (k_cache.shape[1] % 16 or not call.block_table.numel()):
        return False
    if call.cos is not None and (call.cos.dtype != torch.float32 or call.cos.shape[1] % 8):
        return False
    return _on_hopper(q)


def _on_hopper(x: torch.Tensor) -> bool:
    if extension is not _C:
        return x.is_cpu
    return x.is_cuda and _C.cuda_built and _facts(x.device)[0] == (9, 0)


@lru_cache(maxsize=64)
def _facts(device: torch.device) -> tuple[tuple[int, int], int]:
    """Compute capability and multiprocessors of a GPU."""
    properties = torch.cuda.get_device_properties(device)
    return (properties.major, properties.minor), properties.multi_processor_count


def run(
    q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, call: Call, out: torch.Tensor, lse: torch.Tensor
) -> None:
    """Fill `out` and `lse` (contiguous), and append to the caches, for a call that the kernel `serves`."""
    q = q if _walkable(q) else _copy(q)
    k_new, v_new = (x if x is None or _walkable(x) else _copy(x) for x in (call.k_new, call.v_new))
    cos, sin = (x if x is None or (x.is_contiguous() and _walkable(x)) else _copy(x) for x in (call.cos, call.sin))
    lengths, table = call.cache_seqlens.contiguous(), call.block_table
    if table is not None and table.stride(1) != 1:
        table = table.contiguous()
    batch, queries, heads, dim = q.shape
    pages, page_size, kv_heads, _ = k_cache.shape
    pages_a_row = 1 if table is None else table.shape[1]
    slots, counters, floats = _plan(
        extension,
        batch,
        queries,
        heads,
        kv_heads,
        dim,
        pages_a_row * page_size,
        _facts(q.device)[1] if q.is_cuda else 0,
    )
    workspace = q.new_empty(floats, dtype=torch.float32) if floats else None
    shape = (batch, queries, heads, kv_heads, dim, 0 if k_new is None else k_new.shape[1])
    pages_of_all = (pages, page_size, pages_a_row)
    turn = (0, 0) if cos is None else (cos.shape[0], cos.shape[1])
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        counts = _counters(q.device, stream_of(q), counters) if floats else None  # of the current device's stream
        extension.attention_decode_cuda(
            *(_view(x) for x in (q, k_cache, v_cache, k_new, v_new)),
            *(_address(x) for x in (out, lse, lengths, table)),
            0 if table is None else table.stride(0),
            *(_address(x) for x in (cos, sin, workspace, counts)),
            (*shape, *pages_of_all, *turn, slots),
            q.dtype == torch.bfloat16,
            call.interleaved,
            call.scale,
            call.causal,
            call.window,
            stream_of(q),
        )


@lru_cache(maxsize=1024)
def _plan(module: Any, *shape: int) -> tuple[int, int, int]:
    """Slots, counters, and fp32 numbers of workspace: from shapes alone."""
    plan: tuple[int, int, int] = module.attention_decode_plan(*shape)
    return plan


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_counts: dict[tuple[torch.device, int], torch.Tensor] = {}
_reserve: dict[torch.device, torch.Tensor] = {}
RESERVE = 1 << 21
"""8 MB: captures of 40 layers of 8 KV heads, at 32 batch sizes up to 256, take 1.3 million."""


def _counters(device: torch.device, stream: int, count: int) -> torch.Tensor:
    """int32 zeros that the kernel leaves as zeros, and that no other launch uses at the same time.

    Launches on one stream follow each other, so a stream has its own and keeps it. A captured launch is replayed on any
    stream: it gets counters for good, from a reserve zeroed before the capture; where that is used up (or there was no
    call before the capture), zeros that the graph itself writes.
    """
    if _capturing(device):
        reserve = _reserve.get(device)
        if reserve is None or reserve.numel() < count:
            return torch.zeros(count, dtype=torch.int32, device=device)
        _reserve[device] = reserve[count:]
        return reserve[:count]
    if device.type == "cuda" and device not in _reserve:
        _reserve[device] = torch.zeros(RESERVE, dtype=torch.int32, device=device)
    held = _counts.get((device, stream))
    if held is None or held.numel() < count:
        held = _counts[device, stream] = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
    return held


def _walkable(x: torch.Tensor) -> bool:
    """Whether TMA and 16-byte loads can walk it: 16-byte addresses and strides, none of them 0."""
    strides = [stride for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    return x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(stride and stride % 8 == 0 for stride in strides)


def _copy(x: torch.Tensor) -> torch.Tensor:
    return x.clone(memory_format=torch.contiguous_format)


def _address(x: torch.Tensor | None) -> int:
    return 0 if x is None else x.data_ptr()


def _view(x: torch.Tensor | None) -> tuple[int, int, int, int]:
    return (0, 0, 0, 0) if x is None else (x.data_ptr(), x.stride(0), x.stride(1), x.stride(2))
