"""Rotary embedding on the CPU against fp64: layouts, strides, tables, positions, gradients, and the op layer."""

from __future__ import annotations

import sys

import pytest
import torch
from helpers.rotary_cases import (
    BAD_ARGUMENTS,
    CASES,
    QKV_CASES,
    check_case,
    check_compiled,
    check_qkv_case,
    random_case,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, ops
from codeshell.model.config import CodeShellConfig

rotary_module = sys.modules["codeshell.ops.rotary"]  # the name in the package is the function


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(case, dtype):
    check_case(case, dtype)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32))
def test_random_shapes_and_strides_against_fp64(seed):
    case, dtype = random_case(seed)
    check_case(case, dtype)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("case", QKV_CASES, ids=lambda case: case.name)
def test_fused_projection_against_fp64(case, dtype):
    check_qkv_case(case, dtype)


def test_any_number_of_threads_gives_the_same_bits():
    q, k, angles = torch.randn(900, 8, 64), torch.randn(900, 4, 64), torch.rand(900, 32) * 6
    qkv, bias = torch.randn(900, 16 * 64, requires_grad=True), torch.randn(16 * 64, requires_grad=True)
    upstream = [torch.randn(900, heads, 64) for heads in (8, 4, 4)]
    results = []
    before = torch.get_num_threads()
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            parts = ops.rotary_qkv(qkv, bias, angles.cos(), angles.sin(), heads=8, kv_heads=4)
            gradients = torch.autograd.grad(parts, (qkv, bias), upstream)
            results.append([*ops.rotary(q, k, angles.cos(), angles.sin()), *parts, *gradients])
    finally:
        torch.set_num_threads(before)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_gradient_is_the_turn_back():
    q, k = torch.randn(2, 7, 4, 32, requires_grad=True), torch.randn(2, 7, 2, 32, requires_grad=True)
    angles = torch.rand(7, 16) * 6
    upstream = torch.randn(2, 7, 4, 32), torch.randn(2, 7, 2, 32)
    grads = torch.autograd.grad(ops.rotary(q, k, angles.cos(), angles.sin()), (q, k), upstream)
    for got, want in zip(grads, ops.rotary(*upstream, angles.cos(), -angles.sin()), strict=True):
        assert torch.equal(got, want)


@pytest.mark.parametrize("interleaved", [False, True])
def test_gradcheck(interleaved):
    q, k = (torch.randn(1, 3, heads, 6, dtype=torch.float64, requires_grad=True) for heads in (2, 1))
    angles = torch.rand(3, 2, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda q, k: ops.rotary(q, k, angles.cos(), angles.sin(), interleaved=interleaved), (q, k)
    )
    qkv, bias = torch.randn(3, 24, dtype=torch.float64, requires_grad=True), torch.randn(24, dtype=torch.float64)
    assert torch.autograd.gradcheck(
        lambda x, b: ops.rotary_qkv(x, b, angles.cos(), angles.sin(), heads=2, kv_heads=1, interleaved=interleaved),
        (qkv, bias.requires_grad_()),
    )


def test_inplace_under_autograd():
    x, y, angles = torch.randn(5, 2, 32, requires_grad=True), torch.randn(5, 1, 32), torch.rand(5, 16)
    cos, sin = angles.cos(), angles.sin()
    q = x * 2
    out, _ = ops.rotary(q, y.clone(), cos, sin, inplace=True)
    assert out is q
    (gradient,) = torch.autograd.grad(out.square().sum(), x)
    (wanted,) = torch.autograd.grad(ops.rotary(x * 2, y, cos, sin)[0].square().sum(), x)
    assert torch.equal(gradient, wanted)
    with pytest.raises(RuntimeError, match="leaf"):
        ops.rotary(x, y, cos, sin, inplace=True)


def test_expanded_gradients_are_taken():
    """`sum().backward()` hands over gradients whose strides are 0."""
    q, k, angles = torch.randn(5, 2, 32, requires_grad=True), torch.randn(5, 1, 32), torch.rand(5, 16)
    ops.rotary(q, k, angles.cos(), angles.sin())[0].sum().backward()
    assert torch.equal(q.grad, ops.rotary(torch.ones_like(q), k, angles.cos(), -angles.sin())[0])


