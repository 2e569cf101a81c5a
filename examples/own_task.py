"""An evaluation task of one's own: which module does a held-out Python file import at this place?

    codeshell eval examples/own_task.py:Imports runs/demo

The model sees a file up to the word `import` and has to name the module. The baseline is the module that the training
files import most often. Problems, prompts and judge are all that a task must have: the shares, their intervals, the
tests against baselines, the claims and the section of the report come from `Task`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from codeshell.evaluate.subject import Subject
from codeshell.evaluate.task import NotRunError, Prompt, Sampling, Task

IMPORT = re.compile(r"^import (\w+)", re.MULTILINE)


@dataclass(frozen=True)
class Place:
    """An import statement: the text before its module, and the module."""

    before: str
    module: str


class Imports(Task):
    name = "imports"
    heading = "Name the imported module"

    def problems(self, subject: Subject) -> list[Place]:
        python = frozenset(["python"])
        documents = subject.held_out.choose(subject.seed, self.name, max_bytes=2_000_000, languages=python)
        found = [(document.text, IMPORT.search(document.text)) for document in documents]
        places = [Place(text[: match.start(1)].rstrip(), match[1]) for text, match in found if match]
        if not places:
            raise NotRunError("no held-out Python file with an import statement")
        return places[:100]

    def prompts(self, problems: Sequence[Place]) -> list[Prompt]:
        return [Prompt(place.before) for place in problems]

    def sampling(self, subject: Subject) -> Sampling:
        return Sampling(max_new_tokens=12, enough=lambda text: "\n" in text)

    def answers(self, subject: Subject, problems: Sequence[Place]) -> dict[str, list[str]]:
        counted = Counter(module for document in subject.training_sample for module in IMPORT.findall(document.text))
        usual = counted.most_common(1)[0][0] if counted else ""
        return super().answers(subject, problems) | {"the most common module": [usual] * len(problems)}

    def judge(self, problems: Sequence[Place], answers: Sequence[str]) -> list[bool]:
        first = [re.match(r"\s*(\w+)", answer) for answer in answers]
        return [word is not None and word[1] == place.module for word, place in zip(first, problems, strict=True)]
