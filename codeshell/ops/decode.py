"""Attention of a few new tokens over a cache of keys and values: generation's inner step.

`decode_attention` reads a contiguous or paged cache, and appends the new tokens' keys and values to it where they are
given, rotated on the way. On the CPU it is PyTorch's SDPA over a view of each row of the cache; on Hopper GPUs the
kernel `csrc/attention/decode_sm90.cu` where that serves the call (`decode_cuda.serves`); on other GPUs, where nothing
may wait for the lengths, PyTorch over the whole capacity with a mask.
"""

from __future__ import annotations

import itertools
from typing import Any, Literal, NamedTuple, overload

import torch
from torch.autograd.function import once_differentiable

from codeshell import _C
from codeshell.ops import attention_cuda, decode_cuda, sdpa
from codeshell.ops.attention import check_window
from codeshell.ops.library import define, differentiable, direct
from codeshell.ops.rotary import check_tables, rotary

_Pair = tuple[torch.Tensor, torch.Tensor]


class Call(NamedTuple):
    """The arguments of a call after its caches, in the order of the operation's schema."""

    cache_seqlens: torch.Tensor
    block_table: torch.Tensor | None
    k_new: torch.Tensor | None
    v_new: torch.Tensor | None
    cos: torch.Tensor | None
    sin: torch.Tensor | None
    scale: float
    causal: bool
    window: int
    """0 is none."""
    interleaved: bool


@overload
def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor | None = ...,
    scale: float | None = ...,
    causal: bool = ...,
    window: int | None = ...,
    k_new: torch.Tensor | None = ...,
    v_new: torch.Tensor | None = ...,
    cos: torch.Tensor | None = ...,
    sin: torch.Tensor | None = ...,
    interleaved: bool = ...,
    return_lse: Literal[False] = ...,
) -> torch.Tensor: ...
@overload
def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor | None = ...,
    scale: float | None = ...,
    causal: bool = ...,
    window: int | None = ...,
    k_new: torch.Tensor | None = ...,
    v_new: torch.Tensor | None = ...,
    cos: torch.Tensor | None = ...,
    sin: torch.Tensor | None = ...,
    interleaved: bool = ...,
    return_lse: Literal[True],
) -> tuple[torch.Tensor, torch.Tensor]: ...
def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor | None = None,
    scale: float | None = None,
    causal: bool = True,
    window: int | None = None,
    k_new: torch.Tensor | None = None,
    v_new: torch.Tensor | None = None,
    cos: torch.Tensor | None = None,
    sin: torch.Tensor | None = None,
    interleaved: bool = False,
    return_lse: bool = False,
) -> Any:
    """Softmax attention of each row's newest tokens over its cache; query head h reads KV head `h // group`.

    A row's keys are the first `cache_seqlens` of its cache and then the new ones. There are no gradients: a backward
    pass through the result raises.

    Args:
        q: (batch, seq_q, heads, dim), floating point; the row's last `seq_q` positions. For a few tokens: the kernel
            takes up to 16.
        k_cache, v_cache: (batch, capacity, kv_heads, dim) in the dtype of q, the last dimension contiguous; or with
            `block_table` (pages, page_size, kv_heads, dim). Whatever lies beyond a row's length is not read.
        cache_seqlens: int32 (batch,), on the device: tokens in the cache before the call.
        block_table: int32 (batch, pages a row), the pages of each row in order. Any page size; the kernel takes
            multiples of 16. Entries behind the last token are not read.
        scale: of the scores; None is `dim ** -0.5`.
        causal: a query sees the keys up to its own position, aligned bottom right.
        window: a query sees only the latest `window` of those keys, its own among them; needs `causal`.
        k_new, v_new: (batch, seq_new, kv_heads, dim), written into the caches at positions cache_seqlens + i before
            attention reads them.
        cos, sin: fp32 (positions, rotary_dim / 2): turn `k_new` and `q`, which must be equally many, by the angles of
            positions cache_seqlens + i. Without them k_new and q are taken as they are.
        interleaved: as for `rotary`.
        return_lse: also return the log-sum-exp of the scores.

    Returns:
        (batch, seq_q, heads, dim) in the dtype of q; with `return_lse` also fp32 (batch, heads, seq_q). A query that
        sees no key gives zeros and -inf.

    Raises:
        ValueError: a shape, dtype, device, stride or combination does not fit; the message names it. Values of
            `cache_seqlens` and `block_table` are checked on the CPU only, because on a GPU that would wait for it:
            there a row whose length or pages do not fit gives NaN, or where PyTorch appends a device assertion.
    """
    if scale is None:
        scale = q.shape[-1] ** -0.5 if q.dim() and q.shape[-1] else 1.0
    call = Call(cache_seqlens, block_table, k_new, v_new, cos, sin, scale, causal, window or 0, interleaved)
    _check(q, k_cache, v_cache, call, window)
    tensors = [x for x in (k_cache, v_cache, *call[:6]) if x is not None]
    with torch.no_grad():
        if direct(q, *tensors):
            out, lse = _decode(q, k_cache, v_cache, *call)
        elif k_new is None:
            out, lse = _operation(q, k_cache, v_cache, *call)
        else:
            out, lse = _append_operation(q, k_cache, v_cache, *call)
    if differentiable(q, k_new, v_new) and not torch.compiler.is_compiling():
        out = _NoGradient.apply(out, q, k_new, v_new)  # type: ignore[no-untyped-call]
    return (out, lse) if return_lse else out


