"""Packed documents by `position_ids`: which keys are of a query's own document.

Without a cache and without a padding mask, transformers looks at the positions itself. With a cache, which training has
by default, or with a padding mask it does not, and the documents would attend to one another. So the attention looks at
the positions once per forward pass: a document begins where they do not continue.
"""

from __future__ import annotations

import weakref
from typing import Any, NamedTuple

import torch

from codeshell.integrations.masks import Made, Pattern, same


class Documents(NamedTuple):
    """The documents of one forward pass.

    Attributes:
        first: int64 (batch or 1, queries), the first key that each query may see.
        number: int64 (batch or 1, queries), the number of each query's document, counted from its row's first query.
    """

    first: torch.Tensor
    number: torch.Tensor

    def within(self, mask: torch.Tensor) -> torch.Tensor:
        """A mask (batch or 1, 1, queries, keys), boolean or additive, within the documents."""
        own = torch.arange(mask.shape[-1], device=mask.device) >= self.first[:, None, :, None]
        if mask.dtype == torch.bool:
            return mask & own
        return mask.masked_fill(~own, torch.finfo(mask.dtype).min)


def find(positions: Any, batch: int, queries: int, keys: int, mask: Pattern | Made | None) -> Documents | None:
    """The documents, or None where each row is one document; all layers of a forward pass get the same answer.

    Args:
        positions: the argument `position_ids` of the model: int64 (batch or 1, queries). Anything else has no say.
        batch, queries, keys: the sizes of the attention.
        mask: what is known of its mask; None is the beginning of a static cache, or one query after a cache.
    """
    global _latest
    # Values can be looked at in plain tensors alone.
    if type(positions) is not torch.Tensor or positions.device.type == "meta" or torch._C._get_tracing_state():
        return None
    if positions.ndim != 2 or positions.shape[0] not in (1, batch) or positions.shape[1] != queries:
        return None
    if positions.is_inference():  # these do not count their changes, so yesterday's answer may be wrong
        return _find(positions, batch, queries, keys, mask)
    latest, key = _latest, (positions._version, queries, keys, mask)
    if latest is None or latest[0]() is not positions or latest[1][:3] != key[:3] or not same(latest[1][3], mask):
        _latest = latest = (weakref.ref(positions), key, _find(positions, batch, queries, keys, mask))
    return latest[2]


_latest: tuple[Any, Any, Documents | None] | None = None
"""The last answer: a weak reference to the positions, what else it depends on, the documents."""


def of_caller(offsets: torch.Tensor, key_offsets: torch.Tensor | None, longest: int | None) -> tuple[torch.Tensor, int]:
    """Offsets and longest length of the documents that a caller gave to the model, as `ops.attention` takes them.

    Usually the two are one tensor, and the longest length is known. To compare them waits for a GPU, and so does
    looking for the longest; all layers of a forward pass get the first one's answer.

    Args:
        offsets, key_offsets: int (documents + 1,): the arguments `cu_seq_lens_q` and `cu_seq_lens_k` of the model.
        longest: its argument `max_length_q`.

    Raises:
        ValueError: the two differ.
    """
    global _given
    key_offsets = None if key_offsets is offsets else key_offsets
    if offsets.is_inference() or (key_offsets is not None and key_offsets.is_inference()):  # see `find`
        return _of_caller(offsets, key_offsets, longest)
    # Two offsets that are one tensor are asked about as one.
    pair = (offsets, offsets if key_offsets is None else key_offsets)
    key = (*(x._version for x in pair), longest)
    known = _given
    if known is None or any(ref() is not x for ref, x in zip(known[0], pair, strict=True)) or known[1] != key:
        _given = known = tuple(weakref.ref(x) for x in pair), key, _of_caller(offsets, key_offsets, longest)
    return known[2]


_given: tuple[Any, Any, tuple[torch.Tensor, int]] | None = None
"""The last answer of `of_caller`: weak references to both, what else it depends on, the answer."""


