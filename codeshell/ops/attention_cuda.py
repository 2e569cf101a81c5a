"""The forward pass of attention on Hopper GPUs (`csrc/attention/forward_sm90.cu`), as `torch.ops.codeshell`.

There is no backward pass yet: `attention` comes here where no gradient is needed, and, until a GPU has verified the
kernel, only with CODESHELL_HOPPER_ATTENTION=1 in the environment.
"""

from __future__ import annotations

import os
from contextlib import nullcontext
from typing import Any

import torch

from codeshell import _C
from codeshell.ops.library import define, differentiable, direct, stream_of

extension: Any = _C
"""What holds the kernel; tests put the module in that runs it on the host."""

enabled = os.environ.get("CODESHELL_HOPPER_ATTENTION") == "1"
"""Off unless it is asked for: the kernel has never run on a GPU. To be on by default once `codeshell info --kernels`
says that it was verified on one."""

DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)

_Pair = tuple[torch.Tensor, torch.Tensor]


def serves(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    scale: float,
    cu_seqlens: torch.Tensor | None = None,
) -> bool:
    """Whether the kernel takes a call that `attention` has checked: device, dtype, head dimension, no gradient."""
    if q.dtype not in DTYPES or q.shape[-1] not in DIMS or scale <= 0.0 or not (q.numel() and k.numel()):
        return False
    if not (q.device == k.device == v.device) or (cu_seqlens is not None and cu_seqlens.device != q.device):
        return False
    return _on_hopper(q) and not differentiable(q, k, v)


def _on_hopper(x: torch.Tensor) -> bool:
    if extension is not _C:
        return x.device.type == "cpu"
    return (
        enabled and x.device.type == "cuda" and _C.cuda_built and torch.cuda.get_device_capability(x.device) == (9, 0)
    )


def forward(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    causal: bool,
    scale: float,
    window: int | None,
) -> _Pair:
    """Output and LSE of a call that the kernel `serves`; arguments as for `attention`."""
    function = _forward if direct(q, k, v) else _operation
    result: _Pair = function(q, k, v, cu_seqlens, max_seqlen or 0, causal, scale, window or 0)
    return result


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
    if not _on_hopper(q):
        raise ValueError(f"q is on {q.device}; the attention kernel needs a GPU of compute capability 9.0")
    q, k, v = (_walkable(x) for x in (q, k, v))
    out, lse = _empty(q, k, v, cu_seqlens)
    if cu_seqlens is None:
        shape = (q.shape[0], q.shape[1], k.shape[1], q.shape[1], q.shape[2], k.shape[2], q.shape[3])
    else:
        cu_seqlens = cu_seqlens.contiguous()
        longest = max(1, min(max_seqlen, q.shape[0]))
        shape = (cu_seqlens.numel() - 1, q.shape[0], k.shape[0], longest, q.shape[1], k.shape[1], q.shape[2])
    with torch.cuda.device(q.device) if q.is_cuda else nullcontext():
        extension.attention_forward_cuda(
            *(_view(x) for x in (q, k, v, out)),
            lse.data_ptr(),
            0 if cu_seqlens is None else cu_seqlens.data_ptr(),
            shape,
            q.dtype == torch.bfloat16,
            scale,
            causal,
            window,
            stream_of(q),
        )
    return out, lse


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


_operation = define(
    "attention_forward(Tensor q, Tensor k, Tensor v, Tensor? cu_seqlens, int max_seqlen, bool causal, float scale, "
    "int window) -> (Tensor, Tensor)",
    _forward,
    _empty,
)
