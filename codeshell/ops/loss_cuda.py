"""The CUDA kernel of the loss (csrc/loss/softmax_gradient.cu): which calls it takes, and how it is launched.

Logits become their own gradient in one launch, two where there are few rows. The kernel reads the scale on the device,
so that nothing waits for the number of targets, and a CUDA graph can capture it. `codeshell/ops/loss.py` has the checks
of the public function, and the same in PyTorch.
"""

from __future__ import annotations

from contextlib import nullcontext

import torch

from codeshell.ops import devices
from codeshell.ops.library import address, say, stream_of

_NAMES = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}
_MOST_TOKENS = 1 << 30
"""The largest vocabulary: numbers within a row are 32-bit in the kernel."""


def serves(logits: torch.Tensor, losses: torch.Tensor) -> bool:
    """Whether the kernel takes logits of this device, dtype and shape; the log says why a GPU goes without it."""
    if not devices.on_gpu(logits.device):
        return False
    reason = devices.missing(logits.device, devices.LOSS)
    if reason is None and not (logits.dtype in _NAMES and losses.dtype == torch.float32):
        reason = f"logits of {logits.dtype}".replace("torch.", "")
    if reason is None and logits.shape[1] > _MOST_TOKENS:
        reason = f"a vocabulary of {logits.shape[1]} (at most 2^30)"
    if reason is None:
        return True
    if not torch.compiler.is_compiling():
        say("codeshell.ops.linear_cross_entropy", reason)
    return False


def launch(
    logits: torch.Tensor, targets: torch.Tensor, ignore_index: int, scale: torch.Tensor, losses: torch.Tensor
) -> None:
    """`codeshell.ops.loss.softmax_gradient_` by the kernel, on the current stream of the device of `logits`."""
    rows, vocabulary = logits.shape
    if not rows or not vocabulary:
        return
    dtype, extension = _NAMES[logits.dtype], devices.extension
    with torch.cuda.device(logits.device) if logits.is_cuda else nullcontext():
        splits = extension.softmax_gradient_splits(rows, vocabulary, dtype)
        # Of each part of a split row: its largest logit, and its sum of exponentials.
        partials = torch.empty((rows, splits, 2), dtype=torch.float32, device=logits.device) if splits > 1 else None
        extension.softmax_gradient_cuda(
            address(logits),
            logits.stride(0),
            *(rows, vocabulary, dtype),
            address(targets),
            ignore_index,
            *(address(scale), address(losses)),
            0 if partials is None else address(partials),
            splits,
            stream_of(logits),
        )
