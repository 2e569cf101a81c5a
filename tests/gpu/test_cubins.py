"""What nvcc made of each kernel, against what its design says: registers, no spills, no stack, 16-byte accesses.

A kernel that is not in the table fails the suite, and so does a row that matches none.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field

import pytest
from helpers.cubins import ROOT, compile_kernels

# By opcode with its modifiers: .EF is the streaming hint, .CONSTANT the read-only path.
LOAD_16 = r"LDG\.E\.(EF\.)?128(\.CONSTANT|\.STRONG.*)?"
STORE_16 = r"STG\.E\.(EF\.)?128(\.STRONG.*)?"


@dataclass
class Expected:
    """What is expected of the kernels that `kernel` matches whole: at most so many registers, or exactly so many; at
    least so many instructions of each pattern, or none where the number is 0; at least so many of these while products
    of wgmma run.
    """

    source: str
    kernel: str
    registers: int
    instructions: dict[str, int] = field(default_factory=dict)
    shared: int = 0
    under_products: dict[str, int] = field(default_factory=dict)
    exactly: bool = False


EXPECTED = [
    # Three blocks of 256 threads per multiprocessor: 80 registers. Every array by 16-byte accesses. Stochastic rounding
    # (the last template argument) keeps its seed in shared memory too. A kernel has to meet every row that matches it:
    # that of fp32 alone says more than the general one, twice as many accesses, for eight values are two of each array.
    Expected(
        "csrc/adamw/adamw.cu",
        r"adamw::adamw<float, float, float, .*>",
        registers=80,
        instructions={LOAD_16: 8, STORE_16: 6},
        shared=84,
    ),
    Expected(
        "csrc/adamw/adamw.cu",
        r"adamw::adamw<.*, false>",
        registers=80,
        instructions={LOAD_16: 4, STORE_16: 3},
        shared=84,
    ),
    Expected(
        "csrc/adamw/adamw.cu",
        r"adamw::adamw<.*, true>",
        registers=80,
        instructions={LOAD_16: 4, STORE_16: 3},
        shared=92,
    ),
    Expected("csrc/adamw/adamw.cu", r"adamw::gradient_norm<.*>", registers=64, instructions={LOAD_16: 4}, shared=104),
    # Two warpgroups and the producer's warp: 288 threads of up to 224 registers. dim / 16 products with K and 4 with V;
    # dim / 64 boxes of each; the queries and new tokens by 16 bytes, the partial results too where they are read.
    *(
        Expected(
            "csrc/attention/decode_sm90.cu",
            rf"attention::decode::decode<{dim}, gpu::(bf16|fp16)>",
            registers=registers,
            instructions={
                r"HGMMA\..*": dim // 16 + 4,
                r"HMMA\..*": 0,
                r"UTMALDG\..*": dim // 32,
                r"MUFU\.EX2": 32,
                LOAD_16: 8,
                STORE_16: 2,
                r"LDG\.E\.(EF\.)?(U8|S8|U16|S16)\b.*": 0,
                r"ATOMG?\..*ADD.*": 1,
                r"USETMAXREG.*": 0,
            },
            shared=1024,
        )
        for dim, registers in ((64, 136), (128, 168))
    ),
    # One block of three warpgroups per multiprocessor: 168 registers, which setmaxnreg moves to 24, 240 and 240. With
    # any other number the three would not fit or not be all, and warps would wait for registers for ever. Static
    # shared memory is the barriers, at the alignment of the tiles. Products: twice dim / 16 of scores, twice rows / 16
    # of dK and dV, 8 of dQ, in two copies of the step (the last is one of its own) and scores before the first. Boxes:
    # dim / 64 of each of K, V, Q, dO and stored of dK, dV; runs of bytes: the log-sum-exp and delta loaded, dQ added.
    Expected(
        "csrc/attention/backward_sm90.cu",
        r"attention::backward<(64|128), gpu::(bf16|fp16)>",
        registers=168,
        instructions={
            r"HGMMA\..*": 60,
            r"HMMA\..*": 0,
            r"UTMALDG\..*": 4,
            r"UTMASTG\..*": 2,
            r"UTMACCTL\.PF.*": 4,
            r"UBLKCP.*": 2,
            r"UBLKRED\.G\.S\.ADD\.F32\..*": 1,
            r"(RED|ATOMG?)\..*F32.*": 0,
            r"USETMAXREG.*": 2,
            r"MUFU\.EX2": 64,
            r"WARPGROUP\.DEPBAR.*": 9,
            STORE_16: 1,
        },
        shared=1024,
        # P is computed under dP, in both copies of the step; dQ's fragment leaves under dK (and the next S).
        under_products={r"MUFU\.EX2": 64, r"STS\.128": 16},
        exactly=True,
    ),
    Expected(
        "csrc/attention/backward_sm90.cu",
        r"attention::prepare<.*>",
        registers=40,
        instructions={LOAD_16: 2, STORE_16: 8},
    ),
    # 16 blocks of 128 threads per multiprocessor; the tile on its way to 16-byte stores is 64 x 64.
    Expected(
        "csrc/attention/backward_sm90.cu",
        r"attention::finish<.*>",
        registers=64,
        instructions={LOAD_16: 8, STORE_16: 4},
        shared=8192,
    ),
    # The same of the forward pass. dim / 16 products with K and 8 with V, three steps and the ends; dim / 64 boxes of Q
    # and of each K and V. In each of the three the softmax, 64 exponentials and the two rows' rescaling, runs
    # under P V: ptxas moves a plain wait in front of it (gpu::wgmma_wait_after).
    Expected(
        "csrc/attention/forward_sm90.cu",
        r"attention::forward<(64|128), gpu::(bf16|fp16)>",
        registers=168,
        instructions={
            r"HGMMA\..*": 40,
            r"HMMA\..*": 0,
            r"UTMALDG\..*": 6,
            r"UTMASTG\..*": 1,
            r"UTMACCTL\.PF.*": 4,
            r"USETMAXREG.*": 2,
            r"MUFU\.EX2": 64,
            STORE_16: 1,
        },
        shared=1024,
        under_products={r"MUFU\.EX2": 198, r"FMNMX.*": 192},
        exactly=True,
    ),
    Expected("csrc/copy/copy.cu", "copy", registers=40, instructions={LOAD_16: 4, STORE_16: 4}),
    # Two blocks of 512 threads per multiprocessor: 64 registers. A batch is four loads, in four forms: of packs that
    # shared memory keeps and of others, whole and at the row's end. The second time it is four more, and four stores in
    # two forms; one more store fills the rows that do not count. Shared memory is the sums of 16 warps, which dynamic
    # memory follows at a multiple of 1 KiB. Only loose elements and the target's are narrower.
    Expected(
        "csrc/loss/softmax_gradient.cu",
        r"loss::whole_rows<.*>",
        registers=64,
        instructions={LOAD_16: 20, STORE_16: 9, r"STS\.128": 8, r"LDS\.128": 4, r"ATOM.*|RED\..*": 0},
        shared=1024,
    ),
    Expected(
        "csrc/loss/softmax_gradient.cu",
        r"loss::partial_sums<.*>",
        registers=64,
        instructions={LOAD_16: 8, STORE_16: 0, r"ATOM.*|RED\..*": 0},
        shared=1024,
    ),
    Expected(
        "csrc/loss/softmax_gradient.cu",
        r"loss::split_rows<.*>",
        registers=64,
        instructions={LOAD_16: 4, STORE_16: 5, r"ATOM.*|RED\..*": 0},
    ),
    # Two packs of two heads, and the tables; nothing narrower.
    Expected(
        "csrc/rotary/rotary.cu",
        r".*rotate<(float, 4|.*(bf16|fp16), 8)>.*",
        registers=80,
        instructions={
            LOAD_16: 8,
            STORE_16: 4,
            r"LDG\.E\.(EF\.)?(U8|S8|U16|S16)\b.*": 0,
            r"STG\.E\.(EF\.)?(U8|U16)\b.*": 0,
        },
    ),
    Expected(
        "csrc/rotary/rotary.cu",
        r".*rotate_and_sum<(float, 4|.*(bf16|fp16), 8)>.*",
        registers=96,
        instructions={LOAD_16: 8, STORE_16: 4},
    ),
    Expected("csrc/rotary/rotary.cu", r".*rotate(_and_sum)?<.*, 1>.*", registers=48),
    Expected("csrc/rotary/rotary.cu", "rotary::add_chunks", registers=32, shared=1024),
]


def kernel_sources() -> list[str]:
    text = (ROOT / "csrc" / "kernels.cmake").read_text()
    (listed,) = re.findall(r"set\(CODESHELL_KERNELS\n(.*?)\)", text, re.S)
    return listed.split()


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", kernel_sources())
def test_every_kernel_is_lean(source: str) -> None:
    cubin = compile_kernels(source)
    assert cubin.kernels
    assert not cubin.warnings
    expected = [row for row in EXPECTED if row.source == source]
    for kernel in cubin.kernels:
        assert (kernel.spills, kernel.stack) == (0, 0), kernel.name
        assert kernel.count(r"(LDL|STL)\b.*") == 0, kernel.name
        assert any(re.fullmatch(row.kernel, kernel.name) for row in expected), f"{kernel.name}: no row in EXPECTED"


@pytest.mark.timeout(600)
@pytest.mark.parametrize("row", EXPECTED, ids=lambda row: row.kernel)
def test_kernels_are_as_designed(row: Expected) -> None:
    kernels = compile_kernels(row.source).matching(row.kernel)
    assert kernels, f"no kernel of {row.source} matches {row.kernel}"
    for kernel in kernels:
        assert 0 < kernel.registers <= row.registers, kernel.name
        assert kernel.registers == row.registers or not row.exactly, kernel.name
        assert kernel.shared == row.shared, kernel.name
        for pattern, count in row.instructions.items():
            found = kernel.count(pattern)
            assert found >= count if count else found == 0, f"{kernel.name}: {pattern} {found} times"
        for pattern, count in row.under_products.items():
            found = kernel.count(pattern, under_products=True)
            assert found >= count, f"{kernel.name}: {pattern} {found} times while products run"


@pytest.mark.timeout(600)
def test_exponentials_run_beside_products() -> None:
    """ptxas moves waits, and a kernel that waits too early gives the same numbers."""
    for kernel in compile_kernels("csrc/attention/forward_sm90.cu").kernels:
        # 64 scores and two rescalings per thread, in each of three steps; the first step has no other product.
        assert kernel.beside_products(r"MUFU\.EX2")[0] == 3 * 66, kernel.name
    for kernel in compile_kernels("csrc/attention/backward_sm90.cu").matching(r"attention::backward<.*>"):
        beside, alone = kernel.beside_products(r"MUFU\.EX2")  # 32 or 64 scores per thread, two copies of the step
        assert (beside, alone) == (64 if "<128" in kernel.name else 128, 0), kernel.name


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", ["forward_sm90.cu", "backward_sm90.cu"])
def test_what_products_and_copies_read_is_fenced(source: str) -> None:
    """The host execution has one proxy and cannot show a fence that is missing."""
    kernels = compile_kernels(f"csrc/attention/{source}").matching(r"attention::(forward|backward)<.*>")
    assert len(kernels) == 4
    for kernel in kernels:
        assert kernel.count(r"STS\b.*") > 30, kernel.name
        assert not kernel.unfenced_stores(), kernel.name


@pytest.mark.timeout(600)
def test_what_copies_overwrite_is_fenced() -> None:
    """Reads of shared memory, too, are of another proxy than the copy that fills it again: flash-attention's kernel for
    sm_90 lacked this fence in one of its paths (its pull request 2462). Here the log-sum-exp and delta are read so."""
    for kernel in compile_kernels("csrc/attention/backward_sm90.cu").matching(r"attention::backward<.*>"):
        read, checked = False, 0
        for line in kernel.listing:
            if re.match(r"LDS\b", line):
                read = True
            elif re.match(r"FENCE\.VIEW\.ASYNC|EXIT", line):
                read = False
            elif line.startswith("SYNCS.ARRIVE"):
                checked += 1
                assert not read, f"{kernel.name}: a stage is given back with no fence after reads of it: {line}"
        assert kernel.count(r"LDS\b.*") >= 32, kernel.name
        assert checked > 10, kernel.name


MOVING = ["csrc/attention/forward_sm90.cu", "csrc/attention/backward_sm90.cu", "csrc/attention/decode_sm90.cu"]


@pytest.mark.timeout(600)
@pytest.mark.parametrize("source", MOVING)
def test_kernels_for_debugging_limit_every_wait_and_can_be_launched(source: str) -> None:
    release = compile_kernels(source).matching(r"attention::(decode::)?(forward|backward|decode)<.*>")
    debug = compile_kernels(source, defines=("CODESHELL_DEBUG_KERNELS",))
    assert not [line for line in debug.warnings if not re.search(r"spilled|\(C75\d\d\)", line)]
    kernels = debug.matching(r"attention::(decode::)?(forward|backward|decode)<.*>")
    assert len(kernels) == len(release) == 4
    for kernel in kernels:
        # Two instructions for each wait on an mbarrier: a first try, and those of the loop.
        waits, loops = divmod(kernel.count(r"SYNCS\.PHASECHK.*TRYWAIT.*"), 2)
        assert loops == 0
        semaphores = 1 if "backward" in kernel.name else 0
        timers = sum("SR_GLOBALTIMERLO" in line for line in kernel.listing)
        assert timers == waits + semaphores > 0, kernel.name
        assert kernel.count(r"BPT\.TRAP.*") >= timers, kernel.name
        # No registers are moved, so those that it has from the start must be there for all threads.
        assert kernel.count(r"USETMAXREG.*") == 0, kernel.name
        assert kernel.registers * (288 if "decode" in kernel.name else 384) <= 64 * 1024, kernel.name
    for kernel in release:
        assert not any("GLOBALTIMER" in line for line in kernel.listing), kernel.name
        assert kernel.count(r"BPT\.TRAP.*") == 0, kernel.name


@pytest.mark.timeout(600)
def test_primitives_become_the_instructions_they_are_named_after() -> None:
    cubin = compile_kernels("tests/gpu/primitives.cu")
    assert not cubin.warnings
    for pattern, instructions in {
        "primitives::box_load": {r"UTMALDG\..*": 3, r"UTMACCTL.*": 1, r"SYNCS\..*": 2},
        "primitives::box_store<false>": {r"UTMASTG\..*": 3, r"FENCE\.VIEW\.ASYNC.*": 1},
        "primitives::box_store<true>": {r"UTMAREDG\..*ADD.*": 3},
        "primitives::gemm<.*>": {r"HGMMA\..*": 4, r"HMMA.*": 0},
        "primitives::pipeline<0>": {r"UBLKCP.*": 1, r"ELECT": 1},
        "primitives::roles<0>": {r"USETMAXREG.*": 2, r"BAR\.ARV.*": 2},
    }.items():
        kernels = cubin.matching(pattern)
        assert kernels, sorted(kernel.name for kernel in cubin.kernels)
        for kernel in kernels:
            assert (kernel.spills, kernel.stack) == (0, 0), kernel.name
            for opcode, count in instructions.items():
                found = kernel.count(opcode)
                assert found >= count if count else found == 0, (kernel.name, opcode, kernel.instructions)


@pytest.mark.timeout(600)
def test_the_check_sees_what_it_looks_for() -> None:
    (kernel,) = compile_kernels("tests/gpu/not_lean.cu").matching("not_lean")
    assert kernel.stack == 256
    assert kernel.count(r"LDL\b.*") > 0
    assert kernel.count(r"STL\b.*") > 0
    assert kernel.count(LOAD_16) == 0
    assert kernel.count(r"LDG\.E.*") > 0
