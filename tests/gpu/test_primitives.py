"""The primitives of csrc/gpu on the host, against layouts written down here from the PTX ISA (8.8).

Sections: "Tensor swizzling modes" for the 128-byte swizzle, "Asynchronous warpgroup-level matrix shared memory layout"
for the canonical layouts, "Register fragments for wgmma.mma_async.m64nNk16" for the fragments. Nothing here knows the
twins' code.
"""

from __future__ import annotations

from types import ModuleType

import numpy as np
import pytest
import torch

ELEMENTS = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
SEEDS = range(4)


def swizzle_128(tile: np.ndarray) -> np.ndarray:
    """A (rows, 128 bytes) tile as it lies in shared memory: 16-byte chunk c of row r moves to c ^ (r mod 8)."""
    rows = tile.reshape(-1, 8, 16)
    out = np.empty_like(rows)
    for row in range(len(rows)):
        for chunk in range(8):
            out[row, chunk ^ (row % 8)] = rows[row, chunk]
    return out.reshape(tile.shape)


def bytes_of(tensor: torch.Tensor) -> np.ndarray:
    return tensor.contiguous().view(torch.uint8).numpy()


def box(
    module: ModuleType,
    name: str,
    tensor: torch.Tensor,
    dims: list[int],
    at: list[int],
    swizzle: bool,
    image: np.ndarray,
) -> None:
    """`dims` and `at` innermost first, as TMA has them; the tensor's own order is the other way round."""
    element = next(k for k, v in ELEMENTS.items() if v == tensor.dtype)
    strides = [s * tensor.element_size() for s in tensor.stride()][::-1]
    assert strides[0] == tensor.element_size()
    arguments = (tensor.data_ptr(), list(tensor.shape)[::-1], strides[1:], dims, swizzle, at, image.ctypes.data)
    module.box(name, element, *arguments)


BOXES = [  # element, tensor (outermost first), box and coordinates (innermost first), swizzle
    ("bf16", (20, 128), [64, 8], [0, 0], True),
    ("bf16", (20, 128), [64, 16], [64, 3], True),
    ("fp16", (20, 128), [64, 16], [96, 12], True),  # over two edges
    ("bf16", (20, 128), [64, 16], [-32, -5], True),  # before the start
    ("bf16", (20, 128), [64, 8], [256, 0], True),  # wholly outside
    ("fp32", (20, 64), [32, 16], [16, 2], True),
    ("fp32", (20, 64), [16, 5], [4, 2], False),
    ("bf16", (3, 10, 128), [64, 8, 1], [64, 4, 2], True),
    ("bf16", (3, 10, 128), [64, 2, 2], [0, 9, 1], True),
    ("bf16", (2, 3, 10, 64), [64, 4, 2, 1], [0, 8, 1, 1], True),
]


def expected_tile(tensor: torch.Tensor, dims: list[int], at: list[int]) -> tuple[torch.Tensor, torch.Tensor]:
    """The box with zeros outside, and which of its elements are inside."""
    index = [torch.arange(n) + start for n, start in zip(dims[::-1], at[::-1], strict=True)]
    grid = torch.meshgrid(*index, indexing="ij")
    inside = torch.stack([(g >= 0) & (g < size) for g, size in zip(grid, tensor.shape, strict=True)]).all(0)
    safe = [g.clamp(0, size - 1) for g, size in zip(grid, tensor.shape, strict=True)]
    return torch.where(inside, tensor[tuple(safe)], torch.zeros((), dtype=tensor.dtype)), inside


def image_of(tile: torch.Tensor, swizzle: bool) -> np.ndarray:
    rows = bytes_of(tile).reshape(-1, tile.shape[-1] * tile.element_size())
    return np.ascontiguousarray(swizzle_128(rows) if swizzle else rows)


@pytest.mark.parametrize(("element", "shape", "dims", "at", "swizzle"), BOXES)
def test_boxes_are_loaded(
    host_kernels: ModuleType, element: str, shape: tuple[int, ...], dims: list[int], at: list[int], swizzle: bool
) -> None:
    tensor = torch.randn(shape).to(ELEMENTS[element])
    tile, _ = expected_tile(tensor, dims, at)
    expected = image_of(tile, swizzle)
    for seed in SEEDS:
        host_kernels.set_seed(seed)
        image = np.full(expected.shape, 0x55, np.uint8)
        box(host_kernels, "load", tensor, dims, at, swizzle, image)
        assert np.array_equal(image, expected)


