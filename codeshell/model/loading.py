"""Models from a directory with their weights in the form that is asked for: `--weights` of the commands."""

from __future__ import annotations

from pathlib import Path

import torch

from codeshell.errors import UserError
from codeshell.model.modules import CodeShellForCausalLM
from codeshell.model.quantized import quantize

WEIGHTS = ("auto", "fp32", "bf16", "int8")
"""`auto` keeps the dtype of the files. int8 is for CPUs: a quarter of fp32's memory, and the fastest generation."""

_DTYPES = {"auto": None, "fp32": torch.float32, "bf16": torch.bfloat16, "int8": None}


def load(
    directory: str | Path, weights: str = "auto", *, device: torch.device | str = "cpu", auto: torch.dtype | None = None
) -> CodeShellForCausalLM:
    """The model of a directory, in evaluation mode, on its device.

    Args:
        directory: in the layout of CodeShell or Starcoder2.
        weights: one of `WEIGHTS`.
        device: where the model goes.
        auto: the dtype that `auto` means here; None is that of the files.

    Raises:
        UserError: the form is unknown or cannot run on the device; what `from_pretrained` says of a directory.
    """
    if weights not in WEIGHTS:
        raise UserError(f"--weights {weights}: choose one of {', '.join(WEIGHTS)}")
    device = torch.device(device)
    if weights == "int8" and device.type != "cpu":
        raise UserError(
            f"--weights int8: int8 weights run on CPUs alone, and the model would be on {device.type}; give bf16, or "
            "hide the GPU (CUDA_VISIBLE_DEVICES=)"
        )
    model = CodeShellForCausalLM.from_pretrained(directory, dtype=auto if weights == "auto" else _DTYPES[weights])
    if weights == "int8":
        try:
            quantize(model)
        except UserError as error:
            raise UserError(f"{directory}: {error}") from None
    return model.to(device).eval()
