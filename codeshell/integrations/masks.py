"""The mask function of `attn_implementation="codeshell"`: which pattern of attention a mask of transformers means.

A model asks once per forward pass for the mask of all its layers, and describes it by a function of two positions, a
padding mask and two offsets. Where that amounts to causal attention, over packed documents or over the real tokens
between the padding, possibly with a sliding window, the answer is a `Pattern`, which the kernels run without a mask.
Everything else (a cache with left padding, a static cache, custom masks, torch.compile, a device without the kernels)
gets the dense mask of transformers' SDPA. On a GPU, a pattern with padding waits for the device once per forward pass,
as transformers' own masks do.
"""

from __future__ import annotations

from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F
from transformers import masking_utils
from transformers.utils.import_utils import is_tracing

from codeshell.integrations import ARCHITECTURES
from codeshell.ops import hopper


class Pattern(NamedTuple):
    """Causal attention, aligned bottom right, as `codeshell.ops.attention` takes it.

    Attributes:
        window: a query sees only the latest `window` keys; None is all.
        cu_seqlens: int32 (sequences + 1,), offsets of the sequences among the tokens.
        max_seqlen: length of the longest of them.
        rows: int64 (total,), which of the flattened (batch * seq) tokens take part; None is all of them.
    """

    window: int | None = None
    cu_seqlens: torch.Tensor | None = None
    max_seqlen: int | None = None
    rows: torch.Tensor | None = None

    # `generate` with a static cache asks for the mask itself, calls contiguous() on it and hands it to the model in
    # place of the padding mask. As it has more than two dimensions, the model passes it on to `mask`, which returns it.
    @property
    def ndim(self) -> int:
        return 4

    def contiguous(self) -> Pattern:
        return self

    def dense(self, batch: int, queries: int, keys: int, device: torch.device) -> torch.Tensor:
        """The pattern as a mask (batch or 1, 1, queries, keys), True where a query sees a key."""
        # (queries, 1) place of each query among the keys, against (keys,).
        last = torch.arange(queries, device=device).unsqueeze(1) + (keys - queries)
        key = torch.arange(keys, device=device)
        seen = key <= last
        if self.window is not None:
            seen = seen & (key > last - self.window)
        seen = seen[None, None]
        if self.cu_seqlens is None:
            return seen
        # The number of each token's sequence, (batch * keys,); padding has -1. Only equal numbers see each other.
        sequence = torch.full((batch * keys,), -1, device=device)
        rows = torch.arange(batch * keys, device=device) if self.rows is None else self.rows
        sequence[rows] = torch.searchsorted(self.cu_seqlens, torch.arange(len(rows), device=device), right=True)
        sequence = sequence.view(batch, 1, keys)
        return seen & (sequence.unsqueeze(3) == sequence.unsqueeze(2))


def mask(attention_mask: Any = None, **arguments: Any) -> Any:
    """The function that `AttentionMaskInterface` calls; its arguments are those of transformers' `sdpa_mask`.

    Returns:
        A `Pattern`; or a dense boolean mask (batch, 1, queries, keys), or None where SDPA's own causal flag or no mask
        is enough; or an additive mask where attention will be written out, as soft-capped scores need it.
    """
    if isinstance(attention_mask, Pattern):
        return attention_mask
    # Soft-capped scores are written out, and an additive mask is what that needs.
    config = arguments.get("config")
    if getattr(config, "attn_logit_softcapping", None) is not None:
        return masking_utils.eager_mask(attention_mask=attention_mask, **arguments)
    if _has_kernels(config, arguments) and not is_tracing(attention_mask):
        pattern = _pattern(
            arguments["q_length"],
            arguments["kv_length"],
            arguments.get("q_offset", 0),
            arguments.get("kv_offset", 0),
            arguments.get("mask_function", _CAUSAL),
            attention_mask,
        )
        if pattern is not None:
            return pattern
    return masking_utils.sdpa_mask(attention_mask=attention_mask, **arguments)


def _has_kernels(config: Any, arguments: dict[str, Any]) -> bool:
    """Whether a pattern is better than a mask for the layers that ask. It is not where torch's SDPA attends: each layer
    would make its own mask again, or unpack the packed sequences."""
    if getattr(config, "model_type", None) not in ARCHITECTURES:
        return False
    device = torch.device(arguments["device"])
    if device.type == "cpu":
        return True
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    served = dim in hopper.DIMS and arguments.get("dtype") in hopper.DTYPES
    return served and hopper.missing(device) is None


