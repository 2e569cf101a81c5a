"""FLOPs of this architecture, and the peak FLOP/s of devices.

Forward and backward of one token take 6 FLOPs for every weight of a matrix product, and 12 L d T for the scores and
values of full attention (PaLM, Chowdhery et al. 2022, appendix B), or half of that if only the causal half is counted.
Grouped queries shrink only the K and V projections. The embedding look-up is free; the tied head counts once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from codeshell.model import CodeShellConfig

CONVENTION = "6 N_matmul + 12 L d T per token: full attention, N without the embedding look-up, tied head once"
"""Printed beside every MFU; figures under other conventions differ by up to 15 % at 7 B and 8192 tokens."""

PEAKS = {
    # A longer name stands before the shorter one that it contains.
    "H200 NVL": 835e12,
    "H200": 989e12,
    "H100 80GB HBM3": 989e12,
    "H100 SXM": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "A100": 312e12,
    "A800": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
"""Dense bf16 FLOP/s from NVIDIA's data sheets, by a part of the device's name. The first name that fits counts."""


def matmul_weights(config: CodeShellConfig) -> int:
    """Weights that take part in a matrix product, the tied head included."""
    d = config.n_embd
    kv = d // config.n_head * config.num_query_groups  # width of K, and of V
    # Fused Q | K | V, attention output, and the two linears of the MLP.
    block = d * (d + 2 * kv) + d * d + 2 * d * config.inner_size
    return config.n_layer * block + config.vocab_size * d


def flops_per_token(config: CodeShellConfig, context: int, *, causal: bool = False) -> int:
    """FLOPs of forward and backward for one token in sequences of `context` tokens.

    Args:
        config: the model's shape.
        context: tokens per sequence; packed documents are counted as if they attended to one another.
        causal: count only the half of the attention that a causal kernel needs.
    """
    attention = 12 * config.n_layer * config.n_embd * context
    return 6 * matmul_weights(config) + (attention // 2 if causal else attention)


def peak_flops(device_name: str, precision: str) -> float | None:
    """The device's dense peak in FLOP/s, or None where it is not known: an unknown device has no MFU.

    Args:
        device_name: as `torch.cuda.get_device_name` gives it.
        precision: `"bf16"`; the table has no other.
    """
    if precision != "bf16":
        return None
    # Compare whole words: "L4" must not be found in "L40S".
    words = f" {device_name.replace('-', ' ')} "
    return next((peak for name, peak in PEAKS.items() if f" {name} " in words), None)
