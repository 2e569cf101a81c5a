"""Muon (Jordan et al. 2024): the momentum of a hidden matrix, orthogonalised, is its update; AdamW serves the rest.

The update of a matrix is the nearest matrix whose singular values are all 1: every direction of the momentum gets the
same weight, where Adam's update is mostly a few large ones. For a matrix W of shape (rows, columns) and gradient G:

    M = momentum * M + (1 - momentum) * G
    O = orthogonal((1 - momentum) * G + momentum * M)                            Nesterov's look ahead
    W = W * (1 - lr * weight_decay) - lr * 0.2 * sqrt(max(rows, columns)) * O    Liu et al. 2025, "Muon is scalable"

The last factor makes the root mean square of an update about 0.2, which is what AdamW's has in practice. So both take
the same learning rate and weight decay.

`orthogonal` is an iteration on products alone (Newton and Schulz). A polynomial is applied to all singular values at
once, x -> a x + b x^3 + c x^5. Its coefficients are not those that converge but those that raise small values fastest;
after five turns, values that were between 0.01 and 1 of the norm are between 0.68 and 1.14, which is near enough to 1.

A matrix that holds several linear maps (the fused projection Q | K | V) is cut into them by rows, and each is
orthogonalised by itself. Matrices of the same shape are one batch of products.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from codeshell.optim.adamw import AdamW, _Plan
from codeshell.optim.buckets import local

COEFFICIENTS = (3.4445, -4.7750, 2.0315)
"""a, b, c of the polynomial: Jordan's, found by a search for the steepest start that stays near 1."""
TURNS = 5
UPDATE_SIZE = 0.2
"""Root mean square of an update, in units of the learning rate."""
_TINY = 1e-7
"""Added to the norm, so that a gradient of zeros gives an update of zeros."""


def orthogonal(x: Tensor, *, turns: int = TURNS) -> Tensor:
    """The polar factor of each matrix, to the precision of the iteration: singular values near 1, same directions.

    Args:
        x: (..., rows, columns), fp32 or bf16.
        turns: of the iteration.

    Returns:
        The same shape and dtype. A matrix of zeros gives zeros.
    """
    a, b, c = COEFFICIENTS
    shape = x.shape
    # One batch of wide matrices (n, r, s): the product of a matrix with its transpose is then the small one.
    tall = shape[-2] > shape[-1]
    x = (x.mT if tall else x).reshape(-1, min(shape[-2:]), max(shape[-2:]))
    # The Frobenius norm is at least the largest singular value, so all of them start at 1 or below.
    x = x / (torch.linalg.vector_norm(x, dim=(-2, -1), keepdim=True) + _TINY)
    if x.dtype == torch.float32 and x.shape[-1] >= 2 * x.shape[-2]:
        x = _factor(x @ x.mT, turns) @ x
    else:
        for _ in range(turns):
            gram = x @ x.mT
            # x becomes a x + (b gram + c gram^2) x.
            x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).reshape(shape)


def _factor(gram: Tensor, turns: int) -> Tensor:
    """What the turns multiply a matrix by, from its product with its transpose: both (n, r, r).

    All polynomials of one matrix commute, so the turns need small products alone: a third less work for a matrix four
    times as wide as high. In fp32 alone, because the product squares the range of the values.
    """
    a, b, c = COEFFICIENTS
    identity = torch.eye(gram.shape[-1], dtype=gram.dtype, device=gram.device).expand_as(gram)
    product: Tensor | None = None
    for turn in range(turns):
        factor = torch.baddbmm(gram, gram, gram, beta=b, alpha=c).add_(identity, alpha=a)
        product = factor if product is None else factor @ product
        if turn + 1 < turns:
            gram = factor @ gram @ factor
    return gram if product is None else product


