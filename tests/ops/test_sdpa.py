"""What no kernel of attention serves: torch's SDPA takes it, the log says so once, `info --kernels` lists it."""

from __future__ import annotations

import logging
from types import SimpleNamespace

import pytest
import torch
from helpers.simulated_gpu import Extension
from torch._subclasses.fake_tensor import FakeTensorMode

from codeshell import ops
from codeshell.operations import KERNELS
from codeshell.ops import attention_cuda, decode, devices, library, sdpa
from codeshell.ops import hopper as kernels
from codeshell.ops.decode_cuda import DecodeCall


@pytest.fixture
def said(caplog, monkeypatch):
    """The reasons in the log so far, of a process that has said nothing yet."""
    monkeypatch.setattr(library, "_said", set())
    caplog.set_level(logging.WARNING, "codeshell")

    def reasons():
        lines = [record.getMessage() for record in caplog.records if record.name == "codeshell"]
        start, end = "codeshell.ops.attention: PyTorch takes what no kernel of codeshell serves: ", " (said once; "
        assert all(line.startswith(start) and end in line for line in lines), lines
        return [line.removeprefix(start).split(end)[0] for line in lines]

    return reasons


def qkv(dim=64, dtype=torch.float32, device="cpu", tokens=6):
    shapes = [(1, tokens, 2, dim), (1, tokens, 1, dim), (1, tokens, 1, dim)]
    return [torch.zeros(shape, dtype=dtype, device=device) for shape in shapes]


def test_nothing_is_said_where_a_kernel_serves(said):
    for dtype in (torch.float32, torch.bfloat16):
        ops.attention(*qkv(dtype=dtype))
        ops.attention(*qkv(dtype=dtype), return_lse=True, window=3)
        ops.attention(*(x.requires_grad_() for x in qkv(dtype=dtype)), causal=False)
    ops.attention(*qkv(tokens=0))
    assert said() == []


def test_each_reason_is_said_once_on_a_cpu(said):
    for _ in range(2):
        ops.attention(*qkv(dtype=torch.float64))
        ops.attention(*qkv(dim=24))
        ops.attention(*qkv(dim=24), causal=False)
        ops.attention(*qkv(), dropout_p=0.1)
    served = "on a CPU: float32 and bfloat16, heads of 16, 32, … 256"
    assert said() == [
        f"float64 with heads of 64 ({served})",
        f"float32 with heads of 24 ({served})",
        "dropout of the probabilities",
    ]


def test_a_traced_graph_says_nothing(said):
    compiled = torch.compile(ops.attention, backend="eager", fullgraph=True)
    assert torch.equal(compiled(*qkv(dim=24)), ops.attention(*qkv(dim=24)))
    assert len(said()) == 1  # of the eager call
    torch.compiler.reset()


def on_gpu(**arguments):
    """A call on tensors of a GPU that is not there."""
    settings = {key: arguments.pop(key) for key in ("dim", "dtype", "tokens") if key in arguments}
    with FakeTensorMode():
        q, k, v = qkv(**{"dtype": torch.bfloat16} | settings, device="cuda")
        out = ops.attention(q, k, v, **arguments)
        assert out.shape == q.shape and out.device.type == "cuda"


@pytest.fixture
def hopper(monkeypatch):
    """A machine with one, a build with CUDA, and a user who asked for the kernel; calling it changes those."""
    gpu = SimpleNamespace(name="NVIDIA H200", capability=(9, 0), multiprocessors=132)

    def changed(capability=(9, 0), built=True, asked=True):
        gpu.capability = capability
        monkeypatch.setattr(devices, "extension", Extension(None, built=built))
        monkeypatch.setattr(devices, "_answers", {})
        monkeypatch.setattr(kernels, "enabled", asked)

    changed()
    monkeypatch.setattr(devices, "_facts", {0: gpu})
    monkeypatch.setattr(sdpa, "dense", lambda call: (torch.empty_like(call.q), None))
    return changed


