"""Models of transformers for `codeshell.model.session`: caches that are cut, copied and extended at any token.

A cache of transformers forgets what has left a sliding window, so it cannot be cut back to an earlier token, which a
session does with every edit. This one keeps the keys and values of all tokens, of every layer; the windows are in the
masks that transformers makes. Its memory is made at once, and its length is a number: to cut it is to set the number.

Shapes in this file:

    H, K  key/value heads and dimension of a head
    C     capacity of a cache in tokens, S of them filled
    N     tokens of a pass
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from codeshell.integrations.supported import Cache, DynamicLayer, PreTrainedModel
from codeshell.model.reading import FEWEST, MOST, PIECE_OPERATIONS, go_on

STRETCHED = ("dynamic", "longrope")
"""Rotary embeddings whose angles depend on the length of a pass, beyond the length that they were first trained with:
keys in a cache would then be those of another model. So such a model is read up to that length."""


class _Layer(DynamicLayer):
    """The keys and values of one layer. It is a dynamic layer of transformers in what it says about itself: masks are
    made for all tokens from the first one on."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = keys, values  # (1, H, C, K)
        self.dtype, self.device = keys.dtype, keys.device
        self.is_initialized = True
        self.filled = 0

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Take in the keys and values of a pass, (1, H, N, K); all of them, (1, H, S + N, K).

        The length stays what it is until the pass has ended.
        """
        end = self.filled + key_states.shape[-2]
        self.keys[:, :, self.filled : end] = key_states
        self.values[:, :, self.filled : end] = value_states
        return self.keys[:, :, :end], self.values[:, :, :end]

    def get_seq_length(self) -> int:
        return self.filled


class TokenCache(Cache):
    """The keys and values of one row, in memory for `capacity` tokens.

    Args:
        layers, heads, capacity, dim: sizes; `heads` are key/value heads.
        dtype, device: of the model.
    """

    def __init__(
        self, layers: int, heads: int, capacity: int, dim: int, *, dtype: torch.dtype, device: torch.device
    ) -> None:
        def memory() -> torch.Tensor:
            return torch.empty((1, heads, capacity, dim), dtype=dtype, device=device)

        super().__init__(layers=[_Layer(memory(), memory()) for _ in range(layers)])
        self.capacity = capacity

    @property
    def length(self) -> int:
        """Tokens that it holds."""
        length: int = self.layers[0].filled
        return length

    @length.setter
    def length(self, length: int) -> None:
        assert 0 <= length <= self.capacity
        for layer in self.layers:
            layer.filled = length

    def take(self, other: TokenCache, length: int) -> None:
        """Begin with the first `length` tokens of another cache."""
        assert length <= other.length
        for mine, theirs in zip(self.layers, other.layers, strict=True):
            mine.keys[:, :, :length] = theirs.keys[:, :, :length]
            mine.values[:, :, :length] = theirs.values[:, :, :length]
        self.length = length


class TransformersReader:
    """A model of transformers as `codeshell.model.session.Reader`; its attention and its masks are its own.

    Args:
        model: of a type in `codeshell.integrations.ARCHITECTURES`, in evaluation mode, on its device; patched or not.
    """

    def __init__(self, model: PreTrainedModel) -> None:
        self.model: Any = model
        config = model.config
        self.positions = positions(config)
        self.vocabulary = int(config.vocab_size)
        heads = config.num_attention_heads
        self._heads: int = getattr(config, "num_key_value_heads", None) or heads
        self._dim: int = getattr(config, "head_dim", None) or config.hidden_size // heads
        layers = self.model.model.layers
        self._layers = len(layers)
        # A GPU reads a long piece in the time of a short one.
        weights = sum(parameter.numel() for parameter in layers[0].parameters() if parameter.dim() > 1)
        on_cpu = model.device.type == "cpu"
        self._piece = min(max(FEWEST, PIECE_OPERATIONS // (2 * weights)), MOST) if on_cpu else MOST
        self._check: Callable[[], None] = go_on
        for layer in layers:
            layer.register_forward_pre_hook(self._before_layer)

    def reader(self) -> TransformersReader:
        """Itself, which is what a session asks its model for."""
        return self

    def new_cache(self, capacity: int) -> TokenCache:
        return TokenCache(
            self._layers, self._heads, capacity, self._dim, dtype=self.model.dtype, device=self.model.device
        )

    def copy_cache(self, cache: TokenCache, length: int, capacity: int) -> TokenCache:
        copy = self.new_cache(capacity)
        copy.take(cache, length)
        return copy

    def cut_cache(self, cache: TokenCache, length: int) -> None:
        assert length <= cache.length
        cache.length = length

    def capacity(self, cache: TokenCache) -> int:
        return cache.capacity

    def cache_bytes(self, capacity: int) -> int:
        return int(2 * self._layers * self._heads * self._dim * self.model.dtype.itemsize * capacity)

    def piece(self, cached: int) -> int:
        return self._piece

    @torch.inference_mode()
    def read(
        self, cache: TokenCache, tokens: Sequence[int], check: Callable[[], None], logits: bool
    ) -> torch.Tensor | None:
        """See `Reader.read`; `check` is called before each layer."""
        ids = torch.tensor([list(tokens)], device=self.model.device)
        scores: torch.Tensor | None = None
        self._check = check
        try:
            if logits:
                out = self.model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1)
                scores = out.logits[0, -1].float()
            else:
                # Without the head, whose product is a large part of a small model's work.
                self.model.model(ids, past_key_values=cache, use_cache=True)
        finally:
            self._check = go_on
        cache.length += len(tokens)
        return scores

    def _before_layer(self, *_: Any) -> None:
        self._check()


def positions(config: Any) -> int:
    """Tokens that a model of transformers reads at once, prompt and answer together."""
    longest = int(config.max_position_embeddings)
    rope: dict[str, Any] = getattr(config, "rope_parameters", None) or {}
    # Gemma 3 has one for each type of layer.
    parts = [part for part in rope.values() if isinstance(part, dict)] or [rope]
    for part in parts:
        if part.get("rope_type") in STRETCHED:
            first = part.get("original_max_position_embeddings")
            first = first or getattr(config, "original_max_position_embeddings", None)
            longest = min(longest, int(first or longest))
    return longest
