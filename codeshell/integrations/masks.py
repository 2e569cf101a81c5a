"""The mask function of `attn_implementation="codeshell"`: which pattern of attention a mask of transformers means.

A model asks once per forward pass for the mask of all its layers, and describes it by a function of two positions, a
padding mask and two offsets. Where that amounts to causal attention, over packed documents or over the real tokens
between the padding, possibly with a sliding window, the answer is a `Pattern`, which the kernels run without a mask.
Everything else (a cache with left padding, a static cache, custom masks, torch.compile, a device without the kernels)
gets the dense mask of transformers' SDPA. On a GPU, a pattern with padding waits for the device once per forward pass,
as transformers' own masks do.
"""

from __future__ import annotations

import weakref
from types import FunctionType
from typing import Any, NamedTuple

import torch
from torch.nn import functional as F

from codeshell.integrations import ARCHITECTURES
from codeshell.integrations.supported import is_tracing, masking_utils
from codeshell.ops import devices, flash, hopper


class Pattern(NamedTuple):
    """Causal attention, aligned bottom right, as `codeshell.ops.attention` takes it.

    Attributes:
        window: a query sees only the latest `window` keys; None is all.
        cu_seqlens: int32 (sequences + 1,), offsets of the sequences among the tokens.
        max_seqlen: length of the longest of them.
        rows: int64 (total,), which of the flattened (batch * seq) tokens take part; None is all of them.
        masked: whether the caller gave a padding mask. Without one, transformers takes documents apart by positions.
    """

    window: int | None = None
    cu_seqlens: torch.Tensor | None = None
    max_seqlen: int | None = None
    rows: torch.Tensor | None = None
    masked: bool = False

    # A layer that does not attend with codeshell cannot read a pattern, and torch's own error would not say why. It is
    # no TypeError, because `+` would hide that.
    @classmethod
    def __torch_function__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise RuntimeError(
            "a layer with another attention implementation got a mask of codeshell: it was added, or its config was "
            "changed, after codeshell.patch; call codeshell.patch(model) again"
        )

    # `generate` with a static cache asks for the mask itself, calls contiguous() on it and hands it to the model in
    # place of the padding mask. As it has more than two dimensions, the model passes it on to `mask`, which returns it.
    @property
    def ndim(self) -> int:
        return 4

    def contiguous(self) -> Pattern:
        return self

    def within(self, number: torch.Tensor, batch: int) -> Pattern:
        """The pattern of a prefill within documents, from the number of each token's document, (batch or 1, seq).

        To count the documents waits for a GPU, so all layers of a forward pass get the first one's answer.
        """
        global _within
        known = _within
        if known is None or known[0]() is not number or known[1] != batch or not same(known[2], self):
            found = _packed(number.expand(batch, -1), self.window, self.rows)
            _within = known = (weakref.ref(number), batch, self, found)
        return known[3]

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


_within: tuple[Any, int, Pattern, Pattern] | None = None
"""The last answer of `Pattern.within`: a weak reference to the numbers, the batch, the pattern, the answer."""


def same(one: Any, other: Any) -> bool:
    """Whether two patterns, or whatever is known of two masks, are the same: tensors by identity, all else by value."""
    if one is other:
        return True
    if isinstance(one, tuple) and type(one) is type(other) and len(one) == len(other):
        return all(same(a, b) for a, b in zip(one, other, strict=True))
    return not isinstance(one, torch.Tensor | tuple) and type(one) is type(other) and bool(one == other)


class Made(NamedTuple):
    """What `mask` knows about a dense mask that it gave out; a mask of the caller's own has none of this.

    Attributes:
        real: bool (batch, keys), True for real tokens; None where the caller gave no padding mask.
        first: the place of the first query among the keys, a number or a tensor of one.
        causal: (window,) if the mask is that of causal attention over the keys up to each query, without documents and
            with no padding but on the left; None if it may be anything else.
        begin: int32 (batch,), the first key of each row that is no padding; None where none is.
    """

    real: torch.Tensor | None
    first: Any
    causal: tuple[int | None] | None = None
    begin: torch.Tensor | None = None


def made(mask: Any) -> Made | None:
    """What is known about a dense mask; None if it is the caller's own."""
    return getattr(mask, _MADE, None)


_MADE = "codeshell_made"  # on a dense mask: its `Made`


