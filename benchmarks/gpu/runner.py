"""Runs the rows of a plan in their order, within a time, and keeps the result on disk after each.

A row that hangs costs its limit of silence (20 seconds). It ends what depends on its kernels, and nothing else: the
rows that launch one of them are left out, and say because of which row. After a hang, or an error that broke CUDA in
its process, a tiny process asks whether the GPU still answers. Where it does not, the run ends.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import reporter
from .processes import Ended, Interrupted, Starter, watch
from .results import ROOT, Results
from .rows import ENDED, STOPPING, Row

JSON = "{json}"
"""Stands in a row's command for the file that a benchmark writes."""
PROBE = (
    "print('asking the GPU', flush=True); import torch; "
    "device = 'cuda' if torch.cuda.is_available() else 'cpu'; "
    "assert float(torch.ones(8, device=device).sum()) == 8"
)
PROBE_LIMIT = 20.0
TRIES = 2
"""A row during which this whole program ended so often, by no signal that it could see, is taken for hung."""
GOOD, BAD, STOPPED, UNFINISHED = 0, 1, 2, 3
"""Exit codes: all rows are done and well; one is not; the GPU does not answer; rows wait for the next call."""
SETTLED = (*ENDED, "left out", "absent")


@dataclass(frozen=True)
class Site:
    """Where a row's package comes from: a folder with codeshell and its built extension."""

    release: Path
    debug: Path | None = None
    peers: Path | None = None

    def paths(self, row: Row) -> list[Path]:
        first = self.debug if row.debug and self.debug else self.release
        return [first, *filter(None, [self.peers]), ROOT / "benchmarks"]

    def built(self, row: Row) -> str:
        return "debug" if row.debug and self.debug else "release"


