"""Whether a model fits is known before it is loaded."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from helpers.tiny_models import tiny_model

from codeshell.errors import UserError
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
    with pytest.raises(UserError, match=r"the model takes 0\.0 GB, and prompts 1\.1 GB.*--weights bf16"):
        memory.check_memory(directory, "auto")
    with pytest.raises(UserError, match="take a smaller model"):
        memory.check_memory(directory, "bf16")
    monkeypatch.setattr(memory, "available", lambda: needed + memory.CACHES)
    memory.check_memory(directory, "auto")
    with pytest.raises(UserError):
        memory.check_memory(directory, "fp32")


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
