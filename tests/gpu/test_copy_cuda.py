"""The copy kernel on a GPU, through the binding that benchmarks use."""

from __future__ import annotations

import pytest
import torch
from helpers.cuda import needs_gpu

from codeshell import _C

pytestmark = needs_gpu


@pytest.mark.parametrize("size", [0, 1, 15, 16, 17, 4096, 1_000_003, 100_000_000])
def test_copies_every_byte_and_no_more(size: int) -> None:
    source = torch.randint(0, 256, (size,), dtype=torch.uint8, device="cuda")
    target = torch.full((size + 64,), 171, dtype=torch.uint8, device="cuda")
    _C.copy_cuda(source.data_ptr(), target.data_ptr(), size, torch.cuda.current_stream().cuda_stream)
    assert torch.equal(target[:size], source)
    assert bool((target[size:] == 171).all())
