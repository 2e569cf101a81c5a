"""What the built extension holds, read from the file itself: which kernels for which GPUs, and that none spills.

tests/gpu/test_cubins.py compiles each source for Hopper and compares it with its design; here nothing is compiled, and
what must hold on every architecture is checked on every architecture.
"""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from helpers.cubins import FLAGS, ROOT, Code, cmake_list, listed_architectures, nvcc, read_code

from codeshell import _C, kernels

LOAD_16 = r"LDG\.E\.(EF\.)?128(\.CONSTANT|\.STRONG.*)?"
STORE_16 = r"STG\.E\.(EF\.)?128(\.STRONG.*)?"

# For the kernels that match: at most so many registers, at least so many loads and stores of 16 bytes. Blocks of 256
# threads: 80 registers let a multiprocessor hold three, 128 two. Two blocks of 512 threads, as of the loss, need 64.
DESIGN = [
    (r"adamw", r"adamw::adamw<.*>", 80, 4, 3),
    (r"adamw", r"adamw::gradient_norm<.*>", 64, 4, 0),
    (r"copy", r"copy", 40, 4, 4),
    (r"softmax_gradient", r"loss::whole_rows<.*>", 64, 20, 9),
    (r"softmax_gradient", r"loss::partial_sums<.*>", 64, 8, 0),
    (r"softmax_gradient", r"loss::split_rows<.*>", 64, 4, 5),
    (r"rotary", r"rotary::rotate<(float, 4|gpu::(bf16|fp16), 8)>", 100, 4, 4),
    (r"rotary", r"rotary::rotate_and_sum<(float, 4|gpu::(bf16|fp16), 8)>", 128, 8, 4),
    (r"rotary", r"rotary::rotate(_and_sum)?<.*, 1>", 64, 0, 0),
    (r"rotary", r"rotary::add_chunks", 40, 0, 0),
]
EXCEPTIONS = {("adamw", "120"): 128}  # adamw.cu's kBlocks


def stem(source: str) -> str:
    return Path(source).stem


@pytest.fixture(scope="module")
def shipped() -> list[Code]:
    """All kernels of the extension, of each architecture and PTX."""
    if not _C.cuda_built:
        pytest.skip("_C was built WITHOUT CUDA: its code for GPUs is NOT checked")
    if kernels.built_hashes() != kernels.present_hashes():
        pytest.fail("_C was built from other kernels than csrc has now: build it again (pip install -e .)", False)
    return read_code(Path(_C.__file__))


@pytest.mark.timeout(600)
def test_the_extension_holds_what_it_says(shipped: list[Code]) -> None:
    held = {(code.source, code.architecture) for code in shipped}
    assert held == {(stem(source), name) for source, names in _C.kernel_architectures.items() for name in names}


def test_it_says_no_more_than_the_list_that_it_was_built_from() -> None:
    assert set(_C.kernel_architectures) == {source.removeprefix("csrc/") for source in cmake_list("CODESHELL_KERNELS")}
    for source, names in _C.kernel_architectures.items():
        listed = listed_architectures(f"csrc/{source}")
        assert names == [name for name in listed if name in names], source
        assert _C.possible_architectures[source] == listed, source
    assert set(_C.possible_architectures) == set(_C.kernel_architectures)


@pytest.mark.timeout(600)
def test_every_architecture_has_all_kernels_of_a_source(shipped: list[Code]) -> None:
    for source in {code.source for code in shipped}:
        names: dict[str, set[str]] = {}
        for code in shipped:
            if code.source == source:
                names.setdefault(code.architecture, set()).add(code.name)
        assert len({frozenset(kernels) for kernels in names.values()}) == 1, source


@pytest.mark.timeout(600)
def test_no_kernel_spills_on_any_architecture(shipped: list[Code]) -> None:
    """Stack and local memory are 0, and no instruction loads or stores local memory: so nothing was spilled."""
    machine = [code for code in shipped if not code.architecture.endswith("-virtual")]
    assert machine
    for code in machine:
        where = f"{code.name} for sm_{code.architecture}"
        assert 0 < code.registers <= 255 and sum(code.instructions.values()) > 10, where
        assert (code.stack, code.local) == (0, 0), where
        assert code.count(r"(LDL|STL)\b.*") == 0, where


@pytest.mark.timeout(600)
def test_accesses_are_wide_and_registers_as_designed_on_every_architecture(shipped: list[Code]) -> None:
    met = set()
    for code in shipped:
        if code.architecture.endswith("-virtual") or code.architecture == "90a":
            continue
        rows = [row for row in DESIGN if row[0] == code.source and re.fullmatch(row[1], code.name)]
        assert len(rows) == 1, f"{code.source}: {code.name}: a kernel for every GPU has one row in DESIGN"
        source, name, registers, loads, stores = rows[0]
        where = f"{code.name} for sm_{code.architecture}"
        assert code.registers <= EXCEPTIONS.get((source, code.architecture), registers), where
        assert code.count(LOAD_16) >= loads and code.count(STORE_16) >= stores, where
        met.add((source, name))
    assert met == {row[:2] for row in DESIGN}


@pytest.mark.timeout(600)
def test_ptx_is_of_the_oldest_architecture(shipped: list[Code]) -> None:
    """PTX of 8.0 is what every later GPU can translate; that of 9.0a would run on Hopper alone."""
    assert {code.architecture for code in shipped if code.architecture.endswith("-virtual")} <= {"80-virtual"}


@pytest.mark.timeout(600)
def test_the_reader_sees_a_kernel_that_spills(tmp_path: Path) -> None:
    file = tmp_path / "not_lean.o"
    command = [nvcc(), *FLAGS, "-arch=sm_90", "-c", "-o", str(file), str(ROOT / "tests/gpu/not_lean.cu")]
    subprocess.run(command, check=True, capture_output=True)
    (code, _) = read_code(file)  # the second is PTX
    assert (code.name, code.architecture, code.stack) == ("not_lean", "90", 256)
    assert code.count(r"LDL\b.*") > 0 and code.count(r"STL\b.*") > 0
    assert code.count(LOAD_16) == 0 and code.count(r"LDG\.E.*") > 0
