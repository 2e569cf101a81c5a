"""The number formats of a GGUF against gguf's own, and against the definition of Q8_0 in fp64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from codeshell.export.blocks import FORMATS, encode, q8_0, q8_0_bound

gguf = pytest.importorskip("gguf", reason="gguf is not installed: its number formats are NOT compared with ours")

Q8_0 = gguf.GGMLQuantizationType.Q8_0


def decoded(data: np.ndarray, width: int) -> np.ndarray:
    """What a reader makes of the bytes of Q8_0: (rows, width) fp64, written out from the format's definition."""
    blocks = data.reshape(-1, 34)
    scale = blocks[:, :2].copy().view("<f2").astype(np.float64)
    return (scale * blocks[:, 2:].view(np.int8)).reshape(-1, width)


def samples() -> list[np.ndarray]:
    draw = np.random.default_rng(0)
    normal = draw.standard_normal((64, 96)).astype(np.float32)
    ties = np.tile(np.arange(-63.5, 64.5, 4, dtype=np.float32), (2, 1))[:, :32]
    ties[:, 0] = 127
    return [
        normal,
        normal * np.float32(1e-6),
        normal * np.float32(1e-30),
        normal * np.float32(1e5),
        normal ** np.float32(9),
        np.zeros((2, 64), np.float32),
        np.full((1, 32), 1e-45, np.float32),
        ties,
        np.nextafter(np.float32(0.5), np.float32(0)) * np.ones((1, 32), np.float32) + 0 * normal[:1, :32],
    ]


@pytest.mark.parametrize("rows", samples())
def test_q8_0_has_the_bits_of_gguf(rows: np.ndarray) -> None:
    with np.errstate(all="ignore"):
        theirs = gguf.quantize(rows, Q8_0)
    assert np.array_equal(q8_0(rows), theirs.reshape(-1)) or np.abs(rows).max() < 1e-40


@pytest.mark.parametrize("rows", samples())
def test_q8_0_is_within_its_bound(rows: np.ndarray) -> None:
    error = np.abs(decoded(q8_0(rows), rows.shape[1]) - rows.astype(np.float64))
    assert (error <= q8_0_bound(rows)).all()


def test_the_bound_is_no_larger_than_it_must_be() -> None:
    rows = np.random.default_rng(1).standard_normal((4000, 32)).astype(np.float32)
    error = np.abs(decoded(q8_0(rows), 32) - rows.astype(np.float64))
    assert 0.85 < (error / q8_0_bound(rows)).max() <= 1


@given(arrays(np.float32, (1, 32), elements=st.floats(-8e6, 8e6, width=32)))
def test_any_block_is_within_its_bound(rows: np.ndarray) -> None:
    error = np.abs(decoded(q8_0(rows), 32) - rows.astype(np.float64))
    assert (error <= q8_0_bound(rows)).all()


@pytest.mark.parametrize("name", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_plain_formats_have_the_bits_of_gguf(name: str, dtype: torch.dtype) -> None:
    rows = torch.randn(5, 24, generator=torch.Generator().manual_seed(0)).to(dtype)
    form = FORMATS[name]
    # From fp64 there is one rounding, where gguf would make two.
    exact = rows.to(form.dtype) if dtype == torch.float64 else rows
    theirs = gguf.quantize(exact.float().numpy(), gguf.GGMLQuantizationType[form.ggml])
    data = encode(rows, form)
    assert np.array_equal(data, theirs.view(np.uint8).reshape(-1))
    assert data.nbytes == form.nbytes((5, 24))


def test_vectors_are_fp32_in_every_format() -> None:
    bias = torch.tensor([0.1, -2.5, 3e-8], dtype=torch.bfloat16)
    for form in FORMATS.values():
        assert np.array_equal(encode(bias, form).view(np.float32), bias.float().numpy())
        assert form.nbytes((3,)) == 12
    assert FORMATS["q8_0"].nbytes((4, 64)) == 4 * 2 * 34
