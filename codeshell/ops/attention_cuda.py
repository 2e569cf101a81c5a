"""Attention on Hopper GPUs (`csrc/attention/forward_sm90.cu`, `backward_sm90.cu`), as `torch.ops.codeshell`.

`hopper` says when the kernels are used at all. A call that is traced goes through the two operations defined at the
end, which check their arguments as `attention` does; an eager call was checked there and goes past them.
"""

from __future__ import annotations

from typing import Any

import torch

from codeshell.ops import devices, hopper
from codeshell.ops.attention_call import OPERATION_ARGUMENTS, AttentionCall, check, has_kernel_form
from codeshell.ops.library import apply_directly, define, differentiable, differentiable_once, direct, stream_of

_Pair = tuple[torch.Tensor, torch.Tensor]
_Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def serves(call: AttentionCall) -> bool:
    """Whether the kernels take a checked call: its form, dtype, head dimension, device; and there is work to do."""
    q = call.q
    if q.dtype not in hopper.DTYPES or q.shape[-1] not in hopper.DIMS or not hopper.available(q.device):
        return False
    return has_kernel_form(call) and call.scale > 0.0 and bool(q.numel() and call.k.numel())


def attend(call: AttentionCall) -> _Pair:
    """Output and LSE of a call that the kernels `serve`, with gradients of the output."""
    # Four ways: with or without autograd, each directly or, where something traces or intercepts, by the operation.
    plain = direct(call.q, call.k, call.v)
    result: _Pair
    if differentiable(call.q, call.k, call.v):
        apply: Any = _apply_attention if plain else _Attention.apply
        result = apply(*call[:4], call[4:])
    elif plain:
        result = _forward(call)
    else:
        result = _forward_op(*call[:OPERATION_ARGUMENTS])
    return result


class _Attention(torch.autograd.Function):
    """An `AttentionCall` with its tensors apart, because autograd and tracing see only tensors that are arguments. The
    other facts, those after `cu_seqlens`, are one tuple, because every argument costs time."""

    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        facts: tuple[Any, ...],
    ) -> _Pair:
        call = AttentionCall(q, k, v, cu_seqlens, *facts)
        if direct(call.q, call.k, call.v):
            out, lse = _forward(call)
        else:
            out, lse = _forward_op(*call[:OPERATION_ARGUMENTS])
        # The probabilities are not kept: the backward kernel computes them again from q, k and the LSE.
        ctx.save_for_backward(call.q, call.k, call.v, out, lse, call.cu_seqlens)
        ctx.settings, ctx.deterministic = call[4:OPERATION_ARGUMENTS], call.deterministic
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, out, lse, cu_seqlens = ctx.saved_tensors
        arguments = (q, k, v, cu_seqlens, *ctx.settings)
        # Asked for by the call, or by torch's switch at the time of the backward pass.
        deterministic = ctx.deterministic or torch.are_deterministic_algorithms_enabled()
        if direct(grads[0], q, k, v):
            call = AttentionCall(*arguments)._replace(deterministic=deterministic)
            gradients = _backward(call, grads[0], out, lse)
        else:
            gradients = _backward_op(grads[0], out, lse, *arguments, deterministic)
        return (*gradients, None, None)


_apply_attention = apply_directly(_Attention)


def _forward(call: AttentionCall) -> _Pair:
    # Tensors that the kernel cannot walk are copied; the copies are kept until the launch is queued.
    q, k, v = (hopper.as_walkable(x) for x in call[:3])
    out, lse = _empty(call)
    cu_seqlens = None if call.cu_seqlens is None else call.cu_seqlens.contiguous()
    # Asynchronous: the kernel runs on the current stream of the device of q, and nothing here waits for it.
    with hopper.on_device_of(q):
        devices.extension.attention_forward_cuda(
            *(hopper.view(x) for x in (q, k, v, out)),
            lse.data_ptr(),
            hopper.address(cu_seqlens),
            _shape(call),
            q.dtype == torch.bfloat16,
            call.scale,
            call.causal,
            call.window,
            stream_of(q),
        )
    return out, lse


