"""Attention on GPUs without a kernel of codeshell, by the FlashAttention inside torch; on a simulated GPU, where the
stand-in of helpers.flash_attention refuses what the real one refuses."""

from __future__ import annotations

import inspect
import logging
import re
import warnings

import pytest
import torch
from helpers.attention_cases import CASES, Case, check_case, check_gradients, gradients, inputs
from helpers.flash_attention import FlashAttention
from helpers.simulated_gpu import simulate
from helpers.waits import note
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.nn.attention import SDPBackend, sdpa_kernel

from codeshell import ops
from codeshell.integrations.flash_attn import flash_attn_func, flash_attn_varlen_func
from codeshell.ops import devices, flash

BF16 = torch.bfloat16


@pytest.fixture
def gpu(monkeypatch):
    """An A100, whose torch has FlashAttention."""
    simulate(monkeypatch, capability=(8, 0))
    with FlashAttention() as stand_in:
        yield stand_in


# Hypothesis uses the fixture of a test for all of its examples, so each of them begins with a new record.
_random = settings(deadline=None, max_examples=50, suppress_health_check=[HealthCheck.function_scoped_fixture])


def offsets(*lengths):
    return torch.tensor([0, *lengths]).cumsum(0).to(torch.int32)


def qkv(*lengths, heads=4, kv_heads=2, dim=16, dtype=BF16, keys=None):
    """Packed q, k and v of sequences of these lengths."""
    generator = torch.Generator().manual_seed(sum(lengths))
    shapes = [(sum(lengths), heads), (sum(keys or lengths), kv_heads), (sum(keys or lengths), kv_heads)]
    return [torch.randn(*shape, dim, generator=generator).to(dtype).requires_grad_() for shape in shapes]


# One call, equal to fp64.


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(gpu, case):
    dtype = (BF16, torch.float16)[CASES.index(case) % 2]
    check_case(case, "cpu", dtype)
    (taken,) = gpu.forwards
    assert taken.dense == (not case.lengths)
    # That a call is deterministic takes it to FlashAttention, where SDPA would do else.
    check_gradients(case, "cpu", dtype, deterministic=True)
    (taken,) = gpu.backwards
    assert taken.deterministic


@pytest.mark.parametrize("dim", [8, 20, 36, 96, 192, 224, 256])
def test_head_dimensions(gpu, dim):
    """Those that are not a multiple of 8 are padded."""
    case = Case("dim", 9, 9, lengths=(4, 5), dim=dim)
    check_case(case, "cpu", BF16)
    check_gradients(case, "cpu", BF16)
    assert len(gpu.forwards) == 2 and len(gpu.backwards) == 1


def by_definition(q, k, v, grad, lengths, key_lengths, left, right, dtype=torch.float64):
    """Output, LSE and the three gradients of packed sequences, with bounds (None is none). Probabilities, their
    gradients and all results are rounded to `dtype`; everything else is fp64."""
    group, scale, parts = q.shape[1] // k.shape[1], q.shape[-1] ** -0.5, []
    splits = (
        x.detach().double().split(n) for x, n in ((q, lengths), (k, key_lengths), (v, key_lengths), (grad, lengths))
    )
    for q, k, v, grad in zip(*splits, strict=True):
        k, v = (x.repeat_interleave(group, 1) for x in (k, v))
        place, key = torch.arange(len(q))[:, None] + len(k) - len(q), torch.arange(len(k))
        seen = torch.ones(len(q), len(k), dtype=torch.bool)
        seen = seen if left is None else seen & (key >= place - left)
        seen = seen if right is None else seen & (key <= place + right)
        scores = (torch.einsum("qhd,khd->hqk", q, k) * scale).masked_fill(~seen, -torch.inf)
        lse = torch.logsumexp(scores, -1, keepdim=True)
        p = (scores - lse.masked_fill(lse == -torch.inf, 0.0)).exp()
        out = torch.einsum("hqk,khd->qhd", p.to(dtype).double(), v).to(dtype)
        delta = (out.double() * grad).sum(-1).transpose(0, 1)[..., None]
        ds = (p * (torch.einsum("qhd,khd->hqk", grad, v) - delta)).to(dtype).double() * scale
        d_q, d_k = torch.einsum("hqk,khd->qhd", ds, k), torch.einsum("hqk,qhd->khd", ds, q)
        d_v = torch.einsum("hqk,qhd->khd", p.to(dtype).double(), grad)
        d_k, d_v = (x.unflatten(1, (-1, group)).sum(2) for x in (d_k, d_v))
        parts.append((out, lse.squeeze(-1), *(x.to(dtype) for x in (d_q, d_k, d_v))))
    out, lse, *gradients = zip(*parts, strict=True)
    return torch.cat(out), torch.cat(lse, 1), *(torch.cat(x) for x in gradients)


