"""The memory plan: its numbers against torch's own, the report's model on 8 GPUs, and refusals that have a remedy."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import torch
from helpers.saved_bytes import saved_bytes
from torch.utils.checkpoint import checkpoint

from codeshell.errors import UserError
from codeshell.model import CodeShellConfig, CodeShellForCausalLM
from codeshell.model.precision import autocast
from codeshell.ops import devices, loss
from codeshell.recipe import Phase, Recipe, Train, load
from codeshell.train import memory, weights
from codeshell.train.build import make_optimizer
from codeshell.train.memory import plan, shape_of, shape_of_recipe

ROOT = Path(__file__).resolve().parents[2]
GB = 10**9


def config(layers: int = 2) -> CodeShellConfig:
    return CodeShellConfig(
        vocab_size=256, n_positions=128, n_embd=64, n_layer=layers, n_head=4, n_inner=192, num_query_groups=2
    )


def report(**changes: object) -> tuple[memory.Shape, Train]:
    """The sizes and settings of the report's model, in the policy of scale.md's table: gathered in bf16."""
    recipe = load(ROOT / "recipes" / "codeshell-7b.toml")
    train = msgspec.structs.replace(recipe.train, **({"micro_batch_tokens": 8192, "gather": "bf16"} | changes))
    return shape_of_recipe(recipe.model, 70_144), train


def items(found: memory.Plan) -> dict[str, float]:
    return {item.name: item.bytes / GB for item in found.items}


def test_the_reports_model_on_8_gpus_of_80_gb() -> None:
    """The parts by hand: 7.69 B weights over 8, 33 d bytes for each token and layer, one root, three blocks."""
    shape, train = report()
    found = plan(shape, train, 8, 80 * GB)
    parts = items(found)
    assert shape.total == 7_688_048_640
    assert parts["weights"] == parts["gradients"] == pytest.approx(4 * 7.688 / 8, rel=1e-3)
    assert parts["optimizer"] == pytest.approx(8 * 7.688 / 8, rel=1e-3)
    assert parts["gathered weights"] == pytest.approx(2 * (0.2873 + 3 * 0.1762), rel=1e-3)
    assert parts["activations"] == pytest.approx(46.8, abs=0.1)
    assert parts["gradients' sum"] == pytest.approx(10 * 0.1762, rel=1e-3)
    assert found.total / GB == pytest.approx(69.7, abs=0.1)
    assert found.fits == "fits" and found.refusal() is None
    # Computed again, four times the tokens fit; without, twice the tokens do not.
    assert plan(shape, report(micro_batch_tokens=16_384)[1], 8, 80 * GB).fits == "does not fit"
    assert plan(shape, report(micro_batch_tokens=32_768, recompute="block")[1], 8, 80 * GB).fits == "fits"


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("recompute", ["none", "block"])
def test_activations_are_what_torch_keeps(precision: str, recompute: str) -> None:
    """Per token and layer, to the byte: the difference between models of 3 and 2 layers, and of tokens 512 and 256."""
    train = Train(batch_tokens=512, micro_batch_tokens=0, phases=(Phase(share=1.0, context=128),), recompute=recompute)
    kept = {
        (layers, tokens): _kept(config(layers), tokens, precision, recompute)
        for layers in (2, 3)
        for tokens in (256, 512)
    }
    each = (kept[3, 512] - kept[2, 512] - kept[3, 256] + kept[2, 256]) // 256
    sizes = shape_of(config(2))
    planned = (
        memory.saved_by_block(sizes, precision) if recompute == "none" else memory._input_of_block(sizes, precision)
    )
    # A block that is computed again may keep the stream alone, or the stream and the branch that is not yet added.
    assert planned == each or (recompute == "block" and planned - each == (2 if precision == "bf16" else 4) * 64)
    # What a layer keeps whatever the tokens are: the rounded copies of its weights.
    fixed = kept[3, 256] - kept[2, 256] - 256 * each
    copies = next(
        (i.bytes for i in plan(config(2), train, 1, None, precision=precision).items if "copies" in i.name), 0
    )
    assert fixed == (copies // 2 if recompute == "none" else 0)
    # And outside of the blocks.
    outside = kept[2, 512] - kept[2, 256] - 2 * 256 * each
    assert outside <= 256 * (8 * 64 + 16) + 64


def _kept(shape: CodeShellConfig, tokens: int, precision: str, recompute: str) -> int:
    """Bytes of all tensors that the forward pass keeps for the backward pass, without the weights."""
    torch.manual_seed(0)
    model = CodeShellForCausalLM(shape).train()
    if recompute == "block":
        for block in model.transformer.h:
            real = block.forward
            block.forward = lambda *args, real=real: checkpoint(real, *args, use_reentrant=False)
    ids = torch.randint(0, 256, (tokens // 128, 128))
    cuts = torch.arange(0, tokens + 1, 64, dtype=torch.int32)
    with saved_bytes(model) as found, autocast(precision):
        model(ids, targets=ids, cu_seqlens=cuts, max_seqlen=128, reduction="sum")
    return sum(size for size, _ in found.values())


def test_sizes_are_those_of_the_model_and_the_optimizer() -> None:
    for kind, name in (("fp32", "adamw"), ("bf16-masters", "adamw"), ("bf16-stochastic", "adamw"), ("fp32", "muon")):
        recipe = Recipe(train=Train(weights=kind, optimizer=name))
        model = CodeShellForCausalLM(config()).to(weights.dtype(recipe.train))
        optimizer = make_optimizer(recipe, model)
        for parameter in model.parameters():
            parameter.grad = torch.ones_like(parameter)
        optimizer.step()
        measured = {
            "weights": sum(p.nbytes for p in model.parameters()),
            "gradients": sum(p.grad.nbytes for p in model.parameters()),
            "optimizer": sum(x.nbytes for s in optimizer.state.values() for x in s.values() if x.dim()),
        }
        found = plan(model.config, recipe.train, 1, None)
        assert {name: found_bytes for name, found_bytes, _ in found.items if name in measured} == measured
        assert shape_of(model.config).total == model.num_parameters()


def test_the_loss_without_its_kernel_needs_copies_of_the_logits() -> None:
    shape, train = report(recompute="block", micro_batch_tokens=65_536)
    logits = loss.block_rows(65_536, 70_144, 2, gpu=True) * 70_144
    assert logits * 2 <= 600 << 20
    parts = [memory._working(shape, train, 65_536, "bf16", "cuda", 2, 8, kernel)[0].bytes for kernel in (True, False)]
    assert parts[1] - parts[0] == 12 * logits


def test_a_refusal_names_a_setting_that_fits() -> None:
    shape, train = report(micro_batch_tokens=32_768)
    found = plan(shape, train, 8, 80 * GB)
    refusal = found.refusal()
    assert refusal is not None and "\n" not in refusal
    assert "training on 8 GPUs needs 213.1 GB on each" in refusal and "there are 80.0 GB" in refusal
    assert "; train.micro_batch_tokens = 8192 needs 69.7 GB (" in refusal
    # Where fewer tokens are not enough, blocks are computed again; then come keys that begin a run again, then GPUs.
    for world, size, words in (
        (8, 40, "train.recompute = block needs"),
        (1, 80, "train.weights = bf16-stochastic with train.recompute = block and train.micro_batch_tokens = 8192"),
        (1, 24, "16 GPUs with train.recompute = block and train.micro_batch_tokens = 8192"),
    ):
        text = plan(shape, report()[1], world, size * GB).refusal()
        assert text is not None and f"; {words}" in text
    assert "no setting of [train] makes it fit" in str(plan(shape, report()[1], 8, GB // 4).refusal())


def test_tokens_of_a_forward_pass_are_those_of_the_longest_phase() -> None:
    phases = (Phase(share=0.5, context=32), Phase(share=0.5, context=128))
    train = Train(batch_tokens=1024, phases=phases, micro_batch_tokens=48)
    assert memory.tokens_at_once(train, 1) == 128
    assert memory.tokens_at_once(msgspec.structs.replace(train, micro_batch_tokens=0), 4) == 256
    assert memory.tokens_at_once(msgspec.structs.replace(train, micro_batch_tokens=4096), 4) == 256


def test_replicas_share_what_is_left_and_must_divide_the_world() -> None:
    shape, train = report(replicate=2)
    assert items(plan(shape, train, 16, None))["weights"] == items(plan(shape, report()[1], 8, None))["weights"]
    with pytest.raises(UserError, match=r"train\.replicate 2 does not divide the 5 processes"):
        plan(shape, train, 5, None)


def test_each_key_moves_its_part() -> None:
    shape, train = report()
    base = items(plan(shape, train, 8, None))
    kept = items(plan(shape, report(reshard=False)[1], 8, None))
    assert kept["gathered weights"] == pytest.approx(2 * (0.2873 + 43 * 0.1762), rel=1e-3)
    # fp32 is gathered twice as wide, and autocast rounds copies of it, which stay for the backward pass.
    wide = items(plan(shape, report(gather="fp32")[1], 8, None))
    assert wide["gathered weights"] == pytest.approx(2 * base["gathered weights"])
    assert wide["bf16 copies"] == pytest.approx(2 * 42 * 0.1761, rel=1e-3)
    # One GPU gathers nothing, so the key changes nothing there.
    assert plan(shape, train, 1, None).total == plan(shape, report(gather="fp32")[1], 1, None).total
    again = items(plan(shape, report(recompute="block")[1], 8, None))
    assert again["activations"] == pytest.approx(8192 * (42 * 6 + 8) * 4096 / GB, rel=1e-2)


class OneOfTwo:
    """What `announce` asks of a group of two ranks on CPUs."""

    world, device = 2, torch.device("cpu")

    def __init__(self, leader: bool) -> None:
        self.leader = leader


def test_rank_0_alone_says_what_training_takes(capsys: pytest.CaptureFixture[str]) -> None:
    recipe = Recipe(train=Train(batch_tokens=512, phases=(Phase(share=1.0, context=128),)))
    for leader in (False, True):
        assert not capsys.readouterr().err
        memory.announce(recipe, config(), OneOfTwo(leader), "fp32")
    line = capsys.readouterr().err
    assert line.startswith("memory: at most ") and line.count("\n") == 1 and "activations" in line


def test_a_gpu_that_is_too_small_is_refused_before_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """The smallest GPU of all ranks decides, and every rank says the same."""
    recipe = load(ROOT / "recipes" / "codeshell-7b.toml")
    group = OneOfTwo(leader=False)
    monkeypatch.setattr(group, "device", torch.device("cuda", 0), raising=False)
    monkeypatch.setattr(group, "gather", lambda value: [value, 24 * GB], raising=False)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: type("P", (), {"total_memory": 80 * GB}))
    monkeypatch.setattr(devices, "missing", lambda device, *sources: None)
    with pytest.raises(UserError, match=r"training on 2 GPUs needs .* there are 24\.0 GB; 16 GPUs with"):
        memory.announce(recipe, CodeShellConfig(), group, "bf16")
