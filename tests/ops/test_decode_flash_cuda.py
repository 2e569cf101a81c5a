"""Decoding by torch's FlashAttention 2 on a GPU, against fp64; what is allocated, waited for and captured."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.cuda import captured
from helpers.decode_cases import CASES, Case, check_case, inputs

from codeshell import ops
from codeshell.ops import flash, hopper

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and flash.missing_for(torch.device("cuda"), torch.bfloat16, 64, False) is None),
    reason="needs a GPU of compute capability 8.0 or newer, and torch's FlashAttention",
)

MORE = [
    Case("pages_of_256", (700, 1, 256, 0), heads=8, kv_heads=2, page=256),
    Case("pages_of_300", (700, 299, 300), queries=3, heads=8, kv_heads=2, page=300, window=310),
    Case("pages_of_1", (9, 4), heads=4, kv_heads=2, page=1),
    Case("prompt_in_parts", (100, 3, 0), queries=40, new=40, heads=4, kv_heads=2, rotary=64),
    Case("prompt_in_parts_window", (100, 3, 0), queries=40, new=40, heads=4, kv_heads=2, window=30),
    Case("blind_queries", (3, 0, 25), queries=20, heads=4, kv_heads=2),
    Case("split", (4000, 3), heads=8, kv_heads=1, dim=128, capacity=5000),
    Case("equal_heads_in_pieces", (4000, 3), heads=2, kv_heads=2, dim=128, capacity=5000),
]


@pytest.fixture(autouse=True)
def off(monkeypatch):
    """Not our kernel, also where the user has asked for it."""
    monkeypatch.setattr(hopper, "enabled", False)


def in_pieces(case: Case) -> bool:
    return case.page > 0 or case.heads == case.kv_heads


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES + MORE, ids=lambda case: case.name)
def test_every_element_against_fp64(case, dtype):
    check_case(case, "cuda", dtype, in_pieces=in_pieces(case))


@pytest.mark.parametrize("dim", [32, 80, 96, 256])
def test_other_head_dimensions(dim):
    check_case(dataclasses.replace(CASES[1], dim=dim), "cuda", torch.bfloat16)


@pytest.mark.parametrize("page", [0, 16, 256])
def test_it_waits_for_nothing_and_allocates_less_than_the_cache(page):
    case = Case("roomy", (900, 7), heads=8, kv_heads=2, dim=128, capacity=65536, page=page, new=1, rotary=128)
    given = inputs(case, "cuda", torch.bfloat16)
    ops.decode_attention(given.q, *given.caches, **given.keywords)
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.decode_attention(given.q, *given.caches, **given.keywords)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    cache = given.caches[0]
    assert torch.cuda.max_memory_allocated() - before < cache.numel() * cache.element_size() * (
        2 if page == 16 else 0.25
    )


@pytest.mark.parametrize("page", [0, 16])
def test_a_graph_is_replayed_with_other_lengths(page):
    case = Case("graph", (500, 70), heads=8, kv_heads=2, dim=128, page=page, new=1, capacity=1024)
    given = inputs(case, "cuda", torch.bfloat16)
    caches = [cache.nan_to_num(0.5) for cache in given.caches]
    if page:
        table = given.keywords["block_table"]
        table.copy_(torch.arange(table.numel(), dtype=torch.int32, device="cuda").view(table.shape))

    def step():
        return ops.decode_attention(given.q, *caches, **given.keywords)

    graph, out = captured(step)
    for lengths in ([1, 1000], [1023, 0], [300, 301]):
        given.keywords["cache_seqlens"].copy_(torch.tensor(lengths, dtype=torch.int32))
        graph.replay()
        assert torch.equal(out, step())


@pytest.mark.parametrize(("page", "argument"), [(0, "cache_seqlens"), (16, "cache_seqlens"), (16, "block_table")])
def test_lengths_and_entries_that_cannot_be_give_nan(page, argument):
    given = inputs(Case("none", (100, 64), kv_heads=2, page=page), "cuda", torch.bfloat16)
    good = ops.decode_attention(given.q, *given.caches, **given.keywords)
    given.keywords[argument][1] = 2**31 - 1
    out, lse = ops.decode_attention(given.q, *given.caches, **given.keywords, return_lse=True)
    assert torch.equal(out[0], good[0]) and out[1].isnan().all() and lse[1].isnan().all()
