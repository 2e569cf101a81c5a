"""Continuations of many prompts on a CPU: a row that ends gives its place to the next prompt.

Prompts are taken in the order of their lengths, so rows that step together are of similar length. A prompt that begins
like one that is being continued copies what it shares, so several answers to one prompt read it once. What a prompt
gets does not depend on the others: its draws are hashed, and its row is computed for itself (but for the rounding of
sums, which may depend on the number of rows).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch

from codeshell.model.cache import RowCache, common
from codeshell.model.reading import MOST, Decoder, go_on
from codeshell.model.sampling import NotFiniteError, sample, uniform

ROWS = 64
"""Rows that step together at most: beyond, a weight is used so often when it is read that more rows gain nothing."""

CACHE_BYTES = 1 << 30
"""Keys and values of all rows."""

FEWEST_SHARED = 16
"""Tokens. Fewer are read again as fast as they are looked for."""


class Sampling(NamedTuple):
    """How tokens are chosen, and where a row ends."""

    max_new_tokens: int
    stop_ids: Collection[int]
    vocabulary: int
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    stop: Callable[[int, list[int]], bool] | None = None
    """Says of a prompt's place in the list and its new tokens that they are enough; the last one is kept."""


@dataclass
class _Row:
    """A prompt that is being continued."""

    index: int
    prompt: Sequence[int]
    new: list[int] = field(default_factory=list)

    @property
    def last(self) -> int:
        """The token that has not been read."""
        return self.new[-1] if self.new else self.prompt[-1]


@torch.inference_mode()
def continue_all(
    decoder: Decoder,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[tuple[int, int]],
    positions: int,
    rows: int = ROWS,
) -> list[list[int]]:
    """New tokens of each prompt, in the order of the prompts, up to the first stop id, which is left out.

    Args:
        prompts: token ids, none empty, each shorter than `positions`.
        seeds: two numbers for each prompt, from which its draws are hashed.
        positions: tokens that a row may have, prompt and answer together.
        rows: how many may step together.

    Raises:
        NotFiniteError: the logits of a prompt are not finite; `row` is its place in the list.
    """
    results: list[list[int]] = [[] for _ in prompts]
    if not prompts or not sampling.max_new_tokens:
        return results
    # Taken from the end: the longest first, so memory is needed at once or never; those of one length in their order.
    waiting = sorted(range(len(prompts)), key=lambda i: (len(prompts[i]), -i))
    capacity = min(max(map(len, prompts)) + sampling.max_new_tokens, positions)
    rows = max(1, min(rows, len(prompts), CACHE_BYTES // (capacity * decoder.token_bytes)))
    cache = decoder.new_cache(rows, capacity)
    active: list[_Row] = []
    while active or waiting:
        while waiting and len(active) < rows:
            index = waiting.pop()
            row = _Row(index, prompts[index], results[index])
            _read_prompt(decoder, cache, row, active)
            active.append(row)
        scores = decoder.step(cache, [row.last for row in active])[:, : sampling.vocabulary]
        draws = [uniform(*seeds[row.index], len(row.new)) for row in active]
        try:
            chosen = sample(scores, sampling.temperature, sampling.top_k, sampling.top_p, draws)
        except NotFiniteError as error:
            row = active[error.row]
            raise NotFiniteError(row.index, f"new token {len(row.new) + 1}") from None
        # From the last row on, so that a row that takes the place of one that has ended has been looked at.
        for place in reversed(range(len(active))):
            row, token = active[place], chosen[place]
            if token not in sampling.stop_ids:
                row.new.append(token)
                more = len(row.new) < sampling.max_new_tokens and len(row.prompt) + len(row.new) < positions
                if more and not (sampling.stop is not None and sampling.stop(row.index, row.new)):
                    continue
            last = active.pop()
            if place < len(active):
                active[place] = last
                cache.move(len(active), place)
    return results


def _read_prompt(decoder: Decoder, cache: RowCache, row: _Row, active: Sequence[_Row]) -> None:
    """Read all of a prompt but its last token into the next place of the cache."""
    place, ids = len(active), list(row.prompt[:-1])
    shared, source = 0, -1
    for other, one in enumerate(active):
        # Most prompts differ soon, and then nothing more is compared.
        if ids[:FEWEST_SHARED] == list(one.prompt[:FEWEST_SHARED]):
            alike = common(ids, one.prompt)
            if alike > shared:
                shared, source = alike, other
    if shared >= FEWEST_SHARED:
        cache.move(source, place, shared)
    else:
        cache.lengths[place] = shared = 0
    for begin in range(shared, len(ids), MOST):
        decoder.read(cache, place, ids[begin : begin + MOST], go_on, False)