@pytest.mark.parametrize("name", ["store", "add"])
@pytest.mark.parametrize(("element", "shape", "dims", "at", "swizzle"), BOXES)
def test_boxes_are_stored_and_added(
    host_kernels: ModuleType,
    element: str,
    shape: tuple[int, ...],
    dims: list[int],
    at: list[int],
    swizzle: bool,
    name: str,
) -> None:
    before = torch.randn(shape).to(ELEMENTS[element])
    tile = torch.randn(dims[::-1]).to(ELEMENTS[element])
    _, inside = expected_tile(before, dims, at)
    expected = before.clone()
    for position in inside.nonzero().tolist():
        target = tuple(p + start for p, start in zip(position, at[::-1], strict=True))
        expected[target] = tile[tuple(position)] + (before[target] if name == "add" else 0)
    for seed in SEEDS:
        host_kernels.set_seed(seed)
        tensor = before.clone()
        box(host_kernels, name, tensor, dims, at, swizzle, image_of(tile, swizzle))
        assert torch.equal(tensor, expected)


def test_a_map_that_tma_refuses(host_kernels: ModuleType) -> None:
    image = np.zeros(4096, np.uint8)
    tensor = torch.zeros(20, 128, dtype=torch.bfloat16)
    for wrong, dims, swizzle, message in [
        (tensor, [32, 8], True, "rows must be 128 bytes"),
        (tensor, [64, 257], True, "not in 1 to 256"),
        (tensor, [4, 8], False, "multiples of 16 bytes"),
        (tensor[:, 1:], [64, 8], True, "the address is not a multiple of 16"),
        (torch.zeros(20, 126, dtype=torch.bfloat16), [64, 8], True, "stride"),
    ]:
        with pytest.raises(RuntimeError, match=message):
            box(host_kernels, "load", wrong, dims, [0, 0], swizzle, image)


# wgmma ---------------------------------------------------------------------------------------------------------


