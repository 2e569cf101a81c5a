"""Bias and GELU in Triton's interpreter, against fp64: what tests/ops/test_gelu_triton.py runs, in its own process."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from codeshell import ops
from codeshell.ops import gelu_triton, library

SHAPES = [(1, 1), (1, 4099), (3, 5), (33, 257), (64, 96), (2, 1030), (64, 16), (17, 1)]
"""One element; a row beyond a tile; odd sizes; more rows than a tile; more columns; as many as a tile; one column."""


def inputs(rows: int, columns: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """x with values that matter to GELU (large, tiny, both zeros), a bias, and what comes from above."""
    generator = torch.Generator().manual_seed(rows * 10_007 + columns)
    x, grad = (torch.randn(rows, columns, generator=generator) * 3 for _ in range(2))
    special = torch.tensor([0.0, -0.0, 1e-30, 60.0, -60.0, 1e20, -1e20])[: x.numel()]
    x.view(-1)[: special.numel()] = special
    return x, torch.randn(columns, generator=generator), grad


def exact(x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Result and gradients in fp64."""
    leaf = x.double().requires_grad_()
    shift = torch.zeros(x.shape[1], dtype=torch.float64) if bias is None else bias.double()
    shift.requires_grad_()
    y = F.gelu(leaf + shift, approximate="tanh")
    return y.detach(), *torch.autograd.grad(y, (leaf, shift), grad.double())


def poisoned(*shape: int) -> torch.Tensor:
    return torch.full(shape, float("nan"))


def case_forward_and_backward_are_right() -> None:
    for rows, columns in SHAPES:
        for with_bias in (True, False):
            x, bias, grad = inputs(rows, columns)
            given = bias if with_bias else None
            wanted = exact(x, given, grad)
            got = [gelu_triton.forward(x, given), *gelu_triton.backward(x, given, grad, True)]
            for name, mine, want in zip(("y", "dx", "dbias"), got, wanted, strict=True):
                assert mine.dtype == torch.float32 and mine.shape == want.shape
                close = torch.allclose(mine.double(), want, rtol=2e-6, atol=4e-6 * max(1, rows / 8))
                assert close, (rows, columns, with_bias, name, float((mine - want).abs().max()))
            alone, none = gelu_triton.backward(x, given, grad, False)
            assert none is None and torch.equal(alone, got[1])


def case_every_element_is_written_and_nothing_else() -> None:
    """Outputs begin as NaN and lie between guards."""
    empty, guards = torch.empty, []

    def guarded(*shape, dtype=torch.float32, device=None):
        sizes = tuple(shape[0]) if isinstance(shape[0], tuple) else shape
        room = torch.full((torch.Size(sizes).numel() + 64,), float("nan"), dtype=dtype)
        guards.append(room)
        return room[32:-32].view(sizes)

    x, bias, grad = inputs(33, 70)
    torch.empty, torch.empty_like = guarded, lambda x: guarded(*x.shape)
    try:
        results = [gelu_triton.forward(x, bias), *gelu_triton.backward(x, bias, grad, True)]
    finally:
        torch.empty = empty
        del torch.empty_like
        torch.empty_like = torch._C._VariableFunctions.empty_like
    assert not any(torch.isnan(x).any() for x in results)
    for room in guards:
        assert torch.isnan(room[:32]).all() and torch.isnan(room[-32:]).all()


def case_nan_and_infinity() -> None:
    x = torch.tensor([[float("nan"), float("inf"), 1.0, -float("inf")]])
    y, wanted = gelu_triton.forward(x, None), F.gelu(x, approximate="tanh")
    assert torch.equal(torch.isnan(y), torch.isnan(wanted)) and y[0, 1] == float("inf")
    grad, _ = gelu_triton.backward(x, None, torch.ones_like(x), False)
    assert torch.isnan(grad[0, 0]) and grad[0, 1] == 1 and abs(grad[0, 3]) < 1e-30


def case_sums_of_several_parts() -> None:
    """130 rows are three parts, which are added in order: the same bits again, no row left out, none taken twice."""
    x, bias, grad = inputs(130, 40)
    _, sums = gelu_triton.backward(x, bias, grad, True)
    assert torch.equal(sums, gelu_triton.backward(x, bias, grad, True)[1])
    assert torch.allclose(sums.double(), exact(x, bias, grad)[2], rtol=1e-6, atol=1e-4)
    ones = torch.ones_like(x)
    assert torch.equal(gelu_triton.backward(ones * 20, None, ones, True)[1], torch.full((40,), 130.0))


def case_half_precision() -> None:
    """fp16 rounds to nearest in the interpreter, which bf16 does not."""
    x, bias, grad = (t.clamp(-100, 100).half() for t in inputs(20, 48))
    wanted = exact(x, bias, grad)
    got = [gelu_triton.forward(x, bias), *gelu_triton.backward(x, bias, grad, True)]
    for mine, want in zip(got, wanted, strict=True):
        assert torch.allclose(mine.double(), want, rtol=2**-10, atol=1e-4)
    assert got[0].dtype == got[1].dtype == torch.float16 and got[2].dtype == torch.float32


def case_the_public_operation_reaches_the_kernels() -> None:
    """On a simulated GPU: any shape and strides, gradients, an empty tensor; and what has no kernel says so."""
    calls = []
    original = gelu_triton.forward
    gelu_triton.forward = lambda *arguments: (calls.append(1), original(*arguments))[1]
    try:
        x = torch.randn(6, 4, 2).transpose(0, 1).requires_grad_()
        bias = torch.randn(2, requires_grad=True)
        y = ops.bias_gelu(x, bias)
        grads = torch.autograd.grad(y, (x, bias), torch.ones_like(y))
        wanted = exact(x.detach().reshape(-1, 2), bias.detach(), torch.ones(24, 2))
        for mine, want in zip((y, *grads), wanted, strict=True):
            assert torch.allclose(mine.detach().double().reshape(want.shape), want, atol=1e-5)
        assert ops.gelu(torch.tensor(1.0)).shape == () and len(calls) == 2
        assert ops.bias_gelu(torch.zeros(0, 3), torch.zeros(3)).shape == (0, 3) and len(calls) == 2
        library._said.clear()
        ops.bias_gelu(x.detach().double(), bias.detach().double())
        assert len(calls) == 2 and ["float64" in line for line in library._said] == [True]
    finally:
        gelu_triton.forward = original


def case_the_trial_passes_and_sees_a_fault() -> None:
    gelu_triton.trial(torch.device("cpu"))
    original = gelu_triton.forward
    gelu_triton.forward = lambda x, bias: original(x, bias) * 1.001
    try:
        gelu_triton.trial(torch.device("cpu"))
    except ArithmeticError as error:
        assert "gelu differs" in str(error)
    else:
        raise AssertionError("a wrong result passed the trial")
    finally:
        gelu_triton.forward = original
