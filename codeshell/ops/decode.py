"""Attention of a few new tokens over a cache of keys and values: generation's inner step.

`decode_attention` reads a contiguous or paged cache, and first appends the new tokens' keys and values to it where they
are given, rotated on the way. What serves a call:

    Hopper GPUs   the kernel `csrc/attention/decode_sm90.cu`, if asked for (`decode_cuda.serves`)
    GPUs          torch's FlashAttention 2, which reads the cache where it lies (`decode_flash`); what that does not
                  take, PyTorch over the whole capacity with a mask, because nothing may wait for the lengths
    a CPU         torch's SDPA over a view of each row of the cache

Shape suffixes in this file:

    B batch   Q queries of a row   H query heads   K key/value heads   G query heads of a KV head   D head dimension
    S keys    N new tokens of a row   P pages of a row
"""
# ruff: noqa: N806  (the suffixes)

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import torch

from codeshell.ops import decode_cuda, decode_flash, devices, hopper
from codeshell.ops.attention_call import check_window, scale_of
from codeshell.ops.decode_cuda import DecodeCall
from codeshell.ops.library import (
    address,
    check_one_device,
    define,
    differentiable,
    differentiable_once,
    direct,
    say,
    transformed,
)
from codeshell.ops.rotary import check_tables, rotary

_Pair = tuple[torch.Tensor, torch.Tensor]

if TYPE_CHECKING:

    class _Options(TypedDict, total=False):
        block_table: torch.Tensor | None
        scale: float | None
        causal: bool
        window: int | None
        k_new: torch.Tensor | None
        v_new: torch.Tensor | None
        cos: torch.Tensor | None
        sin: torch.Tensor | None
        interleaved: bool


