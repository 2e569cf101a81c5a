"""`codeshell info`: what was built, what this machine has, which kernel serves which case."""

from __future__ import annotations

import argparse
import json
import re
from typing import Any

from codeshell.errors import UserError

HELP = "what was built and what this machine has: version, CUDA, SIMD level, GPU, kernels"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = "examples: codeshell info --json\n          codeshell info --kernels --capability 8.9"
    parser.add_argument("--json", action="store_true", help="as JSON")
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="the CUDA kernels: what they serve; on which GPU their source was tested; what this machine's GPUs run",
    )
    parser.add_argument(
        "--capability",
        metavar="X.Y",
        help="with --kernels: what a GPU of this compute capability would run, such as 8.9 (RTX 4090), in place of "
        "this machine's",
    )


def main(args: argparse.Namespace) -> int:
    capability = None if args.capability is None else _capability(args.capability)
    if capability and not args.kernels:
        raise UserError("--capability goes with --kernels: codeshell info --kernels --capability " + args.capability)
    if args.kernels:
        return kernels(args.json, capability)
    facts = collect()
    if args.json:
        print(json.dumps(facts, indent=2))
        return 0
    print(f"codeshell {facts['version']}")
    print(f"  extension   built with {facts['compiler']}, {facts['cuda']}")
    print(f"  SIMD        {facts['simd']} (of this processor: {facts['processor']})")
    print(f"  driver      {_driver(facts)}")
    gpus = facts["gpus"]
    for gpu in gpus:
        memory = gpu["memory_bytes"] / 2**30
        print(f"  GPU         {gpu['name']}, sm_{gpu['capability'][0]}{gpu['capability'][1]}, {memory:.0f} GiB")
        if gpu["obstacle"]:
            print(f"              runs no kernel: {gpu['obstacle']}")
    if not gpus:
        print("  GPU         none found (no driver, or no device)")
    print(f"  syntax      {_syntax(facts['syntax'])}")
    print(f"  isolation   {facts['isolation']['line']}")
    for name, library in facts["libraries"].items():
        print(f"  {name:<12} {_library(library)}")
    for kernel in facts["kernels"]:
        print(f"  {kernel['name']:<11} CPU: {kernel['cpu']}; CUDA: {kernel['cuda']}")
    return 0


def _syntax(facts: dict[str, Any]) -> str:
    """Whether syntax trees can be measured, and in which languages."""
    if not facts["built"]:
        return "NO metrics of syntax trees: built without tree-sitter (CODESHELL_TREE_SITTER=1 says why)"
    grammars = facts["grammars"]
    there = [language for language, found in grammars.items() if found]
    missing = len(grammars) - len(there)
    more = f"; {missing} more by pip install 'codeshell[syntax]'" if missing else ""
    return f"metrics of syntax trees in {len(there)} languages: {', '.join(there)}{more}"


def _isolation() -> dict[str, Any]:
    """The level of isolation for generated code, tried out now; 0 where there is none."""
    from codeshell.evaluate.sandbox import levels

    found = levels.best()
    if isinstance(found, UserError):
        return {"level": 0, "line": f"NONE: {found}", "covers": [], "does_not_cover": []}
    return {
        "level": found.level.value,
        "line": found.line().removeprefix("isolation: "),
        "covers": list(found.covers),
        "does_not_cover": list(found.does_not_cover),
    }


def _capability(text: str) -> tuple[int, int]:
    """`"8.9"` as (8, 9)."""
    found = re.fullmatch(r"([1-9]\d?)\.(\d)", text)
    if not found:
        raise UserError(
            f"--capability {text}: must be a compute capability, such as 8.9 (RTX 4090), 9.0 (H100) or 12.0 (RTX 5090)"
        )
    return int(found[1]), int(found[2])


def _driver(facts: dict[str, Any]) -> str:
    """The CUDA of the driver beside that of the build."""
    from codeshell.architectures import version

    known = f"knows CUDA up to {version(facts['cuda_driver'])}" if facts["cuda_driver"] else "none found"
    return f"{known} (built with CUDA {version(facts['cuda_runtime'])})" if facts["cuda_built"] else known


