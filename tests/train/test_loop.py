"""The loop: what an update is, which are applied, what is logged, and what bad input says."""

from __future__ import annotations

import json
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_run import texts, write_run

from codeshell.documents.token_shards import TokenCorpus
from codeshell.errors import UserError
from codeshell.model import CodeShellForCausalLM
from codeshell.model.modules import CodeShellAttention
from codeshell.tokenizer import Tokenizer
from codeshell.train import run
from codeshell.train.batches import IGNORED, Documents, fold, take
from codeshell.train.build import build
from codeshell.train.forward import summed_loss
from codeshell.train.loop import Trainer
from codeshell.train.rows import Lanes

CPU = torch.device("cpu")


def log_of(directory: Path, kind: str = "train") -> list[dict]:
    lines = [json.loads(line) for line in (directory / "train" / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == kind]


def final(directory: Path, step: int) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "train" / "checkpoints" / f"step-{step:06d}" / "model.safetensors")


def test_two_steps_are_adamw_on_the_mean_loss_clipped(tiny, tokenizer):
    """The loop against a few lines of plain torch: same batches, one pass, torch's own AdamW and clipping."""
    recipe, directory = tiny(dropout=0.0, steps=2, clip=0.5, lr=1e-2, warmup_steps=0, weight_decay=0.3)
    train = recipe.train
    run(recipe, directory, None)

    model, _ = build(recipe, tokenizer, CPU)
    corpus = TokenCorpus(sorted((directory / "tokens").glob("train-*.tokens")))
    lanes = Lanes(
        corpus, tokenizer, batch_tokens=256, contexts=(32, 128), seed=0, fim_rate=0.5, spm_rate=0.5, isolated=True
    )
    assert lanes.count == 2  # The batch is two sequences of the longer context.
    matrices, vectors = ([p for p in model.parameters() if (p.ndim >= 2) == flag] for flag in (True, False))
    groups = [{"params": matrices, "weight_decay": 0.3}, {"params": vectors, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.95), eps=1e-8)
    positions = lanes.start()
    # 2 steps from the peak 1e-2 by a cosine to a tenth: half way, then the end.
    for rate, line in zip((0.55e-2, 0.1e-2), log_of(directory), strict=True):
        batch = lanes.take(positions, train.batch_tokens, line["context"])
        (micro,) = fold(batch, line["context"], 0, isolated=True)
        loss = summed_loss(model, micro, "fp32") / int((batch.targets != IGNORED).sum())
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 0.5)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        optimizer.zero_grad()
        assert line["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert line["grad_norm"] == pytest.approx(float(norm), rel=1e-4)
        assert line["lr"] == pytest.approx(rate)
        assert float(norm) > 0.5  # Or clipping was not put to the test.
        positions = batch.after
    for name, tensor in final(directory, 2).items():
        torch.testing.assert_close(tensor, dict(model.named_parameters())[name].detach(), rtol=1e-4, atol=1e-5)


def test_accumulation_changes_rounding_alone(tiny, tmp_path):
    results = []
    for micro in (0, 64, 96):  # 96 does not divide the batch: the last micro-batch is smaller.
        recipe, directory = tiny(tmp_path / str(micro), dropout=0.0, steps=4, micro_batch_tokens=micro)
        run(recipe, directory, None)
        results.append([line["loss"] for line in log_of(directory)])
    assert results[1] == pytest.approx(results[0], rel=1e-5)
    assert results[2] == pytest.approx(results[0], rel=1e-5)


def test_training_learns(tiny):
    recipe, directory = tiny(dropout=0.0)
    statistics = run(recipe, directory, None)
    losses = [line["loss"] for line in log_of(directory)]
    assert losses[0] == pytest.approx(math.log(384), abs=0.3)  # Uniform over the padded vocabulary at the start.
    assert losses[-1] < 0.75 * losses[0]
    assert statistics["final_train_loss"] == pytest.approx(np.mean(losses[-20:]))
    assert statistics["final_valid_loss"] == log_of(directory, "valid")[-1]["loss"]
    assert [line["step"] for line in log_of(directory, "valid")] == [5, 10, 15, 18, 20, 24]
    assert [(p["context"], p["first_step"], p["last_step"]) for p in statistics["phases"]] == [
        (32, 1, 18),
        (128, 19, 24),
    ]
    assert [line["context"] for line in log_of(directory)] == [32] * 18 + [128] * 6
    assert all(line["mfu"] is None for line in log_of(directory))  # A CPU has no known peak.


def test_the_model_and_its_tokenizer_load_again(tiny):
    recipe, directory = tiny(steps=2)
    run(recipe, directory, None)
    ids = torch.tensor([Tokenizer.load(directory / "model").encode("def a(x):\n")])
    sources = [directory / "model", directory / "model-starcoder2", directory / "train" / "checkpoints" / "step-000002"]
    with torch.no_grad():
        first, *others = [CodeShellForCausalLM.from_pretrained(source).eval()(ids).logits for source in sources]
    assert all(torch.equal(first, other) for other in others)


def test_documents_of_a_batch_do_not_see_one_another(tiny, tokenizer, memory_corpus):
    """Changing the first document changes no loss of the second, unless documents attend to all."""
    recipe, _ = tiny(dropout=0.0)
    model = build(recipe, tokenizer, CPU)[0].eval()
    losses = {}
    for isolated in (True, False):
        for first in ("aaaa\n", "zzzz\n"):
            documents = Documents(memory_corpus([first, "def f(x):\n    return x\n"]), tokenizer, seed=0)
            documents.order = lambda epoch: np.array([0, 1])
            batch = take(documents, 24, isolated=isolated)
            batch.targets[:6] = IGNORED  # Count the second document alone.
            (micro,) = fold(batch, 24, 0, isolated=isolated)
            losses[isolated, first] = float(summed_loss(model, micro, "fp32").detach())
    assert losses[True, "aaaa\n"] == losses[True, "zzzz\n"]
    assert losses[False, "aaaa\n"] != losses[False, "zzzz\n"]


@pytest.mark.parametrize("way", ["_mix_folded", "_mix"])  # of the CPU, and that of a GPU: ops.attention
def test_a_document_changes_no_bit_of_another(tiny, tokenizer, memory_corpus, monkeypatch, way):
    """Neither of its logits nor of the gradients that its targets make; the second row holds the second one alone."""
    monkeypatch.setattr(CodeShellAttention, "_mix_folded", getattr(CodeShellAttention, way))
    recipe, _ = tiny(dropout=0.0)
    model = build(recipe, tokenizer, CPU)[0].train()
    results = {}
    for isolated in (True, False):
        for first in ("aaaa\n", "zzz9\n"):
            documents = Documents(memory_corpus([first, "def f(x):\n    return x\n" * 2]), tokenizer, seed=0)
            documents.order = lambda epoch: np.array([0, 1])
            batch = take(documents, 32, isolated=isolated)
            batch.targets[:6] = IGNORED
            (micro,) = fold(batch, 16, 0, isolated=isolated)
            model.zero_grad()
            summed_loss(model, micro, "fp32").backward()
            gradients = [parameter.grad.clone() for parameter in model.parameters()]
            offsets = torch.from_numpy(micro.cu_seqlens) if isolated else None
            logits = model(torch.from_numpy(micro.inputs), cu_seqlens=offsets).logits.detach().flatten(0, 1)
            results[isolated, first] = [*gradients, logits[6:], logits[:6]]
    for isolated in (True, False):
        pairs = zip(results[isolated, "aaaa\n"], results[isolated, "zzz9\n"], strict=True)
        *gradients, second, changed = (torch.equal(a, b) for a, b in pairs)
        assert not changed
        assert (second, all(gradients)) == (isolated, isolated)


def poison(monkeypatch, steps: dict[int, float]) -> None:
    """Add a value to the loss of some steps; NaN and infinity go through to the gradient, too."""
    real = Trainer._gradient

    def gradient(self, batch, context):
        loss = real(self, batch, context)
        bad = steps.get(self.state.step + 1, 0.0)
        if not math.isfinite(bad):
            for parameter in self.model.parameters():
                parameter.grad.fill_(bad)
        return loss + bad

    monkeypatch.setattr(Trainer, "_gradient", gradient)


@pytest.mark.parametrize("policy", ["skip", "ignore"])
def test_a_non_finite_update_is_never_applied(tiny, monkeypatch, policy):
    recipe, directory = tiny(spike_policy=policy, checkpoint_every=1, keep_checkpoints=30)
    bad = {6: math.nan, 11: math.inf}
    poison(monkeypatch, bad)
    assert run(recipe, directory, None)["skipped_updates"] == 2
    for step in bad:
        line = log_of(directory)[step - 1]
        assert line["loss"] is None and line["skipped"] == "non-finite loss"
        before, after = final(directory, step - 1), final(directory, step)
        assert all(torch.equal(before[name], after[name]) for name in before)
    assert all(tensor.isfinite().all() for tensor in final(directory, 24).values())


def test_a_spike_is_skipped_or_taken_as_the_recipe_says(tiny, tmp_path, monkeypatch):
    monkeypatch.setattr("codeshell.train.spikes.WARM", 4)
    poison(monkeypatch, {12: 100.0})
    for policy, skipped in (("skip", 1), ("ignore", 0)):
        recipe, directory = tiny(tmp_path / policy, spike_policy=policy)
        assert run(recipe, directory, None)["skipped_updates"] == skipped
        assert log_of(directory)[11]["skipped"] == ("spike" if skipped else None)


def test_stop_policy_saves_and_the_next_run_resumes_after_it(tiny, monkeypatch):
    recipe, directory = tiny(spike_policy="stop")
    poison(monkeypatch, {7: math.nan})
    with pytest.raises(UserError, match=r"non-finite loss at step 7, .*spike_policy is stop; saved in .*step-000007"):
        run(recipe, directory, None)
    assert run(recipe, directory, None)["steps"] == 24
    assert [line["step"] for line in log_of(directory)] == list(range(1, 25))


def test_too_many_skips_in_a_row_stop(tiny, monkeypatch):
    recipe, directory = tiny(max_skips=3)
    poison(monkeypatch, dict.fromkeys((2, 5, 6, 7, 8), math.nan))
    with pytest.raises(
        UserError, match=r"3 updates in a row were skipped, the last at step 7 .*step-000007; .*train\.lr"
    ):
        run(recipe, directory, None)


def test_without_validation_documents_there_is_one_line(tiny, tokenizer, tmp_path, capsys):
    write_run(tmp_path / "run", tokenizer, texts(60), [])
    recipe, directory = tiny(steps=4)
    statistics = run(recipe, directory, None)
    assert "validation split is empty" in capsys.readouterr().err
    assert statistics["final_valid_loss"] is None and not log_of(directory, "valid")


def test_too_few_tokens_and_missing_input_say_so(tiny, tmp_path, tokenizer):
    recipe, directory = tiny(batch_tokens=8192, micro_batch_tokens=0)
    with pytest.raises(
        UserError, match=r"tokens: 2,390 tokens to train on, .*one batch .*8,192.*lower train.batch_tokens"
    ):
        run(recipe, directory, None)
    with pytest.raises(UserError, match=r"tokenizer: no tokenizer.json.*--until tokens"):
        run(recipe, tmp_path / "empty", None)
    tokenizer.save(tmp_path / "half" / "tokenizer")
    with pytest.raises(UserError, match=r"tokens: no train-NNNNN.tokens.*--until tokens"):
        run(recipe, tmp_path / "half", None)


def test_an_impossible_shape_names_the_recipe(tiny):
    import msgspec

    recipe, directory = tiny()
    with pytest.raises(UserError, match=r"recipe, model: n_embd 30 is not a multiple of n_head 4"):
        run(msgspec.structs.replace(recipe, model=msgspec.structs.replace(recipe.model, n_embd=30)), directory, None)


def test_tensorboard(tiny, monkeypatch):
    pytest.importorskip("tensorboard", reason="the extra `tensorboard` is not installed")
    recipe, directory = tiny(steps=2, tensorboard=True)
    run(recipe, directory, None)
    assert list((directory / "train" / "tensorboard").glob("events.*"))


def test_tensorboard_absent_names_the_extra(tiny, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    recipe, directory = tiny(steps=2, tensorboard=True)
    with pytest.raises(UserError, match=r"pip install codeshell\[tensorboard\]"):
        run(recipe, directory, None)


def test_bf16_trains_like_fp32(tiny, tmp_path):
    losses = []
    for precision in ("fp32", "bf16"):
        recipe, directory = tiny(tmp_path / precision, dropout=0.0, precision=precision)
        run(recipe, directory, None)
        losses.append([line["loss"] for line in log_of(directory)])
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)