@overload
def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    return_lse: Literal[False] = ...,
    **options: Unpack[_Options],
) -> torch.Tensor: ...
@overload
def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    return_lse: Literal[True],
    **options: Unpack[_Options],
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
        q: (batch, seq_q, heads, dim), floating point; the row's last `seq_q` positions. Meant for a few tokens: the
            kernel takes up to 16.
        k_cache, v_cache: (batch, capacity, kv_heads, dim) in the dtype of q, the last dimension contiguous; or with
            `block_table` (pages, page_size, kv_heads, dim). Whatever lies beyond a row's length is not read.
        cache_seqlens: int32 (batch,), on the device: tokens in the cache before the call.
        block_table: int32 (batch, pages per row), the pages of each row in order. Any page size; the kernel takes
            multiples of 16. Entries after the last token are not read.
        scale: factor on the scores; None is `dim ** -0.5`.
        causal: a query sees the keys up to its own position, aligned bottom right.
        window: a query sees only the latest `window` of those keys, its own among them; needs `causal`.
        k_new, v_new: (batch, seq_new, kv_heads, dim), written into the caches at positions cache_seqlens + i before
            attention reads them.
        cos, sin: fp32 (positions, rotary_dim / 2): rotate `k_new` and `q`, which must have equally many tokens, by the
            angles of positions cache_seqlens + i. Without them k_new and q are taken as they are.
        interleaved: as for `rotary`.
        return_lse: also return the log-sum-exp of the scores.

    Returns:
        (batch, seq_q, heads, dim) in the dtype of q; with `return_lse` also fp32 (batch, heads, seq_q). A query that
        sees no key gives zeros and -inf.

    Raises:
        ValueError: a shape, dtype, device, stride or combination does not fit; the message names it. Values of
            `cache_seqlens` and `block_table` are checked on the CPU only, because on a GPU that would wait for it:
            there a row whose length or pages do not fit gives NaN, or, where PyTorch appends, a device assertion.
    """
    # Pack and check; the window is checked before 0 stands for "none".
    check_window(window, causal)
    tensors = (q, k_cache, v_cache, cache_seqlens, block_table, k_new, v_new, cos, sin)
    call = DecodeCall(*tensors, scale_of(scale, q), causal, window or 0, interleaved)
    _check(call)
    # In a transform the formula alone: it has the derivatives that the operations lack.
    if transformed():
        out, lse = _attend_masked(q if k_new is None else _append(call), call)
        return (out, lse) if return_lse else out
    # Two operations for a traced graph, one that writes the caches and one that does not.
    with torch.no_grad():
        if direct(q, *(x for x in tensors[1:] if x is not None)):
            out, lse = _decode(call, lse=return_lse)
        else:
            out, lse = (_operation if k_new is None else _append_operation)(*call)
    if differentiable(q, k_new, v_new) and not torch.compiler.is_compiling():
        out = _NoGradient.apply(out, q, k_new, v_new)  # type: ignore[no-untyped-call]
    return (out, lse) if return_lse else out


class _NoGradient(torch.autograd.Function):
    """Makes a backward pass say what is missing, in place of skipping the attention in silence."""

    @staticmethod
    def forward(ctx: Any, out: torch.Tensor, *inputs: torch.Tensor | None) -> torch.Tensor:
        return out.view_as(out)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        raise RuntimeError("decode_attention has no gradients; train with attention, and decode under torch.no_grad()")


def _decode(call: DecodeCall, *, lse: bool = True) -> _Pair:
    """Output (B, Q, H, D) and LSE (B, H, Q) of a call that is checked but for the values of its tensors; `lse` off says
    that nobody reads the LSE."""
    q, gpu = call.q, devices.on_gpu(call.q.device)
    # Where values cannot be asked for (a mode, a subclass), torch's operations check what they can.
    if q.is_cpu and not gpu and direct(*call[:9]):
        for x in call[:9]:
            if x is not None:
                address(x)
        if q.shape[0]:
            _check_values(call)
    # The kernel appends, rotates and attends in one launch.
    if decode_cuda.serves(call):
        out, lse_BHQ = _empty(q)
        decode_cuda.run(call, out, lse_BHQ)
        return out, lse_BHQ
    if gpu or not q.is_cpu:
        why = hopper.missing(q.device) or "a dtype, dimension, stride, page or count of tokens"
        say("codeshell.ops.decode_attention", why)
    # In PyTorch these are steps.
    if call.k_new is not None:
        q = _append(call)
    if q.numel() == 0:
        return _empty(q)
    if q.is_cpu and not gpu:
        return _attend_rows(q, call)
    refusal = decode_flash.refuses(call)
    if refusal is None:
        return decode_flash.attend(q, call, lse=lse)
    if gpu:
        say("codeshell.ops.decode_attention", f"{refusal}; every row is computed over its whole capacity")
    return _attend_masked(q, call)


def _empty(q: torch.Tensor, *_: Any) -> _Pair:
    return q.new_empty(q.shape), q.new_empty((q.shape[0], q.shape[2], q.shape[1]), dtype=torch.float32)


def _append(call: DecodeCall) -> torch.Tensor:
    """Writes the new keys and values into the caches; returns q, rotated if the call has angles."""
    q, k_new, v_new = call.q, call.k_new, call.v_new
    assert k_new is not None and v_new is not None
    position_BN = call.cache_seqlens.to(torch.int64).unsqueeze(1) + torch.arange(call.new_tokens, device=q.device)
    if call.cos is not None and call.sin is not None:
        # As many queries as new tokens, at the same positions.
        q, k_new = rotary(q, k_new, call.cos, call.sin, positions=position_BN, interleaved=call.interleaved)
    # Where each token goes: a row and a place in it, or a page and a place in it.
    if call.block_table is None:
        where = torch.arange(q.shape[0], device=q.device).unsqueeze(1), position_BN
    else:
        size = call.k_cache.shape[1]
        where = call.block_table.gather(1, position_BN // size).to(torch.int64), position_BN % size
    call.k_cache.index_put_(where, k_new)
    call.v_cache.index_put_(where, v_new)
    return q


def _attend_rows(q: torch.Tensor, call: DecodeCall) -> _Pair:
    """One call of SDPA for each run of rows of one length, over a view of their keys; with pages, one for each row over
    its gathered pages. Computes only the keys that a row has."""
    batch, queries, heads, dim = q.shape
    kv_heads, new = call.k_cache.shape[2], call.new_tokens
    group = heads // kv_heads
    # The G query heads of a KV head read the same keys, so they become more queries of it: nothing is repeated.
    # torch's operation takes the last dimension for contiguous, and does not look.
    q = q if q.stride(-1) == 1 else q.contiguous()
    q_BKQgD = q.reshape(batch, queries, kv_heads, group, dim).transpose(1, 2).flatten(2, 3)  # Qg is query * G + head
    out_BKQgD = torch.zeros_like(q_BKQgD)
    lse_BKQg = q_BKQgD.new_full(q_BKQgD.shape[:3], -torch.inf, dtype=torch.float32)
    row = 0
    for length, run in itertools.groupby(call.cache_seqlens.tolist()):
        alike = len(list(run))
        for count in [alike] if call.block_table is None else [1] * alike:
            rows, end = slice(row, row + count), length + new
            row += count
            if end == 0:
                continue
            # The keys begin with the window of the first query.
            begin = max(0, end - queries + 1 - call.window) if call.window else 0
            k_BSKD, v_BSKD = (
                _keys_of(cache, call.block_table, rows, begin, end) for cache in (call.k_cache, call.v_cache)
            )
            # One causal query sees all of these keys. Several need a mask: additive, one row for each query and head.
            mask_QgS = None
            if call.causal and queries > 1:
                seen_QgS = _seen(queries, end, call, begin, q.device).repeat_interleave(group, 0)
                mask_QgS = q.new_zeros(seen_QgS.shape).masked_fill_(~seen_QgS, -torch.inf)
            out_BKQgD[rows], lse_BKQg[rows] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                q_BKQgD[rows], k_BSKD.transpose(1, 2), v_BSKD.transpose(1, 2), attn_mask=mask_QgS, scale=call.scale
            )
            # With fewer keys than queries the first queries see nothing, and SDPA gives NaN for them.
            if mask_QgS is not None and end < queries:
                out_BKQgD[rows, :, : (queries - end) * group] = 0.0
                lse_BKQg[rows, :, : (queries - end) * group] = -torch.inf
    out_BQHD = out_BKQgD.view(batch, kv_heads, queries, group, dim).transpose(1, 2).reshape(q.shape)
    return out_BQHD, lse_BKQg.view(batch, kv_heads, queries, group).transpose(2, 3).reshape(batch, heads, queries)


def _keys_of(cache: torch.Tensor, table: torch.Tensor | None, rows: slice, begin: int, end: int) -> torch.Tensor:
    """Keys (or values) `begin` to `end` of the rows, (B, end - begin, K, D); of one row where there is a table."""
    if table is None:
        return cache[rows, begin:end]
    # Gather the pages that hold any of these keys, and cut off what is before and after them.
    size = cache.shape[1]
    first = begin // size
    pages = cache[table[rows.start, first : (end + size - 1) // size].long()]
    return pages.flatten(0, 1)[begin - first * size : end - first * size].unsqueeze(0)


def _seen(queries: int, keys: int, call: DecodeCall, begin: int, device: torch.device) -> torch.Tensor:
    """(Q, keys - begin): which keys, counted from `begin`, each of the row's last positions sees."""
    place_Q1 = torch.arange(keys - queries, keys, device=device).unsqueeze(1)
    key_S = torch.arange(begin, keys, device=device)
    seen_QS = key_S <= place_Q1
    return seen_QS & (key_S > place_Q1 - call.window) if call.window else seen_QS


