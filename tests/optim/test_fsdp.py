"""AdamW under FSDP2: two processes with gloo, each updating its shards, against one process with torch's."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from helpers.simulated_gpu import simulate
from torch import nn

from codeshell.optim import AdamW


def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 9), nn.GELU(), nn.Linear(9, 3), nn.LayerNorm(3), nn.Linear(3, 1, bias=False))


def batch(step: int) -> torch.Tensor:
    return torch.randn(4, 6, generator=torch.Generator().manual_seed(step))


def train(net: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    norms = []
    for step in steps:
        optimizer.zero_grad()
        net(batch(step)).square().mean().backward()
        if isinstance(optimizer, AdamW):
            norms.append(optimizer.clip_grad_norm(0.1).item())
        else:
            norms.append(torch.nn.utils.clip_grad_norm_(net.parameters(), 0.1).item())
        optimizer.step()
    return norms


def work(rank: int, folder: str, without_kernels: bool) -> None:
    with pytest.MonkeyPatch.context() as patch:
        if without_kernels:
            simulate(patch, None, (7, 5))
        work_here(rank, folder)


def shards_are_rounded_differently(mesh) -> None:
    """Equal numbers in both shards are rounded by other random bits; equal shards of two replicas by the same."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for placement, equal in ((Shard(0), False), (Replicate(), True)):
        p = nn.Parameter(distribute_tensor(torch.ones(2, 256, dtype=torch.bfloat16), mesh, [placement]))
        p.grad = distribute_tensor(torch.ones(2, 256, dtype=torch.bfloat16), mesh, [placement])
        AdamW([p], lr=1e-3, stochastic_rounding=True).step()
        both = [torch.empty(256 * (1 + equal), dtype=torch.float32) for _ in range(2)]
        dist.all_gather(both, p.to_local().detach().float().reshape(-1))
        assert len(both[0].unique()) == 2, "nothing was rounded"
        assert torch.equal(*both) == equal


def work_here(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        mesh = init_device_mesh("cpu", (2,))
        for options in ({}, {"master_weights": True, "bf16": True}):
            options = dict(options)
            dtype = torch.bfloat16 if options.pop("bf16", False) else torch.float32
            net = model().to(dtype).float() if dtype == torch.float32 else model().to(dtype)
            reference = copy.deepcopy(net)
            fully_shard(net, mesh=mesh)
            optimizer = AdamW(net.parameters(), lr=0.05, **options)
            assert all(isinstance(p, DTensor) for p in net.parameters())
            other = AdamW(reference.parameters(), lr=0.05, **options)
            if dtype == torch.float32:
                other = torch.optim.AdamW(reference.parameters(), lr=0.05)
                norms, expected = train(net, optimizer, range(4)), train(reference, other, range(4))
                torch.testing.assert_close(norms, expected, rtol=1e-4, atol=1e-6)
            else:
                for step in range(3):  # the same gradients, dtype for dtype
                    for p, q in zip(net.parameters(), reference.parameters(), strict=True):
                        q.grad = torch.randn(q.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
                        from torch.distributed.tensor import distribute_tensor

                        p.grad = distribute_tensor(q.grad, p.device_mesh, p.placements)
                    optimizer.step()
                    other.step()
            for p, q in zip(net.parameters(), reference.parameters(), strict=True):
                torch.testing.assert_close(p.full_tensor(), q.detach(), rtol=1e-4, atol=1e-5)
                state = optimizer.state[p]
                assert isinstance(state["exp_avg"], DTensor)
                torch.testing.assert_close(
                    state["exp_avg_sq"].full_tensor(), other.state[q]["exp_avg_sq"], rtol=1e-3, atol=1e-7
                )
            saved = copy.deepcopy(optimizer.state_dict())
            again = AdamW(net.parameters(), lr=0.05, **options)
            again.load_state_dict(saved)
            again.step()
            assert all(again.state[p]["step"].item() == optimizer.state[p]["step"].item() + 1 for p in net.parameters())
        shards_are_rounded_differently(mesh)
        Path(folder, f"done-{rank}").touch()
    finally:
        dist.destroy_process_group()


@pytest.mark.skipif(
    not (dist.is_available() and dist.is_gloo_available()), reason="torch without gloo: FSDP2 is NOT tested"
)
@pytest.mark.timeout(300)
@pytest.mark.parametrize("without_kernels", [False, True])
def test_two_processes_with_sharded_parameters(tmp_path, without_kernels):
    torch.multiprocessing.spawn(work, (str(tmp_path), without_kernels), nprocs=2)
    assert sorted(path.name for path in tmp_path.glob("done-*")) == ["done-0", "done-1"]
