"""How the tokens of one forward pass are laid out: from (batch, seq) arguments to flat tokens, and back.

Padding is cut out here, once, so that no later layer sees a mask: sequences are told apart by their offsets alone.

Shapes in this file:

    B, S    rows and columns of `input_ids`
    N       B * S, every place of `input_ids`, padding included
    T       tokens that are not padding, row after row: what the network computes; T = N where nothing is padded
    P       packed sequences: documents (`cu_seqlens`), or rows without their padding (`attention_mask`)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch.nn import functional as F

from codeshell.model.cache import KVCache
from codeshell.model.config import CodeShellConfig
from codeshell.model.rotary import RotaryTables


@dataclass
class Sequences:
    """How the tokens of one forward pass are laid out: positions, sequence boundaries, cache rows. All blocks share it.

    Exactly one of two layouts: `shape` = (batch, seq) for full rows of one length, or `cu_seqlens` for packed tokens.
    """

    cos: torch.Tensor
    """(positions, head_dim / 2) fp32, with `sin`: the rotary tables."""
    sin: torch.Tensor
    positions: torch.Tensor
    """(T,) int64: the row of cos and sin that rotates each token."""
    shape: tuple[int, int] | None = None
    cu_seqlens: torch.Tensor | None = None
    """(P + 1,) int32 offsets into the T tokens, from 0 to T."""
    max_seqlen: int | None = None
    """No packed sequence is longer."""
    cache: KVCache | None = None
    rows: torch.Tensor | None = None
    """(T,) int64: the cache row of each token; set if and only if `cache` is."""
    decoding: bool = False
    """The cache already held tokens before this pass."""


@dataclass
class Arranged:
    """Flat inputs of the network, and the way back to (batch, seq)."""

    tokens: torch.Tensor
    """(T,) int64."""
    sequences: Sequences
    targets: torch.Tensor | None
    """(T,) int64: the token that should follow; -100 does not count."""
    shape: torch.Size
    """(B, S)."""
    real: torch.Tensor | None
    """(T,) int64: places in the N of `input_ids` that are not padding; None where none is padded."""
    lengths: torch.Tensor
    """(B,) int32: tokens of each row after this pass, those in the cache included."""
    longest: int
    """Length of the longest sequence after this pass, known without asking the device again."""

    def last_tokens(self) -> torch.Tensor:
        """(B,) indices into the T tokens: the last of each row that is not padding."""
        batch, seq = self.shape
        # Without padding a row's last token is in its last column.
        if self.real is None:
            return torch.arange(1, batch + 1, device=self.tokens.device) * seq - 1
        # Tokens per row, summed up: a row's last token stands just before the next row begins.
        return torch.bincount(self.real // seq, minlength=batch).cumsum(0) - 1

    def unflatten(self, x: torch.Tensor) -> torch.Tensor:
        """(T, width) to (B, S, width), with zeros at padding."""
        if self.real is not None:
            x = x.new_zeros(self.shape.numel(), x.shape[-1]).index_copy(0, self.real, x)
        return x.view(*self.shape, -1)


def arrange(
    config: CodeShellConfig,
    rotary: RotaryTables,
    input_ids: torch.Tensor,
    labels: torch.Tensor | None,
    targets: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    max_seqlen: int | None,
    positions: torch.Tensor | None,
    attention_mask: torch.Tensor | None,
    cache: KVCache | None,
) -> Arranged:
    """Check the arguments of `CodeShellForCausalLM.forward` and lay the tokens out; see there for their meaning.

    Raises:
        ValueError: an argument does not fit the model, the cache or the other arguments.
    """
    _check_ids(input_ids, config.vocab_size)
    batch, seq = input_ids.shape
    device = input_ids.device
    targets = _targets(input_ids, labels, targets)  # (N,) from here on
    if positions is not None and positions.shape != input_ids.shape:
        raise ValueError(
            f"positions {tuple(positions.shape)}: must have the shape of input_ids, {tuple(input_ids.shape)}"
        )
    real = _real_tokens(input_ids, attention_mask, cu_seqlens, cache)

    # Sequences of this pass alone, the cache aside. `places` is each token's index in its own sequence, from 0, as
    # (B, S) or as (N,); `lengths` (B,) and `longest` count tokens. Full rows are the case to start from.
    tokens = input_ids.reshape(-1)
    shape: tuple[int, int] | None = (batch, seq)
    lengths = torch.full((batch,), seq, dtype=torch.int32, device=device)
    places = torch.arange(seq, device=device).expand(batch, seq)
    longest = seq
    if real is not None:
        # Padded rows become packed sequences. The running count of real tokens numbers them from 0 on whichever side
        # the padding is; its value at padding is never read.
        assert attention_mask is not None
        mask = attention_mask.bool()
        lengths = mask.sum(1).to(torch.int32)
        longest = int(lengths.max())
        places = mask.cumsum(1) - 1
        cu_seqlens = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
        max_seqlen, shape = longest, None
    elif cu_seqlens is not None:
        # Documents, which may begin and end anywhere within a row and continue in the next one.
        places, longest = _document_places(cu_seqlens, max_seqlen, batch * seq)
        max_seqlen, shape = longest, None
        if labels is not None and targets is not None:
            # `_targets` shifted whole rows, so the last token of a document was given the first of the next.
            ends = cu_seqlens[1:][cu_seqlens.diff() > 0].to(torch.int64) - 1
            targets = targets.index_fill(0, ends, -100)

    # With a cache every token stands after those that its row already holds.
    rows: torch.Tensor | None = None
    if cache is not None:
        rows = torch.arange(batch, device=device).unsqueeze(1).expand(batch, seq).reshape(-1)  # (N,)
        places = places + cache.lengths.to(torch.int64).unsqueeze(1)
        lengths, longest = cache.lengths + lengths, cache.longest + longest
        if longest > cache.capacity or cache.lengths.shape[0] != batch:
            raise ValueError(
                f"cache holds {cache.lengths.shape[0]} rows of {cache.capacity} positions; needed: {batch} of {longest}"
            )

    # Cut the padding out of everything that has one entry per place: (N,) to (T,).
    flat = (places if positions is None else positions).reshape(-1)
    if real is not None:
        tokens, flat = tokens[real], flat[real]
        rows = rows[real] if rows is not None else None
        targets = targets[real] if targets is not None else None

    # The rotary tables must reach the highest position. Only positions that the caller gave are read from the device.
    reach = longest if positions is None else int(positions.max()) + 1
    if reach > config.max_length or (positions is not None and int(positions.min()) < 0):
        raise ValueError(
            f"input_ids: position {reach - 1} is beyond the model's {config.max_length} positions "
            f"(n_positions {config.n_positions}, rope_scaling {config.rope_scaling}); shorten the input"
        )
    if cache is not None and positions is not None:
        raise ValueError("positions cannot be given with cache; a row's positions continue from its length")
    cos, sin = rotary.get(reach, device)
    decoding = cache is not None and cache.longest > 0
    sequences = Sequences(cos, sin, flat, shape, cu_seqlens, max_seqlen, cache, rows, decoding)
    return Arranged(tokens, sequences, targets, input_ids.shape, real, lengths, longest)


def _check_ids(input_ids: torch.Tensor, vocab_size: int) -> None:
    if input_ids.dim() != 2 or input_ids.dtype != torch.int64:
        raise ValueError(f"input_ids {tuple(input_ids.shape)} {input_ids.dtype}: must be int64 of shape (batch, seq)")
    if input_ids.numel() == 0:
        raise ValueError(f"input_ids {tuple(input_ids.shape)}: must hold at least one token")
    # On a GPU this would wait for the device at every step; there the embedding's own assertion catches a bad id.
    if input_ids.device.type == "cpu":
        low, high = (int(value) for value in torch.aminmax(input_ids))
        if low < 0 or high >= vocab_size:
            raise ValueError(f"input_ids: ids run from {low} to {high}, but the vocabulary is 0 to {vocab_size - 1}")


def _targets(input_ids: torch.Tensor, labels: torch.Tensor | None, targets: torch.Tensor | None) -> torch.Tensor | None:
    """(N,) targets from either argument: labels are shifted by one within each row, targets are taken as they are."""
    if labels is not None and targets is not None:
        raise ValueError("labels and targets: give one of them (labels are shifted inside, targets are not)")
    given = labels if labels is not None else targets
    if given is None:
        return None
    name = "labels" if labels is not None else "targets"
    if given.shape != input_ids.shape or given.dtype != torch.int64:
        raise ValueError(f"{name} {tuple(given.shape)} {given.dtype}: must be int64 {tuple(input_ids.shape)}")
    if labels is not None:
        # The last token of a row has no successor, so it has no target.
        given = F.pad(labels[:, 1:], (0, 1), value=-100)
    return given.reshape(-1)


def _real_tokens(
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor | None,
    cu_seqlens: torch.Tensor | None,
    cache: KVCache | None,
) -> torch.Tensor | None:
    """(T,) places that the mask keeps; None without a mask or where it keeps all."""
    if cu_seqlens is not None and (attention_mask is not None or cache is not None):
        raise ValueError(
            "cu_seqlens cannot be combined with attention_mask or cache; documents are packed without padding"
        )
    if attention_mask is None:
        return None
    if attention_mask.shape != input_ids.shape:
        raise ValueError(f"attention_mask {tuple(attention_mask.shape)}: must be {tuple(input_ids.shape)}")
    if cache is not None and cache.longest > 0:
        raise ValueError("attention_mask can be given with an empty cache only; the cache keeps no padding")
    mask = attention_mask.bool()
    if not bool(mask.any(1).all()):
        raise ValueError("attention_mask: a row has no real token; leave that row out")
    # A mask that keeps everything is none: full rows take the faster path without offsets.
    return None if bool(mask.all()) else mask.reshape(-1).nonzero().squeeze(1)


def _document_places(cu_seqlens: torch.Tensor, max_seqlen: int | None, total: int) -> tuple[torch.Tensor, int]:
    """Places (N,) that restart at 0 in each document, and the length of the longest document."""
    if cu_seqlens.dtype != torch.int32 or cu_seqlens.dim() != 1 or cu_seqlens.numel() < 2:
        raise ValueError(f"cu_seqlens {tuple(cu_seqlens.shape)} {cu_seqlens.dtype}: must be int32 (documents + 1,)")
    lengths = cu_seqlens.diff().to(torch.int64)
    if int(cu_seqlens[0]) != 0 or int(cu_seqlens[-1]) != total or bool((lengths < 0).any()):
        raise ValueError(f"cu_seqlens must rise from 0 to batch * seq = {total}; it is {cu_seqlens.tolist()[:8]}…")
    longest = int(lengths.max())
    if max_seqlen is not None and max_seqlen < longest:
        raise ValueError(f"max_seqlen is {max_seqlen}, but a document has {longest} tokens")
    # The start of its document, once per token; `output_size` spares the device a question.
    starts = torch.repeat_interleave(cu_seqlens[:-1].to(torch.int64), lengths, output_size=total)
    return torch.arange(total, device=cu_seqlens.device) - starts, longest
