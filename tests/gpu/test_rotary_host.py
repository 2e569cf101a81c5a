"""The CUDA kernels of rotary embedding, run on the host through the same Python as on a GPU, against fp64."""

from __future__ import annotations

import pytest
import torch
from helpers.rotary_cases import CASES, QKV_CASES, check_case, check_qkv_case, random_case
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from codeshell import ops


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(on_host, case, dtype):
    check_case(case, dtype)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 2**32))
def test_random_shapes_and_strides_against_fp64(on_host, seed):
    check_case(*random_case(seed))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("case", QKV_CASES, ids=lambda case: case.name)
def test_fused_projection_against_fp64(on_host, case, dtype):
    check_qkv_case(case, dtype)
    if dtype == torch.bfloat16:
        check_qkv_case(case, dtype, torch.float32)


def test_bits_do_not_depend_on_the_order_of_blocks(on_host):
    qkv, bias, angles = (
        torch.randn(70, 256, requires_grad=True),
        torch.randn(256, requires_grad=True),
        torch.rand(70, 8),
    )
    results = []
    for seed in range(3):
        on_host.set_seed(seed)
        parts = ops.rotary_qkv(qkv, bias, angles.cos(), angles.sin(), heads=4, kv_heads=2)
        results.append([*parts, *torch.autograd.grad(parts, (qkv, bias), [torch.ones_like(part) for part in parts])])
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_equals_the_cpu_kernel(on_host, monkeypatch, dtype):
    """Up to whether a product and a sum are one instruction."""
    q, k, angles = torch.randn(33, 4, 64).to(dtype), torch.randn(33, 2, 64).to(dtype), torch.rand(33, 32) * 6
    gpu = ops.rotary(q, k, angles.cos(), angles.sin())
    monkeypatch.undo()
    for a, b in zip(gpu, ops.rotary(q, k, angles.cos(), angles.sin()), strict=True):
        torch.testing.assert_close(a, b)


def test_a_position_that_the_tables_do_not_have_gives_nan(on_host):
    """What a CUDA device does, whose values nobody checks: its own token is NaN, the others are not."""
    q, k, angles = torch.randn(5, 2, 16), torch.randn(5, 1, 16), torch.rand(5, 4)
    positions = torch.tensor([0, -1, 4, 5, 2])
    q, k = ops.rotary(q, k, angles.cos(), angles.sin(), positions=positions)
    for x in (q, k):
        assert torch.isnan(x[[1, 3], :, :8]).all()
        assert torch.isfinite(x[..., 8:]).all() and torch.isfinite(x[[0, 2, 4]]).all()
