"""AdamW's dtypes, layouts and scalars against fp64, on the CPU."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codeshell.optim import AdamW

SCHEMES = {
    "fp32": (torch.float32, {}),
    "fp32, bf16 moments": (torch.float32, {"moment_dtype": torch.bfloat16}),
    "bf16 as torch": (torch.bfloat16, {}),
    "bf16, fp32 moments": (torch.bfloat16, {"moment_dtype": torch.float32}),
    "bf16, master": (torch.bfloat16, {"master_weights": True}),
    "bf16, master, bf16 moments": (torch.bfloat16, {"master_weights": True, "moment_dtype": torch.bfloat16}),
    "bf16, stochastic": (torch.bfloat16, {"stochastic_rounding": True}),
    "bf16, stochastic, bf16 moments": (torch.bfloat16, {"stochastic_rounding": True, "moment_dtype": torch.bfloat16}),
    "fp16 as torch": (torch.float16, {}),
    "fp16, fp32 moments": (torch.float16, {"moment_dtype": torch.float32}),
    "fp16, master": (torch.float16, {"master_weights": True}),
}
every_scheme = pytest.mark.parametrize(("dtype", "options"), SCHEMES.values(), ids=SCHEMES)
SIZES = (1, 7, 8, 31, 33, 1000, 8191, 8192, 8193, 20001, 0)
HYPER = {"lr": 1e-2, "betas": (0.9, 0.99), "eps": 1e-6, "weight_decay": 0.1}


def reference(p, g, m, v, step, lr, betas, eps, weight_decay):
    """One step in fp64, of copies."""
    p, g, m, v = (x.double() for x in (p, g, m, v))
    p = p * (1 - lr * weight_decay)
    m = betas[0] * m + (1 - betas[0]) * g
    v = betas[1] * v + (1 - betas[1]) * g * g
    denominator = (v / (1 - betas[1] ** step)).sqrt() + eps
    return p - lr / (1 - betas[0] ** step) * m / denominator, m, v


def ulps(result, exact, dtype, least=1e-30):
    """The largest error in units of the dtype's precision, relative to the value."""
    info = torch.finfo(dtype)
    error = (result.double() - exact).abs()
    return (error / (exact.abs().clamp(min=max(least, info.tiny)) * info.eps)).max().item() if error.numel() else 0.0


@every_scheme
@pytest.mark.parametrize("gradient_dtype", [None, torch.float32])
def test_every_scheme_against_fp64(dtype, options, gradient_dtype):
    generator = torch.Generator().manual_seed(1)
    params = [nn.Parameter((torch.randn(n, generator=generator) + 2).to(dtype)) for n in SIZES]
    optimizer = AdamW(params, **HYPER, **options)
    for step in range(1, 4):
        before = []
        for p in params:
            p.grad_dtype = gradient_dtype or dtype
            p.grad = torch.randn(p.shape, generator=generator).to(gradient_dtype or dtype)
            state = optimizer.state.get(p) or {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)}
            source = state.get("master_param", p)
            before.append([x.detach().clone() for x in (source, p.grad, state["exp_avg"], state["exp_avg_sq"])])
        optimizer.step()
        for p, old in zip(params, before, strict=True):
            exact = reference(*old, step, **HYPER)
            state = optimizer.state[p]
            rounding = 1.01 if options.get("stochastic_rounding") else 0.51
            for name, value in zip(("master_param", "exp_avg", "exp_avg_sq"), exact, strict=True):
                stored = state.get(name, p if name == "master_param" else None)
                near = rounding if stored.dtype != torch.float32 else 8
                # Moments cancel: their error is relative to their parts.
                least = 0.1 if name == "exp_avg" and stored.dtype == torch.float32 else 1e-2
                assert ulps(stored.detach(), value, stored.dtype, least) <= near, (name, step, p.shape)
            if "master_param" in state:
                assert torch.equal(p.detach(), state["master_param"].to(dtype))
            assert state["step"].item() == step