def check(found, exact, same):
    """Within twice the error of the same arithmetic in the same dtype; and a unit of bf16's last place, because the
    error of a few numbers may happen to be small."""
    for x, a, b in zip(found, exact, same, strict=True):
        assert x.shape == a.shape
        if x.numel():
            bound = 2 * (b.double() - a).abs().amax() + 2**-7 * a.abs().amax() + 1e-6
            assert bool((x.double() - a).abs().amax() <= bound)


@_random
@given(
    pairs=st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9)), min_size=1, max_size=4).filter(
        lambda pairs: any(queries for queries, _ in pairs)
    ),
    left=st.none() | st.integers(0, 10),
    right=st.none() | st.integers(0, 10),
    spare=st.integers(0, 3),
    heads=st.sampled_from([(1, 1), (4, 2), (3, 1)]),
)
def test_any_lengths_and_windows_against_fp64(gpu, pairs, left, right, spare, heads):
    """Queries and keys of different lengths, empty sequences, generous maxima: all that flash_attn's function takes."""
    gpu.forwards.clear()
    gpu.backwards.clear()
    lengths, key_lengths = (list(x) for x in zip(*pairs, strict=True))
    q, k, v = qkv(*lengths, heads=heads[0], kv_heads=heads[1], keys=key_lengths)
    out, lse, _ = flash_attn_varlen_func(
        *(q, k, v, offsets(*lengths), offsets(*key_lengths), max(lengths) + spare, max(key_lengths) + spare),
        window_size=(-1 if left is None else left, -1 if right is None else right),
        return_attn_probs=True,
    )
    grad = torch.randn_like(out)
    found = torch.autograd.grad(out, (q, k, v), grad)
    assert len(gpu.forwards) == len(gpu.backwards) == (1 if sum(key_lengths) else 0)
    problem = q, k, v, grad, lengths, key_lengths, left, right
    exact, exact_lse, *exact_gradients = by_definition(*problem)
    same, _, *same_gradients = by_definition(*problem, BF16)
    torch.testing.assert_close(lse, exact_lse.float(), rtol=1e-5, atol=1e-5)
    check((out, *found), (exact, *exact_gradients), (same, *same_gradients))


@_random
@given(
    queries=st.integers(1, 9),
    keys=st.integers(1, 9),
    left=st.integers(-1, 10),
    right=st.integers(-1, 10),
    lse=st.booleans(),
)
def test_any_dense_window_against_packed(gpu, queries, keys, left, right, lse):
    """Also those that are left to SDPA, because FlashAttention would misread their windows."""
    q, k, v = (torch.randn(2, n, h, 16).to(BF16) for n, h in ((queries, 4), (keys, 2), (keys, 2)))
    found = flash_attn_func(q, k, v, window_size=(left, right), return_attn_probs=lse)
    bounds = (None if side < 0 else side for side in (left, right))
    packed = (x.flatten(0, 1) for x in (q, k, v, q))
    out, exact_lse, *_ = by_definition(*packed, [queries] * 2, [keys] * 2, *bounds)
    torch.testing.assert_close((found[0] if lse else found).double().flatten(0, 1), out, rtol=2e-2, atol=2e-2)
    if lse:
        torch.testing.assert_close(found[1].transpose(0, 1).flatten(1), exact_lse.float(), rtol=1e-5, atol=1e-5)


def test_what_sdpa_serves_best_stays_there(gpu):
    q, k, v = (torch.randn(2, 8, heads, 16).to(BF16) for heads in (4, 2, 2))
    ops.attention(q, k, v)
    ops.attention(q, k, v, causal=False)
    ops.attention(q, k, v, window=8)  # hides nothing
    ops.attention(q, *(x[:, :5] for x in (k, v)), causal=False)
    assert not gpu.forwards
    # Of these SDPA would need a mask, and keys and values for every query head; or it has no LSE.
    ops.attention(q[:, 5:], k, v)
    ops.attention(q, k, v, window=3)
    flash_attn_func(q, k, v, window_size=(1, 2))
    ops.attention(q, k, v, return_lse=True)
    assert len(gpu.forwards) == 4 and all(x.dense for x in gpu.forwards)


