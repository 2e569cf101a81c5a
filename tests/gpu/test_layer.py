"""The host execution of kernels itself: right kernels give right results under any order, wrong ones end in an error
that says where."""

from __future__ import annotations

import re
from types import ModuleType

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

SEEDS = range(6)


def launch(
    module: ModuleType, name: str, source: torch.Tensor, target: torch.Tensor, size: int, threads: int = 32
) -> None:
    module.layer(name, source.data_ptr(), target.data_ptr(), size, threads)


def fails(module: ModuleType, name: str, message: str, size: int = 32, threads: int = 32) -> None:
    source, target = torch.ones(64), torch.full((64,), float("nan"))
    with pytest.raises(RuntimeError, match=message):
        launch(module, name, source, target, size, threads)
    # The next launch is not harmed by it.
    launch(module, "twice", source, target, 64)
    assert torch.equal(target, 2 * source)


@pytest.mark.parametrize("seed", SEEDS)
def test_sum_by_shuffles_shared_memory_and_atomics(host_kernels: ModuleType, seed: int) -> None:
    host_kernels.set_seed(seed)
    source, total = torch.randn(1003, dtype=torch.float64).float(), torch.zeros(1)
    launch(host_kernels, "sum", source, total, len(source))
    torch.testing.assert_close(total[0].double(), source.double().sum(), atol=1e-4, rtol=0)


@pytest.mark.parametrize("seed", SEEDS)
def test_transposition_through_shared_memory(host_kernels: ModuleType, seed: int) -> None:
    host_kernels.set_seed(seed)
    source, target = torch.randn(64, 64), torch.full((64, 64), float("nan"))
    launch(host_kernels, "transpose", source, target, 64)
    assert torch.equal(target, source.T)


def test_a_missing_barrier_shows(host_kernels: ModuleType) -> None:
    source = torch.randn(32, 32)
    for seed in SEEDS:
        host_kernels.set_seed(seed)
        target = torch.zeros(32, 32)
        launch(host_kernels, "transpose_without_barrier", source, target, 32)
        assert not torch.equal(target, source.T)
        assert target.isnan().any()  # the poison that shared memory starts with


def test_the_order_is_the_seed_s(host_kernels: ModuleType) -> None:
    source = torch.randn(32, 32)
    results = []
    for seed in (3, 4, 3):
        host_kernels.set_seed(seed)
        target = torch.zeros(32, 32)
        launch(host_kernels, "transpose_without_barrier", source, target, 32)
        results.append(target)
    assert torch.equal(results[0].isnan(), results[2].isnan())
    assert not torch.equal(results[0].isnan(), results[1].isnan())


@pytest.mark.parametrize("size", [0, 4, 124, 1000])
def test_vector_loads_in_a_grid_stride_loop(host_kernels: ModuleType, size: int) -> None:
    source, target = torch.randn(1024), torch.zeros(1024)
    launch(host_kernels, "twice", source, target, size, threads=48)
    assert torch.equal(target[:size], 2 * source[:size])
    assert not target[size:].any()


def test_half_warps_with_masks_of_their_own(host_kernels: ModuleType) -> None:
    source, target = torch.randint(-8, 8, (96,)).float(), torch.zeros(96)
    launch(host_kernels, "half_warps", source, target, 96, threads=96)
    halves = source.view(6, 16)
    expected = halves.sum(1, keepdim=True) + (halves > 0).sum(1, keepdim=True)
    assert torch.equal(target.view(6, 16), expected.expand(6, 16))


def test_shared_memory_is_poisoned_before_every_block(host_kernels: ModuleType) -> None:
    target = torch.zeros(32)
    launch(host_kernels, "read_unwritten", target, target, 32)
    assert target.isnan().all()


