"""Modified Kneser-Ney smoothing as the papers define it, slowly, in fractions: the reference of the trainer.

Sources: Chen and Goodman (1998), equation 26 and section 3; Heafield et al. (2013), section 3, for the counts of what
begins with <s>, the uniform distribution below order 1, and pruning.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from fractions import Fraction
from typing import NamedTuple

Gram = tuple[str, ...]


class Model(NamedTuple):
    probabilities: dict[Gram, Fraction]
    """For each n-gram that is kept; <s> has 1."""
    backoffs: dict[Gram, Fraction]
    """For each context; 1 for all other n-grams."""
    ngrams: list[int]
    """Different n-grams of each order, before pruning; with <unk> and <s>."""
    counts: list[list[int]]
    """For each order, the n-grams with the adjusted counts 1 to 4."""
    discounts: list[list[Fraction]]
    """For each order, those of the counts 1, 2, and 3 and more."""
    fallback: list[bool]
    """For each order, whether the discounts could not be computed."""


def kneser_ney(documents: Sequence[Sequence[str]], order: int, prune: Sequence[int] = ()) -> Model:
    prune = [*prune, *[prune[-1] if prune else 0] * (order - len(prune))]
    # How often each n-gram of each order occurs. Only its first word may be <s>, and <s> alone is no n-gram.
    occurs: Counter[Gram] = Counter()
    for document in documents:
        words = ("<s>", *document, "</s>")
        for end in range(2, len(words) + 1):
            for size in range(1, min(order, end) + 1):
                occurs[words[end - size : end]] += 1
    # Below the highest order: how many different words stand before it; after <s>, how often it occurs.
    before: dict[Gram, set[str]] = defaultdict(set)
    for gram in occurs:
        before[gram[1:]].add(gram[0])
    adjusted = {
        gram: count if len(gram) == order or gram[0] == "<s>" else len(before[gram]) for gram, count in occurs.items()
    }
    by_order = [[gram for gram in adjusted if len(gram) == size] for size in range(1, order + 1)]
    ngrams = [len(grams) for grams in by_order]
    ngrams[0] += 2
    counts, discounts, fallback = [], [], []
    for grams in by_order:
        n = Counter(adjusted[gram] for gram in grams)
        counts.append([n[count] for count in range(1, 5)])
        found = [Fraction(1, 2), Fraction(1), Fraction(3, 2)]
        usable = bool(n[1] and n[2] and n[3])
        if usable:
            y = Fraction(n[1], n[1] + 2 * n[2])
            tried = [count - (count + 1) * y * Fraction(n[count + 1], n[count]) for count in range(1, 4)]
            usable = all(0 <= one <= count for count, one in enumerate(tried, 1))
            found = tried if usable else found
        discounts.append(found)
        fallback.append(not usable)

    probabilities: dict[Gram, Fraction] = {("<s>",): Fraction(1)}
    backoffs: dict[Gram, Fraction] = {}
    lowest = Fraction(1, ngrams[0] - 1)
    for size in range(1, order + 1):
        contexts: dict[Gram, list[Gram]] = defaultdict(list)
        for gram in by_order[size - 1]:
            contexts[gram[:-1]].append(gram)
        for context, grams in contexts.items():
            total = sum(adjusted[gram] for gram in grams)
            gone = {gram: size > 1 and occurs[gram] <= prune[size - 1] for gram in grams}
            take = {gram: discounts[size - 1][min(adjusted[gram], 3) - 1] for gram in grams}
            left = sum(adjusted[gram] if gone[gram] else take[gram] for gram in grams) / Fraction(total)
            backoffs[context] = left
            for gram in grams:
                if not gone[gram]:
                    shorter = lowest if size == 1 else probabilities[gram[1:]]
                    probabilities[gram] = (adjusted[gram] - take[gram]) / Fraction(total) + left * shorter
    probabilities[("<unk>",)] = backoffs[()] * lowest
    return Model(probabilities, backoffs, ngrams, counts, discounts, fallback)
