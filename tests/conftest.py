"""What several rooms' tests share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# One thread a library by default: the suite runs on two cores, and small tensors gain nothing from more.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell has what it starts in the background ignore Ctrl-C, and tests send it.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files beside the checkout; a user does not have them, and tests that need them say so."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"reference files not here: {path}")
    return path