@every_scheme
def test_bits_do_not_depend_on_threads(dtype, options):
    def run(threads):
        generator = torch.Generator().manual_seed(2)
        params = [nn.Parameter(torch.randn(n, generator=generator).to(dtype)) for n in (100_000, 3, 70_001)]
        optimizer = AdamW(params, **HYPER, **options)
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            for _ in range(2):
                for p in params:
                    p.grad = torch.randn(p.shape, generator=generator).to(dtype)
                norm = optimizer.clip_grad_norm(1.0)
                optimizer.step()
        finally:
            torch.set_num_threads(before)
        return [*params, norm]

    first = run(1)
    assert all(torch.equal(a, b) for threads in (2, 3) for a, b in zip(first, run(threads), strict=True))


def test_stochastic_rounding_is_right_in_the_mean_and_repeats():
    n = 200_000

    def run(seed, split):
        whole = torch.full((n,), 1.0, dtype=torch.bfloat16)
        params = [nn.Parameter(part.clone()) for part in whole.split(split)]
        optimizer = AdamW(
            params, lr=1.0, betas=(0.0, 0.0), eps=0.0, weight_decay=2**-10, stochastic_rounding=True, seed=seed
        )
        for p in params:
            p.grad = torch.zeros_like(p)
            p.grad += 1.0
        optimizer.param_groups[0]["lr"] = 2.0**-9  # 1 - 2^-9 - 2^-19: between bf16's 1 - 2^-8 and 1
        optimizer.step()
        return torch.cat([p.detach() for p in params])

    result = run(0, n).double()
    low, high = 1 - 2.0**-8, 1.0
    assert set(result.unique().tolist()) == {low, high}
    exact = 1 - 2.0**-9 - 2.0**-19
    share = (exact - low) / (high - low)
    # Five standard deviations of the mean of n Bernoulli draws.
    assert abs((result == high).double().mean().item() - share) < 5 * math.sqrt(share * (1 - share) / n)
    assert torch.equal(run(0, n), run(0, n))
    assert not torch.equal(run(0, n), run(1, n))
    assert not torch.equal(run(0, 8192)[:8192], run(0, 8192)[8192:16384])  # parameters draw apart
    up = (result == high).double() - share
    for lag in (1, 2, 8, 256, 8192):  # and neighbours too
        assert abs((up[lag:] * up[:-lag]).mean().item()) < 5 * share * (1 - share) / math.sqrt(n - lag)


def test_stochastic_moments_follow_where_nearest_ones_stall():
    def second_moment(**options):
        p = nn.Parameter(torch.zeros(4096, dtype=torch.bfloat16))
        optimizer = AdamW([p], betas=(0.9, 0.999), lr=0.0, moment_dtype=torch.bfloat16, **options)
        for _ in range(600):
            p.grad = torch.ones_like(p)
            optimizer.step()
        return optimizer.state[p]["exp_avg_sq"].double().mean().item()

    exact = 1 - 0.999**600
    assert second_moment(stochastic_rounding=True) == pytest.approx(exact, rel=0.02)
    assert second_moment() < 0.9 * exact