def accumulator_layout(columns: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of d[i] of thread t, as the figure of the D fragment has them: (128, columns / 2) each."""
    rows, cols = np.empty((2, 128, columns // 2), np.int64)
    for thread in range(128):
        warp, lane = divmod(thread, 32)
        group, in_group = divmod(lane, 4)
        for pair in range(columns // 4):  # two neighbouring columns; the row's lower half and its upper alternate
            eight, half = divmod(pair, 2)
            for i in range(2):
                rows[thread, 2 * pair + i] = 16 * warp + group + 8 * half
                cols[thread, 2 * pair + i] = 8 * eight + 2 * in_group + i
    return rows, cols


def a_fragments(a: torch.Tensor) -> np.ndarray:
    """(64, 64) to (4 steps, 128 threads, 8 halves): a0 a1 in the row, a2 a3 8 rows below, a4 to a7 8 columns on."""
    bits = a.view(torch.int16).numpy()
    out = np.empty((4, 128, 8), np.int16)
    for step in range(4):
        for thread in range(128):
            warp, lane = divmod(thread, 32)
            row, column = 16 * warp + lane // 4, 16 * step + lane % 4 * 2
            for i in range(8):
                out[step, thread, i] = bits[
                    row + (8 if i in (2, 3, 6, 7) else 0), column + i % 2 + (8 if i >= 4 else 0)
                ]
    return out


def k_major(operand: torch.Tensor) -> np.ndarray:
    """(rows, 64): a row of K is 128 bytes, swizzled."""
    return swizzle_128(bytes_of(operand).reshape(len(operand), 128))


def mn_major(operand: torch.Tensor) -> np.ndarray:
    """(rows, 64): blocks of 64 rows, in each a row of 128 bytes for every k."""
    blocks = []
    padded = torch.zeros((len(operand) + 63) // 64 * 64, 64, dtype=operand.dtype)
    padded[: len(operand)] = operand
    for block in padded.split(64):
        blocks.append(swizzle_128(bytes_of(block.T.contiguous()).reshape(64, 128)))
    return np.concatenate(blocks)


@pytest.mark.parametrize(
    ("n", "dtype", "a", "b"),
    [
        *[(n, torch.bfloat16, a, b) for n in (32, 64, 128, 256) for a, b in ("kk", "kn", "rn")],
        (192, torch.bfloat16, "k", "k"),
        (192, torch.bfloat16, "r", "n"),
        *[(64, torch.float16, a, b) for a, b in ("kk", "kn", "mn", "rk", "rn")],
        (128, torch.bfloat16, "m", "n"),
        (64, torch.bfloat16, "r", "k"),
    ],
)
def test_products(host_kernels: ModuleType, n: int, dtype: torch.dtype, a: str, b: str) -> None:
    left, right = torch.randn(64, 64).to(dtype), torch.randn(n, 64).to(dtype)
    a_image = np.ascontiguousarray({"k": k_major, "m": mn_major, "r": a_fragments}[a](left))
    b_image = np.ascontiguousarray({"k": k_major, "n": mn_major}[b](right))
    expected = left.double() @ right.double().T
    rows, columns = accumulator_layout(n)
    for seed in SEEDS[:2]:
        host_kernels.set_seed(seed)
        fragments = np.full((128, n // 2), np.nan, np.float32)
        host_kernels.gemm(
            "right", n, dtype == torch.bfloat16, a, b, a_image.ctypes.data, b_image.ctypes.data, fragments.ctypes.data
        )
        result = torch.full((64, n), float("nan"), dtype=torch.float64)
        result[rows, columns] = torch.from_numpy(fragments).double()
        torch.testing.assert_close(result, expected, atol=1e-4, rtol=1e-5)


def test_products_that_are_not_waited_for(host_kernels: ModuleType) -> None:
    image, fragments = np.zeros(64 * 128, np.uint8), np.zeros((128, 32), np.float32)
    addresses = (image.ctypes.data, image.ctypes.data, fragments.ctypes.data)
    host_kernels.gemm("no_wait", 64, True, "k", "k", *addresses)
    assert np.isnan(fragments).all()
    with pytest.raises(RuntimeError, match="without a wgmma_fence"):
        host_kernels.gemm("no_fence", 64, True, "k", "k", *addresses)


# Pipelines -----------------------------------------------------------------------------------------------------


def run_pipeline(module: ModuleType, variant: str, tiles: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    module.set_seed(seed)
    source, target = torch.randn(tiles, 256), torch.full((tiles, 256), float("nan"))
    module.pipeline(variant, source.data_ptr(), target.data_ptr(), source.numel())
    return target, 2 * source + source.roll(-1, 1)


@pytest.mark.parametrize("tiles", [1, 2, 3, 9])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_ring_of_stages(host_kernels: ModuleType, tiles: int, seed: int) -> None:
    target, expected = run_pipeline(host_kernels, "right", tiles, seed)
    torch.testing.assert_close(target, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("variant", ["no_empty", "no_full", "fewer_arrivals"])
def test_a_stage_overwritten_or_read_too_early_shows(host_kernels: ModuleType, variant: str) -> None:
    wrong = 0
    for seed in range(8):
        try:
            target, expected = run_pipeline(host_kernels, variant, 9, seed)
        except RuntimeError as error:  # the barrier itself notices under some orders
            assert "mbarrier" in str(error) or "asynchronous" in str(error)
            wrong += 1
        else:
            wrong += not torch.allclose(target, expected, atol=1e-5)
    assert wrong >= 7


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ("parity", "deadlock: .* at mbarrier wait"),
        ("bytes", "deadlock: .* at mbarrier wait"),
        ("more_arrivals", "deadlock: .* at mbarrier wait"),
    ],
)
def test_a_wrong_ring_ends_in_an_error(host_kernels: ModuleType, variant: str, message: str) -> None:
    for seed in SEEDS:
        with pytest.raises(RuntimeError, match=message):
            run_pipeline(host_kernels, variant, 9, seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_warpgroups_take_turns_by_named_barriers(host_kernels: ModuleType, seed: int) -> None:
    host_kernels.set_seed(seed)
    target = torch.zeros(256, dtype=torch.int32)
    host_kernels.roles("right", target.data_ptr())
    assert (target[:128] == 11).all()
    assert sorted(target[128:].tolist()) == [0] * 127 + [100]


def test_roles_that_a_gpu_would_not_run(host_kernels: ModuleType) -> None:
    target = torch.zeros(256, dtype=torch.int32)
    with pytest.raises(RuntimeError, match=r"roles<.*1>, block .* 98304 registers for the block"):
        host_kernels.roles("registers", target.data_ptr())
    with pytest.raises(RuntimeError, match=r"barrier 1 for (128|256) threads here, for (128|256) at primitives.cu:\d+"):
        host_kernels.roles("count", target.data_ptr())
