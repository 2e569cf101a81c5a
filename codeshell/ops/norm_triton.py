"""Residual and LayerNorm in Triton, forward and backward, for GPUs of compute capability 8.0 and newer.

    forward    stream = x + branch                      reads x and branch, writes stream and normed,
               normed = xhat weight + bias              and fp32 mean and rstd of each row
               xhat   = (stream - mean) rstd
    backward   g  = dnormed weight                      reads dstream, dnormed and stream, writes dx (and dbranch, where
               dx = dstream + rstd (g - mean of g       the branch has another dtype than the stream)
                    - xhat mean of (g xhat))
               dweight, dbias = the sums over rows of dnormed xhat and dnormed, in two steps

All matrices are (rows, width) and contiguous. A program has whole rows in registers, so each element is read once and
no row is walked twice; a narrow row shares its program with others. In the backward pass a program walks a run of rows
and keeps its part of dweight and dbias in fp32; `sum_kernel` adds the parts of all programs in order. There are no
atomics: the numbers of rows and of multiprocessors alone decide the order of every sum, so a run repeats bit for bit.

    tile         4,096 elements on 256 threads, 16 each: two 16-byte loads of bf16, four of fp32, for each input; a row
                 of more than 4,096 elements, which may have 8,192, is one tile on 512 threads
    programs     forward: one a tile; backward: at most 2 a multiprocessor, which is what 128 registers let run there
    registers    forward 64 at most, backward 128, which is set: nothing is spilled from sm_80 to sm_120 in training
                 with a bf16 branch, 8 bytes on sm_100 and sm_120 where all is fp32 (tests/ops/test_norm_triton.py)
    floor        bytes over bandwidth. An element of an fp32 stream and a bf16 branch is 12 bytes forward (4 + 2 read,
                 4 + 2 written) and 16 backward (4 + 2 + 4 read, 4 + 2 written); add, LayerNorm, casts and their
                 gradients as single operations move 24 and 44. At 4.3 TB/s (an H200), 8,192 rows of 4,096 take 94 and
                 125 us
    measured     not run on a GPU so far

Triton's interpreter has no libdevice and does not round to bf16, so the arithmetic is plain fp32 from tl.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from codeshell.ops import devices
from codeshell.ops.triton_kernels import check, on_device

WIDEST = 8192
"""Rows in registers can be so wide: in the backward pass more would be spilled to memory."""
TILE = 4096
PROGRAMS = 2
REGISTERS = 128
"""Programs of the backward pass on a multiprocessor; of 256 threads, two have room with so many registers."""
ROWS_OF_PARTS = 32
COLUMNS_OF_PARTS = 64
"""The tile of `sum_kernel`: rows of parts that are in registers at a time, and their columns."""


@triton.jit
def forward_kernel(
    x_pointer, branch_pointer, stream_pointer, normed_pointer, weight_pointer, bias_pointer, mean_pointer, rstd_pointer,
    rows, width, eps,
    has_branch: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    # The tile: (tile_rows, tile_columns), masked at both edges. Offsets are of 64 bits: x may have more than 2^31.
    row = tl.program_id(0).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    column = tl.arange(0, tile_columns)
    in_rows, in_columns = row < rows, column < width
    inside = in_rows[:, None] & in_columns[None, :]
    offset = row[:, None] * width + column[None, :]
    # The sum, rounded to the stream's dtype: what is normalised is what the next layers see.
    stream = tl.load(x_pointer + offset, mask=inside, other=0.0)
    if has_branch:
        branch = tl.load(branch_pointer + offset, mask=inside, other=0.0).to(tl.float32)
        stream = (stream.to(tl.float32) + branch).to(stream_pointer.dtype.element_ty)
        tl.store(stream_pointer + offset, stream, mask=inside)
    stream = stream.to(tl.float32)
    # The variance from differences, not from squares, whose difference would be rounded away where the mean is large.
    mean = tl.sum(stream, axis=1) / width
    centred = tl.where(inside, stream - mean[:, None], 0.0)
    rstd = 1.0 / tl.sqrt(tl.sum(centred * centred, axis=1) / width + eps)
    weight = tl.load(weight_pointer + column, mask=in_columns, other=0.0).to(tl.float32)
    bias = tl.load(bias_pointer + column, mask=in_columns, other=0.0).to(tl.float32)
    normed = centred * rstd[:, None] * weight[None, :] + bias[None, :]
    tl.store(normed_pointer + offset, normed.to(normed_pointer.dtype.element_ty), mask=inside)
    tl.store(mean_pointer + row, mean, mask=in_rows)
    tl.store(rstd_pointer + row, rstd, mask=in_rows)


@triton.jit
def backward_kernel(
    grad_stream_pointer, grad_normed_pointer, stream_pointer, weight_pointer, mean_pointer, rstd_pointer,
    grad_x_pointer, grad_branch_pointer, part_pointer,
    rows, width, rows_of_part,
    has_grad_stream: tl.constexpr, has_grad_branch: tl.constexpr, sums: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    part = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, tile_columns)
    in_columns = column < width
    grad_weight = tl.zeros([tile_rows, tile_columns], tl.float32)
    grad_bias = tl.zeros([tile_rows, tile_columns], tl.float32)
    # Each step has the next tile_rows rows.
    for step in range(0, rows_of_part, tile_rows):
        row = part * rows_of_part + step + tl.arange(0, tile_rows)
        in_rows = row < rows
        inside = in_rows[:, None] & in_columns[None, :]
        offset = row[:, None] * width + column[None, :]
        stream = tl.load(stream_pointer + offset, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(grad_normed_pointer + offset, mask=inside, other=0.0).to(tl.float32)
        mean = tl.load(mean_pointer + row, mask=in_rows, other=0.0)
        rstd = tl.load(rstd_pointer + row, mask=in_rows, other=0.0)
        # Beyond the edges `up` is 0, and so is all that is summed.
        xhat = (stream - mean[:, None]) * rstd[:, None]
        # Read again for each tile, from the nearest cache: kept, it would take the registers of another row.
        g = up * tl.load(weight_pointer + column, mask=in_columns, other=0.0).to(tl.float32)[None, :]
        mean_g = tl.sum(g, axis=1) / width
        mean_product = tl.sum(g * xhat, axis=1) / width
        down = (g - mean_g[:, None] - xhat * mean_product[:, None]) * rstd[:, None]
        if has_grad_stream:
            down += tl.load(grad_stream_pointer + offset, mask=inside, other=0.0).to(tl.float32)
        tl.store(grad_x_pointer + offset, down.to(grad_x_pointer.dtype.element_ty), mask=inside)
        if has_grad_branch:
            tl.store(grad_branch_pointer + offset, down.to(grad_branch_pointer.dtype.element_ty), mask=inside)
        if sums:
            grad_weight += up * xhat
            grad_bias += up
    if sums:
        at = part_pointer + part * 2 * width + column
        tl.store(at, tl.sum(grad_weight, axis=0), mask=in_columns)
        tl.store(at + width, tl.sum(grad_bias, axis=0), mask=in_columns)


@triton.jit
def sum_kernel(
    part_pointer, grad_weight_pointer, grad_bias_pointer, parts, width,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    # One program adds all rows of (parts, 2, width) for its columns of one of the two: rows of the tile first.
    column = tl.program_id(0) * tile_columns + tl.arange(0, tile_columns)
    in_columns = column < width
    of_bias = tl.program_id(1)
    total = tl.zeros([tile_rows, tile_columns], tl.float32)
    for first in range(0, parts, tile_rows):
        row = first + tl.arange(0, tile_rows)
        inside = (row < parts)[:, None] & in_columns[None, :]
        offset = (2 * row.to(tl.int64) + of_bias)[:, None] * width + column[None, :]
        total += tl.load(part_pointer + offset, mask=inside, other=0.0)
    done = tl.sum(total, axis=0)
    if of_bias == 0:
        tl.store(grad_weight_pointer + column, done.to(grad_weight_pointer.dtype.element_ty), mask=in_columns)
    else:
        tl.store(grad_bias_pointer + column, done.to(grad_bias_pointer.dtype.element_ty), mask=in_columns)


def tile(width: int) -> tuple[int, int, int]:
    """Rows and columns of the tile for rows of this width, both powers of 2, and its warps."""
    columns = max(16, triton.next_power_of_2(width))
    rows = max(1, TILE // columns)
    return rows, columns, rows * columns // 512


def forward(
    x: torch.Tensor,
    branch: torch.Tensor | None,
    weight: torch.Tensor,
    bias: torch.Tensor,
    eps: float,
    dtype: torch.dtype,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Stream (empty if there is no branch: it is x), the normed tensor in `dtype`, and fp32 mean and rstd (rows,).

    x and branch are (..., width), contiguous and not empty, width at most `WIDEST`; weight and bias (width,).
    """
    width = x.shape[-1]
    rows = x.numel() // width
    high, wide, warps = tile(width)
    stream = x.new_empty(0) if branch is None else torch.empty_like(x)
    normed = torch.empty_like(x, dtype=dtype)
    mean, rstd = (torch.empty(rows, dtype=torch.float32, device=x.device) for _ in range(2))
    with on_device(x.device):
        forward_kernel[(triton.cdiv(rows, high),)](
            x, x if branch is None else branch, stream, normed, weight, bias, mean, rstd, rows, width, eps,
            branch is not None, high, wide, num_warps=warps,
        )  # fmt: skip
    return stream, normed, mean, rstd


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
    """The gradients of x in its dtype, of the branch, of weight and of bias in the weight's dtype.

    That of the branch is empty if `branch_dtype` is the stream's: it is that of x then; the last two are empty unless
    `affine`. Matrices are (..., width), contiguous and not empty.
    """
    width = stream.shape[-1]
    rows = stream.numel() // width
    high, wide, warps = tile(width)
    grad_x = torch.empty_like(stream)
    apart = branch_dtype != stream.dtype
    grad_branch = torch.empty_like(stream, dtype=branch_dtype) if apart else stream.new_empty(0)
    grad_weight, grad_bias = (
        torch.empty(width if affine else 0, dtype=weight.dtype, device=weight.device) for _ in range(2)
    )
    # A run of rows for each program, in whole tiles.
    programs = PROGRAMS * devices.facts(stream.device).multiprocessors
    rows_of_part = triton.cdiv(triton.cdiv(rows, high), programs) * high
    parts = triton.cdiv(rows, rows_of_part)
    part = torch.empty((parts, 2, width) if affine else (0,), dtype=torch.float32, device=stream.device)
    with on_device(stream.device):
        backward_kernel[(parts,)](
            stream if grad_stream is None else grad_stream, grad_normed, stream, weight, mean, rstd,
            grad_x, grad_branch, part, rows, width, rows_of_part,
            grad_stream is not None, apart, affine, high, wide, num_warps=warps, maxnreg=REGISTERS,
        )  # fmt: skip
        if affine:
            sum_kernel[triton.cdiv(width, COLUMNS_OF_PARTS), 2](
                part, grad_weight, grad_bias, parts, width, ROWS_OF_PARTS, COLUMNS_OF_PARTS, num_warps=4
            )
    return grad_x, grad_branch, grad_weight, grad_bias


