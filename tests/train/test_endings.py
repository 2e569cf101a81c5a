"""Honest endings: what a run says of updates that it skipped, and what becomes of a model that is of no use."""

from __future__ import annotations

import json
import math
from pathlib import Path

import msgspec
import pytest
import torch
from helpers.tiny_run import texts, write_run

from codeshell import cli, pipeline
from codeshell.engine.stages import STAGES
from codeshell.errors import UserError
from codeshell.recipe import Recipe, to_toml
from codeshell.report.run_page import render
from codeshell.train import run
from codeshell.train.build import build
from codeshell.train.checkpoints import State
from codeshell.train.loop import Trainer
from codeshell.train.parallel import Group
from codeshell.train.train_run import _failure

BROKEN = {"steps": 6, "lr": 1e30, "warmup_steps": 0}
"""The first update makes the weights so large that no loss after it is finite."""


def train(tmp_path: Path, recipe: Recipe, directory: Path, capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    """`codeshell train`, in this process: its exit code and its last line."""
    (tmp_path / "tiny.toml").write_text(to_toml(recipe))
    (directory / "tokens" / "key.json").write_text('{"key": "abc"}')
    code = cli.main(["train", str(tmp_path / "tiny.toml"), "-o", str(directory)])
    return code, capsys.readouterr().err.splitlines()[-1]


def poison(monkeypatch: pytest.MonkeyPatch, losses: dict[int, float], gradients: dict[int, float]) -> None:
    """Make the loss, or only the gradient, of some steps another value."""
    real = Trainer._gradient

    def gradient(self, batch, context):
        loss, step = real(self, batch, context), self.state.step + 1
        for parameter in self.model.parameters():
            if step in gradients:
                parameter.grad.fill_(gradients[step])
        return losses.get(step, loss)

    monkeypatch.setattr(Trainer, "_gradient", gradient)


def test_a_model_that_is_not_finite_is_no_success(tiny, tmp_path, capsys):
    recipe, directory = tiny(**BROKEN)
    for _ in range(2):  # the second time nothing is left to train, and the ending is the same
        code, last = train(tmp_path, recipe, directory, capsys)
        assert code == 2
        assert (
            "loss on the validation split is NaN or infinity; 5 of 6 updates were skipped (5 non-finite loss)" in last
        )
        assert not (directory / "model").exists() and not (directory / "model-starcoder2").exists()
    stats = json.loads((directory / "train" / "stats.json").read_text())
    assert "not finite" in stats["failure"] and stats["skipped_by_reason"] == {"non-finite loss": 5}
    assert stats["final_train_loss"] is None and stats["final_valid_loss"] is None
    assert "The training failed: the model is not finite" in render(directory)


def test_without_validation_training_documents_try_the_model(tiny, tmp_path, tokenizer):
    write_run(tmp_path / "run", tokenizer, texts(60), [])
    recipe, directory = tiny(**BROKEN)
    assert "loss on training documents is NaN or infinity" in run(recipe, directory, None)["failure"]
    recipe, directory = tiny(**BROKEN | {"lr": 1e-3})
    (tmp_path / "run" / "train").rename(tmp_path / "before")
    assert run(recipe, directory, None)["failure"] is None


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_run_that_applied_no_update_is_no_success(tiny, tmp_path, monkeypatch, capsys, bad):
    recipe, directory = tiny(steps=6)
    poison(monkeypatch, {}, dict.fromkeys(range(1, 7), bad))
    code, last = train(tmp_path, recipe, directory, capsys)
    assert code == 2 and "no update was applied" in last and "6 of 6" in last and "(6 non-finite gradient)" in last
    assert json.loads((directory / "train" / "stats.json").read_text())["final_train_loss"] is None


@pytest.mark.parametrize(("lr", "said"), [(10.0, True), (1e-3, False)])
def test_a_finite_model_that_diverged_is_said(tiny, capsys, lr, said):
    recipe, directory = tiny(steps=6, lr=lr, warmup_steps=0)
    assert run(recipe, directory, None)["failure"] is None
    assert ("the model has diverged: its validation loss is" in capsys.readouterr().err) == said


def test_a_few_skipped_updates_are_said_and_no_failure(tiny, tmp_path, monkeypatch, capsys):
    recipe, directory = tiny()
    poison(monkeypatch, {3: math.nan, 24: math.inf}, {5: math.inf})  # the last step among them
    code, last = train(tmp_path, recipe, directory, capsys)
    assert code == 0 and "the model is in" in last and "validation loss" in last
    assert last.endswith("; 3 of 24 updates were skipped (1 non-finite gradient, 2 non-finite loss)")
    assert (directory / "model" / "config.json").exists()


def test_a_resumed_run_counts_the_skips_of_all_attempts(tiny, monkeypatch):
    recipe, directory = tiny(spike_policy="stop")
    for step in (7, 15):
        poison(monkeypatch, {7: math.nan}, {15: math.nan})
        with pytest.raises(UserError, match=f"at step {step}"):
            run(recipe, directory, None)
    statistics = run(recipe, directory, None)
    assert statistics["skipped_updates"] == 2
    assert statistics["skipped_by_reason"] == {"non-finite gradient": 1, "non-finite loss": 1}


def test_a_weight_that_is_not_finite_is_named(tiny, tokenizer):
    recipe, _ = tiny()
    model, _ = build(recipe, tokenizer, torch.device("cpu"))
    with torch.no_grad():
        model.transformer.ln_f.bias[3] = math.inf
    failure = _failure(recipe, model, State(step=24, recent=[1.0]), None, None, Group.alone(torch.device("cpu")))
    assert failure == "the model is not finite: transformer.ln_f.bias holds NaN or infinity"


def test_checkpoints_of_earlier_versions_have_no_reasons():
    state = msgspec.json.decode(b'{"step": 9, "skipped": 2}', type=State)
    stats = {"steps": 9, "skipped_updates": state.skipped, "skipped_by_reason": state.reasons}
    assert pipeline._skipped(stats) == "2 of 9 updates were skipped (see log.jsonl)"


def test_the_main_job_stops_before_the_evaluation(tmp_path, monkeypatch):
    """Metrics and report are there and say it, no later stage runs, and a second start ends alike."""
    done = []

    class Fake:
        def __init__(self, stage):
            self.stage = stage

        def check(self, recipe):
            pass

        def run(self, recipe, directory, engine):
            done.append(self.stage.name)
            failed = {"failure": "the model is not finite", "skipped_updates": 0, "final_train_loss": None}
            return {"steps": 4, "tokens": 8, "phases": []} | failed

    monkeypatch.setattr(pipeline, "_module", Fake)
    monkeypatch.setattr(pipeline, "stages_of", lambda recipe: [s for s in STAGES if s.name in ("train", "evaluate")])
    for _ in range(2):
        with pytest.raises(UserError, match=r"not finite; no update was skipped; .*model was not written"):
            pipeline.run(Recipe(), tmp_path / "run", workers=1)
    assert done == ["train"]
    assert json.loads((tmp_path / "run" / "metrics.json").read_text())["train"]["failure"]
    assert "training failed" in (tmp_path / "run" / "report.html").read_text()
