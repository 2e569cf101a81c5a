"""The scalings of rotary tables against transformers' own, and their bad values."""

from __future__ import annotations

import types

import pytest
import torch

from codeshell.ops.rotary_tables import RotaryScaling, rotary_frequencies, rotary_tables

LLAMA3 = {
    "rope_type": "llama3",
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 1024,
}
YARN = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 2048}
PARAMETERS = [
    {"rope_type": "linear", "factor": 4.0},
    {"rope_type": "dynamic", "factor": 2.0},
    LLAMA3,
    LLAMA3 | {"factor": 32.0, "low_freq_factor": 2.0, "high_freq_factor": 8.0},
    YARN,
    YARN | {"beta_fast": 16, "beta_slow": 2, "truncate": False},
    YARN | {"attention_factor": 1.3},
    YARN | {"mscale": 0.7, "mscale_all_dim": 1.0},
    YARN | {"factor": None},
]


@pytest.mark.parametrize("parameters", PARAMETERS, ids=lambda p: "-".join(str(v) for v in p.values()))
@pytest.mark.parametrize("dim", [64, 128])
@pytest.mark.parametrize("length", [100, 20_000])
def test_frequencies_and_factor_equal_transformers(parameters, dim, length):
    functions = pytest.importorskip("transformers.modeling_rope_utils").ROPE_INIT_FUNCTIONS
    theta, positions = 500_000.0, 8192
    config = types.SimpleNamespace(
        rope_parameters=parameters | {"rope_theta": theta},
        head_dim=dim,
        hidden_size=dim * 8,
        num_attention_heads=8,
        max_position_embeddings=positions,
        standardize_rope_params=lambda: None,
    )
    want, factor = functions[parameters["rope_type"]](config, torch.device("cpu"), seq_len=length)
    scaling = RotaryScaling.from_config(parameters, positions)
    got = rotary_frequencies(dim, theta, scaling, length)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, want, rtol=1e-6, atol=0)
    assert scaling.table_factor == pytest.approx(factor, rel=1e-12)


def test_tables_are_cosines_and_sines_of_fp32_angles():
    cos, sin = rotary_tables(50, 32, 10_000.0)
    angles = torch.outer(torch.arange(50.0), 1.0 / 10_000.0 ** (torch.arange(0, 32, 2) / 32))
    assert torch.equal(cos, angles.cos()) and torch.equal(sin, angles.sin())
    scaling = RotaryScaling("yarn", 4.0, 1024)
    cos, sin = rotary_tables(50, 32, scaling=scaling)
    torch.testing.assert_close((cos.square() + sin.square()).sqrt(), torch.full_like(cos, scaling.table_factor))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: RotaryScaling("ntk"), "kind is 'ntk'"),
        (lambda: RotaryScaling("linear", 0.5), "factor is 0.5"),
        (lambda: RotaryScaling("yarn", 4.0), "original_length is None"),
        (lambda: RotaryScaling("llama3", 4.0, 100, low_freq_factor=4.0), "low_freq_factor is 4.0"),
        (lambda: RotaryScaling.from_config({"rope_type": "longrope", "factor": 2.0}, 100), "kind is 'longrope'"),
        (lambda: rotary_frequencies(7), "dim is 7"),
        (lambda: rotary_frequencies(8, scaling=RotaryScaling("dynamic", 2.0, 100)), "length is None"),
    ],
)
def test_bad_values_are_named(make, message):
    with pytest.raises(ValueError, match=message):
        make()