def test_views_of_a_fused_projection_are_not_copied(gpu, monkeypatch):
    """Nor repeated for the query heads of a group: FlashAttention gets the addresses of the views themselves."""
    seen = []
    walkable = flash._walkable
    monkeypatch.setattr(flash, "_walkable", lambda x: (seen.append(walkable(x)), seen[-1])[1])
    fused = torch.randn(1, 8, 8, 16).to(BF16)
    parts = fused.split([4, 2, 2], 2)
    ops.attention(*parts, window=3)
    assert [x.data_ptr() for x in seen] == [x.data_ptr() for x in parts] and len(gpu.forwards) == 1


# What FlashAttention asks of its caller.


def test_empty_sequences_of_single_queries(gpu):
    """One query at most per sequence: FlashAttention must not take them for a batch of groups."""
    q, k, v = qkv(1, 0, 1, 1)
    out = ops.attention(q, k, v, causal=False, cu_seqlens=offsets(1, 0, 1, 1), max_seqlen=1)
    assert torch.equal(out, v.repeat_interleave(2, 1)) and len(gpu.forwards) == 1


def test_no_tokens_and_no_keys(gpu):
    q, k, v = qkv(0, 0)
    out, lse = ops.attention(q, k, v, cu_seqlens=offsets(0, 0), max_seqlen=1, return_lse=True)
    assert out.shape == (0, 4, 16) and lse.shape == (4, 0)
    q, k, v = qkv(2, 1, keys=(0, 0))
    out, lse, _ = flash_attn_varlen_func(q, k, v, offsets(2, 1), offsets(0, 0), 2, 1, return_attn_probs=True)
    assert not out.any() and (lse == -torch.inf).all()
    assert all(not x.any() for x in torch.autograd.grad(out.sum(), (q, k, v)))
    assert not gpu.forwards


def test_strides_and_addresses(gpu):
    """The stand-in takes an address or a stride that 16-byte loads cannot walk for a fault."""
    lengths = offsets(4, 5)
    q, k, v = (x.detach() for x in qkv(4, 5))
    wanted = ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5)

    def moved(x):  # by one element
        return torch.empty(x.numel() + 1, dtype=x.dtype)[1:].view(x.shape).copy_(x)

    def wide(x):  # rows of 17
        return torch.empty(*x.shape[:2], 17, dtype=x.dtype)[..., :16].copy_(x)

    def turned(x):  # the last dimension is not contiguous
        return x.transpose(1, 2).contiguous().transpose(1, 2)

    for change in (moved, wide, turned):
        leaves = [change(x).requires_grad_() for x in (q, k, v)]
        found = ops.attention(*leaves, cu_seqlens=lengths, max_seqlen=5)
        assert torch.equal(found, wanted)
        # An expanded gradient has strides of 0.
        assert all(x.isfinite().all() for x in torch.autograd.grad(found.sum(), leaves))
    every_second = torch.stack((lengths, lengths), 1)[:, 0]
    assert torch.equal(ops.attention(q, k, v, cu_seqlens=every_second, max_seqlen=5), wanted)


def test_gradients_of_another_dtype(gpu):
    """Autocast hands over such gradients."""
    q, k, v = qkv(4, 5)
    out = ops.attention(q, k, v, cu_seqlens=offsets(4, 5), max_seqlen=5)
    out.float().sum().backward()
    assert q.grad.dtype == BF16


def test_queries_that_see_nothing_have_minus_infinity(gpu):
    q, k, v = qkv(5, keys=(2,))
    out, lse, _ = flash_attn_varlen_func(q, k, v, offsets(5), offsets(2), 5, 2, causal=True, return_attn_probs=True)
    assert (lse[:, :3] == -torch.inf).all() and lse[:, 3:].isfinite().all() and not out[:3].any()
    assert not lse.requires_grad


# What it does not serve.


