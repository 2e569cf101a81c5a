"""What the kinds of requests have in common: what is asked for, and how it is answered."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from codeshell.model.session import Finish
from codeshell.randomness import draw
from codeshell.serve.fields import MAX_SEED, Fields
from codeshell.serve.prompts import Piece, Prepared


@dataclass(frozen=True)
class Served:
    """What the requests are read with.

    Attributes:
        name: of the model, in answers.
        created: when its files were written, in seconds since 1970.
        context: tokens that it holds at once.
        new_tokens: of an answer for which a request names no number.
        most_new_tokens: of any answer.
        temperature: for requests that name none.
        lenient: let unknown fields pass.
    """

    name: str
    context: int
    created: int = 0
    new_tokens: int = 256
    most_new_tokens: int = 4096
    temperature: float = 0.0
    lenient: bool = False


@dataclass
class Result:
    """A generation as far as it has come.

    Attributes:
        number: of the generation in its request.
        parts: the text so far, in pieces.
        finish: how it ended; None while it runs.
    """

    number: int
    prepared: Prepared
    parts: list[str] = field(default_factory=list)
    finish: Finish | None = None

    @property
    def text(self) -> str:
        return "".join(self.parts)

    @property
    def prompt_tokens(self) -> int:
        return len(self.prepared.ids)

    @property
    def new_tokens(self) -> int:
        return self.finish.new_tokens if self.finish else 0


class Style(Protocol):
    """How a kind of client reads its answer: objects for JSON, which a stream sends as events."""

    def whole(self, results: Sequence[Result]) -> Any:
        """The answer in one object."""

    def begin(self, results: Sequence[Result]) -> list[Any]:
        """Events before the first text."""

    def chunk(self, result: Result, text: str) -> list[Any]:
        """Events for new text."""

    def last(self, result: Result) -> list[Any]:
        """Events for the end of a generation."""

    def end(self, results: Sequence[Result]) -> list[Any]:
        """Events at the end of the request; a text among them is sent as it is, without quotes."""


@dataclass(frozen=True)
class Order:
    """A request that has been read.

    Attributes:
        pieces: its generations, one after another.
        style: how it is answered.
        stream: whether as events.
    """

    pieces: tuple[Piece, ...]
    style: Style
    stream: bool = False


@dataclass
class Numbers:
    """Numbers of requests: names of answers, and seeds for requests that name none."""

    last: int = field(default=0)

    def next(self) -> int:
        self.last += 1
        return self.last


def read_seed(fields: Fields, name: str, number: int) -> int:
    """A seed. Without one, or with -1, each request has its own of 31 bits: a hash of its
    number."""
    seed = fields.whole(name, -1, -1, MAX_SEED)
    return draw("request", number) >> 33 if seed == -1 else seed


def read_temperature(fields: Fields, default: float) -> float:
    """A temperature; 0 takes the likeliest token. Below 0.001 the likeliest is all that is left, too."""
    temperature = fields.number("temperature", default, 0.0, 100.0)
    return 0.0 if temperature < 1e-3 else temperature


def limited(asked: int, served: Served) -> int:
    """Tokens of an answer: what was asked for, up to what the model holds; -1 is as many as there may be."""
    most = min(served.most_new_tokens, served.context)
    return most if asked == -1 else min(asked, most)


def usage(results: Sequence[Result]) -> dict[str, Any]:
    """Tokens as OpenAI counts them. Completions that stand for several count once: they were computed once."""
    prompt = sum(result.prompt_tokens for result in results)
    new = sum(result.new_tokens for result in results)
    cached = sum(result.finish.cached_tokens for result in results if result.finish)
    return {
        "prompt_tokens": prompt,
        "completion_tokens": new,
        "total_tokens": prompt + new,
        "prompt_tokens_details": {"cached_tokens": cached},
    }


def openai_reason(finish: Finish | None) -> str:
    """`stop` where the text ended by itself, `length` where it was ended."""
    return "stop" if finish is not None and finish.reason == "stop" else "length"