class _NoGradient(torch.autograd.Function):
    """So that a backward pass says what is missing, and does not pass over the attention in silence."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, *inputs: torch.Tensor | None) -> torch.Tensor:
        return out.view_as(out)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("decode_attention has no gradients; train with attention, and decode under torch.no_grad()")


def _decode(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, *arguments: Any) -> _Pair:
    call = Call(*arguments)
    if q.is_cpu and q.shape[0] and decode_cuda.extension is _C:
        _check_values(k_cache, call)
    if decode_cuda.serves(q, k_cache, v_cache, call):
        out, lse = _empty(q)
        decode_cuda.run(q, k_cache, v_cache, call, out, lse)
        return out, lse
    if not q.is_cpu:
        why = attention_cuda.missing(q.device) or "a dtype, dimension, stride, page or count of tokens"
        sdpa.say("codeshell.ops.decode_attention", why)
    if call.k_new is not None:
        q = _append(q, k_cache, v_cache, call)
    if q.numel() == 0:
        return _empty(q)
    return (_attend_rows if q.is_cpu else _attend_masked)(q, k_cache, v_cache, call)


def _empty(q: torch.Tensor, *_: Any) -> _Pair:
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


def _append(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, call: Call) -> torch.Tensor:
    """Writes the new keys and values; returns q, turned if the call says so."""
    k_new, v_new, starts = call.k_new, call.v_new, call.cache_seqlens
    assert k_new is not None and v_new is not None
    positions = starts.to(torch.int64).unsqueeze(1) + torch.arange(k_new.shape[1], device=q.device)
    if call.cos is not None and call.sin is not None:
        q, k_new = rotary(q, k_new, call.cos, call.sin, positions=positions, interleaved=call.interleaved)
    if call.block_table is None:
        where = torch.arange(q.shape[0], device=q.device).unsqueeze(1), positions
    else:
        size = k_cache.shape[1]
        where = call.block_table.gather(1, positions // size).to(torch.int64), positions % size
    k_cache.index_put_(where, k_new)
    v_cache.index_put_(where, v_new)
    return q


def _attend_rows(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, call: Call) -> _Pair:
    """A call of SDPA for each run of rows of one length, over a view of their keys (paged: for each row, over its
    gathered pages); the group's heads lie side by side as queries of their KV head."""
    batch, queries, heads, dim = q.shape
    kv_heads = k_cache.shape[2]
    group, new = heads // kv_heads, 0 if call.k_new is None else call.k_new.shape[1]
    packed = q.reshape(batch, queries, kv_heads, group, dim).transpose(1, 2).flatten(2, 3)
    out, lse = torch.zeros_like(packed), packed.new_full(packed.shape[:3], -torch.inf, dtype=torch.float32)
    row = 0
    for length, run in itertools.groupby(call.cache_seqlens.tolist()):
        alike = len(list(run))
        for count in [alike] if call.block_table is None else [1] * alike:
            rows, end = slice(row, row + count), length + new
            row += count
            if end == 0:
                continue
            # The first query's window begins the keys.
            begin = max(0, end - queries + 1 - call.window) if call.window else 0
            k, v = (_keys_of(cache, call.block_table, rows, begin, end) for cache in (k_cache, v_cache))
            mask = None
            if call.causal and queries > 1:
                seen = _seen(queries, end, call, begin, q.device).repeat_interleave(group, 0)
                mask = torch.zeros(seen.shape, dtype=q.dtype).masked_fill_(~seen, -torch.inf)
            out[rows], lse[rows] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                packed[rows], k.transpose(1, 2), v.transpose(1, 2), attn_mask=mask, scale=call.scale
            )
            if mask is not None and end < queries:  # the first of them see nothing
                out[rows, :, : (queries - end) * group] = 0.0
                lse[rows, :, : (queries - end) * group] = -torch.inf
    out = out.view(batch, kv_heads, queries, group, dim).transpose(1, 2).reshape(q.shape)
    return out, lse.view(batch, kv_heads, queries, group).transpose(2, 3).reshape(batch, heads, queries)


