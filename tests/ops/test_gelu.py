"""Bias and GELU on a CPU against fp64, and everything that a call of it may meet."""

from __future__ import annotations

import logging
import os
import subprocess
import sys

import pytest
import torch
from helpers.simulated_gpu import simulate
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from codeshell import _C, gpus, ops
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.ops import library, triton_kernels

gelu = sys.modules["codeshell.ops.gelu"]  # the name in the package is the function
COLUMNS = st.sampled_from([1, 3, 7, 8, 9, 16, 31, 64, 257, 2047, 2048, 2050])
"""Around a vector of each instruction set, and around the block of columns whose sums are kept together."""


def results(function, x, bias, grad):
    """Result and gradients."""
    leaves = [t.detach().clone().requires_grad_() for t in (x, bias) if t is not None]
    y = function(leaves[0], leaves[1] if bias is not None else None)
    return [y.detach(), *torch.autograd.grad(y, leaves, grad)]


def exact(x, bias, grad):
    return results(gelu.formula, x.double(), None if bias is None else bias.double(), grad.double())


@settings(max_examples=80, deadline=None)
@given(
    st.integers(0, 70), COLUMNS, st.sampled_from([torch.float32, torch.bfloat16]), st.booleans(), st.booleans(),
    st.sampled_from([1, 2, 3]),
)  # fmt: skip
def test_twice_the_error_of_torch_at_most(rows, columns, dtype, with_bias, strided, threads):
    generator = torch.Generator().manual_seed(rows * 4099 + columns)
    x, grad = (torch.randn(rows, columns, generator=generator).mul(3).to(dtype) for _ in range(2))
    if strided:
        x, grad = x.t().contiguous().t(), grad.repeat(1, 2)[:, ::2]
    bias = torch.randn(columns, generator=generator) if with_bias else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        mine = results(ops.bias_gelu, x, bias, grad)
    finally:
        torch.set_num_threads(before)
    peers, wanted = results(gelu.formula, x, bias, grad), exact(x, bias, grad)
    # In the sum of a few elements torch's errors may cancel by luck; then the sum of their sizes is what it allows.
    wide = results(gelu.formula, x.float(), bias, grad.float())[1]
    sizes = (wide.double() - wanted[1]).abs().sum(0)
    for name, own, peer, want in zip(("y", "dx", "dbias"), mine, peers, wanted, strict=False):
        assert own.dtype == peer.dtype and own.shape == peer.shape
        if own.numel():
            error, peer_error = ((t.double() - want).abs().max() for t in (own, peer))
            if name == "dbias":
                peer_error = max(peer_error, sizes.max())
            assert error <= 2 * peer_error + 1e-6 * max(1.0, float(want.abs().max())), name


def test_bits_do_not_depend_on_threads():
    x, grad, bias = torch.randn(1111, 300), torch.randn(1111, 300), torch.randn(300)
    before, found = torch.get_num_threads(), []
    for threads in (1, 2, 3, 8):
        torch.set_num_threads(threads)
        found.append(results(ops.bias_gelu, x, bias, grad))
    torch.set_num_threads(before)
    for other in found[1:]:
        assert all(torch.equal(a, b) for a, b in zip(found[0], other, strict=True))


def test_strides_change_no_bit():
    x, grad, bias = torch.randn(50, 40), torch.randn(50, 40), torch.randn(40)
    plain = results(ops.bias_gelu, x, bias, grad)
    strided = results(ops.bias_gelu, x.t().contiguous().t(), bias.repeat_interleave(2)[::2], grad.t().contiguous().t())
    assert all(torch.equal(a, b) and a.is_contiguous() for a, b in zip(plain, strided, strict=True))


def test_every_element_is_written_and_nothing_beside():
    """The kernels themselves, on outputs of NaN between guards."""
    x, grad, bias = torch.randn(37, 2050), torch.randn(37, 2050), torch.randn(2050)
    chunks = _C.gelu_sum_chunks(37, 2050)
    rooms = [torch.full((size + 32,), float("nan")) for size in (x.numel(), x.numel(), chunks * 2050, 2050)]
    y, dx, partial, sums = (room.data_ptr() + 64 for room in rooms)
    _C.gelu_forward(x.data_ptr(), bias.data_ptr(), y, 37, 2050, False, 2)
    _C.gelu_backward(x.data_ptr(), bias.data_ptr(), grad.data_ptr(), dx, partial, sums, 37, 2050, False, 2)
    for room in rooms:
        assert torch.isnan(room[:16]).all() and torch.isnan(room[-16:]).all() and not torch.isnan(room[16:-16]).any()
    wanted = exact(x, bias, grad)
    for room, want in zip((rooms[0], rooms[1], rooms[3]), wanted, strict=True):
        assert torch.allclose(room[16:-16].double().view(want.shape), want, atol=2e-5)


