"""Weights in bf16: they learn as fp32 ones do, resume with the same bits, and are written as they are."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from helpers.tiny_run import texts, tiny_recipe, write_run
from safetensors.torch import load_file

from codeshell.errors import UserError
from codeshell.model import CodeShellForCausalLM
from codeshell.train import run
from codeshell.train.checkpoints import list_steps
from codeshell.train.loop import Trainer
from codeshell.train.signals import Interrupted

KINDS = ("fp32", "bf16-masters", "bf16-stochastic")


def recipe_of(kind: str, **train: object):
    """A tiny run with products in bf16, 12 steps of two micro-batches."""
    precision = "auto" if kind != "fp32" else "bf16"
    return tiny_recipe(dropout=0.0, precision=precision, weights=kind, steps=12, valid_every=0, **train)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, tokenizer):
    """`{kind: directory}` of one run for each kind of weights; tests only read them."""
    directories = {}
    for kind in KINDS:
        directory = tmp_path_factory.mktemp(kind) / "run"
        write_run(directory, tokenizer, texts(60), texts(12, "v"))
        run(recipe_of(kind), directory, None)
        directories[kind] = directory
    return directories


def losses(directory: Path) -> list[float]:
    lines = map(json.loads, (directory / "train" / "log.jsonl").read_text().splitlines())
    return [line["loss"] for line in lines if line["kind"] == "train"]


def last_checkpoint(directory: Path) -> Path:
    root = directory / "train" / "checkpoints"
    return root / f"step-{list_steps(root)[-1]:06d}"


@pytest.mark.parametrize("kind", KINDS[1:])
def test_learns_as_fp32_weights_do(finished, kind: str) -> None:
    """All losses of 12 steps, which fall by a sixth, lie beside those of fp32 weights."""
    expected, found = losses(finished["fp32"]), losses(finished[kind])
    assert expected[-1] < 0.85 * expected[0]
    assert found == pytest.approx(expected, rel=2e-3)
    assert found != expected


@pytest.mark.parametrize("kind", KINDS[1:])
def test_a_stopped_run_resumes_with_the_same_bits(tmp_path, finished, tokenizer, monkeypatch, kind: str) -> None:
    directory = tmp_path / "run"
    write_run(directory, tokenizer, texts(60), texts(12, "v"))
    real, left = Trainer._after, [5, 9]

    def after(self, log, signals, reason):
        if left and self.state.step == left[0]:
            signals.stop = left.pop(0) and 15
        return real(self, log, signals, reason)

    monkeypatch.setattr(Trainer, "_after", after)
    for _ in range(2):
        with pytest.raises(Interrupted):
            run(recipe_of(kind), directory, None)
    run(recipe_of(kind), directory, None)
    for name in ("model.safetensors", "optimizer.safetensors"):
        expected = (last_checkpoint(finished[kind]) / name).read_bytes()
        assert (last_checkpoint(directory) / name).read_bytes() == expected, name


def test_what_is_written(finished) -> None:
    dtypes = {"fp32": torch.float32, "bf16-masters": torch.bfloat16, "bf16-stochastic": torch.bfloat16}
    for kind, directory in finished.items():
        model = CodeShellForCausalLM.from_pretrained(directory / "model")
        assert {parameter.dtype for parameter in model.parameters()} == {dtypes[kind]}
        assert json.loads((last_checkpoint(directory) / "state.json").read_text())["precision"] == "bf16"
        states = load_file(last_checkpoint(directory) / "optimizer.safetensors")
        kinds = {key.split("/")[0]: tensor.dtype for key, tensor in states.items()}
        moment = torch.bfloat16 if kind == "bf16-stochastic" else torch.float32
        assert kinds["exp_avg"] == kinds["exp_avg_sq"] == moment
        assert ("master_param" in kinds) == (kind == "bf16-masters")
        if kind == "bf16-masters":
            # The weights are the rounded masters, which know more.
            for name, parameter in load_file(last_checkpoint(directory) / "model.safetensors").items():
                assert torch.equal(parameter, states[f"master_param/{name}"].to(torch.bfloat16))


def test_another_kind_of_weights_begins_again(finished) -> None:
    with pytest.raises(UserError, match=r"train\.weights was bf16-masters, is bf16-stochastic"):
        run(recipe_of("bf16-stochastic"), finished["bf16-masters"], None)
