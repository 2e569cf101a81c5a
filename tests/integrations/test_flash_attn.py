"""flash-attn's three functions by codeshell: its signatures, its semantics as documented, and what is refused."""

from __future__ import annotations

import inspect
import itertools
import logging

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import ops
from codeshell.integrations import flash_attn
from codeshell.integrations.flash_attn import flash_attn_func, flash_attn_varlen_func, flash_attn_with_kvcache
from codeshell.ops import library, sdpa

INF = float("inf")


def random(*shape, seed=0, dtype=torch.float32):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed + sum(shape))).to(dtype)


def qkv(queries, keys, heads=4, kv_heads=2, dim=32, batch=2, seed=0, dtype=torch.float32):
    shapes = [(batch, queries, heads, dim), (batch, keys, kv_heads, dim), (batch, keys, kv_heads, dim)]
    return [random(*shape, seed=seed + i, dtype=dtype).requires_grad_() for i, shape in enumerate(shapes)]


def visible(queries, keys, causal=False, window=(-1, -1)):
    """From flash-attn's documentation: query i sees the keys from i + keys - queries - left to … + right."""
    left, right = window
    place = torch.arange(queries)[:, None] + keys - queries
    key = torch.arange(keys)[None]
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if left >= 0:
        seen &= key >= place - left
    if right >= 0:
        seen &= key <= place + right
    return seen & (key <= place) if causal else seen


def reference(q, k, v, seen, scale=None):
    """(out, lse) in fp64, written out; zeros and minus infinity where a query sees nothing."""
    group = q.shape[2] // k.shape[2]
    q, k, v = (x.double().transpose(1, 2) for x in (q, k.repeat_interleave(group, 2), v.repeat_interleave(group, 2)))
    scores = (q @ k.transpose(2, 3) * (q.shape[-1] ** -0.5 if scale is None else scale)).masked_fill(~seen, -INF)
    some = seen.any(-1)[:, None]
    probability = torch.softmax(torch.where(some, scores, 0.0), -1) * some
    return (probability @ v).transpose(1, 2), torch.logsumexp(scores.detach(), -1)


def close(a, b, bound=2e-5):
    a, b = a.detach().double(), b.detach().double()
    infinite = torch.isinf(b)
    assert torch.equal(a[infinite], b[infinite])
    return a.shape == b.shape and float((a - b)[~infinite].abs().max() if (~infinite).any() else 0.0) < bound


SIGNATURES = {  # names, in order, and defaults, of flash-attn 2
    flash_attn_func: "q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, "
    "alibi_slopes=None, deterministic=False, return_attn_probs=False",
    flash_attn_varlen_func: "q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, dropout_p=0.0, "
    "softmax_scale=None, causal=False, window_size=(-1, -1), softcap=0.0, alibi_slopes=None, deterministic=False, "
    "return_attn_probs=False, block_table=None",
    flash_attn_with_kvcache: "q, k_cache, v_cache, k=None, v=None, rotary_cos=None, rotary_sin=None, "
    "cache_seqlens=None, cache_batch_idx=None, cache_leftpad=None, block_table=None, softmax_scale=None, causal=False, "
    "window_size=(-1, -1), softcap=0.0, rotary_interleaved=True, alibi_slopes=None, num_splits=0, "
    "return_softmax_lse=False",
}


@pytest.mark.parametrize("function", SIGNATURES, ids=lambda function: function.__name__)
def test_signatures_are_those_of_flash_attn(function):
    parameters = inspect.signature(function).parameters.values()
    bare = [p.replace(annotation=inspect.Parameter.empty) for p in parameters]
    assert str(inspect.Signature(bare)) == f"({SIGNATURES[function]})"
    assert set(flash_attn.__all__) == {f.__name__ for f in SIGNATURES}


def test_the_masks_of_the_documentation():
    """Causal with 2 queries and 5 keys, and 5 queries and 2 keys, as flash-attn's docstring draws them."""
    for queries, keys, drawing in [(2, 5, "11110 11111"), (5, 2, "00 00 00 10 11")]:
        q, k, _ = qkv(queries, keys, batch=1, heads=1, kv_heads=1)
        v = torch.eye(keys, 32).view(1, keys, 1, 32)  # the output is the probabilities
        out = flash_attn_func(q, k, v, causal=True)[0, :, 0, :keys].detach()
        assert [[int(x) for x in row] for row in (out > 0).tolist()] == [[int(x) for x in r] for r in drawing.split()]


