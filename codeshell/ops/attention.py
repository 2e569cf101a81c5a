"""Attention with grouped key/value heads, over batches or packed sequences.

`attention` takes separate tensors; `packed_attention` takes the fused projection Q|K|V as one tensor and rotates
queries and keys itself, which saves the split on the way in and the concatenation on the way back. Both pack their
arguments into an `AttentionCall`, and `attend` gives it to what serves it:

    Hopper GPUs   `csrc/attention/forward_sm90.cu` and `backward_sm90.cu`, if asked for (`attention_cuda.serves`)
    a CPU         `csrc/attention/attention_cpu.cpp` (`cpu.attention_serves`)
    the rest      torch's scaled_dot_product_attention (`sdpa`), which the log says once; so does every call that is
                  transformed, and one on a CPU that `library.direct` turns down
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypedDict, Unpack, overload

import torch

from codeshell.ops import attention_cuda, cpu, sdpa
from codeshell.ops.attention_call import AttentionCall, check, check_window, has_kernel_form, scale_of
from codeshell.ops.library import differentiable_once, direct, direct_backward, gradients_by_torch, transformed
from codeshell.ops.rotary import check_tables, check_width, refuse_table_gradients, rotary

if TYPE_CHECKING:

    class _Options(TypedDict, total=False):
        causal: bool
        scale: float | None
        window: int | None
        cu_seqlens: torch.Tensor | None
        max_seqlen: int | None
        deterministic: bool
        dropout_p: float


@overload
def attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    *,
    return_lse: Literal[False] = ...,
    **options: Unpack[_Options],
) -> torch.Tensor: ...
@overload
def attention(
    q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *, return_lse: Literal[True], **options: Unpack[_Options]
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
        scale: factor on the scores; None is `dim ** -0.5`.
        window: a query sees only the latest `window` of those keys, its own among them; needs `causal`.
        cu_seqlens: int32 (sequences + 1,), offsets of packed sequences that do not see one another, from 0 to total.
        max_seqlen: length of the longest of them; needed with `cu_seqlens`, a Python int so that nothing waits for it.
        deterministic: gradients have the same bits every time. They always do on the CPU.
        return_lse: also return the log-sum-exp of the scores.
        dropout_p: dropout on the probabilities; torch's SDPA then serves the call.

    Returns:
        The output, shaped as `q`; with `return_lse` also fp32 (batch, heads, seq) or (heads, total).

    Raises:
        ValueError: a shape, dtype, device or combination does not fit; the message names the argument.
    """
    # From here on the call is one structure, whoever serves it.
    call = _packed(
        (q, k, v), causal, scale, window, cu_seqlens, max_seqlen, dropout_p, deterministic, return_lse=return_lse
    )
    out, lse = attend(call)
    return (out, lse) if return_lse else out


def attend(call: AttentionCall, operation: str = "codeshell.ops.attention") -> tuple[torch.Tensor, torch.Tensor | None]:
    """Output, and LSE if the call asks for it (kernels always give it), of a checked call, by what serves it.

    `operation` is the name that the log uses where PyTorch serves it.
    """
    # The kernels first, in the order of how much they save; each says by itself what it takes.
    if attention_cuda.serves(call) and not transformed():
        return attention_cuda.attend(call)
    if has_kernel_form(call) and cpu.attention_serves(*call[:4]):
        result: tuple[torch.Tensor, torch.Tensor] = _CpuAttention.apply(*call[:4], call[4:])  # type: ignore[no-untyped-call]
        return result
    # Nothing silently computes something slower: the log says why, once for each reason.
    sdpa.say_why(operation, call)
    return sdpa.attend(call)


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
    check_width(qkv, heads, kv_heads)
    # Views of the fused projection: (…, heads, dim) and twice (…, kv_heads, dim).
    q, k, v = _split(qkv, heads, kv_heads)
    facts = True, scale, window, cu_seqlens, max_seqlen, dropout_p
    # The CPU kernel rotates whole heads on the way. Otherwise rotary and attention are two steps.
    served = dropout_p == 0.0 and cpu.attention_serves(q, k, v, cu_seqlens) and direct(cos, sin, positions)
    if served and 2 * cos.shape[-1] == q.shape[-1] and qkv.numel():
        check_tables(cos, sin, q.shape[-1])
        refuse_table_gradients(cos, sin)
        call = _packed((q, k, v), *facts)
        rows = _rows(positions, qkv, cos.shape[0])
        out: torch.Tensor = _CpuPackedAttention.apply(  # type: ignore[no-untyped-call]
            qkv, cos, sin, rows, call.cu_seqlens, heads, kv_heads, call[4:]
        )
        return out
    # Without that kernel: rotate into new tensors, attend, and put the heads side by side again.
    q, k = rotary(q, k, cos, sin, positions=positions)
    return attend(_packed((q, k, v), *facts))[0].flatten(-2)


def _packed(
    tensors: tuple[torch.Tensor, torch.Tensor, torch.Tensor],
    causal: bool,
    scale: float | None,
    window: int | None,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    dropout_p: float,
    deterministic: bool = False,
    return_lse: bool = False,
) -> AttentionCall:
    """The arguments of `attention` as a checked call: no default is left open, and the window is two bounds."""
    # What the packed form can no longer show: whether a default was given, and the window as such.
    check_window(window, causal)
    if cu_seqlens is None and max_seqlen is not None:
        raise ValueError("max_seqlen goes with cu_seqlens; give both or neither")
    if cu_seqlens is not None and max_seqlen is None:
        raise ValueError("max_seqlen is missing; give the longest sequence's length as a Python int with cu_seqlens")
    left, right = None if window is None else window - 1, 0 if causal else None
    scale = scale_of(scale, tensors[0])
    # By position, because names cost time in small calls. None: the keys have the offsets of the queries.
    call = AttentionCall(
        *tensors, cu_seqlens, max_seqlen or 0, left, right, scale, None, dropout_p, deterministic, return_lse
    )
    check(call)
    return call


