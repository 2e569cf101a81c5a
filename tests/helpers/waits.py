"""Where code of the package waits for a GPU: the calls of torch that look at values of a tensor.

On a CPU nothing waits, and most of these calls reach no operation that a mode of torch would see. So the functions
themselves are replaced, and note which line of the package called them.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

import codeshell

_METHODS = (
    *("tolist", "item", "cpu", "numpy", "nonzero", "unique", "unique_consecutive", "masked_select", "argwhere"),
    *("__bool__", "__int__", "__float__", "__index__", "__array__", "is_nonzero", "equal", "allclose"),
    *("repeat_interleave", "bincount"),
)
_FUNCTIONS = (
    *("equal", "nonzero", "argwhere", "masked_select", "unique", "unique_consecutive", "allclose", "is_nonzero"),
    *("repeat_interleave", "bincount"),
)
_PACKAGE = str(Path(codeshell.__file__).parent)


def note(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Until the test ends, note each wait as "file:function calls name"; the list grows."""
    found: list[str] = []

    def noted(name: str, function: Any) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            _note(name)
            return function(*arguments, **named)

        return call

    def _note(name: str) -> None:
        frame = sys._getframe(2)
        if frame.f_code.co_filename.startswith(_PACKAGE):
            file = Path(frame.f_code.co_filename).relative_to(_PACKAGE)
            found.append(f"{file}:{frame.f_code.co_name} calls {name}")

    for name in _METHODS:
        monkeypatch.setattr(torch.Tensor, name, noted(name, getattr(torch.Tensor, name)))
    for name in _FUNCTIONS:
        monkeypatch.setattr(torch, name, noted(name, getattr(torch, name)))
    # A mask of booleans as an index, and a number per head: both are looked up before the result has a size.
    read, write = torch.Tensor.__getitem__, torch.Tensor.__setitem__

    def boolean(index: Any) -> bool:
        return any(
            isinstance(x, torch.Tensor) and x.dtype == torch.bool for x in (index if type(index) is tuple else [index])
        )

    def getitem(x: torch.Tensor, index: Any) -> Any:
        if boolean(index):
            _note("__getitem__ with booleans")
        return read(x, index)

    def setitem(x: torch.Tensor, index: Any, value: Any) -> None:
        if boolean(index):
            _note("__setitem__ with booleans")
        write(x, index, value)

    monkeypatch.setattr(torch.Tensor, "__getitem__", getitem)
    monkeypatch.setattr(torch.Tensor, "__setitem__", setitem)
    return found
