"""Models of transformers are asked as their own code asks them, and each prompt as if it were alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

pytest.importorskip("transformers", "5.0", reason="transformers 5 is not installed")

from helpers import tiny_causal, tiny_transformers
from helpers.tiny_causal import FIM, byte_level, sentence_piece

from codeshell.errors import UserError
from codeshell.evaluate import transformers_model
from codeshell.evaluate.corpus import Corpus
from codeshell.evaluate.generation import generate
from codeshell.evaluate.prompts import NotFiniteError, NotRunError, Prompt, Sampling, prompt_ids
from codeshell.evaluate.subject import Subject
from codeshell.evaluate.transformers_model import TransformersModel, TransformersTokenizer
from codeshell.model.generation import sample
from codeshell.randomness import draw
from codeshell.recipe import Evaluate

PROMPTS = [[5, 6, 7], [9], list(range(2, 40)), [7, 7], list(range(50, 62))]
KINDS = ("qwen2", "mistral", "starcoder2", "llama")


def alone(model: Any, prompt: list[int], *, steps: int, ends: frozenset[int], seed: int, **how: float) -> list[int]:
    """One prompt without padding, cache or batch, from the definition."""
    ids = list(prompt)
    for step in range(steps):
        with torch.inference_mode():
            scores = model(torch.tensor([ids]), use_cache=False).logits[:, -1, :90]
        uniform = (draw(seed, step) >> 11) * 2.0**-53
        token = sample(scores.float(), how.get("temperature", 0.0), 0, how.get("top_p", 1.0), [uniform])[0]
        if token in ends:
            break
        ids.append(token)
    return ids[len(prompt) :]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("how", [{}, {"temperature": 0.8, "top_p": 0.9}])
def test_a_batch_gives_each_prompt_what_it_gets_alone(kind: str, how: dict[str, float]) -> None:
    # fp64, so that the order of sums cannot tip a choice. The answers end at different steps, so rows leave the cache.
    model = tiny_transformers.tiny(kind).double()
    ends = frozenset(range(40, 60))
    found = generate(
        TransformersModel(model), PROMPTS, max_new_tokens=14, stop_ids=ends, pad=0, vocabulary=90, seed=3, purpose="p",
        keys=list("abcde"), **how,
    )  # fmt: skip
    assert len({len(tokens) for tokens in found}) > 1
    for prompt, key, tokens in zip(PROMPTS, "abcde", found, strict=True):
        assert tokens == alone(model, prompt, steps=14, ends=ends, seed=draw(3, "p", key), **how)


def test_a_cache_with_windows_and_models_that_count_positions_by_the_mask() -> None:
    # In fp32: transformers' own masks of padding are infinite in fp64, and give NaN.
    config = tiny_causal.transformers.BloomConfig(
        vocab_size=96, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3, eos_token_id=None
    )
    torch.manual_seed(0)
    for model in (tiny_causal.transformers.BloomForCausalLM(config).eval(), tiny_transformers.tiny("gemma2")):
        how: dict[str, Any] = {"max_new_tokens": 12, "stop_ids": frozenset(range(40, 60)), "pad": 0, "vocabulary": 90}
        for prompt, tokens in zip(PROMPTS, generate(TransformersModel(model), PROMPTS, **how), strict=True):
            assert tokens == alone(model, prompt, steps=12, ends=how["stop_ids"], seed=0)


def test_greedy_is_what_transformers_generates() -> None:
    model = tiny_transformers.tiny("qwen2").double()
    found = generate(TransformersModel(model), PROMPTS, max_new_tokens=10, stop_ids=frozenset(), pad=0, vocabulary=96)
    for prompt, tokens in zip(PROMPTS, found, strict=True):
        theirs = model.generate(torch.tensor([prompt]), max_new_tokens=10, do_sample=False, eos_token_id=None)
        assert tokens == theirs[0, len(prompt) :].tolist()


def test_enough_ends_a_row_and_a_sick_model_is_found() -> None:
    model = tiny_transformers.tiny("qwen2").double()
    found = generate(
        TransformersModel(model), PROMPTS, max_new_tokens=10, stop_ids=frozenset(), pad=0, vocabulary=96,
        stop=lambda tokens: len(tokens) == 4,
    )  # fmt: skip
    assert [len(tokens) for tokens in found] == [4] * 5
    with torch.no_grad():
        model.model.norm.weight.fill_(float("nan"))
    with pytest.raises(NotFiniteError, match="new token 1"):
        subject(TransformersModel(model), TransformersTokenizer(byte_level())).complete(
            [Prompt("x" * 40)], Sampling(4), purpose="p"
        )


def test_half_of_a_batch_is_tried_when_the_memory_is_not_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    model = TransformersModel(tiny_transformers.tiny("qwen2").double())
    how: dict[str, Any] = {"max_new_tokens": 5, "stop_ids": frozenset(), "pad": 0, "vocabulary": 96}
    expected = generate(model, PROMPTS, **how)
    sizes, whole = [], model.generate

    def small(ids: torch.Tensor, **arguments: Any) -> list[list[int]]:
        sizes.append(len(ids))
        if len(ids) > 1:
            raise torch.OutOfMemoryError("no memory")
        return whole(ids, **arguments)

    monkeypatch.setattr(model, "generate", small)
    assert generate(model, PROMPTS, **how) == expected
    assert sizes[:3] == [5, 2, 1]


def subject(model: Any, tokenizer: Any, context: int = 128) -> Subject:
    return Subject(
        model, tokenizer, Corpus([]), None, Evaluate(), seed=1, context=context, start="none", before=tokenizer.before
    )


# Tokenizers.


@pytest.mark.parametrize("make", [byte_level, sentence_piece])
@pytest.mark.parametrize("text", ["  return x", "x", " x", "\n    x", "", "é☃ x", "    if a:\n\tb"])
def test_an_answer_keeps_its_blanks(make: Any, text: str) -> None:
    tokenizer = TransformersTokenizer(make())
    # What a model writes continues a text: no blank is added before it, and none is taken away.
    assert tokenizer.decode(tokenizer.encode_inside(text)) == text


def test_sentence_piece_puts_a_blank_before_a_prompt_only() -> None:
    tokenizer = TransformersTokenizer(sentence_piece())
    assert tokenizer.before == [1]
    plain = sentence_piece()
    assert tokenizer.encode("x") == plain.convert_tokens_to_ids(["\u2581x"])
    assert tokenizer.encode_inside("x") == plain.convert_tokens_to_ids(["x"])
    assert TransformersTokenizer(byte_level()).before == [] and TransformersTokenizer(byte_level(bos=True)).before == [
        0
    ]


@pytest.mark.parametrize("family", [name for name in FIM if name != "none"])
def test_each_family_fills_the_middle_with_its_own_tokens(family: str) -> None:
    made = sentence_piece(family) if family == "codellama" else byte_level(family)
    tokenizer = TransformersTokenizer(made)
    ids = prompt_ids(Prompt("a", "b"), tokenizer, context=50, max_new_tokens=5, start=tokenizer.before)
    names = made.convert_ids_to_tokens(ids)
    prefix, middle, suffix = FIM[family][:3] if family != "deepseek" else (FIM[family][0], *FIM[family][:0:-1])
    start = ["<s>"] if family == "codellama" else []
    blank = ["\u2581"] if family == "codellama" else []
    assert names == [*start, prefix, *blank, "a", suffix, "b", middle]
    # All tokens of the family end an answer, also where the tokenizer does not mark them as special.
    ends = set(tokenizer.specials.values())
    assert {made.convert_tokens_to_ids(name) for name in FIM[family]} <= ends
    assert made.convert_tokens_to_ids("a") not in ends


def test_a_model_that_cannot_fill_in_says_so() -> None:
    tokenizer = TransformersTokenizer(byte_level())
    model = TransformersModel(tiny_transformers.tiny("qwen2"))
    with pytest.raises(NotRunError, match=r"no fill-in-the-middle tokens.*StarCoder.*Code Llama"):
        subject(model, tokenizer).complete([Prompt("a", "b")], Sampling(4), purpose="p")


# Directories.


def test_a_directory_is_loaded_and_asked(tmp_path: Path) -> None:
    model, tokenizer, context = transformers_model.load(str(tiny_causal.write(tmp_path / "model")))
    assert context == 512 and next(model.parameters()).dtype == torch.float32
    prompts = [Prompt("def double(x):\n"), Prompt("int", " main"), Prompt("x")]
    written = subject(model, tokenizer, context).complete(prompts, Sampling(12), purpose="p")
    names = [name for name in tokenizer.specials if name]
    assert len(written) == 3 and not any(name in one.text for one in written for name in names)
    # The padding of the embedding, ids that no token has, is never produced.
    assert tokenizer.vocab_size + 5 == model.config.vocab_size


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: (path / "model.safetensors").unlink(), "cannot load it"),
        (lambda path: (path / "config.json").write_text("{"), "cannot load it"),
        (lambda path: (path / "model.safetensors").write_bytes(b"x" * 100), "cannot load it"),
        (lambda path: (path / "config.json").write_text('{"model_type": "t5"}'), "cannot load it"),
    ],
)
def test_what_cannot_be_loaded_is_one_line(damage: Any, message: str, tmp_path: Path) -> None:
    path = tiny_causal.write(tmp_path / "model")
    damage(path)
    with pytest.raises(UserError, match=message) as caught:
        transformers_model.load(str(path))
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)


def test_weights_with_a_hole_are_refused(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = tiny_causal.write(tmp_path / "model") / "model.safetensors"
    weights = load_file(path)
    del weights["model.norm.weight"]
    save_file(weights, path, metadata={"format": "pt"})
    with pytest.raises(UserError, match=r"its weights lack 1 tensors, model\.norm\.weight first"):
        transformers_model.load(str(path.parent))


def test_weights_in_pickle_and_code_of_its_own_are_not_run(tmp_path: Path) -> None:
    path = tiny_causal.write(tmp_path / "model")
    (path / "model.safetensors").unlink()
    torch.save({}, path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        transformers_model.load(str(path))
    config = '{"model_type": "own", "auto_map": {"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"}}'
    (path / "config.json").write_text(config)
    (path / "own.py").write_text("raise SystemExit('run')")
    with pytest.raises(UserError, match="cannot load it"):
        transformers_model.load(str(path))


def test_without_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match="pip install 'codeshell\\[transformers\\]'"):
        transformers_model.load("owner/name")
