"""The backward kernel of attention on a GPU, against fp64; and both passes in a graph."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.attention_cases import CASES, Case, check_gradients, gradients, inputs, poison
from helpers.cuda import captured, on_hopper

from codeshell import ops

pytestmark = on_hopper


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("dim", [64, 128], ids=["d64", "d128"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_gradient_against_fp64(monkeypatch, case, dim, dtype):
    taken = poison(monkeypatch)
    check_gradients(dataclasses.replace(case, dim=dim), "cuda", dtype, deterministic=dim == 64)
    assert len(taken) == 3


# Some of the shapes at which the speed is measured: CodeShell-7B's, packed documents, codeshell-small's. The reference
# in fp64 takes heads x tokens x tokens x 8 bytes a few times over.
REAL = [
    Case("codeshell_7b", 2048, 2048, heads=32, kv_heads=8, dim=128, batch=2),
    Case("long", 8192, 8192, heads=4, kv_heads=1, dim=128),
    Case("long_window", 8192, 8192, heads=4, kv_heads=1, dim=128, window=1024),
    Case("documents", 6000, 6000, heads=8, kv_heads=2, dim=128, lengths=(4000, 1, 1500, 499)),
    Case("codeshell_small", 2048, 2048, heads=32, kv_heads=4, dim=64),
    Case("full", 4096, 4096, heads=8, kv_heads=8, dim=64, causal=False),
]


@pytest.mark.parametrize("deterministic", [False, True])
@pytest.mark.parametrize("case", REAL, ids=lambda case: case.name)
def test_gradients_at_real_shapes(monkeypatch, case, deterministic):
    poison(monkeypatch)
    check_gradients(case, "cuda", torch.bfloat16, deterministic)


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("case", [REAL[0], REAL[4]], ids=lambda case: case.name)
def test_a_hundred_backward_runs_have_the_same_bits(case, causal):
    """All three gradients if asked for, and those of keys and values always."""
    case = dataclasses.replace(case, causal=causal)
    q, k, v = inputs(case, "cuda", torch.bfloat16)
    grad = torch.randn_like(q)
    first = gradients(case, q, k, v, grad, deterministic=True)
    for _ in range(100):
        found = gradients(case, q, k, v, grad, deterministic=True)
        assert all(torch.equal(a, b) for a, b in zip(first, found, strict=True))
        assert all(torch.equal(a, b) for a, b in zip(first[1:], gradients(case, q, k, v, grad)[1:], strict=True))


def test_forward_and_backward_replay_in_a_graph():
    q, k, v = inputs(REAL[4], "cuda", torch.bfloat16)
    q, k, v = (x.clone().requires_grad_() for x in (q, k, v))
    grad = torch.randn_like(q)

    def step():
        return torch.autograd.grad(ops.attention(q, k, v, deterministic=True), (q, k, v), grad)

    graph, result = captured(step)
    with torch.no_grad():
        q.copy_(torch.randn_like(q))
    graph.replay()
    assert all(torch.equal(a, b) for a, b in zip(result, step(), strict=True))