WINDOWS = st.sampled_from([(-1, -1), (-1, 0), (5, 0), (0, 0), (3, 4), (-1, 3), (6, -1), (500, 500), (500, 0), (0, 2)])


@settings(max_examples=80, deadline=None)
@given(
    queries=st.integers(1, 40),
    keys=st.integers(1, 40),
    causal=st.booleans(),
    window=WINDOWS,
    heads=st.sampled_from([(4, 2), (3, 1), (2, 2)]),
    dim=st.sampled_from([16, 24]),
    scale=st.sampled_from([None, 0.3]),
)
def test_outputs_lse_and_gradients_against_fp64(queries, keys, causal, window, heads, dim, scale):
    q, k, v = qkv(queries, keys, *heads, dim)
    arguments = {"causal": causal, "window_size": window, "softmax_scale": scale}
    want, want_lse = reference(q, k, v, visible(queries, keys, causal, window), scale)
    out = flash_attn_func(q, k, v, **arguments)
    again, lse, probabilities = flash_attn_func(q, k, v, return_attn_probs=True, **arguments)
    assert close(out, want) and close(again, want) and close(lse, want_lse)
    assert lse.dtype == torch.float32 and probabilities.numel() == 0
    upstream = random(*out.shape, seed=7)
    wanted = torch.autograd.grad(want, (q, k, v), upstream.double())
    for result in (out, again):
        for mine, right in zip(torch.autograd.grad(result, (q, k, v), upstream), wanted, strict=True):
            assert close(mine, right)


@settings(max_examples=50, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=5),
    alike=st.booleans(),
    causal=st.booleans(),
    window=WINDOWS,
    probs=st.booleans(),
)
def test_packed_sequences_against_each_alone(lengths, alike, causal, window, probs):
    lengths = [(a, a) for a, _ in lengths] if alike else lengths
    totals = [sum(side) for side in zip(*lengths, strict=True)]
    q, k, v = (x[0].detach().requires_grad_() for x in qkv(*totals, batch=1))
    sides = list(zip(*lengths, strict=True))
    offsets = [torch.tensor([0, *itertools.accumulate(side)], dtype=torch.int32) for side in sides]
    longest = [max(side) for side in sides]
    arguments = {"causal": causal, "window_size": window, "return_attn_probs": probs}
    result = flash_attn_varlen_func(q, k, v, *offsets, *longest, **arguments)
    out, lse = (result[0], result[1]) if probs else (result, None)
    parts, lses = [], []
    for (a, b), (queries, keys) in zip(zip(*(o.tolist() for o in offsets), strict=False), lengths, strict=False):
        rows = slice(a, a + queries), slice(b, b + keys)
        part = reference(q[None, rows[0]], k[None, rows[1]], v[None, rows[1]], visible(queries, keys, causal, window))
        parts.append(part[0][0])
        lses.append(part[1][0])
    want = torch.cat(parts)
    assert close(out, want)
    assert lse is None or (close(lse, torch.cat(lses, 1)) and lse.shape == (4, totals[0]))
    if totals[0] and totals[1]:
        upstream = random(*out.shape, seed=7)
        mine = torch.autograd.grad(out, (q, k, v), upstream)
        for a, b in zip(mine, torch.autograd.grad(want, (q, k, v), upstream.double()), strict=True):
            assert close(a, b)