@settings(max_examples=60, deadline=None)
@given(
    value=st.floats(width=32, allow_nan=False, allow_infinity=False, min_value=-7e4, max_value=7e4),
    dtype=st.sampled_from([torch.bfloat16, torch.float16]),
)
def test_rounding_is_torchs(value, dtype):
    # With nothing to do but to store: lr 0, one element in a full vector and a tail.
    p = nn.Parameter(torch.zeros(9, dtype=dtype))
    optimizer = AdamW([p], lr=0.0, weight_decay=0.0, master_weights=True)
    p.grad = torch.zeros_like(p)
    optimizer.step()
    optimizer.state[p]["master_param"].fill_(value)
    optimizer.step()
    assert torch.equal(p.detach(), torch.full((9,), value).to(dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_layouts(dtype):
    def tensors():
        generator = torch.Generator().manual_seed(3)

        def randn(*shape):
            return torch.randn(*shape, generator=generator).to(dtype)

        return {
            "transposed": randn(6, 5).t(),
            "channels last": randn(2, 4, 3, 3).to(memory_format=torch.channels_last),
            "every other": randn(20)[::2],
            "column": randn(6, 5)[:, 1],
            "offset by one": randn(34)[1:],
            "scalar": randn(1)[0],
            "empty": randn(0, 4),
        }

    reference_params = {
        name: nn.Parameter(t.clone(memory_format=torch.contiguous_format)) for name, t in tensors().items()
    }
    params = {name: nn.Parameter(t) for name, t in tensors().items()}
    assert not params["transposed"].is_contiguous()
    mine, theirs = AdamW(params.values(), lr=0.1), torch.optim.AdamW(reference_params.values(), lr=0.1, fused=True)
    for step in range(3):
        for index, (p, q) in enumerate(zip(params.values(), reference_params.values(), strict=True)):
            q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(10 * step + index)).to(dtype)
            p.grad = q.grad.clone() if step else torch.empty_like(p).copy_(q.grad)  # of its own layout, then of another
        mine.step()
        theirs.step()
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 2**-7, "atol": 1e-3}
    for name, p in params.items():
        torch.testing.assert_close(
            p.detach(), reference_params[name].detach(), check_stride=False, msg=name, **tolerance
        )


def test_mixed_dtypes_in_one_group_and_gradients_that_come_and_go():
    params = [
        nn.Parameter(torch.ones(5, dtype=d)) for d in (torch.float32, torch.bfloat16, torch.float16, torch.float32)
    ]
    optimizer = AdamW(params, lr=0.25, weight_decay=0.0, eps=0.0)
    have = [(0, 1, 2), (0, 1), (1, 2, 3), (0, 1, 2, 3)]
    for indices in have:
        optimizer.zero_grad()
        for i in indices:
            params[i].grad = torch.ones_like(params[i])
        optimizer.step()
    counts = [sum(i in indices for indices in have) for i in range(4)]
    assert [int(optimizer.state[p]["step"].item()) for p in params] == counts
    for p, count in zip(params, counts, strict=True):
        torch.testing.assert_close(p.detach().float(), torch.full((5,), 1 - 0.25 * count), rtol=1e-3, atol=1e-3)


def test_state_that_is_replaced_or_moved_is_seen():
    p = nn.Parameter(torch.ones(4))
    optimizer = AdamW([p], lr=0.0)
    p.grad = torch.ones(4)
    optimizer.step()
    optimizer.state[p]["exp_avg"] = torch.full((4,), 10.0)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"][0].item() == pytest.approx(9.1)
    optimizer.state[p]["exp_avg"].data = torch.full((4,), 20.0)
    optimizer.step()
    assert optimizer.state[p]["exp_avg"][0].item() == pytest.approx(18.1)
    p.data = torch.full((4,), 3.0)
    optimizer.param_groups[0]["lr"] = 0.1
    optimizer.step()
    assert p[0].item() < 3.0
    optimizer.state.clear()
    optimizer.step()
    assert optimizer.state[p]["step"].item() == 1


def test_master_weights_keep_what_bf16_would_lose():
    p = nn.Parameter(torch.ones(8, dtype=torch.bfloat16))
    optimizer = AdamW([p], lr=1e-4, weight_decay=0.0, master_weights=True)
    for _ in range(30):
        p.grad = torch.ones_like(p)
        optimizer.step()
    assert optimizer.state[p]["master_param"][0].item() == pytest.approx(1 - 30e-4, rel=1e-5)
    assert p[0].item() == pytest.approx(1 - 30e-4, abs=2**-9)
    with torch.no_grad():
        p.fill_(2.0)
    optimizer.reset_master_weights()
    optimizer.step()
    assert p[0].item() == 2.0
    assert optimizer.state[p]["master_param"][0].item() == pytest.approx(2 - 1e-4, rel=1e-6)


