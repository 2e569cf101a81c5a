"""Reference code without labels: a sample of files that are known to be good, and of files that are known to be bad.

A few hundred labels come from two dozen repositories, and a model of their n-grams learns the style of these. Files
of other repositories whose level is known only roughly (libraries that many people use; collections of exercises and
first contributions) teach it more: the n-gram head learns from them beside the labels, with a small weight, and one
more score tells the two sides apart. No reference file may be of a labelled repository: the caller answers for that,
and texts that are labelled are left out here.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from codeshell.documents import languages
from codeshell.documents.batches import texts
from codeshell.documents.inputs import InputOptions, plan
from codeshell.documents.shards import document_id
from codeshell.errors import UserError
from codeshell.randomness import draw

SAMPLE = 300
"""Files of one language and side, at most."""

BYTES = (150, 40_000)
"""Smaller files say nothing, larger ones are mostly tables and generated."""

LEAST_FILES = 100
"""Files of a side of a language from which it weighs as much as any other; with fewer it weighs less."""


@dataclass(frozen=True)
class Reference:
    """Files of both sides."""

    texts: tuple[str, ...]
    sides: NDArray[np.float64]
    """(files,): 1 good, -1 bad."""
    weights: NDArray[np.float64]
    """(files,), mean 1: each side of each language weighs the same."""
    counts: dict[str, dict[str, int]]
    """Language to the number of files by side."""


def read_reference(
    good: Sequence[str], bad: Sequence[str], labelled: Collection[str], sample: int = SAMPLE
) -> Reference:
    """Sample reference code by the hash of its text.

    Args:
        good, bad: inputs as of `codeshell dedup`: folders, files of rows, globs.
        labelled: ids of texts that are left out.
        sample: files of one language and side at most.

    Raises:
        UserError: a side has no file, or no language is on both sides.
    """
    taken = set(labelled)
    sides = {1.0: _sample(good, taken, sample), -1.0: _sample(bad, taken, sample)}
    both = sorted(set(sides[1.0]) & set(sides[-1.0]))
    if not both:
        raise UserError("--good and --bad: no language has files on both sides; name code of the same languages")
    found: list[str] = []
    signs: list[float] = []
    weights: list[float] = []
    counts: dict[str, dict[str, int]] = {}
    # A language of one side alone would teach the language, not the quality.
    for language in both:
        counts[language] = {"good": len(sides[1.0][language]), "bad": len(sides[-1.0][language])}
        for sign, by_language in sides.items():
            files = by_language[language]
            found += files
            signs += [sign] * len(files)
            # A handful of files must not weigh as much as hundreds.
            weights += [1 / max(len(files), LEAST_FILES)] * len(files)
    weight = np.array(weights)
    return Reference(tuple(found), np.array(signs), weight / weight.mean(), counts)


def _sample(inputs: Sequence[str], taken: set[str], sample: int) -> dict[str, list[str]]:
    """Language to the files whose ids have the smallest hashes, in their order; each text once."""
    kept: dict[str, list[tuple[int, str]]] = {}
    seen = set(taken)
    options = InputOptions(damaged="skip")
    left_out: Counter[str] = Counter()
    for shard in plan(inputs, options, 64 << 20).shards:
        for row, text in texts(shard, options, left_out):
            if not BYTES[0] <= len(row.text) <= BYTES[1]:
                continue
            name = row.path or row.place
            language = languages.by_label(row.language) if row.language else languages.by_path(name, row.text[:4096])
            key = document_id(row.text)
            if language is None or key in seen:
                continue
            seen.add(key)
            # A heap of the smallest hashes: its top is the largest of them, as a negative number.
            heap = kept.setdefault(language, [])
            entry = (-draw(key, "reference"), text)
            if len(heap) < sample:
                heapq.heappush(heap, entry)
            else:
                heapq.heappushpop(heap, entry)
    if not kept:
        raise UserError(f"{', '.join(inputs)}: no file of {BYTES[0]:,} to {BYTES[1]:,} bytes in a known language")
    return {language: [text for _, text in sorted(heap, reverse=True)] for language, heap in kept.items()}
