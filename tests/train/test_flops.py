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


def test_only_known_devices_have_a_peak():
    assert peak_flops("NVIDIA H200", "bf16") == 989e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "bf16") == 312e12
    assert peak_flops("NVIDIA H100 PCIe", "bf16") == 756e12
    assert peak_flops("NVIDIA L40S", "bf16") == 362e12
    assert peak_flops("NVIDIA L4", "bf16") == 121e12
    assert peak_flops("NVIDIA L400", "bf16") is None
    assert peak_flops("AMD EPYC 9B14", "bf16") is None
    assert peak_flops("NVIDIA H200", "fp32") is None
