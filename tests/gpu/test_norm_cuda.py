"""Residual and LayerNorm on a GPU: the kernels of codeshell/ops/norm_triton.py against fp64 and against PyTorch."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.cuda import captured, needs_cuda
from torch.nn import functional as F

from codeshell import ops
from codeshell.ops import triton_kernels

norm = sys.modules["codeshell.ops.norm"]
pytestmark = needs_cuda

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16
SHAPES = [(1, 1), (3, 5), (1, 8192), (130, 257), (4096, 1024), (333, 3072), (8192, 4096), (70_000, 16)]
# x, branch, weights, norm.
DTYPES = [
    *((d,) * 4 for d in (F32, BF16, F16)),
    (F32, BF16, F32, BF16),
    (F32, BF16, BF16, BF16),
    (BF16, BF16, F32, F32),
]


@pytest.fixture(scope="module", autouse=True)
def served() -> None:
    reason = triton_kernels.missing(norm.SOURCE, torch.zeros(1, device="cuda"))
    if reason:
        pytest.skip(f"{norm.SOURCE} is NOT run here: {reason}")


def run(function, inputs, grads, dtype):
    leaves = [t.clone().requires_grad_() for t in inputs]
    results = function(*leaves, 1e-5, dtype=dtype)
    return [*(t.detach() for t in results), *torch.autograd.grad(results, leaves, grads)]


def exact(inputs, grads):
    x, branch, weight, bias = inputs
    stream, weight, bias = ((t).double().requires_grad_() for t in (x + branch, weight, bias))
    normed = F.layer_norm(stream, weight.shape, weight, bias, 1e-5)
    grad, *affine = torch.autograd.grad((stream * 1.0, normed), (stream, weight, bias), [g.double() for g in grads])
    return [stream.detach(), normed.detach(), grad, grad, *affine]


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda dtypes: "-".join(str(d).removeprefix("torch.") for d in dtypes))
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_against_fp64(shape, dtypes):
    """At most twice the error of the same computation in PyTorch, from memory that held NaN before."""
    generator = torch.Generator("cuda").manual_seed(shape[0])

    def draw(*size, dtype):
        return torch.randn(size, device="cuda", generator=generator).to(dtype)

    x, branch = draw(*shape, dtype=dtypes[0]), draw(*shape, dtype=dtypes[1])
    inputs = (x, branch, draw(shape[1], dtype=dtypes[2]) + 1, draw(shape[1], dtype=dtypes[2]))
    grads = draw(*shape, dtype=dtypes[0]), draw(*shape, dtype=dtypes[3])
    poison = [torch.full(shape, float("nan"), device="cuda", dtype=dtype) for dtype in (*dtypes, dtypes[0])]
    del poison
    mine, theirs = (run(f, inputs, grads, dtypes[3]) for f in (ops.residual_layer_norm, norm.reference))
    # Where two elements are all of a row, differences of equal numbers are multiplied by up to 1 / sqrt(eps).
    slack = 1e-6 if shape[1] > 8 else 2e-4
    for place, (own, peer, want) in enumerate(zip(mine, theirs, exact(inputs, grads), strict=True)):
        assert own.dtype == peer.dtype and own.shape == peer.shape
        error, peer_error = ((t.double() - want).abs().max() for t in (own, peer))
        assert error <= 2 * peer_error + slack * (1 + want.abs().max()), place
    for own, again in zip(mine, run(ops.residual_layer_norm, inputs, grads, dtypes[3]), strict=True):
        assert torch.equal(own, again)


def test_without_a_branch_and_with_strides():
    x = torch.randn(96, 130, device="cuda").t().requires_grad_()
    weight, bias = torch.randn(96, device="cuda"), torch.randn(96, device="cuda")
    stream, normed = ops.residual_layer_norm(x, None, weight, bias)
    assert stream is x
    torch.testing.assert_close(normed, F.layer_norm(x, (96,), weight, bias))
    grad = torch.ones((), device="cuda").expand(normed.shape)
    (got,) = torch.autograd.grad(normed, x, grad)
    (want,) = torch.autograd.grad(F.layer_norm(x, (96,), weight, bias), x, grad)
    torch.testing.assert_close(got, want)


def test_in_a_cuda_graph():
    x, branch = torch.randn(64, 512, device="cuda"), torch.randn(64, 512, device="cuda")
    weight, bias = torch.randn(512, device="cuda"), torch.randn(512, device="cuda")
    expected = ops.residual_layer_norm(x, branch, weight, bias)[1]
    graph, (_, out) = captured(lambda: ops.residual_layer_norm(x, branch, weight, bias))
    out.fill_(float("nan"))
    graph.replay()
    assert torch.equal(out, expected)


def test_compiled():
    inputs = [torch.randn(64, 512, device="cuda") for _ in range(2)] + [torch.randn(512, device="cuda")] * 2
    compiled = torch.compile(ops.residual_layer_norm, fullgraph=True)
    for got, want in zip(compiled(*inputs), ops.residual_layer_norm(*inputs), strict=True):
        assert torch.equal(got, want)
