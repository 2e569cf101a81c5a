"""The decoding kernel, run on the host through the same Python as on a GPU, against fp64; its plan."""

from __future__ import annotations

import pytest
import torch
from helpers.decode_cases import CASES, Case, check_case, inputs
from helpers.simulated_gpu import leave
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, ops
from codeshell.model import modules
from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig
from codeshell.model.modules import CodeShellForCausalLM
from codeshell.ops import decode_cuda


@pytest.fixture
def on_host(on_host):
    yield on_host
    assert all(not counts.any() for counts in decode_cuda._counts.values()), "a counter was not left at 0"


@pytest.fixture
def taken(monkeypatch):
    """Outputs start as NaN; the shapes of those that the kernel was given."""
    shapes = []
    launch = decode_cuda.run

    def run(call, out, lse):
        shapes.append(call.q.shape)
        launch(call, out.fill_(torch.nan), lse.fill_(torch.nan))

    monkeypatch.setattr(decode_cuda, "run", run)
    return shapes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(on_host, taken, case):
    number = CASES.index(case)
    on_host.set_seed(number)
    on_host.set_multiprocessors((4, 12, 40)[number % 3])
    check_case(case, "cpu", (torch.bfloat16, torch.float16)[number // 2 % 2])
    assert len(taken) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 128])
