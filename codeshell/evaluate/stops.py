"""Where an answer ends: the stop sequences of each set and language, and the cut.

A model that has finished a function writes the next one. A stop sequence is a text that only what follows the answer
begins with; the answer is cut before it. Where braces enclose the answer, it ends with the one that closes it.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True)
class Stops:
    """The stop sequences of an answer."""

    before: tuple[str, ...] = ()
    """The answer ends before the first of these."""
    braces: int = 0
    """Braces that the prompt has opened; the answer ends with the brace that closes the last of them. 0: not looked
    at."""
    quotes: str = '"'
    """Marks that enclose texts, whose braces do not count."""

    def end(self, text: str) -> int | None:
        """The length of the answer at the start of `text`; None while no stop sequence is in it."""
        ends = [at for at in map(text.find, self.before) if at >= 0]
        if self.braces and (closed := _closed(text, self.braces, self.quotes)) is not None:
            ends.append(closed)
        return min(ends) if ends else None

    def cut(self, text: str) -> str:
        """The answer at the start of `text`."""
        return text[: self.end(text)]

    def found(self, text: str) -> bool:
        """Whether the answer has ended, so that generation may stop."""
        return self.end(text) is not None


HUMANEVAL = Stops(("\nclass ", "\nclass\t", "\ndef ", "\n#", "\n@", "\nif ", "\nprint", "\nassert ", "\n```"))
"""The union of what bigcode's and lm-eval's harness stop at: statements in the first column that no body of a function
begins with. A fence ends an answer in Markdown."""

MBPP = Stops(("[DONE]",))
"""The mark that ends every answer of the few-shot prompt (Austin et al. 2021)."""

NOTHING = Stops()
"""Infilling: the end of an answer is the model's to say, with its end-of-text token."""

_HUMANEVAL_X = {
    "cpp": Stops(("\n```",), 1),
    "go": Stops(("\n```",), 1, quotes='"`'),
    "java": Stops(("\n```",), 2),
    "js": Stops(("\n```",), 1, quotes="\"'`"),
    "python": HUMANEVAL,
    "rust": Stops(("\n```",), 1),
}
"""The prompt ends inside a function, in Java inside a method of a class. CodeGeeX counts braces, too, but also those in
texts and comments. A helper that an answer defines after its function is cut, as the field does in every language."""

RUST_FILE = Stops(("\nfn main", "\n#[cfg(test)]", "\n```"))
"""For the few problems in Rust whose function is not the one that the prompt begins: no brace ends the answer."""


def _pieces(quotes: str) -> re.Pattern[str]:
    """What decides which braces count: comments, texts, single characters in single quotes, braces."""
    texts = "".join(rf"|{mark}(?:\\.|[^{mark}\\])*(?:{mark}|\\?\Z)" for mark in quotes)
    # A lifetime of Rust ('a) has no second quote, so it is no character; at the end of the text that is still open.
    character = r"|'(?:\\[^\n][^'\n]{0,8}|[^'\\\n])(?:'|\Z)"
    return re.compile(rf"//[^\n]*|/\*.*?(?:\*/|\Z){texts}{character}|[{{}}]", re.DOTALL)


_PIECES = {quotes: _pieces(quotes) for quotes in {stops.quotes for stops in _HUMANEVAL_X.values()}}


def _closed(text: str, depth: int, quotes: str) -> int | None:
    """Where the `depth` braces that are open before `text` are all closed; None if they are not."""
    for piece in _PIECES[quotes].finditer(text):
        if piece[0] in "{}":
            depth += 1 if piece[0] == "{" else -1
            if not depth:
                return piece.end()
    return None


def humaneval_x(language: str) -> Stops:
    """The stop sequences of HumanEval-X, for one of its languages."""
    return _HUMANEVAL_X[language]


def of_problem(stops: list[str]) -> Stops:
    """The stop sequences that come with a problem, as in MultiPL-E."""
    return Stops(tuple(stop for stop in stops if stop))
