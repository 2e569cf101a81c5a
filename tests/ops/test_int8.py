"""int8 weights: kernels to the bit like their reference, within a bound of fp64, and the same at every level."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from helpers.instruction_sets import check_at_level
from hypothesis import given, settings
from hypothesis import strategies as st

from codeshell import _C
from codeshell.ops.int8 import (
    Int8Weight,
    dequantize,
    int8_linear,
    int8_rows,
    multiply,
    quantize_rows,
    reference,
)

ROOT = Path(__file__).resolve().parents[2]
WIDTHS = st.sampled_from([1, 2, 31, 32, 33, 100, 511, 512, 513, 1024, 1055])
"""Around a chunk, and around a block of columns with a scale of its own."""
ROWS = st.sampled_from([1, 2, 3, 4, 5, 8, 63, 130])
TOKENS = st.sampled_from([0, 1, 2, 3, 4, 5, 8, 11, 12, 13, 25, 97])


def made(n, k, tokens, seed=0, scale=1.0):
    """A weight, x and a bias."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(n, k, generator=generator) * torch.rand(n, 1, generator=generator)
    return weight, torch.randn(tokens, k, generator=generator) * scale, torch.randn(n, generator=generator)


def bound(x, weight, wanted):
    """What `int8_linear` promises against the exact product with the int8 weight."""
    x, integers = x.double(), weight.integers().double().abs()
    steps = torch.zeros(x.shape[0], weight.shape[0], dtype=torch.float64)
    for first in range(0, x.shape[-1], _C.int8.BLOCK):
        part = slice(first, first + _C.int8.BLOCK)
        steps += x[:, part].abs().amax(-1, keepdim=True) / 32767 / 2 * integers[:, part].sum(-1)
    # One rounding to fp32, and those of the fp64 sums.
    return steps * weight.scales.double() * (1 + 1e-9) + wanted.abs() * 2.0**-24 + 2.0**-149


@settings(max_examples=60, deadline=None)
@given(ROWS, WIDTHS, TOKENS, st.booleans(), st.integers(1, 3), st.sampled_from([1e-42, 1e-30, 1.0, 1e30]))
def test_the_reference_to_the_bit_and_fp64_within_the_bound(n, k, tokens, with_bias, threads, scale):
    weight, x, bias = made(n, k, tokens, seed=n * k + tokens, scale=scale)
    packed, bias = quantize_rows(weight), bias * scale if with_bias else None
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        got = int8_linear(x, packed, bias)
    finally:
        torch.set_num_threads(before)
    assert got.shape == (tokens, n) and got.dtype == torch.float32
    assert torch.equal(got, reference(x, packed, bias))
    wanted = x.double() @ dequantize(packed).double().t() + (0 if bias is None else bias.double())
    # `dequantize` rounds each element once.
    slack = (x.double().abs() @ dequantize(packed).double().abs().t()) * 2.0**-23
    assert ((got.double() - wanted).abs() <= bound(x, packed, wanted) + slack).all()
    # A row does not know how many are beside it.
    for row in range(min(tokens, 3)):
        assert torch.equal(int8_linear(x[row : row + 1], packed, bias)[0], got[row])


@settings(max_examples=40, deadline=None)
@given(ROWS, WIDTHS, st.sampled_from([torch.float32, torch.bfloat16, torch.float64]), st.floats(-140, 120))
def test_weights_are_within_half_a_step(n, k, dtype, power):
    weight = (made(n, k, 1, seed=n + k)[0].double() * 2.0**power).to(dtype)
    packed = quantize_rows(weight.t().contiguous().t())
    integers = packed.integers()
    assert packed.shape == (n, k) and integers.shape == (n, k) and int(integers.abs().max()) <= 127
    wanted = weight.float().double()
    scale = wanted.abs().amax(1) / 127
    assert ((packed.scales.double() - scale).abs() <= scale * 2.0**-24 + 2.0**-150).all()
    error = (integers.double() * packed.scales.double().unsqueeze(1) - wanted).abs()
    # Half a step; where the scale is so small that it is rounded itself, 127 times its rounding more.
    assert (error <= packed.scales.double().unsqueeze(1) * (0.5 + 127 * 2.0**-24) + 127 * 2.0**-150).all()
    rows = torch.arange(n).flip(0)
    assert torch.equal(int8_rows(packed, rows), dequantize(packed)[rows])


