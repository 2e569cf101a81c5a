"""codeshell.optim.AdamW in torch's place in torch's own description of its AdamW: the inputs, errors, implementations,
schedulers and tolerances of `torch.testing._internal.common_optimizers`, which the wheel carries (its test file does
not come with it).

Where ours differs there is a test of that here, and no other exception:

    complex parameters   refused, unless fused=False asks for torch's own step
    foreach by default   torch's tests have it on GPUs; ours takes its own kernels, on any device
    moments when loaded  keep their own dtype (torch casts them to the parameter's)
"""

from __future__ import annotations

import copy
import functools
import sys
import types
import unittest
from typing import Any
from unittest import mock

import pytest
import torch
from torch import nn

from codeshell.optim import AdamW

pytestmark = pytest.mark.filterwarnings("ignore:codeshell.optim.AdamW")

# By description, so that collecting the tests need not import torch's (some seconds).
INPUTS = ("default", "non-default lr", "nonzero weight_decay", "maximize", "amsgrad")
ERRORS = 12
every_input = pytest.mark.parametrize("description", INPUTS)
IMPLEMENTATIONS: dict[str, dict[str, bool]] = {
    "by default": {},
    "for-loop": {"foreach": False, "fused": False},
    "foreach": {"foreach": True},
    "differentiable": {"differentiable": True},
    "fused": {"fused": True},
}
every_implementation = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)


@functools.cache
def common() -> Any:
    """torch's module, without what its imports would do to this process, and without seconds of them."""
    cases = types.ModuleType("expecttest")  # wanted for a base class of test cases only, and seldom installed
    cases.TestCase = unittest.TestCase  # type: ignore[attr-defined]
    operators = types.ModuleType("torch.testing._internal.common_methods_invocations")  # describes all operators
    with mock.patch("torch.backends.disable_global_flags"):
        added = [stub.__name__ for stub in (cases, operators) if sys.modules.setdefault(stub.__name__, stub) is stub]
        try:
            from torch.testing._internal.opinfo.core import DecorateInfo

            operators.DecorateInfo = DecorateInfo  # type: ignore[attr-defined]
            from torch.testing._internal import common_optimizers
        except ImportError as error:
            pytest.skip(f"torch's descriptions of its optimizers cannot be imported, so they are NOT tested: {error}")
        finally:
            for name in added:
                del sys.modules[name]
    return common_optimizers


def info() -> Any:
    return next(entry for entry in common().optim_db if entry.optim_cls is torch.optim.AdamW)


def arguments(description: str, dtype: torch.dtype = torch.float32) -> dict[str, Any]:
    found = [entry for entry in info().optim_inputs_func("cpu", dtype) if entry.desc == description]
    assert len(found) == 1
    return copy.deepcopy(found[0].kwargs)


def errors() -> list[Any]:
    return info().optim_error_inputs_func("cpu", torch.float32)


def test_this_file_has_all_of_torchs_inputs():
    assert tuple(entry.desc for entry in info().optim_inputs_func("cpu")) == INPUTS
    assert len(errors()) == ERRORS
    assert set(info().supported_impls) <= IMPLEMENTATIONS.keys()
    assert not info().supports_sparse and not info().step_requires_closure


@pytest.mark.parametrize("index", range(ERRORS))
def test_errors(index):
    entry = errors()[index]
    given, on = entry.optimizer_error_input, common().OptimizerErrorEnum.CONSTRUCTION_ERROR
    assert entry.error_on == on
    params = [nn.Parameter(torch.randn(2, 3))] if given.params is None else given.params
    if issubclass(entry.error_type, Warning):
        with pytest.warns(entry.error_type, match=entry.error_regex):
            AdamW(params, **given.kwargs)
    else:
        with pytest.raises(entry.error_type, match=entry.error_regex):
            AdamW(params, **given.kwargs)


def weights(dtype: torch.dtype, shapes=((10, 5), (10,), (3, 1, 2), (), (0, 4))) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(7)
    return [nn.Parameter((torch.rand(shape, generator=generator) - 0.5).to(dtype)) for shape in shapes]


def run(optimizer: torch.optim.Optimizer, params: list[nn.Parameter], steps: range) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for p in params:
            # As torch's cases: one step without any gradient, and one parameter that never has one.
            grad = torch.rand(p.shape, generator=generator).to(p.dtype) if step != 2 and p is not params[1] else None
            p.grad = grad
        optimizer.step()


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """torch's own between its fused and its for-loop AdamW, from the description; elsewhere the dtype's usual one."""
    overrides = [
        override
        for decorator in info().decorators
        if getattr(decorator, "test_name", "") == "test_fused_matches_forloop"
        for change in decorator.decorators
        for override in [getattr(change, "d", {}).get(dtype)]
        if override is not None and dtype in (torch.bfloat16, torch.float16)
    ]
    return {"rtol": overrides[0].rtol, "atol": overrides[0].atol} if overrides else {}