def _backward(call: AttentionCall, grad: torch.Tensor, out: torch.Tensor, lse: torch.Tensor) -> _Triple:
    """Gradients of q, k and v from `grad`, that of `out`; `out` and `lse` are what the forward pass gave."""
    # As in the forward pass, but for five tensors; what autograd hands over as `grad` is often expanded.
    q, k, v, grad, out = (hopper.as_walkable(x) for x in (*call[:3], grad, out))
    lse = lse.contiguous()
    gradients = _empty_gradients(call)
    cu_seqlens = None if call.cu_seqlens is None else call.cu_seqlens.contiguous()
    shape = _shape(call)
    with hopper.on_device_of(q):
        # Sums of dQ in fp32, and the order in which blocks add to them if the call is deterministic.
        size = devices.extension.attention_backward_workspace(shape, cu_seqlens is not None, call.causal, call.window)
        workspace = _workspace(call, size)
        devices.extension.attention_backward_cuda(
            tuple(hopper.view(x) for x in (q, k, v, out, grad, *gradients)),
            lse.data_ptr(),
            hopper.address(cu_seqlens),
            workspace.data_ptr(),
            shape,
            q.dtype == torch.bfloat16,
            call.scale,
            call.causal,
            call.window,
            call.deterministic,
            stream_of(q),
        )
    return gradients


def _shape(call: AttentionCall) -> tuple[int, int, int, int, int, int, int]:
    """Batch, queries, keys, longest sequence, heads, kv_heads, dim."""
    q, k, cu_seqlens = call.q, call.k, call.cu_seqlens
    if cu_seqlens is None:
        return q.shape[0], q.shape[1], k.shape[1], q.shape[1], q.shape[2], k.shape[2], q.shape[3]
    # The longest sequence decides the grid, so a caller's generous limit must not make it larger than the tokens.
    longest = max(1, min(call.max_seqlen, q.shape[0]))
    return cu_seqlens.numel() - 1, q.shape[0], k.shape[0], longest, q.shape[1], k.shape[1], q.shape[2]


def _workspace(call: AttentionCall, size: int) -> torch.Tensor:
    return call.q.new_empty(size, dtype=torch.uint8)


def _empty_gradients(call: AttentionCall) -> _Triple:
    return call.q.new_empty(call.q.shape), call.k.new_empty(call.k.shape), call.v.new_empty(call.v.shape)


def _empty(call: AttentionCall) -> _Pair:
    """The output, contiguous and shaped as q; the LSE (batch, heads, queries), or packed (heads, total)."""
    q = call.q
    rows = (q.shape[1], q.shape[0]) if call.cu_seqlens is not None else (q.shape[0], q.shape[2], q.shape[1])
    return q.new_empty(q.shape), q.new_empty(rows, dtype=torch.float32)


# The operations: an AttentionCall in pieces, which is what a schema can say.


def _check_served(call: AttentionCall) -> None:
    check(call)
    if not serves(call):
        q = call.q
        raise ValueError(
            f"q is on {q.device}, {tuple(q.shape)} {q.dtype}, scale {call.scale}, left {call.left}, right "
            f"{call.right}: the attention kernels need a GPU of compute capability 9.0, bfloat16 or float16, heads of "
            "64 or 128, at least one query and one key, a scale above 0, and a right bound of 0 or no bounds"
        )


def _forward_of(*arguments: Any) -> _Pair:
    call = AttentionCall(*arguments)
    _check_served(call)
    return _forward(call)


def _backward_of(grad: torch.Tensor, out: torch.Tensor, lse: torch.Tensor, *arguments: Any) -> _Triple:
    *facts, deterministic = arguments
    # Of the fields after the operation's own, only this one matters for gradients.
    call = AttentionCall(*facts)._replace(deterministic=deterministic)
    _check_served(call)
    q = call.q
    if grad.shape != q.shape or out.shape != q.shape or grad.dtype != q.dtype or out.dtype != q.dtype:
        raise ValueError(
            f"grad {tuple(grad.shape)} {grad.dtype}, out {tuple(out.shape)} {out.dtype}: must be as q, "
            f"{tuple(q.shape)} {q.dtype}"
        )
    return _backward(call, grad, out, lse)


_ARGUMENTS = "Tensor q, Tensor k, Tensor v, Tensor? cu_seqlens, int max_seqlen, int? left, int? right, float scale"
_forward_op = define(
    f"attention_forward({_ARGUMENTS}) -> (Tensor, Tensor)",
    _forward_of,
    lambda *arguments: _empty(AttentionCall(*arguments)),
)
_backward_op = define(
    f"attention_backward(Tensor grad, Tensor out, Tensor lse, {_ARGUMENTS}, bool deterministic) "
    "-> (Tensor, Tensor, Tensor)",
    _backward_of,
    lambda grad, out, lse, *arguments: _empty_gradients(AttentionCall(*arguments[:OPERATION_ARGUMENTS])),
)
