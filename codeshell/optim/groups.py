"""Which parameters have weight decay."""

from __future__ import annotations

from typing import Any

from torch import nn


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Two groups: matrices with weight decay, biases and norms without it, as in GPT-2 and in the recipe.

    Tied parameters appear once. The order is that of `named_parameters`, so an optimizer state can be stored by it. A
    group without parameters is left out.
    """
    # Biases, and the weights of norms, are the parameters of one dimension.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups: list[dict[str, Any]] = [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
