"""AdamW (Loshchilov and Hutter 2019) with torch's arguments and state names, and the usual parameter groups."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn


class AdamW(torch.optim.AdamW):
    """torch's AdamW, fused where torch has a fused step for the parameters' device.

    The fused CPU step reads and writes each element once and gives the same bits for any number of threads: it is
    elementwise. State names are torch's (`step`, `exp_avg`, `exp_avg_sq`), so checkpoints move either way.
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | torch.Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
        amsgrad: bool = False,
        *,
        fused: bool | None = None,
        **settings: Any,
    ) -> None:
        params = list(params)
        if fused is None and not {"foreach", "capturable", "differentiable"} & {k for k, v in settings.items() if v}:
            tensors = [t for item in params for t in _tensors(item)]
            fused = all(t.is_floating_point() and t.device.type in ("cpu", "cuda") for t in tensors)
        super().__init__(params, lr, betas, eps, weight_decay, amsgrad, fused=fused, **settings)


def _tensors(item: Any) -> list[torch.Tensor]:
    """The tensors of one entry of `params`: a tensor, a (name, tensor) pair, or a group of either."""
    if isinstance(item, torch.Tensor):
        return [item]
    if isinstance(item, dict):
        inner = item["params"]
        if isinstance(inner, torch.Tensor):
            return [inner]
        item["params"] = list(inner)
        return [t for part in item["params"] for t in _tensors(part)]
    return [part for part in item if isinstance(part, torch.Tensor)]


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay; biases and norms without (as GPT-2, and the recipe, have it).

    Tied parameters appear once. The order is that of `named_parameters`, so an optimizer state can be stored by it.
    """
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
