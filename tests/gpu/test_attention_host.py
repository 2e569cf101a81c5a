"""The forward kernel of attention, run on the host through the same Python as on a GPU, against fp64; its schedule."""

from __future__ import annotations

import pytest
import torch
from helpers.attention_cases import CASES, Case, check_case, inputs, poison, run
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, ops


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(on_host, monkeypatch, case):
    taken = poison(monkeypatch)
    dtype = (torch.bfloat16, torch.float16)[CASES.index(case) % 2]
    on_host.set_seed(CASES.index(case))
    check_case(case, "cpu", dtype)
    assert len(taken) == 1


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 128])
def test_dtypes_and_dims_against_fp64(on_host, monkeypatch, dtype, dim):
    poison(monkeypatch)
    check_case(Case("three_tiles", 300, 300, heads=4, kv_heads=1, dim=dim), "cpu", dtype)


@pytest.mark.parametrize("name", ["window", "packed", "full"])
def test_bits_do_not_depend_on_the_order_of_warps(on_host, name):
    """Six orders: a stage read before it is full or filled before it is read, and a missing turn, show as NaN."""
    (case,) = (case for case in CASES if case.name == name)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    first = run(case, q, k, v)
    for seed in range(1, 6):
        on_host.set_seed(seed)
        for a, b in zip(first, run(case, q, k, v), strict=True):
            assert torch.equal(a, b)


@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences_do_not_see_each_other(on_host, causal):
    """Not even a NaN or an infinity beyond a sequence's end, which lies in the same box of keys and values."""
    case = Case("isolated", 240, 240, lengths=(100, 140), causal=causal)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    out, lse = run(case, q, k, v)
    for x, value in ((q, torch.nan), (k, torch.inf), (v, torch.nan)):
        x[100:] = value
    other, other_lse = run(case, q, k, v)
    assert torch.equal(out[:100], other[:100]) and torch.equal(lse[:, :100], other_lse[:, :100])
    assert torch.isnan(other[100:]).all() and torch.isnan(other_lse[:, 100:]).all()


def test_unaligned_and_expanded_inputs_are_copied(on_host):
    q, k = torch.randn(1, 40, 2, 64).half(), torch.randn(1, 40, 1, 64).half()
    odd = torch.empty(q.numel() + 1).half()[1:].view(q.shape).copy_(q)
    spread = torch.stack([q, q], -1)[..., 0]
    expected = ops.attention(q, k.expand(1, 40, 2, 64).contiguous(), k.expand(1, 40, 2, 64).contiguous())
    for other in (odd, spread):
        assert torch.equal(ops.attention(other, k.expand(1, 40, 2, 64), k.expand(1, 40, 2, 64)), expected)


def test_a_window_beyond_all_integers_hides_nothing(on_host):
    q = torch.randn(1, 40, 2, 64).half()
    assert torch.equal(ops.attention(q, q, q, window=2**40), ops.attention(q, q, q))


def test_what_it_does_not_serve_goes_elsewhere(on_host, monkeypatch):
    taken = poison(monkeypatch)
    q = torch.randn(1, 20, 2, 64).bfloat16()
    k = torch.randn(1, 20, 1, 64).bfloat16()
    for arguments in (
        {"dropout_p": 0.1},
        {"scale": -0.125},
        {"q": q.float(), "k": k.float(), "v": k.float()},
        {"q": q[..., :32], "k": k[..., :32], "v": k[..., :32]},
        {"q": q[:, :0]},
    ):
        assert torch.isfinite(ops.attention(**{"q": q, "k": k, "v": k, **arguments})).all()
    assert not taken


def test_the_operation_and_its_fake_agree(on_host):
    q, k = torch.randn(2, 20, 2, 64).bfloat16(), torch.randn(2, 20, 1, 64).bfloat16()
    offsets = torch.tensor([0, 7, 20], dtype=torch.int32)
    operation = torch.ops.codeshell.attention_forward
    tests = ("test_schema", "test_faketensor")
    torch.library.opcheck(operation, (q, k, k, None, 0, 4, 0, 0.1), test_utils=tests)
    torch.library.opcheck(operation, (q[0], k[0], k[0], offsets, 13, None, 0, 0.1), test_utils=tests)
    out, lse = operation(q, k, k, None, 0, None, None, 0.1)
    operation = torch.ops.codeshell.attention_backward
    torch.library.opcheck(operation, (q, out, lse, q, k, k, None, 0, None, None, 0.1, True), test_utils=tests)


def test_the_operation_refuses_a_device_that_has_no_such_kernel():
    q = torch.zeros(1, 4, 1, 64, dtype=torch.bfloat16)
    with pytest.raises(ValueError, match="q is on cpu"):
        torch.ops.codeshell.attention_forward(q, q, q, None, 0, None, 0, 0.1)