def _keys_of(cache: torch.Tensor, table: torch.Tensor | None, rows: slice, begin: int, end: int) -> torch.Tensor:
    """(rows, end - begin, kv_heads, dim)."""
    if table is None:
        return cache[rows, begin:end]
    size = cache.shape[1]
    first = begin // size
    pages = cache[table[rows.start, first : (end + size - 1) // size].long()]
    return pages.flatten(0, 1)[begin - first * size : end - first * size].unsqueeze(0)


def _seen(queries: int, keys: int, call: Call, begin: int, device: torch.device) -> torch.Tensor:
    """(queries, keys - begin): which keys each of the row's last positions sees, from key `begin` on."""
    last = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key = torch.arange(begin, keys, device=device)
    seen = key <= last
    return seen & (key > last - call.window) if call.window else seen


def _attend_masked(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, call: Call) -> _Pair:
    """All rows over their whole capacity, in fp32 (fp64): without reading a length on the host."""
    batch, queries, heads, _ = q.shape
    group, new = heads // k_cache.shape[2], 0 if call.k_new is None else call.k_new.shape[1]
    k, v = k_cache, v_cache
    if call.block_table is not None:
        k, v = (cache[call.block_table.clamp(0, cache.shape[0] - 1).long()].flatten(1, 2) for cache in (k, v))
    ends = call.cache_seqlens.view(-1, 1, 1) + new
    key = torch.arange(k.shape[1], device=q.device).view(1, 1, -1)
    seen = (key < ends).expand(-1, queries, -1)
    if call.causal:
        last = ends - queries + torch.arange(queries, device=q.device).view(1, -1, 1)
        seen = seen & (key <= last) if not call.window else seen & (key <= last) & (key > last - call.window)
    wide = torch.promote_types(q.dtype, torch.float32)
    # What nobody sees may be anything, and 0 times NaN is NaN.
    valid = seen.any(1)[:, :, None, None]
    k, v = (torch.where(valid, x, 0).to(wide).repeat_interleave(group, 2).transpose(1, 2) for x in (k, v))
    scores = (q.transpose(1, 2).to(wide) @ k.transpose(2, 3) * call.scale).masked_fill(~seen.unsqueeze(1), -torch.inf)
    lse = torch.logsumexp(scores, -1)
    probability = (scores - lse.unsqueeze(-1).masked_fill(lse.unsqueeze(-1) == -torch.inf, 0.0)).exp()
    wrong = ((ends < new) | (ends > k.shape[2])).view(batch, 1, 1)
    out = (probability @ v).transpose(1, 2).to(q.dtype).masked_fill(wrong.unsqueeze(-1), torch.nan)
    return out, lse.to(torch.float32).masked_fill(wrong, torch.nan)


def _capacity(k_cache: torch.Tensor, table: torch.Tensor | None) -> int:
    return k_cache.shape[1] if table is None else table.shape[1] * k_cache.shape[1]


def _check(q: torch.Tensor, k_cache: torch.Tensor, v_cache: torch.Tensor, call: Call, window: int | None) -> None:
    lengths, table, k_new, v_new, cos, sin = call[:6]
    shapes = f"q {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)}"
    if q.dim() != 4 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape or q.shape[-1] != k_cache.shape[-1]:
        layout = "(batch, capacity, kv_heads, dim)" if table is None else "(pages, page_size, kv_heads, dim)"
        raise ValueError(f"{shapes}: must be (batch, seq_q, heads, dim) and twice {layout}")
    batch, _, heads, dim = q.shape
    if k_cache.shape[2] == 0 or heads % k_cache.shape[2]:
        raise ValueError(f"q has {heads} heads, not a multiple of the cache's {k_cache.shape[2]}")
    if not (q.dtype == k_cache.dtype == v_cache.dtype) or not q.dtype.is_floating_point:
        raise ValueError(
            f"q is {q.dtype}, k_cache {k_cache.dtype}, v_cache {v_cache.dtype}; they must be one floating-point dtype"
        )
    if any(cache.stride(-1) != 1 and dim > 1 for cache in (k_cache, v_cache)):
        raise ValueError(
            f"k_cache has strides {k_cache.stride()}, v_cache {v_cache.stride()}; the last must be 1, because a cache "
            "is used where it lies"
        )
    if lengths.shape != (batch,) or lengths.dtype != torch.int32:
        raise ValueError(f"cache_seqlens {tuple(lengths.shape)} {lengths.dtype}: must be int32 ({batch},)")
    if table is None:
        if k_cache.shape[0] != batch:
            raise ValueError(f"k_cache has {k_cache.shape[0]} rows, q {batch}; paged caches need a block_table")
    elif table.dim() != 2 or table.shape[0] != batch or table.dtype != torch.int32 or k_cache.shape[1] == 0:
        raise ValueError(
            f"block_table {tuple(table.shape)} {table.dtype} of pages of {k_cache.shape[1]}: must be int32 "
            f"({batch}, pages a row), pages of at least 1"
        )
    check_window(window, call.causal)
    if (k_new is None) != (v_new is None) or (cos is None) != (sin is None):
        raise ValueError("k_new and v_new, and cos and sin, go together; give both or neither")
    if k_new is not None and v_new is not None:
        if k_new.dim() != 4 or k_new.shape != v_new.shape or k_new.shape[::2] != (batch, k_cache.shape[2]):
            raise ValueError(
                f"k_new {tuple(k_new.shape)}, v_new {tuple(v_new.shape)}: must both be "
                f"({batch}, seq_new, {k_cache.shape[2]}, {dim})"
            )
        if k_new.shape[3] != dim or k_new.dtype != q.dtype or v_new.dtype != q.dtype:
            raise ValueError(
                f"k_new {tuple(k_new.shape)} {k_new.dtype}, v_new {v_new.dtype}: must have the dim {dim} and the "
                f"dtype {q.dtype} of q"
            )
        capacity = _capacity(k_cache, table)
        if k_new.shape[1] > capacity:
            raise ValueError(f"k_new has {k_new.shape[1]} tokens a row, but a row of the cache holds {capacity}")
    if cos is not None and sin is not None:
        if k_new is None or k_new.shape[1] != q.shape[1]:
            given = "is missing" if k_new is None else f"has {k_new.shape[1]} tokens"
            raise ValueError(f"cos and sin turn q and k_new alike: q has {q.shape[1]} tokens, k_new {given}")
        check_tables(cos, sin, dim)
    tensors = {"k_cache": k_cache, "v_cache": v_cache, **dict(zip(Call._fields, call[:6], strict=False))}
    for name, x in tensors.items():
        if x is not None and x.device != q.device:
            raise ValueError(f"{name} is on {x.device}, q on {q.device}; they must be on one device")


def _check_values(k_cache: torch.Tensor, call: Call) -> None:
    """On the CPU nothing has to wait for them."""
    new = 0 if call.k_new is None else call.k_new.shape[1]
    capacity = _capacity(k_cache, call.block_table)
    low, high = (int(x) for x in torch.aminmax(call.cache_seqlens))
    if low < 0 or high + new > capacity:
        raise ValueError(
            f"cache_seqlens run from {low} to {high}; with {new} new tokens they must lie between 0 and the "
            f"capacity of {capacity} tokens"
        )
    if call.block_table is not None:
        size, pages = k_cache.shape[1], k_cache.shape[0]
        used = (call.cache_seqlens + (new + size - 1)).unsqueeze(1) // size
        entries = call.block_table[torch.arange(call.block_table.shape[1]) < used]
        if entries.numel() and (int(entries.min()) < 0 or int(entries.max()) >= pages):
            raise ValueError(
                f"block_table has entries from {int(entries.min())} to {int(entries.max())}, but the cache has the "
                f"pages 0 to {pages - 1}"
            )
    if call.cos is not None and high + new > call.cos.shape[0]:
        raise ValueError(f"positions reach {high + new - 1}, but cos has rows 0 to {call.cos.shape[0] - 1}")


_ARGUMENTS = (
    "Tensor cache_seqlens, Tensor? block_table, Tensor? k_new, Tensor? v_new, Tensor? cos, Tensor? sin, float scale, "
    "bool causal, int window, bool interleaved) -> (Tensor, Tensor)"
)
# Two operations, because a graph copies what one of its operations writes unless it can see that it need not.
_operation = define(f"decode_attention(Tensor q, Tensor k_cache, Tensor v_cache, {_ARGUMENTS}", _decode, _empty)
_append_operation = define(
    f"decode_attention_append(Tensor q, Tensor(a!) k_cache, Tensor(b!) v_cache, {_ARGUMENTS}", _decode, _empty
)
