"""The n-gram language model: trained out of core, kept in one memory-mapped file, scored in C++.

`docs/quality.md` says what it is good for. Names are loaded when they are first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from codeshell.ngram.model import LanguageModel as LanguageModel
    from codeshell.ngram.model import score_all as score_all
    from codeshell.ngram.training import Settings as Settings
    from codeshell.ngram.training import train as train

_NAMES = {
    "LanguageModel": "codeshell.ngram.model",
    "Settings": "codeshell.ngram.training",
    "score_all": "codeshell.ngram.model",
    "train": "codeshell.ngram.training",
}
"""Name to the module that has it."""


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
