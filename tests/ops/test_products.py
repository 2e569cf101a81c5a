"""Our products of fp32 matrices against fp64: every layout, edge and number of threads, and where they take over."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from helpers.instruction_sets import check_at_level
from helpers.simulated_gpu import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from codeshell import ops
from codeshell.ops import products

ROOT = Path(__file__).resolve().parents[2]
linear = sys.modules["codeshell.ops.linear"]  # the name in the package is the function
SIZES = st.sampled_from([1, 2, 5, 6, 7, 15, 16, 17, 33, 131, 132, 133, 300, 520])
"""Around a strip (6), a panel (16), a block of rows (132) and of terms (256)."""


@pytest.fixture
def ours(monkeypatch):
    """Our products serve, whatever this processor is."""
    monkeypatch.setattr(products, "pays", lambda: True)


def laid_out(rows: int, columns: int, layout: str, seed: int) -> torch.Tensor:
    """A random matrix: rows contiguous, columns contiguous, a part of a wider matrix, or neither contiguous."""
    generator = torch.Generator().manual_seed(seed)
    if layout == "columns":
        return torch.randn(columns, rows, generator=generator).t()
    if layout == "part":
        return torch.randn(rows, columns + 3, generator=generator)[:, 2:-1]
    if layout == "gaps":
        return torch.randn(rows, 2 * columns, generator=generator)[:, ::2]
    return torch.randn(rows, columns, generator=generator)


LAYOUTS = st.sampled_from(["rows", "columns", "part", "gaps"])


@settings(max_examples=150, deadline=None)
@given(SIZES, SIZES, SIZES, LAYOUTS, LAYOUTS, st.booleans(), st.booleans(), st.sampled_from([1, 2, 5]))
def test_any_product_is_right(m, n, k, left_layout, right_layout, with_bias, add, threads):
    left, right = laid_out(m, k, left_layout, 1), laid_out(k, n, right_layout, 2)
    bias = torch.randn(n, generator=torch.Generator().manual_seed(3)) if with_bias else None
    # The output is a part of a wider matrix of NaN, which stays NaN around it.
    room = torch.full((m + 2, n + 4), float("nan"))
    out = room[1:-1, 2:-2]
    held = torch.randn(m, n, generator=torch.Generator().manual_seed(4))
    if add:
        out.copy_(held)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        products.multiply(left, products.pack(right), bias=bias, out=out, add=add)
        again = products.multiply(left, products.pack(right), bias=bias)
    finally:
        torch.set_num_threads(before)
    exact = left.double() @ right.double() + (0 if bias is None else bias.double())
    # The bound of sums of k terms in any order; in practice errors are far below it.
    bound = torch.finfo(torch.float32).eps * (k + 2) * (left.double().abs() @ right.double().abs() + 4)
    assert ((again - exact).abs() <= bound).all()
    assert ((out - exact - (held if add else 0)).abs() <= 2 * bound).all()
    room[1:-1, 2:-2] = float("nan")
    assert torch.isnan(room).all()


def test_errors_are_those_of_torch_or_smaller():
    """At most twice torch's, at a depth of 4,096, forward and transposed."""
    x, w, g = torch.randn(512, 4096), torch.randn(48, 4096), torch.randn(4096, 64)
    for left, right in ((x, w.t()), (g.t(), torch.randn(4096, 80))):
        exact = left.double() @ right.double()
        error, peer = ((p - exact).abs().max() for p in (products.multiply(left, products.pack(right)), left @ right))
        assert error <= 2 * peer


def test_bits_depend_on_nothing_but_the_row():
    """Any number of threads, and any rows beside it."""
    for columns_first in (False, True):
        left = torch.randn(600, 300)
        left = left.t().contiguous().t() if columns_first else left
        packed = products.pack(torch.randn(300, 200))
        before, results = torch.get_num_threads(), []
        for threads in (1, 2, 3, 8):
            torch.set_num_threads(threads)
            results.append(products.multiply(left, packed))
        torch.set_num_threads(before)
        assert all(torch.equal(result, results[0]) for result in results)
        for first, last in ((0, 1), (5, 131), (100, 600)):
            part = products.multiply(left[first:last], packed)
            assert torch.equal(part, results[0][first:last])


def test_nan_and_infinity_stay_in_their_rows():
    left = torch.randn(70, 40)
    left[3, 5], left[69, 0] = float("nan"), float("inf")
    right = torch.rand(40, 20) + 0.1
    out = products.multiply(left, products.pack(right))
    assert torch.isnan(out[3]).all() and (out[69] == float("inf")).all()
    assert torch.isfinite(out[[r for r in range(70) if r not in (3, 69)]]).all()


def gradients(function, *inputs):
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    out = function(*leaves)
    return out.detach(), *torch.autograd.grad(out, leaves, torch.ones_like(out).cumsum(0) / out.shape[0])