@pytest.mark.parametrize(("change", "message"), BAD_ARGUMENTS)
def test_bad_arguments_are_named(change, message):
    arguments = {
        "q": torch.zeros(2, 8, 4, 32),
        "k": torch.zeros(2, 8, 2, 32),
        "cos": torch.zeros(8, 16),
        "sin": torch.zeros(8, 16),
    }
    with pytest.raises(ValueError, match=message):
        ops.rotary(**(arguments | change))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"qkv": torch.zeros(8, 100)}, r"qkv \(8, 100\)"),
        ({"heads": 0}, "qkv"),
        ({"bias": torch.zeros(64)}, r"bias \(64,\) .* qkv \(8, 128\)"),
        ({"bias": torch.zeros(128, dtype=torch.int64)}, "bias"),
        ({"cos": torch.zeros(4, 8), "sin": torch.zeros(4, 8)}, "cos has 4 positions, fewer than the 8 of qkv"),
        ({"qkv": torch.zeros(128, 8).t()}, "last dimension"),
        ({"cos": torch.zeros(8, 8, requires_grad=True)}, "gradients are not computed"),
    ],
)
def test_bad_arguments_of_the_fused_form_are_named(change, message):
    arguments = {"qkv": torch.zeros(8, 128), "bias": None, "cos": torch.zeros(8, 8), "sin": torch.zeros(8, 8)}
    arguments |= {"heads": 4, "kv_heads": 2}
    with pytest.raises(ValueError, match=message):
        ops.rotary_qkv(**(arguments | change))


def test_tensors_of_several_devices_are_named():
    """Devices that the extension cannot read, and tracing; tensors on CUDA and CPU it compares itself."""
    q, k, table = torch.randn(1, 4, 2, 8), torch.randn(1, 4, 1, 8), torch.randn(4, 4)
    meta = q.to("meta")
    for arguments, message in [
        ((meta, k, table, table), r"k \(1, 4, 1, 8\) is on cpu, q \(1, 4, 2, 8\) on meta; they must be on one device"),
        ((q, k.to("meta"), table, table), r"k \(1, 4, 1, 8\) is on meta, q"),
        ((q, k, table, table.to("meta")), r"sin \(4, 4\) is on meta, q"),
    ]:
        for inplace in (False, True):
            with pytest.raises(ValueError, match=message):
                ops.rotary(*arguments, inplace=inplace)
    qkv = torch.randn(1, 4, 4 * 8)
    for x, bias in ((qkv.to("meta"), torch.randn(32)), (qkv, torch.randn(32).to("meta"))):
        with pytest.raises(ValueError, match=r"bias \(32,\) is on \w+, qkv"):
            ops.rotary_qkv(x, bias, table.to(x.device), table.to(x.device), heads=2, kv_heads=1)


def test_empty_tensors():
    cos, sin = torch.zeros(4, 8), torch.zeros(4, 8)
    q, k = ops.rotary(torch.zeros(0, 4, 16), torch.zeros(0, 2, 16), cos, sin)
    assert q.shape == (0, 4, 16) and k.shape == (0, 2, 16)
    qkv, bias = torch.zeros(0, 128, requires_grad=True), torch.zeros(128, requires_grad=True)
    sum(part.sum() for part in ops.rotary_qkv(qkv, bias, cos, sin, heads=4, kv_heads=2)).backward()
    assert not bias.grad.any()


class Duck:
    """A tensor of a library that lacks DLPack's C functions: read by its attributes."""

    def __init__(self, x):
        self.data_ptr, self.shape, self.stride, self.dtype, self.device = (
            x.data_ptr,
            x.shape,
            x.stride,
            x.dtype,
            x.device,
        )


