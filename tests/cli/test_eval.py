"""`codeshell eval`: on a run, on a model and Parquet, and on bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from codeshell.cli import main

torch = pytest.importorskip("torch")


def byte_model_directory(root: Path) -> Path:
    """A tiny random model over bytes with its tokenizer."""
    from codeshell.model import CodeShellConfig, CodeShellForCausalLM
    from codeshell.tokenizer import SPECIAL_TOKENS, Tokenizer
    from codeshell.tokenizer.encoder import BYTE_SYMBOLS

    tree = {
        "added_tokens": [{"id": 256 + n, "content": name, "special": True} for n, name in enumerate(SPECIAL_TOKENS)],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
        "model": {"type": "BPE", "vocab": dict(BYTE_SYMBOLS), "merges": []},
    }
    Tokenizer(json.dumps(tree)).save(root)
    torch.manual_seed(0)
    config = CodeShellConfig(vocab_size=384, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_query_groups=1)
    CodeShellForCausalLM(config).save_pretrained(root)
    return root


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return byte_model_directory(tmp_path / "model")


@pytest.fixture
def corpus(tmp_path: Path) -> Path:
    texts = [f"import os\n\ndef f{n}(a):\n    b = a + {n}\n    return b\n" for n in range(12)]
    path = tmp_path / "documents.parquet"
    pq.write_table(pa.table({"text": texts, "language": ["Python"] * 12}), path)
    return path


SMALL = ["--set", "infill_lines=5", "--set", "functions=3", "--set", "max_new_tokens=8"]


def test_all_tasks_on_any_model_and_parquet(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out.json"
    command = ["eval", "all", "-m", str(model), "--corpus", str(corpus), "--train", str(corpus), "--json", str(out)]
    assert main([*command, *SMALL]) == 0
    stats = json.loads(out.read_text())
    assert set(stats) == {"bits_per_byte", "infill", "functions", "not_run", "claims"} and stats["not_run"] == {}
    assert stats["bits_per_byte"]["files"] == 12 and stats["bits_per_byte"]["window"] == 64
    assert stats["infill"]["tasks"] == 5 and stats["functions"]["headers"] == 3
    assert capsys.readouterr().out.splitlines() == stats["claims"]


def test_one_task_to_standard_output(model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["eval", "bpb", "-m", str(model), "--corpus", str(corpus), "--json", "-", "--context", "16"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert set(stats) == {"bits_per_byte", "not_run", "claims"} and stats["bits_per_byte"]["window"] == 16
    assert "byte_model" not in stats["bits_per_byte"]["systems"]


def test_the_start_token_changes_the_score(model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]) -> None:
    values = []
    for option in ([], ["--after-eot"]):
        assert main(["eval", "bpb", "-m", str(model), "--corpus", str(corpus), "--json", "-", *option]) == 0
        values.append(json.loads(capsys.readouterr().out)["bits_per_byte"])
    assert [value["start"] for value in values] == ["none", "eot"]
    assert values[0]["systems"]["model"] != values[1]["systems"]["model"]


def test_a_run_directory_is_enough(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from codeshell import recipe

    (tmp_path / "curated").mkdir()
    for split in ("train", "test"):
        (tmp_path / "curated" / f"{split}-00000.parquet").write_bytes(corpus.read_bytes())
    (tmp_path / "recipe.toml").write_text(recipe.to_toml(recipe.Recipe(seed=3)))
    assert main(["eval", "infill", str(tmp_path), "--context", "64", "--set", "infill_lines=4", "--json", "-"]) == 0
    stats = json.loads(capsys.readouterr().out)
    assert stats["infill"]["tasks"] == 4 and stats["infill"]["groups"]["all"]["majority_line"]["n"] == 4
    assert "exact_match_search" not in stats["infill"]["groups"]["all"]
    # With a search all else is as before.
    search = ["--set", "infill_lines=4", "--set", "infill_search=2"]
    assert main(["eval", "infill", str(tmp_path), "--context", "64", *search, "--json", "-"]) == 0
    searched = json.loads(capsys.readouterr().out)
    both = searched["infill"]["groups"]["all"]
    assert both["exact_match_search"]["n"] == both["search_against_majority_line"]["n"] == 4
    assert searched["infill"]["protocol"].endswith("; search: a beam of 2 rows")
    assert any(sentence.startswith("The most likely line by a search") for sentence in searched["claims"])
    for group, scores in stats["infill"]["groups"].items():
        assert scores.items() <= searched["infill"]["groups"][group].items()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["all"], "nothing to evaluate"),
        (["all", "{tmp}/nowhere"], "no such run directory"),
        (["all", "-m", "{tmp}", "--corpus", "{corpus}"], "no config.json there"),
        (["all", "-m", "{model}", "--corpus", "{tmp}/nowhere.parquet"], "no such file or folder"),
        (["all", "-m", "{model}", "--corpus", "{tmp}/*.none"], "matches no file"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--context", "0"], "give 1 token or more"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--context", "65"], "--context 65"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--set", "max_byte=1"], "did you mean max_bytes?"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--set", "max_bytes"], "write key=value"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--set", "max_bytes=many"], "write key=value"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--set", "max_bytes=0"], "evaluate.max_bytes"),
        (["bpb", "-m", "{model}", "--corpus", "{corpus}", "--tokenizer", "{tmp}/no.json"], "no such tokenizer"),
        (["all", "{tmp}"], "the run's settings are unknown"),
    ],
)
def test_bad_input_is_one_line(
    arguments: list[str],
    message: str,
    model: Path,
    corpus: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    filled = [item.format(tmp=tmp_path, model=model, corpus=corpus) for item in arguments]
    assert main(["eval", *filled]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_run_without_held_out_documents_is_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from codeshell import recipe

    (tmp_path / "recipe.toml").write_text(recipe.to_toml(recipe.Recipe()))
    byte_model_directory(tmp_path / "model")
    assert main(["eval", "all", str(tmp_path)]) == 2
    assert "curated: no held-out documents; give some with --corpus" in capsys.readouterr().err


def test_a_tokenizer_larger_than_the_model_is_refused(
    model: Path, corpus: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from codeshell.model import CodeShellConfig, CodeShellForCausalLM

    config = CodeShellConfig(vocab_size=128, n_positions=64, n_embd=16, n_layer=1, n_head=2, num_query_groups=1)
    (model / "model.safetensors").unlink()
    CodeShellForCausalLM(config).save_pretrained(model)
    assert main(["eval", "bpb", "-m", str(model), "--corpus", str(corpus)]) == 2
    assert "a tokenizer of 276 tokens, but the model has 128 rows" in capsys.readouterr().err


def break_weight(model: Path, value: float, name: str = "transformer.ln_f.weight") -> None:
    from safetensors.torch import load_file, save_file

    file = model / "model.safetensors"
    weights = load_file(file)
    weights[name][0] = value
    save_file(weights, file)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_is_no_success(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], value: float
) -> None:
    break_weight(model, value)
    out = tmp_path / "out.json"
    command = ["eval", "all", "-m", str(model), "--corpus", str(corpus), *SMALL]
    assert main([*command, "--json", str(out)]) == 2
    stats = json.loads(out.read_text(), parse_constant=lambda name: pytest.fail(f"{name} in JSON"))
    assert stats["bits_per_byte"] is None and stats["infill"] is None and stats["functions"] is None
    assert "loss of the model is NaN or infinity in 12 of 12 texts" in stats["not_run"]["bits_per_byte"]
    assert "logits are not finite at new token 1" in stats["not_run"]["infill"]
    captured = capsys.readouterr()
    assert captured.out.splitlines() == stats["claims"] and "Not run: bits per byte" in captured.out
    assert "Traceback" not in captured.err and "evaluate a model that is finite" in captured.err
    assert main([*command, "--json", "-"]) == 2
    assert json.loads(capsys.readouterr().out) == stats


OWN = """
from codeshell.evaluate.task import Prompt, Sampling, Task