def test_sequences_that_attend_to_themselves_reach_the_kernel(monkeypatch):
    """Whether the offsets are one tensor, two names of one memory, or equal."""
    q, k, v = (x[0] for x in qkv(30, 30, batch=1))
    offsets = torch.tensor([0, 11, 30], dtype=torch.int32)
    monkeypatch.setattr(sdpa, "packed", None)
    want = ops.attention(q, k, v, cu_seqlens=offsets, max_seqlen=19)
    for other in (offsets, offsets.view(3), offsets.clone()):
        assert torch.equal(flash_attn_varlen_func(q, k, v, offsets, other, 19, 19, causal=True), want)
    out = flash_attn_varlen_func(q, k, v, offsets, offsets, 19, 19, causal=True, window_size=(3, 9))
    assert torch.equal(out, ops.attention(q, k, v, cu_seqlens=offsets, max_seqlen=19, window=4))
    monkeypatch.setattr(sdpa, "dense", None)
    dense = [x[None] for x in (q, k, v)]
    assert torch.equal(flash_attn_func(*dense, causal=True), ops.attention(*dense))
    assert torch.equal(flash_attn_func(*dense), ops.attention(*dense, causal=False))
    assert torch.equal(flash_attn_func(*dense, window_size=(4, 0)), ops.attention(*dense, window=5))
    assert torch.equal(flash_attn_func(*dense, window_size=(29, 29)), ops.attention(*dense, causal=False))


