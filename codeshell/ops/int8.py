"""Linear layers whose weights are int8: a quarter of the memory, which is what generation on a CPU waits for.

A row of the weight is int8 with one fp32 scale, its largest magnitude over 127. The input is rounded on the way to
int16, with one scale for each 512 columns of a row; a product of both is exact, and so is the sum of 512. What is left
of rounding is the two quantisations and sums in fp64 in a fixed order. So the result has the same bits whatever the
instruction set, the number of threads, and the number of rows that are multiplied at once.

Both kernel and reference are here for the CPU alone, and there are no gradients: int8 is for using a model.

Shapes in this file: x (…, K), the weight (N, K), y (…, N).
"""

from __future__ import annotations

from typing import NamedTuple

import torch

from codeshell import _C
from codeshell.ops.library import address, differentiable, direct

_PANEL, _CHUNK, _BLOCK = _C.int8.PANEL, _C.int8.CHUNK, _C.int8.BLOCK
_ROWS = 1024
"""Rows that are quantised at a time: what is in memory in fp32 beside the weight itself."""


class Int8Weight(NamedTuple):
    """A weight (N, K) in int8.

    Attributes:
        values: int8, flat, in the order that csrc/int8/int8_cpu.h describes.
        scales: fp32 (N,); a row is its values times its scale.
        columns: K.
    """

    values: torch.Tensor
    scales: torch.Tensor
    columns: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.scales.shape[0], self.columns

    def integers(self) -> torch.Tensor:
        """The values as int8 (N, K), in memory of their own."""
        rows, columns = self.shape
        panels = self.values.view(-1, -(-columns // _CHUNK), _PANEL, _CHUNK).transpose(1, 2)
        return panels.reshape(-1, -(-columns // _CHUNK) * _CHUNK)[:rows, :columns].contiguous()


def quantize_rows(weight: torch.Tensor) -> Int8Weight:
    """A weight in int8: each row divided by its scale, rounded to nearest even.

    Args:
        weight: (N, K) on the CPU, floating point, of up to 131,072 columns.

    Returns:
        Each element times its scale is within half a scale of what it was.

    Raises:
        ValueError: another shape, dtype or device, or an element that is NaN or infinite (or beyond fp32).
    """
    if weight.dim() != 2 or not weight.is_floating_point() or not weight.is_cpu:
        raise ValueError(
            f"weight {tuple(weight.shape)} {weight.dtype} on {weight.device}: int8 takes (rows, columns) of floating "
            "point on the CPU"
        )
    rows, columns = weight.shape
    if columns > _C.int8.MOST_COLUMNS:
        raise ValueError(f"weight {tuple(weight.shape)}: int8 takes up to {_C.int8.MOST_COLUMNS} columns")
    weight = weight.detach()
    values = torch.empty(_C.int8.packed_bytes(rows, columns), dtype=torch.int8, device="cpu")
    scales = torch.empty(rows, dtype=torch.float32, device="cpu")
    for first in range(0, rows, _ROWS):
        part = weight[first : first + _ROWS].to(torch.float32).contiguous()
        last = first + part.shape[0]
        threads = torch.get_num_threads()
        _C.int8.quantize(address(part), first, last, columns, values.data_ptr(), scales.data_ptr(), threads)
    bad = (~scales.isfinite()).nonzero()
    if len(bad):
        raise ValueError(f"weight {tuple(weight.shape)}: row {int(bad[0])} holds a NaN or an infinity")
    return Int8Weight(values, scales, columns)


def int8_linear(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ W.T + bias` with W in int8, as fp32; under autocast, too.

    Args:
        x: (…, K) on the CPU, fp32 (bf16 and fp16 are widened). A row with a NaN or an infinity gives a row of NaN.
        weight: of `quantize_rows`.
        bias: fp32 (N,), or None.

    Returns:
        fp32 (…, N). With s the scale of an output's row of W, and t that of a block of x (its largest magnitude over
        32,767), an output differs from the exact product with the int8 weight by at most s t / 2 times the sum of the
        magnitudes of the row's integers in the block, summed over the blocks, and by one rounding to fp32.

    Raises:
        ValueError: shapes do not fit, or a tensor is elsewhere than on the CPU.
        RuntimeError: autograd would have to differentiate the call.
    """
    rows, columns = _check(x, weight, bias)
    if not direct(x, weight.values, weight.scales, bias):
        return reference(x, weight, bias)
    flat = (x.unsqueeze(0) if x.dim() == 1 else x.flatten(0, -2)).to(torch.float32)
    # Of a matrix without rows or columns any stride will do.
    if flat.stride(-1) != 1 or flat.stride(0) < columns:
        flat = flat.contiguous()
    return multiply(flat, weight, bias).view(*x.shape[:-1], rows)


def multiply(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`int8_linear` of an fp32 (T, K) with contiguous rows, of which nothing is checked: for a decoding loop."""
    (tokens, columns), rows = x.shape, weight.scales.shape[0]
    out = torch.empty((tokens, rows), dtype=torch.float32, device="cpu")
    # int64, so that it is aligned to 8 bytes.
    size = _C.int8.workspace_bytes(tokens, columns)
    workspace = torch.empty(-(-size // 8), dtype=torch.int64, device="cpu")
    _C.int8.multiply(
        x.data_ptr(),
        x.stride(0),
        address(weight.values),
        address(weight.scales),
        0 if bias is None else address(bias),
        out.data_ptr(),
        tokens,
        rows,
        columns,
        workspace.data_ptr(),
        torch.get_num_threads(),
    )
    return out


def int8_rows(weight: Int8Weight, ids: torch.Tensor) -> torch.Tensor:
    """Rows of a weight as fp32: an embedding.

    Args:
        weight: of `quantize_rows`.
        ids: int64 (…), each in [0, N).

    Returns:
        fp32 (…, K).

    Raises:
        IndexError: an id is no row.
        ValueError: another dtype, or a tensor is elsewhere than on the CPU.
    """
    rows, columns = weight.shape
    if ids.dtype != torch.int64 or not ids.is_cpu or not weight.values.is_cpu:
        raise ValueError(f"ids {ids.dtype} on {ids.device}: int8 rows are taken by int64 numbers on the CPU")
    if not direct(ids, weight.values, weight.scales):
        return weight.integers()[ids].float() * weight.scales[ids].unsqueeze(-1)
    flat = ids.reshape(-1).contiguous()
    out = torch.empty((*ids.shape, columns), dtype=torch.float32, device="cpu")
    threads = torch.get_num_threads()
    if not _C.int8.gather(
        address(weight.values),
        address(weight.scales),
        rows,
        columns,
        flat.data_ptr(),
        flat.numel(),
        out.data_ptr(),
        threads,
    ):
        raise IndexError(f"ids run from {int(ids.min())} to {int(ids.max())}, but the weight has {rows} rows")
    return out


def dequantize(weight: Int8Weight) -> torch.Tensor:
    """The weight as fp32 (N, K)."""
    return weight.integers().float() * weight.scales.unsqueeze(-1)


def reference(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`int8_linear` in PyTorch, to the bit; in fp64, which holds every sum of integers here."""
    _, columns = _check(x, weight, bias)
    values = weight.integers().double()
    wide = x.detach().to(torch.float32).double()
    total = torch.zeros((*x.shape[:-1], weight.shape[0]), dtype=torch.float64, device="cpu")
    for first in range(0, columns, _BLOCK):
        block = wide[..., first : first + _BLOCK]
        largest = block.abs().amax(-1, keepdim=True)
        # A block of zeros has the scale 0; one with a NaN or an infinity, NaN.
        scale = torch.where(largest.isfinite(), largest, torch.nan) / 32767.0
        # `32767.0 / largest` would be a product with the reciprocal, which rounds twice.
        inverse = torch.full_like(largest, 32767.0) / largest
        integers = torch.where(largest > 0, block * inverse, 0.0).round()
        sums = torch.where(scale.isfinite(), integers, 0.0) @ values[:, first : first + _BLOCK].t()
        total = total + scale * sums
    total = total * weight.scales.double()
    return (total if bias is None else total + bias.double()).float()


def _check(x: torch.Tensor, weight: Int8Weight, bias: torch.Tensor | None) -> tuple[int, int]:
    """N and K of a call whose arguments fit."""
    rows, columns = weight.shape
    if not (x.is_cpu and weight.values.is_cpu and (bias is None or bias.is_cpu)):
        raise ValueError(
            f"x is on {x.device}, the int8 weight on {weight.values.device}: int8 weights run on CPUs alone; load the "
            "model with --weights bf16 for a GPU"
        )
    if x.dim() == 0 or x.shape[-1] != columns or not x.is_floating_point() or x.dtype == torch.float64:
        raise ValueError(f"x {tuple(x.shape)} {x.dtype}: must be (…, {columns}) of fp32, bf16 or fp16")
    if weight.scales.dtype != torch.float32 or weight.values.dtype != torch.int8:
        raise ValueError(
            f"the weight has {weight.values.dtype} values and {weight.scales.dtype} scales, which must be int8 and "
            "fp32; convert a model before it is quantised, not after"
        )
    if bias is not None and (bias.shape != (rows,) or bias.dtype != torch.float32 or not bias.is_contiguous()):
        raise ValueError(f"bias {tuple(bias.shape)} {bias.dtype}: must be fp32 ({rows},), contiguous")
    if differentiable(x, bias):
        raise RuntimeError("int8 weights have no gradients; call under torch.no_grad(), or train with fp32 weights")
    return rows, columns
