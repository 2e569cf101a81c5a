"""The most likely answer as a whole, by a beam search over the tokens of one prompt.

Greedy decoding takes the most likely token at each place, and so begins long answers whose single tokens are likely and
whose product is not. Where an answer counts only if all of it is right, the best answer to give is the one with the
highest probability as a whole, its end included. A weak model spreads its probability over many long answers, so the
two differ most there.

Shapes in this file: R rows, the beginnings of answers that are still open; V ids that may be produced.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from codeshell.model.cache import KVCache
from codeshell.model.precision import autocast


@torch.inference_mode()
def most_likely(
    model: Any,
    prompt: Sequence[int],
    *,
    width: int,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    vocabulary: int,
    counts: Callable[[list[int]], bool] = lambda ids: True,
) -> list[int]:
    """The most likely answer among those that a beam of `width` rows meets, without the token that ends it.

    The search is over when no open row is as likely as the best answer that has ended: a row only becomes less likely.
    It is exact where `width` rows are never too few.

    Args:
        model: a `CodeShellForCausalLM` in evaluation mode.
        prompt: token ids, at least one; with `max_new_tokens` more they fit the model's context.
        width: rows that are kept after each token.
        max_new_tokens: an answer that has not ended by then is the most likely open row.
        stop_ids: any of them ends an answer.
        vocabulary: ids at or above it (padding of the embedding) are never produced.
        counts: of an answer's ids; one that does not count is passed over.
    """
    device = next(model.parameters()).device
    stops = torch.tensor([token for token in sorted(stop_ids) if token < vocabulary], dtype=torch.int64, device=device)
    with autocast("auto", device):
        dtype = torch.get_autocast_dtype(device.type) if torch.is_autocast_enabled(device.type) else model.dtype
        cache = KVCache(model.config, 1, len(prompt) + max_new_tokens, dtype=dtype, device=device)
        read = torch.tensor([list(prompt)], dtype=torch.int64, device=device)
        rows: list[list[int]] = [[]]
        scores = torch.zeros(1, device=device)  # (R,): log probability of each row, nats
        best: list[int] | None = None
        best_score = -math.inf
        while True:
            # Log probabilities of the next token, (R, V).
            logits = model(read, cache=cache, return_logits="last").logits[:, 0, :vocabulary].float()
            follows = scores[:, None] + torch.log_softmax(logits, dim=-1)
            # Answers that end here. Which of the special tokens ends one does not matter, so they are added up.
            ends = torch.logsumexp(follows[:, stops], dim=-1).tolist()
            for row, score in zip(rows, ends, strict=True):
                if score > best_score and counts(row):
                    best, best_score = row, score
            # The most likely rows of one token more, the best first.
            follows[:, stops] = -math.inf
            found, places = follows.flatten().topk(min(width, follows.numel()))
            kept = found > best_score
            if len(rows[0]) + 1 > max_new_tokens or not bool(kept.any()):
                return rows[int(scores.argmax())] if best is None else best
            scores, places = found[kept], places[kept]
            parents, tokens = places // vocabulary, places % vocabulary
            rows = [[*rows[parent], token] for parent, token in zip(parents.tolist(), tokens.tolist(), strict=True)]
            # Each row continues with the keys and values of the row that it comes from.
            for kind in (cache.keys, cache.values):
                kind[:] = [layer[parents] for layer in kind]
            cache.lengths = cache.lengths[parents]
            read = tokens[:, None]
