"""LoRA: thin factors beside frozen matrices (Hu et al. 2021, "LoRA: Low-rank adaptation of large language models").

The library peft puts the factors into the model and computes with them. What is trained is saved in peft's format, so
that peft, transformers and vLLM load it beside its base; and `merge` adds the products of the factors to the files of
the base, tensor by tensor, so that the result loads everywhere.

Letters in this file: W (out, in) a frozen matrix, A (r, in) and B (out, r) its factors, s = alpha / r. The layer
computes x W' + s (x A') B', and the merged matrix is W + s B A.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from codeshell.engine.downloads import AGAIN, fault, read_downloaded_json
from codeshell.engine.files import make_directory
from codeshell.errors import UserError, say
from codeshell.model.tensor_files import Layout, TensorFileError, TensorParts, TensorWriter
from codeshell.recipe_finetune import Finetune
from codeshell.train import parts
from codeshell.train.base import Base

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
"""The two files of an adapter, by peft's names."""

_PREFIX = "base_model.model."
"""What peft puts before the names of the base's modules."""

_BASE = "base"
"""Key of the file's metadata: the hash of the weights that the factors were trained beside."""

_PLAIN: dict[str, Any] = {
    "use_dora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "alpha_pattern": {},
    "lora_bias": False,
    "target_parameters": None,
    "trainable_token_indices": None,
}
"""Settings of peft that add something to W + s B A, with the values by which they do not."""


def linears(model: torch.nn.Module) -> list[str]:
    """Names of the linear layers of the blocks, without the path to them: `["c_attn", "c_fc", "c_proj"]`."""
    found = {
        name.rpartition(".")[2]
        for block in parts.blocks(model)
        for name, module in block.named_modules()
        if isinstance(module, torch.nn.Linear)
    }
    return sorted(found)


def inject(model: Any, settings: Finetune) -> None:
    """Freeze a model and put the factors beside its matrices, in place. A is drawn from torch's generator, B is 0.

    Args:
        model: as the trainer takes it (`codeshell.train.parts`).
        settings: `rank`, `alpha`, `dropout` and `targets` are used.

    Raises:
        UserError: a target that the blocks do not have.
    """
    import peft

    there = linears(model)
    for target in settings.targets:
        if target not in there:
            raise UserError(f"finetune.targets: the model has no {target!r} in its blocks; it has {', '.join(there)}")
    peft.inject_adapter_in_model(_config(settings, settings.targets or there), _inner(model))
    for parameter in model.parameters():
        if parameter.requires_grad:
            # Also where the frozen weights are bf16: an update is mostly smaller than half a step of it.
            parameter.data = parameter.data.float()


def _config(settings: Finetune, targets: Sequence[str], **also: Any) -> Any:
    import peft

    alpha: Any = settings.alpha  # peft's config says int, and computes with any number
    return peft.LoraConfig(
        r=settings.rank,
        lora_alpha=int(alpha) if alpha == int(alpha) else alpha,
        lora_dropout=settings.dropout,
        target_modules=sorted(targets),
        task_type="CAUSAL_LM",
        **also,
    )


def _inner(model: Any) -> torch.nn.Module:
    """The model whose names the base's files have."""
    inner: torch.nn.Module = getattr(model, "inner", model)
    return inner


