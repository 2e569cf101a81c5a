"""A model that is asked for by its directory or its name, ready to generate: codeshell's own, or one of transformers.

`codeshell serve` and `codeshell complete` have their models from here. A model of transformers is one of a type that
`codeshell.patch` serves, so whatever `codeshell finetune` has tuned is served, in the format of its own family. Its own
code computes it, with a cache of ours (`codeshell.integrations.reader`). On a GPU it is patched with the kernels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch

from codeshell.engine import hub
from codeshell.engine.downloads import read_downloaded_json
from codeshell.errors import UserError
from codeshell.integrations import ARCHITECTURES
from codeshell.model import loading
from codeshell.model.config import CodeShellConfig
from codeshell.model.infill import infill_prompt
from codeshell.model.session import CACHE_BYTES, CACHES, Chunk, Session, Settings
from codeshell.tokenizer import Tokenizer
from codeshell.train import base
from codeshell.train.base import Base

_DTYPES: dict[str, torch.dtype | str] = {"auto": "auto", "fp32": torch.float32, "bf16": torch.bfloat16}


@dataclass(frozen=True)
class Ready:
    """A model that generates.

    Attributes:
        found: where it lies, and whose class computes it.
        session: generates with it.
        tokenizer: its own.
        before: ids that its family puts before a document, and so before a text that is continued or filled in.
    """

    found: Base
    session: Session
    tokenizer: Tokenizer
    before: tuple[int, ...]


def find(name: str) -> Base:
    """The model of a directory, or of a name on the hub, from its config alone.

    Raises:
        UserError: there is no such model, it is of a type that is not served, or it needs transformers.
    """
    directory = hub.model_directory(name)
    file = directory / "config.json"
    values = read_downloaded_json(file)
    # A Starcoder2 without a window is a CodeShell as well, which our own network computes: it is faster on a CPU.
    if isinstance(values, dict) and values.get("model_type") == "starcoder2":
        try:
            config = CodeShellConfig.from_file(file)
        except UserError:
            pass
        else:
            return Base(name, directory, "codeshell", "starcoder2", config.max_length, config.vocab_size)
    found = base.read(str(directory), served=tuple(ARCHITECTURES), what="serving", extra="transformers")
    return replace(found, name=name)


def load(found: Base, weights: str = "auto", *, caches: int = CACHES) -> Ready:
    """Load a model that `find` has found, with its tokenizer.

    Args:
        weights: how they are held, one of `codeshell.model.loading.WEIGHTS`; a model of transformers has no int8.
        caches: prompts that are kept.

    Raises:
        UserError: a file is missing or broken, the tokenizer is not the model's, or the model does not fit the GPU.
    """
    if found.kind == "transformers" and weights not in _DTYPES:
        raise UserError(
            f"--weights {weights}: {found.name} is a model of transformers ({found.model_type}), and only models of "
            f"codeshell are held so; give one of {', '.join(_DTYPES)}"
        )
    tokenizer = Tokenizer.load(found.directory)
    if tokenizer.vocab_size > found.vocabulary:
        raise UserError(
            f"{found.directory}: a tokenizer of {tokenizer.vocab_size} tokens, but the model has {found.vocabulary} "
            "rows; put the model's own tokenizer there"
        )
    if found.kind == "codeshell":
        return Ready(found, Session(loading.load(found.directory, weights), tokenizer, caches=caches), tokenizer, ())
    reader = _reader(found, _DTYPES[weights])
    # `codeshell finetune` trains with it as well.
    before = () if tokenizer.bos is None else (tokenizer.bos,)
    return Ready(found, Session(reader, tokenizer, caches=caches), tokenizer, before)


def _reader(found: Base, dtype: torch.dtype | str) -> Any:
    from codeshell.integrations import causal
    from codeshell.integrations.patching import patch
    from codeshell.integrations.reader import TransformersReader

    model = causal.load(found.directory, dtype)
    if torch.cuda.is_available():
        _check_gpu(found, model)
        model = model.to("cuda")
        try:
            patch(model)
        except ValueError as error:
            raise UserError(f"{found.directory}: {error}") from None
    return TransformersReader(model)


def _check_gpu(found: Base, model: Any) -> None:
    """Refuse a model that the GPU's free memory does not hold with the prompts that are kept."""
    needed = sum(tensor.numel() * tensor.itemsize for tensor in [*model.parameters(), *model.buffers()])
    free, _ = torch.cuda.mem_get_info()
    if needed + CACHE_BYTES > free:
        raise UserError(
            f"{found.directory}: the model takes {needed / 1e9:.1f} GB, and prompts {CACHE_BYTES / 1e9:.1f} GB, but "
            f"the GPU has {free / 1e9:.1f} GB free; give --weights bf16, take a smaller model, or hide the GPU "
            "(CUDA_VISIBLE_DEVICES=)"
        )


def complete(ready: Ready, prefix: str, suffix: str | None, settings: Settings) -> str:
    """The text between `prefix` and `suffix`, or after `prefix`; as `codeshell.model.generation.complete`.

    Raises:
        ValueError: the new tokens leave no room for a prompt.
        UserError: a suffix, and the tokenizer has no fill-in-the-middle tokens.
    """
    budget = ready.session.budget(settings.max_new_tokens) - len(ready.before)
    if budget < 4:
        raise ValueError(
            f"max_new_tokens {settings.max_new_tokens} leaves no room for a prompt in {ready.session.budget(0)} "
            "positions"
        )
    prompt: Sequence[int] = [*ready.before, *infill_prompt(ready.tokenizer, prefix, suffix, budget)]
    return "".join(item.text for item in ready.session.stream(prompt, settings) if isinstance(item, Chunk))
