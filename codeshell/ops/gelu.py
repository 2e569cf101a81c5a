"""GELU in its tanh approximation (Hendrycks and Gimpel 2016), the activation of GPT-2 and CodeShell, with a bias.

A product of matrices that leaves its bias out, and `bias_gelu` after it, read and write the inner activations once
instead of twice; in the backward pass the gradient of the bias is summed while the gradient passes through.

    CPU    csrc/activation, fp32 and bf16
    GPU    gelu_triton.py, fp32, bf16 and fp16, from compute capability 8.0 on (triton_kernels.py is the gate)
    else   `formula`: PyTorch's own operations
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from codeshell.ops import cpu, devices, triton_kernels
from codeshell.ops.library import (
    check_one_device,
    define,
    differentiable,
    differentiable_once,
    direct,
    direct_backward,
    gradients_by_torch,
    say,
)

SOURCE = "ops/gelu_triton.py"


def gelu(x: torch.Tensor) -> torch.Tensor:
    """`x / 2 * (1 + tanh(sqrt(2 / pi) * (x + 0.044715 x^3)))`, elementwise.

    Args:
        x: floating point, of any shape and strides.

    Returns:
        Its shape and dtype; contiguous from a kernel. 16-bit types are computed in fp32.
    """
    return bias_gelu(x, None)


def bias_gelu(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """`gelu(x + bias)` in one pass, forward and backward.

    The gradient of the bias is summed in fp32 in an order that the shape of x alone decides, so it has the same bits
    every time, on any number of threads.

    Args:
        x: (..., columns), floating point: the product without its bias.
        bias: (columns,), floating point, or None. Its dtype may be another one (fp32 weights under bf16 autocast).

    Returns:
        The shape and the dtype of x. The sum and the function are in fp32, or fp64 for fp64.

    Raises:
        ValueError: the bias does not fit x, one of them is not floating point, or they are on two devices.
    """
    if not x.is_floating_point():
        raise ValueError(f"x {tuple(x.shape)} is {x.dtype}; it must be floating point")
    if bias is not None:
        if x.dim() < 1 or bias.shape != x.shape[-1:] or not bias.is_floating_point():
            raise ValueError(
                f"bias {tuple(bias.shape)} {bias.dtype} and x {tuple(x.shape)}: bias must be floating point, of the "
                "size of x's last dimension"
            )
        check_one_device("x", x=x, bias=bias)
    # Traced graphs hold the operation; transforms, modes and subclasses see torch's own.
    if not torch.compiler.is_dynamo_compiling() and not direct(x, bias):
        return formula(x, bias)
    if differentiable(x, bias):
        out: torch.Tensor = _BiasGelu.apply(x, bias)  # type: ignore[no-untyped-call]
        return out
    return _forward(x, bias) if direct(x, bias) else _op(x, bias)


def formula(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """The same in PyTorch's own operations, with the same dtypes of sums and results."""
    if bias is None:
        return F.gelu(x, approximate="tanh")
    wide = torch.promote_types(x.dtype, torch.float32)
    return F.gelu(x.to(wide) + bias.to(wide), approximate="tanh").to(x.dtype)


