"""State of small tensors, side by side in memory.

The optimizer's step looks at every state tensor. Where each has a block of memory of its own, the objects that describe
them lie between those blocks, each on another page. Looking at one then costs a walk through the page table: more than
the arithmetic on a tensor of 2,000 elements.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

SMALL = 1 << 14
"""Elements of the largest tensor for which this matters."""
_SLAB = 1 << 20
"""Most bytes in a block: one tensor keeps all of its block alive, and takes it along when it is saved."""


def zeros(shapes: Iterable[Sequence[int]], dtype: torch.dtype, alignment: int = 64) -> list[Tensor]:
    """Contiguous tensors of zeros on the CPU, in as few blocks of memory as possible. Each starts at a multiple of
    `alignment` bytes (64 is a cache line, as in torch's allocator).
    """
    result: list[Tensor] = []
    waiting: list[tuple[Sequence[int], int]] = []  # shape, first element in the block
    end = 0

    def fill_block() -> None:
        storage = torch.zeros(end, dtype=dtype, device="cpu").untyped_storage()
        # Tensors of one storage, and not views of one tensor: views share their version counter, and writing one would
        # look to autograd like writing all.
        result.extend(
            torch.empty(0, dtype=dtype, device="cpu").set_(storage, at, shape)  # type: ignore[call-overload]
            for shape, at in waiting
        )
        waiting.clear()

    step = max(1, alignment // dtype.itemsize)
    for shape in shapes:
        # The next aligned place, unless the block would grow too large with it.
        start, size = -(-end // step) * step, torch.Size(shape).numel()
        if waiting and (start + size) * dtype.itemsize > _SLAB:
            fill_block()
            start = 0
        waiting.append((shape, start))
        end = start + size
    if waiting:
        fill_block()
    return result
