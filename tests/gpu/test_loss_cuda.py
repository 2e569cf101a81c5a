"""The kernel of the loss on a GPU, against fp64 on the CPU, which is plain PyTorch. Needs torch, numpy and pytest.

The same kernel runs on the host in test_loss_host.py, on more cases; here is what only a GPU can show: large shapes,
streams and graphs, 64-bit offsets in real memory, and that nvcc's code computes the same.
"""

from __future__ import annotations

import pytest
import torch
from helpers.cuda import captured, needs_gpu
from helpers.loss_cases import CASES, DTYPES, IGNORE, Case, Logits, by_torch, check, check_case

from codeshell import ops
from codeshell.ops import loss as loss_module
from codeshell.ops import loss_cuda
from codeshell.ops.loss import cross_entropy_reference, softmax_gradient_

pytestmark = needs_gpu
BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)
VOCABULARY = 70_144


@BY_DTYPE
@pytest.mark.parametrize("splits", [0, 1, 7])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(case: Case, splits: int, dtype: torch.dtype) -> None:
    check_case(case, dtype, "cuda", splits)


@BY_DTYPE
@pytest.mark.parametrize("rows", [1, 3, 700])
def test_the_vocabulary_of_the_model(rows: int, dtype: torch.dtype) -> None:
    """Rows split and whole, kept in shared memory and read again from the L2; every seventh of 700 is compared."""
    logits = Logits(Case("codeshell", rows, VOCABULARY), dtype, "cuda")
    logits.targets[1::4] = IGNORE
    gradient, losses = logits.run()
    part = slice(None, None, 7 if rows > 7 else 1)
    check(logits.values[part], logits.targets.cpu()[part], 0.25, gradient[part], losses[part])
    logits.check_guards()


def test_the_same_bits_every_time() -> None:
    results = [Logits(Case("again", 400, VOCABULARY), torch.bfloat16, "cuda").run() for _ in range(5)]
    for gradient, losses in results[1:]:
        assert torch.equal(gradient, results[0][0]) and torch.equal(losses, results[0][1])


def test_rows_beyond_2_to_the_32_bytes() -> None:
    stride = (1 << 31) + 8
    memory = torch.empty(2 * stride + 300, dtype=torch.bfloat16, device="cuda")
    rows, values = memory.as_strided((3, 300), (stride, 1)), torch.randn(3, 300).bfloat16()
    rows.copy_(values)
    targets, losses = torch.tensor([0, 299, 150], device="cuda"), torch.full((3,), torch.nan, device="cuda")
    loss_cuda.launch(rows, targets, IGNORE, torch.tensor(0.25, device="cuda"), losses)
    check(values, targets.cpu(), 0.25, rows.cpu(), losses.cpu())


@pytest.mark.parametrize("value", [float("inf"), -float("inf"), float("nan"), 1e30])
def test_extreme_logits_as_torch(value: float) -> None:
    logits = Logits(Case("extreme", 3, 601, offset=3), torch.float32, "cuda")
    logits.values[0, 290] = value
    logits.rows.copy_(logits.values)
    logits.targets[0] = 290
    gradient, losses = logits.run()
    right, exact = by_torch(logits.values, logits.targets.cpu(), 0.25, torch.float64)
    torch.testing.assert_close(gradient.double(), right, rtol=1e-5, atol=1e-6, equal_nan=True)
    torch.testing.assert_close(losses.double(), exact, rtol=1e-5, atol=1e-5, equal_nan=True)


def test_a_target_outside_the_vocabulary_gives_nan_and_no_write() -> None:
    """In builds for debugging it is an error that ends CUDA in the process, so those leave it out."""
    from codeshell import _C

    if getattr(_C, "debug_kernels", False):
        pytest.skip("a build for debugging ends the process here")
    logits = Logits(Case("outside", 3, 40, gap=5, offset=1), torch.bfloat16, "cuda")
    logits.targets[1] = 2**40
    gradient, losses = logits.run()
    assert bool(gradient[1].isnan().all()) and bool(losses[1].isnan()) and bool(gradient[0].isfinite().all())
    logits.check_guards()


