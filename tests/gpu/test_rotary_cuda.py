"""Rotary embedding on a GPU against fp64 on the CPU, which is plain PyTorch. Needs torch and pytest alone.

The same kernels run on the host in test_rotary_host.py, on more cases; here is what only a GPU can show: large shapes,
streams and graphs, and that nvcc's code computes the same.
"""

from __future__ import annotations

import pytest
import torch
from helpers.cuda import captured, needs_gpu

from codeshell import ops

pytestmark = needs_gpu
DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def angles(positions: int, half: int) -> tuple[torch.Tensor, torch.Tensor]:
    turns = torch.rand(positions, half, dtype=torch.float64) * 6.3
    return turns.cos().float(), turns.sin().float()


def wide(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [x.detach().cpu().double() for x in tensors]


def close(results: object, expected: object) -> None:
    for result, right in zip(results, expected, strict=True):
        torch.testing.assert_close(result.cpu().double(), right.to(result.dtype).double(), **tolerance(result.dtype))


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """One rounding of the result, and of sums of a thousand tokens for the bias."""
    return {"rtol": 1e-5, "atol": 1e-5} if dtype == torch.float32 else {"rtol": 2e-2, "atol": 2e-2}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("interleaved", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("dim", "half"), [(128, 64), (64, 32), (64, 8), (80, 40), (30, 7), (256, 128)])
def test_forward(dim: int, half: int, dtype: torch.dtype, interleaved: bool, inplace: bool) -> None:
    torch.manual_seed(0)
    q, k = (torch.randn(3, 131, heads, dim).to(dtype).cuda() for heads in (5, 2))
    cos, sin = angles(131, half)
    expected = ops.rotary(*wide(q, k), cos, sin, interleaved=interleaved)
    result = ops.rotary(q, k, cos.cuda(), sin.cuda(), interleaved=interleaved, inplace=inplace)
    assert (result[0].data_ptr() == q.data_ptr()) == inplace
    close(result, expected)


@pytest.mark.parametrize("dtype", DTYPES)
def test_positions_and_backward(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    q, k = (torch.randn(2, 67, heads, 128).to(dtype).cuda().requires_grad_() for heads in (4, 1))
    grads = [torch.randn_like(x) for x in (q, k)]
    cos, sin = angles(500, 64)
    positions = torch.randint(0, 500, (2, 67))
    right = [x.requires_grad_() for x in wide(q, k)]
    expected = ops.rotary(*right, cos, sin, positions=positions)
    result = ops.rotary(q, k, cos.cuda(), sin.cuda(), positions=positions.cuda())
    close(result, [x.detach() for x in expected])
    close(torch.autograd.grad(result, (q, k), grads), torch.autograd.grad(expected, right, wide(*grads)))


@pytest.mark.parametrize("dtype", DTYPES)
def test_fused_projection_and_backward(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    heads, kv_heads, dim = 8, 2, 128
    width = (heads + 2 * kv_heads) * dim
    qkv = torch.randn(2, 301, width).to(dtype).cuda().requires_grad_()
    bias = torch.randn(width).to(dtype).cuda().requires_grad_()
    cos, sin = angles(301, dim // 2)
    right = [x.requires_grad_() for x in wide(qkv, bias)]
    shape = {"heads": heads, "kv_heads": kv_heads}
    expected = ops.rotary_qkv(*right, cos, sin, **shape)
    result = ops.rotary_qkv(qkv, bias, cos.cuda(), sin.cuda(), **shape)
    close(result, [x.detach() for x in expected])
    grads = [torch.randn_like(x) for x in result]
    got = torch.autograd.grad(result, (qkv, bias), grads)
    want = torch.autograd.grad(expected, right, wide(*grads))
    close(got[:1], want[:1])
    # The bias's gradient sums 602 rows in fp32: its error is that of its dtype on the largest value.
    scale = float(want[1].abs().max())
    close([got[1] / scale], [want[1] / scale])
    again = torch.autograd.grad(ops.rotary_qkv(qkv, bias, cos.cuda(), sin.cuda(), **shape), (qkv, bias), grads)
    assert all(torch.equal(a, b) for a, b in zip(got, again, strict=True))


def test_a_large_batch_equals_the_cpu_kernel() -> None:
    torch.manual_seed(0)
    q, k = (torch.randn(2, 8192, heads, 128, device="cuda").bfloat16() for heads in (32, 8))
    cos, sin = angles(8192, 64)
    expected = ops.rotary(q.cpu(), k.cpu(), cos, sin)
    for result, right in zip(ops.rotary(q, k, cos.cuda(), sin.cuda()), expected, strict=True):
        torch.testing.assert_close(result.cpu(), right)


def test_graphs_and_streams() -> None:
    """The launch goes to the current stream and can be captured; replays read what is there then."""
    cos, sin = (x.cuda() for x in angles(64, 32))
    q, k = (torch.randn(1, 64, heads, 64, device="cuda") for heads in (4, 2))
    graph, replayed = captured(lambda: ops.rotary(q, k, cos, sin))
    q.normal_()
    k.normal_()
    graph.replay()
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        direct = ops.rotary(q, k, cos, sin)
    stream.synchronize()
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(replayed, direct, strict=True))
    close(replayed, ops.rotary(*wide(q, k), cos.cpu(), sin.cpu()))


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_on_a_device_that_is_not_current() -> None:
    cos, sin = angles(64, 32)
    q, k = (torch.randn(1, 64, heads, 64) for heads in (4, 2))
    close(ops.rotary(*(x.to("cuda:1") for x in (q, k, cos, sin))), ops.rotary(*wide(q, k), cos, sin))
    assert torch.cuda.current_device() == 0
