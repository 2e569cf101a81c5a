"""Bias and GELU (tanh) in Triton, forward and backward, for GPUs of compute capability 8.0 and newer.

    forward    y = gelu(x + bias)                                  reads x, writes y
    backward   dx = dy gelu'(x + bias), dbias = the sum of dx      reads x and dy, writes dx; dbias in two steps

x is (rows, columns), bias (columns,). A program has a tile of columns, and in registers a few rows of it at a time. In
the backward pass it walks ROWS_OF_SUM rows and keeps its part of dbias in fp32; the parts of all programs are a small
matrix (rows / ROWS_OF_SUM, columns), the rows of which are added in order by a second kernel. There are no atomics, and
the shape alone decides the order of every sum, so the bits are the same in every run, on all GPUs of one architecture.

Tile: 4,096 elements on 256 threads, which are 16 each: two 16-byte loads of bf16, four of fp32, for each input.
Registers on each architecture (tests/ops/test_gelu_triton.py): 32 to 40 forward, 74 to 80 backward, no spills. Floor: 4
bytes per element forward and 6 backward in bf16, over the memory's bandwidth (4.3 TB/s on an H200). Not run on a GPU so
far.

All arithmetic is in fp32. libdevice is not used, because the interpreter has none.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from codeshell.ops.triton_kernels import check, on_device

TILE = 4096
WARPS = 8
ROWS_OF_SUM = 64
"""Rows of one partial sum of dbias: 64 rows of x make its traffic 1/64 x 4/6 of the rest in bf16, about 1 %, and 8,192
rows of 8,192 columns still give 1,024 programs."""
ROWS_OF_PARTS = 32
"""Rows of partial sums that are in registers at a time."""
COLUMNS_OF_PARTS = 64


@triton.jit
def _sigmoid_of_2u(v):
    # gelu(v) = v sigmoid(2u), with u = sqrt(2 / pi) (v + 0.044715 v^3).
    return tl.sigmoid(v * (1.5957691216057308 + 0.07135481282712513 * v * v))


@triton.jit
def forward_kernel(
    x_pointer, bias_pointer, y_pointer, rows, columns,
    has_bias: tl.constexpr, tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    # The tile: (tile_rows, tile_columns), masked at both edges. Offsets are of 64 bits: x may have more than 2^31.
    column = tl.program_id(0) * tile_columns + tl.arange(0, tile_columns)
    row = tl.program_id(1).to(tl.int64) * tile_rows + tl.arange(0, tile_rows)
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    offset = row[:, None] * columns + column[None, :]
    v = tl.load(x_pointer + offset, mask=inside, other=0.0).to(tl.float32)
    if has_bias:
        bias = tl.load(bias_pointer + column, mask=column < columns, other=0.0).to(tl.float32)
        v += bias[None, :]
    tl.store(y_pointer + offset, (v * _sigmoid_of_2u(v)).to(y_pointer.dtype.element_ty), mask=inside)


@triton.jit
def backward_kernel(
    x_pointer, bias_pointer, grad_pointer, out_pointer, part_pointer, rows, columns,
    has_bias: tl.constexpr, sums: tl.constexpr, rows_of_sum: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr,
):  # fmt: skip
    column = tl.program_id(0) * tile_columns + tl.arange(0, tile_columns)
    first = tl.program_id(1).to(tl.int64) * rows_of_sum
    in_columns = column < columns
    bias = tl.zeros([tile_columns], tl.float32)
    if has_bias:
        bias = tl.load(bias_pointer + column, mask=in_columns, other=0.0).to(tl.float32)
    total = tl.zeros([tile_rows, tile_columns], tl.float32)
    # Each step has the next tile_rows rows.
    for step in range(0, rows_of_sum, tile_rows):
        row = first + step + tl.arange(0, tile_rows)
        inside = (row < rows)[:, None] & in_columns[None, :]
        offset = row[:, None] * columns + column[None, :]
        v = tl.load(x_pointer + offset, mask=inside, other=0.0).to(tl.float32) + bias[None, :]
        up = tl.load(grad_pointer + offset, mask=inside, other=0.0).to(tl.float32)
        # Beyond 10 the derivative is 1, or 0 to 35 digits, and the exponential or the square of a large v would
        # overflow. A NaN passes both comparisons.
        v = tl.where(v > 10.0, 10.0, tl.where(v < -10.0, -10.0, v))
        e = tl.exp(-v * (1.5957691216057308 + 0.07135481282712513 * v * v))
        s = 1.0 / (1.0 + e)
        slope = 1.5957691216057308 + 0.21406443848137539 * v * v  # 2u'
        # e s is 1 - s, without the digits that the difference would lose where s is almost 1.
        down = up * (s + v * s * (e * s) * slope)
        tl.store(out_pointer + offset, down.to(out_pointer.dtype.element_ty), mask=inside)
        # Beyond the edges `up` is 0, and so is `down`.
        total += down
    if sums:
        at = part_pointer + tl.program_id(1).to(tl.int64) * columns + column
        tl.store(at, tl.sum(total, axis=0), mask=in_columns)


@triton.jit
def sum_kernel(part_pointer, out_pointer, parts, columns, tile_rows: tl.constexpr, tile_columns: tl.constexpr):
    # One program adds all rows of (parts, columns) for its columns: lanes of tile_rows rows first, then the lanes.
    column = tl.program_id(0) * tile_columns + tl.arange(0, tile_columns)
    in_columns = column < columns
    total = tl.zeros([tile_rows, tile_columns], tl.float32)
    for first in range(0, parts, tile_rows):
        row = first + tl.arange(0, tile_rows)
        inside = (row < parts)[:, None] & in_columns[None, :]
        total += tl.load(part_pointer + row.to(tl.int64)[:, None] * columns + column[None, :], mask=inside, other=0.0)
    tl.store(out_pointer + column, tl.sum(total, axis=0).to(out_pointer.dtype.element_ty), mask=in_columns)


def tile(rows: int, columns: int) -> tuple[int, int]:
    """Rows and columns of a tile of `TILE` elements for a tensor (rows, columns), both powers of 2."""
    # Wide and low: a warp then reads 512 consecutive bytes of bf16 at a time. A single row gets the whole tile.
    wide = min(TILE if rows == 1 else 1024, triton.next_power_of_2(columns))
    return min(TILE // wide, ROWS_OF_SUM), wide


def forward(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
    """gelu(x + bias), in x's dtype; x (rows, columns) contiguous and not empty, bias (columns,) contiguous or None."""
    rows, columns = x.shape
    high, wide = tile(rows, columns)
    y = torch.empty_like(x)
    grid = (triton.cdiv(columns, wide), triton.cdiv(rows, high))
    with on_device(x.device):
        forward_kernel[grid](
            x, x if bias is None else bias, y, rows, columns, bias is not None, high, wide, num_warps=WARPS
        )  # fmt: skip
    return y