def test_padding_of_the_layout_is_zero():
    packed = quantize_rows(torch.full((5, 33), 3.0))
    assert packed.values.numel() == 8 * 64
    assert int((packed.values != 0).sum()) == 5 * 33 and torch.equal(dequantize(packed), torch.full((5, 33), 3.0))


def test_the_largest_sums_do_not_overflow():
    """Whole blocks of the largest integers with one sign: 512 * 127 * 32767 is just below 2^31."""
    for sign in (1.0, -1.0):
        packed = quantize_rows(torch.full((4, 1024), sign))
        got = int8_linear(torch.full((3, 1024), 2.0), packed)
        # The scale of a row is the fp32 next to 1/127.
        wanted = 2.0 * 1024 * 127 * packed.scales.double() * sign
        assert torch.equal(got, wanted.float().expand(3, 4))


def test_zeros_extremes_and_what_is_not_finite():
    weight, x, bias = made(6, 700, 5)
    weight[2] = 0
    packed = quantize_rows(weight)
    x[0], x[1, 600], x[2, 3], x[3, :512] = 0, float("nan"), float("-inf"), 0
    got = int8_linear(x, packed, bias)
    assert torch.equal(got[0], bias) and torch.equal(got[3:, 2], bias[2].expand(2))
    assert bool(got[1:3].isnan().all()) and bool(got[3:].isfinite().all())
    assert torch.equal(got.nan_to_num(7), reference(x, packed, bias).nan_to_num(7))
    # What fp32 holds is a result, even where a sum of integers and scales would not be one in fp32.
    huge = int8_linear(torch.full((1, 512), 3e38), quantize_rows(torch.full((1, 512), 1e-5)))
    assert huge.item() == pytest.approx(3e38 * 512e-5, rel=1e-6)
    assert int8_linear(torch.full((1, 512), 3e38), quantize_rows(torch.ones(1, 512))).item() == float("inf")
    assert torch.equal(quantize_rows(torch.full((2, 3), 1e-45)).scales, torch.zeros(2))


def test_an_outlier_costs_its_own_block_alone():
    """x with one element a thousand times the others: the steps of the other blocks stay as they are."""
    weight, x, _ = made(64, 1536, 4)
    weight[:, 512:1024] = 0
    packed = quantize_rows(weight)
    plain = int8_linear(x, packed)
    x[:, 700] = 3000.0
    assert torch.equal(int8_linear(x, packed), plain)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_other_dtypes_shapes_and_strides(dtype):
    weight, x, bias = made(10, 48, 12)
    packed = quantize_rows(weight)
    wanted = int8_linear(x.to(dtype).float(), packed, bias)
    assert torch.equal(int8_linear(x.to(dtype), packed, bias), wanted)
    assert torch.equal(int8_linear(x.to(dtype).view(3, 4, 48), packed, bias), wanted.view(3, 4, 10))
    wide = torch.zeros(12, 2, 48, dtype=dtype)
    wide[:, 1] = x.to(dtype)
    for view in (wide[:, 1], x.to(dtype).t().contiguous().t()):
        assert torch.equal(int8_linear(view, packed, bias), wanted)
    assert torch.equal(int8_linear(x[:1].expand(5, 48), packed), int8_linear(x[:1], packed).expand(5, 10))
    assert torch.equal(int8_linear(x[0], packed, bias), int8_linear(x, packed, bias)[0])
    assert torch.equal(multiply(x, packed, bias), int8_linear(x, packed, bias))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(int8_linear(x, packed, bias), int8_linear(x.float(), packed, bias))
    assert int8_linear(x[:0], packed, bias).shape == (0, 10)
    assert int8_linear(torch.zeros(2, 3, 0), quantize_rows(torch.zeros(4, 0))).tolist() == [[[0.0] * 4] * 3] * 2
    assert int8_linear(torch.zeros(2, 5), quantize_rows(torch.zeros(0, 5))).shape == (2, 0)


