"""The sizes of a base for the memory plan: counted and measured on its own code, without its weights.

What a block of another architecture keeps for the backward pass is no formula of ours. So a copy of the model with two
blocks, of tensors that have shapes and no memory, runs forward with two lengths; the difference of what the second
block keeps is what a block keeps for so many tokens. LoRA's factors are put in first: a frozen matrix keeps less, and
its factors keep their own input.
"""

from __future__ import annotations

import json
from functools import lru_cache
from typing import Any, Literal

import msgspec
import torch

from codeshell.environment import usable_memory
from codeshell.model.checkpoints import read_config
from codeshell.model.precision import autocast
from codeshell.recipe import Recipe
from codeshell.recipe_finetune import Finetune
from codeshell.train import foreign, lora, parts, weights
from codeshell.train.base import Base
from codeshell.train.memory import Measured, Plan, Shape, gigabytes, plan, saved_by_block, shape_of

LENGTHS = (32, 96)
"""Tokens of the two passes."""


def shape_of_base(recipe: Recipe, base: Base, precision: Literal["fp32", "bf16"]) -> Shape:
    """The sizes of the model that is trained.

    Args:
        recipe: `finetune` is used.
        base: the model that training begins with.
        precision: of the products.
    """
    if base.kind == "codeshell":
        return _own(recipe.finetune, base)
    # What decides them, so that the plan and the run measure once.
    settings = Finetune(method=recipe.finetune.method, rank=recipe.finetune.rank, targets=recipe.finetune.targets)
    return _foreign(settings, (base.directory / "config.json").read_text(encoding="utf-8"), precision)


def plan_of_base(recipe: Recipe, base: Base) -> Plan:
    """What this machine's GPU, or its memory, has to hold while the base is trained."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    kind: Literal["cuda", "cpu"] = "cpu"
    memory, in_place = usable_memory(), True
    if device.type == "cuda":
        from codeshell.ops import devices

        kind, in_place = "cuda", devices.missing(device, devices.LOSS) is None
        memory = torch.cuda.get_device_properties(device).total_memory
    precision = weights.precision(recipe.train, device)
    shape = shape_of_base(recipe, base, precision)
    return plan(shape, recipe.train, 1, memory, precision=precision, device=kind, in_place=in_place)


def refusal_of_base(recipe: Recipe, base: Base) -> str | None:
    """Why the base cannot be trained here, with the first remedy that helps; None where it can."""
    refusal = plan_of_base(recipe, base).refusal()
    if refusal is None or recipe.finetune.method == "lora":
        return refusal
    # Before other settings of [train]: it is what fits a model of this size into little memory.
    adapted = msgspec.structs.replace(recipe.finetune, method="lora", rank=16)
    train = msgspec.structs.replace(recipe.train, weights="fp32")
    with_lora = plan_of_base(msgspec.structs.replace(recipe, finetune=adapted, train=train), base)
    if with_lora.fits not in ("fits", "is tight"):
        return refusal
    return f"{refusal}; or --lora 16, which needs {gigabytes(with_lora.total)}"


def _own(settings: Finetune, base: Base) -> Shape:
    """A model of codeshell. Its own blocks are counted; with LoRA, the factors' inputs are kept in fp32, too."""
    shape = shape_of(read_config(base.directory))
    if settings.method == "full":
        return shape
    from codeshell.model import CodeShellForCausalLM

    with torch.device("meta"):
        model = CodeShellForCausalLM(read_config(base.directory))
        lora.inject(model, settings)
    trained = parts.trained(model)
    d, f = shape.width, shape.inner
    kept: dict[str, int] = {}
    for precision in ("fp32", "bf16"):
        # The inputs of the four matrices and of the four second factors, beside what a block keeps anyway.
        kept[precision] = saved_by_block(shape, precision) + 4 * (3 * d + f) + 4 * 4 * settings.rank
    measured = Measured(shape.block, shape.products, shape.root, shape.total, trained, kept)
    return shape._replace(measured=measured)


@lru_cache(maxsize=32)
def _foreign(settings: Finetune, text: str, precision: Literal["fp32", "bf16"]) -> Shape:
    """A model of transformers, by the text of its config.json."""
    import transformers

    values = json.loads(text)
    kinds: Any = transformers.CONFIG_MAPPING
    config = kinds[values["model_type"]].from_dict(values)
    model = _tiny(config, settings)
    with foreign.weightless(model):
        kept = _kept(model, precision)
    layers: int = config.num_hidden_layers
    last = model.blocks[1]
    block = _weights(last)
    root = _weights(model) - 2 * block
    total = root + layers * block
    # Factors are in the blocks alone.
    trained = total if settings.method == "full" else layers * parts.trained(last)
    matrices = [p for n, p in last.named_parameters() if p.dim() > 1 and "lora_" not in n]
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return Shape(
        layers,
        config.hidden_size,
        # A gated MLP has three matrices and as many wide tensors.
        config.intermediate_size * 3 // 2,
        config.vocab_size,
        config.num_attention_heads,
        2 * config.num_key_value_heads * dim,
        False,
        Measured(block, sum(p.numel() for p in matrices), root, total, trained, {precision: kept}),
    )


def _tiny(config: Any, settings: Finetune) -> foreign.ForeignModel:
    """A model with two blocks, and the factors of LoRA."""
    model = foreign.ForeignModel(foreign.without_memory(config, 2), patched=False)
    if settings.method == "lora":
        lora.inject(model, settings)
    return model.train()


def _weights(module: torch.nn.Module) -> int:
    """Weights without LoRA's factors, a tied head counted once."""
    return sum(parameter.numel() for name, parameter in module.named_parameters() if "lora_" not in name)


def _kept(model: foreign.ForeignModel, precision: Literal["fp32", "bf16"]) -> int:
    """Bytes that a block keeps for each token, in fake tensors."""
    short, long = LENGTHS
    grown = _saved(model, long, precision) - _saved(model, short, precision)
    return -(-grown // (long - short))


def _saved(model: foreign.ForeignModel, length: int, precision: Literal["fp32", "bf16"]) -> int:
    """Bytes of the tensors that the second block is the first to keep for the backward pass, without the weights."""
    weights = {id(parameter) for parameter in model.parameters()}
    found: dict[int, tuple[int, torch.Tensor]] = {}
    inside = False

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        if id(tensor) not in weights:
            storage = tensor.untyped_storage()
            # The tensor is held, so that its storage is not given to another.
            found.setdefault(storage._cdata, (storage.nbytes() if inside else 0, tensor))
        return tensor

    def enter(*_: Any) -> None:
        nonlocal inside
        inside = True

    def leave(*_: Any) -> None:
        nonlocal inside
        inside = False

    ids = torch.zeros(1, length, dtype=torch.int64)
    last = model.blocks[1]
    hooks = [last.register_forward_pre_hook(enter), last.register_forward_hook(leave)]
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor), autocast(precision):
        model.inner.model(input_ids=ids, use_cache=False)
    for hook in hooks:
        hook.remove()
    return sum(size for size, _ in found.values())
