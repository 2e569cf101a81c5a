"""A peak FLOP/s for the CPU, so that the ranks of a test write the MFU that a GPU would have."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

PEAK = 1e12


def give(**_: Any) -> None:
    """Have the trainer of this process take its device for one with a known peak."""
    import codeshell.train.loop as loop

    loop.devices = SimpleNamespace(on_gpu=lambda device: True, facts=lambda device: SimpleNamespace(name="a GPU"))
    loop.peak_flops = lambda name, precision: PEAK