class _CpuAttention(torch.autograd.Function):
    """An `AttentionCall` with its tensors apart, because autograd sees only tensors that are arguments. The other
    facts, those after `cu_seqlens`, are one tuple, because every argument costs time."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        facts: tuple[Any, ...],
    ) -> tuple[torch.Tensor, torch.Tensor]:
        call = AttentionCall(cpu.packable(q), cpu.packable(k), cpu.packable(v), cu_seqlens, *facts)
        # Kept for the backward pass: inputs, output and LSE. Probabilities are computed again from these.
        out = call.q.new_empty(call.q.shape)
        lse = cpu.AttentionProblem(call).forward(out)
        ctx.save_for_backward(*call[:4], out, lse)
        ctx.facts = facts
        # The kernel writes (heads, total), where the sequences of a batch lie side by side.
        shown = lse
        if cu_seqlens is None:
            batch, seq, heads, _ = call.q.shape
            shown = lse.view(heads, batch, seq).transpose(0, 1).contiguous()
        ctx.mark_non_differentiable(shown)
        return out, shown

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, cu_seqlens, out, lse = ctx.saved_tensors
        if not direct_backward(grads[0], q, k, v, out, lse):
            facts = (cu_seqlens, *ctx.facts)
            slow = gradients_by_torch(lambda *qkv: sdpa.attend(AttentionCall(*qkv, *facts))[0], (q, k, v), grads[0])
            return (*slow, None, None)
        gradients = [x.new_empty(x.shape) for x in (q, k, v)]
        cpu.AttentionProblem(AttentionCall(q, k, v, cu_seqlens, *ctx.facts)).backward(grads[0], out, lse, *gradients)
        return (*gradients, None, None)


class _CpuPackedAttention(torch.autograd.Function):
    """The same of a fused projection: q, k and v are views of it, and so are their gradients of its gradient."""

    @staticmethod
    def forward(
        ctx: Any,
        qkv: torch.Tensor,
        cos: torch.Tensor,
        sin: torch.Tensor,
        positions: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        heads: int,
        kv_heads: int,
        facts: tuple[Any, ...],
    ) -> torch.Tensor:
        qkv = qkv.contiguous()
        ctx.facts, ctx.heads = facts, (heads, kv_heads)
        call = AttentionCall(*_split(qkv, heads, kv_heads), cu_seqlens, *facts)
        out = qkv.new_empty(call.q.shape)
        lse = cpu.AttentionProblem(call, (cos, sin, positions)).forward(out)
        ctx.save_for_backward(qkv, out, lse, cos, sin, positions, cu_seqlens)
        return out.flatten(-2)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        qkv, out, lse, *angles, cu_seqlens = ctx.saved_tensors
        facts = (cu_seqlens, *ctx.facts)
        if not direct_backward(grads[0], qkv, out, lse):
            cos, sin, positions = angles

            def attend_slowly(x: torch.Tensor) -> torch.Tensor:
                q, k, v = _split(x, *ctx.heads)
                q, k = rotary(q, k, cos, sin, positions=positions.view(q.shape[:-2]))
                return sdpa.attend(AttentionCall(q, k, v, *facts))[0].flatten(-2)

            return (*gradients_by_torch(attend_slowly, (qkv,), grads[0]), *[None] * 7)
        gradient = torch.empty_like(qkv)
        problem = cpu.AttentionProblem(AttentionCall(*_split(qkv, *ctx.heads), *facts), tuple(angles))
        # Three views, which together are all of the gradient: each is filled in its place.
        problem.backward(grads[0].view(out.shape), out, lse, *_split(gradient, *ctx.heads))
        return (gradient, *[None] * 7)


def _split(qkv: torch.Tensor, heads: int, kv_heads: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Views (…, heads, dim) of the three parts of a fused projection (…, width)."""
    parts = qkv.view(*qkv.shape[:-1], heads + 2 * kv_heads, -1)
    q, k, v = torch.split(parts, [heads, kv_heads, kv_heads], dim=-2)
    return q, k, v


def _rows(positions: torch.Tensor | None, qkv: torch.Tensor, count: int) -> torch.Tensor:
    """Positions of all tokens, rows of tables that have `count`, as contiguous int32 (total,)."""
    # (batch, seq) or (total,). Positions (seq,) are the same for each row of the batch.
    shape = qkv.shape[:-1]
    if positions is None:
        if shape[-1] > count:
            raise ValueError(f"positions reach {shape[-1] - 1}, but cos has rows 0 to {count - 1}")
        return torch.arange(shape[-1], dtype=torch.int32, device=qkv.device).expand(shape).reshape(-1)
    if tuple(positions.shape) not in (tuple(shape), (shape[-1],)):
        raise ValueError(f"positions {tuple(positions.shape)}: must be {tuple(shape)} or ({shape[-1]},)")
    if positions.device != qkv.device or positions.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"positions: {positions.dtype} on {positions.device}; must be int32 or int64 on {qkv.device}")
    # Before they become int32, so that none wraps round.
    low, high = (int(x) for x in torch.aminmax(positions))
    if low < 0 or high >= count:
        raise ValueError(f"positions reach {low if low < 0 else high}, but cos has rows 0 to {count - 1}")
    return positions.expand(shape).reshape(-1).to(torch.int32)
