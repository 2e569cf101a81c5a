"""The model of an argument: a codeshell run or saved model, or any causal language model of transformers.

All of them come with the same few methods (see `transformers_model`), so a task does not know which one it asks.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from codeshell.engine import hub
from codeshell.engine.downloads import check_model_directory, read_downloaded_json
from codeshell.engine.hub import on_hub
from codeshell.errors import UserError


@dataclass(frozen=True)
class Loaded:
    """A model that can be asked.

    Attributes:
        model: a `CodeShellForCausalLM` or a `TransformersModel`, in evaluation mode, on its device.
        tokenizer: its tokenizer.
        context: tokens that it holds at once.
        before: ids before every prompt; None leaves that to the caller.
        origin: `{"name", "hash"}` for a directory, `{"name", "revision"}` for a model of the hub.
    """

    model: Any
    tokenizer: Any
    context: int
    before: Sequence[int] | None
    origin: dict[str, Any]


def load(name: str, tokenizer: str | None = None, *, ours: bool = False, weights: str = "auto") -> Loaded:
    """The model of a directory, or of a name on the hub (`OWNER/NAME`).

    Args:
        name: a directory with config.json, weights in safetensors and a tokenizer.
        tokenizer: another tokenizer for a model of codeshell.
        ours: it must be one that codeshell's own model reads, because a task scores text with it.
        weights: how they are held, one of `codeshell.model.loading.WEIGHTS`; a model of transformers takes "auto".

    Raises:
        UserError: there is no such model, it cannot be loaded, or the tokenizer is not its own.
    """
    if on_hub(name) and not ours:
        return _other(name, weights)
    directory = check_model_directory(name)
    if not ours and not is_codeshell(directory):
        if tokenizer is not None:
            raise UserError(
                f"--tokenizer {tokenizer}: only models of codeshell take another tokenizer; put the tokenizer's files "
                f"into {name}"
            )
        return _other(name, weights)
    from codeshell.tokenizer import Tokenizer

    found = Tokenizer.load(tokenizer or directory)
    model = load_model(directory, weights)
    if found.vocab_size > model.config.vocab_size:
        raise UserError(
            f"{tokenizer or directory}: a tokenizer of {found.vocab_size} tokens, but the model has "
            f"{model.config.vocab_size} rows; give the model's own tokenizer"
        )
    origin = _named(name, directory)
    # Named where it was asked for: other weights are another model.
    if weights != "auto":
        origin["weights"] = weights
    return Loaded(model, found, model.config.n_positions, None, origin)


def is_codeshell(directory: Path) -> bool:
    """Whether config.json of a model directory has the layout of CodeShell.

    Raises:
        UserError: it cannot be read.
    """
    from codeshell.model.config import MODEL_TYPES

    values = read_downloaded_json(directory / "config.json")
    return isinstance(values, dict) and values.get("model_type") in MODEL_TYPES


def load_any(directory: Path) -> Any:
    """The model of a directory, ready to evaluate: codeshell's, or one of transformers with the same methods."""
    if is_codeshell(directory):
        return load_model(directory)
    from codeshell.evaluate import transformers_model

    return transformers_model.load(str(directory))[0]


def load_model(directory: Path, weights: str = "auto") -> Any:
    """The model of a directory, ready to evaluate, with weights as `codeshell.model.loading` has them; `auto` is
    the type it was saved in on a GPU with bf16 products, else fp32."""
    import torch

    from codeshell.model.loading import load
    from codeshell.model.precision import multiplies_bf16

    # On a CPU the model runs in fp32 whatever it was saved in: no figure should carry the rounding of bf16 there.
    cuda = torch.cuda.is_available()
    as_saved = cuda and multiplies_bf16(torch.device("cuda"))
    device = "cuda" if cuda else "cpu"
    return load(directory, weights, device=device, auto=None if as_saved else torch.float32)


def _other(name: str, weights: str) -> Loaded:
    if weights != "auto":
        raise UserError(
            f"--weights {weights}: {name} is a model of transformers, which keeps its own weights; only models of "
            "codeshell take this option"
        )
    from codeshell.evaluate import transformers_model

    model, tokenizer, context = transformers_model.load(name)
    directory = Path(name)
    origin = _named(name, directory) if directory.is_dir() else {"name": name, "revision": model.revision}
    return Loaded(model, tokenizer, context, tokenizer.before, origin)


def _named(name: str, directory: Path) -> dict[str, Any]:
    return {"name": name, "hash": fingerprint(directory)}


def fingerprint(directory: Path) -> str:
    """A hash that tells models apart: of config.json, and of the weights (`codeshell.engine.hub.fingerprint`)."""
    return hashlib.sha256(hub.fingerprint(directory).encode() + (directory / "config.json").read_bytes()).hexdigest()
