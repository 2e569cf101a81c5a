"""Residual and LayerNorm on the CPU: against fp64, in every way of calling it."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from codeshell import _C, ops
from codeshell.ops import cpu

norm_module = sys.modules["codeshell.ops.norm"]
reference = norm_module.reference
ROOT = Path(__file__).resolve().parents[2]
F32, BF16 = torch.float32, torch.bfloat16

# The dtypes of x, branch, weights and norm: plain fp32; bf16 autocast; a bf16 model; bf16 weights below an fp32 stream;
# a probe that asks for fp32; fp32 weights in a bf16 stream.
DTYPES = [
    (F32, F32, F32, F32),
    (F32, BF16, F32, BF16),
    (BF16, BF16, BF16, BF16),
    (F32, BF16, BF16, BF16),
    (F32, BF16, F32, F32),
    (BF16, BF16, F32, F32),
]


def make(shape: tuple[int, ...], dtypes=DTYPES[0], seed: int = 0, offset: float = 0.0, with_branch: bool = True):
    """x, branch, weight, bias, and the gradients of both results."""
    generator = torch.Generator().manual_seed(seed)
    x_dtype, branch_dtype, weight_dtype, dtype = dtypes

    def draw(*size: int) -> Tensor:
        return torch.randn(size, generator=generator)

    x = (draw(*shape) * 2 + offset).to(x_dtype)
    branch = draw(*shape).to(branch_dtype) if with_branch else None
    weight, bias = (draw(shape[-1]) + 1).to(weight_dtype), draw(shape[-1]).to(weight_dtype)
    return (x, branch, weight, bias), (draw(*shape).to(x_dtype), draw(*shape).to(dtype))


def run(function, inputs, grads, dtype) -> list[Tensor]:
    """Both results and all gradients."""
    leaves = [None if t is None else t.detach().clone().requires_grad_() for t in inputs]
    results = function(*leaves, 1e-5, dtype=dtype)
    wanted = [leaf for leaf in leaves if leaf is not None]
    return [*(t.detach() for t in results), *torch.autograd.grad(results, wanted, grads)]


def exact(inputs, grads) -> list[Tensor]:
    """The same in fp64, of a sum that is rounded to the dtype of the stream as all of them round it."""
    x, branch, weight, bias = inputs
    stream = (x if branch is None else x + branch).double().requires_grad_()
    weight, bias = (t.double().requires_grad_() for t in (weight, bias))
    normed = F.layer_norm(stream, weight.shape, weight, bias, 1e-5)
    grad, *affine = torch.autograd.grad((stream * 1.0, normed), (stream, weight, bias), [g.double() for g in grads])
    return [stream.detach(), normed.detach(), grad, *([] if branch is None else [grad]), *affine]


def assert_within_twice(mine: list[Tensor], theirs: list[Tensor], right: list[Tensor]) -> None:
    """The bound of the house: twice the largest error of PyTorch's computation in the same dtypes, and a few units in
    the last place of the largest number, for cases in which PyTorch happens to be exact."""
    for place, (own, peer, want) in enumerate(zip(mine, theirs, right, strict=True)):
        assert own.dtype == peer.dtype and own.shape == peer.shape
        error, peer_error = ((t.double() - want).abs().max() for t in (own, peer))
        slack = 4 * torch.finfo(own.dtype).eps * want.abs().max() if own.dtype == F32 else 0.0
        assert error <= 2 * peer_error + slack + 1e-6, (place, float(error), float(peer_error))


@pytest.mark.parametrize("with_branch", [True, False])
@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda dtypes: "-".join(str(d).removeprefix("torch.") for d in dtypes))
@pytest.mark.parametrize("shape", [(7, 64), (2, 3, 70), (300, 257), (5, 1030), (33, 16), (64, 17)], ids=str)
def test_against_fp64(shape, dtypes, with_branch):
    inputs, grads = make(shape, dtypes, with_branch=with_branch)
    mine = run(ops.residual_layer_norm, inputs, grads, dtypes[3])
    theirs = run(reference, inputs, grads, dtypes[3])
    assert mine[0].dtype == dtypes[0] and mine[1].dtype == dtypes[3] and torch.equal(mine[0], theirs[0])
    assert_within_twice(mine, theirs, exact(inputs, grads))


@settings(max_examples=60, deadline=None)
@example(1, 38, DTYPES[2], 0.0, False, 38)
@given(
    st.integers(1, 40),
    st.integers(1, 90),
    st.sampled_from(DTYPES),
    st.sampled_from([0.0, 1.0, 300.0]),
    st.booleans(),
    st.integers(0, 2**31),
)
def test_any_shape(rows, width, dtypes, offset, with_branch, seed):
    inputs, grads = make((rows, width), dtypes, seed, offset, with_branch)
    mine = run(ops.residual_layer_norm, inputs, grads, dtypes[3])
    theirs = run(reference, inputs, grads, dtypes[3])
    wanted = exact(inputs, grads)
    # An error of the mean by half a unit in its last place is one of `noise` in xhat, for whoever rounds the mean; and
    # of the gradients by as much of their largest.
    stream = wanted[0]
    rstd = 1 / torch.sqrt(stream.var(-1, unbiased=False) + 1e-5)
    noise = float((stream.mean(-1).abs() * rstd).max()) * 2**-23
    for place, (own, peer, want) in enumerate(zip(mine, theirs, wanted, strict=True)):
        # Without a branch, autograd adds the gradients of both results, in bf16 after each was rounded to it. For each
        # number that is up to a unit in its last place, of which PyTorch may happen to have none.
        twice = place == 2 and not with_branch and own.dtype == BF16
        roundings = torch.finfo(BF16).eps * want.abs() if twice else 0.0
        error = ((own.double() - want).abs() - roundings).max()
        peer_error = (peer.double() - want).abs().max()
        size = 1 + float(want.abs().max()) + float(rstd.max()) * float(grads[1].abs().max())
        assert error <= 2 * peer_error + (8 * 2**-23 + 4 * noise * rows) * size


def test_wide_and_narrow_rows_of_many_chunks():
    """More rows than 64 chunks of 32, so that partial sums of several sizes are added."""
    inputs, grads = make((2111, 24))
    assert_within_twice(
        *(run(f, inputs, grads, F32) for f in (ops.residual_layer_norm, reference)), exact(inputs, grads)
    )
    inputs, grads = make((3, 20_000))
    assert_within_twice(
        *(run(f, inputs, grads, F32) for f in (ops.residual_layer_norm, reference)), exact(inputs, grads)
    )


@pytest.mark.parametrize("dtypes", [DTYPES[0], DTYPES[1]], ids=["fp32", "bf16"])
def test_the_bits_do_not_depend_on_threads(dtypes):
    inputs, grads = make((600, 300), dtypes)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2, 5):
            torch.set_num_threads(count)
            results.append(run(ops.residual_layer_norm, inputs, grads, dtypes[3]))
    finally:
        torch.set_num_threads(threads)
    assert all(torch.equal(a, b) for other in results[1:] for a, b in zip(results[0], other, strict=True))


def check_this_level() -> None:
    """Every pair of dtypes, with rows of whole vectors and rows that end within one."""
    for dtypes in DTYPES:
        for shape in ((7, 64), (33, 17), (3, 257)):
            test_against_fp64(shape, dtypes, True)
            test_against_fp64(shape, dtypes, False)


@pytest.mark.parametrize("level", ["scalar", "avx2"])
def test_other_levels(level):
    if _C.simd_level() not in ("avx512", "avx2"):
        pytest.skip(f"this processor's level is {_C.simd_level()}: no lower one of x86 to choose")
    # A level is chosen once for a process.
    code = "import test_norm; test_norm.check_this_level(); print(test_norm._C.simd_level())"
    paths = [str(ROOT), str(ROOT / "tests"), str(ROOT / "tests" / "ops")]
    environment = {**os.environ, "CODESHELL_SIMD": level, "PYTHONPATH": os.pathsep.join(paths)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, level), done.stderr[-2000:]


@pytest.mark.parametrize("dtypes", DTYPES, ids=lambda dtypes: "-".join(str(d).removeprefix("torch.") for d in dtypes))
@pytest.mark.parametrize("shape", [(3, 1), (5, 15), (2, 16), (3, 33), (70, 47)], ids=str)
def test_every_element_is_written_and_nothing_else(shape, dtypes, monkeypatch):
    """Results begin as NaN and lie between guards that stay."""
    (x, branch, weight, bias), (grad_stream, grad_normed) = make(shape, dtypes)
    rooms = []

    def guarded(size, dtype) -> Tensor:
        size = torch.Size((size,) if isinstance(size, int) else size)
        room = torch.full((size.numel() + 128,), float("nan"), dtype=dtype)
        rooms.append(room)
        return room[64:-64].view(size)

    monkeypatch.setattr(torch, "empty_like", lambda x, dtype=None: guarded(x.shape, dtype or x.dtype))
    monkeypatch.setattr(Tensor, "new_empty", lambda x, size, dtype=None: guarded(size, dtype or x.dtype))
    stream, normed, mean, rstd = cpu.norm.forward(x, branch, weight, bias, 1e-5, dtypes[3])
    results = [stream, normed, mean, rstd]
    results += cpu.norm.backward(grad_stream, grad_normed, stream, weight, mean, rstd, dtypes[1], True)
    monkeypatch.undo()
    assert len(rooms) == 9 and not any(torch.isnan(t).any() for t in results)
    for room in rooms:
        assert torch.isnan(room[:64]).all() and torch.isnan(room[-64:]).all()


def test_large_means_and_constant_rows():
    """The variance comes from differences; a row of one value has none, and eps keeps it finite."""
    x = torch.randn(32, 64, dtype=torch.float64) + torch.tensor([[0.0], [1e3], [-1e4], [5e5]] * 8)
    weight, bias = torch.ones(64), torch.zeros(64)
    _, normed = ops.residual_layer_norm(x.float(), None, weight, bias)
    want = F.layer_norm(x.float().double(), (64,))
    bound = x.float().abs().max(-1, keepdim=True).values * 2**-22 + 1e-5
    assert bool(((normed - want).abs() <= bound).all())
    _, constant = ops.residual_layer_norm(torch.full((20, 33), 7.25), None, torch.ones(33), torch.full((33,), 0.5))
    assert torch.equal(constant, torch.full((20, 33), 0.5))


def test_nan_and_infinity_stay_in_their_row():
    x = torch.randn(24, 19)
    x[1, 3], x[2, 18] = float("nan"), float("inf")
    _, normed = ops.residual_layer_norm(x, torch.zeros_like(x), torch.ones(19), torch.zeros(19))
    assert torch.isnan(normed[1:3]).all() and torch.isfinite(normed[[0, *range(3, 24)]]).all()


def test_few_rows_without_gradients_are_two_operations_of_torch(monkeypatch):
    calls = []
    forward = cpu.norm.forward
    monkeypatch.setattr(cpu.norm, "forward", lambda *given: calls.append(len(given[0])) or forward(*given))
    for rows in (norm_module.FEW_ROWS, norm_module.FEW_ROWS + 1):
        inputs, _ = make((rows, 24))
        for own, peer in zip(ops.residual_layer_norm(*inputs), reference(*inputs, eps=1e-5, dtype=F32), strict=True):
            torch.testing.assert_close(own, peer)
    assert calls == [norm_module.FEW_ROWS + 1]
    run(ops.residual_layer_norm, *make((1, 24)), F32)
    assert calls == [norm_module.FEW_ROWS + 1, 1]


def test_without_a_branch_the_stream_is_x():
    inputs, _ = make((3, 8), with_branch=False)
    stream, _ = ops.residual_layer_norm(*inputs)
    assert stream is inputs[0]


def test_only_what_needs_a_gradient_gets_one():
    inputs, grads = make((9, 20))
    whole = run(ops.residual_layer_norm, inputs, grads, F32)[2:]
    for needed in ((0,), (1,), (2,), (3,), (1, 3), (0, 2)):
        leaves = [t.clone().requires_grad_(place in needed) for place, t in enumerate(inputs)]
        results = ops.residual_layer_norm(*leaves)
        differentiable = [(r, g) for r, g in zip(results, grads, strict=True) if r.requires_grad]
        torch.autograd.backward(*zip(*differentiable, strict=True))
        for place, leaf in enumerate(leaves):
            assert (leaf.grad is not None) == (place in needed)
            assert leaf.grad is None or torch.equal(leaf.grad, whole[place])


@pytest.mark.parametrize("used", [0, 1])
def test_one_of_the_results_is_not_used(used):
    inputs, grads = make((6, 20), DTYPES[1])
    results = []
    for function in (ops.residual_layer_norm, reference):
        leaves = [t.clone().requires_grad_() for t in inputs]
        function(*leaves, 1e-5, dtype=BF16)[used].backward(grads[used])
        results.append([leaf.grad for leaf in leaves])
    for own, peer in zip(*results, strict=True):
        # The stream alone has nothing to do with the weights.
        assert (own is None) == (peer is None) == (used == 0 and own is None)
        if own is not None:
            torch.testing.assert_close(own, peer, rtol=2e-2, atol=1e-2)


def test_strides_do_not_matter():
    inputs, grads = make((6, 20))
    x, branch, weight, bias = inputs
    wide = torch.zeros(6, 40)
    wide[:, ::2] = x
    strided = (wide[:, ::2], branch.t().contiguous().t(), torch.stack((weight, weight), 1)[:, 0], bias)
    backwards = (grads[0].t().contiguous().t(), torch.ones(()).expand(6, 20))
    expected = run(ops.residual_layer_norm, inputs, (grads[0], torch.ones(6, 20)), F32)
    leaves = [t.detach().requires_grad_() for t in strided]
    results = ops.residual_layer_norm(*leaves)
    got = [*results, *torch.autograd.grad(results, leaves, backwards)]
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize("shape", [(0, 8), (2, 0, 8), (3, 0)], ids=str)
def test_empty_batches(shape):
    inputs, grads = make(shape)
    if shape[-1] == 0:
        stream, normed = ops.residual_layer_norm(*inputs)
        assert stream.shape == normed.shape == shape
        return
    mine = run(ops.residual_layer_norm, inputs, grads, F32)
    assert [t.shape for t in mine] == [shape, shape, shape, shape, (8,), (8,)]
    assert not mine[4].any() and not mine[5].any()


@pytest.mark.parametrize(
    "dtypes",
    [(torch.float64,) * 4, (torch.float16,) * 4, (BF16, F32, F32, F32), (F32, torch.float16, F32, F32)],
    ids=["fp64", "fp16", "a wider branch", "a branch in fp16"],
)
def test_pytorch_serves_other_dtypes(dtypes):
    inputs, grads = make((5, 24), dtypes)
    stream = torch.promote_types(dtypes[0], dtypes[1])
    grads = (grads[0].to(stream), grads[1])
    mine, theirs = (run(f, inputs, grads, dtypes[3]) for f in (ops.residual_layer_norm, reference))
    assert mine[0].dtype == stream and all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))


def test_the_dtype_is_that_of_the_next_product():
    (x, branch, weight, bias), _ = make((3, 8), DTYPES[1])
    assert [t.dtype for t in ops.residual_layer_norm(x, branch, weight, bias)] == [F32, F32]
    for served in (True, False):
        x, branch, weight, bias = (t if served else t.double() for t in (x, branch, weight, bias))
        with torch.autocast("cpu", dtype=BF16):
            stream, normed = ops.residual_layer_norm(x, branch, weight, bias)
            assert stream.dtype == x.dtype and normed.dtype == BF16
            assert ops.residual_layer_norm(x, branch, weight, bias, dtype=F32)[1].dtype == F32


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": torch.zeros(())}, r"x \(\) torch.float32: must have at least one dimension"),
        ({"x": torch.zeros(3, 8, dtype=torch.int32)}, "x .* torch.int32"),
        ({"branch": torch.zeros(8)}, r"branch \(8,\).*shape \(3, 8\) of x"),
        ({"branch": torch.zeros(3, 8, dtype=torch.int64)}, "branch .* torch.int64"),
        ({"weight": torch.zeros(7)}, r"weight \(7,\).*must be \(8,\)"),
        ({"weight": torch.zeros(1, 8)}, r"weight \(1, 8\)"),
        ({"bias": torch.zeros(8, dtype=torch.int8)}, "bias .* torch.int8"),
        ({"bias": torch.zeros(8, device="meta")}, "bias .* is on meta"),
    ],
)
def test_bad_arguments_are_named(change, message):
    arguments = {"x": torch.zeros(3, 8), "branch": None, "weight": torch.zeros(8), "bias": torch.zeros(8)} | change
    with pytest.raises(ValueError, match=message):
        ops.residual_layer_norm(**arguments)


@pytest.mark.parametrize("dtypes", DTYPES[:3], ids=["fp32", "mixed", "bf16"])
@pytest.mark.parametrize("with_branch", [True, False])
def test_opcheck(dtypes, with_branch):
    (x, branch, weight, bias), (grad_stream, grad_normed) = make((4, 24), dtypes, with_branch=with_branch)
    forward = torch.ops.codeshell.residual_layer_norm.default
    torch.library.opcheck(forward, (x, branch, weight, bias, 1e-5, dtypes[3]))
    stream, _, mean, rstd = forward(x, branch, weight, bias, 1e-5, dtypes[3])
    stream = stream if with_branch else x
    backward = torch.ops.codeshell.residual_layer_norm_backward.default
    for affine, grad in ((True, grad_stream), (False, None)):
        torch.library.opcheck(backward, (grad, grad_normed, stream, weight, mean, rstd, dtypes[1], affine))


@pytest.mark.parametrize("dtypes", DTYPES[:2], ids=["fp32", "mixed"])
def test_a_compiled_graph_has_the_same_bits(dtypes):
    inputs, grads = make((4, 24), dtypes)

    def twice(x, branch, weight, bias, eps, dtype):
        stream, normed = ops.residual_layer_norm(x, None, weight, bias, eps, dtype=dtype)
        return ops.residual_layer_norm(stream, branch + normed.to(branch.dtype), weight, bias, eps, dtype=dtype)

    compiled = torch.compile(twice, backend="aot_eager", fullgraph=True, dynamic=True)
    for got, want in zip(run(compiled, inputs, grads, dtypes[3]), run(twice, inputs, grads, dtypes[3]), strict=True):
        assert torch.equal(got, want)
    torch.compiler.reset()


def test_the_operation_without_a_kernel_is_the_formula():
    """What a graph runs where no kernel serves: PyTorch, forward and backward."""
    inputs, grads = make((4, 24), (torch.float16,) * 4)
    (x, branch, weight, bias), _ = inputs, grads
    stream, normed, mean, rstd = torch.ops.codeshell.residual_layer_norm(x, branch, weight, bias, 1e-5, x.dtype)
    backward = torch.ops.codeshell.residual_layer_norm_backward
    got = [stream, normed, *backward(*grads, stream, weight, mean, rstd, F32, True)]
    want = exact(inputs, grads)
    assert got[3].dtype == F32 and got[2].dtype == torch.float16
    for own, right in zip(got, want, strict=True):
        torch.testing.assert_close(own.double(), right, rtol=4e-3, atol=4e-3)


def test_gradients_of_gradients_are_refused_in_words():
    inputs, _ = make((3, 8))
    leaves = [t.requires_grad_() for t in inputs]
    for frozen in (False, True):
        for leaf in leaves[2:]:
            leaf.requires_grad_(not frozen)
        out = ops.residual_layer_norm(*leaves)[1].square().sum()
        (first,) = torch.autograd.grad(out, leaves[0], create_graph=True)
        with pytest.raises(RuntimeError, match="differentiate twice"):
            torch.autograd.grad(first.sum(), leaves[0])
    # Where what comes from above is a constant, the gradient still depends on x.
    _, normed = ops.residual_layer_norm(*leaves)
    (first,) = torch.autograd.grad(normed, leaves[0], torch.ones_like(normed), create_graph=True)
    with pytest.raises(RuntimeError, match="differentiate twice"):
        torch.autograd.grad(first.sum(), leaves[0])


def test_the_stream_may_not_be_changed_before_its_gradient():
    """The norm's gradient is computed from it: torch notices, and nothing wrong comes out."""
    inputs, _ = make((3, 8))
    leaves = [t.requires_grad_() for t in inputs]
    stream, normed = ops.residual_layer_norm(*leaves)
    with torch.no_grad():
        stream.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        normed.sum().backward()
