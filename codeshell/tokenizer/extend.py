"""A tokenizer extended by continuing its training on new texts.

The words of the new texts are first merged by the base. New merges are then learnt over the base's tokens, exactly as
BPE training would continue from there, and stand after all of the base's. So the result is closed (every part of a
merge is a byte or was made before), no token is made in two ways, and each new token is reached by its own text. A text
gets the ids that the base gives it unless a new merge applies, and then it gets fewer: no text becomes longer.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from codeshell import _C
from codeshell.documents.texts import Texts
from codeshell.errors import UserError
from codeshell.tokenizer.rebuild import rebuild
from codeshell.tokenizer.repair import Findings, Repairs, inspect, repair
from codeshell.tokenizer.rules import Rule, from_symbols, in_symbols
from codeshell.tokenizer.tokenizer import Tokenizer
from codeshell.tokenizer.words import Counted, Words

MIN_FREQUENCY = 2
"""Occurrences that a pair needs, as in `codeshell tokenizer train`: from one it would be a copy of that place."""

Specials = Literal["keep", "end"]


@dataclass(frozen=True)
class Extension:
    """An extended tokenizer, and how it came about.

    Attributes:
        tokenizer: the result.
        findings: what was wrong with the base.
        repairs: what was done about it first; None if nothing was, or if it was not wanted.
        added: new tokens from the texts, in the order in which they were learnt, with their ids.
        words: different words of the texts.
    """

    tokenizer: Tokenizer
    findings: Findings
    repairs: Repairs | None
    added: dict[str, int]
    words: int

    def to_dict(self) -> dict[str, Any]:
        """For a JSON file."""
        return {
            "base": self.findings.to_dict(),
            "repairs": None if self.repairs is None else self.repairs.to_dict(),
            "added": len(self.added),
            "words": self.words,
            "vocab_size": self.tokenizer.vocab_size,
            "base_vocab_size": self.tokenizer.base_vocab_size,
            "hash": self.tokenizer.hash,
        }


def check_size(base: Tokenizer, vocab_size: int, origin: str) -> None:
    """Refuse a size that leaves no place for a new token.

    Raises:
        UserError: no more than the base has.
    """
    if vocab_size <= base.base_vocab_size:
        raise UserError(
            f"--vocab-size {vocab_size}: {origin} has {base.base_vocab_size:,} tokens without the special ones; ask "
            "for more than that"
        )


def extend(
    base: Tokenizer,
    batches: Iterable[Texts],
    vocab_size: int,
    *,
    specials: Specials = "keep",
    repairing: bool = True,
) -> Extension:
    """Continue training until there are `vocab_size` tokens or no pair occurs twice.

    The result depends only on the base, the texts and the arguments: not on the order of the texts or their batches.

    Args:
        base: byte-level BPE.
        batches: lists of texts.
        vocab_size: tokens of the result, the special ones left out; above `base.base_vocab_size`.
        specials: whether special tokens keep their ids (new tokens come after all ids that there are), or move to the
            end (new tokens come after those that text yields, and fill the places that the special tokens leave).
        repairing: whether the base is repaired first (see codeshell/tokenizer/repair.py). What is revived and the
            missing bytes count among the `vocab_size`.

    Raises:
        UserError: `vocab_size` is too small.
    """
    if specials not in ("keep", "end"):
        raise ValueError(f"specials: {specials!r} is neither 'keep' nor 'end'")
    check_size(base, vocab_size, "the base")
    findings = inspect(base)
    repairs: Repairs | None = None
    if repairing and not findings.clean:
        base, repairs = repair(base, findings)
        if vocab_size < base.base_vocab_size:
            raise UserError(
                f"--vocab-size {vocab_size}: the repaired base has {base.base_vocab_size:,} tokens; ask for more, or "
                "do not repair it (--no-repair)"
            )
    counted = Words(base).count(batches)
    learnt = _learn(base, counted, vocab_size - base.base_vocab_size)
    return _assemble(base, findings, repairs, learnt, specials, len(counted.counts))


def _learn(base: Tokenizer, counted: Counted, wanted: int) -> list[Rule]:
    """New merges in order, which make `wanted` tokens, or as many as there are.

    Raises:
        UserError: a new token would be a special one.
    """
    vocabulary: dict[str, int] = base.core()["model"]["vocab"]
    # The learner numbers tokens without holes. What is no sequence of bytes is in no word.
    names: list[bytes] = []
    number = np.zeros(base.vocab_size, np.uint32)
    for token, index in sorted(vocabulary.items(), key=lambda item: item[1]):
        data = None if token in base.added_text else from_symbols(token)
        if data is not None:
            number[index] = len(names)
            names.append(data)
    # A token of the base that no merge makes (it was left dead, or is found only as a whole word) may get its merge
    # here; then it keeps its id, and counts as no new one.
    names, merges = _C.bpe.learn(
        number[counted.ids], counted.offsets, counted.counts, names, len(names) + wanted, MIN_FREQUENCY
    )
    for _, _, product in merges.tolist():
        name = names[product].decode("utf-8", errors="replace")
        if name in base.specials:
            raise UserError(
                f"{name}: the new texts spell this special token so often that it would become an ordinary one; take "
                "it out of them"
            )
    return [(in_symbols(names[left]), in_symbols(names[right])) for left, right, _ in merges.tolist()]


def _assemble(
    base: Tokenizer,
    findings: Findings,
    repairs: Repairs | None,
    learnt: list[Rule],
    specials: Specials,
    words: int,
) -> Extension:
    """The tokenizer with the new merges; ids of new tokens are given in the order of learning."""
    core = base.core()
    vocabulary: dict[str, int] = core["model"]["vocab"]
    new = [a + b for a, b in learnt if a + b not in vocabulary]
    free = [] if repairs is None else repairs.free_ids
    # New ids begin after all others. A free id may lie there, if the last token of the base has left.
    end = base.vocab_size
    placed = dict(base.specials)
    if specials == "end":
        # The special tokens leave their places, which new tokens take; they follow all of them in their old order.
        end = 1 + max([-1, *vocabulary.values()])
        free = [*free, *base.specials.values()]
    ids = [*sorted(index for index in free if index < end), *range(end, end + len(new))][: len(new)]
    if specials == "end":
        first = 1 + max([end - 1, *ids])
        placed = {name: first + number for number, name in enumerate(base.specials)}
    added = dict(zip(new, ids, strict=True))
    merges = [(a, b) for a, b in core["model"]["merges"]]
    result = rebuild(base, vocabulary | added, [*merges, *learnt], placed)
    return Extension(result, findings, repairs, added, words)