def test_keys_in_pages():
    q, k, v = (x[0] for x in qkv(9, 60, batch=1))
    lengths, size = [17, 0, 23, 20], 8
    offsets = torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)
    query_offsets = torch.tensor([0, 3, 5, 9, 9], dtype=torch.int32)
    want = flash_attn_varlen_func(q, k, v, query_offsets, offsets, 4, 23, causal=True)
    table = torch.randperm(16, generator=torch.Generator().manual_seed(0)).view(4, 4)[:, :3].to(torch.int32)
    pages = torch.full((2, 16, size, 2, 32), torch.nan)
    for row, (start, length) in enumerate(zip(offsets.tolist(), lengths, strict=False)):
        for place in range(length):
            where = int(table[row, place // size]), place % size
            pages[0][where], pages[1][where] = k[start + place], v[start + place]
    pages.requires_grad_()
    out = flash_attn_varlen_func(q, *pages, query_offsets, offsets, 4, 23, causal=True, block_table=table)
    assert torch.equal(out, want)
    (gradient,) = torch.autograd.grad(out.sum(), pages)
    assert close(gradient.sum((1, 2)), torch.stack([x.sum(0) for x in torch.autograd.grad(want.sum(), (k, v))]), 1e-4)
    table[2, 1] = 16
    with pytest.raises(ValueError, match="block_table has entries from 2 to 16, but k has the pages 0 to 15"):
        flash_attn_varlen_func(q, *pages, query_offsets, offsets, 4, 23, block_table=table)
    with pytest.raises(ValueError, match="sequences of 0 to 23 keys; block_table holds 2 pages of 8"):
        flash_attn_varlen_func(q, *pages, query_offsets, offsets, 4, 23, block_table=table[:, :2])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("window", [(-1, -1), (20, 0), (9, 9)])
def test_16_bits_are_within_twice_the_error_of_torch(dtype, window):
    q, k, v = qkv(65, 65, dtype=dtype)
    seen = visible(65, 65, window=window)
    out = flash_attn_func(q, k, v, window_size=window)
    wide = [x.detach().double().requires_grad_() for x in (q, k, v)]
    want, _ = reference(*wide, seen)
    heads = [x.transpose(1, 2) for x in (q, *(x.repeat_interleave(2, 2) for x in (k, v)))]
    peer = torch.nn.functional.scaled_dot_product_attention(*heads, attn_mask=seen).transpose(1, 2)
    upstream = random(*out.shape, seed=7, dtype=dtype)
    wanted = [want, *torch.autograd.grad(want, wide, upstream.double())]
    for mine, theirs, right in zip(
        [out, *torch.autograd.grad(out, (q, k, v), upstream)],
        [peer, *torch.autograd.grad(peer, (q, k, v), upstream)],
        wanted,
        strict=True,
    ):
        assert mine.dtype == dtype
        assert (mine.double() - right).abs().max() <= 2 * (theirs.double() - right).abs().max() + 1e-6


def test_dropout_zeroes_and_scales():
    q, k, v = qkv(20, 20)
    torch.manual_seed(0)
    for arguments in ({}, {"causal": True}, {"window_size": (3, 3)}):
        want = flash_attn_func(q, k, v, **arguments).detach()
        drawn = torch.stack([flash_attn_func(q, k, v, 0.2, **arguments).detach() for _ in range(200)])
        assert not torch.equal(drawn[0], drawn[1]) and float((drawn.mean(0) - want).abs().mean()) < 0.05


@pytest.mark.parametrize("arguments", [{"causal": True}, {"window_size": (4, 2), "return_attn_probs": True}])
def test_torch_compile(arguments):
    q, k, v = qkv(12, 12, dim=16)
    results = []
    for function in (flash_attn_func, torch.compile(flash_attn_func, backend="aot_eager", fullgraph=True)):
        result = function(q, k, v, **arguments)
        out, *rest = result if "return_attn_probs" in arguments else (result,)
        results.append([out, *rest[:1], *torch.autograd.grad(out.square().sum(), (q, k, v))])
    assert all(close(a, b) for a, b in zip(*results, strict=True))
    torch.compiler.reset()


def test_what_torch_takes_is_said_once(caplog, monkeypatch):
    monkeypatch.setattr(library, "_said", set())
    q, k, v = qkv(12, 12)
    offsets = torch.tensor([0, 12], dtype=torch.int32)
    flat = [x[0] for x in (q, k, v)]
    with caplog.at_level(logging.WARNING, "codeshell"):
        for _ in range(2):
            flash_attn_func(q, k, v, causal=True)
            flash_attn_varlen_func(*flat, offsets, offsets.clone(), 12, 12)
        assert not caplog.records  # a kernel serves these
        for _ in range(2):
            flash_attn_func(q, k, v, window_size=(2, 1))
            flash_attn_varlen_func(*flat, offsets, offsets, 12, 12, window_size=(2, 1))
            flash_attn_varlen_func(flat[0][:6], *flat[1:], offsets // 2, offsets, 6, 12)
    lines = [record.getMessage() for record in caplog.records]
    serves = "PyTorch takes what no kernel of codeshell serves"
    assert [line.split(" (said once")[0] for line in lines] == [
        f"flash_attn_func: {serves}: a window_size that is not causal",
        f"flash_attn_varlen_func: {serves}: a window_size that is not causal",
        f"flash_attn_varlen_func: {serves}: cu_seqlens_k other than cu_seqlens_q",
    ]


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"softcap": 30.0}, NotImplementedError, "softcap is 30.0"),
        ({"alibi_slopes": torch.ones(4)}, NotImplementedError, "alibi_slopes"),
        ({"dropout_p": 0.1, "return_attn_probs": True}, NotImplementedError, "return_attn_probs with dropout_p 0.1"),
        ({"dropout_p": 1.0, "window_size": (2, 2)}, ValueError, "dropout_p is 1.0"),
        ({"window_size": 4}, ValueError, "window_size is 4: must be two ints"),
        ({"window_size": (4,)}, ValueError, "window_size is \\(4,\\)"),
        ({"window_size": (4, None)}, ValueError, "window_size is \\(4, None\\)"),
        ({"q": torch.zeros(2, 8, 3, 32), "window_size": (2, 2)}, ValueError, "q has 3 heads .* multiple of the 2"),
        ({"q": torch.zeros(1, 8, 4, 32)}, ValueError, "q \\(1, 8, 4, 32\\), k \\(2, 8, 2, 32\\)"),
        ({"q": torch.zeros(2, 8, 4, 32).half()}, ValueError, "q is torch.float16, k torch.float32"),
        ({"v": torch.zeros(2, 9, 2, 32)}, ValueError, "v \\(2, 9, 2, 32\\)"),
        (
            {"k": torch.zeros(2, 8, 2, 32, device="meta")},
            ValueError,
            r"k \(2, .*\) is on meta, q \(2, .*\) on cpu",
        ),
        ({"q": torch.zeros(16, 4, 32)}, ValueError, "must be \\(batch, seq, heads, dim\\)"),
    ],
)
def test_bad_arguments_are_named(change, error, message):
    arguments = {"q": torch.zeros(2, 8, 4, 32), "k": torch.zeros(2, 8, 2, 32), "v": torch.zeros(2, 8, 2, 32)} | change
    with pytest.raises(error, match=message):
        flash_attn_func(**arguments)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cu_seqlens_q": torch.tensor([0, 4, 9], dtype=torch.int32)}, "cu_seqlens_q must rise from 0 to the 8 tokens"),
        ({"cu_seqlens_k": torch.tensor([0, 4, 7], dtype=torch.int32)}, "cu_seqlens_k must rise from 0 to the 8 tokens"),
        ({"cu_seqlens_k": torch.tensor([0, 8], dtype=torch.int32), "max_seqlen_k": 8}, "must be of as many sequences"),
        ({"cu_seqlens_q": torch.tensor([0, 4, 8])}, "cu_seqlens_q \\(3,\\) torch.int64: must be int32"),
        ({"cu_seqlens_q": torch.tensor([0, 6, 4, 8], dtype=torch.int32)}, "cu_seqlens_q must rise"),
        (
            {"cu_seqlens_q": torch.zeros(3, dtype=torch.int32, device="meta")},
            r"cu_seqlens_q \(3,\) is on meta, q \(8, 4, 32\) on cpu",
        ),
        ({"cu_seqlens_q": None}, "cu_seqlens_q is a NoneType: must be an int32 tensor"),
        ({"cu_seqlens_k": [0, 4, 8]}, "cu_seqlens_k is a list: must be an int32 tensor"),
        ({"max_seqlen_q": 3}, "max_seqlen_q is 3, but a sequence has 4 tokens"),
        ({"max_seqlen_k": 3}, "max_seqlen_k is 3, but a sequence has 4 tokens"),
        ({"k": torch.zeros(8, 3, 32), "v": torch.zeros(8, 3, 32)}, "not a multiple of the 3"),
        ({"q": torch.zeros(1, 8, 4, 32)}, "must be \\(total, heads, dim\\)"),
        ({"block_table": torch.zeros(2, 1, dtype=torch.int32)}, "with block_table both must be"),
    ],
)
def test_bad_packed_arguments_are_named(change, message):
    offsets = torch.tensor([0, 4, 8], dtype=torch.int32)
    arguments = {"q": torch.zeros(8, 4, 32), "k": torch.zeros(8, 2, 32), "v": torch.zeros(8, 2, 32)}
    arguments |= {"cu_seqlens_q": offsets, "cu_seqlens_k": offsets, "max_seqlen_q": 4, "max_seqlen_k": 4} | change
    with pytest.raises(ValueError, match=message):
        flash_attn_varlen_func(**arguments)


