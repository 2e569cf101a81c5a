"""The precision of a forward pass's products: one decision for training, evaluation and generation.

Weights, gradients of weights, the residual stream, norms, softmax and the loss are fp32 in both precisions. `bf16` is
torch's autocast: the operands of matrix products and of attention are rounded to bf16, and sums are fp32.
"""

from __future__ import annotations

import contextlib
from contextlib import AbstractContextManager
from typing import Literal

import torch

from codeshell.architectures import OLDEST
from codeshell.ops import devices

Precision = Literal["auto", "fp32", "bf16"]


def resolve(precision: Precision, device: torch.device | str = "cpu") -> Literal["fp32", "bf16"]:
    """What `auto` means on a device: bf16 where that is faster, else fp32.

    A CPU is faster in bf16 if it has AMX. The older avx512_bf16 instructions do not pay: on a Xeon with them and
    without AMX, oneDNN's bf16 products ran at 0.16 TFLOP/s and fp32 ones at 0.30 (2 cores). The choice depends on the
    processor alone and never on a timing, so a run can be repeated bit for bit.
    """
    if precision != "auto":
        return precision
    device = torch.device(device)
    if devices.on_gpu(device):
        return "bf16" if multiplies_bf16(device) else "fp32"
    if device.type == "cpu" and torch.cpu._is_amx_tile_supported():
        return "bf16"
    return "fp32"


def multiplies_bf16(device: torch.device) -> bool:
    """Whether a GPU has bf16 products. torch's `is_bf16_supported` also counts older ones, where they are emulated."""
    return devices.capability(device) >= OLDEST


def autocast(precision: Precision, device: torch.device | str = "cpu") -> AbstractContextManager[object]:
    """A context manager for the forward pass and the loss; the backward pass belongs outside it."""
    if resolve(precision, device) == "fp32":
        return contextlib.nullcontext()
    # Without torch's cache of rounded weights. A forward pass reads each weight once, so the cache would save nothing,
    # and it would hold the copies of all blocks until the context ends.
    return torch.autocast(torch.device(device).type, dtype=torch.bfloat16, cache_enabled=False)
