"""Whether a model fits into the memory of this machine, before it is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path

from codeshell.errors import UserError

CACHES = 1 << 30
"""Bytes for the prompts that are kept, and for what a pass needs."""

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

MOST_HEADER = 100 << 20
"""Bytes that a header of safetensors may have, by its own definition."""


def check_memory(directory: Path, weights: str) -> None:
    """Refuse a model that the free memory does not hold.

    Args:
        weights: type of the weights in memory, as `--weights` has it. For int8 the files' own weights are there at
            first, one after another, so theirs is the larger part.

    Raises:
        UserError: it does not fit.
    """
    free = available()
    needed = weight_bytes(directory, 4 if weights == "fp32" else 2 if weights == "bf16" else None)
    if free is None or needed is None or needed + CACHES <= free:
        return
    remedy = "give --weights bf16, or take a smaller model" if weights in ("auto", "fp32") else "take a smaller model"
    raise UserError(
        f"{directory}: the model takes {_gb(needed)}, and prompts {_gb(CACHES)}, but {_gb(free)} of memory are free; "
        f"{remedy}, or free some memory"
    )


def weight_bytes(directory: Path, width: int | None) -> int | None:
    """Bytes of a model's weights in memory; None where its files cannot be read, which their reader explains.

    Args:
        width: bytes of a number in memory; None keeps that of the files.
    """
    total = 0
    paths = sorted(directory.glob("*.safetensors"))
    for path in paths:
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                tensors = json.loads(file.read(min(length, MOST_HEADER)))
            for name, tensor in tensors.items():
                if name != "__metadata__":
                    total += math.prod(tensor["shape"]) * (width or WIDTHS.get(tensor["dtype"], 1))
        except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError):
            return None
    return total if paths else None


def available() -> int | None:
    """Bytes that a process may still get: what the machine has free, and what its control group allows; None where
    the system does not say."""
    found = [value for value in (_machine(), _group()) if value is not None]
    return min(found, default=None)


def _machine() -> int | None:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    fields = dict(line.partition(":")[::2] for line in lines)
    value = fields.get("MemAvailable", "").split()
    return int(value[0]) * 1024 if value and value[0].isdigit() else None


def _group() -> int | None:
    """What the control group's limit (version 2) leaves, where there is one: in a container."""
    root = Path("/sys/fs/cgroup")
    try:
        limit = (root / "memory.max").read_text().strip()
        used = (root / "memory.current").read_text().strip()
        cached = next(
            (
                int(line.split()[1])
                for line in (root / "memory.stat").read_text().splitlines()
                if line.startswith("file ")
            ),
            0,
        )
    except (OSError, ValueError):
        return None
    # Cached files give way.
    return max(0, int(limit) - int(used) + cached) if limit.isdigit() and used.isdigit() else None


def _gb(count: int) -> str:
    return f"{count / 1e9:.1f} GB"
