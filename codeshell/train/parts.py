"""What the trainer asks of a model beyond its parameters and its loss: the same questions for every kind of model.

A model that is trained is called with `(input_ids, targets=, cu_seqlens=, max_seqlen=, reduction=)` and returns an
object with `.loss`, the cross entropy; it has a `config` with `to_dict()`. `CodeShellForCausalLM` is one, and
`codeshell.train.foreign.ForeignModel` makes one of a model of transformers. Here is what differs: the blocks, the
embedding, and the work of a token.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from codeshell.train.flops import flops_per_token, matmul_weights


def blocks(model: Any) -> Sequence[torch.nn.Module]:
    """The blocks of the residual stream, in order: what is computed again, compiled and sharded as a whole."""
    found: Sequence[torch.nn.Module] = model.blocks if hasattr(model, "blocks") else model.transformer.h
    return found


def embedding(model: Any) -> torch.nn.Module:
    """The embedding of the tokens."""
    found: torch.nn.Module = model.embedding if hasattr(model, "embedding") else model.transformer.wte
    return found


def parameters(model: torch.nn.Module) -> int:
    """Weights of the model, the tied head counted once."""
    return sum(parameter.numel() for parameter in model.parameters())


def trained(model: torch.nn.Module) -> int:
    """Weights that the optimizer changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def flops(model: Any, context: int) -> int:
    """FLOPs of forward and backward for one token; see `codeshell.train.flops`.

    A frozen weight takes 4 where a trained one takes 6: there is no gradient of the weight itself.
    """
    layers, width, products = shape_of_work(model)
    if not layers:
        return flops_per_token(model.config, context)
    small = trained(model)
    if small == parameters(model):
        return 6 * products + 12 * layers * width * context
    return 4 * products + 6 * small + 12 * layers * width * context


def shape_of_work(model: Any) -> tuple[int, int, int]:
    """(layers, width of the queries, weights of the base's matrix products); zeros for our own model, trained whole."""
    if hasattr(model, "work"):
        found: tuple[int, int, int] = model.work
        return found
    if trained(model) == parameters(model):
        return 0, 0, 0
    config = model.config
    return config.n_layer, config.n_embd, matmul_weights(config)
