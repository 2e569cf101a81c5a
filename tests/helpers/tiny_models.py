"""A model small enough for a test, with weights large enough that a mistake shows."""

from __future__ import annotations

from typing import Any

import torch

from codeshell.model import CodeShellConfig, CodeShellForCausalLM

SHAPE: dict[str, Any] = {
    "vocab_size": 384,
    "n_positions": 96,
    "n_embd": 64,
    "n_layer": 2,
    "n_head": 4,
    "num_query_groups": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
}


def tiny_model(dtype: torch.dtype = torch.float32, **changes: Any) -> CodeShellForCausalLM:
    model = CodeShellForCausalLM(CodeShellConfig(**(SHAPE | {"initializer_range": 0.2} | changes)))
    model.reset_parameters(torch.Generator().manual_seed(0))
    with torch.no_grad():  # biases and norms away from 0 and 1, where they would not be seen
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                noise = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name)))
                parameter += 0.1 * noise
    return model.to(dtype).eval()


def tokens(batch: int = 2, seq: int = 40, seed: int = 0) -> torch.Tensor:
    return torch.randint(0, SHAPE["vocab_size"], (batch, seq), generator=torch.Generator().manual_seed(seed))