def test_tensors_are_read_by_their_attributes_too():
    q, k, angles = torch.randn(5, 2, 32), torch.randn(5, 1, 32), torch.rand(5, 16)
    out = [torch.full_like(q, torch.nan), torch.full_like(k, torch.nan)]
    ducks = [Duck(x) for x in (*out, q, k, angles.cos(), angles.sin())]
    assert _C.rotary(*ducks, None, None, 0, False, False, False, 1, 0)
    assert all(torch.equal(a, b) for a, b in zip(out, ops.rotary(q, k, angles.cos(), angles.sin()), strict=True))
    with pytest.raises(TypeError, match="q must be a"):
        _C.rotary(*ducks[:2], "q", *ducks[3:], None, None, 0, False, False, False, 1, 0)
    with pytest.raises(TypeError, match="14 positional"):
        _C.rotary(*ducks)


def test_a_cuda_tensor_without_cuda_says_how_the_package_was_built():
    if _C.cuda_built:
        pytest.skip("this extension was built with CUDA")
    on_gpu = Duck(torch.zeros(8, 4, 32))
    on_gpu.device = torch.device("cuda:0")
    with pytest.raises(RuntimeError, match=r"rotary.*cuda:0.*built without CUDA"):
        _C.rotary(*[on_gpu] * 4, *[table(on_gpu)] * 2, None, None, 0, False, False, False, 1, 0)


def table(like):
    duck = Duck(torch.zeros(8, 16))
    duck.device = like.device
    return duck


def angles_of(*, conjugate=False, half=16, rows=6):
    angles = torch.rand(rows, half) * 6
    return (angles.cos(), angles.sin(), None, None, 0, False, False, conjugate)


def test_opcheck():
    q, k = torch.randn(6, 4, 32), torch.randn(6, 2, 32)
    namespace = torch.ops.codeshell
    torch.library.opcheck(namespace.rotary.default, (q, k, *angles_of()))
    torch.library.opcheck(namespace.rotary.default, (q[None], k[None], *angles_of(conjugate=True)))
    torch.library.opcheck(namespace.rotary_.default, (q, k, *angles_of()))
    qkv, bias = torch.randn(6, 256), torch.randn(256)
    torch.library.opcheck(namespace.rotary_qkv.default, (qkv, bias, 4, 2, *angles_of()))
    torch.library.opcheck(namespace.rotary_qkv_backward.default, (q, k, k.clone(), True, *angles_of(conjugate=True)))


@pytest.mark.parametrize("inplace", [False, True])
def test_compiles_in_one_graph(inplace):
    def step(q, k, cos, sin):
        q, k = ops.rotary(q * 1, k * 1, cos, sin, inplace=inplace)
        return q.square().sum() + k.sum()

    check_compiled(step, torch.randn(6, 4, 32), torch.randn(6, 2, 32), angles_of()[:2])


def test_the_fused_form_compiles_in_one_graph():
    def step(qkv, bias, cos, sin):
        q, k, v = ops.rotary_qkv(qkv, bias, cos, sin, heads=4, kv_heads=2)
        return q.square().sum() + k.sum() + v.sum()

    check_compiled(step, torch.randn(6, 256), torch.randn(256), angles_of()[:2])


def test_meta_and_fake_tensors_have_shapes():
    q, k, cos = (torch.zeros(shape, device="meta") for shape in ((2, 8, 4, 32), (2, 8, 2, 32), (8, 16)))
    assert [x.shape for x in ops.rotary(q, k, cos, cos)] == [q.shape, k.shape]
    parts = ops.rotary_qkv(torch.zeros(8, 256, device="meta"), None, cos, cos, heads=4, kv_heads=2)
    assert [x.shape for x in parts] == [(8, 4, 32), (8, 2, 32), (8, 2, 32)]


def test_config_dims_are_served():
    """The released model's heads go to the kernel, not to the PyTorch lines."""
    dim = CodeShellConfig().head_dim
    q, k, angles = torch.randn(4, 2, dim).bfloat16(), torch.randn(4, 1, dim).bfloat16(), torch.rand(4, dim // 2)
    out = torch.empty_like(q), torch.empty_like(k)
    assert _C.rotary(*out, q, k, angles.cos(), angles.sin(), None, None, 0, False, False, False, 1, 0)
