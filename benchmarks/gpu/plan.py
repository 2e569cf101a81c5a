"""The plan: what a GPU that is there for 15 minutes is asked, in the order in which the answers are worth most.

First each kernel's smallest launch, from the simplest kernel to the one that has the most to go wrong, each in its own
process. Then the whole files of tests, one process a file; then compute-sanitizer on one tile; and speed last. The
budgets add up to less than `TOTAL`, which leaves the rest of the 15 minutes to what starts the machine.

The table of operations (codeshell/operations.py) says which kernels, tests, benchmarks and cases there are.
tests/benchmarks/test_gpu_plan.py fails where a kernel of the table has no row here.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path

from codeshell.operations import KERNELS, OPERATIONS, TRITON_KERNELS

from .results import ROOT
from .rows import Row
from .runner import JSON

TOTAL = 780.0
"""Seconds for all rows in one call or several: 15 minutes, less 2 for machines that have to be started."""
IMPORTS = 20.0
"""Seconds for the import of torch, once a call, and for reading the device. Forks have no more of it."""

ROTARY, ADAMW, LOSS, COPY = "rotary/rotary.cu", "adamw/adamw.cu", "loss/softmax_gradient.cu", "copy/copy.cu"
GELU, NORM = "ops/gelu_triton.py", "ops/norm_triton.py"
FORWARD, BACKWARD, DECODE = "attention/forward_sm90.cu", "attention/backward_sm90.cu", "attention/decode_sm90.cu"

ALL = KERNELS | TRITON_KERNELS
"""The kernels by their path: below csrc, those in Triton below the package."""
LAUNCHING = ("csrc/gpu/launch.cu", "csrc/gpu/tma.cu")
"""What launches all kernels, and is in no kernel's own hash."""

FIRST = "tests/gpu/test_first_launches.py"
FIRST_LAUNCHES: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("rotary", ROTARY, ()),
    ("adamw", ADAMW, ()),
    ("gelu", GELU, ()),
    ("norm", NORM, ()),
    ("loss", LOSS, ()),
    ("copy", COPY, ()),
    ("forward_full", FORWARD, ()),
    ("forward_causal", FORWARD, ()),
    ("forward_packed", FORWARD, ()),
    ("forward_grouped", FORWARD, ()),
    ("forward_wide", FORWARD, ()),
    ("backward", BACKWARD, (FORWARD,)),
    ("backward_deterministic", BACKWARD, (FORWARD,)),
    ("backward_wide", BACKWARD, (FORWARD,)),
    ("decode", DECODE, ()),
)
"""(test, its kernel, other kernels that it launches), in their order."""

TESTS: dict[str, tuple[float, str]] = {
    "gpu/test_rotary_cuda.py": (20, "85 small cases of 20 ms, 168 MB compared with the CPU kernel"),
    "gpu/test_adamw_cuda.py": (25, "14 small cases, 10,000 tensors made and stepped"),
    "gpu/test_gelu_cuda.py": (25, "22 small cases, for which Triton compiles some 40 kernels, 0.5 s each: 20 s"),
    "gpu/test_norm_cuda.py": (
        30,
        "22 cases of the 51 (PARTS), for which Triton compiles three kernels each, 0.5 s: 25 s",
    ),
    "gpu/test_loss_cuda.py": (20, "120 small cases of 50 ms, 9 of 70,144 logits against fp64 on the CPU: 3 s; 8.6 GB"),
    "gpu/test_copy_cuda.py": (10, "8 copies, the largest of 100 MB"),
    "gpu/test_attention_cuda.py": (25, "72 small cases of 50 ms, 200 runs of 1 ms"),
    "gpu/test_attention_backward_cuda.py": (
        45,
        "72 small cases of 100 ms; 12 with scores of 2 GB in fp64, about 0.5 s each; 800 runs of 2 ms",
    ),
    "gpu/test_decode_cuda.py": (
        45,
        "116 small cases of 100 ms; pages filled one token at a time: 75,000 tokens of 30 us, twice",
    ),
    "ops/test_decode_flash_cuda.py": (25, "86 small cases of 100 ms, pages filled one token at a time"),
    "ops/test_flash_cuda.py": (25, "51 small cases of 100 ms, some against fp64 on the CPU"),
    "integrations/test_models_cuda.py": (45, "the import of transformers, 15 tests of tiny models of 1 s"),
}
"""Budgets of files below tests/, and where they come from."""
PARTS = {"gpu/test_norm_cuda.py": "1024 or 3072 or 8192 and bfloat16 or graph or strides"}
"""Of a file, the cases (pytest's -k) that 15 minutes have room for: Triton compiles for each shape and dtype anew. The
other ones have their own hour: `pytest tests/gpu/test_norm_cuda.py`."""
OTHER_TESTS = 25.0
"""Seconds for a file of GPU tests that is not in the table above."""
USES = {"gpu/test_attention_backward_cuda.py": (FORWARD,), "integrations/test_models_cuda.py": (FORWARD, BACKWARD)}
"""Kernels that a file launches beside those that it is the test of."""

