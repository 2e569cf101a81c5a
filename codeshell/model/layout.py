"""From the arguments of a forward pass to flat tokens: padding cut out, documents as offsets, positions, the cache."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn import functional as F

from codeshell.model.cache import KVCache
from codeshell.model.modules import Sequences

if TYPE_CHECKING:
    from codeshell.model.modules import CodeShellForCausalLM


@dataclass
class Arranged:
    """Flat inputs of the network, and the way back to (batch, seq)."""

    tokens: torch.Tensor
    sequences: Sequences
    targets: torch.Tensor | None
    shape: torch.Size
    real: torch.Tensor | None
    """Flat indices of the tokens that are not padding, or None where all are."""
    lengths: torch.Tensor
    longest: int

    def last_tokens(self) -> torch.Tensor:
        """(batch,) indices into the flat tokens: the last of each row that is not padding."""
        batch, seq = self.shape
        if self.real is None:
            return torch.arange(1, batch + 1, device=self.tokens.device) * seq - 1
        return torch.bincount(self.real // seq, minlength=batch).cumsum(0) - 1

    def unflatten(self, x: torch.Tensor) -> torch.Tensor:
        """(tokens, width) to (batch, seq, width), zeros at padding."""
        if self.real is not None:
            x = x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.real, x)
        return x.view(*self.shape, -1)


def arrange(
    model: CodeShellForCausalLM,
    input_ids: torch.Tensor,
    labels: torch.Tensor | None,
    targets: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    positions: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    cache: KVCache | None,
) -> Arranged:
    """Check the arguments of `CodeShellForCausalLM.forward` and lay the tokens out; see there for their meaning."""
    _check_ids(input_ids, model.config.vocab_size)
    batch, seq = input_ids.shape
    device = input_ids.device
    targets = _targets(input_ids, labels, targets)
    if positions is not None and positions.shape != input_ids.shape:
        raise ValueError(
            f"positions {tuple(positions.shape)}: must have the shape of input_ids, {tuple(input_ids.shape)}"
        )
    real = _real_tokens(input_ids, attention_mask, cu_seqlens, cache)
    tokens = input_ids.reshape(-1)
    shape: tuple[int, int] | None = (batch, seq)
    lengths = torch.full((batch,), seq, dtype=torch.int32, device=device)
    rows: torch.Tensor | None = None
    start = cache.lengths if cache is not None else None
    where = torch.arange(seq, device=device).expand(batch, seq)
    longest = seq
    if real is not None:
        assert attention_mask is not None
        mask = attention_mask.bool()
        lengths = mask.sum(1).to(torch.int32)
        longest = int(lengths.max())
        where = mask.cumsum(1) - 1
        cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        max_seqlen, shape = longest, None
    elif cu_seqlens is not None:
        where, longest = _document_positions(cu_seqlens, max_seqlen, batch * seq)
        max_seqlen, shape = longest, None
        if labels is not None and targets is not None:
            # The shift crossed from each document into the next.
            ends = cu_seqlens[1:][cu_seqlens.diff() > 0].to(torch.int64) - 1
            targets = targets.index_fill(0, ends, -100)
    if start is not None:
        assert cache is not None
        rows = torch.arange(batch, device=device).unsqueeze(1).expand(batch, seq).reshape(-1)
        where = where + start.to(torch.int64).unsqueeze(1)
        lengths, longest = start + lengths, cache.longest + longest
        if longest > cache.capacity or cache.lengths.shape[0] != batch:
            raise ValueError(
                f"cache holds {cache.lengths.shape[0]} rows of {cache.capacity} positions; needed: {batch} of {longest}"
            )
    flat = (where if positions is None else positions).reshape(-1)
    slots = where.reshape(-1)
    if real is not None:
        tokens, flat, slots = tokens[real], flat[real], slots[real]
        rows = rows[real] if rows is not None else None
        targets = targets[real] if targets is not None else None
    reach = longest if positions is None else int(positions.max()) + 1
    if reach > model.config.max_length or (positions is not None and int(positions.min()) < 0):
        raise ValueError(
            f"input_ids: position {reach - 1} is beyond the model's {model.config.max_length} positions "
            f"(n_positions {model.config.n_positions}, rope_scaling {model.config.rope_scaling}); shorten the input"
        )
    if cache is not None and positions is not None:
        raise ValueError("positions cannot be given with cache; a row's positions go on from its length")
    cos, sin = model.rotary.get(reach, device)
    decoding = cache is not None and cache.longest > 0
    sequences = Sequences(cos, sin, flat, shape, cu_seqlens, max_seqlen, cache, rows, decoding)
    return Arranged(tokens, sequences, targets, input_ids.shape, real, lengths, longest)


def _check_ids(input_ids: torch.Tensor, vocabulary: int) -> None:
    if input_ids.dim() != 2 or input_ids.dtype != torch.int64:
        raise ValueError(f"input_ids {tuple(input_ids.shape)} {input_ids.dtype}: must be int64 of shape (batch, seq)")
    if input_ids.numel() == 0:
        raise ValueError(f"input_ids {tuple(input_ids.shape)}: must hold at least one token")
    if input_ids.device.type == "cpu":
        low, high = (int(value) for value in torch.aminmax(input_ids))
        if low < 0 or high >= vocabulary:
            raise ValueError(f"input_ids: ids run from {low} to {high}, but the vocabulary is 0 to {vocabulary - 1}")


def _targets(input_ids: torch.Tensor, labels: torch.Tensor | None, targets: torch.Tensor | None) -> torch.Tensor | None:
    if labels is not None and targets is not None:
        raise ValueError("labels and targets: give one of them (labels are shifted inside, targets are not)")
    given = labels if labels is not None else targets
    if given is None:
        return None
    name = "labels" if labels is not None else "targets"
    if given.shape != input_ids.shape or given.dtype != torch.int64:
        raise ValueError(f"{name} {tuple(given.shape)} {given.dtype}: must be int64 {tuple(input_ids.shape)}")
    if labels is not None:
        given = F.pad(labels[:, 1:], (0, 1), value=-100)
    return given.reshape(-1)


def _real_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    cache: KVCache | None,
) -> torch.Tensor | None:
    """Flat indices of the tokens that the mask keeps; None without a mask or where it keeps all."""
    if cu_seqlens is not None and (attention_mask is not None or cache is not None):
        raise ValueError(
            "cu_seqlens cannot be combined with attention_mask or cache; documents are packed without padding"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(attention_mask.shape)}: must be {tuple(input_ids.shape)}")
    if cache is not None and cache.longest > 0:
        raise ValueError("attention_mask goes with an empty cache only; the cache keeps no padding")
    mask = attention_mask.bool()
    if not bool(mask.any(1).all()):
        raise ValueError("attention_mask: a row has no real token; leave that row out")
    return None if bool(mask.all()) else mask.reshape(-1).nonzero().squeeze(1)


def _document_positions(cu_seqlens: torch.Tensor, max_seqlen: int | None, total: int) -> tuple[torch.Tensor, int]:
    """Positions (total,) that restart in each document, and the longest document's length."""
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"cu_seqlens {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}: must be int32 (documents + 1,)")
    lengths = cu_seqlens.diff().to(torch.int64)
    if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != total or bool((lengths < 0).any()):
        raise ValueError(f"cu_seqlens must rise from 0 to batch * seq = {total}; it is {cu_seqlens.tolist()[:8]}…")
    longest = int(lengths.max())
    if max_seqlen is not None and max_seqlen < longest:
        raise ValueError(f"max_seqlen is {max_seqlen}, but a document has {longest} tokens")
    starts = torch.repeat_interleave(cu_seqlens[:-1].to(torch.int64), lengths, output_size=total)
    return torch.arange(total, device=cu_seqlens.device) - starts, longest