@pytest.mark.parametrize("options", [{"master_weights": True}, {"stochastic_rounding": True}])
def test_precision_survives_state_dicts_and_torch_reads_them(options):
    p = nn.Parameter(torch.randn(50).bfloat16())
    optimizer = AdamW([p], **options)
    p.grad = torch.randn(50).bfloat16()
    optimizer.step()
    q = nn.Parameter(p.detach().clone())
    other = AdamW([q], **options)
    other.load_state_dict(optimizer.state_dict())
    for name, value in optimizer.state[p].items():
        assert value.dtype == torch.float32
        assert torch.equal(other.state[q][name], value)
    theirs = torch.optim.AdamW([q], fused=True)
    theirs.load_state_dict(optimizer.state_dict())
    q.grad = p.grad.clone()
    theirs.step()
    mine = AdamW([q], **options)
    mine.load_state_dict(theirs.state_dict())
    mine.step()
    assert mine.state[q]["exp_avg"].dtype == torch.float32
    assert mine.state[q]["step"].item() == 3


@pytest.mark.parametrize("max_norm", [0.5, 1e6, math.inf])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.filterwarnings("ignore:codeshell.optim.AdamW")
def test_clipping_as_torchs(max_norm, dtype):
    results = []
    for make in (AdamW, torch.optim.AdamW):
        generator = torch.Generator().manual_seed(5)
        params = [nn.Parameter(torch.randn(n, generator=generator).to(dtype)) for n in (3, 4000, 0, 9000)]
        params.append(nn.Parameter(torch.randn(6, generator=generator)))
        optimizer = make([{"params": params[:2]}, {"params": params[2:], "lr": 0.1}], fused=True)
        for _ in range(2):
            for p in params[:-1]:
                p.grad = torch.randn(p.shape, generator=generator).to(dtype)
            params[-1].grad = torch.randn(6, generator=generator)
            before = [p.grad.clone() for p in params]
            if make is AdamW:
                norm = optimizer.clip_grad_norm(max_norm)
                assert norm.shape == ()
                if dtype != torch.float64:
                    assert all(torch.equal(p.grad, g) for p, g in zip(params, before, strict=True))
            else:
                norm = torch.nn.utils.clip_grad_norm_(params, max_norm)
            optimizer.step()
        results.append((norm.float(), [optimizer.state[p]["exp_avg"].float() for p in params]))
    exact = math.sqrt(sum(g.double().square().sum().item() for g in before))
    assert results[0][0].item() == pytest.approx(exact, rel=1e-6)
    for a, b in zip(results[0][1], results[1][1], strict=True):
        torch.testing.assert_close(
            a, b, rtol=2e-2 if dtype == torch.bfloat16 else 1e-5, atol=2e-5 if dtype == torch.bfloat16 else 1e-6
        )


def test_the_factor_is_for_one_step_and_goes_with_the_gradients():
    p = nn.Parameter(torch.zeros(1))
    optimizer = AdamW([p], betas=(0.0, 0.0))
    moments = []
    for clip, zero in ((True, False), (False, False), (True, True)):
        p.grad = torch.full((1,), 4.0)
        if clip:
            assert optimizer.clip_grad_norm(1.0).item() == 4.0
        if zero:
            optimizer.zero_grad()
            p.grad = torch.full((1,), 4.0)
        optimizer.step()
        moments.append(optimizer.state[p]["exp_avg"].item())
    assert moments == pytest.approx([1.0, 4.0, 4.0], rel=1e-5)


def test_a_norm_that_is_no_number_is_told():
    p = nn.Parameter(torch.zeros(2))
    p.grad = torch.tensor([math.nan, 1.0])
    assert math.isnan(AdamW([p]).clip_grad_norm(1.0).item())
    assert AdamW([nn.Parameter(torch.zeros(2))]).clip_grad_norm(1.0).item() == 0.0


