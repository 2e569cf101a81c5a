"""The result of the GPU check: one JSON file, whole after each row, from which the next call continues.

    environment, device {type, name, driver_version, …}, kernels {source: hash}, module, dry_run, finished, stopped,
    calls [{started, seconds, rows, commit}],
    rows {name: {status, seconds, summary, detail, messages, sources, python, module, attempts, passed, failed, skipped,
                 slowest}},
    tests {file below tests/: {passed, failed, skipped, messages}}, benchmarks {name: the benchmark's own document}

`codeshell info --kernels` (codeshell/kernels.py) reads device, environment, kernels and tests. A row's `sources` are
the hashes of the kernels that it launches and of its files: with other ones it is run again. `python` is the hash of
the package's own Python: with another one a row is run again unless it was ok, or if it launches no kernel.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from codeshell.engine.files import write_json
from codeshell.kernels import bare
from codeshell.operations import KERNELS, TRITON_KERNELS

from .rows import ENDED, Row

ROOT = Path(__file__).resolve().parents[2]
FRESH: dict[str, Any] = {
    "environment": {},
    "device": {},
    "kernels": {},
    "module": {},
    "dry_run": False,
    "calls": [],
    "rows": {},
    "tests": {},
    "benchmarks": {},
    "finished": False,
    "stopped": None,
}


class Results:
    """The document, and its file.

    >>> results = Results(path)
    >>> results.open(facts, dry_run=False)  # continues with what is there, if it is of this device
    """

    def __init__(self, path: Path, root: Path = ROOT) -> None:
        self.path = path
        self.root = root
        self.document: dict[str, Any] = json.loads(json.dumps(FRESH))
        self.python = ""

    def open(self, facts: Mapping[str, Any], *, dry_run: bool) -> str | None:
        """Take the earlier rows, if they are of this device; else the file is set aside. Says so, if it was."""
        told = None
        earlier = self._read()
        if earlier is None and self.path.exists():
            told = f"{self.path.name} is damaged: it is kept as {self._aside('damaged')}, and all rows run"
        elif earlier is not None:
            was, now = earlier["device"].get("name", "no GPU"), facts["device"].get("name", "no GPU")
            if (was, earlier["dry_run"]) != (now, dry_run):
                was = f"{was}, dry run" if earlier["dry_run"] else was
                told = f"{self.path.name} is of another device ({was}): it is kept as {self._aside(was)}"
            else:
                self.document = earlier
        self.document |= {key: facts[key] for key in ("environment", "device", "kernels", "module")}
        self.document |= {"dry_run": dry_run, "finished": False, "stopped": None}
        self.python = digest([self.root / "codeshell"])
        self.document["calls"].append(
            {
                "started": time.strftime("%Y-%m-%d %H:%M:%S"),
                "seconds": 0.0,
                "rows": [],
                "commit": facts["environment"].get("commit"),
            }
        )
        return told

    def _read(self) -> dict[str, Any] | None:
        """The document on disk; None where there is none, or where it is not one of these."""
        with contextlib.suppress(OSError, ValueError):
            found = json.loads(self.path.read_text(encoding="utf-8"))
            if (
                isinstance(found, dict)
                and all(isinstance(found.get(key), type(value)) for key, value in FRESH.items() if value is not None)
                and all(isinstance(row, dict) and isinstance(row.get("status"), str) for row in found["rows"].values())
            ):
                return found
        return None

    def _aside(self, why: str) -> str:
        word = "-".join("".join(c if c.isalnum() else " " for c in why.lower()).split())
        for number in range(1, 1000):
            to = self.path.with_name(f"{self.path.stem}.{word}{'' if number == 1 else f'-{number}'}.old")
            if not to.exists():
                self.path.rename(to)
                return to.name
        raise RuntimeError(f"{self.path}: there are 999 old files of its name; remove them")

    # Rows

    def sources(self, row: Row) -> dict[str, str]:
        """Hashes of what a row tries: its kernels by their sources, and its files."""
        kernels = {source: self.document["kernels"].get(source, "") for source in row.launches}
        return kernels | {file: digest([self.root / file]) for file in row.files}

    def earlier(self, row: Row) -> dict[str, Any] | None:
        """The outcome of a row that need not run again; None where it must."""
        outcome = self.document["rows"].get(row.name)
        if outcome is None or outcome["status"] not in ENDED or outcome.get("sources") != self.sources(row):
            return None
        # A row that failed may have been fixed in Python, and one without kernels is made of Python alone.
        if (outcome["status"] != "ok" or not row.launches) and outcome.get("python") != self.python:
            return None
        return outcome

    def attempts(self, row: Row) -> int:
        """How often this very row was begun and no outcome was written: whatever ended this program then may be it."""
        outcome = self.document["rows"].get(row.name, {})
        return int(outcome.get("attempts", 0)) if outcome.get("sources") == self.sources(row) else 0

    def put(self, row: Row, outcome: Mapping[str, Any], benchmark: Any = None) -> None:
        """Put the outcome of a row into the document."""
        self.document["rows"][row.name] = dict(outcome) | {"sources": self.sources(row), "python": self.python}
        if benchmark is not None:
            self.document["benchmarks"][row.name.partition("/")[2]] = benchmark

    def tidy(self, rows: Sequence[Row]) -> None:
        """Forget the rows of other sources, and those that are in no plan any more."""
        names = {row.name: row for row in rows}
        for name, outcome in list(self.document["rows"].items()):
            if name not in names or outcome.get("sources") != self.sources(names[name]):
                del self.document["rows"][name]
                self.document["benchmarks"].pop(name.partition("/")[2], None)

    def count(self, rows: Iterable[Row]) -> None:
        """`tests`: for each file what its row counted, and a failure for each other row of its kernels that was bad."""
        tests: dict[str, dict[str, Any]] = {}

        def of(file: str) -> dict[str, Any]:
            return tests.setdefault(file, {"passed": 0, "failed": 0, "skipped": 0, "messages": []})

        for row in rows:
            outcome = self.document["rows"].get(row.name)
            if outcome is None or outcome["status"] not in ENDED or row.information or row.kind == "benchmark":
                continue
            bad = outcome["status"] != "ok"
            if row.tests:
                found = of(row.tests)
                for key in ("passed", "failed", "skipped"):
                    found[key] += outcome.get(key, 0)
                found["messages"] += outcome.get("messages", [])
                if bad and not outcome.get("failed"):
                    found["failed"] += 1
                    found["messages"].append(f"{row.name}: {outcome['status']}")
            elif bad:
                for file in sorted(
                    {test for source in row.kernels for test in (KERNELS | TRITON_KERNELS)[source].tests}
                ):
                    of(file)["failed"] += 1
                    of(file)["messages"].append(f"{row.name}: {outcome['status']}")
        self.document["tests"] = tests

    def save(self) -> None:
        write_json(self.path, self.document)


def digest(paths: Iterable[Path]) -> str:
    """16 hexadecimal digits of the SHA-256 over files, and the Python files of folders. In CUDA, comments and blank
    space do not count, as they do not in the hash of a kernel."""
    found = hashlib.sha256()
    for path in paths:
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            code = file.read_bytes() if file.is_file() else b"absent"
            found.update(file.name.encode() + b"\0" + (bare(code) if file.suffix == ".cu" else code) + b"\0")
    return found.hexdigest()[:16]
