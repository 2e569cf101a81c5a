"""A small call of every public operation, forward and backward: for tests of what serves it."""

from __future__ import annotations

from collections.abc import Callable

import torch

from codeshell import ops

Tensors = tuple[torch.Tensor, ...]


def _random(*shape: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def _angles(rows: int, half: int) -> Tensors:
    angles = torch.arange(rows).unsqueeze(1) * torch.logspace(0, -2, half)
    return angles.cos(), angles.sin()


def _with_gradients(function: Callable[..., torch.Tensor | Tensors], *inputs: torch.Tensor) -> Tensors:
    leaves = [x.detach().clone().requires_grad_() for x in inputs]
    result = function(*leaves)
    outputs = result if isinstance(result, tuple) else (result,)
    return *(x.detach() for x in outputs), *torch.autograd.grad(outputs, leaves, [torch.ones_like(x) for x in outputs])


def attention() -> Tensors:
    q, k, v = _random(1, 20, 2, 64), _random(1, 20, 1, 64), _random(1, 20, 1, 64)
    return _with_gradients(ops.attention, q, k, v)


def packed_attention() -> Tensors:
    offsets = torch.tensor([0, 7, 20], dtype=torch.int32)
    cos, sin = _angles(20, 32)
    return _with_gradients(
        lambda qkv: ops.packed_attention(qkv, cos, sin, heads=2, kv_heads=1, cu_seqlens=offsets, max_seqlen=13),
        _random(20, 4 * 64),
    )


def decode_attention() -> Tensors:
    cos, sin = _angles(32, 32)
    keys, values = _random(2, 32, 1, 64), _random(2, 32, 1, 64) * 0.5
    out = ops.decode_attention(
        *(_random(2, 1, 2, 64), keys, values),
        cache_seqlens=torch.tensor([5, 17], dtype=torch.int32),
        k_new=_random(2, 1, 1, 64),
        v_new=_random(2, 1, 1, 64),
        cos=cos,
        sin=sin,
    )
    return out, keys, values


def rotary() -> Tensors:
    cos, sin = _angles(9, 16)
    return _with_gradients(lambda q, k: ops.rotary(q, k, cos, sin), _random(2, 9, 3, 32), _random(2, 9, 1, 32))


def rotary_in_place() -> Tensors:
    q, k = _random(9, 3, 32), _random(9, 1, 32)
    ops.rotary(q, k, *_angles(30, 16), positions=torch.arange(9) * 3, interleaved=True, inplace=True)
    return q, k


def rotary_qkv() -> Tensors:
    cos, sin = _angles(9, 16)
    return _with_gradients(
        lambda qkv, bias: ops.rotary_qkv(qkv, bias, cos, sin, heads=2, kv_heads=1, offset=0),
        *(_random(2, 9, 4 * 32), _random(4 * 32)),
    )


def gelu() -> Tensors:
    return _with_gradients(ops.gelu, _random(5, 16))


def residual_layer_norm() -> Tensors:
    return _with_gradients(
        ops.residual_layer_norm, _random(5, 16, dtype=torch.float32), _random(5, 16), _random(16) + 1, _random(16)
    )


def bias_gelu() -> Tensors:
    return _with_gradients(ops.bias_gelu, _random(5, 16), _random(16))


def linear() -> Tensors:
    return _with_gradients(ops.linear, _random(5, 16), _random(8, 16), _random(8))


def linear_cross_entropy() -> Tensors:
    targets = torch.arange(6)
    return _with_gradients(lambda x, w: ops.linear_cross_entropy(x, w, targets), _random(6, 16), _random(11, 16))


OPERATIONS: dict[str, Callable[[], Tensors]] = {
    function.__name__: function
    for function in (
        *(attention, packed_attention, decode_attention, rotary, rotary_in_place, rotary_qkv),
        *(gelu, bias_gelu, residual_layer_norm, linear, linear_cross_entropy),
    )
}

KERNELS = {
    "attention": ["attention_forward_cuda", "attention_backward_cuda"],
    "packed_attention": ["rotary", "attention_forward_cuda", "attention_backward_cuda", "rotary"],
    "decode_attention": ["attention_decode_cuda"],
    "rotary": ["rotary", "rotary"],
    "rotary_in_place": ["rotary"],
    "rotary_qkv": ["rotary_qkv", "rotary_qkv_backward"],
    "gelu": ["gelu_triton.forward", "gelu_triton.backward"],
    "bias_gelu": ["gelu_triton.forward", "gelu_triton.backward"],
    "residual_layer_norm": ["norm_triton.forward", "norm_triton.backward"],
    "linear_cross_entropy": ["softmax_gradient_cuda"],
}
"""The bindings that launch the kernels of those calls, in order, where all of them run."""
