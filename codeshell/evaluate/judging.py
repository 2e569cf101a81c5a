"""The one entry that judges many programs: several at a time, each different one once, with a journal.

What one program is judged by is elsewhere (`sandbox.python_judge`, `sandbox.toolchains`). Here it is seen to that

- the level of isolation is proven and printed before the first program, and stored with every verdict;
- equal programs run once, and those that the journal knows do not run at all;
- a program that hit only the wall limit runs again, alone, after all others: load does not change a score;
- a language without its toolchain is `not_run` with what to install, and never a zero;
- on Ctrl-C, a full disk or a broken toolchain every running program is ended, and what was judged is in the journal.

Workers are threads. A judge waits for processes in a sandbox nearly all the time, and holds no lock meanwhile.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from codeshell.engine.progress import Progress
from codeshell.environment import usable_cores
from codeshell.errors import UserError, say
from codeshell.evaluate.journal import Journal
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.prompts import NotRunError
from codeshell.evaluate.verdicts import Judged, Verdict

if TYPE_CHECKING:
    from codeshell.evaluate.sandbox.levels import Proof

__all__ = ["MAX_WORKERS", "Judge", "Runtime", "judge_programs", "ready"]

MAX_WORKERS = 1024
"""More threads than that wait for one another."""

COST = {"scala": 9.5, "ts": 4.8, "swift": 3.7, "java": 1.5, "jl": 1.3, "rkt": 1.1, "cpp": 0.8, "go": 0.6}
"""CPU seconds of a program of MultiPL-E, compiled and run, on one core of a busy machine; others take less."""

END_SECONDS = 10.0
"""Time for the judges of a stopped evaluation to end their processes; they need milliseconds."""


class Judge(Protocol):
    """Judges programs of one language under one set of limits, one at a time."""

    def judge(self, program: Program) -> Judged:
        """The verdict; a judge that cannot work raises a `UserError` rather than give one."""

    def close(self) -> None:
        """End the processes that it holds."""


@dataclass(frozen=True)
class Runtime:
    """What runs the programs of one language on this machine."""

    toolchain: str
    """Name and version: "CPython 3.11.7"; a part of the journal's keys."""
    make: Callable[[Limits], Judge]
    """A judge, made in the thread that uses it: its processes end with that thread."""
    missing: str = ""
    """Why there is none, with what to install; empty where there is one."""
    cost: float = 0.0
    """CPU seconds of a program, roughly: the dearest languages come first, so that the last minutes are short."""


@dataclass
class _Item:
    """A program that has to run, for all its equals."""

    key: str
    program: Program
    runtime: Runtime
    places: list[int]


def judge_programs(
    programs: Sequence[Program],
    *,
    level: Proof,
    workers: int | None = None,
    journal: Path | None = None,
    toolchains: Mapping[str, str] | None = None,
    runtime: Callable[[str], Runtime] | None = None,
) -> list[Judged]:
    """The verdict on each program, in their order.

    Args:
        level: what `sandbox.levels.require` has proven.
        workers: programs at a time; by default one per core. No verdict depends on it.
        journal: a file that keeps the verdicts (`codeshell.evaluate.journal`); None keeps them in memory alone.
        toolchains: language to a folder that is used as the sandbox's root, in place of what is installed.
        runtime: how a language is run; by default the judges of the package.

    Raises:
        UserError: an unknown language, a toolchain or judge that breaks, a journal that cannot be written.
    """
    if workers is not None and not 1 <= workers <= MAX_WORKERS:
        raise UserError(f"--workers {workers}: give 1 to {MAX_WORKERS}")
    find = runtime or _Runtimes(level, toolchains or {})
    with contextlib.ExitStack() as stack:
        # Languages and the journal are looked at before a program runs.
        runtimes = {language: find(language) for language in dict.fromkeys(program.language for program in programs)}
        book = stack.enter_context(Journal(journal)) if journal is not None else None
        results: list[Judged | None] = [None] * len(programs)
        todo, alone = _sorted_out(programs, runtimes, int(level.level), book, results)
        known = sum(result is not None and result.verdict is not Verdict.NOT_RUN for result in results)
        if known:
            say(f"{journal}: {known:,} of {len(programs):,} verdicts are known and do not run again")
        if todo or alone:
            say(level.line())
        if todo:
            count = min(workers or usable_cores(), len(todo))
            with Progress("judge", total=len(todo), unit="programs") as progress:
                passed = 0

                def keep(item: _Item, judged: Judged) -> None:
                    nonlocal passed
                    # With the wall limit as the only reason, the load of the machine may have been the cause.
                    again = judged.verdict is Verdict.WALL_TIME
                    if again:
                        alone.append(item)
                    _keep(item, judged, results, book, again=again)
                    passed += judged.passed
                    progress.advance(1, passed=passed)

                _run(todo, count, keep)
        if alone:
            # The order of the programs, not that in which they were found.
            alone.sort(key=lambda item: item.places[0])
            with Progress("judge again, alone", total=len(alone), unit="programs") as progress:

                def keep_last(item: _Item, judged: Judged) -> None:
                    _keep(item, judged, results, book)
                    progress.advance(1)

                _run(alone, 1, keep_last)
    return [result for result in results if result is not None]