def test_dtypes_and_dims_against_fp64(on_host, taken, dtype, dim):
    on_host.set_multiprocessors(8)
    case = Case("types", (300, 20), new=2, queries=2, heads=4, kv_heads=2, rotary=dim // 2, page=32, dim=dim)
    check_case(case, "cpu", dtype)
    assert len(taken) == 1


def run(case: Case, dtype: torch.dtype = torch.bfloat16):
    """Output, LSE and caches."""
    given = inputs(case, "cpu", dtype)
    return [*ops.decode_attention(given.q, *given.caches, **given.keywords, return_lse=True), *given.caches]


@pytest.mark.parametrize("name", ["splits", "four_row_tiles", "append_paged", "window", "paged_128"])
def test_bits_do_not_depend_on_the_order_of_blocks_and_warps(on_host, name):
    """Six orders: whichever block comes last combines the splits in the same order, and a stage read before it is full
    or filled before it is read shows as NaN."""
    (case,) = (case for case in CASES if case.name == name)
    on_host.set_multiprocessors(24)
    first = [x.nan_to_num(7.0) for x in run(case)]
    for seed in range(1, 6):
        on_host.set_seed(seed)
        assert all(torch.equal(a, b.nan_to_num(7.0)) for a, b in zip(first, run(case), strict=True))


BAD = [("page", "cache_seqlens", 2**31 - 1), ("page", "block_table", 2), ("page", "block_table", 4)]
BAD += [("row", "cache_seqlens", value) for value in (2**31 - 1, 101, -1)]


@pytest.mark.parametrize(("name", "argument", "value"), BAD)
def test_lengths_and_entries_that_are_none(on_host, name, argument, value):
    """Debug builds stop and say what and where; others give NaN for that row alone, and do not touch its cache."""
    case = Case(name, (100, 64), page=16 if name == "page" else 0, new=1)
    good = run(case)
    given = inputs(case, "cpu", torch.bfloat16)
    if argument == "block_table":
        given.keywords[argument][1, value] = given.caches[0].shape[0]  # entry 4 is of the new token alone
    else:
        given.keywords[argument][1] = value
    before = [cache.clone() for cache in given.caches]
    with pytest.raises(RuntimeError, match=f"{argument}: no "):
        ops.decode_attention(given.q, *given.caches, **given.keywords)
    for counts in decode_cuda._counts.values():
        counts.zero_()  # the launch was cut off
    on_host.set_checks(False)
    for cache, old in zip(given.caches, before, strict=True):
        cache.copy_(old)
    out, lse = ops.decode_attention(given.q, *given.caches, **given.keywords, return_lse=True)
    assert torch.equal(out[0], good[0][0]) and torch.equal(lse[0], good[1][0])
    assert out[1].isnan().all() and lse[1].isnan().all()
    if (argument, value) == ("block_table", 2):
        return  # its new token has a place
    others = torch.ones(given.caches[0].shape[0], dtype=torch.bool)
    others[given.keywords["block_table"][0].long() if name == "page" else 0] = False
    for cache, old in zip(given.caches, before, strict=True):
        assert torch.equal(cache[others].nan_to_num(7.0), old[others].nan_to_num(7.0))


def test_it_reads_and_appends_through_strides(on_host, taken):
    """Caches that are views of one tensor, as (2, batch, …) or with heads before tokens."""
    case = Case("strides", (100, 70), new=2, queries=2, heads=4, kv_heads=2, rotary=64)
    want = run(case)
    for make in (
        lambda k, v: list(torch.stack([k, v])),
        lambda k, v: [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (k, v)],
        lambda k, v: list(torch.cat([k, v], -1).split(64, -1)),
    ):
        given = inputs(case, "cpu", torch.bfloat16)
        caches = make(*given.caches)
        out, lse = ops.decode_attention(given.q, *caches, **given.keywords, return_lse=True)
        for a, b in zip(want, (out, lse, *caches), strict=True):
            assert torch.equal(a.nan_to_num(7.0), b.nan_to_num(7.0))
    assert len(taken) == 4


def test_what_it_does_not_serve_goes_elsewhere(on_host, taken):
    given = inputs(Case("elsewhere", (90, 30), capacity=100), "cpu", torch.bfloat16)
    q, k, v = (x.nan_to_num(0.0) for x in (given.q, *given.caches))
    paged = {"k_cache": k.view(-1, 8, 1, 64), "v_cache": v.view(-1, 8, 1, 64)}
    table = torch.arange(24, dtype=torch.int32).view(2, 12)
    odd = {"cos": torch.ones(100, 5), "sin": torch.zeros(100, 5), "k_new": k[:, :1], "v_new": v[:, :1]}
    spread = torch.stack([k, k], -1)
    for change in (
        {"q": q.float(), "k_cache": k.float(), "v_cache": v.float()},
        {"q": q[..., :32], "k_cache": k[..., :32], "v_cache": v[..., :32]},
        {"q": q.expand(2, 17, 4, 64)},
        {"q": q[:, :0]},
        {"scale": -1.0},
        {**paged, "block_table": table},
        odd,
        {"k_cache": spread.flatten(-2)[..., 1:65]},
    ):
        lengths = given.keywords["cache_seqlens"]
        arguments = {"q": q, "k_cache": k, "v_cache": v, "cache_seqlens": lengths, **change}
        assert torch.isfinite(ops.decode_attention(**arguments)).all()
    assert not taken
    ops.decode_attention(q, k, v, cache_seqlens=lengths)
    assert len(taken) == 1


def test_queries_that_cannot_be_walked_are_copied(on_host):
    given = inputs(Case("walk", (90,)), "cpu", torch.float16)
    want = ops.decode_attention(given.q, *given.caches, **given.keywords)
    odd = torch.empty(given.q.numel() + 1).half()[1:].view(given.q.shape).copy_(given.q)
    assert torch.equal(ops.decode_attention(odd, *given.caches, **given.keywords), want)


def test_a_model_decodes_through_it(on_host, taken, monkeypatch):
    """Two rows of different lengths: the logits of each next token, against the pass over the whole text."""
    config = CodeShellConfig(n_layer=2, n_embd=256, n_head=4, num_query_groups=2, vocab_size=128, n_positions=96)
    torch.manual_seed(0)
    model = CodeShellForCausalLM(config).bfloat16().eval()
    with torch.no_grad():
        for block in model.transformer.h:  # so that it matters where a query looks
            block.attn.c_attn.weight.mul_(8)
            block.attn.c_proj.weight.mul_(8)
    monkeypatch.setattr(modules, "_decodes_in_one_launch", lambda x: True)
    ids = torch.randint(0, 128, (2, 80), generator=torch.Generator().manual_seed(0))
    cache = KVCache(config, 2, 96, dtype=torch.bfloat16)
    with torch.no_grad():
        model(ids[:, :70], attention_mask=torch.tensor([[1] * 70, [1] * 50 + [0] * 20]), cache=cache)
        both = torch.stack([ids[0, 70:74], ids[1, 50:54]])
        first, second = (model(both[:, i : i + 2], cache=cache).logits for i in (0, 2))
        leave(monkeypatch)
        whole = [model(ids[row : row + 1, : n + 4]).logits[0, n:] for row, n in enumerate((70, 50))]
    assert len(taken) == 4 and cache.lengths.tolist() == [74, 54]
    logits, wanted = torch.cat([first, second], 1).float(), torch.stack(whole).float()
    assert float((logits - wanted).abs().max()) < 0.05 * float(wanted.abs().max())


def test_the_operations_and_their_fakes_agree(on_host, taken):
    for case in (Case("read", (20, 3)), Case("append", (20, 3), page=16, new=1, rotary=64)):
        given = inputs(case, "cpu", torch.bfloat16)
        call = [given.keywords.get(name) for name in decode_cuda.DecodeCall._fields[3:9]]
        operation = torch.ops.codeshell.decode_attention_append if case.new else torch.ops.codeshell.decode_attention
        arguments = (given.q, *(cache.nan_to_num(0.0) for cache in given.caches), *call, 0.125, True, 0, False)
        torch.library.opcheck(operation, arguments, test_utils=("test_schema", "test_faketensor"))


TABLES = {"cos": torch.ones(100, 24), "sin": torch.ones(100, 24)}
NEW = {name: torch.zeros(2, 1, 2, 64).bfloat16() for name in ("k_new", "v_new")}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": torch.zeros(2, 4, 64).bfloat16()}, "must be \\(batch, seq_q, heads, dim\\)"),
        ({"q": torch.zeros(2, 1, 3, 64).bfloat16()}, "3 heads, not a multiple of the cache's 2"),
        ({"q": torch.zeros(3, 1, 4, 64).bfloat16()}, "cache_seqlens \\(2,\\) .* must be int32 \\(3,\\)"),
        ({"block_table": torch.zeros(1, 2, dtype=torch.int32)}, "block_table \\(1, 2\\)"),
        ({**TABLES, "sin": None}, "cos and sin, go together"),
        ({**TABLES, "k_new": None}, "q has 1 tokens, k_new is missing"),
        ({**TABLES, **NEW, "cos": torch.ones(100, 40), "sin": torch.ones(100, 40)}, "rotates 80 dimensions"),
        ({"causal": False, "window": 3}, "window is 3: must be an int of at least 1, and causal"),
        ({"window": -1}, "window is -1"),
    ],
)
def test_the_operation_refuses_what_the_function_refuses(on_host, taken, change, message):
    """A traced graph calls the operations by name, past the public function."""
    caches = {name: torch.zeros(2, 100, 2, 64).bfloat16() for name in ("k_cache", "v_cache")}
    given = {"q": torch.zeros(2, 1, 4, 64).bfloat16(), **caches, "cache_seqlens": torch.zeros(2, dtype=torch.int32)}
    call = decode_cuda.DecodeCall(**{**given, **change})
    name = "decode_attention" if call.k_new is None else "decode_attention_append"
    with pytest.raises(ValueError, match=message):
        getattr(torch.ops.codeshell, name)(*call)
    assert not taken


