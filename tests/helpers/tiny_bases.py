"""Bases for fine-tuning: tiny random models of codeshell and of transformers, and the settings of their runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from codeshell.recipe import Recipe, from_tree
from codeshell.tokenizer import Tokenizer
from helpers import tiny_transformers
from helpers.tiny_models import tiny_model
from helpers.tiny_run import texts, write_run

FULL = {"sliding_window": None}
PLAIN: dict[str, dict[str, Any]] = {
    # As the released models are: without a window.
    "qwen2": {"use_sliding_window": False, "layer_types": None, **FULL},
    "starcoder2": FULL,
    "mistral": FULL,
}


def base(directory: Path, tokenizer: Tokenizer, kind: str, dtype: torch.dtype = torch.float32, **changes: Any) -> Path:
    """A model directory with its tokenizer; always the same weights for the same kind and changes."""
    if kind == "codeshell":
        shape = {"vocab_size": 384, "n_positions": 128, "initializer_range": 0.02} | changes
        tiny_model(dtype, bos_token_id=tokenizer.eot, eos_token_id=tokenizer.eot, **shape).save_pretrained(directory)
    else:
        small = {"vocab_size": tokenizer.vocab_size + 3, "initializer_range": 0.02, "eos_token_id": tokenizer.eot}
        model = tiny_transformers.tiny(kind, **(small | PLAIN.get(kind, {}) | changes))
        model.to(dtype).save_pretrained(directory)
    tokenizer.save(directory)
    return directory


def tuning(base: Path, method: str = "lora", train: dict[str, Any] | None = None, **finetune: Any) -> Recipe:
    """Twelve steps in two phases, with FIM and accumulation."""
    settings = {
        "steps": 12,
        "batch_tokens": 256,
        "micro_batch_tokens": 128,
        "phases": [{"share": 0.5, "context": 32}, {"share": 0.5, "context": 128}],
        "lr": 5e-3,
        "warmup_steps": 2,
        "valid_every": 6,
        "checkpoint_every": 4,
        "threads": 1,
        "precision": "fp32",
    }
    adapter = {"rank": 4, "alpha": 8.0} if method == "lora" else {}
    return from_tree(
        {"train": settings | (train or {}), "finetune": {"base": str(base), "method": method} | adapter | finetune},
        "test",
    )


def write_tokens(directory: Path, tokenizer: Tokenizer) -> Path:
    """What the stages before training leave."""
    write_run(directory, tokenizer, texts(60), texts(12, "v"))
    return directory


def logits(model: Any, seed: int = 0) -> torch.Tensor:
    """The logits of 2 x 40 random ids."""
    ids = torch.randint(0, 256, (2, 40), generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        found: torch.Tensor = model(ids).logits.float()
    return found
