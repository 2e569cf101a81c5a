"""The first launch of each kernel on a GPU: one tile, or less, of what is simplest, each test after those that it
builds upon. benchmarks/gpu_check.py runs them in this order, each in a process of its own, so that what hangs costs
20 seconds and is known.

The gradient is taken by `torch.autograd.grad` without any call before it on autograd's thread, where CUDA's context
may not be bound yet.
"""

from __future__ import annotations

import pytest
import torch
from helpers import attention_cases, decode_cases

from codeshell import _C, ops
from codeshell.ops import decode_cuda, hopper
from codeshell.optim import AdamW

pytestmark = pytest.mark.skipif(
    not (torch.cuda.is_available() and _C.cuda_built), reason="needs a GPU and a build with CUDA"
)
on_hopper = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() != (9, 0),
    reason="needs a GPU of compute capability 9.0",
)


@pytest.fixture(autouse=True)
def asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hopper, "enabled", True)


def test_rotary() -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 4, heads, 64, generator=generator) for heads in (2, 1))
    turns = torch.rand(4, 32, generator=generator, dtype=torch.float64)
    cos, sin = turns.cos().float(), turns.sin().float()
    expected = ops.rotary(q.double(), k.double(), cos, sin)
    for result, right in zip(ops.rotary(q.cuda(), k.cuda(), cos.cuda(), sin.cuda()), expected, strict=True):
        torch.testing.assert_close(result.cpu().double(), right, rtol=1e-5, atol=1e-5)


def test_adamw() -> None:
    parameters = [torch.linspace(-1, 1, 100, device=device).requires_grad_() for device in ("cuda", "cpu")]
    for parameter in parameters:
        parameter.grad = torch.linspace(2, -1, 100, device=parameter.device)
    optimizers = AdamW(parameters[:1], lr=0.1), torch.optim.AdamW(parameters[1:], lr=0.1)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(parameters[0].cpu(), parameters[1])


def test_copy() -> None:
    source = torch.arange(4096, device="cuda").to(torch.uint8)
    target = torch.zeros(4096 + 16, dtype=torch.uint8, device="cuda")
    _C.copy_cuda(source.data_ptr(), target.data_ptr(), 4096, torch.cuda.current_stream().cuda_stream)
    assert torch.equal(target[:4096], source) and not target[4096:].any()


ONE_TILE = {
    "full": attention_cases.Case("first_full", 128, 128, heads=1, causal=False),
    "causal": attention_cases.Case("first_causal", 128, 128, heads=1),
    "packed": attention_cases.Case("first_packed", 128, 128, heads=1, lengths=(60, 68)),
    "grouped": attention_cases.Case("first_grouped", 128, 128, heads=4, kv_heads=2),
    "wide": attention_cases.Case("first_wide", 128, 128, heads=1, dim=128),
}


def forward(case: attention_cases.Case, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = attention_cases.poison(monkeypatch)
    attention_cases.check_case(case, "cuda", torch.bfloat16)
    assert len(taken) == 1


@on_hopper
def test_forward_full(monkeypatch: pytest.MonkeyPatch) -> None:
    forward(ONE_TILE["full"], monkeypatch)


@on_hopper
def test_forward_causal(monkeypatch: pytest.MonkeyPatch) -> None:
    forward(ONE_TILE["causal"], monkeypatch)


@on_hopper
def test_forward_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    forward(ONE_TILE["packed"], monkeypatch)


@on_hopper
def test_forward_grouped(monkeypatch: pytest.MonkeyPatch) -> None:
    forward(ONE_TILE["grouped"], monkeypatch)


@on_hopper
def test_forward_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    forward(ONE_TILE["wide"], monkeypatch)


def backward(case: attention_cases.Case, monkeypatch: pytest.MonkeyPatch, deterministic: bool) -> None:
    taken = attention_cases.poison(monkeypatch)
    attention_cases.check_gradients(case, "cuda", torch.bfloat16, deterministic)
    assert len(taken) == 3


@on_hopper
def test_backward(monkeypatch: pytest.MonkeyPatch) -> None:
    backward(ONE_TILE["causal"], monkeypatch, deterministic=False)


@on_hopper
def test_backward_deterministic(monkeypatch: pytest.MonkeyPatch) -> None:
    backward(ONE_TILE["causal"], monkeypatch, deterministic=True)


@on_hopper
def test_backward_wide(monkeypatch: pytest.MonkeyPatch) -> None:
    backward(ONE_TILE["wide"], monkeypatch, deterministic=False)


@on_hopper
def test_decode(monkeypatch: pytest.MonkeyPatch) -> None:
    launch, taken = decode_cuda.run, []
    monkeypatch.setattr(decode_cuda, "run", lambda *arguments: [taken.append(arguments[0]), launch(*arguments)])
    decode_cases.check_case(decode_cases.Case("first_decode", (16,), page=16, heads=2), "cuda", torch.bfloat16)
    assert len(taken) == 1
