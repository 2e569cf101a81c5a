"""Rotary embedding inside the code that inductor compiles."""

from __future__ import annotations

import os
import shutil

import pytest
import torch
from helpers.rotary_cases import check_compiled

from codeshell import ops


@pytest.mark.skipif(
    not (shutil.which(os.environ.get("CXX", "g++")) or shutil.which("clang++")),
    reason="no C++ compiler: rotary inside inductor's code is NOT tested",
)
def test_inductors_code_calls_it() -> None:
    def step(q: torch.Tensor, k: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
        q, k = ops.rotary(q * 1, k + 1, cos, sin)
        return (2 * q).square().sum() + k.sum()

    # Small whole numbers, of which no order of summing loses a bit, turned by right angles.
    quarter = torch.tensor([[0.0, 1.0], [1.0, 0.0], [0.0, -1.0]])
    tables = quarter.repeat(2, 8), quarter.flip(1).repeat(2, 8)
    q, k = (torch.randint(-3, 4, (6, heads, 32)).float() for heads in (4, 2))
    check_compiled(step, q, k, tables, "inductor")
