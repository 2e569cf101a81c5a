"""The pipelines of attention's kernels with one wait, arrival or commit left out at a time: each has to show.

The host execution notes every place of the source where a thread waits, arrives or commits, a barrier that one line
serves for several stages or consumers for each, and leaves out the calls of one of them. A defect shows if a launch
ends in an error (a deadlock, a phase that does not end, copies that nobody waited for), or in other bits, which
unfilled and overwritten stages, NaN meanwhile, give under one of a few orders of warps and copies.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import torch
from helpers.attention_cases import Case, inputs, packing, run

SEEDS = (3, 2, 0, 1, 7, 6, 4, 5, 11, 10, 8, 9)
"""The host execution runs warps by rank in 2, 3, 6, …: most defects show there."""

CSRC = Path(__file__).resolve().parents[2] / "csrc" / "attention"

SURVIVORS = {
    # The host's wgmma is carried out, and waited for, by the four warps of a warpgroup together; a GPU's by each warp.
    ("forward_sm90.cu", "wait_values", "bar.sync", 0): "rows zeroed by the other warps, before a product reads them",
    ("backward_sm90.cu", "clear", "bar.sync", 0): "the same",
    ("forward_sm90.cu", "store", "bar.sync", 0): "the other warps' products have read Q, before the output lies there",
    # A consumer would have to fall behind by all that the other does after the last exchange: no order here does that.
    ("backward_sm90.cu", "accumulate", "bar.sync", 0): "the other consumer's dQ has read K, before dK lies there",
    # One block is resident at a time, and its ticket is the order.
    ("backward_pipeline.h", "add_queries", "semaphore_wait", 0): "another block's turn",
    ("backward_pipeline.h", "add_queries", "bulk_wait", 0): "an addition's end, before the next block's begins",
}
"""What these runs do not show, and what it is there for; the key is the file, the function, what is left out, and which
of its calls."""


def call_of(place: str) -> tuple[str, str, str, int]:
    """The key of SURVIVORS for a place, `what file.h:12 of 3`."""
    match = re.fullmatch(r"(.+) (\S+):(\d+) of \d+", place)
    assert match
    what, file, line = match[1], match[2], int(match[3])
    call = {"bar.sync": "barrier_sync("}.get(what, f"{what}<" if what == "bulk_wait" else f"{what}(")
    earlier = 0
    for text in reversed((CSRC / file).read_text().splitlines()[: line - 1]):
        if found := re.search(r"\bvoid (?:__launch_bounds__\([^)]*\) )?(\w+)\(", text):
            return file, found[1], what, earlier
        earlier += call in text
    raise AssertionError(place)


@pytest.fixture
def on_host(on_host):
    yield on_host
    on_host.leave_out("")
    on_host.trace(False)


def forward(case: Case):
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    return lambda: run(case, q, k, v)


def backward(case: Case):
    q, k, v = inputs(case, "cpu", torch.bfloat16)
    grad = torch.randn(q.shape).bfloat16()
    out, lse = run(case, q, k, v)
    offsets, longest = packing(case, q.device).values()
    right = 0 if case.causal else None
    arguments = (grad, out, lse, q, k, v, offsets, longest or 0, None, right, case.dim**-0.5, True)
    return lambda: torch.ops.codeshell.attention_backward(*arguments)


# Rings of two stages come round twice, sequences end within a tile, and a tile of outputs is whole.
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("launch", "case", "fewest"),
    [
        (forward, Case("forward", 650, 650, lengths=(520, 130), heads=1), 25),
        (backward, Case("backward", 190, 190, lengths=(130, 60), heads=4), 45),
    ],
    ids=["forward", "backward"],
)
def test_nothing_can_be_left_out(on_host, launch, case, fewest):
    launch = launch(case)
    on_host.trace(True)
    right = launch()
    places = on_host.places()
    on_host.trace(False)
    assert len(places) >= fewest

    def shows(seed: int) -> bool:
        on_host.set_seed(seed)
        try:
            return not all(torch.equal(a, b) for a, b in zip(launch(), right, strict=True))
        except RuntimeError:
            return True

    survivors = set()
    for place in places:
        on_host.leave_out(place)
        if call_of(place) in SURVIVORS:
            assert not shows(0), f"{place}: shows, and SURVIVORS says that it cannot"
        elif not any(shows(seed) for seed in SEEDS):
            survivors.add(place)
    on_host.leave_out("")
    assert not shows(0)
    assert not survivors
