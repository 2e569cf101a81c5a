"""A pass of tokens over the cache of one row, without what training needs: the inner step of a session."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from codeshell.model.cache import KVCache


class CodeShellReader:
    """A `CodeShellForCausalLM` as `codeshell.model.session.Reader`.

    Args:
        model: in evaluation mode.
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.positions: int = model.config.max_length
        self.vocabulary: int = model.config.n_vocab_used or model.config.vocab_size

    def new_cache(self, capacity: int) -> KVCache:
        return KVCache(self.model.config, 1, capacity, dtype=self.model.dtype, device=self.model.device)

    def copy_cache(self, cache: KVCache, length: int, capacity: int) -> KVCache:
        copy = self.new_cache(capacity)
        copy.take(cache, length)
        return copy

    def cut_cache(self, cache: KVCache, length: int) -> None:
        cache.cut(length)

    def capacity(self, cache: KVCache) -> int:
        return cache.capacity

    def cache_bytes(self, capacity: int) -> int:
        config = self.model.config
        width = config.num_query_groups * config.head_dim
        return int(2 * config.n_layer * width * capacity * self.model.dtype.itemsize)

    def piece(self, cached: int) -> int:
        return 64

    @torch.inference_mode()
    def read(
        self, cache: KVCache, tokens: Sequence[int], check: Callable[[], None], logits: bool
    ) -> torch.Tensor | None:
        ids = torch.tensor([tokens], device=self.model.device)
        out = self.model(ids, cache=cache, return_logits="last" if logits else False).logits
        return None if out is None else out[0, 0]
