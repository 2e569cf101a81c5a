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
    # Ampere. A100 data sheet (nvidia-a100-datasheet, 2021); A800 is an A100 with slower links.
    "A100-SXM4-40GB": 312e12,
    "A100-SXM4-80GB": 312e12,
    "A100-PCIE-40GB": 312e12,
    "A100 80GB PCIe": 312e12,
    "A800-SXM4-80GB": 312e12,
    "A800 80GB PCIe": 312e12,
    # A10, A30 and A40 data sheets (2021, 2022).
    "A10": 125e12,
    "A30": 165e12,
    "A40": 149.7e12,
    # White paper "NVIDIA Ampere GA102 GPU Architecture" (v2), tables of appendix A: BF16 with FP32 accumulate. GeForce
    # cards do half of what their tensor cores do with FP16 sums. A 3080 is missing because two cards have its name.
    "RTX A6000": 154.8e12,
    "GeForce RTX 3090": 71e12,
    # White paper "NVIDIA Ada GPU Architecture" (v2), appendix A: these three; and the data sheets of the others. The
    # sheets print the rate with sparsity, which is twice this.
    "GeForce RTX 3090 Ti": 80e12,
    "GeForce RTX 4080": 97.5e12,
    "GeForce RTX 4090": 165.2e12,
    "RTX 6000 Ada Generation": 364.2e12,
    "L4": 121e12,
    "L40": 181.05e12,
    "L40S": 362.05e12,
    # Hopper: H100, H200 and GH200 data sheets (2023, 2024), half of the rate with sparsity. H800 has H100's chip.
    "H100 80GB HBM3": 989e12,
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H800": 989e12,
    "H200": 989e12,
    "H200 NVL": 835e12,
    "GH200 120GB": 989e12,
    "GH200 480GB": 989e12,
    "GH200 144G HBM3e": 989e12,
    # Blackwell: data sheets of HGX B200 and B300 (36 PFLOP/s with sparsity for 8), GB200 and GB300 NVL72 (360 for
    # 72).
    "B200": 2250e12,
    "B300 SXM6 AC": 2250e12,
    "GB200": 2500e12,
    "GB300": 2500e12,
    # White paper "NVIDIA RTX Blackwell GPU Architecture" (v1.1), appendix A.
    "GeForce RTX 5080": 112.6e12,
    "GeForce RTX 5090": 209.5e12,
    # White paper "NVIDIA RTX Blackwell PRO GPU Architecture" (v1.0). Max-Q and server editions have other clocks.
    "RTX PRO 6000 Blackwell Workstation Edition": 503.8e12,
}
"""Dense bf16 FLOP/s with fp32 sums, by the device's whole name after "NVIDIA ": a laptop's GPU, a part of a GPU (MIG)
and a variant for one market have longer names, and other peaks."""


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
    return PEAKS.get(device_name.removeprefix("NVIDIA ")) if precision == "bf16" else None
