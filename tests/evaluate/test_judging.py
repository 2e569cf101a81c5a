"""Judging many programs, with judges that only read what a program says it does: order, equals, journal, failures."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from codeshell.errors import UserError
from codeshell.evaluate.journal import Journal
from codeshell.evaluate.judging import Runtime, judge_programs
from codeshell.evaluate.programs import Limits, Program
from codeshell.evaluate.verdicts import Judged, Verdict

PROOF: Any = SimpleNamespace(level=3, line=lambda: "isolation: level 3, of a test")


@dataclass
class Machine:
    """Stands for all judges of a machine: what it was asked, how many programs at a time, and what it is told to do."""

    broken: str = ""
    load: Callable[[int], Verdict] | None = None
    """The verdict of "waits", by the number of programs that were asked so far."""
    beside: list[int] = field(default_factory=list)
    """Programs that ran when each was asked, itself included."""
    asked: list[str] = field(default_factory=list)
    at_once: int = 0
    most: int = 0
    opened: int = 0
    closed: int = 0
    threads: set[int] = field(default_factory=set)
    lock: threading.Lock = field(default_factory=threading.Lock)
    hold: threading.Barrier | None = None

    def runtime(self, language: str) -> Runtime:
        if language == "absent":
            return Runtime("", self.make, missing="install absent")
        if language == "unknown":
            raise UserError("unknown: no such language")
        return Runtime(f"{language} 1.0", self.make, cost=float(language == "dear"))

    def make(self, limits: Limits) -> _Fake:
        with self.lock:
            self.opened += 1
        return _Fake(self, threading.get_ident())


@dataclass
class _Fake:
    machine: Machine
    thread: int
    open: bool = True

    def judge(self, program: Program) -> Judged:
        m = self.machine
        assert self.open and threading.get_ident() == self.thread, "a judge is used in the thread that made it"
        with m.lock:
            m.asked.append(program.code)
            m.threads.add(self.thread)
            m.at_once += 1
            m.most = max(m.most, m.at_once)
            m.beside.append(m.at_once)
            number = len(m.asked)
        try:
            if m.hold is not None and number <= m.hold.parties:
                m.hold.wait(20)
            if program.code == m.broken:
                raise UserError("toolchain: it crashed; install it again")
            if program.code.startswith("waits"):
                verdict = m.load(number) if m.load else Verdict.WALL_TIME
            else:
                verdict = Verdict.PASS if program.code.endswith("good") else Verdict.WRONG
            return Judged(verdict, f"{program.language} {program.code}", level=3, toolchain=f"{program.language} 1.0")
        finally:
            with m.lock:
                m.at_once -= 1

    def close(self) -> None:
        assert self.open
        self.open = False
        with self.machine.lock:
            self.machine.closed += 1


def programs(*codes: str, language: str = "python") -> list[Program]:
    return [Program(language, code, "tests") for code in codes]


def judge(machine: Machine, asked: Sequence[Program], **options: Any) -> list[Judged]:
    return judge_programs(asked, level=PROOF, runtime=machine.runtime, **options)


@pytest.mark.parametrize("workers", [1, 2, 7, None])
def test_the_order_is_that_of_the_programs(workers: int | None) -> None:
    machine = Machine()
    codes = [f"{number} {'good' if number % 3 else 'bad'}" for number in range(50)]
    judged = judge(machine, programs(*codes), workers=workers)
    assert [one.why for one in judged] == [f"python {code}" for code in codes]
    assert [one.passed for one in judged] == [bool(number % 3) for number in range(50)]
    assert machine.opened == machine.closed == len(machine.threads)


def test_workers_work_at_the_same_time() -> None:
    # Each judge waits until three are in it: with fewer at a time the barrier would break.
    machine = Machine(hold=threading.Barrier(3))
    judge(machine, programs(*(f"{number} good" for number in range(6))), workers=3)
    assert machine.most == 3


def test_equal_programs_run_once() -> None:
    machine = Machine()
    asked = programs("good", "bad", "good", "good", "bad")
    assert [one.passed for one in judge(machine, asked)] == [True, False, True, True, False]
    assert Counter(machine.asked) == {"good": 1, "bad": 1}
    # Other limits, tests or another language make another program.
    other = [
        asked[0],
        Program("python", "good", "tests", limits=Limits(cpu_seconds=3)),
        Program("lua", "good", "tests"),
    ]
    machine = Machine()
    judge(machine, other, workers=1)
    assert len(machine.asked) == machine.opened == 3


def test_the_dearest_language_comes_first() -> None:
    machine = Machine()
    asked = [*programs("1", "2"), *programs("3", "4", language="dear")]
    judged = judge(machine, asked, workers=1)
    assert machine.asked == ["3", "4", "1", "2"]
    assert [one.why[-1] for one in judged] == ["1", "2", "3", "4"]


def test_an_absent_toolchain_is_not_run(tmp_path: Path) -> None:
    machine, path = Machine(), tmp_path / "journal"
    asked = [*programs("good", language="absent"), *programs("good")]
    judged = judge(machine, asked, journal=path)
    assert judged[0] == Judged(Verdict.NOT_RUN, "install absent") and judged[1].passed
    # It may be installed tomorrow, so the journal does not know it.
    with Journal(path) as journal:
        assert len(journal) == 1


def test_an_unknown_language_is_an_error_before_any_program() -> None:
    machine = Machine()
    with pytest.raises(UserError, match="no such language"):
        judge(machine, [*programs("good"), *programs("good", language="unknown")])
    assert not machine.asked


@pytest.mark.parametrize("workers", [0, -1, 100_000])
def test_workers_out_of_range(workers: int) -> None:
    with pytest.raises(UserError, match="--workers"):
        judge(Machine(), programs("good"), workers=workers)


def test_the_level_is_said_before_the_first_program(capsys: pytest.CaptureFixture[str]) -> None:
    machine = Machine()
    said: list[str] = []
    real = machine.make

    def make(limits: Limits) -> _Fake:
        said.append(capsys.readouterr().err)
        return real(limits)

    machine.make = make  # type: ignore[method-assign]
    judge(machine, programs("good", "bad"), workers=1)
    assert "isolation: level 3, of a test" in said[0]
    # Nothing runs, so there is nothing to say.
    judge(machine, [])
    judge(machine, programs("good", language="absent"))
    assert capsys.readouterr().err == ""


# The journal.


def test_what_the_journal_knows_does_not_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path, first, second = tmp_path / "journal", Machine(), Machine()
    one = judge(first, programs("1 good", "2 bad"), journal=path)
    capsys.readouterr()
    two = judge(second, programs("2 bad", "3 good", "1 good"), journal=path)
    assert second.asked == ["3 good"]
    assert [two[2], two[0]] == one and two[1].passed
    assert "2 of 3 verdicts are known" in capsys.readouterr().err
    # At another level the same program is another one.
    third = Machine()
    proof: Any = SimpleNamespace(level=4, line=lambda: "")
    judge_programs(programs("1 good"), level=proof, runtime=third.runtime, journal=path)
    assert third.asked == ["1 good"]


def test_an_error_ends_all_and_keeps_what_was_judged(tmp_path: Path) -> None:
    path, machine = tmp_path / "journal", Machine(broken="bad")
    asked = programs(*(f"{number} good" for number in range(9)), "bad", "never good")
    with pytest.raises(UserError, match="it crashed"):
        judge(machine, asked, journal=path, workers=1)
    assert machine.opened == machine.closed == 1
    again = Machine()
    assert [one.passed for one in judge(again, asked, journal=path, workers=1)] == [True] * 9 + [False, True]
    assert again.asked == ["bad", "never good"]


def test_a_journal_that_takes_no_more_ends_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, machine, add = tmp_path / "journal", Machine(), Journal.add

    def full(self: Journal, key: str, judged: Judged, *, again: bool = False) -> None:
        if len(self) == 2:
            raise UserError("journal: the disk is full; free some space")
        add(self, key, judged, again=again)

    monkeypatch.setattr(Journal, "add", full)
    with pytest.raises(UserError, match="the disk is full"):
        judge(machine, programs(*map(str, range(20))), journal=path, workers=2)
    monkeypatch.undo()
    assert machine.opened == machine.closed
    with Journal(path) as journal:
        assert len(journal) == 2


def test_ctrl_c_ends_the_running_programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What runs in other threads is ended through `launch.stop_all`; the error passes on, and nothing stays."""
    from codeshell.evaluate.sandbox import launch

    machine, gate, path = Machine(), threading.Event(), tmp_path / "journal"
    real = _Fake.judge

    def slow(self: _Fake, program: Program) -> Judged:
        if program.code == "slow":
            assert gate.wait(20), "nobody ended the program"
        return real(self, program)

    def interrupted(self: Journal, key: str, judged: Judged, *, again: bool = False) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(_Fake, "judge", slow)
    monkeypatch.setattr(launch, "stop_all", gate.set)
    monkeypatch.setattr(Journal, "add", interrupted)
    with pytest.raises(KeyboardInterrupt):
        judge(machine, programs("slow", "good", "1", "2", "3"), journal=path, workers=2)
    assert machine.opened == machine.closed == 2


