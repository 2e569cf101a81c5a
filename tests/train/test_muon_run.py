"""Training with `train.optimizer = "muon"`: exact on resume and on two ranks, and refused where it cannot serve."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from helpers.tiny_run import byte_tokenizer, texts, tiny_recipe, write_run
from safetensors.torch import load_file

from codeshell.errors import UserError
from codeshell.optim import AdamW, Muon
from codeshell.recipe import to_tree
from codeshell.train import run
from codeshell.train.build import build
from codeshell.train.loop import Trainer
from codeshell.train.schedule import learning_rate

MUON: dict[str, Any] = {"optimizer": "muon", "matrix_lr": 6e-3, "decay": "linear", "min_lr_ratio": 0.0}


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("tokens") / "run"
    write_run(home, byte_tokenizer(), texts(120), texts(24, "v"))
    return home


def copy_of(tokens: Path, home: Path) -> Path:
    """A run's directory with the tokens."""
    home.mkdir(parents=True)
    for name in ("tokens", "tokenizer"):
        (home / name).symlink_to(tokens / name)
    return home


def test_stop_and_resume_change_no_bit(tokens, tmp_path, monkeypatch):
    recipe = tiny_recipe(**MUON)
    unbroken = copy_of(tokens, tmp_path / "unbroken")
    run(recipe, unbroken, None)
    stopped = copy_of(tokens, tmp_path / "stopped")

    class StopError(Exception):
        pass

    real = Trainer._step

    def step(self, *arguments):
        # After the checkpoint of step 12, and one step of work that is lost.
        if self.state.step == 13:
            raise StopError
        return real(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_step", step)
        with pytest.raises(StopError):
            run(recipe, stopped, None)
    run(recipe, stopped, None)
    last = Path("train/checkpoints/step-000024")
    for name in ("model.safetensors", "optimizer.safetensors"):
        assert (stopped / last / name).read_bytes() == (unbroken / last / name).read_bytes()
    states = load_file(unbroken / last / "optimizer.safetensors")
    kinds = {kind: {key.partition("/")[2] for key in states if key.startswith(kind + "/")} for kind in ("momentum",)}
    assert "transformer.h.0.mlp.c_fc.weight" in kinds["momentum"] and len(kinds["momentum"]) == 2 * 4
    assert "exp_avg/transformer.wte.weight" in states and "exp_avg/transformer.h.0.mlp.c_fc.weight" not in states


def test_two_ranks_have_the_bits_of_one_process(ranks, tokens, tmp_path):
    settings = MUON | {
        "steps": 6,
        "batch_tokens": 512,
        "micro_batch_tokens": 256,  # two in one process, one each on two ranks: the same sums
        "clip": 0.5,
        "checkpoint_every": 0,
        "phases": [{"share": 0.5, "context": 32}, {"share": 0.5, "context": 128}],
    }
    recipe = tiny_recipe(**settings)
    alone, together = (copy_of(tokens, tmp_path / name) for name in ("alone", "together"))
    run(recipe, alone, None)
    jobs = [{"recipe": to_tree(recipe), "directory": str(together), "eager": True}]
    ended = ranks.run(2, "helpers.rank_cases:trainings", jobs=jobs)
    assert [one.code for one in ended] == [0, 0], "\n".join(one.error for one in ended)
    expected = load_file(alone / "model" / "model.safetensors")
    for name, tensor in load_file(together / "model" / "model.safetensors").items():
        assert torch.equal(tensor, expected[name]), name


def test_a_checkpoint_of_the_other_optimizer_is_refused(tokens, tmp_path):
    home = copy_of(tokens, tmp_path / "run")
    run(tiny_recipe(steps=4), home, None)
    with pytest.raises(UserError, match=r"train\.optimizer was adamw, is muon"):
        run(tiny_recipe(steps=4, optimizer="muon"), home, None)


@pytest.mark.parametrize("weights", ["bf16-masters", "bf16-stochastic"])
def test_16_bit_weights_are_refused(weights):
    with pytest.raises(UserError, match=rf"train\.optimizer muon does not go with train\.weights {weights}:"):
        tiny_recipe(optimizer="muon", weights=weights, precision="auto")


def test_the_recipe_decides_the_optimizer_and_its_rates(tokens, tmp_path, monkeypatch):
    model, optimizer = build(tiny_recipe(), byte_tokenizer(), torch.device("cpu"))
    assert type(optimizer) is AdamW and len(optimizer.param_groups) == 2
    model, optimizer = build(tiny_recipe(**MUON, momentum=0.8), byte_tokenizer(), torch.device("cpu"))
    assert type(optimizer) is Muon
    # The fused projection is cut into Q (4 heads of 8), K and V (2 heads of 8 each).
    hidden = [group for group in optimizer.param_groups if group["muon"]]
    assert [(group["blocks"], len(group["params"])) for group in hidden] == [((32, 16, 16), 2), ((), 6)]
    assert all(group["momentum"] == 0.8 for group in hidden)
    assert sum(len(group["params"]) for group in optimizer.param_groups) == len(list(model.parameters()))
    # The trainer gives each group its rate: matrix_lr for the hidden matrices, lr for the others.
    recipe = tiny_recipe(**MUON, steps=3)
    seen: list[tuple[bool, float]] = []
    real = Muon.step

    def step(self, closure=None):
        seen.extend((group["muon"], group["lr"]) for group in self.param_groups)
        return real(self, closure)

    monkeypatch.setattr(Muon, "step", step)
    run(recipe, copy_of(tokens, tmp_path / "run"), None)
    rate = learning_rate(recipe.train, 1)
    first = seen[: len(optimizer.param_groups)]
    assert first == [(muon, pytest.approx(2 * rate if muon else rate)) for muon, _ in first]
    assert {muon for muon, _ in first} == {True, False}
