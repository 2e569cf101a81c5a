"""Muon against the singular value decomposition in fp64, against torch's own Muon, and against torch's AdamW."""

from __future__ import annotations

import copy
import os
from pathlib import Path

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from codeshell.optim import AdamW, Muon, muon_groups
from codeshell.optim.muon import COEFFICIENTS, TURNS, UPDATE_SIZE, orthogonal


def by_svd(x: torch.Tensor, turns: int = TURNS) -> torch.Tensor:
    """What the iteration must give: the polynomial of each singular value, in fp64, between the singular vectors."""
    u, s, vh = torch.linalg.svd(x.double(), full_matrices=False)
    s = s / s.square().sum(-1, keepdim=True).sqrt()
    a, b, c = COEFFICIENTS
    for _ in range(turns):
        s = a * s + b * s**3 + c * s**5
    return (u * s.unsqueeze(-2)) @ vh


@settings(max_examples=40, deadline=None)
@given(
    rows=st.integers(1, 40),
    columns=st.integers(1, 40),
    batch=st.sampled_from([(), (1,), (3,), (2, 2)]),
    scale=st.sampled_from([1e-12, 1.0, 1e12]),
    seed=st.integers(0, 2**30),
)
def test_the_iteration_is_the_polynomial_of_the_singular_values(rows, columns, batch, scale, seed):
    x = torch.randn(*batch, rows, columns, generator=torch.Generator().manual_seed(seed)) * scale
    # The constant beside the norm is there for zeros; with so small a matrix it would count.
    found = orthogonal(x if scale >= 1 else x / x.norm())
    assert found.shape == x.shape and found.dtype == torch.float32
    torch.testing.assert_close(found.double(), by_svd(x), rtol=0, atol=2e-3)


@pytest.mark.parametrize("shape", [(128, 128), (96, 480), (480, 96)])
def test_singular_values_come_near_to_1(shape):
    torch.manual_seed(1)
    u, _, vh = torch.linalg.svd(torch.randn(*shape), full_matrices=False)
    values = torch.logspace(-1.5, 0, min(shape))
    values = torch.linalg.svdvals(orthogonal((u * values) @ vh))
    assert values.min() > 0.65 and values.max() < 1.21


@pytest.mark.parametrize("shape", [(4, 4), (4, 12), (12, 4), (2, 4, 12)])
def test_zeros_stay_zeros(shape):
    assert torch.equal(orthogonal(torch.zeros(shape)), torch.zeros(shape))


