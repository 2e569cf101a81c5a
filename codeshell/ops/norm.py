"""The residual stream and the LayerNorm after it in one pass: what every block of a pre-norm network does twice.

    stream = x + branch
    normed = (stream - mean) / sqrt(variance + eps) * weight + bias

As single operations (an add, a norm, the casts of autocast, and the gradients of all of them) this walks memory several
times where once is enough; docs/kernels/norm.md counts the bytes. `csrc/norm` serves CPUs, `norm_triton.py` GPUs of
compute capability 8.0 and newer; a few lines of PyTorch serve the rest: fp64, fp16 on a CPU, rows of more than 8,192
elements on a GPU, older GPUs, few rows without gradients (decoding), and whoever transforms or intercepts the call
(`library.py`).

Shapes in this file: D the width of a row, R rows: all other dimensions, flattened.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.nn import functional as F

from codeshell.ops import cpu, devices, triton_kernels
from codeshell.ops.library import (
    address,
    apply_directly,
    check_one_device,
    define,
    differentiable,
    differentiable_once,
    direct,
    direct_backward,
    say,
)

_Tensors = tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]

SOURCE = "ops/norm_triton.py"
WIDEST = 8192
"""The widest rows of the kernels in Triton, `norm_triton.WIDEST`; that file cannot be imported without triton."""

FEW_ROWS = 16
"""So many rows, without gradients, go to PyTorch: such a call is all overhead. For one row of 256 on a CPU it took
24 us, add and norm of torch 11; launches of Triton cost more still, and decoding makes dozens of calls per token."""

# Looked up once, as in library.py.
_is_autocast_enabled, _promote_types = torch.is_autocast_enabled, torch.promote_types


def residual_layer_norm(
    x: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float = 1e-5,
    *,
    dtype: torch.dtype | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """`x + branch`, and LayerNorm of the sum over its last dimension.

    The sum has the dtype that torch gives it, and is normalised as rounded to that. Mean, variance and norm are
    computed in fp32 (fp64 for fp64). Gradients flow through both results; those of weight and bias are summed in fp32,
    in an order that does not depend on the number of threads.

    Args:
        x: (..., D), floating point.
        branch: shaped as x, floating point; None adds nothing, and the first result is then x itself.
        weight, bias: (D,), floating point, of any dtype; their gradients come in it.
        eps: added to the variance.
        dtype: of the second result. None is what the next product wants: the dtype of autocast where that is on, else
            that of the sum.

    Returns:
        The sum, and its LayerNorm; both shaped as x.

    Raises:
        ValueError: a shape, dtype or device does not fit; the message names the argument.
    """
    _check(x, branch, weight, bias)
    if dtype is None:
        kind = x.device.type
        # What autocast would round the norm to before the product.
        if _is_autocast_enabled(kind):
            dtype = torch.get_autocast_dtype(kind)
        else:
            dtype = x.dtype if branch is None else _promote_types(x.dtype, branch.dtype)
    traced = torch.compiler.is_dynamo_compiling()
    if not traced and not direct(x, branch, weight, bias):
        # A transform, a mode, a subclass: torch's own operations, which all of them know.
        return reference(x, branch, weight, bias, eps, dtype)
    if not traced and x.numel() <= FEW_ROWS * x.shape[-1] and not differentiable(x, branch, weight, bias):
        # torch's add would read at address 0 where a storage was released; this raises.
        for given in (x, weight, bias) if branch is None else (x, branch, weight, bias):
            address(given)
        return reference(x, branch, weight, bias, eps, dtype)
    if traced:
        # The graph has the operation, which looks for its kernels when it runs; eps is a number of it, not a variable.
        kernels, eps = None, float(eps)
        reason = _unserved_types(x, branch, weight, bias, dtype)
    else:
        kernels, reason = _kernels(x, branch, weight, bias, dtype)
        if reason:
            say("codeshell.ops.residual_layer_norm", reason)
    if reason is not None:
        return reference(x, branch, weight, bias, eps, dtype)
    if traced or differentiable(x, branch, weight, bias):
        apply: Any = _ResidualLayerNorm.apply if traced else _apply_directly
        results = apply(x, branch, weight, bias, eps, dtype, kernels)
        return (x, results) if branch is None else results
    stream, normed, _, _ = _forward(kernels, x, branch, weight, bias, eps, dtype)
    return (x if branch is None else stream), normed


def reference(
    x: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The same by torch's own operations."""
    stream = x if branch is None else x + branch
    # torch normalises mixed dtypes on some devices and not on others.
    wide = stream
    if not stream.dtype == weight.dtype == bias.dtype:
        wide = stream.to(_promote_types(stream.dtype, torch.float32))
    normed = F.layer_norm(wide, weight.shape, weight.to(wide.dtype), bias.to(wide.dtype), eps)
    return stream, normed.to(dtype)


