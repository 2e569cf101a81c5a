"""Residual and LayerNorm in Triton's interpreter, against fp64: what tests/ops/test_norm_triton.py runs, in its own
process."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from codeshell import ops
from codeshell.ops import devices, library, norm_triton

SHAPES = [(1, 16), (3, 5), (33, 257), (64, 96), (2, 1030), (17, 2), (1, 8192)]
"""One row; odd sizes; more rows than a tile; a wide row that is no power of 2; narrow rows; the widest row."""
F32 = torch.float32


def inputs(rows: int, width: int) -> tuple[torch.Tensor, ...]:
    """x, branch, weight, bias, and the gradients of stream and norm."""
    generator = torch.Generator().manual_seed(rows * 10_007 + width)
    x, branch, up, more = (torch.randn(rows, width, generator=generator) for _ in range(4))
    weight, bias = (torch.randn(width, generator=generator) for _ in range(2))
    return x * 3 + 1, branch, weight, bias, more, up


def exact(stream: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor, more, up) -> tuple[torch.Tensor, ...]:
    """Norm and gradients in fp64."""
    leaves = [t.double().requires_grad_() for t in (stream, weight, bias)]
    normed = F.layer_norm(leaves[0], weight.shape, leaves[1], leaves[2], 1e-5)
    outputs, grads = [normed], [up.double()]
    if more is not None:
        outputs, grads = [leaves[0] * 1.0, normed], [more.double(), up.double()]
    return normed.detach(), *torch.autograd.grad(outputs, leaves, grads)


def case_forward_and_backward_are_right() -> None:
    for rows, width in SHAPES:
        x, branch, weight, bias, more, up = inputs(rows, width)
        # Without a branch, and without a gradient of the stream, in every other shape.
        given, above = (branch, more) if rows % 2 else (None, None)
        stream, normed, mean, rstd = norm_triton.forward(x, given, weight, bias, 1e-5, F32)
        if given is None:
            assert not stream.numel()
            stream = x
        assert torch.equal(stream, x if given is None else x + branch)
        grad_x, grad_branch, *affine = norm_triton.backward(above, up, stream, weight, mean, rstd, F32, True)
        assert not grad_branch.numel()
        wanted = exact(stream, weight, bias, above, up)
        # Two elements in a row may be close to each other, and differences then count for much.
        noise = 2e-7 * float(rstd.max()) * float(up.abs().max()) + 2e-6
        for name, mine, want in zip(("norm", "dx", "dweight", "dbias"), (normed, grad_x, *affine), wanted, strict=True):
            assert mine.dtype == F32 and mine.shape == want.shape
            difference = float((mine - want).abs().max())
            assert difference <= noise * max(1.0, rows / 8) * (1 + float(want.abs().max())), (rows, width, name)
        same, _, *none = norm_triton.backward(above, up, stream, weight, mean, rstd, F32, False)
        assert torch.equal(same, grad_x) and not any(t.numel() for t in none)


def case_the_number_of_programs_changes_no_sum_by_much() -> None:
    """One program for all rows, and one for each tile: dx has the same bits, sums are those of another order."""
    x, _, weight, bias, more, up = inputs(61, 300)
    _, _, mean, rstd = norm_triton.forward(x, None, weight, bias, 1e-5, F32)
    facts, results = devices.simulated, []
    for multiprocessors in (1, 2, 100):
        devices.simulated = devices.Facts("simulated", (9, 0), multiprocessors)
        results.append(norm_triton.backward(more, up, x, weight, mean, rstd, F32, True))
    devices.simulated = facts
    for other in results[1:]:
        assert torch.equal(other[0], results[0][0])
        torch.testing.assert_close(other[2:], results[0][2:], rtol=1e-4, atol=1e-5)


def case_every_element_is_written_and_nothing_else() -> None:
    """Outputs begin as NaN and lie between guards."""
    guards = []

    def guarded(shape, dtype) -> torch.Tensor:
        size = torch.Size((shape,) if isinstance(shape, int) else shape)
        room = torch.full((size.numel() + 64,), float("nan"), dtype=dtype)
        guards.append(room)
        return room[32:-32].view(size)

    x, branch, weight, bias, more, up = inputs(33, 70)
    kept = torch.empty, torch.empty_like
    torch.empty = lambda shape, dtype=F32, device=None: guarded(shape, dtype)
    torch.empty_like = lambda x, dtype=None: guarded(x.shape, dtype or x.dtype)
    try:
        results = [*norm_triton.forward(x, branch, weight, bias, 1e-5, F32)]
        stream, _, mean, rstd = results
        # The branch in fp16 has a gradient of its own.
        results += norm_triton.backward(more, up, stream, weight, mean, rstd, torch.float16, True)
    finally:
        torch.empty, torch.empty_like = kept
    assert len(guards) == 9 and results[5].dtype == torch.float16
    assert not any(torch.isnan(t).any() for t in results)
    torch.testing.assert_close(results[5].float(), results[4], rtol=1e-3, atol=1e-3)
    for room in guards:
        assert torch.isnan(room[:32]).all() and torch.isnan(room[-32:]).all()


def case_nan_stays_in_its_row() -> None:
    x = torch.randn(5, 20)
    x[1, 3], x[3, 19] = float("nan"), float("inf")
    _, normed, _, _ = norm_triton.forward(x, None, torch.ones(20), torch.zeros(20), 1e-5, F32)
    assert torch.isnan(normed[[1, 3]]).all() and torch.isfinite(normed[[0, 2, 4]]).all()


def case_the_trial_passes() -> None:
    norm_triton.trial(torch.device("cpu"))


def case_the_public_operation_runs_them() -> None:
    """On a simulated GPU: gradients against the CPU's formula, in three dimensions; and rows that are too wide."""
    x, branch, weight, bias, more, up = inputs(6, 40)
    leaves = [t.clone().requires_grad_() for t in (x.view(2, 3, 40), branch.view(2, 3, 40), weight, bias)]
    results = ops.residual_layer_norm(*leaves)
    got = torch.autograd.grad(results, leaves, (more.view(2, 3, 40), up.view(2, 3, 40)))
    wanted = exact(x + branch, weight, bias, more, up)
    torch.testing.assert_close(results[1].double(), wanted[0].view(2, 3, 40), rtol=1e-5, atol=1e-5)
    for mine, want in zip(got, (wanted[1], wanted[1], *wanted[2:]), strict=True):
        torch.testing.assert_close(mine.double(), want.view(mine.shape), rtol=1e-4, atol=1e-5)
    assert not library._said
    x, weight = torch.randn(2, norm_triton.WIDEST + 1), torch.ones(norm_triton.WIDEST + 1)
    _, normed = ops.residual_layer_norm(x, None, weight, weight)
    torch.testing.assert_close(normed, F.layer_norm(x, weight.shape, weight, weight))
    assert any("rows of 8193 (at most 8192)" in line for line in library._said)
