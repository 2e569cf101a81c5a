"""A fine-tuned model of transformers is scored as one of codeshell is: the nats of its own log-probabilities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from helpers.tiny_bases import base
from helpers.tiny_run import byte_tokenizer
from helpers.tiny_transformers import transformers

from codeshell.evaluate.models import load_any
from codeshell.evaluate.scoring import token_nats
from codeshell.model import CodeShellForCausalLM


def test_nats_of_a_model_of_transformers(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    directory = base(tmp_path / "base", byte_tokenizer(), "qwen2")
    ids = np.arange(64, dtype=np.int64).reshape(2, 32)
    capfd.readouterr()
    found = token_nats(load_any(directory), ids[:, :-1], ids[:, 1:])
    # Without transformers' own progress bar.
    assert capfd.readouterr() == ("", "")
    plain = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        expected = -plain(torch.from_numpy(ids[:, :-1])).logits.log_softmax(-1)
    wanted = expected.gather(2, torch.from_numpy(ids[:, 1:]).unsqueeze(2)).squeeze(2).numpy()
    assert found == pytest.approx(wanted, rel=1e-5)


def test_each_kind_is_loaded_by_its_own_class(tmp_path: Path) -> None:
    assert isinstance(load_any(base(tmp_path / "own", byte_tokenizer(), "codeshell")), CodeShellForCausalLM)
