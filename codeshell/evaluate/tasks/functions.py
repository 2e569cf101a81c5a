"""Generated functions that parse: give a held-out Python header, let the model write the body, ask `ast`.

The prompt is the header (with its docstring, without decorators, moved to column 0) without its last newline: the
tokenizer joins that newline with the indentation that follows, so a prompt with it would end in half a token.
Sampling is at temperature 0.2, top-p 0.95 (the released evaluation script's), one sample per header. The answer is cut
where it comes back to column 0; one that is stopped by the token limit loses its last, unfinished line. It counts if
`ast.parse` accepts it as one function with at least one statement beside the docstring. Nothing is executed, so this
says that the syntax is right and no more.

The baselines on the same headers, with the same cut, are the model before training and the byte model of order 3.

Its statistics:

    {"headers", "files", "with_docstring", "protocol",
     "systems": {"model" | "untrained" | "byte_model": {"parses": {"count", "n", "share", "interval"}, "finished",
                                                        "finished_and_parses", "verdicts": {verdict: count}}},
     "differences": {system: {"n", "difference", "p_value", "significant"}}}

Its samples: `{id, path, line, header, body, verdict, finished, untrained, byte_model}`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codeshell.evaluate import claims
from codeshell.evaluate.corpus import Document
from codeshell.evaluate.intervals import compare_shares, share
from codeshell.evaluate.sandbox import parsing
from codeshell.evaluate.section import Sample, Section, Table, Text, difference_cell, left_over, share_row
from codeshell.evaluate.task import SAMPLES, BySystem, NotRunError, Prompt, Sampling, Task, take_turns
from codeshell.randomness import draw

if TYPE_CHECKING:
    from codeshell.evaluate.subject import Subject

TEMPERATURE = 0.2
TOP_P = 0.95

PYTHON_BYTES = 4_194_304
"""Held-out Python that is searched for functions (about 2 s of parsing)."""

SYSTEMS = {
    "model": ("the model", "the model"),
    "byte_model": ("order-3 byte model", "the order-3 byte model"),
    "untrained": ("the model before training", "the model before training"),
}
"""The systems' names in a table and in a sentence."""


@dataclass(frozen=True)
class Header:
    """A prompt: the first lines of a held-out function."""

    document: Document
    line: int
    name: str
    text: str
    documented: bool


@dataclass(frozen=True)
class Body:
    """What was written after a header, cut at the dedent."""

    text: str
    finished: bool
    """It came back to column 0 or to `<|endoftext|>` before the limit."""


