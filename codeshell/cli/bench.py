"""`codeshell bench`: run a benchmark of the package on this machine; prints a table, and writes JSON and a chart."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import codeshell
from codeshell.cli.process import end_with_parent
from codeshell.errors import UserError

HELP = "measure an operation on this machine against its peers and the machine's own floor"

OTHERS = {
    "overhead": "what a call of an operation costs on the host",
    "train": "training steps against transformers' Starcoder2",
}
"""Benchmarks that are not of one operation."""


def benchmarks() -> dict[str, str]:
    """What each benchmark measures. Each name is a file of benchmarks/, which has arguments of its own."""
    from codeshell.operations import OPERATIONS

    return {operation.benchmark: operation.measures for operation in OPERATIONS if operation.benchmark} | OTHERS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    names = benchmarks()
    lines = [f"  {name:<10} {what}" for name, what in names.items()]
    parser.epilog = "\n".join(
        [
            "benchmarks:",
            *lines,
            "",
            "ARGUMENTS are the benchmark's own: `codeshell bench rotary --help` lists them.",
            "example: codeshell bench rotary --threads 2 --json rotary.json --chart rotary.svg",
        ]
    )
    parser.add_argument("name", choices=names, metavar="NAME")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")


def main(args: argparse.Namespace) -> int:
    from codeshell.environment import benchmarks_folder

    folder = benchmarks_folder()
    if folder is None:
        raise UserError(
            f"bench {args.name}: the benchmarks are not here; they come with a checkout, and with a wheel built from "
            "one (make wheel)"
        )
    # A process of its own, because it sets threads and the allocator. It finds its modules beside itself, and this very
    # package, whatever else is installed.
    package = Path(codeshell.__file__).resolve().parents[1]
    paths = os.pathsep.join(filter(None, (str(package), os.environ.get("PYTHONPATH"))))
    command = [sys.executable, str(folder / f"{args.name}.py"), *args.arguments]
    environment = os.environ | {"PYTHONPATH": paths}
    return subprocess.run(command, check=False, env=environment, preexec_fn=end_with_parent).returncode