@pytest.mark.parametrize("level", ["scalar", "avx2", "avx512"])
def test_every_instruction_set(level):
    """The kernels of each level that this processor has, against torch's formula, with our products beside them."""
    code = """
import torch
from codeshell import _C, ops
from codeshell.ops import gelu as function, products
from codeshell.ops.gelu import formula
torch.manual_seed(0)
for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 2**-7)):  # a number that is rounded the other way
    x, bias = torch.randn(33, 70).to(dtype).requires_grad_(), torch.randn(70, requires_grad=True)
    grad = torch.randn(33, 70).to(dtype)
    for mine, want in zip(torch.autograd.grad(ops.bias_gelu(x, bias), (x, bias), grad),
                          torch.autograd.grad(formula(x, bias), (x, bias), grad)):
        assert torch.allclose(mine.float(), want.float(), rtol=tolerance, atol=1e-4 + tolerance), dtype
    assert torch.allclose(ops.bias_gelu(x, bias).float(), formula(x, bias).float(), rtol=tolerance, atol=1e-6)
left, right = torch.randn(140, 300), torch.randn(300, 37)
for a in (left, left.t().contiguous().t()):
    error = products.multiply(a, products.pack(right)) - left.double() @ right.double()
    assert error.abs().max() < 1e-4
print(_C.simd_level())
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=os.environ | {"CODESHELL_SIMD": level}
    )
    assert done.returncode == 0, done.stderr[-2000:]


def test_other_dtypes_are_said(caplog, monkeypatch):
    monkeypatch.setattr(library, "_said", set())
    with caplog.at_level(logging.WARNING, "codeshell"):
        for dtype in (torch.float64, torch.float16, torch.float64, torch.float32):
            x, bias = torch.randn(3, 4).to(dtype), torch.randn(4)
            assert torch.equal(ops.bias_gelu(x, bias), gelu.formula(x, bias)) == (dtype != torch.float32)
    lines = [record.getMessage() for record in caplog.records]
    assert len(lines) == 2 and "codeshell.ops.gelu" in lines[0]
    assert ": float64 (" in lines[0] and ": float16 (" in lines[1]


@pytest.mark.parametrize(
    ("x", "bias", "message"),
    [
        (torch.zeros(3, 4), torch.zeros(3), r"bias \(3,\)"),
        (torch.zeros(3, 4), torch.zeros(1, 4), r"bias \(1, 4\)"),
        (torch.zeros(3, 4), torch.zeros(4, dtype=torch.int64), "int64"),
        (torch.zeros(3, 4, dtype=torch.int32), None, "int32"),
        (torch.zeros(()), torch.zeros(1), "last dimension"),
        (torch.zeros(3, 4), torch.zeros(4, device="meta"), "must be on one device"),
    ],
)
def test_bad_arguments_are_named(x, bias, message):
    with pytest.raises(ValueError, match=message):
        ops.bias_gelu(x, bias)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_opcheck(bias, dtype):
    x, shift = torch.randn(5, 6, dtype=dtype), torch.randn(6) if bias else None
    torch.library.opcheck(torch.ops.codeshell.bias_gelu.default, (x, shift))
    grad = torch.randn(5, 6, dtype=dtype)
    for with_bias in (False, bias):
        torch.library.opcheck(torch.ops.codeshell.bias_gelu_backward.default, (x, shift, grad, with_bias))


def test_a_compiled_graph_is_whole_and_has_the_same_bits():
    x, bias, grad = torch.randn(4, 9, 40), torch.randn(40), torch.randn(4, 9, 40)
    compiled = torch.compile(ops.bias_gelu, fullgraph=True, backend="aot_eager")
    for given_bias in (bias, None):
        plain, traced = (results(f, x, given_bias, grad) for f in (ops.bias_gelu, compiled))
        assert all(torch.equal(a, b) for a, b in zip(plain, traced, strict=True))
    torch.compiler.reset()


def test_a_frozen_bias_costs_no_sum(monkeypatch):
    x = torch.randn(3, 4, requires_grad=True)
    asked = []
    backward = gelu._backward
    monkeypatch.setattr(gelu, "_backward", lambda *a: (asked.append(a[3]), backward(*a))[1])
    ops.bias_gelu(x, torch.randn(4)).sum().backward()
    ops.bias_gelu(x, torch.randn(4, requires_grad=True)).sum().backward()
    assert asked == [False, True]


def test_the_model_leaves_the_bias_to_gelu():
    """c_fc's product has no bias of its own, and hooked modules are called as they are, with the same result."""
    torch.manual_seed(0)
    config = CodeShellConfig(vocab_size=50, n_positions=64, n_embd=32, n_layer=1, n_head=2, num_query_groups=1)
    mlp = CodeShellForCausalLM(config).transformer.h[0].mlp
    torch.nn.init.normal_(mlp.c_fc.bias)
    x = torch.randn(70, 32)
    expected = F.linear(gelu.formula(F.linear(x, mlp.c_fc.weight, mlp.c_fc.bias), None), mlp.c_proj.weight)
    calls = []
    direct = mlp(x)
    handle = mlp.c_fc.register_forward_hook(lambda module, args, out: calls.append(out.shape))
    hooked = mlp(x)
    handle.remove()
    assert calls == [(70, config.inner_size)]
    for out in (direct, hooked):
        torch.testing.assert_close(out, expected + mlp.c_proj.bias, rtol=1e-4, atol=1e-6)


