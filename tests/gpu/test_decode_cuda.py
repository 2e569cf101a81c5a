"""The decoding kernel on a GPU, against fp64; many runs, streams and CUDA graphs."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.cuda import captured, on_hopper
from helpers.decode_cases import CASES, Case, check_case, inputs

from codeshell import ops
from codeshell.ops import decode_cuda

pytestmark = on_hopper


@pytest.fixture(autouse=True)
def taken(monkeypatch):
    """The kernel's outputs start as NaN; the shapes that it was given."""
    shapes = []
    launch = decode_cuda.run

    def run(call, out, lse):
        shapes.append(call.q.shape)
        launch(call, out.fill_(torch.nan), lse.fill_(torch.nan))

    monkeypatch.setattr(decode_cuda, "run", run)
    return shapes


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("dim", [64, 128], ids=["d64", "d128"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(taken, case, dim, dtype):
    check_case(dataclasses.replace(case, dim=dim, rotary=min(case.rotary, dim)), "cuda", dtype)
    assert len(taken) == 1


REAL = [
    Case("real_2k", (2048,), heads=64, kv_heads=8, dim=128, page=16),
    Case("real_8k", (8000, 1, 4097, 0) * 2, heads=32, kv_heads=8, dim=128, capacity=8192),
    Case("real_uneven", (30000, *range(500, 2400, 61)), heads=32, kv_heads=8, dim=128, page=16),
    Case("real_tokens", (5000, 8100), queries=16, new=16, rotary=128, heads=64, kv_heads=8, dim=128, page=64),
]


@pytest.mark.parametrize("case", REAL, ids=lambda case: case.name)
def test_real_shapes_against_fp64(taken, case):
    check_case(case, "cuda", torch.bfloat16)
    assert len(taken) == 1


@pytest.mark.parametrize("case", REAL, ids=lambda case: case.name)
def test_a_hundred_runs_have_the_same_bits(case):
    given = inputs(case, "cuda", torch.bfloat16)
    first = ops.decode_attention(given.q, *given.caches, **given.keywords, return_lse=True)
    for _ in range(100):
        again = ops.decode_attention(given.q, *given.caches, **given.keywords, return_lse=True)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_a_graph_is_replayed_with_other_lengths(taken):
    """Captured once; lengths, table and queries change in place. A second stream decodes meanwhile."""
    case = Case("graph", (2000, 700), heads=32, kv_heads=8, dim=128, page=16, new=1, capacity=4096)
    given = inputs(case, "cuda", torch.bfloat16)
    caches = [cache.nan_to_num(0.5) for cache in given.caches]
    table = given.keywords["block_table"]
    nobodys = set(range(caches[0].shape[0])) - set(table.flatten().tolist())
    table[table < 0] = torch.tensor(sorted(nobodys)[: int((table < 0).sum())], dtype=torch.int32, device="cuda")

    def step():
        return ops.decode_attention(given.q, *caches, **given.keywords)

    graph, out = captured(step)
    other = torch.cuda.Stream()
    for lengths in ((2000, 700), (17, 4000), (0, 1)):
        given.keywords["cache_seqlens"].copy_(torch.tensor(lengths, dtype=torch.int32))
        torch.cuda.synchronize()
        graph.replay()
        with torch.cuda.stream(other):
            beside = step()
        torch.cuda.synchronize()
        assert torch.equal(out, beside) and torch.equal(out, step())


@pytest.mark.parametrize("argument", ["cache_seqlens", "block_table"])
def test_lengths_and_entries_that_are_none_give_nan(argument):
    given = inputs(Case("none", (100, 64), page=16, new=1), "cuda", torch.bfloat16)
    good = ops.decode_attention(given.q, *given.caches, **given.keywords)
    given.keywords[argument][1] = 2**31 - 1
    out = ops.decode_attention(given.q, *given.caches, **given.keywords)
    assert torch.equal(out[0], good[0]) and out[1].isnan().all()


def test_the_host_waits_for_nothing():
    given = inputs(REAL[-1], "cuda", torch.bfloat16)
    ops.decode_attention(given.q, *given.caches, **given.keywords)
    torch.cuda.set_sync_debug_mode("error")
    try:
        ops.decode_attention(given.q, *given.caches, **given.keywords)
    finally:
        torch.cuda.set_sync_debug_mode("default")