def test_strides_do_not_matter():
    """Heads first, a slice of a fused projection, an expanded head, keys with a step: as contiguous copies."""
    fused = random(2, 10, 8, 32)
    step = random(2, 20, 2, 64)[:, ::2, :, ::2]
    for q, k, v in [
        (fused[:, :, :4], fused[:, :, 4:6], fused[:, :, 6:]),
        tuple(random(2, heads, 10, 32).transpose(1, 2) for heads in (4, 2, 2)),
        (fused[:, :, :4], fused[:, :, 4:5].expand(2, 10, 2, 32), step),
    ]:
        for arguments in ({"causal": True}, {"window_size": (3, 3)}):
            out = flash_attn_func(q, k, v, **arguments)
            assert torch.equal(out, flash_attn_func(*(x.contiguous() for x in (q, k, v)), **arguments))


def cached(queries, new, lengths, seed=0, capacity=32, rows=None, dtype=torch.float32):
    """q, k, v and caches for rows of such lengths; NaN lies in the caches after them."""
    batch = len(lengths)
    q = random(batch, queries, 4, 32, seed=seed, dtype=dtype)
    k, v = (random(batch, new, 2, 32, seed=seed + i, dtype=dtype) for i in (1, 2))
    caches = [torch.full((rows or batch, capacity, 2, 32), torch.nan, dtype=dtype) for _ in range(2)]
    for cache in caches:
        for row, length in enumerate(lengths):
            cache[row, :length] = random(length, 2, 32, seed=seed + row, dtype=dtype)
    return q, k, v, *caches