class Muon(AdamW):
    """Muon for the groups that say `muon=True`, `codeshell.optim.AdamW` for all others, as one optimizer.

    `muon_groups` makes the groups of a model. The state of a Muon parameter is `step` and one tensor of its shape,
    `momentum`. Clipping, hooks and state dicts are AdamW's: `clip_grad_norm` is over the gradients of all groups. On a
    CPU the iteration is in fp32, on a GPU its products are in bf16, as is usual.

    With DTensors (FSDP2) every process gathers the momentum of a whole matrix and computes the same update, of which
    it keeps its rows: the result has the bits of one process, and the time of the iteration is not shared.

    Beyond AdamW:

    Args:
        params: groups. A group with `muon=True` holds fp32 matrices alone, and may have `blocks`: the rows of the maps
            that each of its matrices holds, one after the other; empty means that each is one map.
        momentum: decay of the momentum, and its part in the look ahead.
        settings: AdamW's arguments; `lr` and `weight_decay` are for both.

    Raises:
        ValueError: a Muon group with anything but matrices in fp32, with blocks that are not its rows, or with an
            option of AdamW that Muon has not (`maximize`, `differentiable`, a tensor `lr`).
    """

    def __init__(self, params: Iterable[Any], *, momentum: float = 0.95, **settings: Any) -> None:
        if not 0.0 <= momentum < 1.0:
            raise ValueError(f"Muon: momentum {momentum} is not between 0 and 1")
        self._muon_defaults: dict[str, Any] = {"muon": False, "momentum": momentum, "blocks": ()}
        super().__init__(params, **settings)
        self.defaults.update(self._muon_defaults)

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy, an unpickled optimizer, or a state dict that has just been loaded, perhaps one of AdamW's.
        super().__setstate__(state)
        known = {"muon": False, "momentum": 0.95, "blocks": ()}
        self._muon_defaults = {name: self.defaults.get(name, default) for name, default in known.items()}
        for group in self.param_groups:
            for name, value in self._muon_defaults.items():
                group.setdefault(name, value)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Add a group, as in torch; `muon`, `momentum` and `blocks` may be among its options."""
        if isinstance(param_group, dict):
            for name, value in self._muon_defaults.items():
                param_group.setdefault(name, value)
        super().add_param_group(param_group)

    def _check(self, group: dict[str, Any]) -> None:
        super()._check(group)
        if not group["muon"]:
            return
        if isinstance(group["lr"], Tensor) or group["maximize"] or group["differentiable"]:
            raise ValueError("Muon: a tensor lr, maximize and differentiable are not served")
        blocks = tuple(group["blocks"])
        for p in group["params"]:
            if p.dim() != 2 or p.dtype != torch.float32:
                raise ValueError(
                    f"Muon: serves fp32 matrices, not a parameter of shape {tuple(p.shape)}, {p.dtype}: leave muon out "
                    "of its group, and AdamW updates it"
                )
            if blocks and (min(blocks) < 1 or sum(blocks) != p.shape[0]):
                raise ValueError(f"Muon: blocks {blocks} are not the {p.shape[0]} rows of {tuple(p.shape)}")

    def _current_plan(self, number: int, group: dict[str, Any]) -> _Plan:
        # No kernel of AdamW has a part in a Muon group: all of it goes to `_torch_step`.
        return _Plan(group, [], group["params"], []) if group["muon"] else super()._current_plan(number, group)

    def _torch_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        if not group["muon"]:
            super()._torch_step(group, params)
            return
        if getattr(self, "grad_scale", None) is not None or getattr(self, "found_inf", None) is not None:
            raise RuntimeError("Muon: a GradScaler must not leave unscaling to the step; leave out fused=True")
        with torch.no_grad():
            self._muon_step(group, [p for p in params if p.grad is not None])

    def _muon_step(self, group: dict[str, Any], params: list[Tensor]) -> None:
        lr, momentum = float(group["lr"]), float(group["momentum"])
        # The maps of all matrices by their shape, so that equal ones are one batch.
        maps: dict[tuple[int, int], list[Tensor]] = {}
        places: list[list[tuple[tuple[int, int], int]]] = []
        for p in params:
            look_ahead = _whole(self._look_ahead(p, momentum), p)
            mine = []
            for block in torch.split(look_ahead, list(group["blocks"]) or p.shape[0]):
                shape = (block.shape[0], block.shape[1])
                waiting = maps.setdefault(shape, [])
                mine.append((shape, len(waiting)))
                waiting.append(block)
            places.append(mine)
        # bf16 where its products are fast; the iteration forgives its rounding.
        solved = {}
        for shape, blocks in maps.items():
            batch = torch.stack(blocks)
            batch = batch.bfloat16() if batch.is_cuda else batch
            solved[shape] = orthogonal(batch).float() * (UPDATE_SIZE * math.sqrt(max(shape)))
        for p, mine in zip(params, places, strict=True):
            update = torch.cat([solved[shape][index] for shape, index in mine])
            weight = local(p.detach())
            weight.mul_(1.0 - lr * group["weight_decay"]).add_(_rows(update, p), alpha=-lr)

    def _look_ahead(self, p: Tensor, momentum: float) -> Tensor:
        """Count the gradient into the momentum; what is to be orthogonalised, of this process's rows."""
        state = self.state[p]
        if "momentum" not in state:
            # torch's Adam, whose loading of state dicts this is, expects every state to count its steps.
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["momentum"] = torch.zeros_like(p.detach())
        state["step"] += 1
        assert p.grad is not None
        gradient, average = local(p.grad.detach()).float(), local(state["momentum"])
        average.lerp_(gradient, 1.0 - momentum)
        return gradient.lerp(average, momentum)


