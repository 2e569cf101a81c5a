"""The benchmarks are scripts that import one another from their own folder."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture(autouse=True)
def _benchmarks_on_path(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """And the threads that a session sets go back."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    for name in (
        "harness",
        "timing",
        "demo",
        "chart",
        "gpu_check",
        "rotary",
        "adamw",
        "attention",
        "decode",
        "loss",
        "norm",
        "train_gpu",
    ):
        sys.modules.pop(name, None)
    for name in [name for name in sys.modules if name.partition(".")[0] == "gpu"]:
        del sys.modules[name]
