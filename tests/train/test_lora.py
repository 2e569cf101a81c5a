"""LoRA: what is trained, the files of peft, and merging: the sum is exact to half a step of the base's dtype."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.tiny_bases import base, logits, tuning
from helpers.tiny_transformers import transformers
from safetensors.torch import load_file, save_file

from codeshell.errors import UserError
from codeshell.model import CodeShellForCausalLM
from codeshell.train import base as bases
from codeshell.train import foreign, lora, tuned

peft = pytest.importorskip("peft", reason="peft is not installed")

KINDS = ("codeshell", "llama", "qwen2", "starcoder2")


def model_of(directory: Path, kind: str):
    """What the trainer would train."""
    if kind == "codeshell":
        return CodeShellForCausalLM.from_pretrained(directory)
    return foreign.load(directory, torch.float32)


def plain_model(directory: Path, kind: str, dtype: torch.dtype = torch.float32):
    """What others load."""
    if kind == "codeshell":
        return CodeShellForCausalLM.from_pretrained(directory, dtype=dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=dtype, local_files_only=True)
    return model.eval()


def adapter_of(directory: Path, target: Path, kind: str, **settings) -> Path:
    """An adapter of a base whose second factors are not 0, as after training."""
    model = model_of(directory, kind)
    recipe = tuning(directory, **settings)
    torch.manual_seed(1)
    lora.inject(model, recipe.finetune)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0.0, 0.05)
    lora.save(target, model, recipe.finetune, bases.read(str(directory)))
    return target


@pytest.fixture(scope="module")
def made(tmp_path_factory, tokenizer):
    """`made(kind)`: a base and an adapter of it; tests only read them."""
    found: dict[str, tuple[Path, Path]] = {}

    def make(kind: str) -> tuple[Path, Path]:
        if kind not in found:
            root = tmp_path_factory.mktemp(kind)
            directory = base(root / "base", tokenizer, kind)
            found[kind] = directory, adapter_of(directory, root / "adapter", kind)
        return found[kind]

    return make


@pytest.mark.parametrize("kind", KINDS)
def test_factors_alone_are_trained_and_change_nothing_at_first(made, kind: str) -> None:
    directory, _ = made(kind)
    model = model_of(directory, kind).eval()
    inner = model if kind == "codeshell" else model.inner
    before = logits(inner)
    lora.inject(model, tuning(directory).finetune)
    trained = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert trained and all("lora_" in name for name in trained)
    # Every linear layer of both blocks has two factors, and the head and the embedding have none.
    layers = sum(isinstance(m, torch.nn.Linear) for m in plain_model(directory, kind).modules()) - 1
    assert len(trained) == 2 * layers
    # Our own layers add a bias in another place where a module is not plain, which rounds otherwise.
    assert (logits(inner) - before).abs().max() <= (1e-6 if kind == "codeshell" else 0) * before.abs().max()


@pytest.mark.parametrize("kind", KINDS)
def test_merged_model_is_base_and_adapter(made, tmp_path, kind: str) -> None:
    """In plain transformers and by peft: the logits differ by fp32 rounding, 1e-6 of the largest."""
    directory, adapter = made(kind)
    assert tuned.merge(str(directory), adapter, tmp_path / "merged") == len(lora.read(adapter).factors)
    if kind == "codeshell":  # no model of transformers, which peft's own loader wants
        beside = plain_model(directory, kind)
        peft.inject_adapter_in_model(peft.LoraConfig.from_pretrained(adapter), beside)
        peft.set_peft_model_state_dict(beside, load_file(adapter / lora.WEIGHTS))
    else:
        beside = peft.PeftModel.from_pretrained(plain_model(directory, kind), adapter).eval()
    expected, found = logits(beside), logits(plain_model(tmp_path / "merged", kind))
    scale = expected.abs().max()
    assert (expected - logits(plain_model(directory, kind))).abs().max() > 0.05 * scale
    assert (found - expected).abs().max() <= 1e-6 * scale
    for name in ("tokenizer.json", "config.json", "generation_config.json"):
        assert (tmp_path / "merged" / name).is_file()


def test_merging_into_bf16_rounds_each_sum_once(tmp_path, tokenizer) -> None:
    directory = base(tmp_path / "base", tokenizer, "qwen2", torch.bfloat16)
    adapter = adapter_of(directory, tmp_path / "adapter", "qwen2")
    tuned.merge(str(directory), adapter, tmp_path / "merged")
    before, after = (load_file(tmp_path / name / "model.safetensors") for name in ("base", "merged"))
    factors = lora.read(adapter)
    assert before.keys() == after.keys()
    for name, tensor in after.items():
        assert tensor.dtype == torch.bfloat16
        if name not in factors.factors:
            assert torch.equal(tensor, before[name])
            continue
        a, b = factors.factors[name]
        exact = before[name].double() + 2.0 * (b.double() @ a.double())
        # A step of bf16 is 2^-7 of the number's power of two; the product and the sum are rounded in fp32 before.
        step = torch.exp2(torch.floor(torch.log2(exact.abs())) - 7)
        fp32 = 1e-6 * (before[name].double().abs() + (b.double().abs() @ a.double().abs()))
        assert ((tensor.double() - exact).abs() <= 0.5 * step + fp32).all()


def test_a_base_in_several_files_keeps_them(made, tmp_path) -> None:
    directory, adapter = made("llama")
    model = plain_model(directory, "llama")
    shutil.copytree(directory, tmp_path / "base", ignore=shutil.ignore_patterns("*.safetensors"))
    model.save_pretrained(tmp_path / "base", max_shard_size="100kB")
    names = sorted(path.name for path in (tmp_path / "base").glob("model*"))
    assert len(names) > 3
    # The same weights in other files have another hash, so the adapter is one that does not say its base.
    again = tmp_path / "adapter"
    shutil.copytree(adapter, again)
    save_file(load_file(adapter / lora.WEIGHTS), again / lora.WEIGHTS, {"format": "pt"})
    tuned.merge(str(tmp_path / "base"), again, tmp_path / "merged")
    assert sorted(path.name for path in (tmp_path / "merged").glob("model*")) == names
    tuned.merge(str(directory), adapter, tmp_path / "single")
    assert torch.equal(
        logits(plain_model(tmp_path / "merged", "llama")), logits(plain_model(tmp_path / "single", "llama"))
    )


def test_an_adapter_of_another_base_is_refused(made, tmp_path, tokenizer) -> None:
    """The hash tells them apart, or shapes and names where the file has none. Nothing is written."""
    _, adapter = made("llama")
    other = base(tmp_path / "other", tokenizer, "llama", initializer_range=0.021)
    with pytest.raises(UserError, match="trained beside other weights than those of"):
        tuned.merge(str(other), adapter, tmp_path / "merged")
    unsigned = tmp_path / "adapter"
    shutil.copytree(adapter, unsigned)
    save_file(load_file(adapter / lora.WEIGHTS), unsigned / lora.WEIGHTS, {"format": "pt"})
    narrow = base(tmp_path / "narrow", tokenizer, "llama", intermediate_size=32)
    with pytest.raises(UserError, match=r"is \(\d+, \d+\) in the base; this adapter belongs to another model|belongs"):
        tuned.merge(str(narrow), unsigned, tmp_path / "merged")
    with pytest.raises(UserError, match="does not have; this adapter belongs to another model"):
        tuned.merge(str(made("codeshell")[0]), unsigned, tmp_path / "merged")
    assert not [path for path in tmp_path.iterdir() if path.name.startswith("merged")]


def test_what_merging_does_not_know_is_refused(made, tmp_path) -> None:
    directory, adapter = made("llama")
    config = json.loads((adapter / lora.CONFIG).read_text())
    tensors = load_file(adapter / lora.WEIGHTS)
    first = min(tensors)

    def written(name: str, also: dict, left_out: str | None = None, more: dict | None = None) -> Path:
        target = tmp_path / name
        target.mkdir()
        (target / lora.CONFIG).write_text(json.dumps(config | also))
        kept = {key: value for key, value in tensors.items() if key != left_out} | (more or {})
        save_file(kept, target / lora.WEIGHTS)
        return target

    for case, message in {
        written("dora", {"use_dora": True}): "use_dora is True",
        written("bias", {"bias": "all"}): "bias is 'all'",
        written("whole", {"modules_to_save": ["lm_head"]}): "modules_to_save is",
        written("ia3", {"peft_type": "IA3"}): "peft_type is 'IA3'; only LORA",
        written("alpha", {"lora_alpha": "16"}): "lora_alpha is '16'",
        written("half", {}, left_out=first): "is there without",
        written("more", {}, more={"base_model.model.lm_head.weight": torch.zeros(2, 2)}): "is no factor of a matrix",
        tmp_path: "no adapter_config.json",
    }.items():
        with pytest.raises(UserError, match=message):
            tuned.merge(str(directory), case, tmp_path / "merged")
    broken = written("broken", {})
    (broken / lora.WEIGHTS).write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(UserError, match="a Git LFS pointer"):
        tuned.merge(str(directory), broken, tmp_path / "merged")
    (tmp_path / "merged").mkdir()
    (tmp_path / "merged" / "mine").touch()
    with pytest.raises(UserError, match="is there already"):
        tuned.merge(str(directory), adapter, tmp_path / "merged")


def test_targets_must_be_there(made) -> None:
    directory, _ = made("qwen2")
    model = model_of(directory, "qwen2")
    with pytest.raises(UserError, match=r"the model has no 'c_attn' in its blocks; it has down_proj, .*q_proj"):
        lora.inject(model, tuning(directory, targets=["c_attn"]).finetune)
    lora.inject(model, tuning(directory, targets=["q_proj", "v_proj"]).finetune)
    assert sum(p.requires_grad for p in model.parameters()) == 2 * 2 * 2
