"""decode_attention on the CPU against fp64: lengths, pages, appended tokens, masks; and the op layer."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.decode_cases import CASES, Case, check_case, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import ops
from codeshell.ops import decode_cuda

decode_module = sys.modules["codeshell.ops.decode"]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(case, dtype):
    check_case(case, "cpu", dtype)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_what_other_gpus_run_against_fp64(case, monkeypatch):
    """The path that reads no length on the host."""
    monkeypatch.setattr(decode_module, "_attend_rows", decode_module._attend_masked)
    check_case(case, "cpu", torch.bfloat16)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_random_cases(data):
    draw = data.draw
    new = draw(st.integers(0, 20))
    queries = draw(st.integers(1, 17))
    rotary = 2 * draw(st.integers(1, 8)) if new == queries else 0
    causal = draw(st.booleans())
    kv_heads = draw(st.integers(1, 3))
    case = Case(
        "random",
        tuple(draw(st.lists(st.integers(0, 90), min_size=1, max_size=4))),
        queries=queries,
        heads=kv_heads * draw(st.integers(1, 5)),
        kv_heads=kv_heads,
        dim=16,
        page=draw(st.sampled_from([0, 1, 7, 16, 64])),
        new=new,
        rotary=rotary,
        interleaved=draw(st.booleans()),
        causal=causal,
        window=draw(st.one_of(st.none(), st.integers(1, 100))) if causal else None,
    )
    check_case(case, "cpu", torch.float32)


def test_decoding_token_by_token_is_attention():
    """A sequence fed in pieces of 1, 3 and 12 tokens gives what one call of rotary and attention does."""
    q, k, v = torch.randn(2, 16, 4, 32), torch.randn(2, 16, 2, 32), torch.randn(2, 16, 2, 32)
    angles = torch.rand(16, 16) * 6
    want = ops.attention(*ops.rotary(q, k, angles.cos(), angles.sin()), v)
    caches, at, outs = [torch.full((2, 16, 2, 32), torch.nan) for _ in range(2)], 0, []
    for count in (1, 3, 12):
        piece = [x[:, at : at + count] for x in (q, k, v)]
        lengths = torch.full((2,), at, dtype=torch.int32)
        keywords = {"cache_seqlens": lengths, "cos": angles.cos(), "sin": angles.sin()}
        outs.append(ops.decode_attention(piece[0], *caches, k_new=piece[1], v_new=piece[2], **keywords))
        at += count
    torch.testing.assert_close(torch.cat(outs, 1), want, rtol=1e-5, atol=1e-5)


def test_it_makes_no_copy_of_a_contiguous_cache():
    """Peak memory of a call over 8 MB of keys and values: PyTorch's profiler counts what is allocated."""
    q, k, v = torch.randn(2, 1, 8, 64), torch.randn(2, 4096, 2, 64), torch.randn(2, 4096, 2, 64)
    lengths = torch.tensor([4096, 4000], dtype=torch.int32)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profile:
        ops.decode_attention(q, k, v, cache_seqlens=lengths)
    allocated = sum(max(0, event.self_cpu_memory_usage) for event in profile.key_averages())
    assert allocated < k.numel() * k.element_size() / 4


def test_the_operations_and_their_fakes_agree():
    tests = ("test_schema", "test_faketensor")
    for case in (CASES[1], Case("paged", (20, 3), page=16), Case("append", (20, 3), page=16, new=1, rotary=64)):
        given = inputs(case, "cpu", torch.float32)
        keywords = given.keywords
        call = [keywords.get(name) for name in decode_cuda.DecodeCall._fields[3:9]]
        operation = torch.ops.codeshell.decode_attention_append if case.new else torch.ops.codeshell.decode_attention
        arguments = (given.q, *(cache.nan_to_num(0.0) for cache in given.caches), *call, 0.125, True, 0, False)
        torch.library.opcheck(operation, arguments, test_utils=tests)


