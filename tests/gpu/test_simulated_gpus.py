"""Which way every operation, AdamW, a patched model and the trainer take on simulated GPUs; kernels run on the host.

tests/ops/test_devices.py has the gate itself, and the GPUs on which nothing runs.
"""

from __future__ import annotations

import json
import logging
import math

import pytest
import torch
from helpers.flash_attention import FlashAttention
from helpers.operation_cases import KERNELS, OPERATIONS
from helpers.simulated_gpu import NAMES, SITUATIONS, simulate
from helpers.tiny_run import byte_tokenizer, texts, tiny_recipe, write_run
from torch import nn

import codeshell
from codeshell import ops
from codeshell.model.precision import resolve
from codeshell.ops import devices, hopper
from codeshell.optim import AdamW
from codeshell.train import run as train

CPU = torch.device("cpu")
RUN = [name for name, situation in SITUATIONS.items() if situation.all_gpus]
GPUS = ["7.5", "8.0", "8.9", "9.0", "10.3", "12.0", "an older driver", "without CUDA"]


def lines_of(caplog):
    return [record.getMessage() for record in caplog.records if record.name == "codeshell"]


@pytest.mark.parametrize("name", RUN)
def test_every_operation(name, host_kernels, monkeypatch, caplog):
    """The kernels that are compiled for the GPU run, PyTorch does the rest, and the numbers are those of the CPU. Off
    Hopper the FlashAttention of torch attends, packed sequences and caches included."""
    situation = SITUATIONS[name]
    expected = {operation: call() for operation, call in OPERATIONS.items()}
    extension = situation.enter(monkeypatch, host_kernels)
    with caplog.at_level(logging.WARNING, "codeshell"), FlashAttention() as attention:
        for operation, call in OPERATIONS.items():
            extension.launched.clear()
            for got, want in zip(call(), expected[operation], strict=True):
                torch.testing.assert_close(got, want, rtol=2e-2, atol=2e-2, msg=lambda m, o=operation: f"{o}: {m}")
            launches = KERNELS.get(operation, [])
            if not situation.hopper:
                launches = [launch for launch in launches if not launch.startswith("attention")]
            if operation == "decode_attention" and not situation.hopper:
                launches = ["rotary"]  # a step of its own in PyTorch
            assert extension.launched == launches, operation
            call()
    assert bool(attention.forwards) != situation.hopper
    said = [] if situation.hopper else ["codeshell.ops.attention", "codeshell.ops.decode_attention"]
    lines = lines_of(caplog)
    assert sorted(line.partition(": ")[0] for line in lines) == said
    assert all(hopper.missing(CPU) in line for line in lines)


def test_a_position_that_the_tables_do_not_have_gives_nan(host_kernels, monkeypatch):
    """The kernels do the same on a GPU, where nobody looks at the values; torch's own index would end the process."""
    q, k, angles = torch.randn(5, 2, 16), torch.randn(5, 1, 16), torch.rand(5, 4)
    positions = torch.tensor([0, -1, 4, 5, 2])
    results = []
    for capability in ((7, 5), (8, 0)):
        simulate(monkeypatch, host_kernels, capability)
        results.append(ops.rotary(q, k, angles.cos(), angles.sin(), positions=positions))
    for x, by_kernel in zip(*results, strict=True):
        assert torch.isnan(x[[1, 3], :, :8]).all() and not torch.isnan(x[..., 8:]).any()
        torch.testing.assert_close(x, by_kernel, equal_nan=True)