def test_no_kernel_without_cuda_says_how_it_was_built():
    from codeshell import _C

    if _C.cuda_built:
        pytest.skip("this build has CUDA: the message of a build without is NOT checked")
    with pytest.raises(RuntimeError, match="built without CUDA"):
        _C.adamw_step_cuda(
            (0, 0, 0, 0, 0),
            ("float32", "float32", "float32", False, False),
            (0.1, 0.9, 0.9, 0.1, 0.1, 0, False, [0, 0, 0, 0]),
            0,
        )


@pytest.mark.parametrize(
    "scheme",
    [
        ("float64", "float32", "float32", False, False),
        ("float32", "bfloat16", "float32", False, False),
        ("float32", "float32", "float32", True, False),
        ("float16", "float16", "float16", True, False),
        ("float16", "float16", "float32", False, True),
        ("bfloat16", "bfloat16", "float16", False, False),
    ],
)
def test_schemes_without_a_kernel_are_refused(scheme):
    from codeshell import _C

    with pytest.raises(ValueError, match="float"):
        settings = (0.1, 0.9, 0.9, 0.1, 0.1, 0, False, [0, 0, 0, 0])
        p = torch.ones(1)
        _C.AdamWTable([1], [0]).step_cpu([p], [p], [{}], [p], lambda written: None, scheme, settings, False, 1)


@pytest.mark.parametrize("change", ["parameter's order", "gradient's dtype", "moment's dtype", "moment's memory"])
@pytest.mark.parametrize("at", [0, 20, 39])
def test_what_changes_between_steps_is_found_on_the_way_and_each_tensor_updated_once(change, at):
    nets = []
    for make in (AdamW, torch.optim.AdamW):
        generator = torch.Generator().manual_seed(5)
        params = [nn.Parameter(torch.randn(60, 40, generator=generator)) for _ in range(40)]
        optimizer = make(params, lr=0.1, foreach=make is torch.optim.AdamW or None)
        for step in range(3):
            for p in params:
                p.grad = torch.randn(p.shape, generator=generator)
            changed = params[at]
            if step == 1 and change == "parameter's order":
                changed.data = changed.data.t().contiguous().t()
            if step == 1 and change == "moment's memory":
                optimizer.state[changed]["exp_avg"].data = optimizer.state[changed]["exp_avg"].clone()
            if step == 1 and make is AdamW and change == "moment's dtype":
                optimizer.state[changed]["exp_avg"] = optimizer.state[changed]["exp_avg"].double()
            if step == 1 and make is AdamW and change == "gradient's dtype":
                gradient = changed.grad.double()
                changed.grad_dtype = None
                changed.grad = gradient
            optimizer.step()
        assert all(optimizer.state[p]["step"].item() == 3 for p in params)
        nets.append(params)
    for p, q in zip(*nets, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-5, atol=1e-6, check_stride=False)


def test_states_of_small_tensors_share_memory_and_nothing_else():
    params = [nn.Parameter(torch.ones(n)) for n in (3, 5000, 16384, 16385, 100)]
    optimizer = AdamW(params, lr=0.1)
    for p in params:
        p.grad = torch.ones_like(p)
    optimizer.step()
    small = [optimizer.state[p]["exp_avg"] for p in params if p.numel() <= 16384]
    assert len({m.untyped_storage().data_ptr() for m in small}) == 1
    assert small[0].untyped_storage().nbytes() <= 4 * sum(m.numel() + 16 for m in small) <= 1 << 20
    assert all(m.data_ptr() % 64 == 0 and m.is_contiguous() and not m._is_view() for m in small)
    version, other = small[1]._version, small[1].clone()
    small[0].zero_()
    assert small[1]._version == version and torch.equal(small[1], other)
    assert optimizer.state[params[3]]["exp_avg"].untyped_storage().nbytes() == 4 * 16385