class Functions(Task):
    """The task `functions`."""

    name = "functions"
    heading = "Functions that parse"
    samples_heading = "Functions"

    def problems(self, subject: Subject) -> list[Header]:
        if not subject.settings.functions:
            raise NotRunError("evaluate.functions is 0")
        # A header that leaves no room for its body is not asked: the model would see a part of it.
        room = subject.room(self.sampling(subject).max_new_tokens)
        found = find_headers(
            subject.held_out.choose(subject.seed, "functions", max_bytes=PYTHON_BYTES, languages=frozenset(["python"])),
            seed=subject.seed,
            count=subject.settings.functions,
            fits=lambda header: len(subject.tokenizer.encode(header)) <= room,
        )
        if not found:
            raise NotRunError("no held-out Python function (by the column language)")
        return found

    def sampling(self, subject: Subject) -> Sampling:
        limit = min(subject.settings.max_new_tokens, max(1, subject.context // 2))
        return Sampling(limit, TEMPERATURE, TOP_P, enough=dedented)

    def prompts(self, problems: Sequence[Header]) -> list[Prompt]:
        return [Prompt(header.text) for header in problems]

    def answers(self, subject: Subject, problems: Sequence[Header]) -> BySystem:
        sampling, prompts = self.sampling(subject), self.prompts(problems)

        # All models get the same prompts and the same random numbers, so a difference is the weights' alone.
        def bodies(model: Any) -> list[Body]:
            written = subject.complete(prompts, sampling, purpose=self.name, model=model)
            return [cut_at_dedent(completion.text, ended=completion.ended) for completion in written]

        # A baseline that cannot be had (no training split, a model too large for a twin) is left out.
        systems = {"model": bodies(subject.model)}
        twin = subject.untrained
        if twin is not None:
            systems["untrained"] = bodies(twin)
        if subject.byte_model is not None:
            # The byte model writes as many bytes as the model's tokens hold on average in these headers.
            texts = [header.text.encode("utf-8") for header in problems]
            tokens = subject.tokenizer.encode_batch([header.text for header in problems])
            size = sum(map(len, texts)) / sum(map(len, tokens))
            written = subject.byte_model.sample(
                texts,
                max(1, round(sampling.max_new_tokens * size)),
                temperature=TEMPERATURE,
                key=draw(subject.seed, "functions", "byte model"),
            )
            # It always writes as many bytes as it is told: it never ends by itself, and may end inside a character.
            systems["byte_model"] = [cut_at_dedent(data.decode("utf-8", "replace"), ended=False) for data in written]
        return systems

    def judge(self, problems: Sequence[Header], answers: Sequence[Body]) -> list[str]:
        """The verdict of `parsing.verdicts` on each header with its body."""
        return parsing.verdicts([header.text + body.text for header, body in zip(problems, answers, strict=True)])

    def summary(
        self, subject: Subject, problems: Sequence[Header], answers: BySystem, verdicts: BySystem
    ) -> dict[str, Any]:
        return summarise(problems, {name: (answers[name], verdicts[name]) for name in answers}) | {
            "protocol": (
                f"temperature {TEMPERATURE}, top-p {TOP_P} (the byte model: temperature alone), one sample per "
                f"header, at most {self.sampling(subject).max_new_tokens} new tokens, cut at the dedent, parsed by the "
                "ast module, not executed"
            )
        }

    def samples(self, problems: Sequence[Header], answers: BySystem, verdicts: BySystem) -> list[dict[str, Any]]:
        def baseline(name: str, at: int) -> str | None:
            return answers[name][at].text if name in answers else None

        return [
            {
                "id": header.document.id,
                "path": header.document.path,
                "line": header.line,
                "header": header.text,
                "body": answers["model"][at].text,
                "verdict": verdicts["model"][at],
                "finished": answers["model"][at].finished,
                "untrained": baseline("untrained", at),
                "byte_model": baseline("byte_model", at),
            }
            for at, header in enumerate(problems[:SAMPLES])
        ]

    def claims(self, result: dict[str, Any]) -> list[str]:
        systems = result["systems"]
        sentences = [
            "Of the functions that the model writes after held-out function headers, "
            f"{claims.share(systems['model']['parses'])} parse; whether they do what they should is not tested."
        ]
        # The headers are the same for every system, so each comparison is a paired test.
        for name, difference in result["differences"].items():
            sentences.append(claims.against(difference, SYSTEMS[name][1], systems[name]["parses"]))
        return sentences

    def section(self, result: dict[str, Any]) -> Section:
        systems = result["systems"]
        # The rows are in the order of `SYSTEMS`: statistics from a file have lost theirs.
        rows = []
        for name in [name for name in SYSTEMS if name in systems]:
            score, difference = systems[name]["parses"], result["differences"].get(name)
            more = (systems[name]["finished"], difference_cell(difference, percent=True))
            rows.append(share_row(SYSTEMS[name][0], score, *more, strong=name == "model"))
        head = ("System", "Parse", "Share", "95 % interval", "Finished by itself", "Model minus this", "")
        # Why answers do not parse is listed with the other numbers.
        verdicts = {name: system["verdicts"] for name, system in systems.items()}
        return Section(
            self.heading,
            (
                f"The model continues {result['headers']:,} held-out Python function headers; an answer counts if "
                "Python's parser accepts it.",
                "That says that the syntax is right and no more.",
            ),
            (Table(head, tuple(rows)),),
            others={"verdicts": verdicts, **left_over(result, "systems", "differences", "headers")},
        )

    def show(self, sample: dict[str, Any]) -> Sample:
        # Bodies of the baselines stand below: a newcomer sees what a trained model adds.
        return Sample(
            sample["verdict"].replace("_", " "),
            sample["verdict"] == "parsed",
            (Text(sample["header"]), Text(sample["body"], made=True)),
            path=sample["path"],
            line=sample["line"],
            remarks=() if sample["finished"] else ("not finished",),
            notes=tuple(
                (SYSTEMS[name][0], sample[name]) for name in ("untrained", "byte_model") if sample.get(name) is not None
            ),
        )


def find_headers(
    documents: Sequence[Document], *, seed: int, count: int, fits: Callable[[str], bool] = lambda header: True
) -> list[Header]:
    """Choose headers by hash(seed, document id, "functions", line); every file gives one before any gives two.

    Args:
        documents: Python files, in the order in which they are asked.
        seed: decides the choice.
        count: headers at most; fewer where there are no more functions.
        fits: says whether the model's context has room for a header and its body; others are left out.
    """
    # The headers of each file that fit, in the order of their hashes.
    ranked: list[list[Header]] = []
    for document, found in zip(documents, parsing.headers([document.text for document in documents]), strict=True):
        # A file that does not parse has no headers.
        own = [
            Header(document, item["line"], item["name"], item["header"], item["documented"])
            for item in found
            if fits(item["header"])
        ]
        ranked.append(sorted(own, key=lambda item: (draw(seed, item.document.id, "functions", item.line), item.line)))
    return take_turns(ranked, count)


def cut_at_dedent(text: str, *, ended: bool) -> Body:
    """The body in a continuation of a header at column 0.

    The rest of the header's own line belongs to it (`: return x`), then every line that is blank or indented. The
    first other line ends it, whatever it is: a comment or a bracket at column 0 too. Trailing blank lines go.

    Args:
        text: what was written.
        ended: it ended by itself; if not, and if no dedent was reached, its last line is unfinished and left out.
    """
    lines = text.split("\n")
    for number, line in enumerate(lines[1:], start=1):
        # The first line of text at column 0 is the dedent; what stands before it is the body.
        if line.strip() and line[0] not in " \t":
            return Body("\n".join(lines[:number]).rstrip(), True)
    # Nothing came back to column 0. A last line that the token limit cut would be judged for the limit.
    if not ended and len(lines) > 1:
        lines = lines[:-1]
    return Body("\n".join(lines).rstrip(), ended)


def dedented(text: str) -> bool:
    """Whether a continuation has come back to column 0, so that the rest of it would be cut."""
    return re.search(r"\n[^\s]", text) is not None


def summarise(
    found: Sequence[Header], systems: Mapping[str, tuple[Sequence[Body], Sequence[str]]], *, ours: str = "model"
) -> dict[str, Any]:
    """The share that parses under each system, and the paired difference of ours to each of the others.

    Args:
        found: the headers.
        systems: bodies and verdicts of each, in the order of `found`.
        ours: the system that is compared.
    """
    # One boolean per header and system, in the same order: the comparison is paired.
    parsed = {name: [verdict == "parsed" for verdict in judged] for name, (_, judged) in systems.items()}
    # "Finished" is counted apart: a body that the limit cut may parse by luck, as its last line is left out.
    return {
        "headers": len(found),
        "files": len({header.document.id for header in found}),
        "with_docstring": sum(header.documented for header in found),
        "systems": {
            name: {
                "parses": share(sum(parsed[name]), len(found)),
                "finished": sum(body.finished for body in bodies),
                "finished_and_parses": sum(b.finished and p for b, p in zip(bodies, parsed[name], strict=True)),
                "verdicts": dict(sorted(Counter(judged).items())),
            }
            for name, (bodies, judged) in systems.items()
        },
        "differences": {name: compare_shares(parsed[ours], parsed[name]) for name in systems if name != ours},
    }
