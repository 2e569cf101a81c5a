"""AdamW on a GPU without its kernels, which is simulated: the schemes in PyTorch against the kernels of the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from helpers.simulated_gpu import simulate
from torch import nn

from codeshell.ops import devices, library
from codeshell.optim import AdamW, adamw, reference
from codeshell.optim.buckets import Bucket
from codeshell.optim.reference import ReferenceBucket

bf16, fp16, fp32 = torch.bfloat16, torch.float16, torch.float32
# Name: dtypes of parameters and gradients, the options, and whether torch's own step knows it.
SCHEMES = {
    "fp32": (fp32, fp32, {}, True),
    "fp32, bf16 moments": (fp32, fp32, {"moment_dtype": bf16}, False),
    "fp32, bf16 moments, stochastic": (fp32, fp32, {"moment_dtype": bf16, "stochastic_rounding": True}, False),
    "bf16": (bf16, bf16, {}, True),
    "bf16, fp32 gradients": (bf16, fp32, {}, False),
    "bf16, fp32 moments": (bf16, bf16, {"moment_dtype": fp32}, False),
    "bf16, master": (bf16, bf16, {"master_weights": True}, False),
    "bf16, master, bf16 moments": (bf16, bf16, {"master_weights": True, "moment_dtype": bf16}, False),
    "bf16, master, bf16 moments, stochastic": (
        *(bf16, bf16),
        {"master_weights": True, "moment_dtype": bf16, "stochastic_rounding": True},
        False,
    ),
    "bf16, stochastic": (bf16, bf16, {"stochastic_rounding": True}, False),
    "bf16, all stochastic": (bf16, fp32, {"stochastic_rounding": True, "moment_dtype": bf16}, False),
    "fp16": (fp16, fp16, {}, True),
    "fp16, master": (fp16, fp16, {"master_weights": True}, False),
}
SIZES = (1, 7, 0, 1000, 8193)


def run(dtype, gradient_dtype, options, *, sizes=SIZES, steps=3, clip=None, transpose=False, **more):
    generator = torch.Generator().manual_seed(0)
    params = [nn.Parameter((torch.randn(n, generator=generator) + 2).to(dtype)) for n in sizes]
    if transpose:
        params = [nn.Parameter((torch.randn(30, n + 1, generator=generator) + 2).to(dtype).t()[1:]) for n in (5, 40)]
    optimizer = AdamW(params, lr=1e-2, betas=(0.9, 0.99), eps=1e-6, weight_decay=0.1, seed=7, **options, **more)
    norms = []
    for step in range(steps):
        for p in params[step % 2 :]:  # the first one has no gradient at every second step
            p.grad_dtype = gradient_dtype
            p.grad = torch.randn(p.shape, generator=generator).to(gradient_dtype)
        if clip:
            norms.append(optimizer.clip_grad_norm(clip).item())
        optimizer.step()
        optimizer.zero_grad()
    return params, optimizer, norms


def assert_close(params, optimizer, expected, theirs, share=0.02):
    for p, q in zip(params, expected, strict=True):
        mine, other = optimizer.state[p] | {"param": p.detach()}, theirs.state[q] | {"param": q.detach()}
        assert mine.keys() == other.keys()
        for name, value in other.items():
            assert mine[name].dtype == value.dtype and mine[name].device == value.device, name
            eps = torch.finfo(value.dtype).eps
            torch.testing.assert_close(mine[name], value, rtol=4 * eps, atol=4e-7, msg=lambda m, n=name: f"{n}: {m}")
            # fp32 differs by fused multiply-adds; what is rounded may then fall on the other side, but seldom.
            if value.dtype != fp32 and value.numel() > 100:
                assert (mine[name] != value).double().mean() < share, name


@pytest.mark.parametrize(("dtype", "gradient_dtype", "options", "torchs"), SCHEMES.values(), ids=SCHEMES)
def test_every_scheme_as_by_the_kernels(dtype, gradient_dtype, options, torchs, monkeypatch):
    expected, theirs, _ = run(dtype, gradient_dtype, options)
    simulate(monkeypatch, None, (7, 5))
    monkeypatch.setattr(reference, "PIECE", 1000)
    params, optimizer, _ = run(dtype, gradient_dtype, options)
    (plan,) = optimizer._plans.values()
    assert all(type(bucket) is ReferenceBucket for bucket in plan.buckets)
    assert bool(plan.rest) == torchs and bool(plan.buckets) != torchs
    # torch's own step rounds a 16-bit parameter once more, after its decay.
    assert_close(params, optimizer, expected, theirs, share=0.02 if dtype == fp32 or not torchs else 0.5)


@pytest.mark.parametrize("name", ["bf16, master", "bf16, all stochastic"])
def test_the_norm_and_the_clipping_factor(name, monkeypatch):
    dtype, gradient_dtype, options, _ = SCHEMES[name]
    expected, theirs, norms = run(dtype, gradient_dtype, options, clip=0.5)
    simulate(monkeypatch, None, (7, 5))
    params, optimizer, mine = run(dtype, gradient_dtype, options, clip=0.5)
    assert mine == pytest.approx(norms, rel=1e-6) and min(norms) > 0.5
    assert_close(params, optimizer, expected, theirs)


@pytest.mark.parametrize("options", [{"master_weights": True}, {"stochastic_rounding": True}], ids=str)
def test_tensors_that_are_not_contiguous(options, monkeypatch):
    expected, theirs, _ = run(bf16, bf16, options, transpose=True)
    assert not expected[0].is_contiguous()
    simulate(monkeypatch, None, (7, 5))
    params, optimizer, _ = run(bf16, bf16, options, transpose=True)
    assert_close(params, optimizer, expected, theirs)


def test_maximize_and_betas_of_zero(monkeypatch):
    def result():
        p = nn.Parameter(torch.linspace(1, 2, 300).to(bf16))
        optimizer = AdamW([p], lr=0.1, betas=(0.0, 0.0), maximize=True, master_weights=True)
        p.grad = torch.linspace(-1, 1, 300).to(bf16)
        optimizer.step()
        return [p], optimizer

    expected, theirs = result()
    simulate(monkeypatch, None, (7, 5))
    assert_close(*result(), expected, theirs)


def test_what_is_on_the_device_is_read_there(monkeypatch):
    """A learning rate in a tensor, a GradScaler's scale and its infinities."""
    simulate(monkeypatch, None, (7, 5))
    p, rate = nn.Parameter(torch.ones(300, dtype=bf16)), torch.tensor(0.5)
    optimizer = AdamW([p], lr=rate, weight_decay=0.0, eps=0.0, maximize=True, master_weights=True)
    p.grad = torch.full((300,), 8.0, dtype=bf16)
    optimizer.grad_scale, optimizer.found_inf = torch.tensor(4.0), torch.tensor(1.0)
    optimizer.step()
    assert torch.equal(p.detach(), torch.ones(300, dtype=bf16)) and torch.equal(p.grad, torch.full_like(p, 8.0))
    state = optimizer.state[p]
    assert state["step"].item() == 0 and not state["exp_avg"].any()
    optimizer.found_inf.zero_()
    optimizer.step()
    assert p[0].item() == 1.5 and state["step"].item() == 1
    assert state["exp_avg"][299].item() == pytest.approx(-0.2)
    assert torch.equal(p.grad, torch.full_like(p, 2.0))
    del optimizer.grad_scale, optimizer.found_inf
    rate.fill_(0.25)
    optimizer.step()
    assert state["master_param"][0].item() == pytest.approx(1.75) and state["step"].item() == 2


