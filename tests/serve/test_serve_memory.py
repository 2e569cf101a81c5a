"""Whether a model fits is known before it is loaded."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers.live_server import TOKENIZER
from helpers.tiny_models import tiny_model

from codeshell.errors import UserError
from codeshell.model.loading import load
from codeshell.model.session import Session
from codeshell.serve import memory


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("model")
    tiny_model(torch.bfloat16).save_pretrained(path)
    return path


@pytest.mark.parametrize(("width", "factor"), [(None, 2), (4, 4), (2, 2)])
def test_the_bytes_of_the_weights(directory: Path, width: int | None, factor: int) -> None:
    numbers = sum(parameter.numel() for parameter in tiny_model().parameters())
    assert memory.weight_bytes(directory, width) == numbers * factor


def test_a_model_that_does_not_fit_is_one_line(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needed = memory.weight_bytes(directory, None)
    assert needed is not None
    monkeypatch.setattr(memory, "available", lambda: needed + memory.CACHES - 1)
    # The files hold bf16 already, so that is no remedy.
    with pytest.raises(UserError, match=r"the model takes 0\.0 GB, and prompts 1\.1 GB.*free; take a smaller model"):
        memory.check_memory(directory, "auto")
    with pytest.raises(UserError, match="free; give --weights bf16, take a smaller model"):
        memory.check_memory(directory, "fp32")
    monkeypatch.setattr(memory, "available", lambda: needed + memory.CACHES)
    memory.check_memory(directory, "auto")
    with pytest.raises(UserError):
        memory.check_memory(directory, "fp32")


FOREIGN = {
    "model_type": "qwen2",
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1000,
}


@pytest.mark.parametrize(
    ("config", "width", "context", "expected"),
    [
        (FOREIGN, 2, 0, 2 * 4 * 2 * 8 * 2 * 1000),
        (FOREIGN, 4, 100, 2 * 4 * 2 * 8 * 4 * 100),
        (FOREIGN, 2, 5000, 2 * 4 * 2 * 8 * 2 * 1000),
        (FOREIGN | {"head_dim": 32}, 2, 0, 2 * 4 * 2 * 32 * 2 * 1000),
        (FOREIGN | {"num_key_value_heads": None}, 2, 0, 2 * 4 * 8 * 8 * 2 * 1000),
        (FOREIGN | {"hidden_size": "wide"}, 2, 0, None),
        ({"model_type": "qwen2"}, 2, 0, None),
        ([], 2, 0, None),
    ],
)
def test_the_bytes_of_a_prompt(tmp_path: Path, config: object, width: int, context: int, expected: int | None) -> None:
    (tmp_path / "config.json").write_text(json.dumps(config))
    assert memory.prompt_bytes(tmp_path, width, context) == expected


def test_the_bytes_of_a_prompt_are_those_of_the_cache(directory: Path) -> None:
    reader = Session(load(directory), TOKENIZER).reader
    assert memory.prompt_bytes(directory, None) == reader.cache_bytes(reader.positions)
    assert memory.prompt_bytes(directory, 4, 7) == 2 * reader.cache_bytes(7)


def test_a_prompt_of_the_whole_context_must_fit(directory: Path, tmp_path: Path, monkeypatch) -> None:
    """A context of a million tokens takes more than the minimum; a shorter one is the remedy, and works."""
    large = shutil.copytree(directory, tmp_path / "large")
    (large / "config.json").write_text(json.dumps(FOREIGN | {"max_position_embeddings": 1 << 24}))
    needed = memory.weight_bytes(large, None)
    assert needed is not None and memory.prompt_bytes(large, None) == 256 << 24
    monkeypatch.setattr(memory, "available", lambda: needed + (2 << 30))
    with pytest.raises(UserError, match=r"prompts 4\.3 GB, but .*; give --context 8388608, take a smaller model") as no:
        memory.check_memory(large, "auto")
    context = int(str(no.value).partition("--context ")[2].partition(",")[0])
    memory.check_memory(large, "auto", context)
    with pytest.raises(UserError):
        memory.check_memory(large, "auto", context + 256)


def test_files_that_cannot_be_read_are_left_to_their_reader(tmp_path: Path) -> None:
    assert memory.weight_bytes(tmp_path, None) is None
    for number, content in enumerate((b"", b"\xff" * 8, b"\x02\0\0\0\0\0\0\0[]", b'\x04\0\0\0\0\0\0\0{"a"')):
        path = tmp_path / f"{number}.safetensors"
        path.write_bytes(content)
        assert memory.weight_bytes(tmp_path, None) is None
        path.unlink()


def test_this_machine_says_what_is_free() -> None:
    free = memory.available()
    assert free is not None and 1 << 20 < free < 1 << 50
