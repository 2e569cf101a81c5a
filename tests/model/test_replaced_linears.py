"""Whatever replaces or hooks a linear acts on the model: its logits, its loss and its generation."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.modules import is_plain

LINEARS = ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_proj", "transformer.h.0.mlp.c_fc", "lm_head"]
IDS = torch.randint(0, 96, (1, 9), generator=torch.Generator().manual_seed(1))


def _model() -> CodeShellForCausalLM:
    torch.manual_seed(0)
    config = CodeShellConfig(
        vocab_size=96, n_positions=64, n_embd=32, n_layer=2, n_head=2, num_query_groups=1, tie_word_embeddings=False
    )
    return CodeShellForCausalLM(config).eval()


class Doubled(nn.Linear):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Wrapper(nn.Module):
    """A replacement without `weight`, as quantised layers are."""

    def __init__(self, inner: nn.Linear) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x) * 2
        return out


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _subclass(model: nn.Module, name: str) -> None:
    old = model.get_submodule(name)
    new = Doubled(old.in_features, old.out_features, bias=old.bias is not None)  # type: ignore[arg-type]
    new.load_state_dict(old.state_dict())
    _replace(model, name, new)


def _wrapper(model: nn.Module, name: str) -> None:
    _replace(model, name, Wrapper(model.get_submodule(name)))  # type: ignore[arg-type]


def _forward_hook(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda module, given, out: out * 2)


def _pre_hook(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda module, given: (given[0] * 2,))


def _instance_forward(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    old = module.forward
    module.forward = lambda x: old(x) * 2  # type: ignore[assignment, method-assign]


def _pruned(model: nn.Module, name: str) -> None:
    prune.l1_unstructured(model.get_submodule(name), "weight", amount=0.7)  # type: ignore[no-untyped-call]


def _parametrized(model: nn.Module, name: str) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3

    parametrize.register_parametrization(model.get_submodule(name), "weight", Scaled())


def _old_weight_norm(model: nn.Module, name: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        module = nn.utils.weight_norm(model.get_submodule(name))
    with torch.no_grad():
        module.weight_g.mul_(3.0)  # type: ignore[operator, union-attr]


CHANGES: list[Callable[[nn.Module, str], None]] = [
    _subclass,
    _wrapper,
    _forward_hook,
    _pre_hook,
    _instance_forward,
    _pruned,
    _parametrized,
    _old_weight_norm,
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", LINEARS)
@torch.no_grad()
def test_each_change_acts_on_logits_loss_and_cache(name: str, change: Callable[[nn.Module, str], None]) -> None:
    model = _model()
    before = model(IDS).logits
    change(model, name)
    after = model(IDS).logits
    assert float((after - before).abs().max()) > 1e-3
    # The loss and the step over a cache see the same model.
    wanted = nn.functional.cross_entropy(after[0, :-1], IDS[0, 1:])
    assert float(model(IDS, labels=IDS).loss) == pytest.approx(float(wanted), rel=1e-4)
    (row,) = model.generate(IDS, max_new_tokens=3)
    sequence = IDS
    for token in row:
        assert int(model(sequence).logits[0, -1].argmax()) == token
        sequence = torch.cat((sequence, torch.tensor([[token]])), 1)


@pytest.fixture
def everywhere() -> Iterator[list[str]]:
    fired: list[str] = []
    handle = nn.modules.module.register_module_forward_hook(lambda m, i, o: fired.append(type(m).__name__))
    yield fired
    handle.remove()


def test_a_hook_on_all_modules_fires(everywhere: list[str]) -> None:
    _model()(IDS)
    assert everywhere.count("Linear") == 9


def test_backward_hooks_fire() -> None:
    model, fired = _model(), []
    for name in LINEARS:
        model.get_submodule(name).register_full_backward_hook(lambda m, i, o, name=name: fired.append(name))
        model.get_submodule(name).register_full_backward_pre_hook(lambda m, o, name=name: fired.append(name))
    model(IDS, labels=IDS).loss.backward()
    assert sorted(fired) == sorted(LINEARS * 2)


def test_an_untouched_model_takes_the_kernels() -> None:
    model = _model()
    assert all(is_plain(model.get_submodule(name)) for name in LINEARS)
    _forward_hook(model, LINEARS[0])
    assert not is_plain(model.get_submodule(LINEARS[0]))


@torch.no_grad()
def test_a_quantised_model_computes_with_its_quantised_weights() -> None:
    model = _model()
    before = model(IDS).logits
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        quantised = torch.ao.quantization.quantize_dynamic(model, {nn.Linear}, dtype=torch.qint8)
        after = quantised(IDS).logits
    assert 1e-6 < float((after - before).norm() / before.norm()) < 0.2


def test_lora_trains_and_merges() -> None:
    peft: Any = pytest.importorskip("peft")
    model = _model()
    before = model(IDS).logits.detach()
    settings = peft.LoraConfig(target_modules=["c_attn", "c_proj", "c_fc"], r=4, init_lora_weights=False)
    lora = peft.get_peft_model(model, settings)
    adapted = lora(IDS).logits.detach()
    assert float((adapted - before).norm() / before.norm()) > 0.01
    lora(IDS, labels=IDS).loss.backward()
    assert all(p.grad is not None for p in lora.parameters() if p.requires_grad)
    tokens = lora.generate(IDS, max_new_tokens=4)
    merged = lora.merge_and_unload()
    torch.testing.assert_close(merged(IDS).logits, adapted, atol=1e-4, rtol=1e-4)
    assert merged.generate(IDS, max_new_tokens=4) == tokens
