"""State of small tensors, side by side in memory.

The optimizer's step looks at every state tensor. Where each has a block of memory of its own, the objects that describe
them lie between those blocks, each on other pages, and looking at them costs a walk through the page table apiece: more
than the arithmetic on a tensor of 2,000 elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SMALL = 1 << 14
"""Elements of the largest tensor for which that matters."""
_SLAB = 1 << 20
"""Bytes that share a block at most: what is kept alive, or saved, for the sake of one tensor."""


def zeros(shapes: Iterable[Sequence[int]], dtype: torch.dtype, alignment: int = 64) -> list[Tensor]:
    """Contiguous tensors of zeros on the CPU in as few blocks of memory as may be, each from a multiple of `alignment`
    bytes (64: a cache line, as torch's allocator has it) on.
    """
    result: list[Tensor] = []
    waiting: list[tuple[Sequence[int], int]] = []  # shape, first element in the block
    end = 0

    def fill_block() -> None:
        storage = torch.zeros(end, dtype=dtype).untyped_storage()
        # Not views of one tensor: those have one version among them all.
        result.extend(
            torch.empty(0, dtype=dtype).set_(storage, at, shape)  # type: ignore[call-overload]
            for shape, at in waiting
        )
        waiting.clear()

    step = max(1, alignment // dtype.itemsize)
    for shape in shapes:
        start, size = -(-end // step) * step, torch.Size(shape).numel()
        if waiting and (start + size) * dtype.itemsize > _SLAB:
            fill_block()
            start = 0
        waiting.append((shape, start))
        end = start + size
    if waiting:
        fill_block()
    return result