@pytest.mark.parametrize(
    ("capability", "settings", "reason"),
    [
        ((8, 0), {"dtype": torch.float32}, r"float32 \(it takes bfloat16 and float16\)"),
        ((8, 0), {"dim": 264}, r"heads of 264 \(it takes up to 256\)"),
        ((8, 0), {"scale": -1.0}, "a scale that is not above 0"),
        ((8, 0), {"dropout_p": 0.5}, "dropout of the probabilities"),
        ((7, 5), {}, r"compute capability 7\.5 \(it needs 8\.0\)"),
        ((8, 9), {"dim": 200}, r"gradients of heads of 200 on compute capability 8\.9"),
        ((12, 0), {"dim": 224}, r"gradients of heads of 224 on compute capability 12\.0"),
    ],
)
def test_the_last_resort_is_said_once(monkeypatch, caplog, capability, settings, reason):
    """One call for each length, which waits for the GPU."""
    simulate(monkeypatch, capability=capability)
    shape = {key: settings.pop(key) for key in ("dtype", "dim") if key in settings}
    q, k, v = qkv(4, 5, **shape)
    with FlashAttention(capability) as stand_in, caplog.at_level(logging.WARNING, "codeshell"):
        for _ in range(2):
            out = ops.attention(q, k, v, cu_seqlens=offsets(4, 5), max_seqlen=5, **settings)
    assert out.isfinite().all() and not stand_in.forwards
    _, line = (record.getMessage() for record in caplog.records if record.name == "codeshell")
    assert re.search(rf"by a call for each length, which waits for the GPU \(FlashAttention: {reason}\)", line)


@pytest.mark.parametrize(("capability", "dim"), [((8, 6), 192), ((8, 6), 232), ((12, 1), 256), ((10, 0), 224)])
def test_large_heads_that_have_gradients(monkeypatch, capability, dim):
    simulate(monkeypatch, capability=capability)
    with FlashAttention(capability) as stand_in:
        q, k, v = qkv(4, 5, dim=dim)
        ops.attention(q, k, v, cu_seqlens=offsets(4, 5), max_seqlen=5).sum().backward()
        assert len(stand_in.backwards) == 1


def test_a_torch_without_it(monkeypatch, caplog):
    simulate(monkeypatch, capability=(8, 0))
    q, k, v = qkv(4, 5)
    with caplog.at_level(logging.WARNING, "codeshell"):
        out = ops.attention(q, k, v, cu_seqlens=offsets(4, 5), max_seqlen=5)
    assert "no FlashAttention in this build of torch" in caplog.text
    exact, *_ = by_definition(q, k, v, q, [4, 5], [4, 5], None, 0)
    torch.testing.assert_close(out.double(), exact, rtol=2e-2, atol=2e-2)


def test_the_users_own_choice_of_backends_counts(gpu):
    q, k, v = qkv(4, 5)
    with sdpa_kernel(SDPBackend.MATH):
        ops.attention(q, k, v, cu_seqlens=offsets(4, 5), max_seqlen=5)
    assert not gpu.forwards


def test_a_trace_is_refused_and_transforms_are_right(gpu):
    lengths = offsets(4, 5)
    q, k, v = (x.detach() for x in qkv(4, 5))

    def attend(q):
        return ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5)

    with pytest.raises(RuntimeError, match=r"torch\.jit\.trace would keep these lengths"):
        torch.jit.trace(attend, q, check_trace=False)
    _, tangent = torch.func.jvp(attend, (q,), (q,))
    assert tangent.any() and not gpu.forwards
    # Several gradients at once.
    leaf = q.requires_grad_()
    out = attend(leaf)
    grads = torch.stack((torch.ones_like(out), out.detach()))
    found = torch.func.vmap(lambda grad: torch.autograd.grad(out, leaf, grad, retain_graph=True)[0])(grads)
    for x, grad in zip(found, grads, strict=True):
        assert torch.equal(x, torch.autograd.grad(out, leaf, grad, retain_graph=True)[0])
    with pytest.raises(RuntimeError, match="trying to differentiate twice"):
        (gradient,) = torch.autograd.grad(out, leaf, grads[0], create_graph=True)
        torch.autograd.grad(gradient.sum(), leaf)


# Determinism, other implementations.


