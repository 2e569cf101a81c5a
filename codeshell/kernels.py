"""The sources of the kernels for GPUs: a hash of each, and on which GPU that very source has been tested.

A kernel is a file csrc/OPERATION/NAME.cu. Its hash covers that file and all files of csrc that it includes, directly or
not, without comments and blank space: a number that a run measured is written into the opening comment afterwards, and
that must not make the run one of another source. Headers of the host execution layer (csrc/gpu/host) are left out,
because nvcc never sees them.

The build runs this file alone (`python -I kernels.py CSRC OUT.cpp`, so it imports the standard library and nothing of
the package) and compiles the hashes into `codeshell._C`: an installed package knows them without its sources.
`benchmarks/gpu_check.py` writes them into its result, and `codeshell info --kernels` compares.

A kernel in Triton is a file codeshell/ops/NAME_triton.py, which is part of every package. Its hash covers that file, as
Python reads it: without comments, docstrings and layout.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INCLUDE = re.compile(rb'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
TOKENS = re.compile(rb'("(?:\\.|[^"\\\n])*"|\'(?:\\.|[^\'\\\n])*\')|//[^\n]*|/\*.*?\*/', re.S)
"""A string or character literal (kept), or a comment."""
HOST_LAYER = "gpu/host/"


def source_hashes(csrc: Path) -> dict[str, str]:
    """Hash of every kernel in a checkout's csrc, by its path below it."""
    paths = (path.relative_to(csrc).as_posix() for path in csrc.glob("*/*.cu"))
    return {path: source_hash(csrc, path) for path in sorted(paths) if not path.startswith("gpu/")}


def source_hash(csrc: Path, source: str) -> str:
    """16 hexadecimal digits of the SHA-256 over the file and what it includes, in the order of their paths."""
    digest = hashlib.sha256()
    for path in sorted(included(csrc, source)):
        digest.update(path.encode() + b"\0" + bare(csrc.joinpath(path).read_bytes()) + b"\0")
    return digest.hexdigest()[:16]


def included(csrc: Path, source: str) -> set[str]:
    """`source` and all files of csrc that it includes, directly or not."""
    found: set[str] = set()
    waiting = [source]
    while waiting:
        path = waiting.pop()
        if path in found:
            continue
        found.add(path)
        # An include is found beside the file, or below csrc; any other is not ours.
        for name in INCLUDE.findall(csrc.joinpath(path).read_bytes()):
            for candidate in (csrc.joinpath(path).parent / name.decode(), csrc / name.decode()):
                if candidate.is_file() and candidate.resolve().is_relative_to(csrc.resolve()):
                    inner = candidate.resolve().relative_to(csrc.resolve()).as_posix()
                    if not inner.startswith(HOST_LAYER):
                        waiting.append(inner)
                    break
    return found


def bare(code: bytes) -> bytes:
    """Code without comments; blank space of any kind and length is one space."""
    return b" ".join(TOKENS.sub(lambda match: match[1] or b" ", code).split())


def built_hashes() -> dict[str, str]:
    """Hashes of the sources that `codeshell._C` was built from, whether with CUDA or not."""
    from codeshell import _C

    return dict(pair.split("=") for pair in _C.kernel_sources.split(";") if pair)


def triton_hashes() -> dict[str, str]:
    """Hash of every file of kernels in Triton, by its path below the package."""
    package = Path(__file__).resolve().parent
    return {path.relative_to(package).as_posix(): python_hash(path) for path in sorted(package.glob("ops/*_triton.py"))}


