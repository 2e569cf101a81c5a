"""The training stage from a base: what it learns, what it writes, and that a run that was stopped ends alike."""

from __future__ import annotations

import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from helpers.tiny_bases import base, logits, tuning, write_tokens
from helpers.tiny_transformers import transformers
from safetensors.torch import load_file

from codeshell.errors import UserError
from codeshell.model import CodeShellForCausalLM
from codeshell.train import checkpoints, lora, run, tuned
from codeshell.train.loop import Trainer
from codeshell.train.signals import Interrupted

peft = pytest.importorskip("peft", reason="peft is not installed")


@pytest.fixture
def prepared(tmp_path, tokenizer):
    """`prepared(kind)`: a base, and a run's directory with tokens."""

    def make(kind: str, name: str = "run", **changes) -> tuple[Path, Path]:
        return base(tmp_path / f"base-{kind}", tokenizer, kind, **changes), write_tokens(tmp_path / name, tokenizer)

    return make


def plain(directory: Path):
    """The model by transformers alone; nothing may be missing or left over."""
    model, found = transformers.AutoModelForCausalLM.from_pretrained(
        directory, local_files_only=True, output_loading_info=True, dtype=torch.float32
    )
    assert not any(found.values()), found
    return model.eval()


def gain(statistics: dict) -> float:
    """Nats of the validation that training has saved."""
    return statistics["base"]["valid_loss"] - statistics["final_valid_loss"]


def test_all_weights_of_an_own_model(prepared, tmp_path) -> None:
    """The loss falls, and stock transformers computes the same function from the Starcoder2 layout."""
    directory, output = prepared("codeshell")
    statistics = run(tuning(directory, "full"), output, None)
    assert gain(statistics) > 1.0
    assert statistics["base"]["trained_parameters"] == statistics["parameters"]
    own, other = CodeShellForCausalLM.from_pretrained(output / "model"), plain(output / "model-starcoder2")
    expected = logits(own)
    assert (logits(other) - expected).abs().max() <= 1e-5 * expected.abs().max()
    # The log begins with the base, and training begins with its weights: not with fresh ones.
    lines = [json.loads(line) for line in (output / "train" / "log.jsonl").read_text().splitlines()]
    assert (lines[0]["kind"], lines[0]["step"], lines[0]["loss"]) == ("valid", 0, statistics["base"]["valid_loss"])
    assert not (output / "adapter").exists()


@pytest.mark.parametrize("kind", ["llama", "qwen2", "starcoder2", "codeshell"])
def test_lora_of_four_families(prepared, kind: str) -> None:
    directory, output = prepared(kind)
    before = {path.name: path.read_bytes() for path in directory.iterdir()}
    statistics = run(tuning(directory), output, None)
    assert gain(statistics) > 0.1
    assert statistics["base"]["trained_parameters"] < 0.2 * statistics["parameters"]
    # The base is as it was, and the merged model is it with the adapter beside it.
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == before
    load = CodeShellForCausalLM.from_pretrained if kind == "codeshell" else plain
    merged, expected = logits(load(output / "model")), load(directory)
    peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(output / "adapter"), expected)
    peft.set_peft_model_state_dict(expected, load_file(output / "adapter" / lora.WEIGHTS))
    expected = logits(expected)
    assert (merged - expected).abs().max() <= 2e-6 * expected.abs().max()
    # Checkpoints hold the factors alone.
    last = output / "train" / "checkpoints" / "step-000012" / "model.safetensors"
    assert all("lora_" in name for name in load_file(last))
    # The command merges the same files.
    tuned.merge(str(directory), output / "adapter", output / "again")
    for path in sorted((output / "again").glob("*.safetensors")):
        assert path.read_bytes() == (output / "model" / path.name).read_bytes()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_all_weights_of_a_model_of_transformers(prepared, dtype: torch.dtype) -> None:
    """Saved in its own format and in the dtype of its base."""
    directory, output = prepared("qwen2", dtype=dtype)
    statistics = run(tuning(directory, "full"), output, None)
    assert gain(statistics) > 1.0
    there, made = (load_file(path / "model.safetensors") for path in (directory, output / "model"))
    assert {name: (t.dtype, t.shape) for name, t in made.items()} == {n: (t.dtype, t.shape) for n, t in there.items()}
    assert any(not torch.equal(made[name], there[name]) for name in made)
    plain(output / "model")
    config = json.loads((output / "model" / "config.json").read_text())
    assert config["model_type"] == "qwen2" and config["dtype"] == str(dtype).removeprefix("torch.")
    assert "codeshell" not in json.dumps(config)
    assert (output / "model" / "tokenizer_config.json").read_bytes() == (
        directory / "tokenizer_config.json"
    ).read_bytes()
    assert not (output / "model-starcoder2").exists()