def test_deterministic_gradients_turn_the_switch_on_for_the_backward_pass_alone(gpu, monkeypatch):
    case = Case("packed", 9, 9, lengths=(4, 5), dim=16)
    q, k, v = inputs(case, "cpu", BF16)
    grad = torch.ones_like(q)
    for wanted in (False, True):
        gradients(case, q, k, v, grad, wanted)
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        gradients(case, q, k, v, grad, True)
        assert torch.is_deterministic_algorithms_warn_only_enabled()
    finally:
        torch.use_deterministic_algorithms(False)
    assert [x.deterministic for x in gpu.backwards] == [False, True, True]
    assert not any(x.deterministic for x in gpu.forwards)

    def fail(*_, **__):
        raise RuntimeError("no memory")

    monkeypatch.setattr(torch.ops.aten, "_flash_attention_backward", fail)
    with pytest.raises(RuntimeError, match="no memory"):
        gradients(case, q, k, v, grad, True)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.fixture
def activated(gpu, monkeypatch):
    """A function that activates another stand-in under a name, as `activate_flash_attention_impl("FA3")` does it: by
    kernels for the same operations of ATen."""
    attention = torch.nn.attention
    if not hasattr(attention, "activate_flash_attention_impl"):
        pytest.skip("a torch without this switch")
    other = FlashAttention()

    class Handle:
        def remove(self):
            other.__exit__()

    def activate(name):
        monkeypatch.setitem(attention._registry._FLASH_ATTENTION_IMPLS, name, lambda: (other.__enter__(), Handle())[1])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch tells of the kernel that is replaced
            attention.activate_flash_attention_impl(name)
        assert flash.implementation() == name
        return other

    yield activate
    attention.restore_flash_attention_impl(_raise_warn=False)
    assert flash.implementation() == "FA2"


@pytest.mark.parametrize("name", ["FA3", "FA4"])
def test_an_activated_implementation_takes_the_calls(gpu, activated, monkeypatch, name):
    monkeypatch.setattr(devices, "simulated", devices.simulated._replace(capability=(9, 0)))
    other = activated(name)
    q, k, v = qkv(4, 0, 5)
    ops.attention(q, k, v, cu_seqlens=offsets(4, 0, 5), max_seqlen=5, window=2).sum().backward()
    compiled = torch.compile(ops.attention, fullgraph=True, backend="aot_eager")
    compiled(q, k, v, cu_seqlens=offsets(4, 0, 5), max_seqlen=5)
    assert len(other.forwards) == 2 and len(other.backwards) == 1 and not gpu.forwards


@pytest.mark.parametrize(
    ("name", "capability", "dim", "deterministic", "reason"),
    [
        ("FA3", (9, 0), 256, False, None),
        ("FA3", (9, 0), 192, True, None),
        ("FA3", (9, 0), 200, True, "deterministic gradients of heads of 200 by FA3"),
        ("FA3", (8, 0), 64, False, "FA3, which was activated, on compute capability 8.0"),
        ("FA4", (9, 0), 256, True, None),
        ("FA4", (10, 0), 128, True, None),
        ("FA4", (10, 3), 192, False, "heads of 192 by FA4 on compute capability 10.3"),
        ("FA4", (12, 0), 64, False, "FA4, which was activated, on compute capability 12.0"),
        ("OTHER", (12, 0), 64, False, None),
    ],
)
def test_limits_of_what_is_activated(activated, monkeypatch, name, capability, dim, deterministic, reason):
    monkeypatch.setattr(devices, "simulated", devices.simulated._replace(capability=capability))
    activated(name)
    assert flash.missing_for(torch.device("cpu"), BF16, dim, True, deterministic) == reason


# Nothing waits, and everything can be traced.


def test_nothing_waits_for_the_gpu(gpu, monkeypatch):
    """Neither packed sequences, nor keys of other lengths, nor a window, nor the backward pass."""
    q, k, v = qkv(4, 5)
    q2, k2, v2 = qkv(4, 5, keys=(3, 7))
    lengths, key_lengths, equal = offsets(4, 5), offsets(3, 7), offsets(4, 5)
    found = note(monkeypatch)
    ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5, return_lse=True)
    ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5, window=2, deterministic=True).sum().backward()
    flash_attn_varlen_func(q, k, v, lengths, equal, 5, 5, causal=True).sum().backward()
    flash_attn_varlen_func(q2, k2, v2, lengths, key_lengths, 5, 7, window_size=(2, 1)).sum().backward()
    assert found == [] and len(gpu.forwards) == 4 and len(gpu.backwards) == 3