class Net(nn.Module):
    """A block's kinds of parameters: an embedding tied to the head, a fused projection, matrices, a norm, biases."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(5)
        self.wte = nn.Embedding(11, 6)
        self.fused, self.up, self.down = nn.Linear(6, 12), nn.Linear(6, 24), nn.Linear(24, 6)
        self.norm = nn.LayerNorm(6)
        self.lm_head = nn.Linear(6, 11, bias=False)
        self.lm_head.weight = self.wte.weight

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        x = self.wte(ids)
        q, k, v = self.fused(x).split([6, 3, 3], dim=-1)
        x = x + q * torch.cat([k, v], dim=-1)
        x = x + self.down(torch.tanh(self.up(self.norm(x))))
        return self.lm_head(x)


def blocks_of(net: Net) -> dict[nn.Parameter, list[int]]:
    return {net.fused.weight: [6, 3, 3]}


def loss_of(net: nn.Module, step: int) -> torch.Tensor:
    ids = torch.randint(0, 11, (4, 8), generator=torch.Generator().manual_seed(step))
    return nn.functional.cross_entropy(net(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def train(net: nn.Module, optimizer: AdamW, steps: range, clip: float = 0.5) -> list[float]:
    norms = []
    for step in steps:
        optimizer.zero_grad()
        loss_of(net, step).backward()
        norms.append(float(optimizer.clip_grad_norm(clip)))
        optimizer.step()
    return norms


def test_the_groups_of_a_model():
    net = Net()
    groups = muon_groups(net, 0.1, blocks_of(net))
    named = {id(p): name for name, p in net.named_parameters()}
    found = [([named[id(p)] for p in g["params"]], g["weight_decay"], g.get("muon"), g.get("blocks")) for g in groups]
    assert found == [
        (["fused.weight"], 0.1, True, (6, 3, 3)),
        (["up.weight", "down.weight"], 0.1, True, ()),
        (["wte.weight"], 0.1, None, None),
        (["fused.bias", "up.bias", "down.bias", "norm.weight", "norm.bias"], 0.0, None, None),
    ]
    # An untied head is none of the hidden matrices either.
    net.lm_head.weight = nn.Parameter(net.lm_head.weight.detach().clone())
    hidden = [named.get(id(p)) for g in muon_groups(net, 0.1) if g.get("muon") for p in g["params"]]
    assert hidden == ["fused.weight", "up.weight", "down.weight"]
    net.up.weight.requires_grad = False
    assert all(p is not net.up.weight for g in muon_groups(net, 0.1) for p in g["params"])


def test_steps_are_those_of_a_reference_in_fp64():
    """Momentum, look ahead, blocks, decay and clipping, by the formulas and the singular value decomposition."""
    net = Net()
    lr, decay, beta, clip = 0.02, 0.1, 0.9, 0.5
    optimizer = Muon(muon_groups(net, decay, blocks_of(net)), lr=lr, momentum=beta)
    matrices = {"fused.weight": [6, 3, 3], "up.weight": [24], "down.weight": [6]}
    weights = {name: dict(net.named_parameters())[name].detach().double().clone() for name in matrices}
    averages = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    # The others by torch's own AdamW on a copy that is given the same gradients, clipped by torch.
    other = copy.deepcopy(net)
    rest = {name: p for name, p in other.named_parameters() if name not in matrices}
    kinds = [[p for p in rest.values() if (p.dim() > 1) == matrix] for matrix in (True, False)]
    adam = torch.optim.AdamW(
        [{"params": kinds[0], "weight_decay": decay}, {"params": kinds[1], "weight_decay": 0.0}], lr=lr
    )
    for step in range(5):
        optimizer.zero_grad()
        loss_of(net, step).backward()
        gradients = {name: p.grad.clone() for name, p in net.named_parameters()}
        for name, p in other.named_parameters():
            p.grad = gradients[name].clone()
        whole = torch.nn.utils.clip_grad_norm_(other.parameters(), clip)
        assert float(optimizer.clip_grad_norm(clip)) == pytest.approx(float(whole), rel=1e-5)
        optimizer.step()
        adam.step()
        factor = min(1.0, clip / (float(whole) + 1e-6))
        for name, rows in matrices.items():
            gradient = gradients[name].double() * factor
            averages[name] = beta * averages[name] + (1 - beta) * gradient
            ahead = (1 - beta) * gradient + beta * averages[name]
            parts = [by_svd(part) * UPDATE_SIZE * max(part.shape) ** 0.5 for part in ahead.split(rows)]
            weights[name] = weights[name] * (1 - lr * decay) - lr * torch.cat(parts)
        now = dict(net.named_parameters())
        for name in matrices:
            torch.testing.assert_close(now[name].detach().double(), weights[name], rtol=0, atol=2e-5)
        for name, p in rest.items():
            torch.testing.assert_close(now[name], p, rtol=1e-5, atol=1e-6)


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="this torch has no Muon of its own to compare with")
def test_a_step_is_torchs_up_to_its_bf16():
    torch.manual_seed(2)
    start = [torch.randn(32, 64), torch.randn(48, 16), torch.randn(24, 24)]
    ours = [nn.Parameter(w.clone()) for w in start]
    theirs = [nn.Parameter(w.clone()) for w in start]
    settings = {"lr": 0.1, "weight_decay": 0.2}
    a = Muon([{"params": ours, "muon": True}], momentum=0.95, **settings)
    b = torch.optim.Muon(theirs, momentum=0.95, nesterov=True, adjust_lr_fn="match_rms_adamw", **settings)
    for step in range(3):
        for p, q in zip(ours, theirs, strict=True):
            p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(step))
            q.grad = p.grad.clone()
        a.step()
        b.step()
    for p, q, w in zip(ours, theirs, start, strict=True):
        # The iteration in bf16 (torch's) wanders by some hundredths; a wrong factor or sign would be far off.
        assert float((p - q).detach().norm() / (q - w).detach().norm()) < 0.05


def test_the_state_is_one_tensor_and_a_loaded_one_continues_bit_for_bit():
    def new() -> tuple[Net, Muon]:
        net = Net()
        return net, Muon(muon_groups(net, 0.1, blocks_of(net)), lr=0.02)

    unbroken, optimizer = new()
    train(unbroken, optimizer, range(6))
    first, stopped = new()
    train(first, stopped, range(3))
    assert set(stopped.state[first.up.weight]) == {"step", "momentum"}
    assert set(stopped.state[first.wte.weight]) == {"step", "exp_avg", "exp_avg_sq"}
    second, resumed = new()
    second.load_state_dict(first.state_dict())
    resumed.load_state_dict(copy.deepcopy(stopped.state_dict()))
    train(second, resumed, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(unbroken.parameters(), second.parameters(), strict=True))
    # A copy of a model with its optimizer continues, too.
    net, copied = copy.deepcopy((first, stopped))
    train(net, copied, range(3, 6))
    assert all(torch.equal(p, q) for p, q in zip(unbroken.parameters(), net.parameters(), strict=True))


def test_a_parameter_without_a_gradient_is_left_alone():
    net = Net()
    optimizer = Muon(muon_groups(net, 0.1, blocks_of(net)), lr=0.02)
    before = net.up.weight.detach().clone()
    loss_of(net, 0).backward()
    net.up.weight.grad = None
    optimizer.clip_grad_norm(1.0)
    optimizer.step()
    assert torch.equal(net.up.weight, before) and net.up.weight not in optimizer.state
    assert not torch.equal(net.down.weight, Net().down.weight)


@pytest.mark.parametrize(
    ("group", "settings", "words"),
    [
        ({"params": [nn.Parameter(torch.zeros(3))]}, {}, r"shape \(3,\)"),
        ({"params": [nn.Parameter(torch.zeros(3, 3, dtype=torch.bfloat16))]}, {}, "bfloat16"),
        ({"params": [nn.Parameter(torch.zeros(4, 2))], "blocks": (1, 2)}, {}, "the 4 rows"),
        ({"params": [nn.Parameter(torch.zeros(4, 2))], "blocks": (4, 0)}, {}, "the 4 rows"),
        ({"params": [nn.Parameter(torch.zeros(4, 2))]}, {"maximize": True}, "maximize"),
        ({"params": [nn.Parameter(torch.zeros(4, 2))]}, {"momentum": 1.0}, "momentum 1.0"),
    ],
)
def test_what_it_does_not_serve_is_refused(group, settings, words):
    with pytest.raises(ValueError, match=words):
        Muon([group | {"muon": True}], **settings)


def work(rank: int, folder: str) -> None:
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard
    from torch.distributed.tensor import DTensor

    torch.set_num_threads(1)
    os.environ.update(RANK=str(rank), WORLD_SIZE="2", LOCAL_RANK=str(rank))
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=2)
    try:
        # Rows that the two processes do not share evenly (11, and blocks of 6, 3, 3 of which the cut goes through one).
        net, alone = Net(), Net()
        fully_shard(net, mesh=init_device_mesh("cpu", (2,)))
        assert all(isinstance(p, DTensor) for p in net.parameters())
        norms = []
        for one in (net, alone):
            optimizer = Muon(muon_groups(one, 0.1, blocks_of(one)), lr=0.02)
            norms.append(train(one, optimizer, range(4)))
        assert norms[0] == pytest.approx(norms[1], rel=1e-5)
        state = optimizer.state[alone.up.weight]["momentum"]
        assert state.shape == alone.up.weight.shape
        for p, q in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(p.full_tensor(), q.detach(), rtol=1e-5, atol=1e-6)
    finally:
        dist.destroy_process_group()


def test_two_processes_compute_what_one_does(tmp_path: Path):
    torch.multiprocessing.spawn(work, (str(tmp_path),), nprocs=2)
