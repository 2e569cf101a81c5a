"""What a run says of its device before the first step."""

from __future__ import annotations

import pytest
import torch
from helpers.simulated_gpu import simulate

from codeshell.gpus import Gpu, Machine
from codeshell.train import train_run

CPU = torch.device("cpu")


def said(capsys: pytest.CaptureFixture[str], precision: str) -> list[str]:
    train_run._announce_device(CPU, precision)
    return capsys.readouterr().err.splitlines()


def test_a_cpu_needs_no_word(monkeypatch, capsys) -> None:
    monkeypatch.setattr(train_run, "machine", lambda: Machine(0, ()))
    assert said(capsys, "fp32") == []


@pytest.mark.parametrize(
    ("cuda", "words"), [(None, "was built without CUDA, and"), ("13.0", "was built with CUDA 13.0")]
)
def test_a_gpu_that_torch_does_not_use(monkeypatch, capsys, cuda, words) -> None:
    here = Machine(12040, (Gpu("NVIDIA GeForce RTX 4090", (8, 9), 128, 24 << 30),))
    monkeypatch.setattr(train_run, "machine", lambda: here)
    monkeypatch.setattr(torch.version, "cuda", cuda)
    (line,) = said(capsys, "fp32")
    assert line.startswith("train: on the CPU: torch ") and words in line
    assert "does not use NVIDIA GeForce RTX 4090; the driver knows CUDA up to 12.4" in line


def test_bf16_on_a_gpu_without_it(monkeypatch, capsys, caplog) -> None:
    simulate(monkeypatch, None, (7, 5))
    lines = said(capsys, "bf16")
    assert lines[0] == "train: Tesla T4 has no bf16 products; they are emulated, and train.precision = fp32 is faster"
    assert lines[1] == "train: the peak of Tesla T4 in bf16 is not known: no MFU" and len(lines) == 2
    operations = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert operations == ["codeshell.ops.attention", "codeshell.ops.rotary_qkv", "codeshell.optim.AdamW"]


def test_a_gpu_that_runs_everything(monkeypatch, capsys, caplog) -> None:
    simulate(monkeypatch, None, (9, 0))
    assert said(capsys, "bf16") == [] and not caplog.records
