"""One forward pass over a micro-batch."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from codeshell.model.precision import Precision, autocast
from codeshell.train.batches import MicroBatch


def summed_loss(model: torch.nn.Module, micro: MicroBatch, precision: Precision) -> torch.Tensor:
    """Cross entropy summed over the targets that count, in nats: an fp32 scalar."""
    device = next(model.parameters()).device

    # Not blocking: the copy can overlap with what the device still computes.
    def tensor(array: NDArray[np.int64] | NDArray[np.int32]) -> torch.Tensor:
        return torch.from_numpy(array).to(device, non_blocking=True)

    # Without offsets a sequence attends to all of itself; with them, to its own document alone.
    with autocast(precision, device):
        output = model(
            tensor(micro.inputs),
            targets=tensor(micro.targets),
            cu_seqlens=None if micro.cu_seqlens is None else tensor(micro.cu_seqlens),
            max_seqlen=None if micro.cu_seqlens is None else micro.max_seqlen,
            reduction="sum",
        )
    loss: torch.Tensor = output.loss
    return loss
