"""Cosines and sines of the rotary embedding, kept for all positions and grown when a longer sequence comes."""

from __future__ import annotations

import torch

from codeshell.model.config import CodeShellConfig
from codeshell.ops.rotary_tables import RotaryScaling, dynamic_base, rotary_tables


class RotaryTables:
    """Cosines and sines of all positions in fp32, grown on demand.

    They are plain attributes and not buffers, so no checkpoint ever holds them. `linear` scaling divides positions by
    the factor. `dynamic` (NTK) scaling changes the base once a sequence is longer than `n_positions`; the base depends
    on that sequence's length alone, so a later, shorter one gets the unscaled angles again.
    """

    def __init__(self, config: CodeShellConfig) -> None:
        self.config = config
        self.scaling = RotaryScaling.from_config(config.rope_scaling, config.n_positions)
        self._tables: dict[tuple[float, str], tuple[torch.Tensor, torch.Tensor]] = {}

    def get(self, length: int, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Tables cos and sin, each fp32 (at least `length`, head_dim / 2), for a sequence of `length` tokens."""
        base = self.base(length)
        key = (base, str(device))
        table = self._tables.get(key)
        if table is None or table[0].shape[0] < length:
            # Powers of two, so that a sequence that grows token by token makes a new table only when it has doubled.
            size = min(self.config.max_length, max(256, 1 << (length - 1).bit_length()))
            # Tensors made under inference mode cannot be saved for backward, and training may follow.
            with torch.inference_mode(False):
                # "dynamic" scaling is complete in the base; the other kinds change the angles.
                scaling = None if self.scaling.kind == "dynamic" else self.scaling
                cos, sin = rotary_tables(max(size, length), self.config.head_dim, base, scaling)
                table = (cos.to(device), sin.to(device))
            # Tables of other bases are dropped: a growing dynamic sequence would leave one for every length.
            self._tables = {key: table}
        return table

    def base(self, length: int) -> float:
        """Base of the rotary frequencies for a sequence of `length` tokens."""
        config, scaling = self.config, self.scaling
        if scaling.kind != "dynamic":
            return config.rope_theta
        return dynamic_base(config.head_dim, config.rope_theta, scaling, length)
