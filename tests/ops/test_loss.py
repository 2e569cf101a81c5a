"""linear_cross_entropy against logits written out in fp64."""

from __future__ import annotations

import pytest
import torch

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
    monkeypatch.setitem(loss_module._BLOCK_ELEMENTS, "cpu", block)
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