def _pattern(
    queries: int, keys: int, query_offset: Any, key_offset: int, function: Any, padding: torch.Tensor | None
) -> Pattern | None:
    # The last query must stand at the last key. A static cache counts in a tensor, and has room after the last query.
    if isinstance(query_offset, torch.Tensor) or query_offset + queries != key_offset + keys:
        return None
    # What the function of two positions says: causal, with a window, within documents, or something unknown.
    recognised = _recognise(function)
    if recognised is None:
        return None
    window, sequence = recognised
    if window is not None and window >= keys:
        window = None
    if sequence is not None:
        return _packed(sequence, window) if padding is None and queries == keys else None
    if padding is None:
        return Pattern(window)
    # (batch, keys), True for real tokens. Without any padding it is a plain pattern after all.
    real = padding[:, key_offset : key_offset + keys]
    if real.shape[1] != keys:
        return None
    if bool(real.all()):
        return Pattern(window)
    return _unpadded(real, window) if queries == keys else None


def _packed(sequence: torch.Tensor, window: int | None) -> Pattern:
    """The pattern of documents, from the number of each token's document, (batch, seq)."""
    # A document starts with each row, and wherever the number changes.
    starts = torch.ones_like(sequence, dtype=torch.bool)
    starts[:, 1:] = sequence[:, 1:] != sequence[:, :-1]
    offsets = F.pad(starts.flatten().nonzero().flatten(), (0, 1), value=sequence.numel())
    return Pattern(window, offsets.to(torch.int32), int(offsets.diff().max()))


def _unpadded(real: torch.Tensor, window: int | None) -> Pattern | None:
    """A pattern with one sequence for each row's real tokens; None if a window would count padding between them."""
    lengths = real.sum(1)
    if window is not None:
        # From the first real token to the last one: longer than their number if there is padding in between.
        span = real.shape[1] - real.to(torch.uint8).argmax(1) - real.flip(1).to(torch.uint8).argmax(1)
        if bool(((span != lengths) & (lengths > 0)).any()):
            return None
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Pattern(window, offsets, max(1, int(lengths.max())), real.flatten().nonzero().flatten())


# transformers describes a mask by nested closures and does not say what they mean, so a closure is recognised by its
# code. An unknown one (another version's, a user's) costs the time of the dense mask, and never gives a wrong one.
def _code(name: str, *arguments: Any) -> Any:
    maker = getattr(masking_utils, name, None)
    return None if maker is None else maker(*arguments).__code__


_CAUSAL = masking_utils.causal_mask_function
_AND = _code("and_masks", _CAUSAL)
_WINDOW = _code("sliding_window_overlay", 1)
_SEQUENCE = _code("packed_sequence_mask_function", torch.empty(0))
_REMAPPED = _code("remap_positions_for_packed_sequence", _CAUSAL, torch.empty(0))  # not in every version


def _recognise(function: Any) -> tuple[int | None, torch.Tensor | None] | None:
    """(window, number of each token's document) of a causal mask function; None for any other function."""
    if function is _CAUSAL:
        return None, None
    if not _is(function, _AND):
        return None
    # A conjunction of two: a window and causal, or documents and whatever holds within them.
    parts = _free(function).get("mask_functions", ())
    if len(parts) != 2:
        return None
    first, second = parts
    if _is(first, _WINDOW) and second is _CAUSAL:
        window = _free(first).get("sliding_window")
        return (window, None) if isinstance(window, int) else None
    if _is(second, _SEQUENCE):
        first, second = second, first
    if not _is(first, _SEQUENCE):
        return None
    # The positions within a document rise by one, so what holds for them holds for the places in the row too.
    within = _recognise(_free(second).get("mask_function") if _is(second, _REMAPPED) else second)
    sequence = _free(first).get("packed_sequence_mask")
    if within is None or within[1] is not None or not isinstance(sequence, torch.Tensor):
        return None
    return within[0], sequence


def _is(function: Any, code: Any) -> bool:
    return isinstance(function, FunctionType) and code is not None and function.__code__ is code


def _free(function: FunctionType) -> dict[str, Any]:
    """The variables of a closure, by name."""
    cells = function.__closure__ or ()
    return dict(zip(function.__code__.co_freevars, (cell.cell_contents for cell in cells), strict=True))
