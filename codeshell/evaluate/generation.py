"""Continuations of many prompts at once, in batches of similar length that are padded on the left."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from codeshell.model import batches
from codeshell.model.precision import autocast
from codeshell.model.reading import Decoder
from codeshell.randomness import draw

LOGIT_ELEMENTS = 67_108_864
"""Tokens of one batch times vocabulary, padding and new tokens included (256 MB of fp32): a bound on the prefill."""

GPU_TOKENS = 65_536
"""Tokens of one batch on a GPU, where a batch of one would leave it idle: 64 answers of 1,024 tokens with their
prompts, whose keys and values take 11 GB for a model of 7B in groups. Only the last logits of a prompt are computed.
If the memory is not enough, half of the batch is tried."""


@torch.inference_mode()
def generate(
    model: Any,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    stop_ids: frozenset[int],
    pad: int,
    vocabulary: int,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    purpose: str = "",
    stop: Callable[[list[int]], bool] | None = None,
    keys: Sequence[str] | None = None,
) -> list[list[int]]:
    """New tokens for each prompt, in the order of the prompts, up to the first of `stop_ids`, which is left out.

    Args:
        model: a `CodeShellForCausalLM`, or a `transformers_model.TransformersModel`.
        prompts: token ids, none empty.
        max_new_tokens: limit for each prompt.
        stop_ids: tokens that end a generation.
        pad: id that fills the left of shorter prompts; it is never attended to.
        vocabulary: ids at or above it (padding of the embedding) are never produced.
        temperature, top_p: 0 is greedy.
        seed, purpose: a prompt is sampled with a hash of these and its key, whatever batch it is in.
        stop: says of the tokens so far that they are enough; the last one is kept.
        keys: what else the random numbers of each prompt depend on; by default its index.
    """
    # The longest prompts come first, so that a batch is as wide as its first one and memory is needed early or never.
    order = sorted(range(len(prompts)), key=lambda index: (-len(prompts[index]), index))
    device = next(model.parameters()).device
    results: list[list[int]] = [[] for _ in prompts]
    seeds = [draw(seed, purpose, index if keys is None else keys[index]) for index in range(len(prompts))]
    with autocast("auto", device):
        network = model.network() if hasattr(model, "network") else None
    if network is not None:
        sampling = batches.Sampling(
            max_new_tokens,
            stop_ids,
            vocabulary,
            temperature,
            top_p=top_p,
            stop=None if stop is None else lambda index, tokens: stop(tokens),
        )
        # A model's own `generate` hashes a seed of a row like this, so the draws are the same.
        return batches.continue_all(
            Decoder(network), prompts, sampling, [(one, 0) for one in seeds], model.config.max_length
        )
    limit = GPU_TOKENS if device.type == "cuda" else LOGIT_ELEMENTS // vocabulary
    at = 0
    while at < len(order):
        # As many prompts as fit at the width of the longest one, and at least that one.
        width = len(prompts[order[at]])
        batch = order[at : at + max(1, limit // (width + max_new_tokens))]
        # ids and mask are (batch, width): every prompt ends at the right edge, where its first new token follows.
        ids = torch.full((len(batch), width), pad, dtype=torch.long)
        mask = torch.zeros((len(batch), width), dtype=torch.long)
        for row, index in enumerate(batch):
            length = len(prompts[index])
            ids[row, width - length :] = torch.tensor(prompts[index])
            mask[row, width - length :] = 1
        # The seed of a prompt does not depend on its batch, so neither does what it gets.
        try:
            with autocast("auto", device):
                fresh = model.generate(
                    ids.to(device),
                    attention_mask=mask.to(device),
                    max_new_tokens=max_new_tokens,
                    temperature=temperature,
                    top_p=top_p,
                    stop_ids=stop_ids,
                    stop=None if stop is None else lambda row, tokens: stop(tokens),
                    seed=[seeds[index] for index in batch],
                    n_vocab_used=vocabulary,
                )
        except torch.OutOfMemoryError:
            if len(batch) == 1:
                raise
            limit = len(batch) // 2 * (width + max_new_tokens)
            continue
        # Back to the places of the prompts in the caller's list.
        for index, tokens in zip(batch, fresh, strict=True):
            results[index] = tokens
        at += len(batch)
    return results