def zeros(*shape, dtype=torch.bfloat16):
    return torch.zeros(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"q": zeros(1, 0, 2, 64)}, "at least one query and one key"),
        ({"k": zeros(1, 0, 1, 64), "v": zeros(1, 0, 1, 64)}, "at least one query and one key"),
        ({"q": zeros(1, 4, 3, 64), "k": zeros(1, 4, 2, 64), "v": zeros(1, 4, 2, 64)}, "not a multiple of the 2 of k"),
        ({"q": zeros(1, 4, 2, 96), "k": zeros(1, 4, 1, 96), "v": zeros(1, 4, 1, 96)}, "heads of 64 or 128"),
        ({"q": zeros(1, 4, 2, 64, dtype=torch.float16)}, "q is torch.float16, k torch.bfloat16"),
        ({name: zeros(1, 4, 1, 64, dtype=torch.float32) for name in "qkv"}, "bfloat16 or float16"),
        ({"scale": 0.0}, "a scale above 0"),
        ({"left": 2, "right": None}, "a right bound of 0 or no bounds"),
        ({"right": 1}, "a right bound of 0 or no bounds"),
        ({"left": -1}, "left is -1, right 0: each must be at least 0, or None"),
        ({"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32)}, "must be \\(total, heads, dim\\) with cu_seqlens"),
    ],
)
def test_the_operation_refuses(on_host, change, message):
    """A traced graph calls it by name, past the checks of `attention`: it has the same, and the kernels' conditions."""
    call = {"q": zeros(1, 4, 2, 64), "k": zeros(1, 4, 1, 64), "v": zeros(1, 4, 1, 64), "cu_seqlens": None}
    call |= {"max_seqlen": 4 if "cu_seqlens" in change else 0, "left": None, "right": 0, "scale": 1.0}
    with pytest.raises(ValueError, match=message):
        torch.ops.codeshell.attention_forward(**call | change)


@settings(max_examples=60, deadline=None)
@given(
    batch=st.integers(1, 3),
    kv_heads=st.integers(1, 3),
    group=st.integers(1, 8),
    queries=st.integers(1, 900),
    keys=st.one_of(st.integers(1, 900), st.integers(1, 60_000)),
    window=st.one_of(st.none(), st.just(0), st.integers(1, 1000)),
)
def test_the_schedule_has_each_tile_once_and_its_blocks_are_those_seen(batch, kv_heads, group, queries, keys, window):
    """`window` None is full attention, 0 causal. Blocks against the definition: which keys a row sees."""
    causal = window is not None
    tiles = _C.attention_tiles((batch, queries, keys, queries, kv_heads * group, kv_heads, 128), causal, window or 0)
    blocks = (queries + 127) // 128
    expected = {(m, h, b) for m in range(blocks) for h in range(kv_heads * group) for b in range(batch)}
    assert len(tiles) == len(expected) and {tuple(tile[:3]) for tile in tiles} == expected
    for m, *_, begin, free_begin, free_end, end in {(t[0], 0, 0, *t[3:]) for t in tiles}:
        rows = range(m * 128, min(m * 128 + 128, queries))
        ends = [min(keys, row + keys - queries + 1) if causal else keys for row in rows]
        begins = [max(0, row_end - window) if window else 0 for row_end in ends]
        if ends[-1] <= 0:
            assert begin >= end
            continue
        seen = [(b, e) for b, e in zip(begins, ends, strict=True) if b < e]
        assert begin * 128 <= min(b for b, _ in seen) and end == (max(ends) + 127) // 128
        assert (begin + 1) * 128 > min(b for b, _ in seen)
        if free_begin < free_end:
            assert max(begins) <= free_begin * 128 and free_end * 128 <= min(ends)


@pytest.mark.parametrize("tokens", [2048, 4096, 8192])
def test_the_schedule_is_balanced(tokens, record_property):
    """Tiles given to 132 multiprocessors as they fall free: the last ends within 8 % of the mean."""
    tiles = _C.attention_tiles((2, tokens, tokens, tokens, 64, 8, 128), True, 0)
    busy = [0] * 132
    for *_, begin, _, _, end in tiles:
        busy[busy.index(min(busy))] += end - begin
    record_property("longest_over_mean", round(max(busy) * 132 / sum(busy), 4))
    assert max(busy) * 132 <= 1.08 * sum(busy)


def test_heads_of_a_group_are_neighbours():
    tiles = _C.attention_tiles((2, 512, 512, 512, 16, 4, 128), True, 0)
    for first in range(0, len(tiles), 4):
        assert len({(t[0], t[1] // 4, t[2]) for t in tiles[first : first + 4]}) == 1


def test_cases_cover_what_they_are_named_after():
    """Every part of the loop, and rows that see nothing."""
    parts = set()
    for case in CASES:
        longest = max(case.lengths, default=case.queries)
        keys = longest if case.lengths else case.keys
        shape = (1, longest, keys, longest, case.heads, case.kv_heads, case.dim)
        for *_, begin, free_begin, free_end, end in _C.attention_tiles(shape, case.causal, case.window or 0):
            middle = range(max(begin, free_begin), min(free_end, end - 1))
            parts |= {"free"} if middle else set()
            parts |= {"diagonal"} if begin < end - 1 and max(free_end, begin) < end - 1 else set()
            parts |= {"edge"} if begin < min(free_begin, end - 1) else set()
            parts |= {"empty"} if begin >= end else set()
    assert parts == {"free", "diagonal", "edge", "empty"}
    assert {case.dim for case in CASES} == {64, 128}