def python_hash(path: Path) -> str:
    """16 hexadecimal digits of the SHA-256 over a Python file's syntax tree, without its docstrings."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:]
    return hashlib.sha256(ast.dump(tree).encode()).hexdigest()[:16]


def hashes() -> dict[str, str]:
    """Hashes of all kernels of this package, for the results of runs: those that were built, and those in Triton."""
    return built_hashes() | triton_hashes()


def present_hashes() -> dict[str, str] | None:
    """Hashes of the sources beside this package; None where there are none (an installed wheel)."""
    csrc = Path(__file__).resolve().parents[1] / "csrc"
    return source_hashes(csrc) if csrc.is_dir() else None


@dataclass(frozen=True)
class Result:
    """What a result file says about kernels on a GPU."""

    file: str
    device: str
    started: str
    kernels: dict[str, str]
    tests: dict[str, dict[str, Any]]
    """For each file below tests/, how many of its tests `passed` and `failed`."""


def read_results(folder: Path) -> list[Result]:
    """The result files of GPU runs in a folder, latest first; others and broken ones are left out."""
    found = []
    for path in folder.glob("*.json"):
        try:
            document = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            continue
        if not isinstance(document, dict) or not isinstance(document.get("kernels"), dict):
            continue
        device = document.get("device", {})
        if device.get("type") == "cuda":
            started = document.get("environment", {}).get("started", "")
            found.append(Result(path.name, device["name"], started, document["kernels"], document.get("tests", {})))
    return sorted(found, key=lambda result: result.started, reverse=True)


def verdict(source: str, digest: str, results: list[Result], tests: tuple[str, ...]) -> str:
    """One line: on which GPU this source has passed its tests, or why that cannot be said."""
    # The latest result decides, unless it says nothing of this source; then an older one may.
    other = ""
    for result in results:
        if source not in result.kernels:
            continue
        if result.kernels[source] != digest:
            other = other or f"run on {result.device} at another source ({result.file})"
            continue
        counts = [result.tests.get(test, {}) for test in tests]
        failed = sum(count.get("failed", 0) for count in counts)
        if failed:
            return f"{failed} of its tests FAILED on {result.device} at this source ({result.file})"
        if counts and all(count.get("passed", 0) for count in counts):
            return f"verified on {result.device} at this source ({result.file})"
        other = f"run on {result.device} at this source, without its tests ({result.file})"
    return other or "never run on a GPU"


def status() -> list[dict[str, Any]]:
    """A JSON-ready row for each kernel: source, hash, built, architectures, triton, stale, serves, torch, verdict."""
    # Imported here, because the build runs this file without the package.
    from codeshell import _C
    from codeshell.environment import benchmarks_folder
    from codeshell.operations import KERNELS, TRITON_KERNELS

    folder = benchmarks_folder()
    results = read_results(folder / "results") if folder else []
    built, present = built_hashes(), present_hashes()
    in_triton = triton_hashes()
    rows = []
    for source, digest in ((built if present is None else present) | in_triton).items():
        kernel = (KERNELS | TRITON_KERNELS).get(source)
        rows.append(
            {
                "source": source,
                "hash": digest,
                "built": _C.cuda_built and source in built,
                "triton": source in in_triton,
                "architectures": list(_C.kernel_architectures.get(source, ())),
                "stale": source not in in_triton and built.get(source) != digest,
                "serves": kernel.serves if kernel else "not described",
                "torch": kernel.torch if kernel else "not described",
                "verdict": verdict(source, digest, results, kernel.tests if kernel else ())
                if folder
                else "no result files installed",
            }
        )
    return rows


def paths(capability: tuple[int, int], driver: int, build: Any = None) -> list[dict[str, Any]]:
    """What serves each operation on a GPU: JSON-ready rows of operation, kernels, serves, reason.

    Triton's kernels are listed where this machine can compile them for such a GPU.

    `kernels` are the sources that run, none where PyTorch does; `serves` says it in words. `reason` is why kernels that
    there are do not run, None where they do or where there are none.

    Args:
        capability: of the GPU, such as (8, 9).
        driver: the newest CUDA that its driver knows, 13000 for 13.0.
        build: an extension; None is this package's.
    """
    from codeshell import _C
    from codeshell.gpus import missing, unasked
    from codeshell.operations import OPERATIONS

    rows = []
    for operation in OPERATIONS:
        # Those that only the CPU has.
        if not operation.elsewhere:
            continue
        sources = [kernel.source for kernel in (*operation.kernels, *operation.triton)]
        reasons = [missing(source, capability, build or _C, driver) for source in sources]
        reason = next((reason for reason in reasons if reason), None)
        if sources and reason is None and operation.switch and os.environ.get(operation.switch) != "1":
            reason = unasked(operation.switch)
        runs = bool(sources) and reason is None
        rows.append(
            {
                "operation": operation.name,
                "kernels": sources if runs else [],
                "serves": ", ".join(sources) if runs else operation.without_kernels(capability),
                "reason": reason,
            }
        )
    return rows


def obstacle(capability: tuple[int, int], driver: int) -> str | None:
    """Why a GPU runs no kernel of this build at all, with the remedy; None if it runs some."""
    from codeshell import _C
    from codeshell.gpus import missing
    from codeshell.operations import KERNELS

    reasons = {source: missing(source, capability, driver=driver) for source in KERNELS}
    if any(reason is None for reason in reasons.values()):
        return None
    # That of the kernel which runs on the most GPUs: the others' may only be that they are for one kind.
    return reasons[max(KERNELS, key=lambda source: len(_C.kernel_architectures.get(source, ())))]


def main(csrc: str, out: str) -> None:
    """Write the C++ file with the hashes. It stays untouched if they have not changed, so that nothing is rebuilt."""
    pairs = ";".join(f"{source}={digest}" for source, digest in source_hashes(Path(csrc)).items())
    text = (
        '// Written by codeshell/kernels.py.\n#include "gpu/device.h"\n\n'
        f'std::string codeshell::gpu::kernel_sources() {{ return "{pairs}"; }}\n'
    )
    if not Path(out).exists() or Path(out).read_text() != text:
        Path(out).write_text(text)


if __name__ == "__main__":
    main(*sys.argv[1:])