@every_input
@every_implementation
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_matches_torchs_own(description, implementation, dtype):
    if implementation == "differentiable" and dtype == torch.float16:
        pytest.skip("torch has no such case: differentiable in fp16")
    kwargs = arguments(description, dtype)
    mine, theirs = weights(dtype), weights(dtype)
    a = AdamW(mine, **copy.deepcopy(kwargs), **IMPLEMENTATIONS[implementation])
    # A differentiable step corrects the bias in the step's fp32, even where parameters are fp64.
    differentiable = implementation == "differentiable"
    # A loop in 16 bits rounds between its operations: there torch's fused step is what ours has to match.
    fused = dtype.itemsize == 2 and implementation in ("by default", "fused")
    b = torch.optim.AdamW(theirs, **copy.deepcopy(kwargs), foreach=False, fused=fused, differentiable=differentiable)
    if differentiable:
        for p in (*mine, *theirs):
            p.requires_grad_(False)  # leaves would not let themselves be written
    run(a, mine, range(7))
    run(b, theirs, range(7))
    for p, q in zip(mine, theirs, strict=True):
        torch.testing.assert_close(p.detach(), q.detach(), **tolerance(dtype))
        assert a.state[p].keys() == b.state[q].keys()
        for name, value in b.state[q].items():
            torch.testing.assert_close(a.state[p][name], value, **tolerance(dtype))
            assert a.state[p][name].is_contiguous()


def test_torchs_tolerance_is_found():
    assert tolerance(torch.bfloat16) == tolerance(torch.float16) == {"rtol": 5e-3, "atol": 5e-3}
    assert tolerance(torch.float32) == {}


@every_input
@every_implementation
@pytest.mark.parametrize("schedule", [None, 0, 1])
def test_goes_the_right_way(description, implementation, schedule):
    if implementation == "differentiable":
        pytest.skip("a leaf that requires a gradient is not written by a differentiable step")
    kwargs = arguments(description)
    torch.manual_seed(0)
    weight, bias, x = nn.Parameter(torch.randn(10, 5)), nn.Parameter(torch.randn(10)), torch.randn(5)
    optimizer = AdamW([weight, bias], **kwargs, **IMPLEMENTATIONS[implementation])
    schedulers = info().scheduler_inputs[0] if isinstance(info().scheduler_inputs[0], list) else info().scheduler_inputs
    scheduler = None if schedule is None else schedulers[schedule](optimizer)

    def closure():
        optimizer.zero_grad()
        loss = (weight.mv(x) + bias).pow(2).sum()
        loss.backward()
        return loss

    first = closure().item()
    for _ in range(20):
        loss = optimizer.step(closure)
        if scheduler is not None:
            plateau = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
            scheduler.step(loss.item()) if plateau else scheduler.step()
    last = closure().item()
    assert last > first if kwargs.get("maximize") else last < first


@every_input
@every_implementation
def test_state_dicts_go_on_and_older_ones_load(description, implementation):
    kwargs = {**arguments(description), **IMPLEMENTATIONS[implementation]}
    params = weights(torch.float32)
    if implementation == "differentiable":
        for p in params:
            p.requires_grad_(False)
    optimizer = AdamW(params, **kwargs)
    run(optimizer, params, range(3))
    saved, twins = copy.deepcopy(optimizer.state_dict()), copy.deepcopy(params)
    for flag in info().not_og_supported_flags:  # as a version of torch without these flags wrote it
        if flag in saved["param_groups"][0] and flag != "maximize":
            del saved["param_groups"][0][flag]
    other = AdamW(twins, **kwargs)
    other.load_state_dict(saved)
    for flag in IMPLEMENTATIONS[implementation]:
        other.param_groups[0][flag] = kwargs[flag]
    run(optimizer, params, range(3, 6))
    run(other, twins, range(3, 6))
    for p, q in zip(params, twins, strict=True):
        torch.testing.assert_close(p, q, rtol=1e-6, atol=1e-7)


@every_input
def test_deepcopy_repr_and_empty_states(description):
    params = weights(torch.float32)
    optimizer = AdamW(params, **arguments(description))
    assert "AdamW" in repr(optimizer)
    assert not optimizer.state_dict()["state"]
    run(optimizer, params, range(2))
    assert len(copy.deepcopy(optimizer).state) == len(optimizer.state) == len(params) - 1


# The differences


def test_difference_complex_parameters():
    assert info().supports_complex
    p = nn.Parameter(torch.ones(3, dtype=torch.complex64))
    with pytest.raises(ValueError, match="complex parameter"):
        AdamW([p])
    p.grad = torch.ones_like(p)
    q = nn.Parameter(p.detach().clone())
    q.grad = torch.ones_like(q)
    AdamW([p], fused=False, foreach=False).step()
    torch.optim.AdamW([q], foreach=False).step()
    torch.testing.assert_close(p, q)


def test_difference_default_implementation():
    group = AdamW(weights(torch.float32)).param_groups[0]
    assert group["fused"] is True and not group["foreach"]


def test_difference_loaded_moments_keep_their_dtype():
    p = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))
    p.grad = torch.full((3,), 0.3, dtype=torch.bfloat16)
    optimizer = AdamW([p], moment_dtype=torch.float32)
    optimizer.step()
    other = AdamW([p], moment_dtype=torch.float32)
    other.load_state_dict(optimizer.state_dict())
    assert torch.equal(other.state[p]["exp_avg"], optimizer.state[p]["exp_avg"])
    assert other.state[p]["exp_avg"].dtype == torch.float32