def save(directory: Path, model: Any, settings: Finetune, base: Base) -> None:
    """Write the factors of a model in peft's format, with the hash of the base's weights in the file's metadata.

    Args:
        directory: is made.
        model: after `inject`.
        settings: those of `inject`.
        base: what was frozen.
    """
    make_directory(directory)
    tensors = {
        _PREFIX + name.replace(".default.", "."): parameter.detach()
        for name, parameter in _inner(model).named_parameters()
        if parameter.requires_grad
    }
    layouts = {name: Layout(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with TensorWriter(directory / WEIGHTS, layouts, {"format": "pt", _BASE: base.hash}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
    targets = {name.removeprefix(_PREFIX).rpartition(".lora_")[0].rpartition(".")[2] for name in tensors}
    config = _config(settings, sorted(targets), base_model_name_or_path=base.name, inference_mode=True)
    config.save_pretrained(directory)


@dataclass(frozen=True)
class Adapter:
    """Factors from the disk.

    Attributes:
        directory: where they are.
        factors: (A, B) by the name of the weight in the base's files.
        scale: s; of each weight, because adapters may have several ranks.
        base: hash of the weights that they belong to; empty in the files of other programs.
        base_name: what their config calls the base.
    """

    directory: Path
    factors: dict[str, tuple[torch.Tensor, torch.Tensor]]
    scale: dict[str, float]
    base: str
    base_name: str

    def delta(self, name: str, layout: Layout) -> torch.Tensor:
        """s B A in fp32, of the shape of the weight.

        Raises:
            UserError: the weight has another shape.
        """
        a, b = self.factors[name]
        shape = (b.shape[0], a.shape[1])
        if layout.shape != shape:
            raise UserError(
                f"{self.directory}: its factors change {name} to {shape}, which is {layout.shape} in the base; "
                "this adapter belongs to another model"
            )
        return self.scale[name] * (b.float() @ a.float())


def read(directory: str | Path) -> Adapter:
    """An adapter in peft's format.

    Raises:
        UserError: no adapter there, a broken one, or one that is more than products of factors.
    """
    directory = Path(directory)
    if not (directory / CONFIG).is_file():
        raise UserError(f"{directory}: no {CONFIG}, so no adapter of peft; a run of `codeshell finetune` has adapter/")
    config = read_downloaded_json(directory / CONFIG)
    if not isinstance(config, dict) or config.get("peft_type") != "LORA":
        kind = config.get("peft_type") if isinstance(config, dict) else None
        raise UserError(f"{directory / CONFIG}: peft_type is {kind!r}; only LORA is merged")
    for key, plain in _PLAIN.items():
        if config.get(key, plain) not in (plain, None):
            raise UserError(f"{directory / CONFIG}: {key} is {config[key]!r}, which merging does not know; use peft's")
    alpha = config.get("lora_alpha")
    if not isinstance(alpha, int | float) or isinstance(alpha, bool) or not math.isfinite(alpha):
        raise UserError(f"{directory / CONFIG}: lora_alpha is {alpha!r}; it must be a number")
    file = directory / WEIGHTS
    if not file.is_file():
        raise UserError(f"{directory}: no {WEIGHTS}; only adapters in safetensors are read")
    try:
        tensors = TensorParts(directory, [WEIGHTS])
        found = {name: tensors.read(name) for name in tensors.layouts}
    except (TensorFileError, OSError) as error:
        raise UserError(f"{file}: {fault(file) or f'not a readable safetensors file ({error}); {AGAIN}'}") from None
    factors, scale = {}, {}
    for name in found:
        match = re.fullmatch(rf"{re.escape(_PREFIX)}(.+)\.lora_([AB])\.weight", name)
        if match is None or found[name].dim() != 2:
            raise UserError(f"{file}: tensor {name} is no factor of a matrix, which merging does not know; use peft's")
        other = f"{_PREFIX}{match[1]}.lora_{'B' if match[2] == 'A' else 'A'}.weight"
        if other not in found:
            raise UserError(f"{file}: {name} is there without {other}; {AGAIN}")
        a, b = found[f"{_PREFIX}{match[1]}.lora_A.weight"], found[f"{_PREFIX}{match[1]}.lora_B.weight"]
        if a.shape[0] != b.shape[1]:
            raise UserError(f"{file}: the factors of {match[1]} have ranks {a.shape[0]} and {b.shape[1]}; {AGAIN}")
        rank = a.shape[0]
        factors[f"{match[1]}.weight"] = (a, b)
        scale[f"{match[1]}.weight"] = alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)
    if not factors:
        raise UserError(f"{file}: holds no factors; {AGAIN}")
    return Adapter(
        directory, factors, scale, _metadata(file).get(_BASE, ""), str(config.get("base_model_name_or_path"))
    )


def _metadata(file: Path) -> dict[str, str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return dict(opened.metadata() or {})


def check_base(adapter: Adapter, base: Base) -> None:
    """Refuse an adapter of another base.

    Raises:
        UserError: its file says another hash than that of the base's weights.
    """
    if adapter.base and adapter.base != base.hash:
        raise UserError(
            f"{adapter.directory}: this adapter was trained beside other weights than those of {base.name} (its base "
            f"was {adapter.base_name}); merge it with that one"
        )
    if not adapter.base:
        say(
            f"{adapter.directory}: the adapter does not say which weights it belongs to, but for the name "
            f"{adapter.base_name}; names and shapes are compared with {base.name}"
        )
