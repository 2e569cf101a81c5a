"""A linear layer whose products run on whatever multiplies fastest on this CPU.

In fp32 that is torch's own product, or, where it pays, that of products.py.

Under bf16 autocast torch's linear runs oneDNN's bf16 product. That is right where the CPU has AMX. Without it, the
avx512_bf16 instructions ran at half the rate of plain fp32 ones (0.16 against 0.30 TFLOP/s on 2 cores of a Xeon), and
older CPUs emulate them. The product of two bf16 numbers is exact in fp32, so widening the rounded operands and calling
the fp32 product gives what the bf16 instruction gives, fp32 sums included, but faster. What is kept for the backward
pass is still bf16, so the memory is the same as with autocast.
"""

from __future__ import annotations

import functools
import platform
from typing import Any

import torch
from torch.nn import functional as F

from codeshell.ops import products
from codeshell.ops.library import check_one_device, differentiable, differentiable_once, direct, direct_backward


@functools.cache
def bf16_products_pay() -> bool:
    """Whether this CPU multiplies bf16 faster than fp32: AMX, or not an x86 at all."""
    return platform.machine() not in ("x86_64", "AMD64") or torch.cpu._is_amx_tile_supported()


def widens(x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether products of these tensors should be widened: bf16 autocast on a CPU that multiplies bf16 no faster."""
    return (
        x.is_cpu
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not bf16_products_pay()
        and direct(x, *others)
    )


def linear(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T + bias`, as torch.nn.functional.linear; the result is bf16 under bf16 autocast.

    Args:
        x: (tokens, in).
        weight: (out, in).
        bias: (out,), or None.
    """
    # torch's own bf16 product returns whatever is in memory if one of the two is on the meta device (2.13).
    if x.device != weight.device:
        check_one_device("x", x=x, weight=weight, bias=bias)
    out: torch.Tensor
    if widens(x, weight, bias):
        out = _WidenedLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
        return out
    if not products.serves(x, weight, bias) or torch.is_autocast_enabled("cpu"):
        return F.linear(x, weight, bias)
    if not differentiable(x, weight, bias):
        return _product(x, weight, bias)
    out = _OwnLinear.apply(x, weight, bias)  # type: ignore[no-untyped-call]
    return out


def _product(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`x @ weight.T + bias` in fp32, by our product where it serves."""
    if products.serves(x, weight, bias):
        return products.multiply(x, products.pack(weight.t()), bias=bias)
    return F.linear(x, weight, bias)


def _product_back(grad: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """`grad @ weight` in fp32: the gradient of x."""
    return products.multiply(grad, products.pack(weight)) if products.serves(grad, weight) else grad @ weight


class _OwnLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        return _product(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        (grad,) = grads
        need_x, need_weight, need_bias = ctx.needs_input_grad
        # If somebody differentiates this pass (create_graph), it consists of torch's operations, as torch's own does.
        back = torch.matmul if torch.is_grad_enabled() or not _has_memory(grad) else _product_back
        # torch's product is as fast as ours where the left operand is transposed.
        return (
            back(grad, weight) if need_x else None,
            grad.t() @ x if need_weight else None,
            grad.sum(0) if need_bias else None,
        )


def _has_memory(grad: torch.Tensor) -> bool:
    """Whether a gradient is what its memory says; not one of a batch that torch's older vmap hides."""
    try:
        return direct_backward(grad)
    except RuntimeError:
        return False


class _WidenedLinear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        # Rounded to bf16 as autocast does, kept like that, and widened again for the product alone.
        x_kept, weight_kept = x.to(torch.bfloat16), weight.to(torch.bfloat16)
        ctx.save_for_backward(x_kept, weight_kept)
        ctx.dtypes = (x.dtype, weight.dtype, None if bias is None else bias.dtype)
        # Autocast would round the widened operands again and run the slow product.
        with torch.autocast("cpu", enabled=False):
            wide = _product(x_kept.float(), weight_kept.float(), None if bias is None else bias.float())
        return wide.to(torch.bfloat16)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        x, weight = ctx.saved_tensors
        x_dtype, weight_dtype, bias_dtype = ctx.dtypes
        # (tokens, out). The three gradients go back in the dtypes that came in, which under autocast are often fp32.
        grad = grads[0].float()
        need_x, need_weight, need_bias = ctx.needs_input_grad
        grad_x = _product_back(grad, weight.float()).to(x_dtype) if need_x else None
        grad_weight = (grad.t() @ x.float()).to(weight_dtype) if need_weight else None
        grad_bias = grad.sum(0).to(bias_dtype) if need_bias else None
        return grad_x, grad_weight, grad_bias
