"""The syntax of untrusted Python text, checked by `parse_child` in a process of its own. Nothing is executed."""

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
"""Seconds that a child may take for all its requests. Its own CPU limit stops a busy one earlier."""


def verdicts(sources: Sequence[str]) -> list[str]:
    """The verdict on each text that should be one function: `parsed`, `syntax_error`, `empty`, `not_one_function`,
    `too_deep`, or `crashed` if the interpreter died on it."""
    return [answer if isinstance(answer, str) else "crashed" for answer in _ask("verdict", sources)]


def headers(sources: Sequence[str]) -> list[list[dict[str, Any]]]:
    """The functions of each Python file, `{line, name, header, documented}`; none if the file does not parse."""
    return [answer if isinstance(answer, list) else [] for answer in _ask("functions", sources)]


def _ask(do: str, texts: Sequence[str]) -> list[Any]:
    """One answer per text; None for a text that killed its child. A new child continues after that text."""
    answers: list[Any] = []
    while len(answers) < len(texts):
        fresh = _one_child([json.dumps({"do": do, "text": text}) for text in texts[len(answers) :]])
        # Fewer answers than requests: the child died on the first text that has no answer.
        answers += fresh
        if len(answers) < len(texts):
            answers.append(None)
    return answers


def _one_child(requests: Sequence[str]) -> list[Any]:
    # -I and -S keep environment variables, the working directory and site packages out of the child.
    command = [sys.executable, "-I", "-S", str(CHILD)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, encoding="utf-8"
    ) as child:
        # A child that hangs is killed; what it has answered until then counts.
        timer = threading.Timer(TIMEOUT, child.kill)
        timer.start()
        try:
            output, _ = child.communicate("\n".join(requests) + "\n")
        except BrokenPipeError:
            # The child died before it had read all requests, and its answers are lost with it.
            output = ""
        except BaseException:
            # Ctrl-C or SIGTERM: nobody waits for the answers any more.
            child.kill()
            raise
        finally:
            timer.cancel()
    answers: list[Any] = []
    for line in output.splitlines():
        try:
            answers.append(json.loads(line))
        except json.JSONDecodeError:
            break  # The line is cut off: the child died while it wrote.
    return answers