def formula_backward(
    x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor, with_bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x, in its dtype, and of bias, in at least fp32 (None unless `with_bias`)."""
    wide = torch.promote_types(x.dtype, torch.float32)
    shifted = x.to(wide) if bias is None else x.to(wide) + bias.to(wide)
    grad_x = torch.ops.aten.gelu_backward(grad.to(wide), shifted, approximate="tanh")
    return grad_x.to(x.dtype), grad_x.flatten(0, -2).sum(0) if with_bias else None


# The operations: what is allocated here, a kernel fills; or PyTorch serves, and the log says why.


def _forward(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    if x.numel() == 0:
        return torch.empty_like(x, memory_format=torch.contiguous_format)
    if cpu.serves(x, bias):
        return cpu.gelu_forward(x.contiguous(), _narrow(bias))
    kernels = triton_kernels.serving(SOURCE, x, bias)
    if kernels is None:
        _say_why(x, bias)
        return formula(x, bias).contiguous()
    y: torch.Tensor = kernels.forward(_matrix(x), None if bias is None else bias.contiguous())
    return y.view(x.shape)


def _backward(
    x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor, with_bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """The gradients of x and (in at least fp32; empty without `with_bias`) of bias."""
    grad_bias: torch.Tensor | None
    if x.numel() == 0:
        grad_x, grad_bias = torch.empty_like(x, memory_format=torch.contiguous_format), None
        if with_bias:
            grad_bias = x.new_zeros(x.shape[-1], dtype=torch.promote_types(x.dtype, torch.float32))
    elif cpu.serves(x, bias, grad):
        grad_x, grad_bias = cpu.gelu_backward(x.contiguous(), _narrow(bias), grad.to(x.dtype).contiguous(), with_bias)
    elif (kernels := triton_kernels.serving(SOURCE, x, bias)) is not None:
        grad_x, grad_bias = kernels.backward(
            _matrix(x), None if bias is None else bias.contiguous(), _matrix(grad.to(x.dtype)), with_bias
        )
        grad_x = grad_x.view(x.shape)
    else:
        grad_x, grad_bias = formula_backward(x, bias, grad, with_bias)
    return grad_x.contiguous(), x.new_empty(0, dtype=torch.float32) if grad_bias is None else grad_bias


def _matrix(x: torch.Tensor) -> torch.Tensor:
    """(rows, columns), contiguous: the rows are all dimensions but the last."""
    return x.contiguous().view(-1, x.shape[-1] if x.dim() else 1)


def _narrow(bias: torch.Tensor | None) -> torch.Tensor | None:
    """A bias in fp32 and contiguous, as the CPU kernels take it."""
    return None if bias is None else bias.to(torch.float32).contiguous()


def _say_why(x: torch.Tensor, bias: torch.Tensor | None) -> None:
    """Say in the log why no kernel serves x."""
    if devices.on_gpu(x.device):
        say("codeshell.ops.gelu", triton_kernels.missing(SOURCE, x, bias) or "")
    elif x.is_cpu and x.dtype not in (torch.float32, torch.bfloat16):
        say("codeshell.ops.gelu", str(x.dtype).removeprefix("torch."))


def _fake_forward(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    return torch.empty_like(x, memory_format=torch.contiguous_format)


def _fake_backward(
    x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor, with_bias: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    dtype = torch.promote_types(x.dtype, torch.float32) if with_bias else torch.float32
    return _fake_forward(x, bias), x.new_empty(x.shape[-1] if with_bias else 0, dtype=dtype)


_op = define("bias_gelu(Tensor x, Tensor? bias) -> Tensor", _forward, _fake_forward)
_backward_op = define(
    "bias_gelu_backward(Tensor x, Tensor? bias, Tensor grad, bool with_bias) -> (Tensor, Tensor)",
    _backward,
    _fake_backward,
)


class _BiasGelu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        ctx.save_for_backward(x, bias)
        return _forward(x, bias) if direct(x, bias) else _op(x, bias)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        x, bias = ctx.saved_tensors
        (grad,) = grads
        # A frozen bias costs no sum.
        with_bias = bias is not None and ctx.needs_input_grad[1]
        if torch.compiler.is_dynamo_compiling():
            grad_x, grad_bias = _backward_op(x, bias, grad, with_bias)
        elif direct_backward(grad, x, bias):
            grad_x, grad_bias = _backward(x, bias, grad, with_bias)
        elif bias is None:
            return *gradients_by_torch(gelu, (x,), grad), None
        else:
            return gradients_by_torch(formula, (x, bias), grad)
        return grad_x, grad_bias.to(bias.dtype) if with_bias else None
