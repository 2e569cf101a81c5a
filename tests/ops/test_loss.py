"""linear_cross_entropy against logits written out in fp64."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses import FakeTensorMode

from codeshell import ops
from codeshell.ops import loss as loss_module
from codeshell.ops.loss import cross_entropy_reference


def problem(tokens=70, features=32, vocabulary=131, dtype=torch.float32, ignored=0.3):
    generator = torch.Generator().manual_seed(tokens)
    hidden = torch.randn(tokens, features, generator=generator).to(dtype).requires_grad_()
    weight = torch.randn(vocabulary, features, generator=generator).to(dtype).requires_grad_()
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator)
    targets[torch.rand(tokens, generator=generator) < ignored] = -100
    return hidden, weight, targets


def wide(*inputs):
    return [x.detach().double().requires_grad_() for x in inputs]


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("block", [131 * 16, 1 << 21])
@pytest.mark.parametrize("upstream", [1.0, -2.5])
def test_value_and_gradients(monkeypatch, reduction, block, upstream):
    monkeypatch.setattr(loss_module, "_CPU_ELEMENTS", block)
    hidden, weight, targets = problem()
    loss = ops.linear_cross_entropy(hidden, weight, targets, reduction=reduction)
    gradients = torch.autograd.grad(upstream * loss, (hidden, weight))
    exact = wide(hidden, weight)
    want = cross_entropy_reference(*exact, targets, reduction=reduction)
    wanted = torch.autograd.grad(upstream * want, exact)
    assert loss.dtype == torch.float32
    assert torch.allclose(loss.double(), want, rtol=2e-6)
    for gradient, reference in zip(gradients, wanted, strict=True):
        assert torch.allclose(gradient.double(), reference, rtol=1e-4, atol=2e-6)


def test_bf16_is_within_twice_the_error_of_torch():
    hidden, weight, targets = problem(dtype=torch.bfloat16)
    exact = wide(hidden, weight)
    wanted = torch.autograd.grad(cross_entropy_reference(*exact, targets), exact)
    mine = torch.autograd.grad(ops.linear_cross_entropy(hidden, weight, targets), (hidden, weight))
    theirs = torch.autograd.grad(cross_entropy_reference(hidden, weight, targets), (hidden, weight))
    for own, peer, want in zip(mine, theirs, wanted, strict=True):
        assert own.dtype == torch.bfloat16
        assert (own.double() - want).abs().max() <= 2 * (peer.double() - want).abs().max()


def test_fp64_passes_gradcheck():
    hidden, weight, targets = problem(tokens=9, features=5, vocabulary=7, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda h, w: ops.linear_cross_entropy(h, w, targets), (hidden, weight))


def test_large_logits_do_not_overflow():
    hidden, weight, targets = problem()
    loss = ops.linear_cross_entropy(hidden * 1e3, weight, targets)
    want = cross_entropy_reference(*wide(hidden * 1e3, weight), targets)
    assert torch.allclose(loss.double(), want, rtol=1e-5)


def test_all_ignored_is_zero_with_zero_gradients():
    hidden, weight, targets = problem()
    loss = ops.linear_cross_entropy(hidden, weight, torch.full_like(targets, -100))
    gradients = torch.autograd.grad(loss, (hidden, weight))
    assert loss == 0 and all(not g.any() for g in gradients)


def test_another_ignore_index_and_batch_shape():
    hidden, weight, targets = problem(ignored=0)
    targets[::3] = 5
    flat = ops.linear_cross_entropy(hidden, weight, targets.masked_fill(targets == 5, -100))
    shaped = ops.linear_cross_entropy(hidden.view(7, 10, 32), weight, targets.view(7, 10), ignore_index=5)
    assert torch.equal(flat, shaped)


def test_nan_reaches_the_loss():
    hidden, weight, targets = problem(ignored=0)
    spoiled = hidden.detach().clone()
    spoiled[3, 3] = torch.nan
    assert torch.isnan(ops.linear_cross_entropy(spoiled, weight, targets))


def test_without_gradients_none_are_computed():
    hidden, weight, targets = problem()
    with torch.no_grad():
        loss = ops.linear_cross_entropy(hidden, weight, targets)
    assert not loss.requires_grad
    frozen = ops.linear_cross_entropy(hidden, weight.detach(), targets)
    (gradient,) = torch.autograd.grad(frozen, hidden)
    assert torch.equal(loss, frozen) and gradient.any()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"weight": torch.zeros(7, 31)}, "last dimensions"),
        ({"targets": torch.zeros(69, dtype=torch.int64)}, "targets"),
        ({"targets": torch.zeros(70, dtype=torch.int32)}, "int64"),
        ({"targets": torch.full((70,), 131)}, "131 is outside"),
        ({"targets": torch.full((70,), -1)}, "-1 is outside"),
        ({"reduction": "none"}, "reduction"),
        ({"weight": torch.zeros(131, 32, dtype=torch.bfloat16)}, "agree"),
    ],
)
def test_bad_arguments_are_named(change, message):
    hidden, weight, targets = problem()
    with pytest.raises(ValueError, match=message):
        ops.linear_cross_entropy(**({"hidden": hidden, "weight": weight, "targets": targets} | change))


# The sum of the weight's gradient over blocks.


class Operand:
    """What `_add_product_` asks of a tensor on a GPU; what is done with it is noted."""

    def __init__(self, dtype, done):
        self.dtype, self.device, self.done = dtype, torch.device("cuda"), done

    def __matmul__(self, other):
        self.done.append("product")
        return other

    def __iadd__(self, other):
        self.done.append("sum")
        return self

    def addmm_(self, a, b):
        self.done.append("addmm_")


@pytest.fixture
def operands(monkeypatch):
    """(what was done, total, a, b, a function that sets what torch.addmm does)."""
    done = []
    monkeypatch.setattr(loss_module, "_NO_SUM", set())
    total, a, b = Operand(torch.float32, done), Operand(torch.bfloat16, done), Operand(torch.bfloat16, done)

    def answer(error=None):
        def addmm(summand, left, right, *, out_dtype, out):
            assert (summand, left, right, out) == (total, a, b, total) and out_dtype == torch.float32
            done.append("addmm")
            if error is not None:
                raise error

        monkeypatch.setattr(torch, "addmm", addmm)

    return done, total, a, b, answer


def test_on_a_gpu_one_product_is_added_to_the_fp32_sum(operands):
    done, total, a, b, answer = operands
    answer()
    for _ in range(2):
        loss_module._add_product_(total, a, b)
    assert done == ["addmm", "addmm"]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("self and mat2 must have the same dtype, but got Float and BFloat16"),  # torch 2.9
        TypeError("addmm() received an invalid combination of arguments - got (… out_dtype=torch.dtype)"),
    ],
)
def test_a_torch_that_cannot_is_asked_once(operands, error):
    done, total, a, b, answer = operands
    answer(error)
    for _ in range(2):
        loss_module._add_product_(total, a, b)
    assert done == ["addmm", "product", "sum", "product", "sum"]


def test_other_errors_of_that_product_are_raised(operands):
    done, total, a, b, answer = operands
    answer(RuntimeError("CUDA out of memory"))
    with pytest.raises(RuntimeError, match="out of memory"):
        loss_module._add_product_(total, a, b)
    assert done == ["addmm"] and not loss_module._NO_SUM


def test_this_torch_has_the_product_with_an_fp32_sum():
    """Its signature, in all versions that are supported (2.9 to 2.13), and that shapes are those of the sum."""
    assert "ScalarType out_dtype" in str(torch.ops.aten.addmm.dtype_out._schema)
    with FakeTensorMode():
        total = torch.zeros(8, 4, device="cuda")
        a, b = (torch.zeros(shape, device="cuda", dtype=torch.bfloat16) for shape in ((8, 3), (3, 4)))
        assert torch.addmm(total, a, b, out_dtype=torch.float32).shape == total.shape


def test_on_a_cpu_the_products_are_added_after_another(monkeypatch):
    """bf16 blocks into an fp32 sum, as the products of all tokens at once in fp64."""
    a, b = torch.randn(5, 40).bfloat16(), torch.randn(40, 7).bfloat16()
    total, wide = torch.zeros(5, 7), torch.zeros(5, 7, dtype=torch.float64)
    for part in (slice(0, 16), slice(16, 40)):
        loss_module._add_product_(total, a[:, part], b[part])
        loss_module._add_product_(wide, a[:, part].double(), b[part].double())
    torch.testing.assert_close(wide, a.double() @ b.double())
    torch.testing.assert_close(total.double(), wide, rtol=0, atol=8e-2)  # two roundings to bf16 of up to 20 each


@pytest.mark.parametrize(
    ("tokens", "element", "rows"), [(8192, 2, 4096), (8192, 4, 2048), (8300, 4, 2176), (100, 2, 128)]
)
def test_blocks_of_a_gpu_are_even_and_within_the_limit(tokens, element, rows):
    found = loss_module.block_rows(tokens, 70_144, element, gpu=True)
    assert found == rows and found % 128 == 0
    assert found * 70_144 * element <= loss_module._GPU_BYTES


def test_a_huge_vocabulary_still_gets_blocks():
    assert loss_module.block_rows(8192, 1 << 28, 4, gpu=True) == 16
    assert loss_module.block_rows(8192, 1 << 28, 4, gpu=False) == 16
    assert loss_module.block_rows(8192, 70_144, 4, gpu=False) == 29
    assert loss_module.block_rows(0, 70_144, 2, gpu=True) == 16
