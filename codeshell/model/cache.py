"""The key/value cache of generation: preallocated, keys rotated, every row left-aligned with a length of its own."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from codeshell.model.config import CodeShellConfig

STEP = 256
"""Tokens. A view of the cache grows by so many at a time."""


class KVCache:
    """Keys and values of the positions read so far.

    A row holds its real tokens only: padding is never stored, so rows of one batch have different lengths and no mask
    is needed later. Keys are stored after rotation, as in the released code.

    Args:
        config: gives layers, key/value heads and head dimension.
        batch: number of rows.
        capacity: positions per row.

    Attributes:
        keys, values: one tensor (batch, capacity, kv_heads, head_dim) per layer.
        lengths: int32 (batch,): positions of each row that are filled.
    """

    def __init__(
        self,
        config: CodeShellConfig,
        batch: int,
        capacity: int,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        shape = (batch, capacity, config.num_query_groups, config.head_dim)
        # Preallocated: a longer sequence writes into the same memory, and no step copies what is there.
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self.longest = 0
        """Length of the longest row, known without asking the device."""

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[1]

    def write(self, layer: int, rows: torch.Tensor, positions: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Store keys and values of one layer.

        Args:
            layer: index of the block.
            rows, positions: int64 (tokens,): where each token goes.
            k, v: (tokens, kv_heads, head_dim); converted to the dtype of the cache.
        """
        self.keys[layer][rows, positions] = k.to(self.keys[layer].dtype)
        self.values[layer][rows, positions] = v.to(self.values[layer].dtype)

    def view(self, layer: int, new: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of one layer, without the places that no row can reach with `new` more tokens.

        A kernel shares out its work by the length of what it is given, because it does not wait for the lengths of the
        rows. It would count on a cache that is full, while most of it is empty.
        """
        # A step keeps most calls at one shape: what is planned for a shape is remembered.
        end = min(-(-(self.longest + new) // STEP) * STEP, self.capacity)
        return self.keys[layer][:, :end], self.values[layer][:, :end]

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these (int64 indices, rising), so that finished sequences cost nothing more."""
        # They move up within the cache: a copy of it could be more than the memory that is left. One layer after the
        # other, and what is filled alone.
        filled = slice(None), slice(0, self.longest)
        for tensors in (self.keys, self.values):
            for layer, whole in enumerate(tensors):
                moved = whole[rows, : self.longest]
                tensors[layer] = whole[: len(rows)]
                tensors[layer][filled] = moved
        self.lengths = self.lengths[rows]

    def cut(self, length: int) -> None:
        """Forget all but the first `length` positions of a cache of one row."""
        assert len(self.lengths) == 1 and length <= self.longest
        self.lengths = torch.full_like(self.lengths, length)
        self.longest = length

    def take(self, other: KVCache, length: int) -> None:
        """Begin with the first `length` positions of another cache; both have one row."""
        assert len(self.lengths) == len(other.lengths) == 1 and length <= min(other.longest, self.capacity)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            for target, source in zip(mine, theirs, strict=True):
                target[:, :length] = source[:, :length]
        self.lengths, self.longest = torch.full_like(self.lengths, length), length


class RowCache:
    """Keys and values of rows that are read one by one on a CPU, laid out so that attention is two products.

    Args:
        layers, rows, kv_heads, capacity, head_dim: sizes; `capacity` is tokens of a row.

    Attributes:
        keys, values: (layers, rows, kv_heads, capacity, head_dim), keys rotated. What has not been written is 0, so
            that it can be multiplied by a weight of 0.
        lengths: tokens in each row.
    """

    def __init__(
        self, layers: int, rows: int, kv_heads: int, capacity: int, head_dim: int, *, dtype: torch.dtype
    ) -> None:
        shape = (layers, rows, kv_heads, capacity, head_dim)
        self.keys, self.values = torch.zeros(shape, dtype=dtype), torch.zeros(shape, dtype=dtype)
        self.lengths = [0] * rows

    @property
    def capacity(self) -> int:
        return self.keys.shape[3]

    def cut(self, length: int) -> None:
        """Forget all but the first `length` tokens of the only row."""
        assert len(self.lengths) == 1 and length <= self.lengths[0]
        self.lengths[0] = length

    def take(self, other: RowCache, length: int) -> None:
        """Begin with the first `length` tokens of another cache; both have one row."""
        assert len(self.lengths) == len(other.lengths) == 1 and length <= min(other.lengths[0], self.capacity)
        self.keys[:, :, :, :length] = other.keys[:, :, :, :length]
        self.values[:, :, :, :length] = other.values[:, :, :, :length]
        self.lengths[0] = length

    def move(self, source: int, target: int, length: int | None = None) -> None:
        """Put one row, or its first `length` tokens, in the place of another."""
        length = self.lengths[source] if length is None else length
        assert length <= self.lengths[source]
        self.keys[:, target, :, :length] = self.keys[:, source, :, :length]
        self.values[:, target, :, :length] = self.values[:, source, :, :length]
        self.lengths[target] = length


def common(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids two sequences begin with in common."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
