"""The first launch of each kernel: one tile, or less, of what is simplest, each test after those that it builds upon.

On a GPU, benchmarks/gpu_check.py runs them in this order, each in a process of its own, so that what hangs costs 20
seconds and is known. Without one, they run on the host, which shows that the tests are right.

The gradient is taken by `torch.autograd.grad` without any call before it on autograd's thread, where CUDA's context
may not be bound yet.
"""

from __future__ import annotations

import pytest
import torch
from helpers import attention_cases, decode_cases
from helpers.attention_cases import Case

from codeshell import _C, gpus, ops
from codeshell.ops import decode_cuda, devices, loss_cuda
from codeshell.optim import AdamW


@pytest.fixture(params=["gpu", pytest.param("host", marks=pytest.mark.timeout(600))])  # the kernels may be built first
def device(request: pytest.FixtureRequest) -> str:
    """Where the tensors are: on a GPU that has the kernels, or on the CPU with the kernels run on the host."""
    if request.param == "host":
        request.getfixturevalue("on_host")
        return "cpu"
    if not (torch.cuda.is_available() and _C.cuda_built):
        pytest.skip("needs a GPU and a build with CUDA")
    request.getfixturevalue("hopper_kernels")
    return "cuda"


@pytest.fixture
def hopper_device(device: str) -> str:
    if device == "cuda" and torch.cuda.get_device_capability() != (9, 0):
        pytest.skip("needs a GPU of compute capability 9.0")
    return device


def test_rotary(device: str) -> None:
    generator = torch.Generator().manual_seed(0)
    q, k = (torch.randn(1, 4, heads, 64, generator=generator) for heads in (2, 1))
    turns = torch.rand(4, 32, generator=generator, dtype=torch.float64)
    cos, sin = turns.cos().float(), turns.sin().float()
    expected = ops.rotary(q.double(), k.double(), cos, sin)
    result = ops.rotary(*(x.to(device) for x in (q, k, cos, sin)))
    for x, right in zip(result, expected, strict=True):
        torch.testing.assert_close(x.cpu().double(), right, rtol=1e-5, atol=1e-5)


def test_adamw(device: str) -> None:
    parameters = [torch.linspace(-1, 1, 100, device=where).requires_grad_() for where in (device, "cpu")]
    for parameter in parameters:
        parameter.grad = torch.linspace(2, -1, 100, device=parameter.device)
    optimizers = AdamW(parameters[:1], lr=0.1), torch.optim.AdamW(parameters[1:], lr=0.1)
    for optimizer in optimizers:
        optimizer.step()
    torch.testing.assert_close(parameters[0].cpu(), parameters[1])


def test_gelu(device: str) -> None:
    if device == "cuda" and (reason := gpus.triton_obstacle()):
        pytest.skip(f"the kernels in Triton are NOT run here: {reason}")
    x, bias = torch.linspace(-4, 4, 4 * 16).view(4, 16), torch.linspace(-1, 1, 16)
    leaves = [tensor.double().requires_grad_() for tensor in (x, bias)]
    expected = torch.nn.functional.gelu(leaves[0] + leaves[1], approximate="tanh")
    result = [tensor.to(device).requires_grad_() for tensor in (x, bias)]
    y = ops.bias_gelu(*result)
    gradients = torch.autograd.grad(y.sum(), result), torch.autograd.grad(expected.sum(), leaves)
    for got, want in zip((y, *gradients[0]), (expected, *gradients[1]), strict=True):
        torch.testing.assert_close(got.detach().cpu().double(), want.detach(), rtol=1e-5, atol=1e-5)