def _attend_masked(q: torch.Tensor, call: DecodeCall) -> _Pair:
    """All rows over their whole capacity, in fp32 (fp64): without reading a length on the host."""
    batch, queries, heads, _ = q.shape
    group, new = heads // call.k_cache.shape[2], call.new_tokens
    k_BSKD, v_BSKD = call.k_cache, call.v_cache
    if call.block_table is not None:
        # A table may hold anything after a row's last page, so it is clamped to pages that exist before it is used.
        pages_BP = call.block_table.clamp(0, call.k_cache.shape[0] - 1).long()
        k_BSKD, v_BSKD = (cache[pages_BP].flatten(1, 2) for cache in (k_BSKD, v_BSKD))
    # Which keys each query sees: those before the row's end, up to its own place, within the window.
    end_B11 = call.cache_seqlens.view(-1, 1, 1) + new
    key_11S = torch.arange(k_BSKD.shape[1], device=q.device).view(1, 1, -1)
    seen_BQS = (key_11S < end_B11).expand(-1, queries, -1)
    if call.causal:
        place_BQ1 = end_B11 - queries + torch.arange(queries, device=q.device).view(1, -1, 1)
        seen_BQS = seen_BQS & (key_11S <= place_BQ1)
        if call.window:
            seen_BQS = seen_BQS & (key_11S > place_BQ1 - call.window)
    # Keys that nobody sees may be anything, and 0 times NaN is NaN: they become zeros before they are multiplied.
    wide = torch.promote_types(q.dtype, torch.float32)
    valid_BS11 = seen_BQS.any(1)[:, :, None, None]
    k_BHSD, v_BHSD = (
        torch.where(valid_BS11, x, 0).to(wide).repeat_interleave(group, 2).transpose(1, 2) for x in (k_BSKD, v_BSKD)
    )
    scores_BHQS = q.transpose(1, 2).to(wide) @ k_BHSD.transpose(2, 3) * call.scale
    scores_BHQS = scores_BHQS.masked_fill(~seen_BQS.unsqueeze(1), -torch.inf)
    # A query that sees nothing has an LSE of -inf; exp(-inf - 0) gives it zeros where -inf - -inf would give NaN.
    lse_BHQ = torch.logsumexp(scores_BHQS, -1)
    shift_BHQ1 = lse_BHQ.unsqueeze(-1).masked_fill(lse_BHQ.unsqueeze(-1) == -torch.inf, 0.0)
    probability_BHQS = (scores_BHQS - shift_BHQ1).exp()
    # A row whose length cannot be gives NaN, as the kernel does.
    wrong_B11 = ((end_B11 < new) | (end_B11 > k_BHSD.shape[2])).view(batch, 1, 1)
    out_BQHD = (probability_BHQS @ v_BHSD).transpose(1, 2).to(q.dtype)
    return (
        out_BQHD.masked_fill(wrong_B11.unsqueeze(-1), torch.nan),
        lse_BHQ.to(torch.float32).masked_fill(wrong_B11, torch.nan),
    )


