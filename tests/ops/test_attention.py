"""attention and packed_attention against an fp64 softmax written out."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, ops
from codeshell.ops import cpu
from codeshell.ops.attention_call import AttentionCall
from codeshell.ops.rotary import rotary


def reference(q, k, v, *, causal=True, scale=None, window=None):
    """(out, lse) in fp64 for (batch, seq, heads, dim)."""
    group = q.shape[2] // k.shape[2]
    qt, kt, vt = (x.double().transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    scores = qt @ kt.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)
    queries, keys = scores.shape[-2:]
    last = torch.arange(queries)[:, None] + keys - queries
    key = torch.arange(keys)[None]
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        seen &= key <= last
    if window is not None:
        seen &= key > last - window
    scores = scores.masked_fill(~seen, -torch.inf)
    return (torch.softmax(scores, -1).nan_to_num(0.0) @ vt).transpose(1, 2), torch.logsumexp(scores, -1)


def tensors(seed, batch, queries, keys, heads, kv_heads, dim, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim)]
    return [torch.randn(s, generator=generator).to(dtype).requires_grad_() for s in shapes]


def errors(values, references):
    return [
        float((value.detach().double() - wanted.detach().double()).abs().max())
        for value, wanted in zip(values, references, strict=True)
    ]


CASES = [  # batch, queries, keys, heads, kv_heads, dim
    (2, 130, 130, 4, 2, 32),
    (1, 7, 200, 2, 1, 64),
    (1, 200, 7, 2, 1, 32),
    (2, 65, 65, 2, 2, 128),
    (1, 300, 300, 6, 3, 16),
    (1, 1, 1, 1, 1, 48),
    (1, 129, 257, 8, 2, 256),
    (1, 40, 40, 4, 2, 24),  # not a kernel's dimension: torch's SDPA
]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("causal", "window"), [(True, None), (True, 33), (True, 1), (False, None)])
def test_fp32_against_fp64(case, causal, window):
    q, k, v = tensors(0, *case)
    out, lse = ops.attention(q, k, v, causal=causal, window=window, return_lse=True)
    want, want_lse = reference(q, k, v, causal=causal, window=window)
    upstream = torch.randn(out.shape, generator=torch.Generator().manual_seed(1))
    gradients = torch.autograd.grad(out, (q, k, v), upstream)
    wanted = torch.autograd.grad(want, (q, k, v), upstream.double())
    assert max(errors([out, *gradients], [want, *wanted])) < 2e-5
    assert lse.dtype == torch.float32 and lse.shape == (case[0], case[3], case[1])
    finite = torch.isfinite(want_lse)
    assert torch.equal(torch.isfinite(lse), finite)
    assert float((lse.detach() - want_lse.detach())[finite].abs().max()) < 1e-5


@pytest.mark.parametrize("case", CASES[:4])
def test_bf16_is_within_twice_the_error_of_torch(case):
    if case[1] > case[2]:
        pytest.skip("torch gives NaN where a query sees no key")
    q, k, v = tensors(2, *case, dtype=torch.bfloat16)
    upstream = torch.randn(q.shape, generator=torch.Generator().manual_seed(3)).bfloat16()
    out = ops.attention(q, k, v)
    mine = [out, *torch.autograd.grad(out, (q, k, v), upstream)]
    plain = reference_bf16(q, k, v)
    theirs = [plain, *torch.autograd.grad(plain, (q, k, v), upstream)]
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    exact, _ = reference(*wide)
    wanted = [exact, *torch.autograd.grad(exact, wide, upstream.double())]
    for own, peer in zip(errors(mine, wanted), errors(theirs, wanted), strict=True):
        assert own <= 2 * peer + 1e-6


def reference_bf16(q, k, v):
    keys, queries = k.shape[1], q.shape[1]
    mask = torch.ones(queries, keys, dtype=torch.bool).tril(keys - queries)
    qt, kt, vt = (x.transpose(1, 2) for x in (q, k, v))
    out = torch.nn.functional.scaled_dot_product_attention(qt, kt, vt, attn_mask=mask, enable_gqa=True)
    return out.transpose(1, 2)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 150), min_size=1, max_size=5).filter(any),
    dim=st.sampled_from([16, 24, 32]),
    window=st.sampled_from([None, 20]),
)
def test_packed_sequences_equal_each_alone(lengths, dim, window):
    q, k, v = (x[0] for x in tensors(4, 1, sum(lengths), sum(lengths), 4, 2, dim))
    offsets = torch.tensor([0, *torch.tensor(lengths).cumsum(0).tolist()], dtype=torch.int32)
    out, lse = ops.attention(q, k, v, window=window, cu_seqlens=offsets, max_seqlen=max(lengths), return_lse=True)
    for start, length in zip(offsets[:-1].tolist(), lengths, strict=True):
        if length == 0:
            continue
        part = slice(start, start + length)
        want, want_lse = reference(q[None, part], k[None, part], v[None, part], window=window)
        assert float((out[part] - want[0]).detach().abs().max()) < 1e-5
        assert float((lse[:, part] - want_lse[0]).detach().abs().max()) < 1e-5


def test_every_element_is_written():
    q, k, v = (x.detach() for x in tensors(5, 2, 77, 77, 4, 2, 32))
    out = torch.full_like(q, torch.nan)
    problem = cpu.AttentionProblem(AttentionCall(q, k, v, None, 0, left=None, right=0, scale=0.2))
    lse = problem.forward(out)
    gradients = [torch.full_like(x, torch.nan) for x in (q, k, v)]
    problem.backward(torch.ones_like(out), out, lse, *gradients)
    assert all(torch.isfinite(x).all() for x in (out, lse, *gradients))


def test_nan_is_not_hidden():
    q, k, v = (x.detach() for x in tensors(6, 1, 50, 50, 2, 1, 32))
    k[0, 10, 0, 0] = torch.nan
    out = ops.attention(q, k, v)
    assert torch.isfinite(out[0, :10]).all() and torch.isnan(out[0, 10:]).all()


def test_future_keys_change_no_bit():
    q, k, v = (x.detach() for x in tensors(7, 1, 100, 100, 4, 2, 32))
    before = ops.attention(q, k, v)[:, :60]
    k[:, 60:], v[:, 60:] = 1e4, -1e4
    assert torch.equal(ops.attention(q, k, v)[:, :60], before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("packed", [False, True])
def test_packed_attention_is_rotary_then_attention(dtype, packed):
    heads, kv_heads, dim, batch, seq = 4, 2, 32, 2, 70
    generator = torch.Generator().manual_seed(8)
    qkv = torch.randn(batch, seq, (heads + 2 * kv_heads) * dim, generator=generator).to(dtype).requires_grad_()
    angles = torch.rand(200, dim // 2, generator=generator) * 6
    positions = torch.randint(0, 200, (batch, seq), generator=generator)
    extra = {}
    inputs, where = qkv, positions
    if packed:
        inputs, where = qkv.view(batch * seq, -1), positions.view(-1)
        extra = {"cu_seqlens": torch.tensor([0, 33, 140], dtype=torch.int32), "max_seqlen": 107}
    out = ops.packed_attention(
        inputs, angles.cos(), angles.sin(), heads=heads, kv_heads=kv_heads, positions=where, **extra
    )
    parts = inputs.unflatten(-1, (heads + 2 * kv_heads, dim)).float().split((heads, kv_heads, kv_heads), dim=-2)
    q, k = rotary(parts[0], parts[1], angles.cos(), angles.sin(), positions=where)
    want = ops.attention(q, k, parts[2], **extra).flatten(-2)
    upstream = torch.randn(out.shape, generator=generator)
    (gradient,) = torch.autograd.grad(out, qkv, upstream.to(dtype))
    (wanted,) = torch.autograd.grad(want, qkv, upstream.to(dtype).float())
    bound = 1e-5 if dtype == torch.float32 else 0.03
    assert max(errors([out, gradient], [want, wanted])) < bound


def test_bits_do_not_depend_on_threads():
    threads = torch.get_num_threads()
    q, k, v = tensors(9, 3, 90, 90, 6, 3, 32)
    results = []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            out = ops.attention(q, k, v)
            results.append([out, *torch.autograd.grad(out, (q, k, v), torch.ones_like(out))])
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("level", ["scalar", "avx2"])
def test_other_instruction_sets(level):
    if _C.simd_level() not in ("avx512", "avx2"):
        pytest.skip(f"this processor's level is {_C.simd_level()}: no lower one of x86 to choose")
    test = f"{__file__}::test_fp32_against_fp64"
    environment = {**os.environ, "CODESHELL_SIMD": level}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", test]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-2000:]


def test_dropout_zeroes_and_scales():
    q, k, v = tensors(11, 1, 64, 64, 2, 1, 32)
    torch.manual_seed(0)
    assert not torch.equal(ops.attention(q, k, v, dropout_p=0.5), ops.attention(q, k, v))
    average = sum(ops.attention(q, k, v, dropout_p=0.2).detach() for _ in range(200)) / 200
    assert float((average - ops.attention(q, k, v).detach()).abs().mean()) < 0.05


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": torch.zeros(1, 8, 3, 32), "v": torch.zeros(1, 8, 3, 32)}, "heads"),
        ({"v": torch.zeros(1, 9, 2, 32)}, "v"),
        ({"k": torch.zeros(1, 8, 2, 16), "v": torch.zeros(1, 8, 2, 16)}, "q .*k"),
        ({"q": torch.zeros(1, 8, 4, 32, dtype=torch.bfloat16)}, "dtype"),
        ({"window": 0}, "window"),
        ({"window": 1.5}, "window is 1.5: must be an int"),
        ({"cu_seqlens": [0, 8], "max_seqlen": 8} | {name: torch.zeros(8, 2, 32) for name in "qkv"}, "is a list"),
        ({"window": 4, "causal": False}, "window"),
        ({"max_seqlen": 8}, "max_seqlen"),
        ({"cu_seqlens": torch.tensor([0, 8], dtype=torch.int32), "max_seqlen": 8}, "total"),
        ({"dropout_p": 1.5}, "dropout_p"),
        ({"dropout_p": 0.1, "return_lse": True}, "dropout_p is 0.1: .* 0 with return_lse"),
        ({"k": torch.zeros(2, 8, 2, 32), "v": torch.zeros(2, 8, 2, 32)}, "q \\(1, 8, 4, 32\\), k \\(2, 8, 2, 32\\)"),
        ({"k": torch.zeros(1, 8, 0, 32), "v": torch.zeros(1, 8, 0, 32)}, "4 heads of 32, not a multiple of the 0 of k"),
        ({name: torch.zeros(1, 8, 2, 0) for name in "qkv"}, "2 heads of 0"),
        (
            {"v": torch.zeros(1, 8, 2, 32, device="meta")},
            r"v \(1, 8, 2, 32\) is on meta, q \(1, 8, 4, 32\) on cpu; they must be on one device",
        ),
        ({name: torch.zeros(1, 8, 2, 32, dtype=torch.int32) for name in "qkv"}, "one floating-point dtype"),
        ({name: torch.zeros(8, 2, 32) for name in "qkv"}, "must be \\(batch, seq, heads, dim\\)"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"q": torch.zeros(1, 8, 4, 32), "k": torch.zeros(1, 8, 2, 32), "v": torch.zeros(1, 8, 2, 32)} | change
    with pytest.raises(ValueError, match=message):
        ops.attention(**arguments)


@pytest.mark.parametrize(
    ("offsets", "longest", "message"),
    [
        ([0, 4, 9], 5, "rise from 0 to the 8"),
        ([1, 8], 8, "rise"),
        ([0, 6, 4, 8], 8, "rise"),
        ([0, 8], 7, "max_seqlen is 7"),
        ([0, 8], None, "max_seqlen is missing"),
    ],
)
def test_bad_offsets_are_refused(offsets, longest, message):
    q, k, v = torch.zeros(8, 4, 32), torch.zeros(8, 2, 32), torch.zeros(8, 2, 32)
    with pytest.raises(ValueError, match=message):
        ops.attention(q, k, v, cu_seqlens=torch.tensor(offsets, dtype=torch.int32), max_seqlen=longest)
    with pytest.raises(ValueError, match="int32"):
        ops.attention(q, k, v, cu_seqlens=torch.tensor([0, 8]), max_seqlen=8)
    offsets = torch.tensor([0, 8], dtype=torch.int32)
    with pytest.raises(ValueError, match=r"cu_seqlens \(2,\) is on meta, q \(.*\) on cpu"):
        ops.attention(q, k, v, cu_seqlens=offsets.to("meta"), max_seqlen=8)
    with pytest.raises(ValueError, match="q has 8 tokens, k 7; packed sequences attend to themselves"):
        ops.attention(q, k[:7], v[:7], cu_seqlens=offsets, max_seqlen=8)


@pytest.mark.parametrize("dim", [32, 24])  # the kernel, and torch's SDPA
@pytest.mark.parametrize("packed", [False, True])
def test_strides_do_not_matter(dim, packed):
    """Heads first, a slice of a fused projection, one key head for all, every second dimension: as copies."""
    generator = torch.Generator().manual_seed(0)
    fused = torch.randn(2, 20, 8, 2 * dim, generator=generator)
    first = torch.randn(2, 8, 20, dim, generator=generator).transpose(1, 2)
    for q, k, v in [
        (fused[..., :4, :dim], fused[..., 4:6, :dim], fused[..., 6:, :dim]),
        (first[:, :, :4], first[:, :, 4:6], first[:, :, 6:]),
        (fused[..., :4, ::2], fused[..., 4:5, :dim].expand(2, 20, 2, dim), fused[..., 6:, 1::2]),
    ]:
        extra = {}
        if packed:
            q, k, v = q[1], k[1], v[1]
            extra = {"cu_seqlens": torch.tensor([0, 9, 20], dtype=torch.int32), "max_seqlen": 11}
        want = ops.attention(*(x.contiguous() for x in (q, k, v)), **extra)
        assert torch.allclose(ops.attention(q, k, v, **extra), want, atol=1e-6)


def test_positions_beyond_the_tables_are_refused():
    table = torch.zeros(4, 16)
    with pytest.raises(ValueError, match="positions reach 7"):
        ops.packed_attention(torch.zeros(1, 8, 256), table, table, heads=4, kv_heads=2)
