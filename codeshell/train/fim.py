"""Fill-in-the-middle (Bavarian et al. 2022, "Efficient training of language models to fill in the middle").

A document is cut at two characters into prefix, middle and suffix, and written in one of two orders:

    PSM            <fim_prefix> P <fim_suffix> S <fim_middle> M
    SPM variant 2  <fim_prefix><fim_suffix> S <fim_middle> P M

so a left-to-right model learns to write M from what stands on both sides. The cut is in characters, not tokens:
in an editor the cursor may stand inside a token. P, S and M are tokenised separately, as they are at inference. Both
the order and the cut are a hash of (seed, epoch, document), so no worker count, order or resume can change them.
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


def rearrange(text: str, *, seed: int, epoch: int, doc_id: str, fim_rate: float, spm_rate: float) -> Plan:
    """Cut a document at two uniform places in [0, len(text)]; an empty one stays plain.

    Args:
        text: the document.
        seed, epoch, doc_id: all that the draw depends on.
        fim_rate: share of the documents that is rearranged.
        spm_rate: share of those that is written suffix first.
    """
    how = order(seed=seed, epoch=epoch, doc_id=doc_id, fim_rate=fim_rate, spm_rate=spm_rate)
    if how == "plain" or not text:
        return Plan("plain", text)
    # Two independent places, sorted; equal ones make an empty middle, the ends an empty prefix or suffix.
    places = (draw(seed, epoch, doc_id, "fim boundary", side) for side in (0, 1))
    first, second = sorted(below(bits, len(text) + 1) for bits in places)
    return Plan(how, text[:first], text[first:second], text[second:])


def encode(plan: Plan, tokenizer: Tokenizer) -> list[int]:
    """The ids of a document, without the `<|endoftext|>` after it. A rearranged document has three sentinels more."""
    if plan.order == "plain":
        return tokenizer.encode(plan.prefix)
    prefix, middle, suffix = tokenizer.encode_batch([plan.prefix, plan.middle, plan.suffix])
    if plan.order == "psm":
        return [tokenizer.fim_prefix, *prefix, tokenizer.fim_suffix, *suffix, tokenizer.fim_middle, *middle]
    return [tokenizer.fim_prefix, tokenizer.fim_suffix, *suffix, tokenizer.fim_middle, *prefix, *middle]
