"""Bias and GELU on a GPU: the kernels of codeshell/ops/gelu_triton.py against fp64 and against PyTorch."""

from __future__ import annotations

import pytest
import torch
from helpers.cuda import captured, needs_cuda

from codeshell import ops
from codeshell.ops import triton_kernels
from codeshell.ops.gelu import SOURCE, formula

pytestmark = needs_cuda

SHAPES = [(1, 1), (1, 16_384), (3, 5), (130, 257), (4096, 1024), (333, 4099), (8192, 8192)]


@pytest.fixture(scope="module", autouse=True)
def served() -> None:
    reason = triton_kernels.missing(SOURCE, torch.zeros(1, device="cuda"))
    if reason:
        pytest.skip(f"{SOURCE} is NOT run here: {reason}")


def run(function, x, bias, grad):
    x, bias = x.clone().requires_grad_(), bias.clone().requires_grad_()
    y = function(x, bias)
    return y.detach(), *torch.autograd.grad(y, (x, bias), grad)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_fp64(shape, dtype):
    """At most twice the error of the same computation in PyTorch, from memory that held NaN before."""
    generator = torch.Generator("cuda").manual_seed(shape[0])
    x, grad = (torch.randn(shape, device="cuda", generator=generator).mul(3).to(dtype) for _ in range(2))
    bias = torch.randn(shape[1], device="cuda", generator=generator)
    poison = [torch.full(shape, float("nan"), device="cuda", dtype=dtype) for _ in range(3)]
    del poison
    mine, theirs = run(ops.bias_gelu, x, bias, grad), run(formula, x, bias, grad)
    exact = run(formula, x.double(), bias.double(), grad.double())
    for name, own, peer, want in zip(("y", "dx", "dbias"), mine, theirs, exact, strict=True):
        assert own.dtype == peer.dtype and own.shape == peer.shape
        error, peer_error = ((t.double() - want).abs().max() for t in (own, peer))
        assert error <= 2 * peer_error + 1e-6 * want.abs().max(), name
    for own, again in zip(mine, run(ops.bias_gelu, x, bias, grad), strict=True):
        assert torch.equal(own, again)


def test_in_a_cuda_graph():
    x, bias = torch.randn(64, 512, device="cuda"), torch.randn(512, device="cuda")
    expected = ops.bias_gelu(x, bias)
    graph, out = captured(lambda: ops.bias_gelu(x, bias))
    out.fill_(float("nan"))
    graph.replay()
    assert torch.equal(out, expected)


def test_compiled():
    x, bias = torch.randn(64, 512, device="cuda"), torch.randn(512, device="cuda")
    assert torch.equal(torch.compile(ops.bias_gelu, fullgraph=True)(x, bias), ops.bias_gelu(x, bias))
