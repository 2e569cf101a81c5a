"""Attention by the FlashAttention inside torch on a real GPU, against fp64: what helpers.flash_attention stands in for.

Shapes are small, so that the whole file takes seconds; the Hopper kernels are off, as they are by default.
"""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.attention_cases import CASES, Case, check_case, check_gradients, gradients, inputs
from helpers.cuda import captured

from codeshell import ops
from codeshell.integrations.flash_attn import flash_attn_func, flash_attn_varlen_func
from codeshell.ops import flash, hopper

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and flash.built and torch.cuda.get_device_capability() >= flash.CAPABILITY),
    reason="needs a GPU of compute capability 8.0 or newer and a torch with FlashAttention",
)

BF16 = torch.bfloat16


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """Names of the passes that FlashAttention ran, in order."""
    monkeypatch.setattr(hopper, "enabled", False)
    names = []

    def counted(name, function):
        return lambda *arguments: (names.append(name), function(*arguments))[1]

    for name in ("_forward", "_backward"):
        monkeypatch.setattr(flash, name, counted(name, getattr(flash, name)))
    return names


def offsets(*lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to("cuda", torch.int32)


def qkv(*lengths, keys=None, heads=4, kv_heads=2, dim=64):
    generator = torch.Generator().manual_seed(sum(lengths))
    shapes = [(sum(lengths), heads), (sum(keys or lengths), kv_heads), (sum(keys or lengths), kv_heads)]
    return [torch.randn(*x, dim, generator=generator).to("cuda", BF16).requires_grad_() for x in shapes]


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(case, taken):
    dtype = (BF16, torch.float16)[CASES.index(case) % 2]
    check_case(case, "cuda", dtype)
    check_gradients(case, "cuda", dtype, deterministic=True)
    assert taken == ["_forward", "_forward", "_backward"]


@pytest.mark.parametrize("dim", [8, 20, 96, 192, 256])
def test_head_dimensions(dim, taken):
    case = dataclasses.replace(Case("dim", 330, 330, lengths=(65, 190, 75)), dim=dim)
    check_case(case, "cuda", BF16)
    check_gradients(case, "cuda", BF16)
    assert taken == ["_forward", "_forward", "_backward"]


# More queries than keys, fewer, none, no keys; and windows that FlashAttention 2 would misread without the maximum
# that it is given.
PAIRS = [(70, 3), (3, 70), (0, 5), (5, 0), (130, 130), (1, 1)]


@pytest.mark.parametrize("bounds", [(-1, -1), (-1, 0), (7, 0), (-1, 4), (4, -1), (2, 3), (0, 0)])
def test_windows_and_other_lengths_of_keys(bounds, taken):
    """Each sequence alone gives the same, by SDPA in fp64 on the CPU."""
    lengths, key_lengths = zip(*PAIRS, strict=True)
    q, k, v = qkv(*lengths, keys=key_lengths)
    out, lse, _ = flash_attn_varlen_func(
        *(q, k, v, offsets(*lengths), offsets(*key_lengths), max(lengths), max(key_lengths)),
        window_size=bounds,
        return_attn_probs=True,
    )
    grad = torch.randn(out.shape, generator=torch.Generator().manual_seed(0)).to("cuda", BF16)
    found = torch.autograd.grad(out, (q, k, v), grad)
    assert taken == ["_forward", "_backward"]
    wide = [x.detach().cpu().double().requires_grad_() for x in (q, k, v)]
    exact, exact_lse, _ = flash_attn_varlen_func(
        *(*wide, offsets(*lengths).cpu(), offsets(*key_lengths).cpu(), max(lengths), max(key_lengths)),
        window_size=bounds,
        return_attn_probs=True,
    )
    torch.testing.assert_close(lse.cpu(), exact_lse, rtol=1e-4, atol=1e-4)
    for x, a in zip((out, *found), (exact, *torch.autograd.grad(exact, wide, grad.cpu().double())), strict=True):
        assert x.isfinite().all()
        assert float((x.cpu().double() - a).abs().amax()) <= 0.02 * float(a.abs().amax())


@pytest.mark.parametrize("bounds", [(-1, 0), (5, 0), (3, 2), (6, -1), (-1, 6)])
@pytest.mark.parametrize(("queries", "keys"), [(70, 300), (300, 70), (1, 200)])
def test_dense_windows(queries, keys, bounds):
    q, k, v = (
        torch.randn(2, n, heads, 64, generator=torch.Generator().manual_seed(n)).to("cuda", BF16)
        for n, heads in ((queries, 4), (keys, 2), (keys, 2))
    )
    out, lse, _ = flash_attn_func(q, k, v, window_size=bounds, return_attn_probs=True)
    wide = (x.cpu().double() for x in (q, k, v))
    exact, exact_lse, _ = flash_attn_func(*wide, window_size=bounds, return_attn_probs=True)
    torch.testing.assert_close(out.cpu().double(), exact, rtol=2e-2, atol=2e-2)
    torch.testing.assert_close(lse.cpu(), exact_lse, rtol=1e-4, atol=1e-4)


def test_single_queries_and_empty_sequences(taken):
    q, k, v = qkv(1, 0, 1, 1)
    out = ops.attention(q, k, v, causal=False, cu_seqlens=offsets(1, 0, 1, 1), max_seqlen=1)
    assert torch.equal(out, v.repeat_interleave(2, 1)) and taken == ["_forward"]


def test_addresses_and_strides(taken):
    q, k, v = (x.detach() for x in qkv(40, 50))
    wanted = ops.attention(q, k, v, cu_seqlens=offsets(40, 50), max_seqlen=50)
    moved = [torch.empty(x.numel() + 1, dtype=BF16, device="cuda")[1:].view(x.shape).copy_(x) for x in (q, k, v)]
    wide = [torch.empty(*x.shape[:2], 67, dtype=BF16, device="cuda")[..., :64].copy_(x) for x in (q, k, v)]
    for leaves in (moved, wide):
        leaves = [x.requires_grad_() for x in leaves]
        found = ops.attention(*leaves, cu_seqlens=offsets(40, 50), max_seqlen=50)
        assert torch.equal(found, wanted)
        assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), leaves))