@pytest.mark.parametrize("bias", [True, False])
def test_linear_layers(ours, monkeypatch, bias):
    calls, multiply = [], products.multiply
    monkeypatch.setattr(products, "multiply", lambda *a, **k: (calls.append(1), multiply(*a, **k))[1])
    inputs = [torch.randn(100, 72), torch.randn(40, 72), *([torch.randn(40)] if bias else [])]
    mine = gradients(ops.linear, *inputs)
    assert len(calls) == 2  # the product, and the gradient of x
    exact = gradients(F.linear, *(x.double() for x in inputs))
    for own, peer, want in zip(mine, gradients(F.linear, *inputs), exact, strict=True):
        assert own.dtype == torch.float32
        assert (own - want).abs().max() <= 2 * (peer - want).abs().max() + 1e-6
    with torch.no_grad():
        assert torch.equal(ops.linear(*inputs), mine[0])


def test_what_stays_with_torch(ours, monkeypatch):
    monkeypatch.setattr(products, "pack", None)  # a call would fail
    x, w = torch.randn(100, 8), torch.randn(4, 8)
    ops.linear(x[:63], w)  # few rows
    ops.linear(x.double(), w.double())
    ops.linear(x.view(2, 50, 8), w)
    ops.linear(x[:, :0], w[:, :0])
    torch.vmap(lambda row: ops.linear(row, w))(x.view(1, 100, 8))
    torch.func.jvp(lambda row: ops.linear(row, w), (x,), (x,))
    torch.compile(ops.linear, backend="eager", fullgraph=True)(x, w)
    torch.compiler.reset()
    with monkeypatch.context() as context:
        simulate(context)
        ops.linear(x, w)
    with torch.autocast("cpu", dtype=torch.float16):
        assert ops.linear(x, w).dtype == torch.float16
    monkeypatch.setattr(products, "pays", lambda: False)
    ops.linear(x, w)


def test_differentiated_twice(ours):
    """A linear layer has gradients of gradients, and gradients in batches, as torch's own."""
    x, w = torch.randn(70, 8, requires_grad=True), torch.randn(4, 8, requires_grad=True)
    (first,) = torch.autograd.grad(ops.linear(x, w).square().sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), w)
    (wanted,) = torch.autograd.grad(F.linear(x, w).square().sum(), x, create_graph=True)
    assert torch.allclose(second, torch.autograd.grad(wanted.square().sum(), w)[0], rtol=1e-4)
    several = torch.randn(3, 70, 4)
    batched = torch.autograd.grad(ops.linear(x, w), x, several, is_grads_batched=True)[0]
    assert torch.allclose(batched, several @ w.detach(), atol=1e-5)


