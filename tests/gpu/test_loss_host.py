"""The CUDA kernel of the loss, run on the host through the same Python as on a GPU, against fp64."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch
from helpers.loss_cases import CASES, DTYPES, IGNORE, Case, Logits, by_torch, check, check_case
from helpers.simulated_gpu import leave
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeshell import ops
from codeshell.ops import devices, loss_cuda
from codeshell.ops import loss as loss_module
from codeshell.ops.loss import cross_entropy_reference, softmax_gradient_

BY_DTYPE = pytest.mark.parametrize("dtype", DTYPES.values(), ids=DTYPES)


def launches(host, logits, **options):
    """Names and dynamic shared memory of the kernels that `logits.run` launches."""
    host.trace(True)
    logits.run(**options)
    found = [(re.sub(r".*loss::|\(.*", "", name), shared) for name, shared in host.launches()]
    host.trace(False)
    return found


@BY_DTYPE
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(on_host, case, dtype):
    check_case(case, dtype)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    case=st.builds(
        Case,
        name=st.just("random"),
        rows=st.integers(1, 12),
        vocabulary=st.one_of(st.integers(1, 70), st.integers(1, 4000)),
        gap=st.integers(0, 9),
        offset=st.integers(0, 9),
        spread=st.floats(0, 30),
    ),
    dtype=st.sampled_from(list(DTYPES.values())),
    splits=st.integers(0, 32),
    shared=st.sampled_from([0, 3 << 10, 48 << 10, 227 << 10]),
)
def test_random_shapes_and_splits_against_fp64(on_host, case, dtype, splits, shared):
    on_host.set_shared_memory(shared)
    check_case(case, dtype, splits=splits)


@BY_DTYPE
def test_what_is_kept_in_shared_memory_changes_no_bit(on_host, dtype):
    """Two batches of four rounds of packs: none, the first, and both are kept."""
    case = Case("batches", 9, 20_000 if dtype.itemsize == 2 else 10_000)
    results, kept = [], []
    for block in (0, 43 << 10, 227 << 10):
        on_host.set_shared_memory(block)
        kept.append(launches(on_host, Logits(case, dtype)))
        results.append(Logits(case, dtype).run())
    each = 320 * 16
    assert [shared for ((_, shared),) in kept] == [0, 4 * each, 8 * each]
    assert all(name.startswith("whole_rows") for ((name, _),) in kept)
    for gradient, losses in results[1:]:
        assert torch.equal(gradient, results[0][0]) and torch.equal(losses, results[0][1])


def test_the_vocabulary_of_the_model(on_host):
    """On a Hopper GPU: 448 threads, 16 of 20 rounds are kept, two blocks share a multiprocessor's 228 KiB."""
    case = Case("codeshell", 1, 70_144)
    on_host.set_multiprocessors(0)
    ((name, shared),) = launches(on_host, Logits(case, torch.bfloat16))
    assert name.startswith("whole_rows") and shared == 16 * 448 * 16 and 2 * (shared + 2048) <= 228 << 10
    check_case(case, torch.bfloat16)


def test_few_rows_are_split_and_many_are_not(on_host):
    """Two blocks for each of 4 multiprocessors are 8: rows from 5 on are whole, and no part is below 2 KiB."""
    for rows, vocabulary, splits in ((1, 70_144, 8), (2, 70_144, 4), (4, 5000, 2), (5, 70_144, 1), (1, 2047, 1)):
        assert devices.extension.softmax_gradient_splits(rows, vocabulary, "bfloat16") == splits
    on_host.set_multiprocessors(132)
    assert devices.extension.softmax_gradient_splits(1, 70_144, "bfloat16") == 32
    assert devices.extension.softmax_gradient_splits(0, 70_144, "bfloat16") == 32
    assert devices.extension.softmax_gradient_splits(4096, 70_144, "float32") == 1
    names = [name.partition("<")[0] for name, _ in launches(on_host, Logits(Case("few", 2, 5000), torch.bfloat16))]
    assert names == ["partial_sums", "split_rows"]


