"""Encoders from directories: vectors against transformers itself, windows, hostile texts, and broken directories."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import tiny_encoders
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from transformers import AutoModel

from codeshell.errors import UserError
from codeshell.scorers.bert import POOLINGS, Encoder, one_thread

TEXT = "def main(x):\n    return x + 1  # comments and words\n" * 20


@pytest.fixture(scope="module", params=tiny_encoders.KINDS)
def directory(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_encoders.write(tmp_path_factory.mktemp(request.param), request.param)


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return tiny_encoders.write(tmp_path / "bert", "bert")


def reference(directory: Path, windows: list[list[int]]) -> dict[str, np.ndarray]:
    """The vectors by transformers, a window at a time."""
    model = AutoModel.from_pretrained(directory).eval()
    layers: list[list[np.ndarray]] = []
    with torch.no_grad():
        for window in windows:
            out = model(torch.tensor([window]), attention_mask=torch.ones(1, len(window)), output_hidden_states=True)
            states = [out.last_hidden_state, *out.hidden_states[-2:-4:-1]]
            layers.append([state[0].double().numpy() for state in states])
    last, second, third = (np.concatenate([window[place] for window in layers]) for place in range(3))
    return {
        "mean": last.mean(0),
        "rich": np.concatenate([last.mean(0), second.mean(0), third.mean(0), last.std(0), last.max(0)]),
    }


def test_vectors_are_those_of_transformers(directory: Path) -> None:
    for pooling in POOLINGS:
        encoder = Encoder(directory, window=64, windows=3, pooling=pooling)
        windows = encoder.cut(TEXT, "python")
        assert len(windows) == 3 and all(len(window) == 64 for window in windows)
        short = encoder.cut("x = 1", "python")
        vectors = encoder.embed([TEXT, "x = 1", ""], ["python"] * 3)
        assert vectors.shape == (3, encoder.dimension) and vectors.dtype == np.float32
        for vector, cut in zip(vectors, (windows, short, encoder.cut("", "python")), strict=True):
            np.testing.assert_allclose(vector, reference(directory, cut)[pooling], rtol=2e-5, atol=2e-5)


def test_a_vector_depends_on_its_text_alone(directory: Path) -> None:
    encoder = Encoder(directory, window=64)
    texts = [TEXT, "x = 1", TEXT[:300]]
    whole = encoder.embed(texts, ["python"] * 3)
    assert (encoder.embed(texts[::-1], ["go"] * 3)[::-1] == whole).all()
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert (encoder.embed(texts[:1], [""])[0] == whole[0]).all()
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_windows_hold_the_text_in_order_and_the_language_first(directory: Path) -> None:
    encoder = Encoder(directory, window=40, windows=100, prefix=True)
    tokenizer = Tokenizer.from_file(str(directory / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.no_padding()
    whole = tokenizer.encode(TEXT).ids
    prefix = tokenizer.encode("python", add_special_tokens=False).ids
    windows = encoder.cut(TEXT, "python")
    start = [whole[0], *prefix]
    assert all(window[: len(start)] == start and window[-1] == whole[-1] for window in windows)
    assert all(len(window) == 40 for window in windows[:-1]) and len(windows[-1]) <= 40
    assert [token for window in windows for token in window[len(start) : -1]] == whole[1:-1]
    assert Encoder(directory, window=40, windows=2, prefix=True).cut(TEXT, "python") == windows[:2]
    # The name of a language is bounded, as any text is.
    assert len(encoder.cut("x", "python " * 9999)[0]) <= 40
    assert encoder.cut("", "") == [[whole[0], whole[-1]]]


def test_special_tokens_in_a_text_are_text(directory: Path) -> None:
    encoder = Encoder(directory, window=64)
    (window,) = encoder.cut("a [SEP] </s> [CLS] <s> [PAD] <pad> b", "")
    special = {window[0], window[-1], 1 if directory.name.startswith("roberta") else 0}
    assert not special & set(window[1:-1])
    assert np.isfinite(encoder.embed(["\ud800 \x00 \U0010ffff" + "A" * 300_000], [""])).all()


def test_positions_are_the_limit(directory: Path) -> None:
    # RoBERTa's positions begin after the padding's id.
    longest = 126 if directory.name.startswith("roberta") else 128
    encoder = Encoder(directory, window=longest)
    assert np.isfinite(encoder.embed([TEXT], ["c"])).all()
    with pytest.raises(UserError, match=rf"window: {longest + 1} is not in \d+ … {longest}"):
        Encoder(directory, window=longest + 1)
    with pytest.raises(UserError, match="window: 4 is not"):
        Encoder(directory, window=4)
    with pytest.raises(UserError, match="windows: 0"):
        Encoder(directory, window=64, windows=0)


def change(path: Path, **members: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | members))


def test_the_identity_is_that_of_the_files(bert: Path, tmp_path: Path) -> None:
    first = Encoder(bert, window=64).identity
    assert Encoder(shutil.copytree(bert, tmp_path / "copy"), window=64).identity == first
    tensors = load_file(bert / "model.safetensors")
    tensors["embeddings.LayerNorm.bias"][0] += 1
    save_file(tensors, bert / "model.safetensors", {"format": "pt"})
    assert Encoder(bert, window=64).identity != first


def test_weights_in_parts(bert: Path) -> None:
    vectors = Encoder(bert, window=64).embed([TEXT], [""])
    tensors = load_file(bert / "model.safetensors")
    names = sorted(tensors)
    parts = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for part, some in parts.items():
        save_file({name: tensors[name] for name in some}, bert / part, {"format": "pt"})
    (bert / "model.safetensors").unlink()
    index = bert / "model.safetensors.index.json"
    places = {name: part for part, some in parts.items() for name in some}
    index.write_text(json.dumps({"metadata": {}, "weight_map": places}))
    assert (Encoder(bert, window=64).embed([TEXT], [""]) == vectors).all()
    index.write_text(json.dumps({"weight_map": places | {names[0]: "../x.safetensors"}}))
    with pytest.raises(UserError, match="outside of its directory"):
        Encoder(bert, window=64)


def broken(bert: Path, how: str) -> None:
    config, weights, tokenizer = (bert / n for n in ("config.json", "model.safetensors", "tokenizer.json"))
    if how == "no config":
        config.unlink()
    elif how == "config":
        config.write_text("{")
    elif how == "type":
        change(config, model_type="llama")
    elif how == "no weights":
        weights.unlink()
    elif how == "pickle":
        weights.rename(bert / "pytorch_model.bin")
    elif how == "cut weights":
        weights.write_bytes(weights.read_bytes()[:-1000])
    elif how == "lacking weights":
        tensors = load_file(weights)
        del tensors["encoder.layer.1.output.dense.weight"]
        save_file(tensors, weights, {"format": "pt"})
    elif how == "shapes":
        change(config, intermediate_size=64)
    elif how == "no tokenizer":
        tokenizer.unlink()
    elif how == "tokenizer":
        tokenizer.write_text("{}")
    elif how == "vocabulary":
        change(config, vocab_size=50)


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("no config", "has no config.json"),
        ("config", "not a model's configuration"),
        ("type", "model_type 'llama' is no encoder"),
        ("no weights", "has no model.safetensors"),
        ("pickle", "a pickle, which may run foreign code"),
        ("cut weights", "cannot be loaded as a bert model"),
        ("lacking weights", "the weights lack 1 tensors, encoder.layer.1.output.dense.weight"),
        ("shapes", "cannot be loaded as a bert model"),
        ("no tokenizer", "has no tokenizer.json"),
        ("tokenizer", "not a tokenizer"),
        ("vocabulary", "but the model has 50"),
    ],
)
def test_a_broken_directory_is_one_line(bert: Path, how: str, message: str) -> None:
    broken(bert, how)
    with pytest.raises(UserError, match=message) as caught:
        Encoder(bert, window=64)
    assert "\n" not in str(caught.value)


def test_no_directory_and_foreign_code(bert: Path) -> None:
    with pytest.raises(UserError, match="no such directory"):
        Encoder("no/such/place")
    # Code in the directory is never run, even where the configuration names it.
    change(bert / "config.json", auto_map={"AutoModel": "evil.Evil", "AutoConfig": "evil.Evil"})
    (bert / "evil.py").write_text("raise SystemExit('ran')")
    assert Encoder(bert, window=64).dimension == 5 * 32


def test_without_transformers(bert: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(UserError, match=r"pip install 'codeshell\[transformers\]'"):
        Encoder(bert, window=64)


def test_one_thread_restores_the_number_after_an_error() -> None:
    before = torch.get_num_threads()
    with pytest.raises(RuntimeError), one_thread():
        assert torch.get_num_threads() == 1
        raise RuntimeError
    assert torch.get_num_threads() == before