def test_the_notes_of_waits_see_the_last_resort(monkeypatch):
    """The proof of the test before: without FlashAttention the lengths are looked at."""
    simulate(monkeypatch, capability=(8, 0))
    q, k, v = qkv(4, 5)
    lengths = offsets(4, 5)
    found = note(monkeypatch)
    ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5)
    assert "ops/sdpa.py:packed calls tolist" in found


def test_the_same_offsets_are_compared_only_where_the_kernels_are(monkeypatch):
    simulate(monkeypatch, capability=(9, 0))
    q, k, v = (x.detach() for x in qkv(4, 5, dtype=torch.float64))
    lengths, equal = offsets(4, 5), offsets(4, 5)
    found = note(monkeypatch)
    flash_attn_varlen_func(q, k, v, lengths, equal, 5, 5)
    assert any("flash_attn.py:_same calls equal" in x for x in found)


@pytest.mark.parametrize("arguments", [{}, {"window": 2}, {"return_lse": True}, {"deterministic": True}])
def test_compiles_into_one_graph(gpu, arguments):
    lengths = offsets(4, 5)
    q, k, v = qkv(4, 5)

    def attend(q, k, v, lengths):
        found = ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5, **arguments)
        return found if isinstance(found, tuple) else (found,)

    wanted = attend(q, k, v, lengths)
    grads = torch.autograd.grad(wanted[0].sum(), (q, k, v))
    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend="aot_eager")
    found = compiled(q, k, v, lengths)
    for a, b in zip((*wanted, *grads), (*found, *torch.autograd.grad(found[0].sum(), (q, k, v))), strict=True):
        assert torch.equal(a, b)
    assert len(gpu.forwards) == len(gpu.backwards) == 2
    assert [x.deterministic for x in gpu.backwards] == [arguments.get("deterministic", False)] * 2


def test_one_graph_for_all_lengths(gpu):
    """Other lengths, other numbers of tokens and sequences: the graph of the second call serves the third."""
    graphs = []

    def count(graph, _):
        graphs.append(graph)
        return graph

    def attend(q, k, v, lengths, longest):
        return ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=longest)

    torch.compiler.reset()
    compiled = torch.compile(attend, fullgraph=True, backend=count, dynamic=True)
    for lengths in ((4, 5), (3, 8, 2), (7, 6, 2, 9)):
        q, k, v = (x.detach() for x in qkv(*lengths))
        out = compiled(q, k, v, offsets(*lengths), max(lengths))
        assert torch.equal(out, attend(q, k, v, offsets(*lengths), max(lengths)))
    assert len(graphs) == 1


def test_fake_tensors_of_a_gpu_give_shapes(gpu):
    with FakeTensorMode():
        q, k, v = (torch.empty(9, heads, 16, dtype=BF16, device="cuda") for heads in (4, 2, 2))
        lengths = torch.empty(3, dtype=torch.int32, device="cuda")
        out, lse = ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5, return_lse=True)
        assert out.shape == q.shape and lse.shape == (4, 9) and lse.dtype == torch.float32
        assert out.device.type == "cuda"


@pytest.mark.parametrize("packed", [True, False])
@pytest.mark.parametrize("dim", [16, 20])
def test_opcheck(gpu, packed, dim):
    q, k, v = (x.detach() for x in qkv(4, 5, dim=dim))
    facts = (offsets(4, 5), None, 5, 5, 3, 0, 0.25) if packed else (None, None, 0, 0, 3, 0, 0.25)
    if not packed:
        q, k, v = (x[None].transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v))
    torch.library.opcheck(torch.ops.codeshell.flash_forward.default, (q, k, v, *facts))
    out, lse = torch.ops.codeshell.flash_forward(q, k, v, *facts)
    arguments = (torch.ones_like(out), out, lse, q, k, v, *facts, True)
    torch.library.opcheck(torch.ops.codeshell.flash_backward.default, arguments)


# The stand-in itself.