@pytest.mark.parametrize("splits", [1, 3])
def test_bits_do_not_depend_on_the_order_of_warps_and_blocks(on_host, splits):
    results = []
    for seed in range(6):
        on_host.set_seed(seed)
        results.append(Logits(Case("order", 5, 3001, offset=1), torch.float32).run(splits=splits))
    for gradient, losses in results[1:]:
        assert torch.equal(gradient, results[0][0]) and torch.equal(losses, results[0][1])


def test_a_missing_barrier_would_show(on_host):
    """Without it, the sum of a warp is read before it is there: shared memory begins as NaN."""
    case = Case("barrier", 5, 3001)
    on_host.trace(True)
    expected = Logits(case, torch.float32).run()
    places = [place for place in on_host.places() if "__syncthreads" in place or "barrier" in place]
    on_host.trace(False)
    assert len(places) == 1, places
    seen = set()
    for seed in range(4):
        on_host.set_seed(seed)
        on_host.leave_out(places[0])
        try:
            seen.add(torch.equal(Logits(case, torch.float32).run()[0], expected[0]))
        except RuntimeError:
            seen.add(False)
        finally:
            on_host.leave_out("")
    assert False in seen


INFINITE = float("inf")
EXTREMES = {
    "an infinity": ([INFINITE, 1.0, 2.0], 1),
    "an infinity at the target": ([INFINITE, 1.0, 2.0], 0),
    "masked tokens": ([-INFINITE, 1.0, -INFINITE], 1),
    "a masked target": ([-INFINITE, 1.0, 2.0], 0),
    "all masked": ([-INFINITE] * 3, 1),
    "a NaN": ([0.0, float("nan"), 2.0], 0),
    "a NaN and an infinity": ([INFINITE, float("nan"), -INFINITE], 2),
    "all NaN": ([float("nan")] * 3, 2),
    "far apart": ([1e30, -1e30, 0.0], 1),
    "the largest": ([3.3e38, -3.3e38, 3.3e38], 0),
    "equal": ([5.0, 5.0, 5.0], 2),
    "large and near": ([10_000.0, 10_002.0, 9_999.0], 2),
}


@pytest.mark.parametrize("splits", [1, 2])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["fp32", "bf16"])
@pytest.mark.parametrize("name", EXTREMES)
def test_extreme_logits_as_torch(on_host, name, dtype, splits):
    """What is not finite is not finite in the same places, so that the trainer sees it; the rest is right."""
    beginning, target = EXTREMES[name]
    logits = Logits(Case("extreme", 2, 601, offset=3), dtype)
    fill = beginning[-1] if name.startswith("all ") else -INFINITE if "mask" in name else beginning[1]
    logits.values[0] = torch.tensor(fill).to(dtype)
    logits.values[0, 290:293] = torch.tensor(beginning).to(dtype)  # in a pack, and in the second part of a split row
    logits.rows.copy_(logits.values)
    logits.targets[0] = 290 + target
    gradient, losses = logits.run(splits=splits)
    right, exact = by_torch(logits.values, logits.targets, 0.25, torch.float64)
    torch.testing.assert_close(
        gradient.double(), right, rtol=1e-6, atol=torch.finfo(dtype).eps / 4, equal_nan=True, check_dtype=False
    )
    torch.testing.assert_close(losses.double(), exact, rtol=1e-6, atol=1e-6, equal_nan=True)
    assert bool(gradient[1].isfinite().all())
    logits.check_guards()


