"""Products of matrices on the CPU, where our own are faster than torch's (csrc/product): many rows, then few.

torch multiplies by MKL, which on AMD's processors spends a fifth of a product of a training step on copies of both
operands. Ours reads the left one where it lies and packs the right one, a weight, once; on an AMD EPYC with AVX2 they
take about a tenth less time (docs/decisions.md). Elsewhere `serves` says no, and torch's own serve.

Few rows with a weight in fp32 or bf16 are what a model that generates multiplies. A weight is then read once, where it
lies, for all of the rows (`few_rows`); torch copies it first, as soon as there is more than one row.

A product's bits depend on its operands alone: neither on the number of threads nor on how rows are cut into calls.
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import torch

from codeshell import _C
from codeshell.ops import devices
from codeshell.ops.library import address, direct

FEWEST_ROWS = 64
"""With fewer rows, packing the right operand costs more than it saves."""

MOST_FEW_ROWS = {torch.float32: 64, torch.bfloat16: 16}
"""Rows up to which `few_rows` was measured to be at least as fast as torch (docs/kernels/rows.md). With more, the sums
are the limit: in fp32 a copy of the weight in another order pays with AVX2, and in bf16 torch has instructions that
multiply it, on processors with avx512_bf16 (see `most_few_rows`). Batches step up to 64 rows together."""

ANY_ROWS = 1 << 62
"""The limit where no number of rows is too many."""


@functools.cache
def pays() -> bool:
    """Whether this processor is of the kind on which our products were measured to be faster."""
    return _C.product_pays()


class Packed(NamedTuple):
    """A right operand (k, n) in panels.

    Attributes:
        memory: as `_C.product_pack` fills it.
        k, n: its shape.
    """

    memory: torch.Tensor
    k: int
    n: int


def serves(left: torch.Tensor, *others: torch.Tensor | None) -> bool:
    """Whether products of these tensors are ours: fp32 matrices of a CPU whose products pay, with enough rows on the
    left. Vectors among them are biases."""
    # A traced call stops at the first question.
    if not direct(left, *others) or not left.is_cpu or devices.simulated is not None or not pays():
        return False
    given = [x for x in (left, *others) if x is not None]
    fits = left.dim() == 2 and left.shape[0] >= FEWEST_ROWS
    return fits and all(x.dtype == torch.float32 and x.numel() > 0 for x in given)


def pack(right: torch.Tensor) -> Packed:
    """A matrix (k, n) as the right operand of products; one that is transposed in memory costs no copy before."""
    right = _walkable(right)
    k, n = right.shape
    memory = torch.empty(_C.product_packed_size(n, k), dtype=torch.float32, device="cpu")
    _C.product_pack(address(right), *_strides(right), n, k, address(memory), torch.get_num_threads())
    return Packed(memory, k, n)


def multiply(
    left: torch.Tensor,
    right: Packed,
    *,
    bias: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    add: bool = False,
) -> torch.Tensor:
    """`left @ right + bias`.

    Args:
        left: (m, k) of fp32; any strides, but one that has neither rows nor columns contiguous is copied.
        right: (k, n).
        bias: (n,) of fp32, or None.
        out: (m, n) of fp32 with contiguous rows, where the result goes; None makes a new one.
        add: add the product to what `out` holds.
    """
    left = _walkable(left)
    m, k = left.shape
    assert k == right.k and (out is None or (out.shape == (m, right.n) and out.stride(1) == 1))
    if out is None:
        out = torch.empty((m, right.n), dtype=torch.float32, device="cpu")
    bias = None if bias is None else bias.contiguous()
    _C.product_multiply(
        address(left),
        *_strides(left),
        address(right.memory),
        address(out),
        out.stride(0),
        0 if bias is None else address(bias),
        add,
        m,
        right.n,
        k,
        torch.get_num_threads(),
    )
    return out


def serves_few_rows(weight: torch.Tensor, bias: torch.Tensor | None) -> bool:
    """Whether `few_rows` takes a weight (n, k) and its bias: on an x86 with AVX2, in one of two dtypes, and as they lie
    in memory. It is asked once for a layer, and not for each product."""
    if not direct(weight, bias) or not weight.is_cpu or devices.simulated is not None:
        return False
    if _C.simd_level() not in ("avx2", "avx512"):
        return False
    plain = weight.dtype in MOST_FEW_ROWS and weight.dim() == 2 and weight.stride(1) == 1
    return plain and weight.numel() > 0 and (bias is None or (bias.dtype == weight.dtype and bias.is_contiguous()))


def most_few_rows(dtype: torch.dtype) -> int:
    """Rows up to which `few_rows` is the faster product on this processor, for weights of `dtype`.

    Without avx512_bf16, torch widens bf16 weights in a loop of its own, which takes 4 times as long as ours for 16 rows
    and for 256 (docs/kernels/rows.md): there is no limit then.
    """
    emulated = _C.simd_level() == "avx2" or not torch.cpu._is_avx512_bf16_supported()
    return ANY_ROWS if dtype == torch.bfloat16 and emulated else MOST_FEW_ROWS[dtype]


def few_rows(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None = None) -> torch.Tensor:
    """`x @ weight.T + bias` for a weight that `serves_few_rows`, of which nothing is checked: for a decoding loop.

    Args:
        x: (m, k) of the weight's dtype, with contiguous rows. Any m is right, and up to `most_few_rows` fast.
        weight: (n, k).
        bias: (n,), or None.

    Returns:
        (m, n) in the weight's dtype; the products are summed in fp32, and rounded once. Each row has the bits that it
        has alone.
    """
    (m, k), n = x.shape, weight.shape[0]
    out = torch.empty((m, n), dtype=weight.dtype, device="cpu")
    narrow = weight.dtype == torch.bfloat16
    wide = x.float() if narrow else x
    _C.product_rows(
        wide.data_ptr(),
        wide.stride(0),
        address(weight),
        weight.stride(0),
        0 if bias is None else address(bias),
        out.data_ptr(),
        m,
        n,
        k,
        narrow,
        torch.get_num_threads(),
    )
    return out


def _walkable(x: torch.Tensor) -> torch.Tensor:
    """The matrix itself if its rows or its columns are contiguous, else a contiguous copy."""
    return x if 1 in x.stride() else x.contiguous()


def _strides(x: torch.Tensor) -> tuple[int, int]:
    """From one row to the next, and from one column to the next: one of the two is 1."""
    row, column = x.stride()
    # A single column may have any stride, and is taken for contiguous.
    return (row, 1) if column == 1 or x.shape[1] == 1 else (1, column)
