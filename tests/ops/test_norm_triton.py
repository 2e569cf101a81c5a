"""Residual and LayerNorm in Triton without a GPU: right in the interpreter, compiled well for every architecture."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from helpers.triton_cubins import ARCHITECTURES, Compiled, Spec, compile_kernels
from helpers.triton_interpreter import names, run

import codeshell.ops  # noqa: F401 (so that the module is found below)

ROOT = Path(__file__).resolve().parents[2]
CASES = Path(__file__).with_name("norm_triton_cases.py")
norm = sys.modules["codeshell.ops.norm"]

# As launched in 16-bit training: an fp32 stream, a bf16 branch and norm, fp32 weights, rows of 4,096.
TYPES = {
    **dict.fromkeys(("x_pointer", "stream_pointer", "grad_stream_pointer", "grad_x_pointer"), "*fp32"),
    **dict.fromkeys(("branch_pointer", "normed_pointer", "grad_normed_pointer", "grad_branch_pointer"), "*bf16"),
    **dict.fromkeys(("weight_pointer", "bias_pointer", "mean_pointer", "rstd_pointer", "part_pointer"), "*fp32"),
    **dict.fromkeys(("grad_weight_pointer", "grad_bias_pointer"), "*fp32"),
    **dict.fromkeys(("rows", "width", "rows_of_part", "parts"), "i32"),
    "eps": "fp32",
}
ALL_GRADIENTS = {"has_grad_stream": True, "has_grad_branch": True, "sums": True}


def spec(name: str, constants: dict[str, Any], warps: int, **settings: Any) -> Spec:
    parameters = (ROOT / "codeshell" / "ops" / "norm_triton.py").read_text().split(f"def {name}(")[1].split("):")[0]
    types = {p: TYPES[p] for p in re.findall(r"\w+", parameters) if p in TYPES}
    return Spec(f"codeshell.ops.norm_triton:{name}", types, constants, warps, **settings)


def backward(columns: int, warps: int) -> Spec:
    constants = ALL_GRADIENTS | {"tile_rows": 1, "tile_columns": columns}
    return spec("backward_kernel", constants, warps, odd=("rows_of_part",), most_registers=128)


SPECS = {
    "forward": spec("forward_kernel", {"has_branch": True, "tile_rows": 1, "tile_columns": 4096}, 8),
    "backward": backward(4096, 8),
    "sum": spec("sum_kernel", {"tile_rows": 32, "tile_columns": 64}, 4, odd=("parts",)),
}
REGISTERS = {"forward": 64, "backward": 128, "sum": 64}
"""At most: with 256 threads, 64 let four blocks share a multiprocessor, which has 65,536; 128 let two, and one of 512
threads."""


@pytest.mark.parametrize("name", names(CASES))
def test_in_the_interpreter(name: str) -> None:
    run(CASES, name)


def check(name: str, kernel: Compiled) -> None:
    assert kernel.stack == kernel.local == 0, (name, kernel)
    assert kernel.registers <= REGISTERS[name], (name, kernel)
    assert "LDL" not in kernel.opcodes and "STL" not in kernel.opcodes
    # 16 bytes at a time, but for the numbers of a row and the few sums that the last kernel writes.
    assert set(kernel.loads) <= {4, 16} and set(kernel.stores) <= {4, 16}, (name, kernel)
    narrow = kernel.loads.get(4, 0), kernel.stores.get(4, 0)
    assert narrow == {"forward": (0, 2), "backward": (2, 0), "sum": (0, narrow[1])}[name], (name, kernel)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_compiled(architecture: int) -> None:
    for name, kernels in zip(SPECS, compile_kernels(*SPECS.values()), strict=True):
        check(name, kernels[architecture])


def test_the_widest_rows_compiled() -> None:
    """For one architecture, because a compiler's call takes a second."""
    (kernels,) = compile_kernels(backward(norm.WIDEST, 16), architectures=(90,))
    check("backward", kernels[90])


def test_the_launch_is_what_was_compiled() -> None:
    """The tiles of `SPECS` are those of such a launch: read from the file, because here nothing may import triton."""
    source = (ROOT / "codeshell" / "ops" / "norm_triton.py").read_text()
    lines = ("TILE = 4096", "REGISTERS = 128", "ROWS_OF_PARTS = 32", "COLUMNS_OF_PARTS = 64", f"WIDEST = {norm.WIDEST}")
    for line in lines:
        assert f"\n{line}\n" in source
    assert "return rows, columns, rows * columns // 512\n" in source
