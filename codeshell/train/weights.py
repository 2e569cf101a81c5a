"""What `train.weights` means: the dtype of the weights, the optimizer's options, and the precision that goes with them.

    fp32              weights, gradients and moments in fp32; under bf16 autocast products read rounded copies
    bf16-masters      weights and gradients in bf16; the optimizer updates an fp32 copy of the weights and rounds it
    bf16-stochastic   weights, gradients and moments in bf16; updates are rounded up or down at random, right in the
                      mean, because an update is mostly smaller than half a step of bf16 and rounding would lose it

bf16 weights are trained under bf16 autocast like fp32 ones: norms, softmax, loss and the residual stream stay fp32.
Micro-batches add their gradients in the weights' dtype, so in bf16 few large micro-batches are better than many.
"""

from __future__ import annotations

from typing import Any, Literal

import torch

from codeshell.model.precision import resolve
from codeshell.randomness import draw
from codeshell.recipe import Recipe, Train


def precision(train: Train, device: torch.device | str = "cpu") -> Literal["fp32", "bf16"]:
    """The precision of a run's products on a device: for weights that are kept or gathered in bf16, `auto` is bf16 on
    every device and for any number of ranks."""
    return resolve(train.precision, device) if train.weights == train.gather == "fp32" else "bf16"


def dtype(train: Train) -> torch.dtype:
    """The dtype of the model's weights."""
    return torch.float32 if train.weights == "fp32" else torch.bfloat16


def optimizer_options(recipe: Recipe) -> dict[str, Any]:
    """The keyword arguments of `codeshell.optim.AdamW` that keep the weights as the recipe says."""
    if recipe.train.weights == "bf16-masters":
        return {"master_weights": True}
    if recipe.train.weights == "bf16-stochastic":
        # The seed of the kernels is 63 bits; the draw has 64.
        return {
            "stochastic_rounding": True,
            "moment_dtype": torch.bfloat16,
            "seed": draw(recipe.seed, "rounding") >> 1,
        }
    return {}
