"""What nvcc made of a kernel source: registers, spills, stack, shared memory and the instructions of each kernel.

`compile_kernels(source)` compiles for a Hopper GPU (90a, or 90 where that is what ships) and disassembles; results are
kept in build/cubins by a hash of the source, what it includes, the flags and the compiler, so that a session with
unchanged kernels compiles nothing. `read_code(file)` tells what a built extension holds.
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
from collections.abc import Iterable
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


def _find_nvcc() -> str | None:
    return os.environ.get("CUDACXX") or _find("nvcc", Path("/usr/local/cuda/bin"))


@cache
def nvcc() -> str:
    """nvcc's path; skips the test where there is none."""
    found = _find_nvcc()
    if not found:
        pytest.skip("no nvcc: what it makes of the kernels is NOT checked")
    return found


@cache
def cuobjdump() -> str:
    """cuobjdump's path, from nvcc's toolkit, PATH, NVIDIA's wheels or Triton's, with nvdisasm, which it calls, beside
    it or on PATH; skips the test where there is none."""
    packages = [Path(p) for p in [*site.getsitepackages(), *sys.path]]
    places = [Path(compiler).resolve().parent] if (compiler := _find_nvcc()) else []
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


def _dump(*arguments: str) -> str:
    """What cuobjdump prints; it looks for nvdisasm on PATH."""
    path = f"{Path(cuobjdump()).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    command = [cuobjdump(), *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True, env=os.environ | {"PATH": path}).stdout


def _list_instructions(sass: str, kernels: dict[str, Kernel]) -> None:
    kernel = None
    for line in sass.splitlines():
        if match := re.search(r"Function : (\w+)", line):
            kernel = kernels.get(match[1])
        elif kernel and (match := re.match(r"\s+/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z].*?)\s*;", line)):
            kernel.listing.append(match[1])


def cmake_list(name: str) -> list[str]:
    """A list of csrc/kernels.cmake."""
    (listed,) = re.findall(rf"^set\({name}\s+(.*?)\)", (CSRC / "kernels.cmake").read_text(), re.S | re.M)
    words: list[str] = listed.split()
    return words


def listed_architectures(source: str) -> list[str]:
    """What csrc/kernels.cmake compiles a kernel for; the source is a path from the root."""
    hopper = source in cmake_list("CODESHELL_HOPPER_KERNELS")
    return cmake_list("CODESHELL_HOPPER_ARCHITECTURES" if hopper else "CODESHELL_ALL_ARCHITECTURES")


@cache
def compile_kernels(source: str, architecture: str = "", defines: tuple[str, ...] = ()) -> Cubin:
    """Compiles a source, a path from the root, to a cubin; skips where the tools are missing, fails where nvcc does.

    Args:
        architecture: such as "120"; empty is Hopper: "90" for a kernel that ships as such, "90a" for all else.
        defines: macros to define, such as "CODESHELL_DEBUG_KERNELS".
    """
    compiler, _ = nvcc(), cuobjdump()
    if not architecture:
        portable = source in cmake_list("CODESHELL_KERNELS") and "90" in listed_architectures(source)
        architecture = "90" if portable else "90a"
    flags = [f"-gencode=arch=compute_{architecture},code=sm_{architecture}", *(f"-D{name}" for name in defines), *FLAGS]
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout
    digest = hashlib.sha256("\n".join([version, *flags[:-1], source]).encode())
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
                command = [compiler, *flags, "-cubin", "-o", str(cubin), str(ROOT / source)]
                done = subprocess.run(command, capture_output=True, text=True)
                if done.returncode:
                    pytest.fail(f"{' '.join(command)}\n{done.stdout}{done.stderr}", pytrace=False)
                kernels, warnings = _parse_resources(done.stdout + done.stderr)
                _list_instructions(_dump("-sass", str(cubin)), kernels)
            kept.write_text(json.dumps(asdict(Cubin(list(kernels.values()), warnings))))
    data = json.loads(kept.read_text())
    return Cubin([Kernel(**kernel) for kernel in data["kernels"]], data["warnings"])


@dataclass
class Code:
    """One kernel for one architecture in a built file. Sizes in bytes.

    Attributes:
        source: the file's name without .cu, such as "adamw".
        architecture: as in `_C.kernel_architectures`: "80", "90a", or "80-virtual" for PTX, whose sizes are unknown.
        instructions: how many of each opcode with its modifiers.
    """

    source: str
    name: str
    architecture: str
    registers: int = 0
    stack: int = 0
    local: int = 0
    instructions: dict[str, int] = field(default_factory=dict)

    def count(self, pattern: str) -> int:
        """How many instructions have an opcode, modifiers included, that the pattern matches whole."""
        return sum(n for opcode, n in self.instructions.items() if re.fullmatch(pattern, opcode))


def _source_of(symbols: Iterable[str]) -> str:
    """The source of a cubin's kernels: nvcc writes it into the name of the anonymous namespace, in which one or more of
    them are; empty where none is."""
    found = (re.search(r"_GLOBAL__N__[0-9a-f]{8}_\d+_(\w+?)_cu_[0-9a-f]{8}", symbol) for symbol in symbols)
    return next((match[1] for match in found if match), "")


def read_code(file: Path) -> list[Code]:
    """All kernels in an extension or an object file; skips where the tools are missing. Nothing is compiled."""
    digest = hashlib.sha256(file.read_bytes() + Path(__file__).read_bytes()).hexdigest()
    folder = ROOT / "build" / "cubins"
    folder.mkdir(parents=True, exist_ok=True)
    kept = folder / f"{file.stem.split('.')[0]}-{digest[:20]}.json"
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not kept.exists():
            kept.write_text(json.dumps([asdict(code) for code in _read_code(file)]))
    return [Code(**code) for code in json.loads(kept.read_text())]


def _read_code(file: Path) -> list[Code]:
    found: dict[tuple[str, str], Code] = {}
    # Registers and stack: a section for each cubin, which is that of one source.
    for section in re.split(r"^Fatbin \w+ code:", _dump("-res-usage", str(file)), flags=re.M)[1:]:
        architecture = re.findall(r"^arch = sm_(\w+)", section, re.M)[0]
        rows = re.findall(r"Function (\w+):\s+REG:(\d+) STACK:(\d+) .*?LOCAL:(\d+)", section)
        source = _source_of(row[0] for row in rows)
        for symbol, *numbers in rows:
            found[architecture, symbol] = Code(source, _demangle(symbol), architecture, *map(int, numbers))
    # The instructions, an architecture at a time: the disassembly of all of them takes much memory.
    for architecture in sorted({architecture for architecture, _ in found}):
        kernels: dict[str, Kernel] = {name: Kernel("") for of, name in found if of == architecture}
        _list_instructions(_dump("-sass", "-arch", f"sm_{architecture}", str(file)), kernels)
        for symbol, kernel in kernels.items():
            found[architecture, symbol].instructions = dict(kernel.instructions)
    # PTX: its target and its kernels.
    for section in re.split(r"^Fatbin \w+ code:", _dump("-ptx", str(file)), flags=re.M)[1:]:
        symbols = re.findall(r"\.entry (\w+)", section)
        for target in re.findall(r"^\.target sm_(\w+)", section, re.M):
            for symbol in symbols:
                architecture = f"{target}-virtual"
                found[architecture, symbol] = Code(_source_of(symbols), _demangle(symbol), architecture)
    return list(found.values())