def mask(attention_mask: Any = None, **arguments: Any) -> Any:
    """The function that `AttentionMaskInterface` calls; its arguments are those of transformers' `sdpa_mask`.

    Returns:
        A `Pattern`; or a dense boolean mask (batch, 1, queries, keys), or None where SDPA's own causal flag or no mask
        is enough; or an additive mask where attention will be written out, as soft-capped scores need it.
    """
    if isinstance(attention_mask, Pattern):
        return attention_mask
    config, tracing = arguments.get("config"), _tracing(attention_mask, arguments)
    queries, query_offset, device = _queries(arguments, tracing)
    key_offset = arguments.get("kv_offset", 0)
    # Soft-capped scores are written out, and an additive mask is what that needs.
    capped = getattr(config, "attn_logit_softcapping", None) is not None
    if not capped and not tracing and _has_kernels(config, device, arguments.get("dtype")):
        function = arguments.get("mask_function", _CAUSAL)
        pattern = _pattern(queries, arguments["kv_length"], query_offset, key_offset, function, attention_mask)
        if pattern is not None:
            return pattern
    make = masking_utils.eager_mask if capped else masking_utils.sdpa_mask
    dense = make(attention_mask=attention_mask, **arguments)
    if isinstance(dense, torch.Tensor) and not tracing and device.type != "meta":
        real = None
        if attention_mask is not None:  # which may be shorter than a static cache
            real = attention_mask[:, key_offset : key_offset + dense.shape[-1]]
            real = F.pad(real, (0, dense.shape[-1] - real.shape[1]))
        setattr(dense, _MADE, Made(real, query_offset - key_offset, *_causal(arguments, attention_mask)))
    return dense


def _causal(
    arguments: dict[str, Any], padding: torch.Tensor | None
) -> tuple[tuple[int | None] | None, torch.Tensor | None]:
    """`causal` and `begin` of a dense mask, see `Made`. Waits for a GPU, as transformers' own masks do."""
    recognised = _recognise(arguments.get("mask_function", _CAUSAL))
    if recognised is None or recognised[1] is not None:
        return None, None
    causal = (recognised[0],)
    if padding is None:
        return causal, None
    # A static cache has more keys than the padding mask, and no query sees them yet.
    first = arguments.get("kv_offset", 0)
    real = padding[:, first : first + arguments["kv_length"]].bool()
    if bool(real.all()):
        return causal, None
    # Padding on the left alone: no token has padding after it.
    if not bool((real[:, 1:] | ~real[:, :-1]).all()):
        return None, None
    return causal, (real.shape[1] - real.sum(1)).to(torch.int32)


def _tracing(attention_mask: Any, arguments: dict[str, Any]) -> bool:
    """Whether what happens is recorded, so that no value may be looked at."""
    return any(is_tracing(x) for x in (attention_mask, arguments.get("q_offset"), arguments.get("cache_position")))


def _queries(arguments: dict[str, Any], tracing: bool) -> tuple[int, Any, torch.device]:
    """(number of queries, place of the first one in the sequence, device)."""
    places = arguments.get("cache_position")
    if places is None:
        return arguments["q_length"], arguments.get("q_offset", 0), torch.device(arguments["device"])
    # Up to 5.3 transformers gives the places themselves, and no device.
    return len(places), places[0] if tracing else int(places[0]), places.device


def _has_kernels(config: Any, device: torch.device, dtype: torch.dtype | None) -> bool:
    """Whether a pattern is better than a mask for the layers that ask. It is not where torch's SDPA attends: each layer
    would make its own mask again, or unpack the packed sequences. torch's FlashAttention needs neither."""
    if getattr(config, "model_type", None) not in ARCHITECTURES:
        return False
    if not devices.on_gpu(device):
        return device.type == "cpu"
    dim = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    if dim in hopper.DIMS and dtype in hopper.DTYPES and hopper.missing(device) is None:
        return True
    return flash.missing_for(device, dtype, dim, torch.is_grad_enabled()) is None


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
        return Pattern(window, masked=True)
    return _unpadded(real, window) if queries == keys else None


def _packed(sequence: torch.Tensor, window: int | None, rows: torch.Tensor | None = None) -> Pattern:
    """The pattern of documents, from the number of each token's document, (batch, seq); of some `rows` if given."""
    # A document starts with each row, and wherever the number changes.
    batch, seq = sequence.shape
    row = torch.arange(batch, device=sequence.device).unsqueeze(1) * (seq + 1)
    flat = (sequence + row).flatten()
    flat = flat if rows is None else flat[rows]
    starts = F.pad(flat[1:] != flat[:-1], (1, 0), value=True)
    offsets = F.pad(starts.nonzero().flatten(), (0, 1), value=len(flat))
    return Pattern(window, offsets.to(torch.int32), int(offsets.diff().max()), rows, rows is not None)


def _unpadded(real: torch.Tensor, window: int | None) -> Pattern | None:
    """A pattern with one sequence for each row's real tokens; None if a window would count padding between them."""
    lengths = real.sum(1)
    if window is not None:
        # From the first real token to the last one: longer than their number if there is padding in between.
        span = real.shape[1] - real.to(torch.uint8).argmax(1) - real.flip(1).to(torch.uint8).argmax(1)
        if bool(((span != lengths) & (lengths > 0)).any()):
            return None
    offsets = F.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
    return Pattern(window, offsets, max(1, int(lengths.max())), real.flatten().nonzero().flatten(), True)


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