class Runner:
    """One call.

    >>> Runner(rows, results, start, site, seconds=560.0).run()
    """

    def __init__(
        self,
        rows: Sequence[Row],
        results: Results,
        start: Starter,
        site: Site,
        seconds: float,
        *,
        work: Path,
        chosen: Callable[[Row], bool] = lambda row: not row.extra,
        again: Callable[[Row], bool] = lambda row: False,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self.rows = rows
        self.results = results
        self.start = start
        self.site = site
        self.clock = clock
        self.begun = clock()
        self.end = self.begun + seconds
        self.work = work
        self.again = again
        self.chosen = [row for row in rows if chosen(row)]
        self.tell = tell
        self.hung: dict[str, str] = {}
        """Kernels that are not launched any more, and the row that says why."""

    # The rows

    def run(self) -> int:
        self.results.tidy(self.rows)
        # What an earlier call found to hang is not launched before its own row runs again.
        for row in self.rows:
            earlier = self.results.earlier(row)
            if earlier and earlier["status"] in STOPPING and not self.again(row):
                self.hung |= dict.fromkeys(row.kernels, row.name)
        waiting = ""
        try:
            for row in self.chosen:
                earlier = self.results.earlier(row)
                if earlier and not self.again(row):
                    self.line(row, earlier["status"], None, f"earlier: {earlier.get('summary', '')}")
                elif culprit := next((self.hung[source] for source in row.launches if source in self.hung), ""):
                    self.note(row, "left out", f"{culprit} {self.status(culprit)}: its kernel is not launched again")
                elif self.results.attempts(row) >= TRIES and not self.again(row):
                    self.settle(row, "hung", f"this program ended {TRIES} times while it ran", 0.0)
                elif waiting and row.ordered:
                    self.note(row, "waits", f"after {waiting}")
                elif first := self.unequal(row):
                    self.note(row, "waits", f"equality first: {first} has not run")
                elif row.budget > (left := self.end - self.clock()):
                    self.note(row, "waits", f"it needs {row.budget:.0f} s, and {max(left, 0):.0f} s were left")
                    waiting = waiting or (row.name if row.ordered else "")
                elif not self.one(row):
                    return self.finish(STOPPED)
        except Interrupted as signal:
            self.finish(STOPPED)
            self.tell(f"ended by {signal}; called again with the same --json, it continues")
            return STOPPED
        return self.finish(GOOD)

    def unequal(self, row: Row) -> str:
        """For a row that need not keep the order (speed, the sanitizer): a test of its kernels that has yet to run."""
        if row.ordered:
            return ""
        for other in self.rows:
            if (
                other.ordered
                and not other.extra
                and set(other.kernels) & set(row.launches)
                and self.status(other.name) not in SETTLED
            ):
                return other.name
        return ""

    def status(self, name: str) -> str:
        return self.results.document["rows"].get(name, {}).get("status", "")

    def one(self, row: Row) -> bool:
        """Run a row. False: the GPU is lost."""
        if row.program and shutil.which(row.program[0]) is None:
            self.note(row, "absent", f"{row.program[0]} is not on PATH")
            return True
        # If this program is killed now, the next call finds that this row was running.
        attempts = self.results.attempts(row) + 1
        self.keep(row, {"status": "cut off", "attempts": attempts, "detail": "this program ended while it ran"})
        report, out = self.work / "report.jsonl", self.work / "benchmark.json"
        for path in (report, out):
            path.unlink(missing_ok=True)
        longest = min(row.longest, max(self.end - self.clock(), 1.0))
        try:
            ended = watch(
                self.start,
                [word.replace(JSON, str(out)) for word in row.command],
                self.environment(row, report),
                row.program,
                limit=longest,
                quiet=row.quiet,
            )
        except Interrupted:
            self.note(row, "waits", "this program was asked to end while it ran", attempts - 1)
            raise
        found = reporter.read(report)
        benchmark = read_benchmark(out)
        status = self.judge(row, ended, found, longest)
        if status == "waits":
            self.note(row, "waits", f"the time was over after {ended.seconds:.0f} s of it", attempts - 1)
            return True
        detail = self.clean(ended.output) if status != "ok" else ""
        self.settle(row, status, detail, ended.seconds, found, benchmark)
        if status not in STOPPING and ended.code >= 0:
            return True
        if status in STOPPING:
            self.hung |= dict.fromkeys(row.kernels, row.name)
        return self.answers(row, ended)

    def judge(self, row: Row, ended: Ended, found: Mapping[str, Any], longest: float) -> str:
        if found["broken"]:
            return "broken"
        if ended.how in ("quiet", "undead"):
            return "hung"
        if ended.how == "limit":
            if longest < row.longest:
                return "waits"
            return "hung" if row.kind == "first launch" else "over its limit"
        if ended.code < 0:
            return "broken"
        return "ok" if ended.code == 0 else "failed"

    def settle(
        self,
        row: Row,
        status: str,
        detail: str,
        seconds: float,
        found: Mapping[str, Any] | None = None,
        benchmark: Mapping[str, Any] | None = None,
    ) -> None:
        """Write the outcome of a row that ended, with one line."""
        found = found or {}
        counted = {key: found[key] for key in ("passed", "failed", "skipped") if found.get(key)}
        messages = [self.clean(message) for message in found.get("messages", [])]
        if found.get("running") and status != "ok":
            messages.append(f"{reporter.short(found['running'])}: {status} in it")
        # A debug build says where it waited too long; that line is worth more than the error which follows it.
        messages = [*re.findall(r"^codeshell: .*", detail, re.M)[:3], *messages]
        summary = ", ".join(f"{count} {key}" for key, count in counted.items())
        if benchmark is not None:
            bad = [f"{x['case']}, {x['name']}: {x['error']}" for x in benchmark["rows"] if x["ours"] and x["error"]]
            messages += bad
            late = sum(why.startswith("left out") for why in benchmark["absent"].values())
            summary = f"{len(benchmark['rows'])} rows" + (f", {late} cases had no time" if late else "")
        if not messages and status != "ok" and detail.strip():
            messages = [detail.strip().splitlines()[-1]]
        outcome: dict[str, Any] = {
            "status": status,
            "seconds": round(seconds, 1),
            "summary": summary,
            "detail": detail,
            "messages": messages[:20],
            "module": self.site.built(row),
            "passed": found.get("passed", 0),
            "failed": found.get("failed", 0),
            "skipped": found.get("skipped", 0),
            "slowest": found.get("slowest", {}),
        }
        self.results.document["calls"][-1]["rows"].append(row.name)
        self.keep(row, outcome, benchmark)
        self.line(row, status, seconds, "; ".join(filter(None, [summary, *messages[:1]])))

    def note(self, row: Row, status: str, detail: str, attempts: int | None = None) -> None:
        """Write why a row did not run; how often it was begun stays, unless it is given."""
        attempts = self.results.attempts(row) if attempts is None else attempts
        self.keep(row, {"status": status, "detail": detail, "attempts": attempts})
        self.line(row, status, None, detail)

    def keep(self, row: Row, outcome: Mapping[str, Any], benchmark: Any = None) -> None:
        """Put an outcome into the result, and the result onto the disk."""
        self.results.put(row, outcome, benchmark)
        self.save()

    def save(self) -> None:
        self.results.count(self.rows)
        self.results.document["calls"][-1]["seconds"] = round(self.clock() - self.begun, 1)
        self.results.save()

    def line(self, row: Row, status: str, seconds: float | None, text: str) -> None:
        took = f"{seconds:6.1f} s" if seconds is not None else " " * 8
        if row.information and status == "failed":
            status = "a hint"
        self.tell(f"{row.name:34} {status:14} {took}  {' '.join(text.split())[:200]}".rstrip())

    # The GPU

    def answers(self, row: Row, ended: Ended) -> bool:
        """Whether the GPU computes for a new process."""
        why = "its process does not die"
        if ended.how != "undead":
            probe = watch(
                self.start,
                ["-c", PROBE],
                self.environment(row, self.work / "probe.jsonl"),
                limit=PROBE_LIMIT,
                quiet=PROBE_LIMIT,
            )
            if probe.how == "exited" and probe.code == 0:
                return True
            why = "a new process gets no answer from it" if probe.how != "exited" else self.clean(probe.output)[-300:]
        self.results.document["stopped"] = f"after {row.name} the GPU does not answer: {' '.join(why.split())}"
        return False

    # The end

    def finish(self, code: int) -> int:
        """Write the end and say what is left; the exit code."""
        document = self.results.document
        waiting = [row.name for row in self.chosen if self.status(row.name) not in SETTLED]
        bad = [
            row.name for row in self.chosen if not row.information and self.status(row.name) in (*ENDED[1:], "left out")
        ]
        document["finished"] = not waiting and code != STOPPED
        self.save()
        statuses = [self.status(row.name) for row in self.chosen]
        counts = {status: statuses.count(status) for status in (*SETTLED, "waits", "cut off")}
        self.tell(
            f"{self.clock() - self.begun:.0f} s; "
            + ", ".join(f"{count} {status}" for status, count in counts.items() if count)
        )
        if document["stopped"]:
            self.tell(document["stopped"])
            return STOPPED
        if waiting and code != STOPPED:
            self.tell(
                f"{len(waiting)} rows wait, the first is {waiting[0]}; called again with the same --json, it continues"
            )
        return code or (BAD if bad else UNFINISHED if waiting else GOOD)

    # Processes

    def environment(self, row: Row, report: Path) -> dict[str, str]:
        paths = [*map(str, self.site.paths(row)), os.environ.get("PYTHONPATH", "")]
        return os.environ | {
            "PYTHONPATH": os.pathsep.join(filter(None, paths)),
            "PYTHONUNBUFFERED": "1",
            "PYTHONFAULTHANDLER": "1",
            "GPU_CHECK_REPORT": str(report),
            **row.environment,
        }

    def clean(self, text: str) -> str:
        """Without the folders of this machine."""
        return text.replace(str(ROOT), ".").replace(str(Path.home()), "~")


def read_benchmark(path: Path) -> dict[str, Any] | None:
    """What a benchmark wrote; None where it came to nothing."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    whole = isinstance(document, dict) and {"rows", "absent"} <= set(document)
    return document if whole else None
