"""Calls from tensors into the CPU kernels of `codeshell._C`, which take addresses and sizes and know nothing of torch.

The kernels run on torch's own OpenMP threads, as many as `torch.get_num_threads()`. Their results do not depend on that
number: one thread sums each output element, in a fixed order.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from codeshell import _C
from codeshell.ops import devices
from codeshell.ops.attention_call import AttentionCall
from codeshell.ops.library import address, direct

_TYPES = (torch.float32, torch.bfloat16)


def serves(x: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether the CPU kernels take a tensor of this device and dtype; and whether they may have the addresses of it and
    of the others."""
    return x.is_cpu and x.dtype in _TYPES and devices.simulated is None and direct(x, *others)


def attention_serves(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, cu_seqlens: torch.Tensor | None = None) -> bool:
    """Whether the CPU attention takes this case: fp32 or bf16, head dimensions 16, 32, … 256."""
    dim = q.shape[-1]
    return dim % 16 == 0 and dim <= 256 and q.dtype == k.dtype == v.dtype and serves(q, k, v, cu_seqlens)


def packable(x: torch.Tensor) -> torch.Tensor:
    """The tensor itself if tokens and heads can be walked with one stride each, else a contiguous copy."""
    # The kernel sees (batch, seq, heads, dim) as batch * seq tokens, so a row must begin where the one before it ends.
    # A batch of one row has no next row.
    uniform = x.stride(-1) == 1 and (x.dim() == 3 or x.shape[0] == 1 or x.stride(0) == x.shape[1] * x.stride(1))
    return x if uniform else x.contiguous()


def _view(x: torch.Tensor) -> tuple[int, int, int]:
    """Address, and the strides of token and head."""
    return x.data_ptr() or address(x), x.stride(-3), x.stride(-2)


