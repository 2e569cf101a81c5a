"""What the files of tests that need a GPU share: when they run, and how a call is captured."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from codeshell import _C

_there = torch.cuda.is_available() and _C.cuda_built

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU; the kernels in Triton are NOT run")
needs_gpu = pytest.mark.skipif(not _there, reason="needs a GPU and a build with CUDA")
on_hopper = [
    pytest.mark.skipif(
        not (_there and torch.cuda.get_device_capability() == (9, 0)),
        reason="needs a GPU of compute capability 9.0 and a build with CUDA",
    ),
    pytest.mark.usefixtures("hopper_kernels"),
]
"""Marks of a file: a Hopper GPU, and its attention kernels are on, as for users who ask for them."""


def captured(step: Callable[[], Any], warm_up: bool = True) -> tuple[torch.cuda.CUDAGraph, Any]:
    """A graph of `step`, and what the step returned in it; a replay writes there.

    With `warm_up` it is called on another stream first, as torch asks of what runs autograd; without, the capture is
    its first call.
    """
    if warm_up:
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            step()
        torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        result = step()
    return graph, result
