"""Rotary embedding, GELU and the widened linear layer."""

from __future__ import annotations

import sys

import pytest
import torch
from torch.nn import functional as F

from codeshell import ops

linear_module = sys.modules["codeshell.ops.linear"]  # the name in the package is the function


def tables(length, half):
    angles = torch.rand(length, half, generator=torch.Generator().manual_seed(0)) * 6
    return angles.cos(), angles.sin()


@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("half", [16, 8])
def test_rotary_is_complex_multiplication(interleaved, half):
    q, k = torch.randn(2, 9, 4, 32, dtype=torch.float64), torch.randn(2, 9, 2, 32, dtype=torch.float64)
    cos, sin = tables(20, half)
    positions = torch.randint(0, 20, (2, 9))
    turn = torch.complex(cos, sin).to(torch.complex128)[positions][:, :, None]
    for got, x in zip(ops.rotary(q, k, cos, sin, interleaved=interleaved, positions=positions), (q, k), strict=True):
        if interleaved:
            z = torch.view_as_complex(x[..., : 2 * half].unflatten(-1, (half, 2)).contiguous()) * turn
            want = torch.view_as_real(z).flatten(-2)
        else:
            z = torch.complex(x[..., :half], x[..., half : 2 * half]) * turn
            want = torch.cat((z.real, z.imag), dim=-1)
        assert torch.allclose(got[..., : 2 * half], want, atol=1e-12)
        assert torch.equal(got[..., 2 * half :], x[..., 2 * half :])


def test_rotary_layouts_and_inplace_agree():
    q, k = torch.randn(2, 9, 4, 32), torch.randn(2, 9, 2, 32)
    cos, sin = tables(9, 16)
    want = ops.rotary(q, k, cos, sin)
    flat = ops.rotary(q.view(18, 4, 32), k.view(18, 2, 32), cos, sin, positions=torch.arange(9).repeat(2))
    q2, k2 = q.clone(), k.clone()
    assert ops.rotary(q2, k2, cos, sin, inplace=True)[0] is q2
    for a, b, c in zip(want, flat, (q2, k2), strict=True):
        assert torch.equal(a, b.view_as(a)) and torch.equal(a, c)


def test_rotary_computes_in_fp32_for_bf16():
    q, k = torch.randn(1, 9, 2, 32).bfloat16(), torch.randn(1, 9, 2, 32).bfloat16()
    cos, sin = tables(9, 16)
    want = ops.rotary(q.float(), k.float(), cos, sin)[0].bfloat16()
    assert torch.equal(ops.rotary(q, k, cos, sin)[0], want)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(1, 8, 2, 16)}, "differ"),
        ({"cos": torch.zeros(4, 16), "sin": torch.zeros(4, 16)}, "cos has 4 positions"),
        ({"sin": torch.zeros(8, 8)}, "sin"),
        ({"cos": torch.zeros(8, 32), "sin": torch.zeros(8, 32)}, "rotates 64"),
        ({"cos": torch.zeros(8, 16).bfloat16(), "sin": torch.zeros(8, 16).bfloat16()}, "fp32"),
        ({"positions": torch.arange(7)}, "positions"),
        ({"positions": torch.arange(8) + 1}, "positions run from 1 to 8"),
        ({"positions": torch.arange(8).float()}, "integer"),
    ],
)
def test_rotary_names_bad_arguments(change, message):
    arguments = {
        "q": torch.zeros(1, 8, 4, 32),
        "k": torch.zeros(1, 8, 2, 32),
        "cos": torch.zeros(8, 16),
        "sin": torch.zeros(8, 16),
    }
    with pytest.raises(ValueError, match=message):
        ops.rotary(**(arguments | change))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("count", [1, 15, 257, 70_001])
def test_gelu_against_fp64(dtype, count):
    x = torch.cat((torch.linspace(-12, 12, count), torch.tensor([0.0, -0.0, 1e-30, 60.0, -60.0, -1e20, 1e20]))).to(
        dtype
    )
    x.requires_grad_()
    exact = x.detach().double().requires_grad_()
    want = F.gelu(exact, approximate="tanh")
    upstream = torch.linspace(-2, 2, x.numel()).to(dtype)
    (gradient,) = torch.autograd.grad(ops.gelu(x), x, upstream)
    (wanted,) = torch.autograd.grad(want, exact, upstream.double())
    relative = 2e-6 if dtype == torch.float32 else 2**-8
    assert torch.allclose(ops.gelu(x).double(), want, rtol=relative, atol=1e-6)
    assert torch.allclose(gradient.double(), wanted, rtol=relative, atol=4e-6)


def test_gelu_keeps_nan():
    assert torch.isnan(ops.gelu(torch.tensor([torch.nan] * 3))).all()


def test_widened_linear_is_the_bf16_product(monkeypatch):
    """Rounded operands, fp32 sums: at least as close to the exact product of the rounded operands as torch's own."""
    monkeypatch.setattr(linear_module, "bf16_products_pay", lambda: False)
    x, weight, bias = torch.randn(40, 64), torch.randn(24, 64), torch.randn(24)
    inputs = [t.requires_grad_() for t in (x, weight, bias)]
    upstream = torch.randn(40, 24).bfloat16()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert linear_module.widens(x)
        out = ops.linear(x, weight, bias)
        plain = F.linear(x, weight, bias)
    assert out.dtype == plain.dtype == torch.bfloat16
    mine = [out, *torch.autograd.grad(out, inputs, upstream)]
    theirs = [plain, *torch.autograd.grad(plain, inputs, upstream)]
    xb, wb = x.detach().bfloat16().double(), weight.detach().bfloat16().double()
    g = upstream.double()
    exact = [xb @ wb.t() + bias.detach().double(), g @ wb, g.t() @ xb, g.sum(0)]
    for own, peer, want in zip(mine, theirs, exact, strict=True):
        assert own.dtype == peer.dtype
        error, peer_error = ((t.double() - want).abs().max() for t in (own, peer))
        assert error <= 1.01 * peer_error + 1e-6


def test_linear_outside_autocast_is_torch():
    x, weight = torch.randn(5, 8), torch.randn(3, 8)
    assert torch.equal(ops.linear(x, weight), F.linear(x, weight))