def test_a_write_by_others_is_noticed(monkeypatch):
    simulate(monkeypatch, None, (7, 5))
    p = nn.Parameter(torch.ones(4, dtype=bf16))
    optimizer = AdamW([p], lr=0.125, weight_decay=0.0, master_weights=True)
    for value in (None, 3.0):
        if value is not None:
            with torch.no_grad():
                p.fill_(value)
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert p[0].item() == pytest.approx(2.875, abs=0.01)
    # A gradient that has changed its dtype gets another bucket.
    p.grad = None
    p.grad_dtype = fp32
    p.grad = torch.ones(4)
    optimizer.step()
    assert p[0].item() == pytest.approx(2.75, abs=0.01)


def test_stochastic_rounding_is_right_in_the_mean_and_repeats(monkeypatch):
    simulate(monkeypatch, None, (7, 5))

    def result(seed):
        p = nn.Parameter(torch.ones(65536, dtype=bf16))
        settings = {"betas": (0.0, 0.0), "eps": 0.0, "weight_decay": 0.0, "seed": seed}
        optimizer = AdamW([p], lr=2.0**-9, stochastic_rounding=True, **settings)
        p.grad = torch.ones_like(p)
        optimizer.step()  # to 1 - 2^-9, in the middle between 1 - 2^-8 and 1
        return p.detach()

    first = result(0)
    assert set(first.unique().tolist()) == {1 - 2.0**-8, 1.0}
    assert abs((first == 1).double().mean().item() - 0.5) < 5 * 0.5 / math.sqrt(first.numel())
    assert torch.equal(first, result(0)) and not torch.equal(first, result(1))


def test_infinities_and_nans_stay_what_they_are():
    x = torch.tensor([math.inf, -math.inf, math.nan, 3.3895e38, -1.0, 0.0])
    most = torch.full((6,), 0xFFFF)
    rounded = reference._stochastic(x, most)
    assert rounded[:2].tolist() == [math.inf, -math.inf] and rounded[2].isnan()
    assert rounded[4].item() == -1.0 - 2.0**-7 or rounded[4].item() == -1.0
    assert rounded[5].item() == 0.0


@pytest.mark.parametrize("seed", [0, 1, 2**63 + 12345, 2**64 - 1])
@pytest.mark.parametrize("high", [0, 3])
def test_the_keys_are_those_of_the_kernels(seed, high):
    """csrc/adamw/adamw.h, in Python's integers."""
    wide = 2**64 - 1

    def keys(step, stream):
        x = seed
        for part in (step, stream, high):
            x = ((x ^ part) + 0x9E3779B97F4A7C15) & wide
            x = ((x ^ x >> 33) * 0xFF51AFD7ED558CCD) & wide
            x = ((x ^ x >> 33) * 0xC4CEB9FE1A85EC53) & wide
            x ^= x >> 33
        return x & 0xFFFFFFFF, x >> 32

    steps, streams = (1, 2, 10**6), (0, 5, 3 << 32 | 17)
    a, b = reference._keys(seed, torch.tensor(steps), torch.tensor(streams), high)
    assert list(zip(a.tolist(), b.tolist(), strict=True)) == [keys(*pair) for pair in zip(steps, streams, strict=True)]


def test_a_gpu_that_runs_the_kernels_has_none_of_this(monkeypatch):
    simulate(monkeypatch, None, (8, 9))
    assert adamw._lacking(torch.device("cpu")) is None
    p = nn.Parameter(torch.ones(4, dtype=bf16))
    optimizer = AdamW([p], master_weights=True)
    p.grad = torch.ones_like(p)
    plan = optimizer._current_plan(0, optimizer.param_groups[0])
    assert [type(bucket) for bucket in plan.buckets] == [Bucket] and not library._said
    assert devices.simulated is not None