def ready(
    language: str,
    *,
    level: int | None = None,
    unsafe: bool = False,
    toolchains: Mapping[str, str] | None = None,
    style: str = "",
) -> Proof:
    """See to it that programs of a language can be judged here, before a model writes them for hours.

    Args:
        level: the level of isolation that is asked for; None takes the best of the machine.
        unsafe: level 1, without isolation, is accepted.
        toolchains: as for `judge_programs`.
        style: `Program.style` of the programs, some of which need libraries beside the toolchain.

    Raises:
        UserError: the isolation is lower than asked for, or the language is unknown.
        NotRunError: there is no toolchain; the message says what to install.
    """
    from codeshell.evaluate.sandbox import levels

    proof = levels.require(level, unsafe)
    found = _Runtimes(proof, toolchains or {}, style)(language)
    if found.missing:
        raise NotRunError(found.missing)
    return proof


def _sorted_out(
    programs: Sequence[Program],
    runtimes: Mapping[str, Runtime],
    level: int,
    book: Journal | None,
    results: list[Judged | None],
) -> tuple[list[_Item], list[_Item]]:
    """The different programs that have to run, and those that have to run alone; what is known goes to `results`."""
    items: dict[str, _Item] = {}
    for place, program in enumerate(programs):
        runtime = runtimes[program.language]
        if runtime.missing:
            # Not kept: it may be installed before the next start.
            results[place] = Judged(Verdict.NOT_RUN, runtime.missing)
            continue
        key = program.key(runtime.toolchain, level)
        items.setdefault(key, _Item(key, program, runtime, [])).places.append(place)
    todo, alone = [], []
    for item in items.values():
        found = book.get(item.key) if book is not None else None
        if found is None:
            todo.append(item)
        elif found[1]:
            alone.append(item)
        else:
            for place in item.places:
                results[place] = found[0]
    # Stable: programs of one language stay in their order.
    todo.sort(key=lambda item: -item.runtime.cost)
    return todo, alone


def _keep(
    item: _Item, judged: Judged, results: list[Judged | None], book: Journal | None, *, again: bool = False
) -> None:
    # What was not run for want of a library may be run after the next installation.
    if book is not None and judged.verdict is not Verdict.NOT_RUN:
        book.add(item.key, judged, again=again)
    for place in item.places:
        results[place] = judged


_Done = tuple[_Item, Judged] | BaseException | None
"""What a worker reports: a verdict, what it died of, or that it has ended."""


def _run(items: Sequence[_Item], workers: int, keep: Callable[[_Item, Judged], None]) -> None:
    """Judge all items; `keep` is called in this thread, in the order in which they are done."""
    waiting: queue.SimpleQueue[_Item] = queue.SimpleQueue()
    for item in items:
        waiting.put(item)
    done: queue.SimpleQueue[_Done] = queue.SimpleQueue()
    stop = threading.Event()
    # Daemons: a judge that does not end must not keep the command from its end.
    threads = [threading.Thread(target=_work, args=(waiting, done, stop), daemon=True) for _ in range(workers)]
    running = 0
    try:
        for thread in threads:
            thread.start()
            running += 1
        while running:
            report = done.get()
            if report is None:
                running -= 1
            elif isinstance(report, BaseException):
                raise report
            else:
                keep(*report)
    except BaseException:
        # Ctrl-C, a full disk, a broken toolchain: nobody waits for the programs that still run.
        stop.set()
        _end_all([thread for thread in threads if thread.ident is not None])
        raise


def _work(waiting: queue.SimpleQueue[_Item], done: queue.SimpleQueue[_Done], stop: threading.Event) -> None:
    """One worker: takes items until there are none, with a judge of its own for each language and its limits."""
    judges: dict[tuple[str, Limits], Judge] = {}
    try:
        while not stop.is_set():
            try:
                item = waiting.get_nowait()
            except queue.Empty:
                break
            kind = (item.program.language, item.program.limits)
            if kind not in judges:
                judges[kind] = item.runtime.make(item.program.limits)
            done.put((item, judges[kind].judge(item.program)))
    except BaseException as error:
        done.put(error)
    finally:
        for judge in judges.values():
            # What cannot be closed ends with this process.
            with contextlib.suppress(Exception):
                judge.close()
        done.put(None)


def _end_all(threads: Sequence[threading.Thread]) -> None:
    """End every sandbox of this process, and wait for the threads that watch over them."""
    from codeshell.evaluate.sandbox import launch

    until = time.monotonic() + END_SECONDS
    while any(thread.is_alive() for thread in threads) and time.monotonic() < until:
        # More than once: a worker may have been about to start its next program.
        launch.stop_all()
        for thread in threads:
            thread.join(0.05)
    # The caller may judge again, for example in a notebook.
    launch.resume()


class _Runtimes:
    """The package's judges: that of Python, and the toolchains of the other languages."""

    def __init__(self, level: Proof, folders: Mapping[str, str], style: str = "") -> None:
        self.level, self.folders, self.style = level.level, dict(folders), style

    def __call__(self, language: str) -> Runtime:
        if language == "python":
            return self._python()
        from codeshell.evaluate.sandbox import toolchains

        found = toolchains.get(language, self.folders)
        missing = found.missing(self.style)
        if missing:
            return Runtime("", _never, missing)
        level = self.level

        class OneLanguage:
            def judge(self, program: Program) -> Judged:
                return found.judge(program, level)

            def close(self) -> None:
                """Each program has a sandbox of its own, which is gone by now."""

        return Runtime(found.version(), lambda limits: OneLanguage(), cost=COST.get(found.language, 1.0))

    def _python(self) -> Runtime:
        from codeshell.evaluate.sandbox import python_judge

        level = self.level

        def make(limits: Limits) -> Any:
            return python_judge.PythonJudge(level, limits)

        return Runtime(python_judge.version(), make)


def _never(limits: Limits) -> Judge:
    raise AssertionError("a language without its toolchain is not run")