@pytest.mark.parametrize(
    ("name", "size", "message"),
    [
        ("divergent_barrier", 32, r"divergent __syncthreads: thread \(\d+, 0, 0\) waits at layer.cu:\d+"),
        ("exit_before_barrier", 32, r"deadlock: 31 threads wait at __syncthreads \(layer.cu:\d+\), 1 has exited"),
        ("lane_missing_from_shuffle", 32, r"deadlock: 31 threads wait at __shfl_sync \(layer.cu:\d+\), 1 has exited"),
        ("divergent_warp", 32, r"divergent: .* thread \(\d+, 0, 0\) is at __s.* \(layer.cu:\d+\)"),
        ("mask_without_caller", 32, r"the mask does not contain the calling thread \(layer.cu:\d+\)"),
        ("twice_misaligned", 32, r"twice<1>.*misaligned address, not a multiple of 16 \(vector.h:\d+\)"),
        ("static_out_of_range", 0, r"index \d+ out of an array's range \(layer.cu:\d+\)"),
        ("static_out_of_range", -40, r"index -\d+ out of an array's range \(layer.cu:\d+\)"),
        ("dynamic_read", 16, r"access beyond the dynamic shared memory of 64 bytes"),
        ("dynamic_write", 16, r"access beyond the dynamic shared memory of 64 bytes"),
        ("dynamic_write", 31, r"a write beyond the dynamic shared memory of 124 bytes"),
        ("dynamic_read", 0, r"the launch gave no dynamic shared memory"),
        ("dynamic_read", 1 << 20, r"4194304 bytes of dynamic shared memory"),
        ("wild_read", 32, r"access to an address that is nobody's"),
        ("index_overflow", 1024, r"integer overflow \(layer.cu:\d+\)"),
        ("stack_overflow", 32, r"stack overflow"),
    ],
)
def test_wrong_kernels_end_in_an_error(host_kernels: ModuleType, name: str, size: int, message: str) -> None:
    fails(host_kernels, name, message, size)


def test_an_error_names_kernel_block_and_thread(host_kernels: ModuleType) -> None:
    fails(host_kernels, "wild_read", r"^kernel layer::wild_read, block \(0, 0, 0\), thread \(\d+, 0, 0\): ")


@pytest.mark.parametrize("threads", [0, 1025])
def test_a_block_that_no_gpu_takes(host_kernels: ModuleType, threads: int) -> None:
    fails(host_kernels, "twice", rf"a block of \({threads}, 1, 1\) threads", threads=threads)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 20000), st.integers(0, 2**32))
def test_copy(built_host_kernels: ModuleType, size: int, seed: int) -> None:
    built_host_kernels.set_seed(seed)
    source = torch.randint(0, 256, (size,), dtype=torch.uint8)
    target = torch.zeros(size + 16, dtype=torch.uint8)
    built_host_kernels.copy_cuda(source.data_ptr(), target.data_ptr(), size, 0)
    assert torch.equal(target[:size], source)
    assert not target[size:].any()


def test_copy_refuses_misaligned_addresses(host_kernels: ModuleType) -> None:
    data = torch.zeros(64, dtype=torch.uint8)
    with pytest.raises(ValueError, match=re.escape("16-byte aligned")):
        host_kernels.copy_cuda(data.data_ptr() + 1, data.data_ptr() + 32, 16, 0)


def float_bits(values: torch.Tensor) -> torch.Tensor:
    return values.view(torch.int32)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_sixteen_bit_types_convert_as_torch_does(host_kernels: ModuleType, dtype: torch.dtype) -> None:
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    every = bits.view(dtype)
    wide = torch.empty(len(bits))
    host_kernels.to_float(bits.data_ptr(), wide.data_ptr(), len(bits), dtype == torch.bfloat16)
    assert torch.equal(float_bits(wide)[~wide.isnan()], float_bits(every.float())[~every.isnan()])
    assert torch.equal(wide.isnan(), every.isnan())
    # Around every representable value: itself, its neighbours' halves, one float beside the halves, and random bits.
    finite = wide[wide.isfinite()].sort().values
    middle = (finite[1:].double() + finite[:-1].double()).div(2).float()
    beside = [torch.nextafter(middle, torch.tensor(sign * float("inf"))) for sign in (-1.0, 1.0)]
    random = torch.randint(-(2**31), 2**31, (100_000,), dtype=torch.int64).to(torch.int32).view(torch.float32)
    values = torch.cat(
        [wide, middle, *beside, random, torch.tensor([65519.0, 65520.0, -65520.0, 3.4e38, 2**-25, 0.0, -0.0])]
    )
    narrow = torch.empty(len(values), dtype=torch.int16)
    host_kernels.from_float(values.data_ptr(), narrow.data_ptr(), len(values), dtype == torch.bfloat16)
    expected = values.to(dtype)
    assert torch.equal(narrow[~values.isnan()], expected.view(torch.int16)[~values.isnan()])
    assert narrow.view(dtype)[values.isnan()].isnan().all()
