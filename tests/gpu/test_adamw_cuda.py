"""AdamW on a GPU against the CPU kernel (which is tested against fp64) and torch. Needs torch and pytest alone.

The same kernels run on the host in test_adamw_host.py; here is what only a GPU can show: many and large tensors,
graphs, and that nvcc makes code that computes the same.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch
from helpers.cuda import captured, needs_gpu

from codeshell.optim import AdamW

pytestmark = needs_gpu
SIZES = [0, 1, 7, 64, 4096, 4097, 100_003]
SCHEMES: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    "fp32": (torch.float32, {}),
    "fp32, bf16 moments": (torch.float32, {"moment_dtype": torch.bfloat16}),
    "bf16": (torch.bfloat16, {}),
    "fp16": (torch.float16, {}),
    "master": (torch.bfloat16, {"master_weights": True}),
    "stochastic": (torch.bfloat16, {"stochastic_rounding": True}),
    "stochastic, bf16 moments": (torch.bfloat16, {"stochastic_rounding": True, "moment_dtype": torch.bfloat16}),
}
SETTINGS: dict[str, Any] = {"lr": 1e-2, "betas": (0.9, 0.95), "weight_decay": 0.1}


def steps(device: str, dtype: torch.dtype, make: Any = AdamW, count: int = 3, clip: float = 0.0, **options: Any) -> Any:
    """(parameters, their state) after some steps on the same random numbers, on the CPU."""
    generator = torch.Generator().manual_seed(0)
    parameters = [torch.randn(size, generator=generator).to(dtype).to(device).requires_grad_() for size in SIZES]
    optimizer = make(parameters, **SETTINGS, **options)
    for _ in range(count):
        for parameter in parameters:
            parameter.grad = torch.randn(parameter.shape, generator=generator).to(dtype).to(device)
        if clip:
            optimizer.clip_grad_norm(clip)
        optimizer.step()
    states = [optimizer.state[p] for p in parameters]
    names = [name for name in states[-1] if name != "step"]
    return [p.detach().cpu() for p in parameters], [state[name].cpu() for state in states for name in names]


def same(result: Any, expected: Any) -> None:
    for values, right in zip(result, expected, strict=True):
        for a, b in zip(values, right, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("clip", [0.0, 1.0])
@pytest.mark.parametrize("scheme", SCHEMES)
def test_as_on_the_cpu(scheme: str, clip: float) -> None:
    dtype, options = SCHEMES[scheme]
    same(steps("cuda", dtype, clip=clip, **options), steps("cpu", dtype, clip=clip, **options))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_as_torch(dtype: torch.dtype) -> None:
    ours = steps("cuda", dtype)
    same(ours[:1], steps("cuda", dtype, torch.optim.AdamW, fused=True)[:1])


def test_norm_of_many_gradients() -> None:
    torch.manual_seed(0)
    parameters = [torch.randn(size, device="cuda").requires_grad_() for size in [*range(1, 3000), 3_000_001]]
    for parameter in parameters:
        parameter.grad = torch.randn_like(parameter)
    expected = torch.linalg.vector_norm(torch.cat([p.grad for p in parameters]).double())
    norm = AdamW(parameters, **SETTINGS).clip_grad_norm(1.0)
    torch.testing.assert_close(norm.double(), expected, rtol=1e-6, atol=0.0)


def test_ten_thousand_tensors() -> None:
    generator = torch.Generator().manual_seed(0)
    sizes = torch.randint(1, 4097, (10_000,), generator=generator).tolist()
    whole = torch.randn(sum(sizes), device="cuda")
    gradient = torch.randn_like(whole)
    parts = [x.clone().requires_grad_() for x in whole.split(sizes)]
    for parameter, part in zip(parts, gradient.split(sizes), strict=True):
        parameter.grad = part.clone()
    one = whole.clone().requires_grad_()
    one.grad = gradient
    AdamW(parts, **SETTINGS).step()
    AdamW([one], **SETTINGS).step()
    assert torch.equal(torch.cat([p.detach() for p in parts]), one.detach())


def test_a_step_in_a_graph() -> None:
    """Replays read the gradients and the step count that are there then."""

    def make() -> tuple[torch.Tensor, AdamW]:
        parameter = torch.linspace(-1, 1, 5000, device="cuda").requires_grad_()
        parameter.grad = torch.linspace(2, -1, 5000, device="cuda")
        return parameter, AdamW([parameter], **SETTINGS, capturable=True)

    direct, optimizer = make()
    for _ in range(4):
        optimizer.step()
    replayed, optimizer = make()
    graph, _ = captured(optimizer.step)
    for _ in range(3):
        graph.replay()
    torch.cuda.synchronize()
    torch.testing.assert_close(replayed, direct)
