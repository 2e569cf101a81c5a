"""The model of a recipe with its initial weights, and its optimizer."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from codeshell.errors import UserError
from codeshell.model import CodeShellConfig, CodeShellForCausalLM, checkpoints
from codeshell.model.modules import CodeShellAttention
from codeshell.optim import AdamW, Muon, muon_groups, parameter_groups
from codeshell.randomness import draw
from codeshell.recipe import Recipe, Train
from codeshell.tokenizer import Tokenizer
from codeshell.train import foreign, lora, weights
from codeshell.train.agreement import AgreedError
from codeshell.train.base import Base, needs_one_process
from codeshell.train.parallel import Group, place_rows, shard


def build(
    recipe: Recipe,
    tokenizer: Tokenizer,
    device: torch.device,
    group: Group | None = None,
    base: Base | None = None,
) -> tuple[torch.nn.Module, AdamW]:
    """The model with its initial weights, which are a function of the recipe's seed or those of a base, and its
    optimizer.

    The weights do not depend on the number of ranks. With several, each holds its rows alone, and no rank ever has
    more than one whole tensor. Weight decay applies to matrices; biases and LayerNorm weights have none.

    Args:
        recipe: `model`, `train` and `seed` are used.
        tokenizer: decides the rows of the embedding.
        device: where the model computes.
        group: the ranks that share it; None is one process.
        base: the model to fine-tune; None draws the weights of the recipe's model.

    Raises:
        UserError: the recipe's model has an impossible shape; the base cannot be loaded, or not by several ranks.
    """
    group = group or Group.alone(device)
    model = _drawn(recipe, tokenizer, device, group) if base is None else _loaded(recipe, base, device, group)
    return model, make_optimizer(recipe, model)


def _drawn(recipe: Recipe, tokenizer: Tokenizer, device: torch.device, group: Group) -> CodeShellForCausalLM:
    """The recipe's model with random weights, cut among the ranks."""
    train, config = recipe.train, model_config(recipe, tokenizer)
    # Weights are drawn on the CPU from torch's global generator, so every device starts from the same ones.
    torch.manual_seed(draw(recipe.seed, "weights"))
    dtype = weights.dtype(train)
    if group.mesh is None:
        model = CodeShellForCausalLM(config).to(device=device, dtype=dtype)
        shard(model, train, group)
    else:
        # Nothing is allocated before every rank has its part.
        with torch.device("meta"):
            model = CodeShellForCausalLM(config).to(dtype)
        shard(model, train, group)
        model.to_empty(device=device)
        # The same draws in the same order as in one process; of each tensor a rank keeps its rows.
        _draw_as_when_made(model)
        for name, parameter in model.named_parameters():
            whole = torch.empty(parameter.shape, dtype=torch.float32)
            model.draw_parameter(name, whole)
            place_rows(parameter, whole)
    return model


def _loaded(recipe: Recipe, base: Base, device: torch.device, group: Group) -> torch.nn.Module:
    """The base with its weights, in training mode; for LoRA frozen, with fresh factors beside its matrices.

    Frozen weights are kept in the precision of the products, which would be rounded to that anyway.
    """
    train, adapts = recipe.train, recipe.finetune.method == "lora"
    if group.world > 1 and (what := needs_one_process(recipe, base)):
        raise AgreedError(
            f"{group.world} ranks: {what} are trained by one process so far; start one, or train all weights of a "
            "model of codeshell"
        )
    dtype = weights.dtype(train)
    if adapts and weights.precision(train, device) == "bf16":
        dtype = torch.bfloat16
    model: torch.nn.Module
    if base.kind == "transformers":
        model = foreign.load(base.directory, dtype)
    elif group.mesh is None:
        model = CodeShellForCausalLM.from_pretrained(base.directory, dtype=dtype)
    else:
        return _loaded_by_ranks(base, dtype, train, device, group)
    # The factors are drawn on the CPU from torch's global generator, so every device starts from the same ones.
    torch.manual_seed(draw(recipe.seed, "weights"))
    if adapts:
        lora.inject(model, recipe.finetune)
    model.to(device)
    shard(model, train, group)
    return model.train()


def _loaded_by_ranks(
    base: Base, dtype: torch.dtype, train: Train, device: torch.device, group: Group
) -> CodeShellForCausalLM:
    """A base of codeshell cut among the ranks. Each reads the files whole on its host, and keeps its rows."""
    config = checkpoints.read_config(base.directory)
    with torch.device("meta"):
        model = CodeShellForCausalLM(config).to(dtype)
    shapes = {name: parameter.shape for name, parameter in model.named_parameters(remove_duplicate=False)}
    shard(model, train, group)
    model.to_empty(device=device)
    tensors = group.agree(lambda: checkpoints.read_weights(base.directory, config, shapes, dtype))
    for name, parameter in model.named_parameters():
        place_rows(parameter, tensors[name])
    return model.train()


def make_optimizer(recipe: Recipe, model: nn.Module) -> AdamW:
    """The recipe's optimizer for the model's parameters.

    A group may have `lr_scale`, which the trainer multiplies the schedule's rate by.
    """
    train = recipe.train
    settings: dict[str, Any] = {"lr": train.lr, "betas": (train.beta1, train.beta2), "eps": train.eps}
    if train.optimizer == "adamw":
        groups = parameter_groups(model, train.weight_decay)
        return AdamW(groups, **settings, **weights.optimizer_options(recipe))
    # The projection of an attention layer holds three maps, those of the queries, of the keys and of the values.
    blocks = {
        layer.c_attn.weight: [count * layer.head_dim for count in (layer.heads, layer.kv_heads, layer.kv_heads)]
        for layer in model.modules()
        if isinstance(layer, CodeShellAttention) and isinstance(layer.c_attn, nn.Linear)
    }
    groups = muon_groups(model, train.weight_decay, blocks)
    for group in groups:
        if group.get("muon"):
            group["lr_scale"] = train.matrix_lr / train.lr if train.matrix_lr and train.lr else 1.0
    return Muon(groups, momentum=train.momentum, **settings)


def _draw_as_when_made(model: CodeShellForCausalLM) -> None:
    """Draw from the generator what the layers of a model draw when they are made, layer by layer, and drop it.

    In one process, these draws come before those of the weights. On the meta device they have not happened.
    """
    for module in model.modules():
        if isinstance(module, torch.nn.Embedding):
            torch.nn.Embedding(module.num_embeddings, module.embedding_dim)
        elif isinstance(module, torch.nn.Linear):
            torch.nn.Linear(module.in_features, module.out_features, bias=module.bias is not None)


def model_config(recipe: Recipe, tokenizer: Tokenizer) -> CodeShellConfig:
    """The configuration of the recipe's model.

    Raises:
        UserError: it has an impossible shape.
    """
    shape = recipe.model
    try:
        return CodeShellConfig(
            # Rows of the embedding, then those of them that are tokens.
            vocab_size=tokenizer.padded_vocab_size,
            n_vocab_used=tokenizer.vocab_size,
            n_positions=shape.n_positions,
            n_embd=shape.n_embd,
            n_layer=shape.n_layer,
            n_head=shape.n_head,
            n_inner=shape.n_inner or None,
            num_query_groups=shape.num_query_groups,
            attn_pdrop=shape.dropout,
            embd_pdrop=shape.dropout,
            resid_pdrop=shape.dropout,
            bos_token_id=tokenizer.eot,
            eos_token_id=tokenizer.eot,
        )
    except ValueError as error:
        raise UserError(f"recipe, model: {error}") from None