SANITIZER_PART = "d64 and bf16"
"""One dimension and one dtype of the cases that the table of operations names for the sanitizer."""
CHECKERS = (("memcheck", False), ("synccheck", False), ("racecheck", True))
"""Racecheck is information: it knows the accesses of tensor TMA, but reports those of cp.async.bulk without a cause."""
SANITIZER_BUDGET, SANITIZER_QUIET = 30.0, 45.0
"""Seconds. CUDA's own start takes several times as long under the sanitizer, and nothing is printed meanwhile."""

PLAIN = ("--without", "torch.compile", "--without", "FlexAttention", "--without", "for-loop")
"""Contenders that take longer to compile than to measure, or are slow and of no interest on a GPU."""
BENCHMARKS: tuple[tuple[str, str, float, tuple[str, ...], tuple[str, ...], str], ...] = (
    (
        "rotary",
        "rotary",
        25,
        PLAIN,
        (ROTARY,),
        "336 MB per call is 80 us at 4.3 TB/s; 9 cases, 4 contenders, 80 calls: 1 s; start, clocks, graphs: 12 s",
    ),
    (
        "adamw",
        "adamw",
        35,
        PLAIN,
        (ADAMW,),
        "28 GB per step is 6.5 ms; 9 cases, 3 contenders, 35 steps of up to 40 ms: 15 s; 10,000 tensors, 5 times: 5 s",
    ),
    (
        "norm",
        "norm",
        20,
        PLAIN,
        (NORM, GELU),
        "800 MB per call is 190 us at 4.3 TB/s; 12 cases, 3 contenders, 80 calls: 1 s; Triton compiles: 5 s; start",
    ),
    (
        "loss",
        "loss",
        30,
        PLAIN,
        (LOSS,),
        "24 ms for each of three products, Liger takes ten times as long; 3 cases, 4 contenders, 35 calls: 12 s; start",
    ),
    (
        "attention-forward",
        "attention",
        30,
        (*PLAIN, "--only", ", forward"),
        (FORWARD,),
        "17 ms for the causal shapes, 30 ms for the full ones, at 650 TFLOP/s; 12 cases, 3 contenders, 45 calls: 8 s",
    ),
    (
        "attention-backward",
        "attention",
        45,
        (*PLAIN, "--only", "backward"),
        (BACKWARD, FORWARD),
        "55 ms for the shapes at 550 TFLOP/s, twice, 3 contenders, 45 calls: 16 s; cuDNN makes its plans: 5 s",
    ),
    (
        "train",
        "train_gpu",
        40,
        ("--rounds", "8"),
        (ROTARY, ADAMW, GELU, NORM, LOSS),
        "16,384 tokens are 130 TFLOP, 0.3 s at 45 % MFU; 2 contenders, 12 steps: 8 s; transformers and models: 12 s",
    ),
    (
        "decode",
        "decode",
        35,
        PLAIN,
        (DECODE,),
        "at most 4.3 GB per call, which is 1 ms; 20 cases, 2 contenders, 80 calls; 60 GB of random caches: 10 s",
    ),
)
"""(row, script, budget, arguments, kernels, where the budget comes from), the smallest and most wanted first."""
COMPILED: tuple[tuple[str, str, tuple[str, ...], tuple[str, ...]], ...] = (
    ("rotary-compiled", "rotary", ("--without", "Liger"), (ROTARY,)),
    ("attention-flex", "attention", ("--only", "8192 tokens", "--without", "cuDNN"), (FORWARD, BACKWARD)),
)
"""Rows that run only if they are named: each shape is compiled, 5 to 15 s each."""
LATER = ("speed/overhead", "memcheck/decode", "synccheck/decode", "racecheck/attention")
"""Others that run only if they are named, for which the 15 minutes have no room: what calls cost the host, the
sanitizer on a second kernel that is off by default, and racecheck, which is known to report what is no error."""


def plan() -> list[Row]:
    """All rows, in their order."""
    rows = [*first_launches(), *tests(), *sanitizer(), *benchmarks()]
    return [dataclasses.replace(row, extra=True) if row.name in LATER else row for row in rows]


def first_launches() -> list[Row]:
    return [
        Row(
            f"first/{test.replace('_', '-')}",
            "first launch",
            # -P: the current folder has a codeshell without the extension that was built for this.
            ("-P", "-m", "pytest", f"{FIRST}::test_{test}[gpu]", *pytest_arguments()),
            budget=4,
            # What tells a hang is 20 seconds of silence after the test's name, not a slow import before it.
            limit=60,
            kernels=(kernel,),
            uses=uses,
            files=(FIRST, "tests/helpers", *LAUNCHING),
            environment={"CUDA_LAUNCH_BLOCKING": "1"},
            debug=True,
            why="CUDA's start 2 s, fp64 reference 1 s",
        )
        for test, kernel, uses in FIRST_LAUNCHES
    ]


