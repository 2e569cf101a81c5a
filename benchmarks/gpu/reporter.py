"""A plug-in of pytest that writes each test's start and end to a file at once, so that a run which is ended in the
middle has counted what it did, and is known to have hung in which test. It is loaded by `-p gpu.reporter`; the file's
name is in GPU_CHECK_REPORT. One JSON object a line:

    {"start": test}, {"test": test, "outcome": passed | failed | skipped, "seconds": s, "message": m}, {"broken": error}

After a failure it asks whether CUDA still works in this process. Where it does not, no later test can pass, so the run
ends there.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterator
from typing import Any

import pytest


def write(**line: Any) -> None:
    with open(os.environ["GPU_CHECK_REPORT"], "a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Iterator[None]:
    write(start=item.nodeid)
    return (yield)


@pytest.hookimpl(trylast=True)
def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    # A test has three phases. The call counts, and of the others only what keeps it from its call, or fails after it.
    if report.when != "call" and report.passed:
        return
    message = ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        message = getattr(crash, "message", None) or str(report.longrepr)
    write(test=report.nodeid, outcome=report.outcome, seconds=round(report.duration, 3), message=message[:1000])
    if report.failed and (error := broken()):
        write(broken=error)
        pytest.exit(f"CUDA works no more in this process: {error}", returncode=3)


def broken() -> str:
    """The error of a device that this process has lost for good; empty where it works, or was never used."""
    torch = sys.modules.get("torch")
    if torch is None or not torch.cuda.is_initialized():
        return ""
    try:
        torch.cuda.synchronize()
    except Exception as error:
        return str(error).strip().partition("\n")[0][:300]
    return ""


def read(path: Any) -> dict[str, Any]:
    """What a report says: {passed, failed, skipped, messages, slowest, running, broken}."""
    found: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0, "messages": [], "running": "", "broken": ""}
    times: dict[str, float] = {}
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
    for text in lines:
        try:
            line = json.loads(text)
        except ValueError:  # the last line of a process that was ended while it wrote
            continue
        if "start" in line:
            found["running"] = line["start"]
        elif "broken" in line:
            found["broken"] = line["broken"]
        else:
            found["running"] = ""
            found[line["outcome"]] += 1
            times[line["test"]] = line["seconds"]
            if line["outcome"] == "failed":
                found["messages"].append(f"{short(line['test'])}: {line['message']}")
    slowest = sorted(times, key=lambda name: -times[name])[:5]
    return found | {"slowest": {short(name): times[name] for name in slowest}}


def short(test: str) -> str:
    return test.partition("::")[2] or test