def test_counters_of_a_stream_and_of_captures(monkeypatch):
    """A stream keeps its own; a capture takes some for good, and makes zeros where none are left."""
    here = torch.device("cpu")
    monkeypatch.setattr(decode_cuda, "_counts", {})
    monkeypatch.setattr(decode_cuda, "_reserve", {here: torch.zeros(8, dtype=torch.int32)})
    first = decode_cuda._counters(here, 0, 5)
    assert decode_cuda._counters(here, 0, 900).data_ptr() == first.data_ptr()
    assert decode_cuda._counters(here, 0, 5000).numel() == 5000
    monkeypatch.setattr(decode_cuda, "_capturing", lambda device: True)
    taken = [decode_cuda._counters(here, 0, 4) for _ in range(3)]
    assert len({x.data_ptr() for x in (first, *taken)}) == 4
    assert taken[1].data_ptr() == taken[0].data_ptr() + 16 and not taken[2].any()


def test_a_build_without_kernels_says_so():
    if _C.cuda_built:
        pytest.skip("this build has the kernels")
    with pytest.raises(RuntimeError, match="built without CUDA"):
        _C.attention_decode_plan(1, 1, 1, 1, 64, 100)


GOOD = {
    **dict.fromkeys(("q", "k_cache", "v_cache", "k_new", "v_new"), (0, 0, 0, 0)),
    **dict.fromkeys(("out", "lse", "cache_seqlens", "block_table", "block_table_stride", "cos", "sin"), 0),
    **dict.fromkeys(("workspace", "counters", "window", "stream"), 0),
    "shape": (2, 1, 4, 2, 64, 0, 2, 100, 1, 0, 0, 2),
    "bf16": True,
    "interleaved": False,
    "scale": 1.0,
    "causal": True,
}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shape": (2, 1, 4, 2, 64, 0, 2, 100, 1, 0, 0, 3)}, "need a workspace"),
        ({"shape": (2, 1, 4, 2, 64, 0, 2, 100, 1, 0, 0, 1)}, "needs a slot"),
    ],
)
def test_the_binding_refuses_a_plan_that_does_not_fit(host_kernels, change, message):
    with pytest.raises(ValueError, match=message):
        host_kernels.attention_decode_cuda(**{**GOOD, **change})


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_every_tile_that_is_seen_has_one_split(data):
    """Against the definition: which keys the rows see."""
    draw = data.draw
    queries, total = draw(st.integers(1, 16)), draw(st.integers(0, 3000))
    first = draw(st.integers(0, queries - 1))
    last = draw(st.integers(first, queries - 1))
    causal = draw(st.booleans())
    window = draw(st.integers(0, 400)) if causal else 0
    splits = draw(st.integers(1, 40))
    parts = _C.attention_decode_tiles(first, last, queries, total, causal, window, splits)
    ends = [max(0, total - queries + i + 1) if causal else total for i in range(first, last + 1)]
    begins = [max(0, end - window) if window else 0 for end in ends]
    seen = {key // 64 for begin, end in zip(begins, ends, strict=True) for key in range(begin, end)}
    covered = [tile for begin, end in parts for tile in range(begin, end)]
    assert 1 <= len(parts) <= splits and covered == sorted(covered)
    assert set(covered) >= seen and len(covered) <= len(seen) + (1 if not seen else 0)
    sizes = [end - begin for begin, end in parts]
    assert max(sizes) - min(sizes) <= 1 and (not seen or min(sizes) >= 1)


@pytest.mark.parametrize(
    ("batch", "queries", "heads", "capacity", "blocks", "spare"),
    [
        (1, 1, 64, 2048, 128, 0),
        (8, 1, 64, 8192, 128, 0),
        (32, 1, 64, 32768, 256, 31),
        (128, 1, 64, 32768, 1024, 33),
        (1, 1, 32, 131072, 128, 0),
        (1, 16, 64, 2048, 32, 0),
    ],
)
def test_the_plan_fills_an_h200(batch, queries, heads, capacity, blocks, spare):
    """132 multiprocessors, 8 KV heads of 128: the cases of the benchmark. Rows of one length leave the slots that are
    to spare alone."""
    slots, counters, floats = _C.attention_decode_plan(batch, queries, heads, 8, 128, capacity, 132)
    assert slots == blocks // 8 + spare and counters == batch * 8
    assert 8 * sum(_C.attention_decode_shares([capacity // 64] * batch, slots)) == blocks
    assert floats == min(slots, 2 * (slots - batch)) * heads * queries * 129


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 64), st.integers(1, 16), st.integers(1, 16), st.integers(1, 16), st.integers(1, 10**6))
def test_the_plan_is_within_its_bounds(batch, queries, kv_heads, group, capacity):
    slots, counters, _ = _C.attention_decode_plan(batch, queries, kv_heads * group, kv_heads, 64, capacity, 132)
    rows = min(queries * group, 128)
    tiles = -(-queries * group // 128)
    assert counters == batch * kv_heads * tiles and slots >= batch
    if slots < 2 * batch:
        assert (slots - batch) * kv_heads * tiles < 2 * 132 + kv_heads * tiles
    splits = max(_C.attention_decode_shares([-(-capacity // 64)] * batch, slots))
    assert splits <= slots // batch and splits <= max(1, (-(-capacity // 64) + 1) // 2)
    assert splits == 1 or (splits - 1) ** 2 * rows < capacity


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_rows_share_the_slots_by_their_lengths(data):
    tiles = data.draw(st.lists(st.integers(0, 2000) | st.integers(0, 3), min_size=1, max_size=70))
    batch = len(tiles)
    slots = batch + data.draw(st.integers(1, 100))
    splits = _C.attention_decode_shares(tiles, slots)
    assert min(splits) >= 1 and sum(splits) <= slots
    # Partial results of split rows alone have a place.
    assert sum(n for n in splits if n > 1) <= min(slots, 2 * (slots - batch))
    assert all(n == 1 or 2 * n <= count + 1 for n, count in zip(splits, tiles, strict=True))
    longest = max(-(-count // n) for n, count in zip(splits, tiles, strict=True))
    # The least that could do, if a split could be of any size, and what a simple division by the slots beyond gives.
    low, high = (max(2, -(-sum(tiles) // n)) for n in (slots, slots - batch))
    assert longest <= high
    shortest = next(c for c in range(low, high + 1) if sum(max(1, -(-n // c)) for n in tiles) <= slots)
    assert longest <= shortest + (high - low) / 16 + 1
    assert splits == _C.attention_decode_shares(tiles, slots)


def test_a_long_row_beside_short_ones_is_split():
    """32 rows of 8 KV heads on 132 multiprocessors: one of 32k keys beside 31 of 2k."""
    slots, _, _ = _C.attention_decode_plan(32, 1, 64, 8, 128, 32768, 132)
    tiles = [32] * 20 + [512] + [32] * 11
    splits = _C.attention_decode_shares(tiles, slots)
    assert splits[20] == 16 and sum(splits) == 47, "all of one size: with smaller splits each short row would be two"


UNEVEN = (1000, 3, 0, 64, 40, 10, 500, 129)


@pytest.mark.parametrize(
    "case",
    [
        Case("spare", UNEVEN, heads=4, new=1, page=16),
        Case("several_splits", (700, 0, 90), heads=8, kv_heads=2, dim=128),
        Case("two_row_tiles", (600, 5), queries=16, heads=8, new=16),
        Case("more_rows_than_lanes", (5,) * 17 + (400,) + (1,) * 16 + (300, 0), window=350),
    ],
    ids=lambda case: case.name,
)
def test_rows_of_different_lengths_against_fp64(on_host, taken, case):
    on_host.set_multiprocessors(4 if case.name != "more_rows_than_lanes" else 18)
    batch = len(case.lengths)
    slots, _, _ = on_host.attention_decode_plan(batch, case.queries, case.heads, case.kv_heads, 64, case.room)
    assert slots > batch
    check_case(case, "cpu", torch.bfloat16)
    assert len(taken) == 1


def test_cases_cover_what_they_are_named_after():
    assert {case.heads // case.kv_heads for case in CASES} >= {1, 4, 8, 16}
    assert {case.queries for case in CASES} >= {1, 4, 16}
    assert {case.dim for case in CASES} == {64, 128} and {case.page for case in CASES} >= {0, 16, 48, 64, 128}
    several = [
        case
        for case in CASES
        if _C.attention_decode_plan(
            len(case.lengths), case.queries, case.heads, case.kv_heads, case.dim, case.room, 40
        )[0]
        > len(case.lengths)
    ]
    assert {bool(case.page) for case in several} == {False, True} and any(case.window for case in several)
    assert any(case.new for case in several)
