"""Decoding by torch's FlashAttention 2 on a simulated GPU, against fp64: every layout of a cache, and what is read,
allocated and waited for on the way."""

from __future__ import annotations

import dataclasses
import logging
import sys

import pytest
import torch
from helpers.decode_cases import CASES, Case, check_case, inputs
from helpers.flash_attention import FlashAttention
from helpers.simulated_gpu import simulate
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch.utils._python_dispatch import TorchDispatchMode

from codeshell import ops
from codeshell.ops import devices
from codeshell.ops import flash as flash_module
from codeshell.ops.decode_cuda import DecodeCall

decode_module = sys.modules["codeshell.ops.decode"]


@pytest.fixture(autouse=True)
def flash(monkeypatch):
    """An A100 whose tensors are on the CPU, and a build without kernels; the calls of torch's own."""
    simulate(monkeypatch, capability=(8, 0), built=False)
    monkeypatch.setattr(devices, "simulated", devices.simulated._replace(multiprocessors=108))
    with FlashAttention() as calls:
        yield calls


def be(monkeypatch, capability):
    """Another GPU than an A100."""
    monkeypatch.setattr(devices, "simulated", devices.simulated._replace(capability=capability))
    monkeypatch.setattr(devices, "_answers", {})


MORE = [
    Case("pages_of_256", (700, 1, 256, 0), heads=8, kv_heads=2, page=256),
    Case("pages_of_300", (700, 299, 300), queries=3, heads=8, kv_heads=2, page=300, window=310),
    Case("pages_of_1", (9, 4), heads=4, kv_heads=2, page=1),
    Case("pages_of_7_window", (50, 4, 0), heads=8, kv_heads=1, page=7, window=5),
    Case("pages_equal_heads", (50, 14, 0), queries=2, heads=3, kv_heads=3, page=16, new=2, rotary=16),
    Case("pages_many_tokens", (50, 17, 0), queries=20, new=20, heads=2, kv_heads=1, page=64, window=9),
    Case("prompt_in_parts", (100, 3, 0), queries=40, new=40, heads=4, kv_heads=2, rotary=64),
    Case("prompt_in_parts_window", (100, 3, 0), queries=40, new=40, heads=4, kv_heads=2, window=30),
    Case("blind_queries", (3, 0, 25), queries=20, heads=4, kv_heads=2),
    Case("blind_queries_pages", (3, 0, 25), queries=5, heads=4, kv_heads=2, page=32),
    Case("equal_heads_in_pieces", (1500, 3, 600), heads=2, kv_heads=2, capacity=1600),
    Case("equal_heads_in_pieces_window", (1500, 3, 600), heads=2, kv_heads=2, capacity=1600, window=700),
    Case("window_beyond_the_keys", (30, 7), queries=2, heads=4, kv_heads=2, window=1000),
]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES + MORE, ids=lambda case: case.name)
def test_every_element_against_fp64(flash, case, dtype):
    check_case(case, "cpu", dtype, in_pieces=in_pieces(case))
    assert len(flash.forwards) == 1 and not flash.forwards[0].paged


def in_pieces(case: Case) -> bool:
    return case.page > 0 or case.heads == case.kv_heads


@pytest.mark.parametrize(("page", "lengths"), [(7, (0, 0)), (7, (5, 3)), (1, (5, 3))])
def test_pages_that_are_copied_become_rows_that_follow_one_another(page, lengths):
    case = Case("copied", lengths, heads=4, kv_heads=1, dim=16, page=page, causal=False)
    check_case(case, "cpu", torch.bfloat16, in_pieces=True)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_random_cases(data):
    draw = data.draw
    new = draw(st.integers(0, 20))
    queries = draw(st.integers(1, 18))
    causal = draw(st.booleans())
    kv_heads = draw(st.integers(1, 3))
    case = Case(
        "random",
        tuple(draw(st.lists(st.integers(0, 90), min_size=1, max_size=4))),
        queries=queries,
        heads=kv_heads * draw(st.integers(1, 5)),
        kv_heads=kv_heads,
        dim=16,
        capacity=draw(st.sampled_from([0, 128])),
        page=draw(st.sampled_from([0, 1, 7, 16, 64])),
        new=new,
        rotary=2 * draw(st.integers(1, 8)) if new == queries else 0,
        causal=causal,
        window=draw(st.one_of(st.none(), st.integers(1, 100))) if causal else None,
    )
    check_case(case, "cpu", torch.bfloat16, in_pieces=in_pieces(case))


