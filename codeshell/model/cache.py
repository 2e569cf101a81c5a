"""The key/value cache of generation: preallocated, rotated keys, every row left-aligned at its own length."""

from __future__ import annotations

import torch

from codeshell.model.config import CodeShellConfig


class KVCache:
    """Keys and values of the positions read so far.

    A row holds its real tokens only: padding is never stored, so rows of one batch have different lengths and no mask
    is needed later. Keys are stored after rotation, as in the released code.

    Args:
        config: gives layers, key/value heads and head dimension.
        batch: rows.
        capacity: positions a row can hold.
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
        self.keys = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.values = [torch.zeros(shape, dtype=dtype, device=device) for _ in range(config.n_layer)]
        self.lengths = torch.zeros(batch, dtype=torch.int32, device=device)
        self.longest = 0
        """Length of the longest row, known without asking the device."""

    @property
    def capacity(self) -> int:
        return self.keys[0].shape[1]

    def write(self, layer: int, rows: torch.Tensor, positions: torch.Tensor, k: torch.Tensor, v: torch.Tensor) -> None:
        """Store keys and values (tokens, kv_heads, dim) of one layer at `[rows, positions]`."""
        self.keys[layer][rows, positions] = k.to(self.keys[layer].dtype)
        self.values[layer][rows, positions] = v.to(self.values[layer].dtype)

    def keep(self, rows: torch.Tensor) -> None:
        """Drop all rows but these: finished sequences cost nothing more."""
        self.keys = [keys[rows] for keys in self.keys]
        self.values = [values[rows] for values in self.values]
        self.lengths = self.lengths[rows]
