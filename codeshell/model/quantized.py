"""A model whose linear layers and embedding are int8: a quarter of the memory, for generation on a CPU.

`quantize(model)` works in place, one layer after the other. What is not a matrix (norms, biases) is fp32, and so are
activations, the cache and logits. `codeshell.ops.int8` has the arithmetic. A quantised model is for use alone: it has
no gradients and cannot be saved, because its weights are a rounded copy of those in its directory.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from codeshell.errors import UserError
from codeshell.ops.int8 import Int8Weight, int8_linear, int8_rows, multiply, quantize_rows


class QuantizedLinear(nn.Module):
    """`x @ W.T + bias` with W in int8; (…, K) to fp32 (…, N)."""

    def __init__(self, weight: Int8Weight, bias: torch.Tensor | None) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.values: torch.Tensor
        self.scales: torch.Tensor
        # Buffers: there is nothing to train, and they follow the model to where it goes.
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)
        self.bias: nn.Parameter | None = None
        if bias is not None:
            self.bias = nn.Parameter(bias.detach().float().contiguous(), requires_grad=False)

    @property
    def quantized(self) -> Int8Weight:
        return Int8Weight(self.values, self.scales, self.in_features)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return int8_linear(x, self.quantized, self.bias)

    def rows(self, x: torch.Tensor) -> torch.Tensor:
        """`forward` of an fp32 (T, K) with contiguous rows, without any check."""
        return multiply(x, self.quantized, self.bias)

    def extra_repr(self) -> str:
        return f"in_features={self.in_features}, out_features={self.out_features}, bias={self.bias is not None}"


class QuantizedEmbedding(nn.Module):
    """Rows of W in int8 by their numbers; int64 (…) to fp32 (…, K)."""

    def __init__(self, weight: Int8Weight) -> None:
        super().__init__()
        self.num_embeddings, self.embedding_dim = weight.shape
        self.values: torch.Tensor
        self.scales: torch.Tensor
        self.register_buffer("values", weight.values)
        self.register_buffer("scales", weight.scales)

    @property
    def quantized(self) -> Int8Weight:
        return Int8Weight(self.values, self.scales, self.embedding_dim)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        return int8_rows(self.quantized, ids)

    def extra_repr(self) -> str:
        return f"{self.num_embeddings}, {self.embedding_dim}"


@torch.no_grad()
def quantize(model: Any) -> Any:
    """Make the linear layers and the embedding of a model int8, in place.

    Args:
        model: a `CodeShellForCausalLM` on the CPU, in any floating-point dtype. A tied head stays tied.

    Returns:
        The model, in evaluation mode. At most one layer is in memory in both forms, beside what others still hold.

    Raises:
        UserError: it is not on the CPU, is quantised already, has layers that are no plain `nn.Linear`, or a weight
            that is not finite.
    """
    # modules.py is above this file where it loads models, so it is known by what it has.
    if not hasattr(model, "transformer") or not hasattr(model, "quantized_weights"):
        raise UserError(f"int8: {type(model).__name__} is no model of codeshell; only those have int8 weights")
    if model.quantized_weights:
        raise UserError("int8: the model is quantised already; load it again for another form")
    if model.device.type != "cpu":
        raise UserError(
            f"int8: the model is on {model.device}, and int8 weights run on CPUs alone; move it by .to('cpu'), or use "
            "bf16 weights there"
        )
    # All is looked at before anything is changed.
    linears = {name: module for name, module in model.named_modules() if _has_weight(module)}
    for name, module in linears.items():
        if type(module) not in (nn.Linear, nn.Embedding):
            raise UserError(
                f"int8: {name} is a {type(module).__name__}, not a plain layer; merge adapters into the weights first"
            )
        # The extremes carry a NaN along, and need no memory.
        if module.weight.numel() and not all(bool(end.isfinite()) for end in torch.aminmax(module.weight)):
            raise UserError(f"int8: weight {name} holds a NaN or an infinity; take the model from where it came from")
    tied = model.transformer.wte.weight is model.lm_head.weight
    count = 0
    embedding: Int8Weight | None = None
    for name in list(linears):
        module = linears.pop(name)
        weight = embedding if tied and name == "lm_head" else None
        if weight is None:
            count += module.weight.numel()
            weight = quantize_rows(module.weight)
        owner, _, attribute = name.rpartition(".")
        if isinstance(module, nn.Embedding):
            embedding = weight
            setattr(model.get_submodule(owner), attribute, QuantizedEmbedding(weight))
        else:
            setattr(model.get_submodule(owner), attribute, QuantizedLinear(weight, module.bias))
        del module
    # What is left is small, and computes in fp32 beside the products. It is copied: a weight that lies in the file
    # that it was read from would keep all of the file mapped.
    for parameter in model.parameters():
        parameter.data = parameter.detach().to(torch.float32, copy=True)
        parameter.requires_grad_(False)
    model.quantized_weights = count
    return model.eval()


def _has_weight(module: nn.Module) -> bool:
    """Whether a module holds a matrix of its own."""
    weight = module._parameters.get("weight")
    return weight is not None and weight.dim() == 2