class AttentionProblem:
    """A call in the form that the C++ kernel takes, forward and backward.

    Args:
        call: its q, k and v are `packable`: (batch, seq, heads, dim) or (total, heads, dim).
        angles: cos and sin (positions, dim / 2), and int32 (total,) positions, by which q and k are rotated on the way;
            None takes them as they are.
    """

    def __init__(
        self, call: AttentionCall, angles: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    ) -> None:
        q, k, _ = self._inputs = call[:3]
        # Everything whose address is passed is kept on self, so that it outlives the call.
        self._angles: tuple[torch.Tensor, ...] = ()
        addresses = (0, 0, 0)
        if angles is not None:
            cos, sin, positions = angles
            cos, sin, positions = cos.float().contiguous(), sin.float().contiguous(), positions.contiguous()
            self._angles = (cos, sin, positions)
            addresses = (address(cos), address(sin), address(positions))
        # Packed or dense, the kernel takes sequences by their offsets among the tokens.
        if call.cu_seqlens is not None:
            query_offsets = key_offsets = call.cu_seqlens.numpy()
        else:
            query_offsets, key_offsets = _even_offsets(q), _even_offsets(k)
        self._arguments = (
            q.dtype == torch.bfloat16,
            query_offsets,
            key_offsets,
            (q.shape[-2], k.shape[-2], q.shape[-1]),
            call.scale,
            call.causal,
            call.window,
            addresses,
            torch.get_num_threads(),
        )

    def forward(self, out: torch.Tensor) -> torch.Tensor:
        """Fill `out`, shaped as q; returns the LSE, fp32 (heads, tokens)."""
        # The LSE has one row for each head, over all tokens of all sequences.
        q, k, v = self._inputs
        # With its dtype and device, because the user may have set other defaults for both.
        lse = torch.empty((q.shape[-2], q.numel() // (q.shape[-2] * q.shape[-1])), dtype=torch.float32, device="cpu")
        _C.attention_forward((_view(q), _view(k), _view(v), _view(out)), lse.data_ptr(), *self._arguments)
        return lse

    def backward(
        self,
        grad_out: torch.Tensor,
        out: torch.Tensor,
        lse: torch.Tensor,
        grad_q: torch.Tensor,
        grad_k: torch.Tensor,
        grad_v: torch.Tensor,
    ) -> None:
        """Fill the three gradients."""
        q, k, v = self._inputs
        # Autograd may hand over a gradient of any strides, and of another dtype under autocast.
        grad_out = packable(grad_out.to(q.dtype))
        tensors = (_view(q), _view(k), _view(v), _view(out))
        gradients = (_view(grad_q), _view(grad_k), _view(grad_v), _view(grad_out))
        _C.attention_backward(tensors, gradients, lse.data_ptr(), *self._arguments)


def _even_offsets(x: torch.Tensor) -> NDArray[np.int32]:
    """Offsets (batch + 1,) of a dense batch, whose rows are sequences of one length."""
    return np.arange(x.shape[0] + 1, dtype=np.int32) * np.int32(x.shape[1])


def gelu_forward(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """GELU of x + bias; x (..., columns) is contiguous, bias fp32 (columns,), contiguous, or None."""
    out = torch.empty_like(x)
    columns = x.shape[-1] if x.dim() else 1
    _C.gelu_forward(
        address(x),
        0 if bias is None else address(bias),
        address(out),
        x.numel() // columns,
        columns,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out


def gelu_backward(
    x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor, with_bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x, and of bias in fp32 (None unless `with_bias`); as for `gelu_forward`, and `grad` like x."""
    out = torch.empty_like(x)
    columns = x.shape[-1] if x.dim() else 1
    rows = x.numel() // columns
    # Each chunk of rows has a row of `partial`, and rows are summed in order.
    partial = sums = None
    if with_bias:
        partial = x.new_empty((_C.gelu_sum_chunks(rows, columns), columns), dtype=torch.float32)
        sums = x.new_empty(columns, dtype=torch.float32)
    _C.gelu_backward(
        address(x),
        0 if bias is None else address(bias),
        address(grad),
        address(out),
        0 if partial is None else address(partial),
        0 if sums is None else address(sums),
        rows,
        columns,
        x.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )
    return out, sums


def cross_entropy_(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, scale: float, losses: torch.Tensor
) -> None:
    """Turn logits (rows, vocabulary) into their gradient times `scale`, in place, and fill `losses` (rows,) fp32.

    All tensors are contiguous; `targets` is int64 (rows,), and a row whose target is `ignore_index` counts for nothing.
    """
    _C.cross_entropy(
        address(logits),
        logits.shape[0],
        logits.shape[1],
        address(targets),
        ignore_index,
        scale,
        address(losses),
        logits.dtype == torch.bfloat16,
        torch.get_num_threads(),
    )


class norm:  # noqa: N801 (it stands for a module: norm_triton.py has the same functions)
    """Residual and LayerNorm: codeshell/ops/norm.py says what the functions take and return. All tensors are contiguous
    and not empty; matrices are (..., D), fp32 or bf16."""

    @staticmethod
    def forward(
        x: torch.Tensor,
        branch: torch.Tensor | None,
        weight: torch.Tensor,
        bias: torch.Tensor,
        eps: float,
        dtype: torch.dtype,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The sum (empty without a branch), the norm in `dtype`, and fp32 mean and rstd of the rows."""
        width = x.shape[-1]
        rows = x.numel() // width
        stream = x.new_empty(0) if branch is None else torch.empty_like(x)
        normed = torch.empty_like(x, dtype=dtype)
        mean, rstd = (x.new_empty(rows, dtype=torch.float32) for _ in range(2))
        # The kernels take weights in fp32.
        weight, bias = weight.float(), bias.float()
        addresses = (address(x), 0 if branch is None else address(branch), stream.data_ptr(), normed.data_ptr())
        _C.norm_forward(
            (*addresses, address(weight), address(bias), mean.data_ptr(), rstd.data_ptr()),
            rows,
            width,
            eps,
            (_is_bf16(x), branch is not None and _is_bf16(branch), dtype == torch.bfloat16),
            torch.get_num_threads(),
        )
        return stream, normed, mean, rstd

    @staticmethod
    def backward(
        grad_stream: torch.Tensor | None,
        grad_normed: torch.Tensor,
        stream: torch.Tensor,
        weight: torch.Tensor,
        mean: torch.Tensor,
        rstd: torch.Tensor,
        branch_dtype: torch.dtype,
        affine: bool,
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """The gradients of x, of the branch (empty if its dtype is that of x), and of weight and bias in the weight's
        dtype (empty unless `affine`)."""
        width = stream.shape[-1]
        rows = stream.numel() // width
        grad_x = torch.empty_like(stream)
        apart = branch_dtype != stream.dtype
        grad_branch = torch.empty_like(stream, dtype=branch_dtype) if apart else stream.new_empty(0)
        wide = weight.float()
        sums = [wide.new_empty(width if affine else 0) for _ in range(2)]
        partial = wide.new_empty((_C.norm_sum_chunks(rows), 2, width) if affine else 0)
        inputs = (0 if grad_stream is None else address(grad_stream), address(grad_normed), address(stream))
        outputs = (grad_x.data_ptr(), grad_branch.data_ptr(), partial.data_ptr(), *(x.data_ptr() for x in sums))
        _C.norm_backward(
            (*inputs, address(mean), address(rstd), address(wide), *outputs),
            rows,
            width,
            (_is_bf16(stream), _is_bf16(grad_normed)),
            torch.get_num_threads(),
        )
        return grad_x, grad_branch, sums[0].to(weight.dtype), sums[1].to(weight.dtype)


def _is_bf16(x: torch.Tensor) -> bool:
    return x.dtype == torch.bfloat16
