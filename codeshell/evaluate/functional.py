"""The base of the functional tasks: n completions of each problem, run with the problem's tests in the sandbox.

A task says what it reads of a problem, what it asks, where an answer ends and which program judges it:

    problem_id(row)            the name of a problem
    prompt(row)                the question
    stops(row)                 where an answer ends
    program(row, completion)   the program that the sandbox runs

Sample s of problem p is drawn with a hash of (seed, task, p, s), so it does not depend on the other problems, on the
number of samples, on the batch or on a restart. `asked` has one entry for each sample.

Its statistics are those of `functional_result`, with what was asked and of whom:

    {…, "sampling": {"samples", "temperature", "top_p", "max_new_tokens", "seed"},
     "data": {"name", "problems", "sha256", "source", "licence"}, "model": {"name", …}, "prompts_cut": int}

`prompts_cut` counts prompts that the context did not hold; their far end was cut.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codeshell.engine.progress import Progress
from codeshell.errors import UserError
from codeshell.evaluate import functional_result, functional_section, problem_sets
from codeshell.evaluate.execution import Execution
from codeshell.evaluate.problem_sets import ProblemSet
from codeshell.evaluate.programs import Program
from codeshell.evaluate.prompts import Completion, NotRunError, Prompt, Sampling
from codeshell.evaluate.section import Sample, Section
from codeshell.evaluate.stops import NOTHING, Stops
from codeshell.evaluate.task import SAMPLES, Measured, Task
from codeshell.evaluate.verdicts import Judged, Verdict

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject

TEMPERATURE, TOP_P = 0.2, 0.95
"""Where several samples are drawn and nothing else is said: what the field prints pass@1 with, and the report's."""

TOGETHER = 256
"""Completions that are made between two writes to a file of completions: several batches."""


@dataclass(frozen=True)
class Asked:
    """One sample that is asked of a model."""

    row: dict[str, Any]
    """The problem, with the fields of its set."""
    id: str
    sample: int
    """From 0."""

    @property
    def key(self) -> str:
        """What its random numbers depend on."""
        return f"{self.id}\x1f{self.sample}"