def outcome(output: Path) -> dict[str, object]:
    """All that must not depend on how the run came to its end."""
    last = output / "train" / "checkpoints" / "step-000012"
    files = [last / "model.safetensors", last / "optimizer.safetensors", last / "state.json"]
    files += sorted(p for p in (output / "model").iterdir())
    files += sorted(p for p in (output / "adapter").iterdir()) if (output / "adapter").exists() else []
    return {str(path.relative_to(output)): path.read_bytes() for path in files}


@pytest.mark.parametrize(("kind", "method"), [("llama", "lora"), ("starcoder2", "full"), ("codeshell", "lora")])
def test_a_stop_and_a_kill_change_no_bit(prepared, tokenizer, tmp_path, monkeypatch, kind: str, method: str) -> None:
    directory, output = prepared(kind)
    recipe = tuning(directory, method, dropout=0.1 if method == "lora" else 0.0)
    unbroken = run(recipe, output, None)
    expected = outcome(output)
    broken = write_tokens(tmp_path / "broken", tokenizer)
    real, left = Trainer._gradient, [3, 7]

    def gradient(self, batch, context):
        if left and self.state.step + 1 == left[0]:
            if left.pop(0) == 7:
                raise RuntimeError("killed")
            signal.raise_signal(signal.SIGTERM)
        return real(self, batch, context)

    monkeypatch.setattr(Trainer, "_gradient", gradient)
    with pytest.raises(Interrupted):
        run(recipe, broken, None)
    with pytest.raises(RuntimeError, match="killed"):
        run(recipe, broken, None)
    assert run(recipe, broken, None) == unbroken
    assert outcome(broken) == expected


def test_a_run_does_not_resume_with_another_base_or_method(prepared, tokenizer, tmp_path) -> None:
    directory, output = prepared("llama")
    run(tuning(directory, train={"steps": 6}), output, None)
    with pytest.raises(UserError, match="checkpoint of another shape"):
        run(tuning(directory, "full", train={"steps": 6}), output, None)
    with pytest.raises(UserError, match=r"finetune\.alpha was 8\.0, is 4\.0"):
        run(tuning(directory, alpha=4.0, train={"steps": 6}), output, None)
    # Other weights under the same name.
    shutil.rmtree(directory)
    base(directory, tokenizer, "llama", initializer_range=0.03)
    with pytest.raises(UserError, match="training began with other weights than those of"):
        run(tuning(directory, train={"steps": 6}), output, None)


def test_nothing_half_written(prepared, monkeypatch) -> None:
    """An error while the merged model is written leaves no directory of that name, and the next run writes it."""
    directory, output = prepared("llama")
    real = tuned._merge_files

    def fails(base, adapter, target):
        real(base, adapter, target)
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(tuned, "_merge_files", fails)
    with pytest.raises(UserError, match="No space left"):
        run(tuning(directory), output, None)
    assert not [path.name for path in output.iterdir() if path.name.startswith("model")]
    monkeypatch.undo()
    run(tuning(directory), output, None)
    plain(output / "model")


def test_epochs_decide_the_steps(prepared) -> None:
    directory, output = prepared("codeshell")
    statistics = run(tuning(directory, "full", epochs=0.5), output, None)
    log = (output / "train" / "log.jsonl").read_text().splitlines()
    steps = max(json.loads(line)["step"] for line in log)
    assert statistics["steps"] == steps == checkpoints.list_steps(output / "train" / "checkpoints")[-1]
    available = statistics["tokens"] / 0.5
    assert abs(available - 2390) <= 256
