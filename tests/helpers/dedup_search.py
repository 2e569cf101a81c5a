"""Helpers of the search's tests: corpora, a reader of texts in memory, and the outcome by definition."""

from __future__ import annotations

import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from codeshell.dedup.parameters import Parameters
from codeshell.dedup.search import Found, Search, search
from codeshell.documents.batches import Batch
from codeshell.engine import LocalEngine


def variants(originals: int, copies: int, seed: int, words: int = 60) -> list[str]:
    """Texts of random words, and edited copies of them and of one another, shuffled."""
    choice = random.Random(seed)
    texts = [" ".join(f"w{choice.randrange(10**6)}" for _ in range(words)) for _ in range(originals)]
    for _ in range(copies):
        parts = choice.choice(texts).split(" ")
        for _ in range(choice.randrange(5)):
            parts[choice.randrange(len(parts))] = f"x{choice.randrange(10**6)}"
        texts.append(" ".join(parts))
    choice.shuffle(texts)
    return texts


def shingle_set(text: str, ngram: int = 5) -> set[tuple[str, ...]]:
    """The shingles of a text whose tokens are words between blanks."""
    tokens = text.split()
    size = min(ngram, len(tokens))
    return {tuple(tokens[i : i + size]) for i in range(len(tokens) - size + 1)} if tokens else set()


def by_definition(texts: list[str], threshold: float, order: list[int] | None = None) -> dict[int, tuple[int, float]]:
    """{dropped: (kept, Jaccard)} of the rule "kept": all pairs, documents in `order`."""
    sets = [shingle_set(text) for text in texts]
    kept: list[int] = []
    dropped: dict[int, tuple[int, float]] = {}
    equal: dict[frozenset[tuple[str, ...]], int] = {}
    for document in range(len(texts)) if order is None else order:
        key = frozenset(sets[document])
        first = equal.setdefault(key, document)
        if first != document:  # documents of equal shingles share one answer
            dropped[document] = dropped.get(first, (first, 1.0))
            continue
        best = (-1, 0.0)
        for other in kept:
            shared = len(sets[document] & sets[other])
            jaccard = shared / (len(sets[document]) + len(sets[other]) - shared)
            if jaccard >= threshold and jaccard > best[1]:
                best = (other, jaccard)
        if best[0] < 0:
            kept.append(document)
        else:
            dropped[document] = best
    return dropped


def read_texts(shard: list[str] | list[tuple[str, Any]], wanted: frozenset[str]) -> Iterator[Batch]:
    """A reader: a shard is a list of texts, or of (text, order value)."""
    texts = [row[0] if isinstance(row, tuple) else row for row in shard]
    values = [row[1] if isinstance(row, tuple) else 0 for row in shard]
    for start in range(0, len(texts), 7):
        part = slice(start, start + 7)
        rows = np.arange(start, min(start + 7, len(texts)), dtype=np.int64)
        yield Batch(
            rows=rows,
            texts=pa.array(texts[part], pa.large_string()),
            ids=pa.array([f"id{hash(text) & 0xFFFF}" for text in texts[part]]) if "id" in wanted else None,
            order=pa.array(values[part]) if "order" in wanted else None,
            left_out={},
        )


def cut(items: list[Any], bounds: list[int]) -> list[list[Any]]:
    """The items in consecutive shards."""
    return [items[a:b] for a, b in pairwise([0, *sorted(bounds), len(items)])]


def run(
    directory: Path, shards: list[list[Any]], parameters: Parameters, *, workers: int = 1, **settings: Any
) -> Found:
    """Search over shards in memory."""
    directory.mkdir(parents=True, exist_ok=True)
    with LocalEngine(workers) as engine:
        return search(Search(shards, read_texts, directory, parameters, **settings), engine)


def answer(found: Found) -> dict[int, tuple[int, float]]:
    """{dropped: (kept, Jaccard)}."""
    dropped, kept, jaccard = found.decisions
    return {int(d): (int(k), float(j)) for d, k, j in zip(dropped, kept, jaccard, strict=True)}
