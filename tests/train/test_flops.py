"""FLOPs against a count by hand and against the table in the project's notes on training."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from codeshell.train.flops import flops_per_token, matmul_weights, peak_flops


def shape(n_layer, n_embd, n_head, groups, inner, vocab_size):
    return SimpleNamespace(
        n_layer=n_layer, n_embd=n_embd, n_head=n_head, num_query_groups=groups, inner_size=inner, vocab_size=vocab_size
    )


SEVEN = shape(42, 4096, 32, 8, 16384, 70144)
SMALL = shape(24, 2048, 16, 8, 8192, 70144)


def test_every_matrix_product_counted_by_hand():
    """Two layers, d 8, 4 heads of 2, 2 groups: K and V are 4 wide each."""
    config = shape(2, 8, 4, 2, 32, 100)
    q_k_v, out, up, down, head = 8 * (8 + 4 + 4), 8 * 8, 8 * 32, 32 * 8, 100 * 8
    weights = 2 * (q_k_v + out + up + down) + head
    assert matmul_weights(config) == weights
    # Scores: 4 heads x T keys x 2 wide = 8 T multiply-adds per token and layer, values the same; 2 FLOPs each,
    # three times for forward and backward.
    scores = 2 * (8 * 16 + 8 * 16) * 2 * 3
    assert flops_per_token(config, 16) == 6 * weights + scores
    assert flops_per_token(config, 16, causal=True) == 6 * weights + scores // 2


@pytest.mark.parametrize(
    ("config", "context", "full", "causal"),
    [
        (SEVEN, 2048, 50.34, 48.23),
        (SEVEN, 8192, 63.03, 54.57),
        (SMALL, 2048, 8.71, 8.11),
        (SMALL, 8192, 12.34, 9.92),
    ],
)
def test_known_shapes(config, context, full, causal):
    assert flops_per_token(config, context) / 1e9 == pytest.approx(full, abs=0.006)
    assert flops_per_token(config, context, causal=True) / 1e9 == pytest.approx(causal, abs=0.006)


@pytest.mark.parametrize(
    ("name", "teraflops"),
    [
        ("NVIDIA A100-SXM4-40GB", 312),
        ("NVIDIA A100-SXM4-80GB", 312),
        ("NVIDIA A100-PCIE-40GB", 312),
        ("NVIDIA A100 80GB PCIe", 312),
        ("A100-SXM4-40GB", 312),  # drivers before 470
        ("NVIDIA A10", 125),
        ("NVIDIA A40", 149.7),
        ("NVIDIA RTX A6000", 154.8),
        ("NVIDIA GeForce RTX 3090", 71),
        ("NVIDIA GeForce RTX 3090 Ti", 80),
        ("NVIDIA GeForce RTX 4080", 97.5),
        ("NVIDIA GeForce RTX 4090", 165.2),
        ("NVIDIA RTX 6000 Ada Generation", 364.2),
        ("NVIDIA L4", 121),
        ("NVIDIA L40S", 362.05),
        ("NVIDIA H100 80GB HBM3", 989),
        ("NVIDIA H100 PCIe", 756),
        ("NVIDIA H100 NVL", 835),
        ("NVIDIA H200", 989),
        ("NVIDIA H200 NVL", 835),
        ("NVIDIA GH200 480GB", 989),
        ("NVIDIA B200", 2250),
        ("NVIDIA GB200", 2500),
        ("NVIDIA B300 SXM6 AC", 2250),
        ("NVIDIA GeForce RTX 5090", 209.5),
        ("NVIDIA RTX PRO 6000 Blackwell Workstation Edition", 503.8),
    ],
)
def test_peaks_by_the_names_that_torch_gives(name: str, teraflops: float) -> None:
    assert peak_flops(name, "bf16") == pytest.approx(teraflops * 1e12)
    assert peak_flops(name, "fp32") is None


@pytest.mark.parametrize(
    "name",
    [
        "NVIDIA GeForce RTX 4090 Laptop GPU",
        "NVIDIA GeForce RTX 4090 D",
        "NVIDIA GeForce RTX 3080",  # two cards of this name
        "NVIDIA GeForce RTX 3080 Ti Laptop GPU",
        "NVIDIA GeForce RTX 5090 Laptop GPU",
        "NVIDIA A100-SXM4-40GB MIG 1g.5gb",
        "NVIDIA H100 80GB HBM3 MIG 3g.40gb",
        "NVIDIA A100-SXM-64GB",  # a chip with more multiprocessors
        "NVIDIA A40-24Q",  # half of one, in a virtual machine
        "NVIDIA A10G",
        "NVIDIA H20",
        "NVIDIA RTX PRO 6000 Blackwell Max-Q Workstation Edition",
        "NVIDIA GB10",
        "NVIDIA L400",
        "Tesla T4",
        "Tesla V100-SXM2-32GB",
        "AMD Instinct MI300X",
        "AMD EPYC 9B14",
    ],
)
def test_other_devices_have_no_peak_rather_than_a_wrong_one(name: str) -> None:
    assert peak_flops(name, "bf16") is None
