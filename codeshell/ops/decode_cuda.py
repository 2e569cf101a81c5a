"""Decoding attention on Hopper GPUs (`csrc/attention/decode_sm90.cu`): which calls it takes, and their launch.

Like the other attention kernels it is off unless CODESHELL_HOPPER_ATTENTION=1 asks for it (`hopper`).
"""

from __future__ import annotations

from functools import lru_cache
from typing import Any, NamedTuple

import torch

from codeshell.ops import devices, hopper
from codeshell.ops.library import stream_of

MOST_QUERIES = 16
"""More queries are a prompt, whose limit is the products and not the bytes: another kernel's work."""


class DecodeCall(NamedTuple):
    """Facts of one call, in the order of the operation's schema; see `codeshell.ops.decode_attention`."""

    q: torch.Tensor
    k_cache: torch.Tensor
    v_cache: torch.Tensor
    cache_seqlens: torch.Tensor
    block_table: torch.Tensor | None = None
    k_new: torch.Tensor | None = None
    v_new: torch.Tensor | None = None
    cos: torch.Tensor | None = None
    sin: torch.Tensor | None = None
    scale: float = 1.0
    causal: bool = True
    window: int = 0
    """0 is none."""
    interleaved: bool = False

    @property
    def new_tokens(self) -> int:
        """How many tokens each row appends."""
        return 0 if self.k_new is None else self.k_new.shape[1]

    @property
    def capacity(self) -> int:
        """How many tokens a row of the cache can hold."""
        pages_a_row = 1 if self.block_table is None else self.block_table.shape[1]
        return pages_a_row * self.k_cache.shape[1]


def serves(call: DecodeCall) -> bool:
    """Whether the kernel takes a call that `decode_attention` has checked.

    Caches that TMA cannot walk are not copied: PyTorch serves those calls.
    """
    # Device, then what is compiled, then what the caches' layout allows.
    q, k_cache = call.q, call.k_cache
    if not hopper.available(q.device):
        return False
    if q.dtype not in hopper.DTYPES or q.shape[-1] not in hopper.DIMS or call.scale <= 0.0:
        return False
    if not 1 <= q.shape[1] <= MOST_QUERIES:
        return False
    if not hopper.walkable(k_cache) or not hopper.walkable(call.v_cache) or not k_cache.numel():
        return False
    # A page must hold whole boxes of TMA, which are 16 tokens high.
    if call.block_table is not None and (k_cache.shape[1] % 16 or not call.block_table.numel()):
        return False
    # The tables are read in 16-byte pieces.
    return call.cos is None or (call.cos.dtype == torch.float32 and call.cos.shape[1] % 8 == 0)


def run(call: DecodeCall, out: torch.Tensor, lse: torch.Tensor) -> None:
    """Fill `out` (batch, queries, heads, dim) and `lse` (batch, heads, queries), both contiguous, and append to the
    caches, for a call that the kernel `serves`."""
    # Everything but the caches may be copied into a form that the kernel can walk.
    q, k_cache, v_cache = hopper.as_walkable(call.q), call.k_cache, call.v_cache
    k_new, v_new = (None if x is None else hopper.as_walkable(x) for x in (call.k_new, call.v_new))
    cos, sin = (
        x if x is None or (x.is_contiguous() and hopper.walkable(x)) else hopper.copied(x) for x in (call.cos, call.sin)
    )
    # The kernel reads lengths and rows of the table in order; the table's rows may have any stride.
    lengths, table = call.cache_seqlens.contiguous(), call.block_table
    if table is not None and table.stride(1) != 1:
        table = table.contiguous()

    # The plan: how many blocks share the work, and the memory in which the splits of a row meet.
    batch, queries, heads, dim = q.shape
    pages, page_size, kv_heads, _ = k_cache.shape
    multiprocessors = devices.facts(q.device).multiprocessors if q.is_cuda else 0
    slots, counters, floats = _plan(
        devices.extension, batch, queries, heads, kv_heads, dim, call.capacity, multiprocessors
    )
    workspace = q.new_empty(floats, dtype=torch.float32) if floats else None

    # The launch. Without a table, a page is a row of the cache and a row has one.
    shape = (batch, queries, heads, kv_heads, dim, call.new_tokens)
    pages_of_all = (pages, page_size, 1 if table is None else table.shape[1])
    table_shape = (0, 0) if cos is None else (cos.shape[0], cos.shape[1])
    with hopper.on_device_of(q):
        counts = _counters(q.device, stream_of(q), counters) if floats else None  # of the current device's stream
        devices.extension.attention_decode_cuda(
            *(hopper.view(x) for x in (q, k_cache, v_cache, k_new, v_new)),
            *(hopper.address(x) for x in (out, lse, lengths, table)),
            0 if table is None else table.stride(0),
            *(hopper.address(x) for x in (cos, sin, workspace, counts)),
            (*shape, *pages_of_all, *table_shape, slots),
            q.dtype == torch.bfloat16,
            call.interleaved,
            call.scale,
            call.causal,
            call.window,
            stream_of(q),
        )


@lru_cache(maxsize=1024)
def _plan(module: Any, *shape: int) -> tuple[int, int, int]:
    """Slots, counters, and fp32 numbers of workspace. Shapes alone decide, so the answer is remembered."""
    plan: tuple[int, int, int] = module.attention_decode_plan(*shape)
    return plan


def _capturing(device: torch.device) -> bool:
    return device.type == "cuda" and torch.cuda.is_current_stream_capturing()


_counts: dict[tuple[torch.device, int], torch.Tensor] = {}
_reserve: dict[torch.device, torch.Tensor] = {}
RESERVE = 1 << 21
"""8 MB of int32: captures of 40 layers with 8 KV heads, at 32 batch sizes up to 256, take 1.3 million."""


def _counters(device: torch.device, stream: int, count: int) -> torch.Tensor:
    """int32 zeros that the kernel leaves as zeros, and that no other launch uses at the same time.

    Launches on one stream follow each other, so each stream has counters of its own and keeps them. A captured launch
    may be replayed on any stream, so it gets counters that nothing else ever uses: from a reserve that was zeroed
    before the capture, or, where that is used up or there was no call before the capture, zeros that the graph writes.
    """
    if _capturing(device):
        reserve = _reserve.get(device)
        if reserve is None or reserve.numel() < count:
            return torch.zeros(count, dtype=torch.int32, device=device)
        _reserve[device] = reserve[count:]
        return reserve[:count]
    # The first ordinary call makes the reserve, so that a capture after it finds zeros.
    if device.type == "cuda" and device not in _reserve:
        _reserve[device] = torch.zeros(RESERVE, dtype=torch.int32, device=device)
    # A longer list replaces a shorter one; a launch that still uses the old one keeps its memory in stream order.
    held = _counts.get((device, stream))
    if held is None or held.numel() < count:
        held = _counts[device, stream] = torch.zeros(max(count, 1024), dtype=torch.int32, device=device)
    return held
