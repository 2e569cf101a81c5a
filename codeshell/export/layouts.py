"""A model directory in CodeShell's or Starcoder2's layout, from one of either, a tensor at a time.

The result is a directory of its own: `config.json`, `generation_config.json`, safetensors, the tokenizer, and the chat
template and the card (`README.md`) where the source has them. `starcoder2` loads in stock transformers.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import torch

from codeshell.engine.downloads import read_downloaded_json, read_downloaded_text
from codeshell.engine.files import TEMPORARY, make_directory, read_json, write_json, write_text
from codeshell.errors import UserError
from codeshell.model import checkpoints
from codeshell.model.weight_rows import WeightRows
from codeshell.tokenizer import Tokenizer
from codeshell.tokenizer.chat import configured
from codeshell.train.manifest import disk_errors, flush_directory, replace_directory

TEMPLATE = "chat_template.jinja"
CARD = "README.md"


def write(
    target: Path,
    weights: WeightRows,
    tokenizer: Tokenizer,
    layout: Literal["codeshell", "starcoder2"],
    dtype: torch.dtype | None = None,
    *,
    template: str | None = None,
    progress: Callable[[int], None] = lambda size: None,
) -> int:
    """Write the directory completely, then give it its name.

    Args:
        target: must not exist, or be empty.
        weights, tokenizer: of the model.
        layout: of the new directory.
        dtype: of the new weights; None keeps that of the files.
        template: chat template, if the model has one.
        progress: called with the bytes that were read since the last call.

    Returns:
        The number of our tensors.

    Raises:
        UserError: the directory holds something, a value does not fit the dtype, the files have several dtypes and
            none was chosen, or the disk is full.
    """
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise UserError(f"{target}: is there already; remove it or choose another -o")
    if dtype is None:
        if len(weights.dtypes) > 1:
            names = ", ".join(sorted(str(one).removeprefix("torch.") for one in weights.dtypes))
            raise UserError(f"{weights.directory}: weights are of several dtypes ({names}); choose one with --type")
        (dtype,) = weights.dtypes
    # Tensors without memory stand for those to come; `save` asks for them in this order, one at a time.
    promised = {name: torch.empty(one.shape, dtype=dtype, device="meta") for name, one in weights.layouts.items()}
    coming = _tensors(weights, dtype, progress)
    temporary = target.with_name(target.name + TEMPORARY)
    make_directory(target.parent)
    try:
        with disk_errors(target, temporary):
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            checkpoints.save(promised, weights.config, temporary, layout, fetch=lambda _: next(coming))
            _keep_generation(weights.directory, temporary)
            tokenizer.save(temporary)
            if template is not None:
                write_text(temporary / TEMPLATE, template)
            if (weights.directory / CARD).is_file():
                shutil.copyfile(weights.directory / CARD, temporary / CARD)
            flush_directory(temporary)
            replace_directory(temporary, target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return len(promised)


def _tensors(weights: WeightRows, dtype: torch.dtype, progress: Callable[[int], None]) -> Iterator[torch.Tensor]:
    for name in weights.layouts:
        tensor = weights.read(name)
        progress(tensor.nbytes)
        yield checkpoints.converted(name, tensor, dtype, weights.directory)


def _keep_generation(source: Path, target: Path) -> None:
    """Settings of generation that the source has beside the ids of its tokens, such as a number of new tokens."""
    path = source / "generation_config.json"
    if not path.is_file():
        return
    kept: Any = read_downloaded_json(path)
    if isinstance(kept, dict):
        write_json(target / path.name, kept | read_json(target / path.name))


def chat_template(directory: Path) -> str | None:
    """The source of a model's chat template: `chat_template.jinja`, else `tokenizer_config.json`'s; None if neither.

    Raises:
        UserError: a file is there and cannot be read, or names several templates and none of them `default`.
    """
    if (directory / TEMPLATE).is_file():
        return read_downloaded_text(directory / TEMPLATE)
    path = directory / "tokenizer_config.json"
    return configured(read_downloaded_json(path), path) if path.is_file() else None