def backward(
    x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor, with_bias: bool
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """The gradients of x, in its dtype, and of bias, in fp32 (None unless `with_bias`).

    x and grad (rows, columns) contiguous, of one dtype and not empty; bias as in `forward`.
    """
    rows, columns = x.shape
    high, wide = tile(rows, columns)
    out = torch.empty_like(x)
    parts = triton.cdiv(rows, ROWS_OF_SUM)
    part = torch.empty((parts, columns) if with_bias else (0,), dtype=torch.float32, device=x.device)
    with on_device(x.device):
        backward_kernel[triton.cdiv(columns, wide), parts](
            x, x if bias is None else bias, grad, out, part, rows, columns,
            bias is not None, with_bias, ROWS_OF_SUM, high, wide, num_warps=WARPS,
        )  # fmt: skip
        if not with_bias:
            return out, None
        grad_bias = torch.empty(columns, dtype=torch.float32, device=x.device)
        sum_kernel[(triton.cdiv(columns, COLUMNS_OF_PARTS),)](
            part, grad_bias, parts, columns, ROWS_OF_PARTS, COLUMNS_OF_PARTS, num_warps=4
        )
    return out, grad_bias


def trial(device: torch.device) -> None:
    """Run the kernels on small tensors; raises where one fails or differs from PyTorch."""
    x, grad, bias = (torch.linspace(-4, 4, n, device=device) for n in (70 * 48, 70 * 48, 48))
    x, grad = x.view(70, 48), grad.view(70, 48).flip(0).contiguous()
    leaf, shift = x.clone().requires_grad_(), bias.clone().requires_grad_()
    with torch.enable_grad():
        wanted = torch.nn.functional.gelu(leaf + shift, approximate="tanh")
        wanted.backward(grad)
    check("gelu", forward(x, bias), wanted.detach(), 1e-5)
    out, grad_bias = backward(x, bias, grad, True)
    assert leaf.grad is not None and shift.grad is not None and grad_bias is not None
    check("the gradient of gelu", out, leaf.grad, 1e-5)
    check("the gradient of the bias", grad_bias, shift.grad, 1e-5)