def _check(x: torch.Tensor, branch: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor) -> None:
    """Raise ValueError for arguments that do not fit."""
    if x.dim() < 1 or not x.is_floating_point():
        raise ValueError(f"x {tuple(x.shape)} {x.dtype}: must have at least one dimension and be floating point")
    if branch is not None and (branch.shape != x.shape or not branch.is_floating_point()):
        raise ValueError(
            f"branch {tuple(branch.shape)} {branch.dtype}: must have the shape {tuple(x.shape)} of x and be floating "
            "point"
        )
    for name, given in (("weight", weight), ("bias", bias)):
        if given.dim() != 1 or given.shape[0] != x.shape[-1] or not given.is_floating_point():
            raise ValueError(
                f"{name} {tuple(given.shape)} {given.dtype}: must be ({x.shape[-1]},), as wide as x, and floating point"
            )
    if not x.device == weight.device == bias.device == (x if branch is None else branch).device:
        check_one_device("x", x=x, branch=branch, weight=weight, bias=bias)


def _unserved_types(
    x: torch.Tensor, branch: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
) -> str | None:
    """Why no kernel takes tensors of these dtypes, as one clause; None if some do."""
    for given in (x.dtype, weight.dtype, bias.dtype, dtype):
        if given not in triton_kernels.DTYPES:
            return str(given).removeprefix("torch.")
    # The kernels write the sum in the dtype of x.
    if branch is not None and _promote_types(x.dtype, branch.dtype) != x.dtype:
        return f"a branch of {branch.dtype} on a stream of {x.dtype}"
    return None


def _kernels(
    x: torch.Tensor, branch: torch.Tensor | None, weight: torch.Tensor, bias: torch.Tensor, dtype: torch.dtype
) -> tuple[Any, str | None]:
    """What computes a call, something with the functions `forward` and `backward`; else None and why, as one clause: ""
    if nothing is to be computed."""
    reason = _unserved_types(x, branch, weight, bias, dtype)
    if reason is None and not x.numel():
        reason = ""
    if reason is not None:
        return None, reason
    if x.is_cpu and devices.simulated is None:
        half = next((t for t in (x, branch, weight, bias) if t is not None and t.dtype == torch.float16), None)
        return (cpu.norm, None) if half is None and dtype != torch.float16 else (None, "float16")
    if x.shape[-1] > WIDEST:
        return None, f"rows of {x.shape[-1]} (at most {WIDEST})"
    kernels = triton_kernels.serving(SOURCE, x, branch, weight, bias)
    return kernels, None if kernels is not None else triton_kernels.missing(SOURCE, x, branch, weight, bias)