@pytest.mark.parametrize("splits", [1, 3])
@pytest.mark.parametrize("target", [40, 45, -1, 2**31, 2**32 + 3, 2**62, -(2**63)])
def test_a_target_outside_the_vocabulary_gives_nan_and_no_write(on_host, target, splits):
    """What a GPU does, whose targets nobody checks; builds for debugging say what is wrong."""
    on_host.set_checks(False)
    logits = Logits(Case("outside", 3, 40, gap=5, offset=1), torch.bfloat16)
    logits.targets[1] = target
    gradient, losses = logits.run(splits=splits)
    assert bool(gradient[1].isnan().all()) and bool(losses[1].isnan())
    rows = [0, 2]
    check(logits.values[rows], logits.targets[rows], 0.25, gradient[rows], losses[rows])
    logits.check_guards()
    on_host.set_checks(True)
    with pytest.raises(RuntimeError, match="a target is outside the vocabulary"):
        logits.run(splits=splits)


def test_another_ignored_target_may_lie_in_the_vocabulary(on_host):
    logits = Logits(Case("ignored", 4, 50), torch.float32)
    logits.targets[:] = torch.tensor([3, 7, 3, 9])
    loss_cuda.launch(logits.rows, logits.targets, 3, torch.tensor(1.0), logits.losses[1:-1])
    assert not logits.rows[[0, 2]].any() and logits.rows[[1, 3]].any()
    assert (logits.losses[1:-1] == 0).tolist() == [True, False, True, False]


def test_an_ignored_row_is_zero_whatever_its_logits_are(on_host):
    logits = Logits(Case("ignored", 2, 1000, offset=1), torch.bfloat16)
    logits.rows[0] = torch.nan
    logits.targets[0] = IGNORE
    gradient, losses = logits.run()
    assert not gradient[0].any() and losses[0] == 0 and gradient[1].any()


def test_rows_beyond_2_to_the_32_bytes(on_host, tmp_path):
    """Row 2 begins 8.6 GB after row 0, in a file with holes."""
    stride, vocabulary = (1 << 31) + 8, 300
    memory = np.memmap(tmp_path / "logits", dtype=np.uint16, mode="w+", shape=(2 * stride + vocabulary,))
    rows = torch.from_numpy(memory).view(torch.bfloat16).as_strided((3, vocabulary), (stride, 1))
    values = torch.randn(3, vocabulary).bfloat16()
    rows.copy_(values)
    targets, losses = torch.tensor([0, 299, 150]), torch.full((3,), torch.nan)
    loss_cuda.launch(rows, targets, IGNORE, torch.tensor(0.25), losses)
    check(values, targets, 0.25, rows.clone(), losses)


def test_the_binding_refuses_what_would_be_written_outside(host_kernels):
    call = {"logits": 16, "row_stride": 8, "rows": 2, "vocabulary": 8, "dtype": "float32", "targets": 16}
    call |= {"ignore_index": IGNORE, "scale": 16, "losses": 16, "partials": 0, "splits": 1, "stream": 0}
    for change, message in (
        ({"row_stride": 7}, "must not overlap"),
        ({"rows": -1}, "must not overlap"),
        ({"vocabulary": 2**30 + 1, "row_stride": 2**31}, "at most 2\\^30"),
        ({"dtype": "float64"}, "none of float32, bfloat16, float16"),
        ({"splits": 2}, "needs the workspace"),
        ({"splits": 33, "partials": 16}, "1 to 32"),
        ({"logits": 2}, "not a multiple of an element"),
    ):
        with pytest.raises(ValueError, match=message):
            host_kernels.softmax_gradient_cuda(**call | change)
    host_kernels.softmax_gradient_cuda(**call | {"rows": 0})


def test_a_launch_that_the_runtime_refuses(on_host):
    on_host.fail_launch(1)
    text = re.escape("softmax_gradient of logits (5, 40), bfloat16: refused by the test")
    with pytest.raises(RuntimeError, match=f"^{text}$"):
        Logits(Case("refused", 5, 40), torch.bfloat16).run()


# The public function, which calls it.


