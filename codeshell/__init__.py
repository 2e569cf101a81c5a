"""codeshell: kernels, data pipeline, trainer and evaluation for code language models.

Importing the package loads nothing heavy: a submodule is imported when its name is first used, so
`import codeshell` needs no torch, no GPU and no network.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell import (
        data,
        dedup,
        engine,
        evaluate,
        integrations,
        model,
        ops,
        optim,
        recipe,
        report,
        tokenizer,
        train,
    )
    from codeshell.integrations.patching import patch, unpatch

__version__ = "0.1.0"
__all__ = [
    "data",
    "dedup",
    "engine",
    "evaluate",
    "integrations",
    "model",
    "ops",
    "optim",
    "patch",
    "recipe",
    "report",
    "tokenizer",
    "train",
    "unpatch",
]


# Python calls this for a name that the module does not have, and only then: the first use of a room imports it.
def __getattr__(name: str) -> Any:
    # Two functions, which lie deeper than their names.
    if name in ("patch", "unpatch"):
        return getattr(importlib.import_module("codeshell.integrations.patching"), name)
    # The extension: what its first import raises is one line with the remedy.
    if name == "_C":
        return importlib.import_module("codeshell.extension").load()
    if name in __all__:
        return importlib.import_module(f"codeshell.{name}")
    raise AttributeError(f"module 'codeshell' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
