"""Blocks pass the stream and the branch that is still to be added; whatever replaces, hooks or wraps a norm or a block
still acts on the model, and the numbers are those of blocks that pass the stream alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import CheckpointImpl, checkpoint_wrapper
from torch.nn.utils import parametrize
from torch.utils.checkpoint import checkpoint

from codeshell.model import CodeShellConfig, CodeShellForCausalLM, KVCache
from codeshell.model import modules as modules_file
from codeshell.model.modules import CodeShellBlock, is_plain, passes_pairs

NORMS = ["transformer.h.0.ln_1", "transformer.h.1.ln_1", "transformer.h.1.ln_2", "transformer.ln_f"]
IDS = torch.randint(0, 96, (2, 9), generator=torch.Generator().manual_seed(1))


def _model(**settings: Any) -> CodeShellForCausalLM:
    torch.manual_seed(0)
    shape = {"vocab_size": 96, "n_positions": 64, "n_embd": 32, "n_layer": 3, "n_head": 2, "num_query_groups": 1}
    return CodeShellForCausalLM(CodeShellConfig(**(shape | settings)))


def _step(model: nn.Module) -> list[torch.Tensor]:
    """The loss and all gradients."""
    model.zero_grad()
    loss = model(IDS, labels=IDS).loss
    loss.backward()
    return [loss.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]


def _same(a: list[torch.Tensor], b: list[torch.Tensor]) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


def _apart(model: CodeShellForCausalLM) -> None:
    """Every norm and every block as before there was a fused operation: hooks that do nothing."""
    for module in model.modules():
        if isinstance(module, nn.LayerNorm | CodeShellBlock):
            module.register_forward_hook(lambda *given: None)


def test_the_fused_model_is_the_model() -> None:
    model, apart = _model(), _model()
    _apart(apart)
    assert all(passes_pairs(block) for block in model.transformer.h)
    assert not any(passes_pairs(block) for block in apart.transformer.h)
    for own, plain in zip(_step(model), _step(apart), strict=True):
        torch.testing.assert_close(own, plain, rtol=2e-5, atol=2e-7)


def test_each_norm_is_one_fused_call(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    fused = modules_file.ops.residual_layer_norm

    def counted(x: torch.Tensor, branch: torch.Tensor | None, *rest: Any, **more: Any) -> Any:
        calls.append(branch is not None)
        return fused(x, branch, *rest, **more)

    monkeypatch.setattr(modules_file.ops, "residual_layer_norm", counted)
    model = _model().eval()
    model(IDS)
    # Only the first norm has nothing to add.
    assert calls == [False] + [True] * 6
    # A step over a cache, too. (On a CPU `generate` has a pass of its own: tests/model/test_reading.py.)
    model(IDS[:1], cache=KVCache(model.config, 1, 16))
    assert calls[7:] == [False] + [True] * 6


class Doubled(nn.LayerNorm):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 2


class Wrapper(nn.Module):
    """A replacement without `weight` and `eps`, as quantised layers are."""

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out: torch.Tensor = self.inner(x) * 2
        return out


class RMSNorm(nn.RMSNorm):
    """A norm of another kind altogether."""


def _replace(model: nn.Module, name: str, new: nn.Module) -> None:
    parent, _, leaf = name.rpartition(".")
    setattr(model.get_submodule(parent), leaf, new)


def _subclass(model: nn.Module, name: str) -> None:
    _replace(model, name, Doubled(32))


def _wrapper(model: nn.Module, name: str) -> None:
    _replace(model, name, Wrapper(model.get_submodule(name)))


def _other_kind(model: nn.Module, name: str) -> None:
    _replace(model, name, RMSNorm(32))


def _nothing(model: nn.Module, name: str) -> None:
    _replace(model, name, nn.Identity())


def _without_bias(model: nn.Module, name: str) -> None:
    new = nn.LayerNorm(32, bias=False)
    nn.init.constant_(new.weight, 2.0)
    _replace(model, name, new)


def _without_weights(model: nn.Module, name: str) -> None:
    model.get_submodule(name).weight = None  # type: ignore[assignment]
    model.get_submodule(name).bias = None  # type: ignore[assignment]
    model.get_submodule(name).eps = 10.0  # type: ignore[assignment]


def _forward_hook(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_hook(lambda module, given, out: out * 2)


def _pre_hook(model: nn.Module, name: str) -> None:
    model.get_submodule(name).register_forward_pre_hook(lambda module, given: (given[0].flip(-1),))


def _instance_forward(model: nn.Module, name: str) -> None:
    module = model.get_submodule(name)
    old = module.forward
    module.forward = lambda x: old(x) * 2  # type: ignore[assignment, method-assign]


def _parametrized(model: nn.Module, name: str) -> None:
    class Scaled(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x * 3

    parametrize.register_parametrization(model.get_submodule(name), "weight", Scaled())


CHANGES: list[Callable[[nn.Module, str], None]] = [
    *(_subclass, _wrapper, _other_kind, _nothing, _without_bias, _without_weights),
    *(_forward_hook, _pre_hook, _instance_forward, _parametrized),
]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", NORMS)
@torch.no_grad()
def test_each_change_acts_on_logits_loss_and_cache(name: str, change: Callable[[nn.Module, str], None]) -> None:
    model = _model().eval()
    ids = IDS[:1]
    before = model(ids).logits
    change(model, name)
    after = model(ids).logits
    assert float((after - before).abs().max()) > 1e-3
    assert not is_plain(model.get_submodule(name)) or getattr(model.get_submodule(name), "bias", None) is None
    # The loss and the steps over a cache see the same model.
    wanted = nn.functional.cross_entropy(after[0, :-1], ids[0, 1:])
    assert float(model(ids, labels=ids).loss) == pytest.approx(float(wanted), rel=1e-4)
    (row,) = model.generate(ids, max_new_tokens=3)
    sequence = ids
    for token in row:
        assert int(model(sequence).logits[0, -1].argmax()) == token
        sequence = torch.cat((sequence, torch.tensor([[token]])), 1)


def test_hooks_see_the_stream() -> None:
    """A probe on a block gets the stream after it, a hook may change it, and backward hooks fire."""
    model, seen, fired = _model(), [], []
    block = model.transformer.h[1]
    handle = block.register_forward_hook(lambda module, given, out: seen.append((given[0].detach(), out.detach())))
    _step(model)
    handle.remove()
    ((before, after),) = seen
    # What the next block, alone, is given and returns.
    plain = model.transformer.h[2]
    handle = plain.register_forward_pre_hook(lambda module, given: seen.append(given[0].detach()))
    _step(model)
    handle.remove()
    assert before.shape == after.shape == (18, 32)
    torch.testing.assert_close(seen[1], after, rtol=1e-5, atol=1e-6)
    loss = _step(model)[0]
    with torch.no_grad():
        handle = block.register_forward_hook(lambda module, given, out: out * 0.5)
        assert abs(float(model(IDS, labels=IDS).loss) - float(loss)) > 1e-6
        handle.remove()
    for name in NORMS[1:3]:
        model.get_submodule(name).register_full_backward_hook(lambda m, i, o, name=name: fired.append(name))
    block.register_full_backward_hook(lambda m, i, o: fired.append("block"))
    _step(model)
    assert sorted(fired) == sorted([*NORMS[1:3], "block"])


@pytest.fixture
def everywhere() -> Iterator[list[tuple[str, bool]]]:
    fired: list[tuple[str, bool]] = []
    handle = nn.modules.module.register_module_forward_hook(
        lambda m, i, o: fired.append((type(m).__name__, isinstance(o, torch.Tensor)))
    )
    yield fired
    handle.remove()


def test_a_hook_on_all_modules_fires(everywhere: list[tuple[str, bool]]) -> None:
    _model()(IDS)
    assert everywhere.count(("LayerNorm", True)) == 7 and everywhere.count(("CodeShellBlock", True)) == 3


def test_a_block_alone_takes_and_gives_the_stream() -> None:
    model, given = _model().eval(), []
    model.transformer.h[0].register_forward_pre_hook(lambda module, arguments: given.append(arguments))
    model(IDS)
    ((stream, sequences),) = given
    block = model.transformer.h[1]
    alone = block(stream, sequences)
    x, branch = block((stream, None), sequences)
    assert isinstance(alone, torch.Tensor) and torch.equal(alone, x + branch)
    x, branch = block((stream * 0.5, stream * 0.5), sequences)
    torch.testing.assert_close(x + branch, alone)


def test_a_replaced_block_is_given_the_stream() -> None:
    class Skipped(nn.Module):
        def forward(self, x: torch.Tensor, sequences: object) -> torch.Tensor:
            assert isinstance(x, torch.Tensor)
            return x

    class Own(CodeShellBlock):
        def forward(self, x: Any, sequences: Any) -> Any:
            assert isinstance(x, torch.Tensor)
            return super().forward(x, sequences)

    model, plain = _model(), _model()
    model.transformer.h[1] = Skipped()
    del plain.transformer.h[1]
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=1e-5, atol=1e-6)
    model, plain = _model(), _model()
    own = Own(model.config, 1)
    own.load_state_dict(model.transformer.h[1].state_dict())
    model.transformer.h[1] = own
    torch.testing.assert_close(model(IDS).logits, plain(IDS).logits, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("way", ["wrapper", "reentrant wrapper", "forward"])
def test_checkpoints_of_blocks_give_the_same_bits(way: str) -> None:
    model, wanted = _model(), _step(_model())
    for layer, block in enumerate(model.transformer.h):
        if way == "forward":
            old = block.forward
            block.forward = lambda *given, old=old: checkpoint(old, *given, use_reentrant=False)  # type: ignore[assignment]
        else:
            kind = CheckpointImpl.NO_REENTRANT if way == "wrapper" else CheckpointImpl.REENTRANT
            model.transformer.h[layer] = checkpoint_wrapper(block, checkpoint_impl=kind)
    assert passes_pairs(model.transformer.h[0]) == (way == "wrapper")
    got = _step(model)
    if way == "wrapper":
        assert _same(got, wanted)
    for own, want in zip(got, wanted, strict=True):
        torch.testing.assert_close(own, want, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("way", ["in place", "wrapped"])
def test_compiled_blocks_are_whole_graphs(way: str) -> None:
    model, wanted = _model(n_layer=2), _step(_model(n_layer=2))
    for layer, block in enumerate(model.transformer.h):
        if way == "in place":
            block.compile(backend="aot_eager", fullgraph=True)
        else:
            model.transformer.h[layer] = torch.compile(block, backend="aot_eager", fullgraph=True)  # type: ignore[assignment]
    assert all(passes_pairs(block) for block in model.transformer.h)
    for own, want in zip(_step(model), wanted, strict=True):
        torch.testing.assert_close(own, want, rtol=1e-5, atol=1e-6)
    torch.compiler.reset()


def test_blocks_sharded_by_fsdp2_pass_pairs_and_the_same_bits() -> None:
    """A world of one, in this process: hooks of FSDP2 are no reason to add apart, and the bits are those without it."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    model, wanted = _model(), _step(_model())
    dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)
    try:
        mesh = init_device_mesh("cpu", (1,))
        for block in model.transformer.h:
            fully_shard(block, mesh=mesh)
        fully_shard(model, mesh=mesh)
        assert all(passes_pairs(block) for block in model.transformer.h)
        got = [g.full_tensor() if hasattr(g, "full_tensor") else g for g in _step(model)]
    finally:
        dist.destroy_process_group()
    assert _same(got, wanted)


