"""What the attention kernels for Hopper GPUs share: when a call may reach them, and how they are handed tensors.

Until a GPU has verified them, the kernels are used only with CODESHELL_HOPPER_ATTENTION=1 in the environment.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

from codeshell import gpus
from codeshell.ops import devices, library

SOURCES = ("attention/forward_sm90.cu", "attention/backward_sm90.cu", "attention/decode_sm90.cu")
"""They are compiled for the same architectures, and a device is used for all of them or for none."""

SWITCH = "CODESHELL_HOPPER_ATTENTION"
"""The environment variable that asks for them; operations.py has it too."""

enabled = os.environ.get(SWITCH) == "1"
"""Off unless asked for, because the kernels have never run on a GPU. This will be on by default once
`codeshell info --kernels` says that a GPU has verified them."""

DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)


def available(device: torch.device) -> bool:
    """Whether the kernels run on this device, and the user asked for them. `missing` says why not."""
    return enabled and devices.runs(device, *SOURCES)


def missing(device: torch.device) -> str | None:
    """Why no call on this device reaches the kernels, whatever its tensors; None if calls do."""
    # In the order in which a user can do something about it.
    reason = devices.missing(device, *SOURCES)
    if reason is not None or enabled:
        return reason
    return gpus.unasked(SWITCH)


def walkable(x: torch.Tensor) -> bool:
    """Whether TMA and 16-byte loads can walk a 16-bit tensor: its address is of 16 bytes, its last dimension
    contiguous, and its other strides are of 16 bytes and not 0."""
    # A dimension of size 1 is never stepped along, so its stride may be anything.
    strides = [stride for size, stride in zip(x.shape[:-1], x.stride()[:-1], strict=True) if size > 1]
    return x.stride(-1) == 1 and x.data_ptr() % 16 == 0 and all(stride and stride % 8 == 0 for stride in strides)


def as_walkable(x: torch.Tensor) -> torch.Tensor:
    """The tensor itself if it is `walkable`, else a contiguous copy."""
    return x if walkable(x) else copied(x)


def copied(x: torch.Tensor) -> torch.Tensor:
    """A contiguous copy, in memory of its own whatever the strides of `x`."""
    return x.clone(memory_format=torch.contiguous_format)


def view(x: torch.Tensor | None) -> tuple[int, int, int, int]:
    """What the bindings take for a tensor (batch or page, token, head, dim) or (token, head, dim): its address, and the
    strides of batch, token and head. All are 0 where there is none."""
    if x is None:
        return 0, 0, 0, 0
    return library.address(x), x.stride(0) if x.dim() == 4 else 0, x.stride(-3), x.stride(-2)


def address(x: torch.Tensor | None) -> int:
    """The address of a tensor; 0 where there is none."""
    return 0 if x is None else library.address(x)


def on_device_of(x: torch.Tensor) -> AbstractContextManager[Any]:
    """A context in which the device of `x` is the current one: a launch goes there."""
    return torch.cuda.device(x.device) if x.is_cuda else nullcontext()
