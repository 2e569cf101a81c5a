"""Several processes that train one model: who they are, what they agree on, and how the model is cut among them.

Each process (a *rank*) holds a slice of every weight, gradient and moment, by rows (FSDP2: `fully_shard`), and reads
its own lanes of the data (`codeshell.train.rows`). The gathered weights of a block live while the block computes. A
gradient is the plain sum over the ranks of gradients that are already divided by the targets of the whole batch, so
ignored targets are counted right, and two ranks give the bits of one process that takes two micro-batches.

What ranks must agree on (losses, signals, verdicts, errors) goes through a gloo group on the CPU, in the order of the
ranks: every rank computes the same sums from the same numbers. `Group.alone` is one process; it imports and sends
nothing.
"""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

import torch

from codeshell.errors import UserError
from codeshell.train import parts
from codeshell.train.agreement import AgreedError, agree, gather
from codeshell.train.launch import PATIENCE, Place, Timeouts, place
from codeshell.train.watch import Watch

if TYPE_CHECKING:
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh

    from codeshell.recipe import Train

Result = TypeVar("Result")


class Group:
    """The processes that train together.

    Attributes:
        rank, world: number of this process, from 0, and how many there are.
        local_rank: number of this process among those of its machine.
        device: where this rank computes.
        mesh: how the weights are cut: None alone; ("shard",), or ("replicate", "shard") with replicas.
        cpu: the gloo group for small facts and for checkpoints; None alone.
        hosts: the machine of each rank.
    """

    def __init__(self, where: Place, device: torch.device) -> None:
        self.rank, self.world, self.local_rank = where.rank, where.world, where.local_rank
        self.device = device
        self.mesh: DeviceMesh | None = None
        self.cpu: dist.ProcessGroup | None = None
        self.hosts: list[str] = [socket.gethostname()]
        self.watch: Watch | None = None

    @property
    def leader(self) -> bool:
        """Whether this rank prints, and writes the run's files."""
        return self.rank == 0

    @staticmethod
    def alone(device: torch.device) -> Group:
        """One process."""
        return Group(Place(), device)

    @staticmethod
    def join(replicate: int | None = 1) -> Group:
        """Meet the other processes that torchrun or Slurm has started; without their variables, be alone.

        Args:
            replicate: replicas of the model; None leaves `arrange` to the caller.

        Raises:
            UserError: the processes do not come together in time, or a GPU is missing or shared.
        """
        where = place()
        on_gpus = torch.cuda.is_available()
        if where.world == 1:
            return Group.alone(torch.device("cuda" if on_gpus else "cpu"))
        import torch.distributed as dist

        if on_gpus and not dist.is_nccl_available():
            raise UserError(
                "several GPUs need NCCL, which this build of torch is without; install torch's CUDA build for Linux, "
                "or start one process"
            )
        group = Group(where, _device(where, on_gpus))
        if on_gpus:
            torch.cuda.set_device(group.device)
        limits = Timeouts.read()
        try:
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_gpus else "gloo",
                init_method=f"tcp://{where.address}:{where.port}",
                rank=where.rank,
                world_size=where.world,
                timeout=timedelta(seconds=limits.first),
            )
            # What the ranks tell one another may wait for a slow disk; the watch finds those that have ended.
            group.cpu = dist.new_group(backend="gloo", timeout=timedelta(seconds=PATIENCE * limits.later))
        except (RuntimeError, ValueError) as error:  # also torch's own DistNetworkError and DistStoreError
            raise UserError(_not_met(where, limits, error)) from error
        group.hosts = group.gather(group.hosts[0])
        group.watch = Watch(where, group.hosts[where.rank], limits)
        group.agree(lambda: None)
        _check_devices(group)
        if replicate is not None:
            group.arrange(replicate)
        return group

    def arrange(self, replicate: int) -> None:
        """Cut the ranks into so many replicas; within each, the model is sharded.

        Raises:
            UserError: the number of ranks is not a multiple of `replicate`.
        """
        if self.world % replicate:
            raise UserError(
                f"train.replicate: {replicate} replicas on {self.world} ranks; "
                f"start a multiple of {replicate}, or set it to a divisor of {self.world}"
            )
        if self.world == 1:
            return
        from torch.distributed.device_mesh import init_device_mesh

        # Ranks are numbered machine by machine, so a replica's shards are neighbours.
        shape, names = (self.world,), ("shard",)
        if replicate > 1:
            shape, names = (replicate, self.world // replicate), ("replicate", "shard")  # type: ignore[assignment]
        self.mesh = init_device_mesh(self.device.type, shape, mesh_dim_names=names)

    def share(self, lanes: int) -> range:
        """This rank's lanes of so many.

        Raises:
            UserError: the ranks do not divide them evenly.
        """
        if lanes % self.world:
            divisors = [str(ranks) for ranks in range(1, lanes + 1) if lanes % ranks == 0]
            raise UserError(
                f"{self.world} ranks do not divide the {lanes} lanes of the data (train.batch_tokens over the longest "
                f"context, or fewer for a small corpus); start {' or '.join(divisors)} of them"
            )
        each = lanes // self.world
        return range(self.rank * each, (self.rank + 1) * each)

    def exchange(self, values: Sequence[float]) -> list[list[float]]:
        """Every rank's numbers (fp64), in the order of the ranks; all give equally many."""
        if self.world == 1:
            return [list(values)]
        import torch.distributed as dist

        mine = torch.tensor(values, dtype=torch.float64)
        rows = [torch.empty_like(mine) for _ in range(self.world)]
        dist.all_gather(rows, mine, group=self.cpu)
        return [row.tolist() for row in rows]

    def sum(self, values: Sequence[float]) -> list[float]:
        """The sums over the ranks, in fp64 and in the order of the ranks, so that all ranks have the same bits."""
        rows = self.exchange(values)
        totals = rows[0]
        for row in rows[1:]:
            totals = [total + value for total, value in zip(totals, row, strict=True)]
        return totals

    def gather(self, value: Any) -> list[Any]:
        """Every rank's value, in the order of the ranks, on every rank. It goes through JSON: a tuple becomes a list.

        With one process it is the value itself.
        """
        return gather(value, self.cpu)

    def agree(self, action: Callable[[], Result]) -> Result:
        """Do something that can fail on some ranks alone; then every rank raises the `UserError` of the first of them.

        The action must not communicate: a rank that fails in it would miss the others.
        """
        error: UserError | None = None
        try:
            result = action()
        except UserError as caught:
            error = caught
        agree(error, self.cpu)
        return result

    def lead(self, action: Callable[[], Result]) -> Result:
        """What rank 0 gets by doing something, on every rank; its `UserError`, too. The result goes through JSON."""
        result: Result = self.gather(self.agree(action if self.leader else lambda: None))[0]
        return result

    def same(self, facts: dict[str, Any]) -> None:
        """Compare what every rank must have alike.

        Raises:
            UserError: a rank has something else than rank 0; the first difference is named.
        """
        rows = self.gather(facts)
        for rank, row in enumerate(rows):
            for name, value in row.items():
                if value != rows[0].get(name):
                    raise AgreedError(
                        f"rank {rank} on {self.hosts[rank]} has {name} {value}, rank 0 on {self.hosts[0]} has "
                        f"{rows[0].get(name)}; start all ranks with the same recipe, data and versions"
                    )

    def barrier(self) -> None:
        """Wait for all ranks."""
        self.exchange([])

    def mark(self, doing: str, patience: float = 1.0) -> None:
        """Tell what this rank does now ("step 7"), for the message if it should end in it or hang.

        Args:
            doing: ends a sentence of the form "rank 3 ended in …".
            patience: how many times the usual time it may take.
        """
        if self.watch is not None:
            self.watch.mark(doing, patience)

    def close(self) -> None:
        """Part from the others; call it on every rank, after the last thing that they do together."""
        if self.world == 1:
            return
        import torch.distributed as dist

        # Rank 0 may hold what the others still read; it goes last.
        with contextlib.suppress(RuntimeError):
            self.barrier()
        if self.watch is not None:
            self.watch.close()
        if dist.is_initialized():
            dist.destroy_process_group()


def shard(model: torch.nn.Module, train: Train, group: Group) -> None:
    """Prepare the model for training in place: recompute, compile, then cut it among the ranks.

    Names and shapes of the parameters stay; with several ranks they are DTensors, sharded by rows. The embedding, the
    last norm and the head stay in one group, the root's, because the embedding and the head are one tensor.

    Args:
        model: on its device, or on meta with several ranks; `to_empty` comes after this.
        train: `recompute`, `compile`, `reshard`, `gather` and `weights` are used.
        group: nothing is cut if it is one process.
    """
    for block in parts.blocks(model):
        # The forward is replaced and not the module: the hooks of FSDP stay outside, and names are as they were.
        if train.compile:
            block.forward = torch.compile(block.forward)
        if train.recompute == "block":
            block.forward = _recomputed(block.forward)
    embedding: Any = parts.embedding(model)
    if embedding.weight.dtype != torch.float32 or (group.mesh is not None and train.gather == "bf16"):
        # As autocast does with fp32 weights, keep the residual stream in fp32; the embedding's output would be bf16.
        embedding.register_forward_hook(_widen)
    if group.mesh is None:
        return
    from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard

    policy = MixedPrecisionPolicy(
        param_dtype=torch.bfloat16 if train.gather == "bf16" else None,
        # Sums over ranks are in fp32, whatever the gradients are.
        reduce_dtype=None if train.weights == "fp32" and train.gather == "fp32" else torch.float32,
        cast_forward_inputs=False,
    )
    for block in parts.blocks(model):
        fully_shard(block, mesh=group.mesh, reshard_after_forward=train.reshard, mp_policy=policy)
    fully_shard(model, mesh=group.mesh, mp_policy=policy)
    for module in model.modules():
        if isinstance(module, FSDPModule):
            # A plain sum: the loss is divided by the targets of all ranks. gloo knows no sum with a factor.
            module.set_gradient_divide_factor(1.0)
            module.set_force_sum_reduction_for_comms(True)


def sum_replicas(model: torch.nn.Module, group: Group, *, last: bool) -> None:
    """Have replicas add their gradients in the backward pass of the last micro-batch alone, once a step.

    Within a replica every micro-batch is summed over the ranks, so that each holds its rows alone.
    """
    if group.mesh is not None and group.mesh.ndim > 1:
        from torch.distributed.fsdp import FSDPModule

        assert isinstance(model, FSDPModule)
        model.set_requires_all_reduce(last)


def place_rows(target: torch.Tensor, whole: torch.Tensor) -> None:
    """Copy a tensor into a parameter; into a sharded one, this rank's rows of it. Ranks do not communicate."""
    with torch.no_grad():
        if not hasattr(target, "device_mesh"):
            target.copy_(whole)
            return
        from torch.distributed.tensor import DTensor, distribute_tensor

        assert isinstance(target, DTensor)
        local = target.to_local()
        cut = distribute_tensor(whole.to(local.device), target.device_mesh, target.placements, src_data_rank=None)
        local.copy_(cut.to_local())


def _recomputed(forward: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose activations are thrown away and computed again in the backward pass: the same bits."""
    from torch.utils.checkpoint import checkpoint

    def wrapped(*arguments: Any, **named: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*arguments, **named)
        return checkpoint(forward, *arguments, use_reentrant=False, **named)

    return wrapped


def _widen(module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
    return output.float()


def _device(where: Place, on_gpus: bool) -> torch.device:
    """The device of a rank: the GPU of its number on the machine, or the one that it sees."""
    if not on_gpus:
        return torch.device("cpu")
    # Slurm can give every task one GPU of its own, which each sees as number 0.
    seen = torch.cuda.device_count()
    return torch.device("cuda", where.local_rank if seen > 1 and where.local_rank < seen else 0)


def _check_devices(group: Group) -> None:
    """Refuse ranks that share a GPU, and a mixture of GPUs and CPUs."""
    kind = group.device.type
    uuid = str(torch.cuda.get_device_properties(group.device).uuid) if kind == "cuda" else ""
    facts = group.gather([kind, uuid])
    kinds = [fact[0] for fact in facts]
    if len(set(kinds)) > 1:
        rank = kinds.index("cpu")
        raise UserError(
            f"rank {rank} on {group.hosts[rank]} sees no GPU that torch can use, and other ranks do; "
            "`codeshell info` there says why; or hide the GPUs of all with CUDA_VISIBLE_DEVICES="
        )
    owners: dict[tuple[str, str], int] = {}
    for rank, (host, (_, uuid)) in enumerate(zip(group.hosts, facts, strict=True)):
        if uuid and (host, uuid) in owners:
            there = group.hosts.count(host)
            gpus = len({fact[1] for place, fact in zip(group.hosts, facts, strict=True) if place == host})
            raise UserError(
                f"{there} ranks on {host}, but {gpus} GPUs: ranks {owners[host, uuid]} and {rank} have the same one; "
                f"start {gpus} there (torchrun --nproc-per-node {gpus})"
            )
        owners[host, uuid] = rank


def _not_met(where: Place, limits: Timeouts, error: Exception) -> str:
    """The message for processes that did not come together."""
    reason = str(error).splitlines()[0][:200]
    if "address already in use" in reason.lower() or "EADDRINUSE" in reason:
        return f"port {where.port} of {where.address} is in use; choose another (torchrun --master-port PORT)"
    return (
        f"the {where.world} ranks did not come together at {where.address}:{where.port} within {limits.first:g} s "
        f"({reason}); start all of them with the same address and port, which every machine must reach"
    )