def test_a_transformed_call_is_the_reference():
    weight, x, bias = made(10, 48, 3)
    packed = quantize_rows(weight)
    mapped = torch.func.vmap(lambda row: int8_linear(row, packed, bias))(x)
    assert torch.equal(mapped, int8_linear(x, packed, bias))


def test_bad_arguments():
    weight, x, bias = made(10, 48, 3)
    packed = quantize_rows(weight)
    for bad, message in (
        (weight[0], "takes .rows, columns."),
        (weight.to(torch.int8), "takes .rows, columns."),
        (torch.zeros(1, _C.int8.MOST_COLUMNS + 1), "takes up to 131072 columns"),
        (torch.tensor([[1.0], [float("nan")]]), "row 1 holds a NaN or an infinity"),
        (torch.tensor([[1e300]], dtype=torch.float64), "row 0 holds a NaN or an infinity"),
    ):
        with pytest.raises(ValueError, match=message):
            quantize_rows(bad)
    with pytest.raises(ValueError, match=r"x \(3, 47\) torch.float32: must be \(…, 48\)"):
        int8_linear(x[:, :47], packed)
    with pytest.raises(ValueError, match="must be"):
        int8_linear(x.double(), packed)
    with pytest.raises(ValueError, match=r"bias \(9,\)"):
        int8_linear(x, packed, bias[:9])
    with pytest.raises(ValueError, match="before it is quantised"):
        int8_linear(x, Int8Weight(packed.values, packed.scales.bfloat16(), 48))
    with pytest.raises(ValueError, match="int8 weights run on CPUs alone"):
        int8_linear(x.to("meta"), packed)
    with pytest.raises(RuntimeError, match="no gradients"):
        int8_linear(x.requires_grad_(), packed)
    for ids in (torch.tensor([0, 10]), torch.tensor([-1])):
        with pytest.raises(IndexError, match="the weight has 10 rows"):
            int8_rows(packed, ids)
    with pytest.raises(ValueError, match="int64"):
        int8_rows(packed, torch.tensor([1.0]))


def check_this_level() -> None:
    """Against the reference, which knows no instruction set: what a process at another level runs."""
    for n, k, tokens in ((9, 33, 1), (37, 1055, 2), (64, 768, 7), (5, 512, 15)):
        weight, x, bias = made(n, k, tokens, seed=n)
        packed = quantize_rows(weight)
        assert torch.equal(int8_linear(x, packed, bias), reference(x, packed, bias)), (n, k, tokens)


@pytest.mark.parametrize("level", ["scalar", "avx2"])
def test_every_instruction_set_gives_the_same_bits(level):
    check_at_level(level, "test_int8", "check_this_level")


def test_avx512_by_stand_ins_for_its_instructions(tmp_path):
    """The AVX-512 kernel with plain C in the place of the seven instructions that AVX2 does not have."""
    compiler = shutil.which(os.environ.get("CXX", "c++"))
    if compiler is None or _C.simd_level() not in ("avx2", "avx512"):
        pytest.skip("needs a C++ compiler and a processor with AVX2")
    program = tmp_path / "int8_avx512"
    source = ROOT / "tests" / "ops" / "int8_avx512.cpp"
    flags = ["-std=c++20", "-O1", "-mavx2", f"-I{ROOT / 'csrc'}", str(source), "-o", str(program)]
    subprocess.run([compiler, *flags], check=True, capture_output=True, text=True)
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "same\n"), done.stdout + done.stderr
