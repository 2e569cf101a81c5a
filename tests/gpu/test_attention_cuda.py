"""The forward kernel of attention on a GPU, against fp64."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from helpers.attention_cases import CASES, Case, check_case, inputs, poison, run
from helpers.cuda import on_hopper

pytestmark = on_hopper


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bf16", "fp16"])
@pytest.mark.parametrize("dim", [64, 128], ids=["d64", "d128"])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(monkeypatch, case, dim, dtype):
    taken = poison(monkeypatch)
    check_case(dataclasses.replace(case, dim=dim), "cuda", dtype)
    assert len(taken) == 1


@pytest.mark.parametrize("causal", [True, False])
def test_a_hundred_runs_have_the_same_bits(causal):
    case = Case("large", 2048, 2048, heads=32, kv_heads=8, dim=128, batch=2, causal=causal)
    q, k, v = inputs(case, "cuda", torch.bfloat16)
    first = run(case, q, k, v)
    for _ in range(100):
        assert all(torch.equal(a, b) for a, b in zip(first, run(case, q, k, v), strict=True))
