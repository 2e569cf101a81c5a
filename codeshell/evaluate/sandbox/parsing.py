"""Python syntax of untrusted text, through `parse_child` in a process of its own. Nothing is executed."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

CHILD = Path(__file__).with_name("parse_child.py")
TIMEOUT = 180.0
"""Seconds that a child may take for all it is given; its own processor limit stops it earlier."""


def verdicts(sources: Sequence[str]) -> list[str]:
    """For each text that should be one function: `parsed`, `syntax_error`, `empty`, `not_one_function`, `too_deep`,
    or `crashed` where the interpreter died on it."""
    return [answer if isinstance(answer, str) else "crashed" for answer in _ask("verdict", sources)]


def headers(sources: Sequence[str]) -> list[list[dict[str, Any]]]:
    """For each Python file its functions: `{line, name, header, documented}`; none where it does not parse."""
    return [answer if isinstance(answer, list) else [] for answer in _ask("functions", sources)]


def _ask(do: str, texts: Sequence[str]) -> list[Any]:
    """One answer a text; None for a text that killed its child. A new child goes on behind it."""
    answers: list[Any] = []
    while len(answers) < len(texts):
        fresh = _one_child([json.dumps({"do": do, "text": text}) for text in texts[len(answers) :]])
        answers += fresh
        if len(answers) < len(texts):
            answers.append(None)
    return answers


def _one_child(requests: Sequence[str]) -> list[Any]:
    command = [sys.executable, "-I", "-S", str(CHILD)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
    ) as child:
        timer = threading.Timer(TIMEOUT, child.kill)
        timer.start()
        try:
            output, _ = child.communicate("\n".join(requests) + "\n")
        except BrokenPipeError:
            output = ""
        finally:
            timer.cancel()
    answers: list[Any] = []
    for line in output.splitlines():
        try:
            answers.append(json.loads(line))
        except json.JSONDecodeError:
            break  # cut off in the middle: the child died while it wrote
    return answers
