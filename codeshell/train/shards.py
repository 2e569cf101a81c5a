"""The rows of each tensor that this process holds, writes and reads.

FSDP2 cuts every parameter by its rows: of n rows and s processes, process c holds the rows from c·⌈n/s⌉ on, at most
⌈n/s⌉ of them. The optimizer's moments are cut as their parameter is. With replicas (HSDP) each row is held several
times; the replicas then share the writing, so that no byte is written twice.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from codeshell.model.tensor_files import Layout, TensorParts

if TYPE_CHECKING:
    import torch


class Rows(NamedTuple):
    """The part of a tensor that this process holds.

    Attributes:
        local: its rows.
        first: number of the first of them.
        layout: dtype and shape of the whole tensor.
        replica: which of the processes that hold these rows this one is.
        replicas: how many hold them.
    """

    local: torch.Tensor
    first: int
    layout: Layout
    replica: int
    replicas: int

    @property
    def is_whole(self) -> bool:
        return tuple(self.local.shape) == self.layout.shape


def rows_of(tensor: torch.Tensor, rank: int, world: int) -> Rows:
    """The rows that this process holds of a plain tensor, which all processes have, or of a DTensor."""
    local: torch.Tensor = getattr(tensor, "_local_tensor", tensor).detach()
    layout = Layout(tensor.dtype, tuple(tensor.shape))
    if not hasattr(tensor, "placements"):
        return Rows(local, 0, layout, rank, world)
    sharded: Any = tensor  # a DTensor; torch.distributed is not imported where there is none
    mesh, placements = sharded.device_mesh, sharded.placements
    first, replica, replicas, cuts = 0, 0, 1, 0
    for dimension, placement in enumerate(placements):
        size, coordinate = mesh.size(dimension), mesh.get_local_rank(dimension)
        if placement.is_shard():
            cuts += 1
            assert cuts == 1 and placement.is_shard(0), f"a tensor that is cut otherwise than by its rows: {placements}"
            length = -(-layout.shape[0] // size)
            first = min(coordinate * length, layout.shape[0])
            here = min(first + length, layout.shape[0]) - first
            assert tuple(local.shape) == (here, *layout.shape[1:]), f"{tuple(local.shape)} of {layout.shape}"
        else:
            assert placement.is_replicate(), f"a tensor with {placement}"
            replica, replicas = replica * size + coordinate, replicas * size
    return Rows(local, first, layout, replica, replicas)


def parameters(model: torch.nn.Module) -> dict[str, torch.nn.Parameter]:
    """The trained parameters by name, a tied one once; of a sharded model the shards, which the optimizer knows.

    Frozen ones (LoRA) are those of the base, and are in no checkpoint.
    """
    # A forward pass without a backward pass after it (validation) leaves gathered weights in the place of shards.
    for module in model.modules():
        reshard = getattr(module, "reshard", None)
        if reshard is not None:
            reshard()
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def model_tensors(model: torch.nn.Module) -> dict[str, torch.Tensor]:
    """The weights by name."""
    return {name: parameter.detach() for name, parameter in parameters(model).items()}


def optimizer_tensors(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, torch.Tensor]:
    """The optimizer's tensors, named `KIND/PARAMETER` (`exp_avg/transformer.wte.weight`)."""
    named = parameters(model)
    states = {name: optimizer.state[parameter] for name, parameter in named.items() if parameter in optimizer.state}
    assert len(states) == len(optimizer.state), "the optimizer has states of parameters that the model has not"
    return {f"{kind}/{name}": value.detach() for name, state in states.items() for kind, value in state.items()}


def to_write(tensors: dict[str, torch.Tensor], rank: int, world: int) -> dict[str, Rows]:
    """What this process writes of some tensors; the processes together write each row once."""
    # Replicas take turns by bytes. The same on all processes, because it depends on whole shapes only.
    loads: dict[int, list[int]] = {}
    result: dict[str, Rows] = {}
    for name, tensor in tensors.items():
        rows = rows_of(tensor, rank, world)
        load = loads.setdefault(rows.replicas, [0] * rows.replicas)
        turn = load.index(min(load))
        load[turn] += rows.layout.nbytes
        # A process beyond the last row has nothing, unless the whole tensor is empty.
        if turn == rows.replica and (rows.local.numel() or rows.is_whole):
            result[name] = rows
    return result


def read(parts: TensorParts, name: str, like: torch.Tensor, rank: int, world: int) -> Any:
    """This process's rows of a tensor of the files, cut as `like` is, on the device of `like`.

    Args:
        parts: the files.
        name: of the tensor in them.
        like: a parameter, plain or a DTensor, of the tensor's shape.

    Returns:
        A tensor, or a DTensor with the mesh and placements of `like`; a tensor without dimensions is a plain one.
    """
    import torch

    layout = parts.layouts[name]
    if not layout.shape and like.dim():
        return parts.read(name)
    rows = rows_of(like, rank, world)
    local = torch.empty(rows.local.shape, dtype=layout.dtype, device=rows.local.device)
    parts.read_into(name, local, rows.first)
    if local.shape == like.shape and not hasattr(like, "placements"):
        return local
    from torch.distributed.tensor import DTensor

    sharded: Any = like
    return DTensor.from_local(
        local, sharded.device_mesh, sharded.placements, run_check=False, shape=like.shape, stride=like.stride()
    )


def read_into(parts: TensorParts, name: str, target: torch.Tensor, rank: int, world: int) -> None:
    """Copy this process's rows of a tensor of the files into a parameter."""
    rows = rows_of(target, rank, world)
    parts.read_into(name, rows.local, rows.first)