class FunctionalTask(Task):
    """A task whose answers are programs; see the module's text."""

    needs_documents = False
    language: str = "python"
    style: str = "humaneval"
    """`Program.style` of its programs."""
    max_new_tokens: int = 512
    """Tokens of an answer at most; never more than half of the model's context."""
    samples_by_default: int = 1
    temperature_by_default: float | None = None
    """None is 0 for one sample of each problem, and `TEMPERATURE` for several."""

    # What a task says.

    def load(self, data: str = "") -> ProblemSet:
        """Its problems, from a file or folder, or from the hub.

        Raises:
            UserError: they are not there, or not what the task reads.
        """
        return problem_sets.load(self.name, data)

    def problem_id(self, row: dict[str, Any]) -> str:
        """The name of a problem, as files of completions have it."""
        return str(row["task_id"])

    def prompt(self, row: dict[str, Any]) -> Prompt:
        """The question."""
        raise self._lacks("prompt")

    def stops(self, row: dict[str, Any]) -> Stops:
        """Where an answer ends; by default only where the model ends it."""
        return NOTHING

    def program(self, row: dict[str, Any], completion: str) -> Program:
        """The program that judges a completion, which is already cut."""
        raise self._lacks("program")

    def reference(self, row: dict[str, Any]) -> str | None:
        """The completion that the set gives as the solution, or None."""
        return row.get("canonical_solution")

    # What follows from it.

    def settings(self, execution: Execution) -> tuple[int, float, float]:
        """Samples of each problem, temperature and top-p.

        Raises:
            UserError: they are out of range, or several samples would all be the same.
        """
        samples = self.samples_by_default if execution.samples is None else execution.samples
        if samples < 1:
            raise UserError(f"samples {samples}: give 1 completion of each problem or more (-n)")
        temperature = execution.temperature
        if temperature is None:
            temperature = self.temperature_by_default
        if temperature is None:
            temperature = 0.0 if samples == 1 else TEMPERATURE
        top_p = execution.top_p
        if top_p is None:
            top_p = TOP_P if temperature else 1.0
        if samples > 1 and not temperature:
            raise UserError(
                f"temperature 0 gives {samples} equal completions of each problem; ask for one (-n 1), or give "
                "--temperature 0.2"
            )
        return samples, temperature, top_p

    def chosen(self, found: ProblemSet, execution: Execution) -> list[dict[str, Any]]:
        """The problems that are asked, in the order of the set.

        Raises:
            UserError: the limit leaves none.
        """
        if execution.limit is not None and execution.limit < 1:
            raise UserError(f"--limit {execution.limit}: give 1 problem or more")
        return found.rows[: execution.limit]

    def asked(self, rows: Sequence[dict[str, Any]], samples: int) -> list[Asked]:
        """Every sample of every problem: the first of all problems, then the second of all, and so on.

        So a generation that is stopped early has asked all problems equally often.
        """
        return [Asked(row, self.problem_id(row), sample) for sample in range(samples) for row in rows]

    def longest(self, subject: Subject) -> int:
        """Tokens of an answer at most, for this model."""
        return max(1, min(self.max_new_tokens, subject.context // 2))

    def complete(self, subject: Subject, asked: Sequence[Asked]) -> Iterator[list[tuple[Asked, Completion]]]:
        """The completions of some samples, in their order and in parts, cut where the answers end.

        Raises:
            NotRunError: the model cannot be asked: too short a context, or no tokens to fill in the middle with.
        """
        _, temperature, top_p = self.settings(subject.execution)
        with Progress(f"evaluate: {self.name}", total=len(asked), unit="completions") as progress:
            for stops, part in self._parts(asked):
                sampling = Sampling(
                    self.longest(subject), temperature, top_p, None if stops == NOTHING else stops.found
                )
                written = subject.complete(
                    [self.prompt(one.row) for one in part], sampling, purpose=self.name, keys=[one.key for one in part]
                )
                yield [
                    (one, Completion(stops.cut(completion.text), completion.ended))
                    for one, completion in zip(part, written, strict=True)
                ]
                progress.advance(len(part))

    def _parts(self, asked: Sequence[Asked]) -> Iterator[tuple[Stops, list[Asked]]]:
        """The samples in parts of at most `TOGETHER`. Generation looks at one rule to stop, so a part has one."""
        for stops, run in itertools.groupby(asked, lambda one: self.stops(one.row)):
            rest = list(run)
            for at in range(0, len(rest), TOGETHER):
                yield stops, rest[at : at + TOGETHER]

    def made_by(self, subject: Subject, found: ProblemSet) -> dict[str, Any]:
        """What a completion depends on beside its problem and its number; completions that differ in it do not mix."""
        _, temperature, top_p = self.settings(subject.execution)
        return {
            "task": self.name,
            "model": dict(subject.origin),
            "temperature": temperature,
            "top_p": top_p,
            "seed": subject.seed,
            "max_new_tokens": self.longest(subject),
            "context": subject.context,
            "data": found.sha256,
        }

    def prompts_cut(self, subject: Subject, rows: Sequence[dict[str, Any]]) -> int:
        """Problems whose prompt the context does not hold whole."""
        room = subject.room(self.longest(subject))
        count = 0
        for row in rows:
            prompt = self.prompt(row)
            length = len(subject.tokenizer.encode(prompt.before))
            if prompt.after is not None:
                length += len(subject.tokenizer.encode(prompt.after)) + 3
            count += length > room
        return count

    # The protocol of a task.

    def problems(self, subject: Subject) -> list[Asked]:
        samples, _, _ = self.settings(subject.execution)
        return self.asked(self.chosen(self.load(subject.execution.data), subject.execution), samples)

    def prompts(self, problems: Sequence[Asked]) -> list[Prompt]:
        return [self.prompt(one.row) for one in problems]

    def judge(self, problems: Sequence[Asked], answers: Sequence[str]) -> list[Judged]:
        return self.judge_in(Execution(), problems, answers)[0]

    def judge_in(
        self, execution: Execution, problems: Sequence[Asked], answers: Sequence[str]
    ) -> tuple[list[Judged], Any]:
        """The verdicts, and the proof of the level that they were judged at.

        Raises:
            UserError: the machine has not the isolation that is asked for.
        """
        programs = [self.program(one.row, answer) for one, answer in zip(problems, answers, strict=True)]
        return run_programs(programs, execution, self.name)

    def measure(self, subject: Subject) -> Measured:
        # A machine that cannot judge is found before a model writes for hours.
        require_judge(subject.execution, self.language, self.style)
        found = self.load(subject.execution.data)
        samples, temperature, top_p = self.settings(subject.execution)
        rows = self.chosen(found, subject.execution)
        asked = self.asked(rows, samples)
        answers = [completion.text for part in self.complete(subject, asked) for _, completion in part]
        judged, proof = self.judge_in(subject.execution, asked, answers)
        if all(one.verdict == Verdict.NOT_RUN for one in judged):
            raise NotRunError(functional_result.not_run(judged))
        result = self.statistics(asked, answers, judged, proof=proof, seed=subject.seed)
        made_by = self.made_by(subject, found)
        return Measured(
            result
            | {
                "sampling": {"samples": samples, "temperature": temperature, "top_p": top_p}
                | {name: made_by[name] for name in ("max_new_tokens", "seed")},
                "data": found.facts | {"problems": len(rows)},
                "model": dict(subject.origin),
                "prompts_cut": self.prompts_cut(subject, rows),
            },
            self.shown(asked, answers, judged),
        )

    def statistics(
        self, asked: Sequence[Asked], answers: Sequence[str], judged: Sequence[Judged], *, proof: Any, seed: int
    ) -> dict[str, Any]:
        """The statistics of judged answers, wherever they come from.

        Args:
            asked: the samples, with `answers` and `judged` in the same order.
            proof: of the level of isolation.
            seed: of the bootstrap.
        """
        return functional_result.statistics([one.id for one in asked], judged, proof=proof, seed=seed, paper=self.name)

    def shown(self, asked: Sequence[Asked], answers: Sequence[str], judged: Sequence[Judged]) -> list[dict[str, Any]]:
        """Some samples for the report: every second one is solved, while there are such."""
        order = list(zip(asked, answers, judged, strict=True))
        good = [one for one in order if one[2].verdict == Verdict.PASS]
        bad = [one for one in order if one[2].verdict != Verdict.PASS]
        half = SAMPLES // 2
        picked = good[: max(half, SAMPLES - len(bad))] + bad[: max(half, SAMPLES - len(good))]
        samples = []
        for one, answer, verdict in picked[:SAMPLES]:
            prompt = self.prompt(one.row)
            samples.append(functional_section.sample(one.id, prompt.before, answer, verdict, after=prompt.after or ""))
        return samples

    def claims(self, result: dict[str, Any]) -> list[str]:
        return functional_section.claims(self.title, result)

    def section(self, result: dict[str, Any]) -> Section:
        return functional_section.section(self.title, result)

    def show(self, sample: dict[str, Any]) -> Sample:
        return functional_section.show(sample)


class FamilyTask(FunctionalTask):
    """A task with an argument, for example a language: `multipl-e:lua`.

    Args:
        argument: one of `arguments`.
    """

    family: str
    """The name before the colon."""
    arguments: Sequence[str]
    what: str = "language"
    """What the argument is called in messages."""

    def __init__(self, argument: str) -> None:
        if argument not in self.arguments:
            raise UserError(
                f"task {self.family}:{argument}: no such {self.what}; write {self.family}: and one of "
                f"{', '.join(self.arguments)}"
            )
        self.argument = argument
        self.name = f"{self.family}:{argument}"


def require_judge(execution: Execution, language: str, style: str = "") -> None:
    """Prove the isolation, and find the toolchain with the libraries that programs of this style need.

    Raises:
        UserError: the isolation is lower than what is asked for.
        NotRunError: the language has no toolchain here.
    """
    from codeshell.evaluate import judging

    judging.ready(
        language, level=execution.level, unsafe=execution.unsafe, toolchains=execution.toolchains, style=style
    )


def run_programs(programs: Sequence[Program], execution: Execution, name: str) -> tuple[list[Judged], Any]:
    """The verdicts on programs, in their order, and the proof of the level of isolation."""
    from codeshell.evaluate.judging import judge_programs
    from codeshell.evaluate.sandbox import levels

    proof: Any = levels.require(execution.level, execution.unsafe)
    journal: Path | None = None
    if execution.journal is not None:
        journal = execution.journal / f"journal-{name}.jsonl"
    judged = judge_programs(
        programs, level=proof, workers=execution.workers, journal=journal, toolchains=execution.toolchains
    )
    return judged, proof
