"""`codeshell info`: what was built, what this machine has, which kernel serves which case."""

from __future__ import annotations

import argparse
import json
from typing import Any

HELP = "what was built and what this machine has: version, CUDA, SIMD level, GPU, kernels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "example: codeshell info --json"
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--kernels", action="store_true", help="the CUDA kernels: what they serve; on which GPU their source was tested"
    )


def main(args: argparse.Namespace) -> int:
    if args.kernels:
        return kernels(args.json)
    facts = collect()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"codeshell {facts['version']}")
    print(f"  extension   built with {facts['compiler']}, {facts['cuda']}")
    print(f"  SIMD        {facts['simd']} (of this processor: {facts['processor']})")
    gpus = facts["gpus"]
    for gpu in gpus:
        memory = gpu["memory_bytes"] / 2**30
        print(f"  GPU         {gpu['name']}, sm_{gpu['capability'][0]}{gpu['capability'][1]}, {memory:.0f} GiB")
    if not gpus:
        print("  GPU         none found (no driver, no device, or built without CUDA)")
    for name, library in facts["libraries"].items():
        print(f"  {name:<12} {_library(library)}")
    for kernel in facts["kernels"]:
        print(f"  {kernel['name']:<11} CPU: {kernel['cpu']}; CUDA: {kernel['cuda']}")
    return 0


def _library(facts: dict[str, Any]) -> str:
    """The version of a library, and what to say about it."""
    if facts["version"] is None:
        return f"not installed (codeshell works with {facts['range']})"
    if not facts["in_range"]:
        return f"{facts['version']}, OUTSIDE the supported range: {facts['range']}"
    newer = f" (newer than {facts['tested']}, the newest tested)" if facts["newer_than_tested"] else ""
    return f"{facts['version']}{newer}"


def kernels(as_json: bool) -> int:
    """Print each CUDA kernel with the hash of its source, and on which GPU that source was tested."""
    from codeshell.kernels import status

    rows = status()
    if as_json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['source']}  source {row['hash']}{'' if row['built'] else ', not in this build (WITHOUT CUDA)'}")
        print(f"  serves    {row['serves']}")
        print(f"  to torch  {row['torch']}")
        print(f"  {row['verdict']}")
        if row["stale"]:
            print("  this build is of another source: build again (pip install -e .)")
    return 0


def collect() -> dict[str, Any]:
    """The facts as JSON-ready values; needs no torch."""
    from codeshell import _C, __version__
    from codeshell.environment import processor
    from codeshell.operations import OPERATIONS
    from codeshell.versions import installed

    return {
        "version": __version__,
        "compiler": _C.compiler,
        "cuda_built": _C.cuda_built,
        "cuda": f"with CUDA for sm_{_C.cuda_architectures}" if _C.cuda_built else "WITHOUT CUDA",
        "simd": _C.simd_level(),
        "processor": processor(),
        "gpus": _C.gpu_devices(),
        "libraries": installed(),
        "kernels": [{"name": x.name, "cpu": x.cpu, "cuda": x.cuda} for x in OPERATIONS],
    }