@pytest.mark.parametrize("name", GPUS)
@pytest.mark.parametrize("options", [{}, {"master_weights": True}, {"stochastic_rounding": True}], ids=str)
def test_adamw_continues_from_any_device_on_any_other(name, options, host_kernels, monkeypatch, caplog):
    """Two steps there, two on the CPU and two there, with a saved state between them, are six on the CPU."""
    situation = SITUATIONS[name]

    def steps(model, optimizer, first, count):
        for number in range(first, first + count):
            generator = torch.Generator().manual_seed(number)
            for p in model.parameters():
                p.grad = torch.randn(p.shape, generator=generator).to(p.dtype)
            optimizer.clip_grad_norm(1.0)
            optimizer.step()

    def fresh():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(40, 33), nn.Linear(33, 7)).bfloat16()
        return model, AdamW(model.parameters(), lr=1e-2, weight_decay=0.1, **options)

    reference, expected = fresh()
    steps(reference, expected, 0, 6)

    model, optimizer = fresh()
    launched = []
    with caplog.at_level(logging.WARNING, "codeshell"):
        for first in (0, 2, 4):
            saved, kept = model.state_dict(), optimizer.state_dict()
            model, optimizer = fresh()
            model.load_state_dict(saved)
            if kept["state"]:
                optimizer.load_state_dict(kept)
            if first == 2:
                steps(model, optimizer, first, 2)
                continue
            with monkeypatch.context() as context:
                extension = situation.enter(context, host_kernels)
                steps(model, optimizer, first, 2)
                launched += extension.launched
    norms_and_steps = ["gradient_norm_cuda", "adamw_step_cuda"] * 4
    assert launched == (norms_and_steps if situation.all_gpus else [])
    for p, q in zip(model.parameters(), reference.parameters(), strict=True):
        mine, theirs = optimizer.state[p] | {"param": p.detach()}, expected.state[q] | {"param": q.detach()}
        assert mine.keys() == theirs.keys() and mine["step"].item() == 6
        for key, value in theirs.items():
            assert mine[key].dtype == value.dtype and mine[key].shape == value.shape
            eps = torch.finfo(value.dtype).eps
            # torch's own step has 16-bit gradients multiplied by the clipping factor, and rounded, before it.
            torch.testing.assert_close(mine[key], value, rtol=4 * eps, atol=1e-6 if eps < 1e-3 else 1e-3)
    said = [line for line in lines_of(caplog) if line.startswith("codeshell.optim.AdamW")]
    assert len(said) == (0 if situation.all_gpus else 2)  # each simulation is a process of its own


@pytest.mark.parametrize("name", GPUS)
def test_a_patched_model(name, host_kernels, monkeypatch):
    pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")
    from helpers.tiny_transformers import tiny, tokens

    situation, ids = SITUATIONS[name], tokens(2, 9)
    model = tiny("llama", num_attention_heads=2, num_key_value_heads=1, head_dim=64).bfloat16()
    codeshell.patch(model)

    def results():
        model.zero_grad()
        logits = model(ids, use_cache=False).logits
        logits.float().logsumexp(-1).sum().backward()
        return logits.detach(), model.model.embed_tokens.weight.grad.clone()

    expected = results()
    extension = situation.enter(monkeypatch, host_kernels)
    for got, want in zip(results(), expected, strict=True):
        assert float((got - want).abs().max()) < 0.05 * float(want.abs().max())
    kernels = {launch.partition("_")[0] for launch in extension.launched}
    assert kernels == set(["rotary"] * situation.all_gpus + ["attention"] * situation.hopper)


@pytest.mark.parametrize("name", GPUS)
def test_the_trainer(name, tmp_path, host_kernels, monkeypatch, caplog, capfd):
    """A few steps: the precision, the losses, what is said at the start, and which kernels ran."""
    situation, tokenizer = SITUATIONS[name], byte_tokenizer()
    recipe = tiny_recipe(dropout=0.0, steps=3, checkpoint_every=0, valid_every=0, precision="auto")
    losses = []
    for directory in (tmp_path / "cpu", tmp_path / "gpu"):
        write_run(directory, tokenizer, texts(60), texts(8, "v"))
        capfd.readouterr()
        with caplog.at_level(logging.WARNING, "codeshell"):
            train(recipe, directory, None)
        printed = capfd.readouterr().err
        log = [json.loads(line) for line in (directory / "train" / "log.jsonl").read_text().splitlines()]
        losses.append([line["loss"] for line in log if line["kind"] == "train"])
        if directory.name == "cpu":
            caplog.clear()
            extension = situation.enter(monkeypatch, host_kernels)
    assert all(math.isfinite(loss) for loss in losses[1])
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
    # Capability 7.5 multiplies no bf16.
    precision = "bf16" if situation.capability >= (8, 0) else "fp32"
    assert resolve("auto", CPU) == precision and f", {precision}, 1 threads" in printed
    assert ("no MFU" in printed) == (NAMES[situation.capability] == "Tesla T4" or situation.capability == (10, 3))
    ran = {launch for launch in extension.launched if launch.startswith(("rotary", "adamw", "gradient", "softmax"))}
    ours = {"rotary_qkv", "rotary_qkv_backward", "adamw_step_cuda", "gradient_norm_cuda", "softmax_gradient_cuda"}
    assert ran == (ours if situation.all_gpus else set())
    # One line for each that PyTorch does; heads of 8 are none of the attention kernel.
    lines = lines_of(caplog)
    assert len(lines) == len(set(lines))
    sources = {"ops.rotary_qkv": devices.ROTARY, "optim.AdamW": devices.ADAMW}
    for operation, source in (sources | {"ops.linear_cross_entropy": devices.LOSS}).items():
        said = [line for line in lines if line.startswith(f"codeshell.{operation}: ")]
        reason = devices.missing(CPU, source)
        assert len(said) == (reason is not None) and all(reason in line for line in said)
    assert any(line.startswith("codeshell.ops.attention: ") for line in lines)
