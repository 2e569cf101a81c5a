"""What others do to parameters and gradients between the calls of the optimizer: noticed, and never computed over."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from codeshell.optim import AdamW


def _param(value: float = 1.0, dtype: torch.dtype = torch.bfloat16) -> nn.Parameter:
    return nn.Parameter(torch.full((8,), value, dtype=dtype))


def _step(optimizer: torch.optim.Optimizer, p: Tensor, grad: float = 1e-3) -> None:
    p.grad = torch.full_like(p, grad)
    optimizer.step()


# Master weights.


def _copied(p: nn.Parameter) -> None:
    with torch.no_grad():
        p.copy_(torch.full_like(p, 5.0))


def _loaded(p: nn.Parameter) -> None:
    module = nn.ParameterList([p])
    module.load_state_dict({"0": torch.full_like(p, 5.0)})


def _replaced_data(p: nn.Parameter) -> None:
    p.data = torch.full_like(p, 5.0)


def _filled(p: nn.Parameter) -> None:
    nn.init.constant_(p, 5.0)


@pytest.mark.parametrize("stochastic", [False, True])
@pytest.mark.parametrize("write", [_copied, _loaded, _replaced_data, _filled])
def test_a_written_parameter_is_not_overwritten_by_its_old_copy(
    write: Callable[[nn.Parameter], None], stochastic: bool
) -> None:
    p = _param()
    optimizer = AdamW([p], lr=1e-3, weight_decay=0.0, master_weights=True, stochastic_rounding=stochastic)
    _step(optimizer, p)
    write(p)
    _step(optimizer, p)
    assert torch.allclose(p.float(), torch.tensor(5.0), atol=0.05)
    assert torch.allclose(optimizer.state[p]["master_param"], torch.tensor(5.0), atol=0.01)


def test_an_untouched_parameter_keeps_its_copy() -> None:
    p = _param()
    optimizer = AdamW([p], lr=1e-4, weight_decay=0.0, master_weights=True)
    for _ in range(20):
        _step(optimizer, p)
    # Twenty steps of 1e-4 are less than half a bf16 step at 1.0, but more than 0 in the copy.
    assert torch.allclose(optimizer.state[p]["master_param"], torch.tensor(1 - 20e-4), atol=1e-5)
    # A move of the same numbers is none.
    before = optimizer.state[p]["master_param"].clone()
    p.data = p.data.clone()
    _step(optimizer, p)
    assert torch.allclose(optimizer.state[p]["master_param"], before - 1e-4, atol=1e-5)


@pytest.mark.parametrize("model_first", [False, True])
def test_states_load_in_either_order(model_first: bool) -> None:
    p = _param()
    optimizer = AdamW([p], lr=1e-4, weight_decay=0.0, master_weights=True)
    for _ in range(5):
        _step(optimizer, p)
    saved, weights = copy.deepcopy(optimizer.state_dict()), p.detach().clone()
    q = _param(3.0)
    other = AdamW([q], lr=1e-4, weight_decay=0.0, master_weights=True)
    _step(other, q)
    for what in ("model", "optimizer") if model_first else ("optimizer", "model"):
        if what == "model":
            with torch.no_grad():
                q.copy_(weights)
        else:
            other.load_state_dict(saved)
    _step(optimizer, p)
    _step(other, q)
    assert torch.equal(optimizer.state[p]["master_param"], other.state[q]["master_param"])


def test_a_model_that_is_loaded_after_the_optimizer_counts() -> None:
    p = _param()
    optimizer = AdamW([p], lr=1e-3, weight_decay=0.0, master_weights=True)
    _step(optimizer, p)
    state = optimizer.state_dict()
    q = _param(7.0)
    other = AdamW([q], lr=1e-3, weight_decay=0.0, master_weights=True)
    other.load_state_dict(state)
    _step(other, q)
    assert torch.allclose(q.float(), torch.tensor(7.0), atol=0.05)


# The clipping factor.


def _optimizer() -> tuple[nn.Linear, AdamW]:
    torch.manual_seed(0)
    module = nn.Linear(4, 4)
    return module, AdamW(module.parameters(), lr=0.1)


def _backward(module: nn.Module, scale: float = 1.0) -> None:
    (module(torch.ones(1, 4)) * scale).sum().backward()


def test_the_factor_is_void_for_new_gradients() -> None:
    module, optimizer = _optimizer()
    _backward(module, float("nan"))
    assert not torch.isfinite(optimizer.clip_grad_norm(1.0))
    module.zero_grad()
    _backward(module)
    optimizer.step()
    assert torch.isfinite(module.weight).all()


@pytest.mark.parametrize(
    "change",
    [
        lambda module: _backward(module),
        lambda module: module.zero_grad(set_to_none=False),
        lambda module: module.weight.grad.mul_(2.0),
        lambda module: setattr(module.weight, "grad", torch.ones(4, 4)),
    ],
)
def test_gradients_that_changed_after_clipping_are_an_error(change: Callable[[nn.Linear], Any]) -> None:
    module, optimizer = _optimizer()
    _backward(module)
    optimizer.clip_grad_norm(1.0)
    change(module)
    with pytest.raises(RuntimeError, match="changed since clip_grad_norm"):
        optimizer.step()
    optimizer.clip_grad_norm(1.0)
    optimizer.step()


def test_a_dropped_gradient_leaves_the_factor_of_the_others() -> None:
    module, optimizer = _optimizer()
    _backward(module, 1e3)
    optimizer.clip_grad_norm(1e-3)
    module.bias.grad = None
    optimizer.step()
    assert float(optimizer.state[module.weight]["exp_avg"].abs().max()) < 1e-3


# A GradScaler sees what it sees of torch's optimizer.


@pytest.mark.parametrize("fused", [None, True, False])
def test_the_scaler_skips_as_with_torch(fused: bool | None) -> None:
    for kind in (torch.optim.AdamW, AdamW):
        p = _param(dtype=torch.float32)
        optimizer = kind([p], fused=fused)
        assert hasattr(optimizer, "_step_supports_amp_scaling") == (fused is True)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
        calls: list[int] = []
        optimizer.register_step_pre_hook(lambda *_, calls=calls: calls.append(1))
        for value in (1.0, float("inf"), 1.0):
            p.grad = scaler.scale(torch.ones(())) * torch.full((8,), value)
            scaler.step(optimizer)
            scaler.update()
        assert len(calls) == (3 if fused else 2)
        assert torch.isfinite(p).all()


def test_copies_leave_the_skipping_to_the_scaler() -> None:
    optimizer = AdamW([_param(dtype=torch.float32)], fused=True)
    for other in (copy.deepcopy(optimizer), pickle.loads(pickle.dumps(optimizer))):
        p = other.param_groups[0]["params"][0]
        p.grad = torch.full_like(p, float("inf"))
        scaler = torch.amp.GradScaler("cpu")
        scaler.scale(torch.ones(()))
        scaler.step(other)
        assert torch.isfinite(p).all()
