"""The verdict on a program from what its commands left: status, streams, the limit that ended it, and the nonce."""

from __future__ import annotations

import re
import signal
from dataclasses import replace
from typing import TYPE_CHECKING

from codeshell.evaluate.programs import Limits
from codeshell.evaluate.sandbox.toolchains.compose import Nonce
from codeshell.evaluate.sandbox.toolchains.rows import Row
from codeshell.evaluate.verdicts import Verdict, one_line

if TYPE_CHECKING:
    from codeshell.evaluate.sandbox.launch import Outcome

__all__ = ["compiler", "program"]


def compiler(row: Row, outcome: Outcome, limits: Limits, tool: str) -> tuple[Verdict, str] | None:
    """The verdict and its reason if a compiler did not succeed, else None."""
    if outcome.cause != "ended":
        verdict, why = _limit(outcome, limits)
        return verdict, f"{tool}: {why}"
    if outcome.status == 0:
        return None
    text = _text(outcome)
    # Go's lines with # only name the package.
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith("#")]
    first = next((line for line in lines if re.search(r"\berror\b", line, re.I)), lines[0] if lines else "")
    return Verdict.COMPILE, one_line(first or f"{tool} ended with {_ended(outcome)} and said nothing")


def program(row: Row, outcome: Outcome, limits: Limits, nonce: Nonce) -> tuple[Verdict, str]:
    """The verdict on the program, and its reason in one line; no reason if it passes.

    Only status 0 together with the nonce passes. What the program printed decides between the kinds of failure alone,
    so a program that prints an error of another kind is still a failure.
    """
    if outcome.cause != "ended":
        return _limit(outcome, limits)
    proved = nonce.whole in outcome.stdout
    if proved and outcome.status == 0:
        return Verdict.PASS, ""
    # The nonce differs from run to run, and reasons do not.
    outcome = replace(outcome, stdout=nonce.removed(outcome.stdout), stderr=nonce.removed(outcome.stderr))
    text = _text(outcome)
    if proved:
        why = f"the tests held, then it ended with {_ended(outcome)}"
        said = _last(outcome)
        return Verdict.EXCEPTION, one_line(f"{why}: {said}" if said else why)
    if outcome.status == 0:
        return Verdict.EARLY_EXIT, "it ended with status 0 before the tests did"
    patterns = (
        (Verdict.MEMORY, row.memory),
        (Verdict.EARLY_EXIT, row.left),
        (Verdict.COMPILE, row.broken),
        (Verdict.EXCEPTION, row.raised),
        (Verdict.WRONG, row.wrong),
    )
    for verdict, pattern in patterns:
        if pattern and (found := re.search(pattern, text, re.M)):
            return verdict, one_line(_around(text, found))
    if outcome.status is not None and outcome.status == row.wrong_status:
        return Verdict.WRONG, one_line(_last(outcome)) or "a test did not hold"
    named = re.search(row.says, text, re.M)
    said = _around(text, named) if named else _last(outcome)
    return Verdict.EXCEPTION, one_line(f"{_ended(outcome)}: {said}" if said else _ended(outcome))


def _limit(outcome: Outcome, limits: Limits) -> tuple[Verdict, str]:
    cause = str(outcome.cause)
    if cause == "cpu_time":
        return Verdict.CPU_TIME, f"more than {limits.cpu_seconds:g} s of CPU time"
    if cause == "wall_time":
        return (
            Verdict.WALL_TIME,
            f"more than {limits.wall_seconds:g} s, of which {outcome.cpu_seconds:.1f} s of CPU time",
        )
    if cause == "memory":
        return Verdict.MEMORY, f"more than {limits.memory >> 20} MiB of memory"
    if cause == "output":
        return Verdict.OUTPUT, f"more than {limits.drained_output >> 20} MiB of output"
    return Verdict.EXCEPTION, f"more than {limits.processes} processes and threads"


def _text(outcome: Outcome) -> str:
    return (outcome.stderr + b"\n" + outcome.stdout).decode("utf-8", "replace")


def _ended(outcome: Outcome) -> str:
    if outcome.signal:
        try:
            return f"signal {signal.Signals(outcome.signal).name}"
        except ValueError:
            return f"signal {outcome.signal}"
    return f"status {outcome.status}"


def _last(outcome: Outcome) -> str:
    """The last line that says something, of the errors if there are any."""
    for stream in (outcome.stderr, outcome.stdout):
        lines = [line for line in stream.decode("utf-8", "replace").splitlines() if line.strip()]
        if lines:
            return lines[-1]
    return ""


def _around(text: str, found: re.Match[str]) -> str:
    """The lines that a pattern was found in."""
    begin = text.rfind("\n", 0, found.start()) + 1
    end = text.find("\n", found.end())
    return text[begin : end if end >= 0 else len(text)]
