"""Attention on Hopper GPUs (`csrc/attention/forward_sm90.cu`, `backward_sm90.cu`), as `torch.ops.codeshell`.

Until a GPU has verified the kernels, `attention` comes here only with CODESHELL_HOPPER_ATTENTION=1 in the environment.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from codeshell import _C
from codeshell.ops.library import apply_directly, define, differentiable, direct, stream_of

extension: Any = _C
"""What holds the kernels; tests put the module in that runs them on the host."""

enabled = os.environ.get("CODESHELL_HOPPER_ATTENTION") == "1"
"""Off unless it is asked for: the kernels have never run on a GPU. To be on by default once `codeshell info --kernels`
says that it was verified on one."""

DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)

_Pair = tuple[torch.Tensor, torch.Tensor]
_Triple = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


def serves(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    cu_seqlens: torch.Tensor | None = None,
) -> bool:
    """Whether the kernels take a call that `attention` has checked: device, dtype, head dimension."""
    if q.dtype not in DTYPES or q.shape[-1] not in DIMS or scale <= 0.0 or not (q.numel() and k.numel()):
        return False
    if not (q.device == k.device == v.device) or (cu_seqlens is not None and cu_seqlens.device != q.device):
        return False
    return _on_hopper(q)


def _on_hopper(x: torch.Tensor) -> bool:
    if extension is not _C:
        return x.device.type == "cpu"
    return (
        enabled and x.device.type == "cuda" and _C.cuda_built and torch.cuda.get_device_capability(x.device) == (9, 0)
    )


def attend(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    causal: bool,
    scale: float,
    window: int | None,
    deterministic: bool,
) -> _Pair:
    """Output and LSE of a call that the kernels `serve`, with gradients of the former; arguments as for `attention`."""
    plain = direct(q, k, v)
    window = min(window or 0, 2**31 - 1)  # an int in C++; longer than any sequence hides nothing
    result: _Pair
    if not differentiable(q, k, v):
        function = _forward if plain else _forward_op
        result = function(q, k, v, cu_seqlens, max_seqlen or 0, causal, scale, window)
        return result
    apply: Any = _apply_attention if plain else _Attention.apply
    result = apply(q, k, v, cu_seqlens, (max_seqlen or 0, causal, scale, window), deterministic)
    return result


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q: torch.Tensor,
        k: torch.Tensor,
        v: torch.Tensor,
        cu_seqlens: torch.Tensor | None,
        settings: tuple[int, bool, float, int],
        deterministic: bool,
    ) -> _Pair:
        function: Any = _forward if direct(q, k, v) else _forward_op
        out, lse = function(q, k, v, cu_seqlens, *settings)
        ctx.save_for_backward(q, k, v, out, lse, cu_seqlens)
        ctx.settings, ctx.deterministic = settings, deterministic
        ctx.mark_non_differentiable(lse)
        return out, lse

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any) -> Any:
        q, k, v, out, lse, cu_seqlens = ctx.saved_tensors
        function: Any = _backward if direct(grads[0], q, k, v) else _backward_op
        deterministic = ctx.deterministic or torch.are_deterministic_algorithms_enabled()
        gradients = function(grads[0], q, k, v, out, lse, cu_seqlens, *ctx.settings, deterministic)
        return (*gradients, None, None, None)


_apply_attention = apply_directly(_Attention)


def _forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int,
    causal: bool,
    scale: float,
    window: int,
) -> _Pair:
    _check_device(q)
    q, k, v = (_walkable(x) for x in (q, k, v))
    out, lse = _empty(q, k, v, cu_seqlens)
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        extension.attention_forward_cuda(
            *(_view(x) for x in (q, k, v, out)),
            lse.data_ptr(),
            0 if cu_seqlens is None else cu_seqlens.data_ptr(),
            _shape(q, k, cu_seqlens, max_seqlen),
            q.dtype == torch.bfloat16,
            scale,
            causal,
            window,
            stream_of(q),
        )
    return out, lse


def _backward(
    grad: torch.Tensor,
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    out: torch.Tensor,
    lse: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int,
    causal: bool,
    scale: float,
    window: int,
    deterministic: bool,
) -> _Triple:
    _check_device(q)
    if grad.shape != q.shape or out.shape != q.shape or grad.dtype != q.dtype or out.dtype != q.dtype:
        raise ValueError(
            f"grad {tuple(grad.shape)} {grad.dtype}, out {tuple(out.shape)} {out.dtype}: must be as q, "
            f"{tuple(q.shape)} {q.dtype}"
        )
    grad, q, k, v, out = (_walkable(x) for x in (grad, q, k, v, out))
    lse = lse.contiguous()
    gradients = _empty_gradients(grad, q, k, v)
    cu_seqlens = None if cu_seqlens is None else cu_seqlens.contiguous()
    shape = _shape(q, k, cu_seqlens, max_seqlen)
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        bytes_needed = extension.attention_backward_workspace(shape, cu_seqlens is not None, causal, window)
        workspace = _workspace(q, bytes_needed)
        extension.attention_backward_cuda(
            tuple(_view(x) for x in (q, k, v, out, grad, *gradients)),
            lse.data_ptr(),
            0 if cu_seqlens is None else cu_seqlens.data_ptr(),
            workspace.data_ptr(),
            shape,
            q.dtype == torch.bfloat16,
            scale,
            causal,
            window,
            deterministic,
            stream_of(q),
        )
    return gradients


def _check_device(q: torch.Tensor) -> None:
    if not _on_hopper(q):
        raise ValueError(f"q is on {q.device}; the attention kernels need a GPU of compute capability 9.0")


def _shape(
    q: torch.Tensor, k: torch.Tensor, cu_seqlens: torch.Tensor | None, max_seqlen: int
) -> tuple[int, int, int, int, int, int, int]:
    """Batch, queries, keys, longest sequence, heads, kv_heads, dim."""
    if cu_seqlens is None:
        return q.shape[0], q.shape[1], k.shape[1], q.shape[1], q.shape[2], k.shape[2], q.shape[3]
    longest = max(1, min(max_seqlen, q.shape[0]))
    return cu_seqlens.numel() - 1, q.shape[0], k.shape[0], longest, q.shape[1], k.shape[1], q.shape[2]


def _workspace(q: torch.Tensor, size: int) -> torch.Tensor:
    return q.new_empty(size, dtype=torch.uint8)


def _empty_gradients(grad: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, *_: Any) -> _Triple:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _empty(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor | None, *_: Any) -> _Pair:
    rows = (q.shape[1], q.shape[0]) if cu_seqlens is not None else (q.shape[0], q.shape[2], q.shape[1])
    return q.new_empty(q.shape), q.new_empty(rows, dtype=torch.float32)


def _walkable(x: torch.Tensor) -> torch.Tensor:
    """The tensor itself if TMA can walk it: 16-byte addresses and strides, none of them 0; else a copy."""
    strides = [stride for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    if x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(stride and stride % 8 == 0 for stride in strides):
        return x
    return x.clone(memory_format=torch.contiguous_format)


def missing(device: torch.device) -> str | None:
    """Why no call on this device reaches the kernel, whatever its tensors; None if calls do."""
    if extension is not _C or device.type != "cuda":
        return None if extension is not _C and device.type == "cpu" else f"tensors on {device.type}"
    if torch.cuda.get_device_capability(device) != (9, 0):
        return f"a {torch.cuda.get_device_name(device)} (the kernel needs compute capability 9.0)"
    if not _C.cuda_built:
        return "this build of codeshell is without CUDA"
    return None if enabled else "no GPU has verified the kernel, and CODESHELL_HOPPER_ATTENTION=1 does not ask for it"


def _view(x: torch.Tensor) -> tuple[int, int, int, int]:
    return x.data_ptr(), x.stride(0) if x.dim() == 4 else 0, x.stride(-3), x.stride(-2)


_forward_op = define(
    "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? cu_seqlens, int max_seqlen, bool causal, float scale, "
    "int window) -> (Tensor, Tensor)",
    _forward,
    _empty,
)
_backward_op = define(
    "attention_backward(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor lse, Tensor? cu_seqlens, "
    "int max_seqlen, bool causal, float scale, int window, bool deterministic) -> (Tensor, Tensor, Tensor)",
    _backward,
    _empty_gradients,
)
