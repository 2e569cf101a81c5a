"""The dynamic shared memory that attention's launches ask for, against the budgets in the headers and design notes."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers.simulated_gpu import simulate
from test_cubins import EXPECTED

from codeshell import ops

ROOT = Path(__file__).resolve().parents[2]
BLOCK_LIMIT = 227 * 1024
"""Bytes of shared memory that a block of sm_90 may have, static and dynamic together."""


def forward(dim: int) -> None:
    q = torch.randn(1, 8, 1, dim).bfloat16()
    ops.attention(q, q, q)


def backward(dim: int) -> None:
    q = torch.randn(1, 8, 1, dim).bfloat16().requires_grad_()
    ops.attention(q, q, q).sum().backward()


def decode(dim: int) -> None:
    q, cache = torch.randn(1, 1, 1, dim).bfloat16(), torch.randn(1, 8, 1, dim).bfloat16()
    ops.decode_attention(q, cache, cache.clone(), cache_seqlens=torch.tensor([8], dtype=torch.int32))


def stated(text: str, line: str) -> int:
    """The total in KiB at the end of a row's list of buffers, `…: 80 KiB` or `…: 194`; `line` is the row up to it."""
    (total,) = re.findall(line + r":\s+(\d+)\b", text, re.M)
    return int(total)


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("launch", "kernel", "source", "note"),
    [
        (forward, "attention::forward", "forward_sm90.cu", "attention.md"),
        (backward, "attention::backward", "backward_sm90.cu", "attention.md"),
        (decode, "attention::decode::decode", "decode_sm90.cu", "decode.md"),
    ],
    ids=["forward", "backward", "decode"],
)
def test_shared_memory_is_the_budget(
    host_kernels, monkeypatch, launch: Callable[[int], None], kernel: str, source: str, note: str, dim: int
) -> None:
    simulate(monkeypatch, host_kernels)
    host_kernels.trace(True)
    launch(dim)
    launches = host_kernels.launches()
    host_kernels.trace(False)
    name = f"{kernel}<{dim}, gpu::bf16>"
    (asked,) = {size for found, size in launches if found == name}
    others = {size for found, size in launches if not found.startswith((kernel, "attention::forward"))}
    assert others <= {0}, "prepare and finish have static shared memory alone"

    header = (ROOT / "csrc" / "attention" / source).read_text().split("#include")[0]
    section = "# Backward" if launch is backward else "# Forward" if launch is forward else "# "
    design = (ROOT / "docs" / "kernels" / note).read_text().partition(section)[2]
    design = re.split(r"^# ", design, maxsplit=1, flags=re.M)[0] if launch is not decode else design
    assert asked == 1024 * stated(header, rf"^//   {dim}\s.*")
    assert asked == 1024 * stated(design, rf"^\| {dim} \|[^|]*\|[^|]*")

    (static,) = {row.shared for row in EXPECTED if row.source.endswith(source) and re.fullmatch(row.kernel, name)}
    assert asked + static <= BLOCK_LIMIT
