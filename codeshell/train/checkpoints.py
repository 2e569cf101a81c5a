"""Checkpoints: `step-NNNNNN/` with `config.json`, `state.json`, and safetensors of the model and of the optimizer.

One process writes `model.safetensors` and `optimizer.safetensors`; of several, each writes a part with the rows that it
holds, and any other number of processes loads them (`codeshell.model.tensor_files`). A checkpoint is written under a
temporary name, flushed to the disk and renamed (`codeshell.train.saver`). So it is whole or absent, and a full disk or
a kill leaves the older ones as they were. `state.json` has the size and checksum of the other files
(`codeshell.train.manifest`). Nothing is pickled. No state of a random generator is stored: every draw of the trainer is
a hash of the seed and the step (see `codeshell.train.loop`), so the step is enough.

This file decides what a run may resume from, and loads it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from codeshell.errors import UserError
from codeshell.recipe import Recipe, changed, describe, flatten, to_tree
from codeshell.train import shards
from codeshell.train.agreement import Ranks, patient, together
from codeshell.train.manifest import (
    MODEL,
    OPTIMIZER,
    DamagedError,
    PhaseResult,
    State,
    disk_errors,
    flush_directory,
    list_steps,
    open_tensors,
    prune,
    read_manifest,
    read_state,
    replace_directory,
    step_directory,
)
from codeshell.train.saver import Saver, save

if TYPE_CHECKING:
    import torch

__all__ = [
    "DamagedError",
    "PhaseResult",
    "Saver",
    "State",
    "check",
    "disk_errors",
    "flush_directory",
    "list_steps",
    "load",
    "prune",
    "read_state",
    "replace_directory",
    "save",
    "sections",
    "step_directory",
]


SECTIONS = ("model", "train", "finetune")
"""What a checkpoint keeps of the recipe."""


def sections(recipe: Recipe) -> dict[str, dict[str, Any]]:
    """The recipe's sections of `SECTIONS`, as they are after a round trip through JSON: tuples are lists."""
    tree = msgspec.json.decode(msgspec.json.encode(to_tree(recipe)))
    return {name: tree[name] for name in SECTIONS}


def check(
    path: Path, state: State, recipe: Recipe, tokenizer: str, corpus: str, model: torch.nn.Module, base: str = ""
) -> None:
    """Refuse a checkpoint that this run cannot resume from. Each process finds the same by itself.

    Raises:
        UserError: another shape, tokenizer, corpus or base, or a setting that a resumed run may not change.
        DamagedError: the parts do not make whole tensors.
    """
    # Shapes come first, and from the headers of the files alone: no tensor is read.
    expected = {name: tuple(tensor.shape) for name, tensor in shards.parameters(model).items()}
    found = {name: layout.shape for name, layout in open_tensors(path, state, MODEL).layouts.items()}
    for name in sorted(expected | found):
        if expected.get(name) != found.get(name):
            raise UserError(
                f"{path}: checkpoint of another shape: {name} is {found.get(name, 'absent')}, the recipe's "
                f"model has {expected.get(name, 'no such tensor')}; use the recipe it was trained with, or another -o"
            )
    if state.tokenizer != tokenizer:
        raise UserError(
            f"{path}: trained with tokenizer {state.tokenizer[:12]}, this run has {tokenizer[:12]}; "
            "put that tokenizer back, or train into another -o"
        )
    was = flatten({"seed": state.seed} | {name: getattr(state, name) for name in SECTIONS})
    now = flatten({"seed": recipe.seed} | sections(recipe))
    keys = changed(was, now)
    if keys:
        values = describe(keys, was, now)
        raise UserError(f"{path}: trained with other settings ({values}); set them back, or train into another -o")
    if state.base != base:
        raise UserError(
            f"{path}: training began with other weights than those of {recipe.finetune.base}; put those back, or train "
            "into another -o"
        )
    if state.corpus != corpus:
        raise UserError(
            f"{path}: trained on other documents than those in tokens/, so its place in them means nothing; "
            "put those token shards back, or train into another -o"
        )


def load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, group: Ranks | None = None) -> None:
    """Put a checkpoint's tensors into the model and the optimizer; `check` must have accepted it before.

    With a group, every process reads the rows that it holds, whatever number of processes wrote them, and all raise
    the same error or none does.

    Args:
        path: of the checkpoint.
        model: on its device; its parameters may be DTensors that are cut by rows.
        optimizer: of the model's parameters.
        group: the processes that train together; None for one alone.

    Raises:
        DamagedError: a file cannot be read, or does not hold what the model and the optimizer need.
    """
    with together(patient(group), DamagedError):
        try:
            _load(path, model, optimizer, *((group.rank, group.world) if group else (0, 1)))
        except OSError as error:
            raise DamagedError(str(error)) from None


def _load(path: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, rank: int, world: int) -> None:
    import torch

    state = read_manifest(path)
    parameters = shards.parameters(model)
    # Copied into the existing parameters, because the optimizer holds references to them.
    weights = open_tensors(path, state, MODEL)
    with torch.no_grad():
        for name, parameter in parameters.items():
            if weights.layouts[name].shape != tuple(parameter.shape):
                raise DamagedError(f"{name} has another shape")
            shards.read_into(weights, name, parameter, rank, world)
    # The file names optimizer state `KIND/PARAMETER`. torch wants {number: {kind: tensor}}, and numbers the parameters
    # in the order of the optimizer's groups.
    moments = open_tensors(path, state, OPTIMIZER)
    in_order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    index = {id(parameter): number for number, parameter in enumerate(in_order)}
    states: dict[int, dict[str, torch.Tensor]] = {}
    for key, layout in moments.layouts.items():
        kind, _, name = key.partition("/")
        if name not in parameters or layout.shape not in ((), tuple(parameters[name].shape)):
            raise DamagedError(f"{key} {layout.shape} fits no parameter")
        parameter = parameters[name]
        states.setdefault(index[id(parameter)], {})[kind] = shards.read(moments, key, parameter, rank, world)
    optimizer.load_state_dict({"state": states, "param_groups": optimizer.state_dict()["param_groups"]})
