"""Attention with grouped key/value heads, over batches or packed sequences.

`attention` takes separate tensors; `packed_attention` takes the fused projection Q|K|V as one tensor and rotates
queries and keys itself, which saves the split on the way in and the concatenation on the way back. On the CPU both run
`csrc/attention/attention_cpu.cpp` where it serves the case (`native.attention_serves`), and on Hopper GPUs, if asked
for, `csrc/attention/forward_sm90.cu` and `backward_sm90.cu` (`attention_cuda.serves`); everything else goes to torch's
scaled_dot_product_attention (SDPA), with packed sequences of equal length sharing one call.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from codeshell.ops import attention_cuda, native
from codeshell.ops.rotary import check_tables, rotary


@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = ...,
    scale: float | None = ...,
    window: int | None = ...,
    cu_seqlens: torch.Tensor | None = ...,
    max_seqlen: int | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[False] = ...,
    dropout_p: float = ...,
) -> torch.Tensor: ...
@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = ...,
    scale: float | None = ...,
    window: int | None = ...,
    cu_seqlens: torch.Tensor | None = ...,
    max_seqlen: int | None = ...,
    deterministic: bool = ...,
    return_lse: Literal[True],
    dropout_p: float = ...,
) -> tuple[torch.Tensor, torch.Tensor]: ...
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
    deterministic: bool = False,
    return_lse: bool = False,
    dropout_p: float = 0.0,
) -> Any:
    """Softmax attention; query head h reads key/value head `h // (heads / kv_heads)`.

    Args:
        q: (batch, seq, heads, dim), or (total, heads, dim) with `cu_seqlens`.
        k, v: (batch, seq_k, kv_heads, dim), or (total, kv_heads, dim).
        causal: a query sees the keys up to its own position, aligned bottom right: with more keys than queries the
            last query sees all keys.
        scale: of the scores; None is `dim ** -0.5`.
        window: a query sees only the latest `window` of those keys, its own among them; needs `causal`.
        cu_seqlens: int32 (sequences + 1,), offsets of packed sequences that do not see one another, from 0 to total.
        max_seqlen: length of the longest of them; needed with `cu_seqlens`, a Python int so that nothing waits for it.
        deterministic: the same bits every time. Always so on the CPU.
        return_lse: also return the log-sum-exp of the scores.
        dropout_p: dropout on the probabilities (always torch's SDPA).

    Returns:
        The output, shaped as `q`; with `return_lse` also fp32 (batch, heads, seq) or (heads, total).

    Raises:
        ValueError: a shape, dtype or combination does not fit; the message names the argument.
    """
    _check(q, k, v, causal, window, cu_seqlens, max_seqlen, dropout_p, return_lse)
    scale = q.shape[-1] ** -0.5 if scale is None else scale
    if dropout_p == 0.0 and attention_cuda.serves(q, k, v, scale, cu_seqlens):
        out, lse = attention_cuda.attend(q, k, v, cu_seqlens, max_seqlen, causal, scale, window, deterministic)
        return (out, lse) if return_lse else out
    if dropout_p == 0.0 and native.attention_serves(q, k, v):
        out, lse = _NativeAttention.apply(  # type: ignore[no-untyped-call]
            q, k, v, causal, scale, window or 0, cu_seqlens
        )
        return (out, lse) if return_lse else out
    if cu_seqlens is None:
        return _sdpa(q, k, v, causal, scale, window, dropout_p, return_lse)
    return _sdpa_packed(q, k, v, causal, scale, window, dropout_p, return_lse, cu_seqlens)


def packed_attention(
    qkv: torch.Tensor,
    cos: torch.Tensor,
    sin: torch.Tensor,
    *,
    heads: int,
    kv_heads: int,
    positions: torch.Tensor | None = None,
    scale: float | None = None,
    window: int | None = None,
    cu_seqlens: torch.Tensor | None = None,
    max_seqlen: int | None = None,
    dropout_p: float = 0.0,
) -> torch.Tensor:
    """Rotary embedding (half-split) and causal attention of a fused projection.

    Args:
        qkv: (batch, seq, (heads + 2 kv_heads) * dim), or (total, …) with `cu_seqlens`; Q, then K, then V.
        cos, sin, positions: as for `rotary`.
        scale, window, cu_seqlens, max_seqlen, dropout_p: as for `attention`.

    Returns:
        (batch, seq, heads * dim) or (total, heads * dim).
    """
    if qkv.dim() not in (2, 3) or qkv.shape[-1] % (heads + 2 * kv_heads):
        raise ValueError(
            f"qkv {tuple(qkv.shape)}: must be (batch, seq, width) or (total, width), the width a multiple of "
            f"heads + 2 kv_heads = {heads + 2 * kv_heads}"
        )
    dim = qkv.shape[-1] // (heads + 2 * kv_heads)
    q, k, v = _split(qkv, heads, kv_heads)
    scale = dim**-0.5 if scale is None else scale
    if dropout_p == 0.0 and native.attention_serves(q, k, v) and 2 * cos.shape[-1] == dim:
        check_tables(cos, sin, dim)
        _check(q, k, v, True, window, cu_seqlens, max_seqlen, dropout_p, False)
        rows = _rows(positions, qkv)
        if int(rows.min()) < 0 or int(rows.max()) >= cos.shape[0]:
            raise ValueError(f"positions reach {int(rows.max())}, but cos has rows 0 to {cos.shape[0] - 1}")
        out: torch.Tensor = _NativePackedAttention.apply(  # type: ignore[no-untyped-call]
            qkv, cos, sin, rows, heads, kv_heads, scale, window or 0, cu_seqlens
        )
        return out
    q, k = rotary(q, k, cos, sin, positions=positions)
    out = attention(
        q, k, v, scale=scale, window=window, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen, dropout_p=dropout_p
    )
    return out.flatten(-2)


def decode_attention(
    q: torch.Tensor,
    k_cache: torch.Tensor,
    v_cache: torch.Tensor,
    *,
    cache_seqlens: torch.Tensor,
    block_table: torch.Tensor | None = None,
    scale: float | None = None,
) -> torch.Tensor:
    """Causal attention of a few new queries over a cache that already holds their keys and values.

    Args:
        q: (batch, new, heads, dim); row b's queries are its last `new` positions.
        k_cache, v_cache: (batch, capacity, kv_heads, dim), or with `block_table` (blocks, block_size, kv_heads, dim).
        cache_seqlens: int32 (batch,), valid positions of each row, the new ones included.
        block_table: int32 (batch, blocks per row), the blocks of each row in order.
        scale: of the scores; None is `dim ** -0.5`.

    Returns:
        (batch, new, heads, dim).

    Raises:
        ValueError: a shape or dtype does not fit, or a row is shorter than `new` or longer than the cache.
    """
    if q.dim() != 4 or k_cache.dim() != 4 or k_cache.shape != v_cache.shape or q.shape[-1] != k_cache.shape[-1]:
        raise ValueError(
            f"q {tuple(q.shape)}, k_cache {tuple(k_cache.shape)}, v_cache {tuple(v_cache.shape)}: must be "
            "(batch, new, heads, dim) and twice (batch, capacity, kv_heads, dim)"
        )
    if q.shape[2] % k_cache.shape[2]:
        raise ValueError(f"q has {q.shape[2]} heads, not a multiple of the cache's {k_cache.shape[2]}")
    if cache_seqlens.shape != (q.shape[0],) or cache_seqlens.dtype != torch.int32:
        raise ValueError(
            f"cache_seqlens {tuple(cache_seqlens.shape)} {cache_seqlens.dtype}: must be int32 ({q.shape[0]},)"
        )
    if block_table is not None:
        if block_table.dim() != 2 or block_table.shape[0] != q.shape[0]:
            raise ValueError(f"block_table {tuple(block_table.shape)}: must be ({q.shape[0]}, blocks per row)")
        k_cache, v_cache = (cache[block_table.long()].flatten(1, 2) for cache in (k_cache, v_cache))
    elif k_cache.shape[0] != q.shape[0]:
        raise ValueError(f"k_cache has {k_cache.shape[0]} rows, q {q.shape[0]}")
    new, longest = q.shape[1], int(cache_seqlens.max())
    if longest > k_cache.shape[1] or int(cache_seqlens.min()) < new:
        raise ValueError(
            f"cache_seqlens run from {int(cache_seqlens.min())} to {longest}; they must lie between the {new} new "
            f"positions and the capacity {k_cache.shape[1]}"
        )
    k, v = (cache[:, :longest].transpose(1, 2).to(q.dtype) for cache in (k_cache, v_cache))
    last = cache_seqlens.to(torch.int64).view(-1, 1, 1, 1) - new + torch.arange(new, device=q.device).view(1, 1, -1, 1)
    seen = torch.arange(longest, device=q.device).view(1, 1, 1, -1) <= last
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k, v, attn_mask=seen, scale=scale, enable_gqa=True)
    return out.transpose(1, 2)


class _NativeAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        causal: bool,
        scale: float,
        window: int,
        cu_seqlens: torch.Tensor | None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        q, k, v = (native.packable(x) for x in (q, k, v))
        out = torch.empty(q.shape, dtype=q.dtype)
        problem = native.AttentionProblem(q, k, v, causal, scale, window, cu_seqlens)
        lse = problem.forward(out)
        ctx.save_for_backward(q, k, v, out, lse)
        ctx.settings = (causal, scale, window, cu_seqlens)
        shown = (
            lse if cu_seqlens is not None else lse.view(q.shape[2], q.shape[0], q.shape[1]).transpose(0, 1).contiguous()
        )
        ctx.mark_non_differentiable(shown)
        return out, shown

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, out, lse = ctx.saved_tensors
        causal, scale, window, cu_seqlens = ctx.settings
        problem = native.AttentionProblem(q, k, v, causal, scale, window, cu_seqlens)
        gradients = [torch.empty(x.shape, dtype=x.dtype) for x in (q, k, v)]
        problem.backward(grads[0], out, lse, gradients[0], gradients[1], gradients[2])
        return (*gradients, None, None, None, None)


class _NativePackedAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor,
        heads: int,
        kv_heads: int,
        scale: float,
        window: int,
        cu_seqlens: torch.Tensor | None,
    ) -> torch.Tensor:
        qkv = qkv.contiguous()
        ctx.settings = (scale, window, cu_seqlens)
        ctx.heads = (heads, kv_heads)
        q, k, v = _split(qkv, heads, kv_heads)
        out = torch.empty(q.shape, dtype=q.dtype)
        lse = native.AttentionProblem(q, k, v, True, scale, window, cu_seqlens, cos, sin, positions).forward(out)
        ctx.save_for_backward(qkv, out, lse, cos, sin, positions)
        return out.flatten(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        qkv, out, lse, cos, sin, positions = ctx.saved_tensors
        gradient = torch.empty_like(qkv)
        q, k, v = _split(qkv, *ctx.heads)
        scale, window, cu_seqlens = ctx.settings
        problem = native.AttentionProblem(q, k, v, True, scale, window, cu_seqlens, cos, sin, positions)
        problem.backward(grads[0].view(out.shape), out, lse, *_split(gradient, *ctx.heads))
        return (gradient, *[None] * 8)


def _split(qkv: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views (…, heads, dim) of the three parts of a fused projection."""
    parts = qkv.view(*qkv.shape[:-1], heads + 2 * kv_heads, -1)
    q, k, v = torch.split(parts, [heads, kv_heads, kv_heads], dim=-2)
    return q, k, v


def _rows(positions: torch.Tensor | None, qkv: torch.Tensor) -> torch.Tensor:
    """Positions of all tokens as contiguous int32 (total,)."""
    shape = qkv.shape[:-1]
    if positions is None:
        return torch.arange(shape[-1], dtype=torch.int32).expand(shape).reshape(-1)
    if tuple(positions.shape) not in (tuple(shape), (shape[-1],)):
        raise ValueError(f"positions {tuple(positions.shape)}: must be {tuple(shape)} or ({shape[-1]},)")
    return positions.expand(shape).reshape(-1).to(torch.int32)


def _mask(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor:
    """True where a query sees a key: causal, aligned bottom right, at most `window` keys back."""
    last = torch.arange(queries, device=device).unsqueeze(1) + (keys - queries)
    key = torch.arange(keys, device=device).unsqueeze(0)
    seen = key <= last
    return seen if window is None else seen & (key > last - window)


def _sdpa(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
    return_lse: bool,
) -> Any:
    queries, keys = q.shape[1], k.shape[1]
    mask = _mask(queries, keys, window, q.device) if causal and (queries != keys or window is not None) else None
    qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))
    if not return_lse:
        out = F.scaled_dot_product_attention(
            qt,
            kt,
            vt,
            attn_mask=mask,
            dropout_p=dropout_p,
            is_causal=causal and mask is None,
            scale=scale,
            enable_gqa=True,
        )
        return out.transpose(1, 2)
    wide = torch.float64 if q.dtype == torch.float64 else torch.float32
    group = q.shape[2] // k.shape[2]
    scores = qt.to(wide) @ kt.repeat_interleave(group, 1).transpose(2, 3).to(wide) * scale
    if causal:
        seen = _mask(queries, keys, window, q.device)
        scores = scores.masked_fill(~seen, -torch.inf)
    lse = torch.logsumexp(scores, dim=-1)
    # A query that sees nothing (more queries than keys) has an LSE of -inf and an output of zeros.
    probability = (scores - lse.unsqueeze(-1)).exp().nan_to_num(0.0)
    out = (probability @ vt.repeat_interleave(group, 1).to(wide)).to(q.dtype)
    return out.transpose(1, 2), lse.to(torch.float32)