class Base(Task):
    def problems(self, subject): return ["a"]
    def prompts(self, problems): return [Prompt(problem) for problem in problems]
    def judge(self, problems, answers): return [True for _ in answers]
    def sampling(self, subject): return Sampling(max_new_tokens=8)

class Bare(Task):
    name = "bare"

class Promptless(Task):
    name = "promptless"
    def problems(self, subject): return ["a"]
    judge = Base.judge

class Judgeless(Task):
    name = "judgeless"
    problems, prompts = Base.problems, Base.prompts
    def answers(self, subject, problems): raise AssertionError("nobody judges this")

class Nothing(Base):
    name = "nothing"
    def problems(self, subject): return []

class Hot(Base):
    name = "hot"
    def sampling(self, subject): return Sampling(temperature=float("nan"))

class Odd(Base):
    name = "odd"
    def summary(self, *args):
        import numpy as np
        return super().summary(*args) | {"mean": float("nan"), "best": np.float32("inf"), "n": np.int64(3)}
"""


def test_a_task_of_ones_own_that_is_not_whole(
    model: Path, corpus: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own.py").write_text(OWN)

    def run(name: str) -> tuple[int, str, str]:
        command = ["eval", f"{tmp_path}/own.py:{name}", "-m", str(model), "--corpus", str(corpus), "--json", "-"]
        code = main(command)
        return code, *capsys.readouterr()

    code, _, error = run("Bare")
    assert code == 2 and "own.py:Bare: its class has no problems(); write it" in error
    for name, part in (("Promptless", "prompts"), ("Judgeless", "judge")):
        code, _, error = run(name)
        assert code == 2 and error.splitlines()[-1].endswith(
            f"task {name.lower()}: its class has no method {part}; examples/own_task.py shows one"
        )
    code, _, error = run("Hot")
    assert code == 2 and "task hot: its sampling's temperature nan: must be 0" in error
    code, out, _ = run("Nothing")
    assert code == 0 and json.loads(out)["not_run"] == {"nothing": "it has no problems"}
    code, out, _ = run("Odd")
    odd = json.loads(out)["odd"]
    assert code == 0 and (odd["mean"], odd["best"], odd["n"]) == (None, None, 3)


def test_int8_weights_are_measured_and_named(model: Path, corpus: Path, tmp_path: Path) -> None:
    bits = {}
    for weights in ("auto", "int8"):
        out = tmp_path / f"{weights}.json"
        command = ["eval", "bpb", "-m", str(model), "--corpus", str(corpus), "--json", str(out)]
        assert main([*command, "--weights", weights]) == 0
        bits[weights] = json.loads(out.read_text())["bits_per_byte"]["systems"]["model"]["bits_per_byte"]
    assert bits["int8"] != bits["auto"] and bits["int8"] == pytest.approx(bits["auto"], rel=0.005)


def test_weights_that_are_not_served(
    model: Path, corpus: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    from codeshell.evaluate import models

    origin = models.load(str(model), weights="int8").origin
    assert origin["weights"] == "int8" and "weights" not in models.load(str(model)).origin
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr("codeshell.model.precision.multiplies_bf16", lambda device: True)
    assert main(["eval", "bpb", "-m", str(model), "--corpus", str(corpus), "--weights", "int8"]) == 2
    assert "--weights int8: int8 weights run on CPUs alone" in capsys.readouterr().err
    assert main(["eval", "humaneval", "-m", "owner/name", "--weights", "int8"]) == 2
    assert "--weights int8: owner/name is a model of transformers" in capsys.readouterr().err
