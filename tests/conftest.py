"""What the tests of several rooms share."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
from helpers.order import LONGEST_FIRST, SLOW

# One thread per library by default: the suite runs on two cores, and small tensors gain nothing from more.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ["HF_HUB_OFFLINE"] = "1"


ROOT = Path(__file__).resolve().parents[1]
SLOW_FILES = {ROOT / "tests" / name for name in SLOW}


def pytest_configure(config: pytest.Config) -> None:
    """pytest-xdist would begin with the files of the most tests, and the longest files have few."""
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """With `-m slow` or `-m "not slow"`, the files of the other half are not imported: that takes longer than many of
    the tests, in each process."""
    asked = config.option.markexpr
    if asked not in ("slow", "not slow") or not collection_path.name.startswith("test_"):
        return None
    return True if (collection_path in SLOW_FILES) != (asked == "slow") else None


def pytest_runtest_setup() -> None:
    """Before each test Ctrl-C raises KeyboardInterrupt. A shell makes its background jobs ignore it, and a library may
    put back the system's own action past Python, which ends a worker of pytest-xdist in a test that raises the signal.
    """
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark the slow files, and put the longest files first; the others, and the tests of a file, keep their order."""
    places = {ROOT / "tests" / name: place for place, name in enumerate(LONGEST_FIRST)}
    for item in items:
        if item.path in SLOW_FILES:
            item.add_marker("slow")
    items.sort(key=lambda item: places.get(item.path, len(places)))


def pytest_make_parametrize_id(config: pytest.Config, val: object, argname: str) -> str | None:
    """The name of the argument for bytes. Their content may change from one collection to the next (gzip writes the
    time into it), and then two workers of pytest-xdist do not find the same tests."""
    return argname if isinstance(val, bytes) else None


@pytest.fixture(scope="session")
def shared() -> Path:
    """Reference files beside the checkout; a user does not have them, and tests that need them say so."""
    path = ROOT.parent / "shared"
    if not path.is_dir():
        pytest.skip(f"reference files not here: {path}")
    return path


@pytest.fixture
def hopper_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """The attention kernels of Hopper GPUs are on, as for users who ask for them."""
    from codeshell.ops import hopper

    monkeypatch.setattr(hopper, "enabled", True)
