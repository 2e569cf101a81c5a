"""The backward kernels of attention, run on the host through the same Python as on a GPU; their schedule."""

from __future__ import annotations

import pytest
import torch
from helpers.attention_cases import CASES, Case, check_gradients, gradients, inputs, poison
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, ops
from codeshell.ops import attention_cuda, devices


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(on_host, monkeypatch, case):
    taken = poison(monkeypatch)
    index = CASES.index(case)
    on_host.set_seed((0, 1, 3)[index % 3])
    check_gradients(case, "cpu", (torch.float16, torch.bfloat16)[index % 2], deterministic=index % 3 == 0)
    assert len(taken) == 3  # the output, the gradients and the workspace


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dim", [64, 128])
def test_dtypes_and_dims_against_fp64(on_host, monkeypatch, dtype, dim):
    poison(monkeypatch)
    check_gradients(Case("three_tiles", 300, 300, heads=4, kv_heads=1, dim=dim), "cpu", dtype)


@pytest.mark.parametrize("name", ["group_1", "packed_full", "window_long"])
def test_deterministic_bits_do_not_depend_on_the_order_of_blocks(on_host, name):
    """Blocks in random orders: each gets its place in the order of additions by a ticket, so none waits for ever."""
    (case,) = (case for case in CASES if case.name == name)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    grad = torch.randn(q.shape).bfloat16()
    first = gradients(case, q, k, v, grad, deterministic=True)
    for seed in (1, 3):
        on_host.set_seed(seed)
        for a, b in zip(first, gradients(case, q, k, v, grad, deterministic=True), strict=True):
            assert torch.equal(a, b)


def test_dk_and_dv_are_always_deterministic_and_the_sums_of_dq_are_not(on_host, monkeypatch):
    """The second half shows that the test above can fail: another order of blocks, other sums in fp32."""
    poison(monkeypatch)
    kept = []
    allocate = attention_cuda._workspace
    monkeypatch.setattr(attention_cuda, "_workspace", lambda *a: [kept.append(allocate(*a)), kept[-1]][1])
    case = Case("orders", 64, 500, heads=1, kv_heads=1, causal=False)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    grad = torch.randn(q.shape).bfloat16()
    for deterministic in (False, True):
        kept.clear()
        first, *others = (
            [on_host.set_seed(seed), gradients(case, q, k, v, grad, deterministic)][1] for seed in (0, 1, 3)
        )
        for _, dk, dv in others:
            assert torch.equal(first[1], dk) and torch.equal(first[2], dv)
        assert all(torch.equal(kept[0], other) for other in kept) == deterministic


def test_torchs_switch_makes_it_deterministic(on_host, monkeypatch):
    asked = []
    run = on_host.attention_backward_cuda
    monkeypatch.setattr(devices, "extension", Recorder(on_host, run, asked))
    case = Case("switch", 20, 20)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    gradients(case, q, k, v, torch.ones_like(q))
    gradients(case, q, k, v, torch.ones_like(q), deterministic=True)
    torch.use_deterministic_algorithms(True)
    try:
        gradients(case, q, k, v, torch.ones_like(q))
    finally:
        torch.use_deterministic_algorithms(False)
    assert asked == [False, True, True]


class Recorder:
    """The module, with the `deterministic` of each backward call noted."""

    def __init__(self, module, run, asked):
        self._module, self._run, self._asked = module, run, asked

    def __getattr__(self, name):
        return getattr(self._module, name)

    def attention_backward_cuda(self, *arguments):
        self._asked.append(arguments[-2])
        self._run(*arguments)


@pytest.mark.parametrize("lengths", [(), (40, 160)])
def test_a_group_split_over_blocks_has_the_same_gradients(on_host, monkeypatch, lengths):
    """With many multiprocessors each query head gets a block; dK and dV are then sums in a fixed order."""
    poison(monkeypatch)
    case = Case("split", 200, 200, heads=4, kv_heads=1, dim=128, lengths=lengths)
    shape = (max(1, len(lengths)), 200, 200, 200, 4, 1, 128)
    assert [_C.attention_splits(shape, True, 0, count) for count in (1, 1000)] == [1, 4]
    assert _C.attention_splits(shape, True, 2**31 - 1, 1000) == 4
    on_host.set_multiprocessors(1000)
    check_gradients(case, "cpu", torch.bfloat16)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    first = gradients(case, q, k, v, torch.ones_like(q), deterministic=True)
    on_host.set_seed(5)
    assert all(
        torch.equal(a, b)
        for a, b in zip(first, gradients(case, q, k, v, torch.ones_like(q), deterministic=True), strict=True)
    )


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("dim", [64, 128])
def test_packed_sequences_do_not_see_each_other(on_host, causal, dim):
    """Not even a NaN or an infinity beyond a sequence's end, which lies in the same boxes."""
    case = Case("isolated", 200, 200, lengths=(100, 100), heads=1, causal=causal, dim=dim)
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    grad = torch.randn(q.shape).bfloat16()
    alone = gradients(case, q, k, v, grad)
    for x, value in ((q, torch.nan), (k, torch.inf), (v, torch.nan), (grad, torch.inf)):
        x[100:] = value
    other = gradients(case, q, k, v, grad)
    for a, b in zip(alone, other, strict=True):
        assert torch.equal(a[:100], b[:100])
        assert torch.isnan(b[100:]).all()


