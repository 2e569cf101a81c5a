"""Whether a model fits into the memory of this machine, before it is loaded."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from codeshell.errors import UserError

CACHES = 1 << 30
"""Bytes for the prompts that are kept, and for what a pass needs; more where a single prompt may take more."""

WIDTHS = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2}

MOST_HEADER = 100 << 20
"""Bytes that a header of safetensors may have, by its own definition."""


def check_memory(directory: Path, weights: str, context: int = 0) -> None:
    """Refuse a model that the free memory does not hold with a prompt of its whole context.

    Args:
        directory: the model's.
        weights: type of the weights in memory, as `--weights` has it. For int8 the files' own weights are there at
            first, one after another, so theirs is the larger part.
        context: tokens at most of a prompt and its answer; 0 is what the model holds.

    Raises:
        UserError: it does not fit.
    """
    free = available()
    width = {"fp32": 4, "bf16": 2}.get(weights)
    needed = weight_bytes(directory, width)
    if free is None or needed is None:
        return
    # Beside int8 weights, keys and values are fp32.
    width = 4 if weights == "int8" else width
    longest = prompt_bytes(directory, width, context)
    prompts = max(CACHES, longest or 0)
    if needed + prompts <= free:
        return
    remedies = []
    if weights in ("auto", "fp32") and (weight_bytes(directory, 2) or needed) < needed:
        remedies.append("give --weights bf16")
    # A shorter context helps as far as the minimum.
    if longest is not None and longest > CACHES and needed + CACHES < free:
        remedies.append(f"give --context {_fitting(directory, width, free - needed)}")
    remedy = ", ".join([*remedies, "take a smaller model"])
    raise UserError(
        f"{directory}: the model takes {_gb(needed)}, and prompts {_gb(prompts)}, but {_gb(free)} of memory are free; "
        f"{remedy}, or free some memory"
    )


def weight_bytes(directory: Path, width: int | None) -> int | None:
    """Bytes of a model's weights in memory; None where its files cannot be read, which their reader explains.

    Args:
        width: bytes of a number in memory; None keeps that of the files.
    """
    tensors = _tensors(directory)
    if tensors is None:
        return None
    try:
        total: int = sum(math.prod(one["shape"]) * (width or WIDTHS.get(one["dtype"], 1)) for one in tensors)
    except (KeyError, TypeError):
        return None
    return total


def prompt_bytes(directory: Path, width: int | None, context: int = 0) -> int | None:
    """Bytes of the keys and values of a prompt; None where the model's config does not tell, which its reader explains.

    Args:
        width: bytes of a number in memory; None is that of the widest weights in the files.
        context: tokens of the prompt; 0 is as many as the model holds.
    """
    try:
        config = json.loads((directory / "config.json").read_text(encoding="utf-8-sig"))
        # By the names of CodeShell, and by those of the families of transformers.
        heads = _first(config, "n_head", "num_attention_heads")
        groups = _first(config, "num_query_groups", "num_key_value_heads") or heads
        dim = _first(config, "head_dim") or _first(config, "n_embd", "hidden_size") // heads
        layers = _first(config, "n_layer", "num_hidden_layers")
        longest = _first(config, "n_positions", "max_position_embeddings")
        width = width or max(WIDTHS.get(tensor["dtype"], 1) for tensor in _tensors(directory) or ())
        found = 2 * layers * groups * dim * width * min(context or longest, longest)
    except (OSError, ValueError, RecursionError, AttributeError, KeyError, TypeError, ZeroDivisionError):
        return None
    return int(found) or None


def _first(config: dict[str, int], *names: str) -> int:
    """The number of the first of these names that a config has; 0 without any."""
    return next((config[name] for name in names if config.get(name)), 0)


def _fitting(directory: Path, width: int | None, free: int) -> int:
    """Tokens whose keys and values fit, a multiple of 256."""
    return free // (prompt_bytes(directory, width, 1) or 1) // 256 * 256


def _tensors(directory: Path) -> list[dict[str, Any]] | None:
    """What the headers of a model's files say of each tensor; None where they cannot be read, or are not there."""
    paths = sorted(directory.glob("*.safetensors"))
    found = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                length = int.from_bytes(file.read(8), "little")
                header = json.loads(file.read(min(length, MOST_HEADER)))
            found += [tensor for name, tensor in header.items() if name != "__metadata__"]
        except (OSError, ValueError, RecursionError, AttributeError):
            return None
    return found if paths else None


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