def test_norm(device: str) -> None:
    if device == "cuda" and (reason := gpus.triton_obstacle()):
        pytest.skip(f"the kernels in Triton are NOT run here: {reason}")
    rows = [torch.linspace(a, b, 4 * 16).view(4, 16).cos() for a, b in ((0, 9), (3, 50))]
    inputs = [*rows, torch.linspace(0.5, 2, 16), torch.linspace(-1, 1, 16)]
    leaves = [tensor.double().requires_grad_() for tensor in inputs]
    stream = leaves[0] + leaves[1]
    expected = stream, torch.nn.functional.layer_norm(stream, (16,), leaves[2], leaves[3], 1e-5)
    given = [tensor.to(device).requires_grad_() for tensor in inputs]
    result = ops.residual_layer_norm(*given, 1e-5)
    grads = [tensor.detach().sin() for tensor in expected]
    want = torch.autograd.grad(expected, leaves, grads)
    got = torch.autograd.grad(result, given, [tensor.float().to(device) for tensor in grads])
    for x, right in zip((*result, *got), (*expected, *want), strict=True):
        torch.testing.assert_close(x.detach().cpu().double(), right.detach(), rtol=1e-5, atol=2e-5)


def test_loss(device: str) -> None:
    logits = torch.linspace(-3, 3, 2 * 24).view(2, 24)
    targets, wide = torch.tensor([5, 23]), logits.double().requires_grad_()
    expected = torch.nn.functional.cross_entropy(wide, targets, reduction="none")
    (gradient,) = torch.autograd.grad(expected.sum() / 2, wide)
    rows, losses = logits.to(device, copy=True), torch.full((2,), torch.nan, device=device)
    loss_cuda.launch(rows, targets.to(device), -100, torch.tensor(0.5, device=device), losses)
    torch.testing.assert_close(rows.cpu().double(), gradient, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(losses.cpu().double(), expected.detach(), rtol=1e-5, atol=1e-5)


def test_copy(device: str) -> None:
    source = torch.arange(4096, device=device).to(torch.uint8)
    target = torch.full((4096 + 16,), 171, dtype=torch.uint8, device=device)
    stream = torch.cuda.current_stream().cuda_stream if device == "cuda" else 0
    devices.extension.copy_cuda(source.data_ptr(), target.data_ptr(), 4096, stream)
    assert torch.equal(target[:4096], source) and bool((target[4096:] == 171).all())


FULL = Case("first_full", 128, 128, heads=1, causal=False)
CAUSAL = Case("first_causal", 128, 128, heads=1)
PACKED = Case("first_packed", 128, 128, heads=1, lengths=(60, 68))
GROUPED = Case("first_grouped", 128, 128, heads=4, kv_heads=2)
WIDE = Case("first_wide", 128, 128, heads=1, dim=128)


def forward(case: Case, device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = attention_cases.poison(monkeypatch)
    attention_cases.check_case(case, device, torch.bfloat16)
    assert len(taken) == 1


def test_forward_full(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward(FULL, hopper_device, monkeypatch)


def test_forward_causal(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward(CAUSAL, hopper_device, monkeypatch)


def test_forward_packed(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward(PACKED, hopper_device, monkeypatch)


def test_forward_grouped(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward(GROUPED, hopper_device, monkeypatch)


def test_forward_wide(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    forward(WIDE, hopper_device, monkeypatch)


def backward(case: Case, device: str, monkeypatch: pytest.MonkeyPatch, *, deterministic: bool) -> None:
    taken = attention_cases.poison(monkeypatch)
    attention_cases.check_gradients(case, device, torch.bfloat16, deterministic)
    assert len(taken) == 3


def test_backward(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward(CAUSAL, hopper_device, monkeypatch, deterministic=False)


def test_backward_deterministic(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward(CAUSAL, hopper_device, monkeypatch, deterministic=True)


def test_backward_wide(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    backward(WIDE, hopper_device, monkeypatch, deterministic=False)


def test_decode(hopper_device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    launch, taken = decode_cuda.run, []

    def run(call: decode_cuda.DecodeCall, out: torch.Tensor, lse: torch.Tensor) -> None:
        taken.append(call.q.shape)
        launch(call, out.fill_(torch.nan), lse.fill_(torch.nan))

    monkeypatch.setattr(decode_cuda, "run", run)
    decode_cases.check_case(decode_cases.Case("first_decode", (16,), page=16, heads=2), hopper_device, torch.bfloat16)
    assert len(taken) == 1