# The gate of the kernels in Triton.


def test_the_gate_tries_each_device_once_and_takes_no_broken_kernel(monkeypatch, caplog):
    """A trial that fails is one line, and PyTorch serves."""

    class Broken:
        trials = 0

        def trial(self, device):
            self.trials += 1
            raise RuntimeError("no kernel image is available\nand more")

    simulate(monkeypatch, triton="none")
    monkeypatch.setattr(gpus, "triton_obstacle", lambda: None)
    broken = Broken()
    monkeypatch.setattr(triton_kernels, "_load", lambda source: broken)
    monkeypatch.setattr(triton_kernels, "tries", lambda device: True)
    x, bias = torch.randn(3, 4), torch.randn(4)
    with caplog.at_level(logging.WARNING, "codeshell"):
        for _ in range(3):
            assert torch.equal(ops.bias_gelu(x, bias), gelu.formula(x, bias))
    (line,) = (record.getMessage() for record in caplog.records)
    assert "its trial on this device failed: RuntimeError: no kernel image is available (" in line
    assert broken.trials == 1


@pytest.mark.parametrize("missing", ["triton", "compiler", "headers", "switch"])
def test_what_the_machine_lacks_is_said_with_its_remedy(missing, monkeypatch, tmp_path):
    monkeypatch.setattr(gpus.importlib.util, "find_spec", lambda name: None if missing == "triton" else object())
    monkeypatch.setattr(gpus.shutil, "which", lambda name: None if missing == "compiler" else "/usr/bin/gcc")
    if missing != "headers":
        (tmp_path / "Python.h").touch()
    monkeypatch.setattr(gpus.sysconfig, "get_path", lambda *arguments: str(tmp_path))
    monkeypatch.setenv("CODESHELL_TRITON", "0" if missing == "switch" else "1")
    words = {"triton": "pip install triton", "compiler": "install gcc", "headers": "python3-dev", "switch": "=0 asks"}
    reason = gpus.triton_obstacle()
    assert reason is not None and words[missing] in reason and "\n" not in reason
    assert gpus.missing(gelu.SOURCE, (9, 0)) == reason
    assert "sm_75" in (gpus.missing(gelu.SOURCE, (7, 5)) or "")


def test_neither_triton_nor_the_compiler_is_imported_without_need():
    """They would be half of the time that importing the package takes."""
    code = (
        "import sys, torch; from codeshell import model, ops\n"
        "ops.bias_gelu(torch.randn(2, 3, requires_grad=True), torch.randn(3)).sum().backward()\n"
        "print([name for name in ('triton', 'torch._dynamo', 'codeshell.ops.gelu_triton') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