def test_a_call_of_more_sequences_than_a_grid_has_is_cut(flash, monkeypatch):
    monkeypatch.setattr(flash_module, "MAX_GRID", 5)
    check_case(Case("cut", (100, 33, 0), queries=2, page=16), "cpu", torch.bfloat16, in_pieces=True)
    assert len(flash.forwards) == 9  # 7 pages of 3 rows of 2 queries, 5 at a time


@pytest.mark.parametrize("capability", [(8, 0), (8, 6), (8, 9), (9, 0), (10, 0), (12, 0)])
def test_every_gpu_from_8_0_on_reads_in_place(flash, monkeypatch, capability):
    be(monkeypatch, capability)
    check_case(CASES[1], "cpu", torch.bfloat16)
    assert len(flash.forwards) == 1


class Watch(TorchDispatchMode):
    """Every operation below a call: what waits for the device is refused, and what is new must be small."""

    WAITS = ("_local_scalar_dense", "item", "nonzero", "equal", "is_nonzero", "unique", "masked_select")

    def __init__(self, most: int) -> None:
        super().__init__()
        self.most, self.largest, self.names = most, 0, []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.__name__.split(".")[0]
        self.names.append(name)
        assert not any(name.startswith(wait) for wait in self.WAITS), f"{name} waits for the GPU"
        out = function(*args, **(kwargs or {}))
        given = [x for x in torch.utils._pytree.tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        memory = {x.untyped_storage().data_ptr() for x in given}
        for x in torch.utils._pytree.tree_leaves(out):
            if isinstance(x, torch.Tensor) and x.untyped_storage().data_ptr() not in memory:
                self.largest = max(self.largest, x.numel())
                assert x.numel() < self.most, f"{name} makes {tuple(x.shape)}"
        return out


ROOMY = [
    Case("contiguous", (90, 7), heads=8, kv_heads=2, capacity=4096, new=1, rotary=64),
    Case("equal_heads", (90, 7), heads=2, kv_heads=2, capacity=4096, new=1),
    Case("several", (90, 7), queries=4, new=4, heads=8, kv_heads=2, capacity=4096, rotary=64, window=50),
    Case("part_of_a_prompt", (90, 7), queries=40, new=40, heads=8, kv_heads=2, capacity=4096),
    Case("pages_of_16", (90, 7), heads=8, kv_heads=2, capacity=4096, page=16, new=1, rotary=64),
    Case("pages_of_256", (90, 7), queries=3, new=3, heads=8, kv_heads=2, capacity=4096, page=256),
]


@pytest.mark.parametrize("case", ROOMY, ids=lambda case: case.name)
def test_it_waits_for_nothing_and_allocates_less_than_the_cache(case):
    found = inputs(case, "cpu", torch.bfloat16)
    keywords = [found.keywords.get(name) for name in DecodeCall._fields[3:9]]
    call = DecodeCall(found.q, *found.caches, *keywords, 0.125, case.causal, case.window or 0)
    with Watch(found.caches[0].numel()) as watch:
        out, _ = decode_module._decode(call)
    assert watch.names.count("_flash_attention_forward") == 1 and watch.names.count("index_put_") == 2
    assert not {"index", "index_select", "where", "repeat_interleave", "repeat"} & set(watch.names)
    assert watch.names.count("gather") == (case.page > 0)  # the new tokens' entries of the table
    assert watch.largest <= found.caches[0].numel() // (3 if case.page else 16)
    assert not out.isnan().any()


def test_the_watch_sees_a_wait_and_a_copy():
    with pytest.raises(AssertionError, match="_local_scalar_dense waits"), Watch(100):
        torch.ones(3).sum().item()
    with pytest.raises(AssertionError, match=r"clone makes \(10, 10\)"), Watch(100):
        torch.ones(99).expand(2, 99)
        torch.zeros(10).expand(10, 10).flatten()


def small(case: Case):
    return inputs(case, "cpu", torch.bfloat16)


PLAIN = Case("plain", (40, 100, 0), queries=1, heads=4, kv_heads=2, capacity=130)


def in_a_longer_cache(cache):
    """The first places of rows that are longer."""
    longer = torch.full((cache.shape[0], 200, *cache.shape[2:]), torch.nan, dtype=cache.dtype)
    longer[:, : cache.shape[1]] = cache
    return longer[:, : cache.shape[1]]


def heads_first(cache):
    """The layout of transformers: (batch, heads, tokens, dim)."""
    return cache.transpose(1, 2).contiguous().transpose(1, 2)


def heads_first_in_a_longer_cache(cache):
    longer = torch.full((cache.shape[0], cache.shape[2], 200, cache.shape[3]), torch.nan, dtype=cache.dtype)
    longer[:, :, : cache.shape[1]] = cache.transpose(1, 2)
    return longer.transpose(1, 2)[:, : cache.shape[1]]


def beside_each_other(cache):
    """Keys and values of a page (or row) in one tensor, as vLLM has them."""
    both = torch.full((cache.shape[0], 2, *cache.shape[1:]), torch.nan, dtype=cache.dtype)
    both[:, 1] = cache
    return both[:, 1]


@pytest.mark.parametrize("page", [0, 16])
@pytest.mark.parametrize("layout", [in_a_longer_cache, heads_first, heads_first_in_a_longer_cache, beside_each_other])
def test_a_cache_is_read_where_it_lies(flash, layout, page):
    case = dataclasses.replace(PLAIN, page=page)
    found = small(case)
    want = ops.decode_attention(found.q, *found.caches, **found.keywords, return_lse=True)
    caches = [layout(cache) for cache in found.caches]
    call = DecodeCall(found.q, *caches, found.keywords["cache_seqlens"], found.keywords.get("block_table"), scale=0.125)
    with Watch(caches[0].numel()):
        got = decode_module._decode(call)
    assert len(flash.forwards) == 2
    for a, b in zip(got, want, strict=True):
        assert torch.equal(a, b)


def test_lengths_and_entries_that_cannot_be_give_nan_in_their_row_alone():
    for page, queries in ((0, 1), (16, 1), (256, 3), (0, 40)):
        case = dataclasses.replace(PLAIN, page=page, queries=queries, capacity=512)
        good = small(case)
        want, want_lse = ops.decode_attention(good.q, *good.caches, **good.keywords, return_lse=True)
        for argument, wrong in (
            ("cache_seqlens", -1),
            ("cache_seqlens", 513),
            ("cache_seqlens", 2**31 - 1),
            ("block_table", -1),
            ("block_table", 2**31 - 1),
        ):
            if argument not in good.keywords:
                continue
            bad = good.keywords | {argument: good.keywords[argument].clone()}
            bad[argument][(1, 0) if argument == "block_table" else 1] = wrong
            out, lse = ops.decode_attention(good.q, *good.caches, **bad, return_lse=True)
            assert out[1].isnan().all() and lse[1].isnan().all(), (page, argument, wrong)
            for row in (0, 2):
                assert torch.equal(out[row], want[row]) and torch.equal(lse[row], want_lse[row])


def test_keys_that_are_not_finite_are_told_from_keys_that_are_not_there():
    found = small(PLAIN)
    found.caches[0][0, 3] = torch.nan
    out, lse = ops.decode_attention(found.q, *found.caches, **found.keywords, return_lse=True)
    assert out[0].isnan().all() and lse[0].isnan().all()
    assert (out[2] == 0).all() and (lse[2] == -torch.inf).all()


REFUSED = [
    ("float32", {}, torch.float32, "float32 (it takes bfloat16 and float16)"),
    ("dim", {"dim": 20}, torch.bfloat16, "heads of 20"),
    ("scale", {"scale": -0.5}, torch.bfloat16, "a scale that is not above 0"),
]


@pytest.mark.parametrize(("name", "change", "dtype", "reason"), REFUSED, ids=[x[0] for x in REFUSED])
def test_what_the_kernel_refuses_is_served_and_said(flash, caplog, name, change, dtype, reason):
    with caplog.at_level(logging.WARNING, "codeshell"):
        check_case(dataclasses.replace(PLAIN, **change), "cpu", dtype)
    assert not flash.forwards
    assert (
        sum(reason in record.getMessage() and "whole capacity" in record.getMessage() for record in caplog.records) == 1
    )


def test_layouts_that_the_kernel_cannot_walk_are_served_and_said(flash, caplog):
    found = small(PLAIN)
    want = ops.decode_attention(found.q, *found.caches, **found.keywords)
    odd = [torch.nn.functional.pad(cache, (0, 4))[..., :64] for cache in found.caches]
    between = [cache.transpose(0, 1).contiguous().transpose(0, 1) for cache in found.caches]
    with caplog.at_level(logging.WARNING, "codeshell"):
        for caches in (odd, between, [found.caches[0], in_a_longer_cache(found.caches[1])]):
            got = ops.decode_attention(found.q, *caches, **found.keywords)
            torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2)
    assert len(flash.forwards) == 1
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "multiples of 16 bytes" in said and "no whole number of tokens apart" in said