def _forward(
    kernels: Any,
    x: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> _Tensors:
    """The sum (empty without a branch), the norm, and each row's fp32 mean and rstd (R,)."""
    branch = None if branch is None else branch.contiguous()
    out: _Tensors = kernels.forward(x.contiguous(), branch, weight.contiguous(), bias.contiguous(), eps, dtype)
    return out


def _backward(
    kernels: Any,
    grad_stream: torch.Tensor | None,
    grad_normed: torch.Tensor,
    stream: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    branch_dtype: torch.dtype,
    affine: bool,
) -> _Tensors:
    """The gradients of x, of the branch (empty if its dtype is that of x: it is that of x then), and of weight and bias
    (empty unless `affine`)."""
    # Autograd hands over gradients of any strides.
    grad_stream = None if grad_stream is None else grad_stream.contiguous()
    out: _Tensors = kernels.backward(
        grad_stream,
        grad_normed.contiguous(),
        stream.contiguous(),
        weight.contiguous(),
        mean,
        rstd,
        branch_dtype,
        affine,
    )
    return out


class PyTorch:
    """Both passes for the operation of `torch.ops` where no kernel serves, and for gradients that are traced."""

    @staticmethod
    def forward(
        x: torch.Tensor,
        branch: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> _Tensors:
        stream = x.new_empty(0) if branch is None else x + branch
        wide = (x if branch is None else stream).to(torch.float32)
        normed, mean, rstd = torch.native_layer_norm(wide, weight.shape, weight.float(), bias.float(), eps)
        return stream, normed.to(dtype), mean.view(-1), rstd.view(-1)

    @staticmethod
    def backward(
        grad_stream: torch.Tensor | None,
        grad_normed: torch.Tensor,
        stream: torch.Tensor,
        weight: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        branch_dtype: torch.dtype,
        affine: bool,
    ) -> _Tensors:
        # csrc/norm/norm_cpu.inc has the formula. (..., D), and (..., 1) for each row's two numbers.
        over_rows = (*stream.shape[:-1], 1)
        xhat = (stream.float() - mean.view(over_rows)) * rstd.view(over_rows)
        up = grad_normed.float()
        g = up * weight.float()
        product = (g * xhat).mean(-1, keepdim=True)
        grad = (g - g.mean(-1, keepdim=True) - xhat * product) * rstd.view(over_rows)
        if grad_stream is not None:
            grad = grad + grad_stream.float()
        apart = branch_dtype != stream.dtype
        rows = tuple(range(stream.dim() - 1))
        sums = [
            (t.sum(rows) if rows else t).to(weight.dtype) if affine else weight.new_empty(0) for t in (up * xhat, up)
        ]
        grad_branch = grad.to(branch_dtype) if apart else stream.new_empty(0)
        return grad.to(stream.dtype), grad_branch, sums[0], sums[1]


# The operations of torch.ops, for traced graphs: they look for their kernels when they run.
def _forward_of_graph(
    x: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> _Tensors:
    kernels, reason = _kernels(x, branch, weight, bias, dtype)
    if reason:
        say("codeshell.ops.residual_layer_norm", reason)
    return _forward(kernels or PyTorch, x, branch, weight, bias, eps, dtype)


def _fake_forward(
    x: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> _Tensors:
    mean, rstd = (x.new_empty(x.shape[:-1].numel(), dtype=torch.float32) for _ in range(2))
    return x.new_empty(0 if branch is None else x.shape), x.new_empty(x.shape, dtype=dtype), mean, rstd


def _backward_of_graph(
    grad_stream: torch.Tensor | None,
    grad_normed: torch.Tensor,
    stream: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    branch_dtype: torch.dtype,
    affine: bool,
) -> _Tensors:
    kernels, _ = _kernels(stream, None, weight, weight, grad_normed.dtype)
    return _backward(*(kernels or PyTorch, grad_stream, grad_normed, stream, weight, mean, rstd, branch_dtype, affine))


def _fake_backward(
    grad_stream: torch.Tensor | None,
    grad_normed: torch.Tensor,
    stream: torch.Tensor,
    weight: torch.Tensor,
    mean: torch.Tensor,
    rstd: torch.Tensor,
    branch_dtype: torch.dtype,
    affine: bool,
) -> _Tensors:
    apart = branch_dtype != stream.dtype
    grad_branch = stream.new_empty(stream.shape if apart else 0, dtype=branch_dtype if apart else stream.dtype)
    grad_weight, grad_bias = (weight.new_empty(weight.shape if affine else 0) for _ in range(2))
    return stream.new_empty(stream.shape), grad_branch, grad_weight, grad_bias


_forward_op = define(
    "residual_layer_norm(Tensor x, Tensor? branch, Tensor weight, Tensor bias, float eps, ScalarType dtype) -> "
    "(Tensor, Tensor, Tensor, Tensor)",
    _forward_of_graph,
    _fake_forward,
)
_backward_op = define(
    "residual_layer_norm_backward(Tensor? grad_stream, Tensor grad_normed, Tensor stream, Tensor weight, Tensor mean, "
    "Tensor rstd, ScalarType branch_dtype, bool affine) -> (Tensor, Tensor, Tensor, Tensor)",
    _backward_of_graph,
    _fake_backward,
)


class _ResidualLayerNorm(torch.autograd.Function):
    """Both results, or the norm alone if there is no branch. `kernels` is None in a graph that is traced."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        branch: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        dtype: torch.dtype,
        kernels: Any,
    ) -> Any:
        if kernels is None:
            stream, normed, mean, rstd = _forward_op(x, branch, weight, bias, eps, dtype)
        else:
            stream, normed, mean, rstd = _forward(kernels, x, branch, weight, bias, eps, dtype)
            # A result that nobody uses, such as the last block's sum, has None for its gradient and not zeros.
            ctx.set_materialize_grads(False)
        # xhat is computed again from the sum, which lives anyway: the norm itself is not kept.
        ctx.save_for_backward(x if branch is None else stream, weight, mean, rstd)
        ctx.branch_dtype = x.dtype if branch is None else branch.dtype
        ctx.bias_dtype, ctx.kernels = bias.dtype, kernels
        return normed if branch is None else (stream, normed)

    @staticmethod
    @differentiable_once
    def backward(ctx: Any, *grads: Any) -> Any:
        stream, weight, mean, rstd = ctx.saved_tensors
        grad_stream, grad_normed = grads if len(grads) == 2 else (None, grads[0])
        need_x, need_branch, need_weight, need_bias = ctx.needs_input_grad[:4]
        if grad_normed is None:
            # The norm was not used: the sum alone has a gradient.
            grad_branch = None if grad_stream is None else grad_stream.to(ctx.branch_dtype)
            return grad_stream, grad_branch, *[None] * 5
        rest = grad_stream, grad_normed, stream, weight, mean, rstd, ctx.branch_dtype, need_weight or need_bias
        if ctx.kernels is None:
            results = _backward_op(*rest)
        else:
            watched = (stream, weight) if grad_stream is None else (grad_stream, stream, weight)
            results = _backward(ctx.kernels if direct_backward(grad_normed, *watched) else PyTorch, *rest)
        grad_x, grad_branch, grad_weight, grad_bias = results
        if ctx.branch_dtype == stream.dtype:
            grad_branch = grad_x
        return (
            grad_x if need_x else None,
            grad_branch if need_branch else None,
            grad_weight if need_weight else None,
            grad_bias.to(ctx.bias_dtype) if need_bias else None,
            *[None] * 3,
        )


_apply_directly = apply_directly(_ResidualLayerNorm)
