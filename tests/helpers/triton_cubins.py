"""What Triton makes of a kernel for each GPU, without a GPU: registers, stack, shared memory, widths of accesses.

    compiled = compile_kernels(Spec("codeshell.ops.gelu_triton:forward_kernel", {"x_pointer": "*bf16", "rows": "i32"},
                                    {"tile_rows": 4}, warps=8))
    compiled[90].registers

A `Spec` says what a launch would specialise on: the type of each argument, the values of the constexprs, the number of
warps and stages. Pointers and integers count as multiples of 16, as Triton finds them for aligned tensors whose sizes
are multiples of 16; `odd` names those that are not.

Compiling needs neither a GPU nor a driver. It runs in a process of its own, because a process that interprets kernels
cannot compile them; the results of Triton's compiler are kept in build/triton.
"""

from __future__ import annotations

import functools
import importlib
import json
import os
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from helpers.cubins import cuobjdump
from helpers.triton_interpreter import TESTS, need_triton, run_script

ARCHITECTURES = (80, 86, 89, 90, 100, 120)
"""A100, RTX 3090, RTX 4090, H100 (as sm_90a), B200 (sm_100a) and RTX 5090 (sm_120a)."""


@dataclass(frozen=True)
class Spec:
    """A kernel as a launch would specialise it.

    Attributes:
        kernel: `module:NAME` of a function with @triton.jit.
        types: of the arguments that are not constexpr: "*bf16", "*fp32", "i32", "i64", "fp32". It may name more.
        constants: the values of the constexprs.
        warps, stages: as in the launch.
        most_registers: `maxnreg` of the launch.
        odd: arguments that are not multiples of 16.
    """

    kernel: str
    types: dict[str, str]
    constants: dict[str, Any]
    warps: int = 4
    stages: int = 3
    most_registers: int | None = None
    odd: tuple[str, ...] = ()


@dataclass
class Compiled:
    """One kernel for one architecture. Sizes in bytes.

    Attributes:
        registers: of a thread.
        stack, local: both 0 unless something was spilled or indexed at run time.
        shared: static and dynamic.
        loads, stores: how many of each width in bytes the machine code has, to and from global memory.
        opcodes: how many of each instruction, without its modifiers.
    """

    registers: int
    stack: int
    local: int
    shared: int
    loads: dict[int, int] = field(default_factory=dict)
    stores: dict[int, int] = field(default_factory=dict)
    opcodes: dict[str, int] = field(default_factory=dict)


def compile_kernels(*specs: Spec, architectures: tuple[int, ...] = ARCHITECTURES) -> list[dict[int, Compiled]]:
    """For each spec what it becomes on each architecture; skips the test where triton or cuobjdump is missing."""
    need_triton()
    cuobjdump()
    return _compile(json.dumps([asdict(spec) for spec in specs]), architectures)


@functools.cache
def _compile(specs: str, architectures: tuple[int, ...]) -> list[dict[int, Compiled]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(TESTS.parent / "build" / "triton")
    rows = run_script(__file__, [str(architecture) for architecture in architectures], environment, specs)
    return [{int(architecture): _read(*made) for architecture, made in row.items()} for row in rows]


def _read(cubin: str, dynamic: int) -> Compiled:
    """What cuobjdump finds in a cubin with one kernel, which is launched with `dynamic` bytes of shared memory."""
    environment = os.environ | {"PATH": f"{Path(cuobjdump()).parent}{os.pathsep}{os.environ.get('PATH', '')}"}

    def dump(option: str) -> str:
        command = [cuobjdump(), option, cubin]
        return subprocess.run(command, capture_output=True, text=True, check=True, env=environment).stdout

    facts = {name: int(value) for name, value in re.findall(r"\b(REG|STACK|LOCAL|SHARED):(\d+)", dump("-res-usage"))}
    found = Compiled(facts["REG"], facts["STACK"], facts["LOCAL"], facts["SHARED"] + dynamic)
    loads: Counter[int] = Counter()
    stores: Counter[int] = Counter()
    opcodes: Counter[str] = Counter()
    for instruction in re.findall(r"^\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z][\w.]*)", dump("-sass"), re.M):
        opcode, *modifiers = instruction.split(".")
        opcodes[opcode] += 1
        if opcode in ("LDG", "STG"):
            (loads if opcode == "LDG" else stores)[_width(modifiers)] += 1
    found.loads, found.stores, found.opcodes = dict(loads), dict(stores), dict(opcodes)
    return found


def _width(modifiers: list[str]) -> int:
    """Bytes of one access, from the modifiers of its instruction; 4 where none says another."""
    widths = {"U8": 1, "S8": 1, "U16": 2, "S16": 2, "64": 8, "128": 16, "256": 32}
    return next((widths[name] for name in modifiers if name in widths), 4)


def main(architectures: list[int]) -> None:
    """Compile the specs that come on standard input, and print where the cubins are, by architecture."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    folder = Path(os.environ["TRITON_CACHE_DIR"])
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for spec in json.load(sys.stdin):
        module, name = spec["kernel"].split(":")
        function = getattr(importlib.import_module(module), name)
        constants = spec["constants"]
        signature = {p: "constexpr" if p in constants else spec["types"][p] for p in function.arg_names}
        assert set(constants) <= set(signature), spec["kernel"]
        # Triton's hint that a pointer or integer is a multiple of 16, by the place of its argument.
        multiples = {
            (place,): [["tt.divisibility", 16]]
            for place, (p, kind) in enumerate(signature.items())
            if kind[0] in "*i" and p not in spec["odd"]
        }
        row = {}
        for architecture in architectures:
            source = ASTSource(function, signature, constants, multiples)
            options = {"num_warps": spec["warps"], "num_stages": spec["stages"], "maxnreg": spec["most_registers"]}
            made = triton.compile(source, target=GPUTarget("cuda", architecture, 32), options=options)
            # Triton's cache has the file under a name of its own. Another worker of the tests may write the same.
            path = folder / f"{made.hash}.cubin"
            own = path.with_suffix(f".{os.getpid()}")
            own.write_bytes(made.asm["cubin"])
            own.replace(path)
            row[architecture] = [str(path), made.metadata.shared]
        rows.append(row)
    print(json.dumps(rows))


if __name__ == "__main__":
    main([int(argument) for argument in sys.argv[1:]])