def _of_caller(
    offsets: torch.Tensor, key_offsets: torch.Tensor | None, longest: int | None
) -> tuple[torch.Tensor, int]:
    if key_offsets is not None and not torch.equal(key_offsets, offsets):
        raise ValueError("cu_seq_lens_q and cu_seq_lens_k differ; each packed document attends to itself alone")
    return offsets.to(torch.int32), int(offsets.diff().max()) if longest is None else int(longest)


def from_offsets(offsets: torch.Tensor, batch: int, queries: int) -> Documents:
    """The documents whose offsets among the flattened tokens, int (documents + 1,), the caller gave to the model; all
    layers of a forward pass get the same answer."""
    global _counted
    if offsets.is_inference():  # see `find`
        return _from_offsets(offsets, batch, queries)
    key = offsets._version, batch, queries
    if _counted is None or _counted[0]() is not offsets or _counted[1] != key:
        _counted = weakref.ref(offsets), key, _from_offsets(offsets, batch, queries)
    return _counted[2]


_counted: tuple[Any, tuple[int, int, int], Documents] | None = None
"""The last answer of `from_offsets`, as `_latest`."""


def _from_offsets(offsets: torch.Tensor, batch: int, queries: int) -> Documents:
    token = torch.arange(batch * queries, device=offsets.device)
    number = torch.searchsorted(offsets[1:], token, right=True)
    row = token // queries * queries
    first = (offsets[:-1].to(torch.int64)[number] - row).clamp(min=0)
    return Documents(first.view(batch, queries), number.view(batch, queries))


def place_of(mask: Pattern | Made | None, queries: int, keys: int) -> int:
    """Where the first query stands among the keys; without a mask at the beginning, or as the only query at the end."""
    if isinstance(mask, Made):
        return int(mask.first)
    return 0 if mask is None and queries > 1 else keys - queries


def _find(
    positions: torch.Tensor, batch: int, queries: int, keys: int, mask: Pattern | Made | None
) -> Documents | None:
    place = place_of(mask, queries, keys)
    # Which keys are real, (batch, keys); None for all of them.
    real = mask.real if isinstance(mask, Made) else None
    if isinstance(mask, Pattern) and mask.rows is not None:
        real = torch.zeros(batch * keys, dtype=torch.bool, device=positions.device)
        real[mask.rows] = True
        real = real.view(batch, keys)
    step = torch.arange(queries, device=positions.device)
    if real is None:
        # Like transformers, a jump begins a document; under a padding mask a jump may be a trick with the positions.
        masked = isinstance(mask, Pattern) and mask.masked
        rise = positions.diff(dim=1)
        begins = torch.zeros_like(positions, dtype=torch.bool)
        begins[:, 1:] = rise <= 0 if masked else rise != 1
        # Position p of a document has p tokens of it before; what lies before these in the cache is another document.
        earliest = (place - positions[:, :1]).clamp(min=0)
    else:
        # The same among the real tokens alone: each is compared with the real one before it in its row.
        positions, seen = positions.expand(real.shape[0], -1), real[:, place : place + queries]
        latest = torch.where(seen, step, -1).cummax(1).values
        before = torch.cat((latest.new_full((len(latest), 1), -1), latest[:, :-1]), 1)
        begins = seen & (before >= 0) & (positions <= positions.gather(1, before.clamp(min=0)))
        leading = seen.to(torch.uint8).argmax(1, keepdim=True)  # the first real query
        counted = real.cumsum(1)
        skipped = (real[:, :place].sum(1, keepdim=True) - positions.gather(1, leading)).clamp(min=0)
        earliest = (counted <= skipped).sum(1, keepdim=True).where(skipped > 0, 0)
    if not bool(begins.any() | (earliest > 0).any()):
        return None
    began = torch.where(begins, step, -1).cummax(1).values
    return Documents(torch.where(began >= 0, began + place, earliest), begins.cumsum(1))
