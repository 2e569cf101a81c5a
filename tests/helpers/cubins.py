"""What nvcc made of a kernel source: registers, spills, stack, shared memory and the instructions of each kernel.

`compile_kernels(source)` compiles for sm_90a and disassembles; results are kept in build/cubins by a hash of the
source, what it includes, the flags and the compiler, so that a session with unchanged kernels compiles nothing.
"""

from __future__ import annotations

import ctypes
import fcntl
import hashlib
import json
import os
import re
import shutil
import site
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import asdict, dataclass, field
from functools import cache, cached_property
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CSRC = ROOT / "csrc"
FLAGS = [
    "-std=c++20",
    "-O3",
    "-DNDEBUG",  # as CMake's Release build
    "-DCODESHELL_WITH_KERNELS",
    "-gencode=arch=compute_90a,code=sm_90a",
    "-Xptxas=-v,--warn-on-spills",
    f"-I{CSRC}",
]


@dataclass
class Kernel:
    """One kernel of a cubin. Sizes in bytes; `shared` is the static shared memory."""

    name: str
    registers: int = 0
    stack: int = 0
    spills: int = 0
    shared: int = 0
    listing: list[str] = field(default_factory=list)  # the instructions with their operands, as they lie in memory

    @cached_property
    def instructions(self) -> dict[str, int]:
        """How many of each opcode with its modifiers."""
        return Counter(line.split()[0] for line in self.listing)

    def count(self, pattern: str, under_products: bool = False) -> int:
        """How many instructions have an opcode, modifiers included, that the pattern matches whole; all of them, or
        those that lie where a product of wgmma is unfinished."""
        if under_products:
            return self.beside_products(pattern)[0]
        return sum(n for opcode, n in self.instructions.items() if re.fullmatch(pattern, opcode))

    def beside_products(self, pattern: str) -> tuple[int, int]:
        """How many instructions of an opcode lie where a wgmma is unfinished, and how many where none is.

        In the order of the listing, which is that of a run where no loop or branch changes how many are unfinished.
        """
        unfinished, beside, alone = 0, 0, 0
        for line in self.listing:
            if line.startswith("HGMMA") and line.endswith("gsb0"):  # the last of a group
                unfinished += 1
            elif match := re.fullmatch(r"WARPGROUP\.DEPBAR\.LE gsb0, 0x(\w+)", line):
                unfinished = min(unfinished, int(match[1], 16))
            elif re.fullmatch(pattern, line.split()[0]):
                beside, alone = beside + (unfinished > 0), alone + (unfinished == 0)
        return beside, alone

    def unfenced_stores(self) -> list[str]:
        """Where threads hand shared memory on that they wrote to, with no fence for the asynchronous proxy between:
        named barriers, arrivals on mbarriers, products and copies of boxes. __syncthreads is for the threads' own."""
        written, found = False, []
        for line in self.listing:
            if line.startswith("STS"):
                written = True
            elif line.startswith("FENCE.VIEW.ASYNC") or re.fullmatch(r"BAR\.SYNC\S* 0x0", line):
                written = False
            elif written and re.match(r"BAR\.|SYNCS\.ARRIVE|HGMMA|UTMASTG|UBLK", line):
                found.append(line)
        return found


@dataclass
class Cubin:
    """The kernels of a source, and what the compiler warned of."""

    kernels: list[Kernel]
    warnings: list[str]

    def matching(self, pattern: str) -> list[Kernel]:
        return [kernel for kernel in self.kernels if re.fullmatch(pattern, kernel.name)]


def _find(name: str, *places: Path) -> str | None:
    return next((str(p / name) for p in places if (p / name).exists()), None) or shutil.which(name)


@cache
def nvcc() -> str:
    """nvcc's path; skips the test where there is none."""
    found = os.environ.get("CUDACXX") or _find("nvcc", Path("/usr/local/cuda/bin"))
    if not found:
        pytest.skip("no nvcc: what it makes of the kernels is NOT checked")
    return found


@cache
def cuobjdump() -> str:
    """cuobjdump's path, from nvcc's toolkit, PATH, NVIDIA's wheels or Triton's, with nvdisasm, which it calls, beside
    it or on PATH; skips the test where there is none."""
    packages = [Path(p) for p in [*site.getsitepackages(), *sys.path]]
    places = [Path(nvcc()).resolve().parent]
    places += [p / "nvidia" / "cu13" / "bin" for p in packages]
    places += [p / "triton" / "backends" / "nvidia" / "bin" for p in packages]
    found = _find("cuobjdump", *places)
    if not found:
        pytest.skip("no cuobjdump (pip install nvidia-cuda-cuobjdump): the kernels' instructions are NOT checked")
    if not _find("nvdisasm", Path(found).parent):
        pytest.skip("no nvdisasm (pip install nvidia-cuda-nvdisasm): the kernels' instructions are NOT checked")
    return found


