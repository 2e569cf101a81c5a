"""Attention with grouped key/value heads, over batches or packed sequences.

`attention` takes separate tensors; `packed_attention` takes the fused projection Q|K|V as one tensor and rotates
queries and keys itself, which saves the split on the way in and the concatenation on the way back. On the CPU both run
`csrc/attention/attention_cpu.cpp` where it serves the case (`cpu.attention_serves`), and on Hopper GPUs, if asked
for, `csrc/attention/forward_sm90.cu` and `backward_sm90.cu` (`attention_cuda.serves`); everything else goes to torch's
scaled_dot_product_attention (SDPA), with packed sequences of equal length sharing one call.
"""

from __future__ import annotations

from typing import Any, Literal, overload

import torch
from torch.autograd.function import once_differentiable

from codeshell.ops import attention_cuda, cpu, sdpa
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
    if dropout_p == 0.0 and cpu.attention_serves(q, k, v):
        out, lse = _NativeAttention.apply(  # type: ignore[no-untyped-call]
            q, k, v, causal, scale, window or 0, cu_seqlens
        )
        return (out, lse) if return_lse else out
    sdpa.say_why("codeshell.ops.attention", q, k, scale, dropout_p)
    left, right = None if window is None else window - 1, 0 if causal else None
    if cu_seqlens is None:
        return sdpa.dense(q, k, v, left, right, scale, dropout_p, return_lse, deterministic)
    return sdpa.packed(q, k, v, cu_seqlens, cu_seqlens, left, right, scale, dropout_p, return_lse, deterministic)


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
        (batch, seq, heads * dim) or (total, heads * dim), in the floating-point dtype of qkv.

    Raises:
        ValueError: an argument's shape, dtype, device or value does not fit; the message names it.
    """
    if qkv.dim() not in (2, 3) or qkv.shape[-1] % (heads + 2 * kv_heads):
        raise ValueError(
            f"qkv {tuple(qkv.shape)}: must be (batch, seq, width) or (total, width), the width a multiple of "
            f"heads + 2 kv_heads = {heads + 2 * kv_heads}"
        )
    dim = qkv.shape[-1] // (heads + 2 * kv_heads)
    q, k, v = _split(qkv, heads, kv_heads)
    scale = dim**-0.5 if scale is None else scale
    if dropout_p == 0.0 and cpu.attention_serves(q, k, v) and 2 * cos.shape[-1] == dim:
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
        q, k, v = (cpu.packable(x) for x in (q, k, v))
        out = torch.empty(q.shape, dtype=q.dtype)
        problem = cpu.AttentionProblem(q, k, v, causal, scale, window, cu_seqlens)
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
        problem = cpu.AttentionProblem(q, k, v, causal, scale, window, cu_seqlens)
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
        lse = cpu.AttentionProblem(q, k, v, True, scale, window, cu_seqlens, cos, sin, positions).forward(out)
        ctx.save_for_backward(qkv, out, lse, cos, sin, positions)
        return out.flatten(-2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        qkv, out, lse, cos, sin, positions = ctx.saved_tensors
        gradient = torch.empty_like(qkv)
        q, k, v = _split(qkv, *ctx.heads)
        scale, window, cu_seqlens = ctx.settings
        problem = cpu.AttentionProblem(q, k, v, True, scale, window, cu_seqlens, cos, sin, positions)
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
    check_heads(q, k, v, packed=cu_seqlens is not None)
    check_window(window, causal)
    if not 0.0 <= dropout_p < 1.0 or (dropout_p and return_lse):
        raise ValueError(f"dropout_p is {dropout_p}: must be at least 0 and below 1, and 0 with return_lse")
    if cu_seqlens is None:
        if max_seqlen is not None:
            raise ValueError("max_seqlen goes with cu_seqlens; give both or neither")
        return
    if q.shape[0] != k.shape[0]:
        raise ValueError(f"q has {q.shape[0]} tokens, k {k.shape[0]}; packed sequences attend to themselves")
    if max_seqlen is None:
        raise ValueError("max_seqlen is missing; give the longest sequence's length as a Python int with cu_seqlens")
    check_offsets(q, cu_seqlens, max_seqlen, "q", "cu_seqlens", "max_seqlen")


def check_heads(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, packed: bool) -> None:
    """Raises ValueError where the three do not fit: (batch, seq, heads, dim), or `packed` (total, heads, dim)."""
    if (
        q.dim() != (3 if packed else 4)
        or k.dim() != q.dim()
        or k.shape != v.shape
        or q.shape[-1] != k.shape[-1]
        or (not packed and q.shape[0] != k.shape[0])
    ):
        layout = "(total, heads, dim) with cu_seqlens" if packed else "(batch, seq, heads, dim)"
        raise ValueError(f"q {tuple(q.shape)}, k {tuple(k.shape)}, v {tuple(v.shape)}: must be {layout}, k and v alike")
    if not (q.shape[-1] and q.shape[-2] and k.shape[-2]) or q.shape[-2] % k.shape[-2]:
        raise ValueError(f"q has {q.shape[-2]} heads of {q.shape[-1]}, not a multiple of the {k.shape[-2]} of k")
    if not (q.dtype == k.dtype == v.dtype) or not q.dtype.is_floating_point:
        raise ValueError(f"q is {q.dtype}, k {k.dtype}, v {v.dtype}; they must be one floating-point dtype")
    if not (q.device == k.device == v.device):
        raise ValueError(f"q is on {q.device}, k on {k.device}, v on {v.device}; they must be on one device")


def check_window(window: int | None, causal: bool) -> None:
    """Raises ValueError for a sliding window that is none, or without a causal mask."""
    if window is not None and (isinstance(window, float) or window < 1 or not causal):
        raise ValueError(f"window is {window}: must be an int of at least 1, and causal")


def check_offsets(x: torch.Tensor, offsets: torch.Tensor, longest: int, name: str, given: str, limit: str) -> None:
    """Raises ValueError where `offsets` are not those of packed sequences in `x` of at most `longest` tokens.

    What they hold is checked on a CPU alone: on a GPU that would wait for it, and in a traced graph there is nothing.
    `name`, `given` and `limit` are what the caller calls the three.
    """
    if not isinstance(offsets, torch.Tensor):
        raise ValueError(f"{given} is a {type(offsets).__name__}: must be an int32 tensor (sequences + 1,)")
    if offsets.dtype != torch.int32 or offsets.dim() != 1 or offsets.numel() < 2:
        raise ValueError(f"{given} {tuple(offsets.shape)} {offsets.dtype}: must be int32 (sequences + 1,)")
    if offsets.device != x.device:
        raise ValueError(f"{given} is on {offsets.device}, {name} on {x.device}; they must be on one device")
    if offsets.device.type != "cpu":
        return
    lengths = offsets.diff()
    if int(offsets[0]) != 0 or int(offsets[-1]) != x.shape[0] or bool((lengths < 0).any()):
        raise ValueError(
            f"{given} must rise from 0 to the {x.shape[0]} tokens of {name}; it is {offsets.tolist()[:8]}…"
        )
    if int(lengths.max()) > longest:
        raise ValueError(f"{limit} is {longest}, but a sequence has {int(lengths.max())} tokens")
