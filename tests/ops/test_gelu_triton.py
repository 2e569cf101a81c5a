"""Bias and GELU in Triton without a GPU: right in the interpreter, and compiled well for every architecture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from helpers.triton_cubins import ARCHITECTURES, Spec, compile_kernels
from helpers.triton_interpreter import names, run

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("gelu_triton_cases.py")

# As launched on 16-bit training: bf16 activations of many rows, 8,192 columns, and the bias of fp32 weights.
TYPES = {
    **dict.fromkeys(("x_pointer", "grad_pointer", "y_pointer"), "*bf16"),
    **dict.fromkeys(("bias_pointer", "part_pointer", "out_pointer"), "*fp32"),
    **dict.fromkeys(("rows", "columns", "parts"), "i32"),
}


def spec(name: str, constants: dict[str, Any], warps: int, **types: str) -> Spec:
    return Spec(f"codeshell.ops.gelu_triton:{name}", TYPES | types, constants, warps)


TILE = {"tile_rows": 4, "tile_columns": 1024}
SPECS = {
    "forward": spec("forward_kernel", TILE | {"has_bias": True}, 8),
    "backward": spec(
        "backward_kernel", TILE | {"has_bias": True, "sums": True, "rows_of_sum": 64}, 8, out_pointer="*bf16"
    ),
    "sum": spec("sum_kernel", {"tile_rows": 32, "tile_columns": 64}, 4),
}
REGISTERS = {"forward": 64, "backward": 128, "sum": 64}
"""At most: with 256 threads, 64 let four blocks share a multiprocessor, which has 65,536; 128 let two."""


@pytest.mark.parametrize("name", names(CASES))
def test_in_the_interpreter(name: str) -> None:
    run(CASES, name)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled(architecture: int) -> None:
    for name, kernels in zip(SPECS, compile_kernels(*SPECS.values()), strict=True):
        kernel = kernels[architecture]
        assert kernel.stack == kernel.local == 0, (name, kernel)
        assert kernel.registers <= REGISTERS[name], (name, kernel)
        assert "LDL" not in kernel.opcodes and "STL" not in kernel.opcodes
        # 16 bytes at a time, and nothing narrower, but for the few sums that the last kernel writes.
        assert set(kernel.loads) == {16} and set(kernel.stores) == ({4} if name == "sum" else {16}), (name, kernel)


def test_the_launch_is_what_was_compiled() -> None:
    """The tiles of `SPECS` are those of such a launch: read from the file, because here nothing may import triton."""
    source = (ROOT / "codeshell" / "ops" / "gelu_triton.py").read_text()
    for line in ("TILE = 4096", "WARPS = 8", "ROWS_OF_SUM = 64", "ROWS_OF_PARTS = 32", "COLUMNS_OF_PARTS = 64"):
        assert f"\n{line}\n" in source