def test_deterministic_gradients_have_the_same_bits():
    case = Case("large", 2048, 2048, heads=8, kv_heads=2, dim=128, lengths=(1500, 48, 500))
    q, k, v = inputs(case, "cuda", BF16)
    grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(1)).to("cuda", BF16)
    first = gradients(case, q, k, v, grad, True)
    for _ in range(10):
        assert all(torch.equal(a, b) for a, b in zip(first, gradients(case, q, k, v, grad, True), strict=True))
    assert not torch.are_deterministic_algorithms_enabled()


def test_nothing_waits_for_the_gpu(taken):
    """torch raises an error where something does."""
    q, k, v = qkv(40, 50)
    q2, k2, v2 = qkv(40, 50, keys=(30, 70))
    lengths, key_lengths, equal = offsets(40, 50), offsets(30, 70), offsets(40, 50)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=50, return_lse=True)
        ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=50, window=9, deterministic=True).sum().backward()
        flash_attn_varlen_func(q, k, v, lengths, equal, 50, 50, causal=True).sum().backward()
        flash_attn_varlen_func(q2, k2, v2, lengths, key_lengths, 50, 70, window_size=(2, 1)).sum().backward()
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert taken.count("_forward") == 4


def test_in_a_cuda_graph():
    q, k, v = (x.detach() for x in qkv(40, 50))
    lengths = offsets(40, 50)
    wanted = ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=90)
    graph, out = captured(lambda: ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=90), warm_up=False)
    graph.replay()
    assert torch.equal(out, wanted)
    # The lengths are read on the GPU, when the graph runs.
    lengths.copy_(offsets(10, 80))
    graph.replay()
    assert torch.equal(out, ops.attention(q, k, v, cu_seqlens=offsets(10, 80), max_seqlen=90))


def test_compiled():
    q, k, v = qkv(40, 50)
    lengths = offsets(40, 50)

    def attend(q, k, v):
        return ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=50)

    found, wanted = torch.compile(attend, fullgraph=True, backend="aot_eager")(q, k, v), attend(q, k, v)
    assert torch.equal(found, wanted)
    torch.compiler.reset()