def test_gradients_of_views_and_expanded_outputs(on_host):
    """The gradient of a sum is one number expanded, which TMA cannot walk."""
    q, k = torch.randn(1, 40, 2, 64).half(), torch.randn(1, 40, 1, 64).half()
    q.requires_grad_(), k.requires_grad_()
    ops.attention(q, k, k).sum().backward()
    other, same = (x.detach().clone().requires_grad_() for x in (q, k))
    ops.attention(other, same, same).backward(torch.ones_like(q))
    assert torch.equal(q.grad, other.grad) and torch.equal(k.grad, same.grad)


def test_the_operation_and_its_fake_agree(on_host):
    q, k = torch.randn(2, 20, 2, 64).bfloat16(), torch.randn(2, 20, 1, 64).bfloat16()
    offsets = torch.tensor([0, 7, 20], dtype=torch.int32)
    operation = torch.ops.codeshell.attention_backward
    tests = ("test_schema", "test_faketensor")
    out, lse = ops.attention(q, k, k, return_lse=True)
    torch.library.opcheck(operation, (q, out, lse, q, k, k, None, 0, 4, 0, 0.1, True), test_utils=tests)
    out, lse = ops.attention(q[0], k[0], k[0], cu_seqlens=offsets, max_seqlen=13, return_lse=True)
    packed = (q[0], out, lse, q[0], k[0], k[0], offsets, 13, None, 0, 0.1, False)
    torch.library.opcheck(operation, packed, test_utils=tests)
    with pytest.raises(ValueError, match=r"grad \(19, 2, 64\) torch.bfloat16, out"):
        operation(q[0, :19], *packed[1:])


def test_it_compiles_as_one_graph(on_host):
    q, k, v = torch.randn(1, 20, 2, 64).half(), torch.randn(1, 20, 1, 64).half(), torch.randn(1, 20, 1, 64).half()
    q.requires_grad_()

    def loss(q):
        return (ops.attention(q, k, v).float() ** 2).sum()

    (expected,) = torch.autograd.grad(loss(q), q)
    (found,) = torch.autograd.grad(torch.compile(loss, fullgraph=True, backend="aot_eager")(q), q)
    assert torch.equal(found, expected)


def zeros(*shape):
    return torch.zeros(shape, dtype=torch.bfloat16)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"k": zeros(1, 0, 1, 64), "v": zeros(1, 0, 1, 64)}, "at least one query and one key"),
        ({"q": zeros(1, 4, 3, 64), "k": zeros(1, 4, 2, 64), "v": zeros(1, 4, 2, 64)}, "not a multiple of the 2 of k"),
        ({"q": zeros(1, 4, 2, 96), "k": zeros(1, 4, 1, 96), "v": zeros(1, 4, 1, 96)}, "heads of 64 or 128"),
        (
            {"q": zeros(4, 2, 64), "k": zeros(5, 1, 64), "v": zeros(5, 1, 64)}
            | {"cu_seqlens": torch.tensor([0, 4], dtype=torch.int32), "max_seqlen": 4},
            "q has 4 tokens, k 5; packed sequences attend to themselves",
        ),
        ({"scale": 0.0}, "a scale above 0"),
        ({"left": 2, "right": None}, "a right bound of 0 or no bounds"),
        ({"grad": zeros(1, 4, 2, 128)}, r"grad \(1, 4, 2, 128\) torch.bfloat16, out"),
    ],
)
def test_the_operation_refuses(on_host, change, message):
    """A traced graph calls it by name, past the checks of `attention`: it has the same, and the kernels' conditions."""
    call = {name: zeros(1, 4, 2, 64) for name in ("grad", "out", "q")} | {"lse": torch.zeros(1, 2, 4)}
    call |= {"k": zeros(1, 4, 1, 64), "v": zeros(1, 4, 1, 64), "cu_seqlens": None, "max_seqlen": 0}
    call |= {"left": None, "right": 0, "scale": 1.0, "deterministic": True}
    with pytest.raises(ValueError, match=message):
        torch.ops.codeshell.attention_backward(**call | change)