def test_the_stand_in_runs_varlen_attn(gpu):
    """The public function of torch, on the same kernels: it gives what `attention` gives."""
    varlen = pytest.importorskip("torch.nn.attention.varlen")
    if "enable_gqa" not in inspect.signature(varlen.varlen_attn).parameters:
        pytest.skip("a torch whose varlen_attn has other arguments")
    q, k, v = qkv(4, 0, 5)
    lengths = offsets(4, 0, 5)
    theirs = varlen.varlen_attn(q, k, v, lengths, lengths, 5, 5, window_size=(-1, 0), enable_gqa=True)
    ours = ops.attention(q, k, v, cu_seqlens=lengths, max_seqlen=5)
    assert torch.equal(theirs, ours)
    for a, b in zip(*(torch.autograd.grad(x.sum(), (q, k, v)) for x in (theirs, ours)), strict=True):
        assert torch.equal(a, b)


def call(q, k, v, *facts, **named):
    return torch.ops.aten._flash_attention_forward(q, k, v, *facts, 0.0, False, False, **named)


def test_the_stand_in_refuses_what_flash_attention_refuses(gpu):
    q, k, v = (x.detach() for x in qkv(4, 5))
    lengths = offsets(4, 5)
    with pytest.raises(RuntimeError, match="only support fp16 and bf16"):
        call(q.float(), k.float(), v.float(), lengths, lengths, 5, 5)
    with pytest.raises(RuntimeError, match="multiple of 8"):
        call(*(x[..., :12] for x in (q, k, v)), lengths, lengths, 5, 5)
    with pytest.raises(RuntimeError, match="contiguous last dimension"):
        call(q.transpose(1, 2).contiguous().transpose(1, 2), k, v, lengths, lengths, 5, 5)
    with pytest.raises(RuntimeError, match="int32"):
        call(q, k, v, lengths.long(), lengths, 5, 5)
    with pytest.raises(RuntimeError, match="at most 256"):
        call(*(x.repeat(1, 1, 17) for x in (q, k, v)), lengths, lengths, 5, 5)
    with pytest.raises(RuntimeError, match="invalid for input of this size"):
        call(q[:2], k[:2], v[:2], offsets(1, 0, 1), offsets(1, 0, 1), 1, 1)
    with pytest.raises(RuntimeError, match="divisible by 256"):
        pages = torch.zeros(2, 1, dtype=torch.int32)
        used = torch.ones(2, dtype=torch.int32)
        call(q, *(x.view(1, 9, 2, 16) for x in (k, v)), lengths, lengths, 5, 5, seqused_k=used, block_table=pages)
    with pytest.raises(AssertionError, match="misaligned"):
        call(torch.empty(9 * 64 + 1, dtype=BF16)[1:].view(9, 4, 16), k, v, lengths, lengths, 5, 5)
    assert not gpu.forwards


def test_the_stand_in_has_the_quirks(gpu):
    q, k, v = (x.detach() for x in qkv(5, keys=(2,)))
    # A window that is larger than the keys is none, though it hides keys from the first queries.
    _, lse, *_ = call(q, k, v, offsets(5), offsets(2), 5, 2, window_size_right=2)
    assert lse.isfinite().all()
    _, lse, *_ = call(q, k, v, offsets(5), offsets(2), 5, 5, window_size_right=2)
    assert (lse[:, 0] == torch.inf).all()
    # Rows that the grid does not reach.
    out, *_ = call(q, k, v, offsets(5), offsets(2), 3, 2)
    assert out[3:].isnan().all() and out[:3].isfinite().all()
    # Pages, and how many keys of each sequence count.
    pool = torch.randn(3, 256, 2, 16).to(BF16)
    table = torch.tensor([[2, 0], [1, 1]], dtype=torch.int32)
    used = torch.tensor([300, 7], dtype=torch.int32)
    paged, *_ = call(q, pool, pool, offsets(2, 3), offsets(0, 0), 3, 512, seqused_k=used, block_table=table)
    for rows, keys in ((slice(0, 2), torch.cat((pool[2], pool[0]))[:300]), (slice(2, 5), pool[1][:7])):
        alone, *_ = call(q[rows].contiguous(), keys, keys, offsets(rows.stop - rows.start), offsets(len(keys)), 3, 512)
        assert torch.equal(paged[rows], alone)


def test_it_is_gone_after_the_context():
    q, k, v = (x.detach() for x in qkv(4, 5))
    with FlashAttention():
        assert flash.built
    assert flash.built == torch.backends.cuda.is_flash_attention_available()
    with pytest.raises(NotImplementedError):
        call(q, k, v, offsets(4, 5), offsets(4, 5), 5, 5)
