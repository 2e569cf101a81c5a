"""Generated functions that parse: give a held-out Python header, let the model write the body, ask `ast`.

The prompt is the header (with its docstring, without decorators, moved to column 0), without the newline behind it:
the tokenizer joins that newline with the indentation that follows, so a prompt with it would end in half a token.
Sampling is at temperature 0.2, top-p 0.95 (the released evaluation script's), one sample a header. The answer is cut
where it comes back to column 0; one that is stopped by the token limit loses its last, unfinished line. It counts if
`ast.parse` accepts it as one function with at least one statement beside the docstring. Nothing is executed, so this
says that the syntax is right and no more.

Baselines on the same headers, with the same cut: the model before training, and the byte model of order 3.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from codeshell.evaluate.corpus import Document
from codeshell.evaluate.intervals import compare_shares, share
from codeshell.evaluate.sandbox.parsing import headers, verdicts
from codeshell.randomness import draw

TEMPERATURE = 0.2
TOP_P = 0.95


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
    """What was written behind a header, cut at the dedent."""

    text: str
    finished: bool
    """It came back to column 0 or to `<|endoftext|>` before the limit."""


def find_headers(
    documents: Sequence[Document], *, seed: int, count: int, fits: Callable[[str], bool] = lambda header: True
) -> list[Header]:
    """Choose headers by hash(seed, document id, "functions", line); every file gives one before any gives two.

    Args:
        documents: Python files, in the order in which they are asked.
        seed: of the run.
        count: headers at most; fewer where there are no more functions.
        fits: says whether the model's context has room for a header and its body; others are left out.
    """
    ranked: list[list[Header]] = []
    for document, found in zip(documents, headers([document.text for document in documents]), strict=True):
        own = [
            Header(document, item["line"], item["name"], item["header"], item["documented"])
            for item in found
            if fits(item["header"])
        ]
        ranked.append(sorted(own, key=lambda item: (draw(seed, item.document.id, "functions", item.line), item.line)))
    chosen: list[Header] = []
    turn = 0
    while len(chosen) < count and any(turn < len(own) for own in ranked):
        chosen += [own[turn] for own in ranked if turn < len(own)]
        turn += 1
    return chosen[:count]


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
        if line.strip() and line[0] not in " \t":
            return Body("\n".join(lines[:number]).rstrip(), True)
    if not ended and len(lines) > 1:
        lines = lines[:-1]
    return Body("\n".join(lines).rstrip(), ended)


def dedented(text: str) -> bool:
    """Whether a continuation has come back to column 0, so that the rest of it would be cut."""
    return re.search(r"\n[^\s]", text) is not None


def judge(found: Sequence[Header], bodies: Sequence[Body]) -> list[str]:
    """The verdict (`parsing.verdicts`) on each header with its body."""
    return verdicts([header.text + body.text for header, body in zip(found, bodies, strict=True)])


def summarise(
    found: Sequence[Header], systems: Mapping[str, tuple[Sequence[Body], Sequence[str]]], *, ours: str = "model"
) -> dict[str, Any]:
    """The share that parses under each system, and the paired difference of ours to each of the others.

    Args:
        found: the headers.
        systems: bodies and verdicts of each, in the order of `found`.
        ours: the system that is compared.
    """
    parsed = {name: [verdict == "parsed" for verdict in judged] for name, (_, judged) in systems.items()}
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
