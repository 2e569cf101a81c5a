"""llama.cpp itself on an exported GGUF: equal ids of texts, equal greedy continuations, the tokens that it asks for.

It needs the package llama-cpp-python, which compiles llama.cpp and is not in the `dev` extra for that:
pip install llama-cpp-python.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.exported import TEXTS, load, model_directory
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell.export import gguf_file
from codeshell.export.blocks import FORMATS
from codeshell.export.gguf_tokenizer import convert
from codeshell.model.generation import generate
from codeshell.model.weight_rows import WeightRows
from codeshell.tokenizer import Tokenizer

pytest.importorskip("gguf", reason="gguf is not installed: GGUF files are NOT tested")
llama_cpp = pytest.importorskip(
    "llama_cpp", reason="llama-cpp-python is not installed: exported files were NOT loaded by llama.cpp"
)

CONTEXT = 96
PROMPTS = (
    "def add(a, b):\n    return",
    "for (int i = 0; i < 12",
    "It's",
    " x = ",
    "函数返回",
    "class A:\n    def f(self",
)
FIM = (("def f(x):\n    return ", "\n\nprint(f(3))\n"), ("int main() {\n  ", "}\n"), ("", "x"), ("a", ""))


def opened(directory: Path, path: Path, kind: str, architecture: gguf_file.Architecture):
    weights = WeightRows(directory)
    config = weights.config
    own = convert(Tokenizer.load(directory), config.vocab_size, "t", config.bos_token_id, config.eos_token_id)
    gguf_file.write(path, weights, own, FORMATS[kind], architecture, name="tiny")
    # Keys and values in fp32, as ours.
    settings = {"type_k": 0, "type_v": 0, "n_threads": 1, "n_threads_batch": 1, "verbose": False, "logits_all": True}
    return llama_cpp.Llama(str(path), n_ctx=CONTEXT, **settings)


@pytest.fixture(scope="module")
def directory(tmp_path_factory) -> Path:
    return model_directory(tmp_path_factory.mktemp("llama") / "tiny", n_vocab_used=None)


@pytest.fixture(scope="module")
def theirs(directory):
    return opened(directory, directory / "m.gguf", "f32", "starcoder2")


@pytest.fixture(scope="module")
def ours(directory) -> Tokenizer:
    return Tokenizer.load(directory)


@pytest.mark.parametrize("text", TEXTS)
def test_equal_ids(theirs, ours, text: str) -> None:
    assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ours.encode(text)


@settings(deadline=None)
@given(st.text(alphabet=st.characters(exclude_categories=["Cs", "Cn"]), max_size=80))
def test_equal_ids_of_any_text(theirs, ours, text: str) -> None:
    assert theirs.tokenize(text.encode(), add_bos=True, special=False) == ours.encode(text)


def test_every_character_is_cut_alike(theirs, ours) -> None:
    """Each assigned character of Unicode, beside letters, digits, blanks and marks. What is a letter, a digit or
    a blank is a table in llama.cpp and another one here."""
    import unicodedata

    points = [point for point in range(0x110000) if unicodedata.category(chr(point)) not in ("Cs", "Cn", "Co")]
    wrong = []
    for start in range(0, len(points), 500):
        for pattern in ("a{0}b 1{0}2  {0}={0}\n{0}", " {0}x\t{0}'s"):
            text = "".join(pattern.format(chr(point)) for point in points[start : start + 500])
            if theirs.tokenize(text.encode(), add_bos=True, special=False) != ours.encode(text):
                wrong += [
                    point
                    for point in points[start : start + 500]
                    if theirs.tokenize(pattern.format(chr(point)).encode(), add_bos=True, special=False)
                    != ours.encode(pattern.format(chr(point)))
                ]
    assert not wrong, [f"U+{point:04X}" for point in wrong]


@pytest.mark.parametrize("text", [text for text in TEXTS if text and "\x00" not in text])
def test_a_text_comes_back_whole(theirs, ours, text: str) -> None:
    """The call that decodes a whole text gives it back. For most pre-tokenizers llama.cpp takes spaces out there."""
    ids = ours.encode(text)
    buffer = ctypes.create_string_buffer(4 * len(text.encode()) + 64)
    array = (llama_cpp.llama_token * len(ids))(*ids)
    vocab = theirs._model.vocab
    size = llama_cpp.llama_detokenize(vocab, array, len(ids), buffer, len(buffer), False, False)
    assert buffer.raw[:size].decode() == text


def test_the_tokens_that_it_asks_for(theirs, ours) -> None:
    vocab = theirs._model.vocab
    for name in ("pre", "suf", "mid", "pad", "rep", "sep"):
        function = getattr(llama_cpp, f"llama_vocab_fim_{name}")
        token = {"pre": "prefix", "suf": "suffix", "mid": "middle", "pad": "pad"}.get(name)
        expected = f"<fim_{token}>" if token else {"rep": "<reponame>", "sep": "<filename>"}[name]
        assert function(vocab) == ours.specials[expected]
    assert theirs.token_eos() == theirs.token_bos() == ours.eot
    assert llama_cpp.llama_vocab_is_eog(vocab, ours.eot) and llama_cpp.llama_vocab_is_control(vocab, ours.fim_prefix)
    assert theirs.n_vocab() == ours.padded_vocab_size


def greedy(theirs, ids: list[int], count: int) -> list[int]:
    theirs.reset()
    result: list[int] = []
    for token in theirs.generate(ids, temp=0.0, top_k=1, repeat_penalty=1.0):
        result.append(token)
        if len(result) == count:
            break
    return result


@pytest.mark.parametrize("architecture", ["starcoder2", "codeshell"])
@pytest.mark.parametrize("tied", [True, False])
def test_equal_greedy_continuations(tmp_path: Path, architecture: gguf_file.Architecture, tied: bool) -> None:
    source = model_directory(tmp_path / "tiny", n_vocab_used=None, tie_word_embeddings=tied)
    theirs = opened(source, tmp_path / "m.gguf", "f32", architecture)
    model, own = load(source), Tokenizer.load(source)
    prompts = [own.encode(text) for text in PROMPTS]
    prompts += [own.fim_prompt(prefix, suffix, order) for prefix, suffix in FIM for order in ("psm", "spm")]
    for ids in prompts:
        (expected,) = generate(model, torch.tensor([ids]), max_new_tokens=32)
        assert greedy(theirs, ids, 32) == expected


@pytest.mark.parametrize("scaling", [None, {"type": "linear", "factor": 2.0}])
@pytest.mark.parametrize("kind", sorted(FORMATS))
def test_logits_are_near(tmp_path: Path, kind: str, scaling) -> None:
    source = model_directory(tmp_path / "tiny", rope_scaling=scaling)
    theirs = opened(source, tmp_path / "m.gguf", kind, "starcoder2")
    model, own = load(source), Tokenizer.load(source)
    ids = own.encode("def add(a, b):\n    return a + b  # 1234\n" * 3)[:CONTEXT]
    theirs.eval(ids)
    with torch.no_grad():
        expected = model(torch.tensor([ids])).logits[0].numpy()
    found = theirs.scores[: len(ids)]
    # ggml takes its GELU from a table in fp16, and in f16 and q8_0 it rounds what is multiplied, too. A wrong tensor
    # would be off by the logits' own size.
    error = np.sqrt(((found - expected) ** 2).mean()) / expected.std()
    assert error < {"f32": 1e-3, "f16": 5e-3, "bf16": 2e-2, "q8_0": 6e-2}[kind]