@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 2),
    kv_heads=st.integers(1, 2),
    group=st.sampled_from([1, 2, 4, 6]),
    dim=st.sampled_from([64, 128]),
    queries=st.integers(1, 900),
    keys=st.one_of(st.integers(1, 900), st.integers(1, 3000)),
    window=st.one_of(st.none(), st.just(0), st.integers(1, 1000)),
    parts=st.sampled_from([1, 2]),
)
def test_visits_are_those_of_the_definition_and_their_turns_count_up(
    batch, kv_heads, group, dim, queries, keys, window, parts
):
    """`window` None is full attention, 0 causal. Against the definition: which queries see a key of a block."""
    causal, splits, rows = window is not None, parts if group % parts == 0 else 1, 8192 // dim
    shape = (batch, queries, keys, queries, kv_heads * group, kv_heads, dim)
    visits = _C.attention_visits(shape, causal, window or 0, splits)
    key = torch.arange(keys)[None]
    last = torch.arange(queries)[:, None] + keys - queries
    seen = torch.ones(queries, keys, dtype=torch.bool)
    if causal:
        seen = key <= last
        if window:
            seen &= key > last - window
    tiles, blocks = (queries + rows - 1) // rows, (keys + 127) // 128
    padded = torch.zeros(tiles * rows, blocks * 128, dtype=torch.bool)
    padded[:queries, :keys] = seen
    some = padded.view(tiles, rows, blocks, 128).transpose(1, 2).flatten(2).any(2)
    padded[queries:] = True
    every = padded.view(tiles, rows, blocks, 128).transpose(1, 2).flatten(2).all(2)
    expected = {(n, h, b, m) for m, n in some.nonzero().tolist() for h in range(kv_heads * group) for b in range(batch)}
    assert len(visits) == len(expected)
    assert {(n, h, b, m) for _, n, _, b, h, m, _, _ in visits} == expected
    turns: dict[tuple[int, int, int], int] = {}
    for block, (_, n, kv_head, b, h, m, turn, free) in zip((v[0] for v in visits), visits, strict=True):
        assert h // group == kv_head and bool(free) == bool(every[m, n])
        assert turn == turns.get((b, h, m), 0), "a block that has started before adds before"
        turns[b, h, m] = turn + 1
        assert block < batch * kv_heads * splits * blocks


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(
    ("batch", "tokens", "heads", "kv_heads", "dim"),
    [(2, 2048, 64, 8, 128), (2, 8192, 64, 8, 128), (8, 2048, 32, 8, 128), (2, 8192, 32, 8, 128), (2, 2048, 32, 4, 64)],
)
def test_the_schedule_is_balanced(batch, tokens, heads, kv_heads, dim, causal, record_property):
    """Blocks given to 132 multiprocessors as they fall free, a visit the unit of time and 4 a block's ends: the last
    ends within 8 % of the mean."""
    splits = _C.attention_splits((batch, tokens, tokens, tokens, heads, kv_heads, dim), causal, 0, 132)
    visits: dict[int, int] = {}  # of a head
    for block, *_ in _C.attention_visits((batch, tokens, tokens, tokens, kv_heads, kv_heads, dim), causal, 0, 1):
        visits[block] = visits.get(block, 0) + 1
    busy = [0] * 132
    for block in sorted(visits):
        for _ in range(splits):
            busy[busy.index(min(busy))] += 4 + visits[block] * heads // kv_heads // splits
    record_property("longest_over_mean", round(max(busy) * 132 / sum(busy), 4))
    assert max(busy) * 132 <= 1.08 * sum(busy)


def test_additions_to_one_tile_come_in_turn_when_blocks_start_together():
    """Causal: blocks of one KV head are at the same tile and head after the same number of visits, so none waits for
    another but for the start, whatever their lengths."""
    visits = _C.attention_visits((1, 1024, 1024, 1024, 8, 2, 128), True, 0, 1)
    order: dict[int, list[tuple[int, int]]] = {}
    for block, _, _, _, head, tile, _, _ in visits:
        order.setdefault(block, []).append((tile, head))
    for kv_head in range(2):
        longest, *others = (order[block] for block in sorted(order) if block % 2 == kv_head)
        assert len(others) == 7
        for other in others:
            assert other == longest[: len(other)]
