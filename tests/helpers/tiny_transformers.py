"""Tiny random models of the types that `codeshell.patch` serves, built from configs alone."""

from __future__ import annotations

import copy
import functools
from typing import Any

import pytest
import torch

transformers = pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")

SHAPE: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 64,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": None,
    "initializer_range": 0.2,
}
WINDOW = 8  # shorter than the sequences of the tests
LAYERS = ["sliding_attention", "full_attention"]

# Model type: config class, model class, and what the type has of its own.
KINDS: dict[str, tuple[str, str, dict[str, Any]]] = {
    "llama": ("LlamaConfig", "LlamaForCausalLM", {}),
    "mistral": ("MistralConfig", "MistralForCausalLM", {"sliding_window": WINDOW}),
    "mixtral": ("MixtralConfig", "MixtralForCausalLM", {"num_local_experts": 3, "sliding_window": None}),
    "qwen2": (
        "Qwen2Config",
        "Qwen2ForCausalLM",
        {"use_sliding_window": True, "sliding_window": WINDOW, "layer_types": LAYERS},
    ),
    "qwen3": ("Qwen3Config", "Qwen3ForCausalLM", {"attention_bias": True}),
    "starcoder2": ("Starcoder2Config", "Starcoder2ForCausalLM", {"sliding_window": WINDOW}),
    "phi3": ("Phi3Config", "Phi3ForCausalLM", {"sliding_window": None, "partial": 0.5}),
    "gemma2": ("Gemma2Config", "Gemma2ForCausalLM", {"sliding_window": WINDOW, "attn_logit_softcapping": 2.0}),
    "gemma3_text": ("Gemma3TextConfig", "Gemma3ForCausalLM", {"sliding_window": WINDOW, "layer_types": LAYERS}),
    "granite": ("GraniteConfig", "GraniteForCausalLM", {"attention_multiplier": 0.2, "residual_multiplier": 0.7}),
    "olmo2": ("Olmo2Config", "Olmo2ForCausalLM", {}),
}


def config(kind: str, **changes: Any) -> Any:
    name, _, own = KINDS[kind]
    settings = SHAPE | own | changes
    if "partial" in settings:
        share = settings.pop("partial")
        settings["rope_parameters"] = {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": share}
    if kind.startswith("gemma"):
        settings["query_pre_attn_scalar"] = 12  # not the head's dimension
    return getattr(transformers, name)(**settings)


@functools.cache
def _built(kind: str, changes: tuple[tuple[str, Any], ...]) -> Any:
    torch.manual_seed(0)
    model = getattr(transformers, KINDS[kind][1])(config(kind, **dict(changes)))
    if kind == "mixtral":
        model.set_experts_implementation("eager")  # the one that fp64 has
    with torch.no_grad():  # biases and norms away from 0 and 1, where they would not be seen
        for name, parameter in model.named_parameters():
            if parameter.dim() == 1:
                generator = torch.Generator().manual_seed(len(name))
                parameter += 0.1 * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def tiny(kind: str, implementation: str | None = None, **changes: Any) -> Any:
    """A model of its own, always with the same weights; without `implementation` transformers' choice for it."""
    model = copy.deepcopy(_built(kind, tuple(changes.items())))
    if kind == "gemma2" and implementation is None:
        implementation = "eager"  # the only one with soft-capped scores; up to 5.17 "sdpa" dropped the cap in silence
    if implementation is not None:
        model.set_attn_implementation(implementation)
    return model


def tokens(batch: int = 3, seq: int = 21, seed: int = 0) -> torch.Tensor:
    return torch.randint(2, SHAPE["vocab_size"], (batch, seq), generator=torch.Generator().manual_seed(seed))


def padding(side: str, batch: int = 3, seq: int = 21) -> torch.Tensor | None:
    """A padding mask (batch, seq): rows of all, 13, 1 tokens, …; None for "none"."""
    if side == "none":
        return None
    lengths = torch.tensor([seq, 13, 1, 17])[:batch]
    mask = (torch.arange(seq) < lengths[:, None]).long()
    return mask.flip(1) if side == "left" else mask


def _exact(module, query, key, value, attention_mask, scaling=None, softcap=None, **kwargs):
    """Attention written out with its softmax in the dtype of the model, which transformers' own has in fp32."""
    group = query.shape[1] // key.shape[1]
    scores = torch.einsum("bhqd,bhkd->bhqk", query, key.repeat_interleave(group, 1)) * scaling
    if softcap is not None:
        scores = softcap * torch.tanh(scores / softcap)
    probability = torch.softmax(scores.masked_fill(~attention_mask, -torch.inf), -1).nan_to_num(0.0)
    out = torch.einsum("bhqk,bhkd->bqhd", probability, value.repeat_interleave(group, 1))
    return out, None


def _dense(**arguments: Any) -> torch.Tensor:
    return transformers.masking_utils.sdpa_mask(**(arguments | {"allow_is_causal_skip": False}))


transformers.AttentionInterface.register("exact", _exact)
transformers.AttentionMaskInterface.register("exact", _dense)
