"""The protocol of an evaluation task: one object that asks a model, judges its answers, and says what came of it.

    problems(subject)              what is asked, from held-out documents or from a data set
    prompts(problems)              the text of each question
    judge(problems, answers)       a verdict on each answer
    summary(…)                     the statistics, each rate with its interval
    claims(result)                 sentences that these statistics carry
    section(result)                the task's part of the report, as plain data

A task of one's own is a class derived from `Task` that has a name and the first three; the rest has a default for
verdicts that are true or false. `codeshell eval FILE.py:NAME RUN` runs it; `examples/own_task.py` is one. A task of the
package is a file in `codeshell/evaluate/tasks/` and its line in the table there.

A task that samples several answers to one problem lists the problem once per answer: each entry has random numbers
of its own. A task that needs no answers but scores given text overrides `measure`. A task holds no state: `section`
and `show` are called long after `measure`, on statistics that were read from a file, and where there is no model.

Importing this module does not import torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec

from codeshell.errors import UserError
from codeshell.evaluate import claims
from codeshell.evaluate.intervals import compare_shares, share
from codeshell.evaluate.prompts import Completion, NotRunError, Prompt, Sampling
from codeshell.evaluate.section import SHARE_HEAD, Sample, Section, Table, Text, difference_cell, left_over, share_row

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject

__all__ = [
    "BySystem",
    "Completion",
    "Measured",
    "NotRunError",
    "Prompt",
    "Sample",
    "Sampling",
    "Section",
    "Task",
    "Text",
    "take_turns",
]

BySystem = dict[str, list[Any]]
"""Answers, or verdicts on them, one per problem in the order of the problems: of "model", and of each baseline."""

T = TypeVar("T")

SAMPLES = 20
"""Answers of each task that are kept with their text, for the report."""

SAMPLE_CHARACTERS = 400
"""Characters of a prompt that a sample keeps before the answer, and half as many after it."""


@dataclass(frozen=True)
class Measured:
    """What a task leaves: its statistics and some samples, both JSON."""

    result: dict[str, Any]
    samples: list[dict[str, Any]] | None = None
    """None for a task that keeps no samples."""


class Task:
    """A task; see the module's text. The attributes describe it, the methods are called in the order given there."""

    name: str
    """Its key in statistics and its name on the command line: letters, digits and `_ - . + :`."""
    heading: str = ""
    """Title of its section in the report; by default its name."""
    samples_heading: str = ""
    """Title of its samples in the report; by default `heading`."""
    keeps_samples: bool = True
    needs_run: bool = False
    """It needs more of a run than the model and the documents, so `codeshell eval all` leaves it out."""
    needs_documents: bool = True
    """It asks about held-out documents. One that brings its own problems runs without any."""
    keeps_details: bool = False
    """Its statistics are long: they go to `evaluate/NAME.json`, and `brief` says what of them `stats.json` holds."""

    # What every task that asks a model has to say. `judge` sees no subject: it must give the same verdict on an answer
    # wherever the answer comes from.

    def problems(self, subject: Subject) -> Sequence[Any]:
        """What is asked.

        Raises:
            NotRunError: nothing here can be asked.
        """
        raise self._lacks("problems")

    def prompts(self, problems: Sequence[Any]) -> list[Prompt]:
        """The question of each problem, in their order."""
        raise self._lacks("prompts")

    def judge(self, problems: Sequence[Any], answers: Sequence[Any]) -> list[Any]:
        """The verdict on each answer. It sees no model, so answers from elsewhere can be judged as well."""
        raise self._lacks("judge")

    # What a task may say otherwise. `subject` tells it what the model under test can hold.

    def sampling(self, subject: Subject) -> Sampling:
        """How the answers are sampled; by default the most likely token at each step, 64 at most."""
        return Sampling()

    def answers(self, subject: Subject, problems: Sequence[Any]) -> BySystem:
        """The answers of "model" to all problems, in their order, and those of each baseline by its name."""
        written = subject.complete(self.prompts(problems), self.sampling(subject), purpose=self.name)
        return {"model": [completion.text for completion in written]}

    def summary(
        self, subject: Subject, problems: Sequence[Any], answers: BySystem, verdicts: BySystem
    ) -> dict[str, Any]:
        """The statistics, as JSON: by default the share of verdicts that are true, for each system.

        Returns:
            `{problems, systems {name: {count, n, share, interval}}, differences {name: {n, difference, p_value,
            significant}}}`, differences being the model minus each other system.
        """
        # Differences are paired: both systems were asked the same problems.
        solved = {name: [bool(verdict) for verdict in given] for name, given in verdicts.items()}
        return {
            "problems": len(problems),
            "systems": {name: share(sum(given), len(given)) for name, given in solved.items()},
            "differences": {
                name: compare_shares(solved["model"], given) for name, given in solved.items() if name != "model"
            },
        }

    def samples(self, problems: Sequence[Any], answers: BySystem, verdicts: BySystem) -> list[dict[str, Any]]:
        """The first answers with what was asked, as JSON that `show` understands."""
        shown = list(zip(self.prompts(problems[:SAMPLES]), answers["model"], verdicts["model"], strict=False))
        return [msgspec.to_builtins(_sample(prompt, str(answer), bool(good))) for prompt, answer, good in shown]

    # What is made of the statistics, with no model at hand: when the evaluation ends, and again for the report.

    def claims(self, result: dict[str, Any]) -> list[str]:
        """Sentences that the statistics carry; a difference that may be chance is not one of them."""
        # First how good the model is, then how it compares with each baseline.
        systems = result["systems"]
        sentences = [f"{self.title}: the model solves {claims.share(systems['model'])} of the problems."]
        for name, difference in result["differences"].items():
            sentences.append(claims.against(difference, name, systems[name]))
        return sentences

    def section(self, result: dict[str, Any]) -> Section:
        """The part of the report that shows the statistics."""
        # The model has no difference from itself: that cell stays empty.
        rows = [
            share_row(
                "the model" if name == "model" else name,
                score,
                difference_cell(result["differences"].get(name), percent=True),
                strong=name == "model",
            )
            for name, score in result["systems"].items()
        ]
        return Section(
            self.title,
            (f"{result['problems']:,} problems. Intervals are Wilson's, 95 %.",),
            (Table(("System", *SHARE_HEAD, "Model minus this", ""), tuple(rows)),),
            others=left_over(result, "problems", "systems", "differences"),
        )

    def show(self, sample: dict[str, Any]) -> Sample:
        """A sample that `samples` made, as the report draws it."""
        return msgspec.convert(sample, Sample)

    def brief(self, result: dict[str, Any]) -> dict[str, Any]:
        """What `stats.json` holds of the statistics of a task that keeps details."""
        return result

    def _lacks(self, method: str) -> UserError:
        return UserError(f"task {self.name}: its class has no method {method}; examples/own_task.py shows one")

    # What the evaluation calls.

    @property
    def title(self) -> str:
        """The heading of its section."""
        return self.heading or self.name

    def measure(self, subject: Subject) -> Measured:
        """Ask, judge, sum up.

        Raises:
            NotRunError: the task cannot run on what is there.
        """
        # Everything is in the order of the problems, for every system.
        problems = self.problems(subject)
        if not len(problems):
            raise NotRunError("it has no problems")
        # Found before a model writes for hours.
        if type(self).judge is Task.judge:
            raise self._lacks("judge")
        answers = self.answers(subject, problems)
        verdicts = {name: self.judge(problems, given) for name, given in answers.items()}
        return Measured(
            self.summary(subject, problems, answers, verdicts),
            self.samples(problems, answers, verdicts) if self.keeps_samples else None,
        )


def take_turns(ranked: Sequence[Sequence[T]], count: int) -> list[T]:
    """The first of every list, then the second of every list that has one, and so on until there are `count`.

    If each list holds what one file offers, every file is asked once before any is asked twice: the problems are as
    independent as the files allow.
    """
    # An absent entry is told from a real one by identity, so entries may be anything.
    absent: Any = object()
    turns = itertools.chain.from_iterable(itertools.zip_longest(*ranked, fillvalue=absent))
    return list(itertools.islice((item for item in turns if item is not absent), count))


def _sample(prompt: Prompt, answer: str, good: bool) -> Sample:
    # The text next to the answer says most about it.
    after = (prompt.after or "")[: SAMPLE_CHARACTERS // 2]
    texts = [Text(prompt.before[-SAMPLE_CHARACTERS:]), Text(answer, made=True), *([Text(after)] if after else [])]
    return Sample("correct" if good else "wrong", good, tuple(texts))
