"""Master weights and their parameters: whether somebody else has written a parameter since the last step."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def version_of(x: Tensor) -> int:
    """How often a tensor was written; 0 for a tensor of inference mode, which does not count."""
    return 0 if x.is_inference() else x._version


def marks_of(params: Sequence[Tensor]) -> list[tuple[int, int]]:
    """Version and address of each parameter: other ones tell that somebody has written or moved it."""
    tensors = [getattr(p, "_local_tensor", p) for p in params]
    return [(version_of(p), tensor.data_ptr()) for p, tensor in zip(params, tensors, strict=True)]


def agrees(master: Tensor, p: Tensor, stochastic: bool) -> bool:
    """Whether a 16-bit parameter is the rounded value of its fp32 copy (`stochastic`: of either neighbour)."""
    if not stochastic:
        return bool(torch.equal(master.to(p.dtype).nan_to_num(), p.nan_to_num()))
    # A bf16 number has 8 significant bits; the smallest ones lie closer together than that.
    limit = master.abs() * 2.0**-7 + torch.finfo(torch.bfloat16).tiny
    return bool(((p.float() - master).abs() <= limit).logical_or(p.isnan() & master.isnan()).all())


def is_capturing(x: Tensor) -> bool:
    """Whether a CUDA graph is being captured, in which nothing may be asked of the GPU."""
    answer: Any = x.is_cuda and torch.cuda.is_current_stream_capturing()
    return bool(answer)
