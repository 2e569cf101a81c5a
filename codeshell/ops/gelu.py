"""GELU in its tanh approximation (Hendrycks and Gimpel 2016), the activation of GPT-2 and CodeShell."""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from codeshell.ops import cpu
from codeshell.ops.library import differentiable_once, direct_backward, gradients_by_torch


def gelu(x: torch.Tensor) -> torch.Tensor:
    """`x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`, elementwise; computed in fp32, returned in x's dtype."""
    # The kernel walks memory in order, so a tensor with gaps goes to PyTorch rather than being copied twice.
    if cpu.serves(x) and x.is_contiguous():
        out: torch.Tensor = _CpuGelu.apply(x)  # type: ignore[no-untyped-call]
        return out
    return F.gelu(x, approximate="tanh")


class _CpuGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(x)
        return cpu.gelu_forward(x)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        (x,) = ctx.saved_tensors
        if not direct_backward(grads[0], x):
            return gradients_by_torch(gelu, (x,), grads[0])[0]
        return cpu.gelu_backward(x, grads[0].contiguous())
