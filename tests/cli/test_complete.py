"""`codeshell complete` on a small, untrained model."""

from __future__ import annotations

import io
import json
import math
import shutil
import sys

import pytest
import torch

from codeshell.cli import main, weights
from codeshell.model.loading import WEIGHTS
from codeshell.model.quantized import quantize


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    from codeshell.model import CodeShellConfig, CodeShellForCausalLM
    from codeshell.tokenizer import SPECIAL_TOKENS

    path = tmp_path_factory.mktemp("model")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({symbol: i for i, symbol in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer.save(str(path / "tokenizer.json"))
    config = CodeShellConfig(
        vocab_size=384, n_positions=64, n_embd=32, n_layer=1, n_head=2, num_query_groups=1, n_vocab_used=256
    )
    model = CodeShellForCausalLM(config)
    model.reset_parameters(torch.Generator().manual_seed(0))
    model.save_pretrained(path)
    (path / "before.py").write_text("def f(")
    (path / "after.py").write_text("):\n")
    return path


def run(capsys, *arguments):
    code = main(["complete", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_fill_in_the_middle_from_files_and_stdin(directory, capsys, monkeypatch):
    files = ("--prefix", directory / "before.py", "--suffix", directory / "after.py")
    code, text, _ = run(capsys, directory, *files, "--max-new-tokens", 8)
    assert code == 0 and text
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"def f(")))
    assert run(capsys, directory, "--prefix", "-", *files[2:], "--max-new-tokens", 8)[:2] == (0, text)
    _, left_to_right, _ = run(capsys, directory, *files[:2], "--max-new-tokens", 8)
    assert left_to_right != text


def test_json_and_stop(directory, capsys):
    prefix = ("--prefix", directory / "before.py", "--max-new-tokens", 8)
    whole = run(capsys, directory, *prefix)[1]
    stop = whole[3:5]
    code, out, _ = run(capsys, directory, *prefix, "--json", "--stop", stop, "--temperature", 0)
    result = json.loads(out)
    assert code == 0 and result["stop"] == [stop] and result["completion"] == whole[: whole.index(stop)]


def test_sampling_repeats_with_its_seed(directory, capsys):
    sampled = ("--prefix", directory / "before.py", "--temperature", 1, "--max-new-tokens", 9)
    texts = [run(capsys, directory, *sampled, "--seed", seed)[1] for seed in (1, 1, 2)]
    assert texts[0] == texts[1] != texts[2]


def test_logits_that_are_not_finite_are_one_line(directory, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    broken = shutil.copytree(directory, tmp_path / "broken")
    weights = load_file(broken / "model.safetensors")
    weights["transformer.h.0.ln_1.bias"][0] = math.nan
    save_file(weights, broken / "model.safetensors")
    for temperature in (0, 1):
        code, out, err = run(
            capsys, broken, "--prefix", directory / "before.py", "--temperature", temperature, "--max-new-tokens", 8
        )
        assert code == 2 and not out and err.count("\n") == 1
        assert "logits are not finite" in err and "the weight transformer.h.0.ln_1.bias" in err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{d}/nothing", "--prefix", "{d}/before.py"], "nothing: no such model directory"),
        (["{d}", "--prefix", "{d}/gone"], "--prefix {d}/gone: cannot be read"),
        (["{d}", "--prefix", "-", "--suffix", "-"], "--suffix -: standard input is already the prefix"),
        (["{d}", "--prefix", "{d}/before.py", "--max-new-tokens", "64"], "leaves no room"),
        (["{d}", "--prefix", "{d}/before.py", "--max-new-tokens", "8", "--top-p", "0"], "top_p 0.0"),
        (["{d}", "--prefix", "{d}/latin1"], "not UTF-8"),
        (["{d}", "--prefix", ""], "--prefix: an empty name; give a file or - for standard input"),
        (["{d}", "--prefix", "{d}/before.py", "--suffix", ""], "--suffix: an empty name"),
        (["{d}", "--prefix", "{d}/before.py", "--stop", ""], "stop: an empty text"),
        (["{d}", "--prefix", "{d}/before.py", "--temperature", "nan"], "temperature nan: must be 0"),
        (["{d}", "--prefix", "{d}/before.py", "--temperature", "inf"], "temperature inf: must be 0"),
        (["{d}", "--prefix", "{d}/before.py", "--temperature", "-1"], "temperature -1.0: must be 0"),
        (["{d}", "--prefix", "{d}/before.py", "--top-k", "-1"], "top_k -1: must be at least 0"),
        (["{d}", "--prefix", "{d}/before.py", "--top-p", "nan"], "top_p nan: must be above 0"),
        (["{d}", "--prefix", "{d}/before.py", "--max-new-tokens", "-1"], "max_new_tokens -1: must be at least 0"),
    ],
)
def test_bad_input_is_one_line(directory, capsys, arguments, message):
    (directory / "latin1").write_bytes(b"caf\xe9")
    code, out, err = run(capsys, *(argument.format(d=directory) for argument in arguments))
    assert code == 2 and not out
    assert message.format(d=directory) in err and err.count("\n") == 1


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 12\n"


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
@pytest.mark.parametrize(
    ("content", "remedy"), [(POINTER, "git lfs pull"), ("<html></html>", "web page"), ("", "empty")]
)
def test_a_broken_download_is_one_line(directory, tmp_path, capsys, name, content, remedy):
    broken = shutil.copytree(directory, tmp_path / "broken")
    (broken / name).write_text(content)
    code, out, err = run(capsys, broken, "--prefix", directory / "before.py")
    assert code == 2 and not out and err.count("\n") == 1
    assert f"{broken / name}: " in err and remedy in err