def problem(dtype, tokens=70, features=24, vocabulary=331):
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, features, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, features, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[::3] = IGNORE
    return hidden, weight, targets


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@BY_DTYPE
def test_linear_cross_entropy(on_host, monkeypatch, dtype, reduction):
    """Two blocks of tokens, within twice the error of torch."""
    monkeypatch.setattr(loss_module, "_CPU_ELEMENTS", 331 * 40)
    hidden, weight, targets = problem(dtype)
    loss = ops.linear_cross_entropy(hidden, weight, targets, reduction=reduction)
    mine = torch.autograd.grad(2 * loss, (hidden, weight))
    assert on_host.launched == ["softmax_gradient_cuda"] * 2
    exact = [x.detach().double().requires_grad_() for x in (hidden, weight)]
    right = cross_entropy_reference(*exact, targets, reduction=reduction)
    wanted = torch.autograd.grad(2 * right, exact)
    theirs = cross_entropy_reference(hidden, weight, targets, reduction=reduction)
    peers = torch.autograd.grad(2 * theirs, (hidden, weight))
    for own, peer, want in zip((loss, *mine), (theirs, *peers), (right, *wanted), strict=True):
        slack = torch.finfo(own.dtype).eps * float(want.detach().abs().max())
        assert float((own - want).abs().max()) <= 2 * float((peer - want).abs().max()) + slack


def test_nothing_waits_for_the_gpu(on_host, monkeypatch):
    """A tensor's value is asked for nowhere, forward and backward."""
    hidden, weight, targets = problem(torch.bfloat16)

    def refuse(*_):
        raise AssertionError("the host waits for a value")

    for name in ("__float__", "__bool__", "__int__", "item", "tolist"):
        monkeypatch.setattr(torch.Tensor, name, refuse)
    ops.linear_cross_entropy(hidden, weight, targets).backward()
    monkeypatch.undo()
    assert hidden.grad is not None and hidden.grad.any()


def test_a_target_outside_gives_a_loss_of_nan(on_host):
    on_host.set_checks(False)
    hidden, weight, targets = problem(torch.bfloat16)
    targets[4] = 331
    assert ops.linear_cross_entropy(hidden, weight, targets).isnan()


def test_under_autocast_and_without_gradients(on_host):
    hidden, weight, targets = problem(torch.float32)
    with torch.autocast("cpu", torch.bfloat16), torch.no_grad():
        loss = ops.linear_cross_entropy(hidden, weight, targets)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, cross_entropy_reference(hidden, weight, targets), rtol=2e-2, atol=0)


def test_fp64_goes_to_torch(on_host):
    hidden, weight, targets = problem(torch.float64)
    loss = ops.linear_cross_entropy(hidden, weight, targets)
    torch.testing.assert_close(loss, cross_entropy_reference(hidden, weight, targets))
    assert not on_host.launched


def test_a_full_graph_calls_the_operation(on_host):
    hidden, weight, targets = problem(torch.bfloat16)
    expected = ops.linear_cross_entropy(hidden, weight, targets)
    gradients = torch.autograd.grad(expected, (hidden, weight))
    on_host.launched.clear()
    compiled = torch.compile(ops.linear_cross_entropy, fullgraph=True, backend="aot_eager")
    loss = compiled(hidden, weight, targets)
    assert on_host.launched == ["softmax_gradient_cuda"]
    assert torch.equal(loss, expected)
    for got, want in zip(torch.autograd.grad(loss, (hidden, weight)), gradients, strict=True):
        assert torch.equal(got, want)


def test_opcheck(on_host):
    logits = torch.randn(5, 40).bfloat16()
    arguments = (logits, torch.tensor([0, 39, IGNORE, 3, 4]), IGNORE, torch.tensor(0.5), torch.zeros(5))
    torch.library.opcheck(torch.ops.codeshell.softmax_gradient_.default, arguments)


def test_equals_the_cpu_kernel(on_host, monkeypatch):
    """Up to the last bits of the exponentials."""
    results = []
    for gpu in (True, False):
        if not gpu:
            leave(monkeypatch)
        logits = torch.randn(9, 1000, generator=torch.Generator().manual_seed(0))
        losses = torch.empty(9)
        softmax_gradient_(logits, torch.arange(9), IGNORE, torch.tensor(0.5), losses)
        results.append((logits, losses))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-6, atol=1e-7)
