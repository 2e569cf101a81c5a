"""What the tests of several rooms share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest

# One thread per library by default: the suite runs on two cores, and small tensors gain nothing from more.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"

# A shell makes its background jobs ignore Ctrl-C, but some tests send Ctrl-C to the processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files beside the checkout; a user does not have them, and tests that need them say so."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"reference files not here: {path}")
    return path
