"""The trained model as a directory that others read, a tensor at a time, from one process or from the shards of many.

A model directory holds `config.json`, safetensors and the tokenizer; see `codeshell.model.checkpoints.save`. No process
ever holds more than its own rows and one whole tensor.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from codeshell.engine.files import TEMPORARY, make_directory
from codeshell.model import checkpoints
from codeshell.train.agreement import Ranks, agree, patient
from codeshell.train.manifest import disk_errors, flush_directory, replace_directory
from codeshell.train.shards import model_tensors

if TYPE_CHECKING:
    import torch

    from codeshell.model import CodeShellForCausalLM
    from codeshell.tokenizer import Tokenizer


def export(
    target: Path,
    model: CodeShellForCausalLM,
    layout: Literal["codeshell", "starcoder2"],
    tokenizer: Tokenizer,
    group: Ranks | None = None,
    finish: Callable[[Path], None] | None = None,
) -> None:
    """Write a model directory completely, then put it in place of an earlier one.

    All processes call it, because each gives its rows; the first one writes.

    Args:
        target: the model directory.
        model: its parameters may be DTensors.
        layout: of the files.
        tokenizer: is written beside the weights.
        group: the processes that train together; None for one alone.
        finish: adds files to the directory before it gets its name.

    Raises:
        UserError: the disk is full or read-only. The same on all processes; an earlier model is as it was.
    """
    tensors = model_tensors(model)
    fetched = 0

    def fetch(tensor: torch.Tensor) -> torch.Tensor:
        nonlocal fetched
        fetched += 1
        return _whole(tensor)

    error: Exception | None = None
    if group is None or group.rank == 0:
        # Readers such as the evaluation never see a directory that is half written.
        temporary = target.with_name(target.name + TEMPORARY)
        try:
            make_directory(target.parent)
            with disk_errors(target, temporary):
                shutil.rmtree(temporary, ignore_errors=True)
                temporary.mkdir()
                checkpoints.save(tensors, model.config, temporary, layout, fetch=fetch)
                tokenizer.save(temporary)
                if finish is not None:
                    finish(temporary)
                flush_directory(temporary)
                replace_directory(temporary, target)
        except Exception as caught:
            error = caught
    # To gather a tensor takes all processes: the first one takes part to the end, even if it has given up writing.
    if group is not None and group.world > 1:
        for tensor in list(tensors.values())[fetched:]:
            _whole(tensor)
    agree(error, patient(group))


def _whole(tensor: torch.Tensor) -> torch.Tensor:
    """The whole tensor on the CPU; a DTensor is gathered from all processes."""
    sharded: Any = tensor
    return (sharded.full_tensor() if hasattr(sharded, "placements") else tensor).cpu()