def test_each_reason_is_said_once_on_a_gpu(said, hopper, monkeypatch):
    monkeypatch.setattr(attention_cuda, "serves", lambda *arguments: False)
    for _ in range(2):
        hopper()
        on_gpu(dropout_p=0.1)
        on_gpu(dtype=torch.float32)
        on_gpu(dim=96)
        on_gpu(scale=-1.0)
        on_gpu(tokens=0)
        hopper((8, 0))
        on_gpu()
        hopper(built=False)
        on_gpu()
        hopper(asked=False)
        on_gpu()
    assert said() == [
        "dropout of the probabilities",
        "float32 (on a GPU: bfloat16 and float16)",
        "heads of 96 (on a GPU: 64 and 128)",
        "a scale that is not above 0",
        "this GPU is sm_80, and this build has its code for sm_90a alone",
        "this build of codeshell is without CUDA; install it again where nvcc is on PATH, with CODESHELL_CUDA=1",
        "no GPU has verified the kernel, and CODESHELL_HOPPER_ATTENTION=1 does not ask for it",
    ]


def test_what_the_kernel_serves_is_what_is_not_said(hopper, monkeypatch):
    """The reasons agree with the choice: on this machine the call reaches the kernel, on all the others it does not."""
    taken = []

    def kernel(call):
        q = call.q
        taken.append(q.shape)
        return torch.empty_like(q), q.new_empty(q.shape[0], q.shape[2], q.shape[1], dtype=torch.float32)

    monkeypatch.setattr(attention_cuda, "attend", kernel)
    assert kernels.missing(torch.device("cuda", 0)) is None
    on_gpu()
    assert len(taken) == 1
    for change in ({"capability": (10, 0)}, {"built": False}, {"asked": False}):
        hopper(**change)
        on_gpu()
    assert len(taken) == 1


def test_decoding_says_it_too(caplog, monkeypatch):
    """But not on a CPU, where nothing else is promised."""
    monkeypatch.setattr(library, "_said", set())
    q, k, v = (torch.zeros(1, n, h, 64) for n, h in ((1, 2), (4, 1), (4, 1)))
    with caplog.at_level(logging.WARNING, "codeshell"):
        ops.decode_attention(q, k, v, cache_seqlens=torch.tensor([3], dtype=torch.int32))
        assert not caplog.records
        lengths = torch.zeros(1, dtype=torch.int32, device="meta")
        for _ in range(2):  # below the operation, which knows no such device
            decode._decode(DecodeCall(*(x.to("meta") for x in (q, k, v)), lengths))
    (line,) = (record.getMessage() for record in caplog.records)
    assert line.startswith(
        "codeshell.ops.decode_attention: PyTorch takes what no kernel of codeshell serves: tensors on"
    )


def test_the_list_has_what_is_said():
    """`codeshell info --kernels` prints these lines."""
    listed = KERNELS["attention/forward_sm90.cu"].torch
    for case in (
        "dropout",
        "fp32",
        "head dimensions",
        "scale not above 0",
        "other GPUs",
        "windows that are not causal",
    ):
        assert case in listed, case


@pytest.mark.parametrize("arguments", [{}, {"window": 2}, {"return_lse": True}])
def test_queries_that_see_nothing_have_zeros_and_no_gradient(arguments):
    """SDPA's backends disagree on them, so they are not asked."""
    q, k, v = (torch.randn(1, n, h, 24, dtype=torch.float64).requires_grad_() for n, h in ((5, 2), (2, 1), (2, 1)))
    result = ops.attention(q, k, v, **arguments)
    out = result[0] if "return_lse" in arguments else result
    assert not out[:, :3].any() and out[:, 3:].all()
    q_grad, k_grad, v_grad = torch.autograd.grad(out.sum(), (q, k, v))
    assert not q_grad[:, :3].any() and q_grad.isfinite().all() and k_grad.isfinite().all() and v_grad.any()
    if "return_lse" in arguments:
        assert (result[1][..., :3] == -torch.inf).all() and result[1][..., 3:].isfinite().all()


@pytest.mark.parametrize("scale", [0.0, -1.5])
@pytest.mark.parametrize("window", [None, 2])
def test_scales_that_are_not_above_zero(scale, window):
    """Some backends of SDPA multiply the minus infinity of a hidden key by the scale, which gives NaN."""
    q, k, v = (torch.randn(1, 5, heads, 24, dtype=torch.float64) for heads in (2, 1, 1))
    exact, _ = ops.attention(q, k, v, scale=scale, window=window, return_lse=True)
    torch.testing.assert_close(ops.attention(q, k, v, scale=scale, window=window), exact)