def _library(facts: dict[str, Any]) -> str:
    """The version of a library, and what to say about it."""
    if facts["version"] is None:
        return f"not installed (codeshell works with {facts['range']})"
    if not facts["in_range"]:
        return f"{facts['version']}, OUTSIDE the supported range: {facts['range']}"
    newer = f" (newer than {facts['tested']}, the newest tested)" if facts["newer_than_tested"] else ""
    return f"{facts['version']}{newer}"


def kernels(as_json: bool, capability: tuple[int, int] | None) -> int:
    """Print each CUDA kernel with the hash of its source, what it was compiled for, and on which GPU that source was
    tested; and what serves each operation on this machine's GPUs, or on one of the given capability."""
    from codeshell.architectures import parse, summary
    from codeshell.kernels import status

    rows, gpus = status(), served(capability)
    if as_json:
        print(json.dumps({"kernels": rows, "gpus": gpus}, indent=2))
        return 0
    for row in rows:
        codes = [parse(name) for name in row["architectures"]]
        built = f"for {summary(codes)}" if codes else "not in this build"
        without = "" if row["built"] else " (WITHOUT CUDA)"
        if row["triton"]:
            built, without = "in Triton: compiled for the GPU when it is first used", ""
        print(f"{row['source']}  source {row['hash']}, {built}{without}")
        print(f"  serves    {row['serves']}")
        print(f"  to torch  {row['torch']}")
        print(f"  {row['verdict']}")
        if row["stale"]:
            print("  this build is of another source: build again (pip install -e .)")
    for gpu in gpus:
        print(f"{gpu['name']}, compute capability {'.'.join(map(str, gpu['capability']))}:")
        for path in gpu["operations"]:
            print(f"  {path['operation']:<11} {path['serves']}{' (' + path['reason'] + ')' if path['reason'] else ''}")
    if not gpus:
        print("no GPU found; what one would run: codeshell info --kernels --capability 8.9")
    return 0


def served(capability: tuple[int, int] | None) -> list[dict[str, Any]]:
    """What serves each operation: on each GPU of this machine, or on one of a capability, whose driver is new enough.
    JSON-ready; needs no torch."""
    from codeshell import _C
    from codeshell.gpus import machine
    from codeshell.kernels import paths

    if capability is not None:
        found, driver = [("a GPU that is not here, with a driver that is new enough", capability)], _C.cuda_runtime
    else:
        here = machine()
        found, driver = [(gpu.name, gpu.capability) for gpu in here.gpus], here.driver
    return [{"name": name, "capability": list(of), "operations": paths(of, driver)} for name, of in found]


def collect() -> dict[str, Any]:
    """The facts as JSON-ready values; needs no torch."""
    from codeshell import _C, __version__
    from codeshell.architectures import version
    from codeshell.environment import processor
    from codeshell.gpus import machine
    from codeshell.kernels import obstacle
    from codeshell.operations import OPERATIONS
    from codeshell.scorers import grammars
    from codeshell.versions import installed

    here = machine()
    return {
        "version": __version__,
        "compiler": _C.compiler,
        "cuda_built": _C.cuda_built,
        "cuda": f"with CUDA {version(_C.cuda_runtime)} for sm_{_C.cuda_architectures}"
        if _C.cuda_built
        else "WITHOUT CUDA",
        "cuda_runtime": _C.cuda_runtime,
        "cuda_driver": here.driver,
        "simd": _C.simd_level(),
        "processor": processor(),
        "gpus": [
            gpu._asdict() | {"capability": list(gpu.capability), "obstacle": obstacle(gpu.capability, here.driver)}
            for gpu in here.gpus
        ],
        "isolation": _isolation(),
        "syntax": {"built": _C.syntax.built, "grammars": grammars.installed()},
        "libraries": installed(),
        "kernels": [{"name": x.name, "cpu": x.cpu, "cuda": x.cuda or "none"} for x in OPERATIONS],
    }