def trial(device: torch.device) -> None:
    """Run the kernels on small tensors; raises where one fails or differs from PyTorch."""
    rows, width = 70, 48
    values = (torch.arange(4 * rows * width, device=device) * 1.7).sin().view(4, rows, width)
    x, branch, grad_stream, grad_normed = values.unbind(0)
    leaves = [values[0].clone(), values[1].clone(), values[2, 0] + 2.0, values[3, 0].clone()]
    x, branch, weight, bias = (leaf.requires_grad_() for leaf in leaves)
    with torch.enable_grad():
        wanted_stream = x + branch
        wanted = torch.nn.functional.layer_norm(wanted_stream, (width,), weight, bias, 1e-5)
    wants = torch.autograd.grad((wanted_stream, wanted), (x, weight, bias), (grad_stream, grad_normed))
    x, branch, weight, bias = (leaf.detach() for leaf in leaves)
    stream, normed, mean, rstd = forward(x, branch, weight, bias, 1e-5, torch.float32)
    check("the stream", stream, wanted_stream.detach(), 1e-6)
    check("LayerNorm", normed, wanted.detach(), 1e-5)
    grads = backward(grad_stream, grad_normed, stream, weight, mean, rstd, torch.float32, True)
    for name, got, want in zip(("x", "weight", "bias"), (grads[0], *grads[2:]), wants, strict=True):
        check(f"the gradient of {name}", got, want, 1e-5)