# The wall limit.


def test_those_at_the_wall_limit_run_again_alone() -> None:
    # Both are in their judge before either ends; the second time each is alone, and passes.
    machine = Machine(load=lambda asked: Verdict.WALL_TIME if asked <= 2 else Verdict.PASS, hold=threading.Barrier(2))
    judged = judge(machine, programs("waits 1", "waits 2"), workers=2)
    assert [one.verdict for one in judged] == [Verdict.PASS, Verdict.PASS]
    assert machine.most == 2 and machine.asked[2:] == ["waits 1", "waits 2"] and machine.beside[2:] == [1, 1]
    # A program that truly sleeps keeps its verdict.
    machine = Machine()
    judged = judge(machine, programs("good", "waits"), workers=2)
    assert [one.verdict for one in judged] == [Verdict.PASS, Verdict.WALL_TIME]
    assert Counter(machine.asked) == {"good": 1, "waits": 2} and machine.asked[-1] == "waits"


def test_a_kill_before_the_last_run_does_not_lose_that_it_is_due(tmp_path: Path) -> None:
    path, asked = tmp_path / "journal", programs("waits", "good")
    machine = Machine()
    judge(machine, asked, journal=path, workers=1)
    lines = path.read_text().splitlines(keepends=True)
    assert len(lines) == 4
    # Killed after the first round: the last line, of the run alone, is not there yet.
    path.write_text("".join(lines[:3]))
    machine = Machine(load=lambda asked: Verdict.CPU_TIME)
    judged = judge(machine, asked, journal=path, workers=2)
    assert machine.asked == ["waits"] and judged[0].verdict is Verdict.CPU_TIME
    # Afterwards it is known for good.
    machine = Machine()
    assert judge(machine, asked, journal=path) == judged and not machine.asked


def test_a_judge_that_does_not_end_does_not_hold_the_command(monkeypatch: pytest.MonkeyPatch) -> None:
    from codeshell.evaluate import judging

    machine, never = Machine(broken="bad"), threading.Event()
    real = _Fake.judge

    def stuck(self: _Fake, program: Program) -> Judged:
        if program.code == "stuck":
            never.wait(20)
        return real(self, program)

    monkeypatch.setattr(_Fake, "judge", stuck)
    monkeypatch.setattr(judging, "END_SECONDS", 0.2)
    began = time.monotonic()
    try:
        with pytest.raises(UserError, match="it crashed"):
            judge(machine, programs("stuck", "bad"), workers=2)
        assert time.monotonic() - began < 15
    finally:
        never.set()