def turned(x, start, cos, sin, interleaved):
    """Rotary embedding as flash-attn documents it: (new, heads, dim) at positions start, start + 1, …, in fp64."""
    half = cos.shape[1]
    cos, sin = (table.double()[start : start + len(x), None] for table in (cos, sin))
    x, rest = x.double()[..., : 2 * half], x.double()[..., 2 * half :]
    a, b = (x[..., ::2], x[..., 1::2]) if interleaved else (x[..., :half], x[..., half:])
    a, b = a * cos - b * sin, a * sin + b * cos
    x = torch.stack((a, b), -1).flatten(-2) if interleaved else torch.cat((a, b), -1)
    return torch.cat((x, rest), -1)


@settings(max_examples=60, deadline=None)
@given(
    lengths=st.lists(st.integers(0, 20), min_size=1, max_size=3),
    queries=st.integers(1, 4),
    appended=st.booleans(),
    rotated=st.sampled_from([None, (8, True), (8, False), (16, False)]),
    causal=st.booleans(),
    window=st.sampled_from([(-1, -1), (6, 0), (0, 0), (40, 40)]),
    where=st.sampled_from(["rows", "index", "pages"]),
)
def test_a_cache_against_each_row_alone(lengths, queries, appended, rotated, causal, window, where):
    rotated = rotated if appended and (causal or window == (6, 0) or queries == 1) else None
    batch, new = len(lengths), queries if appended else 0
    q, k, v, k_cache, v_cache = cached(queries, queries, lengths)
    seqlens = torch.tensor(lengths, dtype=torch.int32)
    arguments = {"causal": causal, "window_size": window, "cache_seqlens": seqlens, "return_softmax_lse": True}
    if rotated:
        angles = random(40, rotated[0], seed=9)
        arguments |= {"rotary_cos": angles.cos(), "rotary_sin": angles.sin(), "rotary_interleaved": rotated[1]}
    caches = [k_cache.clone(), v_cache.clone()]
    if where == "index":  # other rows between them
        index = torch.tensor([4, 1, 3][:batch], dtype=torch.int32)
        caches = [torch.full((5, 32, 2, 32), torch.nan).index_copy(0, index.long(), cache) for cache in caches]
        arguments["cache_batch_idx"] = index
    elif where == "pages":
        table = torch.randperm(4 * batch, generator=torch.Generator().manual_seed(1)).view(batch, 4)
        pages = torch.empty(2, 4 * batch, 8, 2, 32)
        for page, cache in zip(pages, caches, strict=True):
            page[table] = cache.view(batch, 4, 8, 2, 32)
        caches, arguments["block_table"] = list(pages), table.to(torch.int32)
    before = [cache.clone() for cache in caches]
    out, lse = flash_attn_with_kvcache(q, *caches, *((k, v) if appended else ()), **arguments)
    for row, length in enumerate(lengths):
        end, one, fresh = length + new, q[row], k[row]
        if rotated:
            one, fresh = (turned(x, length, angles.cos(), angles.sin(), rotated[1]) for x in (one, fresh))
        keys, values = k_cache[row, :length].double(), v_cache[row, :length]
        if appended:
            keys, values = torch.cat((keys, fresh.double())), torch.cat((values, v[row]))
        want, want_lse = reference(one[None], keys[None], values[None], visible(queries, end, causal, window))
        assert close(out[row], want[0]) and close(lse[row], want_lse[0])
        held = {
            "rows": lambda cache, row: cache[row],
            "index": lambda cache, row: cache[[4, 1, 3][row]],
            "pages": lambda cache, row: cache[table[row]].flatten(0, 1),
        }[where]
        assert close(held(caches[0], row)[:end], keys, 1e-5) and torch.equal(held(caches[1], row)[:end], values)
    if not appended:
        assert all(torch.equal(a.nan_to_num(), b.nan_to_num()) for a, b in zip(before, caches, strict=True))