def tests() -> list[Row]:
    """The files of GPU tests: those of the kernels in the order of their first launches, then all others."""
    order = [test for _, kernel, _ in FIRST_LAUNCHES for test in ALL[kernel].tests]
    names = {path.relative_to(ROOT / "tests").as_posix() for path in (ROOT / "tests").rglob("test_*_cuda.py")}
    found = [*dict.fromkeys(order), *sorted(names - set(order))]
    return [tests_of(name) for name in found]


def tests_of(name: str) -> Row:
    budget, why = TESTS.get(name, (OTHER_TESTS, "not measured yet"))
    part = ("-k", PARTS[name]) if name in PARTS else ()
    kernels = tuple(source for source, kernel in ALL.items() if name in kernel.tests)
    return Row(
        f"tests/{Path(name).parent.as_posix()}/{Path(name).stem.removeprefix('test_').removesuffix('_cuda')}",
        "tests",
        ("-P", "-m", "pytest", f"tests/{name}", *part, *pytest_arguments()),
        budget=budget,
        # transformers is imported before the first test prints its name.
        quiet=20 if name.startswith("gpu/") else 30,
        kernels=kernels,
        uses=USES.get(name, ()),
        files=(f"tests/{name}", "tests/helpers", *(LAUNCHING if kernels else ())),
        tests=name,
        why=why,
    )


def sanitizer() -> list[Row]:
    rows = []
    for checker, information in CHECKERS:
        for operation in OPERATIONS:
            if not operation.sanitized:
                continue
            files = tuple(dict.fromkeys(f"tests/{test}" for kernel in operation.kernels for test in kernel.tests))
            cases = f"({operation.sanitized}) and {SANITIZER_PART}"
            row = Row(
                f"{checker}/{operation.name}",
                "sanitizer",
                ("-P", "-m", "pytest", *files, "-k", cases, "-x", *pytest_arguments()),
                budget=SANITIZER_BUDGET,
                quiet=SANITIZER_QUIET,
                uses=tuple(kernel.source for kernel in operation.kernels),
                files=(*files, "tests/helpers", *LAUNCHING),
                ordered=False,
                # Its kernels ask for no registers at run time, of which the sanitizer's own code takes some.
                debug=True,
                information=information,
                # Every tensor gets an allocation of its own, or reaching into its neighbour would be no error.
                environment={"PYTORCH_NO_CUDA_MEMORY_CACHING": "1"},
                program=("compute-sanitizer", "--tool", checker, "--target-processes", "all", "--error-exitcode", "99"),
                why="a start of 15 s under the sanitizer, cases of one tile",
            )
            # One hint of racecheck is enough: decode has no copies but those that attention has.
            if not information or operation.name == "attention":
                rows.append(row)
    return rows


def benchmarks() -> list[Row]:
    rows = [
        benchmark(name, script, budget, arguments, kernels, why)
        for name, script, budget, arguments, kernels, why in BENCHMARKS
    ]
    why = "30 rounds of 1 ms, 25 rows: 1 s; the rest is the start"
    rows.append(benchmark("overhead", "overhead", 20, PLAIN, (ROTARY, ADAMW), why))
    for name, script, arguments, kernels in COMPILED:
        rows.append(benchmark(name, script, 90, arguments, kernels, "5 to 15 s for each compiled shape", extra=True))
    return rows


def benchmark(
    name: str,
    script: str,
    budget: float,
    arguments: tuple[str, ...],
    kernels: tuple[str, ...],
    why: str,
    extra: bool = False,
) -> Row:
    path = f"benchmarks/{script}.py"
    device = ("--device", "cuda", "--seconds", f"{0.8 * budget:.0f}")
    return Row(
        f"speed/{name}",
        "benchmark",
        (str(ROOT / path), "--json", JSON, "--progress", *device, *arguments),
        budget=budget,
        limit=1.25 * budget,
        # Compilation prints nothing.
        quiet=45 if extra else 20,
        uses=kernels,
        files=(path, "benchmarks/harness.py", "benchmarks/timing.py", *LAUNCHING),
        ordered=False,
        environment={"TORCHINDUCTOR_COMPILE_THREADS": "1"} if extra else {},
        extra=extra,
        why=why,
    )


def pytest_arguments() -> tuple[str, ...]:
    """-vv: each test's name is printed as it starts, which tells a long file from one that hangs."""
    reporting = "-vv", "-p", "no:cacheprovider", "-p", "gpu.reporter", "--tb=short"
    # The plug-ins are loaded before the fork, once for all.
    return *reporting, "-W", "ignore::pytest.PytestAssertRewriteWarning"


def dry(row: Row) -> Row:
    """The row on a machine without a GPU: tests skip, benchmarks take tiny sizes, the sanitizer has nothing to see."""
    if row.kind != "benchmark":
        return dataclasses.replace(row, program=())
    words = list(row.command)
    words[words.index("--device") + 1] = "cpu"
    if "--only" in words:
        at = words.index("--only")
        del words[at : at + 2]
    return dataclasses.replace(row, command=(*words, "--smoke"))