def _sources(path: Path, seen: dict[Path, bytes]) -> dict[Path, bytes]:
    """The file and, of what it includes by quotes, everything under csrc."""
    if path in seen or not path.is_file():
        return seen
    seen[path] = path.read_bytes()
    for name in re.findall(rb'#include "([^"]+)"', seen[path]):
        for folder in (path.parent, CSRC):
            _sources((folder / name.decode()).resolve(), seen)
    return seen


def _demangle(name: str) -> str:
    """`void codeshell::(anonymous namespace)::copy<float>(float*)` as `copy<float>`."""
    library = ctypes.CDLL("libstdc++.so.6")
    function = library.__cxa_demangle
    function.restype = ctypes.c_char_p  # the buffer is leaked: a few hundred bytes a session
    status = ctypes.c_int()
    plain: bytes = function(name.encode(), None, None, ctypes.byref(status)) or name.encode()
    text = plain.decode()
    text = re.sub(r"^void ", "", text)
    text = re.sub(r"codeshell::|\(anonymous namespace\)::|_GLOBAL__N__\w+::", "", text)
    text = re.sub(r"\([\w: ]+\)(?=-?\w)", "", text)  # the casts of template arguments: (bool)1, (Variant)0
    return text.split("(")[0]


def _parse_resources(log: str) -> tuple[dict[str, Kernel], list[str]]:
    kernels: dict[str, Kernel] = {}
    kernel = None
    for line in log.splitlines():
        if match := re.search(r"Compiling entry function '(\w+)'", line):
            kernel = kernels.setdefault(match[1], Kernel(_demangle(match[1])))
        elif match := re.search(r"Function properties for (\w+)", line):
            kernel = kernels.get(match[1])  # None: a function that was not inlined
        elif kernel and (match := re.search(r"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+)", line)):
            kernel.stack, kernel.spills = int(match[1]), int(match[2]) + int(match[3])
        elif kernel and (match := re.search(r"Used (\d+) registers", line)):
            kernel.registers = int(match[1])
            shared = re.search(r"(\d+) bytes smem", line)
            kernel.shared = int(shared[1]) if shared else 0
    # Of wgmma that it serialises ptxas says only "info : (C7510) Potential Performance Loss".
    warnings = [
        line for line in log.splitlines() if re.search(r"warning|\(C7\d+\)|serialized|Performance Loss", line, re.I)
    ]
    return kernels, warnings


def _list_instructions(sass: str, kernels: dict[str, Kernel]) -> None:
    kernel = None
    for line in sass.splitlines():
        if match := re.search(r"Function : (\w+)", line):
            kernel = kernels.get(match[1])
        elif kernel and (match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z].*?)\s*;", line)):
            kernel.listing.append(match[1])


@cache
def compile_kernels(source: str) -> Cubin:
    """Compiles a source, a path from the root, to a cubin; skips where the tools are missing, fails where nvcc does."""
    compiler, disassembler = nvcc(), cuobjdump()
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\n".join([version, *FLAGS[:-1], source]).encode())
    digest.update(Path(__file__).read_bytes())
    for path, text in sorted(_sources(ROOT / source, {}).items()):
        digest.update(str(path.relative_to(ROOT)).encode() + text)
    folder = ROOT / "build" / "cubins"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{Path(source).stem}-{digest.hexdigest()[:20]}.json"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            with tempfile.TemporaryDirectory() as temporary:
                cubin = Path(temporary) / "kernels.cubin"
                command = [compiler, *FLAGS, "-cubin", "-o", str(cubin), str(ROOT / source)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
                kernels, warnings = _parse_resources(done.stdout + done.stderr)
                path = f"{Path(disassembler).parent}{os.pathsep}{os.environ.get('PATH', '')}"  # it looks for nvdisasm
                command = [disassembler, "-sass", str(cubin)]
                sass = subprocess.run(
                    command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}
                )
                _list_instructions(sass.stdout, kernels)
            kept.write_text(json.dumps(asdict(Cubin(list(kernels.values()), warnings))))
    data = json.loads(kept.read_text())
    return Cubin([Kernel(**kernel) for kernel in data["kernels"]], data["warnings"])
