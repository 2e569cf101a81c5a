"""What the attention kernels for Hopper GPUs share: when a call may reach them, and how they are handed tensors.

Until a GPU has verified them, the kernels are used only with CODESHELL_HOPPER_ATTENTION=1 in the environment.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache
from typing import Any

import torch

from codeshell import _C
from codeshell.ops import library

extension: Any = _C
"""The module that holds the kernels. Tests put the module here that runs them on the host, on tensors of a CPU."""

enabled = os.environ.get("CODESHELL_HOPPER_ATTENTION") == "1"
"""Off unless asked for, because the kernels have never run on a GPU. This will be on by default once
`codeshell info --kernels` says that a GPU has verified them."""

DIMS = (64, 128)
DTYPES = (torch.bfloat16, torch.float16)
CAPABILITY = (9, 0)


def available(device: torch.device) -> bool:
    """Whether the kernels run on this device, and the user asked for them. `missing` says why not."""
    if extension is not _C:
        return device.type == "cpu"
    return enabled and device.type == "cuda" and _C.cuda_built and capability(device) == CAPABILITY


def missing(device: torch.device) -> str | None:
    """Why no call on this device reaches the kernels, whatever its tensors; None if calls do."""
    # In the order in which a user can do something about it.
    if extension is not _C or device.type != "cuda":
        return None if extension is not _C and device.type == "cpu" else f"tensors on {device.type}"
    if capability(device) != CAPABILITY:
        return f"a {torch.cuda.get_device_name(device)} (the kernel needs compute capability 9.0)"
    if not _C.cuda_built:
        return "this build of codeshell is without CUDA"
    return None if enabled else "no GPU has verified the kernel, and CODESHELL_HOPPER_ATTENTION=1 does not ask for it"


def capability(device: torch.device) -> tuple[int, int]:
    """The compute capability of a GPU."""
    # A traced graph folds torch's function into a constant. A device without an index means whichever is current.
    if torch.compiler.is_compiling() or device.index is None:
        return torch.cuda.get_device_capability(device)
    return _facts(device.index)[0]


def multiprocessors(device: torch.device) -> int:
    """How many multiprocessors a GPU has."""
    return _facts(device.index)[1]


@lru_cache(maxsize=64)
def _facts(index: int) -> tuple[tuple[int, int], int]:
    """Compute capability and multiprocessors; remembered, because torch takes microseconds to answer."""
    # The properties of a GPU do not change while the process runs.
    properties = torch.cuda.get_device_properties(index)
    return (properties.major, properties.minor), properties.multi_processor_count


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
