"""Training: batches and fill-in-the-middle, schedule, loop, checkpoints, FLOPs.

Importing the package needs no torch; `run` (the stage) and the other names load theirs on first use.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.train.flops import flops_per_token
    from codeshell.train.train_run import run

__all__ = ["flops_per_token", "run"]

_HOME = {"flops_per_token": "codeshell.train.flops", "run": "codeshell.train.train_run"}


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(importlib.import_module(_HOME[name]), name)
    raise AttributeError(f"module 'codeshell.train' has no attribute {name!r}")
