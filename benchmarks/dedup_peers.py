"""Runs other deduplicators: each has a script in `peers/` and an interpreter that has its package."""

from __future__ import annotations

import argparse
import json
import os
import subprocess
from pathlib import Path
from typing import Any

SCRIPTS = {
    "datasketch": ["run_datasketch.py"],
    "bigcode": ["run_datasketch.py", "--preset", "bigcode"],
    "rensa": ["run_rensa.py"],
    "text-dedup": ["run_textdedup.py"],
    "text-dedup-main": ["run_textdedup_main.py"],
    "datatrove": ["run_datatrove.py"],
}
NAMES = {"bigcode": "bigcode's parameters by datasketch", "text-dedup-main": "text-dedup (repository)"}
PACKAGES = ("datasketch", "rensa", "text-dedup", "datatrove")


def add_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--peer",
        action="append",
        default=[],
        type=_peer,
        metavar="NAME=PYTHON",
        help=f"an interpreter that has the package of one of {', '.join(SCRIPTS)}; may be repeated",
    )


def _peer(text: str) -> tuple[str, str]:
    name, _, python = text.partition("=")
    if name not in SCRIPTS or not python:
        raise argparse.ArgumentTypeError(f"{text}: not NAME=PYTHON with one of {', '.join(SCRIPTS)}")
    return name, python


def command(peer: tuple[str, str], task: str, files: list[Path], output: Path, *options: str) -> list[str]:
    name, python = peer
    script, *preset = SCRIPTS[name]
    path = Path(__file__).parent / "peers" / script
    return [python, str(path), task, "--input", *map(str, files), "--output", str(output), *preset, *options]


def run(peer: tuple[str, str], task: str, files: list[Path], output: Path, *options: str) -> dict[str, Any]:
    """Run the script unless it has been run; return its result.json. Its own output is in `output`.log."""
    if not (output / "result.json").exists():
        output.parent.mkdir(parents=True, exist_ok=True)
        with open(output.with_name(output.name + ".log"), "wb") as log:
            subprocess.run(
                command(peer, task, files, output, *options), check=True, stdout=log, stderr=log, env=ENVIRONMENT
            )
    return result(output)


ENVIRONMENT = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
"""Environment of every measured process. Bytecode is written, because pip-installed packages have theirs."""
ENVIRONMENT["PYTHONHASHSEED"] = "0"


def result(output: Path) -> dict[str, Any]:
    facts: dict[str, Any] = json.loads((output / "result.json").read_text())
    return facts


def version(facts: dict[str, Any]) -> str:
    return " ".join(f"{name} {number}" for name, number in facts["versions"].items() if name in PACKAGES)
