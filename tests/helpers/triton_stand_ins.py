"""Stand-ins for the files of kernels in Triton, on simulated GPUs: they note each call and compute in PyTorch.

A process that does not interpret Triton's kernels cannot run them on tensors of the CPU. One entry for each file.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from codeshell.ops.gelu import formula, formula_backward
from codeshell.ops.norm import PyTorch as PyTorchNorm


def stand_ins(launched: list[str]) -> dict[str, Any]:
    """The stand-ins by source; they append the names of their functions, such as "gelu_triton.forward", to a list."""

    def gelu_forward(x: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        launched.append("gelu_triton.forward")
        return formula(x, bias)

    def gelu_backward(
        x: torch.Tensor, bias: torch.Tensor | None, grad: torch.Tensor, with_bias: bool
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        launched.append("gelu_triton.backward")
        return formula_backward(x, bias, grad, with_bias)

    def norm_forward(*arguments: Any) -> tuple[torch.Tensor, ...]:
        launched.append("norm_triton.forward")
        return PyTorchNorm.forward(*arguments)

    def norm_backward(*arguments: Any) -> tuple[torch.Tensor, ...]:
        launched.append("norm_triton.backward")
        return PyTorchNorm.backward(*arguments)

    return {
        "ops/gelu_triton.py": SimpleNamespace(forward=gelu_forward, backward=gelu_backward),
        "ops/norm_triton.py": SimpleNamespace(forward=norm_forward, backward=norm_backward),
    }