def test_dropout_draws_as_before() -> None:
    model, apart = (_model(attn_pdrop=0.1, embd_pdrop=0.1, resid_pdrop=0.1) for _ in range(2))
    _apart(apart)
    results = []
    for each in (model, apart):
        torch.manual_seed(3)
        results.append(_step(each))
    for own, plain in zip(*results, strict=True):
        torch.testing.assert_close(own, plain, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("weights", [torch.float32, torch.bfloat16])
def test_under_autocast_the_stream_is_fp32(weights: torch.dtype) -> None:
    """bf16 weights below an fp32 stream too, as bf16 training has them; and the head sees fp32."""
    model, seen = _model().to(weights), []
    model.transformer.wte.register_forward_hook(lambda module, given, out: out.float())
    model.transformer.ln_f.register_forward_pre_hook(lambda module, given: seen.append(given[0].dtype))
    if weights == torch.bfloat16:
        # torch's own LayerNorm refuses fp32 with bf16 weights on a CPU, so the last one stays fused here.
        model.transformer.ln_f._forward_pre_hooks.clear()
        seen.append(torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = model(IDS, labels=IDS).loss
    loss.backward()
    assert seen == [torch.float32] and loss.dtype == torch.float32
    assert all(p.grad is not None and p.grad.dtype == weights for p in model.parameters())
    assert float(loss.detach()) == pytest.approx(float(_step(_model())[0]), rel=1e-2)


def test_a_hooked_linear_gets_what_torch_gives_it() -> None:
    """Under autocast the norm is fp32 for a module that somebody looks into, and bf16 for a plain product."""
    model, seen = _model(), []
    probe = lambda module, given: seen.append(given[0].dtype)  # noqa: E731
    model.transformer.h[0].attn.c_attn.register_forward_pre_hook(probe)
    model.transformer.h[1].mlp.c_fc.register_forward_pre_hook(probe)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        model(IDS)
    assert seen == [torch.float32, torch.float32]