def problem(dtype: torch.dtype, tokens: int = 300, features: int = 256, vocabulary: int = 5003) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, features, generator=generator).to(dtype)
    weight = (torch.randn(vocabulary, features, generator=generator) / features**0.5).to(dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[::5] = IGNORE
    return [hidden.cuda().requires_grad_(), weight.cuda().requires_grad_(), targets.cuda()]


@BY_DTYPE
@pytest.mark.parametrize("summed", ["in one product", "after it"])
def test_linear_cross_entropy(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype, summed: str) -> None:
    """Three blocks of 128 tokens; the weight's gradient by either way, within twice the error of torch."""
    monkeypatch.setattr(loss_module, "_GPU_BYTES", 128 * 5003 * dtype.itemsize)
    monkeypatch.setattr(loss_module, "_NO_SUM", {("cuda", dtype)} if summed == "after it" else set())
    hidden, weight, targets = problem(dtype)
    loss = ops.linear_cross_entropy(hidden, weight, targets)
    mine = torch.autograd.grad(2 * loss, (hidden, weight))
    exact = [x.detach().cpu().double().requires_grad_() for x in (hidden, weight)]
    right = cross_entropy_reference(*exact, targets.cpu())
    wanted = torch.autograd.grad(2 * right, exact)
    theirs = cross_entropy_reference(hidden, weight, targets)
    peers = torch.autograd.grad(2 * theirs, (hidden, weight))
    for own, peer, want in zip((loss, *mine), (theirs, *peers), (right, *wanted), strict=True):
        slack = torch.finfo(own.dtype).eps * float(want.abs().max())
        error, other = (float((x.cpu().double() - want).abs().max()) for x in (own, peer))
        assert error <= 2 * other + slack


def test_this_torch_sums_in_one_product(record_property: pytest.RecordProperty) -> None:
    """Not an error where it does not: the result file tells which way the weight's gradient went."""
    hidden, weight, targets = problem(torch.bfloat16)
    ops.linear_cross_entropy(hidden, weight, targets).backward()
    one = ("cuda", torch.bfloat16) not in loss_module._NO_SUM
    record_property("sums_in_one_product", one)
    print(f"torch {torch.__version__}: the weight's gradient is summed in one product: {one}")


def test_graphs_and_streams() -> None:
    """Both launches go to the current stream and can be captured; replays read what is there then."""
    for rows in (2, 600):
        logits = torch.randn(rows, 5000, device="cuda").bfloat16()
        start, targets = logits.clone(), torch.randint(0, 5000, (rows,), device="cuda")
        scale, losses = torch.tensor(0.5, device="cuda"), torch.empty(rows, device="cuda")

        def step() -> None:
            logits.copy_(start)  # noqa: B023
            softmax_gradient_(logits, targets, IGNORE, scale, losses)  # noqa: B023

        graph, _ = captured(step)
        start.normal_()
        scale.fill_(0.125)
        graph.replay()
        torch.cuda.synchronize()
        replayed = logits.clone(), losses.clone()
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            step()
        stream.synchronize()
        assert torch.equal(replayed[0], logits) and torch.equal(replayed[1], losses)
        check(start.cpu(), targets.cpu(), 0.125, logits.cpu(), losses.cpu())


def test_the_whole_loss_in_a_graph() -> None:
    hidden, weight, targets = problem(torch.bfloat16)
    expected = torch.autograd.grad(ops.linear_cross_entropy(hidden, weight, targets), (hidden, weight))

    def step() -> tuple[torch.Tensor, ...]:
        return torch.autograd.grad(ops.linear_cross_entropy(hidden, weight, targets), (hidden, weight))

    graph, gradients = captured(step)
    graph.replay()
    torch.cuda.synchronize()
    for got, want in zip(gradients, expected, strict=True):
        torch.testing.assert_close(got, want)


def test_compiled() -> None:
    hidden, weight, targets = problem(torch.bfloat16)
    compiled = torch.compile(ops.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    expected, loss = ops.linear_cross_entropy(hidden, weight, targets), compiled(hidden, weight, targets)
    torch.testing.assert_close(loss, expected)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_current() -> None:
    check_case(Case("second", 9, 1000), torch.bfloat16, "cuda:1")
    assert torch.cuda.current_device() == 0
