"""What Python raises where the runtime refuses a launch: the operation, its shapes, and what the runtime says. The next
call is not harmed by it."""

from __future__ import annotations

import importlib
import re
from types import ModuleType

import pytest
import torch

from codeshell import ops
from codeshell.ops import hopper
from codeshell.optim import AdamW, buckets

REFUSED = re.escape(": refused by the test")


@pytest.fixture
def on_host(host_kernels: ModuleType, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The operations run the host kernels."""
    monkeypatch.setattr(hopper, "extension", host_kernels)
    # By its path: ops.rotary is the function.
    monkeypatch.setattr(importlib.import_module("codeshell.ops.rotary"), "extension", host_kernels)
    monkeypatch.setattr(buckets, "host_kernels", host_kernels)
    return host_kernels


def random(*shape: int) -> torch.Tensor:
    return torch.randn(*shape).bfloat16().requires_grad_()


def test_attention_forward(on_host: ModuleType) -> None:
    q, k = random(2, 5, 4, 64), random(2, 9, 2, 64)
    on_host.fail_launch(1)
    text = re.escape("attention of q (2, 5, 4, 64), k and v (2, 9, 2, 64), bfloat16, causal, a window of 3")
    with pytest.raises(RuntimeError, match=f"^{text}{REFUSED}$"):
        ops.attention(q, k, k, causal=True, window=3)
    assert ops.attention(q, k, k, causal=True, window=3).isfinite().all()


def test_packed_attention(on_host: ModuleType) -> None:
    q = random(12, 2, 64)
    cu_seqlens = torch.tensor([0, 5, 12], dtype=torch.int32)
    on_host.fail_launch(1)
    text = re.escape(
        "attention of q (12, 2, 64), k and v (12, 2, 64), bfloat16, 2 sequences of at most 7 tokens, causal"
    )
    with pytest.raises(RuntimeError, match=f"^{text}{REFUSED}$"):
        ops.attention(q, q, q, cu_seqlens=cu_seqlens, max_seqlen=7, causal=True)


@pytest.mark.parametrize("launch", [1, 2, 3])
def test_each_launch_of_the_backward_pass(on_host: ModuleType, launch: int) -> None:
    """prepare, backward and finish."""
    q, k = random(1, 5, 2, 128), random(1, 5, 1, 128)
    out = ops.attention(q, k, k)
    on_host.fail_launch(launch)
    text = re.escape("attention_backward of q (1, 5, 2, 128), k and v (1, 5, 1, 128), bfloat16, causal")
    with pytest.raises(RuntimeError, match=f"^{text}{REFUSED}$"):
        out.sum().backward(retain_graph=True)
    assert q.grad is None
    out.sum().backward()
    assert q.grad is not None
    assert q.grad.isfinite().all()


def test_rotary(on_host: ModuleType) -> None:
    q, k = torch.randn(1, 8, 2, 64), torch.randn(1, 8, 1, 64)
    cos, sin = torch.randn(8, 32), torch.randn(8, 32)
    on_host.fail_launch(1)
    with pytest.raises(RuntimeError, match=rf"^rotary\S* of .*\(1, 8, 2, 64\).*{REFUSED}$"):
        ops.rotary(q, k, cos, sin)


def test_adamw(on_host: ModuleType) -> None:
    parameter = torch.nn.Parameter(torch.ones(100))
    optimizer = AdamW([parameter], lr=0.1)
    parameter.grad = torch.ones(100)
    on_host.fail_launch(1)
    text = re.escape("adamw of 1 tensors in 1 chunks, float32 with gradients in float32 and moments in float32")
    with pytest.raises(RuntimeError, match=f"^{text}{REFUSED}$"):
        optimizer.step()
    on_host.fail_launch(1)
    text = re.escape("gradient_norm of 1 tensors in 1 chunks in float32")
    with pytest.raises(RuntimeError, match=f"^{text}{REFUSED}$"):
        optimizer.clip_grad_norm(1.0)
    optimizer.step()
    assert (parameter < 1).all()