def _whole(rows: Tensor, p: Tensor) -> Tensor:
    """The whole matrix of which this process has `rows`, cut as `p` is; `rows` themselves if `p` is no DTensor."""
    if not hasattr(p, "placements"):
        return rows
    from torch.distributed.tensor import DTensor

    sharded: Any = p
    whole: Tensor = DTensor.from_local(
        rows, sharded.device_mesh, sharded.placements, run_check=False, shape=p.shape, stride=p.stride()
    ).full_tensor()
    return whole


def _rows(whole: Tensor, p: Tensor) -> Tensor:
    """This process's rows of a matrix that all processes have; no communication."""
    if not hasattr(p, "placements"):
        return whole
    from torch.distributed.tensor import DTensor, Replicate

    sharded: Any = p
    everywhere = [Replicate()] * sharded.device_mesh.ndim
    there: Any = DTensor.from_local(whole, sharded.device_mesh, everywhere, run_check=False)
    rows: Tensor = there.redistribute(placements=sharded.placements).to_local()
    return rows


def muon_groups(
    model: nn.Module, weight_decay: float, blocks: Mapping[Tensor, Sequence[int]] | None = None
) -> list[dict[str, Any]]:
    """The groups of `Muon` for a model: hidden matrices; other matrices with weight decay; biases and norms without it.

    Hidden are the weights of linear layers, except for a head (the module `lm_head`, or one that shares its weight
    with an embedding): its rows are as many independent classes, and the embedding's are looked up one by one.

    Args:
        model: its parameters may be DTensors.
        weight_decay: of both kinds of matrices.
        blocks: the rows of the maps of fused matrices; they are a group for each kind.
    """
    modules = list(model.named_modules())
    outside = {id(module.weight) for _, module in modules if isinstance(module, nn.Embedding)}
    hidden = {
        id(module.weight)
        for name, module in modules
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] != "lm_head" and id(module.weight) not in outside
    }
    rows = {id(parameter): tuple(parts) for parameter, parts in (blocks or {}).items()}
    # In the order of `named_parameters`; a tied parameter appears once.
    parameters = [parameter for parameter in model.parameters() if parameter.requires_grad]
    matrices: dict[tuple[int, ...], list[nn.Parameter]] = {}
    for parameter in parameters:
        if id(parameter) in hidden:
            matrices.setdefault(rows.get(id(parameter), ()), []).append(parameter)
    others = [parameter for parameter in parameters if id(parameter) not in hidden]
    groups: list[dict[str, Any]] = [
        *(
            {"params": found, "weight_decay": weight_decay, "muon": True, "blocks": parts}
            for parts, found in matrices.items()
        ),
        {"params": [p for p in others if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in others if p.dim() < 2], "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
