"""Causal language models of transformers from their files, as training, evaluation and serving load them.

Weights are read from safetensors alone, and no code of a model's own is ever run.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from codeshell.errors import UserError


def load(
    name: str | Path,
    dtype: torch.dtype | str,
    *,
    label: str = "",
    remedy: str = "give a directory with config.json and safetensors",
    local: bool = True,
) -> Any:
    """A model of transformers with all of its weights, on the CPU, in evaluation mode.

    Args:
        name: a directory, or a name on the hub.
        dtype: of the weights; "auto" is that of the files.
        label: names the model in errors; "" takes `name`.
        remedy: ends the error where it cannot be loaded.
        local: read files of this machine alone.

    Raises:
        UserError: it cannot be loaded, or its files lack tensors.
    """
    import transformers

    label = label or str(name)
    automatic: Any = transformers.AutoModelForCausalLM
    options: dict[str, Any] = {"local_files_only": local, "trust_remote_code": False, "use_safetensors": True}
    # Its errors are those of several libraries: a missing file, an unknown type, weights that do not fit.
    try:
        with quiet():
            model, found = automatic.from_pretrained(name, dtype=dtype, output_loading_info=True, **options)
    except Exception as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"{label}: transformers cannot load it ({reason}); {remedy}") from None
    # transformers fills what is missing with random numbers, and they would be used in silence.
    missing = sorted(found["missing_keys"])
    if missing:
        raise UserError(f"{label}: its weights lack {len(missing)} tensors, {missing[0]} first; fetch it again")
    # Gemma 2 caps its scores, which "sdpa" does not do; up to transformers 5.17 it was chosen all the same.
    if getattr(model.config, "attn_logit_softcapping", None) is not None and _attention(model) == "sdpa":
        model.set_attn_implementation("eager")
    return model.eval()


def _attention(model: Any) -> str:
    name: str = model.config._attn_implementation
    return name


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """transformers without its progress bars, within the block."""
    from transformers.utils import logging

    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()  # type: ignore[no-untyped-call]
