"""Fill-in-the-middle (Bavarian et al. 2022, "Efficient training of language models to fill in the middle").

A document is cut at two characters into prefix, middle and suffix, and written in one of two orders:

    PSM            <fim_prefix> P <fim_suffix> S <fim_middle> M
    SPM variant 2  <fim_prefix><fim_suffix> S <fim_middle> P M

so a left-to-right model learns to write M from what stands on both sides. The cut is in characters, not tokens:
in an editor the cursor may stand inside a token. P, S and M are tokenised separately, as they are at inference. Both
the order and the cut are a hash of (seed, epoch, document), so no worker count, order or resume can change them.

A share of the documents is cut at the borders of lines instead: the middle is one line, or a few, without its newline.
That is what an editor asks for most, and what the task `infill` asks; of two places anywhere, almost none are so near.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from codeshell.randomness import below, draw

if TYPE_CHECKING:
    from codeshell.tokenizer import Tokenizer

Order = Literal["plain", "psm", "spm"]


@dataclass(frozen=True)
class Plan:
    """A document and the order in which it is written. `prefix + middle + suffix` is the text; a plain document is all
    prefix."""

    order: Order
    prefix: str
    middle: str = ""
    suffix: str = ""


def order(*, seed: int, epoch: int, doc_id: str, fim_rate: float, spm_rate: float) -> Order:
    """The order in which this document is written in this epoch. No text is needed: plain ones are never decoded."""
    # Draws are uniform in [0, 2^64), so the rates are compared on that scale. The two draws hash different purposes,
    # "fim" and "spm", so they are independent.
    if draw(seed, epoch, doc_id, "fim") >= fim_rate * 2.0**64:
        return "plain"
    return "spm" if draw(seed, epoch, doc_id, "spm") < spm_rate * 2.0**64 else "psm"


def rearrange(
    text: str, *, seed: int, epoch: int, doc_id: str, fim_rate: float, spm_rate: float, fim_lines: float = 0.0
) -> Plan:
    """Cut a document at two uniform places in [0, len(text)], or around whole lines; an empty one stays plain.

    Args:
        text: the document.
        seed, epoch, doc_id: all that the draw depends on.
        fim_rate: share of the documents that is rearranged.
        spm_rate: share of those that is written suffix first.
        fim_lines: share of those, whatever their order, that is cut around lines, if one has more than blanks.
    """
    how = order(seed=seed, epoch=epoch, doc_id=doc_id, fim_rate=fim_rate, spm_rate=spm_rate)
    if how == "plain" or not text:
        return Plan("plain", text)
    if fim_lines and draw(seed, epoch, doc_id, "fim lines") < fim_lines * 2.0**64:
        bits = (draw(seed, epoch, doc_id, "fim line", purpose) for purpose in ("first", "count"))
        if span := _lines(text, *bits):
            return Plan(how, text[: span[0]], text[span[0] : span[1]], text[span[1] :])
    # Two independent places, sorted; equal ones make an empty middle, the ends an empty prefix or suffix.
    places = (draw(seed, epoch, doc_id, "fim boundary", side) for side in (0, 1))
    first, second = sorted(below(bits, len(text) + 1) for bits in places)
    return Plan(how, text[:first], text[first:second], text[second:])


def _lines(text: str, first: int, count: int) -> tuple[int, int] | None:
    """Begin and end of lines in a text, without the newline of the last; None if there are only blanks.

    Args:
        first: 64 random bits, for the first line: any with more than blanks, each as likely as the others.
        count: 64 random bits, for their number: one in three of four cases, two in three of the others, and so on.
    """
    lines = text.split("\n")
    filled = [number for number, line in enumerate(lines) if line and not line.isspace()]
    if not filled:
        return None
    number = filled[below(first, len(filled))]
    last = number
    while count & 3 == 3 and last + 1 < len(lines):
        last, count = last + 1, count >> 2
    begin = sum(len(line) + 1 for line in lines[:number])
    return begin, begin + sum(len(line) + 1 for line in lines[number : last + 1]) - 1


def encode(plan: Plan, tokenizer: Tokenizer) -> list[int]:
    """The ids of a document, without the `<|endoftext|>` after it. A rearranged document has three sentinels more."""
    if plan.order == "plain":
        return tokenizer.encode(plan.prefix)
    prefix, middle, suffix = tokenizer.encode_batch([plan.prefix, plan.middle, plan.suffix])
    if plan.order == "psm":
        return [tokenizer.fim_prefix, *prefix, tokenizer.fim_suffix, *suffix, tokenizer.fim_middle, *middle]
    return [tokenizer.fim_prefix, tokenizer.fim_suffix, *suffix, tokenizer.fim_middle, *prefix, *middle]