def test_a_cache_without_lengths_is_full():
    q, _, _, k_cache, v_cache = cached(1, 1, [32, 32])
    want = flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=32, causal=True)
    lengths = torch.full((2,), 32, dtype=torch.int32)
    assert torch.equal(flash_attn_with_kvcache(q, k_cache, v_cache), want)
    assert torch.equal(flash_attn_with_kvcache(q, k_cache, v_cache, cache_seqlens=lengths, num_splits=4), want)
    assert torch.equal(flash_attn_with_kvcache(q, k_cache, v_cache, softmax_scale=32**-0.5), want)
    assert close(flash_attn_func(q, k_cache, v_cache, causal=True), want)
    # No key is after the one query, so this window is causal.
    causal = flash_attn_with_kvcache(q, k_cache, v_cache, window_size=(5, 0), causal=True)
    assert torch.equal(flash_attn_with_kvcache(q, k_cache, v_cache, window_size=(5, 7)), causal)


ROWS = torch.zeros(2, dtype=torch.int32)
TABLE = {"rotary_cos": torch.ones(32, 8), "rotary_sin": torch.zeros(32, 8)}
NEW = {"k": torch.zeros(2, 3, 2, 32), "v": torch.zeros(2, 3, 2, 32)}


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"softcap": 1.0}, NotImplementedError, "softcap"),
        ({"alibi_slopes": torch.ones(4)}, NotImplementedError, "alibi_slopes"),
        ({"cache_leftpad": torch.zeros(2, dtype=torch.int32)}, NotImplementedError, "cache_leftpad"),
        ({"causal": False, "window_size": (4, 4)}, NotImplementedError, "window_size is \\(4, 4\\) with 3 queries"),
        ({"causal": False, "window_size": (4, -1)}, NotImplementedError, "window_size is \\(4, -1\\) with 3 queries"),
        (NEW | TABLE | {"causal": False}, NotImplementedError, "rotary_cos without causal, of 3 queries"),
        (NEW | {"v": None}, ValueError, "k and v go together"),
        (NEW | TABLE | {"rotary_sin": None}, ValueError, "rotary_cos and rotary_sin go together"),
        (TABLE, ValueError, "q has 3 tokens, k is missing"),
        ({k: x[:, :2] for k, x in NEW.items()} | TABLE, ValueError, "q has 3 tokens, k has 2"),
        (NEW | {"cache_seqlens": None}, ValueError, "cache_seqlens is missing"),
        (NEW | {"cache_seqlens": 30}, ValueError, "run from 30 to 30; with 3 new tokens .* capacity of 32"),
        ({"cache_seqlens": 33}, ValueError, "capacity of 32"),
        ({"cache_seqlens": torch.tensor([1, 2])}, ValueError, "cache_seqlens \\(2,\\) torch.int64: must be int32"),
        ({"cache_batch_idx": torch.zeros(2)}, ValueError, "cache_batch_idx \\(2,\\) torch.float32: must be int32"),
        ({"cache_batch_idx": torch.tensor([0, 2], dtype=torch.int32)}, ValueError, "cache_batch_idx is .*rows 0 to 1"),
        ({"block_table": torch.tensor([[0], [-1]], dtype=torch.int32)}, ValueError, "block_table has entries from -1"),
        ({"block_table": torch.zeros(1, 1, dtype=torch.int32)}, ValueError, "block_table \\(1, 1\\)"),
        ({"cache_batch_idx": ROWS, "block_table": ROWS[:, None]}, ValueError, "cache_batch_idx and block_table both"),
        ({"q": torch.zeros(2, 3, 5, 32)}, ValueError, "5 heads, not a multiple of the cache's 2"),
        ({"q": torch.zeros(2, 3, 4, 32).half()}, ValueError, "q is torch.float16, k_cache torch.float32"),
        ({"q": torch.zeros(3, 4, 32)}, ValueError, "q \\(3, 4, 32\\), k_cache .*: both must have four dimensions"),
        ({"v_cache": torch.zeros(2, 31, 2, 32)}, ValueError, "v_cache \\(2, 31, 2, 32\\)"),
    ],
)
def test_bad_arguments_of_a_cache_are_named(change, error, message):
    arguments = {"q": torch.zeros(2, 3, 4, 32), "k_cache": torch.zeros(2, 32, 2, 32), "cache_seqlens": 7}
    arguments |= {"v_cache": torch.zeros(2, 32, 2, 32), "causal": True} | change
    with pytest.raises(error, match=message):
        flash_attn_with_kvcache(**arguments)
