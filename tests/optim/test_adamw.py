"""AdamW against torch's unfused one, and the parameter groups."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from codeshell.optim import AdamW, parameter_groups


def problem():
    generator = torch.Generator().manual_seed(0)
    weights = [torch.randn(shape, generator=generator) for shape in ((40, 30), (30,), (1,), (0, 3))]
    gradients = [[torch.randn(w.shape, generator=generator) for w in weights] for _ in range(5)]
    return weights, gradients


def train(make, threads=1):
    weights, gradients = problem()
    parameters = [nn.Parameter(w.clone()) for w in weights]
    optimizer = make(parameters)
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        for step in gradients:
            for parameter, gradient in zip(parameters, step, strict=True):
                parameter.grad = gradient.clone()
            optimizer.step()
    finally:
        torch.set_num_threads(before)
    return parameters, optimizer


SETTINGS = {"lr": 1e-2, "betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def test_equals_torch_to_rounding():
    mine, _ = train(lambda p: AdamW(p, **SETTINGS))
    theirs, _ = train(lambda p: torch.optim.AdamW(p, **SETTINGS, fused=False, foreach=False))
    assert all(torch.allclose(a, b, rtol=1e-5, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


def test_repeats_bit_for_bit_with_any_number_of_threads():
    first, _ = train(lambda p: AdamW(p, **SETTINGS))
    for threads in (1, 2, 3):
        again, _ = train(lambda p: AdamW(p, **SETTINGS), threads)
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize("direction", ["to torch", "from torch"])
def test_state_moves_to_torch_and_back(direction):
    classes = (AdamW, torch.optim.AdamW)
    source, target = classes if direction == "to torch" else classes[::-1]
    parameters, optimizer = train(lambda p: source(p, **SETTINGS))
    assert set(optimizer.state[parameters[0]]) == {"step", "exp_avg", "exp_avg_sq"}
    copies = [nn.Parameter(p.detach().clone()) for p in parameters]
    other = target(copies, **SETTINGS, fused=True)
    other.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for p, c in zip(parameters, copies, strict=True):
        p.grad, c.grad = torch.ones_like(p), torch.ones_like(p)
    optimizer.step()
    other.step()
    assert all(torch.allclose(a, b, rtol=1e-6, atol=1e-7) for a, b in zip(parameters, copies, strict=True))
    other_state = other.state[copies[0]]
    assert all(
        torch.allclose(optimizer.state[parameters[0]][name], other_state[name], rtol=1e-6) for name in other_state
    )


def test_fused_unless_asked_otherwise():
    parameter = nn.Parameter(torch.ones(3))
    assert AdamW([parameter]).defaults["fused"] is True
    assert AdamW(iter([parameter]), fused=False).defaults["fused"] is False
    assert not AdamW([{"params": iter([parameter])}], foreach=True).defaults["fused"]
    assert AdamW([("name", parameter)]).defaults["fused"] is True


def test_decay_on_matrices_only_and_tied_weights_once():
    model = nn.Sequential(nn.Linear(4, 4), nn.LayerNorm(4), nn.Linear(4, 4, bias=False))
    model[2].weight = model[0].weight
    frozen = model[1].weight.requires_grad_(False)
    decayed, plain = parameter_groups(model, 0.1)
    assert decayed == {"params": [model[0].weight], "weight_decay": 0.1}
    assert plain["weight_decay"] == 0.0 and all(p is not frozen for p in plain["params"])
    assert [tuple(p.shape) for p in plain["params"]] == [(4,), (4,)]