def test_a_compiled_graph_reads_and_writes_the_same():
    case = Case("compiled", (20, 3), page=16, new=2, queries=2, rotary=64)
    plain, traced = inputs(case, "cpu", torch.float32), inputs(case, "cpu", torch.float32)

    def step(q, k_cache, v_cache, keywords):
        out = ops.decode_attention(2 * q, k_cache, v_cache, **keywords)
        longer = keywords["cache_seqlens"] + 2
        rest = {name: keywords[name] for name in ("block_table", "causal", "window", "scale")}
        return out, ops.decode_attention(q, k_cache, v_cache, cache_seqlens=longer, **rest, return_lse=True)

    want = step(plain.q, *plain.caches, plain.keywords)
    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(traced.q, *traced.caches, traced.keywords)
    for a, b in zip([got[0], *got[1], *traced.caches], [want[0], *want[1], *plain.caches], strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def test_a_backward_pass_says_that_there_is_none():
    q, cache = torch.randn(1, 1, 2, 16, requires_grad=True), torch.randn(1, 8, 1, 16)
    out = ops.decode_attention(q, cache, cache, cache_seqlens=torch.tensor([8], dtype=torch.int32))
    with pytest.raises(RuntimeError, match="decode_attention has no gradients"):
        out.sum().backward()


def arguments(**change):
    """Two rows of a cache of 8 tokens, 2 KV heads of 16; paged: 5 pages of 4."""
    paged = "block_table" in change
    cache = torch.zeros(5, 4, 2, 16) if paged else torch.zeros(2, 8, 2, 16)
    given = {
        "q": torch.zeros(2, 1, 4, 16),
        "k_cache": cache,
        "v_cache": cache.clone(),
        "cache_seqlens": torch.tensor([8, 3], dtype=torch.int32),
    }
    return given | change


NEW = torch.zeros(2, 1, 2, 16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 16)}, r"q \(2, 4, 16\)"),
        ({"q": torch.tensor(1.0)}, r"q \(\)"),
        ({"q": torch.zeros(2, 1, 4, 8)}, r"k_cache \(2, 8, 2, 16\)"),
        ({"v_cache": torch.zeros(2, 9, 2, 16)}, r"v_cache \(2, 9, 2, 16\)"),
        ({"q": torch.zeros(2, 1, 3, 16)}, "q has 3 heads, not a multiple of the cache's 2"),
        ({"q": torch.zeros(2, 1, 4, 16).half()}, "one floating-point dtype"),
        ({"k_cache": torch.zeros(2, 8, 16, 2).transpose(2, 3)}, "strides"),
        ({"q": torch.zeros(3, 1, 4, 16), "cache_seqlens": torch.zeros(3, dtype=torch.int32)}, "need a block_table"),
        ({"cache_seqlens": torch.tensor([8, 3])}, r"cache_seqlens \(2,\) torch.int64"),
        ({"cache_seqlens": torch.tensor([8], dtype=torch.int32)}, r"cache_seqlens \(1,\)"),
        ({"cache_seqlens": torch.tensor([9, 3], dtype=torch.int32)}, "from 3 to 9.*capacity of 8"),
        ({"cache_seqlens": torch.tensor([8, -1], dtype=torch.int32)}, "from -1 to 8"),
        ({"k_new": NEW, "v_new": NEW}, "from 3 to 8; with 1 new"),
        ({"window": 0}, "window is 0"),
        ({"window": 4, "causal": False}, "window is 4"),
        ({"k_new": NEW}, "k_new and v_new"),
        ({"cos": torch.zeros(9, 8)}, "cos and sin"),
        ({"cos": torch.zeros(9, 8), "sin": torch.zeros(9, 8)}, "k_new is missing"),
        ({"k_new": NEW.half(), "v_new": NEW}, "dtype torch.float32 of q"),
        ({"k_new": NEW[:, :, :1], "v_new": NEW[:, :, :1]}, r"k_new \(2, 1, 1, 16\)"),
        ({"k_new": torch.zeros(2, 9, 2, 16), "v_new": torch.zeros(2, 9, 2, 16)}, "k_new has 9 tokens"),
        ({"k_cache": torch.zeros(2, 8, 2, 16, device="meta")}, r"k_cache \(2, 8, 2, 16\) is on meta, q \(.*\) on cpu"),
        ({"block_table": torch.zeros(2, 2)}, r"block_table \(2, 2\) torch.float32"),
        ({"block_table": torch.zeros(3, 2, dtype=torch.int32)}, r"block_table \(3, 2\)"),
        ({"block_table": torch.tensor([[0, 5], [1, 2]], dtype=torch.int32)}, "from 0 to 5.*pages 0 to 4"),
        ({"block_table": torch.tensor([[0, 1], [-1, 2]], dtype=torch.int32)}, "from -1 to 1"),
    ],
)
def test_bad_arguments_are_named(change, message):
    with pytest.raises(ValueError, match=message):
        ops.decode_attention(**arguments(**change))


def test_positions_beyond_the_tables_are_refused():
    table, lengths = torch.zeros(3, 8), torch.tensor([2, 3], dtype=torch.int32)
    with pytest.raises(ValueError, match="positions reach 3, but cos has rows 0 to 2"):
        ops.decode_attention(**arguments(k_new=NEW, v_new=NEW, cos=table, sin=table, cache_seqlens=lengths))


def test_no_rows_and_no_queries_are_fine():
    lengths = torch.tensor([2, 3], dtype=torch.int32)
    given = arguments(cache_seqlens=lengths)
    assert ops.decode_attention(**(given | {"q": torch.zeros(2, 0, 4, 16)})).shape == (2, 0, 4, 16)
    new = {"q": torch.zeros(2, 0, 4, 16), "k_new": NEW + 1, "v_new": NEW + 2}
    ops.decode_attention(**(given | new))  # appends all the same
    assert (given["k_cache"][0, 2] == 1).all() and (given["v_cache"][1, 3] == 2).all()
    assert given["k_cache"].sum() == NEW.numel()
    none = {name: x[:0] for name, x in given.items()}
    assert ops.decode_attention(**none).shape == (0, 1, 4, 16)
