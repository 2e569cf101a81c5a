"""Derivatives of every operation in all the ways that torch has: right, or a Python error that says what is missing.

The same operation in fp64 is PyTorch's own formula, whose derivatives are what the ones in fp32 are compared with.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from codeshell import ops

torch.manual_seed(0)
torch.manual_seed(0)  # the tensors below are the same in every run
_COS, _SIN = torch.rand(8, 8), torch.rand(8, 8)
_OFFSETS = torch.tensor([0, 2, 3], dtype=torch.int32)
_TARGETS = torch.tensor([1, -100, 3])
_LENGTHS = torch.tensor([2], dtype=torch.int32)
_HEADS = torch.randn(1, 3, 2, 16)

Function = Callable[[Tensor], Tensor]


def _decoded(x: Tensor) -> Tensor:
    cache = torch.zeros(1, 4, 1, 16, dtype=x.dtype)
    cache[:, :2] = _HEADS[:, :2, :1]
    return ops.decode_attention(x, cache, cache * 2, cache_seqlens=_LENGTHS)


def _tables(x: Tensor) -> tuple[Tensor, Tensor]:
    return _COS.to(torch.promote_types(x.dtype, torch.float32)), _SIN.to(torch.promote_types(x.dtype, torch.float32))


# One tensor in, one out. None differentiates through a cache.
OPERATIONS: dict[str, tuple[Function, Tensor]] = {
    "attention": (lambda x: ops.attention(x, x[:, :, :1] * 0.5, x[:, :, 1:] + 0.1), _HEADS),
    "attention of one tensor": (lambda x: ops.attention(x, x, x, causal=False), _HEADS),
    "packed sequences": (
        lambda x: ops.attention(x, x[:, :1], x[:, 1:], cu_seqlens=_OFFSETS, max_seqlen=2),
        _HEADS[0],
    ),
    "packed_attention": (
        lambda x: ops.packed_attention(x, *_tables(x), heads=2, kv_heads=1),
        torch.randn(1, 3, 64),
    ),
    "rotary": (lambda x: torch.cat(ops.rotary(x, x[:, :, :1], *_tables(x)), dim=2), _HEADS),
    "rotary_qkv": (
        lambda x: torch.cat(ops.rotary_qkv(x, x[0, 0], *_tables(x), heads=2, kv_heads=1), dim=2),
        torch.randn(1, 3, 64),
    ),
    "gelu": (ops.gelu, torch.randn(3, 4)),
    "residual_layer_norm": (
        lambda x: torch.cat(ops.residual_layer_norm(x, x.flip(0), x[0] + 1, x[1])),
        torch.randn(3, 4),
    ),
    "layer_norm": (lambda x: ops.residual_layer_norm(x, None, x[0] + 1, x[1])[1], torch.randn(3, 4)),
    "bias_gelu": (lambda x: ops.bias_gelu(x, x[1]), torch.randn(3, 4)),
    "linear": (lambda x: ops.linear(x, x[:2]), torch.randn(3, 4)),
    "linear_cross_entropy": (
        lambda x: ops.linear_cross_entropy(x, x.flip(0).repeat(2, 1), _TARGETS),
        torch.randn(3, 4),
    ),
    "decode_attention": (_decoded, torch.randn(1, 1, 2, 16)),
}


def _dual(f: Function, x: Tensor, t: Tensor) -> Tensor:
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x, t))).tangent
    return torch.zeros(()) if tangent is None else tangent


def _dual_of_leaf(f: Function, x: Tensor, t: Tensor) -> Tensor:
    """Forward mode over a tensor that requires gradients too, as in forward-over-reverse by hand."""
    with forward_ad.dual_level():
        tangent = forward_ad.unpack_dual(f(forward_ad.make_dual(x.clone().requires_grad_(), t))).tangent
    return torch.zeros(()) if tangent is None else tangent.detach()


def _backward(f: Function, x: Tensor, t: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    return torch.autograd.grad(_weighed(f(leaf)), leaf)[0]


def _batched_gradients(f: Function, x: Tensor, t: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    out = f(leaf)
    several = torch.stack([torch.ones_like(out), torch.linspace(-1, 1, out.numel(), dtype=x.dtype).view(out.shape)])
    return torch.autograd.grad(out, leaf, several, is_grads_batched=True)[0]


def _twice(f: Function, x: Tensor, t: Tensor) -> Tensor:
    leaf = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(_weighed(f(leaf)), leaf, create_graph=True)
    return torch.autograd.grad((first * t).sum(), leaf)[0]


def _per_sample(f: Function, x: Tensor, t: Tensor) -> Tensor:
    return torch.vmap(torch.func.grad(lambda y: _weighed(f(y))))(torch.stack((x, t)))


def _weighed(out: Tensor) -> Tensor:
    """A scalar whose gradients are not all alike; not linear, so that it has second derivatives."""
    return (out.flatten() * torch.linspace(-1, 1, out.numel(), dtype=out.dtype)).sum() + 0.5 * out.square().sum()


def _hvp(f: Function, x: Tensor, t: Tensor) -> Tensor:
    return torch.func.jvp(torch.func.grad(lambda y: _weighed(f(y))), (x,), (t,))[1]


WAYS: dict[str, Callable[[Function, Tensor, Tensor], Any]] = {
    "func.jvp": lambda f, x, t: torch.func.jvp(f, (x,), (t,))[1],
    "dual_level": _dual,
    "dual_level of a leaf": _dual_of_leaf,
    "backward": _backward,
    "batched gradients": _batched_gradients,
    "double backward": _twice,
    "func.grad": lambda f, x, t: torch.func.grad(lambda y: _weighed(f(y)))(x),
    "func.vjp": lambda f, x, t: torch.func.vjp(f, x)[1](torch.ones_like(f(x)))[0],
    "func.jacrev": lambda f, x, t: torch.func.jacrev(f)(x),
    "func.jacfwd": lambda f, x, t: torch.func.jacfwd(f)(x),
    "forward over reverse": _hvp,
    "func.hessian": lambda f, x, t: torch.func.hessian(lambda y: _weighed(f(y)))(x),
    "per-sample gradients": _per_sample,
    "functional.jvp": lambda f, x, t: torch.autograd.functional.jvp(f, x, t)[1],
    "functional.vjp": lambda f, x, t: torch.autograd.functional.vjp(f, x, torch.ones_like(f(x)))[1],
    "functional.hvp": lambda f, x, t: torch.autograd.functional.hvp(lambda y: _weighed(f(y)), x, t)[1],
    "functional.hessian": lambda f, x, t: torch.autograd.functional.hessian(lambda y: _weighed(f(y)), x),
    "functional.jacobian": lambda f, x, t: torch.autograd.functional.jacobian(f, x),
    "functional.jacobian vectorized": lambda f, x, t: torch.autograd.functional.jacobian(f, x, vectorize=True),
    "functional.jacobian forward": lambda f, x, t: torch.autograd.functional.jacobian(
        f, x, vectorize=True, strategy="forward-mode"
    ),
}
REFUSED = {
    "double backward",
    "batched gradients",
    "functional.jacobian vectorized",
    "functional.jvp",
    "functional.hvp",
    "functional.hessian",
}
"""These differentiate a backward pass, or batch one, which the kernels cannot; the error says so."""

IN_FP64 = {
    "double backward": "forward over reverse",
    "functional.jvp": "func.jvp",
    "functional.hvp": "forward over reverse",
    "functional.hessian": "func.hessian",
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("operation", OPERATIONS)
def test_each_derivative_is_right_or_refused(operation: str, way: str) -> None:
    function, x = OPERATIONS[operation]
    t = torch.linspace(-1, 1, x.numel()).view(x.shape)
    try:
        got = WAYS[way](function, x, t)
    except RuntimeError as error:
        words = (
            "differentiate twice",
            "gradients in batches",
            "once_differentiable",
            "has no gradients",
            "does not require grad",
        )
        assert any(word in str(error) for word in words), error
        assert way in REFUSED or operation == "decode_attention"
        return
    # The reference: the same in fp64, by a transform where not every one of torch's operations has the derivative.
    wanted = WAYS[IN_FP64.get(way, way)](function, x.double(), t.double())
    torch.testing.assert_close(got.double(), wanted, atol=2e-4, rtol=2e-4)
    # Not all zero: a tangent that was lost would agree with nothing, but a lost one in both would.
    assert float(wanted.abs().max()) > 1e-6
