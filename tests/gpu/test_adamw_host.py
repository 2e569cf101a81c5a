"""The AdamW kernels' own source, run by the host through the optimizer itself, against the CPU kernels and fp64."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.simulated_gpu import leave
from torch import nn

from codeshell.optim import AdamW, buckets

SCHEMES = {
    "fp32": (torch.float32, None, {}),
    "fp32, bf16 moments": (torch.float32, None, {"moment_dtype": torch.bfloat16, "stochastic_rounding": True}),
    "bf16": (torch.bfloat16, None, {}),
    "bf16, fp32 gradients and moments": (torch.bfloat16, torch.float32, {"moment_dtype": torch.float32}),
    "bf16, fp32 gradients": (
        torch.bfloat16,
        torch.float32,
        {"stochastic_rounding": True, "moment_dtype": torch.bfloat16},
    ),
    "bf16, master": (torch.bfloat16, None, {"master_weights": True}),
    "bf16, master, bf16 moments": (torch.bfloat16, None, {"master_weights": True, "moment_dtype": torch.bfloat16}),
    "bf16, stochastic": (torch.bfloat16, None, {"stochastic_rounding": True}),
    "bf16, all stochastic": (torch.bfloat16, None, {"stochastic_rounding": True, "moment_dtype": torch.bfloat16}),
    "fp16": (torch.float16, None, {}),
    "fp16, master": (torch.float16, None, {"master_weights": True}),
}
# A warp's tile is 256 elements, a block's round 2,048, a chunk 8,192.
SIZES = (1, 255, 256, 257, 2049, 8192, 8193, 0, 10240)


def optimizer_of(dtype, options, offset=0, sizes=SIZES):
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter((torch.randn(n + offset, generator=generator) + 2).to(dtype)[offset:]) for n in sizes]
    return params, AdamW(params, lr=1e-2, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1, **options)


def run(dtype, gradient_dtype, options, steps=2, offset=0, clip=None, sizes=SIZES):
    params, optimizer = optimizer_of(dtype, options, offset, sizes)
    generator = torch.Generator().manual_seed(1)
    norms = []
    for _ in range(steps):
        for p in params:
            p.grad_dtype = gradient_dtype or dtype
            p.grad = torch.randn(p.shape, generator=generator).to(gradient_dtype or dtype)
        if clip:
            norms.append(optimizer.clip_grad_norm(clip))
        optimizer.step()
    return params, optimizer, norms


@pytest.mark.parametrize(("dtype", "gradient_dtype", "options"), SCHEMES.values(), ids=SCHEMES)
@pytest.mark.parametrize("offset", [0, 1])
def test_every_scheme_as_on_the_cpu(on_host, monkeypatch, dtype, gradient_dtype, options, offset):
    params, optimizer, _ = run(dtype, gradient_dtype, options, offset=offset)
    leave(monkeypatch)
    expected, reference, _ = run(dtype, gradient_dtype, options, offset=offset)
    for p, q in zip(params, expected, strict=True):
        mine, theirs = optimizer.state[p] | {"param": p.detach()}, reference.state[q] | {"param": q.detach()}
        assert mine.keys() == theirs.keys()
        for name, value in theirs.items():
            # fp32 differs by fused multiply-adds; what is rounded may then fall on the other side.
            eps = torch.finfo(value.dtype).eps
            torch.testing.assert_close(
                mine[name], value, rtol=4 * eps, atol=4e-7, msg=lambda m, name=name: f"{name}: {m}"
            )
            if value.dtype != torch.float32 and value.numel() > 100:
                assert (mine[name] != value).double().mean() < 0.02, name


def test_against_fp64(on_host):
    params, optimizer = optimizer_of(torch.float32, {})
    generator = torch.Generator().manual_seed(1)
    exact = [[p.detach().double(), torch.zeros(p.shape).double(), torch.zeros(p.shape).double()] for p in params]
    for step in range(1, 4):
        for p, (w, m, v) in zip(params, exact, strict=True):
            p.grad = torch.randn(p.shape, generator=generator)
            g = p.grad.double()
            w *= 1 - 1e-2 * 0.1
            m += 0.1 * (g - m)
            v += 0.01 * (g * g - v)
            w -= 1e-2 / (1 - 0.9**step) * m / ((v / (1 - 0.99**step)).sqrt() + 1e-6)
        optimizer.step()
    for p, (w, m, v) in zip(params, exact, strict=True):
        torch.testing.assert_close(p.detach().double(), w, rtol=1e-6, atol=3e-7)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"].double(), m, rtol=1e-6, atol=1e-7)
        torch.testing.assert_close(optimizer.state[p]["exp_avg_sq"].double(), v, rtol=2e-6, atol=1e-9)
        assert optimizer.state[p]["step"].item() == 3


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_of_blocks_and_threads_gives_the_same_bits(on_host, seed):
    options = {"stochastic_rounding": True}
    first = run(torch.bfloat16, None, options, clip=0.5, sizes=(9000, 300, 8192, 70))
    on_host.set_seed(seed)
    again = run(torch.bfloat16, None, options, clip=0.5, sizes=(9000, 300, 8192, 70))
    for p, q in zip(first[0], again[0], strict=True):
        assert torch.equal(p, q)
        assert all(torch.equal(first[1].state[p][name], again[1].state[q][name]) for name in first[1].state[p])
    assert first[2] == again[2]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("offset", [0, 1])
def test_norm_and_clipping(on_host, monkeypatch, dtype, offset):
    params, optimizer, norms = run(dtype, None, {}, clip=0.5, steps=1, offset=offset)
    exact = math.sqrt(sum(p.grad.double().square().sum().item() for p in params))
    assert norms[0].item() == pytest.approx(exact, rel=1e-6)
    for p in params:
        expected = (0.1 * p.grad.double() * (0.5 / (exact + 1e-6))).to(dtype)
        torch.testing.assert_close(optimizer.state[p]["exp_avg"], expected, rtol=4 * torch.finfo(dtype).eps, atol=1e-7)


def test_norm_over_several_launches(on_host):
    params = [
        nn.Parameter(torch.ones(5)),
        nn.Parameter(torch.ones(9, dtype=torch.bfloat16)),
        nn.Parameter(torch.ones(3)),
    ]
    optimizer = AdamW([{"params": params[:2]}, {"params": params[2:]}], lr=0.1)
    for p in params:
        p.grad = torch.full_like(p, 2.0)
    assert optimizer.clip_grad_norm(math.inf).item() == pytest.approx(math.sqrt(17 * 4))
    optimizer.step()
    assert optimizer.state[params[0]]["exp_avg"][0].item() == pytest.approx(0.2)


def test_a_norm_that_is_no_number(on_host):
    p = nn.Parameter(torch.ones(2))
    optimizer = AdamW([p])
    p.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(optimizer.clip_grad_norm(1.0).item())
    optimizer.step()
    assert p.isnan().all()


def test_scalars_on_the_device(on_host):
    p = nn.Parameter(torch.ones(300))
    rate = torch.tensor(0.5)
    optimizer = AdamW([p], lr=rate, weight_decay=0.0, eps=0.0, maximize=True)
    p.grad = torch.full((300,), 8.0)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(300))
    assert optimizer.state[p]["step"].item() == 0
    optimizer.found_inf.zero_()
    optimizer.step()
    assert p[0].item() == pytest.approx(1.5)
    assert optimizer.state[p]["exp_avg"][299].item() == pytest.approx(-0.2)
    assert torch.equal(p.grad, torch.full((300,), 2.0))
    del optimizer.grad_scale, optimizer.found_inf
    rate.fill_(0.25)  # The next step reads it anew.
    optimizer.step()
    assert p[0].item() == pytest.approx(1.75)
    assert optimizer.state[p]["step"].item() == 2


def test_parameters_without_gradients_are_left_alone(on_host):
    params, optimizer, _ = run(torch.float32, None, {}, steps=1, sizes=(300, 300))
    params[0].grad = None
    before = params[0].detach().clone()
    optimizer.step()
    assert torch.equal(params[0], before)
    assert [optimizer.state[p]["step"].item() for p in params] == [1.0, 2.0]


def test_the_table_goes_to_the_device_only_when_an_address_changed(on_host, monkeypatch):
    params, optimizer, _ = run(torch.float32, None, {}, steps=1, sizes=(3, 4))
    uploads = []
    original = buckets.Bucket._upload
    monkeypatch.setattr(buckets.Bucket, "_upload", lambda self: (uploads.append(1), original(self)))
    optimizer.step()
    assert not uploads
    params[0].grad = torch.ones(3)
    optimizer.step()
    assert len(uploads) == 1


def test_stochastic_rounding_is_right_in_the_mean(on_host):
    n = 65536
    p = nn.Parameter(torch.ones(n, dtype=torch.bfloat16))
    optimizer = AdamW([p], lr=2.0**-9, betas=(0.0, 0.0), eps=0.0, weight_decay=0.0, stochastic_rounding=True)
    p.grad = torch.ones_like(p)
    optimizer.step()  # to 1 - 2^-9, in the middle between 1 - 2^-8 and 1
    share = (p == 1).double().mean().item()
    assert set(p.detach().double().unique().tolist()) == {1 - 2.0**-8, 1.0}
    assert abs(share - 0.5) < 5 * 0.5 / math.sqrt(n)