def _check(call: DecodeCall) -> None:
    """Everything but the values of tensors; ValueError names what does not fit."""
    q, k_cache, v_cache, lengths, table, k_new, v_new, cos, sin = call[:9]
    # The layouts of queries and caches, and that they fit together.
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
    # Where a row's keys are.
    if lengths.shape != (batch,) or lengths.dtype != torch.int32:
        raise ValueError(f"cache_seqlens {tuple(lengths.shape)} {lengths.dtype}: must be int32 ({batch},)")
    if table is None:
        if k_cache.shape[0] != batch:
            raise ValueError(f"k_cache has {k_cache.shape[0]} rows, q {batch}; paged caches need a block_table")
    elif table.dim() != 2 or table.shape[0] != batch or table.dtype != torch.int32 or k_cache.shape[1] == 0:
        raise ValueError(
            f"block_table {tuple(table.shape)} {table.dtype} of pages of {k_cache.shape[1]}: must be int32 "
            f"({batch}, pages per row), pages of at least 1"
        )
    # What is appended, and by which angles it is rotated.
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
        if k_new.shape[1] > call.capacity:
            raise ValueError(f"k_new has {k_new.shape[1]} tokens per row, but a row of the cache holds {call.capacity}")
    if cos is not None and sin is not None:
        if k_new is None or k_new.shape[1] != q.shape[1]:
            given = "is missing" if k_new is None else f"has {k_new.shape[1]} tokens"
            raise ValueError(f"cos and sin rotate q and k_new alike: q has {q.shape[1]} tokens, k_new {given}")
        check_tables(cos, sin, dim)
    check_one_device("q", **dict(zip(DecodeCall._fields, call[:9], strict=False)))


def _check_values(call: DecodeCall) -> None:
    """What lengths, pages and positions hold; on the CPU alone, where nothing has to wait for them."""
    k_cache, new, capacity = call.k_cache, call.new_tokens, call.capacity
    # Lengths: the row with the most tokens must have room for the new ones.
    low, high = (int(x) for x in torch.aminmax(call.cache_seqlens))
    if low < 0 or high + new > capacity:
        raise ValueError(
            f"cache_seqlens run from {low} to {high}; with {new} new tokens they must lie between 0 and the "
            f"capacity of {capacity} tokens"
        )
    if call.block_table is not None:
        size, pages = k_cache.shape[1], k_cache.shape[0]
        # Pages that a row uses; entries after them may be anything.
        used = (call.cache_seqlens + (new + size - 1)).unsqueeze(1) // size
        entries = call.block_table[torch.arange(call.block_table.shape[1], device=call.q.device) < used]
        if entries.numel() and (int(entries.min()) < 0 or int(entries.max()) >= pages):
            raise ValueError(
                f"block_table has entries from {int(entries.min())} to {int(entries.max())}, but the cache has the "
                f"pages 0 to {pages - 1}"
            )
    if call.cos is not None and high + new > call.cos.shape[0]:
        raise ValueError(f"positions reach {high + new - 1}, but cos has rows 0 to {call.cos.shape[0] - 1}")


def _decode_of(*arguments: Any) -> _Pair:
    """The operation: a call in pieces, which is what a schema can say, checked as `decode_attention` checks it."""
    call = DecodeCall(*arguments)
    check_window(call.window or None, call.causal)
    _check(call)
    return _decode(call)


_ARGUMENTS = (
    "Tensor cache_seqlens, Tensor? block_table, Tensor? k_new, Tensor? v_new, Tensor? cos, Tensor? sin, float scale, "
    "bool causal, int window, bool interleaved) -> (Tensor, Tensor)"
)
# Two operations, because a traced graph copies the caches of an operation that writes them, unless it can see that it
# need not: a call that appends nothing must not pay for that.
_operation = define(f"decode_attention(Tensor q, Tensor k_cache, Tensor v_cache, {_ARGUMENTS}", _decode_of, _empty)
_append_operation = define(
    f"decode_attention_append(Tensor q, Tensor(a!) k_cache, Tensor(b!) v_cache, {_ARGUMENTS}", _decode_of, _empty
)
