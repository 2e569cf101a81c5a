"""ruff, the linter of Python, over many texts at a time: an option of the scorer `standards`.

ruff has no interface but its command line, and reads files. So the texts of a batch are written to a temporary folder,
and one process checks them all. The rules are fixed here, and no configuration of the machine or of the texts is read.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Sequence
from pathlib import Path

from codeshell.errors import UserError

RULES = "E,F,W,N,B,S,C90"
"""pycodestyle, pyflakes, names, likely bugs, security, complexity."""

IGNORED = "E501,S101"
"""Long lines are counted by `lexical`; asserts are no fault in tests."""

FILES = 500
"""Texts in one call: the folder of a large batch stays small, and a call takes less than a second."""


def find() -> tuple[str, str]:
    """The program and its version.

    Raises:
        UserError: it is not there, or does not run.
    """
    # Beside this Python first, as pip puts it there.
    beside = Path(sysconfig.get_path("scripts")) / "ruff"
    program = str(beside) if beside.exists() else shutil.which("ruff")
    if program is None:
        raise UserError("ruff = true: the program ruff is not there; pip install ruff, or leave the setting out")
    answer = subprocess.run([program, "--version"], capture_output=True, text=True)
    if answer.returncode or not answer.stdout.startswith("ruff "):
        raise UserError(f"{program} --version: failed ({answer.stderr.strip()[:200]}); reinstall ruff, or leave it out")
    return program, answer.stdout.split()[1]


def count(program: str, texts: Sequence[str]) -> list[int]:
    """The number of findings in each text.

    Raises:
        UserError: ruff failed.
    """
    counts: list[int] = []
    for begin in range(0, len(texts), FILES):
        counts += _count(program, texts[begin : begin + FILES])
    return counts


def _count(program: str, texts: Sequence[str]) -> list[int]:
    if not texts:
        return []
    with tempfile.TemporaryDirectory(prefix="codeshell-ruff-") as folder:
        for number, text in enumerate(texts):
            # Numbers as names: what the texts are called does not reach the file system. Line ends stay as they are.
            (Path(folder) / f"{number}.py").write_bytes(text.encode())
        command = [program, "check", "--isolated", "--no-cache", "--exit-zero", "--output-format", "json", "--quiet"]
        # A text's own "noqa" is no reason to find less.
        command += ["--select", RULES, "--ignore", IGNORED, "--ignore-noqa", "--no-respect-gitignore", folder]
        answer = subprocess.run(command, capture_output=True, cwd=folder, stdin=subprocess.DEVNULL)
        if answer.returncode:
            reason = answer.stderr.decode("utf-8", "replace").strip().splitlines()
            raise UserError(
                f"ruff check: failed ({reason[-1][:200] if reason else answer.returncode}); see `ruff check`"
            )
        counts = [0] * len(texts)
        for finding in json.loads(answer.stdout):
            counts[int(Path(finding["filename"]).stem)] += 1
    return counts