def test_a_byte_order_mark_in_a_download_costs_nothing(directory, tmp_path, capsys):
    marked = shutil.copytree(directory, tmp_path / "marked")
    for name in ("config.json", "tokenizer.json"):
        (marked / name).write_bytes(b"\xef\xbb\xbf" + (marked / name).read_bytes())
    arguments = ("--prefix", directory / "before.py", "--max-new-tokens", 8)
    assert run(capsys, marked, *arguments) == run(capsys, directory, *arguments)


def test_a_hub_name_and_a_run_are_one_line(directory, tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copytree(directory, tmp_path / "runs" / "demo" / "model")
    for name, remedy in (("Org/Model-7B", "hf download Org/Model-7B"), ("runs/demo", "model is in runs/demo/model")):
        code, out, err = run(capsys, name, "--prefix", directory / "before.py")
        assert code == 2 and not out and err.count("\n") == 1 and remedy in err


def test_weights(directory, capsys, monkeypatch):
    """int8 completes as the model of its rounded weights does; what is no form of weights is refused by the parser."""
    from codeshell.model import loading

    asked = []
    monkeypatch.setattr(loading, "quantize", lambda model: asked.append(quantize(model)) or asked[-1])
    files = ("--prefix", directory / "before.py", "--max-new-tokens", 8)
    for form in WEIGHTS:
        code, text, _ = run(capsys, directory, *files, "--weights", form)
        assert code == 0 and text
    assert len(asked) == 1 and asked[0].quantized_weights > 0
    with pytest.raises(SystemExit):
        run(capsys, directory, *files, "--weights", "int4")
    assert "invalid choice: 'int4'" in capsys.readouterr().err


def test_the_choices_are_those_of_the_loader():
    assert weights.CHOICES == WEIGHTS


def test_a_model_of_transformers_writes_what_its_generate_writes(tmp_path, capsys):
    """In the format of a tuned model: a window shorter than the prompt, the fill-in tokens of the tokenizer."""
    from helpers.tiny_run import byte_tokenizer
    from helpers.tiny_transformers import tiny

    tokenizer = byte_tokenizer()
    model = tiny("qwen2", vocab_size=tokenizer.vocab_size, eos_token_id=tokenizer.eot)
    model.save_pretrained(tmp_path)
    tokenizer.save(tmp_path)
    (tmp_path / "before.py").write_text("def double(x):\n    ret")
    (tmp_path / "after.py").write_text("\n")
    prompt = torch.tensor([tokenizer.fim_prompt("def double(x):\n    ret", "\n")])
    ends = list(tokenizer.specials.values())
    new = model.generate(
        prompt, attention_mask=torch.ones_like(prompt), do_sample=False, max_new_tokens=9, eos_token_id=ends,
        pad_token_id=0,
    )[0, prompt.shape[1] :]  # fmt: skip
    files = ("--prefix", tmp_path / "before.py", "--suffix", tmp_path / "after.py", "--max-new-tokens", 9)
    code, text, _ = run(capsys, tmp_path, *files)
    assert (code, text) == (0, tokenizer.decode(new.tolist(), specials=False)) and text
    code, out, error = run(capsys, tmp_path, *files, "--weights", "int8")
    assert (code, out) == (2, "") and error.count("\n") == 1 and "is a model of transformers (qwen2)" in error
    code, out, error = run(capsys, tmp_path, *files[:4], "--max-new-tokens", 126)
    assert (code, out) == (2, "") and "max_new_tokens 126 leaves no room for a prompt in 128 positions" in error