def test_an_older_gpu_is_served_and_said(flash, caplog, monkeypatch):
    be(monkeypatch, (7, 5))
    with caplog.at_level(logging.WARNING, "codeshell"):
        check_case(PLAIN, "cpu", torch.float16)
    assert not flash.forwards and any("8.0" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize("change", [("implementation", lambda: "FA3"), ("built", False)])
def test_without_flash_attention_2_it_is_served_and_said(flash, caplog, monkeypatch, change):
    be(monkeypatch, (9, 0))
    monkeypatch.setattr(flash_module, *change)
    with caplog.at_level(logging.WARNING, "codeshell"):
        check_case(PLAIN, "cpu", torch.bfloat16)
    reason = "FA3 is activated" if change[0] == "implementation" else "no FlashAttention"
    assert not flash.forwards and any(reason in record.getMessage() for record in caplog.records)


def test_pages_that_are_copied_are_said_with_those_that_are_not(caplog):
    with caplog.at_level(logging.WARNING, "codeshell"):
        check_case(Case("small_pages", (50, 4), heads=8, kv_heads=1, page=8), "cpu", torch.bfloat16)
    assert any("pages of 16 tokens and more are read in place" in record.getMessage() for record in caplog.records)
    caplog.clear()
    with caplog.at_level(logging.WARNING, "codeshell"):
        check_case(Case("larger_pages", (50, 4), heads=8, kv_heads=1, page=16), "cpu", torch.bfloat16, in_pieces=True)
    assert not any("copied" in record.getMessage() for record in caplog.records)


def test_a_compiled_graph_keeps_the_operation(flash):
    case = Case("compiled", (20, 3), page=16, new=2, queries=2, rotary=64, kv_heads=2)
    plain, traced = small(case), small(case)

    def step(q, k_cache, v_cache, keywords):
        return ops.decode_attention(2 * q, k_cache, v_cache, **keywords, return_lse=True)

    want = step(plain.q, *plain.caches, plain.keywords)
    torch._dynamo.reset()
    got = torch.compile(step, fullgraph=True, backend="aot_eager")(traced.q, *traced.caches, traced.keywords)
    assert len(flash.forwards) == 2
    for a, b in zip([*got, *traced.caches], [*want, *plain.caches], strict=True):
        assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))


def test_no_rows_and_no_queries_are_fine():
    found = small(PLAIN)
    none = {"cache_seqlens": found.keywords["cache_seqlens"][:0]}
    assert ops.decode_attention(found.q[:0], *(x[:0] for x in found.caches), **none).shape == (0, 1, 4, 64)
    assert ops.decode_attention(found.q[:, :0], *found.caches, **found.keywords).shape == (3, 0, 4, 64)
