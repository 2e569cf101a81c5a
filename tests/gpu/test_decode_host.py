"""The decoding kernel, run on the host through the same Python as on a GPU, against fp64; its plan."""

from __future__ import annotations

import dataclasses
import sys

import pytest
import torch
from decode_cases import CASES, Case, check_case, inputs
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C, ops
from codeshell.ops import decode_cuda

decode_module = sys.modules["codeshell.ops.decode"]


@pytest.fixture
def on_host(host_kernels, monkeypatch):
    monkeypatch.setattr(decode_cuda, "extension", host_kernels)
    yield host_kernels
    assert all(not counts.any() for counts in decode_cuda._counts.values()), "a counter was not left at 0"


@pytest.fixture
def taken(monkeypatch):
    """Outputs start as NaN; the shapes of those that the kernel was given."""
    shapes = []
    launch = decode_cuda.run

    def run(q, k_cache, v_cache, call, out, lse):
        shapes.append(q.shape)
        launch(q, k_cache, v_cache, call, out.fill_(torch.nan), lse.fill_(torch.nan))

    monkeypatch.setattr(decode_cuda, "run", run)
    return shapes


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_every_element_against_fp64(on_host, taken, case):
    number = CASES.index(case)
    on_host.set_seed(number)
    on_host.set_multiprocessors((4, 12, 40)[number % 3])
    check_case(case, "cpu", (torch.bfloat16, torch.float16)[number // 2 % 2])
    assert len(taken) == 1
