"""Check that the deduper gives the same bits on AArch64 (scalar and NEON code) as on this machine.

    python tools/check_aarch64.py [--inputs 20000] [FILE ...]

Builds `tests/fuzz/same_bits.cpp` twice, with this machine's compiler and for AArch64, runs both (the second under
qemu-user) and compares their output. Exit status: 0 identical, 1 different, 3 the cross compiler or the emulator is
missing (Debian, Ubuntu: apt-get install g++-aarch64-linux-gnu qemu-user-static). FILEs are added to the corpus.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCES = [
    *sorted((ROOT / "csrc/dedup").glob("*.cpp")),
    *sorted((ROOT / "csrc/text").glob("*.cpp")),
    ROOT / "csrc/simd/cpu.cpp",
    ROOT / "csrc/simd/parallel.cpp",
    ROOT / "tests/fuzz/fuzz_texts.cpp",
    ROOT / "tests/fuzz/same_bits.cpp",
]
# -Wno-…: GCC takes the undefined operands inside its own AVX-512 intrinsics for variables of ours (its bug 105593).
FLAGS = [
    "-std=c++20",
    "-O2",
    "-Wall",
    "-Wextra",
    "-Wno-maybe-uninitialized",
    "-Wno-uninitialized",
    f"-I{ROOT / 'csrc'}",
    f"-I{ROOT / 'tests/fuzz'}",
]
NEEDED = (("aarch64-linux-gnu-g++",), ("qemu-aarch64-static", "qemu-aarch64"))


def build(compiler: str, folder: Path, jobs: int) -> Path:
    """Compile all sources, `jobs` at once, and link them statically (an emulator has no loader)."""
    folder.mkdir()

    def compile_one(source: Path) -> Path:
        out = folder / f"{source.parent.name}-{source.stem}.o"
        subprocess.run([compiler, *FLAGS, "-c", str(source), "-o", str(out)], check=True)
        return out

    with ThreadPoolExecutor(jobs) as pool:
        objects = [str(path) for path in pool.map(compile_one, SOURCES)]
    program = folder / "same_bits"
    subprocess.run([compiler, "-static", *objects, "-o", str(program), "-pthread", "-ldl"], check=True)
    return program


def run(command: list[str]) -> tuple[list[str], int]:
    started = time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False)
    print(f"  {time.perf_counter() - started:.0f} s", file=sys.stderr)
    return done.stdout.splitlines(), done.returncode


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("files", nargs="*", metavar="FILE")
    parser.add_argument("--inputs", type=int, default=20_000, help="of the fuzz harness (default: 20000)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1)
    args = parser.parse_args()
    found = [next(filter(None, map(shutil.which, names)), None) for names in NEEDED]
    for names, path in zip(NEEDED, found, strict=True):
        if path is None:
            print(f"SKIPPED, nothing was checked: no {' or '.join(names)} on PATH", file=sys.stderr)
            return 3
    cross, emulator = map(str, found)
    arguments = [str(args.inputs), *args.files]
    with tempfile.TemporaryDirectory() as folder:
        here = build(os.environ.get("CXX", "g++"), Path(folder, "here"), args.jobs)
        there = build(cross, Path(folder, "aarch64"), args.jobs)
        lines, status = run([str(here), *arguments])
        others, other_status = run([emulator, str(there), *arguments])
    for line, other in zip(lines, others, strict=False):
        if line != other:
            print(f"different: {line}\n           {other}")
    same = lines == others and bool(lines) and status == other_status == 0
    verdict = "identical" if same else f"NOT identical (exit statuses {status}, {other_status})"
    print(f"{platform.machine()} and aarch64: {len(lines)} digests, {verdict}")
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
