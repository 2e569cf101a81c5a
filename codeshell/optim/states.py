"""The state of one parameter: made, or brought from what was loaded to what the kernels read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from codeshell.optim import slabs
from codeshell.optim.buckets import SERVED, local, order_of
from codeshell.optim.masters import agrees, is_capturing


def moment_dtype(p: Tensor, group: dict[str, Any]) -> torch.dtype:
    """The dtype of a parameter's moments."""
    precise = group["master_weights"] or group["stochastic_rounding"]
    dtype: torch.dtype = group["moment_dtype"] or (torch.float32 if precise else p.dtype)
    return dtype


def may_share(p: Tensor) -> bool:
    """Whether the parameter's state may share a block of memory with others'."""
    plain = type(p) in (Tensor, torch.nn.Parameter) and p.device.type == "cpu" and p.dtype in SERVED
    return plain and p.numel() <= slabs.SMALL and p.is_contiguous()


def is_whole(state: dict[str, Any], p: Tensor) -> bool:
    """Whether a loaded state has all tensors, in the parameter's shape."""
    values = [(state.get(name), () if name == "step" else p.shape) for name in ("step", "exp_avg", "exp_avg_sq")]
    return all(isinstance(value, Tensor) and value.shape == shape for value, shape in values)


def put_side_by_side(states: list[dict[str, Any]], params: list[Tensor], dtype: torch.dtype) -> None:
    """Put the states of these parameters into shared blocks of memory, with the values that they have."""
    shapes = [p.shape for p in params]
    new = {
        "step": slabs.zeros([()] * len(params), torch.float32, alignment=4),
        "exp_avg": slabs.zeros(shapes, dtype),
        "exp_avg_sq": slabs.zeros(shapes, dtype),
    }
    # A loaded state keeps its values.
    for name, tensors in new.items():
        for state, tensor in zip(states, tensors, strict=True):
            if name in state:
                tensor.copy_(state[name])
            state[name] = tensor


def prepare(state: dict[str, Any], p: Tensor, group: dict[str, Any]) -> None:
    """Make a parameter's state, or bring a loaded one to the dtypes, the device and the order of dimensions in memory
    that the kernels need.
    """
    dtype, shard = moment_dtype(p, group), local(p.detach())
    # The step is an fp32 tensor beside the parameter, which the kernels count up. torch may have it elsewhere.
    step = state.get("step", 0.0)
    if not isinstance(step, Tensor) or step.dtype != torch.float32 or step.device != shard.device or step.dim():
        state["step"] = torch.tensor(float(step), dtype=torch.float32, device=shard.device)
    for name in ("exp_avg", "exp_avg_sq"):
        old = state.get(name)
        if old is None:
            state[name] = _zeros(p, dtype)
        elif old.shape != p.shape:
            raise ValueError(f"AdamW: {name} has shape {tuple(old.shape)}, its parameter {tuple(p.shape)}")
        elif old.dtype != dtype or local(old).device != shard.device or not _same_order(local(old), shard):
            state[name] = _zeros(p, dtype).copy_(old)
    # The master weights start as the parameter, exactly: every 16-bit number is an fp32 number.
    if group["master_weights"] and p.dtype != torch.float32:
        master = state.get("master_param")
        if master is None:
            state["master_param"] = _zeros(p, torch.float32).copy_(p.detach())
        elif master.dtype != torch.float32 or not _same_order(local(master), shard):
            state["master_param"] = _zeros(p, torch.float32).copy_(master)
        # A parameter that somebody has loaded or written since counts, and not the copy of what it was.
        master = state["master_param"]
        if not is_capturing(shard) and not agrees(local(master), shard, group["stochastic_rounding"]):
            master.copy_(p.detach())


def _zeros(p: Tensor, dtype: torch.dtype) -> Tensor:
    """Zeros in the parameter's order of dimensions in memory; contiguous if that has gaps, whatever its order."""
    dense = order_of(local(p.detach())) is not None
    return torch.zeros_like(
        p.detach(), dtype=dtype, memory_format=torch.preserve_format if dense else torch.contiguous_format
    )


def _same_order(tensor: Tensor, p: Tensor) -> bool:
    """Whether a dense tensor has its dimensions in the parameter's order in memory; contiguous if that has gaps."""
    order = order_of(p)
    return tensor.is_contiguous() if order is None else tensor.permute(order).is_contiguous()
