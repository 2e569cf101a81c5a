"""The number formats of a GGUF: rows of weights to bytes, and how far a value may be from what was written.

Q8_0 stores 32 weights of a row as one fp16 scale `d` and 32 int8 `q`; the weight is `d * q`. With `m` the largest
magnitude among the 32, `d` is m / 127 and `q` the weight over `d`, rounded half away from zero as ggml's reference does
(ggml/src/ggml-quants.c). The quotient is taken before `d` is rounded to fp16, so a weight is off by at most

    d / 2               rounding of q
    127 d 2^-11         rounding of d to fp16, which multiplies a q of at most 127
    127 2^-25           the same where d is so small (below 2^-14) that fp16 has a fixed step

and a little for the fp32 arithmetic. `q8_0_bound` is that sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

BLOCK = 32
"""Weights that share a scale in Q8_0."""

BLOCK_BYTES = BLOCK + 2

LARGEST = 127 * 65504.0
"""The largest weight whose scale is finite in fp16."""


@dataclass(frozen=True)
class Format:
    """A format of the weights that are matrices; norms and biases are fp32 in each of them, as llama.cpp wants it.

    Attributes:
        name: for `--type`.
        dtype: of the matrices; None for Q8_0.
        ggml: name of ggml's type.
        file: name in gguf's `LlamaFileType`.
    """

    name: str
    dtype: torch.dtype | None
    ggml: str
    file: str

    def nbytes(self, shape: tuple[int, ...]) -> int:
        """Size of a tensor in this format; vectors are fp32."""
        count = int(np.prod(shape, dtype=np.int64))
        if len(shape) < 2:
            return 4 * count
        return count // BLOCK * BLOCK_BYTES if self.dtype is None else count * self.dtype.itemsize


FORMATS = {
    one.name: one
    for one in (
        Format("f32", torch.float32, "F32", "ALL_F32"),
        Format("f16", torch.float16, "F16", "MOSTLY_F16"),
        Format("bf16", torch.bfloat16, "BF16", "MOSTLY_BF16"),
        Format("q8_0", None, "Q8_0", "MOSTLY_Q8_0"),
    )
}


def encode(rows: torch.Tensor, form: Format) -> npt.NDArray[np.uint8]:
    """The bytes of some rows of a tensor.

    Args:
        rows: finite, in any floating dtype and in the range of the format; (n,) is written as fp32, (n, width) in the
            format. In Q8_0 the width is a multiple of 32.
    """
    if rows.dim() < 2:
        return rows.float().contiguous().numpy().view(np.uint8)
    if form.dtype is None:
        return q8_0(rows.float().contiguous().numpy())
    return rows.to(form.dtype).contiguous().view(torch.uint8).numpy().reshape(-1)


def q8_0(rows: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
    """fp32 (n, width) to the bytes of n * width / 32 blocks, bit for bit those of ggml's reference."""
    blocks = rows.reshape(-1, BLOCK)
    scale = np.abs(blocks).max(axis=1, keepdims=True) / np.float32(127)
    with np.errstate(divide="ignore", over="ignore"):
        inverse = np.where(scale == 0, np.float32(0), np.float32(1) / scale)
    # A scale below 2^-128 has no finite inverse: its weights are 0 in fp16's scale, too.
    inverse[~np.isfinite(inverse)] = 0
    product = blocks * inverse
    # Half away from zero, as C's roundf; numpy rounds half to even. Nothing is added to the value itself: 0.49999997
    # plus one half is 1 in fp32.
    whole = np.trunc(product)
    quants = (whole + np.copysign(np.abs(product - whole) >= np.float32(0.5), product)).astype(np.int8)
    result = np.empty((len(blocks), BLOCK_BYTES), np.uint8)
    result[:, :2] = scale.astype("<f2").view(np.uint8)
    result[:, 2:] = quants.view(np.uint8)
    return result.reshape(-1)


def q8_0_bound(rows: npt.NDArray[np.floating[Any]]) -> npt.NDArray[np.float64]:
    """The most that each weight of fp64 (n, width) may differ from what Q8_0 stores for it: fp64 (n, width)."""
    blocks = np.abs(rows.astype(np.float64)).reshape(-1, BLOCK)
    scale = blocks.max(axis=1, keepdims=True) / 127
    bound = scale * (0.5 + 127 * 2.0**-11 + 127 * 2.0**-22) + 127 * 2.0**-25
    return np.broadcast_to(bound, blocks.shape).reshape(rows.shape)