def test_widened_products(ours, monkeypatch):
    """Under bf16 autocast on a CPU without AMX: the same operands, rounded to bf16, by our product."""
    monkeypatch.setattr(linear, "bf16_products_pay", lambda: False)
    x, w = torch.randn(100, 64), torch.randn(24, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = ops.linear(x, w)
    exact = x.bfloat16().double() @ w.bfloat16().double().t()
    assert out.dtype == torch.bfloat16 and torch.allclose(out.double(), exact, rtol=2**-8, atol=1e-5)


@pytest.mark.parametrize("reduction", ["mean", "sum"])
def test_the_loss(ours, monkeypatch, reduction):
    """The same as without our products, over several blocks, the last one short."""
    loss = sys.modules["codeshell.ops.loss"]
    monkeypatch.setattr(loss, "_CPU_ELEMENTS", 37 * 50)
    hidden, weight = torch.randn(130, 24), torch.randn(50, 24)
    targets = torch.randint(0, 50, (130,))
    targets[::7] = -100

    def run(dtype):
        leaves = [x.to(dtype).requires_grad_() for x in (hidden.clone(), weight.clone())]
        total = ops.linear_cross_entropy(*leaves, targets, reduction=reduction)
        return total.detach(), *torch.autograd.grad(total, leaves)

    calls, multiply = [], products.multiply
    monkeypatch.setattr(products, "multiply", lambda *a, **k: (calls.append(1), multiply(*a, **k))[1])
    mine = run(torch.float32)
    assert len(calls) == 3 * 4
    exact = run(torch.float64)
    monkeypatch.setattr(products, "pays", lambda: False)
    for own, peer, want in zip(mine, run(torch.float32), exact, strict=True):
        assert (own - want).abs().max() <= 2 * (peer - want).abs().max() + 1e-6 * want.abs().max()


FEW = st.sampled_from([1, 2, 3, 4, 5, 6, 7, 9, 12, 13, 31, 95, 96, 97, 200])
"""Around a tile (3 and 6), and around the rows of a task (96)."""
TERMS = st.sampled_from([1, 7, 8, 15, 16, 17, 31, 32, 33, 100, 1023, 1024, 1025, 2056])
"""Around a vector (8 and 16), a line of memory (16 and 32), and a block (1,024)."""


def weight_of(n, k, dtype, room):
    """A random weight and bias; with `room`, the weight is a part of a wider matrix of NaN."""
    generator = torch.Generator().manual_seed(n * k)
    wide = torch.full((n, k + 5), float("nan"), dtype=dtype)
    weight = wide[:, 3 : k + 3] if room else torch.empty(n, k, dtype=dtype)
    weight.copy_(torch.randn(n, k, generator=generator))
    return weight, torch.randn(n, generator=generator).to(dtype)


@settings(max_examples=120, deadline=None)
@given(
    FEW,
    st.sampled_from([1, 2, 3, 4, 5, 31, 130]),
    TERMS,
    st.sampled_from([torch.float32, torch.bfloat16]),
    st.booleans(),
    st.booleans(),
    st.sampled_from([1, 2, 5]),
)
def test_any_few_rows_are_right(m, n, k, dtype, room, with_bias, threads):
    weight, bias = weight_of(n, k, dtype, room)
    bias = bias if with_bias else None
    x = torch.full((m, k + 4), float("nan"), dtype=dtype)[:, 1 : k + 1]
    x.copy_(torch.randn(m, k, generator=torch.Generator().manual_seed(m)))
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = products.few_rows(x, weight, bias)
    finally:
        torch.set_num_threads(before)
    exact = x.double() @ weight.double().t() + (0 if bias is None else bias.double())
    bound = torch.finfo(torch.float32).eps * (k + 2) * (x.double().abs() @ weight.double().abs().t() + 4)
    if dtype == torch.bfloat16:
        bound += exact.abs() * 2**-8
    assert got.dtype == dtype and got.shape == (m, n)
    assert ((got - exact).abs() <= bound).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_few_rows_have_the_bits_that_each_has_alone(dtype):
    """For any rows beside it, any columns beside its own, and any number of threads."""
    weight, bias = weight_of(70, 1100, dtype, False)
    x = torch.randn(130, 1100).to(dtype)
    whole = products.few_rows(x, weight, bias)
    before = torch.get_num_threads()
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        assert torch.equal(products.few_rows(x, weight, bias), whole)
    torch.set_num_threads(before)
    for first, count in ((0, 1), (5, 2), (6, 3), (95, 4), (60, 5), (1, 6), (97, 17), (2, 127)):
        rows = slice(first, first + count)
        assert torch.equal(products.few_rows(x[rows], weight, bias), whole[rows]), (first, count)
    assert torch.equal(products.few_rows(x, weight[9:31], bias[9:31]), whole[:, 9:31])


def test_errors_of_few_rows_are_those_of_torch_or_smaller():
    x, weight = torch.randn(32, 4096), torch.randn(64, 4096)
    exact = x.double() @ weight.double().t()
    error, peer = ((p - exact).abs().max() for p in (products.few_rows(x, weight), F.linear(x, weight)))
    assert error <= 2 * peer


def test_what_is_not_finite_stays_in_its_row_and_column():
    x, weight = torch.randn(7, 45), torch.rand(9, 45) + 0.1
    x[3, 44], x[6, 0], weight[8, 20] = float("nan"), float("inf"), float("nan")
    out = products.few_rows(x, weight)
    assert torch.isnan(out[3]).all() and torch.isnan(out[:, 8]).all()
    assert (out[6, :8] == float("inf")).all() and torch.isfinite(out[[0, 1, 2, 4, 5]][:, :8]).all()


def check_few_rows() -> None:
    """Against fp64, at every shape of tile and rest: what a process at another level runs."""
    for m, n, k in ((1, 9, 33), (2, 37, 1055), (5, 64, 768), (7, 5, 15)):
        for dtype in (torch.float32, torch.bfloat16):
            weight, bias = weight_of(n, k, dtype, True)
            x = torch.randn(m, k, generator=torch.Generator().manual_seed(m)).to(dtype)
            exact = x.double() @ weight.double().t() + bias.double()
            bound = 1e-5 * k**0.5 + (exact.abs() * 2**-8 if dtype == torch.bfloat16 else 0)
            assert ((products.few_rows(x, weight, bias) - exact).abs() <= bound).all(), (m, n, k, dtype)


@pytest.mark.parametrize("level", ["scalar", "avx2"])
def test_few_rows_at_every_instruction_set(level):
    check_at_level(level, "test_products", "check_few_rows")


def test_which_weights_few_rows_serve(monkeypatch):
    monkeypatch.setattr(products._C, "simd_level", lambda: "avx2")
    weight, bias = torch.randn(4, 8), torch.randn(4)
    assert products.serves_few_rows(weight, bias) and products.serves_few_rows(weight.bfloat16(), None)
    assert products.serves_few_rows(torch.nn.Parameter(weight), None)
    assert not products.serves_few_rows(weight.double(), None)
    assert not products.serves_few_rows(weight.t(), None)
    assert not products.serves_few_rows(weight, bias.double())
    assert not products.serves_few_rows(weight[:0], None)
    assert not products.serves_few_rows(weight.to("meta"), None)
    with monkeypatch.context() as context:
        simulate(context)
        assert not products.serves_few_rows(weight, bias)
    monkeypatch.setattr(products._C, "simd_level", lambda: "neon")
    assert not products.serves_few_rows(weight, bias)
