"""The dynamic shared memory that attention's launches ask for is what their sources and design notes say."""

from __future__ import annotations

import re
from pathlib import Path

import attention_cases
import decode_cases
import pytest
import torch

from codeshell import ops
from codeshell.ops import attention_cuda, decode_cuda

ROOT = Path(__file__).resolve().parents[2]
KIB = 1024


def budgets(path: str) -> list[tuple[int, int, int]]:
    """Of each row of the tables in a header or a page, `dim … parts, in KiB: total`: the dimension, the parts' sum (0
    where it is told in words) and the total."""
    rows = []
    for line in (ROOT / path).read_text().splitlines():
        if not (row := re.match(r"(?://  |\|) +(64|128) .*?(\b[KQ](?:/O| and O)? (?:\d+ x )?\d+.*?): +(\d+)\b", line)):
            continue
        parts = re.sub(r"of (\d+) stages", r"\1 x", row[2]).replace(" x ", "*").replace(",", "+")
        rows.append((int(row[1]), eval("".join(re.findall(r"(?<!\w)[\d*]+(?!\w)|[+()]", parts))), int(row[3])))
    return rows


def launches(host_kernels, monkeypatch, operation: str, dim: int) -> dict[str, int]:
    """Bytes by kernel of one small call."""
    monkeypatch.setattr(attention_cuda, "extension", host_kernels)
    monkeypatch.setattr(decode_cuda, "extension", host_kernels)
    host_kernels.trace(True)
    if operation == "decode":
        inputs = decode_cases.inputs(decode_cases.Case("budget", (5,), dim=dim), "cpu", torch.bfloat16)
        ops.decode_attention(inputs.q, *inputs.caches, **inputs.keywords)
    else:
        case = attention_cases.Case("budget", 3, 3, dim=dim)
        q, k, v = attention_cases.inputs(case, "cpu", torch.bfloat16)
        attention_cases.gradients(case, q, k, v, torch.ones_like(q))
    noted = dict(host_kernels.launches())
    host_kernels.trace(False)
    assert not host_kernels.launches()
    return noted


@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize(
    ("operation", "page", "place"),
    [
        ("forward", "attention.md", slice(0, 2)),
        ("backward", "attention.md", slice(2, 4)),
        ("decode", "decode.md", slice(0, 2)),
    ],
)
def test_launches_ask_for_what_is_written(host_kernels, monkeypatch, operation, page, place, dim):
    noted = launches(host_kernels, monkeypatch, operation, dim)
    (asked,) = (size for name, size in noted.items() if f"::{operation}<{dim}," in name)
    for rows in (budgets(f"csrc/attention/{operation}_sm90.cu"), budgets(f"docs/kernels/{page}")[place]):
        assert [row[0] for row in rows] == [64, 128]
        _, parts, total = next(row for row in rows if row[0] == dim)
        assert (parts, total * KIB) == (total, asked)
    # Beside it the barriers, which test_cubins.py finds to be 1 KiB at the tiles' alignment; a block may have 227.
    assert asked + 1 * KIB <= 227 * KIB
    assert all(size == 0 for name, size in noted.items() if re.search("prepare|finish", name))