def _sdpa_packed(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    scale: float,
    window: int | None,
    dropout_p: float,
    return_lse: bool,
    cu_seqlens: torch.Tensor,
) -> Any:
    """One SDPA call for all sequences of one length; gathers and scatters keep the packed order."""
    offsets = cu_seqlens.to(torch.int64)
    starts, lengths = offsets[:-1], offsets[1:] - offsets[:-1]
    outs, lses, rows = [], [], []
    for length in sorted(set(lengths.tolist()) - {0}):
        index = starts[lengths == length].unsqueeze(1) + torch.arange(length, device=q.device)
        result = _sdpa(q[index], k[index], v[index], causal, scale, window, dropout_p, return_lse)
        out, lse = result if return_lse else (result, None)
        outs.append(out.flatten(0, 1))
        rows.append(index.flatten())
        if lse is not None:
            lses.append(lse.transpose(0, 1).flatten(1))
    order = torch.argsort(torch.cat(rows))
    packed = torch.cat(outs)[order]
    return (packed, torch.cat(lses, dim=1)[:, order]) if return_lse else packed


def _check(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool,
    window: int | None,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    dropout_p: float,
    return_lse: bool,
) -> None:
    dims = 4 if cu_seqlens is None else 3
    if (
        q.dim() != dims
        or k.dim() != dims
        or k.shape != v.shape
        or q.shape[-1] != k.shape[-1]
        or q.shape[0] != k.shape[0]
    ):
        layout = "(batch, seq, heads, dim)" if dims == 4 else "(total, heads, dim) with cu_seqlens"
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: must be {layout}, k and v alike")
    if q.shape[-2] % k.shape[-2]:
        raise ValueError(f"q has {q.shape[-2]} heads, not a multiple of the {k.shape[-2]} of k")
    if not (q.dtype == k.dtype == v.dtype) or not q.dtype.is_floating_point:
        raise ValueError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; they must be one floating-point dtype")
    if window is not None and (window < 1 or not causal):
        raise ValueError(f"window is {window}: must be at least 1, and causal")
    if not 0.0 <= dropout_p < 1.0 or (dropout_p and return_lse):
        raise ValueError(f"dropout_p is {dropout_p}: must be at least 0 and below 1, and 0 with return_lse")
    if cu_seqlens is None:
        if max_seqlen is not None:
            raise ValueError("max_seqlen goes with cu_seqlens; give both or neither")
        return
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"cu_seqlens {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}: must be int32 (sequences + 1,)")
    if max_seqlen is None:
        raise ValueError("max_seqlen is missing; give the longest sequence's length as a Python int with cu_seqlens")
    if cu_seqlens.device.type == "cpu":
        lengths = cu_seqlens.diff()
        if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != q.shape[0] or bool((lengths < 0).any()):
            raise ValueError(
                f"cu_seqlens must rise from 0 to the {q.shape[0]} tokens of q; it is {cu_seqlens.tolist()[:8]}…"
            )
        if int(lengths.max()) > max_seqlen:
            raise ValueError(f"max_seqlen is {max_seqlen}, but a sequence has {int(lengths.max())} tokens")
